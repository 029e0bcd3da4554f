//! The client against a small server over plain HTTP: what goes out, what is made of the answer, and what is
//! said apart.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use flate2::read::GzDecoder;
use rustls::{client::ResolvesClientCert, sign::CertifiedKey};
use serde_json::json;

use super::*;
use crate::domain::{InstructionState, Samples, Stamp};

/// Shows nothing.
#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// One request as it arrived.
#[derive(Debug, Clone)]
struct Asked {
    head: String,
    items: Vec<Value>,
}

/// A server that answers every batch as `answer` says, and remembers it.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start(answer: impl Fn(&[Value]) -> Value + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/solarin", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let (seen, answer) = (seen.clone(), answer.clone());
                std::thread::spawn(move || {
                    while let Some(request) = read(&mut stream) {
                        let body = answer(&request.items).to_string();
                        seen.lock().expect("no panic").push(request);
                        let length = body.len();
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                        stream.write_all((head + &body).as_bytes()).expect("answered");
                    }
                });
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }
}

fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    if head.contains("content-encoding: gzip") {
        let mut plain = Vec::new();
        GzDecoder::new(body.as_slice()).read_to_end(&mut plain).expect("gzip");
        body = plain;
    }
    Some(Asked { head, items: serde_json::from_slice(&body).expect("an array") })
}

/// The entries of a server that takes everything.
fn takes(items: &[Value]) -> Value {
    let entry = |item: &Value| match item.get("instructionId") {
        Some(id) => json!({ "id": id, "state": item["state"] }),
        None => json!({ "kind": "n", "sourceId": item["sourceId"], "created": item["created"] }),
    };
    json!({ "success": true, "data": { "datum": items.iter().map(entry).collect::<Vec<_>>() } })
}

fn fails() -> Value {
    json!({ "success": false, "message": "Internal error" })
}

fn client(url: &str) -> (SolarIn, mpsc::Receiver<(Instant, Value)>) {
    let solarnet = SolarNet {
        user_url: String::new(),
        query_url: String::new(),
        in_url: url.to_owned(),
        token: "site".parse().expect("a name"),
        sign_host: None,
        ca_file: None,
        requests_per_second: 1.0,
        timeout: Duration::from_secs(10),
    };
    let clock = Clock::open(tempfile::tempdir().expect("a folder").path()).expect("a clock");
    let (inbox, instructions) = mpsc::channel(2);
    let changed = watch::channel(0).1;
    let client = SolarIn::new(
        &solarnet,
        NodeId::try_from(123).expect("a node"),
        Arc::new(Nobody),
        changed,
        clock,
        inbox,
    );
    (client.expect("a client"), instructions)
}

fn datum(source: &str) -> Datum {
    Datum {
        source: source.parse().expect("a source"),
        stamp: Stamp::Wall { unix_ms: 0 },
        samples: Samples { instantaneous: vec![("watts".into(), 5.into())], ..Samples::default() },
    }
}

fn says(id: i64) -> Acknowledgement {
    let state = InstructionState::Completed;
    Acknowledgement { id: InstructionId(id), state, at: chrono::DateTime::UNIX_EPOCH, result: None }
}

#[tokio::test]
async fn a_batch_goes_out_compressed_and_only_what_was_said_counts_as_stored() {
    let server = Server::start(|items| {
        let mut answer = takes(items);
        answer["data"]["datum"][0]["sourceId"] = json!("/another");
        answer
    });
    let (solarin, _inbox) = client(&server.url);
    let (a, b) = (datum("/a"), datum("/b"));
    let items = [Item::Datum(&a, 1_718_141_949_500), Item::Datum(&b, 5), Item::Datum(&a, 6)];
    let exchanged = solarin.exchange(&items).await.expect("an answer");
    assert_eq!(exchanged.stored, HashSet::from([key(&b, 5), key(&a, 6)]));
    let [asked] = &server.asked()[..] else { panic!("one request") };
    assert!(asked.head.starts_with("post /solarin/bulkcollector.do http/1.1"), "{}", asked.head);
    assert!(
        asked.head.contains("content-type: application/json;charset=utf-8\r\n"),
        "{}",
        asked.head
    );
    assert!(asked.head.contains("content-encoding: gzip\r\n"), "{}", asked.head);
    assert_eq!(asked.items[0]["created"], "2024-06-11 21:39:09.5Z");
}

#[tokio::test]
async fn a_long_body_is_compressed_beside_the_runtime() {
    let is_ready_at_once = |length: usize| {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let request = request("http://in".to_owned(), "x".repeat(length));
        std::pin::pin!(request).poll(&mut context).is_ready()
    };
    assert!(is_ready_at_once(1000));
    assert!(!is_ready_at_once(8 << 20));
}

#[tokio::test]
async fn nothing_to_say_is_a_poll_and_instructions_reach_the_inbox_while_it_has_room() {
    let server = Server::start(|_| {
        json!({
            "success": true, "data": { "instructions": [{ "id": 7 }] }
        })
    });
    let (solarin, mut inbox) = client(&server.url);
    for _ in 0..4 {
        let exchanged = solarin.exchange(&[]).await.expect("an answer");
        assert_eq!(exchanged.instructions, json!([{ "id": 7 }]));
    }
    assert_eq!(server.asked()[0].items, [] as [Value; 0]);
    assert_eq!(inbox.recv().await.map(|(_, message)| message), Some(json!([{ "id": 7 }])));
    assert_eq!(inbox.len(), 1, "the others are offered again");
}

