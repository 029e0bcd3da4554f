//! `token sign`: one request signed by hand, with every text on the way to the signature.
//!
//! The URL is taken byte for byte. What the server would refuse whatever the key is an error; what
//! it would refuse only for this key or this moment is signed, with a warning.

use std::{io::Read, path::PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, NaiveDate, SubsecRound, Utc};
use clap::Args;
use serde::Serialize;

use super::{
    Exit, Failure, OrExit, Streams, TokenContext, open, parse_key_date, parse_token_id,
    read_key_file, read_secret_file,
};
use crate::{
    credential::{
        Credential, SigningKey,
        date::parse_http_date,
        http_date,
        sign::{self, Request, Signed},
        signing_key,
    },
    domain::{TokenId, TokenName},
};

/// Sign one request and print how, for debugging an API by hand
#[derive(Debug, Args)]
#[command(after_help = "Example:
  solarnode-agent token sign GET https://data.solarnetwork.net/solarquery/api/v1/sec/whoami \\
      --token-id abcdefghij0123456789 --secret-file secret.txt")]
#[command(group = clap::ArgGroup::new("who").required(true).args(["token", "token_id"]))]
#[command(group = clap::ArgGroup::new("with").args(["secret_file", "key_file"]))]
pub(super) struct Sign {
    /// The request's method
    method: String,
    /// The request's URL, signed byte for byte: percent-encode what needs it
    url: String,
    /// Sign with the token of this name on this device
    #[arg(long, value_name = "NAME")]
    token: Option<TokenName>,
    /// Sign as this token, with --secret-file or --key-file
    #[arg(long, value_name = "ID", requires = "with", allow_hyphen_values = true, value_parser = parse_token_id)]
    token_id: Option<TokenId>,
    /// Read the token's secret from this file
    #[arg(long, value_name = "FILE", requires = "token_id", conflicts_with = "token")]
    secret_file: Option<PathBuf>,
    /// Take a signing key from this file, 64 hexadecimal digits
    #[arg(
        long,
        value_name = "FILE",
        requires_all = ["token_id", "key_date"],
        conflicts_with = "token"
    )]
    key_file: Option<PathBuf>,
    /// Take this as the key's UTC day [default with --secret-file: the request's]
    #[arg(long, value_name = "YYYYMMDD", requires = "with", value_parser = parse_key_date)]
    key_date: Option<NaiveDate>,
    /// Send this header; may be repeated. Host and X-SN-Date are added if missing
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Sign this header too, beside those that have to be; may be repeated
    #[arg(long = "sign-header", value_name = "NAME")]
    sign_headers: Vec<String>,
    /// Sign this host, where a proxy changes the Host header
    #[arg(long, value_name = "HOST")]
    sign_host: Option<String>,
    /// Sign this file as the body, exactly as it is sent
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Date the request so where no header does [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = parse_date)]
    date: Option<DateTime<Utc>>,
    /// Print JSON: {canonicalRequest, signingMessage, signedHeaders, signature, authorization}
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Printed<'a> {
    canonical_request: &'a str,
    signing_message: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
    authorization: &'a str,
}

