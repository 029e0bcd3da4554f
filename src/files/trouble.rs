//! How long a folder waits after something went wrong. Pure.

use std::time::Duration;

use super::status::State;

/// Trouble that is going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Whether it may pass by itself.
    pub(super) state: State,
    /// What is wrong.
    pub(super) reason: String,
    /// When it began, as time since any fixed start.
    pub(super) since: Duration,
    /// Not before this is it tried again.
    pub(super) until: Duration,
    tries: u32,
}

impl Trouble {
    /// Whether a person has to be told of `reason` after this: reasons of what passes by itself come and go.
    pub(super) fn is_other(&self, state: State, reason: &str) -> bool {
        self.state != state || (state == State::Stopped && self.reason != reason)
    }

    /// Something changed that may end it: no more waiting.
    pub(super) fn try_now(&mut self) {
        self.until = Duration::ZERO;
    }

    /// Trouble of this machine's own: a try costs nobody anything, so the next look is one.
    #[must_use]
    pub(super) fn here(before: Option<Self>, reason: String, now: Duration) -> Self {
        let same = before.filter(|before| before.state == State::Stopped);
        let since = same.map_or(now, |same| same.since);
        Self { state: State::Stopped, reason, since, until: Duration::ZERO, tries: 0 }
    }

    /// The trouble after one more failure at `now`; `jitter` is a number from 0 to 1.
    ///
    /// The first wait is a second where it may pass by itself and half a minute where a person has to act; each
    /// next one is twice as long, up to 5 and 15 minutes.
    #[must_use]
    pub(super) fn after(
        before: Option<Self>,
        state: State,
        reason: String,
        now: Duration,
        jitter: f64,
    ) -> Self {
        let same = before.filter(|before| before.state == state);
        let (since, tries) = same.map_or((now, 0), |same| (same.since, same.tries + 1));
        let (least, most) = if state == State::Stopped { (30, 900) } else { (1, 300) };
        let secs = 2_u64.saturating_pow(tries).saturating_mul(least).min(most);
        let wait = Duration::from_secs(secs).mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0);
        Self { state, reason, since, until: now + wait, tries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_begin_anew_with_another_kind() {
        let secs = Duration::from_secs;
        let mut trouble = None;
        let mut waits = Vec::new();
        for _ in 0..11 {
            let next = Trouble::after(trouble, State::Waiting, String::new(), secs(100), 0.5);
            waits.push((next.until - secs(100)).as_secs());
            trouble = Some(next);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        let stopped = Trouble::after(trouble, State::Stopped, String::new(), secs(200), 0.5);
        assert_eq!((stopped.since, stopped.until), (secs(200), secs(230)));
    }

    #[test]
    fn another_reason_is_news_where_a_person_has_to_act() {
        let told = |state, reason: &str| {
            Trouble::after(None, state, "a".to_owned(), Duration::ZERO, 0.5).is_other(state, reason)
        };
        assert!(told(State::Stopped, "b") && !told(State::Stopped, "a"));
        assert!(!told(State::Waiting, "b"));
    }

    #[test]
    fn a_folder_that_was_missing_is_taken_up_with_the_next_look_whatever_was_before() {
        let now = Duration::from_secs(100);
        for state in [State::Waiting, State::Stopped] {
            let mut before = None;
            for _ in 0..8 {
                before = Some(Trouble::after(before, state, String::new(), now, 0.5));
            }
            let here = Trouble::here(before, String::new(), now);
            assert_eq!((here.until, here.tries), (Duration::ZERO, 0));
        }
    }
}
