//! From a backup to a data directory.
//!
//! Every byte is held to the manifest while it is copied. The directory gets its name last, when all of it
//! is on the disk; until then there is nothing at its place.

use std::fs;
use std::path::Path;

use super::manifest::Manifest;
use super::stream::{Meter, Report, stream};
use super::verify::read_manifest;
use super::{BackupError, DATA};
use super::{above, io_error, lock, remove, sync_dir, unfinished};
use crate::store::lasting;

pub fn restore(
    backup: &Path,
    dir: &Path,
    bytes_per_s_max: Option<u64>,
    report: &mut Report<'_>,
) -> Result<Manifest, BackupError> {
    let manifest = read_manifest(backup)?;
    // With its last name, also where it is written as `.` or with a slash at its end.
    let dir = &std::path::absolute(dir).map_err(|error| io_error(dir, error))?;
    let folder = above(dir);
    check_empty(dir)?;
    lasting::create(folder).map_err(|error| io_error(folder, error))?;
    let _lock = lock(folder)?;
    let unfinished = unfinished(dir);
    remove(&unfinished)?;
    let mut report = |progress| report(progress);
    let mut meter = Meter::new(manifest.bytes(), bytes_per_s_max, &mut report);
    let done = fill(backup, &manifest, &unfinished, &mut meter).and_then(|()| {
        // An empty directory is replaced, and nothing else.
        fs::rename(&unfinished, dir).map_err(|error| io_error(dir, error))?;
        sync_dir(folder)
    });
    done.inspect_err(|_| _ = remove(&unfinished))?;
    Ok(manifest)
}

fn fill(
    backup: &Path,
    manifest: &Manifest,
    to: &Path,
    meter: &mut Meter<'_>,
) -> Result<(), BackupError> {
    for dir in [to, &to.join("log"), &to.join("rocksdb")] {
        fs::create_dir(dir).map_err(|error| io_error(dir, error))?;
    }
    for entry in &manifest.files {
        let (from, to) = (backup.join(DATA).join(&entry.path), to.join(&entry.path));
        let found = stream(&from, Some(&to), meter).map_err(|error| io_error(&from, error))?;
        if let Some(damage) = entry.compare(&from, &found).into_iter().next() {
            return Err(BackupError::Damaged(damage));
        }
    }
    [&to.join("log"), &to.join("rocksdb"), to].into_iter().try_for_each(sync_dir)
}

fn check_empty(dir: &Path) -> Result<(), BackupError> {
    match fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(BackupError::NotEmpty(dir.to_path_buf())),
        Ok(false) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(dir, error)),
    }
}
