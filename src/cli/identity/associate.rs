//! `identity associate`: this machine becomes a new node, with an invitation.

use std::{
    io::Read as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use super::{Exit, Failure, IdentityContext, OrStoreExit as _, Slot, Streams, refused, trouble};
use crate::{
    cli::{
        OrExit,
        token::{block_on, open, readable},
    },
    clock::Clock,
    domain::NodeId,
    identity::{
        Invitation,
        associate::{Accepted, Association, Record},
        calls::Trouble,
        check::assemble,
    },
    net::Net,
};

/// Longest invitation read.
const MAX_BYTES: u64 = 64 * 1024;

/// How often it is asked whether the certificate is there.
const EVERY: Duration = Duration::from_secs(5);

/// Become a new node: take up an invitation and install the certificate that comes of it
///
/// Shows what SolarNetwork says of itself, to be compared with the page that made the invitation, and asks before it goes
/// on. Run it again with the same invitation if it was interrupted.
#[derive(Debug, Args)]
#[command(after_help = "\
An invitation lets whoever has it become the node. It is good for a week, and for one node. Without a terminal nobody
can be asked, so that --yes is needed there.

Example:
  solarnode-agent identity associate --yes < invitation.txt")]
pub(super) struct Associate {
    /// Read the invitation from this file [default: standard input]
    #[arg(long, value_name = "FILE")]
    invitation_file: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Put the new node's certificate in the place of the one on this device
    #[arg(long)]
    replace: bool,
    /// Seconds to wait for the certificate
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    wait: u64,
}

impl Associate {
    pub(super) fn run(
        self,
        streams: &mut Streams<'_>,
        context: &IdentityContext,
    ) -> Result<Exit, Failure> {
        let invitation = self.read(streams)?;
        let (clock, solarnet) = (Clock::untold(), &context.solarnet);
        let net = Net::new(solarnet.ca_file.as_ref(), solarnet.timeout, clock.clone());
        let association = Association {
            net: &net.or_exit(Exit::Config)?,
            in_url: &solarnet.in_url,
            user_url: &solarnet.user_url,
            invitation: &invitation,
        };
        refuse_other_network(&invitation, &solarnet.in_url)?;
        if let (false, Ok(stored)) = (self.replace, context.stored()) {
            let message = format!(
                "this device has the certificate of {} until {}: --replace puts another one in its place",
                stored.leaf().subject(),
                readable(stored.ends())
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        let record = self.agree(streams, context, &association, &clock)?;
        let accepted = block_on(self.certificate(&association, &record))?.map_err(trouble)?;
        let (Some(store), Some(node)) = (accepted.store, accepted.node.or(context.node)) else {
            return Err(Failure::new(
                Exit::Unavailable,
                format!(
                    "the certificate{} is not issued yet: run this again with the same invitation",
                    accepted.node.map(|node| format!(" of node {node}")).unwrap_or_default()
                ),
            ));
        };
        let material = Association::open(&store, &record).or_exit(Exit::Data)?;
        let certificate = assemble(&material).map_err(|complaint| refused(&complaint))?;
        context.install(streams, &certificate, node)?;
        context.store().forget_identity(Slot::Association).or_store_exit()?;
        let until = readable(certificate.ends());
        writeln!(streams.out, "this machine is node {node}, by its certificate until {until}")?;
        if context.node != Some(node) {
            let now = context.node.map_or("nothing".to_owned(), |node: NodeId| node.to_string());
            writeln!(
                streams.err,
                "note: `node.id` in the configuration is {now}; set it to {node} before the daemon is started"
            )?;
        }
        context.tell_daemon(streams, "the running daemon uses it from now on")?;
        Ok(Exit::Ok)
    }

    fn read(&self, streams: &mut Streams<'_>) -> Result<Invitation, Failure> {
        let mut text = Zeroizing::new(String::with_capacity(4096));
        let read = match &self.invitation_file {
            Some(path) => open(path)?.take(MAX_BYTES).read_to_string(&mut text),
            None => {
                streams.input.ask_for("invitation");
                (&mut *streams.input).take(MAX_BYTES).read_to_string(&mut text)
            }
        };
        read.context("could not read the invitation").or_exit(Exit::Usage)?;
        if text.trim().is_empty() {
            let message =
                "nothing came: give the invitation on standard input or with --invitation-file";
            return Err(Failure::new(Exit::Usage, message));
        }
        Invitation::parse(&text).or_exit(Exit::Usage)
    }

    /// Shows who invites whom, and comes back with the password once it is on disk.
    fn agree(
        &self,
        streams: &mut Streams<'_>,
        context: &IdentityContext,
        association: &Association<'_>,
        clock: &Clock,
    ) -> Result<Record, Failure> {
        let invitation = association.invitation;
        let kept = context.store().load_identity(Slot::Association).or_store_exit()?;
        if let Some(record) = kept.and_then(|kept| Record::from_bytes(&kept.bytes, invitation)) {
            writeln!(streams.err, "this invitation was taken up before; the rest is done now")?;
            return Ok(record);
        }
        let document = block_on(association.look())?.map_err(trouble)?;
        if let Some(ended) = invitation.expiration.filter(|at| *at < clock.believed_now()) {
            let message =
                format!("the invitation ended on {}: have another one made", readable(ended));
            return Err(Failure::new(Exit::NoPermission, message));
        }
        let said = document.identity_key.unwrap_or_default();
        if said != invitation.identity_key {
            return Err(Failure::new(
                Exit::NoPermission,
                format!(
                    "{} says that its identity key is {said:?}, and the invitation says {:?}: \
                     they are not of the same network",
                    association.in_url, invitation.identity_key
                ),
            ));
        }
        let rows = [
            ("network", invitation.host.as_str()),
            ("identity key", said.as_str()),
            ("invited by", invitation.username.as_str()),
            ("security phrase", document.security_phrase.as_deref().unwrap_or("-")),
        ];
        for (title, value) in rows {
            // Both the invitation's and the server's words are foreign.
            let value: String = value.chars().filter(|c| !c.is_control()).take(200).collect();
            writeln!(streams.err, "{title:<17}{value}")?;
        }
        let question =
            "Does SolarNetwork's page show the same, and is this machine to become that node?";
        if !self.yes && (streams.confirm)(question)? != Some(true) {
            let message = "nothing was done; --yes goes on without asking";
            return Err(Failure::new(Exit::Usage, message));
        }
        let record = Record::new().map_err(trouble)?;
        let kept = record.to_bytes(invitation);
        context.store().save_identity(Slot::Association, &kept).or_store_exit()?;
        Ok(record)
    }

    /// Takes the invitation up and waits for the certificate.
    async fn certificate(
        &self,
        association: &Association<'_>,
        record: &Record,
    ) -> Result<Accepted, Trouble> {
        let until = Instant::now() + Duration::from_secs(self.wait);
        // An answer that got lost leaves an invitation that is taken up already.
        let mut accepted = match association.take_up(record).await {
            Err(refused @ Trouble::Refused(_)) => {
                association.fetch(record).await.map_err(|_| refused)?
            }
            other => other?,
        };
        while accepted.store.is_none() && Instant::now() < until {
            tokio::time::sleep(EVERY.min(until - Instant::now())).await;
            let node = accepted.node;
            match association.fetch(record).await {
                Ok(fetched) => accepted = fetched,
                // It may not be there yet.
                Err(Trouble::Passing(_) | Trouble::Refused(_)) => {}
            }
            accepted.node = accepted.node.or(node);
        }
        Ok(accepted)
    }
}

/// An invitation of another network than the configured one.
fn refuse_other_network(invitation: &Invitation, in_url: &str) -> Result<(), Failure> {
    let after = in_url.split_once("://").map_or(in_url, |(_, after)| after);
    let authority = after.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    if host.eq_ignore_ascii_case(&invitation.host) {
        return Ok(());
    }
    let message = format!(
        "the invitation is one of {:?}, and `solarnet.in_url` is {in_url}: \
         configure the network that the invitation comes from",
        invitation.host
    );
    Err(Failure::new(Exit::Config, message))
}
