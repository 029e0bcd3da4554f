//! Association: how a new node gets its identity. A person invites it, which gives a text; the device answers
//! with what the text says, and gets a PKCS#12 store with a key that the server made.
//!
//! ```text
//! invite ─▶ text ─▶ POST /solaruser/associate.json|.xml ─▶ its store, or where that takes longer:
//!                   GET  /solaruser/cert.json|.xml      ─▶ the status `a` until the store is there
//! ```

use std::io::Write;

use chrono::{DateTime, TimeDelta, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value};

use super::identity::{IDENTITY_KEY, escape, xml};
use super::node::NodeCertificate;
use crate::answer::{Answer, Refusal};
use crate::request::Incoming;
use crate::world::World;
use crate::{base64, random};

/// How long an invitation is good.
const GOOD_FOR: TimeDelta = TimeDelta::days(7);

/// An invitation, as SolarNetwork shows it to whoever asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// What is given to the device.
    pub text: String,
    /// The node that it will be.
    pub node: i64,
    /// The account's name.
    pub username: String,
    /// Proves that the device has the text.
    pub confirmation_key: String,
    /// For people to compare.
    pub security_phrase: String,
    /// Its end.
    pub expires: DateTime<Utc>,
    /// From when the store is there, once it was answered.
    answered: Option<DateTime<Utc>>,
}

impl World {
    /// Invites; `None` without SolarIn, which the text leads to.
    pub(crate) fn invite(&mut self, node: i64, username: &str) -> Option<Invitation> {
        let address = self.network.address?;
        let expires = self.clock.now() + GOOD_FOR;
        let confirmation_key = hex::encode(random::bytes::<32>());
        let document = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<networkAssociation host=\"{}\" port=\"{}\" \
             forceTLS=\"true\" identityKey=\"{IDENTITY_KEY}\" username=\"{}\" expiration=\"{}\" \
             confirmationKey=\"{confirmation_key}\"/>\n",
            address.ip(),
            address.port(),
            escape(username),
            expires.format("%Y-%m-%dT%H:%M:%S%.3fZ"),
        );
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        // Memory takes everything.
        drop(packed.write_all(document.as_bytes()));
        let packed = packed.finish().unwrap_or_default();
        let invitation = Invitation {
            text: base64::encode(&packed, 76, "\r\n"),
            node,
            username: username.to_owned(),
            confirmation_key,
            security_phrase: "quick brown simulator".to_owned(),
            expires,
            answered: None,
        };
        self.network.invitations.push(invitation.clone());
        Some(invitation)
    }

    pub(super) fn invitation(&self, user: &str, key: &str) -> Result<&Invitation, Refusal> {
        let mut all = self.network.invitations.iter();
        let found = all.find(|known| known.username == user && known.confirmation_key == key);
        found.ok_or_else(Refusal::unknown_object)
    }

    /// The two calls of SolarUser; `None` for any other.
    pub(crate) fn associate(
        &mut self,
        method: &str,
        path: &str,
        request: &Incoming,
    ) -> Option<Result<Answer, Refusal>> {
        let (call, format) = path.strip_prefix('/')?.split_once('.')?;
        let as_xml = match format {
            "json" => false,
            "xml" => true,
            _ => return None,
        };
        let details = match (method, call) {
            ("POST", "associate") => self.confirm(request),
            ("GET", "cert") => self.look(request),
            _ => return None,
        };
        Some(details.map(|details| match as_xml {
            false => Answer::data(details.into()),
            true => xml("networkAssociationDetails", &details, ""),
        }))
    }

    fn confirm(&mut self, request: &Incoming) -> Result<Map<String, Value>, Refusal> {
        let now = self.clock.now();
        let [user, key, password] = fields(request)?;
        let known = self.invitation(&user, &key)?;
        if known.expires < now || known.answered.is_some() {
            return Err(Refusal::access_denied());
        }
        let there = now + self.network.issuing;
        let all = self.network.invitations.iter_mut();
        for invitation in all.filter(|invitation| invitation.confirmation_key == key) {
            invitation.answered = Some(there);
        }
        self.details(&user, &key, &password, now)
    }

    fn look(&self, request: &Incoming) -> Result<Map<String, Value>, Refusal> {
        let [user, key, password] = fields(request)?;
        self.details(&user, &key, &password, self.clock.now())
    }

    fn details(
        &self,
        user: &str,
        key: &str,
        password: &str,
        now: DateTime<Utc>,
    ) -> Result<Map<String, Value>, Refusal> {
        let invitation = self.invitation(user, key)?;
        let there = invitation.answered.ok_or_else(Refusal::unknown_object)?;
        let node = invitation.node;
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| out.insert(name.to_owned(), value);
        put("networkId", node.into());
        put("confirmationKey", key.into());
        put("networkCertificateStatus", if now < there { "a" } else { "v" }.into());
        let subject = format!("UID={node},CN=node-{node},OU=SolarNode,O=SolarNetwork");
        put("networkCertificateSubjectDN", subject.into());
        if now >= there {
            let until = self.network.ends(now);
            let authority = self.network.authority.as_ref().ok_or_else(Refusal::not_found)?;
            let store = authority
                .issue_node(&NodeCertificate::between(node, now - TimeDelta::minutes(1), until))
                .map_err(Refusal::illegal_argument)?
                .pkcs12(password)
                .map_err(Refusal::illegal_argument)?;
            put("networkCertificate", base64::encode(&store, 76, "\r\n").into());
        }
        Ok(out)
    }
}

fn fields(request: &Incoming) -> Result<[String; 3], Refusal> {
    let parameters = request.parameters();
    let field = |name: &str| {
        let found = parameters.iter().find(|pair| pair.0 == name && !pair.1.is_empty());
        found.map(|pair| pair.1.clone()).ok_or_else(|| {
            Refusal::invalid(format!("Required request parameter '{name}' is not present"))
        })
    };
    Ok([field("username")?, field("confirmationKey")?, field("keystorePassword")?])
}
