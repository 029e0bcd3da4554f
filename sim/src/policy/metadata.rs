//! What a policy's metadata paths leave of a metadata object.

use serde_json::{Map, Value};

use super::ant;

/// Whose metadata it is, which decides the list of paths that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Node,
    User,
}

/// The object's `m`, `pm` and `t` with only what some path selects; `None` when nothing is left. Tags alone
/// are nothing.
pub(super) fn select(paths: &[String], metadata: &Value) -> Option<Value> {
    let mut out = Map::new();
    for group in ["m", "pm"] {
        let Some(Value::Object(members)) = metadata.get(group) else { continue };
        let left = members_left(paths, &format!("/{group}"), members);
        if !left.is_empty() {
            out.insert(group.to_owned(), Value::Object(left));
        }
    }
    if out.is_empty() {
        return None;
    }
    if let Some(tags) = metadata.get("t") {
        out.insert("t".to_owned(), tags.clone());
    }
    Some(Value::Object(out))
}

/// Leaves (arrays too) stay when a path matches theirs; objects stay with what is left inside of them.
fn members_left(paths: &[String], at: &str, members: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in members {
        let path = format!("{at}/{name}");
        match value {
            Value::Object(inner) if paths.iter().any(|text| ant::matches_start(text, &path)) => {
                let left = members_left(paths, &path, inner);
                if !left.is_empty() {
                    out.insert(name.clone(), Value::Object(left));
                }
            }
            Value::Object(_) => {}
            leaf if paths.iter().any(|text| ant::matches(text, &path)) => {
                out.insert(name.clone(), leaf.clone());
            }
            _ => {}
        }
    }
    out
}
