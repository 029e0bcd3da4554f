//! What SolarIn tells about itself and streams, how a certificate is renewed, and how a node begins.

use std::io::Read;

use chrono::{TimeDelta, Utc};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use solarnet_sim::{NodeCertificate, NodeIdentity};

use super::{BULK, Bench, Node};
use crate::NODE;
use crate::client::{Answer, plain, request};

const RENEW: &str = "/solarin/api/v1/sec/cert/renew";
const FORM: &str = "application/x-www-form-urlencoded";

#[test]
fn the_identity_document_comes_as_json_and_as_xml() {
    let bench = Bench::new();
    bench.sim.set_network_url("solarin-mqtt", "mqtts://127.0.0.1:8883");
    bench.sim.set_service_url("solarflux", "mqtts://127.0.0.1:8884");
    let data = bench.node.get("/solarin/identity.do").data();
    assert_eq!((&data["host"], &data["forceTLS"]), (&json!("127.0.0.1"), &json!(true)));
    assert_eq!(data["port"], bench.solarin.address().port());
    assert_eq!(data["networkServiceURLs"]["solaruser"], bench.sim.user_url());
    assert_eq!(data["networkServiceURLs"]["solarin-mqtt"], "mqtts://127.0.0.1:8883");

    let answer =
        bench.node.send("GET", "/solarin/identity.do", &[("accept", "text/xml")], b"").unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    let entry = r#"<entry key="solarin-mqtt"><value type="String" value="mqtts://127.0.0.1:8883"/></entry>"#;
    assert!(text.contains(entry) && text.contains(" forceTLS=\"true\""), "{text}");

    for context in ["solaruser", "solarquery"] {
        let path = format!("/{context}/api/v1/pub/config");
        let data = plain(bench.sim.address(), "GET", &path, "").data();
        assert_eq!(data["serviceUrls"]["solarflux"], "mqtts://127.0.0.1:8884");
    }
}

#[test]
fn a_stream_is_told_to_its_node_and_its_names_never_change_their_order() {
    let bench = Bench::of_two();
    bench.post(r#"[{"created":1,"sourceId":"/m/1","i":{"w":1},"s":{"x":1}}]"#);
    bench.post(r#"[{"created":2,"sourceId":"/m/1","i":{"a":1,"w":1}}]"#);
    let path = "/solarin/api/v1/sec/datum/meta/123/stream?sourceId=%2Fm%2F1&kind=Node";
    let data = bench.node.get(path).data();
    assert_eq!((&data["i"], &data["s"]), (&json!(["w", "a"]), &json!(["x"])));
    assert_eq!(data["streamId"], bench.sim.stream(NODE, "/m/1").unwrap().id);
    assert_eq!((&data["kind"], &data["objectId"]), (&json!("n"), &json!(NODE)));
    for (path, status) in [
        (path.replace("123", "124"), 403),
        (path.replace("1&", "2&"), 403),
        (path.replace("sourceId", "source"), 422),
        (path.replace("Node", "node"), 422),
    ] {
        assert_eq!(bench.node.get(&path).status, status, "{path}");
    }
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Posts a form with the store of a node.
fn renew(bench: &Bench, caller: &NodeIdentity, store: &[u8], password: &str) -> Answer {
    let node = Node::new(&bench.solarin, &bench.authority, Some(caller));
    let encoded = base64(store);
    let form = format!("keystore={}&password={}", escaped(&encoded), escaped(password));
    node.post(RENEW, FORM, form.as_bytes()).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    text(&["base64", "-A"], bytes)
}

fn text(arguments: &[&str], input: &[u8]) -> String {
    String::from_utf8(openssl(arguments, input)).unwrap()
}

/// What the command makes of its input.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the openssl command (package openssl)");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

/// The three days before its end that make a certificate fit to be renewed.
fn ending(bench: &Bench, days: i64) -> NodeIdentity {
    let now = Utc::now();
    let wanted =
        NodeCertificate::between(NODE, now - TimeDelta::days(600), now + TimeDelta::days(days));
    bench.authority.issue_node(&wanted).unwrap()
}

#[test]
fn a_certificate_is_renewed_for_its_own_key_and_delivered_by_an_instruction() {
    let bench = Bench::new();
    let mine = ending(&bench, 60);
    bench.sim.set_certificate_life(TimeDelta::days(9));
    assert_eq!(renew(&bench, &mine, &mine.pkcs12("p w").unwrap(), "p w").data(), Value::Null);
    let node = Node::new(&bench.solarin, &bench.authority, Some(&mine));
    let answer = node.post(BULK, "application/json", b"[]").unwrap().data();
    let instruction = &answer["instructions"][0];
    assert_eq!(instruction["topic"], "RenewCertificate");
    let pieces: Vec<&str> = instruction["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            assert_eq!(one["name"], "Certificate");
            one["value"].as_str().unwrap()
        })
        .collect();
    assert!(pieces.len() > 3 && pieces.iter().all(|piece| piece.len() <= 256));
    let pem = pieces.concat();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE CHAIN-----\n"), "{pem}");
    // A reader that is not ours: the first certificate is for the key that there was.
    let bare = pem.replace("CERTIFICATE CHAIN", "PKCS7");
    let chain = text(&["pkcs7", "-print_certs"], bare.as_bytes());
    assert_eq!(chain.matches("-----BEGIN CERTIFICATE-----").count(), 2);
    let lasting = text(&["x509", "-noout", "-checkend", "777500"], chain.as_bytes());
    assert_eq!(lasting, "Certificate will not expire\n", "nine days have 777,600 seconds");
    let public = |pem: &str| text(&["x509", "-noout", "-pubkey"], pem.as_bytes());
    assert_eq!(public(&chain), public(&mine.certificate_pem()));
    let subject = text(&["x509", "-noout", "-subject", "-nameopt", "RFC2253"], chain.as_bytes());
    assert_eq!(subject, "subject=UID=123,CN=node-123,OU=SolarNode,O=SolarNetwork\n");
}

#[test]
fn a_renewal_that_is_early_or_of_another_key_is_refused() {
    let bench = Bench::new();
    let (early, mine, other) = (ending(&bench, 95), ending(&bench, 60), ending(&bench, 60));
    let store = |identity: &NodeIdentity| identity.pkcs12("pw").unwrap();
    assert_eq!(renew(&bench, &early, &store(&early), "pw").status, 403);
    assert_eq!(renew(&bench, &mine, &store(&other), "pw").status, 422);
    assert_eq!(renew(&bench, &mine, &store(&mine), "wrong").status, 422);
    assert_eq!(renew(&bench, &mine, b"nonsense", "pw").status, 422);
    let node = Node::new(&bench.solarin, &bench.authority, Some(&mine));
    assert_eq!(node.post(RENEW, FORM, b"password=x").unwrap().status, 422);
    let multipart = [
        b"--b\r\ncontent-disposition: form-data; name=\"password\"\r\n\r\npw\r\n--b\r\n".to_vec(),
        b"content-disposition: form-data; name=\"keystore\"; filename=\"k.p12\"\r\n\r\n".to_vec(),
        store(&mine),
        b"\r\n--b--\r\n".to_vec(),
    ];
    let kind = "multipart/form-data; boundary=b";
    assert_eq!(node.post(RENEW, kind, &multipart.concat()).unwrap().status, 200);
}

/// The attribute of a document's root.
fn attribute<'a>(document: &'a str, name: &str) -> &'a str {
    let begin = format!(" {name}=\"");
    let (_, rest) = document.split_once(&begin).expect("the attribute");
    rest.split('"').next().unwrap()
}

