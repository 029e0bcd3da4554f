//! A line that shows how far a large file has come, in a terminal only.

use std::{
    io::{self, IsTerminal, Write, stderr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Smaller files are gone before anybody could read the line.
const WORTH_BYTES: u64 = 4 << 20;

/// How often the line is renewed.
const EVERY: Duration = Duration::from_millis(200);

const WIDTH: usize = 30;

/// Does `work` while the line shows how `taken` grows to `bytes`.
pub(super) async fn shown<T>(
    name: &str,
    bytes: u64,
    taken: &Arc<AtomicU64>,
    work: impl Future<Output = T>,
) -> T {
    if bytes < WORTH_BYTES || !stderr().is_terminal() {
        return work.await;
    }
    let begun = Instant::now();
    let mut work = std::pin::pin!(work);
    let mut renew = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            done = &mut work => {
                // Nobody is helped by an error about the line.
                write!(stderr(), "\r\x1b[K").ok();
                return done;
            }
            _ = renew.tick() => {
                let line = line(name, taken.load(Ordering::Relaxed), bytes, begun.elapsed());
                draw(&line).ok();
            }
        }
    }
}

fn draw(line: &str) -> io::Result<()> {
    let mut err = stderr().lock();
    write!(err, "\r\x1b[K{line}")?;
    err.flush()
}

fn line(name: &str, taken: u64, bytes: u64, elapsed: Duration) -> String {
    let share = (taken.min(bytes) as f64) / (bytes.max(1) as f64);
    let full = (share * WIDTH as f64) as usize;
    let bar = format!("{}{}", "#".repeat(full), ".".repeat(WIDTH - full));
    let speed = taken as f64 / elapsed.as_secs_f64().max(0.001);
    let rest = if taken >= bytes {
        "the server looks at it".to_owned()
    } else if taken == 0 {
        "".to_owned()
    } else {
        let secs = ((bytes - taken) as f64 / speed.max(1.0)).min(1e9) as u64;
        format!("{}/s, {}:{:02} left", mega(speed), secs / 60, secs % 60)
    };
    let short: String = name.chars().filter(|c| !c.is_control()).take(30).collect();
    format!("{short} [{bar}] {:3.0} % of {} {rest}", share * 100.0, mega(bytes as f64))
}

fn mega(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_how_fast_and_how_long_yet() {
        let line = line("picture.jpg", 5_000_000, 20_000_000, Duration::from_secs(5));
        assert_eq!(
            line,
            "picture.jpg [#######.......................]  25 % of 20.0 MB 1.0 MB/s, 0:15 left"
        );
        assert!(super::line("a", 9, 9, Duration::ZERO).ends_with("the server looks at it"));
        assert!(super::line("a", 0, 0, Duration::ZERO).contains("  0 %"));
    }
}
