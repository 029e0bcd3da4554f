//! `files token generate`

use std::path::PathBuf;

use chrono::FixedOffset;
use clap::Args;
use serde_json::{Map, Value, json};

use super::{
    Context, Described, Exit, Failure, Manager, OrExit, OrStoreExit, Server, Streams, block_on,
    failed, now, open, print_json, read_word,
};
use crate::{
    credential::RepositoryCredential,
    domain::TokenName,
    files::{
        Profile,
        client::Issued,
        expiry::{self, Expiry, offset_learnt, parse_digits, parse_offset},
        role,
        rules::Restrictions,
        wanted::{Wanted, is_uuid},
    },
    net::USER_AGENT,
};

fn after_help() -> String {
    format!(
        "\
The manager's token is read from standard input, or from --manager-file, and is not stored. The new token is shown
once, or with --install kept on this device and not shown at all.

Example:
  solarnode-agent files token generate --role upload.all --tag site-1 --max-file-size 5000000 \\
      --expires 365d --install camera --manager-file manager.txt

Roles (some not in every generation of the server):
{}",
        role::list()
    )
}

/// Issue a token with the rights that are named
#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub(super) struct Generate {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    manager: Manager,
    /// What the token may do, such as upload.all; once for each role
    #[arg(long = "role", value_name = "ROLE", required = true)]
    roles: Vec<String>,
    /// A tag its uploads may have, with capitals as given; none means any
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A type its uploads may have, beside those that its roles bring, such as image/jpeg
    #[arg(long = "mime-type", value_name = "TYPE")]
    mime_types: Vec<String>,
    /// Its uploads are smaller than this many bytes: a file of exactly that size is refused
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_file_size: Option<u64>,
    /// A user agent it is honoured from, word for word; none means any
    #[arg(long = "user-agent", value_name = "TEXT")]
    user_agents: Vec<String>,
    /// An address it is honoured from, compared as text; none means any
    #[arg(long = "ip-address", value_name = "ADDRESS")]
    ip_addresses: Vec<String>,
    /// When it ends: `auto` (the server's default), `never` (20 or 40 years), a span such as 30d, digits of the
    /// server's clock such as "2030-05-05 08:00", or an instant such as 2030-05-05T08:00:00Z
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    expires: Expiry,
    /// How far the server's clock is ahead of UTC, to turn an instant into its digits [default: +00:00]
    #[arg(long, value_name = "OFFSET", value_parser = parse_offset, allow_hyphen_values = true)]
    server_offset: Option<FixedOffset>,
    /// Read the token's ID, a UUID, from this file, instead of leaving it to the server (V2B, V3)
    #[arg(long, value_name = "FILE")]
    id_file: Option<PathBuf>,
    /// Read the members for replication, secureCopy…, from this JSON file (V3)
    #[arg(long, value_name = "FILE")]
    secure_copy_file: Option<PathBuf>,
    /// The server's version, where it matters [default: found out by asking for tokens it has to refuse]
    #[arg(long, value_name = "VERSION")]
    profile: Option<Profile>,
    /// Keep the token on this device under this name, and do not show it
    #[arg(long, value_name = "NAME")]
    install: Option<TokenName>,
    /// Replace a token of that name
    #[arg(long, requires = "install")]
    replace: bool,
    /// Print JSON: {token, installed, expires, ends, roles, tags, mime_types, max_file_size, user_agents,
    /// ip_addresses, profile}
    #[arg(long)]
    json: bool,
}

fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "a size is a whole number of bytes, such as 1000000")
}

impl Generate {
    pub(super) fn run(self, streams: &mut Streams<'_>, context: &Context) -> Result<Exit, Failure> {
        let wanted = self.wanted()?;
        let remarks = wanted.remarks(now());
        refuse(&remarks.refused)?;
        for warning in &remarks.warnings {
            writeln!(streams.err, "warning: {warning}")?;
        }
        self.refuse_lost_place(context)?;
        let token = self.manager.token(streams)?;
        let repository = context.connect(&self.server, token, None)?;
        if !wanted.needs().is_empty() {
            let profile = match self.profile {
                Some(profile) => profile,
                None => block_on(repository.find_profile())?.map_err(failed)?,
            };
            refuse(&wanted.refused_by(profile))?;
        }
        if self.install.is_some() {
            // Before a token is issued that could not be kept.
            context.store().prepare().or_store_exit()?;
        }
        let offset = self.server_offset.unwrap_or(expiry::UTC);
        let issued = block_on(repository.issue(&wanted, offset))?.map_err(failed)?;
        self.keep_and_show(&wanted, issued, streams, context)
    }

