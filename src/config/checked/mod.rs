//! Stage three: the merged tree checked, section by section, into [`Settings`].
//!
//! One file a section: its keys, then the function that reads them. What concerns several sections
//! (unique names, references between them) is checked by [`Names`].

mod audit;
mod bus;
mod control;
mod files;
mod identity;
mod instructions;
mod mqtt;
mod names;
mod node;
mod place;
mod property;
mod queue;
mod register;
mod repository;
mod scale;
mod serial;
mod solarnet;
mod unit;
mod upload;

use std::path::{Path, PathBuf};

use super::{
    environment::{self, Environment},
    form::File,
    problem::{Place, Problem, Problems},
    schema::{Inner, Key, Presence, Reader, Section, Shape},
    settings::{
        Bus, Flux, Identity, Instructions, Proof, Queue, RepositorySettings, Settings, SolarNet,
        Upload, Via,
    },
    written::Table,
};
use crate::domain::NodeId;
use names::Names;

/// The file as a whole.
pub(super) static FILE: Section = Section {
    heading: "",
    doc: "These stand at the top of the file, before the first heading.",
    keys: &[&STATE_DIR, &CONTROL_SOCKET],
    tables: &[
        Inner { name: "node", shape: Shape::Header, section: &node::SECTION },
        Inner { name: "solarnet", shape: Shape::Header, section: &solarnet::SECTION },
        Inner { name: "identity", shape: Shape::Header, section: &identity::SECTION },
        Inner { name: "upload", shape: Shape::Header, section: &upload::SECTION },
        Inner { name: "mqtt", shape: Shape::Header, section: &mqtt::SECTION },
        Inner { name: "flux", shape: Shape::Header, section: &mqtt::FLUX },
        Inner { name: "audit", shape: Shape::Header, section: &audit::SECTION },
        Inner { name: "queue", shape: Shape::Header, section: &queue::SECTION },
        Inner { name: "modbus", shape: Shape::Repeated, section: &bus::SECTION },
        Inner { name: "control", shape: Shape::Repeated, section: &control::SECTION },
        Inner { name: "instructions", shape: Shape::Header, section: &instructions::SECTION },
        Inner { name: "repository", shape: Shape::Header, section: &repository::SECTION },
        Inner { name: "files", shape: Shape::Repeated, section: &files::SECTION },
    ],
    refused: &[("id", "`id` under the heading [node]")],
};

static STATE_DIR: Key<File> = Key {
    name: "state_dir",
    form: File,
    presence: Presence::Optional(
        "`/var/lib/solarnode-agent` (systemd's `$STATE_DIRECTORY` where it is set); an ordinary \
         user's own state folder",
    ),
    example: "\"/var/lib/solarnode-agent\"",
    doc: "The folder of all that must survive: queue, credentials, journal of instructions.",
};

static CONTROL_SOCKET: Key<File> = Key {
    name: "control_socket",
    form: File,
    presence: Presence::Optional(
        "`/run/solarnode-agent/control.sock`; with another `state_dir`, `control.sock` in it",
    ),
    example: "\"/run/solarnode-agent/control.sock\"",
    doc: "The Unix socket on which `status` and other commands ask the daemon. At most 107 bytes.",
};

/// Longest path of a Unix socket: 108 bytes with the zero at the end.
///
/// # Source
///
/// `unix(7)`, `sun_path`.
const MAX_SOCKET_PATH: usize = 107;

