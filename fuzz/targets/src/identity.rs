//! Certificates and keys as operators and servers hand them over, invitations, and what SolarNetwork says of itself.
//!
//! The first line says which of them the rest is.

use std::hint::black_box;

use crate::assert_readable;
use crate::headed;
use chrono::{DateTime, Utc};
use solarnode_agent::identity::{
    Certificate, Invitation, NodeCertificate,
    associate::read_answer,
    check::{assemble, judge},
    keeper::memory,
    material::{Material, MaterialError},
    network, pkcs7, pkcs12,
};

pub(crate) fn check(input: &[u8]) {
    let (kind, body) = headed(input);
    match kind.as_str() {
        "pem" => pem(body),
        "pkcs12" => {
            if let Ok(contents) = pkcs12::read(body, "hunter2") {
                // What is taken out of one is put into another one and is the same.
                let Some(key) = contents.keys.first() else { return };
                let random = [0; pkcs12::RANDOM];
                let again = pkcs12::write(key, &contents.certificates, "p", &random);
                let again = pkcs12::read(&again, "p").expect("our own store");
                assert_eq!(again.keys.first(), Some(key));
                assert_eq!(again.certificates, contents.certificates);
            }
        }
        "pkcs7" => {
            for der in pkcs7::certificates(body).into_iter().flatten() {
                black_box(Certificate::from_der(&der)).ok();
            }
        }
        "certificate" => certificate(body),
        "invitation" => {
            let text = String::from_utf8_lossy(body);
            match Invitation::parse(&text) {
                Ok(invitation) => assert!(!invitation.host.is_empty()),
                Err(error) => assert_readable(&error.to_string(), 200),
            }
        }
        "document" => {
            let services = network::document(body).map(|document| document.services);
            for address in
                services.iter().chain(&network::public_config(body)).flat_map(|s| s.values())
            {
                assert_readable(address, 512);
                assert!(address.contains("://"));
            }
        }
        "answer" => drop(black_box(read_answer(body))),
        "memory" => {
            let Some(memory_read) = memory(body) else { return };
            let written = serde_json::to_vec(&memory_read).expect("JSON");
            assert_eq!(memory(&written), Some(memory_read));
        }
        _ => {}
    }
}

fn pem(body: &[u8]) {
    let mut material = Material::default();
    let locked = || Ok::<_, MaterialError>(Some("hunter2".to_owned().into()));
    if let Err(error) = material.add(body, locked) {
        assert_readable(&error.to_string(), 500);
        return;
    }
    let Ok(node) = assemble(&material) else { return };
    let again = NodeCertificate::from_pem(node.to_pem().as_bytes()).expect("what was written");
    assert_eq!(again, node);
    assert_eq!(*again.to_pem(), *node.to_pem());
    let now: DateTime<Utc> = "2026-11-22T10:00:00Z".parse().expect("a date");
    let id = 123.try_into().expect("a node");
    for complaint in judge(&node, id, now) {
        assert_readable(&complaint.to_string(), 8000);
    }
}

fn certificate(body: &[u8]) {
    let Ok(certificate) = Certificate::from_der(body) else { return };
    assert_readable(&certificate.subject().to_string(), 100_000);
    assert_eq!(Certificate::from_der(certificate.der()).ok().as_ref(), Some(&certificate));
    black_box(certificate.signed_by(&certificate));
    black_box((certificate.serial(), certificate.fingerprint()));
}
