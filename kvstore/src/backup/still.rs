//! The data of a store that nobody runs, opened as a server would, with nothing of it changed.
//!
//! RocksDB writes where it opens. So it is opened in a scratch folder, with links to the files that never
//! change, copies of the few small others, and the write log replayed into it. The folder goes with the
//! value. It needs as much room as the log has that RocksDB's files do not.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rocksdb::{DB, Options};
use thiserror::Error;

use super::audit::{self, Audit, Unreadable};
use super::scratch::Scratch;
use super::stream::{Meter, can_go_around};
use crate::store::database::{Database, Reads, StoreError, database_dir};
use crate::store::directory::{self, DirectoryError};
use crate::store::log::{self, Cut, OpenError};

const CACHE_BYTES: usize = 32 << 20;
const MEMTABLE_BYTES: usize = 32 << 20;

/// The file that every database of RocksDB has.
const CURRENT: &str = "CURRENT";

/// Why the data cannot be opened.
#[derive(Debug, Error)]
pub enum StillError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("{} is in use by a running server; stop it, or leave the path out to verify the running one", .0.display())]
    InUse(PathBuf),
    #[error("{}: {text}", dir.display())]
    Database { dir: PathBuf, text: String },
    #[error(transparent)]
    Log(#[from] OpenError),
    #[error("{}: group {sequence} of the write log cannot be applied: {error}", dir.display())]
    Replay { dir: PathBuf, sequence: u64, error: StoreError },
}

pub struct Still {
    database: Option<Database>,
    dir: PathBuf,
    scratch: Scratch,
    sequence: u64,
    torn: Option<Cut>,
}

impl Still {
    /// `scratch` is a directory in which the folder is made.
    pub fn open(dir: &Path, scratch: &Path) -> Result<Still, StillError> {
        directory::check_format(dir)?;
        let scratch = Scratch::new(scratch).map_err(|error| io_error(scratch, error))?;
        let (dir, database, torn) = (dir.to_path_buf(), None, None);
        let mut still = Still { database, dir, scratch, sequence: 0, torn };
        still.fill()?;
        Ok(still)
    }

    fn fill(&mut self) -> Result<(), StillError> {
        let from = database_dir(&self.dir);
        self.check_unused(&from)?;
        let to = self.scratch.path().join("rocksdb");
        mirror(&from, &to).map_err(|error| io_error(&from, error))?;
        // Files are read where they are, and where this one was copied to.
        let can_go_around = can_go_around(&from.join(CURRENT)) && can_go_around(&to.join(CURRENT));
        let reads = if can_go_around { Reads::AroundPageCache } else { Reads::ThroughPageCache };
        let opened = Database::open_resting(&to, CACHE_BYTES, MEMTABLE_BYTES, reads);
        let database = opened.map_err(|error| self.database_error(&error))?;
        let applied = database.applied().map_err(|error| self.database_error(&error))?;
        let apply = |sequence, record: &[u8]| {
            let dir = self.dir.clone();
            let applied = database.apply(sequence, record);
            applied.map_err(|error| StillError::Replay { dir, sequence, error })
        };
        (self.sequence, self.torn) = log::look(&self.dir.join("log"), applied, apply)?;
        self.database = Some(database);
        Ok(())
    }

    /// RocksDB looks at its lock before anything else, and at this option next.
    fn check_unused(&self, rocksdb: &Path) -> Result<(), StillError> {
        // Looking for a lock makes one. Where there is none nobody ever opened it.
        if !rocksdb.join("LOCK").exists() {
            return Ok(());
        }
        let mut options = Options::default();
        options.set_error_if_exists(true);
        options.set_db_log_dir(self.scratch.path());
        match DB::open(&options, rocksdb).map(drop).map_err(|error| error.to_string()) {
            Err(text) if text.contains("lock hold by") || text.contains("temporarily") => {
                Err(StillError::InUse(self.dir.clone()))
            }
            // On a disk that nobody can write to, nobody has it open either.
            _ => Ok(()),
        }
    }

    /// With the place in the data, not in the scratch folder.
    pub fn database_error(&self, error: &StoreError) -> StillError {
        let scratch = self.scratch.path().display().to_string();
        let text = error.to_string().replace(&scratch, &self.dir.display().to_string());
        StillError::Database { dir: self.dir.clone(), text }
    }

    /// The last group that is in it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The torn end of the log that a server would cut.
    pub fn torn(&self) -> Option<&Cut> {
        self.torn.as_ref()
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("it is there until it is dropped")
    }

    /// Walks over what was live at a time.
    pub fn audit(&self, as_of_ms: u64, meter: &mut Meter<'_>) -> Result<Audit, StillError> {
        let done = audit::audit(self.database(), as_of_ms, &mut |keys| meter.keys(keys));
        done.map_err(|error| self.database_error(&error))
    }

    /// Reads every row, live or not, so that every block's checksum is looked at.
    pub fn read_everything(&self) -> Result<u64, StillError> {
        audit::read_everything(self.database()).map_err(|Unreadable { error, after }| {
            let mut error = self.database_error(&error);
            if let StillError::Database { text, .. } = &mut error {
                // RocksDB does not always name the file.
                text.push_str(&match after {
                    Some(key) => format!(" (in the row after key \"{}\")", key.escape_ascii()),
                    None => " (in the first row)".to_string(),
                });
            }
            error
        })
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        // Closed before its files go.
        self.database = None;
    }
}

fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    let from = from.canonicalize()?;
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".sst") || name.ends_with(".blob") {
            symlink(entry.path(), to.join(name))?;
        } else if entry.file_type()?.is_file() && !name.starts_with("LO") {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

fn io_error(path: &Path, error: io::Error) -> StillError {
    StillError::Io { path: path.to_path_buf(), error }
}
