//! `POST /solarin/api/v1/sec/cert/renew`: a certificate for the same key, delivered later by an instruction.

use chrono::Months;

use super::der::{self, Facts};
use super::node::{NodeCertificate, pair};
use super::openssl;
use super::verify::Peer;
use crate::answer::{Answer, Refusal};
use crate::base64;
use crate::import::multipart;
use crate::request::Incoming;
use crate::world::World;
use crate::world::instruction::NewInstruction;

/// Earlier than this before the certificate's end it is not renewed.
const WINDOW: Months = Months::new(3);

impl World {
    pub(super) fn renew(
        &mut self,
        request: &Incoming,
        node: i64,
        peer: &Peer,
    ) -> Result<Answer, Refusal> {
        let now = self.clock.now();
        let shown = peer.facts().ok_or_else(Refusal::role_missing)?;
        let authority = self.network.authority.clone().ok_or_else(Refusal::not_found)?;
        if shown.until.checked_sub_months(WINDOW).is_none_or(|first| now < first) {
            return Err(Refusal::access_denied());
        }
        let (store, password) = store_of(request)?;
        let refused = |what: &dyn std::fmt::Display| Refusal::illegal_argument(what);
        let opened = openssl::open_pkcs12(&store, &password).map_err(|error| refused(&error))?;
        let held = pem_body(&opened.certificate).and_then(|der| Facts::of(&der));
        let held = held.ok_or_else(|| refused(&"the certificate cannot be read"))?;
        if (&held.subject, &held.public_key) != (&shown.subject, &shown.public_key) {
            return Err(refused(&"the store holds another certificate than the one in use"));
        }
        let key = pair(&opened.key, &held.public_key);
        let key = key.ok_or_else(|| refused(&"the key is not that of the certificate"))?;
        let renewed = authority
            .certify_node(&NodeCertificate::between(node, now, self.network.ends(now)), key)
            .map_err(|error| refused(&error))?;
        let wrapped = der::pkcs7(&[renewed.der(), &authority.der()]);
        let pem = format!(
            "-----BEGIN CERTIFICATE CHAIN-----\n{}\n-----END CERTIFICATE CHAIN-----\n",
            base64::encode(&wrapped, 64, "\n")
        );
        let new = NewInstruction {
            node,
            topic: "RenewCertificate".to_owned(),
            parameters: vec![("Certificate".to_owned(), pem)],
            visible_from: Some(now + self.network.issuing),
            ..NewInstruction::default()
        };
        self.instructions.add(new, now);
        Ok(Answer::success())
    }
}

/// `keystore` and `password`, from a form (where the store is Base64) or from multipart.
fn store_of(request: &Incoming) -> Result<(Vec<u8>, String), Refusal> {
    let missing =
        |name: &str| Refusal::invalid(format!("Required parameter '{name}' is not present"));
    if request.is_multipart() {
        let content_type = request.header("content-type").unwrap_or_default();
        let parts = multipart::parse(content_type, &request.body)
            .ok_or_else(|| Refusal::invalid("Failed to parse multipart request"))?;
        let part = |name: &str| {
            let found = parts.iter().find(|part| part.name == name);
            found.map(|part| part.body.to_vec()).ok_or_else(|| missing(name))
        };
        return Ok((part("keystore")?, String::from_utf8_lossy(&part("password")?).into_owned()));
    }
    let parameters = request.parameters();
    let parameter = |name: &str| {
        let found = parameters.iter().find(|pair| pair.0 == name);
        found.map(|pair| pair.1.as_str()).ok_or_else(|| missing(name))
    };
    let text: String = parameter("keystore")?.split_whitespace().collect();
    let store =
        base64::decode(&text).ok_or_else(|| Refusal::illegal_argument("keystore is no Base64"))?;
    Ok((store, parameter("password")?.to_owned()))
}

/// What a PEM block holds.
fn pem_body(pem: &str) -> Option<Vec<u8>> {
    base64::decode(&pem.lines().filter(|line| !line.starts_with("-----")).collect::<String>())
}
