//! What can be wrong with a node's certificate, in words that name what can be changed. Pure.

use std::fmt;

use chrono::{DateTime, Utc};

use super::{
    certificate::{Certificate, Signed},
    key::KeyError,
    material::Material,
    node::NodeCertificate,
};
use crate::domain::NodeId;

/// The longest chain that is followed. Public ones have four links at most.
const LONGEST_CHAIN: usize = 8;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Complaint {
    /// There is no certificate.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// There is no private key.
    #[error("there is no private key in it; name its file with --key-file")]
    NoKey,
    /// No key belongs to a certificate.
    #[error(
        "the private key does not belong to the certificate of {subject}: \
         take the key that the certificate was issued for"
    )]
    OtherKey {
        /// Whom the certificate is about.
        subject: String,
    },
    /// The key is of no use.
    #[error(transparent)]
    UnusableKey(KeyError),
    /// The subject names no node.
    #[error(
        "the certificate is not a node's: its subject {subject} has no `UID=` with the node's ID"
    )]
    NotANode {
        /// Whom it is about.
        subject: String,
    },
    /// It is another node's.
    #[error(
        "the certificate is that of node {found}, and `node.id` in the configuration is {configured}: \
         change `node.id`, or take the certificate of node {configured}"
    )]
    OtherNode {
        /// The node of the certificate.
        found: NodeId,
        /// The node of the configuration.
        configured: NodeId,
    },
    /// Its issuer's certificate is there, but did not sign it.
    #[error(
        "the certificate of {subject} was not signed by the certificate of {issuer} beside it: \
         one of them is from another place; export the whole chain again"
    )]
    NotSigned {
        /// Whom it is about.
        subject: String,
        /// Whose signature it should have.
        issuer: String,
    },
    /// The signature was made in a way that is not known here.
    #[error(
        "the signature on the certificate of {subject} is of a kind that cannot be checked here; \
         SolarNetwork will say whether it takes it"
    )]
    UnknownSignature {
        /// Whom it is about.
        subject: String,
    },
    /// The chain ends before a root.
    #[error(
        "the chain ends with {subject}, and the certificate of its issuer {issuer} is not in it: \
         fine if SolarNetwork knows that one"
    )]
    Open {
        /// The last one.
        subject: String,
        /// Who is missing.
        issuer: String,
    },
    /// Nobody but itself vouches for it.
    #[error(
        "the certificate of {subject} is its own issuer: SolarNetwork did not issue it, and will most likely refuse it"
    )]
    SelfIssued {
        /// Whom it is about.
        subject: String,
    },
    /// It is past its last day.
    #[error(
        "the certificate of {subject} ended on {} (the time here is {}): have another one issued, \
         or set the clock", readable(*.ended), readable(*.now)
    )]
    Expired {
        /// Whom it is about.
        subject: String,
        /// Its last second.
        ended: DateTime<Utc>,
        /// The time that it was compared with.
        now: DateTime<Utc>,
    },
    /// Its first day is still to come.
    #[error(
        "the certificate of {subject} begins on {} (the time here is {}): set the clock, or wait",
        readable(*.begins), readable(*.now)
    )]
    NotYet {
        /// Whom it is about.
        subject: String,
        /// Its first second.
        begins: DateTime<Utc>,
        /// The time that it was compared with.
        now: DateTime<Utc>,
    },
}

impl Complaint {
    /// Whether SolarNetwork would never accept it, so that it is not taken in. The rest may pass by itself,
    /// or is for SolarNetwork to judge.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::NoCertificate
            | Self::NoKey
            | Self::OtherKey { .. }
            | Self::UnusableKey(_)
            | Self::NotANode { .. }
            | Self::OtherNode { .. }
            | Self::NotSigned { .. }
            | Self::Expired { .. } => true,
            Self::UnknownSignature { .. }
            | Self::Open { .. }
            | Self::SelfIssued { .. }
            | Self::NotYet { .. } => false,
        }
    }

    /// Whether it is for information only.
    #[must_use]
    pub fn is_remark(&self) -> bool {
        matches!(self, Self::UnknownSignature { .. } | Self::Open { .. } | Self::SelfIssued { .. })
    }
}

