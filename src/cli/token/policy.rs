//! `token policy`: what this configuration needs, what a token may do, and changes of that.
//!
//! | Word | Call | Members that are given | The others |
//! | --- | --- | --- | --- |
//! | `--add` | PATCH | lists grow, single values are replaced | stay |
//! | `--set` | PUT | are replaced | stay, all that the server knows |
//! | `--replace` | PUT | are the policy | go |
//!
//! What would change is shown before it is done, with whether it gives more rights or fewer.

use clap::{ArgGroup, Args};
use serde_json::Value;

use super::{
    Exit, Failure, Streams, TokenContext, block_on,
    create::Kind,
    list::{as_json, print_json, print_token, printable},
    manager::{MaybeAs, OrTokensExit, ask},
    options::PolicyOptions,
    parse_token_id,
};
use crate::{
    domain::TokenId,
    policy::{
        Member, Policy,
        difference::{Difference, difference, shown, text},
    },
    solarnet::CallAs,
    tokens::{Manager, Token},
};

/// Print the policy that this configuration needs; or show or change a token's
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["for_config", "id"]).multiple(true))]
#[command(group = ArgGroup::new("change").args(["add", "set", "replace"]))]
#[command(after_help = "\
--add can only widen a list that is there, and narrows by adding one that is not. --set and --replace \
put a whole policy in place of the old one. The change is shown before it is made.

Example:
  solarnode-agent token policy --for-config
  solarnode-agent token policy TOKEN --as MANAGER < secret.txt
  solarnode-agent token policy TOKEN --add --source /site/new --as MANAGER < secret.txt
  solarnode-agent token policy TOKEN --set --for-config --as MANAGER < secret.txt")]
pub(super) struct PolicyCommand {
    /// The token's ID [default: none is asked for, and --for-config prints]
    #[arg(value_name = "ID", allow_hyphen_values = true, value_parser = parse_token_id, requires = "as")]
    id: Option<TokenId>,
    /// The smallest policy that lets this configuration work
    #[arg(long)]
    for_config: bool,
    /// With --for-config: of the token that works, or of the one that only audits
    #[arg(long = "type", value_name = "TYPE", default_value = "user", requires = "for_config")]
    kind: Kind,
    /// Add to the policy: lists grow, other members are replaced, nothing is removed
    #[arg(long, requires = "id")]
    add: bool,
    /// Put these members in the place of the token's, and keep its others
    #[arg(long, requires = "id")]
    set: bool,
    /// Make this the whole policy; what is not given is no longer restricted
    #[arg(long, requires = "id")]
    replace: bool,
    /// With --set: remove this member, such as notAfter (may be repeated)
    #[arg(long, value_name = "MEMBER", requires = "set", value_parser = member)]
    remove: Vec<Member>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON: the policy with --for-config, otherwise the token as in `token list`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    manager: MaybeAs,
}

fn member(text: &str) -> Result<Member, String> {
    let names: Vec<&str> = Member::ALL.iter().map(|member| member.name()).collect();
    Member::named(text).ok_or_else(|| format!("a member is one of {}", names.join(", ")))
}

/// What is to be done to the policy.
enum Change {
    Add(Policy),
    Put(Policy),
}

