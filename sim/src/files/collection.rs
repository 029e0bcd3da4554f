//! Collections: one logical file in numbered versions, with limits, attached tokens and a password.

use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use serde_json::{Value, json};

use super::answer::Answer;
use super::download::{Paging, date_object};
use super::form::Form;
use super::repository::{Anonymous, Repository};
use super::request::Request;
use super::rules::{Broken, LIMIT_INPUTS, Limits};
use super::token::{Token, is_uuid};
use super::version::Version;
use crate::random;

/// What happens when a version is added to a full collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    DeleteOldest,
    Alert,
}

impl Strategy {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DeleteOldest => "delete_oldest_when_adding_new",
            Self::Alert => "alert_when_backup_limit_reached",
        }
    }
}

#[derive(Clone)]
pub(super) struct Collection {
    pub(super) id: String,
    pub(super) max_count: u64,
    pub(super) max_one: u64,
    pub(super) max_all: u64,
    pub(super) strategy: Strategy,
    pub(super) description: String,
    pub(super) filename: String,
    pub(super) password: Option<String>,
    pub(super) created: NaiveDateTime,
    pub(super) tokens: BTreeSet<String>,
    /// In order of their numbers.
    pub(super) versions: Vec<Version>,
}

impl Collection {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "max_backups_count": self.max_count,
            "max_one_backup_version_size": self.max_one,
            "max_collection_size": self.max_all,
            "created_at": date_object(self.created),
            "strategy": self.strategy.name(),
            "description": self.description,
            "filename": self.filename,
        })
    }

    /// Whether the token is attached, or may do this to any collection. Roles are looked at apart.
    pub(super) fn admits(&self, caller: &Token, repository: &Repository) -> bool {
        self.tokens.contains(&caller.id) || caller.has(repository.profile, MODIFY_ANY)
    }
}

const MODIFY_ANY: &str =
    "collections.modify_any_collection_regardless_if_token_was_allowed_by_collection";

impl Repository {
    /// Everything under `/repository/collection`; the path is what follows.
    pub(super) fn collection_call(
        &mut self,
        method: &str,
        path: &[String],
        mut request: Request,
    ) -> Result<Answer, Answer> {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let caller = |this: &Self| this.caller(&request, Anonymous::Fatal);
        match (method, path.as_slice()) {
            // The words are those of any other upload.
            ("POST", ["upload"]) => self.upload(request, None),
            ("POST", []) => {
                let caller = caller(self)?;
                self.create_collection(&request, &caller)
            }
            ("PUT", []) => {
                let caller = caller(self)?;
                self.edit_collection(&request, &caller)
            }
            ("GET", []) => self.list_collections(&request, &caller(self)?),
            ("GET", [id]) => {
                let caller = caller(self)?;
                let collection = self.existing(id)?;
                let may = collection.tokens.contains(&caller.id)
                    || caller.has(self.profile, "collections.view_all_collections");
                if !may {
                    // The server speaks of deleting here.
                    let text = "Current token does not allow to delete this collection";
                    return Err(Answer::denied(text));
                }
                Ok(self.envelope(200, "OK", collection.to_json()))
            }
            ("DELETE", [id]) => {
                let caller = caller(self)?;
                self.delete_collection(id, &request, &caller)
            }
            ("POST", [id, "token"]) => {
                let caller = caller(self)?;
                let inputs = Form::inputs(&request.json()).ok_or_else(|| Answer::html(500))?;
                let token = inputs.get("token").and_then(Value::as_str);
                self.attach(id, token, true, &request, &caller)
            }
            ("DELETE", [id, "token", token]) => {
                let caller = caller(self)?;
                self.attach(id, Some(token), false, &request, &caller)
            }
            ("GET", [id, "token"]) if self.profile.is_v3() => self.attached(id, &caller(self)?),
            ("POST", [id, _]) => {
                let caller = caller(self)?;
                self.upload_version(id, &mut request, &caller)
            }
            ("GET", [id, _]) => self.list_versions(id, &request, &caller(self)?),
            ("GET", [id, _, selector]) => {
                self.download_version(id, selector, &request, &caller(self)?)
            }
            ("DELETE", [id, _, version]) => {
                let caller = caller(self)?;
                self.delete_version(id, version, &request, &caller)
            }
            (_, [] | [_] | [_, _] | [_, _, _]) => Err(Answer::html(405)),
            _ => Err(Answer::html(404)),
        }
    }

