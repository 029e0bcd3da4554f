//! What the vectors do not show: misbehaviour, uploads of any size, uploads by address, HTTPS, what is told.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;
use solarnet_sim::{Act, FileRepository, FileToken, Misbehaviour, Profile};

use crate::client::{Answer, request};

const UPLOAD: &str = "/repository/file/upload?fileName=picture.bin";

fn repository() -> (FileRepository, String) {
    let server = FileRepository::start(Profile::V2A).unwrap();
    let token = server.add_token(FileToken::with_roles(&["upload.all"]));
    (server, token)
}

fn send(
    server: &FileRepository,
    token: &str,
    method: &str,
    target: &str,
    body: &[u8],
) -> std::io::Result<Answer> {
    let headers = [
        ("host", server.address().to_string()),
        ("user-agent", "tests".to_owned()),
        ("token", token.to_owned()),
        ("content-type", "application/octet-stream".to_owned()),
    ];
    request(server.address(), method, target, &headers, body)
}

#[test]
fn a_file_of_any_size_comes_back_as_it_went() {
    let (server, token) = repository();
    let content: Vec<u8> =
        (0..3_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let answer = send(&server, &token, "POST", UPLOAD, &content).unwrap().json();
    let name = answer["filename"].as_str().unwrap().to_owned();
    let file = server.files().remove(0);
    assert_eq!((file.size, file.accepts, &file.filename), (3_000_001, 1, &name));
    assert_eq!(server.content(&name).as_ref(), Some(&content));
    let path = format!("/repository/file/{name}");
    let back = send(&server, &token, "GET", &path, &[]).unwrap();
    assert!(back.body == content);
    assert_eq!(back.header("etag").map(|tag| &tag[..64]), Some(file.sha256.as_str()));

    // Again, under another name: one content.
    let again = send(&server, &token, "POST", UPLOAD, &content).unwrap();
    assert_eq!((again.status, server.files()[0].accepts), (202, 2));
    assert_eq!(server.files().len(), 1);
}

#[test]
fn uploads_are_slowed_cut_and_refused_on_demand() {
    let (server, token) = repository();
    let content = vec![7; 500_000];
    let upload = |content: &[u8]| send(&server, &token, "POST", UPLOAD, content);

    server.misbehave(Misbehaviour::new("/repository", Act::CutUpload { after: 1000 }).times(1));
    assert!(upload(&content).is_err());
    assert_eq!(server.requests()[0].status, None);
    for (act, status) in [
        (Act::Status { status: 503 }, 503),
        (Act::ProxyPage { status: 413 }, 413),
        (Act::ProxyPage { status: 200 }, 200),
    ] {
        server.misbehave(Misbehaviour::new("", act).times(1));
        let answer = upload(&content).unwrap();
        assert_eq!(answer.status, status);
        assert!(answer.header("content-type").unwrap().starts_with("text/html"));
    }
    assert!(server.files().is_empty(), "nothing of it was carried out");

    server.misbehave(Misbehaviour::new("", Act::CutAfter).times(1));
    assert!(upload(&content).is_err());
    assert_eq!(server.files().len(), 1, "carried out, and not told");
    server.misbehave(Misbehaviour::new("", Act::SlowUpload { ms: 60 }).times(1));
    let begin = Instant::now();
    assert_eq!(upload(&content).unwrap().status, 202);
    assert!(begin.elapsed() >= Duration::from_millis(60));
}

#[test]
fn uploads_by_address_fetch_store_and_know_what_they_have() {
    let (server, token) = repository();
    let source = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/log/today.txt", source.local_addr().unwrap());
    let answers = [
        "HTTP/1.0 200 OK\r\n\r\nhello world",
        "HTTP/1.0 200 OK\r\n\r\nother words",
        "HTTP/1.0 404 Not Found\r\n\r\n",
    ];
    let serving = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = source.accept().unwrap();
            let mut head = [0; 1024];
            assert!(std::io::Read::read(&mut stream, &mut head).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let add = |url: &str| {
        let body = json!({ "fileUrl": url, "public": true }).to_string();
        send(&server, &token, "POST", "/repository/file/add-by-url", body.as_bytes()).unwrap()
    };
    let stored = add(&url);
    let name = stored.json()["filename"].as_str().unwrap().to_owned();
    assert_eq!((stored.status, name.len()), (200, 64 + "_today.txt".len()));
    assert_eq!(server.content(&name).unwrap(), b"hello world");
    let again = add(&url);
    assert_eq!((again.status, &again.json()["status"]), (202, &json!("Not-Changed")));
    assert_eq!(add(&format!("{url}.gone")).status, 500);
    serving.join().unwrap();
}

#[test]
fn what_is_remembered_of_requests_names_no_token() {
    let (server, token) = repository();
    let target = format!("{UPLOAD}&_token={token}&password=abc");
    assert_eq!(send(&server, &token, "POST", &target, &[1; 20]).unwrap().status, 200);
    let seen = server.requests().remove(0);
    assert_eq!(seen.query, "fileName=picture.bin&_token=***&password=***");
    assert!(!format!("{seen:?}{server:?}").contains(&token));
}

#[test]
fn a_token_is_nobody_after_its_last_second_and_for_other_addresses() {
    let (server, _) = repository();
    let roles = FileToken::with_roles(&["upload.all"]);
    let now = chrono::Utc::now();
    let short = server
        .add_token(FileToken { expires: Some(now + Duration::from_secs(60)), ..roles.clone() });
    let bound =
        server.add_token(FileToken { ip_addresses: vec!["192.0.2.1".into()], ..roles.clone() });
    let other = server.add_token(FileToken { user_agents: vec!["Tests".into()], ..roles });
    let upload =
        |token: &str| send(&server, token, "POST", UPLOAD, b"enough bytes").unwrap().status;
    assert_eq!(upload(&short), 200);
    assert_eq!((upload(&bound), upload(&other)), (403, 403));
    server.set_clock_offset(chrono::TimeDelta::seconds(62));
    assert_eq!(upload(&short), 403);
    assert!(server.revoke_token(&short) && !server.has_token(&short));
}
