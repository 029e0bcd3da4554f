//! From the settings that run and those that are wanted to what a reload does. Pure.
//!
//! ```text
//!  key changed                          what a reload does
//!  node.id, state_dir, control_socket   nothing at all: refused, they need a restart of the daemon
//!  modbus, units, properties            stops, starts or restarts that bus
//!  control                              restarts its bus and the instructor
//!  instructions                         restarts the instructor
//!  upload, and audit where it asks      restarts the uploader
//!  upload.via                           restarts all that reach the server; starts or stops the broker's session
//!  identity                             restarts the keeper of the certificate; `renew` the instructor as well
//!  mqtt, upload.in_flight               restarts the broker's session and the two that use it
//!  flux                                 starts, stops or restarts the live feed
//!  mqtt.url, flux.url                   the keeper of the certificate as well, where one is needed or not any more
//!  queue                                adjusts the queue, which stays open
//!  solarnet.token                       restarts the refresher, which puts another key into use
//!  the rest of solarnet                 restarts all that reach the server
//!  repository, files, and of solarnet
//!  ca_file and timeout                  restarts the uploader of files
//! ```
//!
//! A bus with controls and the instructor restart together: the instructor ends first, so that an
//! instruction under way is finished on the bus that it was begun on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;

use crate::{
    config::{
        Settings,
        settings::{
            Audit, Bus, Control, Flux, Identity, Instructions, Mqtt, Proof, Queue, SolarNet,
            Upload, Via,
        },
    },
    domain::SourceId,
    needs,
};

/// What a reload does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Changed keys that need a restart of the daemon. With any of them, a reload does nothing.
    pub(super) fixed: Vec<String>,
    /// What happens to which part.
    pub(super) parts: BTreeMap<Part, Change>,
    /// Whether the client that calls the server is another one.
    pub(super) client: bool,
}

/// What can be changed without the rest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Bus(String),
    Queue,
    Uploader,
    Instructor,
    Refresher,
    Files,
    Identity,
    Mqtt,
    Flux,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus(name) => write!(f, "bus {name}"),
            Self::Queue => f.write_str("queue"),
            Self::Uploader => f.write_str("uploader"),
            Self::Instructor => f.write_str("instructor"),
            Self::Refresher => f.write_str("refresher"),
            Self::Files => f.write_str("files"),
            Self::Identity => f.write_str("identity"),
            Self::Mqtt => f.write_str("mqtt"),
            Self::Flux => f.write_str("flux"),
        }
    }
}

/// What happens to a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum How {
    Start,
    Stop,
    Restart,
    Adjust,
}

/// What happens to a part, and which keys are the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) how: How,
    pub(super) keys: Vec<String>,
}

