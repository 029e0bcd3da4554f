//! What is owed on one connection, from its CONNACK on. Pure: it takes the time and gives packets.
//!
//! * At most as many messages are without acknowledgement as we want and the broker allows.
//! * A broker that owes an answer (to a message, a subscription, a ping) for longer than the keep-alive is
//!   taken for gone: on a connection that died without a word nothing else would ever say so. Messages are answered
//!   in their order: the time of one begins when the one before it was answered, so that a slow line is not taken
//!   for a silent one however many are on it.
//! * A ping is sent when nothing came or nothing went for half the keep-alive.
//! * A subscription that was refused is asked for again now and then: the broker's rules may change while the
//!   connection stands.
//!
//! Acknowledgements are taken in any order. `T` is whatever the owner wants back with a message's.

use std::{collections::BTreeMap, ops::Bound, time::Duration};

/// The number of the only subscription. Messages are numbered from the next one on.
pub(super) const SUBSCRIPTION: u16 = 1;

/// Looks at what is owed within one keep-alive, while something is.
const LOOKS: u32 = 4;

/// Until a subscription that was refused is asked for again.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(300);

/// One connection's debts.
#[derive(Debug)]
pub(super) struct Dialogue<T> {
    keep_alive: Duration,
    in_flight: usize,
    open: BTreeMap<u16, (Duration, T)>,
    last_id: u16,
    /// When the oldest open message was answered last.
    answered_at: Duration,
    subscribed_at: Option<Duration>,
    subscribe_again: Option<Duration>,
    pinged_at: Option<Duration>,
    last_sent: Duration,
    last_received: Duration,
    next_look: Duration,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// A ping, which is taken for sent.
    Ping,
    /// The subscription, once more.
    Subscribe,
    /// The end: the broker owes an answer for too long.
    Silent(&'static str),
}

impl<T> Dialogue<T> {
    /// From the CONNACK on.
    #[must_use]
    pub(super) fn new(now: Duration, keep_alive: Duration, in_flight: usize) -> Self {
        Self {
            keep_alive,
            in_flight,
            open: BTreeMap::new(),
            last_id: SUBSCRIPTION,
            answered_at: now,
            subscribed_at: None,
            subscribe_again: None,
            pinged_at: None,
            last_sent: now,
            last_received: now,
            next_look: now + keep_alive / LOOKS,
        }
    }

    /// How many more messages may be sent.
    #[must_use]
    pub(super) fn room(&self) -> usize {
        self.in_flight - self.open.len()
    }

    /// Sends a message; there must be room. Gives its number.
    pub(super) fn publish(&mut self, now: Duration, tag: T) -> u16 {
        // At most `in_flight` of 65,534 numbers are in use.
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(SUBSCRIPTION + 1);
            if !self.open.contains_key(&self.last_id) {
                break;
            }
        }
        self.open.insert(self.last_id, (now, tag));
        self.last_sent = now;
        self.last_id
    }

    /// A message was answered. `None`: there is no such message.
    pub(super) fn acknowledged(&mut self, now: Duration, id: u16) -> Option<T> {
        if self.oldest().is_some_and(|(oldest, _)| oldest == id) {
            self.answered_at = now;
        }
        self.open.remove(&id).map(|(_, tag)| tag)
    }

    /// The number of the oldest open message, and when it was sent.
    fn oldest(&self) -> Option<(u16, Duration)> {
        // Numbers begin anew after the last one.
        let before = self.open.range((Bound::Excluded(self.last_id), Bound::Unbounded)).next();
        let oldest = before.or_else(|| self.open.first_key_value());
        oldest.map(|(id, (sent, _))| (*id, *sent))
    }

    /// Sends the subscription.
    pub(super) fn subscribe(&mut self, now: Duration) -> u16 {
        (self.subscribed_at, self.subscribe_again) = (Some(now), None);
        self.last_sent = now;
        SUBSCRIPTION
    }

    /// The subscription was answered.
    pub(super) fn subscribed(&mut self, now: Duration, refused: bool) {
        self.subscribed_at = None;
        self.subscribe_again = refused.then(|| now + SUBSCRIBE_AGAIN);
    }

    /// Something else was sent.
    pub(super) fn sent(&mut self, now: Duration) {
        self.last_sent = now;
    }

    /// Something was received.
    pub(super) fn received(&mut self, now: Duration) {
        self.last_received = now;
    }

    /// The ping was answered.
    pub(super) fn pong(&mut self) {
        self.pinged_at = None;
    }

    /// When to ask what is due.
    #[must_use]
    pub(super) fn next(&self) -> Duration {
        let owed = !self.open.is_empty() || self.subscribed_at.is_some();
        let next = match self.pinged_at {
            None if !owed => self.ping_at(),
            None => self.ping_at().min(self.next_look),
            Some(_) => self.next_look,
        };
        self.subscribe_again.map_or(next, |at| at.min(next))
    }

    /// What is due.
    pub(super) fn due(&mut self, now: Duration) -> Due {
        let late = |since: Duration| now.saturating_sub(since) > self.keep_alive;
        if self.subscribed_at.is_some_and(late) {
            return Due::Silent("the subscription");
        }
        if self.oldest().is_some_and(|(_, sent)| late(sent.max(self.answered_at))) {
            return Due::Silent("a message");
        }
        if self.pinged_at.is_some_and(late) {
            return Due::Silent("a ping");
        }
        if self.subscribe_again.is_some_and(|at| at <= now) {
            return Due::Subscribe;
        }
        self.next_look = now + self.keep_alive / LOOKS;
        if self.pinged_at.is_none() && now >= self.ping_at() {
            self.pinged_at = Some(now);
            self.last_sent = now;
            return Due::Ping;
        }
        Due::Nothing
    }

