//! Versions of a collection: adding, with the server's habit of making room first; listing, reading, deleting.

use chrono::NaiveDateTime;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Content};
use super::collection::{Collection, Strategy};
use super::download::date_object;
use super::repository::{Repository, Stored};
use super::request::Request;
use super::token::Token;
use super::upload::Refusal;
use crate::random;

/// One version: a number and the file that it points at. In V2 two collections may point at one file, and then
/// one of them can lose it to the other.
#[derive(Clone)]
pub(super) struct Version {
    id: String,
    number: u64,
    created: NaiveDateTime,
    pub(super) file: u64,
}

fn refused(text: &str, code: i64, field: &str) -> Answer {
    Answer::json(
        400,
        json!({
            "status": text,
            "error_code": code,
            "exit_code": 400,
            "field": field,
            "errors": null,
            "version": null,
            "collection": null,
        }),
    )
}

/// In a collection's words; a permission that is missing here comes with status 400.
fn refused_upload(refusal: &Refusal) -> Answer {
    let (text, code) = refusal.words();
    match refusal {
        Refusal::Broken => Answer::html(500),
        _ => refused(&text, code, ""),
    }
}

impl Repository {
    /// `POST /repository/collection/{id}/backup`
    pub(super) fn upload_version(
        &mut self,
        id: &str,
        request: &mut Request,
        caller: &Token,
    ) -> Result<Answer, Answer> {
        let collection = self.existing(id)?.clone();
        let role = "collections.upload_to_allowed_collections";
        if !caller.has(self.profile, role) || !collection.admits(caller, self) {
            let text = "Current token does not allow to upload to this collection";
            return Err(Answer::denied(text));
        }
        // A version whose file is gone breaks the collection.
        self.files_of(&collection)?;
        let number = collection.versions.last().map_or(1, |last| last.number + 1);
        // A collection without a password still counts as one with, for a token that may not have any.
        let password = Some(collection.password.as_deref().unwrap_or_default());
        self.may_upload(caller, password).map_err(|refusal| refused_upload(&refusal))?;
        let source = self.source(request).map_err(|refusal| refused_upload(&refusal))?;
        let content = source.content.map_err(|refusal| refused_upload(&refusal))?;
        let filename = format!(
            "{}{}",
            hex::encode(random::bytes::<5>()),
            numbered(&collection.filename, number)
        );
        let (stored, shared) = self
            .store_version(caller, filename, collection.password.clone(), content)
            .map_err(|refusal| refused_upload(&refusal))?;
        let collection = self.with_room(collection);
        if let Err(answer) = self.check_version(&collection, &stored) {
            if !shared {
                self.forget_file(stored.id);
            }
            self.collections.insert(collection.id.clone(), collection);
            return Err(answer);
        }
        let version = Version {
            id: random::uuid().to_uppercase(),
            number,
            created: self.now(),
            file: stored.id,
        };
        let answer = Answer::json(
            200,
            json!({
                "status": "OK",
                "error_code": null,
                "exit_code": 200,
                "field": null,
                "errors": null,
                "version": shown(&version, &stored),
                "collection": collection.to_json(),
            }),
        );
        let mut collection = collection;
        collection.versions.push(version);
        self.collections.insert(collection.id.clone(), collection);
        self.spend_one_shot(caller);
        Ok(answer)
    }

    /// The collection after room was made in it, which is not taken back when the new version is refused.
    fn with_room(&mut self, mut collection: Collection) -> Collection {
        let full = collection.versions.len() as u64 >= collection.max_count;
        if full && collection.strategy == Strategy::DeleteOldest && !collection.versions.is_empty()
        {
            let oldest = collection.versions.remove(0);
            self.forget_file(oldest.file);
        }
        collection
    }

    fn check_version(&self, collection: &Collection, new: &Stored) -> Result<(), Answer> {
        if collection.versions.len() as u64 >= collection.max_count {
            return Err(refused("max_backups_count_too_many", 4000, "maxBackupsCount"));
        }
        if new.size > collection.max_one {
            let text = "new_version_exceeds_single_element_limit_specified_for_this_collection";
            return Err(refused(text, 4006, "file"));
        }
        let present = self.files_of(collection)?;
        if present.iter().any(|file| file.sha256 == new.sha256) {
            return Err(refused("backup_version_uploaded_twice", 4008, "file"));
        }
        let sum: u64 = present.iter().map(|file| file.size).sum();
        if sum + new.size > collection.max_all {
            let text = "new_version_makes_collection_too_big_on_disk";
            return Err(refused(text, 4007, "file"));
        }
        Ok(())
    }

