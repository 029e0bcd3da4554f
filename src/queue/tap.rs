//! A second way out for datum as they are taken, which costs the first nothing.
//!
//! A datum is moved there once it was appended, not copied; where there is no room it is dropped and counted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use crate::domain::Datum;

/// Datum that wait at the other end: a second of a very large site.
const WAITING: usize = 256;

/// Where datum leave. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tap {
    datum: mpsc::Sender<Datum>,
    missed: Arc<AtomicU64>,
}

/// Where they come out.
#[derive(Debug)]
pub struct Tapped {
    datum: mpsc::Receiver<Datum>,
    missed: Arc<AtomicU64>,
}

/// A tap and its other end.
#[must_use]
pub fn tap() -> (Tap, Tapped) {
    let (sender, datum) = mpsc::channel(WAITING);
    let missed = Arc::<AtomicU64>::default();
    (Tap { datum: sender, missed: missed.clone() }, Tapped { datum, missed })
}

impl Tap {
    /// Never waits.
    pub(super) fn give(&self, datum: Datum) {
        if self.datum.try_send(datum).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tapped {
    /// Waits for datum, at most `limit`; gives none when the tap is gone.
    pub async fn recv_many(&mut self, datum: &mut Vec<Datum>, limit: usize) -> usize {
        self.datum.recv_many(datum, limit).await
    }

    /// How many were dropped since it was asked last.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Samples, SourceId, Stamp};

    #[tokio::test]
    async fn a_tap_that_nobody_empties_takes_what_fits_and_counts_the_rest() {
        let (tap, mut tapped) = tap();
        let source: SourceId = "m".parse().expect("a source");
        for unix_ms in 0..300 {
            let (stamp, samples) = (Stamp::Wall { unix_ms }, Samples::default());
            tap.give(Datum { source: source.clone(), stamp, samples });
        }
        let mut datum = Vec::new();
        assert_eq!(tapped.recv_many(&mut datum, 1000).await, WAITING);
        assert_eq!(tapped.missed(), 300 - WAITING as u64);
        assert_eq!(tapped.missed(), 0, "counted once");
    }
}