impl PolicyCommand {
    pub(super) fn run<C: CallAs>(
        self,
        streams: &mut Streams<'_>,
        context: &TokenContext,
        connect: impl FnOnce(&TokenContext) -> Result<C, Failure>,
    ) -> Result<Exit, Failure> {
        let base = match self.for_config {
            true => {
                let needs = context.with_waiting(context.needs()?.clone(), streams.err)?;
                if self.kind == Kind::Data { needs.of_audit() } else { needs }.policy()
            }
            false => Policy::default(),
        };
        let (Some(id), Some(acting)) = (&self.id, self.manager.given()) else {
            let now = chrono::Utc::now();
            if self.for_config && self.kind == Kind::User && !context.needs()?.is_any() {
                writeln!(streams.err, "{}", context.idle_token()?)?;
            }
            return print_json(streams, &self.policy.over(&base, now)?.to_json());
        };
        let given = self.for_config || !self.policy.is_empty() || !self.remove.is_empty();
        let changes = self.add || self.set || self.replace;
        if given && !changes {
            return Err(Failure::new(
                Exit::Usage,
                "say what to do with this: --add, --set or --replace",
            ));
        }
        if changes && !given && !self.replace {
            return Err(Failure::new(Exit::Usage, "nothing to change was given"));
        }
        let calls = connect(context)?;
        let manager = acting.manager(streams, &calls)?;
        block_on(async {
            let listing = manager.list().await.or_tokens_exit()?;
            let mut token = listing.token(id).or_tokens_exit()?.clone();
            if changes {
                let change = self.change(&token, &base, manager.now())?;
                token = self.apply(streams, &manager, &token, &change).await?;
            }
            context.remember(&token, manager.now())?;
            if self.json {
                return print_json(streams, &as_json(&token));
            }
            print_token(streams, &token)?;
            Ok(Exit::Ok)
        })?
    }

    fn change(
        &self,
        token: &Token,
        base: &Policy,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<Change, Failure> {
        let strange = token.strange.join(", ");
        if self.set && !strange.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "the token's policy has members that this program does not know and would drop \
                     ({}); --add keeps them, and --replace drops them knowingly",
                    printable(&strange)
                ),
            ));
        }
        if !self.set {
            let policy = self.policy.over(base, now)?;
            return Ok(if self.add { Change::Add(policy) } else { Change::Put(policy) });
        }
        let mut kept = token.policy.clone();
        for member in base.members() {
            kept.copy(member, base);
        }
        for member in &self.remove {
            kept.copy(*member, &Policy::default());
        }
        Ok(Change::Put(self.policy.over(&kept, now)?))
    }

    async fn apply<C: CallAs>(
        &self,
        streams: &mut Streams<'_>,
        manager: &Manager<'_, C>,
        token: &Token,
        change: &Change,
    ) -> Result<Token, Failure> {
        let after = match change {
            Change::Add(more) => token.policy.merged_with(more),
            Change::Put(policy) => policy.clone(),
        };
        let differences = difference(&token.policy, &after);
        let dropped: &[String] =
            if matches!(change, Change::Put(_)) { &token.strange } else { &[] };
        if differences.is_empty() && dropped.is_empty() {
            writeln!(streams.err, "{} has this policy already; nothing was sent", token.id)?;
            return Ok(token.clone());
        }
        let word = if matches!(change, Change::Add(_)) { "added to" } else { "put in place of" };
        writeln!(streams.err, "This is {word} the policy of {}:", token.id)?;
        for difference in &differences {
            writeln!(streams.err, "  {}", line(difference))?;
        }
        for name in dropped {
            writeln!(streams.err, "  {}: dropped, this program does not know it", printable(name))?;
        }
        ask(streams, self.yes, "Change it?")?;
        match change {
            Change::Add(more) => manager.merge(token, more).await,
            Change::Put(policy) => manager.replace(&token.id, policy).await,
        }
        .or_tokens_exit()
    }
}

/// `sourceIds: + /b (wider)`, or `notAfter: never ends → 2026-12-02 04:24:27 UTC (narrower)`
fn line(difference: &Difference) -> String {
    let Difference { member, before, after, effect } = difference;
    let effect = match effect.name() {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    if let (Some(Value::Array(was)), Some(Value::Array(is))) = (before, after) {
        let beside = |some: &[Value], others: &[Value], sign: &str| -> String {
            let entries = some.iter().filter(|entry| !others.contains(entry));
            entries.map(|entry| format!(" {sign} {}", text(entry))).collect()
        };
        let (gone, new) = (beside(was, is, "-"), beside(is, was, "+"));
        return printable(&format!("{}:{gone}{new}{effect}", member.name()));
    }
    let (before, after) = (shown(*member, before.as_ref()), shown(*member, after.as_ref()));
    printable(&format!("{}: {before} → {after}{effect}", member.name()))
}
