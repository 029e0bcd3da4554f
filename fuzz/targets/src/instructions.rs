//! Instructions as a server gives them, as far as the decision what to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::Datelike;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use solarnode_agent::{
    config::settings::{Allow, Control, Encoding, Order, Register, Scale, Select, Table},
    domain::NodeId,
    instruct::{
        decide::{Case, Decision, decide, execution_date, not_after},
        parse,
        state::State,
        topic::{Rules, target},
    },
};

fn rules() -> Rules {
    let control = Control {
        id: "/relay".parse().expect("a control"),
        bus: "bus".to_owned(),
        unit: 1,
        register: Register {
            table: Table::Holding,
            address: 0,
            encoding: Encoding::U16,
            word_order: Order::Big,
            byte_order: Order::Big,
            select: Select::All,
        },
        scale: Scale { multiply: Decimal::ONE, offset: Decimal::ZERO, digits: None },
        timeout: Duration::from_secs(1),
        tolerance: Decimal::ZERO,
        settle: Duration::ZERO,
        allow: Allow { min: Decimal::ZERO, max: Decimal::TEN, every: Duration::ZERO },
        states: BTreeMap::new(),
        signals: BTreeMap::new(),
    };
    let allow = BTreeSet::new();
    Rules { controls: vec![control], allow, max_age: Duration::from_secs(3600) }
}

pub(crate) fn check(bytes: &[u8]) {
    let Some(data) = crate::json(bytes) else { return };
    let node = NodeId::try_from(101).expect("a node");
    let parsed = parse::instructions(&data, node);
    let elements = match &data {
        Value::Array(elements) => elements.len(),
        Value::Null => 0,
        _ => 1,
    };
    assert_eq!(parsed.instructions.len() + parsed.skipped.len(), elements);

    let (rules, last_writes) = (rules(), BTreeMap::new());
    for instruction in parsed.instructions {
        assert!(instruction.id.0 > 0 && !instruction.topic.is_empty());
        assert!(instruction.parameters.iter().all(|p| !p.name.is_empty() && !p.value.is_empty()));
        let dates = [Some(instruction.instruction_date), instruction.expiration_date];
        assert!(dates.iter().flatten().all(|date| (1970..=9999).contains(&date.year())));

        // In the documented form it is the same instruction, but for what cannot be read.
        let parameters = instruction.parameters.iter();
        let plain = json!({
            "id": instruction.id.0,
            "topic": instruction.topic,
            "state": instruction.state.name(),
            "instructionDate": instruction.instruction_date.to_rfc3339(),
            "expirationDate": instruction.expiration_date.map(|date| date.to_rfc3339()),
            "parameters": parameters.map(|p| json!({ "name": p.name, "value": p.value })).collect::<Vec<_>>(),
        });
        let mut again = parse::instructions(&plain, node).instructions;
        again.iter_mut().for_each(|again| again.unreadable.clone_from(&instruction.unreadable));
        assert_eq!(again, std::slice::from_ref(&instruction));

        // Nothing is done that is not within the limits, in time, and due.
        let now = instruction.instruction_date;
        let case = Case {
            instruction: &instruction,
            seen_ago: Duration::ZERO,
            now: Some(now),
            known: State::New,
            rules: &rules,
            last_writes: &last_writes,
        };
        if let Decision::Act(write) = decide(&case) {
            assert_eq!(instruction.unreadable, None);
            let control = &rules.controls[0];
            assert!(write.control == control.id);
            assert!((control.allow.min..=control.allow.max).contains(&write.value));
            assert!(instruction.expiration_date.is_none_or(|date| date > now));
            assert!(execution_date(&instruction).expect("readable").is_none_or(|date| date <= now));
            assert_eq!(target(&instruction, &rules), Some((write.control, Some(write.value))));
        }
        assert!(not_after(&instruction, rules.max_age).is_none_or(|date| date.year() < 300_000));
    }
}