/// Complaints one after another, on one line.
#[derive(Debug)]
pub struct Listed<'a>(pub &'a [Complaint]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, complaint) in self.0.iter().enumerate() {
            write!(f, "{}{complaint}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Finds the key, the certificate that it belongs to, and the chain above that, in whatever order they are.
///
/// # Errors
///
/// If there is no such pair.
pub fn assemble(material: &Material) -> Result<NodeCertificate, Complaint> {
    let first = material.certificates.first().ok_or(Complaint::NoCertificate)?;
    if material.keys.is_empty() {
        return Err(Complaint::NoKey);
    }
    let mut complaint = Complaint::OtherKey { subject: first.subject().to_string() };
    for key in &material.keys {
        for certificate in &material.certificates {
            match key.fitted(certificate) {
                Ok(fitted) => {
                    return Ok(NodeCertificate::new(
                        chain(certificate, &material.certificates),
                        fitted,
                    ));
                }
                Err(KeyError::Other) => {}
                Err(error @ KeyError::Unusable) => complaint = Complaint::UnusableKey(error),
            }
        }
    }
    Err(complaint)
}

/// From `first` up to the last issuer that is there. Where two have the issuer's name, the one that signed.
pub(super) fn chain(first: &Certificate, all: &[Certificate]) -> Vec<Certificate> {
    let mut chain = vec![first.clone()];
    while let Some(last) = chain.last().filter(|last| !last.is_self_issued()) {
        let named: Vec<_> = all
            .iter()
            .filter(|issuer| last.names_as_issuer(issuer) && !chain.contains(issuer))
            .collect();
        let signed = named.iter().find(|issuer| last.signed_by(issuer) == Signed::Yes);
        match signed.or(named.first()) {
            Some(issuer) if chain.len() < LONGEST_CHAIN => chain.push((*issuer).clone()),
            _ => break,
        }
    }
    chain
}

/// Whether a certificate is that of this node.
///
/// # Errors
///
/// If it is another node's, or nobody's.
pub fn of_node(certificate: &NodeCertificate, node: NodeId) -> Result<(), Complaint> {
    let subject = certificate.leaf().subject();
    match subject.node() {
        Some(found) if found == node => Ok(()),
        Some(found) => Err(Complaint::OtherNode { found, configured: node }),
        None => Err(Complaint::NotANode { subject: subject.to_string() }),
    }
}

/// What is wrong with a certificate for this node at this time.
#[must_use]
pub fn judge(certificate: &NodeCertificate, node: NodeId, now: DateTime<Utc>) -> Vec<Complaint> {
    let chain = certificate.chain();
    let subject = |certificate: &Certificate| certificate.subject().to_string();
    let mut complaints: Vec<_> = of_node(certificate, node).err().into_iter().collect();
    for pair in chain.windows(2) {
        let (below, above) = (&pair[0], &pair[1]);
        match below.signed_by(above) {
            Signed::Yes => {}
            Signed::No => complaints
                .push(Complaint::NotSigned { subject: subject(below), issuer: subject(above) }),
            Signed::Unknown => {
                complaints.push(Complaint::UnknownSignature { subject: subject(below) });
            }
        }
    }
    for certificate in chain {
        let (from, until) = (certificate.not_before(), certificate.not_after());
        if until < now {
            let subject = subject(certificate);
            complaints.push(Complaint::Expired { subject, ended: until, now });
        } else if now < from {
            let subject = subject(certificate);
            complaints.push(Complaint::NotYet { subject, begins: from, now });
        }
    }
    if let Some(last) = chain.last().filter(|last| !last.is_self_issued()) {
        complaints
            .push(Complaint::Open { subject: subject(last), issuer: last.issuer().to_string() });
    }
    if certificate.leaf().is_self_issued() {
        complaints.push(Complaint::SelfIssued { subject: subject(certificate.leaf()) });
    }
    complaints
}

/// An instant that a person reads: to the minute, always UTC.
fn readable(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}
