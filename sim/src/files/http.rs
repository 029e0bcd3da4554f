//! The HTTP side of File Repository: bodies go to disk as they come, answers are written or spoiled.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use hyper::body::Incoming as HyperBody;
use hyper::{Request as HyperRequest, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{self, Answer, Content};
use super::by_url;
use super::profile::Profile;
use super::repository::{Shared, lock};
use super::request::{self, Request};
use super::spool::{Spooled, Writer};
use crate::auth::date;
use crate::ledger::Seen;
use crate::misbehave::{Act, Misbehaviour};
use crate::reading::Reading;
use crate::reply::{Cut, Parts, Reply, reply};

/// Serves one connection until it ends.
pub(super) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: IpAddr,
    repository: Shared,
) {
    let service = hyper::service::service_fn(|request| respond(&repository, peer, request));
    let mut http = hyper::server::conn::http1::Builder::new();
    // The date is the server's, or missing on demand.
    http.auto_date_header(false);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    // An error is a client that left, or a cut that was asked for.
    drop(connection.await);
}

async fn respond(
    repository: &Shared,
    peer: IpAddr,
    request: HyperRequest<HyperBody>,
) -> Result<Response<Reply>, Cut> {
    let (head, mut body) = request.into_parts();
    let method = head.method.as_str().to_owned();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| {
            let text = value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
            (name.as_str().to_owned(), text)
        })
        .collect();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let own = path.starts_with("/sim/");
    let (path, query) = (path.to_owned(), query.to_owned());
    let switch = match own {
        true => None,
        false => lock(repository).switches.take(&method, &path),
    };
    let act = switch.as_ref().map(|switch| &switch.act);
    let remember = |status: Option<u16>| {
        if own {
            return;
        }
        let mut repository = lock(repository);
        let time = repository.clock.now();
        // A token's ID is all that there is to it, so it is not told.
        let (method, path, query) = (method.clone(), path.clone(), masked(&query));
        repository.remember(Seen { time, method, path, query, token: None, node: None, status });
    };
    let cut = |_| {
        remember(None);
        Cut
    };
    if act == Some(&Act::CutBefore) {
        return Err(cut(Cut));
    }
    let body = spool(repository, &mut body, Reading::of(act)).await.map_err(cut)?;
    let parameters = request::pairs(&query);
    let request = Request { method: method.clone(), target, headers, peer, parameters, body };
    let answer = match own {
        true => own_call(repository, &request),
        false => process(repository, request, switch.as_ref()).await,
    };
    match act {
        Some(Act::Slow { ms }) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        Some(Act::CutAfter) => return Err(cut(Cut)),
        _ => {}
    }
    remember(Some(answer.status));
    let (profile, clock) = {
        let repository = lock(repository);
        (repository.profile, repository.clock)
    };
    let mut now = clock.now();
    if let Some(Act::WrongDate { offset_ms }) = act {
        now += TimeDelta::milliseconds(*offset_ms);
    }
    let mut parts = written(answer, profile);
    if act != Some(&Act::NoDate) {
        parts.headers.push(("date", date::format(now)));
    }
    if act == Some(&Act::Garbage) {
        parts.body = Bytes::from_static(b"{\"status\":\"O");
    }
    Ok(reply(parts, act))
}

/// A query without the secrets in it; that there were some can still be seen.
fn masked(query: &str) -> String {
    let shown = |piece: &str| match piece.split_once('=') {
        Some((name @ ("_token" | "password"), _)) => format!("{name}=***"),
        _ => piece.to_owned(),
    };
    query.split('&').map(shown).collect::<Vec<_>>().join("&")
}

async fn spool(
    repository: &Shared,
    body: &mut HyperBody,
    mut reading: Reading,
) -> Result<Spooled, Cut> {
    let writer = Writer::new(lock(repository).folder());
    // Without a disk there is no server.
    let mut writer = writer.map_err(|_| Cut)?;
    while let Some(data) = reading.next(body).await? {
        writer.write(&data).map_err(|_| Cut)?;
    }
    Ok(writer.finish())
}

