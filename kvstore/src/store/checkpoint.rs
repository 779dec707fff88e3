//! Keeps the write log short: flushes RocksDB when a segment is full and deletes the segments it then
//! needs no longer.
//!
//! A thread of its own, since a flush takes as long as writing all memtables. What may be deleted is
//! asked of RocksDB's files, not remembered. When a flush fails (a full disk) it is tried again every
//! few seconds, and the log keeps growing meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::log::{Cleaner, Spare};
use super::seeded::SeededBug;
use crate::shared::Shared;

/// What the writer wakes this thread for. A spare segment is made, if there is none, in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Flush,
    Spare,
}

const RETRY: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(3600);

/// Runs until the other end of `wanted` is gone, and once more then.
pub fn run(
    shared: Arc<Shared>,
    (cleaner, spare): (Cleaner, Option<Spare>),
    wanted: Receiver<Wanted>,
) {
    let mut again = false;
    loop {
        match wanted.recv_timeout(if again { RETRY } else { IDLE }) {
            Ok(Wanted::Flush) => again = !checkpoint(&shared, &cleaner),
            Ok(Wanted::Spare) => {}
            Err(RecvTimeoutError::Timeout) => again = again && !checkpoint(&shared, &cleaner),
            Err(RecvTimeoutError::Disconnected) => {
                checkpoint(&shared, &cleaner);
                return;
            }
        }
        if let Some(Err(error)) = spare.as_ref().map(Spare::prepare) {
            tracing::warn!(%error, "cannot make room for the write log; its syncs take longer");
        }
    }
}

/// Whether RocksDB's files now hold everything up to some moment after the call began.
fn checkpoint(shared: &Shared, cleaner: &Cleaner) -> bool {
    let flushed = match SeededBug::DeletesTooEarly.is_on() {
        true => shared.database.applied(),
        false => shared.database.flush().and_then(|()| shared.database.flushed()),
    };
    let deleted = match flushed {
        Ok(sequence) => cleaner.delete_flushed(sequence).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match deleted {
        Ok(segments) => {
            shared.metrics.checkpoints.fetch_add(1, Relaxed);
            tracing::debug!(segments, "log segments deleted");
            true
        }
        Err(error) => {
            shared.metrics.checkpoint_failures.fetch_add(1, Relaxed);
            tracing::error!(error, "cannot flush the database; the write log keeps growing");
            false
        }
    }
}