/// Checks everything. There are settings unless one of the problems is an error.
pub(super) fn settings(
    table: &Table,
    environment: &Environment,
    path: &Path,
    problems: &Problems,
) -> Option<Settings> {
    let file = Reader::new(table, &FILE, problems);
    let paths = paths(&file, environment, path);
    let node = node::check(&file.section("node"), problems);
    let solarnet = solarnet::check(&file.section("solarnet"), problems);
    let identity = identity::check(&file.section("identity"), problems);
    let upload = upload::check(&file.section("upload"), problems);
    let mqtt = mqtt::check(&file.section("mqtt"), problems);
    let flux = flux_of(&file, problems);
    if let (Some(Upload { via: Via::Mqtt, .. }), Some(mqtt), Some(Some(flux))) =
        (&upload, &mqtt, &flux)
    {
        mqtt::complain_of_one_broker(&file.section("flux"), mqtt, flux, problems);
    }
    let audit = audit::check(&file.section("audit"), problems);
    if let Some(upload) = &upload {
        if let (Some(solarnet), true) = (&solarnet, upload.via != Via::Import) {
            let table = file.section("solarnet");
            solarnet::complain_of_no_certificate(&table, solarnet, problems);
        }
        complain_of_idle_keys(&file, upload, problems);
    }
    let queue = queue::check(&file.section("queue"), problems);
    let instructions = instructions::check(&file.section("instructions"), problems);
    if let (Some(instructions), Some(solarnet)) = (&instructions, &solarnet) {
        instructions::complain_of_starved_uploads(
            &file.section("instructions"),
            instructions,
            solarnet.requests_per_second,
            problems,
        );
    }
    if let (Some(Identity { renew: true, .. }), Some(Instructions { enabled: false, .. })) =
        (&identity, &instructions)
    {
        identity::complain_of_deaf_renewals(&file.section("identity"), problems);
    }
    let mut names = Names::default();
    let buses = buses(&file, &mut names, problems);
    let controls: Vec<_> = file
        .tables("control")
        .into_iter()
        .map(|table| control::check(table, &mut names, problems))
        .collect();
    let repository = repository_of(&file, problems);
    let mut folders = Vec::new();
    let file_folders: Vec<_> = file
        .tables("files")
        .into_iter()
        .map(|table| files::check(table, &mut names, &mut folders, problems))
        .collect();
    if let Some(source) = instructions.as_ref().and_then(|i| i.result_source.as_ref()) {
        let place = instructions::place_of_result_source(&file.section("instructions"), problems);
        names.add_source(source, place, problems);
    }
    if file.has("files") && !file.has("repository") {
        let expected = "[repository] with its `url`: files have to go somewhere";
        file.error("repository", "nothing", expected);
    }
    if !file.has("modbus") && !file.has("files") {
        let expected = "at least one [[modbus]]: the agent has nothing to read";
        problems.warning(&file.place("modbus"), "nothing", expected);
    }
    names.complain_of_idle_buses(problems);
    let (state_dir, control_socket) = paths?;
    Some(Settings {
        node: node?,
        state_dir,
        control_socket,
        solarnet: solarnet?,
        identity: identity?,
        upload: upload?,
        mqtt: mqtt?,
        flux: flux?,
        audit: audit?,
        queue: queue?,
        modbus: buses?,
        controls: controls.into_iter().collect::<Option<_>>()?,
        instructions: instructions?,
        repository: repository?,
        files: file_folders.into_iter().collect::<Option<_>>()?,
    })
}

/// Somebody meant something by a key that does nothing.
fn complain_of_idle_keys(file: &Reader<'_>, upload: &Upload, problems: &Problems) {
    let by_broker = upload.via == Via::Mqtt;
    let idle = [
        ("upload", "in_flight", !by_broker),
        ("upload", "fallback_after", !by_broker),
        ("audit", "settle", upload.proof != Proof::Query),
    ];
    for (section, key, idle) in idle {
        let table = file.section(section);
        if let (true, Some(node)) = (idle, table.get(key)) {
            let wanted = if section == "audit" { "proof = \"query\"" } else { "via = \"mqtt\"" };
            let found = format!("{}, which has no effect", node.value.shown());
            problems.warning(
                &node.place(table.place.of(key).key),
                found,
                format!("{wanted} under [upload], or no such key"),
            );
        }
    }
    if file.has("mqtt") && !by_broker {
        let expected = "via = \"mqtt\" under [upload], or no such heading";
        problems.warning(&file.place("mqtt"), "a broker that is not used", expected);
    }
}

