//! `identity`: the node's certificate on this device.
//!
//! Keys and passwords come from files or standard input, never from the arguments, which everyone on the machine can
//! read; nothing here prints one. After a change of the store a running daemon is told.

mod associate;
mod check;
mod import;
mod show;

use std::{io, path::PathBuf};

use clap::{Args, Subcommand};

use super::{
    Exit, Failure,
    daemon::certificate_in_use,
    token::{OrStoreExit, Streams, store_exit},
};
use crate::{
    clock::Clock,
    config::settings::{self, SolarNet},
    credential::{
        Store,
        store::{Origin, identity::Slot},
    },
    domain::NodeId,
    identity::{
        NodeCertificate,
        calls::{Calls, Trouble},
        check::{Complaint, judge},
        keeper::{LoadError, load},
    },
    observe::control::tell_identity_changed,
};

/// Look after the certificate that makes this machine a node
///
/// SolarIn and SolarNetwork's brokers know a node by its certificate. Uploads with `upload.via = "bulk"` or
/// `"mqtt"` need one, and so does [flux]; the token's way in does not.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  solarnode-agent identity check")]
pub struct Identity {
    #[command(subcommand)]
    command: IdentityCommand,
}

#[derive(Debug, Subcommand)]
enum IdentityCommand {
    Import(import::Import),
    Associate(associate::Associate),
    Show(show::Show),
    Check(check::Check),
    Forget(show::Forget),
}

/// What these commands need of the configuration.
#[derive(Debug, Clone)]
pub struct IdentityContext {
    /// Where everything that must survive lives; the store is in it.
    pub state_dir: PathBuf,
    /// Where a running daemon listens.
    pub control_socket: PathBuf,
    /// How SolarNetwork is reached.
    pub solarnet: SolarNet,
    /// Whose certificate it has to be, if the file says so.
    pub node: Option<NodeId>,
    /// What is to be done before it ends, if the whole configuration is right.
    pub identity: Option<settings::Identity>,
    /// What systemd passed to the daemon, where a person named that folder as `$CREDENTIALS_DIRECTORY`.
    pub passed: Option<PathBuf>,
}

impl Identity {
    /// Does what was asked.
    ///
    /// # Errors
    ///
    /// With the exit code to end with and the reason to print.
    pub fn run(
        self,
        streams: &mut Streams<'_>,
        context: &IdentityContext,
    ) -> Result<Exit, Failure> {
        match self.command {
            IdentityCommand::Import(import) => import.run(streams, context),
            IdentityCommand::Associate(associate) => associate.run(streams, context),
            IdentityCommand::Show(show) => show.run(streams, context),
            IdentityCommand::Check(check) => check.run(streams, context),
            IdentityCommand::Forget(forget) => forget.run(streams, context),
        }
    }
}

impl IdentityContext {
    fn store(&self) -> Store {
        Store::new(&self.state_dir, self.passed.clone())
    }

    fn node(&self) -> Result<NodeId, Failure> {
        self.node.ok_or_else(|| {
            let message = "the configuration names no node: set `node.id` in the section [node]";
            Failure::new(Exit::Config, message)
        })
    }

    /// The stored certificate; it is an error if there is none.
    fn stored(&self) -> Result<NodeCertificate, Failure> {
        let found = load(&self.store(), Slot::Current).map_err(|error| Failure {
            exit: match &error {
                LoadError::Store(error) => store_exit(error),
                LoadError::Unusable { .. } => Exit::Data,
                LoadError::OtherNode(_) => Exit::Config,
            },
            error: error.into(),
        })?;
        let found = found.map(|(certificate, _): (_, Origin)| certificate);
        found.ok_or_else(|| {
            let message = match certificate_in_use(&self.control_socket) {
                Some(passed) => format!(
                    "the certificate of {} is not in the store: systemd passed it to the running daemon alone \
                     (LoadCredential=node-certificate:). `solarnode-agent status` says how it is; root can examine it with \
                     `sudo env CREDENTIALS_DIRECTORY=/run/credentials/solarnode-agent.service solarnode-agent identity check`",
                    passed["subject"].as_str().unwrap_or_default()
                ),
                None => "no certificate on this device: `solarnode-agent identity import FILE` installs one, \
                         `solarnode-agent identity associate` gets the first one of a new node"
                    .to_owned(),
            };
            Failure::new(Exit::Config, message)
        })
    }

    fn calls(&self, clock: Clock) -> Calls {
        let SolarNet { in_url, ca_file, timeout, .. } = self.solarnet.clone();
        Calls { in_url, ca_file, timeout, clock }
    }

    /// Puts a certificate into the store if it is right for `node`, and says what is odd about it.
    fn install(
        &self,
        streams: &mut Streams<'_>,
        certificate: &NodeCertificate,
        node: NodeId,
    ) -> Result<(), Failure> {
        let complaints = judge(certificate, node, Clock::untold().believed_now());
        let (faults, remarks): (Vec<_>, Vec<_>) =
            complaints.iter().partition(|complaint| complaint.is_final());
        if let Some((last, others)) = faults.split_last() {
            for fault in others {
                writeln!(streams.err, "{fault}")?;
            }
            return Err(refused(last));
        }
        for remark in remarks {
            let kind = if remark.is_remark() { "note" } else { "warning" };
            writeln!(streams.err, "{kind}: {remark}")?;
        }
        let store = self.store();
        store.save_identity(Slot::Current, certificate.to_pem().as_bytes()).or_store_exit()?;
        // A renewed one of the certificate before would take the place of this one.
        store.forget_identity(Slot::Next).or_store_exit()?;
        Ok(())
    }

    /// Tells a running daemon that the certificate changed. None running is fine.
    fn tell_daemon(&self, streams: &mut Streams<'_>, what: &str) -> io::Result<()> {
        match tell_identity_changed(&self.control_socket) {
            Ok(true) => writeln!(streams.err, "{what}"),
            Ok(false) => Ok(()),
            Err(error) => {
                writeln!(streams.err, "warning: {error}; restart it to use the change")
            }
        }
    }
}

fn refused(complaint: &Complaint) -> Failure {
    Failure::new(Exit::Usage, format!("nothing was stored: {complaint}"))
}

/// The exit code of a call without success.
fn trouble(trouble: Trouble) -> Failure {
    let exit = match &trouble {
        Trouble::Passing(_) => Exit::Unavailable,
        Trouble::Refused(_) => Exit::NoPermission,
    };
    Failure { exit, error: trouble.into() }
}
