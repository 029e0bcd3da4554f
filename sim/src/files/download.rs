//! Files once they are there: reading, deleting, listing.
//!
//! Ranges are answered with the server's own mistakes: the end of a range is exclusive, the announced total is
//! one too large, and a suffix range gives the first bytes.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use chrono::NaiveDateTime;
use serde_json::{Value, json};

use super::answer::{Answer, Content};
use super::repository::{Anonymous, Repository, Stored};
use super::request::Request;
use super::token::{Token, texts};

/// Entries of a page when the request says nothing.
const PAGE: usize = 20;
const NO_ACCESS: &str = "No access to read the file, maybe invalid password?";

/// A date as PHP's JSON writes one.
pub(super) fn date_object(date: NaiveDateTime) -> Value {
    json!({
        "date": date.format("%Y-%m-%d %H:%M:%S%.6f").to_string(),
        "timezone_type": 3,
        "timezone": "UTC",
    })
}

/// A page of a list: how many entries to pass over, how many to show, and how many pages there are.
pub(super) struct Paging {
    pub(super) page: usize,
    pub(super) limit: usize,
}

impl Paging {
    pub(super) fn of(request: &Request) -> Self {
        let number = |name: &str, default: usize| {
            let given = request.parameter(name).and_then(|text| text.parse().ok());
            given.filter(|number| *number > 0).unwrap_or(default)
        };
        Self { page: number("page", 1), limit: number("limit", PAGE) }
    }

    pub(super) fn cut<T>(&self, all: Vec<T>) -> Vec<T> {
        let skipped = (self.page - 1).saturating_mul(self.limit);
        all.into_iter().skip(skipped).take(self.limit).collect()
    }

    pub(super) fn describe(&self, total: usize) -> Value {
        json!({
            "current": self.page,
            "max": total.div_ceil(self.limit),
            "perPage": self.limit,
        })
    }
}

impl Stored {
    fn opens_with(&self, password: Option<&str>) -> bool {
        self.password.is_none() || self.password.as_deref() == password
    }
}

