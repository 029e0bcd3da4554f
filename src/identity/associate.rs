//! The first certificate of a new node: taken up with an invitation.
//!
//! ```text
//!  identity.do?username&key ─▶ security phrase, compared by a person
//!  POST associate.json ─▶ the node's ID, and the certificate if it is issued quickly
//!  GET cert.json, until it is there ─▶ PKCS#12, protected with the password that was sent
//! ```
//!
//! The server makes the key pair and keeps it behind that password, which is made up here. It has to be on disk
//! before it is sent: without it, an interrupted association could not be finished.

use bytes::Bytes;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    calls::{Trouble, escaped, message, not_sent, password},
    invitation::Invitation,
    material::{Material, MaterialError},
    network::{self, Document},
    pem,
};
use crate::{
    domain::NodeId,
    net::{Net, Outgoing},
};

/// The answers to an invitation.
pub struct Association<'a> {
    /// The client.
    pub net: &'a Net,
    /// SolarIn's base.
    pub in_url: &'a str,
    /// SolarUser's base.
    pub user_url: &'a str,
    /// The invitation.
    pub invitation: &'a Invitation,
}

/// The password that a certificate is fetched with, tied to its invitation. No `Debug`.
pub struct Record(Zeroizing<String>);

/// What the server has done so far.
#[derive(Debug)]
pub struct Accepted {
    /// The node that this machine is now.
    pub node: Option<NodeId>,
    /// The store with key and certificate, if it is there.
    pub store: Option<Zeroizing<Vec<u8>>>,
}

impl Record {
    /// For a new association.
    ///
    /// # Errors
    ///
    /// If the system has no random numbers.
    pub fn new() -> Result<Self, Trouble> {
        let none = |_| Trouble::Passing("the system has no random numbers".to_owned());
        password().map(Self).map_err(none)
    }

    /// As it is kept: the invitation's key and the password, a line each.
    #[must_use]
    pub fn to_bytes(&self, invitation: &Invitation) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(format!("{}\n{}\n", *invitation.confirmation_key, *self.0).into_bytes())
    }

    /// That of this invitation, if it is.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], invitation: &Invitation) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        (lines.next()? == *invitation.confirmation_key).then_some(())?;
        Some(Self(Zeroizing::new(lines.next()?.to_owned())))
    }
}

impl Association<'_> {
    /// What SolarIn says of itself and of the invitation.
    ///
    /// # Errors
    ///
    /// If it says nothing, or knows of no such invitation.
    pub async fn look(&self) -> Result<Document, Trouble> {
        let url = format!(
            "{}/identity.do?username={}&key={}",
            self.in_url,
            *escaped(&self.invitation.username),
            *escaped(&self.invitation.confirmation_key)
        );
        let path = format!("{}/identity.do", self.in_url);
        let body = self.send(&path, "solarnet.in_url", network::get(&url)).await?;
        network::document(&body)
            .ok_or_else(|| Trouble::Passing(format!("{path} did not answer as SolarNetwork does")))
    }

    /// Takes the invitation up.
    ///
    /// # Errors
    ///
    /// If there is no answer, or the server says no.
    pub async fn take_up(&self, record: &Record) -> Result<Accepted, Trouble> {
        let form = self.form(record);
        let url = format!("{}/associate.json", self.user_url);
        let request = Outgoing {
            method: "POST",
            headers: vec![
                ("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned()),
                ("Accept".to_owned(), "application/json".to_owned()),
            ],
            url: url.clone(),
            body: Bytes::from_owner(form),
        };
        accepted(&url, &self.send(&url, "solarnet.user_url", request).await?)
    }

    /// Asks for the certificate of an invitation that was taken up.
    ///
    /// # Errors
    ///
    /// If there is no answer, or the server says no.
    pub async fn fetch(&self, record: &Record) -> Result<Accepted, Trouble> {
        let url = format!("{}/cert.json", self.user_url);
        let request = network::get(&format!("{url}?{}", *self.form(record)));
        accepted(&url, &self.send(&url, "solarnet.user_url", request).await?)
    }

    /// Takes key and certificates out of what the server keeps.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn open(store: &[u8], record: &Record) -> Result<Material, MaterialError> {
        let mut material = Material::default();
        material.add_store(store, &record.0)?;
        Ok(material)
    }

    fn form(&self, record: &Record) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "username={}&confirmationKey={}&keystorePassword={}",
            *escaped(&self.invitation.username),
            *escaped(&self.invitation.confirmation_key),
            *escaped(&record.0)
        ))
    }

    /// `url` is what may be shown: the address without its query; `key` is the one that its beginning comes from.
    async fn send(&self, url: &str, key: &str, request: Outgoing) -> Result<Bytes, Trouble> {
        let answer = self.net.send(&request).await.map_err(|error| not_sent(url, &error))?;
        let says = message(&answer.body).map(|said| format!(": {said}")).unwrap_or_default();
        match answer.status {
            200 => Ok(answer.body),
            404 => {
                Err(Trouble::Refused(format!("{url} is not there (404){says}; is `{key}` right?")))
            }
            status @ 400..500 if status != 429 => {
                Err(Trouble::Refused(format!("{url} refused the invitation ({status}){says}")))
            }
            status => Err(Trouble::Passing(format!("{url} was answered with {status}{says}"))),
        }
    }
}

/// Reads the answer to either call.
fn accepted(url: &str, body: &[u8]) -> Result<Accepted, Trouble> {
    let odd = || Trouble::Passing(format!("{url} did not answer as SolarNetwork does"));
    let Some(data) = network::data(body) else {
        // The envelope says that it did not work.
        return Err(match message(body) {
            Some(said) => Trouble::Refused(format!("{url} refused the invitation: {said}")),
            None => odd(),
        });
    };
    let node = match &data["networkId"] {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let store = match data["networkCertificate"].as_str() {
        Some(text) if !text.is_empty() => Some(pem::decode(text).ok_or_else(odd)?),
        _ => None,
    };
    Ok(Accepted { node: node.and_then(|node| NodeId::try_from(node).ok()), store })
}

/// Reads an answer of the server, for a fuzzer.
#[must_use]
pub fn read_answer(body: &[u8]) -> Option<Accepted> {
    accepted("/associate.json", body).ok()
}