    fn ping_at(&self) -> Duration {
        self.last_sent.min(self.last_received) + self.keep_alive / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP_ALIVE: Duration = Duration::from_secs(60);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn dialogue(in_flight: usize) -> Dialogue<u64> {
        Dialogue::new(Duration::ZERO, KEEP_ALIVE, in_flight)
    }

    #[test]
    fn acknowledgements_come_in_any_order_and_unknown_ones_are_nobodys() {
        let mut dialogue = dialogue(2);
        let first = dialogue.publish(secs(0), 10);
        let second = dialogue.publish(secs(0), 11);
        assert_eq!(dialogue.room(), 0);
        assert_eq!(dialogue.acknowledged(secs(0), second), Some(11));
        assert_eq!(dialogue.room(), 1);
        assert_eq!(dialogue.acknowledged(secs(0), second), None);
        assert_eq!(dialogue.acknowledged(secs(0), first), Some(10));
    }

    #[test]
    fn an_idle_connection_is_pinged_at_half_the_keep_alive_and_given_up_after_one_more() {
        let mut dialogue = dialogue(2);
        assert_eq!(dialogue.next(), secs(30));
        assert_eq!(dialogue.due(secs(29)), Due::Nothing);
        assert_eq!(dialogue.due(secs(30)), Due::Ping);
        assert_eq!(dialogue.due(secs(60)), Due::Nothing, "one at a time");
        assert!(dialogue.next() <= secs(91));
        assert_eq!(dialogue.due(secs(91)), Due::Silent("a ping"));
        let mut answered = self::dialogue(2);
        assert_eq!(answered.due(secs(30)), Due::Ping);
        answered.received(secs(31));
        answered.pong();
        assert_eq!(answered.due(secs(91)), Due::Ping);
    }

    #[test]
    fn who_only_speaks_or_only_listens_is_pinged_all_the_same() {
        let mut speaks = dialogue(2);
        speaks.sent(secs(29));
        assert_eq!(speaks.due(secs(30)), Due::Ping);
        let mut listens = dialogue(2);
        listens.received(secs(29));
        assert_eq!(listens.due(secs(30)), Due::Ping);
    }

    #[test]
    fn a_message_without_answer_ends_the_connection_although_pings_are_answered() {
        let mut dialogue = dialogue(2);
        dialogue.publish(secs(1), 10);
        for now in [15, 30, 45, 61] {
            dialogue.received(secs(now));
            dialogue.pong();
            assert!(!matches!(dialogue.due(secs(now)), Due::Silent(_)), "{now}");
            assert!(dialogue.next() <= secs(now + 15));
        }
        assert_eq!(dialogue.due(secs(62)), Due::Silent("a message"));
    }

    #[test]
    fn a_slow_line_is_not_taken_for_a_silent_one_and_one_left_out_is_missed() {
        for left_out in [None, Some(3)] {
            let mut dialogue = dialogue(20);
            // The numbers begin anew in the middle.
            dialogue.last_id = u16::MAX - 10;
            let ids: Vec<u16> = (0..20).map(|tag| dialogue.publish(secs(0), tag)).collect();
            let mut silent = None;
            for (at, id) in (5..).step_by(5).zip(&ids) {
                dialogue.received(secs(at));
                dialogue.pong();
                if matches!(dialogue.due(secs(at)), Due::Silent(_)) {
                    silent.get_or_insert(at);
                }
                if left_out.is_none_or(|left_out| ids[left_out] != *id) {
                    dialogue.acknowledged(secs(at), *id);
                }
            }
            assert_eq!(silent, left_out.map(|_| 15 + 65));
        }
    }

    #[test]
    fn a_subscription_without_answer_ends_the_connection() {
        let mut dialogue = dialogue(2);
        assert_eq!(dialogue.subscribe(secs(0)), SUBSCRIPTION);
        dialogue.pong();
        assert_eq!(dialogue.due(secs(61)), Due::Silent("the subscription"));
        dialogue.subscribed(secs(61), false);
        assert_eq!(dialogue.due(secs(61)), Due::Ping);
    }

    proptest! {
        #[test]
        fn no_two_open_messages_share_a_number_and_each_comes_back_once(
            answers in proptest::collection::vec(any::<prop::sample::Index>(), 1..200),
            start in any::<u16>(),
        ) {
            let mut dialogue = dialogue(7);
            dialogue.last_id = start.max(SUBSCRIPTION);
            let (mut open, mut tag) = (BTreeMap::new(), 0);
            for answer in answers {
                while dialogue.room() > 0 {
                    let id = dialogue.publish(secs(0), tag);
                    prop_assert!(id > SUBSCRIPTION);
                    prop_assert_eq!(open.insert(id, tag), None);
                    tag += 1;
                }
                let id = *open.keys().nth(answer.index(open.len())).expect("seven are open");
                prop_assert_eq!(dialogue.acknowledged(secs(0), id), open.remove(&id));
            }
        }
    }
}
