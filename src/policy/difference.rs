//! Two policies, member by member: what would change, and whether that gives more rights or fewer. Pure.

use serde_json::Value;

use super::{Member, Policy, evaluate::instant};

/// What a change does to the rights that a member leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// More is allowed.
    Wider,
    /// Less is allowed.
    Narrower,
    /// Neither, or some of both.
    Other,
}

impl Effect {
    /// As a person reads it beside the change; nothing where there is nothing to say.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wider => "wider",
            Self::Narrower => "narrower",
            Self::Other => "",
        }
    }
}

/// One member that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub member: Member,
    /// What it was; `None` for no restriction.
    pub before: Option<Value>,
    /// What it becomes.
    pub after: Option<Value>,
    /// What that does to the token's rights.
    pub effect: Effect,
}

/// The members in which `after` differs from `before`, as the server stores both. The order of a
/// list does not count.
#[must_use]
pub fn difference(before: &Policy, after: &Policy) -> Vec<Difference> {
    let (before, after) = (before.clone().stored(), after.clone().stored());
    let differing = |member: Member| {
        let (was, is) = (before.get(member), after.get(member));
        let effect = effect(member, &was, &is)?;
        Some(Difference { member, before: was, after: is, effect })
    };
    Member::ALL.into_iter().filter_map(differing).collect()
}

/// `None` where nothing differs.
fn effect(member: Member, was: &Option<Value>, is: &Option<Value>) -> Option<Effect> {
    Some(match (was, is) {
        (None, None) => return None,
        // `true` says no more than nothing does.
        (None, Some(Value::Bool(true))) | (Some(Value::Bool(true)), None) => Effect::Other,
        (None, Some(_)) => Effect::Narrower,
        (Some(_), None) => Effect::Wider,
        (Some(Value::Array(was)), Some(Value::Array(is))) => {
            let gains = is.iter().any(|entry| !was.contains(entry));
            let loses = was.iter().any(|entry| !is.contains(entry));
            match (gains, loses) {
                (false, false) => return None,
                (true, false) => Effect::Wider,
                (false, true) => Effect::Narrower,
                (true, true) => Effect::Other,
            }
        }
        (Some(was), Some(is)) if was == is => return None,
        (Some(was), Some(is)) => match (member, was.as_i64().zip(is.as_i64()), is) {
            (Member::NotAfter, Some((was, is)), _) if is > was => Effect::Wider,
            (Member::NotAfter, Some(_), _) => Effect::Narrower,
            (Member::RefreshAllowed, _, Value::Bool(true)) => Effect::Wider,
            (Member::RefreshAllowed, _, _) => Effect::Narrower,
            _ => Effect::Other,
        },
    })
}

/// A member's value as a person reads it; nothing there means any.
#[must_use]
pub fn shown(member: Member, value: Option<&Value>) -> String {
    match (member, value) {
        (Member::NotAfter, None) => "never ends".to_owned(),
        (Member::RefreshAllowed, None) => "not said, so allowed".to_owned(),
        (_, None) => "any".to_owned(),
        (Member::NotAfter, Some(value)) => {
            value.as_i64().map_or_else(|| value.to_string(), instant)
        }
        (_, Some(Value::Array(entries))) => {
            let texts: Vec<String> = entries.iter().map(text).collect();
            texts.join(", ")
        }
        (_, Some(value)) => text(value),
    }
}

/// One entry of a list, or a single value, without quotes.
#[must_use]
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(json: Value) -> Policy {
        Policy::read(&json).expect("a policy")
    }

    #[test]
    fn each_change_says_whether_it_widens() {
        #[rustfmt::skip]
        let cases = [
            (json!({}),                        json!({"nodeIds": [1]}),            Effect::Narrower),
            (json!({"nodeIds": [1]}),          json!({"nodeIds": [2, 1]}),         Effect::Wider),
            (json!({"nodeIds": [1, 2]}),       json!({"nodeIds": [2]}),            Effect::Narrower),
            (json!({"nodeIds": [1]}),          json!({"nodeIds": [2]}),            Effect::Other),
            (json!({"sourceIds": ["/a"]}),     json!({}),                          Effect::Wider),
            (json!({"notAfter": 5}),           json!({"notAfter": 6}),             Effect::Wider),
            (json!({"notAfter": 5}),           json!({"notAfter": 4}),             Effect::Narrower),
            (json!({"refreshAllowed": true}),  json!({"refreshAllowed": false}),   Effect::Narrower),
            (json!({}),                        json!({"refreshAllowed": true}),    Effect::Other),
            (json!({"minAggregation": "Day"}), json!({"minAggregation": "Month"}), Effect::Other),
        ];
        for (before, after, want) in cases {
            let found = difference(&policy(before.clone()), &policy(after.clone()));
            assert_eq!(found.len(), 1, "{before} {after}");
            assert_eq!(found[0].effect, want, "{before} {after}");
        }
        let one = policy(json!({"sourceIds": ["/a", "/b"], "nodeIds": [2, 1]}));
        let other = policy(json!({"nodeIds": [1, 2], "sourceIds": ["/b", "/a"]}));
        assert_eq!(difference(&one, &other), []);
    }
}
