//! A configuration file.

use crate::{assert_readable, folder, write};
use solarnode_agent::config::{
    ConfigError, Problem, Severity, effective, load, load_buses, load_local, redacted,
};

fn judge(problems: &[Problem], lines: usize) {
    for problem in problems {
        assert_readable(&problem.to_string(), 2000);
        assert!(problem.line.is_none_or(|line| (1..=lines + 1).contains(&line)), "{problem}");
    }
}

pub(crate) fn check(bytes: &[u8]) {
    let folder = folder();
    let path = folder.path().join("agent.toml");
    write(&path, bytes);
    let lines = bytes.split(|byte| *byte == b'\n').count();
    match load(&path) {
        Ok(loaded) => {
            judge(&loaded.warnings, lines);
            assert!(loaded.warnings.iter().all(|problem| problem.severity == Severity::Warning));
            // Who looks at a part sees the same part.
            assert_eq!(load_buses(&path).expect("right"), loaded.settings.modbus);
            let local = load_local(&path).expect("right");
            assert_eq!(local.state_dir, loaded.settings.state_dir);
            assert!(local.solarnet().is_ok() && local.repository().is_ok());
        }
        Err(ConfigError::Invalid(problems)) => {
            judge(&problems, lines);
            assert!(problems.iter().any(|problem| problem.severity == Severity::Error));
        }
        Err(error) => panic!("{error}"),
    }
    effective(&path).ok();

    // What is shown to others has the same lines; nothing more is found in it to remove.
    let shown = |bytes: &[u8]| {
        write(&path, bytes);
        redacted(&path).expect("readable").swap_remove(0).text
    };
    if let Some(text) = shown(bytes) {
        assert_eq!(text.matches('\n').count() + 1, lines);
        assert_eq!(shown(text.as_bytes()).as_ref(), Some(&text));
    }
}
