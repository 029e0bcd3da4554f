//! A client that writes its requests byte by byte and signs them as the reference says, for one fixed shape:
//! `host` and `x-sn-date` signed, `content-type` too when there is a body, query sent in canonical form.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use chrono::{DateTime, Utc};
use ring::{digest, hmac};
use serde_json::Value;

/// Signs with one token.
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) secret: String,
    /// The date that requests carry; absent: now.
    pub(crate) date: Option<DateTime<Utc>>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&self.body));
        })
    }

    /// The envelope's data of a success.
    pub(crate) fn data(&self) -> Value {
        let json = self.json();
        assert_eq!((self.status, &json["success"]), (200, &Value::Bool(true)), "{json}");
        json["data"].clone()
    }

    /// Status and message of a refusal.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let json = self.json();
        assert_eq!(json["success"], false, "{json}");
        (self.status, json["message"].as_str().unwrap_or_default().to_owned())
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr, token: &str, secret: &str) -> Self {
        Self { address, token: token.to_owned(), secret: secret.to_owned(), date: None }
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.send("GET", target, None).unwrap()
    }

    pub(crate) fn post(&self, target: &str) -> Answer {
        self.send("POST", target, None).unwrap()
    }

    pub(crate) fn post_json(&self, target: &str, body: &Value) -> Answer {
        self.send("POST", target, Some(("application/json", body.to_string().as_bytes()))).unwrap()
    }

    /// One signed request on a connection of its own.
    pub(crate) fn send(
        &self,
        method: &str,
        target: &str,
        body: Option<(&str, &[u8])>,
    ) -> io::Result<Answer> {
        let date = self.date.unwrap_or_else(Utc::now);
        let date_text = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers = vec![("host", self.address.to_string()), ("x-sn-date", date_text)];
        let is_form = body.is_some_and(|(kind, _)| kind == "application/x-www-form-urlencoded");
        let (mut query, mut hashed) = (query.to_owned(), &[][..]);
        if let Some((kind, bytes)) = body {
            headers.insert(0, ("content-type", kind.to_owned()));
            match is_form {
                true => query = String::from_utf8(bytes.to_vec()).unwrap(),
                false => hashed = bytes,
            }
        }
        let names = headers.iter().map(|header| header.0).collect::<Vec<_>>().join(";");
        let lines: String = headers.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
        let canonical = format!("{method}\n{path}\n{query}\n{lines}{names}\n{}", sha256(hashed));
        let message = format!(
            "SNWS2-HMAC-SHA256\n{}\n{}",
            date.format("%Y%m%dT%H%M%SZ"),
            sha256(canonical.as_bytes())
        );
        let day = date.format("%Y%m%d").to_string();
        let key = mac(&mac(format!("SNWS2{}", self.secret).as_bytes(), &day), "snws2_request");
        let authorization = format!(
            "SNWS2 Credential={},SignedHeaders={names},Signature={}",
            self.token,
            hex::encode(mac(&key, &message))
        );
        headers.push(("authorization", authorization));
        request(self.address, method, target, &headers, body.map_or(&[], |body| body.1))
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn mac(key: &[u8], message: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
}

/// One request without credentials.
pub(crate) fn plain(address: SocketAddr, method: &str, target: &str, body: &str) -> Answer {
    request(address, method, target, &[("host", address.to_string())], body.as_bytes()).unwrap()
}

/// Writes a request and reads its answer to the end that its length announces.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> io::Result<Answer> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    exchange(stream, method, target, headers, body)
}

/// The same over a connection that there is.
pub(crate) fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    target: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut head = format!("{method} {target} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(&[head.as_bytes(), body].concat())?;

    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|header| header.0 == "content-length");
    let mut body = vec![0; length.map_or(0, |header| header.1.parse().unwrap())];
    if method != "HEAD" {
        reader.read_exact(&mut body)?;
    }
    Ok(Answer { status, headers, body })
}
