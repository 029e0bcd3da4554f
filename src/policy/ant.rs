//! Path patterns as SolarNetwork's servers match them. Pure.
//!
//! Their matcher is Spring's `AntPathMatcher` with separator `/`, case-sensitive, segments not trimmed.
//! Its corner cases come from the order of its steps, so [`walk`] keeps that order.
//!
//! | In a segment | Stands for |
//! | --- | --- |
//! | `**` alone | any number of segments, none included |
//! | `*` | any characters, none included (so does `**` beside other text) |
//! | `?` | one character |
//! | `{name}` | any characters |
//! | `{name:regex}` | what the Java regular expression matches |
//!
//! Everything else is literal; nothing escapes. Regular expressions that only Java knows (look-around,
//! back references) match nothing here.
//!
//! # Source
//!
//! `AntPathMatcher.java` of spring-framework, as the servers use it for policies.

use regex_lite::Regex;

/// Whether the text counts as a pattern at all: it has `*` or `?`, or a `{` with a later `}`.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    let mut open = false;
    text.chars().any(|c| {
        open |= c == '{';
        matches!(c, '*' | '?') || (c == '}' && open)
    })
}

/// Whether the whole path matches.
#[must_use]
pub fn matches(pattern: &str, path: &str) -> bool {
    walk(pattern, path, true)
}

/// Whether the path may be the beginning of one that matches.
#[must_use]
pub fn matches_start(pattern: &str, path: &str) -> bool {
    walk(pattern, path, false)
}

/// The two are split at `/`, where empty segments vanish. `p..pn` and `s..sn` are what is left to match.
fn walk(pattern: &str, path: &str, full: bool) -> bool {
    if pattern.starts_with('/') != path.starts_with('/') {
        return false;
    }
    let split =
        |text: &'_ str| text.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    let (patterns, segments): (Vec<String>, Vec<String>) = (split(pattern), split(path));
    let ends_alike = pattern.ends_with('/') == path.ends_with('/');
    let (mut p, mut pn, mut s, mut sn) = (0, patterns.len(), 0, segments.len());
    let only_stars = |from: usize, to: usize| patterns[from..to].iter().all(|p| p == "**");

    while p < pn && s < sn && patterns[p] != "**" {
        if !segment_matches(&patterns[p], &segments[s]) {
            return false;
        }
        (p, s) = (p + 1, s + 1);
    }
    if s == sn {
        if p == pn {
            return ends_alike;
        }
        let empty_last = p + 1 == pn && patterns[p] == "*" && path.ends_with('/');
        return !full || empty_last || only_stars(p, pn);
    }
    if p == pn {
        return false;
    }
    if !full {
        return true;
    }

    // What follows the last `**` is matched from the end.
    while p < pn && s < sn && patterns[pn - 1] != "**" {
        let is_last = pn == patterns.len();
        if !segment_matches(&patterns[pn - 1], &segments[sn - 1]) || (is_last && !ends_alike) {
            return false;
        }
        (pn, sn) = (pn - 1, sn - 1);
    }
    if s == sn {
        return only_stars(p, pn);
    }

    // What stands between two `**` takes the first place where it fits.
    while p + 1 < pn && s < sn {
        let Some(next) = (p + 1..pn).find(|&at| patterns[at] == "**") else { break };
        let wanted = &patterns[p + 1..next];
        let fits = |at: &usize| {
            wanted
                .iter()
                .zip(&segments[*at..])
                .all(|(pattern, text)| segment_matches(pattern, text))
        };
        let Some(last) = (sn - s).checked_sub(wanted.len()) else { return false };
        let Some(at) = (s..=s + last).find(fits) else { return false };
        (p, s) = (next, at + wanted.len());
    }
    only_stars(p, pn)
}

/// A part of a segment's pattern.
enum Part {
    Literal(char),
    One,
    Any,
    Regex(String),
}

