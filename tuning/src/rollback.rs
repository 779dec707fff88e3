//! Undoes what the journal has, exactly: each place holds again what it held before hawser, byte for
//! byte, unless somebody else has changed it since.
//!
//! | there is now | then |
//! |---|---|
//! | what was before | nothing to do |
//! | hawser's value, or what the kernel made of it | what was before is written |
//! | something else, and the machine was restarted | nothing to do: the restart undid it |
//! | something else | left, shown three ways; `--force` writes what was before |
//!
//! It can be killed and run again: a place that was restored is of the first kind then. The journal
//! is removed with its last entry.

use crate::apply::{ThreeWays, Unwritable, restore};
use crate::host::Host;
use crate::journal::{Entry, Journal, JournalError, State};
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
    let journal = Journal::read(host, machine)?;
    if journal.entries().is_empty() {
        return Ok(Vec::new());
    }
    let verdict = |entry: &Entry| verdict(host, machine, &journal, entry, forces);
    let verdicts: Vec<Verdict> = journal.entries().iter().map(verdict).collect();
    for (entry, verdict) in journal.entries().iter().zip(&verdicts) {
        if let (Verdict::Restore, Err(reason)) = (verdict, entry.place.check_writable(host)) {
            let place = entry.place.name();
            return Err(RollbackError::NotWritable(Unwritable { place, reason }));
        }
    }
    let mut fates = Vec::new();
    for (entry, verdict) in journal.entries().iter().zip(verdicts).rev() {
        let fate = match verdict {
            Verdict::Leave(fate) => fate,
            Verdict::Restore => carry_out(host, entry),
        };
        fates.push((entry.place.clone(), fate));
    }
    let is_open =
        |(_, fate): &&(Place, Fate)| matches!(fate, Fate::Theirs(_) | Fate::Failed { .. });
    let kept: Vec<Place> = fates.iter().filter(is_open).map(|(place, _)| place.clone()).collect();
    journal.keep_only(host, &kept)?;
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
    if now == entry.before {
        return Verdict::Leave(Fate::AsBefore);
    }
    if journal.is_gone(entry, machine) {
        return Verdict::Leave(Fate::GoneWithReboot);
    }
    if forces || is_ours(entry, now.as_deref()) {
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

fn is_ours(entry: &Entry, now: Option<&str>) -> bool {
    let is_written = |now: &str| entry.place.same(now, &entry.ours);
    let is_earlier = entry.earlier.is_some() && entry.earlier.as_deref() == now;
    match &entry.state {
        State::Done { read_back } => *read_back.as_deref().unwrap_or("") == *now.unwrap_or(""),
        // Whatever it holds comes from the write that was interrupted, even if the kernel rounded it.
        State::Interrupted => true,
        State::Planned => is_earlier || now.is_some_and(is_written),
    }
}

fn carry_out(host: &Host, entry: &Entry) -> Fate {
    match restore(host, &entry.place, entry.before.as_deref(), entry.makes_folder) {
        Ok(()) => Fate::Restored { before: entry.before.clone() },
        Err(error) => Fate::Failed { reason: error.to_string() },
    }
}
