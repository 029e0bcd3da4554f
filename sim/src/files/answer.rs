//! Answers of File Repository, and how its PHP writes them.

use std::fs::File;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::profile::Profile;

/// One answer, before misbehaviour has its way with it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Json(Value),
    /// A page of the framework or of the web server in front of it.
    Html,
    Empty,
    /// A piece of a stored file, which stands at its beginning.
    File {
        file: File,
        length: u64,
    },
}

impl Answer {
    pub(super) fn json(status: u16, value: Value) -> Self {
        Self { status, headers: Vec::new(), body: Content::Json(value) }
    }

    pub(super) fn html(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Content::Html }
    }

    pub(super) fn with_header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// Access denied, with the words of whoever denied it.
    pub(super) fn denied(text: &str) -> Self {
        Self::json(403, json!({ "status": text, "error_code": 403, "http_code": 403 }))
    }

    pub(super) fn not_found(text: &str) -> Self {
        Self::json(404, json!({ "status": text, "error_code": 404, "http_code": 404 }))
    }

    /// Inputs that are not what their form wants, by the path of the input.
    pub(super) fn invalid(
        status: u16,
        fields: impl IntoIterator<Item = (String, Vec<String>)>,
    ) -> Self {
        let fields: Map<String, Value> =
            fields.into_iter().map(|(path, messages)| (path, json!(messages))).collect();
        let body = json!({
            "status": "Validation error",
            "http_code": 400,
            "exit_code": 400,
            "fields": fields,
        });
        Self::json(status, body)
    }

    /// One input that is not what the rules want.
    pub(super) fn rule(status: u16, field: &str, message: &str) -> Self {
        Self::invalid(status, [(field.to_owned(), vec![message.to_owned()])])
    }
}

/// JSON as the server writes it: compact, or pretty from V3 on, and with more escapes than JSON needs.
pub(super) fn write(value: &Value, profile: Profile) -> String {
    let plain = if profile.is_v3() { pretty(value) } else { value.to_string() };
    let mut out = String::with_capacity(plain.len());
    for character in plain.chars() {
        match character {
            // Only inside of strings, so an escape is always right.
            '/' => out.push_str("\\/"),
            '<' | '>' | '&' | '\'' => push_unit(&mut out, character as u16),
            ascii if ascii.is_ascii() => out.push(ascii),
            other => {
                other.encode_utf16(&mut [0; 2]).iter().for_each(|unit| push_unit(&mut out, *unit))
            }
        }
    }
    out
}

fn push_unit(out: &mut String, unit: u16) {
    out.push_str(&format!("\\u{unit:04x}"));
}

fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        // Writing a value into memory does not fail.
        Err(_) => value.to_string(),
    }
}

/// The page that stands where no JSON does. Only its status and type are of any use.
pub(super) fn page(status: u16) -> String {
    let reason = hyper::StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason());
    let reason = reason.unwrap_or("Error");
    format!(
        "<!DOCTYPE html>\n<html>\n<head>\n    <meta charset=\"UTF-8\" />\n    \
         <title>An Error Occurred: {reason}</title>\n</head>\n<body>\n    \
         <h1>Oops! An Error Occurred</h1>\n    \
         <h2>The server returned a \"{status} {reason}\".</h2>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_escaped_as_php_escapes_it() {
        let value = json!({ "a/b": "<\u{fc}\u{1f600}>", "c": [] });
        let compact = "{\"a\\/b\":\"\\u003c\\u00fc\\ud83d\\ude00\\u003e\",\"c\":[]}";
        assert_eq!(write(&value, Profile::V2A), compact);
        let read: Value = serde_json::from_str(&write(&value, Profile::V3)).unwrap();
        assert_eq!(read, value);
    }
}
