//! The data directory: whose it is, and which form its data has.
//!
//! ```text
//! DIR/format    "hawser-kv N\n", N being the form of everything else
//! DIR/log       the write log
//! DIR/rocksdb   the database
//! ```
//!
//! `format` is written before anything else and never changed. A directory without it is taken only when
//! it holds nothing, so that a wrong `dir` cannot mix this server's files with another program's.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::lasting;

/// The form of log and database that this program reads and writes.
pub const FORMAT: u32 = 3;

const NAME: &str = "format";
const UNFINISHED: &str = "format.tmp";

/// What may be there before the first start, empty: a disk of its own for the log or the database.
const MOUNTED: [&str; 2] = ["log", "rocksdb"];

/// What the root of a file system may have of its own.
const LOST_AND_FOUND: &str = "lost+found";

/// Why a directory is not used. Each text says what to do.
#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("cannot use {}: {error}; set `dir` to a directory this process may write", dir.display())]
    Io { dir: PathBuf, error: io::Error },
    #[error("cannot read {}: {error}; is this a data directory of hawser-kv?", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "{} is no data directory of hawser-kv, but holds `{found}`; set `dir` to an empty directory",
        dir.display()
    )]
    NotOurs { dir: PathBuf, found: String },
    #[error(
        "{} was written by a newer hawser-kv (format {found}, this one reads {FORMAT}); start that \
         version, or set `dir` to another directory",
        dir.display()
    )]
    Newer { dir: PathBuf, found: u32 },
    #[error(
        "{} was written by an older hawser-kv (format {found}, this one reads {FORMAT}); dump it with \
         that version and load it with this one",
        dir.display()
    )]
    Older { dir: PathBuf, found: u32 },
}

/// Makes the directory if there is none, and makes sure that it is one of this program and form.
/// `known` are files that the configuration puts anywhere, perhaps here.
pub fn claim(dir: &Path, known: &[&Path]) -> Result<(), DirectoryError> {
    let failed = |error| DirectoryError::Io { dir: dir.to_path_buf(), error };
    lasting::create(dir).map_err(failed)?;
    match fs::read(dir.join(NAME)) {
        Ok(text) => check(dir, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_empty(dir, known)?;
            write(dir).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Makes sure that a directory is one of this program and form, and changes nothing.
pub fn check_format(dir: &Path) -> Result<(), DirectoryError> {
    let path = dir.join(NAME);
    let text = fs::read(&path).map_err(|error| DirectoryError::Unreadable { path, error })?;
    check(dir, &text)
}

fn check(dir: &Path, text: &[u8]) -> Result<(), DirectoryError> {
    let dir = dir.to_path_buf();
    let text = String::from_utf8_lossy(text);
    let number = text.strip_prefix("hawser-kv ").and_then(|rest| rest.trim_end().parse().ok());
    match number {
        None => Err(DirectoryError::NotOurs { dir, found: NAME.to_string() }),
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => Err(DirectoryError::Newer { dir, found }),
        Some(found) => Err(DirectoryError::Older { dir, found }),
    }
}

fn check_empty(dir: &Path, known: &[&Path]) -> Result<(), DirectoryError> {
    let failed = |error| DirectoryError::Io { dir: dir.to_path_buf(), error };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let found = entry.file_name().to_string_lossy().into_owned();
        let is_known = known.iter().any(|path| **path == entry.path());
        let is_disk = MOUNTED.contains(&found.as_str()) && is_empty(&entry.path());
        if !is_known && !is_disk && found != UNFINISHED && found != LOST_AND_FOUND {
            return Err(DirectoryError::NotOurs { dir: dir.to_path_buf(), found });
        }
    }
    Ok(())
}

/// Nothing but what a new file system has.
fn is_empty(dir: &Path) -> bool {
    let is_own = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name() == LOST_AND_FOUND)
    };
    fs::read_dir(dir).is_ok_and(|mut entries| entries.all(is_own))
}

/// A file that is there is whole: it gets its name when it is on disk.
fn write(dir: &Path) -> io::Result<()> {
    let unfinished = dir.join(UNFINISHED);
    let mut file = File::create(&unfinished)?;
    writeln!(file, "hawser-kv {FORMAT}")?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(NAME))?;
    File::open(dir)?.sync_all()
}
