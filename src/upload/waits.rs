//! What keeps an uploader, or a prover, waiting. Pure.
//!
//! * [`Trouble`]: exchanges fail. None is tried before a wait is over, which is longer the longer that lasts. It is
//!   told once for each kind of failure.
//! * [`Stopped`]: the server refuses the content and nothing tells which. It is told once; now and then a *look*
//!   begins, in which some of it is tried again. Where it is known to be about single rows it is not told.

use std::time::Duration;

use super::retry::{self, Pause};

/// Why an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Who can change that.
    pub pause: Pause,
    /// A fixed name.
    pub kind: &'static str,
    /// No exchange before this moment.
    pub not_before: Option<Duration>,
    /// For people, remedy included.
    pub text: String,
}

/// See the module. Where trouble with one thing may be over while another goes on failing, `T` says with what.
#[derive(Debug, Clone)]
pub(super) struct Trouble<T> {
    with: T,
    pub(super) pause: Pause,
    since: Duration,
    pub(super) until: Duration,
    told: Vec<&'static str>,
    pub(super) text: String,
}

impl<T> Trouble<T> {
    /// An exchange failed, the first or another one. Gives it back where it has to be told.
    pub(super) fn fails(
        trouble: &mut Option<Self>,
        with: T,
        now: Duration,
        jitter: f64,
        failed: Failed,
    ) -> Option<Failed> {
        let (since, mut told) = trouble.take().map_or((now, Vec::new()), |t| (t.since, t.told));
        let pause = failed.pause;
        let wait = now + retry::wait(pause, now.saturating_sub(since), jitter);
        let until = failed.not_before.map_or(wait, |at| at.max(wait));
        let news = !told.contains(&failed.kind);
        if news {
            told.push(failed.kind);
        }
        let text = failed.text.clone();
        *trouble = Some(Self { with, pause, since, until, told, text });
        news.then_some(failed)
    }

    /// Ends trouble with what `is_well` names. Gives how long it lasted.
    pub(super) fn ends(
        trouble: &mut Option<Self>,
        now: Duration,
        is_well: impl FnOnce(&T) -> bool,
    ) -> Option<Duration> {
        let over = trouble.take_if(|trouble| is_well(&trouble.with))?;
        Some(now.saturating_sub(over.since))
    }

    /// Another key or certificate is there: what waited for a person need not wait any longer.
    pub(super) fn hurry(trouble: &mut Option<Self>, now: Duration) {
        if let Some(trouble) = trouble.as_mut().filter(|trouble| trouble.pause != Pause::Trouble) {
            trouble.until = now;
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Stopped {
    why: Rest,
    since: Duration,
    until: Duration,
    /// Whether the wait is over and something is being tried.
    looking: bool,
    told: bool,
}

/// Why it stops.
#[derive(Debug, Clone)]
pub(super) struct Rest {
    pub(super) pause: Pause,
    /// Whether fresh rows wait, too. They do not while only suspects are left.
    pub(super) all: bool,
    /// Whether nobody has to know.
    pub(super) quiet: bool,
    /// For people.
    pub(super) text: String,
}

impl Stopped {
    /// It stops, or goes on resting after a look. Whether that has to be told.
    pub(super) fn rests(stopped: &mut Option<Self>, now: Duration, jitter: f64, why: Rest) -> bool {
        let (since, was_told) = stopped.as_ref().map_or((now, false), |it| (it.since, it.told));
        let until = now + retry::wait(why.pause, now.saturating_sub(since), jitter);
        let told = was_told || !why.quiet;
        *stopped = Some(Self { why, since, until, looking: false, told });
        told && !was_told
    }

    /// What was told, and who can change that.
    pub(super) fn told(&self) -> Option<(Pause, &str)> {
        self.told.then_some((self.why.pause, self.why.text.as_str()))
    }

    /// Whether a look begins now.
    pub(super) fn looks(&mut self, now: Duration) -> bool {
        let begins = !self.looking && now >= self.until;
        self.looking |= begins;
        begins
    }

    /// Whether suspects wait: until when.
    pub(super) fn keeps_suspects(&self) -> Option<Duration> {
        (!self.looking).then_some(self.until)
    }

    /// Whether fresh rows wait.
    pub(super) fn keeps_fresh(&self) -> bool {
        self.why.all && !self.looking
    }

    /// Another key or certificate is there, which may be allowed what the last one was not.
    pub(super) fn hurry(stopped: &mut Option<Self>, now: Duration) {
        if let Some(stopped) = stopped {
            stopped.until = now;
        }
    }

    /// Something was accepted. Gives how long nothing was, where that was told.
    pub(super) fn ends(stopped: &mut Option<Self>, now: Duration) -> Option<Duration> {
        let over = stopped.take().filter(|stopped| stopped.told)?;
        Some(now.saturating_sub(over.since))
    }
}
