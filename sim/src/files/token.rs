//! Tokens of File Repository: what they hold, and the calls that make, show and end them.

use chrono::{NaiveDateTime, SubsecRound};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::form::{Form, NOT_VALID};
use super::profile::Profile;
use super::repository::Repository;
use super::request::Request;
use super::{expires, role};
use crate::random;

const DATE: &str = "%Y-%m-%d %H:%M:%S";
/// What V3 adds to a token's data, with the values of a token that does not replicate.
const SECURE_COPY: [(&str, &str); 5] = [
    ("secureCopyEncryptionKey", ""),
    ("secureCopyEncryptionMethod", ""),
    ("secureCopyDigestMethod", ""),
    ("secureCopyDigestRounds", ""),
    ("secureCopyDigestSalt", ""),
];
/// Most entries on a page of found tokens.
const SEARCH_LIMIT: i64 = 1000;

/// A token as the server keeps it.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) id: String,
    /// In the shape in which they were given.
    pub(super) shown_roles: Value,
    pub(super) roles: Vec<String>,
    pub(super) expires: NaiveDateTime,
    pub(super) tags: Value,
    pub(super) mime_types: Value,
    pub(super) user_agents: Value,
    pub(super) ip_addresses: Value,
    pub(super) max_size: Option<i64>,
    secure_copy: Map<String, Value>,
}

