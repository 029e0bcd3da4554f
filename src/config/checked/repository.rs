//! `[repository]`

use super::{
    super::{
        form::{Parsed, Url},
        problem::Problems,
        schema::{Key, Presence, Reader, Section},
        settings::RepositorySettings,
        written::Table,
    },
    solarnet,
};
use crate::domain::TokenName;

pub(super) static SECTION: Section = Section {
    heading: "[repository]",
    doc: "The File Repository that files go to. Needed for [[files]] and the `files` commands only. Authorities and \
          time-outs are those of [solarnet]; an upload itself may take as long as it moves.",
    keys: &[&URL, &TOKEN],
    tables: &[],
    refused: &[],
};

static URL: Key<Url> = Key {
    name: "url",
    form: Url { example: "https://files.example.com" },
    presence: Presence::Required,
    example: "\"https://files.example.com\"",
    doc: "Where the repository answers.",
};

static TOKEN: Key<Parsed<TokenName>> = Key {
    name: "token",
    form: solarnet::TOKEN_NAME,
    presence: Presence::Default("\"files\""),
    example: "\"camera\"",
    doc: "The token that uploads, by the name that `solarnode-agent files token generate --install NAME` or `files token \
          import NAME` gave it. The token itself does not stand in this file.",
};

pub(super) fn check(table: &Table, problems: &Problems) -> Option<RepositorySettings> {
    let repository = Reader::new(table, &SECTION, problems);
    let (url, token) = (repository.get(&URL), repository.get(&TOKEN));
    let url = url?;
    if url.readable_on_the_way {
        problems.warning(
            &repository.place(URL.name),
            repository.shown(URL.name),
            "https://, because others on the way can read the token and the files over http://",
        );
    }
    Some(RepositorySettings { url: url.text, token: token? })
}