/// The answer, or what the switch puts in its place: a page, whatever the act's own words are.
async fn process(repository: &Shared, request: Request, switch: Option<&Misbehaviour>) -> Answer {
    let replaced = switch.filter(|switch| switch.act.replaces_answer());
    if replaced.is_none_or(|switch| switch.processed) {
        let answer = answered(repository, request).await;
        if replaced.is_none() {
            return answer;
        }
    }
    match replaced.map(|switch| &switch.act) {
        Some(Act::Status { status } | Act::ProxyPage { status }) => Answer::html(*status),
        Some(Act::TooMany { .. }) => Answer::html(429),
        Some(Act::SuccessWithoutData | Act::SuccessNonsense | Act::Garbage) => {
            Answer::json(200, json!({}))
        }
        _ => Answer::html(500),
    }
}

async fn answered(repository: &Shared, request: Request) -> Answer {
    let is_by_url = request.method == "POST"
        && matches!(&request.segments()[..], [first, _, last] if first == "repository" && last == "add-by-url");
    if !is_by_url {
        return lock(repository).answer(request);
    }
    let (begun, folder) = {
        let repository = lock(repository);
        (repository.begin_add_by_url(&request), repository.folder().to_owned())
    };
    match begun {
        Err(refusal) => refusal,
        Ok(waiting) => {
            let fetched = by_url::fetch(&waiting.url, &folder).await;
            let ended = lock(repository).end_add_by_url(&request, waiting, fetched);
            ended.unwrap_or_else(|refusal| refusal)
        }
    }
}

fn written(answer: Answer, profile: Profile) -> Parts {
    let (kind, body, file) = match answer.body {
        Content::Json(value) => {
            (Some("application/json"), answer::write(&value, profile).into(), None)
        }
        Content::Html => {
            (Some("text/html; charset=UTF-8"), answer::page(answer.status).into(), None)
        }
        Content::Empty => (None, Bytes::new(), None),
        Content::File { file, length } => (None, Bytes::new(), Some((file, length))),
    };
    let mut headers = answer.headers;
    headers.extend(kind.map(|kind| ("content-type", kind.to_owned())));
    Parts { status: answer.status, headers, body, file }
}

/// The simulator's own calls on this port: `/sim/files`, `/sim/requests`, `/sim/misbehave`.
fn own_call(repository: &Shared, request: &Request) -> Answer {
    let mut repository = lock(repository);
    let body = || serde_json::from_slice::<Value>(&request.json());
    match (request.method.as_str(), request.path()) {
        ("GET", "/sim/files") => {
            let files = repository.files.values().map(|file| json!(file.ledger_entry()));
            Answer::json(200, files.collect())
        }
        ("GET", "/sim/requests") => {
            Answer::json(200, repository.seen().map(Seen::to_json).collect())
        }
        ("GET", "/sim/misbehave") => {
            Answer::json(200, json!(repository.switches.list().collect::<Vec<_>>()))
        }
        ("DELETE", "/sim/misbehave") => {
            repository.switches.clear();
            Answer::json(200, json!([]))
        }
        ("POST", "/sim/misbehave") => {
            let read = body().map_err(|error| error.to_string()).and_then(|json| match json {
                Value::Array(list) => list.into_iter().map(Misbehaviour::read).collect(),
                one => Misbehaviour::read(one).map(|switch| vec![switch]),
            });
            let read: Result<Vec<Misbehaviour>, String> = read;
            match read {
                Err(error) => Answer::json(400, json!({ "error": error })),
                Ok(switches) => {
                    switches.into_iter().for_each(|switch| repository.switches.add(switch));
                    Answer::json(200, json!(repository.switches.list().collect::<Vec<_>>()))
                }
            }
        }
        _ => {
            let error = "no such call; the README lists them";
            Answer::json(404, json!({ "error": error }))
        }
    }
}
