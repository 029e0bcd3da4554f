//! A request as the application sees it: path in segments, parameters as PHP reads them, its body on disk.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;

use super::spool::Spooled;

/// Largest JSON body that is read.
const JSON_LIMIT: usize = 1024 * 1024;

pub(super) struct Request {
    pub(super) method: String,
    /// Path and query as on the request line.
    pub(super) target: String,
    /// Lower case names, values read as ISO-8859-1.
    pub(super) headers: Vec<(String, String)>,
    pub(super) peer: IpAddr,
    /// Parameters of the query, and of the form once it is read; the last of a name counts.
    pub(super) parameters: Vec<(String, String)>,
    pub(super) body: Spooled,
}

impl Request {
    pub(super) fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }

    pub(super) fn segments(&self) -> Vec<String> {
        let path = self.path().trim_start_matches('/');
        path.split('/').map(decode).collect()
    }

    /// The first occurrence counts.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The entries of a parameter that is sent as an array: `tags[]=a&tags[]=b`.
    pub(super) fn entries(&self, name: &str) -> Vec<&str> {
        let is_entry = |known: &str| {
            known
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('[') && rest.ends_with(']'))
        };
        let entries = self.parameters.iter().filter(|(known, _)| is_entry(known));
        entries.map(|(_, value)| value.as_str()).collect()
    }

    /// The credential, the first of these that is there at all.
    pub(super) fn token(&self) -> Option<&str> {
        let headers = ["token", "x-auth-token"].into_iter();
        self.parameter("_token").or_else(|| headers.filter_map(|name| self.header(name)).next())
    }

    pub(super) fn is_simulated(&self) -> bool {
        matches!(self.parameter("simulate"), Some("true" | "1"))
    }

    /// The body's bytes where it is read as JSON.
    pub(super) fn json(&self) -> Vec<u8> {
        // A body that cannot be read is as good as none.
        self.body.read(JSON_LIMIT).unwrap_or_default()
    }

    pub(super) fn media_type(&self) -> String {
        let text = self.header("content-type").unwrap_or_default();
        text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }
}

fn decode(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// The pairs of a query or form, as PHP decodes them.
pub(super) fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| decode(&text.replace('+', " "));
    text.split('&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}
