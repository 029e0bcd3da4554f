//! The task of one bus: reads its units in turn, writes when asked to.
//!
//! ```text
//!   writes ──▶ ┌────────┐ one request   ┌──────┐
//!              │ Poller │ ────────────▶ │ Wire │ ──▶ units
//!   status ◀── └────────┘ ◀──────────── └──────┘
//!                  └──▶ datum
//! ```
//!
//! * One request at a time is under way. Between any two of them the next one is chosen anew: a
//!   write first, otherwise the unit whose turn would be over soonest. A long read of one unit thus
//!   does not hold up the others.
//! * A unit that does not answer is asked less and less often, within the bus's budget (`health`).
//!   One whose answer to a probe comes late but within its own timeout is slow, not dead.
//! * A unit that answers so slowly that its neighbours are late is asked less often as well.
//! * What was read goes out as a datum, whole or in part; never an empty one.
//! * When the channel of datum is full the task waits: a disk that cannot keep up slows reading down,
//!   turns are skipped and counted, and memory stays bounded. Writes wait meanwhile: their outcome
//!   would have to go through the same channel's other end.
//! * Stopping takes effect at once while reading; a datum that waits for room is still handed over. A
//!   write that was sent is read back a last time.
//!
//! It never gives up: broken links and silent units are conditions, not errors. It ends with an
//! error only if nobody takes the datum any more.

mod usage;

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use usage::{Cost, Usage, longest};

use super::{
    budget::BusBudget,
    learnt::Plans,
    plan::PlanError,
    source::{Now, Probe, Source},
    status::{BusStatus, Journal, SourceStatus},
    wire::Wire,
    write::{WriteJob, Writing},
};
use crate::{
    clock::Clock,
    config::settings::{Bus, Control, Link, Phase, Unit},
    domain::Datum,
    pulse::{Bound, Pulse},
    reader::{
        health::{Budget, distance, spares},
        schedule::{Moment, Rhythm},
    },
    runtime,
};

/// How long a probe that is due may be put off by turns that are due sooner.
const PROBE_WITHIN: Duration = Duration::from_secs(60);

/// How long a read under way may still take once the bus is to stop.
const LAST_ROUND: Duration = Duration::from_secs(3);

/// When a stop does not wait any longer for what was begun.
async fn over(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST_ROUND).await;
}

/// Why a bus stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// Nobody takes the datum any more.
    #[error("bus `{bus}` stopped: nobody takes its datum")]
    NoTaker {
        /// Its name.
        bus: String,
    },
    /// A serial bus did not get its thread.
    #[error("bus `{bus}` got no thread of its own")]
    NoThread {
        /// Its name.
        bus: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The thread of a serial bus ended without a word.
    #[error("the thread of bus `{bus}` panicked")]
    Panicked {
        /// Its name.
        bus: String,
    },
}

/// The ends of the channels that a bus works with.
#[derive(Debug)]
pub struct Channels {
    /// Where datum go.
    pub datum: mpsc::Sender<Datum>,
    /// Where writes come from.
    pub writes: mpsc::Receiver<WriteJob>,
    /// Ends the task.
    pub stop: CancellationToken,
}

impl Channels {
    /// Ends that nobody holds the others of, for a bus that is made and not run.
    #[must_use]
    pub fn unconnected() -> Self {
        let (datum, writes) = (mpsc::channel(1).0, mpsc::channel(1).1);
        Self { datum, writes, stop: CancellationToken::new() }
    }
}

/// Reads one bus and writes on it until it is stopped.
#[derive(Debug)]
pub struct Poller<W> {
    name: String,
    blocks: bool,
    pause: Duration,
    wire: W,
    turns: Vec<Turn>,
    controls: Vec<Control>,
    clock: Clock,
    channels: Channels,
    writes_open: bool,
    writing: Option<Writing>,
    status: watch::Sender<BusStatus>,
    /// What was read and is not in the channel yet.
    unsent: Option<Datum>,
    budget: Budget,
    epoch: Instant,
    /// When the last request was over.
    quiet_since: Option<Duration>,
    /// How long one request may take, silence and a new connection included.
    longest: Bound,
    pulse: Pulse,
    plans: Plans,
}