#[test]
fn an_invitation_leads_to_a_store_whose_key_the_server_made() {
    let bench = Bench::of_two();
    let invitation = bench.sim.invite(124, "a&b@example.com").unwrap();
    let lines = invitation.text.replace("\r\n", "\n") + "\n";
    assert!(lines.lines().all(|line| line.len() <= 76));
    // Through the command, because the reader is to be another one than the writer.
    let packed = openssl(&["base64", "-d"], lines.as_bytes());
    let mut document = String::new();
    GzDecoder::new(&packed[..]).read_to_string(&mut document).unwrap();
    assert_eq!(attribute(&document, "host"), "127.0.0.1");
    assert_eq!(attribute(&document, "username"), "a&amp;b@example.com");
    let key = attribute(&document, "confirmationKey");
    assert_eq!(key, invitation.confirmation_key);

    let query = format!("username=a%26b%40example.com&key={key}");
    let path = format!("/solarin/identity.do?{query}");
    assert_eq!(bench.node.get(&path).data()["confirmationKey"], key);

    bench.sim.set_issuing_delay(TimeDelta::hours(1));
    let form = format!("username=a%26b%40example.com&confirmationKey={key}&keystorePassword=pw");
    let associate = |form: &str| {
        let headers = [("host", "x".to_owned()), ("content-type", FORM.to_owned())];
        let (address, path) = (bench.sim.address(), "/solaruser/associate.json");
        request(address, "POST", path, &headers, form.as_bytes()).unwrap()
    };
    assert_eq!(associate("username=a").status, 422);
    let wrong = form.replace(key, "0");
    assert_eq!(associate(&wrong).refusal(), (403, "UNKNOWN_OBJECT".to_owned()));
    let first = associate(&form).data();
    assert_eq!(
        (&first["networkId"], &first["networkCertificateStatus"]),
        (&json!(124), &json!("a"))
    );
    assert_eq!(associate(&form).status, 403, "an invitation is answered once");

    bench.sim.set_clock_offset(TimeDelta::hours(2));
    let cert = plain(bench.sim.address(), "GET", &format!("/solaruser/cert.xml?{form}"), "");
    let document = String::from_utf8(cert.body).unwrap();
    assert_eq!(attribute(&document, "networkCertificateStatus"), "v");
    let encoded =
        attribute(&document, "networkCertificate").replace("&#10;", "\n").replace('\r', "");
    let store = openssl(&["base64", "-d"], (encoded + "\n").as_bytes());
    let opened = text(&["pkcs12", "-nodes", "-passin", "pass:pw"], &store);
    assert!(opened.contains("friendlyName: node") && opened.contains("friendlyName: ca"));
    assert!(opened.contains("-----BEGIN PRIVATE KEY-----"));
}

#[test]
fn an_invitation_is_good_for_a_week() {
    let bench = Bench::of_two();
    let key = bench.sim.invite(124, "a").unwrap().confirmation_key;
    bench.sim.set_clock_offset(TimeDelta::days(8));
    let form = format!("username=a&confirmationKey={key}&keystorePassword=pw");
    let headers = [("host", "x".to_owned()), ("content-type", FORM.to_owned())];
    let path = "/solaruser/associate.xml";
    let answer = request(bench.sim.address(), "POST", path, &headers, form.as_bytes()).unwrap();
    assert_eq!(answer.status, 403);
}
