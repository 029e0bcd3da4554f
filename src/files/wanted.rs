//! What a new token is to be, and what is wrong with that before the server is asked. Pure.
//!
//! The server takes much that makes a token useless: tags that no upload can have, address ranges that
//! never match, an expiry in the past, `0` for "no limit". Those are refused here. What works but may
//! surprise is a warning.

use std::{collections::BTreeSet, net::IpAddr};

use chrono::{DateTime, FixedOffset, Utc};
use serde_json::{Map, Value, json};

use super::{
    expiry::Expiry,
    profile::{Profile, Profiles},
    role::{self, ADMINISTRATOR, Granted, ONCE},
};
use crate::domain::is_file_tag;

/// Every field that the API has.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// What the token may do.
    pub roles: Vec<String>,
    /// The tags its uploads may have; none means any.
    pub tags: Vec<String>,
    /// The types its uploads may have, beside those that its roles bring.
    pub mime_types: Vec<String>,
    /// Its uploads are smaller than this many bytes.
    pub max_file_size: Option<u64>,
    /// The user agents it is honoured from, word for word.
    pub user_agents: Vec<String>,
    /// The addresses it is honoured from, as text.
    pub ip_addresses: Vec<String>,
    /// When it ends.
    pub expires: Expiry,
    /// Its ID, where it is not left to the server.
    pub id: Option<String>,
    /// V3's members for replication: all five or none. The key and the salt are secrets.
    pub secure_copy: Option<Map<String, Value>>,
}

/// V3's members for replication.
pub const SECURE_COPY: [&str; 5] = [
    "secureCopyEncryptionMethod",
    "secureCopyEncryptionKey",
    "secureCopyDigestMethod",
    "secureCopyDigestRounds",
    "secureCopyDigestSalt",
];

/// What is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remarks {
    /// Why it is not sent.
    pub refused: Vec<String>,
    /// What may surprise.
    pub warnings: Vec<String>,
}

/// A field that only some generations have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The field, for people.
    pub what: String,
    /// The generations that have it.
    pub profiles: Profiles,
}

impl Wanted {
    /// What can be said without knowing the server.
    #[must_use]
    pub fn remarks(&self, now: DateTime<Utc>) -> Remarks {
        let mut remarks = Remarks::default();
        self.check_roles(&mut remarks);
        self.check_limits(&mut remarks);
        self.check_callers(&mut remarks);
        if self.expires.is_over(now) {
            remarks.refused.push(format!(
                "the expiry {} is past: the server would issue a token that is of no use",
                self.expires
            ));
        }
        if let Some(members) = &self.secure_copy {
            let given: BTreeSet<_> = members.keys().map(String::as_str).collect();
            if given != BTreeSet::from(SECURE_COPY) {
                let members = SECURE_COPY.join(", ");
                remarks.refused.push(format!("for secure copy, exactly these members: {members}"));
            }
        }
        remarks
    }

    fn check_roles(&self, remarks: &mut Remarks) {
        if self.roles.is_empty() {
            remarks.refused.push("a token needs at least one role".to_owned());
        }
        for name in &self.roles {
            match role::find(name).map(|role| role.granted_by) {
                Some(Granted::In(_)) => {}
                Some(Granted::Never(reason)) => {
                    remarks.refused.push(format!("the role {name} cannot be granted: {reason}"));
                }
                None => {
                    let near = role::nearest(name);
                    let near = near.map_or_else(
                        || "; `solarnode-agent files token generate --help` lists them".to_owned(),
                        |near| format!("; did you mean {near}?"),
                    );
                    remarks.refused.push(format!("there is no role {name}{near}"));
                }
            }
        }
        let has = |name: &str| self.roles.iter().any(|role| role == name);
        let lists: Vec<_> =
            self.roles.iter().filter(|role| role::mime_list(role).is_some()).cloned().collect();
        if !lists.is_empty()
            && (has("upload.all") || !self.mime_types.is_empty())
            && !has(ADMINISTRATOR)
        {
            remarks.warnings.push(format!(
                "{} brings its own list of types, to which allowed types are added; \
                 for exactly the types given use upload.all alone",
                lists.join(" and ")
            ));
        }
        let restricted =
            !(self.tags.is_empty() && self.mime_types.is_empty() && self.max_file_size.is_none());
        if restricted && !self.roles.iter().any(|role| may_upload(role)) {
            remarks
                .warnings
                .push("no role lets this token upload, so its limits mean nothing".to_owned());
        }
        if has("security.generate_tokens") && !has(ADMINISTRATOR) {
            remarks.warnings.push(
                "security.generate_tokens may issue tokens with any role, an administrator's included"
                    .to_owned(),
            );
        }
        if has(ONCE) {
            remarks.warnings.push(
                "upload.only_once_successful: the token ends with its first upload, also where the \
                 repository had the same bytes already"
                    .to_owned(),
            );
        }
    }

