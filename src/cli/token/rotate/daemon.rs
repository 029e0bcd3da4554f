//! What the running daemon says of the token it uses, and waiting until it says what is hoped for.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::LOOK_EVERY;
use crate::{
    cli::{Exit, Failure},
    domain::{TokenId, TokenName},
    observe::control::{Ask, AskError, ask, tell_credential_changed},
};

/// How often the daemon is told again that its token changed: each time it makes a call to see if the
/// token works.
const TELL_EVERY: Duration = Duration::from_secs(20);

/// The daemon of this configuration, if one is running.
pub(super) struct Daemon<'a> {
    pub(super) socket: &'a Path,
    /// The token that this is about.
    pub(super) name: &'a TokenName,
}

/// What can be seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sight {
    /// There is none.
    NotRunning,
    /// It uses a token of another name.
    UsesOther,
    /// It uses a token of this name.
    Uses(Using),
}

/// How a daemon uses its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Using {
    token_id: Option<String>,
    /// What it last knew SolarNetwork to accept: `{token_id, calls, at}`.
    pub(super) accepted: Option<Value>,
    /// Tokens of calls that are still under way.
    leaving: Vec<String>,
    last_error: Option<String>,
}

impl Daemon<'_> {
    pub(super) fn look(&self) -> Result<Sight, Failure> {
        match ask(self.socket, Ask::Status) {
            Ok(status) => sight(&status, self.name),
            Err(AskError::NotRunning(_)) => Ok(Sight::NotRunning),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the daemon that its token changed and waits until it uses `id`, every call with another one
    /// is over, and SolarNetwork has accepted a call since `before`. A daemon that is not there, or not
    /// concerned, is not waited for.
    pub(super) async fn until(
        &self,
        id: &TokenId,
        before: Option<Value>,
        patience: Duration,
    ) -> Result<Sight, Failure> {
        let begun = Instant::now();
        let mut told: Option<Instant> = None;
        loop {
            if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                tell_credential_changed(self.socket)?;
                told = Some(Instant::now());
            }
            let sight = self.look()?;
            let Sight::Uses(using) = &sight else { return Ok(sight) };
            if using.works_with(id, before.as_ref()) {
                return Ok(sight);
            }
            if begun.elapsed() >= patience {
                return Err(Failure::new(Exit::Unavailable, using.explain(id)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Using {
    fn works_with(&self, id: &TokenId, before: Option<&Value>) -> bool {
        self.token_id.as_deref() == Some(id.as_str())
            && self.leaving.is_empty()
            && self.accepted.as_ref().is_some_and(|accepted| accepted["token_id"] == id.as_str())
            && self.accepted.as_ref() != before
    }

    /// Why the daemon is not where it should be.
    fn explain(&self, id: &TokenId) -> String {
        let what = match &self.token_id {
            Some(used) if used != id.as_str() => format!("the daemon still uses {used}"),
            None => "the daemon uses no token".to_owned(),
            Some(_) if !self.leaving.is_empty() => {
                format!("a call with {} does not come to an end", self.leaving.join(", "))
            }
            Some(_) => format!("SolarNetwork accepted no call of the daemon with {id}"),
        };
        match &self.last_error {
            Some(error) => format!("{what}: {error}"),
            None => what,
        }
    }
}

fn sight(status: &Value, name: &TokenName) -> Result<Sight, Failure> {
    let mut used = status["credentials"].as_array().into_iter().flatten();
    let Some(used) = used.find(|used| used["token"] == name.as_str()) else {
        return Ok(Sight::UsesOther);
    };
    if used.get("accepted").is_none() {
        return Err(Failure::new(
            Exit::Unavailable,
            "the running daemon is of an older version, which does not tell whether its token works: \
             restart it first",
        ));
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(Sight::Uses(Using {
        token_id: text(&used["token_id"]),
        accepted: Some(used["accepted"].clone()).filter(|accepted| !accepted.is_null()),
        leaving: used["leaving"].as_array().into_iter().flatten().filter_map(text).collect(),
        last_error: text(&used["last_error"]),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn using(credential: Value) -> Using {
        let name = "site".parse().expect("a name");
        match sight(&json!({ "credentials": [credential] }), &name) {
            Ok(Sight::Uses(using)) => using,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_daemon_uses_a_token_when_a_call_with_it_was_accepted_and_none_with_another_is_left() {
        let new: TokenId = "new".parse().expect("an ID");
        let accepted = |id: &str, calls: u64| json!({"token_id": id, "calls": calls, "at": "-"});
        #[rustfmt::skip]
        let cases = [
            ("new", accepted("new", 1), json!([]),      true,  ""),
            ("old", accepted("old", 9), json!([]),      false, "still uses old"),
            ("new", Value::Null,        json!([]),      false, "accepted no call"),
            ("new", accepted("old", 9), json!([]),      false, "accepted no call"),
            ("new", accepted("new", 1), json!(["old"]), false, "call with old"),
        ];
        for (id, accepted, leaving, works, why) in cases {
            let using = using(json!({
                "token": "site", "token_id": id, "accepted": accepted, "leaving": leaving,
            }));
            assert_eq!(using.works_with(&new, None), works, "{using:?}");
            assert!(works || using.explain(&new).contains(why), "{}", using.explain(&new));
            // What was accepted before is no news.
            assert!(!using.works_with(&new, Some(&accepted)));
        }
    }

    #[test]
    fn a_daemon_that_does_not_tell_is_to_be_restarted_and_another_token_is_none_of_ours() {
        let name = "site".parse().expect("a name");
        let old = json!({ "credentials": [{ "token": "site", "token_id": "a" }] });
        let failure = sight(&old, &name).expect_err("too old");
        assert!(failure.error.to_string().contains("restart"), "{failure:?}");
        let other = json!({ "credentials": [{ "token": "other" }] });
        assert_eq!(sight(&other, &name).expect("a sight"), Sight::UsesOther);
    }
}
