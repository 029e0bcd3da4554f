//! A `multipart/form-data` body as bytes, so that it can be signed before it is sent.

use bytes::Bytes;

use crate::solarnet::Body;

/// One part of a form.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The form's field.
    pub name: &'a str,
    /// A file's name, where the server wants a file.
    pub filename: Option<&'a str>,
    /// The part's own `Content-Type`.
    pub content_type: &'a str,
    /// The content, as it is.
    pub content: &'a [u8],
}

/// The body of a form with these parts.
///
/// The boundary begins with `seed` and is made longer until it occurs in no part.
#[must_use]
pub fn form(seed: &str, parts: &[Part<'_>]) -> Body {
    let boundary = boundary(seed, parts);
    let mut bytes = Vec::with_capacity(parts.iter().map(|p| p.content.len() + 200).sum());
    for part in parts {
        let filename =
            part.filename.map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
        bytes.extend_from_slice(
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"{filename}\r\n\
                 Content-Type: {}\r\n\r\n",
                part.name, part.content_type
            )
            .as_bytes(),
        );
        bytes.extend_from_slice(part.content);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Body {
        content_type: format!("multipart/form-data; boundary={boundary}"),
        bytes: Bytes::from(bytes),
    }
}

fn boundary(seed: &str, parts: &[Part<'_>]) -> String {
    let mut boundary = format!("snagent{seed}");
    while parts.iter().any(|part| contains(part.content, boundary.as_bytes())) {
        boundary.push('x');
    }
    boundary
}

fn contains(content: &[u8], wanted: &[u8]) -> bool {
    content.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_written_as_the_server_reads_it() {
        let parts = [
            Part {
                name: "config",
                filename: None,
                content_type: "application/json",
                content: b"{}",
            },
            Part {
                name: "data",
                filename: Some("d.csv"),
                content_type: "text/csv",
                content: b"a\0b",
            },
        ];
        let body = form("1f", &parts);
        assert_eq!(body.content_type, "multipart/form-data; boundary=snagent1f");
        assert_eq!(
            body.bytes.as_ref(),
            b"--snagent1f\r\nContent-Disposition: form-data; name=\"config\"\r\n\
              Content-Type: application/json\r\n\r\n{}\r\n\
              --snagent1f\r\nContent-Disposition: form-data; name=\"data\"; filename=\"d.csv\"\r\n\
              Content-Type: text/csv\r\n\r\na\0b\r\n--snagent1f--\r\n"
        );
    }

    #[test]
    fn a_boundary_never_occurs_in_the_content() {
        let part = Part {
            name: "data",
            filename: None,
            content_type: "text/csv",
            content: b"..snagent1fx..snagent1f..",
        };
        assert!(form("1f", &[part]).content_type.ends_with("boundary=snagent1fxx"));
    }
}
