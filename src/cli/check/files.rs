//! What this device knows that stands against the configured uploads of files.

use std::path::Path;

use chrono::{DateTime, Utc};

use crate::{
    config::{Problem, Settings, Severity, problem_at},
    credential::Store,
    files::rules::Restrictions,
};

/// Folders that are not there, a token that is not in the store, and one that was told to be of no use for an
/// entry, without asking anybody. A store that is not ours to read says nothing; and without a state folder this
/// is no device, but where its configuration is written.
pub(super) fn problems(path: &Path, settings: &Settings, now: DateTime<Utc>) -> Vec<Problem> {
    let Some(repository) = settings.repository.as_ref().filter(|_| !settings.files.is_empty())
    else {
        return Vec::new();
    };
    if !settings.state_dir.is_dir() {
        return Vec::new();
    }
    let warning = |key: &str, found: String, expected: String| {
        problem_at(path, key, found, expected, Severity::Warning)
    };
    let absent = settings.files.iter().filter(|entry| !entry.folder.is_dir()).map(|entry| {
        let found = format!("{}: there is no such folder", entry.folder.display());
        warning("files.folder", found, "a folder that exists when the daemon looks".to_owned())
    });
    let mut problems: Vec<_> = absent.collect();
    let name = &repository.token;
    let other = format!("see `solarnode-agent files token generate --install {name}`");
    match Store::new(&settings.state_dir, None).load_repository(name) {
        Ok(None) => {
            let found = format!("\"{name}\": no File Repository token of that name is stored");
            problems.push(warning(
                "repository.token",
                found,
                format!("a stored token, or one that systemd passes: {other}"),
            ));
        }
        Ok(Some(credential)) => {
            let known = credential.known.and_then(|known| serde_json::from_value(known).ok());
            // Nothing is known of a token that was never looked up: the server decides then.
            let Some(known): Option<Restrictions> = known else { return problems };
            for entry in &settings.files {
                if let Err(obstacle) = known.check_upload(&entry.tags, now) {
                    let found = format!("{}: {obstacle} (\"{name}\")", entry.folder.display());
                    let expected = format!("a token that allows it: {other}");
                    problems.push(warning("files.tags", found, expected));
                }
            }
        }
        Err(_) => {}
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, credential::RepositoryCredential};

    #[test]
    fn folders_and_tokens_that_let_nothing_through_are_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("agent.toml");
        let text = format!(
            "state_dir = {:?}\n[node]\nid = 1\n[solarnet]\ntoken = \"site\"\n\
             [repository]\nurl = \"http://127.0.0.1:1\"\ntoken = \"camera\"\n\
             [[files]]\nfolder = \"in\"\ntags = [\"site-1\"]\n",
            dir.path().join("state")
        );
        std::fs::write(&path, text).expect("written");
        let settings = config::load(&path).expect("a configuration").settings;
        let keys = || {
            let problems = problems(&path, &settings, Utc::now());
            problems.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
        };
        assert!(keys().is_empty(), "no device");
        std::fs::create_dir(&settings.state_dir).expect("made");
        assert_eq!(keys(), ["files.folder", "repository.token"]);
        std::fs::create_dir(&settings.files[0].folder).expect("made");
        let repository = settings.repository.as_ref().expect("a repository");
        let store = Store::new(&settings.state_dir, None);
        let keep = |tags: &[&str]| {
            let known = serde_json::json!({
                "roles": ["upload.all"], "tags": tags, "mime_types": [], "max_file_size": null,
                "expires": null,
            });
            let credential = RepositoryCredential {
                token: "0C5B2F60-0C5B-4F60-8C5B-0C5B2F600C5B".parse().expect("a token"),
                user_agent: None,
                known: Some(known),
            };
            store.save_repository(&repository.token, &credential).expect("saved");
        };
        keep(&["other"]);
        assert_eq!(keys(), ["files.tags"]);
        keep(&["site-1"]);
        assert_eq!(keys(), [""; 0]);
    }
}
