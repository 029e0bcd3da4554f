//! Where an MQTT broker is.

use std::{fmt, str::FromStr};

/// A broker's address, such as `mqtts://queue.solarnetwork.net:8883`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Name or address, an IPv6 one without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether TLS is spoken.
    pub secure: bool,
}

/// A text that is no broker's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address such as mqtts://queue.solarnetwork.net:8883")]
pub struct InvalidBrokerUrl;

impl BrokerUrl {
    /// Whether both are at the same place, as far as their names tell.
    #[must_use]
    pub fn is_at(&self, other: &Self) -> bool {
        self.port == other.port && self.host.eq_ignore_ascii_case(&other.host)
    }

    /// Whether others on the way can read what is sent: not encrypted, and not to this machine itself.
    #[must_use]
    pub fn is_readable_on_the_way(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        let loopback = self.host == "localhost" || address.is_ok_and(|a| a.is_loopback());
        !self.secure && !loopback
    }
}

impl FromStr for BrokerUrl {
    type Err = InvalidBrokerUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBrokerUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidBrokerUrl)?;
        let secure = match scheme {
            "mqtts" => true,
            "mqtt" => false,
            _ => return Err(InvalidBrokerUrl),
        };
        // A slash at the end means nothing, and some documents have it.
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(InvalidBrokerUrl)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| InvalidBrokerUrl)?;
                (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("")))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, Some("")),
            },
        };
        let port = match port.ok_or(InvalidBrokerUrl)? {
            "" if authority.ends_with(':') => return Err(InvalidBrokerUrl),
            "" if secure => 8883,
            "" => 1883,
            // `parse` would also take a sign.
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port > 0).ok_or(InvalidBrokerUrl)?
            }
            _ => return Err(InvalidBrokerUrl),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
        if !(1..=253).contains(&host.len()) || !host.chars().all(plain) {
            return Err(InvalidBrokerUrl);
        }
        Ok(Self { host: host.to_owned(), port, secure })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_their_default_ports() {
        for (text, shown) in [
            ("mqtts://queue.solarnetwork.net", "mqtts://queue.solarnetwork.net:8883"),
            ("mqtts://queue.solarnetwork.net:8884/", "mqtts://queue.solarnetwork.net:8884"),
            ("mqtt://127.0.0.1", "mqtt://127.0.0.1:1883"),
            ("mqtts://[2001:db8::1]:99", "mqtts://[2001:db8::1]:99"),
            ("mqtts://[2001:db8::1]", "mqtts://[2001:db8::1]:8883"),
        ] {
            let url: BrokerUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), shown);
            assert_eq!(shown.parse(), Ok(url));
        }
    }

    #[test]
    fn what_is_no_broker_is_refused() {
        for text in [
            "",
            "queue",
            "https://queue",
            "mqtts://",
            "mqtts://a:0",
            "mqtts://a:+1",
            "mqtts://a:",
            "mqtts://u@h",
            "mqtts://h/path",
            "mqtts://a b",
            "mqtts://[::1",
            "mqtts://[::1]x",
            "mqtts://[]:1",
            "mqtts://a:65536",
        ] {
            assert_eq!(text.parse::<BrokerUrl>(), Err(InvalidBrokerUrl), "{text}");
        }
    }

    #[test]
    fn only_plain_text_to_another_machine_can_be_read_on_the_way() {
        let readable = |text: &str| text.parse::<BrokerUrl>().expect(text).is_readable_on_the_way();
        assert!(readable("mqtt://192.0.2.1"));
        assert!(!readable("mqtts://192.0.2.1"));
        assert!(!readable("mqtt://[::1]:1"));
        assert!(!readable("mqtt://localhost"));
    }
}