    fn check_limits(&self, remarks: &mut Remarks) {
        for tag in self.tags.iter().filter(|tag| !is_file_tag(tag)) {
            remarks.refused.push(format!(
                "no upload can have the tag {tag:?}: tags are 3 to 32 of A-Z a-z 0-9 . - _"
            ));
        }
        for mime in self.mime_types.iter().filter(|mime| !is_mime(mime)) {
            remarks.refused.push(format!(
                "{mime:?} is no type: it is compared as text, such as image/jpeg, without wildcards"
            ));
        }
        match self.max_file_size {
            Some(0) => remarks.refused.push(
                "a limit of 0 means none to the server; leave it out for a token without a limit"
                    .to_owned(),
            ),
            Some(bytes) if bytes >= i64::MAX as u64 => {
                remarks.refused.push(format!("{bytes} bytes are more than the server can count"));
            }
            Some(_) | None => {}
        }
    }

    fn check_callers(&self, remarks: &mut Remarks) {
        for address in &self.ip_addresses {
            match address.parse::<IpAddr>() {
                Ok(ip) if ip.to_string() == *address => {}
                Ok(ip) => remarks.refused.push(format!(
                    "addresses are compared as text, and {address} is usually written {ip}"
                )),
                Err(_) => remarks.refused.push(format!(
                    "{address:?} is no address: ranges and names are compared as text and never match"
                )),
            }
        }
        let odd = |agent: &&String| agent.trim().is_empty() || agent.chars().any(char::is_control);
        if let Some(agent) = self.user_agents.iter().find(odd) {
            remarks.refused.push(format!("{agent:?} is no user agent that a program could send"));
        }
    }

    /// The fields that not every generation has.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        let mut needs = Vec::new();
        let mut need = |what: String, profiles| needs.push(Need { what, profiles });
        if self.id.is_some() {
            need("an ID of one's own choice".to_owned(), Profiles::SINCE_V2B);
        }
        if self.secure_copy.is_some() {
            need("secure copy".to_owned(), Profiles::V3);
        }
        for name in &self.roles {
            if let Some(Granted::In(profiles)) = role::find(name).map(|role| role.granted_by)
                && profiles != Profiles::ALL
            {
                need(format!("the role {name}"), profiles);
            }
        }
        needs
    }

    /// Why a server of that generation would refuse it.
    #[must_use]
    pub fn refused_by(&self, profile: Profile) -> Vec<String> {
        let lacking = self.needs().into_iter().filter(|need| !need.profiles.contains(profile));
        lacking
            .map(|Need { what, profiles }| {
                format!("this server is of version {profile}, and {what} needs {profiles}")
            })
            .collect()
    }

    /// The request's body.
    #[must_use]
    pub fn body(&self, offset: FixedOffset) -> Value {
        let mut data = json!({
            "tags": self.tags,
            "allowedMimeTypes": self.mime_types,
            "allowedUserAgents": self.user_agents,
            "allowedIpAddresses": self.ip_addresses,
        });
        if let Some(bytes) = self.max_file_size {
            data["maxAllowedFileSize"] = json!(bytes);
        }
        for (name, value) in self.secure_copy.iter().flatten() {
            data[name] = value.clone();
        }
        let mut body =
            json!({ "roles": self.roles, "data": data, "expires": self.expires.wire(offset) });
        if let Some(id) = &self.id {
            body["id"] = json!(id);
        }
        body
    }
}

/// Whether a role lets its token upload.
#[must_use]
pub fn may_upload(role: &str) -> bool {
    matches!(
        role,
        "upload.images"
            | "upload.videos"
            | "upload.documents"
            | "upload.backup"
            | "upload.all"
            | ADMINISTRATOR
    )
}

/// Whether a text is an ID that servers take: any version of UUID.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let hex = |group: &&str| group.bytes().all(|b| b.is_ascii_hexdigit());
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(hex)
}

