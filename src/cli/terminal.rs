//! The person at the terminal: typing a secret unseen, and being asked before something is done.

use std::{
    fs::OpenOptions,
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read, Write as _, stderr, stdin},
};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::token::Secrets;

/// Standard input. From a terminal it is one line, which is not shown while it is typed.
#[derive(Debug, Default)]
pub struct Input {
    typed: bool,
    /// What is to be typed.
    what: Option<String>,
}

impl Secrets for Input {
    fn ask_for(&mut self, what: &str) {
        self.what = Some(what.to_owned());
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let input = stdin();
        if !input.is_terminal() {
            return input.lock().read(buffer);
        }
        if std::mem::replace(&mut self.typed, true) {
            return Ok(0);
        }
        let line = unseen(|| {
            eprint!("{} (not shown): ", self.what.as_deref().unwrap_or("secret"));
            // Room from the start: a buffer that grows leaves copies behind.
            let mut line = Zeroizing::new(Vec::with_capacity(4096));
            input.lock().take(4096).read_until(b'\n', &mut line).map(|_| line)
        })?;
        eprintln!();
        let taken = line.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&line[..taken]);
        Ok(taken)
    }
}

/// Runs with the terminal's echo off.
fn unseen<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = tcgetattr(stdin())?;
    let mut without = before.clone();
    without.local_modes.remove(LocalModes::ECHO);
    tcsetattr(stdin(), OptionalActions::Flush, &without)?;
    let done = work();
    tcsetattr(stdin(), OptionalActions::Now, &before)?;
    done
}

/// Asks a question that only `y` or `yes` answers with yes. `None` where nobody is there.
///
/// The answer comes from the terminal itself: standard input may be a secret's.
///
/// # Errors
///
/// If the terminal cannot be read or written.
pub fn confirm(question: &str) -> io::Result<Option<bool>> {
    if !stderr().is_terminal() {
        return Ok(None);
    }
    let Ok(terminal) = OpenOptions::new().read(true).open("/dev/tty") else { return Ok(None) };
    eprint!("{question} [y/N] ");
    stderr().flush()?;
    let mut answer = String::new();
    BufReader::new(terminal).read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim(), "y" | "Y" | "yes")))
}
