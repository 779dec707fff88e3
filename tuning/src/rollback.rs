//! Undoes what the journal has, exactly: each place holds again what it held before hawser, byte for
//! byte, unless somebody else has changed it since.
//!
//! | there is now | then |
//! |---|---|
//! | what was before | nothing to do |
//! | hawser's value, or what the kernel made of it | what was before is written |
//! | something else, and the machine was restarted | nothing to do: the restart undid it |
//! | no such place: the card, the queue or the module is gone | nothing to do |
//! | something else | left, shown three ways; `--force` writes what was before |
//!
//! The last applied goes first, except that a card has its number of queues back before what belongs to
//! each of them.
//!
//! It can be killed and run again: a place that was restored is of the first kind then. The journal
//! is removed with its last entry.

use crate::apply::{ThreeWays, Unwritable, restore};
use crate::host::Host;
use crate::journal::{self, Entry, Journal, JournalError, State};
use crate::lock::{self, Lock};
use crate::machine::Machine;
use crate::place::Place;

/// What became of one place.
#[derive(Clone, Debug)]
pub enum Fate {
    Restored {
        before: Option<String>,
    },
    AsBefore,
    GoneWithReboot,
    /// There is no such place any more.
    Vanished,
    /// Somebody else changed it; it is left.
    Theirs(ThreeWays),
    Failed {
        reason: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("nothing was changed, since {} cannot be written ({}): run it as root outside a container", .0.place, .0.reason)]
    NotWritable(Unwritable),
}

/// The places and their fates, the last applied first.
pub fn rollback(
    host: &Host,
    machine: &Machine,
    forces: bool,
) -> Result<Vec<(Place, Fate)>, RollbackError> {
    if !host.has(journal::PATH) {
        return Ok(Vec::new());
    }
    let _lock = Lock::take(host, lock::PATIENCE)?;
    let journal = Journal::read(host, machine)?.settled(host);
    let mut entries: Vec<Entry> = journal.entries().iter().rev().cloned().collect();
    entries.sort_by_key(|entry| entry.place.undo_rank());
    let verdict = |entry: &Entry| verdict(host, machine, &journal, entry, forces);
    let verdicts: Vec<Verdict> = entries.iter().map(verdict).collect();
    for (entry, verdict) in entries.iter().zip(&verdicts) {
        let differs = matches!(verdict, Verdict::Restore) && entry.place.read(host) != entry.before;
        if let (true, Err(reason)) = (differs, entry.place.check_writable(host)) {
            let place = entry.place.name();
            return Err(RollbackError::NotWritable(Unwritable { place, reason }));
        }
    }
    let mut fates = Vec::new();
    let mut kept = Vec::new();
    for (mut entry, verdict) in entries.into_iter().zip(verdicts) {
        let fate = match verdict {
            Verdict::Leave(fate) => fate,
            Verdict::Restore => carry_out(host, &entry),
        };
        if let Fate::Failed { .. } = fate {
            // Ours is what the attempt left there, so that another can be made.
            entry.state = State::Done { read_back: entry.place.read(host) };
        }
        fates.push((entry.place.clone(), fate.clone()));
        if let Fate::Theirs(_) | Fate::Failed { .. } = fate {
            kept.push(entry);
        }
    }
    kept.reverse();
    journal.keep_only(host, kept)?;
    Ok(fates)
}

enum Verdict {
    Leave(Fate),
    Restore,
}

fn verdict(
    host: &Host,
    machine: &Machine,
    journal: &Journal,
    entry: &Entry,
    forces: bool,
) -> Verdict {
    let now = entry.place.read(host);
    if journal.is_gone(entry, machine) {
        let is_before = now == entry.before;
        return Verdict::Leave(if is_before { Fate::AsBefore } else { Fate::GoneWithReboot });
    }
    // What a killed run left beside a file, or what changes while others are restored.
    if now == entry.before {
        return Verdict::Restore;
    }
    if entry.place.has_vanished(host) {
        return Verdict::Leave(Fate::Vanished);
    }
    let State::Done { read_back } = &entry.state else { unreachable!("the journal is settled") };
    if forces || read_back.as_deref().unwrap_or("") == now.as_deref().unwrap_or("") {
        return Verdict::Restore;
    }
    let text = |content: Option<&str>| content.unwrap_or("(nothing)").trim().to_owned();
    Verdict::Leave(Fate::Theirs(ThreeWays {
        place: entry.place.name(),
        before: text(entry.before.as_deref()),
        ours: entry.ours.trim().to_owned(),
        now: text(now.as_deref()),
    }))
}

fn carry_out(host: &Host, entry: &Entry) -> Fate {
    let is_as_before = entry.place.read(host) == entry.before;
    if is_as_before && !matches!(entry.place, Place::File(_)) {
        return Fate::AsBefore;
    }
    match restore(host, &entry.place, entry.before.as_deref(), entry.makes_folder) {
        Ok(()) if is_as_before => Fate::AsBefore,
        Ok(()) if entry.before.is_some() && entry.place.has_vanished(host) => Fate::Vanished,
        Ok(()) => Fate::Restored { before: entry.before.clone() },
        Err(error) => Fate::Failed { reason: error.to_string() },
    }
}
