//! Instructions for the agents' node: how one is given, and how it ends.

use solarnet_sim::{Instruction, NewInstruction, Sim};

use super::agent::{NODE, eventually};

/// An instruction for the node.
pub(crate) fn order(topic: &str, parameters: &[(&str, &str)]) -> NewInstruction {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    NewInstruction {
        node: NODE,
        topic: topic.to_owned(),
        parameters: parameters.iter().map(owned).collect(),
        ..NewInstruction::default()
    }
}

/// Waits until the server has the final state of an instruction; gives it as it is then.
pub(crate) fn ended(sim: &Sim, id: i64) -> Instruction {
    let instruction = || sim.instruction(id).expect("an instruction");
    eventually("the instruction ends", || instruction().state.is_final());
    instruction()
}