    pub(super) fn existing(&self, id: &str) -> Result<&Collection, Answer> {
        let gone = || Answer::rule(400, "form.collection", "collection_no_longer_exists");
        self.collections.get(id).ok_or_else(gone)
    }

    fn envelope(&self, status: u16, text: &str, collection: Value) -> Answer {
        let created = status != 200;
        let code = if self.profile.is_v3() && created { json!(0) } else { Value::Null };
        Answer::json(
            status,
            json!({
                "status": text,
                "error_code": code,
                "http_code": status,
                "errors": [],
                "collection": collection,
                "context": null,
            }),
        )
    }

    fn create_collection(&mut self, request: &Request, caller: &Token) -> Result<Answer, Answer> {
        let inputs = Form::inputs(&request.json()).ok_or_else(|| Answer::html(500))?;
        let mut known = LIMIT_INPUTS.to_vec();
        known.push("password");
        if self.profile.has_custom_ids() {
            known.push("id");
        }
        let mut form = Form::default();
        form.only(&inputs, &known);
        let limits = Limits::read(&mut form, &inputs);
        let password = form.text("form.password", inputs.get("password"));
        let id = form.text("form.id", inputs.get("id"));
        form.finish()?;

        let denied = |text| Err(Answer::denied(text));
        if !caller.has(self.profile, "collections.create_new") {
            return denied("Current token does not allow to create this collection");
        }
        if id.is_some() && !caller.has(self.profile, "collections.create_new.with_custom_id") {
            return denied("Current token does not allow to create collection with custom id");
        }
        let mut collection = limits.check(random::uuid().to_uppercase(), self.now())?;
        if collection.has_infinite_limit()
            && !caller.has(self.profile, "collections.allow_infinite_limits")
        {
            return denied("Current token does not allow to create this collection");
        }
        if let Some(id) = id {
            if !is_uuid(&id) {
                let message = "custom_id_is_not_uuid_format";
                return Err(Broken { code: 4011, field: "id", message, context: json!([]) }.into());
            }
            if self.collections.contains_key(&id) {
                return Err(Answer::rule(400, "id", "id_not_unique"));
            }
            collection.id = id;
        }
        collection.check_rules()?;
        collection.password = password;
        collection.tokens.insert(caller.id.clone());
        let shown = collection.to_json();
        if !request.is_simulated() {
            self.collections.insert(collection.id.clone(), collection);
        }
        Ok(self.envelope(self.profile.created(), "OK", shown))
    }

    fn edit_collection(&mut self, request: &Request, caller: &Token) -> Result<Answer, Answer> {
        let inputs = Form::inputs(&request.json()).ok_or_else(|| Answer::html(500))?;
        let mut known = LIMIT_INPUTS.to_vec();
        known.push("collection");
        let mut form = Form::default();
        form.only(&inputs, &known);
        let limits = Limits::read(&mut form, &inputs);
        let id = form.text("form.collection", inputs.get("collection")).unwrap_or_default();
        form.finish()?;
        let before = self.existing(&id)?;
        let own = caller.has(self.profile, "collections.modify_details_of_allowed_collections")
            && before.tokens.contains(&caller.id);
        if !own && !caller.has(self.profile, MODIFY_ANY) {
            // The server's own words are not known.
            return Err(Answer::denied("Current token does not allow to edit this collection"));
        }
        let mut after = limits.check(id, before.created)?;
        after.check_rules()?;
        let stored: u64 =
            before.versions.iter().filter_map(|v| self.files.get(&v.file)).map(|f| f.size).sum();
        if after.max_all < stored {
            let message = "max_collection_size_is_smaller_than_real_sum_of_data_in_collection";
            let field = "maxCollectionSize";
            return Err(Broken { code: 4004, field, message, context: json!([]) }.into());
        }
        // The password is not part of the form, and so it is gone.
        (after.tokens, after.versions) = (before.tokens.clone(), before.versions.clone());
        let shown = after.to_json();
        if !request.is_simulated() {
            self.collections.insert(after.id.clone(), after);
        }
        Ok(self.envelope(self.profile.created(), "OK", shown))
    }

