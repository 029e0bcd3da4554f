//! The calls that show that a token works: the refresh call, and of the configuration's those that change
//! nothing.
//!
//! A call that its policy does not allow was not allowed to its predecessor either and says nothing
//! against it; but one at least has to show that SolarNetwork knows the token.

use crate::{
    cli::{
        Exit, Failure, OrExit,
        token::{check::harmless_calls, refresh::refused},
    },
    credential::Credential,
    needs::Needs,
    refresh::{RefreshCalls, Unproved, prove as prove_key},
    solarnet::{CallAs, CallError, Cause},
};

/// What was called.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// What was answered, in words.
    pub(super) answered: Vec<String>,
    /// What the policy does not allow, in words.
    pub(super) refused: Vec<String>,
}

pub(super) async fn prove<C: CallAs + RefreshCalls>(
    calls: &C,
    credential: &Credential,
    needs: Option<&Needs>,
) -> Result<Proof, Failure> {
    let mut proof = Proof::default();
    let renewed = match prove_key(calls, credential).await {
        Ok(()) => Ok(()),
        Err(Unproved::Refused(error)) => Err(error),
        Err(other) => return Err(other).or_exit(Exit::NoPermission),
    };
    proof.take("the refresh call", renewed)?;
    for (what, call) in needs.map(harmless_calls).unwrap_or_default() {
        proof.take(&what, calls.call_as(credential, call).await.map(drop))?;
    }
    if proof.answered.is_empty() {
        let message = format!("no call shows that {} works", credential.token_id);
        return Err(Failure::new(Exit::NoPermission, message));
    }
    Ok(proof)
}

impl Proof {
    fn take(&mut self, what: &str, answer: Result<(), CallError>) -> Result<(), Failure> {
        match answer {
            Ok(()) => self.answered.push(what.to_owned()),
            Err(error) if error.cause.shows_token() => {
                self.answered.push(format!("the refusal of {what}"));
                self.refused.push(format!("{what} is not allowed to it"));
            }
            Err(error) if matches!(error.cause, Cause::PathDenied | Cause::RoleMissing) => {
                self.refused.push(format!("{what} is not allowed to it"));
            }
            Err(error) => return Err(refused(error)),
        }
        Ok(())
    }
}
