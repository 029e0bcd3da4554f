use proptest::{collection::vec, prelude::*};

use super::*;
use crate::config::settings::Table;

const UNIT: u8 = 7;
const WAIT: Duration = Duration::from_secs(1);
/// How a line may be known that does what `true` says.
const KNOWN: [Option<bool>; 3] = [None, Some(false), Some(true)];

/// Its echo begins like its answer, and no damage to one byte makes it one.
const READ: Request<'_> = Request::Read { table: Table::Holding, address: 0x0207, count: 1 };
const WRITES: [Request<'_>; 4] = [
    Request::WriteCoil { address: 2, on: true },
    Request::WriteRegister { address: 2, word: 7 },
    Request::WriteCoils { address: 2, on: &[true; 9] },
    Request::WriteRegisters { address: 2, words: &[7, 8] },
];

fn framed(body: &[u8]) -> Vec<u8> {
    [body, &rtu::crc(body).to_le_bytes()].concat()
}

fn frame(request: &Request<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    rtu::encode(UNIT, request, &mut frame).expect("fits");
    frame
}

/// What the unit says to a request; to a read, this value.
fn answer(request: &Request<'_>, value: u8) -> Vec<u8> {
    match request {
        Request::Read { .. } => framed(&[UNIT, 3, 2, 0, value]),
        _ => framed(&frame(request)[..6]),
    }
}

fn ms(ms: u16) -> Duration {
    Duration::from_millis(ms.into())
}

/// A line and what comes on it, by the time since it was opened.
struct Bench {
    hearing: Hearing,
    opened: Instant,
    now: Duration,
    /// How late what arrives is handed over.
    lag: Duration,
    arriving: Vec<(Duration, Vec<u8>)>,
}

impl Bench {
    fn new(echoes: Option<bool>, (silence, lag): Pace) -> Self {
        let opened = Instant::now();
        let hearing = Hearing { echoes, ..Hearing::new(silence, opened) };
        Self { hearing, opened, now: Duration::ZERO, lag, arriving: Vec::new() }
    }

    fn at(&self, time: Duration) -> Instant {
        self.opened + time
    }

    /// Sends bytes towards the hearing, cut into pieces that come so many milliseconds after each other.
    fn say(&mut self, after: Duration, bytes: &[u8], cuts: &[(usize, u16)]) {
        let (mut at, mut rest) = (self.now + after, bytes);
        for (length, pause) in cuts.iter().cycle() {
            let (piece, more) = rest.split_at((*length).min(rest.len()));
            self.arriving.push((at, piece.to_vec()));
            (at, rest) = (at + ms(*pause), more);
            if rest.is_empty() {
                break;
            }
        }
        self.arriving.sort_by_key(|(at, _)| *at);
    }

    /// Hands over what comes next, unless it comes after `until`; true if something did.
    fn hear(&mut self, until: Duration) -> bool {
        let Some((at, bytes)) = self.arriving.first_mut().filter(|(at, _)| *at <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = self.now.max(*at + self.lag);
        let room = self.hearing.room();
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        bytes.drain(..count);
        if bytes.is_empty() {
            self.arriving.remove(0);
        }
        self.hearing.took(count, self.opened + self.now);
        true
    }

    /// As a link does before it sends anything.
    fn make_ready(&mut self) {
        loop {
            let rested = self.hearing.rests_until(UNIT).unwrap_or(self.opened);
            if !self.hear(rested.max(self.hearing.quiet_at()) - self.opened) {
                break;
            }
        }
        self.hearing.forget();
    }

    fn send(&mut self, request: &Request<'_>) {
        self.hearing.frame(UNIT, request).expect("fits");
        self.hearing.asked(UNIT, self.at(self.now), WAIT, WAIT);
    }

    /// What is made of it, the bytes of an answer's PDU included.
    fn listen(&mut self, request: &Request<'_>) -> (Heard, Vec<u8>) {
        loop {
            match self.hearing.judge(UNIT, request, self.at(self.now)) {
                Next::Listen(until) => {
                    self.hear(until - self.opened);
                }
                Next::Over(Heard::Answer(pdu)) => {
                    let bytes = self.hearing.bytes(pdu.clone()).to_vec();
                    return (Heard::Answer(pdu), bytes);
                }
                Next::Over(heard) => return (heard, Vec::new()),
            }
        }
    }

    /// A request, what comes after it, and what is made of that.
    fn ask(&mut self, request: &Request<'_>, bytes: &[u8], cuts: &[(usize, u16)]) -> Heard {
        self.make_ready();
        self.send(request);
        self.say(Duration::ZERO, bytes, cuts);
        self.listen(request).0
    }
}

fn is_answer(heard: &Heard) -> bool {
    matches!(heard, Heard::Answer(_))
}

/// Bytes that begin like frames of the unit, and any others; no refusals of it.
fn noise(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(UNIT), Just(3), Just(2), Just(0), 0x90..0xFF_u8], 0..most)
}