fn is_mime(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+' | b'_'))
    };
    text.split_once('/').is_some_and(|(kind, subtype)| part(kind) && part(subtype))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::expiry::UTC;

    fn wanted(roles: &[&str]) -> Wanted {
        Wanted {
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            tags: Vec::new(),
            mime_types: Vec::new(),
            max_file_size: None,
            user_agents: Vec::new(),
            ip_addresses: Vec::new(),
            expires: Expiry::Auto,
            id: None,
            secure_copy: None,
        }
    }

    fn now() -> DateTime<Utc> {
        "2026-11-22T10:00:00Z".parse().expect("a date")
    }

    #[test]
    fn what_would_make_a_useless_token_is_refused_with_the_reason() {
        let all = || wanted(&["upload.all"]);
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let cases: [(Wanted, &str); 12] = [
            (wanted(&[]), "at least one role"),
            (wanted(&["upload.videos"]), "cannot be granted"),
            (wanted(&["collections.add_tokens_to_allowed_collections"]), "manage_tokens"),
            (wanted(&["upload.image"]), "did you mean upload.images?"),
            (Wanted { tags: texts(&["ab"]), ..all() }, "3 to 32"),
            (Wanted { tags: texts(&["two words"]), ..all() }, "3 to 32"),
            (Wanted { mime_types: texts(&["image/*"]), ..all() }, "without wildcards"),
            (Wanted { max_file_size: Some(0), ..all() }, "means none"),
            (Wanted { max_file_size: Some(u64::MAX), ..all() }, "can count"),
            (Wanted { ip_addresses: texts(&["192.0.2.0/24"]), ..all() }, "never match"),
            (Wanted { ip_addresses: texts(&["2001:DB8::1"]), ..all() }, "2001:db8::1"),
            (Wanted { expires: "2010-01-01".parse().expect("a date"), ..all() }, "is past"),
        ];
        for (wanted, reason) in cases {
            let remarks = wanted.remarks(now());
            assert!(
                remarks.refused.iter().any(|said| said.contains(reason)),
                "{reason}: {remarks:?}"
            );
        }
        assert_eq!(all().remarks(now()), Remarks::default());
    }

    #[test]
    fn what_surprises_is_a_warning() {
        let images =
            Wanted { mime_types: vec!["image/png".to_owned()], ..wanted(&["upload.images"]) };
        for (wanted, words) in [
            (images, "upload.all alone"),
            (wanted(&["upload.all", "upload.images"]), "upload.all alone"),
            (wanted(&["security.generate_tokens"]), "any role"),
            (wanted(&["upload.all", ONCE]), "first upload"),
            (Wanted { max_file_size: Some(9), ..wanted(&["view.any_file"]) }, "mean nothing"),
        ] {
            let remarks = wanted.remarks(now());
            assert_eq!(remarks.refused, Vec::<String>::new());
            assert!(
                remarks.warnings.iter().any(|said| said.contains(words)),
                "{words}: {remarks:?}"
            );
        }
    }

    #[test]
    fn a_field_that_the_server_does_not_have_is_refused_with_the_version() {
        let id = Wanted { id: Some("x".to_owned()), ..wanted(&["upload.all"]) };
        assert_eq!(
            id.refused_by(Profile::V2A),
            ["this server is of version V2A, and an ID of one's own choice needs V2B or V3"]
        );
        assert!(id.refused_by(Profile::V2B).is_empty());
        assert_eq!(wanted(&["securecopy.stream"]).refused_by(Profile::V2B).len(), 1);
        assert!(wanted(&["securecopy.stream"]).refused_by(Profile::V3).is_empty());
    }

    #[test]
    fn the_body_is_the_documented_one() {
        let wanted = Wanted {
            mime_types: vec!["image/png".to_owned()],
            max_file_size: Some(14_579),
            user_agents: vec!["EdgeAgent/1.0 (linux)".to_owned()],
            ip_addresses: vec!["192.0.2.10".to_owned()],
            expires: "2030-05-05 08:00:00".parse().expect("a date"),
            ..wanted(&["collections.create_new"])
        };
        assert_eq!(
            wanted.body(UTC),
            json!({
                "roles": ["collections.create_new"],
                "data": {
                    "tags": [],
                    "allowedMimeTypes": ["image/png"],
                    "allowedUserAgents": ["EdgeAgent/1.0 (linux)"],
                    "allowedIpAddresses": ["192.0.2.10"],
                    "maxAllowedFileSize": 14_579,
                },
                "expires": "2030-05-05 08:00:00",
            })
        );
    }

    #[test]
    fn ids_are_uuids_of_any_version_in_either_case() {
        assert!(is_uuid("01234567-89ab-CDEF-0123-456789abcdef"));
        for bad in
            ["", "x", "01234567-89ab-cdef-0123-456789abcde", "01234567089ab-cdef-0123-456789abcdef"]
        {
            assert!(!is_uuid(bad), "{bad}");
        }
    }
}