impl Sign {
    pub(super) fn run(
        mut self,
        streams: &mut Streams<'_>,
        context: impl FnOnce() -> Result<TokenContext, Failure>,
    ) -> Result<Exit, Failure> {
        let url = Url::parse(&self.url).or_exit(Exit::Usage)?;
        let stored = match &self.token {
            Some(name) => {
                let context = context()?;
                if self.sign_host.is_none() {
                    self.sign_host = configured_sign_host(&context, &self.url);
                }
                Some(context.stored(name)?)
            }
            None => None,
        };
        let date = self.complete_headers(&url, streams)?;
        let (token, key, key_date) = self.credential(stored.as_ref(), date)?;
        let body = match &self.body {
            Some(path) => {
                let mut bytes = Vec::new();
                open(path)?
                    .read_to_end(&mut bytes)
                    .with_context(|| format!("could not read {}", path.display()))
                    .or_exit(Exit::Usage)?;
                bytes
            }
            None => Vec::new(),
        };
        let signed = sign::sign(
            &Request {
                method: &self.method,
                target: &url.target,
                headers: &self.headers,
                sign_host: self.sign_host.as_deref(),
                also_sign: &self.sign_headers,
                body: &body,
            },
            &token,
            &key,
            date,
        )
        .or_exit(Exit::Usage)?;

        let usable = Credential { token_id: token, key, key_date, secret: None };
        if !usable.usable_at(date) {
            writeln!(
                streams.err,
                "warning: the server will refuse this: a key of {key_date} signs requests dated \
                 up to six days later, and this one is dated {}",
                date.date_naive()
            )?;
        }
        self.print(&signed, streams)?;
        Ok(Exit::Ok)
    }

    /// Adds the headers that every request has, and returns the date the request bears.
    fn complete_headers(
        &mut self,
        url: &Url,
        streams: &mut Streams<'_>,
    ) -> Result<DateTime<Utc>, Failure> {
        if self.header("host").is_none() {
            self.headers.insert(0, ("Host".to_owned(), url.host.clone()));
        }
        let Some(text) = self.header("x-sn-date").or_else(|| self.header("date")) else {
            let date = self.date.unwrap_or_else(Utc::now).trunc_subsecs(0);
            self.headers.push(("X-SN-Date".to_owned(), http_date(date)));
            return Ok(date);
        };
        let date = parse_http_date(text)
            .with_context(|| {
                format!(
                    "the date header `{text}` is no date that the server reads, \
                     such as `Sun, 15 Jun 2025 08:09:10 GMT`"
                )
            })
            .or_exit(Exit::Usage)?;
        if self.date.is_some_and(|other| other.trunc_subsecs(0) != date) {
            writeln!(streams.err, "warning: --date is not used, the date header says {text}")?;
        }
        Ok(date)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let named = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    fn credential(
        &self,
        stored: Option<&Credential>,
        date: DateTime<Utc>,
    ) -> Result<(TokenId, SigningKey, NaiveDate), Failure> {
        let key_date = self.key_date.unwrap_or(date.date_naive());
        match (stored, &self.token_id, &self.secret_file, &self.key_file) {
            // The secret, where kept, signs for any day.
            (Some(Credential { token_id, secret: Some(secret), .. }), _, _, _) => {
                Ok((token_id.clone(), signing_key(secret, key_date), key_date))
            }
            (Some(stored), _, _, _) => {
                Ok((stored.token_id.clone(), stored.key.clone(), stored.key_date))
            }
            (None, Some(id), Some(path), _) => {
                Ok((id.clone(), signing_key(&read_secret_file(path)?, key_date), key_date))
            }
            (None, Some(id), None, Some(path)) => Ok((id.clone(), read_key_file(path)?, key_date)),
            (None, _, _, _) => Err(Failure::new(
                Exit::Usage,
                "say what to sign with: --token NAME, or --token-id ID and a secret or key file",
            )),
        }
    }

    fn print(&self, signed: &Signed, streams: &mut Streams<'_>) -> std::io::Result<()> {
        if self.json {
            let printed = Printed {
                canonical_request: &signed.canonical_request,
                signing_message: &signed.signing_message,
                signed_headers: &signed.signed_headers,
                signature: &signed.signature,
                authorization: &signed.authorization,
            };
            serde_json::to_writer_pretty(&mut *streams.out, &printed)?;
            return writeln!(streams.out);
        }
        write!(
            streams.out,
            "Canonical request\n\n{}\n\nSigning message\n\n{}\n\n\
             Header\n\nAuthorization: {}\n\nCommand\n\n{}\n",
            signed.canonical_request,
            signed.signing_message,
            signed.authorization,
            self.curl(signed)
        )
    }

    /// The same request as a curl command: nothing of it changed, nothing signed added by curl.
    fn curl(&self, signed: &Signed) -> String {
        let mut words = vec!["curl -sS --globoff --path-as-is".to_owned()];
        words.push(match self.method.to_ascii_uppercase().as_str() {
            "HEAD" => "--head".to_owned(),
            method => format!("-X {}", quoted(method)),
        });
        let header = |line: String| format!("-H {}", quoted(&line));
        words.extend(self.headers.iter().map(|(name, value)| match value.trim() {
            "" => header(format!("{name};")),
            value => header(format!("{name}: {value}")),
        }));
        // Signed as absent: curl must not send its own.
        let absent = signed.signed_headers.split(';').filter(|name| self.header(name).is_none());
        words.extend(absent.map(|name| header(format!("{name}:"))));
        if let Some(body) = &self.body {
            if self.header("content-type").is_none() {
                words.push(header("Content-Type:".to_owned()));
            }
            words.push(format!("--data-binary {}", quoted(&format!("@{}", body.display()))));
        }
        words.push(header(format!("Authorization: {}", signed.authorization)));
        words.push(quoted(&self.url));
        words.join(" ")
    }
}

/// Where the URL is the configured server's, its configured host for signatures goes with it.
fn configured_sign_host(context: &TokenContext, url: &str) -> Option<String> {
    let solarnet = &context.solarnet;
    let ours = |base: &str| {
        url.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    };
    let ours = ours(&solarnet.user_url) || ours(&solarnet.query_url);
    solarnet.sign_host.clone().filter(|_| ours)
}

/// The parts of a URL that a request is made of.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    /// As in the `Host` header: with the port unless it is the scheme's own.
    host: String,
    /// As on the request line.
    target: String,
}

