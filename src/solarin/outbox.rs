//! Acknowledgements that wait for an exchange to go along with. Pure.
//!
//! One for each instruction, the latest; at most [`MOST`]. Of one instruction only one word is being said at a
//! time, so that exchanges beside each other, over different connections, cannot swap two of them. Whoever
//! acknowledges keeps its own journal and says it again until it was heard, so what is pushed out here, or lost with
//! the process, is not lost.

use std::collections::HashSet;

use super::Acknowledgement;
use crate::domain::InstructionId;

/// Acknowledgements that wait at most; the oldest makes room.
pub const MOST: usize = 100;

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Vec<Acknowledgement>,
    being_said: HashSet<InstructionId>,
}

impl Outbox {
    /// Adds what is said of an instruction, in the place of what was said before.
    pub fn put(&mut self, acknowledgement: Acknowledgement) {
        self.waiting.retain(|waiting| waiting.id != acknowledgement.id);
        if self.waiting.len() >= MOST {
            self.waiting.remove(0);
        }
        self.waiting.push(acknowledgement);
    }

    /// All that waits and is of an instruction of which nothing is being said. [`Outbox::over`] has to follow.
    ///
    /// It stays until it is settled.
    #[must_use]
    pub fn begin(&mut self) -> Vec<Acknowledgement> {
        let free = |word: &&Acknowledgement| !self.being_said.contains(&word.id);
        let words: Vec<_> = self.waiting.iter().filter(free).cloned().collect();
        self.being_said.extend(words.iter().map(|word| word.id));
        words
    }

    /// This alone, if it still waits and nothing is being said of its instruction. As [`Outbox::begin`].
    #[must_use]
    pub fn begin_alone(&mut self, word: &Acknowledgement) -> Vec<Acknowledgement> {
        if self.waiting.contains(word) && self.being_said.insert(word.id) {
            vec![word.clone()]
        } else {
            Vec::new()
        }
    }

    /// These are not being said any more, whatever came of it.
    pub fn over(&mut self, words: &[Acknowledgement]) {
        for word in words {
            self.being_said.remove(&word.id);
        }
    }

    /// Whether something is being said of this instruction.
    #[must_use]
    pub fn is_being_said(&self, id: InstructionId) -> bool {
        self.being_said.contains(&id)
    }

    /// This was heard, or refused. What was said of the instruction since stays.
    pub fn settle(&mut self, acknowledgement: &Acknowledgement) {
        self.waiting.retain(|waiting| waiting != acknowledgement);
    }

    /// The instruction was spoken of by another way: nothing older must follow.
    pub fn forget(&mut self, id: InstructionId) {
        self.waiting.retain(|waiting| waiting.id != id);
    }

    /// Whether something is still waiting to be said of this instruction.
    #[must_use]
    pub fn has(&self, id: InstructionId) -> bool {
        self.waiting.iter().any(|waiting| waiting.id == id)
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
        assert_eq!(outbox.begin(), [says(1, Completed)]);
        outbox.settle(&says(1, Completed));
        assert!(!outbox.has(InstructionId(1)));
        outbox.put(says(1, Received));
        outbox.forget(InstructionId(1));
        assert!(!outbox.has(InstructionId(1)));
    }

    #[test]
    fn of_one_instruction_one_word_is_being_said_at_a_time() {
        let mut outbox = Outbox::default();
        outbox.put(says(1, Received));
        let first = outbox.begin();
        outbox.put(says(1, Completed));
        outbox.put(says(2, Received));
        assert_eq!(outbox.begin(), [says(2, Received)]);
        assert_eq!(outbox.begin_alone(&says(1, Completed)), []);
        outbox.over(&first);
        assert!(!outbox.is_being_said(InstructionId(1)) && outbox.is_being_said(InstructionId(2)));
        assert_eq!(outbox.begin_alone(&says(1, Received)), [], "there is a later one");
        assert_eq!(outbox.begin_alone(&says(1, Completed)), [says(1, Completed)]);
    }

    #[test]
    fn it_is_bounded_and_the_oldest_goes_first() {
        let mut outbox = Outbox::default();
        (0..=MOST as i64).for_each(|id| outbox.put(says(id, Received)));
        assert_eq!(outbox.begin().len(), MOST);
        assert!(!outbox.has(InstructionId(0)));
    }
}
