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
    if is_mount_point(dir) {
        return Err(BackupError::MountPoint(dir.to_path_buf()));
    }
    lasting::create(folder).map_err(|error| io_error(folder, error))?;
    let _lock = lock(folder)?;
    let unfinished = unfinished(dir);
    remove(&unfinished)?;
    let mut report = |progress| report(progress);
    let mut meter = Meter::new(manifest.bytes(), bytes_per_s_max, &mut report);
    let done = make_like(dir, &unfinished).and_then(|()| {
        fill(backup, &manifest, &unfinished, &mut meter)?;
        // An empty directory is replaced, and nothing else.
        fs::rename(&unfinished, dir).map_err(|error| io_error(dir, error))?;
        sync_dir(folder)
    });
    done.inspect_err(|_| _ = remove(&unfinished))?;
    Ok(manifest)
}

/// Makes a directory. Whom the one that it will replace kept out is kept out of it from the start.
fn make_like(replaced: &Path, dir: &Path) -> Result<(), BackupError> {
    let made = fs::create_dir(dir).and_then(|()| match replaced.metadata() {
        Ok(metadata) => fs::set_permissions(dir, metadata.permissions()),
        Err(_) => Ok(()),
    });
    made.map_err(|error| io_error(dir, error))
}

/// Whether a file system is mounted there, which no rename replaces. Where the kernel does not tell, it is
/// taken for none, and the rename fails when everything was copied.
fn is_mount_point(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    dir.canonicalize().is_ok_and(|dir| is_mounted(&dir, &mounts))
}

/// `mounts` has a line for each mount, its fifth word being the place, in which the kernel writes what would
/// end a word as octal numbers.
fn is_mounted(dir: &Path, mounts: &str) -> bool {
    const ESCAPED: [(&str, &str); 4] =
        [("\\", "\\134"), (" ", "\\040"), ("\t", "\\011"), ("\n", "\\012")];
    let plain = dir.display().to_string();
    let word = ESCAPED.iter().fold(plain, |word, (plain, octal)| word.replace(plain, octal));
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&word))
}

fn fill(
    backup: &Path,
    manifest: &Manifest,
    to: &Path,
    meter: &mut Meter<'_>,
) -> Result<(), BackupError> {
    for dir in [&to.join("log"), &to.join("rocksdb")] {
        fs::create_dir(dir).map_err(|error| io_error(dir, error))?;
    }
    for entry in &manifest.files {
        let (from, to) = (backup.join(DATA).join(&entry.path), to.join(&entry.path));
        let found = stream(&from, Some(&to), meter)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_place() {
        let mounts = "21 1 254:0 / / rw - ext4 /dev/vda rw\n\
                      30 21 0:26 /a/b /mnt/with\\040a\\134 rw shared:1 - tmpfs none rw\n";
        assert!(is_mounted(Path::new("/"), mounts));
        assert!(is_mounted(Path::new("/mnt/with a\\"), mounts));
        for none in ["/a/b", "/mnt", "/mnt/with", "/mnt/with a\\/b"] {
            assert!(!is_mounted(Path::new(none), mounts), "{none}");
        }
        assert!(is_mount_point(Path::new("/proc")));
    }
}
