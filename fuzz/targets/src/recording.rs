//! Recorded exchanges from a support bundle, and what the daemon gives as their source.

use std::{
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use solarnode_agent::{
    config::settings::Table,
    modbus::{Wire, frame::Request, playback::Playback, recording, ring::Dump},
};

/// What is asked that the recording may not have.
const ALSO: [(Table, u16, u16); 3] =
    [(Table::Holding, 0, 125), (Table::Coil, 0xFFF0, 16), (Table::Input, 1, 1)];

fn play(mut playback: Playback, lines: &[recording::Line]) {
    let tables = [Table::Coil, Table::Discrete, Table::Holding, Table::Input];
    let recorded = lines.iter().filter_map(|line| match *line.sent.as_slice() {
        [function @ 1..=4, a, b, c, d] => {
            let table = tables[usize::from(function) - 1];
            Some((table, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
        }
        _ => None,
    });
    for (table, address, count) in recorded.chain(ALSO) {
        black_box(playback.has(table, address, count));
        let request = Request::Read { table, address, count };
        let answer = pin!(playback.call(1, &request, Duration::ZERO));
        let answer = answer.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(answer, Poll::Ready(_)), "a recording never waits");
    }
}

pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(dump) = serde_json::from_str::<Dump>(text) {
        let written = recording::render(&dump);
        let read = recording::parse(&written).expect("our own recording");
        assert_eq!(read.len(), dump.exchanges().len(), "{written}");
    }
    let Ok(lines) = recording::parse(text) else { return };
    let written: Vec<_> =
        lines.iter().map(|line| serde_json::to_string(line).expect("JSON")).collect();
    assert_eq!(recording::parse(&written.join("\n")).expect("our own recording"), lines);
    // Time and memory go with the square of a bundle's minutes; these are enough to see everything.
    let lines = &lines[..lines.len().min(20)];
    for line in lines.iter().take(3) {
        black_box(line.time());
        for playback in Playback::rounds(lines, &line.bus, line.unit) {
            play(playback, lines);
        }
    }
}