/// The File Repository: the outer `None` after a complaint, the inner one where there is none.
fn repository_of(file: &Reader<'_>, problems: &Problems) -> Option<Option<RepositorySettings>> {
    if !file.has("repository") {
        return Some(None);
    }
    repository::check(file.table("repository")?, problems).map(Some)
}

/// The live feed: as [`repository_of`].
fn flux_of(file: &Reader<'_>, problems: &Problems) -> Option<Option<Flux>> {
    if !file.has("flux") {
        return Some(None);
    }
    mqtt::check_flux(file.table("flux")?, problems).map(Some)
}

/// Every `[[modbus]]`; all of them are looked at, also after one that is wrong.
fn buses(file: &Reader<'_>, names: &mut Names, problems: &Problems) -> Option<Vec<Bus>> {
    let tables = file.tables("modbus").into_iter();
    let buses: Vec<_> = tables.map(|table| bus::check(table, names, problems)).collect();
    buses.into_iter().collect()
}

/// The buses alone, for commands that need nothing else.
pub(super) fn only_buses(table: &Table) -> Result<Vec<Bus>, Vec<Problem>> {
    alone(table, |file, problems| buses(file, &mut Names::default(), problems))
}

/// What commands need that work on this device and do not run the daemon: each part on its own, so
/// that a slip in one section does not keep them from working with another.
pub(super) struct Parts {
    pub(super) paths: Result<(PathBuf, PathBuf), Vec<Problem>>,
    pub(super) node: Option<NodeId>,
    pub(super) solarnet: Result<SolarNet, Vec<Problem>>,
    pub(super) queue: Option<Queue>,
    pub(super) repository: Result<Option<RepositorySettings>, Vec<Problem>>,
}

/// Checks only the sections that [`Parts`] shows.
pub(super) fn parts(table: &Table, environment: &Environment, path: &Path) -> Parts {
    Parts {
        paths: alone(table, |file, _| paths(file, environment, path)),
        node: alone(table, |file, problems| node::check(&file.section("node"), problems)).ok(),
        solarnet: alone(table, |file, problems| {
            solarnet::check(&file.section("solarnet"), problems)
        }),
        queue: alone(table, |file, problems| queue::check(&file.section("queue"), problems)).ok(),
        repository: alone(table, repository_of),
    }
}

/// One part of the file, with the errors of that part only.
fn alone<T>(
    table: &Table,
    check: impl FnOnce(&Reader<'_>, &Problems) -> Option<T>,
) -> Result<T, Vec<Problem>> {
    let problems = Problems::default();
    let made = check(&Reader::known(table, &FILE, &problems), &problems);
    problems.judge(made).map(|(made, _)| made)
}

/// The state folder and the control socket.
fn paths(file: &Reader<'_>, environment: &Environment, path: &Path) -> Option<(PathBuf, PathBuf)> {
    let state_dir = match file.has(STATE_DIR.name) {
        true => beside(&file.place(STATE_DIR.name), &file.optional(&STATE_DIR)?),
        false => environment.state_dir(path),
    };
    let socket = match file.has(CONTROL_SOCKET.name) {
        true => beside(&file.place(CONTROL_SOCKET.name), &file.optional(&CONTROL_SOCKET)?),
        false => environment::control_socket(&state_dir),
    };
    let length = socket.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        file.error(
            CONTROL_SOCKET.name,
            format!("a path of {length} bytes"),
            format!("a path of at most {MAX_SOCKET_PATH} bytes, as Unix sockets need"),
        );
        return None;
    }
    Some((state_dir, socket))
}

/// A path as it is meant: relative to the folder of the file it was written in.
fn beside(place: &Place, path: &Path) -> PathBuf {
    let folder = Path::new(&*place.file).parent().unwrap_or(Path::new(""));
    let path = folder.join(path);
    // Only an unknown working folder can fail this; the path then stays relative to it.
    std::path::absolute(&path).unwrap_or(path)
}
