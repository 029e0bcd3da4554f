//! Uploads: parameters, permissions, where the bytes are, and what becomes of them.

use serde_json::{Value, json};

use super::answer::Answer;
use super::form::{Form, NOT_VALID};
use super::repository::{Anonymous, Repository, Stored};
use super::request::{self, Request};
use super::role;
use super::spool::{self, Spooled};
use super::token::{Token, texts};
use crate::random;

/// Shortest raw body that counts as a file.
const RAW_MINIMUM: u64 = 9;
const NAME_LENGTH: std::ops::RangeInclusive<usize> = 6..=68;
const TAG_LENGTH: std::ops::RangeInclusive<usize> = 3..=32;
const PASSWORD_LIMIT: usize = 250;
/// Largest form that is read into parameters.
const FORM_LIMIT: usize = 64 * 1024;

/// What an upload asks for beside its bytes.
#[derive(Default)]
pub(super) struct Wish {
    pub(super) file_name: Option<String>,
    pub(super) tags: Vec<String>,
    pub(super) public: bool,
    pub(super) password: Option<String>,
    pub(super) overwrite: bool,
    pub(super) encoding: Option<String>,
    /// V3 removes characters that it does not want from a name.
    pub(super) strips: bool,
}

/// A refusal with the nine members that every answer to an upload has.
fn refused(status: u16, text: &str, code: i64, context: Value) -> Answer {
    Answer::json(
        status,
        json!({
            "status": text,
            "error_code": code,
            "http_code": status,
            "url": null,
            "back": null,
            "id": null,
            "filename": null,
            "requested_filename": null,
            "context": context,
        }),
    )
}

pub(super) fn bad(text: &str, code: i64) -> Answer {
    refused(400, text, code, json!([]))
}

