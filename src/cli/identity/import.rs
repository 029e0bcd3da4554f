//! `identity import`: a certificate with its chain and key into the store, checked first.

use std::{
    cell::RefCell,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use super::{Exit, Failure, IdentityContext, Streams, refused};
use crate::{
    cli::{
        OrExit,
        token::{open, read_word, readable},
    },
    identity::{
        check::assemble,
        material::{Material, MaterialError},
    },
};

/// Longest file read: a store of a node has 5 kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Put the node's certificate, its chain and its private key into the store
///
/// PEM files may hold them in any order, the key as PKCS#8, PKCS#1 or SEC 1; a PKCS#12 store (.p12, .pfx) holds all of
/// them behind a password. Nothing is stored unless key, chain, `node.id` and dates fit.
#[derive(Debug, Args)]
#[command(after_help = "\
The owner of a node downloads its store from SolarNetwork. Whoever has it is the node, so delete the file afterwards.

Examples:
  solarnode-agent identity import node-123.p12 < password.txt
  solarnode-agent identity import chain.pem --key-file key.pem")]
pub(super) struct Import {
    /// The file with the certificate; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// A file with the private key, where it is not beside the certificate
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Read the password of the store or key from this file [default: standard input]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Import {
    pub(super) fn run(
        self,
        streams: &mut Streams<'_>,
        context: &IdentityContext,
    ) -> Result<Exit, Failure> {
        let node = context.node()?;
        let before = context.stored().ok();
        let mut material = Material::default();
        let asked = RefCell::new(None);
        for path in std::iter::once(&self.file).chain(&self.key_file) {
            let bytes = if *path == Path::new("-") {
                read(&mut *streams.input, "standard input")?
            } else {
                read(open(path)?, &path.display().to_string())?
            };
            let keys = material.keys.len();
            let password = || self.password(streams, &asked, path).map_err(Wrong::Failure);
            material.add(&bytes, password).map_err(|wrong| match wrong {
                Wrong::Failure(failure) => failure,
                Wrong::Material(error) => {
                    // Nothing came, most likely, where a password was meant to.
                    let is_empty = asked.borrow().as_ref().is_some_and(|word| word.is_empty());
                    let how = if is_empty { " with an empty password" } else { "" };
                    let error = anyhow::Error::from(error);
                    let error = error.context(format!("{} cannot be imported{how}", shown(path)));
                    Failure { exit: Exit::Usage, error }
                }
            })?;
            if self.key_file.as_ref() == Some(path) && material.keys.len() == keys {
                let message = format!("nothing was stored: {} has no private key", shown(path));
                return Err(Failure::new(Exit::Usage, message));
            }
        }
        let certificate = assemble(&material).map_err(|complaint| refused(&complaint))?;
        context.install(streams, &certificate, node)?;
        let leaf = certificate.leaf();
        writeln!(
            streams.out,
            "certificate of node {node} imported: {}, until {}",
            leaf.subject(),
            readable(certificate.ends())
        )?;
        if let Some(before) = before.filter(|before| before.ends() > certificate.ends()) {
            let until = readable(before.ends());
            writeln!(streams.err, "warning: the one before would have ended later, on {until}")?;
        }
        context.tell_daemon(streams, "the running daemon uses it from now on")?;
        Ok(Exit::Ok)
    }

    /// The password of `file`, asked for once however many files want it.
    fn password(
        &self,
        streams: &mut Streams<'_>,
        asked: &RefCell<Option<Zeroizing<String>>>,
        file: &Path,
    ) -> Result<Option<Zeroizing<String>>, Failure> {
        let mut asked = asked.borrow_mut();
        if asked.is_none() {
            *asked = match &self.password_file {
                Some(path) => Some(read_word(open(path)?, &path.display().to_string())?),
                // The certificate came from there.
                None if self.file == Path::new("-") => None,
                None => {
                    streams.input.ask_for(&format!("password of {}", file.display()));
                    Some(read_word(&mut *streams.input, "standard input")?)
                }
            };
        }
        Ok(asked.clone())
    }
}

/// What can go wrong with a file: itself, or how it is asked for its password.
enum Wrong {
    Material(MaterialError),
    Failure(Failure),
}

impl From<MaterialError> for Wrong {
    fn from(error: MaterialError) -> Self {
        Self::Material(error)
    }
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") {
        "what came from standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

fn read(input: impl Read, from: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // Room from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 * 1024));
    let read = input.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("could not read {from}")).or_exit(Exit::Usage)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let message = format!("{from} is longer than any certificate with its key");
        return Err(Failure::new(Exit::Usage, message));
    }
    Ok(bytes)
}
