//! What crosses threads: a few commands to a shard, a few notices from it.
//!
//! ```text
//!   server, admin ── post(Command) ──▶ [ ... ] ── shard, once a turn
//!          server ◀────── notice() ── [ ... ] ◀── shard
//! ```
//!
//! Nothing of a device or a message passes here. Both queues are bounded; a full one refuses, and
//! the one who posts decides what that means. A shard never waits for anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::SyncSender;

use crossbeam::queue::ArrayQueue;
use hawser_codec::error::CloseReason;

use super::ShellCounters;
use crate::core::event::LinkIndex;
use crate::io::IoCounters;
use crate::io::host::EventFd;
use crate::metrics::Counters;

const COMMANDS_MAX: usize = 64;

/// Every link of a shard may change its state some times before the server looks.
const NOTICES_MAX: usize = 256;

/// To a shard.
#[derive(Debug)]
pub enum Command {
    /// Begin the drain. `Notice::Drained` tells its end.
    Drain,
    /// End the loop after this turn.
    Stop,
    /// Copy the counters. The receiver may have given up.
    Snapshot(SyncSender<Snapshot>),
}

/// From a shard.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// The key set changed; keep it on disk.
    Keys(Vec<u8>),
    LinkUp {
        link: LinkIndex,
    },
    /// A link that was up is not, or one could not come up for a reason that a person must know.
    LinkDown {
        link: LinkIndex,
        reason: CloseReason,
    },
    /// The drain is over: no session is left and no slot is taken.
    Drained,
}

/// The numbers of one shard at one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub shard: u16,
    pub core: Counters,
    pub shell: ShellCounters,
    pub io: IoCounters,
}

/// One shard's mailbox, shared with the server.
#[derive(Debug)]
pub struct Mailbox {
    commands: ArrayQueue<Command>,
    notices: ArrayQueue<Notice>,
    memory_low: AtomicBool,
    connections: AtomicU32,
    wake: Option<Arc<EventFd>>,
}

impl Mailbox {
    /// `wake` is the eventfd that the shard's `Io` waits on; a simulated one needs none.
    pub fn new(wake: Option<Arc<EventFd>>) -> Mailbox {
        Mailbox {
            commands: ArrayQueue::new(COMMANDS_MAX),
            notices: ArrayQueue::new(NOTICES_MAX),
            memory_low: AtomicBool::new(false),
            connections: AtomicU32::new(0),
            wake,
        }
    }

    /// Gives a command back when too many wait already.
    pub fn post(&self, command: Command) -> Result<(), Command> {
        self.commands.push(command)?;
        if let Some(wake) = &self.wake {
            wake.signal();
        }
        Ok(())
    }

    /// Whether the machine's free memory is below the watermark. Seen with the next turn.
    pub fn set_memory_low(&self, low: bool) {
        self.memory_low.store(low, Ordering::Relaxed);
    }

    /// How many connections the shard had after its last turn.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn set_connections(&self, count: u32) {
        self.connections.store(count, Ordering::Relaxed);
    }

    pub fn notice(&self) -> Option<Notice> {
        self.notices.pop()
    }

    pub(super) fn command(&self) -> Option<Command> {
        self.commands.pop()
    }

    pub(super) fn memory_low(&self) -> bool {
        self.memory_low.load(Ordering::Relaxed)
    }

    /// When nobody looks, the oldest notice is the least interesting one.
    pub(super) fn notify(&self, notice: Notice) {
        self.notices.force_push(notice);
    }
}
