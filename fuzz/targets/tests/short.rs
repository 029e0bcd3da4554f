//! Every target on its seeds, and for a moment on what can be made of them.
//!
//! Without knowledge of the code's branches, which only libFuzzer has; so this finds what is near to the
//! seeds, and shows that the targets themselves still hold. An input that fails is printed.

use std::{
    fs,
    panic::catch_unwind,
    path::Path,
    time::{Duration, Instant},
};

use fastrand::Rng;
use fuzz_targets::TARGETS;

/// How long each target runs. They run at the same time, so this is about what all of them take.
const MOMENT: Duration = Duration::from_secs(3);

/// Numbers and signs at which decoders are likely to turn.
const EDGES: [&str; 17] = [
    "0",
    "-1",
    "255",
    "65535",
    "9223372036854775807",
    "18446744073709551615",
    "1e999",
    "null",
    "true",
    "[]",
    "{}",
    "\"",
    "\n",
    "\u{1f31e}",
    "+262142-12-31T23:59:59Z",
    "+262142-12-31 23:59:59",
    "hunter2",
];

/// Makes another input of one, in one to four steps.
fn mutate(random: &mut Rng, input: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..random.usize(1..5) {
        let at = random.usize(0..=input.len());
        let end = (at + random.usize(0..32)).min(input.len());
        match random.u8(0..7) {
            0 if at < input.len() => input[at] ^= 1 << random.u8(0..8),
            1 if at < input.len() => input[at] = random.u8(..),
            2 => drop(input.drain(at..end)),
            3 => drop(input.splice(at..at, input[at..end].to_vec())),
            4 => {
                let edge = EDGES[random.usize(0..EDGES.len())];
                // In place of a word, where there is one.
                let word =
                    input[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
                drop(input.splice(at..at + word, edge.bytes()));
            }
            5 => {
                let other = &others[random.usize(0..others.len())];
                let from = random.usize(0..=other.len());
                let to = (from + random.usize(0..64)).min(other.len());
                drop(input.splice(at..end, other[from..to].iter().copied()));
            }
            _ => input.extend((0..random.usize(0..16)).map(|_| random.u8(..))),
        }
    }
}

fn run(name: &str) {
    let check = TARGETS.iter().find(|(known, _)| *known == name).expect("a target").1;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds").join(name);
    let mut seeds = vec![Vec::new()];
    for entry in
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
    {
        seeds.push(fs::read(entry.expect("an entry").path()).expect("a seed"));
    }
    assert!(seeds.len() > 1, "{} has no seeds", folder.display());
    seeds.sort();

    let try_one = |input: &[u8]| {
        let shown = || input.escape_ascii().to_string();
        assert!(catch_unwind(|| check(input)).is_ok(), "{name} fails with b\"{}\"", shown());
    };
    seeds.iter().for_each(|seed| try_one(seed));
    let (mut random, begun) = (Rng::with_seed(1), Instant::now());
    while begun.elapsed() < MOMENT {
        let mut input = seeds[random.usize(0..seeds.len())].clone();
        mutate(&mut random, &mut input, &seeds);
        try_one(&input);
    }
}

macro_rules! each {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn no_target_is_left_out() {
            assert_eq!(TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), [$(stringify!($name)),*]);
        }
    };
}

each! {
    cbor config control_request file_answer identity instructions modbus_answer modbus_rtu modbus_tcp modbus_value mqtt_packet
    policy queue_record recording server_data server_date solarin_answer solarnet_answer spool_recovery
    state_files
}