    fn wanted(&self) -> Result<Wanted, Failure> {
        let id = match &self.id_file {
            Some(path) => {
                let text = read_word(open(path)?, &path.display().to_string())?;
                if !is_uuid(&text) {
                    let message = format!("in {} is no UUID", path.display());
                    return Err(Failure::new(Exit::Usage, message));
                }
                Some(text.as_str().to_owned())
            }
            None => None,
        };
        let secure_copy = match &self.secure_copy_file {
            Some(path) => {
                let text = read_word(open(path)?, &path.display().to_string())?;
                // Its own message would quote a secret.
                let members = serde_json::from_str::<Map<String, Value>>(&text).map_err(|_| {
                    let message = format!("{} is not a JSON object", path.display());
                    Failure::new(Exit::Usage, message)
                });
                Some(members?)
            }
            None => None,
        };
        Ok(Wanted {
            roles: self.roles.clone(),
            tags: self.tags.clone(),
            mime_types: self.mime_types.clone(),
            max_file_size: self.max_file_size,
            user_agents: self.user_agents.clone(),
            ip_addresses: self.ip_addresses.clone(),
            expires: self.expires,
            id,
            secure_copy,
        })
    }

    /// A name that is taken would cost a token that nobody else may have.
    fn refuse_lost_place(&self, context: &Context) -> Result<(), Failure> {
        let Some(name) = self.install.as_ref().filter(|_| !self.replace) else { return Ok(()) };
        if context.store().repository_names().or_store_exit()?.contains(name) {
            let message = format!(
                "there is a token `{name}` on this device; --replace puts the new one in its place"
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        Ok(())
    }

    fn keep_and_show(
        &self,
        wanted: &Wanted,
        issued: Issued,
        streams: &mut Streams<'_>,
        context: &Context,
    ) -> Result<Exit, Failure> {
        let expires = parse_digits(&issued.expires);
        let learnt = expires
            .zip(issued.answered)
            .and_then(|(digits, answered)| offset_learnt(wanted.expires, digits, answered))
            .or(self.server_offset);
        let known = Restrictions {
            roles: wanted.roles.clone(),
            tags: wanted.tags.clone(),
            mime_types: wanted.mime_types.clone(),
            max_file_size: wanted.max_file_size.and_then(|bytes| i64::try_from(bytes).ok()),
            expires,
            offset_secs: learnt.map(|offset| offset.local_minus_utc()),
        };
        let mut installed = None;
        let mut failure = None;
        if let Some(name) = &self.install {
            let own =
                wanted.user_agents.is_empty() || wanted.user_agents.iter().any(|a| a == USER_AGENT);
            let credential = RepositoryCredential {
                token: issued.token.clone(),
                user_agent: wanted.user_agents.first().filter(|_| !own).cloned(),
                known: Some(serde_json::to_value(&known).or_exit(Exit::Software)?),
            };
            match context.store().save_repository(name, &credential).or_store_exit() {
                Ok(()) => installed = Some(name),
                // It is issued and would be lost otherwise.
                Err(error) => failure = Some(error),
            }
        }
        let shown = installed.is_none().then(|| issued.token.expose());
        let described = Described {
            restrictions: &known,
            user_agents: Some(&wanted.user_agents),
            ip_addresses: Some(&wanted.ip_addresses),
        };
        if self.json {
            let mut json = json!({
                "token": shown,
                "installed": installed.map(ToString::to_string),
                "profile": issued.profiles.to_string(),
            });
            if let (Value::Object(all), Value::Object(more)) = (&mut json, described.json()) {
                all.extend(more);
            }
            print_json(streams.out, &json)?;
        } else {
            match (shown, installed) {
                (Some(token), _) => writeln!(streams.out, "token        {token}")?,
                (None, name) => {
                    let name = name.map(ToString::to_string).unwrap_or_default();
                    writeln!(streams.out, "token        `{name}`, kept on this device")?;
                }
            }
            described.print(streams.out)?;
            if shown.is_some() {
                writeln!(
                    streams.err,
                    "note: the token is shown this once; whoever has it has its rights"
                )?;
            }
        }
        failure.map_or(Ok(Exit::Ok), Err)
    }
}

/// All reasons at once, one a line.
fn refuse(reasons: &[String]) -> Result<(), Failure> {
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, format!("nothing was sent: {}", reasons.join("\n  and "))))
}