/// A source and when it is due.
#[derive(Debug)]
struct Turn {
    source: Source,
    rhythm: Rhythm,
    due: Duration,
    journal: Journal,
    usage: Usage,
}

impl<W: Wire> Poller<W> {
    /// Plans a bus. `controls` may hold those of other buses as well.
    ///
    /// # Errors
    ///
    /// If a unit cannot be read as configured.
    pub fn new(
        bus: &Bus,
        controls: &[Control],
        wire: W,
        clock: Clock,
        channels: Channels,
    ) -> Result<Self, PlanError> {
        let budget = BusBudget::of(bus);
        let turn = |unit: &Unit| {
            Ok(Turn {
                source: Source::new(unit.clone())?,
                rhythm: Rhythm::new(unit.every, unit.phase, &unit.source),
                due: Duration::ZERO,
                journal: Journal::default(),
                usage: Usage::planned(&budget, unit),
            })
        };
        let turns: Vec<Turn> = bus.units.iter().map(turn).collect::<Result<_, _>>()?;
        let sources = turns.iter().map(|turn| SourceStatus::new(&turn.source)).collect();
        Ok(Self {
            name: bus.name.clone(),
            blocks: matches!(bus.link, Link::Serial(_)),
            pause: bus.pause,
            wire,
            turns,
            controls: controls.iter().filter(|c| c.bus == bus.name).cloned().collect(),
            clock,
            channels,
            writes_open: true,
            writing: None,
            status: watch::Sender::new(BusStatus { bus: bus.name.clone(), sources }),
            unsent: None,
            budget: Budget::default(),
            epoch: Instant::now(),
            quiet_since: None,
            longest: longest(bus, controls),
            pulse: Pulse::unheard(),
            plans: Plans::default(),
        })
    }

    /// Whether it wants a thread of its own: on a serial line it sleeps without giving the thread away.
    #[must_use]
    pub fn blocks(&self) -> bool {
        self.blocks
    }

    /// The bus's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same with a pulse that shows what the bus does.
    #[must_use]
    pub fn for_task(self, pulse: &Pulse) -> Self {
        Self { pulse: pulse.clone(), ..self }
    }

    /// The same, going on with what its units taught earlier, and keeping what they will.
    #[must_use]
    pub fn with_plans(mut self, plans: &Plans) -> Self {
        for turn in &mut self.turns {
            turn.source.restore(plans);
        }
        Self { plans: plans.clone(), ..self }
    }