    /// The files of all versions. The server falls over when one of them is gone.
    fn files_of(&self, collection: &Collection) -> Result<Vec<&Stored>, Answer> {
        let file = |version: &Version| self.files.get(&version.file);
        let files: Option<Vec<&Stored>> = collection.versions.iter().map(file).collect();
        files.ok_or_else(|| Answer::html(500))
    }

    fn readable(&self, id: &str, caller: &Token) -> Result<&Collection, Answer> {
        let collection = self.existing(id)?;
        let role = "collections.list_versions_for_allowed_collections";
        match caller.has(self.profile, role) && collection.admits(caller, self) {
            true => Ok(collection),
            false => Err(Answer::denied(
                "Current token does not allow to list versions in this collection",
            )),
        }
    }

    /// `GET /repository/collection/{id}/backup`
    pub(super) fn list_versions(
        &self,
        id: &str,
        request: &Request,
        caller: &Token,
    ) -> Result<Answer, Answer> {
        let collection = self.readable(id, caller)?;
        let files = self.files_of(collection)?;
        let versions: Map<String, Value> = collection
            .versions
            .iter()
            .zip(files)
            .map(|(version, file)| {
                let url = self.public_url(request, &file.filename);
                let entry = json!({ "details": shown(version, file), "url": url });
                (version.number.to_string(), entry)
            })
            .collect();
        // PHP writes an empty map as a list.
        let versions = if versions.is_empty() { json!([]) } else { Value::Object(versions) };
        Ok(Answer::json(
            200,
            json!({ "status": "OK", "error_code": null, "exit_code": 200, "versions": versions }),
        ))
    }

    /// `GET /repository/collection/{id}/backup/{selector}`
    pub(super) fn download_version(
        &self,
        id: &str,
        selector: &str,
        request: &Request,
        caller: &Token,
    ) -> Result<Answer, Answer> {
        let versions = &self.readable(id, caller)?.versions;
        let version = match selector {
            "latest" | "recent" => versions.last(),
            "first" => versions.first(),
            _ => versions.iter().find(|version| {
                version.id == selector || selector == format!("v{}", version.number)
            }),
        };
        let missing = || {
            Answer::json(
                404,
                json!({
                    "status": "Object not found",
                    "error_code": 404,
                    "exit_code": 404,
                    "url": null,
                }),
            )
        };
        let version = version.ok_or_else(missing)?;
        let file = self.files.get(&version.file).ok_or_else(|| Answer::html(500))?;
        let password = request.parameter("password").unwrap_or_default();
        if self.profile.is_v3() {
            return match file.password.as_deref().is_none_or(|wanted| wanted == password) {
                true => self.content_of(request, file),
                false => Err(Answer::denied("No access to read the file, maybe invalid password?")),
            };
        }
        // Token and password travel in the address, as on the server.
        let token = request.token().unwrap_or_default();
        let url = format!(
            "{}?password={password}&_token={token}",
            self.public_url(request, &file.filename)
        );
        if matches!(request.parameter("redirect"), Some("false" | "0")) {
            return Ok(Answer::json(
                200,
                json!({ "status": "OK", "error_code": 200, "exit_code": 200, "url": url }),
            ));
        }
        let answer = Answer { status: 302, headers: Vec::new(), body: Content::Html };
        Ok(answer.with_header("location", url))
    }

    /// `DELETE /repository/collection/{id}/backup/{version}`: by ID only.
    pub(super) fn delete_version(
        &mut self,
        id: &str,
        version: &str,
        request: &Request,
        caller: &Token,
    ) -> Result<Answer, Answer> {
        let mut collection = self.existing(id)?.clone();
        let at = collection
            .versions
            .iter()
            .position(|known| known.id == version)
            .ok_or_else(|| Answer::rule(400, "form.version", "version_no_longer_exists"))?;
        let role = "collections.delete_versions_for_allowed_collections";
        if !caller.has(self.profile, role) || !collection.admits(caller, self) {
            // The server's own words are not known.
            let text = "Current token does not allow to delete versions in this collection";
            return Err(Answer::denied(text));
        }
        if !request.is_simulated() {
            let gone = collection.versions.remove(at);
            self.forget_file(gone.file);
            self.collections.insert(collection.id.clone(), collection);
        }
        let body = json!({ "status": "OK, object deleted", "error_code": 200, "exit_code": 200 });
        Ok(Answer::json(200, body))
    }
}

fn shown(version: &Version, file: &Stored) -> Value {
    json!({
        "id": version.id,
        "version": version.number,
        "creation_date": date_object(version.created),
        "file": { "id": file.id, "filename": file.filename },
    })
}

/// The number goes in front of the last extension.
fn numbered(name: &str, number: u64) -> String {
    match name.rsplit_once('.') {
        Some((stem, extension)) => format!("{stem}-v{number}.{extension}"),
        None => format!("{name}-v{number}"),
    }
}