fn segment_matches(pattern: &str, text: &str) -> bool {
    let parts = parts(pattern);
    if parts.iter().any(|part| matches!(part, Part::Regex(_))) {
        return regex_matches(&parts, text);
    }
    let text: Vec<char> = text.chars().collect();
    // `fits[n]`: the parts so far can match the first n characters.
    let mut fits = vec![false; text.len() + 1];
    fits[0] = true;
    for part in &parts {
        let mut next = vec![false; fits.len()];
        match part {
            Part::Any => {
                let first = fits.iter().position(|fit| *fit).unwrap_or(fits.len());
                next[first..].fill(true);
            }
            part => {
                for (at, c) in text.iter().enumerate() {
                    let takes =
                        matches!(part, Part::One) || matches!(part, Part::Literal(l) if l == c);
                    next[at + 1] = fits[at] && takes;
                }
            }
        }
        fits = next;
    }
    fits[text.len()]
}

fn regex_matches(parts: &[Part], text: &str) -> bool {
    let source: String = parts
        .iter()
        .map(|part| match part {
            Part::Literal(c) => regex_lite::escape(&c.to_string()),
            Part::One => ".".to_owned(),
            Part::Any => ".*".to_owned(),
            Part::Regex(regex) => format!("(?:{regex})"),
        })
        .collect();
    Regex::new(&format!("^(?s:{source})$")).is_ok_and(|regex| regex.is_match(text))
}

fn parts(pattern: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        if let Some(inner) = variable(rest) {
            // Without a regular expression it is a plain variable; behind a bare colon stands the empty one.
            parts.push(match inner.split_once(':') {
                Some((_, regex)) => Part::Regex(regex.to_owned()),
                None => Part::Any,
            });
            rest = &rest[inner.len() + 2..];
            continue;
        }
        parts.push(match c {
            '*' => Part::Any,
            '?' => Part::One,
            literal => Part::Literal(literal),
        });
        rest = &rest[c.len_utf8()..];
    }
    parts
}

/// What stands between the braces that the text begins with: characters that are no braces, or one
/// more level of braces.
fn variable(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('{')?;
    let mut depth = 0;
    for (at, c) in inner.char_indices() {
        match c {
            '{' if depth == 0 => depth = 1,
            '}' if depth == 1 => depth = 0,
            '}' => return (at > 0).then(|| &inner[..at]),
            '{' => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn variables_with_regular_expressions_match_whole_segments() {
        for (pattern, path, want) in [
            ("/a/{id:[0-9]+}", "/a/12", true),
            ("/a/{id:[0-9]+}", "/a/1x", false),
            ("/a/{id:[0-9]{2}}", "/a/12", true),
            ("/a/{id:[0-9]{2}}", "/a/123", false),
            ("/a/m{id:\\d+}.*", "/a/m7.x", true),
            ("/a/{id:(?=x)x}", "/a/x", false),
            ("/a/{}", "/a/{}", true),
            ("/a/{b", "/a/{b", true),
            ("/a/{b", "/a/xb", false),
        ] {
            assert_eq!(matches(pattern, path), want, "{pattern} {path}");
        }
    }

    proptest! {
        /// A path without wildcards matches itself, and `**` below it matches whatever follows it.
        #[test]
        fn a_path_matches_itself_and_what_is_below(path in "(/[a-z .+(|]{1,3}){1,4}", more in "(/[a-z]{1,2}){0,3}") {
            prop_assert!(matches(&path, &path));
            let (pattern, below) = (format!("{path}/**"), format!("{path}{more}"));
            prop_assert!(matches(&pattern, &below));
        }

        /// Whatever matches as a whole is the beginning of what matches; nothing panics.
        #[test]
        fn a_match_is_the_start_of_a_match(pattern in "[/a*?{}:]{0,8}", path in "[/a*b{}]{0,8}") {
            prop_assert!(!matches(&pattern, &path) || matches_start(&pattern, &path));
        }
    }
}
