//! What the running daemon would do if it read its configuration again.

use serde_json::Value;

/// Why the daemon would refuse the reload.
pub(super) fn refusals(diff: &Value) -> Vec<String> {
    let list = |key: &str| diff[key].as_array().into_iter().flatten().filter_map(Value::as_str);
    let restart = list("needs_restart").map(|key| format!("{key} needs a restart of the daemon"));
    list("problems").map(str::to_owned).chain(restart).collect()
}

/// What people read.
pub(super) fn render(diff: &Value) -> String {
    let refusals = refusals(diff);
    if !refusals.is_empty() {
        return refusals.iter().fold("a reload would be refused:\n".to_owned(), |text, reason| {
            text + "  " + reason + "\n"
        });
    }
    let changes = diff["changes"].as_array().map_or(&[][..], Vec::as_slice);
    if changes.is_empty() {
        return "a reload would change nothing\n".to_owned();
    }
    changes.iter().fold("a reload would:\n".to_owned(), |text, change| {
        let word = |key: &str| change[key].as_str().unwrap_or("-").to_owned();
        let keys = change["keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let keys: Vec<&str> = keys.collect();
        text + &format!("  {} {} ({})\n", word("how"), word("part"), keys.join(", "))
    })
}
