use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

const SECRET: &str = "Zq3.v7X_k9-LmN2pRsT4uVwYz";

fn dir() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn store(dir: &TempDir) -> Store {
    Store::new(&dir.path().join("state"), Some(dir.path().join("passed")))
}

fn name() -> TokenName {
    "site".parse().expect("a name")
}

fn day(day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 11, day).expect("a day")
}

fn credential(on: u32, keep_secret: bool) -> Credential {
    let token_id = "abcdefghij0123456789".parse().expect("a token ID");
    Credential::derive(token_id, SECRET.parse().expect("a secret"), day(on), keep_secret)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
}

#[test]
fn what_is_saved_is_read_back_and_is_ours_alone() {
    let dir = dir();
    let store = store(&dir);
    assert_eq!(store.load(&name(), day(1)).expect("an empty store"), None);
    for keep_secret in [false, true] {
        let credential = credential(1, keep_secret);
        store.save(&name(), &credential).expect("saved");
        let loaded = store.load(&name(), day(5)).expect("readable");
        assert_eq!(loaded, Some((credential, Origin::Store)));
        let text = fs::read_to_string(store.path(&name())).expect("text");
        assert_eq!(text.contains(SECRET), keep_secret, "{text}");
    }
    assert_eq!(mode(&store.path(&name())), 0o600);
    assert_eq!(mode(&store.folder), 0o700);
    assert_eq!(store.names().expect("listed"), [name()]);
    // A crash in the middle of a renewal leaves a key behind as well.
    let leftover = file::temporary(&store.path(&name()));
    fs::copy(store.path(&name()), &leftover).expect("copied");
    assert!(store.forget(&name()).expect("removed"));
    assert!(!leftover.exists());
    assert!(!store.forget(&name()).expect("nothing to remove"));
    assert_eq!(store.load_stored(&name()).expect("readable"), None);
}

#[test]
fn wider_files_and_folders_are_refused_with_the_command_that_repairs_them() {
    let dir = dir();
    let store = store(&dir);
    store.save(&name(), &credential(1, true)).expect("saved");
    let path = store.path(&name());
    for (wide, what, repair) in [
        (0o640, path.clone(), format!("chmod 600 {}", path.display())),
        (0o604, path.clone(), format!("chmod 600 {}", path.display())),
        (0o750, store.folder.clone(), format!("chmod 700 {}", store.folder.display())),
    ] {
        let proper = mode(&what);
        set_mode(&what, wide);
        let error = store.load(&name(), day(1)).expect_err("refused").to_string();
        assert!(error.contains(&repair), "{error}");
        assert!(error.contains(&format!("{wide:04o}")), "{error}");
        assert!(!error.contains(SECRET), "{error}");
        set_mode(&what, proper);
    }
    assert!(store.load(&name(), day(1)).expect("repaired").is_some());
}