impl Repository {
    /// `GET /repository/file/{name}`: a token is of no matter in V2.
    pub(super) fn download(&self, request: &Request, name: &str) -> Result<Answer, Answer> {
        let caller = match (self.profile.is_v3(), request.token()) {
            (true, Some(_)) => Some(self.caller(request, Anonymous::Allowed)?),
            _ => None,
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
        if !self.profile.is_v3() && !name.chars().all(is_name) {
            return Err(Answer::html(500));
        }
        let missing = || {
            let body = json!({ "status": "File not found in the storage", "code": 404 });
            Answer::json(404, body)
        };
        let file = self.named(name).ok_or_else(missing)?;
        let readable = !self.profile.is_v3()
            || file.public
            || caller.is_some_and(|caller| {
                caller.id == file.token || caller.has(self.profile, "view.any_file")
            });
        if !readable || !file.opens_with(request.parameter("password")) {
            return Err(Answer::denied(NO_ACCESS));
        }
        self.content_of(request, file)
    }

    /// A file's content, or the piece of it that is asked for.
    pub(super) fn content_of(&self, request: &Request, file: &Stored) -> Result<Answer, Answer> {
        if request.header("if-none-match") == Some(file.sha256.as_str()) {
            let body = Content::Empty;
            return Ok(
                Answer { status: 304, headers: Vec::new(), body }.with_header("etag", &file.sha256)
            );
        }
        let asked = request.header("range");
        let outside = || Answer::json(416, json!({ "status": "OK", "code": 416 }));
        let (start, end) = match asked {
            None => (0, file.size),
            Some(text) => range(text, file.size).ok_or_else(outside)?,
        };
        let mut content = File::open(self.content(&file.sha256)).map_err(|_| Answer::html(500))?;
        content.seek(SeekFrom::Start(start)).map_err(|_| Answer::html(500))?;
        let of_range =
            ring::digest::digest(&ring::digest::SHA256, format!("{start}-{end}").as_bytes());
        let of_range = hex::encode(&of_range.as_ref()[..16]);
        let charset = if file.mime_type.starts_with("text/") { ";charset=UTF-8" } else { "" };
        let disposition = format!("attachment; filename=\"{}\"", file.filename);
        let answer = Answer {
            status: if asked.is_some() { 206 } else { 200 },
            headers: Vec::new(),
            body: Content::File { file: content, length: end - start },
        };
        Ok(answer
            .with_header("content-type", format!("{}{charset}", file.mime_type))
            .with_header("content-disposition", disposition)
            .with_header("last-modified", file.added.format("%a, %d %b %Y %H:%M:%S GMT"))
            .with_header("cache-control", "public, max-age=25200")
            .with_header("accept-ranges", "bytes")
            .with_header("content-range", format!("bytes {start}-{end}/{}", file.size + 1))
            .with_header("etag", format!("{}{of_range}", file.sha256)))
    }

    /// `DELETE /repository/file/{name}`: with the role, or with the password of a file that has one.
    pub(super) fn delete(
        &mut self,
        request: &Request,
        name: &str,
        caller: &Token,
    ) -> Result<Answer, Answer> {
        let file =
            self.named(name).ok_or_else(|| Answer::not_found("File not found in the storage"))?;
        let role = "deletion.all_files_including_protected_and_unprotected";
        let knows_it = file.password.is_some() && file.opens_with(request.parameter("password"));
        // Whoever is nobody here is not asked for a password either.
        let may = caller.has(self.profile, role) || (knows_it && !caller.id.is_empty());
        if !may {
            return Err(Answer::denied("Current token does not allow user to delete the file"));
        }
        let id = file.id;
        self.forget_file(id);
        Ok(Answer::json(200, json!({ "success": true })))
    }

    /// Removes a name, and its content with the last name that points at it.
    pub(super) fn forget_file(&mut self, id: u64) {
        let Some(gone) = self.files.remove(&id) else { return };
        if !self.files.values().any(|file| file.sha256 == gone.sha256) {
            // A content that is not there need not be removed.
            drop(std::fs::remove_file(self.content(&gone.sha256)));
        }
    }

    /// `GET /repository`: files stored as public, and those that the token may not see without their names.
    pub(super) fn list(&self, request: &Request, caller: &Token) -> Result<Answer, Answer> {
        if !caller.has(self.profile, "view.can_use_listing_endpoint_at_all") {
            // The server speaks of deleting here.
            return Err(Answer::denied("Current token does not allow user to delete the file"));
        }
        let wanted = request.parameter("searchQuery").unwrap_or_default();
        let (tags, types) = (request.entries("tags"), request.entries("mimes"));
        let fits = |file: &&Stored| {
            file.public
                && file.filename.contains(wanted)
                && (tags.is_empty() || file.tags.iter().any(|tag| tags.contains(&tag.as_str())))
                && (types.is_empty() || types.contains(&file.mime_type.as_str()))
        };
        let found: Vec<&Stored> = self.files.values().rev().filter(fits).collect();
        let (paging, total) = (Paging::of(request), found.len());
        let shown = paging.cut(found).into_iter().map(|file| self.entry(request, caller, file));
        Ok(Answer::json(
            200,
            json!({ "results": shown.collect::<Vec<_>>(), "pagination": paging.describe(total) }),
        ))
    }

    fn entry(&self, request: &Request, caller: &Token, file: &Stored) -> Value {
        let own = texts(&caller.tags);
        let tagged = caller.has(self.profile, "view.files_from_all_tags")
            || own.is_empty()
            || file.tags.iter().any(|tag| own.contains(&tag.as_str()));
        let opened = file.opens_with(request.parameter("password"))
            || caller.has(self.profile, "view.any_file");
        let visible = tagged && opened;
        let only = |text: String| if visible { text } else { String::new() };
        json!({
            "publicUrl": only(self.public_url(request, &file.filename)),
            "filename": if visible { file.filename.as_str() } else { "anonymous" },
            "contentHash": only(file.sha256.clone()),
            "dateAdded": date_object(file.added),
            "mimeType": file.mime_type,
            "tags": file.tags,
            "public": file.public,
            "attributes": { "isPasswordProtected": file.password.is_some() },
        })
    }
}

/// Start and exclusive end of what is asked for; `None` where there is nothing, and for several ranges.
fn range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str, default: u64| match text.trim() {
        "" => Some(default),
        text => text.parse().ok(),
    };
    let (start, end) = (number(first, 0)?, number(last, size)?);
    (start < end && end <= size).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_with_the_servers_mistakes() {
        for (text, expected) in [
            ("bytes=0-9", Some((0, 9))),
            ("bytes=10-", Some((10, 1000))),
            ("bytes=-5", Some((0, 5))),
            ("bytes=5000-", None),
            ("bytes=0-5000", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(range(text, 1000), expected, "{text}");
        }
    }
}
