//! `files put`: files by hand.
//!
//! Each content goes once: what this device has uploaded to the same repository, by this command or by the daemon,
//! is not sent again. That is remembered in `files-put.jsonl` in the state folder; where that cannot be written,
//! the command says so and works all the same.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::{
    Context, Exit, Failure, OrExit, Server, Streams, block_on, exit_of, now, print_json, progress,
    read_token_file,
};
use crate::{
    clock::Clock,
    credential::RepositoryCredential,
    domain::{Chain, TokenName},
    files::{
        CallError, Repository,
        answer::Next,
        client::{Kept, Outbound, address},
        content::{self, Fingerprint, Verified},
        journal::{self, Journal},
        ledger::{Ledger, Line, Sending, Stored},
        name::request_name,
        rules::{Restrictions, check_tags, mime_names},
    },
};

/// Upload files; each content once
#[derive(Debug, Args)]
#[command(after_help = "\
The file goes out as it is read: memory does not grow with it.

Example:
  solarnode-agent files put backup.tar.gz --tag site-1 --token camera")]
pub(super) struct Put {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    server: Server,
    /// A tag, 3 to 32 of A-Z a-z 0-9 . - _; once for each
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// The name in the repository, behind ten digits of its own [default: the file's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Let it appear in the repository's listing
    #[arg(long)]
    public: bool,
    /// The token, by its name on this device [default: `repository.token`, or the only one there is]
    #[arg(long, value_name = "NAME", conflicts_with = "token_file")]
    token: Option<TokenName>,
    /// Read the token from this file; it is not stored
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Send it even if this device has uploaded the same content before
    #[arg(long)]
    again: bool,
    /// Print JSON: {"files": [{file, outcome, address, filename, id, sha256, bytes, reason}]}
    #[arg(long)]
    json: bool,
}

/// What became of one file.
struct Outcome {
    file: String,
    result: Result<Done, (Exit, String)>,
}

struct Done {
    outcome: &'static str,
    address: String,
    filename: String,
    id: Option<i64>,
    sha256: String,
    bytes: u64,
}

/// Everything that all files share.
struct Sender {
    repository: Repository,
    known: Option<Restrictions>,
    url: String,
    journal: Option<Journal>,
    of_daemon: Ledger,
}

impl Put {
    pub(super) fn run(self, streams: &mut Streams<'_>, context: &Context) -> Result<Exit, Failure> {
        if self.name.is_some() && self.files.len() > 1 {
            return Err(Failure::new(Exit::Usage, "--name is for one file"));
        }
        if let Some(name) = self.name.as_ref().filter(|name| request_name(name) != **name) {
            let message =
                format!("the repository takes no name {name:?}: 6 to 68 of A-Z a-z 0-9 . - _");
            return Err(Failure::new(Exit::Usage, message));
        }
        check_tags(&self.tags).or_exit(Exit::Usage)?;
        let mut sender = self.sender(streams, context)?;
        if let Some(known) = &sender.known {
            known.check_upload(&self.tags, now()).or_exit(Exit::NoPermission)?;
        }
        let outcomes = block_on(self.send_all(&mut sender))?;
        let failed = outcomes.iter().find_map(|outcome| outcome.result.as_ref().err());
        let exit = failed.map_or(Exit::Ok, |(exit, _)| *exit);
        self.print(&outcomes, streams)?;
        Ok(exit)
    }

