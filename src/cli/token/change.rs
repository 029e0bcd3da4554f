//! `token update`, `token enable`, `token disable`, `token delete`.
//!
//! Each lists the tokens first: the server overwrites a name that is not sent again, and says yes to
//! the deletion of what is not there.

use clap::Args;

use super::{
    Exit, Failure, Streams, TokenContext, block_on,
    list::printable,
    manager::{As, OrTokensExit, ask},
    parse_token_id,
};
use crate::{
    domain::TokenId,
    solarnet::CallAs,
    tokens::{
        Manager, Token,
        calls::{MAX_DESCRIPTION_CHARS, MAX_NAME_CHARS},
    },
};

/// Change the name or the description of a token at SolarNetwork
#[derive(Debug, Args)]
#[command(after_help = "\
What is not given stays. An empty text removes it.

Example:
  solarnode-agent token update TOKEN --name \"Barn gateway\" --as MANAGER < secret.txt")]
pub(super) struct Update {
    /// The token's ID
    #[arg(value_name = "ID", allow_hyphen_values = true, value_parser = parse_token_id)]
    id: TokenId,
    /// Its new name
    #[arg(long, value_name = "TEXT", required_unless_present = "description")]
    name: Option<String>,
    /// Its new description
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    manager: As,
}

/// Let a disabled token be used again
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  solarnode-agent token enable TOKEN --as MANAGER < secret.txt")]
pub(super) struct Enable {
    /// The token's ID
    #[arg(value_name = "ID", allow_hyphen_values = true, value_parser = parse_token_id)]
    id: TokenId,
    #[command(flatten)]
    manager: As,
}

/// Keep a token from being used, until it is enabled again
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  solarnode-agent token disable TOKEN --as MANAGER < secret.txt")]
pub(super) struct Disable {
    /// The token's ID
    #[arg(value_name = "ID", allow_hyphen_values = true, value_parser = parse_token_id)]
    id: TokenId,
    /// Do not ask where it is the manager's own
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    manager: As,
}

/// Delete a token at SolarNetwork, for good
#[derive(Debug, Args)]
#[command(after_help = "\
Asks first; --yes is for scripts. A token on this device keeps its file: `token forget` removes that.

Example:
  solarnode-agent token delete TOKEN --as MANAGER < secret.txt")]
pub(super) struct Delete {
    /// The token's ID
    #[arg(value_name = "ID", allow_hyphen_values = true, value_parser = parse_token_id)]
    id: TokenId,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    manager: As,
}

impl Update {
    pub(super) fn run<C: CallAs>(
        self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
        connect: impl FnOnce(&TokenContext) -> Result<C, Failure>,
    ) -> Result<Exit, Failure> {
        check_text("--name", self.name.as_deref(), MAX_NAME_CHARS)?;
        check_text("--description", self.description.as_deref(), MAX_DESCRIPTION_CHARS)?;
        let calls = connect(context)?;
        let manager = self.manager.manager(streams, &calls)?;
        block_on(async {
            let listing = manager.list().await.or_tokens_exit()?;
            let token = listing.token(&self.id).or_tokens_exit()?;
            // One that is not sent again would be cleared.
            let kept = |new: Option<String>, old: &Option<String>| {
                new.or_else(|| old.clone()).filter(|text| !text.is_empty())
            };
            let name = kept(self.name, &token.name);
            let description = kept(self.description, &token.description);
            manager
                .describe(&self.id, name.as_deref(), description.as_deref())
                .await
                .or_tokens_exit()?;
            let after = manager.list().await.or_tokens_exit()?;
            let after = after.token(&self.id).or_tokens_exit()?;
            if (&after.name, &after.description) != (&name, &description) {
                return Err(Failure::new(
                    Exit::NoPermission,
                    format!(
                        "SolarNetwork keeps another name or description than it was sent: {}, {}",
                        quoted(&after.name),
                        quoted(&after.description)
                    ),
                ));
            }
            writeln!(
                streams.out,
                "{}: name {}, description {}",
                self.id,
                quoted(&name),
                quoted(&description)
            )?;
            Ok(Exit::Ok)
        })?
    }
}

fn quoted(text: &Option<String>) -> String {
    text.as_deref().map_or_else(|| "none".to_owned(), |text| format!("`{}`", printable(text)))
}

/// What the server would cut, clear or refuse.
pub(super) fn check_text(option: &str, text: Option<&str>, max: usize) -> Result<(), Failure> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(()) };
    let wrong = if text.trim().is_empty() {
        "SolarNetwork takes a blank text for none; an empty one removes it".to_owned()
    } else if text.chars().count() > max {
        format!("SolarNetwork keeps at most {max} characters")
    } else {
        return Ok(());
    };
    Err(Failure::new(Exit::Usage, format!("{option}: {wrong}")))
}

impl Enable {
    pub(super) fn run<C: CallAs>(
        self,
        streams: &mut Streams<'_>,
        calls: &C,
    ) -> Result<Exit, Failure> {
        let manager = self.manager.manager(streams, calls)?;
        block_on(set_active(streams, &manager, &self.id, true, true))?
    }
}

impl Disable {
    pub(super) fn run<C: CallAs>(
        self,
        streams: &mut Streams<'_>,
        calls: &C,
    ) -> Result<Exit, Failure> {
        let manager = self.manager.manager(streams, calls)?;
        block_on(set_active(streams, &manager, &self.id, false, self.yes))?
    }
}

async fn set_active<C: CallAs>(
    streams: &mut Streams<'_>,
    manager: &Manager<'_, C>,
    id: &TokenId,
    active: bool,
    yes: bool,
) -> Result<Exit, Failure> {
    let listing = manager.list().await.or_tokens_exit()?;
    let token = listing.token(id).or_tokens_exit()?;
    let word = if active { "enabled" } else { "disabled" };
    if token.active == active {
        writeln!(streams.out, "{id} is {word} already")?;
        return Ok(Exit::Ok);
    }
    if id == manager.id() {
        ask(
            streams,
            yes,
            "It is the manager's own token and cannot enable itself again. Disable it?",
        )?;
    }
    manager.set_active(id, active).await.or_tokens_exit()?;
    writeln!(streams.out, "{id} is {word}")?;
    Ok(Exit::Ok)
}

impl Delete {
    pub(super) fn run<C: CallAs>(
        self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
        calls: &C,
    ) -> Result<Exit, Failure> {
        let manager = self.manager.manager(streams, calls)?;
        block_on(async {
            let listing = manager.list().await.or_tokens_exit()?;
            let token = listing.token(&self.id).or_tokens_exit()?;
            let question = question(token, manager.id(), context);
            ask(streams, self.yes, &question)?;
            manager.delete(&self.id).await.or_tokens_exit()?;
            writeln!(streams.out, "{} is deleted", self.id)?;
            for name in context.names_of(&self.id) {
                writeln!(
                    streams.err,
                    "note: its key is still on this device; `solarnode-agent token forget {name}` removes it"
                )?;
            }
            Ok(Exit::Ok)
        })?
    }
}

/// What a person has to know before saying yes.
fn question(token: &Token, manager: &TokenId, context: &TokenContext) -> String {
    let mut about = vec![printable(&token.kind)];
    about.extend(token.name.as_deref().map(|name| format!("`{}`", printable(name))));
    if token.id == *manager {
        about.push("the manager's own".to_owned());
    }
    if context.names_of(&token.id).contains(&context.solarnet.token) {
        about.push("the one that this device uses".to_owned());
    }
    format!("Delete {} ({}) for good?", token.id, about.join(", "))
}