/// The texts of a list or of an object's values.
pub(super) fn texts(list: &Value) -> Vec<&str> {
    match list {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        Value::Object(map) => map.values().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

impl Token {
    pub(super) fn new(id: String, roles: Vec<String>, expires: NaiveDateTime) -> Self {
        let secure_copy =
            SECURE_COPY.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
        Self {
            id,
            shown_roles: json!(roles),
            roles,
            expires,
            tags: json!([]),
            mime_types: json!([]),
            user_agents: json!([]),
            ip_addresses: json!([]),
            max_size: None,
            secure_copy: secure_copy.collect(),
        }
    }

    /// Works during its final second too.
    fn is_expired(&self, now: NaiveDateTime) -> bool {
        self.expires < now.trunc_subsecs(0)
    }

    /// Whether the token stands for its roles in this request; if not, it stands for nobody.
    pub(super) fn fits(&self, request: &Request, user_agent: &str, now: NaiveDateTime) -> bool {
        let allowed = |list: &Value, found: &str| {
            let list = texts(list);
            list.is_empty() || list.contains(&found)
        };
        !self.is_expired(now)
            && allowed(&self.user_agents, user_agent)
            && allowed(&self.ip_addresses, &request.peer.to_string())
    }

    pub(super) fn has(&self, profile: Profile, wanted: &str) -> bool {
        role::has(profile, &self.roles, wanted)
    }

    pub(super) fn is_administrator(&self) -> bool {
        self.roles.iter().any(|role| role == role::ADMINISTRATOR)
    }

    fn expires_text(&self) -> String {
        self.expires.format(DATE).to_string()
    }

    /// Roles as a look-up shows them.
    fn listed_roles(&self, profile: Profile) -> Value {
        match &self.shown_roles {
            Value::Array(own) if self.is_administrator() => {
                own.iter().cloned().chain(role::implied(profile).map(Value::from)).collect()
            }
            own => own.clone(),
        }
    }

    /// V2's look-up.
    fn flat(&self, profile: Profile) -> Value {
        json!({
            "tokenId": self.id,
            "expires": self.expires_text(),
            "roles": self.listed_roles(profile),
            "tags": self.tags,
            "mimes": self.mime_types,
            "max_file_size": self.max_size.unwrap_or(0),
        })
    }

    /// V3's token object.
    fn object(&self, profile: Profile, now: NaiveDateTime, masked: bool) -> Value {
        let mut data = json!({
            "tags": self.tags,
            "allowedMimeTypes": self.mime_types,
            "maxAllowedFileSize": self.max_size,
            "allowedIpAddresses": self.ip_addresses,
            "allowedUserAgents": self.user_agents,
        });
        if let Value::Object(data) = &mut data {
            data.extend(self.secure_copy.clone());
        }
        let id = if masked { masked_id(&self.id) } else { self.id.clone() };
        json!({
            "id": id,
            "active": true,
            "expired": self.is_expired(now),
            "expires": self.expires_text(),
            "data": data,
            "roles": self.listed_roles(profile),
            "idIsCensored": masked,
        })
    }
}

/// An ID of which only the ends are told.
fn masked_id(id: &str) -> String {
    let last = id.chars().count().saturating_sub(4);
    let star = |(at, c): (usize, char)| if (4..last).contains(&at) && c != '-' { '*' } else { c };
    id.chars().enumerate().map(star).collect()
}

/// V3's envelope around a token.
fn envelope(status: u16, message: &str, token: Value) -> Answer {
    let found = status < 400;
    Answer::json(
        status,
        json!({
            "status": found,
            "error_code": null,
            "http_code": status,
            "errors": [],
            "context": [],
            "message": message,
            "token": token,
        }),
    )
}

impl Repository {
    /// `POST /auth/token/generate`
    pub(super) fn generate(&mut self, request: &Request, caller: &Token) -> Result<Answer, Answer> {
        let inputs = Form::inputs(&request.json()).ok_or_else(|| Answer::html(500))?;
        let mut form = Form::default();
        let custom_ids = self.profile.has_custom_ids();
        let known: &[&str] = match custom_ids {
            true => &["roles", "data", "expires", "id"],
            false => &["roles", "data", "expires"],
        };
        form.only(&inputs, known);
        let roles = self.read_roles(&mut form, inputs.get("roles"));
        let mut token = Token::new(
            random::uuid().to_uppercase(),
            texts(&roles).into_iter().map(str::to_owned).collect(),
            NaiveDateTime::MIN,
        );
        token.shown_roles = roles;
        self.read_data(&mut form, &mut token, inputs.get("data"));
        let expires = form.text("form.expires", inputs.get("expires"));
        let id = inputs.get("id").filter(|_| custom_ids);
        let id = form.text("form.id", id);
        form.finish()?;

        if !caller.has(self.profile, "security.generate_tokens") {
            return Err(Answer::denied("Current token does not allow to generate tokens"));
        }
        if id.is_some() && !caller.has(self.profile, role::PREDICTABLE_IDS) {
            let text = "Current token does not allow setting predictable identifiers for tokens";
            return Err(Answer::denied(text));
        }
        let never = self.profile.never_years();
        token.expires = expires::read(expires.as_deref(), self.now(), never).ok_or_else(|| {
            let message = "invalid_date_format_and_not_an_expression";
            Answer::rule(self.profile.rule_violation(), "expires", message)
        })?;
        if let Some(id) = id {
            if !is_uuid(&id) {
                return Err(Answer::rule(400, "id", "id_expects_to_be_uuidv4_format"));
            }
            if self.tokens.contains_key(&id) {
                let message = "id_already_exists_please_select_other_one";
                return Err(Answer::rule(400, "id", message));
            }
            token.id = id;
        }
        let answer = match self.profile.is_v3() {
            true => envelope(201, "Token created", token.object(self.profile, self.now(), false)),
            false => {
                Answer::json(202, json!({ "tokenId": token.id, "expires": token.expires_text() }))
            }
        };
        self.tokens.insert(token.id.clone(), token);
        Ok(answer)
    }

    fn read_roles(&self, form: &mut Form, value: Option<&Value>) -> Value {
        let entries: Vec<(String, &Value)> = match value.unwrap_or(&Value::Null) {
            Value::Array(list) => {
                list.iter().enumerate().map(|(index, role)| (index.to_string(), role)).collect()
            }
            Value::Object(map) => map.iter().map(|(name, role)| (name.clone(), role)).collect(),
            Value::Null | Value::Bool(false) => Vec::new(),
            Value::String(text) if text.is_empty() => Vec::new(),
            _ => {
                form.complain("form", NOT_VALID);
                return json!([]);
            }
        };
        if entries.is_empty() {
            form.complain("form", "You must select at least 1 choice.");
            return json!([]);
        }
        let grantable = |role: &&Value| {
            role.as_str().is_some_and(|role| role::is_grantable(self.profile, role))
        };
        if !entries.iter().all(|(_, role)| grantable(role)) {
            form.complain("form", "Please select valid roles");
            return json!([]);
        }
        if let Some(Value::Object(map)) = value {
            return Value::Object(map.clone());
        }
        let mut roles: Vec<Value> = Vec::new();
        for (_, role) in entries {
            if !self.profile.is_v3() || !roles.contains(role) {
                roles.push(role.clone());
            }
        }
        Value::Array(roles)
    }

    fn read_data(&self, form: &mut Form, token: &mut Token, value: Option<&Value>) {
        let data = match value.unwrap_or(&Value::Null) {
            Value::Object(data) => data,
            Value::Null | Value::Bool(false) => return,
            Value::Array(list) if list.is_empty() => return,
            Value::String(text) if text.is_empty() => return,
            _ => return form.complain("form", NOT_VALID),
        };
        let own = [
            "tags",
            "allowedMimeTypes",
            "maxAllowedFileSize",
            "allowedUserAgents",
            "allowedIpAddresses",
        ];
        let added = SECURE_COPY.iter().map(|(name, _)| *name).filter(|_| self.profile.is_v3());
        let known: Vec<&str> = own.into_iter().chain(added.clone()).collect();
        form.only(data, &known);
        let path = |name: &str| format!("form.data.{name}");
        token.tags = form.texts(&path("tags"), data.get("tags"));
        token.mime_types = form.texts(&path("allowedMimeTypes"), data.get("allowedMimeTypes"));
        token.user_agents = form.texts(&path("allowedUserAgents"), data.get("allowedUserAgents"));
        token.ip_addresses =
            form.texts(&path("allowedIpAddresses"), data.get("allowedIpAddresses"));
        token.max_size = form.integer(&path("maxAllowedFileSize"), data.get("maxAllowedFileSize"));
        for name in added {
            if let Some(text) = form.text(&path(name), data.get(name)) {
                token.secure_copy.insert(name.to_owned(), text.into());
            }
        }
    }

    /// `GET /auth/token/{id}`
    pub(super) fn look_up(&self, id: &str, caller: &Token) -> Result<Answer, Answer> {
        if !caller.has(self.profile, "security.authentication_lookup") {
            return Err(Answer::denied("Current token does not allow to lookup other tokens"));
        }
        let token = self.tokens.get(id).ok_or_else(|| Answer::not_found("Not found"))?;
        Ok(match self.profile.is_v3() {
            true => {
                let masked = caller.has(self.profile, "security.cannot_see_full_token_ids");
                envelope(200, "Token found", token.object(self.profile, self.now(), masked))
            }
            false => Answer::json(200, token.flat(self.profile)),
        })
    }

    /// `DELETE /auth/token/{id}`: whether there is such a token is told before the permission is looked at.
    pub(super) fn revoke(&mut self, id: &str, caller: &Token) -> Result<Answer, Answer> {
        let profile = self.profile;
        let token = self.tokens.get(id).ok_or_else(|| match profile.is_v3() {
            true => envelope(404, "Token not found", Value::Null),
            false => Answer::not_found("Not found"),
        })?;
        let may = caller.has(profile, "security.revoke_tokens")
            && (!token.is_administrator() || caller.is_administrator());
        if !may {
            let text = "Current token does not allow to revoke this token or just any other token";
            return Err(Answer::denied(text));
        }
        let mut shown = token.object(profile, self.now(), false);
        self.tokens.remove(id);
        if !profile.is_v3() {
            return Ok(Answer::json(200, json!({ "status": "OK" })));
        }
        shown["id"] = Value::Null;
        Ok(envelope(200, "Token was deleted", shown))
    }

    /// `GET /auth/roles`
    pub(super) fn roles(&self, caller: &Token) -> Result<Answer, Answer> {
        self.technical(caller)?;
        let roles: Map<String, Value> = role::catalogue(self.profile)
            .map(|(name, text)| (name.to_owned(), text.into()))
            .collect();
        Ok(Answer::json(
            200,
            match self.profile.is_v3() {
                true => json!({
                    "status": true,
                    "error_code": null,
                    "http_code": 200,
                    "errors": [],
                    "context": { "pagination": pagination(1, 1, roles.len()) },
                    "message": "Matches found",
                    "data": roles,
                }),
                false => json!({ "roles": roles }),
            },
        ))
    }

    /// `GET /jobs/token/expired/clear`
    pub(super) fn clear_expired(&mut self, caller: &Token) -> Result<Answer, Answer> {
        self.technical(caller)?;
        let now = self.now();
        let gone = self.tokens.values().filter(|token| token.is_expired(now));
        let log: Vec<Value> =
            gone.map(|token| json!({ "id": token.id, "date": token.expires_text() })).collect();
        self.tokens.retain(|_, token| !token.is_expired(now));
        Ok(Answer::json(200, json!({ "message": "Task done, log available.", "log": log })))
    }

    fn technical(&self, caller: &Token) -> Result<(), Answer> {
        match caller.has(self.profile, "security.use_technical_endpoints") {
            true => Ok(()),
            // The server's own words are not known.
            false => Err(Answer::denied("Current token does not allow to use technical endpoints")),
        }
    }

    /// `GET /auth/search`
    pub(super) fn search(&self, request: &Request, caller: &Token) -> Result<Answer, Answer> {
        let needed = ["security.search_for_tokens", "security.authentication_lookup"];
        if !needed.iter().all(|role| caller.has(self.profile, role)) {
            let text = "Current token does not allow to browse or lookup other tokens";
            return Err(Answer::denied(text));
        }
        let number = |name: &str, default: i64| {
            request.parameter(name).map_or(default, |text| text.parse().unwrap_or(0))
        };
        let (page, limit) = (number("page", 1), number("limit", 50));
        if limit > SEARCH_LIMIT {
            return Err(Answer::rule(400, "limit", "query_limit_too_high_use_pagination"));
        }
        if limit < 1 {
            return Err(Answer::rule(400, "limit", "value_cannot_be_negative"));
        }
        if page < 1 {
            return Err(Answer::rule(400, "page", "invalid_page_value"));
        }
        let wanted = request.parameter("q").unwrap_or_default();
        let found: Vec<&Token> = self
            .tokens
            .values()
            .filter(|token| {
                token.id.contains(wanted) || token.roles.iter().any(|role| role.contains(wanted))
            })
            .collect();
        let masked = caller.has(self.profile, "security.cannot_see_full_token_ids");
        let size = usize::try_from(limit).unwrap_or(1);
        let skipped = usize::try_from(page - 1).unwrap_or(0).saturating_mul(size);
        let pages = found.len().div_ceil(size);
        let data: Vec<Value> = found
            .iter()
            .skip(skipped)
            .take(size)
            .map(|token| token.object(self.profile, self.now(), masked))
            .collect();
        let message = if data.is_empty() { "No matches found" } else { "Matches found" };
        let body = json!({
            "status": true,
            "error_code": null,
            "http_code": 200,
            "errors": [],
            "context": { "pagination": pagination(page, pages, size) },
            "message": message,
            "data": data,
        });
        Ok(Answer::json(200, body))
    }
}

fn pagination(page: i64, pages: usize, size: usize) -> Value {
    json!({ "page": page, "perPageLimit": size, "maxPages": pages })
}

/// A UUID of any version, in either case.
pub(super) fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}