/// Noise, and perhaps a late answer of another unit.
fn between() -> impl Strategy<Value = Vec<u8>> {
    let late = (9..20_u8, any::<bool>()).prop_map(|(unit, there)| match there {
        true => framed(&[unit, 3, 2, 0, 1]),
        false => Vec::new(),
    });
    (noise(12), late, noise(12)).prop_map(|(a, b, c)| [a, b, c].concat())
}

/// Lengths of pieces, and the pauses after them: shorter than those after which nothing follows.
fn cuts() -> impl Strategy<Value = Vec<(usize, u16)>> {
    vec((1..40_usize, 0..15_u16), 1..8)
}

/// The silence of a connection or a port, and how late bytes are handed over.
type Pace = (Duration, Duration);

fn pace() -> impl Strategy<Value = Pace> {
    let silence = prop_oneof![Just(Duration::ZERO), Just(Duration::from_micros(1750))];
    (silence, (0..30_u16).prop_map(ms))
}

/// An echo: whole, or with a byte that is another; none on a line that gives none.
fn echo(request: &Request<'_>, echoes: bool, damage: Option<(usize, u8)>) -> Vec<u8> {
    let mut echo = if echoes { frame(request) } else { Vec::new() };
    if let (Some((at, by)), false) = (damage, echo.is_empty()) {
        let at = at % echo.len();
        echo[at] ^= by;
    }
    echo
}

fn damage() -> impl Strategy<Value = Option<(usize, u8)>> {
    prop::option::of((0..16_usize, 1..=255_u8))
}

