//! Acknowledgements that wait for an exchange to go along with. Pure.
//!
//! One for each instruction, the latest; at most [`MOST`]. Whoever acknowledges keeps its own journal and says it
//! again until it was heard, so what is pushed out here, or lost with the process, is not lost.

use super::Acknowledgement;
use crate::domain::InstructionId;

/// Acknowledgements that wait at most; the oldest makes room.
pub const MOST: usize = 100;

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox(Vec<Acknowledgement>);

impl Outbox {
    /// Adds what is said of an instruction, in the place of what was said before.
    pub fn put(&mut self, acknowledgement: Acknowledgement) {
        self.0.retain(|waiting| waiting.id != acknowledgement.id);
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push(acknowledgement);
    }

    /// All that waits. It stays until it is settled.
    #[must_use]
    pub fn waiting(&self) -> Vec<Acknowledgement> {
        self.0.clone()
    }

    /// This was heard, or refused. What was said of the instruction since stays.
    pub fn settle(&mut self, acknowledgement: &Acknowledgement) {
        self.0.retain(|waiting| waiting != acknowledgement);
    }

    /// The instruction was spoken of by another way: nothing older must follow.
    pub fn forget(&mut self, id: InstructionId) {
        self.0.retain(|waiting| waiting.id != id);
    }

    /// Whether something is still waiting to be said of this instruction.
    #[must_use]
    pub fn has(&self, id: InstructionId) -> bool {
        self.0.iter().any(|waiting| waiting.id == id)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::InstructionState::{self, Completed, Received};

    fn says(id: i64, state: InstructionState) -> Acknowledgement {
        Acknowledgement { id: InstructionId(id), state, at: DateTime::UNIX_EPOCH, result: None }
    }

    #[test]
    fn the_latest_word_stays_until_it_is_settled_itself() {
        let mut outbox = Outbox::default();
        outbox.put(says(1, Received));
        outbox.put(says(1, Completed));
        outbox.settle(&says(1, Received));
        assert_eq!(outbox.waiting(), [says(1, Completed)]);
        outbox.settle(&says(1, Completed));
        assert!(!outbox.has(InstructionId(1)));
        outbox.put(says(1, Received));
        outbox.forget(InstructionId(1));
        assert!(!outbox.has(InstructionId(1)));
    }

    #[test]
    fn it_is_bounded_and_the_oldest_goes_first() {
        let mut outbox = Outbox::default();
        (0..=MOST as i64).for_each(|id| outbox.put(says(id, Received)));
        assert_eq!(outbox.waiting().len(), MOST);
        assert!(!outbox.has(InstructionId(0)));
    }
}