#[test]
fn a_corrupt_file_is_named_left_alone_and_not_quoted() {
    let dir = dir();
    let store = store(&dir);
    store.save(&name(), &credential(1, true)).expect("saved");
    let path = store.path(&name());
    let key = "a".repeat(64);
    for (contents, want) in [
        (String::new(), "not JSON"),
        (format!(r#"{{"token_id":"a","secret":"{SECRET}"#), "not JSON"),
        (
            format!(r#"{{"token_id":"a","key":"{key}","key_date":"20261101","x":"{SECRET}"}}"#),
            "unknown",
        ),
        (format!(r#"{{"token_id":"a","key":["{SECRET}"],"key_date":"20261101"}}"#), "wrong type"),
        (format!(r#"{{"token_id":"a","key":"{SECRET}","key_date":"20261101"}}"#), "`key`"),
        (format!(r#"{{"token_id":"a","key":"{key}","key_date":"{SECRET}"}}"#), "`key_date`"),
        (format!(r#"{{"token_id":"a","key":"{key}"}}"#), "`key_date` is missing"),
        (format!(r#"{{"token_id":"a","secret":"{SECRET}"}}"#), "`key` is missing"),
        (
            format!(r#"{{"token_id":"{SECRET},","key":"{key}","key_date":"20261101"}}"#),
            "`token_id`",
        ),
    ] {
        fs::write(&path, &contents).expect("written");
        let error = store.load(&name(), day(1)).expect_err("corrupt").to_string();
        assert!(error.contains(&*path.to_string_lossy()) && error.contains(want), "{error}");
        assert!(!error.contains(SECRET), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("still there"), contents);
    }
}

#[test]
fn a_renewed_key_is_written_over_an_older_one_of_the_same_token_only() {
    let dir = dir();
    let store = store(&dir);
    let renew = |on| store.save_renewed(&name(), &credential(on, false), Origin::Store);
    assert_eq!(renew(2).expect("asked"), Saved::Forgotten);
    store.save(&name(), &credential(1, false)).expect("saved");
    assert_eq!(renew(2).expect("asked"), Saved::Written);
    let superseded = Saved::Superseded(Box::new(credential(2, false)));
    assert_eq!(renew(2).expect("asked"), superseded);
    assert_eq!(renew(1).expect("asked"), superseded);

    let mut other = credential(1, false);
    other.token_id = "another-token".parse().expect("a token ID");
    store.save(&name(), &other).expect("imported meanwhile");
    assert_eq!(renew(3).expect("asked"), Saved::Superseded(Box::new(other.clone())));
    assert_eq!(store.load_stored(&name()).expect("readable"), Some(other));
}

#[test]
fn a_renewed_key_keeps_the_secret_where_it_stood_and_adds_none() {
    let dir = dir();
    let store = store(&dir);
    for kept in [true, false] {
        store.save(&name(), &credential(1, kept)).expect("saved");
        let renewed = credential(2, !kept);
        store.save_renewed(&name(), &renewed, Origin::Store).expect("saved");
        let stored = store.load_stored(&name()).expect("readable").expect("there");
        assert_eq!(stored, credential(2, kept));
    }
}

#[test]
fn a_passed_credential_is_used_where_the_store_has_none() {
    let dir = dir();
    let store = store(&dir);
    let passed = dir.path().join("passed");
    fs::create_dir(&passed).expect("made");
    let with_secret = credential(4, true);
    let key = with_secret.key.expose_hex();
    for contents in [
        format!("abcdefghij0123456789\n{SECRET}\n"),
        format!("abcdefghij0123456789\r\n{SECRET}"),
        format!(r#"{{"token_id":"abcdefghij0123456789","secret":"{SECRET}"}}"#),
    ] {
        fs::write(passed.join("site"), contents).expect("written");
        let loaded = store.load(&name(), day(4)).expect("readable");
        assert_eq!(loaded, Some((with_secret.clone(), Origin::Passed)));
    }
    let saved = store.save_renewed(&name(), &with_secret, Origin::Passed).expect("asked");
    assert_eq!(saved, Saved::NotNeeded);
    assert!(!store.path(&name()).exists(), "a passed secret never reaches the disk");

    let only_key = format!(
        r#"{{"token_id":"abcdefghij0123456789","key":"{}","key_date":"20261104"}}"#,
        key.as_str()
    );
    fs::write(passed.join("site"), only_key).expect("written");
    let (loaded, origin) = store.load(&name(), day(5)).expect("readable").expect("passed");
    assert_eq!((&loaded, origin), (&credential(4, false), Origin::Passed));
    let renewed = credential(5, false);
    assert_eq!(store.save_renewed(&name(), &renewed, origin).expect("saved"), Saved::Written);
    let loaded = store.load(&name(), day(5)).expect("readable");
    assert_eq!(loaded, Some((renewed, Origin::Store)));

    store.forget(&name()).expect("removed");
    fs::write(passed.join("site"), SECRET).expect("written");
    let error = store.load(&name(), day(5)).expect_err("one line").to_string();
    assert!(error.contains("two lines") && !error.contains(SECRET), "{error}");
}

#[test]
fn two_changes_at_once_both_happen_one_after_the_other() {
    let dir = dir();
    let store = store(&dir);
    store.save(&name(), &credential(1, false)).expect("saved");
    let held = store.lock().expect("free");
    let waiting = {
        let store = store.clone();
        std::thread::spawn(move || store.save(&name(), &credential(2, false)))
    };
    let other = OpenOptions::new().read(true).open(&store.folder).expect("opened");
    assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
    assert_eq!(
        store.load_stored(&name()).expect("reading needs no lock"),
        Some(credential(1, false))
    );
    drop(held);
    waiting.join().expect("no panic").expect("saved");
    assert_eq!(store.load_stored(&name()).expect("readable"), Some(credential(2, false)));
}

#[test]
fn a_link_in_place_of_the_folder_or_a_file_is_not_followed() {
    let dir = dir();
    let store = store(&dir);
    store.save(&name(), &credential(1, false)).expect("saved");
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(store.path(&name()), &elsewhere).expect("moved");
    std::os::unix::fs::symlink(&elsewhere, store.path(&name())).expect("linked");
    assert!(matches!(store.load_stored(&name()), Err(StoreError::Io { .. })));
    fs::rename(&store.folder, dir.path().join("folder")).expect("moved");
    std::os::unix::fs::symlink(dir.path().join("folder"), &store.folder).expect("linked");
    assert!(store.load_stored(&name()).is_err());
    assert!(store.save(&name(), &credential(1, false)).is_err());
}
