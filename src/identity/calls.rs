//! What a node asks SolarIn about its own certificate: whether it is accepted, and to have it renewed.
//!
//! Each call has a connection of its own, which shows the certificate in question and no other.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::{Identity, NodeCertificate, network, pem, pkcs12};
use crate::{
    clock::Clock,
    net::{Incoming, Net, NetError, Outgoing, SendError},
    runtime::off_thread,
};

/// Why a call was of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The network, or a server in trouble: it may pass.
    #[error("{0}")]
    Passing(String),
    /// The server says no.
    #[error("{0}")]
    Refused(String),
}

/// Whoever can ask: the real client, or a fake with behaviour in tests.
pub trait IdentityCalls: Send + Sync {
    /// How long a call may take.
    fn patience(&self) -> Duration;

    /// Asks for nothing, over a connection that shows this certificate.
    fn prove(
        &self,
        certificate: &Arc<NodeCertificate>,
    ) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Asks for a renewal. This sends the private key.
    fn ask(
        &self,
        certificate: &Arc<NodeCertificate>,
    ) -> impl Future<Output = Result<(), Trouble>> + Send;
}

/// The real client.
#[derive(Debug, Clone)]
pub struct Calls {
    /// SolarIn's base, without a trailing slash.
    pub in_url: String,
    /// Authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Duration,
    /// At which time servers' certificates are verified.
    pub clock: Clock,
}

impl IdentityCalls for Calls {
    fn patience(&self) -> Duration {
        // Keys are derived before, and the server may be asked for the time after.
        self.timeout * 2 + Duration::from_secs(10)
    }

    async fn prove(&self, certificate: &Arc<NodeCertificate>) -> Result<(), Trouble> {
        let path = "/bulkCollector.do";
        self.post(certificate, path, "application/json;charset=UTF-8", Bytes::from_static(b"[]"))
            .await
    }

    async fn ask(&self, certificate: &Arc<NodeCertificate>) -> Result<(), Trouble> {
        let shared = certificate.clone();
        // Deriving keys takes a tenth of a second on a small machine.
        let form = off_thread(move || renewal_form(&shared)).await?;
        let path = "/api/v1/sec/cert/renew";
        self.post(certificate, path, "application/x-www-form-urlencoded", form).await
    }
}

