//! What SolarNetwork sends as a renewed certificate, held against the one in use. Pure.
//!
//! It comes as an instruction, which anyone may send who may instruct the node. So it is taken only for the same key,
//! subject and issuer, up to the same root, valid for longer, and signed all the way; and used only after SolarIn
//! accepted it ([`super::keeper`]).

use chrono::{DateTime, Utc};

use super::{
    NodeCertificate,
    certificate::Signed,
    check::{Complaint, judge},
    material::{Material, MaterialError},
};
use crate::domain::NodeId;

/// Why it is not taken. Each names what is wrong with what was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It cannot be read.
    #[error("the renewed certificate cannot be read: {0}")]
    Unreadable(#[from] MaterialError),
    /// It does not fit this node or time.
    #[error("the renewed certificate is not taken: {0}")]
    Complaint(#[from] Complaint),
    /// It is about somebody else.
    #[error("the renewed certificate is not taken: its subject is {found}, not {expected}")]
    OtherSubject {
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// It comes from somebody else.
    #[error("the renewed certificate is not taken: its issuer is {found}, not {expected}")]
    OtherIssuer {
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// Its chain does not lead where that of the present one does.
    #[error("the renewed certificate is not taken: it was not signed by {expected}")]
    OtherRoot {
        /// The last one of the present chain.
        expected: String,
    },
    /// It ends no later.
    #[error(
        "the renewed certificate is not taken: it ends on {}, no later than the present one",
        .ends.format("%Y-%m-%d")
    )]
    NotLater {
        /// Its last second.
        ends: DateTime<Utc>,
    },
}

/// The certificate in `pem` with the present key, if it may take the place of the present one. `None` where it is
/// the present one.
///
/// # Errors
///
/// If it may not.
pub fn renewed(
    present: &NodeCertificate,
    pem: &str,
    node: NodeId,
    now: DateTime<Utc>,
) -> Result<Option<NodeCertificate>, Rejected> {
    let mut material = Material::default();
    material.add::<MaterialError>(pem.as_bytes(), || Ok(None))?;
    // Only certificates are expected. Where the issuers are missing, they are those that are known.
    let before = present.leaf();
    let mut certificates = material.certificates;
    let is_present = certificates.contains(before);
    // The present issuers are trusted already, whether they were sent as well or not.
    certificates.retain(|certificate| !present.chain().contains(certificate));
    if certificates.is_empty() {
        return if is_present { Ok(None) } else { Err(Complaint::NoCertificate.into()) };
    }
    certificates.extend_from_slice(&present.chain()[1..]);
    let renewed = present.recertified(&certificates)?;
    let leaf = renewed.leaf();
    if leaf.subject() != before.subject() {
        let (found, expected) = (leaf.subject().to_string(), before.subject().to_string());
        return Err(Rejected::OtherSubject { found, expected });
    }
    if leaf.issuer() != before.issuer() {
        let (found, expected) = (leaf.issuer().to_string(), before.issuer().to_string());
        return Err(Rejected::OtherIssuer { found, expected });
    }
    if leaf.not_after() <= before.not_after() {
        return Err(Rejected::NotLater { ends: leaf.not_after() });
    }
    for complaint in judge(&renewed, node, now) {
        if complaint.is_final() {
            return Err(complaint.into());
        }
    }
    let is_signed = |pair: &[super::Certificate]| pair[0].signed_by(&pair[1]) == Signed::Yes;
    let end = present.chain().last().filter(|_| present.chain().len() > 1);
    match end {
        Some(end)
            if renewed.chain().last() != Some(end)
                || !renewed.chain().windows(2).all(is_signed) =>
        {
            Err(Rejected::OtherRoot { expected: end.subject().to_string() })
        }
        // Where not even the issuer's certificate is here, SolarIn's word decides.
        Some(_) | None => Ok(Some(renewed)),
    }
}
