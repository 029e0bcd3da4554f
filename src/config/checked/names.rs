//! What must be unique in the whole file, and who refers to whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::super::problem::{Place, Problems};
use crate::domain::SourceId;

/// What the sections say of each other.
#[derive(Default)]
pub(super) struct Names {
    buses: BTreeMap<String, Place>,
    /// The buses on which units have the addresses of a serial line.
    on_a_line: BTreeSet<String>,
    ports: BTreeMap<PathBuf, Place>,
    sources: BTreeMap<SourceId, Place>,
    idle: BTreeMap<String, Place>,
    controlled: BTreeSet<String>,
}

impl Names {
    /// Notes a bus, which must not share its name.
    pub(super) fn add_bus(
        &mut self,
        name: &str,
        place: Place,
        idle: bool,
        on_a_line: bool,
        problems: &Problems,
    ) {
        if let Some(other) = self.buses.get(name) {
            let found = format!("{name:?}, which {} has too", other.file_and_line());
            problems.error(&place, found, "a name of its own for each bus");
            return;
        }
        if on_a_line {
            self.on_a_line.insert(name.to_owned());
        }
        if idle {
            self.idle.insert(name.to_owned(), place.clone());
        }
        self.buses.insert(name.to_owned(), place);
    }

    /// Notes a serial port, which one bus alone can have.
    pub(super) fn add_port(&mut self, port: &Path, place: Place, problems: &Problems) {
        if let Some(other) = self.ports.get(port) {
            let found = format!("\"{}\", which {} has too", port.display(), other.file_and_line());
            let expected = "a port of its own for each bus; all units of a line belong to one";
            problems.error(&place, found, expected);
            return;
        }
        self.ports.insert(port.to_owned(), place);
    }

    /// Whether the units of a bus have the addresses of a serial line.
    pub(super) fn is_on_a_line(&self, bus: &str) -> bool {
        self.on_a_line.contains(bus)
    }

    /// Notes the source of a unit, a control or of results, which must not share it: the server knows a datum
    /// by node, source and time.
    pub(super) fn add_source(&mut self, source: &SourceId, place: Place, problems: &Problems) {
        if let Some(other) = self.sources.get(source) {
            let found = format!("{:?}, which {} has too", source.as_str(), other.file_and_line());
            problems.error(&place, found, "a source ID of its own for each unit and control");
            return;
        }
        self.sources.insert(source.clone(), place);
    }

    /// Whether there is a bus of that name, for a control.
    pub(super) fn use_bus(&mut self, name: &str) -> bool {
        self.controlled.insert(name.to_owned());
        self.buses.contains_key(name)
    }

    /// The names of all buses, for a complaint.
    pub(super) fn bus_names(&self) -> String {
        let names: Vec<_> = self.buses.keys().map(|name| format!("{name:?}")).collect();
        names.join(", ")
    }

    /// A bus that nothing is read from and nothing is written to is a slip, or half done.
    pub(super) fn complain_of_idle_buses(&self, problems: &Problems) {
        for (name, place) in &self.idle {
            if !self.controlled.contains(name) {
                let expected = "a [[modbus.unit]] or a [[control]] that uses the bus";
                problems.warning(place, format!("{name:?}, used by nothing"), expected);
            }
        }
    }
}
