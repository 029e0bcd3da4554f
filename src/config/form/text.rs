//! Text: identifiers, choices, addresses, paths.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use rust_decimal::Decimal;

use super::{
    super::{
        problem::shorten,
        schema::{Form, Wrong, nearest},
        written::{Node, Value},
    },
    number::Number,
};

/// Text that a function turns into a value or a complaint.
pub(in crate::config) struct Parsed<T: 'static> {
    /// The type, as the reference shows it.
    pub(in crate::config) kind: &'static str,
    /// What makes a good one.
    pub(in crate::config) range: &'static str,
    /// Whether a value that does not fit may be shown; a secret is easily put in the wrong place.
    pub(in crate::config) shown: fn(&str) -> bool,
    pub(in crate::config) parse: fn(&str) -> Option<T>,
}

impl<T> Form for Parsed<T> {
    type Out = T;

    fn read(&self, value: &Value) -> Result<T, Wrong> {
        let read = match value {
            Value::Text(text) => (self.parse)(text),
            _ => None,
        };
        read.ok_or_else(|| Wrong {
            found: match value {
                Value::Text(text) if !(self.shown)(text) => {
                    Some(format!("a text of {} characters", text.chars().count()))
                }
                _ => None,
            },
            expected: format!("a {}: {}", self.kind, self.range),
        })
    }

    fn kind(&self) -> String {
        self.kind.to_owned()
    }

    fn range(&self) -> String {
        self.range.to_owned()
    }
}

/// One of a few words.
pub(in crate::config) struct Choice<T: 'static> {
    pub(in crate::config) options: &'static [(&'static str, T)],
    /// Other spellings that are taken.
    pub(in crate::config) aliases: &'static [(&'static str, T)],
    /// Words that somebody will try, and what to tell them.
    pub(in crate::config) refused: &'static [(&'static str, &'static str)],
}

impl<T: Copy + Sync> Form for Choice<T> {
    type Out = T;

    fn read(&self, value: &Value) -> Result<T, Wrong> {
        let Value::Text(text) = value else {
            return Err(Wrong::expected(format!("one of {}", self.range())));
        };
        let mut known = self.options.iter().chain(self.aliases);
        if let Some((_, value)) = known.find(|(word, _)| word == text) {
            return Ok(*value);
        }
        if let Some((_, say)) = self.refused.iter().find(|(word, _)| word == text) {
            return Err(Wrong::expected(*say));
        }
        let words = self.options.iter().map(|(word, _)| *word);
        Err(Wrong::expected(match nearest(&text.to_ascii_lowercase(), words) {
            Some(near) => format!("one of {}: did you mean \"{near}\"?", self.range()),
            None => format!("one of {}", self.range()),
        }))
    }

    fn kind(&self) -> String {
        "choice".to_owned()
    }

    fn range(&self) -> String {
        let words: Vec<_> = self.options.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        words.join(", ")
    }
}

/// Yes or no.
pub(in crate::config) struct Flag;

impl Form for Flag {
    type Out = bool;

    fn read(&self, value: &Value) -> Result<bool, Wrong> {
        match value {
            Value::Flag(flag) => Ok(*flag),
            _ => Err(Wrong::expected("true or false, without quotes")),
        }
    }

    fn kind(&self) -> String {
        "true or false".to_owned()
    }
}

/// A list of texts, each of which a function turns into a value or a complaint.
pub(in crate::config) struct Listed<T: 'static> {
    /// The type, as the reference shows it.
    pub(in crate::config) kind: &'static str,
    /// What makes a good entry.
    pub(in crate::config) range: &'static str,
    /// The fewest entries.
    pub(in crate::config) least: usize,
    pub(in crate::config) parse: fn(&str) -> Option<T>,
}

impl<T> Form for Listed<T> {
    type Out = Vec<T>;

    fn read(&self, value: &Value) -> Result<Vec<T>, Wrong> {
        let wrong = || Wrong::expected(format!("a {}: {}", self.kind, self.range));
        let Value::List(nodes) = value else { return Err(wrong()) };
        if nodes.len() < self.least {
            return Err(Wrong { found: Some("an empty list".to_owned()), ..wrong() });
        }
        let entry = |node: &Node| match &node.value {
            Value::Text(text) => (self.parse)(text),
            _ => None,
        };
        nodes
            .iter()
            .map(|node| {
                entry(node).ok_or_else(|| Wrong { found: Some(node.value.shown()), ..wrong() })
            })
            .collect()
    }

