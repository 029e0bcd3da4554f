//! When to connect again, and what is told of it. Pure.
//!
//! * A wait is a sixteenth of how long the trouble has lasted, at least a second and at most five minutes,
//!   with jitter. A short outage is noticed to be over soon after, a long one costs little.
//! * What ends a trouble is useful work: a message that was taken, a received one, or a connection that
//!   stood for [`SETTLED`]. A broker that lets everybody in and throws everybody out is asked less and less.
//! * After another client with our ID took the session over, the wait is a minute at least: two that throw
//!   each other out all the time would both get nothing done.
//! * A broker that closes without a word does not say whether it is that. While it is suspected useful work ends
//!   no trouble, so that the two meet ever more rarely, at last once a minute; a bad line looks the same, and is
//!   still there within the minute.
//! * A cause is told once, until a connection has stood for [`SETTLED`]; that there is a connection is told
//!   after each loss that was.

use std::time::Duration;

/// How long a connection has to stand to count as a new beginning.
pub(super) const SETTLED: Duration = Duration::from_secs(300);

const SHARE: u32 = 16;
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(300);
const AFTER_TAKEOVER: Duration = Duration::from_secs(60);

/// Connections in a row that have to be closed without a word to suspect another client with our ID.
const SUSPECT: u32 = 3;

/// What is known of the connections so far.
#[derive(Debug, Default)]
pub(super) struct Reconnect {
    trouble_since: Option<Duration>,
    connected_at: Option<Duration>,
    useful: bool,
    /// Causes that were told since a connection last settled.
    told: Vec<&'static str>,
    /// Whether a loss was told, or nothing yet, so that the next connection is worth a word.
    silent: bool,
    /// Connections in a row that were closed without a word before they settled.
    cut_short: u32,
    /// Since when there is no connection.
    down_since: Option<Duration>,
}

/// What follows from a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost {
    /// Until the next attempt.
    pub(super) wait: Duration,
    /// Whether to tell.
    pub(super) tell: bool,
}

impl Reconnect {
    /// There is a connection. Says how long there was none, if that is to be told.
    pub(super) fn connected(&mut self, now: Duration) -> Option<Duration> {
        self.connected_at = Some(now);
        let down = self.down_since.take().map_or(Duration::ZERO, |since| now.saturating_sub(since));
        (!std::mem::replace(&mut self.silent, true)).then_some(down)
    }

    /// The connection did what it is for.
    pub(super) fn useful(&mut self) {
        self.useful = true;
    }

    /// The broker closed it without a word. Says whether that happens again and again: to a broker that does not
    /// say so, that is how two clients with one ID look.
    pub(super) fn closed(&mut self, now: Duration) -> bool {
        let Some(since) = self.connected_at else { return false };
        let settled = now.saturating_sub(since) >= SETTLED;
        self.cut_short = if settled { 0 } else { self.cut_short.saturating_add(1) };
        self.cut_short >= SUSPECT
    }

    /// There is no connection, or none any more; `kind` is of a fixed set, `jitter` a number from 0 to 1.
    pub(super) fn lost(
        &mut self,
        now: Duration,
        kind: &'static str,
        taken_over: bool,
        jitter: f64,
    ) -> Lost {
        let stood = self.connected_at.take().map(|since| now.saturating_sub(since));
        let settled = stood.is_some_and(|stood| stood >= SETTLED);
        if settled {
            self.told.clear();
            self.cut_short = 0;
        }
        // Two clients that throw each other out are both useful for a moment.
        let suspected = self.cut_short >= SUSPECT;
        let useful = std::mem::take(&mut self.useful) && !suspected;
        if useful || settled {
            self.trouble_since = None;
        }
        let since = *self.trouble_since.get_or_insert(now);
        let least = if taken_over { AFTER_TAKEOVER } else { LEAST };
        let most = if suspected && stood.is_some() { AFTER_TAKEOVER } else { MOST };
        let wait = (now.saturating_sub(since) / SHARE).clamp(least, most);
        self.down_since.get_or_insert(now);
        let tell = !self.told.contains(&kind);
        if tell {
            self.told.push(kind);
            self.silent = false;
        }
        Lost { wait: wait.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0), tell }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn wait(reconnect: &mut Reconnect, now: u64) -> Duration {
        reconnect.lost(secs(now), "unreachable", false, 0.5).wait
    }

