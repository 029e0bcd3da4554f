//! The project's chores, by the names that README, CI and people use.
//!
//! ```text
//! cargo xtask quickstart [--forever]   the whole main job on built-in simulators
//! cargo xtask test [--without-root]    installs what the tests need, then runs every check and test;
//!                                      without root: all but those that need it, which are named
//! cargo xtask fuzz [--seconds N] [TARGET]   libFuzzer on one decoder of foreign bytes, or on all
//! cargo xtask footprint queue          what the queue costs, measured beside SQLite (needs root)
//! cargo xtask footprint peers [ARGS]   what the agent costs and loses beside ThingsBoard gateway, Node-RED and
//!                                      collectd; ARGS are those of benches/peers/run.py
//! cargo xtask docs                     writes the generated documentation anew
//! ```

mod footprint;
mod fuzz;
mod peers;
mod run;
mod tests;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask quickstart [--forever] | test [--without-root] | \
     fuzz [--seconds N] [TARGET] | footprint queue | footprint peers [ARGS] | docs";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["quickstart", rest @ ..] => run::quickstart(rest),
        ["test"] => tests::all(true),
        ["test", "--without-root"] => tests::all(false),
        ["fuzz", rest @ ..] => fuzz::fuzz(rest),
        ["footprint", "queue"] => footprint::queue(),
        ["footprint", "peers", rest @ ..] => peers::peers(rest),
        ["docs"] => run::docs(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask: {problem}");
            ExitCode::FAILURE
        }
    }
}