impl Changes {
    /// From `old` to `new`.
    pub(super) fn between(old: &Settings, new: &Settings) -> Self {
        // No `..` in any of these patterns: a new setting does not compile before it is decided here
        // what becomes of whom when it changes.
        let Settings {
            node,
            state_dir,
            control_socket,
            solarnet,
            identity,
            upload,
            mqtt,
            flux,
            audit,
            queue,
            modbus,
            controls,
            instructions,
            repository,
            files,
        } = old;
        let SolarNet {
            user_url,
            query_url,
            in_url,
            token,
            sign_host,
            ca_file,
            requests_per_second,
            timeout,
        } = solarnet;
        let client = differing([
            ("solarnet.user_url", *user_url != new.solarnet.user_url),
            ("solarnet.query_url", *query_url != new.solarnet.query_url),
            ("solarnet.in_url", *in_url != new.solarnet.in_url),
            ("solarnet.sign_host", *sign_host != new.solarnet.sign_host),
            ("solarnet.ca_file", *ca_file != new.solarnet.ca_file),
            ("solarnet.request_rate", *requests_per_second != new.solarnet.requests_per_second),
            ("solarnet.timeout", *timeout != new.solarnet.timeout),
        ]);
        let mut changes = Self {
            fixed: differing([
                ("node.id", *node != new.node),
                ("state_dir", *state_dir != new.state_dir),
                ("control_socket", *control_socket != new.control_socket),
            ]),
            parts: BTreeMap::new(),
            client: !client.is_empty(),
        };
        for (name, change) in buses((modbus, controls), (&new.modbus, &new.controls)) {
            if [controls, &new.controls].into_iter().flatten().any(|c| c.bus == name) {
                changes.add(Part::Instructor, How::Restart, vec![format!("modbus.{name}")]);
            }
            changes.add(Part::Bus(name), change.how, change.keys);
        }
        let Queue { limit_bytes, at_risk } = queue;
        let adjusted = differing([
            ("queue.limit", *limit_bytes != new.queue.limit_bytes),
            ("queue.at_risk", *at_risk != new.queue.at_risk),
        ]);
        changes.add(Part::Queue, How::Adjust, adjusted);
        let Upload { via, every, proof, in_flight, fallback_after } = upload;
        let uploads = differing([
            ("upload.every", *every != new.upload.every),
            ("upload.proof", *proof != new.upload.proof),
            ("upload.fallback_after", *fallback_after != new.upload.fallback_after),
        ]);
        changes.add(Part::Uploader, How::Restart, uploads);
        // Otherwise only a command asks, which reads the file itself.
        if *proof == Proof::Query && new.upload.proof == Proof::Query {
            let Audit { token: asking, settle } = audit;
            let asks = differing([
                ("audit.token", *asking != new.audit.token),
                ("audit.settle", *settle != new.audit.settle),
                ("solarnet.token", *token != new.solarnet.token),
            ]);
            changes.add(Part::Uploader, How::Restart, asks);
        }
        let way_in = differing([("upload.via", *via != new.upload.via)]);
        let asks = differing([("upload.proof", *proof != new.upload.proof)]);
        changes.add(Part::Refresher, How::Restart, asks);
        changes.add(Part::Identity, How::Restart, identifying(identity, &new.identity));
        // The session is there for one way in only.
        match (*via == Via::Mqtt, new.upload.via == Via::Mqtt) {
            (false, true) => changes.add(Part::Mqtt, How::Start, way_in.clone()),
            (true, false) => changes.add(Part::Mqtt, How::Stop, way_in.clone()),
            (true, true) | (false, false) => {}
        }
        let mut broker = talking(mqtt, &new.mqtt);
        // The session's window as well as the uploader's.
        broker.extend(differing([("upload.in_flight", *in_flight != new.upload.in_flight)]));
        for part in [Part::Uploader, Part::Instructor, Part::Mqtt] {
            changes.add(part, How::Restart, broker.clone());
        }
        changes.feed(flux.as_ref(), new.flux.as_ref());
        if needs::certificate(old) != needs::certificate(new) {
            // That `upload.via` changed restarts it anyway.
            let for_whom = differing([
                ("mqtt.url", mqtt.broker.url != new.mqtt.broker.url),
                ("flux", *flux != new.flux),
            ]);
            changes.add(Part::Identity, How::Restart, for_whom);
        }
        changes.add(Part::Instructor, How::Restart, instructing(instructions, &new.instructions));
        // It also says whether a renewed certificate is taken.
        let renewal = differing([("identity.renew", identity.renew != new.identity.renew)]);
        changes.add(Part::Instructor, How::Restart, renewal);
        let token = differing([("solarnet.token", *token != new.solarnet.token)]);
        changes.add(Part::Refresher, How::Restart, token);
        let of_files = differing([
            ("repository", *repository != new.repository),
            ("files", *files != new.files),
            ("solarnet.ca_file", *ca_file != new.solarnet.ca_file),
            ("solarnet.timeout", *timeout != new.solarnet.timeout),
        ]);
        changes.add(Part::Files, How::Restart, of_files);
        for part in [Part::Uploader, Part::Instructor, Part::Refresher] {
            changes.add(part.clone(), How::Restart, client.clone());
            changes.add(part, How::Restart, way_in.clone());
        }
        let reached = differing([
            ("solarnet.in_url", *in_url != new.solarnet.in_url),
            ("solarnet.ca_file", *ca_file != new.solarnet.ca_file),
            ("solarnet.timeout", *timeout != new.solarnet.timeout),
        ]);
        for part in [Part::Identity, Part::Mqtt] {
            changes.add(part, How::Restart, reached.clone());
        }
        changes.add(Part::Identity, How::Restart, way_in);
        if flux.is_some() && new.flux.is_some() {
            changes.add(Part::Flux, How::Restart, reached);
        }
        changes
    }

