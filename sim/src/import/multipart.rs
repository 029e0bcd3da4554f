//! `multipart/form-data` bodies (RFC 7578), as far as the import call needs them.

/// One part of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    pub(crate) name: String,
    pub(crate) file_name: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) body: &'a [u8],
}

/// The parts, or `None` for a body that is none, or not what its content type announces.
pub(crate) fn parse<'a>(content_type: &str, body: &'a [u8]) -> Option<Vec<Part<'a>>> {
    let delimiter = format!("--{}", parameter(content_type, "boundary")?);
    let mut rest = body.strip_prefix(delimiter.as_bytes())?;
    let inner = format!("\r\n{delimiter}");
    let mut parts = Vec::new();
    while let Some(after) = rest.strip_prefix(b"\r\n") {
        let head_end = find(after, b"\r\n\r\n")?;
        let content = after.get(head_end + 4..)?;
        let end = find(content, inner.as_bytes())?;
        parts.push(part(&after[..head_end], &content[..end])?);
        rest = content.get(end + inner.len()..)?;
    }
    rest.starts_with(b"--").then_some(parts)
}

fn part<'a>(head: &[u8], body: &'a [u8]) -> Option<Part<'a>> {
    let head = std::str::from_utf8(head).ok()?;
    let header = |wanted: &str| {
        head.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let disposition = header("content-disposition")?;
    if !disposition.to_ascii_lowercase().starts_with("form-data") {
        return None;
    }
    Some(Part {
        name: parameter(disposition, "name")?,
        file_name: parameter(disposition, "filename"),
        content_type: header("content-type").map(str::to_owned),
        body,
    })
}

/// A parameter of a header's value, quoted or not.
fn parameter(header: &str, wanted: &str) -> Option<String> {
    header.split(';').skip(1).find_map(|piece| {
        let (name, value) = piece.split_once('=')?;
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        name.trim().eq_ignore_ascii_case(wanted).then(|| value.to_owned())
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart_by_the_boundary_only() {
        let body = b"--b\r\nContent-Disposition: form-data; name=\"config\"\r\n\
            Content-Type: application/json\r\n\r\n{}\r\n--b\r\n\
            content-disposition: form-data; name=data; filename=\"a.csv\"\r\n\r\n\
            1\r\n--c\r\n2\r\n--b--\r\n";
        let parts = parse("multipart/form-data; boundary=\"b\"", body).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!((parts[0].name.as_str(), parts[0].file_name.as_deref()), ("config", None));
        assert_eq!(parts[0].content_type.as_deref(), Some("application/json"));
        assert_eq!(parts[1].file_name.as_deref(), Some("a.csv"));
        assert_eq!(parts[1].body, b"1\r\n--c\r\n2");
    }

    #[test]
    fn a_body_that_stops_in_the_middle_is_none() {
        let body = b"--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n1";
        assert_eq!(parse("multipart/form-data; boundary=b", body), None);
        assert_eq!(parse("multipart/form-data", body), None);
    }
}