    #[test]
    fn waits_grow_with_the_trouble_to_five_minutes() {
        let mut reconnect = Reconnect::default();
        assert_eq!(wait(&mut reconnect, 100), secs(1));
        assert_eq!(wait(&mut reconnect, 132), secs(2));
        assert_eq!(wait(&mut reconnect, 30 * 86_400), secs(300));
        let early = reconnect.lost(secs(30 * 86_400), "unreachable", false, 0.0).wait;
        let late = reconnect.lost(secs(30 * 86_400), "unreachable", false, 1.0).wait;
        assert_eq!((early, late), (secs(225), secs(375)));
    }

    #[test]
    fn a_mere_connection_does_not_end_the_trouble_and_useful_work_does() {
        let mut reconnect = Reconnect::default();
        wait(&mut reconnect, 0);
        reconnect.connected(secs(320));
        assert_eq!(wait(&mut reconnect, 320), secs(20));
        reconnect.connected(secs(640));
        reconnect.useful();
        assert_eq!(wait(&mut reconnect, 640), secs(1));
        reconnect.connected(secs(700));
        assert_eq!(wait(&mut reconnect, 640 + 16 * 9), secs(9), "useful once is not for ever");
        reconnect.connected(secs(1000));
        assert_eq!(wait(&mut reconnect, 1000 + SETTLED.as_secs()), secs(1), "it stood for long");
    }

    #[test]
    fn two_clients_with_one_id_leave_each_other_a_minute() {
        let mut reconnect = Reconnect::default();
        reconnect.connected(secs(0));
        reconnect.useful();
        assert_eq!(reconnect.lost(secs(1), "taken_over", true, 0.5).wait, secs(60));
    }

    #[test]
    fn a_broker_that_closes_without_a_word_again_and_again_leads_to_a_suspicion() {
        let mut reconnect = Reconnect::default();
        assert!(!reconnect.closed(secs(0)), "there was none");
        for (now, suspected) in [(10, false), (20, false), (30, true), (40, true)] {
            reconnect.connected(secs(now));
            assert_eq!(reconnect.closed(secs(now + 5)), suspected, "{now}");
            wait(&mut reconnect, now + 5);
        }
        assert!(!reconnect.closed(secs(48)), "nobody was let in");
        reconnect.connected(secs(50));
        assert!(!reconnect.closed(secs(50) + SETTLED));
    }

    #[test]
    fn a_connection_that_stood_ends_the_suspicion_however_it_was_lost() {
        let mut reconnect = Reconnect::default();
        for now in [10, 20, 30] {
            reconnect.connected(secs(now));
            reconnect.closed(secs(now + 5));
            wait(&mut reconnect, now + 5);
        }
        reconnect.connected(secs(50));
        reconnect.lost(secs(50) + SETTLED, "silent", false, 0.5);
        reconnect.connected(secs(60) + SETTLED);
        assert!(!reconnect.closed(secs(61) + SETTLED), "the first of a new row");
    }

    #[test]
    fn two_clients_that_are_only_suspected_meet_ever_more_rarely() {
        let mut reconnect = Reconnect::default();
        let (mut now, mut waits) = (0, Vec::new());
        while now < 7200 {
            reconnect.connected(secs(now));
            reconnect.useful();
            reconnect.closed(secs(now + 1));
            let wait = wait(&mut reconnect, now + 1);
            now += 1 + wait.as_secs();
            waits.push(wait);
        }
        assert_eq!(waits[..3], [secs(1); 3], "a line may break now and then");
        assert_eq!(waits.last(), Some(&secs(60)));
        assert!(waits.len() < 250, "{} handshakes in two hours", waits.len());
    }

    #[test]
    fn changes_are_told_and_conditions_are_not() {
        let mut reconnect = Reconnect::default();
        assert_eq!(reconnect.connected(secs(1)), Some(secs(0)), "the first one");
        let mut lost = |now, kind| reconnect.lost(secs(now), kind, false, 0.5).tell;
        assert!(lost(10, "unreachable"));
        assert!(!lost(20, "unreachable"));
        assert!(lost(30, "untrusted"), "another cause");
        assert!(!lost(40, "unreachable"), "told before");
        assert_eq!(reconnect.connected(secs(50)), Some(secs(40)));
        // It comes and goes.
        assert!(!reconnect.lost(secs(60), "unreachable", false, 0.5).tell);
        assert_eq!(reconnect.connected(secs(70)), None);
        // It stood, and is lost again.
        assert!(reconnect.lost(secs(70) + SETTLED, "unreachable", false, 0.5).tell);
        assert_eq!(reconnect.connected(secs(90) + SETTLED), Some(secs(20)));
    }
}