    fn sender(&self, streams: &mut Streams<'_>, context: &Context) -> Result<Sender, Failure> {
        let url = context.url(&self.server)?.to_owned();
        let credential = match (&self.token_file, self.token_name(context)?) {
            (Some(path), _) => {
                let token = read_token_file(path)?;
                RepositoryCredential { token, user_agent: None, known: None }
            }
            (None, name) => context.stored(&name)?,
        };
        let RepositoryCredential { token, user_agent, known } = credential;
        let known = known.and_then(|known| serde_json::from_value(known).ok());
        let repository = context.connect(&self.server, token, user_agent)?;
        let journal = match Journal::open(journal::of_put(&context.state_dir)) {
            Ok((journal, _)) => Some(journal),
            Err(error) => {
                writeln!(
                    streams.err,
                    "warning: {}; it will not be remembered what was uploaded",
                    Chain(&error)
                )?;
                None
            }
        };
        // Only a saving: without it the repository is asked to take what it may have.
        let of_daemon = journal::read(&journal::of_daemon(&context.state_dir));
        let of_daemon = of_daemon.map(|(ledger, ..)| ledger).unwrap_or_default();
        Ok(Sender { repository, known, url, journal, of_daemon })
    }

    fn token_name(&self, context: &Context) -> Result<TokenName, Failure> {
        if let Some(name) = &self.token {
            return Ok(name.clone());
        }
        if let Some(repository) = &context.repository {
            return Ok(repository.token.clone());
        }
        let names = context.store().repository_names().unwrap_or_default();
        match &names[..] {
            [only] => Ok(only.clone()),
            _ => "files".parse().or_exit(Exit::Software),
        }
    }

    async fn send_all(&self, sender: &mut Sender) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut stopped: Option<(Exit, String)> = None;
        for path in &self.files {
            let file = path.display().to_string();
            let result = match &stopped {
                Some((exit, reason)) => Err((*exit, format!("not tried: {reason}"))),
                None => match sender.send(self, path).await {
                    Err(Stopped { exit, reason, for_all }) => {
                        if for_all {
                            stopped = Some((exit, reason.clone()));
                        }
                        Err((exit, reason))
                    }
                    Ok(done) => Ok(done),
                },
            };
            outcomes.push(Outcome { file, result });
        }
        outcomes
    }

    fn print(&self, outcomes: &[Outcome], streams: &mut Streams<'_>) -> std::io::Result<()> {
        if self.json {
            let files: Vec<Value> = outcomes.iter().map(Outcome::json).collect();
            return print_json(streams.out, &json!({ "files": files }));
        }
        for Outcome { file, result } in outcomes {
            match result {
                Ok(Done { address, outcome: "uploaded", .. }) => {
                    writeln!(streams.out, "{address}")?
                }
                Ok(Done { address, outcome, .. }) => {
                    writeln!(streams.out, "{address}")?;
                    let who = match *outcome {
                        "known" => {
                            "this device has uploaded the same content before; --again sends it once more"
                        }
                        _ => {
                            "the repository had the same content; name, tags and visibility are those of its first upload"
                        }
                    };
                    writeln!(streams.err, "note: {file}: {who}")?;
                }
                Err((_, reason)) => writeln!(streams.err, "error: {file}: {reason}")?,
            }
        }
        Ok(())
    }
}

impl Outcome {
    fn json(&self) -> Value {
        match &self.result {
            Ok(Done { outcome, address, filename, id, sha256, bytes }) => json!({
                "file": self.file, "outcome": outcome, "address": address, "filename": filename,
                "id": id, "sha256": sha256, "bytes": bytes, "reason": null,
            }),
            Err((_, reason)) => json!({
                "file": self.file, "outcome": "failed", "address": null, "filename": null,
                "id": null, "sha256": null, "bytes": null, "reason": reason,
            }),
        }
    }
}

/// Why a file was not uploaded.
struct Stopped {
    exit: Exit,
    reason: String,
    /// Whether the next file would fare no better.
    for_all: bool,
}

fn of_file(exit: Exit) -> impl FnOnce(anyhow::Error) -> Stopped {
    move |error| Stopped { exit, reason: format!("{error:#}"), for_all: false }
}

