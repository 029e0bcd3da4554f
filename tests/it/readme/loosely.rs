//! Whether two outputs are of the same form: the same words and lines, with other numbers, times and hashes.
//!
//! In what is shown, a line `…` stands for any lines.

/// Whether what was printed has the form of what is shown.
pub(super) fn same(shown: &str, printed: &str) -> bool {
    let shown: Vec<String> = shown.lines().map(form).collect();
    let printed: Vec<String> = printed.lines().map(form).collect();
    fits(&shown, &printed)
}

/// Whether each printed line has the form of some line that is shown.
pub(super) fn each_is_among(shown: &str, printed: &str) -> bool {
    let shown: Vec<String> = shown.lines().map(form).collect();
    printed.lines().map(form).all(|line| shown.contains(&line))
}

fn fits(shown: &[String], printed: &[String]) -> bool {
    match shown {
        [] => printed.is_empty(),
        [first, rest @ ..] if first == "…" => {
            (0..=printed.len()).any(|skip| fits(rest, &printed[skip..]))
        }
        [first, rest @ ..] => {
            printed.split_first().is_some_and(|(line, more)| line == first && fits(rest, more))
        }
    }
}

/// A line's form: blanks joined, numbers `N`, hashes `H`, days and months `D`, times or their absence `T`.
fn form(line: &str) -> String {
    line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

fn word(word: &str) -> String {
    let mut form = String::new();
    for part in word.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let (run, end) = match part.char_indices().next_back() {
            Some((at, c)) if !c.is_ascii_alphanumeric() => part.split_at(at),
            _ => (part, ""),
        };
        form.push_str(&piece(run));
        form.push_str(end);
    }
    while form.contains("N.N") {
        form = form.replace("N.N", "N");
    }
    if form == "-N" {
        return "N".to_owned();
    }
    match form.strip_prefix("N-N-NTN:N:N") {
        Some(rest) => format!("T{}", rest.trim_start_matches('Z')),
        None if form == "-" => "T".to_owned(),
        None => form,
    }
}

fn piece(run: &str) -> String {
    const NAMES: &[&str] = &[
        "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Jan", "Feb", "Mar", "Apr", "May", "Jun",
        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    if NAMES.contains(&run) {
        return "D".to_owned();
    }
    if run.len() >= 16 && run.bytes().all(|b| b.is_ascii_hexdigit()) {
        return "H".to_owned();
    }
    let mut form = String::new();
    for c in run.chars() {
        match c {
            '0'..='9' if form.ends_with('N') => {}
            '0'..='9' => form.push('N'),
            other => form.push(other),
        }
    }
    form
}

#[test]
fn the_form_is_what_does_not_depend_on_the_moment() {
    let quoted = "queue 3 datum wait, oldest 2026-11-22T02:07:40.785Z";
    assert!(same(quoted, "queue  12 datum wait, oldest -\n"));
    assert!(same("…\nb 1\n…", "a\nb 2\nc\nd"));
    assert!(!same(quoted, "queue 12 datum waited, oldest -"));
    assert!(!same("a\nb", "a"));
    assert!(same(
        "ms: -134 Sun, Signature=5bb0ae788cf28390",
        "ms: 7 Mon, Signature=aaaaaaaaaaaaaaaa"
    ));
}
