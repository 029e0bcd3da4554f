//! A datum as it stands in the queue, and everything that is made of one.

use solarnode_agent::{
    domain::{NodeId, Stamp},
    queue::{record, show},
    upload::import::csv,
};

pub(crate) fn check(bytes: &[u8]) {
    let Ok(datum) = record::decode(bytes) else { return };
    assert_eq!(record::decode_stamp(bytes), Ok(datum.stamp));
    // Longer spellings of a number are taken; otherwise these are the bytes.
    let written = record::encode(&datum);
    assert!(written.len() <= bytes.len());
    assert_eq!(record::decode(&written).as_ref(), Ok(&datum));

    let unix_ms = match datum.stamp {
        Stamp::Wall { unix_ms } => unix_ms,
        Stamp::Boot { .. } => 0,
    };
    assert_eq!(show::json(1, &datum, Some(unix_ms))["source"], datum.source.as_str());
    let mut csv = String::new();
    let node = NodeId::try_from(1).expect("a node");
    match csv::push_line(&mut csv, node, &datum, unix_ms) {
        Ok(()) => {
            // Line ends within a value are within quotes.
            let outside = csv.split('"').step_by(2).collect::<String>();
            assert!(csv.ends_with('\n') && outside.matches('\n').count() == 1, "{csv:?}");
        }
        Err(_) => assert!(csv.is_empty()),
    }
}