proptest! {
    /// A write is confirmed only if the unit answered it, once a read showed whether the line echoes.
    #[test]
    fn no_write_is_confirmed_without_the_units_own_answer(
        line in (any::<bool>(), prop::sample::select(&KNOWN[..]), pace()),
        read in (between(), between(), cuts(), prop_oneof![3 => 0..300_u16, 1 => 900..1000_u16]),
        write in (0..4_usize, between(), damage(), between(), cuts(), prop_oneof![3 => Just(0_u16), 1 => 900..1000_u16]),
        answered in prop::option::of(0..1500_u16),
    ) {
        let ((echoes, known, pace), (noise, more, cuts, late)) = (line, read);
        let mut bench = Bench::new(known, pace);
        bench.send(&READ);
        bench.say(Duration::ZERO, &[noise, echo(&READ, echoes, None)].concat(), &cuts);
        bench.say(ms(late), &[more, answer(&READ, 1)].concat(), &cuts);
        prop_assume!(is_answer(&bench.listen(&READ).0));
        bench.make_ready();

        let (which, noise, damage, more, cuts, after) = write;
        let request = WRITES[which];
        bench.send(&request);
        let begun = bench.now;
        let own = [noise, echo(&request, echoes, damage), more].concat();
        bench.say(ms(after), &own, &cuts);
        if let Some(answered) = answered {
            bench.say(ms(answered), &answer(&request, 0), &[(256, 0)]);
        }
        if is_answer(&bench.listen(&request).0) {
            prop_assert!(answered.is_some_and(|answered| begun + ms(answered) <= bench.now));
        }
    }


    /// An answer is that of its own request, however late those of earlier ones are, while the unit rests.
    #[test]
    fn no_answer_is_taken_for_that_of_a_later_request(
        line in (any::<bool>(), any::<bool>(), pace()),
        asks in vec((0..1950_u16, prop::option::of(damage()), damage(), vec(0x80..=255_u8, 0..6)), 1..12),
    ) {
        let (echoes, known, pace) = line;
        let mut bench = Bench::new(known.then_some(echoes), pace);
        for (value, (latency, says, damage, noise)) in (1..).zip(asks) {
            bench.make_ready();
            bench.send(&READ);
            bench.say(Duration::ZERO, &[noise, echo(&READ, echoes, damage)].concat(), &[(256, 0)]);
            if let Some(damage) = says {
                let mut said = answer(&READ, value);
                if let Some((at, by)) = damage {
                    // Not its beginning: it would be another frame.
                    said[3 + at % 4] ^= by;
                }
                bench.say(ms(latency), &said, &[(256, 0)]);
            }
            if let (Heard::Answer(_), bytes) = bench.listen(&READ) {
                prop_assert_eq!(bytes, vec![3, 2, 0, value]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An answer that came whole in time is found, whatever stands before it.
    #[test]
    fn an_answer_that_comes_in_time_is_found(
        line in (any::<bool>(), prop::sample::select(&KNOWN[..]), pace()),
        before in noise(2048),
        echo_of_read in damage(),
        between in noise(400),
        behind in noise(400),
        cuts in cuts(),
        write in 0..4_usize,
    ) {
        let (echoes, known, pace) = line;
        let mut bench = Bench::new(known, pace);
        // All of it within the time, at once or nearly so.
        let cuts: Vec<_> = cuts.into_iter().map(|(length, _)| (length * 8, 0)).collect();
        let bytes = [before, echo(&READ, echoes, echo_of_read), between, answer(&READ, 1), behind].concat();
        prop_assert!(is_answer(&bench.ask(&READ, &bytes, &cuts)));

        bench.hearing.learn(Some(echoes));
        let request = WRITES[write];
        let bytes = [echo(&request, echoes, None), answer(&request, 0)].concat();
        prop_assert!(is_answer(&bench.ask(&request, &bytes, &cuts)));
    }

    /// Where bytes are cut on their way changes nothing.
    #[test]
    fn how_bytes_are_cut_makes_no_difference(
        known in prop::sample::select(&KNOWN[..]),
        request in prop::sample::select(&[READ, WRITES[0], WRITES[1], WRITES[2], WRITES[3]][..]),
        parts in vec((noise(500), 0..6_u8), 1..5),
        cuts in cuts(),
        pace in pace(),
    ) {
        let part = |(noise, which): &(Vec<u8>, u8)| {
            let part = match which {
                0 => frame(&request),
                1 => echo(&request, true, Some((usize::from(*which), 4))),
                2 => answer(&request, 1),
                3 => echo(&request, true, Some((5, 1))),
                4 => framed(&[9, 3, 2, 0, 1]),
                _ => Vec::new(),
            };
            [noise, &part[..]].concat()
        };
        let bytes: Vec<u8> = parts.iter().flat_map(part).collect();
        let results = [vec![(bytes.len().max(1), 0)], vec![(1, 0)], cuts].map(|cuts| {
            let mut bench = Bench::new(known, pace);
            let cuts: Vec<_> = cuts.into_iter().map(|(length, _)| (length, 0)).collect();
            let heard = bench.ask(&request, &bytes, &cuts);
            let rests = bench.hearing.rests_until(UNIT).map(|until| until - bench.opened);
            bench.make_ready();
            (heard, rests, bench.hearing.echoes, bench.hearing.take_late())
        });
        prop_assert_eq!(&results[0], &results[1]);
        prop_assert_eq!(&results[0], &results[2]);
    }
}

/// What is made of a read after which these bytes come, by the deadline or after it, and whether the line is said to
/// echo then.
fn learnt(known: Option<bool>, bytes: &[u8], late: bool) -> (Heard, Option<bool>) {
    let mut bench = Bench::new(known, (Duration::ZERO, if late { WAIT } else { Duration::ZERO }));
    let heard = bench.ask(&READ, bytes, &[(256, 0)]);
    bench.make_ready();
    (heard, bench.hearing.echoes)
}

#[test]
fn that_a_line_echoes_is_seen_also_late_behind_noise_in_damage_and_from_a_silent_unit() {
    let (echo, answer) = (frame(&READ), answer(&READ, 42));
    let damaged = [&[echo[0] ^ 1], &echo[1..]].concat();
    let other = framed(&[9, 3, 2, 0, 1]);
    let (yes, no) = (Some(true), Some(false));
    for (known, before, after) in [
        (None, vec![], no),
        (None, echo.clone(), yes),
        (None, [&[0xF0, 0x55], &echo[..]].concat(), yes),
        (None, [&echo[..], &other].concat(), yes),
        // Three bytes are too few for an echo, eight are not; an answer of another unit is none at all.
        (None, vec![0xF0, 0x55, 0xFF], no),
        (None, damaged.clone(), None),
        (None, other.clone(), no),
        (no, damaged.clone(), None),
        (no, vec![0xF0; 3], no),
        (yes, damaged, yes),
        (yes, vec![0xF0; 3], yes),
        (yes, vec![], no),
        (yes, other, no),
    ] {
        for late in [false, true] {
            let (heard, echoes) = learnt(known, &[&before[..], &answer].concat(), late);
            assert!(is_answer(&heard), "{known:?} {before:x?}");
            assert_eq!(echoes, after, "{known:?} {before:x?} late: {late}");
        }
    }
    for known in KNOWN {
        assert_eq!(learnt(known, &echo, false), (Heard::Nothing, yes), "nobody answers");
        let (heard, echoes) = learnt(known, &[&[0xF0], &echo[..]].concat(), true);
        assert_eq!((is_answer(&heard), echoes), (false, yes), "nobody answers");
        assert_eq!(learnt(known, &[], false), (Heard::Nothing, known));
    }
}

#[test]
fn a_port_that_was_opened_again_is_not_known_to_echo_or_not() {
    for (known, after) in [(Some(true), None), (Some(false), None), (None, None)] {
        let mut bench = Bench::new(known, (Duration::ZERO, Duration::ZERO));
        bench.hearing.opened(bench.opened, false);
        assert_eq!(bench.hearing.echoes, known, "the same far end");
        bench.hearing.opened(bench.opened, true);
        assert_eq!(bench.hearing.echoes, after);
        let write = WRITES[0];
        let copy = frame(&write);
        assert_eq!(bench.ask(&write, &copy, &[(256, 0)]), Heard::Nothing);
        assert_eq!(bench.hearing.echoes, None, "it may have been the answer");
        assert!(is_answer(&bench.ask(&write, &copy.repeat(2), &[(256, 0)])));
    }
}

#[test]
fn a_second_copy_behind_a_write_shows_that_the_first_was_its_echo() {
    for write in &WRITES[..2] {
        let mut bench = Bench::new(Some(false), (Duration::ZERO, Duration::ZERO));
        let copy = frame(write);
        assert!(
            is_answer(&bench.ask(write, &copy.repeat(2), &[(8, 5)])),
            "what was known was wrong"
        );
        while bench.hear(ms(10)) {}
        bench.hearing.forget();
        assert_eq!(bench.hearing.echoes, Some(true));
        assert_eq!(bench.ask(write, &copy, &[(8, 0)]), Heard::Nothing, "an echo alone");
    }
}

#[test]
fn a_unit_rests_unless_it_answered_or_its_late_answer_was_heard() {
    let pace = (Duration::ZERO, Duration::ZERO);
    let rests = |bench: &Bench| bench.hearing.rests_until(UNIT).map(|until| until - bench.opened);
    let mut damaged = answer(&READ, 1);
    damaged[3] ^= 1;
    // What comes, and how long it takes until that is judged.
    for (known, bytes, heard, after, rest) in [
        (Some(false), vec![], Heard::Nothing, WAIT, Some(2 * WAIT)),
        (Some(false), answer(&READ, 1), Heard::Answer(1..5), Duration::ZERO, None),
        (Some(false), damaged.clone(), Heard::Damaged, SETTLED, None),
        // It may have been an echo.
        (Some(true), damaged.clone(), Heard::Damaged, WAIT, Some(2 * WAIT)),
        (None, damaged, Heard::Damaged, WAIT, Some(2 * WAIT)),
    ] {
        let mut bench = Bench::new(known, pace);
        assert_eq!(bench.ask(&READ, &bytes, &[(256, 0)]), heard, "{known:?} {bytes:x?}");
        assert_eq!((bench.now, rests(&bench)), (after, rest), "{known:?} {bytes:x?}");
        bench.hearing.forget();
        assert_eq!(bench.hearing.take_late(), None, "nothing else was heard");
    }
    // The echo of a write looks like its answer.
    for echoes in [false, true] {
        let mut bench = Bench::new(Some(echoes), pace);
        let heard = echo(&WRITES[0], echoes, None);
        assert_eq!(bench.ask(&WRITES[0], &heard, &[(256, 0)]), Heard::Nothing);
        bench.hearing.forget();
        assert_eq!((rests(&bench), bench.hearing.take_late()), (Some(2 * WAIT), None));

        // Until another unit is asked; perhaps before so much that not all of it is kept.
        let behind = vec![0xF0; if echoes { BUFFER } else { 0 }];
        let late = [&[0xF0][..], &answer(&WRITES[0], 0), &behind].concat();
        bench.say(ms(10), &late, &[(256, 0)]);
        while bench.hear(WAIT + ms(20)) {}
        bench.hearing.forget();
        assert_eq!((rests(&bench), bench.hearing.take_late()), (None, Some(UNIT)));
        assert_eq!(bench.hearing.echoes, Some(echoes));
    }
    // Also in front of an echo.
    let mut bench = Bench::new(Some(true), pace);
    let bytes = [framed(&[9, 3, 2, 0, 1]), frame(&READ), answer(&READ, 1)].concat();
    assert!(is_answer(&bench.ask(&READ, &bytes, &[(256, 0)])));
    assert_eq!(bench.hearing.take_late(), Some(9));
    // Each unit by itself.
    let mut bench = Bench::new(None, pace);
    bench.hearing.asked(9, bench.at(ms(0)), WAIT, WAIT);
    bench.hearing.asked(UNIT, bench.at(ms(1)), WAIT, WAIT);
    assert_eq!(bench.hearing.rests_until(9), Some(bench.at(2 * WAIT)));
    bench.hearing.asked(UNIT, bench.at(3 * WAIT), WAIT, WAIT);
    assert_eq!(bench.hearing.rests_until(9), None);
}

#[test]
fn what_comes_in_place_of_an_answer_is_told() {
    let instead = |known, request: &Request<'_>, bytes: &[u8]| {
        let mut bench = Bench::new(known, (Duration::ZERO, Duration::ZERO));
        let heard = bench.ask(request, bytes, &[(256, 0)]);
        assert_eq!(heard, Heard::Nothing, "{bytes:x?}");
        (bench.hearing.has_heard(), bench.hearing.instead(UNIT, request))
    };
    let echo = frame(&READ);
    assert_eq!(instead(None, &READ, &[]), (false, None));
    assert_eq!(instead(None, &READ, &echo), (true, None));
    let unit = Some(Discarded::Unit(9));
    assert_eq!(
        instead(None, &READ, &[&echo[..], &framed(&[9, 3, 2, 0, 1])].concat()),
        (true, unit)
    );
    let noise = Some(Discarded::Noise(2));
    assert_eq!(instead(Some(false), &WRITES[0], &[7, 7]), (true, noise));
    let other = answer(&WRITES[1], 0);
    let Some(Discarded::Mismatch(_)) = instead(Some(false), &WRITES[0], &other).1 else {
        panic!("an answer to something else");
    };
}

#[test]
fn nothing_is_taken_for_an_answer_that_may_be_part_of_something_else() {
    let ask = |request: &Request<'_>, bytes: &[u8], cut: usize| {
        let mut bench = Bench::new(None, (Duration::ZERO, Duration::ZERO));
        let heard = bench.ask(request, bytes, &[(cut, 5), (256, 0)]);
        (heard, bench.now)
    };
    // The first seven of these eight bytes are right as an answer, too.
    let echo_like_an_answer = Request::Read { table: Table::Holding, address: 0x0240, count: 1 };
    let echo = frame(&echo_like_an_answer);
    assert_eq!(
        rtu::find_answer(UNIT, &echo_like_an_answer, &echo[..7], false),
        Found::Answer(1..5)
    );
    assert_eq!(ask(&echo_like_an_answer, &echo, 7).0, Heard::Nothing);

    // A refusal stands in the data of an answer; and behind what looks like the beginning of one.
    let long = Request::Read { table: Table::Holding, address: 0, count: 4 };
    let refusal = framed(&[UNIT, 0x83, 2]);
    let data = framed(&[&[UNIT, 3, 8][..], &refusal, &[0, 0, 0]].concat());
    assert_eq!(ask(&long, &data, 8).0, Heard::Answer(1..11));
    assert_eq!(ask(&long, &[&[UNIT, 3, 8][..], &refusal].concat(), 8), (Heard::Answer(4..6), WAIT));
}

#[test]
fn the_line_is_quiet_a_silence_after_the_last_byte_and_after_it_was_opened() {
    let silence = ms(2);
    let mut bench = Bench::new(None, (silence, Duration::ZERO));
    bench.say(ms(10), &[1, 2], &[(1, 30)]);
    while bench.hear(WAIT) {}
    assert_eq!(bench.hearing.quiet_at(), bench.at(ms(40) + silence));
    assert!(bench.hearing.has_heard());
    bench.hearing.opened(bench.at(WAIT), true);
    assert_eq!(bench.hearing.quiet_at(), bench.at(WAIT + silence));
    assert!(!bench.hearing.has_heard(), "that was another line");
}