    /// The bus's state, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<BusStatus> {
        self.status.subscribe()
    }

    /// Reads and writes until stopped.
    ///
    /// # Errors
    ///
    /// If nobody takes the datum any more.
    pub async fn run(mut self: Box<Self>) -> Result<(), PollError> {
        self.epoch = runtime::stride_of(Instant::now());
        let moment = self.moment();
        for turn in &mut self.turns {
            turn.due = turn.rhythm.first(moment);
        }
        let stop = self.channels.stop.clone();
        let mut over = std::pin::pin!(over(&stop));
        let in_time = loop {
            if stop.is_cancelled() {
                break true;
            }
            self.accept_write();
            let now = self.running();
            if self.write_due().is_some_and(|due| due <= now)
                && let Some(writing) = self.writing.take()
            {
                // Seldom, and else the larger part of each bus's task.
                Box::pin(self.step_write(writing)).await;
                continue;
            }
            match self.choose(now) {
                Ok(index) => select! {
                    biased;
                    result = self.take_turn(index) => result?,
                    () = &mut over => break false,
                },
                Err(wake) => self.idle(wake, &stop).await,
            }
        };
        self.refuse_writes();
        if let Some(mut writing) = self.writing.take().and_then(|w| w.hurry(self.running())) {
            let epoch = self.epoch;
            while let Some(more) = writing.step(&mut self.wire, || epoch.elapsed()).await {
                writing = more;
            }
        }
        if in_time {
            select! {
                biased;
                result = self.finish_rounds() => result?,
                () = over => {}
            }
        }
        self.send().await
    }

    /// Reads the rest of what was begun, so that no answer was given in vain.
    async fn finish_rounds(&mut self) -> Result<(), PollError> {
        let begun = |turn: &Turn| turn.source.is_begun() && turn.source.health().is_up();
        while let Some(index) = self.turns.iter().position(begun) {
            self.take_turn(index).await?;
        }
        Ok(())
    }

    /// Hands over what was read. Where there is no room it waits, see the module's header; given up
    /// meanwhile, it may be called again.
    async fn send(&mut self) -> Result<(), PollError> {
        if self.unsent.is_some() {
            let _waiting = self.pulse.enter("waiting for the queue", Bound::Open);
            let room = self.channels.datum.reserve().await;
            let room = room.map_err(|_| PollError::NoTaker { bus: self.name.clone() })?;
            if let Some(datum) = self.unsent.take() {
                room.send(datum);
            }
        }
        Ok(())
    }

    fn running(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn moment(&self) -> Moment {
        let utc = self.clock.trusted_now().unwrap_or_else(Utc::now);
        Moment { running: self.running(), unix_ms: utc.timestamp_millis() }
    }

    fn accept_write(&mut self) {
        if self.writing.is_some() {
            return;
        }
        match self.channels.writes.try_recv() {
            Ok(job) => self.writing = Writing::begin(&self.controls, job, self.running()),
            Err(mpsc::error::TryRecvError::Empty) => {}
            Err(mpsc::error::TryRecvError::Disconnected) => self.writes_open = false,
        }
    }

    /// What waits in the channel was not begun, and who waits for it is to know that.
    fn refuse_writes(&mut self) {
        self.channels.writes.close();
        while let Ok(job) = self.channels.writes.try_recv() {
            let now = self.running();
            // Nothing is left of a write that is hurried before its first request.
            drop(Writing::begin(&self.controls, job, now).and_then(|writing| writing.hurry(now)));
        }
    }

    async fn step_write(&mut self, writing: Writing) {
        let _writing = self.pulse.enter("writing", self.longest);
        self.keep_silence(Duration::ZERO).await;
        let epoch = self.epoch;
        self.writing = writing.step(&mut self.wire, || epoch.elapsed()).await;
        self.quiet_since = Some(self.running());
        self.hear_late();
    }

    /// When the next request of a write is due.
    fn write_due(&self) -> Option<Duration> {
        self.writing.as_ref().map(|writing| self.rested(writing.unit(), writing.due()))
    }

    /// `at`, or when the unit may be asked again, if that is later.
    fn rested(&self, unit: u8, at: Duration) -> Duration {
        let rests_until = self.wire.rests_until(unit);
        rests_until.map_or(at, |until| at.max(until.saturating_duration_since(self.epoch)))
    }

    /// The unit to ask now, or until when there is none.
    fn choose(&self, now: Duration) -> Result<usize, Option<Duration>> {
        let mut best: Option<(Duration, usize)> = None;
        let mut wake: Option<Duration> = self.write_due();
        let alone = self.all_silent();
        for (index, turn) in self.turns.iter().enumerate() {
            let (at, deadline) = match turn.source.health().next_probe(alone) {
                Some(probe) => {
                    let allowed = if alone { probe } else { probe.max(self.budget.next()) };
                    (allowed, allowed + PROBE_WITHIN)
                }
                None => (turn.due, turn.due + turn.rhythm.every()),
            };
            let at = self.rested(turn.source.unit().id, at);
            if at <= now {
                best = Some(best.map_or((deadline, index), |best| best.min((deadline, index))));
            } else {
                wake = Some(wake.map_or(at, |wake| wake.min(at)));
            }
        }
        best.map(|(_, index)| index).ok_or(wake)
    }

    /// Whether no unit of the bus answers.
    fn all_silent(&self) -> bool {
        !self.turns.iter().any(|turn| turn.source.health().is_up())
    }

    /// Whether no other unit of the bus answers.
    fn is_alone(&self, index: usize) -> bool {
        self.shortest_neighbour(index).is_none()
    }

    /// The other units that answer.
    fn neighbours(&self, index: usize) -> impl Iterator<Item = &Turn> {
        let others = self.turns.iter().enumerate().filter(move |(other, _)| *other != index);
        others.map(|(_, turn)| turn).filter(|turn| turn.source.health().is_up())
    }

    /// The shortest period among the other units that answer.
    fn shortest_neighbour(&self, index: usize) -> Option<Duration> {
        self.neighbours(index).map(|turn| turn.rhythm.every()).min()
    }

    /// The part of the bus's time that reading the others takes.
    fn load_beside(&self, index: usize) -> f64 {
        let share = |turn: &Turn| turn.usage.usual().reading.div_duration_f64(turn.rhythm.every());
        self.neighbours(index).map(share).sum()
    }

    /// Nothing is due: waits for time to pass or for a write.
    async fn idle(&mut self, wake: Option<Duration>, stop: &CancellationToken) {
        let timer = runtime::until(wake.map(|wake| self.epoch + wake));
        let listen = self.writes_open && self.writing.is_none();
        let left = wake.map(|wake| wake.saturating_sub(self.running()));
        let _waiting = self.pulse.enter("waiting for the next turn", Bound::until(left));
        select! {
            biased;
            () = stop.cancelled() => {}
            job = self.channels.writes.recv(), if listen => match job {
                Some(job) => {
                    self.writing = Writing::begin(&self.controls, job, self.epoch.elapsed());
                }
                None => self.writes_open = false,
            },
            () = timer => {}
        }
    }

    /// One request to a unit, and what follows from it.
    async fn take_turn(&mut self, index: usize) -> Result<(), PollError> {
        let _asking = self.pulse.enter("asking a unit", self.longest);
        let pause = self.turns[index].source.unit().pause;
        self.keep_silence(pause).await;
        if self.turns[index].source.health().is_up() {
            self.read(index).await?;
        } else {
            self.probe(index).await;
        }
        self.quiet_since = Some(self.running());
        self.hear_late();
        Ok(())
    }

    async fn read(&mut self, index: usize) -> Result<(), PollError> {
        let started = self.running();
        let alone = self.is_alone(index);
        let epoch = self.epoch;
        let now =
            Now { running: || epoch.elapsed(), may_probe: alone || self.budget.next() <= started };
        let clock = &self.clock;
        let turn = &mut self.turns[index];
        let outcome = turn.source.step(&mut self.wire, now, || clock.stamp()).await;
        if turn.source.was_answered() {
            let timeout = turn.source.unit().timeout;
            turn.usage.answered(epoch.elapsed().saturating_sub(started), timeout);
        } else if turn.source.asked_in_vain() {
            self.spend(index, started);
        }
        let Some(outcome) = outcome else { return Ok(()) };

        self.turns[index].source.keep_learnt(&self.plans);
        let now = self.running();
        let journal = &mut self.turns[index].journal;
        self.status.send_modify(|status| {
            if let Some(status) = status.sources.get_mut(index) {
                status.read(&outcome, now, journal);
            }
        });
        self.unsent = outcome.datum;
        self.send().await?;
        self.turns[index].usage.read();
        self.schedule(index);
        self.make_room_beside(index);
        Ok(())
    }

    /// A unit that is slow, and thereby makes the others late, gets its next turn only when a twentieth of the
    /// bus's time suffices for it, or less, as if it were silent. Where units make others late that are as fast
    /// as planned, all keep their turns: that such a bus does not fit, `check` says.
    fn make_room_beside(&mut self, index: usize) {
        let (Some(shortest), load) = (self.shortest_neighbour(index), self.load_beside(index))
        else {
            return;
        };
        let now = self.running();
        let turn = &mut self.turns[index];
        let Cost { reading, longest } = turn.usage.usual();
        let suffices =
            spares(reading, turn.rhythm.every(), load) && spares(longest, shortest, load);
        if suffices || !turn.usage.is_slow() {
            return;
        }
        let wait = (now + distance(reading, Some(shortest), load)).saturating_sub(turn.due);
        let turns = wait.as_nanos().div_ceil(turn.rhythm.every().as_nanos());
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        turn.due += turn.rhythm.every().saturating_mul(turns);
        self.skipped(index, turns.into());
    }

    /// Sets a unit's next turn; those that have passed are skipped.
    fn schedule(&mut self, index: usize) {
        let moment = self.moment();
        let turn = &mut self.turns[index];
        let ago = moment.running.saturating_sub(turn.due);
        let missed = turn.rhythm.missed(ago);
        turn.due = moment.running + turn.rhythm.next(moment, ago);
        self.skipped(index, missed);
    }

    fn skipped(&mut self, index: usize, turns: u64) {
        if turns > 0 {
            self.status.send_modify(|status| {
                if let Some(status) = status.sources.get_mut(index) {
                    status.skipped += turns;
                }
            });
        }
    }

    async fn probe(&mut self, index: usize) {
        let started = self.running();
        let was_silent = self.all_silent();
        let epoch = self.epoch;
        let alone = self.is_alone(index);
        let source = &mut self.turns[index].source;
        let found = source.ask(&mut self.wire, || epoch.elapsed(), alone).await;
        match found {
            Probe::Alive => self.revived(index, was_silent),
            Probe::Silent(reason) => {
                self.spend(index, started);
                self.not_read(index, &reason);
            }
            Probe::NoLink(reason) => self.not_read(index, &reason),
        }
    }

    fn not_read(&mut self, index: usize, reason: &Arc<str>) {
        self.status.send_modify(|status| {
            if let Some(status) = status.sources.get_mut(index) {
                status.not_read(reason.to_string());
            }
        });
    }

    fn spend(&mut self, index: usize, started: Duration) {
        let now = self.running();
        let (shortest, load) = (self.shortest_neighbour(index), self.load_beside(index));
        self.budget.spend(now, now.saturating_sub(started), shortest, load);
    }

    /// A unit that was down answers: it is read now, and where the whole bus was silent, the others
    /// are asked now as well.
    fn revived(&mut self, index: usize, bus_was_silent: bool) {
        let now = self.running();
        let moment = self.moment();
        let turn = &mut self.turns[index];
        turn.due = match turn.source.unit().phase {
            Phase::Spread => now,
            Phase::Aligned => now + turn.rhythm.first(moment),
        };
        if bus_was_silent {
            self.budget = Budget::default();
            for turn in &mut self.turns {
                turn.source.expect();
            }
        }
    }

    /// A unit that is down may have answered a probe after its second was over.
    fn hear_late(&mut self) {
        let Some(unit) = self.wire.take_late() else { return };
        let now = self.running();
        let was_silent = self.all_silent();
        for index in 0..self.turns.len() {
            let source = &mut self.turns[index].source;
            if source.unit().id == unit && source.is_slow(now) {
                source.revive(now);
                self.revived(index, was_silent);
            }
        }
    }

    /// Waits until the bus has been quiet for as long as it wants to be.
    async fn keep_silence(&mut self, pause: Duration) {
        let silence = self.pause + pause;
        if let Some(since) = self.quiet_since
            && silence > Duration::ZERO
        {
            sleep_until(self.epoch + since + silence).await;
        }
    }
}
