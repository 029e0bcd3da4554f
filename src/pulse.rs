//! The pulse of a task: what it does, since when, and how long that may take.
//!
//! ```text
//!  task ── enter("calling the server", Within(30 s)) ──▶ pulse ◀── samples ── watchdog, status
//!       ◀─ guard, which ends it when dropped                       (another thread)
//! ```
//!
//! * A task that says nothing is in the middle of its work, which takes no time worth the name: what
//!   takes longer, and every wait, is entered. Entering and leaving are progress.
//! * [`Bound::Open`] is for waits that end with somebody else's work: an order that may never come, or
//!   another task's answer, whose own pulse counts then.
//! * [`Pulse::watched`] shows while the task has the thread, so that one which does not give it back is
//!   told from those that wait for it.
//!
//! It judges nothing; `observe::watchdog` does. A pulse that nobody listens to costs the same and harms
//! nobody.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// The ID of the next pulse.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// How long something may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// At most this long.
    Within(Duration),
    /// As long as others want.
    Open,
}

impl Bound {
    /// Until an instant that is `left` away, where there is one.
    #[must_use]
    pub fn until(left: Option<Duration>) -> Self {
        left.map_or(Self::Open, Self::Within)
    }
}

/// What a task does at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Which pulse: a task that was started again has another one.
    pub id: u64,
    /// The task.
    pub task: String,
    /// What it does.
    pub doing: &'static str,
    /// For how long it has been doing that.
    pub lasts: Duration,
    /// How long it may.
    pub bound: Bound,
    /// Grows whenever it takes the thread that it shares and gives it back: odd while it has it, zero for
    /// a task with a thread of its own.
    pub turns: u64,
}

/// Every pulse of the process.
#[derive(Debug, Clone, Default)]
pub struct Pulses(Arc<Mutex<Vec<Weak<Inner>>>>);

impl Pulses {
    /// A pulse for a task; it is forgotten with its last clone.
    #[must_use]
    pub fn of(&self, task: impl Into<String>) -> Pulse {
        let pulse = Pulse::new(task.into());
        let mut all = lock(&self.0);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&pulse.0));
        pulse
    }

    /// What every task does now.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        let all = lock(&self.0);
        all.iter().filter_map(|known| Some(known.upgrade()?.sample())).collect()
    }
}

/// The pulse of one task. Cheap to clone; clones are the same pulse.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: u64,
    task: String,
    doing: Mutex<Doing>,
    turns: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Doing {
    what: &'static str,
    bound: Bound,
    since: Instant,
}

impl Pulse {
    /// A pulse that nobody listens to.
    #[must_use]
    pub fn unheard() -> Self {
        Self::new(String::new())
    }

    fn new(task: String) -> Self {
        let doing =
            Doing { what: "working", bound: Bound::Within(Duration::ZERO), since: Instant::now() };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Inner { id, task, doing: Mutex::new(doing), turns: AtomicU64::new(0) }))
    }

    /// The task does this until the guard is dropped; then it does again what it did before, and the
    /// time for that begins anew.
    #[must_use = "what was entered ends when the guard is dropped"]
    pub fn enter(&self, what: &'static str, bound: Bound) -> During {
        let now = Doing { what, bound, since: Instant::now() };
        let before = std::mem::replace(&mut *lock(&self.0.doing), now);
        During { pulse: self.clone(), before }
    }

    /// The same work, seen to have the thread or not.
    pub fn watched<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        // Even before its first turn it is one that waits for the thread.
        self.0.turns.fetch_add(2, Ordering::Relaxed);
        Watched { pulse: self.clone(), work: Box::pin(work) }
    }

    /// What the task does now.
    #[must_use]
    pub fn sample(&self) -> Sample {
        self.0.sample()
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::unheard()
    }
}

impl Inner {
    fn sample(&self) -> Sample {
        let doing = *lock(&self.doing);
        Sample {
            id: self.id,
            task: self.task.clone(),
            doing: doing.what,
            lasts: doing.since.elapsed(),
            bound: doing.bound,
            turns: self.turns.load(Ordering::Relaxed),
        }
    }
}

/// Something that a task does, until dropped.
#[derive(Debug)]
pub struct During {
    pulse: Pulse,
    before: Doing,
}

impl Drop for During {
    fn drop(&mut self) {
        *lock(&self.pulse.0.doing) = Doing { since: Instant::now(), ..self.before };
    }
}

struct Watched<F> {
    pulse: Pulse,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.pulse.0.turns.fetch_add(1, Ordering::Relaxed);
        let polled = self.work.as_mut().poll(context);
        self.pulse.0.turns.fetch_add(1, Ordering::Relaxed);
        polled
    }
}

/// What is locked is replaced whole, so a panic elsewhere left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_goes_back_to_what_was_done_before() {
        let pulses = Pulses::default();
        let pulse = pulses.of("queue");
        let outer = pulse.enter("writing", Bound::Within(Duration::from_secs(1)));
        let inner = pulse.enter("waiting", Bound::Open);
        let doing = || pulses.samples().iter().map(|s| (s.doing, s.bound)).collect::<Vec<_>>();
        assert_eq!(doing(), [("waiting", Bound::Open)]);
        drop(inner);
        assert_eq!(doing(), [("writing", Bound::Within(Duration::from_secs(1)))]);
        drop(outer);
        assert_eq!(doing(), [("working", Bound::Within(Duration::ZERO))]);
        drop(pulse);
        assert_eq!(doing(), [], "a task that has ended has no pulse");
    }

    #[tokio::test]
    async fn a_task_is_seen_to_have_the_thread_only_while_it_has_it() {
        let pulse = Pulse::unheard();
        let inside = pulse.clone();
        let work = pulse.watched(async move {
            let before = inside.sample().turns;
            tokio::task::yield_now().await;
            (before, inside.sample().turns)
        });
        assert_eq!(work.await, (3, 5));
        assert_eq!(pulse.sample().turns, 6);
    }
}
