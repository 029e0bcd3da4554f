//! The `Digest` and `Content-MD5` headers. Both are optional; a wrong one ends the request.

use ring::digest as sha;

use super::{Rejection, md5};
use crate::base64;
use crate::request::Incoming;

/// Compares `Digest`, or when there is none `Content-MD5`, with the body.
///
/// In a list the first entry with a known algorithm decides. Names are not trimmed, so a space after a
/// comma makes the following one unknown; when none is known nothing is compared.
pub(super) fn check(request: &Incoming) -> Result<(), Rejection> {
    let claim = match (request.header("digest"), request.header("content-md5")) {
        (Some(list), _) => list.split(',').find_map(|entry| {
            let (name, value) = entry.split_once('=')?;
            Some((Algorithm::named(name)?, value))
        }),
        (None, Some(value)) => Some((Algorithm::Md5, value)),
        (None, None) => None,
    };
    let Some((algorithm, value)) = claim else { return Ok(()) };
    if request.too_large {
        return Err(Rejection::forbidden("Content too large"));
    }
    let actual = algorithm.digest(request.signed_body());
    let claimed = decode(value, actual.len()).ok_or_else(|| {
        Rejection::forbidden(format!("Invalid Digest {} encoding", algorithm.name()))
    })?;
    if claimed == actual {
        Ok(())
    } else {
        Err(Rejection::forbidden(format!("Content {} digest value mismatch", algorithm.name())))
    }
}

/// Hex when the text has exactly the length of the hex form, otherwise base64.
fn decode(value: &str, length: usize) -> Option<Vec<u8>> {
    if value.len() == length * 2 { hex::decode(value).ok() } else { base64::decode(value) }
}

#[derive(Clone, Copy)]
enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha",
            Self::Sha256 => "sha-256",
            Self::Sha512 => "sha-512",
        }
    }

    fn digest(self, body: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Md5 => return md5::digest(body).to_vec(),
            Self::Sha1 => &sha::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &sha::SHA256,
            Self::Sha512 => &sha::SHA512,
        };
        sha::digest(algorithm, body).as_ref().to_vec()
    }
}
