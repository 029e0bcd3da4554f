//! `identity show` and `identity forget`: the store without the network.

use clap::Args;
use serde_json::{Value, json};

use super::{Exit, Failure, IdentityContext, OrStoreExit as _, Slot, Streams};
use crate::{
    cli::token::readable,
    identity::{Certificate, NodeCertificate},
};

/// Show the node's certificate, without its key
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent identity show --json | jq -r .ends")]
pub(super) struct Show {
    /// Print JSON: {node, subject, issuer, serial, not_before, not_after, ends, fingerprint, chain: [{subject, issuer,
    /// serial, not_before, not_after, fingerprint}]}
    #[arg(long)]
    json: bool,
}

/// Remove the node's certificate and key from this device; SolarNetwork still knows it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent identity forget")]
pub(super) struct Forget {}

impl Show {
    pub(super) fn run(
        self,
        streams: &mut Streams<'_>,
        context: &IdentityContext,
    ) -> Result<Exit, Failure> {
        let certificate = context.stored()?;
        if self.json {
            writeln!(streams.out, "{:#}", json(&certificate))?;
            return Ok(Exit::Ok);
        }
        let leaf = certificate.leaf();
        let node = leaf.subject().node().map_or("-".to_owned(), |node| node.to_string());
        let rows = [
            ("node", node),
            ("subject", leaf.subject().to_string()),
            ("issuer", leaf.issuer().to_string()),
            ("serial", leaf.serial()),
            ("from", readable(leaf.not_before())),
            ("until", readable(leaf.not_after())),
            ("SHA-256", leaf.fingerprint()),
        ];
        for (title, value) in rows {
            writeln!(streams.out, "{title:<9}{value}")?;
        }
        for (at, above) in certificate.chain()[1..].iter().enumerate() {
            let title = if at == 0 { "chain" } else { "" };
            let until = readable(above.not_after());
            writeln!(streams.out, "{title:<9}{}, until {until}", above.subject())?;
        }
        Ok(Exit::Ok)
    }
}

fn json(certificate: &NodeCertificate) -> Value {
    let mut shown = one(certificate.leaf());
    shown["node"] = json!(certificate.leaf().subject().node().map(|node| node.number()));
    shown["ends"] = json!(certificate.ends());
    shown["chain"] = certificate.chain()[1..].iter().map(one).collect();
    shown
}

fn one(certificate: &Certificate) -> Value {
    json!({
        "subject": certificate.subject().to_string(),
        "issuer": certificate.issuer().to_string(),
        "serial": certificate.serial(),
        "not_before": certificate.not_before(),
        "not_after": certificate.not_after(),
        "fingerprint": certificate.fingerprint(),
    })
}

impl Forget {
    pub(super) fn run(
        self,
        streams: &mut Streams<'_>,
        context: &IdentityContext,
    ) -> Result<Exit, Failure> {
        let store = context.store();
        // Interrupted, it leaves the one that `identity show` shows.
        store.forget_identity(Slot::Next).or_store_exit()?;
        let was_there = store.forget_identity(Slot::Current).or_store_exit()?;
        if !was_there {
            return Err(Failure::new(Exit::Config, "no certificate on this device"));
        }
        writeln!(streams.out, "certificate and key removed from this device")?;
        context.tell_daemon(streams, "the running daemon has no certificate any more")?;
        Ok(Exit::Ok)
    }
}
