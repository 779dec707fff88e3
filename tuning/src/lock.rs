//! One `hawser tune` at a time changes a host: two that plan from the same values would each write down
//! the other's as what was there before, and one that removes the journal would take the other's away.
//!
//! The lock is on the journal's folder, so nothing of it is left, and the kernel gives it back when the
//! process ends in whatever way. `inspect`, `plan`, `verify` and `export` do not need it.

use std::fs::{self, File, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::journal::{JournalError, PATH};

/// What a run takes at most, by far.
pub const PATIENCE: Duration = Duration::from_secs(10);

const RETRY: Duration = Duration::from_millis(20);

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

impl Lock {
    /// Waits so long for another to end.
    pub fn take(host: &Host, patience: Duration) -> Result<Lock, JournalError> {
        let path = host.path(PATH);
        let path = path.parent().expect("the journal is in a folder");
        fs::create_dir_all(path)?;
        let folder = File::open(path)?;
        let deadline = Instant::now() + patience;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Lock { _folder: folder }),
                Err(TryLockError::Error(error)) => return Err(error.into()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(JournalError::Busy { patience_s: patience.as_secs() });
                }
                Err(TryLockError::WouldBlock) => thread::sleep(RETRY),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_waits_and_then_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::at(folder.path());
        let first = Lock::take(&host, PATIENCE).unwrap();
        let error = Lock::take(&host, Duration::ZERO).unwrap_err();
        assert!(matches!(error, JournalError::Busy { .. }), "{error}");
        drop(first);
        Lock::take(&host, Duration::ZERO).unwrap();
    }
}
