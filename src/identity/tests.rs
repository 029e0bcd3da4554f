//! Certificates as simulated authorities issue them, through assembling, judging and renewing.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use rustls::client::ResolvesClientCert as _;
use solarnet_sim::{Authority, NodeCertificate as Wanted, NodeIdentity};

use super::{
    Identity, NodeCertificate,
    check::{Complaint, judge},
    material::{Material, MaterialError},
    pem, pkcs12,
    renewed::{Rejected, renewed},
};
use crate::domain::{Chain, NodeId};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).expect("a time")
}

fn node() -> NodeId {
    NodeId::try_from(123).expect("a node")
}

fn issued(authority: &Authority, wanted: &Wanted) -> (NodeIdentity, NodeCertificate) {
    let issued = authority.issue_node(wanted).expect("issued");
    let text = issued.key_pem() + &issued.chain_pem();
    let read = NodeCertificate::from_pem(text.as_bytes()).expect("key and chain");
    (issued, read)
}

fn final_complaints(certificate: &NodeCertificate, now: DateTime<Utc>) -> Vec<String> {
    let complaints = judge(certificate, node(), now).into_iter().filter(Complaint::is_final);
    complaints.map(|complaint| complaint.to_string()).collect()
}

#[test]
fn a_good_certificate_is_read_in_full_and_has_nothing_wrong_with_it() {
    let authority = Authority::new().expect("an authority");
    let (issued, read) = issued(&authority, &Wanted::around(123, now()));
    assert_eq!(judge(&read, node(), now()), []);
    let leaf = read.leaf();
    assert_eq!(leaf.subject().to_string(), "UID=123,CN=node-123,OU=SolarNode,O=SolarNetwork");
    assert_eq!(leaf.subject().node(), Some(node()));
    assert_eq!(leaf.der().as_ref(), issued.der());
    assert_eq!(leaf.not_after(), now() + TimeDelta::days(700));
    assert_eq!(read.chain().len(), 2);
    // The root is not shown: who does not have it does not trust it.
    assert_eq!(read.certified().cert.len(), 1);
    let again = NodeCertificate::from_pem(read.to_pem().as_bytes()).expect("what was written");
    assert_eq!(again.expose_pkcs8(), read.expose_pkcs8());
    assert_eq!(again, read);
}

#[test]
fn every_fault_is_named_with_what_can_be_changed() {
    let authority = Authority::new().expect("an authority");
    let of = |wanted: &Wanted| issued(&authority, wanted).1;
    let other = of(&Wanted::around(124, now()));
    assert!(final_complaints(&other, now())[0].contains("node 124, and `node.id`"));
    let nobody = of(&Wanted::around(123, now()).without_uid());
    assert!(final_complaints(&nobody, now())[0].contains("no `UID=`"));
    let good = of(&Wanted::around(123, now()));
    let late = final_complaints(&good, now() + TimeDelta::days(701));
    assert!(late[0].contains("have another one issued"), "{late:?}");
    let early = judge(&good, node(), now() - TimeDelta::days(31));
    assert!(matches!(early[..], [Complaint::NotYet { .. }]), "{early:?}");
    assert!(!early[0].is_final());
}

#[test]
fn a_key_of_another_certificate_is_not_taken_for_it() {
    let authority = Authority::new().expect("an authority");
    let (one, _) = issued(&authority, &Wanted::around(123, now()));
    let (two, _) = issued(&authority, &Wanted::around(123, now()));
    let mixed = one.chain_pem() + &two.key_pem();
    let error = NodeCertificate::from_pem(mixed.as_bytes()).expect_err("another's key");
    assert!(error.to_string().contains("does not belong"), "{error}");
    // With both keys there, the right one is found.
    let both = mixed + &one.key_pem();
    assert!(NodeCertificate::from_pem(both.as_bytes()).is_ok());
}

#[test]
fn certificates_are_taken_from_der_and_pem_from_any_text() {
    let authority = Authority::new().expect("an authority");
    let (issued, read) = issued(&authority, &Wanted::around(123, now()));
    let text = issued.key_pem() + &issued.chain_pem();
    let latin1 = [b"name: \xe9t\xe9\r\n", text.as_bytes()].concat();
    let utf16: Vec<u8> =
        format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [latin1, utf16, text.replace('\n', "\r").into_bytes()] {
        assert_eq!(NodeCertificate::from_pem(&bytes).as_ref(), Ok(&read));
    }
    let mut material = Material::default();
    for bytes in [issued.key_pem().as_bytes(), issued.der()] {
        material.add::<MaterialError>(bytes, || Ok(None)).expect("a key, a certificate");
    }
    assert_eq!(super::check::assemble(&material).expect("key and leaf").leaf(), read.leaf());
}

#[test]
fn a_key_that_cannot_be_decrypted_says_so_of_itself() {
    // A SEQUENCE with an encryption that nobody has, and one without any.
    for (der, want) in [
        ("3011300d060355010130060401000201010400", MaterialError::KeyEncryption),
        ("3000", MaterialError::Block { label: "ENCRYPTED PRIVATE KEY".to_owned() }),
    ] {
        let pem = pem::write("ENCRYPTED PRIVATE KEY", &hex::decode(der).expect("digits"));
        let password = || Ok(Some("p".to_owned().into()));
        let error = Material::default().add::<MaterialError>(pem.as_bytes(), password);
        assert_eq!(error, Err(want));
    }
}

