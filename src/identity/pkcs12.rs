//! PKCS#12, the key stores of Java and OpenSSL: keys and certificates behind a password. Pure.
//!
//! Read is what those two and BouncyCastle write, old and new:
//!
//! | Encryption | Found in |
//! | --- | --- |
//! | PBES2: PBKDF2 with HMAC-SHA1 to -SHA512, AES-128, -192 or -256 in CBC mode, Triple DES | Java 17, OpenSSL 3 |
//! | PBE with SHA-1 and Triple DES, RC2 of 40 and 128 bits | older ones, `openssl pkcs12 -legacy` |
//! | none | some test stores |
//!
//! and BER as well as DER. A store without a MAC is read; one whose MAC does not fit was given the wrong password.
//! Written is PBES2 with AES-256 and SHA-256. Work is bounded: a store may ask for three million rounds in all ([`Work`]).

use std::num::NonZeroU32;

use cbc::cipher::{
    BlockCipherDecrypt, BlockModeDecrypt, BlockModeEncrypt, KeyInit, KeyIvInit,
    block_padding::Pkcs7,
};
use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use super::asn1::{
    BMP_STRING, Element, INTEGER, Malformed, NULL, OCTET_STRING, OID, Reader, SEQUENCE, SET,
    around, context, context_primitive, element, integer, joined, to_der,
};

/// The most rounds of all the key derivations of one file together, so that a broken one cannot keep the processor for
/// hours: a million each for the MAC, the certificates and the key.
const MAX_ROUNDS: u32 = 3_000_000;

/// The rounds of what is written here: what Java takes.
const ROUNDS: u32 = 10_000;

/// Random bytes that writing a store takes.
pub const RANDOM: usize = 80;

/// Why nothing could be taken out of a store. No message holds the password or what it protects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Pkcs12Error {
    /// It is no PKCS#12, or a damaged one.
    #[error("it is not a PKCS#12 store: {0}")]
    Malformed(Malformed),
    /// The password does not fit.
    #[error("the password is not that of the PKCS#12 store")]
    Password,
    /// It uses something that is not known here.
    #[error(
        "the PKCS#12 store is protected in a way that is not supported ({what}); \
         write it anew with `openssl pkcs12`"
    )]
    Unsupported {
        /// What.
        what: String,
    },
}

