//! What the `openssl` command does for the simulator: PKCS#12 stores, and RSA keys, which ring does not make.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// The command is missing, or refused.
#[derive(Debug, thiserror::Error)]
pub enum OpensslError {
    /// Not installed, or not to be talked to.
    #[error("the openssl command cannot be run (package openssl)")]
    NoOpenssl(#[from] io::Error),
    /// It says no.
    #[error("openssl refuses: {0}")]
    Refused(String),
}

/// A PKCS#8 key in PEM.
pub(super) fn rsa_key() -> Result<String, OpensslError> {
    let arguments = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    Ok(String::from_utf8_lossy(&run(&arguments, None, "")?).into_owned())
}

/// A store as SolarNetwork makes it: key and certificate under `node`, the authority under `ca`.
pub(super) fn pkcs12(
    key: &str,
    certificate: &str,
    authority: &str,
    password: &str,
) -> Result<Vec<u8>, OpensslError> {
    let folder = tempfile::tempdir()?;
    for (name, text) in [("key", key), ("certificate", certificate), ("authority", authority)] {
        std::fs::write(folder.path().join(name), text)?;
    }
    let arguments = "pkcs12 -export -name node -caname ca -inkey key -in certificate \
        -certfile authority -passout stdin";
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    run(&arguments, Some(folder.path()), password)
}

/// What a store holds under `node`, both in PEM.
pub(super) struct Opened {
    pub(super) key: String,
    pub(super) certificate: String,
}

/// Opens a store; a refusal says what is missing in it.
pub(super) fn open_pkcs12(store: &[u8], password: &str) -> Result<Opened, OpensslError> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("store"), store)?;
    let open = |more: &[&str]| {
        let arguments = ["pkcs12", "-in", "store", "-passin", "stdin", "-nodes"];
        let arguments: Vec<&str> = arguments.iter().chain(more).copied().collect();
        run(&arguments, Some(folder.path()), password)
    };
    // Old stores are encrypted in a way that has to be asked for.
    let text = open(&[]).or_else(|error| open(&["-legacy"]).map_err(|_| error))?;
    let text = String::from_utf8_lossy(&text);
    let named = |label: &str| {
        let found = bags(&text).into_iter().find(|bag| bag.label == label && bag.name == "node");
        found.map(|bag| bag.pem).ok_or_else(|| {
            OpensslError::Refused(format!("the store has no {label} with the alias node"))
        })
    };
    Ok(Opened { key: named("PRIVATE KEY")?, certificate: named("CERTIFICATE")? })
}

struct Bag {
    name: String,
    label: String,
    pem: String,
}

/// Each PEM block with the friendly name that was printed before it.
fn bags(text: &str) -> Vec<Bag> {
    let (mut bags, mut name, mut open) = (Vec::new(), String::new(), None::<Bag>);
    for line in text.lines() {
        if let Some(friendly) = line.trim().strip_prefix("friendlyName: ") {
            friendly.clone_into(&mut name);
        }
        if let Some(label) = line.strip_prefix("-----BEGIN ") {
            let label = label.trim_end_matches('-').to_owned();
            open = Some(Bag { name: std::mem::take(&mut name), label, pem: String::new() });
        }
        if let Some(bag) = &mut open {
            bag.pem.push_str(line);
            bag.pem.push('\n');
        }
        if line.starts_with("-----END ") {
            bags.extend(open.take());
        }
    }
    bags
}

/// Runs it with a line of input; gives what it prints.
fn run(arguments: &[&str], folder: Option<&Path>, input: &str) -> Result<Vec<u8>, OpensslError> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends before it reads says why below.
        drop(writeln!(stdin, "{input}"));
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(OpensslError::Refused(said.lines().next().unwrap_or("it does not say why").to_owned()))
}
