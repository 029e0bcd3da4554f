//! `completions` and `man`: what packages install beside the program, made from the same definition as
//! `--help`. Hidden there, because nobody needs them twice.

use std::{io::Write, path::PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Exit, Failure};

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  solarnode-agent completions bash > /etc/bash_completion.d/solarnode-agent"
)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Write the man pages, one a command, into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  solarnode-agent man /usr/local/share/man/man1")]
pub struct Man {
    /// The folder, which exists
    folder: PathBuf,
}

impl Completions {
    /// Prints them.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let mut text = Vec::new();
        let mut command = Cli::command();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut text);
        out.write_all(&text)?;
        Ok(Exit::Ok)
    }
}

impl Man {
    /// Writes them.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn run(self) -> Result<Exit, Failure> {
        clap_mangen::generate_to(Cli::command(), &self.folder).map_err(|error| {
            let failure = Failure::from(error);
            let context = format!("could not write into {}", self.folder.display());
            Failure { error: failure.error.context(context), ..failure }
        })?;
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut out = Vec::new();
            Completions { shell }.run(&mut out).expect("an output");
            let text = String::from_utf8(out).expect("text");
            assert!(text.contains("instruction") && text.contains("refresh"), "{shell}");
        }
    }

    #[test]
    fn every_command_has_its_page() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Man { folder: dir.path().to_owned() }.run().expect("written");
        for page in ["solarnode-agent.1", "solarnode-agent-token-sign.1"] {
            let text = std::fs::read_to_string(dir.path().join(page)).expect(page);
            assert!(text.contains(".SH SYNOPSIS"), "{text}");
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