#[tokio::test]
async fn of_a_long_list_of_instructions_no_more_than_is_read_waits_in_the_inbox() {
    let server = Server::start(|_| {
        let list: Value = (1..=1000).map(|id| json!({ "id": id })).collect();
        json!({ "success": true, "data": { "instructions": list } })
    });
    let (solarin, mut inbox) = client(&server.url);
    solarin.exchange(&[]).await.expect("an answer");
    assert_eq!(inbox.recv().await.and_then(|(_, list)| Some(list.as_array()?.len())), Some(101));
}

#[tokio::test]
async fn acknowledgements_go_along_with_any_exchange_until_they_are_heard() {
    let server = Server::start(takes);
    let (solarin, _inbox) = client(&server.url);
    solarin.with_outbox(|outbox| outbox.put(says(1)));
    let a = datum("/a");
    let exchanged = solarin.exchange(&[Item::Datum(&a, 5)]).await.expect("an answer");
    assert_eq!(exchanged.acknowledged, [InstructionId(1)]);
    assert_eq!(exchanged.stored.len(), 1);
    solarin.exchange(&[Item::Datum(&a, 6)]).await.expect("an answer");
    assert_eq!(server.asked()[1].items.len(), 1, "it was heard");
}

#[tokio::test]
async fn an_acknowledgement_that_fails_its_batch_is_said_alone_and_holds_up_nothing() {
    let bad = |item: &Value| item["instructionId"] == 2;
    let server =
        Server::start(move |items| if items.iter().any(bad) { fails() } else { takes(items) });
    let (solarin, _inbox) = client(&server.url);
    solarin.with_outbox(|outbox| (1..=3).for_each(|id| outbox.put(says(id))));
    let a = datum("/a");
    let exchanged = solarin.exchange(&[Item::Datum(&a, 5)]).await.expect("an answer");
    assert_eq!(exchanged.stored, HashSet::from([key(&a, 5)]));
    assert_eq!(exchanged.acknowledged, [InstructionId(1), InstructionId(3)]);
    let sizes: Vec<usize> = server.asked().iter().map(|asked| asked.items.len()).collect();
    assert_eq!(sizes, [4, 1, 1, 1, 1]);
    solarin.exchange(&[]).await.expect("an answer");
    assert_eq!(server.asked()[5].items.len(), 0, "it is its owner's again");
    let error = solarin.exchange(&[Item::Ack(&says(2))]).await.expect_err("its owner hears of it");
    assert_eq!(error.cause, Cause::Internal);
}

#[tokio::test]
async fn a_datum_that_fails_its_batch_holds_up_no_acknowledgement() {
    let bad = |item: &Value| item["sourceId"] == "/bad";
    let server =
        Server::start(move |items| if items.iter().any(bad) { fails() } else { takes(items) });
    let (solarin, _inbox) = client(&server.url);
    let bad = datum("/bad");
    let items = [Item::Datum(&bad, 5), Item::Ack(&says(1))];
    let error = solarin.exchange(&items).await.expect_err("the datum");
    assert_eq!(error.next(), Next::Content);
    assert!(!solarin.with_outbox(|outbox| outbox.has(InstructionId(1))), "it was heard");
}

/// Two exchanges beside each other, over two connections, to a server that is slow with the first.
#[tokio::test]
async fn a_later_word_waits_until_an_earlier_one_is_over() {
    let server = Server::start(|items| {
        if items.iter().any(|item| item["state"] == "Received") {
            std::thread::sleep(Duration::from_millis(400));
        }
        takes(items)
    });
    let (solarin, _inbox) = client(&server.url);
    let begun = Acknowledgement { state: InstructionState::Received, ..says(1) };
    solarin.with_outbox(|outbox| outbox.put(begun));
    let (a, b, end) = (datum("/a"), datum("/b"), says(1));
    let (upload, another, tell) = ([Item::Datum(&a, 5)], [Item::Datum(&b, 5)], [Item::Ack(&end)]);
    let under_way = || solarin.with_outbox(|outbox| outbox.is_being_said(InstructionId(1)));
    let beside = async {
        while !under_way() {
            tokio::task::yield_now().await;
        }
        tokio::join!(solarin.exchange(&another), solarin.exchange(&tell))
    };
    let (first, (left_out, last)) = tokio::join!(solarin.exchange(&upload), beside);
    assert_eq!(first.expect("an answer").acknowledged, [InstructionId(1)]);
    assert_eq!(left_out.expect("an answer").acknowledged, []);
    assert_eq!(last.expect("an answer").acknowledged, [InstructionId(1)]);
    let asked = server.asked();
    let states: Vec<_> =
        asked.iter().flat_map(|asked| &asked.items).filter_map(|item| item.get("state")).collect();
    assert_eq!(states, ["Received", "Completed"]);
    assert!(!under_way());
}

#[tokio::test]
async fn without_an_answer_acknowledgements_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let (solarin, _inbox) = client(&url);
    let error = solarin.exchange(&[Item::Ack(&says(1))]).await.expect_err("nobody is there");
    assert_eq!(error.cause, Cause::Unreachable);
    assert!(solarin.with_outbox(|outbox| outbox.has(InstructionId(1))));
}

#[tokio::test]
async fn without_a_certificate_nobody_is_asked_over_tls() {
    let (solarin, _inbox) = client("https://127.0.0.1:9/solarin");
    let error = solarin.exchange(&[]).await.expect_err("no certificate");
    assert_eq!((error.cause, error.next()), (Cause::Identity, Next::Stop));
    assert!(error.to_string().contains("there is no certificate"), "{error}");
}