/// Why a token may not upload this. The calls word it differently.
#[derive(Debug)]
pub(super) enum Refusal {
    Permission(&'static str),
    Mime(&'static str),
    Size,
    Source(&'static str, i64),
    /// The disk of the simulator.
    Broken,
}

impl Refusal {
    /// Text and code.
    pub(super) fn words(&self) -> (String, i64) {
        match self {
            Self::Permission(reason) => {
                let text = "No enough permissions on the token to perform the operation.";
                (format!("{text} {reason}"), 403)
            }
            Self::Mime(_) => ("Mime type not allowed".to_owned(), 3000),
            Self::Size => ("File size is too big".to_owned(), 3001),
            Self::Source(text, code) => ((*text).to_owned(), *code),
            Self::Broken => ("Server error with code 7016101".to_owned(), 503),
        }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let (text, code) = refusal.words();
        match refusal {
            Refusal::Permission(_) => refused(403, &text, code, Value::Null),
            Refusal::Mime(found) => refused(400, &text, code, json!({ "mime": found })),
            Refusal::Size | Refusal::Source(..) => bad(&text, code),
            Refusal::Broken => refused(503, &text, code, Value::Null),
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(_: std::io::Error) -> Self {
        Self::Broken
    }
}

/// Where the bytes of a body are.
pub(super) struct Source {
    /// The name that a part of a multipart body has.
    pub(super) file_name: Option<String>,
    pub(super) content: Result<Spooled, Refusal>,
}

impl Repository {
    /// Finds the file in the body, and adds a form's fields to the parameters.
    pub(super) fn source(&self, request: &mut Request) -> Result<Source, Refusal> {
        let missing = Refusal::Source(
            "User not provided any valid source of file with the HTTP protocol",
            60003,
        );
        let empty = Spooled::empty(self.folder())?;
        let body = std::mem::replace(&mut request.body, empty);
        let mut file_name = None;
        let content = match request.media_type().as_str() {
            "multipart/form-data" => {
                let header = request.header("content-type").unwrap_or_default();
                let boundary = spool::parameter(header, "boundary").unwrap_or_default();
                let parts = spool::multipart(&body, &boundary, self.folder())?;
                request.parameters.extend(parts.fields);
                let unparsed = Refusal::Source(
                    "Multipart was not parsed by PHP, it can be causedby too low value of \
                     \"post_max_size\" in php.ini",
                    60002,
                );
                parts.file.ok_or(unparsed).map(|(name, content)| {
                    file_name = Some(name);
                    content
                })
            }
            "application/x-www-form-urlencoded" => {
                let form = String::from_utf8_lossy(&body.read(FORM_LIMIT)?).into_owned();
                request.parameters.extend(request::pairs(&form));
                Err(missing)
            }
            _ if body.size < RAW_MINIMUM => Err(missing),
            _ => Ok(body),
        };
        Ok(Source { file_name, content })
    }

    /// `POST /repository/{any}/upload` and `POST /repository/file/{name}`
    pub(super) fn upload(
        &mut self,
        mut request: Request,
        name: Option<String>,
    ) -> Result<Answer, Answer> {
        let caller = self.caller(&request, Anonymous::Allowed)?;
        let source = self.source(&mut request)?;
        if let Some(name) = source.file_name.clone().or(name) {
            request.parameters.push(("fileName".to_owned(), name));
        }
        let wish = self.read_wish(&request)?;
        let tags = self.permitted(&caller, &wish)?;
        let wish = Wish { tags, ..wish };
        let requested = wish.file_name.clone().unwrap_or_default();
        let mut content = source.content?;
        content = self.decoded(content, wish.encoding.as_deref())?;
        let requested = self.clean_name(&requested, wish.strips)?;
        let filename = format!("{}{requested}", hex::encode(random::bytes::<5>()));
        let (stored, known) = self.store(&caller, &wish, filename, content)?;
        if requested.contains('/') {
            // The content is there by now, under a name that nobody is told.
            return Err(bad("File name is not valid, please normalize it", 0));
        }
        self.spend_one_shot(&caller);
        Ok(self.accepted(&request, &stored, &requested, known))
    }

    pub(super) fn accepted(
        &self,
        request: &Request,
        stored: &Stored,
        requested: &str,
        known: bool,
    ) -> Answer {
        let status = if known { 202 } else { 200 };
        Answer::json(
            status,
            json!({
                "status": "OK",
                "error_code": null,
                "http_code": status,
                "url": self.public_url(request, &stored.filename),
                "back": if known { Value::Null } else { "".into() },
                "id": stored.id,
                "filename": stored.filename,
                "requested_filename": requested,
                "context": null,
            }),
        )
    }

    /// The address of a file; V3 leaves out the blanks of its name, so that it leads nowhere.
    pub(super) fn public_url(&self, request: &Request, filename: &str) -> String {
        let name =
            if self.profile.is_v3() { filename.replace(' ', "") } else { filename.to_owned() };
        let host = request.header("host").unwrap_or("localhost");
        format!("{}://{host}/repository/file/{name}", self.scheme)
    }

    fn read_wish(&self, request: &Request) -> Result<Wish, Answer> {
        let mut form = Form::default();
        let text = |name: &str| request.parameter(name).map(Value::from);
        let mut wish = Wish { strips: self.profile.is_v3(), ..Wish::default() };
        wish.file_name = form.text("form.fileName", text("fileName").as_ref());
        match wish.file_name.as_ref().map(|name| name.chars().count()) {
            // The server's own words for a missing name are not known.
            None => form.complain("form.fileName", "This value should not be blank."),
            Some(length) if length < *NAME_LENGTH.start() => form.complain(
                "form.fileName",
                "FIle name is too short, minimum 6 characters are allowed",
            ),
            Some(length) if length > *NAME_LENGTH.end() => form.complain(
                "form.fileName",
                "File name is too long, maximum 68 characters are allowed",
            ),
            Some(_) => {}
        }
        if request.parameter("tags").is_some() {
            form.complain("form", NOT_VALID);
        }
        wish.tags = request.entries("tags").into_iter().map(|tag| tag.trim().to_owned()).collect();
        check_tags(&mut form, &wish.tags);
        wish.public = form.boolean("form.public", text("public").as_ref()).unwrap_or_default();
        wish.password = form.text("form.password", text("password").as_ref());
        check_password(&mut form, wish.password.as_deref());
        wish.overwrite =
            form.boolean("form.fileOverwrite", text("fileOverwrite").as_ref()).unwrap_or_default();
        wish.encoding = form.text("form.encoding", text("encoding").as_ref());
        if self.profile.is_v3() {
            let path = "form.stripInvalidCharacters";
            let strips = text("stripInvalidCharacters");
            wish.strips = form.boolean(path, strips.as_ref()).unwrap_or(true);
        }
        form.finish()?;
        Ok(wish)
    }

    /// Whether the token may upload with these tags and this password; gives the tags that are stored.
    pub(super) fn permitted(&self, caller: &Token, wish: &Wish) -> Result<Vec<String>, Refusal> {
        self.may_upload(caller, wish.password.as_deref())?;
        let own = texts(&caller.tags);
        if own.is_empty() {
            return Ok(wish.tags.clone());
        }
        if caller.has(self.profile, "upload.enforce_tags_selected_in_token") {
            return Ok(own.into_iter().map(str::to_owned).collect());
        }
        match wish.tags.iter().all(|tag| own.contains(&tag.as_str())) {
            true => Ok(wish.tags.clone()),
            false => Err(Refusal::Permission("tag_not_allowed")),
        }
    }

    /// The permissions that uploads to collections need as well.
    pub(super) fn may_upload(&self, caller: &Token, password: Option<&str>) -> Result<(), Refusal> {
        if !role::may_upload(self.profile, &caller.roles) {
            return Err(Refusal::Permission("not_allowed_to_upload_any_file"));
        }
        if password.is_some() && caller.has(self.profile, "upload.enforce_no_password") {
            return Err(Refusal::Permission("invalid_password"));
        }
        Ok(())
    }

    pub(super) fn decoded(
        &self,
        content: Spooled,
        encoding: Option<&str>,
    ) -> Result<Spooled, Refusal> {
        match encoding {
            None | Some("plain") => Ok(content),
            Some("base64") => Ok(content.decoded(self.folder())?),
            Some(_) => Err(Refusal::Source("Invalid input encoding type", 0)),
        }
    }

    /// The name as it is stored. A slash passes in V2, and is noticed too late.
    fn clean_name(&self, name: &str, strips: bool) -> Result<String, Refusal> {
        let extra = if self.profile.is_v3() { " ()@![],$" } else { "+" };
        let fits =
            |c: &char| c.is_ascii_alphanumeric() || ".-_+".contains(*c) || extra.contains(*c);
        if !self.profile.is_v3() {
            let late = |c: char| c == '/' || fits(&c);
            return match name.chars().all(late) {
                true => Ok(name.to_owned()),
                false => Err(Refusal::Source("File name is not valid, please normalize it", 0)),
            };
        }
        let clean: String = name.chars().filter(fits).collect();
        if clean == name {
            return Ok(clean);
        }
        match strips {
            false => Err(Refusal::Source("Filename is not valid, please normalize it", 0)),
            true if clean.is_empty() => Err(Refusal::Source(
                "The filename is empty. Maybe it become after stripping out bad characters?",
                0,
            )),
            true => Ok(clean),
        }
    }

    /// Stores content for a token after looking at its lists; true when it was there already, and then V2
    /// answers with the file that it knows. Known content is not looked at.
    pub(super) fn store(
        &mut self,
        caller: &Token,
        wish: &Wish,
        filename: String,
        content: Spooled,
    ) -> Result<(Stored, bool), Refusal> {
        let twin = self.files.values_mut().find(|file| file.sha256 == content.sha256);
        let known_type = match twin {
            Some(twin) if !self.profile.is_v3() => {
                twin.accepts += 1;
                return Ok((twin.clone(), true));
            }
            Some(twin) => Some(twin.mime_type.clone()),
            None => None,
        };
        let mime_type = match known_type {
            Some(known) => known,
            None => self.checked(caller, &content)?.to_owned(),
        };
        let stored = Stored {
            id: self.next_id(),
            filename,
            sha256: content.sha256.clone(),
            size: content.size,
            mime_type,
            tags: wish.tags.iter().map(|tag| tag.to_lowercase()).collect(),
            public: wish.public,
            password: wish.password.clone(),
            token: caller.id.clone(),
            added: self.now(),
            accepts: 1,
        };
        content.store(&self.content(&stored.sha256))?;
        self.files.insert(stored.id, stored.clone());
        Ok((stored, false))
    }

    /// The content's type, if the token may upload that, and so much of it.
    fn checked(&self, caller: &Token, content: &Spooled) -> Result<&'static str, Refusal> {
        let found = content.mime_type()?;
        let own = texts(&caller.mime_types);
        let of_roles: Vec<&str> = role::mime_types(&caller.roles).collect();
        let free = own.is_empty() && of_roles.is_empty();
        let listed = own.iter().chain(&of_roles).any(|allowed| *allowed == found);
        if !free && !listed && !caller.is_administrator() {
            return Err(Refusal::Mime(found));
        }
        let limit = caller.max_size.filter(|limit| *limit != 0);
        match limit.is_some_and(|limit| i128::from(content.size) >= i128::from(limit)) {
            true => Err(Refusal::Size),
            false => Ok(found),
        }
    }

    /// Stores a version of a collection: public, with the collection's password, without the token's tags.
    pub(super) fn store_version(
        &mut self,
        caller: &Token,
        filename: String,
        password: Option<String>,
        content: Spooled,
    ) -> Result<(Stored, bool), Refusal> {
        let wish = Wish { public: true, password, ..Wish::default() };
        self.store(caller, &wish, filename, content)
    }

    pub(super) fn spend_one_shot(&mut self, caller: &Token) {
        if caller.has(self.profile, "upload.only_once_successful") {
            self.tokens.remove(&caller.id);
        }
    }
}

pub(super) fn check_tags(form: &mut Form, tags: &[String]) {
    for (index, tag) in tags.iter().enumerate() {
        let path = format!("form.tags.{index}");
        let is_plain = tag.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
        if tag.is_empty() {
            form.complain(&path, "Tag should not be blank");
        } else if !is_plain {
            form.complain(&path, "Tag should not have any special characters");
        } else if !TAG_LENGTH.contains(&tag.chars().count()) {
            // The server's own words are not known.
            let short = tag.chars().count() < *TAG_LENGTH.start();
            let message = if short { "Tag is too short" } else { "Tag is too long" };
            form.complain(&path, message);
        }
    }
}

pub(super) fn check_password(form: &mut Form, password: Option<&str>) {
    if password.is_some_and(|password| password.chars().count() > PASSWORD_LIMIT) {
        form.complain("form.password", NOT_VALID);
    }
}
