//! Syncs the write log once a second, for those who chose to lose that much in a power cut rather than
//! to wait.
//!
//! A thread of its own, so that nobody waits for the disk: the kernel takes writes to a file that is
//! being synced.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::log::{AppendError, Syncer};
use crate::shared::{Shared, Stopped};

const EVERY: Duration = Duration::from_secs(1);

/// Runs until the other end of `writing` is gone.
pub fn run(shared: Arc<Shared>, syncer: Syncer, writing: Receiver<()>) {
    while writing.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        if let Err(error @ AppendError::Broken(_)) = syncer.sync() {
            tracing::error!(%error, "cannot sync the write log");
            shared.stop_writes(Stopped::LogFailed);
        }
    }
}
