use super::*;
use crate::{
    config::settings::{Allow, Encoding, Order as End, Register, Scale, Select},
    domain::InstructionState,
    instruct::parse,
};

fn control(id: &str, states: &[(&str, i64)], signals: &[(&str, i64)]) -> Control {
    Control {
        id: id.parse().expect("a source"),
        bus: "bus".to_owned(),
        unit: 3,
        register: Register {
            table: Table::Holding,
            address: 0,
            encoding: Encoding::I16,
            word_order: End::Big,
            byte_order: End::Big,
            select: Select::All,
        },
        scale: Scale { multiply: Decimal::ONE, offset: Decimal::ZERO, digits: None },
        timeout: Duration::from_secs(1),
        tolerance: Decimal::ZERO,
        settle: Duration::ZERO,
        allow: Allow { min: Decimal::ZERO, max: Decimal::from(5), every: Duration::from_secs(10) },
        states: states
            .iter()
            .map(|(name, value)| {
                (OperatingState::from_text(name).expect("a state"), (*value).into())
            })
            .collect(),
        signals: signals
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect(),
    }
}

fn rules(allow: &[NodeTopic]) -> Rules {
    Rules {
        controls: vec![
            control("/pump", &[("Normal", 1), ("Standby", 0)], &[("open", 5)]),
            control("/plain", &[], &[]),
        ],
        allow: allow.iter().copied().collect(),
        max_age: Duration::from_secs(900),
    }
}

fn instruction(topic: &str, parameters: &[(&str, &str)]) -> Instruction {
    Instruction {
        id: InstructionId(7),
        topic: topic.to_owned(),
        instruction_date: parse::instant("2026-11-22T11:55:00Z").expect("a date"),
        state: InstructionState::Queued,
        expiration_date: None,
        parameters: parameters
            .iter()
            .map(|(name, value)| Parameter { name: (*name).to_owned(), value: (*value).to_owned() })
            .collect(),
        unreadable: None,
    }
}

fn all(topic: &str, parameters: &[(&str, &str)]) -> Result<Order, Code> {
    order(&instruction(topic, parameters), &rules(&NodeTopic::ALL)).map_err(|refusal| {
        assert!(!refusal.message.is_empty());
        refusal.code
    })
}

fn asked(topic: &str, parameters: &[(&str, &str)]) -> Result<Request, Code> {
    match all(topic, parameters)? {
        Order::Ask(request) => Ok(request),
        other => panic!("{other:?}"),
    }
}