    fn list_collections(&self, request: &Request, caller: &Token) -> Result<Answer, Answer> {
        if !caller.has(self.profile, "collections.can_use_listing_endpoint") {
            // The server's own words are not known.
            return Err(Answer::denied("Current token does not allow to list collections"));
        }
        let wanted = request.parameter("searchQuery").unwrap_or_default();
        let fits = |c: &&Collection| {
            c.description.contains(wanted) || c.filename.contains(wanted) || c.id.contains(wanted)
        };
        let found: Vec<&Collection> = self.collections.values().filter(fits).collect();
        let (paging, total) = (Paging::of(request), found.len());
        let all = caller.has(self.profile, "collections.view_all_collections");
        let shown = paging.cut(found).into_iter().map(|collection| {
            let mut shown = collection.to_json();
            if !all && !collection.tokens.contains(&caller.id) {
                (shown["id"], shown["filename"]) = (Value::Null, "anonymous".into());
                shown["description"] = "".into();
            }
            shown
        });
        Ok(Answer::json(
            200,
            json!({
                "status": "OK",
                "http_code": 200,
                "elements": shown.collect::<Vec<_>>(),
                "pagination": paging.describe(total),
            }),
        ))
    }

    fn delete_collection(
        &mut self,
        id: &str,
        request: &Request,
        caller: &Token,
    ) -> Result<Answer, Answer> {
        let collection = self.existing(id)?;
        let own = caller.has(self.profile, "collections.delete_allowed_collections")
            && collection.tokens.contains(&caller.id);
        if !own && !caller.has(self.profile, MODIFY_ANY) {
            return Err(Answer::denied("Current token does not allow to delete this collection"));
        }
        if !collection.versions.is_empty() {
            let message = "collection_cannot_be_deleted_while_it_contains_not_deleted_versions";
            let field = "collection";
            return Err(Broken { code: 4005, field, message, context: json!([]) }.into());
        }
        let mut shown = collection.to_json();
        shown["id"] = Value::Null;
        if !request.is_simulated() {
            self.collections.remove(id);
        }
        Ok(self.envelope(200, "OK, collection was deleted", shown))
    }

    /// Attaches a token to a collection or detaches it; doing so again changes nothing.
    fn attach(
        &mut self,
        id: &str,
        token: Option<&str>,
        attached: bool,
        request: &Request,
        caller: &Token,
    ) -> Result<Answer, Answer> {
        let mut collection = self.existing(id)?.clone();
        let token = token.ok_or_else(|| Answer::not_found("Not found"))?;
        if !self.tokens.contains_key(token) {
            return Err(Answer::rule(400, "form.token", "token_not_found"));
        }
        let role = "collections.manage_tokens_in_allowed_collections";
        if !caller.has(self.profile, role) || !collection.admits(caller, self) {
            // The server's own words are not known.
            let text = "Current token does not allow to manage tokens in this collection";
            return Err(Answer::denied(text));
        }
        match attached {
            true => collection.tokens.insert(token.to_owned()),
            false => collection.tokens.remove(token),
        };
        let answer = Answer::json(
            200,
            json!({
                "status": "OK",
                "http_code": 200,
                "data": {
                    "token": { "id": token },
                    "collection": collection.to_json(),
                    "tokens_count": collection.tokens.len(),
                },
            }),
        );
        if !request.is_simulated() {
            self.collections.insert(collection.id.clone(), collection);
        }
        Ok(answer)
    }

    /// `GET /repository/collection/{id}/token`
    fn attached(&self, id: &str, caller: &Token) -> Result<Answer, Answer> {
        let collection = self.existing(id)?;
        let role = "collections.can_list_tokens_in_allowed_collections";
        if !caller.has(self.profile, role) || !collection.admits(caller, self) {
            // The server's own words are not known.
            let text = "Current token does not allow to list tokens in this collection";
            return Err(Answer::denied(text));
        }
        let tokens: Vec<Value> = collection.tokens.iter().map(|id| json!({ "id": id })).collect();
        let body = json!({ "status": "OK", "http_code": 201, "data": { "tokens": tokens } });
        Ok(Answer::json(201, body))
    }
}
