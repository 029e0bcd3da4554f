//! What tells a node where everything is: the network identity document and the address book of `pub/config`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::associate::Invitation;
use crate::answer::{Answer, Refusal};
use crate::request::Incoming;
use crate::time;
use crate::tls::Authority;
use crate::world::World;

/// What people compare to be sure of the network.
pub(crate) const IDENTITY_KEY: &str = "solarnet-sim:4f1d-93c2-77aa";
const TERMS: &str = "Everything is made up.";

/// The network around SolarIn. There is none until SolarIn starts.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) authority: Option<Authority>,
    /// SolarIn's.
    pub(crate) address: Option<SocketAddr>,
    /// `networkServiceURLs` of the identity document.
    pub(crate) urls: BTreeMap<String, String>,
    /// `serviceUrls` of `pub/config`.
    pub(crate) service_urls: BTreeMap<String, String>,
    pub(crate) invitations: Vec<Invitation>,
    /// How long a renewed certificate, or that of a new node, takes.
    pub(crate) issuing: TimeDelta,
    /// How long such a one is good; else two years.
    pub(crate) life: Option<TimeDelta>,
}

impl Network {
    /// The last instant of a certificate that is issued now.
    pub(super) fn ends(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now + self.life.unwrap_or(TimeDelta::days(730))
    }
}

impl World {
    /// `GET /identity.do`, as JSON or XML; with `username` and `key` also what belongs to that invitation.
    pub(super) fn identity(&self, request: &Incoming) -> Result<Answer, Refusal> {
        let address = self.network.address.ok_or_else(Refusal::not_found)?;
        let mut members = Map::from_iter([
            ("host".to_owned(), json!(address.ip().to_string())),
            ("port".to_owned(), json!(address.port())),
            ("forceTLS".to_owned(), json!(true)),
            ("identityKey".to_owned(), json!(IDENTITY_KEY)),
            ("termsOfService".to_owned(), json!(TERMS)),
        ]);
        let parameters = request.parameters();
        let parameter =
            |name: &str| parameters.iter().find(|pair| pair.0 == name).map(|pair| pair.1.as_str());
        if let (Some(user), Some(key)) = (parameter("username"), parameter("key")) {
            let invitation = self.invitation(user, key)?;
            for (name, value) in [
                ("confirmationKey", invitation.confirmation_key.clone()),
                ("securityPhrase", invitation.security_phrase.clone()),
                ("username", invitation.username.clone()),
                ("expiration", time::write(invitation.expires)),
            ] {
                members.insert(name.to_owned(), value.into());
            }
        }
        let wants_xml = request.header("accept").is_some_and(|accept| accept.contains("xml"));
        if !wants_xml {
            members.insert("networkServiceURLs".to_owned(), json!(self.network.urls));
            return Ok(Answer::data(members.into()));
        }
        let entries: String = self
            .network
            .urls
            .iter()
            .map(|(name, url)| {
                let (name, url) = (escape(name), escape(url));
                format!("<entry key=\"{name}\"><value type=\"String\" value=\"{url}\"/></entry>")
            })
            .collect();
        let inside = format!("<networkServiceURLs>{entries}</networkServiceURLs>");
        Ok(xml("networkIdentity", &members, &inside))
    }

    /// `GET …/api/v1/pub/config`
    pub(crate) fn address_book(&self) -> Answer {
        Answer::data(json!({ "serviceUrls": self.network.service_urls }))
    }
}

/// An XML document whose root has these as attributes.
pub(super) fn xml(root: &str, members: &Map<String, Value>, inside: &str) -> Answer {
    let attributes: String = members
        .iter()
        .map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!(" {name}=\"{}\"", escape(&text))
        })
        .collect();
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root}{attributes}>{inside}</{root}>\n"
    );
    Answer::text(200, "text/xml;charset=UTF-8", &text)
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;").replace("\r\n", "&#10;")
}