impl From<Malformed> for Pkcs12Error {
    /// Not as its cause: the message names it.
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// The rounds that are left for one file.
#[derive(Debug)]
pub(super) struct Work(u32);

impl Default for Work {
    fn default() -> Self {
        Self(MAX_ROUNDS)
    }
}

impl Work {
    /// Takes what this derivation asks for.
    fn take(&mut self, rounds: Element<'_>) -> Result<NonZeroU32, Pkcs12Error> {
        let rounds =
            rounds.number().and_then(NonZeroU32::new).ok_or(Malformed("a number of rounds"))?;
        let too_many = || Pkcs12Error::Unsupported { what: format!("over {MAX_ROUNDS} rounds") };
        self.0 = self.0.checked_sub(rounds.get()).ok_or_else(too_many)?;
        Ok(rounds)
    }
}

/// What was in a store.
#[derive(Default)]
pub struct Contents {
    /// Private keys, as PKCS#8.
    pub keys: Vec<Zeroizing<Vec<u8>>>,
    /// Certificates, as DER.
    pub certificates: Vec<Vec<u8>>,
}

mod oid {
    pub(super) const DATA: &str = "1.2.840.113549.1.7.1";
    pub(super) const ENCRYPTED_DATA: &str = "1.2.840.113549.1.7.6";
    pub(super) const KEY_BAG: &str = "1.2.840.113549.1.12.10.1.1";
    pub(super) const SHROUDED_KEY_BAG: &str = "1.2.840.113549.1.12.10.1.2";
    pub(super) const CERT_BAG: &str = "1.2.840.113549.1.12.10.1.3";
    pub(super) const X509: &str = "1.2.840.113549.1.9.22.1";
    pub(super) const FRIENDLY_NAME: &str = "1.2.840.113549.1.9.20";
    pub(super) const LOCAL_KEY_ID: &str = "1.2.840.113549.1.9.21";
    pub(super) const PBES2: &str = "1.2.840.113549.1.5.13";
    pub(super) const PBKDF2: &str = "1.2.840.113549.1.5.12";
    pub(super) const PBE_3DES: &str = "1.2.840.113549.1.12.1.3";
    pub(super) const PBE_RC2_128: &str = "1.2.840.113549.1.12.1.5";
    pub(super) const PBE_RC2_40: &str = "1.2.840.113549.1.12.1.6";
    pub(super) const HMAC_SHA1: &str = "1.2.840.113549.2.7";
    pub(super) const HMAC_SHA256: &str = "1.2.840.113549.2.9";
    pub(super) const HMAC_SHA384: &str = "1.2.840.113549.2.10";
    pub(super) const HMAC_SHA512: &str = "1.2.840.113549.2.11";
    pub(super) const AES128: &str = "2.16.840.1.101.3.4.1.2";
    pub(super) const AES192: &str = "2.16.840.1.101.3.4.1.22";
    pub(super) const AES256: &str = "2.16.840.1.101.3.4.1.42";
    pub(super) const TRIPLE_DES: &str = "1.2.840.113549.3.7";
    pub(super) const SHA1: &str = "1.3.14.3.2.26";
    pub(super) const SHA256: &str = "2.16.840.1.101.3.4.2.1";
    pub(super) const SHA384: &str = "2.16.840.1.101.3.4.2.2";
    pub(super) const SHA512: &str = "2.16.840.1.101.3.4.2.3";
}

/// Takes everything out of a store.
///
/// # Errors
///
/// If it is none, the password does not fit, or something in it is not known here.
pub fn read(bytes: &[u8], password: &str) -> Result<Contents, Pkcs12Error> {
    let mut work = Work::default();
    let der = to_der(bytes).ok_or(Malformed("the store"))?;
    let mut pfx = Reader::new(&der).sequence("the store")?;
    pfx.expect(INTEGER, "the version")?;
    let (kind, content) = content_info(pfx.sequence("the contents")?)?;
    if kind != oid::DATA {
        return Err(unsupported("signed with a key", &kind));
    }
    let safe = content.inside().expect(OCTET_STRING, "the contents")?.contents;
    if let Some(mac) = pfx.optional(SEQUENCE, "the MAC")? {
        check_mac(mac.inside(), safe, password, &mut work)?;
    }
    let safe = to_der(safe).ok_or(Malformed("the contents"))?;
    let mut infos = Reader::new(&safe).sequence("the contents")?;
    let mut contents = Contents::default();
    while !infos.is_empty() {
        let (kind, content) = content_info(infos.sequence("a part")?)?;
        match kind.as_str() {
            oid::DATA => {
                let bags = content.inside().expect(OCTET_STRING, "a part")?.contents;
                read_bags(bags, password, &mut work, &mut contents)?;
            }
            oid::ENCRYPTED_DATA => {
                let bags = decrypt_part(content, password, &mut work)?;
                read_bags(&bags, password, &mut work, &mut contents)?;
            }
            _ => return Err(unsupported("content", &kind)),
        }
    }
    Ok(contents)
}

/// Takes a key out of PKCS#8 that is encrypted with a password.
///
/// # Errors
///
/// As [`read`].
pub(super) fn decrypt_key(
    der: &[u8],
    password: &str,
    work: &mut Work,
) -> Result<Zeroizing<Vec<u8>>, Pkcs12Error> {
    let mut parts = Reader::new(der).sequence("the encrypted key")?;
    let algorithm = parts.expect(SEQUENCE, "the encryption")?;
    let data = parts.expect(OCTET_STRING, "the encrypted key")?.contents;
    decrypt(algorithm, data, password, work)
}

fn unsupported(what: &str, oid: &str) -> Pkcs12Error {
    Pkcs12Error::Unsupported { what: format!("{what} {oid}") }
}

fn oid_of(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    Ok(super::asn1::dotted(reader.expect(OID, "an identifier")?.contents))
}

/// Kind and content of a ContentInfo.
fn content_info(mut info: Reader<'_>) -> Result<(String, Element<'_>), Malformed> {
    Ok((oid_of(&mut info)?, info.expect(context(0), "the content")?))
}

fn decrypt_part(
    content: Element<'_>,
    password: &str,
    work: &mut Work,
) -> Result<Zeroizing<Vec<u8>>, Pkcs12Error> {
    let mut data = content.inside().sequence("encrypted data")?;
    data.expect(INTEGER, "the version")?;
    let mut info = data.sequence("encrypted data")?;
    oid_of(&mut info)?;
    let algorithm = info.expect(SEQUENCE, "the encryption")?;
    let encrypted = info.any("encrypted data")?;
    let bad = Malformed("encrypted data");
    if encrypted.tag == context_primitive(0) {
        decrypt(algorithm, encrypted.contents, password, work)
    } else if encrypted.tag == context(0) {
        let whole = joined(encrypted.contents).ok_or(bad)?;
        decrypt(algorithm, &whole, password, work)
    } else {
        Err(bad.into())
    }
}

fn read_bags(
    bytes: &[u8],
    password: &str,
    work: &mut Work,
    into: &mut Contents,
) -> Result<(), Pkcs12Error> {
    // Decrypted with the wrong key, it may be anything that ends in the right padding.
    let der = to_der(bytes).ok_or(Pkcs12Error::Password)?;
    let mut bags = Reader::new(&der).sequence("the entries")?;
    while !bags.is_empty() {
        let mut bag = bags.sequence("an entry")?;
        let kind = oid_of(&mut bag)?;
        let value = bag.expect(context(0), "an entry")?;
        match kind.as_str() {
            oid::KEY_BAG => into.keys.push(Zeroizing::new(value.contents.to_vec())),
            oid::SHROUDED_KEY_BAG => into.keys.push(decrypt_key(value.contents, password, work)?),
            oid::CERT_BAG => {
                let mut certificate = value.inside().sequence("a certificate")?;
                if oid_of(&mut certificate)? == oid::X509 {
                    let mut inside = certificate.expect(context(0), "a certificate")?.inside();
                    let der = inside.expect(OCTET_STRING, "a certificate")?.contents;
                    into.certificates.push(der.to_vec());
                }
            }
            // Secrets and revocation lists are no business of a node's identity.
            _ => {}
        }
    }
    Ok(())
}

fn check_mac(
    mut mac: Reader<'_>,
    safe: &[u8],
    password: &str,
    work: &mut Work,
) -> Result<(), Pkcs12Error> {
    let mut info = mac.sequence("the MAC")?;
    let kind = oid_of(&mut info.sequence("the MAC's algorithm")?)?;
    let expected = info.expect(OCTET_STRING, "the MAC")?.contents;
    let salt = mac.expect(OCTET_STRING, "the MAC's salt")?.contents;
    let rounds = match mac.optional(INTEGER, "the MAC's rounds")? {
        Some(rounds) => work.take(rounds)?,
        None => NonZeroU32::MIN,
    };
    let (digest, hmac) = match kind.as_str() {
        oid::SHA1 => (&digest::SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        oid::SHA256 => (&digest::SHA256, hmac::HMAC_SHA256),
        oid::SHA384 => (&digest::SHA384, hmac::HMAC_SHA384),
        oid::SHA512 => (&digest::SHA512, hmac::HMAC_SHA512),
        other => return Err(unsupported("MAC", other)),
    };
    let key = derive(digest, Purpose::Mac, password, salt, rounds, digest.output_len());
    hmac::verify(&hmac::Key::new(hmac, &key), safe, expected).map_err(|_| Pkcs12Error::Password)
}

fn decrypt(
    algorithm: Element<'_>,
    data: &[u8],
    password: &str,
    work: &mut Work,
) -> Result<Zeroizing<Vec<u8>>, Pkcs12Error> {
    let mut parts = algorithm.inside();
    let kind = oid_of(&mut parts)?;
    let mut parameters = parts.sequence("the encryption's parameters")?;
    if kind == oid::PBES2 {
        return decrypt_pbes2(parameters, data, password, work);
    }
    let salt = parameters.expect(OCTET_STRING, "the salt")?.contents;
    let rounds = work.take(parameters.expect(INTEGER, "the rounds")?)?;
    let of = |purpose, length| {
        derive(&digest::SHA1_FOR_LEGACY_USE_ONLY, purpose, password, salt, rounds, length)
    };
    let iv = of(Purpose::Iv, 8);
    match kind.as_str() {
        oid::PBE_3DES => decrypt_cbc::<des::TdesEde3>(&of(Purpose::Key, 24), &iv, data),
        oid::PBE_RC2_128 => decrypt_cbc::<rc2::Rc2>(&of(Purpose::Key, 16), &iv, data),
        oid::PBE_RC2_40 => decrypt_cbc::<rc2::Rc2>(&of(Purpose::Key, 5), &iv, data),
        other => Err(unsupported("encryption", other)),
    }
}

fn decrypt_pbes2(
    mut parameters: Reader<'_>,
    data: &[u8],
    password: &str,
    work: &mut Work,
) -> Result<Zeroizing<Vec<u8>>, Pkcs12Error> {
    let mut function = parameters.sequence("the key derivation")?;
    let kind = oid_of(&mut function)?;
    if kind != oid::PBKDF2 {
        return Err(unsupported("key derivation", &kind));
    }
    let mut derivation = function.sequence("the key derivation")?;
    let salt = derivation.expect(OCTET_STRING, "the salt")?.contents;
    let rounds = work.take(derivation.expect(INTEGER, "the rounds")?)?;
    derivation.optional(INTEGER, "the key's length")?;
    let hash = match derivation.optional(SEQUENCE, "the key derivation's hash")? {
        Some(hash) => oid_of(&mut hash.inside())?,
        None => oid::HMAC_SHA1.to_owned(),
    };
    let hash = match hash.as_str() {
        oid::HMAC_SHA1 => pbkdf2::PBKDF2_HMAC_SHA1,
        oid::HMAC_SHA256 => pbkdf2::PBKDF2_HMAC_SHA256,
        oid::HMAC_SHA384 => pbkdf2::PBKDF2_HMAC_SHA384,
        oid::HMAC_SHA512 => pbkdf2::PBKDF2_HMAC_SHA512,
        other => return Err(unsupported("key derivation with", other)),
    };
    let mut scheme = parameters.sequence("the encryption")?;
    let cipher = oid_of(&mut scheme)?;
    let iv = scheme.expect(OCTET_STRING, "the initial vector")?.contents;
    let key = |length| {
        let mut key = Zeroizing::new(vec![0; length]);
        pbkdf2::derive(hash, rounds, salt, password.as_bytes(), &mut key);
        key
    };
    match cipher.as_str() {
        oid::AES128 => decrypt_cbc::<aes::Aes128>(&key(16), iv, data),
        oid::AES192 => decrypt_cbc::<aes::Aes192>(&key(24), iv, data),
        oid::AES256 => decrypt_cbc::<aes::Aes256>(&key(32), iv, data),
        oid::TRIPLE_DES => decrypt_cbc::<des::TdesEde3>(&key(24), iv, data),
        other => Err(unsupported("encryption", other)),
    }
}

fn decrypt_cbc<C: BlockCipherDecrypt + KeyInit>(
    key: &[u8],
    iv: &[u8],
    data: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Pkcs12Error> {
    let cipher = cbc::Decryptor::<C>::new_from_slices(key, iv);
    let cipher = cipher.map_err(|_| Malformed("the initial vector"))?;
    let mut buffer = Zeroizing::new(data.to_vec());
    let length =
        cipher.decrypt_padded::<Pkcs7>(&mut buffer).map_err(|_| Pkcs12Error::Password)?.len();
    buffer.truncate(length);
    Ok(buffer)
}

/// What a derived key is for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Key = 1,
    Iv = 2,
    Mac = 3,
}

/// A key from a password.
///
/// # Source
///
/// RFC 7292, B.2.
fn derive(
    hash: &'static digest::Algorithm,
    purpose: Purpose,
    password: &str,
    salt: &[u8],
    rounds: NonZeroU32,
    length: usize,
) -> Zeroizing<Vec<u8>> {
    let block = hash.block_len();
    let mut units = Zeroizing::new(Vec::with_capacity(2 * password.len() + 2));
    units.extend(password.encode_utf16().flat_map(u16::to_be_bytes));
    units.extend([0, 0]);
    let filled = |bytes: &[u8]| bytes.len().div_ceil(block) * block;
    // Room from the start: a buffer that grows leaves copies behind.
    let mut input = Zeroizing::new(Vec::with_capacity(filled(salt) + filled(&units)));
    for bytes in [salt, &units] {
        input.extend(bytes.iter().copied().cycle().take(filled(bytes)));
    }
    let diversifier = vec![purpose as u8; block];
    let mut key = Zeroizing::new(Vec::with_capacity(length + hash.output_len()));
    loop {
        let mut context = digest::Context::new(hash);
        context.update(&diversifier);
        context.update(&input);
        let mut part = context.finish();
        for _ in 1..rounds.get() {
            part = digest::digest(hash, part.as_ref());
        }
        key.extend_from_slice(part.as_ref());
        if key.len() >= length {
            key.truncate(length);
            return key;
        }
        // Each block of the input plus what was made, plus one.
        let mut add = Zeroizing::new(vec![0; block]);
        let repeated = part.as_ref().iter().cycle();
        add.iter_mut().zip(repeated).for_each(|(add, byte)| *add = *byte);
        for chunk in input.chunks_mut(block) {
            let mut carry = 1_u16;
            for (byte, add) in chunk.iter_mut().zip(&*add).rev() {
                carry += u16::from(*byte) + u16::from(*add);
                *byte = carry as u8;
                carry >>= 8;
            }
        }
    }
}

/// Writes a store with one key (PKCS#8) and its chain under the alias `node`.
#[must_use]
pub fn write(
    key: &[u8],
    chain: &[impl AsRef<[u8]>],
    password: &str,
    random: &[u8; RANDOM],
) -> Zeroizing<Vec<u8>> {
    let part = |at: usize| &random[16 * at..16 * (at + 1)];
    let local_id = element(OCTET_STRING, &[1]);
    let key_bag = {
        let encrypted = encrypt(key, password, part(0), part(1));
        let shrouded = around(SEQUENCE, &[&encrypted.0, &element(OCTET_STRING, &encrypted.1)]);
        bag(oid::SHROUDED_KEY_BAG, &shrouded, Some(&local_id))
    };
    let certificate = |(at, der): (usize, &_)| {
        let der: &[u8] = AsRef::<[u8]>::as_ref(der);
        let der = around(context(0), &[&element(OCTET_STRING, der)]);
        let bagged = around(SEQUENCE, &[&oid_element(oid::X509), &der]);
        bag(oid::CERT_BAG, &bagged, (at == 0).then_some(&local_id))
    };
    let certificates: Vec<u8> = chain.iter().enumerate().flat_map(certificate).collect();
    let encrypted = encrypt(&element(SEQUENCE, &certificates), password, part(2), part(3));
    let encrypted = around(
        SEQUENCE,
        &[&oid_element(oid::DATA), &encrypted.0, &element(context_primitive(0), &encrypted.1)],
    );
    let encrypted = around(SEQUENCE, &[&integer(0), &encrypted]);
    let plain = element(OCTET_STRING, &element(SEQUENCE, &key_bag));
    let safe =
        around(SEQUENCE, &[&info(oid::DATA, &plain), &info(oid::ENCRYPTED_DATA, &encrypted)]);

    let rounds = NonZeroU32::new(ROUNDS).unwrap_or(NonZeroU32::MIN);
    let mac_key = derive(&digest::SHA256, Purpose::Mac, password, part(4), rounds, 32);
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &mac_key), &safe);
    let algorithm = around(SEQUENCE, &[&oid_element(oid::SHA256), &element(NULL, &[])]);
    let mac = around(SEQUENCE, &[&algorithm, &element(OCTET_STRING, mac.as_ref())]);
    let mac = around(SEQUENCE, &[&mac, &element(OCTET_STRING, part(4)), &integer(ROUNDS)]);
    let safe = info(oid::DATA, &element(OCTET_STRING, &safe));
    Zeroizing::new(around(SEQUENCE, &[&integer(3), &safe, &mac]))
}