fn written(topic: &str, parameters: &[(&str, &str)]) -> Result<i64, Code> {
    match all(topic, parameters)? {
        Order::Write { write, every } => {
            assert_eq!((write.control.as_str(), every), ("/pump", Duration::from_secs(10)));
            Ok(i64::try_from(write.value).expect("a small number"))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_operating_state_is_named_or_numbered_and_stands_for_its_value() {
    for (text, value) in [("Normal", 1), ("normal", 1), ("1", 1), (" STANDBY ", 0), ("3", 0)] {
        assert_eq!(written(SET_STATE, &[("/pump", text)]), Ok(value), "{text}");
    }
    for text in ["Fault", "5", "9", "on", "", "-1"] {
        assert_eq!(all(SET_STATE, &[("/pump", text)]), Err(Code::Value), "{text}");
    }
    assert_eq!(all(SET_STATE, &[("/plain", "Normal")]), Err(Code::NotAllowed));
    assert_eq!(all(SET_STATE, &[("/other", "Normal")]), Err(Code::UnknownControl));
    assert_eq!(all(SET_STATE, &[]), Err(Code::Parameters));
}

#[test]
fn a_signal_stands_for_the_value_that_the_control_gives_it() {
    assert_eq!(written(SIGNAL, &[("/pump", "open")]), Ok(5));
    assert_eq!(all(SIGNAL, &[("/pump", "Open")]), Err(Code::Value));
    assert_eq!(all(SIGNAL, &[("/plain", "open")]), Err(Code::NotAllowed));
    let target = target(&instruction(SIGNAL, &[("/pump", "open")]), &rules(&[]));
    assert_eq!(target, Some(("/pump".parse().expect("a source"), Some(Decimal::from(5)))));
}

/// Every topic of the node, with what it needs, is refused unless the configuration has it.
#[test]
fn what_the_configuration_does_not_allow_is_refused_before_anything_else_is_looked_at() {
    for topic in NodeTopic::ALL {
        let others: Vec<_> = NodeTopic::ALL.into_iter().filter(|t| *t != topic).collect();
        for parameters in [&[][..], &[("nonsense", "1")][..]] {
            let refused = order(&instruction(topic.name(), parameters), &rules(&others));
            let refusal = refused.expect_err("not allowed");
            assert_eq!(refusal.code, Code::NotAllowed);
            assert!(refusal.message.contains(topic.name()), "{}", refusal.message);
        }
    }
}

#[test]
fn a_parameter_that_is_not_known_makes_no_order() {
    for topic in NodeTopic::ALL {
        let refused = asked(topic.name(), &[("force", "1")]);
        assert_eq!(refused, Err(Code::Parameters), "{}", topic.name());
    }
    let about = [("executionDate", "1718142600000"), ("parentInstructionId", "3")];
    assert_eq!(asked("SystemRestart", &about), Ok(Request::Restart));
    assert_eq!(asked("SystemReboot", &about), Ok(Request::Reboot));
}

#[test]
fn loggers_come_as_a_list_or_repeated_and_levels_by_name() {
    let loggers = ["upload", "instruct.step", "queue"].map(str::to_owned).to_vec();
    let given = [("logger", "upload, instruct.step"), ("level", "DEBUG"), ("logger", "queue,")];
    let level = Some(LevelFilter::DEBUG);
    assert_eq!(asked("LoggingSetLevel", &given), Ok(Request::LogLevel { loggers, level }));
    let level = |text| match asked("LoggingSetLevel", &[("logger", "x"), ("level", text)]) {
        Ok(Request::LogLevel { level, .. }) => Ok(level),
        other => Err(other),
    };
    assert_eq!(level("inherit"), Ok(None));
    assert_eq!(level("off"), Ok(Some(LevelFilter::OFF)));
    assert_eq!(level("loud"), Err(Err(Code::Value)));
    for given in [
        &[("level", "info")][..],
        &[("logger", " , "), ("level", "info")],
        &[("logger", "x")],
        &[("logger", "x"), ("level", "info"), ("level", "warn")],
    ] {
        assert_eq!(asked("LoggingSetLevel", given), Err(Code::Parameters), "{given:?}");
    }
}

#[test]
fn the_inventory_of_controls_can_be_filtered_and_there_is_no_other() {
    let service = ("service", "net.solarnetwork.node.controls");
    let controls = |filter: &[(&str, &str)]| {
        let given: Vec<_> = std::iter::once(service).chain(filter.iter().copied()).collect();
        match asked("SystemConfiguration", &given) {
            Ok(Request::Controls(ids)) => ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(controls(&[]), ["/pump", "/plain"]);
    assert_eq!(controls(&[("filter", "/pu*")]), ["/pump"]);
    assert_eq!(controls(&[("filter", "/x/**")]), Vec::<String>::new());
    let other = [("service", "net.solarnetwork.node.settings")];
    assert_eq!(asked("SystemConfiguration", &other), Err(Code::UnknownService));
    let uid = [service, ("uid", "*")];
    assert_eq!(asked("SystemConfiguration", &uid), Err(Code::Parameters));
}

#[test]
fn a_certificate_is_joined_from_its_pieces_in_order() {
    let text = include_str!("../../../tests/vectors/datum.json");
    let vectors: serde_json::Value = serde_json::from_str(text).expect("JSON");
    for given in vectors["instructions"].as_array().expect("a list") {
        let message = serde_json::from_str(given["json"].as_str().expect("text")).expect("JSON");
        for instruction in parse::message(&message, 123.try_into().expect("a node")).instructions {
            if instruction.topic != "RenewCertificate" {
                continue;
            }
            let whole: String = instruction.parameters.iter().map(|p| p.value.as_str()).collect();
            let order = order(&instruction, &rules(&NodeTopic::ALL));
            assert_eq!(order, Ok(Order::Ask(Request::Install(whole))));
        }
    }
}

#[test]
fn an_unknown_topic_is_refused_with_those_that_are_known() {
    for topic in ["ShedLoad", "setcontrolparameter", ""] {
        let refused = order(&instruction(topic, &[("/pump", "1")]), &rules(&NodeTopic::ALL));
        let refusal = refused.expect_err("unknown");
        assert_eq!(refusal.code, Code::UnknownTopic, "{topic}");
        assert!(refusal.message.contains("SetOperatingState"), "{}", refusal.message);
    }
}
