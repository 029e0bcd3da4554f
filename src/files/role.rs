//! The roles a token can have, and what each brings with it.
//!
//! Whoever may generate tokens may grant any role, so the server refuses a role only if it does not know
//! it. The mistakes it makes easy are refused or explained here.

use super::profile::Profiles;

/// One role as the server has it.
#[derive(Debug, Clone, Copy)]
pub struct Role {
    /// Its name.
    pub name: &'static str,
    /// The generations in which it can be granted; none of them for roles that only exist in the code.
    pub granted_by: Granted,
    /// What it lets its token do.
    pub meaning: &'static str,
}

/// Where a role can be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// In these generations.
    In(Profiles),
    /// Nowhere, for this reason.
    Never(&'static str),
}

/// The role that has every right.
pub const ADMINISTRATOR: &str = "security.administrator";
/// The role that replaces requested tags by the token's.
pub const ENFORCE_TAGS: &str = "upload.enforce_tags_selected_in_token";
/// The role that ends its token with the first upload.
pub const ONCE: &str = "upload.only_once_successful";

const fn role(name: &'static str, meaning: &'static str) -> Role {
    Role { name, granted_by: Granted::In(Profiles::ALL), meaning }
}

const fn v3(name: &'static str, meaning: &'static str) -> Role {
    Role { name, granted_by: Granted::In(Profiles::V3), meaning }
}

const fn never(name: &'static str, reason: &'static str) -> Role {
    Role { name, granted_by: Granted::Never(reason), meaning: reason }
}

/// Every role, with those that people try and cannot have.
///
/// # Source
///
/// `server/src/Domain/Roles.php` of riotkit-org/file-repository at the commits of the three profiles.
pub static ROLES: [Role; 38] = [
    role("upload.images", "may upload; images only, unless more types are allowed"),
    never("upload.videos", "it has no entry in the server's list of roles that can be granted"),
    role("upload.documents", "may upload; office files, PDF, JSON, CSV, unless more are allowed"),
    role("upload.backup", "may upload; archives, plain text, SQL, unless more are allowed"),
    role("upload.all", "may upload; brings no list of types"),
    role("upload.enforce_no_password", "restricts: no passwords, and no versions of collections"),
    role(ENFORCE_TAGS, "restricts: the token's tags replace those of the upload"),
    role(ONCE, "restricts: the token ends with its first upload"),
    role("security.authentication_lookup", "may look up any token"),
    role("security.overwrite", "may overwrite files that are added by URL"),
    role("security.generate_tokens", "may issue tokens with any role: as good as an administrator"),
    role("security.use_technical_endpoints", "may list roles and purge expired tokens"),
    role("security.revoke_tokens", "may revoke tokens, but not administrators'"),
    role(ADMINISTRATOR, "may do everything"),
    never(
        "security.create_predictable_token_ids",
        "the server checks it and grants it to nobody; an administrator may choose IDs anyway",
    ),
    role("deletion.all_files_including_protected_and_unprotected", "may delete any file"),
    role("view.any_file", "may read files with a password"),
    role("view.files_from_all_tags", "sees entries of all tags in the listing"),
    role("view.can_use_listing_endpoint_at_all", "may list public files"),
    role("collections.create_new", "may create collections"),
    Role {
        name: "collections.create_new.with_custom_id",
        granted_by: Granted::In(Profiles::SINCE_V2B),
        meaning: "may choose the ID of a new collection",
    },
    role("collections.allow_infinite_limits", "may create collections with limits of zero"),
    role("collections.modify_details_of_allowed_collections", "may edit its collections"),
    role(
        "collections.modify_any_collection_regardless_if_token_was_allowed_by_collection",
        "may edit and delete any collection",
    ),
    role("collections.view_all_collections", "may read what any collection is"),
    role("collections.can_use_listing_endpoint", "may list collections"),
    role("collections.manage_tokens_in_allowed_collections", "may let tokens use its collections"),
    never(
        "collections.add_tokens_to_allowed_collections",
        "it is printed in the server's documentation but exists no more: \
         it is called collections.manage_tokens_in_allowed_collections",
    ),
    role("collections.delete_allowed_collections", "may delete its collections"),
    role("collections.upload_to_allowed_collections", "may add versions; needs an upload role too"),
    role("collections.list_versions_for_allowed_collections", "may list and download versions"),
    role("collections.delete_versions_for_allowed_collections", "may delete versions"),
    v3("security.search_for_tokens", "may search tokens, with the lookup role"),
    v3("security.cannot_see_full_token_ids", "restricts: IDs in listings are masked"),
    v3("view.can_see_admin_metadata_in_listing", "sees storage paths in the listing"),
    v3(
        "collections.can_list_tokens_in_allowed_collections",
        "may list the tokens of its collections",
    ),
    v3("securecopy.stream", "may read the stream of replication"),
    v3("securecopy.all_secrets_read", "may read the secrets of replication"),
];

/// The role of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Role> {
    ROLES.iter().find(|role| role.name == name)
}

/// Every role that can be granted, a line for each, for people.
#[must_use]
pub fn list() -> String {
    let grantable = ROLES.iter().filter(|role| matches!(role.granted_by, Granted::In(_)));
    grantable.map(|role| format!("  {}: {}\n", role.name, role.meaning)).collect()
}

/// The role that is most like a name that is none.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    if name.len() > 100 {
        return None;
    }
    let like = ROLES.iter().map(|role| (strsim::jaro_winkler(name, role.name), role.name));
    let best = like.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.85).then_some(best.1)
}

/// The types that a role lets its token upload; `None` where it brings no list.
#[must_use]
pub fn mime_list(name: &str) -> Option<&'static [&'static str]> {
    match name {
        "upload.images" => Some(&IMAGES),
        "upload.documents" => Some(&DOCUMENTS),
        "upload.backup" => Some(&BACKUP),
        _ => None,
    }
}

static IMAGES: [&str; 6] =
    ["image/png", "image/jpg", "image/jpeg", "image/gif", "image/webp", "image/pipeg"];

static DOCUMENTS: [&str; 10] = [
    "application/vnd.ms-works",
    "application/pdf",
    "application/msword",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.oasis.opendocument.presentation",
    "application/vnd.oasis.opendocument.spreadsheet",
    "application/vnd.oasis.opendocument.text",
    "application/json",
    "application/octet-stream",
    "text/csv",
];

static BACKUP: [&str; 23] = [
    "application/octet-stream",
    "application/json",
    "application/x-bzip",
    "application/x-bzip2",
    "application/x-rar-compressed",
    "application/x-tar",
    "application/zip",
    "application/xml",
    "application/sql",
    "application/x-cpio",
    "application/x-shar",
    "application/x-lzma",
    "application/x-lzip",
    "application/gzip",
    "application/x-lzop",
    "application/x-compress",
    "application/x-xz",
    "application/x-7z-compressed",
    "application/x-ace-compressed",
    "application/x-arj",
    "text/plain",
    "text/x-sql",
    "text/sql",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_role_stands_twice_and_a_slip_is_answered_with_the_nearest() {
        let mut names: Vec<_> = ROLES.iter().map(|role| role.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROLES.len());
        assert_eq!(nearest("upload.image"), Some("upload.images"));
        assert_eq!(nearest("nonsense"), None);
        let list = list();
        assert!(list.contains("upload.all: may upload") && !list.contains("upload.videos"));
    }
}
