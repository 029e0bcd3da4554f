//! Whether rows go over the broker or over HTTPS. Pure.
//!
//! ```text
//!           rows wait and nothing was taken for `upload.fallback_after`
//!      ┌──────┐ ─────────────────────────────────────────────────────▶ ┌───────┐
//!      │ MQTT │                                                        │ HTTPS │
//!      └──────┘ ◀──taken── ┌───────┐ ◀──connected, and time for it──── └───────┘
//!                          │ trial │ ───refused, lost, or nothing taken ───▶ ▲
//!                          └───────┘ ────────────────────────────────────────┘
//! ```
//!
//! * Silence counts only while rows wait for it to end, and every acknowledged message ends it.
//! * A connection alone is no reason to go back: a broker whose rules refuse us connects all the same.
//!   What goes back is a trial, and the next one after a failed one waits twice as long.
//! * Rows that are too long for the broker go the other way after the same time, for a minute at first.
//! * Leaving and coming back are told, trials are not.

use std::time::Duration;

/// How long a trial may take while rows wait.
const TRIAL: Duration = Duration::from_secs(30);

/// Between failed trials: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// Which way rows go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over the broker.
    Mqtt,
    /// Over HTTPS.
    Https,
}

/// What was seen of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A message was taken.
    Taken,
    /// Rows wait for the broker, which has not taken them.
    Owing,
    /// Nothing waits for it.
    Idle,
    /// It is of no use now: it refused a message, or the connection was lost.
    Useless,
}

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// Rows go over HTTPS from now on.
    Left,
    /// They go over the broker again.
    Back {
        /// After how long.
        away: Duration,
    },
}

/// Where it stands.
#[derive(Debug)]
pub struct Fallback {
    /// `None` where there is no other way.
    after: Option<Duration>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Mqtt { owing_since: Option<Duration> },
    Https(Away),
    Trial { owing_since: Option<Duration>, away: Away },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Away {
    since: Duration,
    /// When the next trial may be.
    trial: Duration,
    /// How long the one after that waits.
    again: Duration,
    /// Nothing was wrong with the broker.
    errand: bool,
}

impl Fallback {
    /// Over the broker at first.
    #[must_use]
    pub fn new(after: Option<Duration>) -> Self {
        Self { after, state: State::Mqtt { owing_since: None } }
    }

    /// Which way rows go now.
    #[must_use]
    pub fn way(&self) -> Way {
        match self.state {
            State::Mqtt { .. } | State::Trial { .. } => Way::Mqtt,
            State::Https(_) => Way::Https,
        }
    }

    /// Something was seen while rows went over the broker; [`Fallback::way`] may be another one then.
    pub fn saw(&mut self, now: Duration, seen: Seen) -> Option<Note> {
        let after = self.after?;
        match &mut self.state {
            State::Https(_) => None,
            State::Mqtt { owing_since } => {
                if late(owing_since, now, seen, after) {
                    let away = Away { since: now, trial: now, again: AGAIN.0, errand: false };
                    self.state = State::Https(away);
                    return Some(Note::Left);
                }
                None
            }
            State::Trial { owing_since, away } => {
                if seen == Seen::Taken {
                    let back = Note::Back { away: now.saturating_sub(away.since) };
                    let note = (!away.errand).then_some(back);
                    self.state = State::Mqtt { owing_since: None };
                    return note;
                }
                let late = late(owing_since, now, seen, TRIAL);
                if late || seen == Seen::Useless {
                    let again = (away.again * 2).min(AGAIN.1);
                    self.state = State::Https(Away { trial: now + away.again, again, ..*away });
                }
                None
            }
        }
    }

    /// Rows wait since `since` that only the other way takes: when that has lasted, it is taken for a while. It is
    /// no silence, so neither that nor the way back is told.
    pub fn errand(&mut self, now: Duration, since: Duration) {
        let due = self.after.is_some_and(|after| now.saturating_sub(since) >= after);
        if due && self.way() == Way::Mqtt {
            let (first, most) = AGAIN;
            let away = match self.state {
                State::Trial { away, .. } => away,
                State::Mqtt { .. } | State::Https(_) => {
                    Away { since: now, trial: now, again: first, errand: true }
                }
            };
            let again = (away.again * 2).min(most);
            self.state = State::Https(Away { trial: now + away.again, again, ..away });
        }
    }

    /// While rows go over HTTPS: whether the broker is tried now. It has to be connected.
    pub fn tries(&mut self, now: Duration) -> bool {
        match self.state {
            State::Https(away) if now >= away.trial => {
                self.state = State::Trial { owing_since: None, away };
                true
            }
            _ => false,
        }
    }

