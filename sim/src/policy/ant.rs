//! Path patterns as SolarNetwork's servers match them: Spring's `AntPathMatcher` with separator `/`,
//! case-sensitive, segments not trimmed.
//!
//! `**` as a whole segment stands for any number of segments; in other segments `*` is any text, `?` one
//! character, `{name}` any text too, and `{name:regex}` what the regular expression matches. As in the original
//! a segment with any of these becomes one regular expression, which has to match the whole segment.

use regex_lite::Regex;

/// Whether the text counts as a pattern at all.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
        || text.find('{').is_some_and(|open| text.get(open..).unwrap_or("").contains('}'))
}

/// Whether the whole path matches.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    walk(pattern, path, true)
}

/// Whether the path may be the beginning of one that matches.
pub(crate) fn matches_start(pattern: &str, path: &str) -> bool {
    walk(pattern, path, false)
}

/// The algorithm of the original, kept in its order because its corner cases come from that order.
///
/// `p..p_end` and `s..s_end` are what is left of pattern and path (ends exclusive).
fn walk(pattern: &str, path: &str, full: bool) -> bool {
    if pattern.starts_with('/') != path.starts_with('/') {
        return false;
    }
    let same_end = pattern.ends_with('/') == path.ends_with('/');
    let patterns: Vec<&str> = pattern.split('/').filter(|text| !text.is_empty()).collect();
    let segments: Vec<&str> = path.split('/').filter(|text| !text.is_empty()).collect();
    let (mut p, mut p_end) = (0, patterns.len());
    let (mut s, mut s_end) = (0, segments.len());

    while p < p_end && s < s_end && patterns[p] != "**" {
        if !segment(patterns[p], segments[s]) {
            return false;
        }
        p += 1;
        s += 1;
    }
    let all_open = |rest: &[&str]| rest.iter().all(|pattern| *pattern == "**");
    if s == s_end {
        if p == p_end {
            return same_end;
        }
        if !full || (p + 1 == p_end && patterns[p] == "*" && path.ends_with('/')) {
            return true;
        }
        return all_open(&patterns[p..p_end]);
    }
    if p == p_end {
        return false;
    }
    if !full {
        return true;
    }

    while p < p_end && s < s_end && patterns[p_end - 1] != "**" {
        if !segment(patterns[p_end - 1], segments[s_end - 1]) {
            return false;
        }
        if p_end == patterns.len() && !same_end {
            return false;
        }
        p_end -= 1;
        s_end -= 1;
    }
    if s == s_end {
        return all_open(&patterns[p..p_end]);
    }

    while p + 1 < p_end && s < s_end {
        let Some(next) = (p + 1..p_end).find(|index| patterns[*index] == "**") else { break };
        let wanted = &patterns[p + 1..next];
        let fits = |start: &usize| {
            wanted.iter().zip(&segments[*start..]).all(|(pattern, text)| segment(pattern, text))
        };
        let Some(found) = (s..=s_end).take_while(|at| at + wanted.len() <= s_end).find(fits) else {
            return false;
        };
        p = next;
        s = found + wanted.len();
    }
    all_open(&patterns[p..p_end])
}

fn segment(pattern: &str, text: &str) -> bool {
    if !pattern.contains(['*', '?', '{']) {
        return pattern == text;
    }
    Regex::new(&expression(pattern)).is_ok_and(|regex| regex.is_match(text))
}

/// The segment as a regular expression. One that is no regular expression matches nothing.
fn expression(pattern: &str) -> String {
    let mut out = String::from("^(?s:");
    let mut rest = pattern;
    while let Some(character) = rest.chars().next() {
        let variable = (character == '{').then(|| variable_end(rest)).flatten();
        rest = match variable {
            Some(end) => {
                let regex = rest[1..end].split_once(':').map_or(".*", |(_, regex)| regex);
                out.extend(["(?:", regex, ")"]);
                &rest[end + 1..]
            }
            None => {
                match character {
                    '?' => out.push('.'),
                    '*' => out.push_str(".*"),
                    literal => out.push_str(&regex_lite::escape(literal.encode_utf8(&mut [0; 4]))),
                }
                &rest[character.len_utf8()..]
            }
        };
    }
    out + ")$"
}

/// Where the brace that opens the text is closed, nested ones counted; `None` for none, and for `{}`.
fn variable_end(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return (at > 1).then_some(at);
                }
            }
            _ => {}
        }
    }
    None
}
