//! From what an operator or a server hands over to certificates and a key: PEM, PKCS#12, DER. Pure.
//!
//! Files may be given in any order and with anything else in them. What is made of them is checked in
//! [`super::check`].

use zeroize::Zeroizing;

use super::{
    asn1::Malformed,
    certificate::Certificate,
    key::{Form, PrivateKey},
    pem, pkcs7,
    pkcs12::{self, Pkcs12Error, Work},
};

/// The most certificates and the most keys that are taken: a node has a chain of four and one key.
const MOST: usize = 16;

/// Certificates and keys as they came.
#[derive(Debug, Default)]
pub struct Material {
    /// Certificates, in no order that means anything.
    pub certificates: Vec<Certificate>,
    /// Private keys.
    pub keys: Vec<PrivateKey>,
}

/// Why nothing could be made of a file. No message holds anything secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// It is neither PEM nor PKCS#12, nor certificates in DER.
    #[error(
        "it is neither PEM nor a PKCS#12 store; `keytool -importkeystore -deststoretype PKCS12` makes one \
         of a Java store, and `openssl pkey -inform DER` PEM of a key in DER"
    )]
    Neither,
    /// Nothing at all.
    #[error("nothing came: it is empty")]
    Empty,
    /// The password of a key does not fit.
    #[error("the password is not that of the private key")]
    KeyPassword,
    /// There is a PEM block that cannot be read.
    #[error("the PEM block `{label}` in it is damaged")]
    Block {
        /// The block's label.
        label: String,
    },
    /// A key is encrypted in a way that is not known here, such as the old one of OpenSSL's.
    #[error(
        "its private key is encrypted in a way that is not supported; \
         write it anew with `openssl pkcs8 -topk8 -in FILE`"
    )]
    KeyEncryption,
    /// More than anybody has.
    #[error(
        "there are more than {MOST} certificates or keys in it: leave only the node's certificate, its chain and key"
    )]
    TooMany,
    /// A password is needed.
    #[error("it is protected with a password: name a file that holds it with --password-file")]
    PasswordMissing,
    /// A store that cannot be opened.
    #[error(transparent)]
    Store(#[from] Pkcs12Error),
    /// Something in it is not what it should be.
    #[error("a certificate in it is damaged: {0}")]
    Malformed(Malformed),
}

impl Material {
    /// Adds what is in one file. `password` is asked for where the file needs one.
    ///
    /// # Errors
    ///
    /// If there is nothing that can be used, or something that is damaged.
    pub fn add<E: From<MaterialError>>(
        &mut self,
        bytes: &[u8],
        password: impl FnOnce() -> Result<Option<Zeroizing<String>>, E>,
    ) -> Result<(), E> {
        if bytes.is_empty() {
            return Err(MaterialError::Empty.into());
        }
        if looks_like_store(bytes) {
            let password = password()?.ok_or(MaterialError::PasswordMissing)?;
            return self.add_store(bytes, &password).map_err(E::from);
        }
        let text = ascii(bytes);
        if !text.contains("-----BEGIN ") {
            return self.add_certificate_or_chain(bytes).map_err(|error| match error {
                MaterialError::Malformed(_) => MaterialError::Neither.into(),
                error => error.into(),
            });
        }
        let blocks = pem::blocks(&text);
        let is_locked = |block: &pem::Block| block.label == "ENCRYPTED PRIVATE KEY";
        let password = if blocks.iter().any(is_locked) {
            Some(password()?.ok_or(MaterialError::PasswordMissing)?)
        } else {
            None
        };
        let mut work = Work::default();
        for block in blocks {
            self.add_block(block, password.as_ref(), &mut work)?;
        }
        Ok(())
    }

    /// Adds what is in a PKCS#12 store.
    ///
    /// # Errors
    ///
    /// If it cannot be opened, or a certificate in it is none.
    pub fn add_store(&mut self, bytes: &[u8], password: &str) -> Result<(), MaterialError> {
        let contents = pkcs12::read(bytes, password)?;
        for der in &contents.certificates {
            self.add_certificate(der)?;
        }
        contents.keys.into_iter().try_for_each(|der| self.add_key(Form::Pkcs8, der))
    }

    fn add_block(
        &mut self,
        block: pem::Block,
        password: Option<&Zeroizing<String>>,
        work: &mut Work,
    ) -> Result<(), MaterialError> {
        let form = match block.label.as_str() {
            "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => Some(Form::Pkcs8),
            "RSA PRIVATE KEY" => Some(Form::Pkcs1),
            "EC PRIVATE KEY" => Some(Form::Sec1),
            "CERTIFICATE" | "CERTIFICATE CHAIN" | "X509 CERTIFICATE" | "PKCS7" | "CMS" => None,
            // Parameters of curves, requests, whatever else programs put beside.
            _ => return Ok(()),
        };
        let Some(body) = block.body else {
            return Err(match form {
                Some(_) => MaterialError::KeyEncryption,
                None => MaterialError::Block { label: block.label },
            });
        };
        match (form, password) {
            (Some(form), Some(password)) if block.label.starts_with("ENCRYPTED") => {
                let der =
                    pkcs12::decrypt_key(&body, password, work).map_err(|error| match error {
                        Pkcs12Error::Password => MaterialError::KeyPassword,
                        Pkcs12Error::Unsupported { .. } => MaterialError::KeyEncryption,
                        Pkcs12Error::Malformed(_) => MaterialError::Block { label: block.label },
                    })?;
                self.add_key(form, der)
            }
            (Some(form), _) => self.add_key(form, body),
            (None, _) => self.add_certificate_or_chain(&body),
        }
    }

    fn add_key(&mut self, form: Form, der: Zeroizing<Vec<u8>>) -> Result<(), MaterialError> {
        if self.keys.len() == MOST {
            return Err(MaterialError::TooMany);
        }
        self.keys.push(PrivateKey { form, der });
        Ok(())
    }

    /// SolarNetwork puts PKCS#7 under the label of a certificate.
    fn add_certificate_or_chain(&mut self, der: &[u8]) -> Result<(), MaterialError> {
        match pkcs7::certificates(der) {
            Ok(chain) => chain.iter().try_for_each(|der| self.add_certificate(der)),
            Err(_) => self.add_certificate(der),
        }
    }

    fn add_certificate(&mut self, der: &[u8]) -> Result<(), MaterialError> {
        let certificate = Certificate::from_der(der).map_err(MaterialError::Malformed)?;
        if !self.certificates.contains(&certificate) {
            if self.certificates.len() == MOST {
                return Err(MaterialError::TooMany);
            }
            self.certificates.push(certificate);
        }
        Ok(())
    }
}

/// The text of a PEM file, which is ASCII whatever stands around its blocks; editors may have made UTF-16 of it.
fn ascii(bytes: &[u8]) -> Zeroizing<String> {
    // Room from the start: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(bytes.len()));
    let shown = |byte: &u8| if byte.is_ascii() { char::from(*byte) } else { '?' };
    text.extend(bytes.iter().filter(|byte| **byte != 0).map(shown));
    text
}

/// A SEQUENCE that begins with version 3.
fn looks_like_store(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(10)];
    head.first() == Some(&0x30) && head.windows(3).any(|window| window == [0x02, 0x01, 0x03])
}