    fn kind(&self) -> String {
        self.kind.to_owned()
    }

    fn range(&self) -> String {
        self.range.to_owned()
    }
}

/// A number for each of some names: `{ name = 1, other = 0 }`.
pub(in crate::config) struct Named<T: 'static> {
    /// What has the names, as the reference shows it.
    pub(in crate::config) what: &'static str,
    /// What makes a good name.
    pub(in crate::config) range: &'static str,
    pub(in crate::config) parse: fn(&str) -> Option<T>,
}

impl<T: Ord> Form for Named<T> {
    type Out = BTreeMap<T, Decimal>;

    fn read(&self, value: &Value) -> Result<Self::Out, Wrong> {
        let expected = |what: &str| Wrong::expected(format!("{what}, {}", self.range));
        let Value::Table(table) = value else {
            return Err(expected(&format!("{} with a number each, {{ name = 1, … }}", self.what)));
        };
        let number = Number { not_zero: false, not_negative: false };
        let entry = |(name, node): &(String, Node)| {
            let named = shorten(name);
            let name = (self.parse)(name).ok_or_else(|| Wrong {
                found: Some(format!("{named:?}")),
                ..expected(&format!("names of {}", self.what))
            })?;
            let value = number.read(&node.value).map_err(|wrong| {
                let found = wrong.found.unwrap_or_else(|| node.value.shown());
                Wrong { found: Some(format!("{named} = {found}")), ..wrong }
            })?;
            Ok((name, value))
        };
        table.entries.iter().map(entry).collect()
    }

    fn kind(&self) -> String {
        format!("table of {}", self.what)
    }

    fn range(&self) -> String {
        self.range.to_owned()
    }
}

/// A list of labels. `_v2` is a mark of SolarNetwork's own: over MQTT it says how numbers are written and is taken
/// away, by every other way it would be stored.
pub(in crate::config) struct Texts;

impl Form for Texts {
    type Out = Vec<String>;

    fn read(&self, value: &Value) -> Result<Vec<String>, Wrong> {
        let wrong =
            || Wrong::expected(format!("a list of texts such as [\"north\"], {}", self.range()));
        let Value::List(nodes) = value else { return Err(wrong()) };
        nodes
            .iter()
            .map(|node| match &node.value {
                Value::Text(text) if label(text).is_some() && text != "_v2" => Ok(text.clone()),
                other => Err(Wrong { found: Some(other.shown()), ..wrong() }),
            })
            .collect()
    }

    fn kind(&self) -> String {
        "list of texts".to_owned()
    }

    fn range(&self) -> String {
        "each 1 to 64 characters without control characters and blanks at its ends, and not `_v2`"
            .to_owned()
    }
}

/// A short name of the user's own.
pub(in crate::config) const LABEL: Parsed<String> = Parsed {
    kind: "text",
    range: "1 to 64 characters without control characters and blanks at its ends",
    shown: |_| true,
    parse: label,
};

/// What [`LABEL`] takes.
pub(in crate::config) fn label(text: &str) -> Option<String> {
    let fits = (1..=64).contains(&text.chars().count());
    (fits && text.trim() == text && !text.contains(char::is_control)).then(|| text.to_owned())
}

/// The address of a server's application.
pub(in crate::config) struct Url {
    pub(in crate::config) example: &'static str,
}

/// A checked address, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct Address {
    pub(in crate::config) text: String,
    /// Over `http` and not to this machine itself.
    pub(in crate::config) readable_on_the_way: bool,
}

impl Form for Url {
    type Out = Address;

    fn read(&self, value: &Value) -> Result<Address, Wrong> {
        let expected =
            || format!("an address such as \"{}\", without a slash at its end", self.example);
        let Value::Text(text) = value else { return Err(Wrong::expected(expected())) };
        if text.contains(['@', '?', '#']) {
            // What follows may be a password or a token.
            return Err(Wrong {
                found: Some("an address with a user name, query or fragment".to_owned()),
                expected: expected(),
            });
        }
        address(text).ok_or_else(|| Wrong::expected(expected()))
    }

    fn kind(&self) -> String {
        "address".to_owned()
    }