impl Calls {
    async fn post(
        &self,
        certificate: &Arc<NodeCertificate>,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<(), Trouble> {
        let identity = Identity::new();
        identity.replace(Some((**certificate).clone()));
        let (ca_file, clock, timeout) = (self.ca_file.clone(), self.clock.clone(), self.timeout);
        let identity = Arc::new(identity);
        // All the authorities of the system are read.
        let net =
            off_thread(move || Net::with_identity(ca_file.as_ref(), timeout, clock, identity));
        let net = net.await.map_err(|error: NetError| Trouble::Passing(error.to_string()))?;
        let request = Outgoing {
            method: "POST",
            url: format!("{}{path}", self.in_url),
            headers: vec![
                ("Content-Type".to_owned(), content_type.to_owned()),
                ("Accept".to_owned(), "application/json".to_owned()),
            ],
            body,
        };
        let answer = net.send(&request).await.map_err(|error| not_sent(&self.in_url, &error))?;
        judge(path, &answer)
    }
}

/// The private key and its chain, behind a password that is made up for this one request.
fn renewal_form(certificate: &NodeCertificate) -> Result<Bytes, Trouble> {
    let no_random = |_| Trouble::Passing("the system has no random numbers".to_owned());
    let (random, mut bytes) = (SystemRandom::new(), Zeroizing::new([0; pkcs12::RANDOM]));
    random.fill(&mut *bytes).map_err(no_random)?;
    let password = password().map_err(no_random)?;
    let store = pkcs12::write(certificate.expose_pkcs8(), &certificate.ders(), &password, &bytes);
    let store = pem::encode(&store);
    let store = escaped(&store);
    // Room from the start: a buffer that grows leaves copies behind. The bytes are wiped with their last user.
    let mut form = Zeroizing::new(String::with_capacity(store.len() + password.len() + 20));
    for part in ["keystore=", &store, "&password=", &password] {
        form.push_str(part);
    }
    Ok(Bytes::from_owner(form))
}

/// A password nobody has to type: 32 hexadecimal digits.
pub(super) fn password() -> Result<Zeroizing<String>, ring::error::Unspecified> {
    let mut bytes = Zeroizing::new([0; 16]);
    SystemRandom::new().fill(&mut *bytes)?;
    Ok(Zeroizing::new(hex::encode(*bytes)))
}

/// As the value of a form's field.
pub(super) fn escaped(text: &str) -> Zeroizing<String> {
    let mut escaped = Zeroizing::new(String::with_capacity(text.len() * 3));
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// What is to be made of a request without an answer.
pub(super) fn not_sent(url: &str, error: &SendError) -> Trouble {
    match error {
        SendError::OwnCertificate(reason) => Trouble::Refused(format!(
            "{url} did not accept the certificate, most likely as it does not know the authority that issued it: {reason}"
        )),
        SendError::Tls(reason) => Trouble::Passing(format!(
            "{url} is not trusted: {reason}; `solarnet.ca_file` names authorities beside the system's"
        )),
        SendError::CertificateDates(reason)
        | SendError::Unreachable(reason)
        | SendError::TooLong(reason)
        | SendError::Content(reason) => Trouble::Passing(format!("no answer from {url}: {reason}")),
    }
}

fn judge(path: &str, answer: &Incoming) -> Result<(), Trouble> {
    let says = message(&answer.body).map(|said| format!(": {said}")).unwrap_or_default();
    match answer.status {
        // Success may say nothing else.
        200 if answer.body.is_empty() || network::data(&answer.body).is_some() => Ok(()),
        200 => Err(Trouble::Passing(format!("{path} was answered without success{says}"))),
        status @ (401 | 404) => {
            let reason = format!(
                "{path} was answered with {status}{says}; is `solarnet.in_url` that of SolarIn?"
            );
            Err(if status == 401 { Trouble::Refused(reason) } else { Trouble::Passing(reason) })
        }
        status @ 403 => Err(Trouble::Refused(format!("{path} was refused ({status}){says}"))),
        status => Err(Trouble::Passing(format!("{path} was answered with {status}{says}"))),
    }
}

/// The server's words, on one line of bounded length.
pub(super) fn message(body: &[u8]) -> Option<String> {
    const LONGEST: usize = 200;
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = answer["message"].as_str()?;
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    Some(plain.take(LONGEST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> Incoming {
        Incoming { status, headers: Default::default(), body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn only_success_is_success_and_only_no_is_no() {
        let judged = |status, body| judge("/x", &answer(status, body));
        assert_eq!(judged(200, r#"{"success":true,"data":{"datum":[]}}"#), Ok(()));
        assert_eq!(judged(200, ""), Ok(()));
        assert!(matches!(
            judged(200, r#"{"success":false,"message":"x"}"#),
            Err(Trouble::Passing(_))
        ));
        assert!(matches!(judged(200, "<html>"), Err(Trouble::Passing(_))));
        assert!(
            matches!(judged(403, r#"{"message":"too early"}"#), Err(Trouble::Refused(text)) if text.ends_with("(403): too early"))
        );
        assert!(matches!(judged(503, ""), Err(Trouble::Passing(_))));
    }

    #[tokio::test]
    async fn others_work_on_while_authorities_are_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let fifo = dir.path().join("ca.pem");
        // Whoever opens it waits for the other side.
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, 0o600.into(), 0).expect("a FIFO");
        let (worked, hears) = std::sync::mpsc::channel();
        let path = fifo.clone();
        let writer = std::thread::spawn(move || {
            let heard = hears.recv_timeout(Duration::from_secs(10));
            std::fs::write(path, "no certificate").expect("somebody reads");
            heard.is_ok()
        });
        let now = chrono::Utc::now();
        let authority = solarnet_sim::Authority::new().expect("an authority");
        let node = solarnet_sim::NodeCertificate::around(123, now);
        let node = authority.issue_node(&node).expect("issued");
        let pem = node.chain_pem() + &node.key_pem();
        let certificate = Arc::new(NodeCertificate::from_pem(pem.as_bytes()).expect("readable"));
        let calls = Calls {
            in_url: "https://localhost:1".to_owned(),
            ca_file: Some(fifo),
            timeout: Duration::from_secs(1),
            clock: Clock::untold(),
        };
        let other = async { worked.send(()).expect("it waits") };
        let (proved, ()) = tokio::join!(calls.prove(&certificate), other);
        assert!(matches!(proved, Err(Trouble::Passing(_))), "{proved:?}");
        assert!(writer.join().expect("no panic"), "the only thread was held up");
    }

    #[test]
    fn a_form_field_keeps_every_byte() {
        assert_eq!(*escaped("aZ9+/= ä"), "aZ9%2B%2F%3D%20%C3%A4");
    }
}
