//! A request as the application behind the token filter sees it: raw target, headers in order, body, and what
//! the server makes of a form.

use bytes::Bytes;

use crate::auth::canonical;

/// Largest body that SolarUser's filter reads: 20 MB.
const SOLARUSER_BODY: usize = 20 * 1024 * 1024;
/// Largest body that SolarIn reads. The application sets none; a proxy before it may.
const SOLARIN_BODY: usize = 20 * 1024 * 1024;
/// Largest body that SolarQuery's filter reads.
const SOLARQUERY_BODY: usize = 65_535;

/// One request, its body already read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Incoming {
    pub(crate) method: String,
    /// Path and query, byte for byte as on the request line.
    pub(crate) target: String,
    /// Lower case names, values read as ISO-8859-1, in order of arrival.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    /// The body passed its limit and was not kept.
    pub(crate) too_large: bool,
}

impl Incoming {
    pub(crate) fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }

    fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The application's prefix, `/solaruser` or `/solarquery`.
    pub(crate) fn context(&self) -> &str {
        let path = self.path();
        match path.get(1..).and_then(|rest| rest.find('/')) {
            Some(end) => &path[..=end],
            None => path,
        }
    }

    /// The first occurrence counts.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn body_limit(&self) -> usize {
        match self.context() {
            "/solaruser" => SOLARUSER_BODY,
            "/solarin" => SOLARIN_BODY,
            _ => SOLARQUERY_BODY,
        }
    }

    fn media_type(&self) -> String {
        let text = self.header("content-type").unwrap_or_default();
        text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    pub(crate) fn is_multipart(&self) -> bool {
        self.media_type().starts_with("multipart/")
    }

    fn is_form(&self) -> bool {
        self.media_type() == "application/x-www-form-urlencoded"
    }

    pub(crate) fn is_json(&self) -> bool {
        let media = self.media_type();
        media == "application/json" || media.ends_with("+json")
    }

    /// Whether the body was consumed while its fields were parsed, so that the filter hashes an empty one.
    ///
    /// For POST the container parses on demand, and a digest check that reads the body first prevents it. For
    /// the other methods a framework filter parses before the token filter runs.
    fn form_is_consumed(&self) -> bool {
        let digested = self.header("digest").is_some() || self.header("content-md5").is_some();
        self.is_form()
            && match self.method.as_str() {
                "POST" => !digested,
                "PUT" | "PATCH" | "DELETE" => true,
                _ => false,
            }
    }

    /// The body as the filter hashes it.
    pub(crate) fn signed_body(&self) -> &[u8] {
        if self.form_is_consumed() { &[] } else { &self.body }
    }

    /// The parameters that filter and application see: of the URL, then of a form.
    pub(crate) fn parameters(&self) -> Vec<(String, String)> {
        let mut pairs = canonical::parse_pairs(self.query());
        if self.form_is_consumed() {
            pairs.extend(canonical::parse_pairs(&String::from_utf8_lossy(&self.body)));
        }
        pairs
    }

    /// The host as the server puts it into the canonical request: what a proxy says about port and protocol
    /// is appended when the header has no port.
    pub(crate) fn signed_host(&self) -> String {
        let host = self.header("host").unwrap_or_default();
        if host.contains(':') {
            return host.to_owned();
        }
        match (self.header("x-forwarded-port"), self.header("x-forwarded-proto")) {
            (Some(port), _) if !port.is_empty() && port != "80" => format!("{host}:{port}"),
            (_, Some("https")) => format!("{host}:443"),
            _ => host.to_owned(),
        }
    }

    /// What container and firewall refuse before anyone looks at credentials.
    pub(crate) fn malformed(&self) -> Option<&'static str> {
        let target = &self.target;
        if target.bytes().any(|byte| !byte.is_ascii_graphic() || b"|{}[]\"<>\\^`".contains(&byte)) {
            return Some("Invalid character found in the request target");
        }
        let path = self.path();
        let lower = path.to_ascii_lowercase();
        let potentially_malicious = ["//", ";", "%3b", "%2f", "%5c", "%25", "%2e", "%00"];
        if potentially_malicious.iter().any(|text| lower.contains(text))
            || path.split('/').any(|segment| segment == "." || segment == "..")
        {
            return Some("The request was rejected because the URL is not normalized");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Incoming {
        Incoming {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: body.to_owned().into(),
            too_large: false,
        }
    }

    #[test]
    fn a_proxy_adds_its_port_to_a_host_without_one() {
        for (headers, expected) in [
            (&[("host", "a")][..], "a"),
            (&[("host", "A:1"), ("x-forwarded-port", "8080")], "A:1"),
            (&[("host", "a"), ("x-forwarded-port", "8080")], "a:8080"),
            (&[("host", "a"), ("x-forwarded-port", "80")], "a"),
            (&[("host", "a"), ("x-forwarded-port", "80"), ("x-forwarded-proto", "https")], "a:443"),
            (&[("host", "a"), ("x-forwarded-proto", "https")], "a:443"),
            (&[("host", "a"), ("x-forwarded-proto", "http")], "a"),
        ] {
            assert_eq!(request("GET", "/", headers, "").signed_host(), expected, "{headers:?}");
        }
    }

    #[test]
    fn who_reads_a_form_first_decides_where_its_fields_go() {
        let form = ("content-type", "application/x-www-form-urlencoded; charset=UTF-8");
        let digest = ("digest", "sha-256=x");
        for (method, headers, fields, hashed) in [
            ("POST", &[form][..], true, ""),
            ("POST", &[form, digest], false, "b=2"),
            ("PUT", &[form], true, ""),
            ("DELETE", &[form, digest], true, ""),
            ("GET", &[form], false, "b=2"),
            ("POST", &[("content-type", "text/plain")], false, "b=2"),
        ] {
            let request = request(method, "/x?a=1", headers, "b=2");
            let expected = if fields { &["a", "b"][..] } else { &["a"] };
            let names: Vec<String> = request.parameters().into_iter().map(|pair| pair.0).collect();
            assert_eq!(names, expected, "{method} {headers:?}");
            assert_eq!(request.signed_body(), hashed.as_bytes(), "{method} {headers:?}");
        }
    }

    #[test]
    fn the_context_is_the_first_segment() {
        for (target, context) in [
            ("/solaruser/api?x=/", "/solaruser"),
            ("/solarquery", "/solarquery"),
            ("/", "/"),
            ("", ""),
            ("*", "*"),
        ] {
            assert_eq!(request("GET", target, &[], "").context(), context, "{target}");
        }
    }
}
