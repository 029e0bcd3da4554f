//! `token list`, and how tokens and policies are shown to people and scripts.

use std::io;

use clap::Args;
use serde_json::{Value, json};

use super::{
    Exit, Failure, Streams, block_on,
    manager::{As, OrTokensExit},
    readable,
};
use crate::{
    policy::{Policy, difference::shown},
    solarnet::CallAs,
    tokens::Token,
};

/// List the account's tokens at SolarNetwork
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  solarnode-agent token list --as MANAGER < secret.txt")]
pub(super) struct List {
    /// Print JSON: {"tokens": [{id, name, description, type, status, created, expired, policy}]}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: As,
}

impl List {
    pub(super) fn run<C: CallAs>(
        self,
        streams: &mut Streams<'_>,
        calls: &C,
    ) -> Result<Exit, Failure> {
        let manager = self.manager.manager(streams, calls)?;
        let listing = block_on(manager.list())?.or_tokens_exit()?;
        if let Some(refused) = listing.restriction() {
            writeln!(
                streams.err,
                "note: {} sees only itself: {refused}, and a restricted token manages no tokens",
                manager.id()
            )?;
        }
        if self.json {
            let tokens: Vec<Value> = listing.tokens.iter().map(as_json).collect();
            return print_json(streams, &json!({ "tokens": tokens }));
        }
        let rows = listing.tokens.iter().map(row);
        let head = ["ID", "TYPE", "STATUS", "CREATED", "ENDS", "NAME", "RESTRICTED BY"];
        print_table(streams, &head.map(str::to_owned), rows)?;
        Ok(Exit::Ok)
    }
}

/// A token as scripts get it. Members are only ever added.
pub(super) fn as_json(token: &Token) -> Value {
    json!({
        "id": token.id.as_str(),
        "name": token.name,
        "description": token.description,
        "type": token.kind,
        "status": status(token),
        "created": token.created,
        "expired": token.expired,
        "policy": token.policy.to_json(),
    })
}

fn status(token: &Token) -> &'static str {
    if token.active { "Active" } else { "Disabled" }
}

fn row(token: &Token) -> [String; 7] {
    let minute = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%d %H:%M").to_string();
    let ends = token.policy.not_after.and_then(chrono::DateTime::from_timestamp_millis);
    let ends = ends.map_or_else(|| "-".to_owned(), minute);
    let restrictions: Vec<&str> = token.policy.restrictions().map(|m| m.name()).collect();
    [
        token.id.to_string(),
        printable(&token.kind),
        status(token).to_owned(),
        token.created.map_or_else(|| "-".to_owned(), minute),
        if token.expired { format!("{ends} (over)") } else { ends },
        token.name.as_deref().map_or_else(|| "-".to_owned(), printable),
        if restrictions.is_empty() { "nothing".to_owned() } else { restrictions.join(", ") },
    ]
}

/// Everything there is to say of one token: what it is, and its policy member by member.
pub(super) fn print_token(streams: &mut Streams<'_>, token: &Token) -> io::Result<()> {
    let name = token.name.as_deref().map(|name| format!(" `{}`", printable(name)));
    let description = token.description.as_deref().map(|text| format!(": {}", printable(text)));
    writeln!(
        streams.out,
        "{}{} ({}, {}){}",
        token.id,
        name.unwrap_or_default(),
        printable(&token.kind),
        status(token),
        description.unwrap_or_default()
    )?;
    if let Some(created) = token.created {
        writeln!(streams.out, "  {:21} {}", "created", readable(created))?;
    }
    print_policy(streams, &token.policy)
}

/// A policy, a line a member.
pub(super) fn print_policy(streams: &mut Streams<'_>, policy: &Policy) -> io::Result<()> {
    for member in policy.members() {
        let value = shown(member, policy.get(member).as_ref());
        writeln!(streams.out, "  {:21} {}", member.name(), printable(&value))?;
    }
    if policy.members().next().is_none() {
        writeln!(streams.out, "  no restriction: it may do all that its account may")?;
    }
    Ok(())
}

pub(super) fn print_json(streams: &mut Streams<'_>, value: &Value) -> Result<Exit, Failure> {
    serde_json::to_writer_pretty(&mut *streams.out, value).map_err(io::Error::from)?;
    writeln!(streams.out)?;
    Ok(Exit::Ok)
}

/// Columns as wide as their widest entry; the last one is not padded.
fn print_table<const N: usize>(
    streams: &mut Streams<'_>,
    head: &[String; N],
    rows: impl Iterator<Item = [String; N]>,
) -> io::Result<()> {
    let rows: Vec<[String; N]> = std::iter::once(head.clone()).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(streams.out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Foreign text on a line of ours.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
