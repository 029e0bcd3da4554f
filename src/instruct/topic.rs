//! What an instruction asks for, understood and held against the configuration.
//!
//! | Topic | Parameters | Allowed by |
//! | --- | --- | --- |
//! | `SetControlParameter` | {control} = value | the `[[control]]` and its limits |
//! | `SetOperatingState` | {control} = state, by name or code 0 to 8 | `states` of the control |
//! | `Signal` | {control} = signal | `signals` of the control |
//! | `CancelInstruction` | `id` | always |
//! | `LoggingSetLevel` | `logger` (commas or repeated), `level` | `[instructions] allow` |
//! | `SystemRestart`, `SystemReboot` | none | `[instructions] allow` |
//! | `SystemConfiguration` | `service`, `filter` | `[instructions] allow` |
//! | `RenewCertificate` | `Certificate`, in pieces | `[instructions] allow` |
//!
//! Everything else is refused, with a message and a code. Parameters that are not in this table are
//! refused as well, except those about the instruction itself ([`ABOUT`]): an order that is understood in
//! part is not understood.
//!
//! This file is pure.

use std::{collections::BTreeSet, time::Duration};

use rust_decimal::Decimal;
use tracing::level_filters::LevelFilter;

use super::outcome::{Code, Refusal, readable};
use crate::{
    config::settings::{Control, Table},
    domain::{
        ControlWrite, Instruction, InstructionId, NodeTopic, OperatingState, Parameter, SourceId,
        number::plain,
    },
    policy::ant,
};

/// Sets a control.
pub const SET: &str = "SetControlParameter";
/// Sets a control to the value of an operating state.
pub const SET_STATE: &str = "SetOperatingState";
/// Sets a control to the value of a signal.
pub const SIGNAL: &str = "Signal";
/// Cancels an instruction that waits.
pub const CANCEL: &str = "CancelInstruction";

/// When to carry it out.
pub(super) const EXECUTION_DATE: &str = "executionDate";
/// The instruction that made it: cancelled with it.
pub(super) const PARENT: &str = "parentInstructionId";
/// Parameters that say something about the instruction itself and not what to do.
const ABOUT: [&str; 3] = [EXECUTION_DATE, PARENT, "parentInstructorId"];

/// The one inventory there is: the controls.
const CONTROLS: &str = "net.solarnetwork.node.controls";

/// What the configuration allows.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// What may be set.
    pub controls: Vec<Control>,
    /// What may be asked of the node itself.
    pub allow: BTreeSet<NodeTopic>,
    /// How old an instruction without an expiry may be.
    pub max_age: Duration,
}

/// What an instruction asks for, understood and allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// A write to a device, so long after the last one to it.
    Write {
        write: ControlWrite,
        every: Duration,
    },
    Cancel(InstructionId),
    Ask(Request),
}

/// What is asked of the node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Log these modules from this level on; `None` is as the daemon was started.
    LogLevel {
        /// As the instruction names them.
        loggers: Vec<String>,
        /// The lowest level.
        level: Option<LevelFilter>,
    },
    /// Start the agent again.
    Restart,
    /// Start the machine again.
    Reboot,
    /// Name the controls.
    Controls(Vec<SourceId>),
    /// Use this certificate: PKCS#7 in PEM.
    Install(String),
}