    fn feed(&mut self, old: Option<&Flux>, new: Option<&Flux>) {
        let how = match (old, new) {
            (None, Some(_)) => How::Start,
            (Some(_), None) => How::Stop,
            (Some(old), Some(new)) if old != new => How::Restart,
            (Some(_), Some(_)) | (None, None) => return,
        };
        self.add(Part::Flux, how, vec!["flux".to_owned()]);
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What happens to `part`.
    pub(super) fn of(&self, part: &Part) -> Option<How> {
        self.parts.get(part).map(|change| change.how)
    }

    /// As `check --diff --json` and `status --json` show it.
    pub(super) fn shown(&self) -> Vec<Shown> {
        let shown = |(part, change): (&Part, &Change)| Shown {
            part: part.to_string(),
            how: change.how,
            keys: change.keys.clone(),
        };
        self.parts.iter().map(shown).collect()
    }

    fn add(&mut self, part: Part, how: How, keys: Vec<String>) {
        if !keys.is_empty() {
            let change = Change { how, keys: Vec::new() };
            self.parts.entry(part).or_insert(change).keys.extend(keys);
        }
    }
}

/// One part and what happens to it, for people and scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Shown {
    part: String,
    how: How,
    keys: Vec<String>,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.how {
            How::Start => "started",
            How::Stop => "stopped",
            How::Restart => "restarted",
            How::Adjust => "adjusted",
        };
        write!(f, "{} {how} ({})", self.part, self.keys.join(", "))
    }
}

fn differing<const N: usize>(keys: [(&str, bool); N]) -> Vec<String> {
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect()
}

fn instructing(old: &Instructions, new: &Instructions) -> Vec<String> {
    let Instructions { enabled, poll_fastest, poll_slowest, max_age, result_source, allow } = old;
    differing([
        ("instructions.enabled", *enabled != new.enabled),
        ("instructions.poll_fastest", *poll_fastest != new.poll_fastest),
        ("instructions.poll_slowest", *poll_slowest != new.poll_slowest),
        ("instructions.max_age", *max_age != new.max_age),
        ("instructions.result_source", *result_source != new.result_source),
        ("instructions.allow", *allow != new.allow),
    ])
}

fn identifying(old: &Identity, new: &Identity) -> Vec<String> {
    let Identity { renew, renew_before } = old;
    differing([
        ("identity.renew", *renew != new.renew),
        ("identity.renew_before", *renew_before != new.renew_before),
    ])
}

fn talking(old: &Mqtt, new: &Mqtt) -> Vec<String> {
    let Mqtt { broker, keep_alive } = old;
    differing([
        ("mqtt.url", broker.url != new.broker.url),
        ("mqtt.server_name", broker.server_name != new.broker.server_name),
        ("mqtt.ca_file", broker.ca_file != new.broker.ca_file),
        ("mqtt.keep_alive", *keep_alive != new.keep_alive),
    ])
}

type Site<'a> = (&'a [Bus], &'a [Control]);

/// What becomes of each bus that is not in both as it is. Their order means nothing.
fn buses(old: Site<'_>, new: Site<'_>) -> BTreeMap<String, Change> {
    let names: BTreeSet<&String> = old.0.iter().chain(new.0).map(|bus| &bus.name).collect();
    let changed = names.into_iter().filter_map(|name| {
        let bus = |site: Site<'_>| site.0.iter().position(|bus| bus.name == *name);
        let (how, keys) = match (bus(old), bus(new)) {
            (Some(before), Some(after)) => {
                let on_bus = |control: &&Control| control.bus == *name;
                let mut keys = differing_in(&old.0[before], &new.0[after]);
                let (before, after) = (old.1.iter().filter(on_bus), new.1.iter().filter(on_bus));
                keys.extend(uneven("control", before, after, |control| &control.id));
                (How::Restart, keys)
            }
            (Some(_), None) => (How::Stop, vec![format!("modbus.{name}")]),
            (None, _) => (How::Start, vec![format!("modbus.{name}")]),
        };
        (!keys.is_empty()).then(|| (name.clone(), Change { how, keys }))
    });
    changed.collect()
}

fn differing_in(old: &Bus, new: &Bus) -> Vec<String> {
    // The name is what makes it the same bus.
    let Bus { name: _, link, pause, connect_timeout, units } = old;
    let mut keys = differing([
        ("link", *link != new.link),
        ("pause", *pause != new.pause),
        ("connect_timeout", *connect_timeout != new.connect_timeout),
    ]);
    keys.extend(uneven("unit", units, &new.units, |unit| &unit.source));
    keys
}

/// Those that are not in both as they are, by their unique IDs.
fn uneven<'a, T: PartialEq + 'a>(
    what: &str,
    old: impl IntoIterator<Item = &'a T>,
    new: impl IntoIterator<Item = &'a T>,
    id: impl Fn(&'a T) -> &'a SourceId,
) -> Vec<String> {
    let old: BTreeMap<_, _> = old.into_iter().map(|item| (id(item), item)).collect();
    let new: BTreeMap<_, _> = new.into_iter().map(|item| (id(item), item)).collect();
    let ids: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let uneven = ids.into_iter().filter(|id| old.get(*id) != new.get(*id));
    uneven.map(|id| format!("{what} {id}")).collect()
}

#[cfg(test)]
mod tests;
