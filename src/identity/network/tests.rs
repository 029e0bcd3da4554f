//! What the documents say, and when a small server over plain HTTP is asked for them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    sync::Mutex as Shared,
};

use serde_json::json;
use tempfile::TempDir;

use super::*;

const DOCUMENT: &str = r#"{ "success": true, "data": {
    "host": "in.solarnetwork.net", "port": 443, "forceTLS": true, "identityKey": "abc",
    "networkServiceURLs": { "solaruser": "https://data.solarnetwork.net/solaruser",
        "solarin-mqtt": "mqtts://queue.solarnetwork.net:8883", "odd": 7, "worse": "mqtts://a b" } } }"#;

#[test]
fn the_document_names_services_and_nothing_that_is_no_address() {
    let read = document(DOCUMENT.as_bytes()).expect("the document");
    assert_eq!(read.services.len(), 2);
    assert_eq!(read.services[MQTT], "mqtts://queue.solarnetwork.net:8883");
    assert_eq!(read.identity_key.as_deref(), Some("abc"));
    let bare = r#"{"networkServiceURLs":{"solaruser":"https://x/solaruser"}}"#;
    assert_eq!(document(bare.as_bytes()).expect("without envelope").services.len(), 1);
    assert_eq!(document(br#"{"success":false,"data":{"networkServiceURLs":{}}}"#), None);
    assert_eq!(document(b"<html>"), None);
    let small = br#"{"success":true,"data":{"host":"in.example","identityKey":"abc"}}"#;
    let small = document(small).expect("without services");
    assert!(small.services.is_empty() && small.identity_key.as_deref() == Some("abc"));
    assert_eq!(document(br#"{"success":true,"data":{}}"#), None);
}

#[test]
fn the_public_configuration_adds_the_live_feed() {
    let text = r#"{"success":true,"data":{"serviceUrls":{"solarflux":"mqtts://influx.solarnetwork.net:8884"}}}"#;
    let services = public_config(text.as_bytes()).expect("services");
    assert_eq!(services[FLUX], "mqtts://influx.solarnetwork.net:8884");
}

/// Answers `identity.do` with this body while it has one, and with 503 otherwise; counts the requests.
struct Server {
    url: String,
    body: Arc<Shared<Option<String>>>,
    asked: Arc<Shared<usize>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/solarin", listener.local_addr().expect("an address"));
        let (body, asked) = (Arc::new(Shared::new(None::<String>)), Arc::new(Shared::new(0)));
        let (says, counts) = (body.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let lines = BufReader::new(stream.try_clone().expect("a clone")).lines();
                let ended = lines.map_while(Result::ok).find(String::is_empty);
                // A connection that closes without a request is none.
                if ended.is_none() {
                    continue;
                }
                *counts.lock().expect("no panic") += 1;
                let body = says.lock().expect("no panic").clone();
                let status = if body.is_some() { "200 OK" } else { "503 Busy" };
                let body = body.unwrap_or_default();
                let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: ");
                let answer = format!("{head}{}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).expect("answered");
            }
        });
        Self { url, body, asked }
    }

    fn says(&self, body: &str) {
        *self.body.lock().expect("no panic") = Some(body.to_owned());
    }

    fn names(&self, broker: &str) {
        self.says(&json!({ "networkServiceURLs": { MQTT: broker } }).to_string());
    }

    fn asked(&self) -> usize {
        *self.asked.lock().expect("no panic")
    }

    /// As after a start of the daemon.
    fn network(&self, dir: &TempDir) -> Network {
        let clock = Clock::untold();
        let net = Net::new(None, Duration::from_secs(5), clock.clone()).expect("a client");
        Network::new(&self.url, net, clock, dir.path())
    }
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// What was learnt so many hours ago.
fn keep(dir: &TempDir, from: &str, hours: i64) {
    let fetched = Clock::untold().believed_now() - TimeDelta::hours(hours);
    let known = json!({ "from": from, "fetched": fetched, "services": { MQTT: "mqtts://kept" } });
    std::fs::write(dir.path().join("network.json"), known.to_string()).expect("written");
}

#[tokio::test]
async fn what_was_learnt_is_used_for_a_day_across_restarts() {
    let (server, dir) = (Server::start(), dir());
    server.names("mqtts://told");
    let network = server.network(&dir);
    for _ in 0..3 {
        assert_eq!(network.service_url(MQTT).await.as_deref(), Some("mqtts://told"));
    }
    assert_eq!(network.service_url(FLUX).await, None, "it does not say");
    let restarted = server.network(&dir);
    assert_eq!(restarted.service_url(MQTT).await.as_deref(), Some("mqtts://told"));
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn after_a_day_it_is_asked_again_and_what_is_old_is_used_while_nobody_answers_well() {
    // As old as that, or of a time that has not come.
    for hours in [25, -1] {
        let (server, dir) = (Server::start(), dir());
        keep(&dir, &server.url, hours);
        let network = server.network(&dir);
        assert_eq!(network.service_url(MQTT).await.as_deref(), Some("mqtts://kept"));
        assert_eq!(network.service_url(MQTT).await.as_deref(), Some("mqtts://kept"));
        assert_eq!(server.asked(), 1, "not again within a minute");
        for garbage in ["<html>", r#"{"success":false}"#, "[]"] {
            server.says(garbage);
            let url = server.network(&dir).service_url(MQTT).await;
            assert_eq!(url.as_deref(), Some("mqtts://kept"), "{garbage}");
        }
        server.names("mqtts://told");
        let url = server.network(&dir).service_url(MQTT).await;
        assert_eq!(url.as_deref(), Some("mqtts://told"));
    }
}

#[tokio::test]
async fn what_another_server_said_or_nobody_can_read_is_not_used() {
    let (server, dir) = (Server::start(), dir());
    keep(&dir, "https://in.example.com", 0);
    assert_eq!(server.network(&dir).service_url(MQTT).await, None);
    std::fs::write(dir.path().join("network.json"), "hunter2").expect("written");
    assert_eq!(server.network(&dir).service_url(MQTT).await, None);
    server.names("mqtts://told");
    assert_eq!(server.network(&dir).service_url(MQTT).await.as_deref(), Some("mqtts://told"));
}
