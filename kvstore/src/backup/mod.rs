//! Copies of a whole store: taking them, putting them back, and finding out whether one is good.
//!
//! ```text
//! manifest   what is in a backup, line by line
//! stream     reading and writing large files: checksums, rate, progress
//! take       from a checkpoint to a backup
//! restore    from a backup to a data directory
//! scratch    a folder that goes with the process
//! still      opening the data of a store that nobody runs, and changing nothing of it
//! audit      walking over everything that is live: a digest, and what does not fit together
//! verify     whether a backup or a data directory is good
//! ```
//!
//! A backup is a folder in which everything is named by its last step: until then its name begins with a
//! dot and ends with `.unfinished`, and whoever comes next removes it.
//!
//! ```text
//! FOLDER/NAME/manifest    see `manifest`
//! FOLDER/NAME/data/…      a data directory, as a checkpoint has it
//! ```
//!
//! Memory: one chunk of a file, one value of the store, and 4 bytes for each MiB that a manifest speaks of.

pub mod audit;
pub mod manifest;
pub mod restore;
pub mod scratch;
pub mod still;
pub mod stream;
pub mod take;
pub mod verify;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use self::manifest::{Damage, ManifestError};
use self::still::StillError;

pub const MANIFEST: &str = "manifest";
pub const DATA: &str = "data";
const UNFINISHED: &str = ".unfinished";

/// Why a backup was not taken, restored or verified. Each text says what to do.
#[derive(Debug, Error)]
pub enum BackupError {
    #[error("{}: {error}{}", path.display(), advice(error))]
    Io { path: PathBuf, error: io::Error },
    #[error("{} is being used by another backup or restore; wait until it is done", .0.display())]
    InUse(PathBuf),
    #[error("there is a backup {} already; choose another name", .0.display())]
    Exists(PathBuf),
    #[error("{} is not empty; restore into a directory that is, or that does not exist", .0.display())]
    NotEmpty(PathBuf),
    #[error(
        "{} is where a file system is mounted, which a restore cannot put its directory in place of; \
         restore into a directory in it", .0.display()
    )]
    MountPoint(PathBuf),
    #[error("{} is no backup: there is no `{MANIFEST}` in it", .0.display())]
    NoBackup(PathBuf),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{0}; the backup is damaged there, and nothing was restored: take another one")]
    Damaged(Damage),
    #[error(transparent)]
    Still(#[from] StillError),
}

/// What to do about it, where that is not plain.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room there and run this again, nothing half done is left"
        }
        _ => "",
    }
}

fn io_error(path: &Path, error: io::Error) -> BackupError {
    BackupError::Io { path: path.to_path_buf(), error }
}

/// Where a folder is made before it gets its name.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{UNFINISHED}"))
}

fn is_unfinished(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(UNFINISHED)
}

/// Nobody else uses the folder while the value lives. It goes with the process, however that ends.
fn lock(folder: &Path) -> Result<File, BackupError> {
    let file = File::open(folder).map_err(|error| io_error(folder, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(BackupError::InUse(folder.to_path_buf())),
        Err(fs::TryLockError::Error(error)) => Err(io_error(folder, error)),
    }
}

/// The folder above.
fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    }
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path, error)),
        _ => Ok(()),
    }
}

fn sync_dir(path: &Path) -> Result<(), BackupError> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|error| io_error(path, error))
}