/// What an instruction asks for.
///
/// # Errors
///
/// If it is not understood, or not allowed.
pub(super) fn order(instruction: &Instruction, rules: &Rules) -> Result<Order, Refusal> {
    if let Some(reason) = &instruction.unreadable {
        return Err(refusal(Code::Parameters, reason));
    }
    if let Some(topic) = NodeTopic::from_name(&instruction.topic) {
        if !rules.allow.contains(&topic) {
            let name = topic.name();
            let message = format!("this node does not allow {name} (`[instructions] allow`)");
            return Err(refusal(Code::NotAllowed, message));
        }
        return request(topic, instruction, rules).map(Order::Ask);
    }
    match instruction.topic.as_str() {
        SET | SET_STATE | SIGNAL => {
            let (control, text) = named_control(instruction, rules)?;
            let value = wanted(&instruction.topic, text, control)?;
            let allow = &control.allow;
            if value < allow.min || value > allow.max {
                let (min, max, value) = (plain(allow.min), plain(allow.max), plain(value));
                let message = format!("{value} is outside the {min} to {max} allowed");
                return Err(refusal(Code::Limit, message));
            }
            let write = ControlWrite { control: control.id.clone(), value };
            Ok(Order::Write { write, every: allow.every })
        }
        CANCEL => {
            let id = only_parameter(instruction)?;
            let number = id.value.trim().parse().ok().filter(|n| *n > 0);
            match number.filter(|_| id.name == "id") {
                Some(number) => Ok(Order::Cancel(InstructionId(number))),
                None => {
                    let message = "the one parameter must be `id`, the ID of an instruction";
                    Err(refusal(Code::Parameters, message))
                }
            }
        }
        other => {
            let node = NodeTopic::ALL.map(NodeTopic::name).join(", ");
            let message = format!(
                "this node knows {SET}, {SET_STATE}, {SIGNAL}, {CANCEL}, {node}, not `{}`",
                readable(other)
            );
            Err(refusal(Code::UnknownTopic, message))
        }
    }
}

/// The control that an instruction names, and the value, as far as they can be understood.
#[must_use]
pub fn target(instruction: &Instruction, rules: &Rules) -> Option<(SourceId, Option<Decimal>)> {
    if ![SET, SET_STATE, SIGNAL].contains(&instruction.topic.as_str()) {
        return None;
    }
    let (control, text) = named_control(instruction, rules).ok()?;
    Some((control.id.clone(), wanted(&instruction.topic, text, control).ok()))
}

