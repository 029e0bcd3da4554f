//! Uploads by address: the server fetches what a URL names, by plain HTTP and without following redirects, and
//! stores it under a name that is made from the URL.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::answer::{Answer, Content};
use super::form::{Form, NOT_VALID};
use super::repository::{Anonymous, Repository, Stored};
use super::request::Request;
use super::spool::{Spooled, Writer};
use super::token::{Token, texts};
use super::upload::{Refusal, Wish, bad, check_password, check_tags};

const URL_LENGTH: std::ops::RangeInclusive<usize> = 10..=250;
/// How long the other server may take in all.
const PATIENCE: Duration = Duration::from_secs(30);
const CHUNK: usize = 64 * 1024;

/// An upload by address that waits for its content.
pub(super) struct ByUrl {
    caller: Token,
    pub(super) url: String,
    wish: Wish,
}

/// Why no content came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotFetched {
    /// Nobody answers there.
    Unreachable,
    /// The other server answered with an error.
    Refused,
}

pub(super) async fn fetch(url: &str, folder: &Path) -> Result<Spooled, NotFetched> {
    let rest = url.strip_prefix("http://").ok_or(NotFetched::Unreachable)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let fetched = tokio::time::timeout(PATIENCE, get(&address, host, path, folder)).await;
    fetched.unwrap_or(Err(NotFetched::Unreachable))
}

/// HTTP/1.0, so that the body ends with the connection.
async fn get(address: &str, host: &str, path: &str, folder: &Path) -> Result<Spooled, NotFetched> {
    let unreachable = |_| NotFetched::Unreachable;
    let mut stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let head = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: solarnet-sim\r\n\r\n");
    stream.write_all(head.as_bytes()).await.map_err(unreachable)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).await.map_err(unreachable)?;
    if !line.split(' ').nth(1).is_some_and(|status| status.starts_with('2')) {
        return Err(NotFetched::Refused);
    }
    while !line.trim_end().is_empty() {
        line.clear();
        reader.read_line(&mut line).await.map_err(unreachable)?;
    }
    let mut content = Writer::new(folder).map_err(unreachable)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk).await.map_err(unreachable)? {
            0 => return Ok(content.finish()),
            length => content.write(&chunk[..length]).map_err(unreachable)?,
        }
    }
}

impl Repository {
    /// Reads and judges the body of `POST /repository/{any}/add-by-url`; gives what is to be fetched.
    pub(super) fn begin_add_by_url(&self, request: &Request) -> Result<ByUrl, Answer> {
        let caller = self.caller(request, Anonymous::Allowed)?;
        let missing = || {
            let body = json!({ "status": "Missing content", "error_code": 400, "http_code": 400 });
            Answer::json(400, body)
        };
        let inputs = Form::inputs(&request.json()).ok_or_else(missing)?;
        let mut form = Form::default();
        let known = ["fileUrl", "tags", "public", "password", "fileOverwrite", "encoding"];
        form.only(&inputs, &known);
        let url = form.text("form.fileUrl", inputs.get("fileUrl"));
        if url.as_ref().is_some_and(|url| !URL_LENGTH.contains(&url.chars().count())) {
            form.complain("form.fileUrl", NOT_VALID);
        }
        let tags = form.texts("form.tags", inputs.get("tags"));
        let tags: Vec<String> = match &tags {
            Value::Array(list) => {
                list.iter().map(|tag| tag.as_str().unwrap_or_default().to_owned()).collect()
            }
            other => texts(other).into_iter().map(str::to_owned).collect(),
        };
        check_tags(&mut form, &tags);
        let password = form.text("form.password", inputs.get("password"));
        check_password(&mut form, password.as_deref());
        let flag = |form: &mut Form, name: &str| {
            form.boolean(&format!("form.{name}"), inputs.get(name)).unwrap_or_default()
        };
        let (public, overwrite) = (flag(&mut form, "public"), flag(&mut form, "fileOverwrite"));
        let encoding = form.text("form.encoding", inputs.get("encoding"));
        form.finish()?;
        let url = url.ok_or_else(|| Answer::html(500))?;
        let wish = Wish { tags, public, password, overwrite, encoding, ..Wish::default() };
        let tags = self.permitted(&caller, &wish)?;
        Ok(ByUrl { caller, url, wish: Wish { tags, ..wish } })
    }

    /// Stores what came from the address.
    pub(super) fn end_add_by_url(
        &mut self,
        request: &Request,
        by_url: ByUrl,
        fetched: Result<Spooled, NotFetched>,
    ) -> Result<Answer, Answer> {
        let ByUrl { caller, url, wish } = by_url;
        let content = match fetched {
            Ok(content) => content,
            Err(NotFetched::Unreachable) => {
                return Err(bad("URL is not accessible, probably the domain is not valid", 60005));
            }
            Err(NotFetched::Refused) => return Err(Answer::html(500)),
        };
        let base = url.split(['?', '#']).next().unwrap_or_default();
        let base = base.rsplit('/').next().unwrap_or_default();
        let filename = format!(
            "{}_{base}",
            hex::encode(ring::digest::digest(&ring::digest::SHA256, url.as_bytes(),))
        );
        if let Some(known) = self.named(&filename).cloned() {
            return self.again_by_url(request, &caller, &wish, known, base, content);
        }
        let content = self.decoded(content, wish.encoding.as_deref())?;
        let (stored, known) = self.store(&caller, &wish, filename, content)?;
        self.spend_one_shot(&caller);
        Ok(self.accepted(request, &stored, base, known))
    }

    /// The name is taken: nothing changes unless overwriting is asked for, and may be.
    fn again_by_url(
        &mut self,
        request: &Request,
        caller: &Token,
        wish: &Wish,
        known: Stored,
        base: &str,
        content: Spooled,
    ) -> Result<Answer, Answer> {
        let overwrites = wish.overwrite && caller.has(self.profile, "security.overwrite");
        if !overwrites {
            let mut answer = self.accepted(request, &known, base, true);
            if let Content::Json(body) = &mut answer.body {
                body["status"] = "Not-Changed".into();
            }
            return Ok(answer);
        }
        if wish.password.is_none() {
            return Err(Answer::html(500));
        }
        // The bytes change; hash and type stay those of the first content.
        let size = content.size;
        content.store(&self.content(&known.sha256)).map_err(Refusal::from)?;
        if let Some(file) = self.files.get_mut(&known.id) {
            file.size = size;
            file.accepts += 1;
        }
        Ok(self.accepted(request, &known, base, false))
    }
}