#[test]
fn a_store_made_for_a_renewal_holds_the_whole_identity() {
    let authority = Authority::new().expect("an authority");
    let (_, certificate) = issued(&authority, &Wanted::around(123, now()));
    let random = [3; pkcs12::RANDOM];
    let store = pkcs12::write(certificate.expose_pkcs8(), &certificate.ders(), "p", &random);
    let mut material = Material::default();
    material.add_store(&store, "p").expect("our own store");
    assert_eq!(super::check::assemble(&material).expect("key and chain"), certificate);
}

#[test]
fn what_is_damaged_is_said_once_and_without_hints_for_other_files() {
    let authority = Authority::new().expect("an authority");
    let (_, certificate) = issued(&authority, &Wanted::around(123, now()));
    let random = [3; pkcs12::RANDOM];
    let store = pkcs12::write(certificate.expose_pkcs8(), &certificate.ders(), "p", &random);
    let error = Material::default().add_store(&store[..store.len() - 1], "p").expect_err("cut");
    let said = "it is not a PKCS#12 store: the store is missing or not well-formed";
    assert_eq!(Chain(&error).to_string(), said);
    for stored in [&b""[..], b"\0\0\0\0", b"garbage"] {
        let error = NodeCertificate::from_pem(stored).expect_err("damaged");
        assert_eq!(error.to_string(), "it is damaged: there is no certificate in it");
    }
}

#[test]
fn a_renewed_certificate_has_to_follow_the_present_one_in_everything() {
    let authority = Authority::new().expect("an authority");
    let (present, current) = issued(&authority, &Wanted::around(123, now()));
    let later = Wanted::between(123, now(), now() + TimeDelta::days(900));
    let follows = |pem: &str| renewed(&current, pem, node(), now());
    let renewal = |wanted: &Wanted| {
        authority.renew_node(wanted, &present).expect("renewed").certificate_pem()
    };
    let next = follows(&renewal(&later)).expect("it follows").expect("another one");
    assert_eq!(next.expose_pkcs8(), current.expose_pkcs8());
    assert_eq!(next.chain()[1..], current.chain()[1..], "its issuers are known already");
    for again in [present.certificate_pem(), present.chain_pem()] {
        assert!(matches!(follows(&again), Ok(None)), "it is the present one");
    }

    let sooner = Wanted::between(123, now(), now() + TimeDelta::days(600));
    assert!(matches!(follows(&renewal(&sooner)), Err(Rejected::NotLater { .. })));
    let other_node = Wanted::between(124, now(), now() + TimeDelta::days(900));
    assert!(matches!(follows(&renewal(&other_node)), Err(Rejected::OtherSubject { .. })));
    let other_key = authority.issue_node(&later).expect("issued").certificate_pem();
    assert!(matches!(follows(&other_key), Err(Rejected::Complaint(Complaint::OtherKey { .. }))));
    let stranger = Authority::new().expect("an authority");
    let foreign = stranger.renew_node(&later, &present).expect("renewed").chain_pem();
    assert!(matches!(follows(&foreign), Err(Rejected::OtherIssuer { .. })));
    let open = "-----BEGIN CERTIFICATE-----\nAAAA";
    for nothing in
        ["", "certificate", open, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"]
    {
        assert!(follows(nothing).is_err(), "{nothing}");
    }
    let damaged = renewal(&later).replacen("MII", "AAA", 1);
    assert!(matches!(follows(&damaged), Err(Rejected::Unreadable(MaterialError::Malformed(_)))));
}

#[test]
fn what_is_sent_as_a_renewed_certificate_makes_no_work_for_the_private_key() {
    let authority = Authority::new().expect("an authority");
    let (present, current) = issued(&authority, &Wanted::around(123, now()));
    let later = Wanted::between(123, now(), now() + TimeDelta::days(900));
    let next = authority.renew_node(&later, &present).expect("renewed").certificate_pem();
    let next = renewed(&current, &next, node(), now()).expect("it follows").expect("another one");
    assert!(Arc::ptr_eq(&next.certified().key, &current.certified().key), "it is read once");

    let other = || authority.issue_node(&later).expect("issued").certificate_pem();
    let pem: String = (0..17).map(|_| other()).collect();
    let refused = renewed(&current, &pem, node(), now());
    assert_eq!(refused, Err(Rejected::Unreadable(MaterialError::TooMany)));
    assert!(NodeCertificate::from_pem((pem + &present.key_pem()).as_bytes()).is_err());
}

#[test]
fn whoever_opens_a_connection_is_shown_the_certificate_in_use() {
    let authority = Authority::new().expect("an authority");
    let (present, current) = issued(&authority, &Wanted::around(123, now()));
    let identity = Identity::new();
    let changed = identity.changed();
    assert!(!identity.has_certs());
    assert!(identity.replace(Some(current.clone())));
    assert!(!identity.replace(Some(current)), "it is the same");
    assert!(identity.has_certs() && changed.has_changed().expect("it lives"));
    let schemes = [rustls::SignatureScheme::ECDSA_NISTP256_SHA256];
    let shown = identity.resolve(&[], &schemes).expect("a certificate");
    assert_eq!(shown.cert[0].as_ref(), present.der());
    let clone: Arc<dyn rustls::client::ResolvesClientCert> = Arc::new(identity.clone());
    identity.replace(None);
    assert!(clone.resolve(&[], &schemes).is_none());
}

#[test]
fn nothing_shows_the_key() {
    let authority = Authority::new().expect("an authority");
    let (_, certificate) = issued(&authority, &Wanted::around(123, now()));
    let key = pem::encode(&certificate.expose_pkcs8()[40..80]);
    let shown = format!("{certificate:?} {:?}", certificate.certified());
    assert!(!shown.contains(&**key), "{shown}");
}