/// A text that no request can be made of.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an http or https URL such as https://data.solarnetwork.net/solarquery/…")]
struct InvalidUrl(String);

impl Url {
    fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = || InvalidUrl(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let own_port = match scheme.to_ascii_lowercase().as_str() {
            "https" => ":443",
            "http" => ":80",
            _ => return Err(invalid()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        // `host:` has an empty port, which means the scheme's own.
        let host = authority.strip_suffix(own_port).or(authority.strip_suffix(':'));
        let host = host.unwrap_or(authority);
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic() && b != b'@') {
            return Err(invalid());
        }
        let root = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { host: host.to_owned(), target: format!("{root}{target}") })
    }
}

fn parse_header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once(':').ok_or("a header is written `Name: value`")?;
    Ok((name.trim().to_owned(), value.trim_start().to_owned()))
}

fn parse_date(text: &str) -> Result<DateTime<Utc>, &'static str> {
    DateTime::parse_from_rfc3339(text)
        .map(|date| date.to_utc())
        .map_err(|_| "a date is written as in 2025-06-15T08:09:10Z")
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_byte_for_byte() {
        #[rustfmt::skip]
        let cases = [
            ("https://h/a%7Eb/../c?q=a+b&&#f", "h",        "/a%7Eb/../c?q=a+b&&"),
            ("https://h",                      "h",        "/"),
            ("https://h?a=1",                  "h",        "/?a=1"),
            ("https://h:443/",                 "h",        "/"),
            ("https://h:/",                    "h",        "/"),
            ("http://h:443/",                  "h:443",    "/"),
            ("http://h:80/",                   "h",        "/"),
            ("HTTP://[::1]:9082/x",            "[::1]:9082", "/x"),
        ];
        for (url, host, target) in cases {
            let want = Url { host: host.to_owned(), target: target.to_owned() };
            assert_eq!(Url::parse(url).expect(url), want, "{url}");
        }
        for bad in ["", "h/a", "ftp://h/", "https:///a", "https://user:pass@h/", "https://h h/"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_word_for_the_shell_stays_one_word() {
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