pub(super) fn refusal(code: Code, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

fn request(topic: NodeTopic, instruction: &Instruction, rules: &Rules) -> Result<Request, Refusal> {
    let only = |names: &[&str]| {
        let stranger = own_parameters(instruction).find(|p| !names.contains(&p.name.as_str()));
        stranger.map_or(Ok(()), |stranger| {
            let (topic, name) = (topic.name(), readable(&stranger.name));
            Err(refusal(Code::Parameters, format!("{topic} has no parameter `{name}` here")))
        })
    };
    match topic {
        NodeTopic::SystemRestart => only(&[]).map(|()| Request::Restart),
        NodeTopic::SystemReboot => only(&[]).map(|()| Request::Reboot),
        NodeTopic::LoggingSetLevel => {
            only(&["logger", "level"])?;
            let loggers: Vec<String> = values(instruction, "logger")
                .flat_map(|list| list.split(','))
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect();
            if loggers.is_empty() {
                return Err(refusal(Code::Parameters, "`logger` is missing: a list of modules"));
            }
            Ok(Request::LogLevel { loggers, level: level(&single(instruction, "level")?)? })
        }
        NodeTopic::SystemConfiguration => {
            only(&["service", "filter"])?;
            let service = single(instruction, "service")?;
            if service != CONTROLS {
                let service = readable(&service);
                let message = format!("the service here is {CONTROLS}, not `{service}`");
                return Err(refusal(Code::UnknownService, message));
            }
            let filters: Vec<&str> = values(instruction, "filter").collect();
            let wanted = |id: &&SourceId| {
                filters.is_empty() || filters.iter().any(|filter| ant::matches(filter, id.as_str()))
            };
            let ids = rules.controls.iter().map(|control| &control.id);
            Ok(Request::Controls(ids.filter(wanted).cloned().collect()))
        }
        NodeTopic::RenewCertificate => {
            only(&["Certificate"])?;
            let certificate: String = values(instruction, "Certificate").collect();
            if certificate.is_empty() {
                return Err(refusal(Code::Parameters, "`Certificate` is missing"));
            }
            Ok(Request::Install(certificate))
        }
    }
}

fn level(text: &str) -> Result<Option<LevelFilter>, Refusal> {
    let level = match text.trim().to_ascii_lowercase().as_str() {
        "inherit" => return Ok(None),
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        other => {
            let other = readable(other);
            let message = format!(
                "`level` is inherit, trace, debug, info, warn, error or off, not `{other}`"
            );
            return Err(refusal(Code::Value, message));
        }
    };
    Ok(Some(level))
}

/// The parameters that are not about the instruction itself.
fn own_parameters(instruction: &Instruction) -> impl Iterator<Item = &Parameter> {
    instruction.parameters.iter().filter(|p| !ABOUT.contains(&p.name.as_str()))
}

/// Every value of that name, in order: long values arrive in pieces.
fn values<'i>(instruction: &'i Instruction, name: &'static str) -> impl Iterator<Item = &'i str> {
    own_parameters(instruction).filter(move |p| p.name == name).map(|p| p.value.as_str())
}

fn single(instruction: &Instruction, name: &'static str) -> Result<String, Refusal> {
    let mut given = values(instruction, name);
    match (given.next(), given.next()) {
        (Some(value), None) => Ok(value.to_owned()),
        (None, _) => Err(refusal(Code::Parameters, format!("`{name}` is missing"))),
        (Some(_), Some(_)) => Err(refusal(Code::Parameters, format!("`{name}` is there twice"))),
    }
}

/// The parameter that is not about the instruction itself, if there is exactly one.
fn only_parameter(instruction: &Instruction) -> Result<&Parameter, Refusal> {
    let mut given = own_parameters(instruction);
    match (given.next(), given.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(refusal(Code::Parameters, "it has no parameter; one is needed")),
        (Some(_), Some(_)) => {
            Err(refusal(Code::Parameters, "it has several parameters; one is allowed"))
        }
    }
}

fn named_control<'a, 'i>(
    instruction: &'i Instruction,
    rules: &'a Rules,
) -> Result<(&'a Control, &'i str), Refusal> {
    let one = only_parameter(instruction)?;
    let control = rules.controls.iter().find(|c| c.id.as_str() == one.name).ok_or_else(|| {
        let name = readable(&one.name);
        refusal(Code::UnknownControl, format!("no control `{name}` is configured on this node"))
    })?;
    Ok((control, &one.value))
}

/// The value that the text stands for.
fn wanted(topic: &str, text: &str, control: &Control) -> Result<Decimal, Refusal> {
    let id = &control.id;
    let not_allowed = |what: &str, key: &str| {
        refusal(Code::NotAllowed, format!("{id} has no {what} (`{key}` of the [[control]])"))
    };
    let unknown = |what: &str, known: Vec<&str>| {
        let (text, known) = (readable(text), known.join(", "));
        refusal(Code::Value, format!("{id} has the {what} {known}, not `{text}`"))
    };
    match topic {
        SET_STATE if control.states.is_empty() => Err(not_allowed("operating states", "states")),
        SET_STATE => OperatingState::from_text(text)
            .and_then(|state| control.states.get(&state).copied())
            .ok_or_else(|| unknown("states", control.states.keys().map(|s| s.name()).collect())),
        SIGNAL if control.signals.is_empty() => Err(not_allowed("signals", "signals")),
        SIGNAL => control.signals.get(text.trim()).copied().ok_or_else(|| {
            unknown("signals", control.signals.keys().map(String::as_str).collect())
        }),
        _ => value(text, control),
    }
}

/// A coil takes on and off in words; everything else takes plain decimal numbers, exactly.
fn value(text: &str, control: &Control) -> Result<Decimal, Refusal> {
    let text = text.trim();
    let word = match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" => Some(Decimal::ONE),
        "false" | "off" | "no" => Some(Decimal::ZERO),
        _ => None,
    };
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
    let number = Decimal::from_str_exact(text).ok().filter(|_| plain);
    let coil = control.register.table == Table::Coil;
    let value = if coil { word.or(number) } else { number };
    value.ok_or_else(|| {
        let wanted = if coil { "on or off, or 1 or 0" } else { "a plain decimal number" };
        refusal(Code::Value, format!("the value must be {wanted}, not `{}`", readable(text)))
    })
}

#[cfg(test)]
mod tests;