    /// When to look again, if nothing happens before.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        match self.state {
            State::Mqtt { owing_since } => Some(owing_since? + self.after?),
            State::Https(away) => Some(away.trial),
            State::Trial { owing_since, .. } => Some(owing_since? + TRIAL),
        }
    }
}

/// Whether the silence, if there is any, has lasted too long.
fn late(owing_since: &mut Option<Duration>, now: Duration, seen: Seen, after: Duration) -> bool {
    match seen {
        Seen::Taken | Seen::Idle => {
            *owing_since = None;
            false
        }
        Seen::Owing | Seen::Useless => {
            let since = *owing_since.get_or_insert(now);
            now.saturating_sub(since) >= after
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(300);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn away() -> Fallback {
        let mut fallback = Fallback::new(Some(AFTER));
        assert_eq!(fallback.saw(secs(0), Seen::Owing), None);
        assert_eq!(fallback.saw(AFTER, Seen::Owing), Some(Note::Left));
        fallback
    }

    #[test]
    fn a_broker_that_takes_nothing_for_so_long_is_left() {
        let mut fallback = Fallback::new(Some(AFTER));
        assert_eq!(fallback.next(), None);
        assert_eq!(fallback.saw(secs(10), Seen::Owing), None);
        assert_eq!(fallback.next(), Some(secs(310)));
        assert_eq!(fallback.saw(secs(309), Seen::Useless), None);
        assert_eq!(fallback.way(), Way::Mqtt);
        assert_eq!(fallback.saw(secs(310), Seen::Owing), Some(Note::Left));
        assert_eq!(fallback.way(), Way::Https);
    }

    #[test]
    fn what_is_taken_and_what_is_not_there_end_the_silence() {
        let mut fallback = Fallback::new(Some(AFTER));
        for seen in [Seen::Taken, Seen::Idle] {
            fallback.saw(secs(0), Seen::Owing);
            fallback.saw(secs(299), seen);
            assert_eq!(fallback.saw(secs(300), Seen::Owing), None, "{seen:?}");
            assert_eq!(fallback.next(), Some(secs(600)));
            fallback.saw(secs(300), Seen::Idle);
        }
    }

    #[test]
    fn without_another_way_nothing_is_left() {
        let mut fallback = Fallback::new(None);
        fallback.saw(secs(0), Seen::Owing);
        assert_eq!(fallback.saw(secs(1_000_000), Seen::Owing), None);
        assert_eq!((fallback.way(), fallback.next()), (Way::Mqtt, None));
    }

    #[test]
    fn a_message_that_is_taken_goes_back_and_a_connection_alone_does_not() {
        let mut fallback = away();
        assert!(fallback.tries(secs(400)));
        assert_eq!(fallback.way(), Way::Mqtt);
        assert_eq!(fallback.saw(secs(401), Seen::Owing), None);
        let back = Some(Note::Back { away: secs(102) });
        assert_eq!(fallback.saw(secs(402), Seen::Taken), back);
        assert_eq!(fallback.saw(secs(403), Seen::Useless), None, "patient as at first");
        assert_eq!(fallback.way(), Way::Mqtt);
    }

    #[test]
    fn what_only_the_other_way_takes_goes_there_after_a_while_and_nothing_is_told() {
        let mut fallback = Fallback::new(Some(AFTER));
        fallback.errand(secs(299), secs(0));
        assert_eq!(fallback.way(), Way::Mqtt);
        fallback.errand(secs(300), secs(0));
        assert_eq!(fallback.way(), Way::Https);
        assert!(!fallback.tries(secs(359)), "there is time to send");
        assert!(fallback.tries(secs(360)));
        assert_eq!(fallback.saw(secs(361), Seen::Taken), None);
        assert_eq!(fallback.way(), Way::Mqtt);
        let mut alone = Fallback::new(None);
        alone.errand(secs(1_000_000), secs(0));
        assert_eq!(alone.way(), Way::Mqtt, "there is no other way");
    }

    #[test]
    fn failed_trials_are_tried_less_and_less_and_not_told() {
        let mut fallback = away();
        let mut now = AFTER;
        for wait in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            assert!(fallback.tries(now));
            assert!(!fallback.tries(now), "it is being tried");
            assert_eq!(fallback.saw(now, Seen::Owing), None);
            assert_eq!(fallback.next(), Some(now + TRIAL));
            assert_eq!(fallback.saw(now + TRIAL, Seen::Owing), None);
            assert_eq!(fallback.way(), Way::Https);
            now = now + TRIAL + secs(wait);
            assert!(!fallback.tries(now - secs(1)));
        }
        assert!(fallback.tries(now));
        fallback.saw(now, Seen::Useless);
        assert_eq!(fallback.way(), Way::Https, "a refusal ends a trial at once");
    }
}