impl Sender {
    async fn send(&mut self, put: &Put, path: &Path) -> Result<Done, Stopped> {
        let (mut file, shape) =
            content::open(path, true).context("it cannot be read").map_err(|error| {
                let denied = error
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
                of_file(if denied { Exit::NoPermission } else { Exit::Usage })(error)
            })?;
        // Before a large file is read for nothing.
        self.check(shape.size, None)?;
        let print = content::fingerprint(&mut file)
            .context("it cannot be read")
            .map_err(of_file(Exit::Io))?;
        if let Some(known) = self.known(&print.sha256).filter(|_| !put.again) {
            let (filename, id) = (known.filename.clone(), known.id);
            return Ok(self.done("known", filename, id, print));
        }
        self.check(print.bytes, mime_names(&print.start))?;
        let own = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = put.name.clone().unwrap_or_else(|| request_name(own));
        let kept = match self.look_for(put, &print).await {
            Some(kept) => kept,
            None => self.upload(put, path, &name, &print).await?,
        };
        let outcome = if kept.was_there { "there" } else { "uploaded" };
        self.note(Line::Stored(Stored {
            sha256: print.sha256.clone(),
            url: self.url.clone(),
            filename: kept.filename.clone(),
            id: kept.id,
            name,
            bytes: print.bytes,
            source: None,
            at: Clock::system().stamp().into(),
        }));
        Ok(self.done(outcome, kept.filename, kept.id, print))
    }

    fn check(&self, bytes: u64, mimes: Option<&[&str]>) -> Result<(), Stopped> {
        let Some(known) = &self.known else { return Ok(()) };
        known
            .check_file(bytes, mimes)
            .map_err(|obstacle| of_file(Exit::NoPermission)(obstacle.into()))
    }

    fn known(&self, sha256: &str) -> Option<&Stored> {
        let own =
            self.journal.as_ref().and_then(|journal| journal.ledger.stored(sha256, &self.url));
        own.or_else(|| self.of_daemon.stored(sha256, &self.url))
    }

    /// The entry of an attempt that was interrupted, where the repository tells.
    async fn look_for(&self, put: &Put, print: &Fingerprint) -> Option<Kept> {
        let journal = self.journal.as_ref()?;
        let doubt = journal.ledger.in_doubt(&print.sha256, &self.url).filter(|_| put.public)?;
        self.repository.find(&doubt.name, &print.sha256).await.ok().flatten()
    }

    async fn upload(
        &mut self,
        put: &Put,
        path: &Path,
        name: &str,
        print: &Fingerprint,
    ) -> Result<Kept, Stopped> {
        let (sha256, url) = (print.sha256.clone(), self.url.clone());
        self.note(Line::Sending(Sending { sha256: sha256.clone(), url, name: name.to_owned() }));
        let (file, _) =
            content::open(path, true).context("it cannot be read").map_err(of_file(Exit::Io))?;
        let reader = Box::new(Verified::new(file, print.bytes, &print.sha256));
        let outbound = Outbound { name, tags: &put.tags, public: put.public, bytes: print.bytes };
        let taken = Arc::new(AtomicU64::new(0));
        let upload = self.repository.upload(&outbound, reader, taken.clone());
        let sent = progress::shown(&path.display().to_string(), print.bytes, &taken, upload).await;
        sent.map_err(|error| {
            if matches!(error, CallError::Refused(_)) && error.next() != Next::Retry {
                self.note(Line::Refused { sha256 });
            }
            let for_all = error.next() == Next::Stop;
            Stopped { exit: exit_of(&error), reason: error.to_string(), for_all }
        })
    }

    /// Remembers a fact; without it the next attempt only knows less.
    fn note(&mut self, line: Line) {
        if let Some(journal) = &mut self.journal
            && journal.add(line, true).is_err()
        {
            self.journal = None;
        }
    }

    fn done(
        &self,
        outcome: &'static str,
        filename: String,
        id: Option<i64>,
        print: Fingerprint,
    ) -> Done {
        let address = address(&self.url, &filename);
        Done { outcome, address, filename, id, sha256: print.sha256, bytes: print.bytes }
    }
}
