//! Roles: which exist, which can be granted, what an administrator has without being told, and the MIME
//! types that upload roles bring.

use super::profile::Profile;

pub(super) const ADMINISTRATOR: &str = "security.administrator";
/// Exists for administrators only: no token can be given it.
pub(super) const PREDICTABLE_IDS: &str = "security.create_predictable_token_ids";

/// What a role does to the token that has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Grant,
    /// Takes away; an administrator has none of these by itself.
    Restriction,
}

/// The first profile that knows a role.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Since {
    V2A,
    V2B,
    V3,
}

const ROLES: &[(&str, Since, Effect, &str)] = &[
    ("upload.images", Since::V2A, Effect::Grant, "Allows to upload images"),
    ("upload.documents", Since::V2A, Effect::Grant, "Allows to upload documents"),
    ("upload.backup", Since::V2A, Effect::Grant, "Allows to submit backups"),
    ("upload.all", Since::V2A, Effect::Grant, "Allows to upload all types of files"),
    ("security.authentication_lookup", Since::V2A, Effect::Grant, "Look up tokens"),
    ("security.overwrite", Since::V2A, Effect::Grant, "Overwrite files"),
    ("security.generate_tokens", Since::V2A, Effect::Grant, "Generate tokens with any roles"),
    ("security.use_technical_endpoints", Since::V2A, Effect::Grant, "Use technical endpoints"),
    ("security.revoke_tokens", Since::V2A, Effect::Grant, "Revoke tokens"),
    (ADMINISTRATOR, Since::V2A, Effect::Grant, "Everything"),
    (
        "deletion.all_files_including_protected_and_unprotected",
        Since::V2A,
        Effect::Grant,
        "Delete any file",
    ),
    ("view.any_file", Since::V2A, Effect::Grant, "Read any file"),
    ("view.files_from_all_tags", Since::V2A, Effect::Grant, "List files of all tags"),
    ("view.can_use_listing_endpoint_at_all", Since::V2A, Effect::Grant, "List files"),
    ("collections.create_new", Since::V2A, Effect::Grant, "Create collections"),
    (
        "collections.create_new.with_custom_id",
        Since::V2B,
        Effect::Grant,
        "Choose the ID of a new collection",
    ),
    (
        "collections.allow_infinite_limits",
        Since::V2A,
        Effect::Grant,
        "Create collections without limits",
    ),
    (
        "collections.modify_details_of_allowed_collections",
        Since::V2A,
        Effect::Grant,
        "Edit allowed collections",
    ),
    (
        "collections.modify_any_collection_regardless_if_token_was_allowed_by_collection",
        Since::V2A,
        Effect::Grant,
        "Edit any collection",
    ),
    ("collections.view_all_collections", Since::V2A, Effect::Grant, "Read all collections"),
    ("collections.can_use_listing_endpoint", Since::V2A, Effect::Grant, "List collections"),
    (
        "collections.manage_tokens_in_allowed_collections",
        Since::V2A,
        Effect::Grant,
        "Attach and detach tokens",
    ),
    (
        "collections.delete_allowed_collections",
        Since::V2A,
        Effect::Grant,
        "Delete allowed collections",
    ),
    (
        "collections.upload_to_allowed_collections",
        Since::V2A,
        Effect::Grant,
        "Upload to allowed collections",
    ),
    (
        "collections.list_versions_for_allowed_collections",
        Since::V2A,
        Effect::Grant,
        "List and download versions",
    ),
    (
        "collections.delete_versions_for_allowed_collections",
        Since::V2A,
        Effect::Grant,
        "Delete versions",
    ),
    ("security.search_for_tokens", Since::V3, Effect::Grant, "Search tokens"),
    (
        "view.can_see_admin_metadata_in_listing",
        Since::V3,
        Effect::Grant,
        "See storage paths in the listing",
    ),
    (
        "collections.can_list_tokens_in_allowed_collections",
        Since::V3,
        Effect::Grant,
        "List the tokens of allowed collections",
    ),
    ("securecopy.stream", Since::V3, Effect::Grant, "Replicate"),
    ("securecopy.all_secrets_read", Since::V3, Effect::Grant, "Read replication secrets"),
    ("upload.enforce_no_password", Since::V2A, Effect::Restriction, "Uploads have no password"),
    (
        "upload.enforce_tags_selected_in_token",
        Since::V2A,
        Effect::Restriction,
        "Uploads have the token's tags",
    ),
    (
        "upload.only_once_successful",
        Since::V2A,
        Effect::Restriction,
        "The token is deleted after its first upload",
    ),
    ("security.cannot_see_full_token_ids", Since::V3, Effect::Restriction, "Token IDs are masked"),
];

const UPLOAD: [&str; 5] =
    ["upload.images", "upload.videos", "upload.documents", "upload.backup", "upload.all"];

const IMAGES: &[&str] =
    &["image/png", "image/jpg", "image/jpeg", "image/gif", "image/webp", "image/pipeg"];
const DOCUMENTS: &[&str] = &[
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
const BACKUP: &[&str] = &[
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

fn known(
    profile: Profile,
) -> impl Iterator<Item = &'static (&'static str, Since, Effect, &'static str)> {
    let now = match profile {
        Profile::V2A => Since::V2A,
        Profile::V2B => Since::V2B,
        Profile::V3 => Since::V3,
    };
    ROLES.iter().filter(move |(_, since, ..)| *since <= now)
}

pub(super) fn is_grantable(profile: Profile, role: &str) -> bool {
    known(profile).any(|(name, ..)| *name == role)
}

/// What a token with these roles has: an administrator has every grant of the profile without being told.
pub(super) fn has(profile: Profile, roles: &[String], wanted: &str) -> bool {
    if roles.iter().any(|role| role == wanted) {
        return true;
    }
    let granted =
        || known(profile).any(|(name, _, effect, _)| *name == wanted && *effect == Effect::Grant);
    let hidden = wanted == PREDICTABLE_IDS && profile.has_custom_ids();
    roles.iter().any(|role| role == ADMINISTRATOR) && (hidden || granted())
}

/// The roles that a look-up shows of an administrator after those that were given to it.
pub(super) fn implied(profile: Profile) -> impl Iterator<Item = &'static str> {
    known(profile).filter(|(_, _, effect, _)| *effect == Effect::Grant).map(|(name, ..)| *name)
}

/// Name and description of every role, those that cannot be granted included, and the name of a token, which
/// the server takes for one.
pub(super) fn catalogue(profile: Profile) -> impl Iterator<Item = (&'static str, &'static str)> {
    let hidden = [
        ("upload.videos", "Allows to upload videos"),
        (PREDICTABLE_IDS, "Choose token IDs"),
        ("test-token-full-permissions", "Everything, for tests"),
    ];
    let hidden = hidden
        .into_iter()
        .filter(move |(name, _)| *name != PREDICTABLE_IDS || profile.has_custom_ids());
    known(profile).map(|(name, _, _, text)| (*name, *text)).chain(hidden)
}

pub(super) fn may_upload(profile: Profile, roles: &[String]) -> bool {
    UPLOAD.iter().any(|role| has(profile, roles, role))
}

/// The MIME types that the token's own upload roles bring.
pub(super) fn mime_types(roles: &[String]) -> impl Iterator<Item = &'static str> {
    roles
        .iter()
        .flat_map(|role| match role.as_str() {
            "upload.images" => IMAGES,
            "upload.documents" => DOCUMENTS,
            "upload.backup" => BACKUP,
            _ => &[],
        })
        .copied()
}