fn info(kind: &str, content: &[u8]) -> Vec<u8> {
    around(SEQUENCE, &[&oid_element(kind), &element(context(0), content)])
}

/// A SafeBag, with the alias and the ID that ties key and certificate together where it has one.
fn bag(kind: &str, value: &[u8], local_id: Option<&Vec<u8>>) -> Vec<u8> {
    let attribute =
        |kind, value: &[u8]| around(SEQUENCE, &[&oid_element(kind), &element(SET, value)]);
    let attributes = local_id.map(|id| {
        let alias: Vec<u8> = "node".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let alias = attribute(oid::FRIENDLY_NAME, &element(BMP_STRING, &alias));
        around(SET, &[&alias, &attribute(oid::LOCAL_KEY_ID, id)])
    });
    let value = element(context(0), value);
    around(SEQUENCE, &[&oid_element(kind), &value, &attributes.unwrap_or_default()])
}

/// The algorithm's element, and what it made of `data`.
fn encrypt(data: &[u8], password: &str, salt: &[u8], iv: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let rounds = NonZeroU32::new(ROUNDS).unwrap_or(NonZeroU32::MIN);
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password.as_bytes(), &mut *key);
    let cipher = cbc::Encryptor::<aes::Aes256>::new_from_slices(&*key, iv);
    let cipher = cipher.expect("the key has 32 bytes and the vector 16");
    let mut buffer = Zeroizing::new(data.to_vec());
    // Padding fills up the last block, or makes one more.
    buffer.resize(data.len() / 16 * 16 + 16, 0);
    let encrypted = cipher.encrypt_padded::<Pkcs7>(&mut buffer, data.len());
    let encrypted = encrypted.expect("there is room for the padding").to_vec();

    let hash = around(SEQUENCE, &[&oid_element(oid::HMAC_SHA256), &element(NULL, &[])]);
    let derivation = around(SEQUENCE, &[&element(OCTET_STRING, salt), &integer(ROUNDS), &hash]);
    let derivation = around(SEQUENCE, &[&oid_element(oid::PBKDF2), &derivation]);
    let scheme = around(SEQUENCE, &[&oid_element(oid::AES256), &element(OCTET_STRING, iv)]);
    let parameters = around(SEQUENCE, &[&derivation, &scheme]);
    (around(SEQUENCE, &[&oid_element(oid::PBES2), &parameters]), encrypted)
}

