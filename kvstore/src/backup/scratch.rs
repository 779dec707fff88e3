//! A folder for what is needed only while a process runs, which nobody else can look into.
//!
//! It goes with the value. When the process is killed instead, whoever makes the next one in the same place
//! removes it: a lock on the folder, which went with the process, says that nobody needs it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const PREFIX: &str = "hawser-kv-scratch-";

/// Names that are tried. Each that is taken is of a killed process that had our number and is not ours to
/// remove.
const TRIES_MAX: u32 = 1000;

pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// `parent` is made when it is missing.
    pub fn new(parent: &Path) -> io::Result<Scratch> {
        fs::create_dir_all(parent)?;
        remove_left(parent);
        static LAST: AtomicU32 = AtomicU32::new(0);
        for _ in 0..TRIES_MAX {
            let number = LAST.fetch_add(1, Relaxed);
            let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            // Before it is locked, another process may take it for one that was left.
            if let Some(lock) = lock(&path)
                && path.exists()
            {
                return Ok(Scratch { path, _lock: lock });
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.path);
    }
}

fn lock(path: &Path) -> Option<File> {
    File::open(path).ok().filter(|folder| folder.try_lock().is_ok())
}

/// Those of other users stay, since they cannot be opened.
fn remove_left(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_scratch = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_scratch && let Some(_lock) = lock(&entry.path()) {
            _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_left_is_removed_and_nothing_else() {
        let parent = std::env::temp_dir().join(format!("hkv-scratch-{}", std::process::id()));
        let (left, other) = (parent.join(format!("{PREFIX}1-0")), parent.join("other"));
        fs::create_dir_all(left.join("rocksdb")).expect("a folder");
        fs::create_dir_all(&other).expect("a folder");
        let first = Scratch::new(&parent).expect("a scratch folder");
        assert!(!left.exists() && other.exists());
        let second = Scratch::new(&parent).expect("a scratch folder");
        assert!(first.path().exists() && second.path().exists());
        let mode = first.path().metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let path = first.path().to_path_buf();
        drop(first);
        assert!(!path.exists() && second.path().exists());
        fs::remove_dir_all(&parent).expect("removed");
    }
}
