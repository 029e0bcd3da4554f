//! Small files that matter: written whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

/// Replaces `path` by `contents`: a temporary name beside it, synced, renamed, the folder synced.
///
/// After a power cut the file holds the old contents or the new, never a part. `mode` is that of a
/// new file, before the umask.
///
/// # Errors
///
/// Whatever the file system says; the old file is then still in place.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    replace_for(path, contents, mode, None)
}

/// As [`replace`], for a file that is to belong to another user and group: root writing for the
/// daemon. The file has its owner before it has its name.
///
/// # Errors
///
/// Whatever the file system says; the old file is then still in place.
pub fn replace_for(
    path: &Path,
    contents: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = temporary(path);
    // Left over from a crash: it may have another mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let put = || {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        if let Some((user, group)) = owner {
            fchown(&file, Some(user), Some(group))?;
        }
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    put().inspect_err(|_| {
        // It may hold a key, and room that a full disk needs. If it stays, the next attempt removes it.
        drop(fs::remove_file(&temporary));
    })?;
    sync_folder(folder)
}

/// Where the new contents of `path` stand until they are whole; a crash may leave it behind.
#[must_use]
pub fn temporary(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    temporary.into()
}

/// Makes renames and removals in `folder` durable.
///
/// # Errors
///
/// Whatever the file system says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_leftover_of_a_crash_does_not_widen_the_mode() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("key");
        fs::write(dir.path().join("key.new"), "half").expect("write");
        replace(&path, b"whole", 0o600).expect("replace");
        assert_eq!(fs::read(&path).expect("read"), b"whole");
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
    }

    #[test]
    fn what_could_not_be_put_in_place_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("key");
        fs::create_dir(&path).expect("something that cannot be replaced");
        replace(&path, b"secret", 0o600).expect_err("a folder is in the way");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
    }
}
