//! Who says what, and when: one line a happening.

use std::{sync::LazyLock, time::Instant};

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Prints a line with the seconds since the beginning and who says it.
pub(super) fn say(who: &str, what: &str) {
    println!("{:>5.1}s  {who:<5}  {what}", BEGAN.elapsed().as_secs_f64());
}

/// Prints a line of the agent's log, without its time, which stands in front already.
pub(super) fn log_line(line: &str) {
    let line = line.trim_start();
    let rest = line.split_once(' ').map_or(line, |(_, rest)| rest.trim_start());
    say("agent", rest);
}