    fn range(&self) -> String {
        "`https://…`, or `http://…` on a network you trust; no slash at the end".to_owned()
    }
}

fn address(text: &str) -> Option<Address> {
    let (scheme, rest) = text.split_once("://")?;
    let secure = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = endpoint(authority)?.0;
    let plain = |c: char| {
        c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
    };
    if path.ends_with('/') || !path.chars().all(plain) {
        return None;
    }
    let loopback =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    Some(Address { text: text.to_owned(), readable_on_the_way: !secure && !loopback })
}

/// A host with or without a port.
pub(in crate::config) struct Endpoint {
    pub(in crate::config) expected: &'static str,
}

impl Form for Endpoint {
    /// The host, without brackets, and the port.
    type Out = (String, Option<u16>);

    fn read(&self, value: &Value) -> Result<(String, Option<u16>), Wrong> {
        let read = match value {
            Value::Text(text) => endpoint(text),
            _ => None,
        };
        read.ok_or_else(|| Wrong {
            found: match value {
                // What stands before may be a password.
                Value::Text(text) if text.contains('@') => {
                    Some("a host with a user name".to_owned())
                }
                _ => None,
            },
            expected: self.expected.to_owned(),
        })
    }

    fn kind(&self) -> String {
        "host, or host:port".to_owned()
    }
}

fn endpoint(text: &str) -> Option<(String, Option<u16>)> {
    let port = |text: &str| {
        // `parse` would also take a sign.
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(text) => Some((host.to_owned(), Some(port(text)?))),
            None => rest.is_empty().then(|| (host.to_owned(), None)),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some((text.to_owned(), None));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, text)) => (host, Some(port(text)?)),
        None => (text, None),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let fits = (1..=253).contains(&host.len()) && host.chars().all(allowed);
    fits.then(|| (host.to_owned(), port))
}

/// A path, relative to the file it is written in.
pub(in crate::config) struct File;

impl Form for File {
    type Out = PathBuf;

    fn read(&self, value: &Value) -> Result<PathBuf, Wrong> {
        match value {
            Value::Text(text) if text.starts_with("~/") => {
                Err(Wrong::expected("the whole path: only a shell replaces `~`"))
            }
            Value::Text(text) if !text.is_empty() && !text.contains('\0') => Ok(text.into()),
            Value::Text(text) => Err(Wrong {
                found: Some(format!("{:?}", shorten(text))),
                expected: "a path".to_owned(),
            }),
            _ => Err(Wrong::expected("a path, as text")),
        }
    }

    fn kind(&self) -> String {
        "path".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_scheme_a_host_and_no_slash_at_the_end() {
        for (text, readable) in [
            ("https://data.solarnetwork.net/solaruser", false),
            ("http://192.0.2.7:8080/a", true),
            ("http://localhost:8080", false),
            ("http://127.0.0.1:1/a", false),
            ("http://[::1]:1/a", false),
        ] {
            let found = address(text).map(|address| address.readable_on_the_way);
            assert_eq!(found, Some(readable), "{text}");
        }
        for bad in [
            "",
            "data.solarnetwork.net",
            "https://",
            "https://h/",
            "ftp://h",
            "https://h:0/a",
            "https://h/ä",
            "https://h/a b",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_address_with_a_password_is_not_shown() {
        let value = Value::Text("https://me:hunter2@example.com".to_owned());
        let wrong = Url { example: "" }.read(&value).expect_err("a complaint");
        assert!(!format!("{wrong:?}").contains("hunter2"));
    }

    #[test]
    fn endpoints_are_names_and_addresses_with_or_without_a_port() {
        for (text, host, port) in [
            ("192.0.2.7", "192.0.2.7", None),
            ("192.0.2.7:1502", "192.0.2.7", Some(1502)),
            ("gateway.local:502", "gateway.local", Some(502)),
            ("[2001:db8::1]:502", "2001:db8::1", Some(502)),
            ("2001:db8::1", "2001:db8::1", None),
        ] {
            assert_eq!(endpoint(text), Some((host.to_owned(), port)), "{text}");
        }
        for bad in
            ["", ":502", "h:", "h:0", "h:65536", "h:+1", "tcp://h:502", "a b", "[::1", "[h]:1"]
        {
            assert_eq!(endpoint(bad), None, "{bad}");
        }
    }
}
