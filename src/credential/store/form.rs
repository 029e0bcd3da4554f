//! A credential as it stands in a file, and as systemd passes it. Pure.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::super::{Credential, date, signing_key};

/// The file, for serde. Wiped on drop; no `Debug`.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Stored {
    token_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_date: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// The reason says where, never what: serde's own message would quote a secret.
fn stored(bytes: &[u8]) -> Result<Stored, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "members are missing, unknown or of a wrong type",
            _ => "it is not JSON",
        };
        format!("{what} (line {}, column {})", error.line(), error.column())
    })
}

pub(super) fn parse(bytes: &[u8]) -> Result<Credential, String> {
    stored(bytes)?.credential(None)
}

pub(super) fn parse_passed(bytes: &[u8], today: NaiveDate) -> Result<Credential, String> {
    if bytes.trim_ascii_start().starts_with(b"{") {
        return stored(bytes)?.credential(Some(today));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let lines: Vec<&str> = text.trim_ascii_end().lines().collect();
    let [token_id, secret] = lines[..] else {
        return Err("it is neither JSON nor two lines, token ID and secret".to_owned());
    };
    let text = |text: &str| text.trim_ascii().to_owned();
    Stored { token_id: text(token_id), key: None, key_date: None, secret: Some(text(secret)) }
        .credential(Some(today))
}

impl Stored {
    /// Checks every member. A key may be missing where it can be made from the secret for `today`.
    fn credential(&self, today: Option<NaiveDate>) -> Result<Credential, String> {
        let token_id =
            self.token_id.parse().map_err(|_| "`token_id` is not a token ID".to_owned())?;
        let secret = match &self.secret {
            Some(secret) => Some(secret.parse().map_err(|error| format!("`secret`: {error}"))?),
            None => None,
        };
        let (key, key_date) = match (&self.key, &self.key_date, today, &secret) {
            (Some(key), Some(day), _, _) => {
                let key = key.parse().map_err(|error| format!("`key`: {error}"))?;
                let day = date::parse_signing_day(day)
                    .ok_or("`key_date` is not a day written YYYYMMDD")?;
                (key, day)
            }
            (None, None, Some(today), Some(secret)) => (signing_key(secret, today), today),
            (None, _, _, _) => return Err("`key` is missing".to_owned()),
            (_, None, _, _) => return Err("`key_date` is missing".to_owned()),
        };
        Ok(Credential { token_id, key, key_date, secret })
    }
}

pub(super) fn render(credential: &Credential) -> Zeroizing<Vec<u8>> {
    let stored = Stored {
        token_id: credential.token_id.as_str().to_owned(),
        key: Some(credential.key.expose_hex().to_string()),
        key_date: Some(date::signing_day(credential.key_date)),
        secret: credential.secret.as_ref().map(|secret| secret.expose().to_owned()),
    };
    // Room for the longest secret with every character escaped: it must not grow and leave copies.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2048));
    serde_json::to_writer(&mut *bytes, &stored).expect("text makes JSON, and memory takes it");
    bytes.push(b'\n');
    bytes
}