/// An object identifier from its dotted form.
fn oid_element(dotted: &str) -> Vec<u8> {
    let arcs: Vec<u32> = dotted.split('.').filter_map(|arc| arc.parse().ok()).collect();
    let (first, rest) = arcs.split_at(2.min(arcs.len()));
    let first = first.iter().fold(0, |sum, arc| sum * 40 + arc);
    let mut bytes = Vec::new();
    for arc in std::iter::once(&first).chain(rest) {
        let digits = (32 - arc.leading_zeros()).div_ceil(7).max(1);
        for digit in (0..digits).rev() {
            let more = if digit == 0 { 0 } else { 0x80 };
            bytes.push((arc >> (7 * digit)) as u8 & 0x7f | more);
        }
    }
    element(OID, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM_BYTES: [u8; RANDOM] = [7; RANDOM];

    #[test]
    fn what_is_written_is_read_again_with_its_password_alone() {
        let chain = [vec![0x30, 3, 2, 1, 1], vec![0x30, 0]];
        let store = write(&[0x30, 3, 2, 1, 9], &chain, "häm", &RANDOM_BYTES);
        let contents = read(&store, "häm").map_err(|error| error.to_string());
        let contents = contents.expect("the right password");
        assert_eq!(contents.keys, [Zeroizing::new(vec![0x30, 3, 2, 1, 9])]);
        assert_eq!(contents.certificates, chain);
        assert_eq!(read(&store, "ham").err(), Some(Pkcs12Error::Password));
    }

    #[test]
    fn a_store_may_not_ask_for_endless_work() {
        let mut work = Work::default();
        let mut take = |number| {
            let written = integer(number);
            work.take(Reader::new(&written).any("it").expect("a number")).map(NonZeroU32::get)
        };
        assert!(matches!(take(0), Err(Pkcs12Error::Malformed(_))));
        assert!(matches!(take(MAX_ROUNDS + 1), Err(Pkcs12Error::Unsupported { .. })));
        assert_eq!(take(MAX_ROUNDS - 1), Ok(MAX_ROUNDS - 1));
        assert_eq!(take(1), Ok(1));
        assert!(matches!(take(1), Err(Pkcs12Error::Unsupported { .. })), "none are left");
    }

    #[test]
    fn all_the_keys_of_a_store_share_its_rounds() {
        // Each asks for so many that they are over with the third one.
        let mut asks = encrypt(b"key", "p", &[1; 16], &[2; 16]);
        let rounds = integer(ROUNDS);
        let at = asks.0.windows(rounds.len()).position(|part| part == rounds).expect("the rounds");
        let few = [rounds[0], rounds[1], 0x7f, 0xff];
        asks.0[at..at + rounds.len()].copy_from_slice(&few);
        let shrouded = around(SEQUENCE, &[&asks.0, &element(OCTET_STRING, &asks.1)]);
        let mut work = Work(2 * 0x7fff);
        let mut next = || decrypt_key(&shrouded, "p", &mut work).err();
        // Without the right number of rounds the key is another one.
        assert_eq!([next(), next()], [Some(Pkcs12Error::Password), Some(Pkcs12Error::Password)]);
        assert!(matches!(next(), Some(Pkcs12Error::Unsupported { .. })));
    }

    #[test]
    fn stores_of_keytool_are_read() {
        let stores: [&[u8]; 2] = [
            include_bytes!("../../tests/vectors/keytool.p12"),
            include_bytes!("../../tests/vectors/keytool-legacy.p12"),
        ];
        for store in stores {
            let contents = read(store, "test-only").map_err(|error| error.to_string());
            let contents = contents.expect("a store of Java");
            assert_eq!((contents.keys.len(), contents.certificates.len()), (1, 1));
            assert_eq!(read(store, "another").err(), Some(Pkcs12Error::Password));
        }
    }

    #[test]
    fn identifiers_are_written_as_they_are_read() {
        for dotted in [oid::DATA, oid::AES256, oid::SHA1, oid::PBE_3DES] {
            let written = oid_element(dotted);
            assert_eq!(oid_of(&mut Reader::new(&written)), Ok(dotted.to_owned()));
        }
    }
}
