//! The HTTP/1.1 side: reads requests whole, hands them to the world, sends the answers – or spoils them as
//! the switches say.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use hyper::body::Incoming as HyperBody;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::admin;
use crate::answer::{Answer, Refusal};
use crate::auth::date;
use crate::ledger::Seen;
use crate::misbehave::{Act, Misbehaviour};
use crate::reading::Reading;
use crate::reply::{Cut, Parts, Reply};
use crate::request::Incoming;
use crate::server::Orders;
use crate::solarin::verify::Peer;
use crate::world::World;

/// The world, shared between the server's thread and its handles.
pub(crate) type Shared = Arc<Mutex<World>>;

/// Locks the world. Poison is of no matter: a panic elsewhere fails its own test.
pub(crate) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Behind which door a connection stands: who calls, and who answers.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    /// SolarUser and SolarQuery; tokens sign each request.
    Tokens,
    /// SolarIn; the connection has a certificate, or none.
    Certificates(Peer),
}

/// Serves one connection until it ends.
pub(crate) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    world: Shared,
    orders: Orders,
    door: Door,
) {
    let service = hyper::service::service_fn(|request| respond(&world, &orders, &door, request));
    let mut http = hyper::server::conn::http1::Builder::new();
    // The date is the simulator's, or missing on demand.
    http.auto_date_header(false);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    // An error is a client that left, or a cut that was asked for.
    drop(connection.await);
}

async fn respond(
    world: &Shared,
    orders: &Orders,
    door: &Door,
    request: Request<HyperBody>,
) -> Result<Response<Reply>, Cut> {
    let (head, body) = request.into_parts();
    let mut incoming = Incoming {
        method: head.method.as_str().to_owned(),
        target: head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| {
                let text = value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
                (name.as_str().to_owned(), text)
            })
            .collect(),
        ..Incoming::default()
    };
    if incoming.context() == "/sim" {
        read_body(&mut incoming, body, Reading::default()).await?;
        return Ok(reply(admin::answer(world, orders, &incoming), None, None));
    }

    let switch = lock(world).switches.take(&incoming.method, incoming.path());
    let act = switch.as_ref().map(|switch| &switch.act);
    let cut = |incoming: &Incoming| {
        remember(&mut lock(world), door, incoming, None);
        Err(Cut)
    };
    if act == Some(&Act::CutBefore) {
        return cut(&incoming);
    }
    let reading = Reading::of(act);
    if read_body(&mut incoming, body, reading).await.is_err() {
        return cut(&incoming);
    }
    let answer = {
        // Nobody sees what a request brought about before the request itself.
        let mut world = lock(world);
        let answer = process(&mut world, door, &incoming, switch.as_ref());
        let status = (act != Some(&Act::CutAfter)).then_some(answer.status);
        remember(&mut world, door, &incoming, status);
        answer
    };
    match act {
        Some(Act::Slow { ms }) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        Some(Act::CutAfter) => return Err(Cut),
        _ => {}
    }
    let mut now = lock(world).clock.now();
    if let Some(Act::WrongDate { offset_ms }) = act {
        now += TimeDelta::milliseconds(*offset_ms);
    }
    let date = (act != Some(&Act::NoDate)).then(|| date::format(now));
    Ok(reply(answer, date, act))
}

async fn read_body(
    incoming: &mut Incoming,
    mut body: HyperBody,
    mut reading: Reading,
) -> Result<(), Cut> {
    let mut bytes = Vec::new();
    while let Some(data) = reading.next(&mut body).await? {
        if !incoming.too_large {
            bytes.extend_from_slice(&data);
            incoming.too_large = bytes.len() > incoming.body_limit();
        }
    }
    if !incoming.too_large {
        incoming.body = bytes.into();
    }
    Ok(())
}

/// The answer, or what the switch puts in its place.
fn process(
    world: &mut World,
    door: &Door,
    incoming: &Incoming,
    switch: Option<&Misbehaviour>,
) -> Answer {
    let answer = |world: &mut World, act: Option<&Act>| match door {
        Door::Tokens => world.answer(incoming, act),
        Door::Certificates(peer) => world.answer_node(incoming, peer, act),
    };
    let Some(switch) = switch.filter(|switch| switch.act.replaces_answer()) else {
        return answer(world, switch.map(|switch| &switch.act));
    };
    if switch.processed {
        answer(world, None);
    }
    match &switch.act {
        Act::TooMany { retry_after_ms } => {
            let ms = i64::try_from(*retry_after_ms).unwrap_or(i64::MAX / 2);
            let retry_at = world.clock.now().timestamp_millis().saturating_add(ms);
            Answer::from(Refusal::too_many()).with_header("x-sn-rate-limit-retry-after", retry_at)
        }
        Act::Transient => Refusal::transient().into(),
        Act::Status { status } => Answer { status: *status, ..Refusal::internal().into() },
        Act::ProxyPage { status } => Answer::text(
            *status,
            "text/html",
            "<html><head><title>Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>",
        ),
        Act::SuccessFalse { message } => {
            Answer::json(200, &json!({ "success": false, "message": message }))
        }
        Act::SuccessWithoutData => Answer::success(),
        Act::SuccessNonsense => Answer::data(json!([[], "?", { "key": 1, "jobId": null }])),
        _ => Answer::text(200, "application/json", "{\"success\":true,\"data\":{\"jo"),
    }
}

fn remember(world: &mut World, door: &Door, incoming: &Incoming, status: Option<u16>) {
    let claimed = incoming.header("authorization").and_then(|text| {
        let (_, rest) = text.split_once("Credential=")?;
        rest.split(',').next()
    });
    let seen = Seen {
        time: world.clock.now(),
        method: incoming.method.clone(),
        path: incoming.path().to_owned(),
        query: incoming.target.split_once('?').map_or(String::new(), |(_, q)| q.to_owned()),
        token: claimed.map(str::to_owned),
        node: match door {
            Door::Tokens => None,
            Door::Certificates(peer) => peer.claimed(),
        },
        status,
    };
    world.remember(seen);
}

fn reply(answer: Answer, date: Option<String>, act: Option<&Act>) -> Response<Reply> {
    let mut headers = vec![("content-type", answer.content_type.to_owned())];
    headers.extend(date.map(|date| ("date", date)));
    headers.extend(answer.headers);
    crate::reply::reply(
        Parts { status: answer.status, headers, body: answer.body, file: None },
        act,
    )
}
