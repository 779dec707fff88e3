//! Does what a plan says: all or nothing, and nothing before the journal is on disk.
//!
//! ```text
//!   may everything be written? ─▶ journal: all intents, to disk ─▶ for each: write, read back, done
//!          │ no: refused                                              │ the kernel refuses:
//!          ▼ nothing was changed                                      ▼ what this run wrote is undone
//! ```

use std::io;

use crate::host::Host;
use crate::journal::{Entry, Journal, JournalError, State};
use crate::lock::{self, Lock};
use crate::machine::Machine;
use crate::place::Place;
use crate::plan::Plan;
use crate::setting::Change;

/// A value that was written, and what the place then held.
#[derive(Clone, Debug)]
pub struct Written {
    pub place: Place,
    pub before: Option<String>,
    pub wanted: String,
    pub read_back: Option<String>,
}

impl Written {
    /// The kernel took the value and made another of it.
    pub fn is_rounded(&self) -> bool {
        !self.read_back.as_ref().is_some_and(|now| self.place.same(now, &self.wanted))
    }
}

/// Why nothing was applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("nothing was changed, since these cannot be written: {}; run it as root outside a container, or leave them out with --only or --except", list(.0))]
    NotWritable(Vec<Unwritable>),
    #[error("nothing was changed, since somebody else changed what was applied before: {}; --overwrite takes them over, `hawser tune rollback` shows what is whose", three_ways(.0))]
    ChangedSince(Vec<ThreeWays>),
    #[error(
        "{place} does not take {wanted:?}: {reason}; what was applied before it was undone{not_undone}; leave it out with --except {setting:?}"
    )]
    Refused {
        place: String,
        wanted: String,
        reason: io::Error,
        setting: &'static str,
        not_undone: String,
    },
    #[error(
        "{reason}; what was applied was undone{not_undone}; make room for the journal and apply again"
    )]
    NotNoted { reason: JournalError, not_undone: String },
}

#[derive(Debug)]
pub struct Unwritable {
    pub place: String,
    pub reason: io::Error,
}

/// A value before hawser, hawser's, and the one that is there now.
#[derive(Clone, Debug)]
pub struct ThreeWays {
    pub place: String,
    pub before: String,
    pub ours: String,
    pub now: String,
}

/// Applies a plan. Applied twice, the second has nothing to write.
pub fn apply(
    host: &Host,
    machine: &Machine,
    plan: &Plan,
    overwrites: bool,
) -> Result<Vec<Written>, ApplyError> {
    if plan.changes.is_empty() {
        Journal::read(host, machine)?;
        return Ok(Vec::new());
    }
    check_writable(host, plan)?;
    let mut run = Run::begin(host, machine)?;
    run.check(machine, plan, overwrites)?;
    run.pass(machine, &plan.changes)?;
    Ok(run.written)
}

/// One `apply`, which may have several passes: where cards get other queues, the plan is made anew
/// after that. All of it is undone when any of it is refused. Nobody else applies meanwhile.
pub struct Run<'a> {
    host: &'a Host,
    /// As it was before this run.
    former: Journal,
    written: Vec<Written>,
    _lock: Lock,
}

impl<'a> Run<'a> {
    pub fn begin(host: &'a Host, machine: &Machine) -> Result<Run<'a>, ApplyError> {
        let lock = Lock::take(host, lock::PATIENCE)?;
        let former = Journal::read(host, machine)?.settled(host);
        Ok(Run { host, former, written: Vec::new(), _lock: lock })
    }

    /// Whether all of a plan may be written, as far as that can be known before.
    pub fn check(
        &self,
        machine: &Machine,
        plan: &Plan,
        overwrites: bool,
    ) -> Result<(), ApplyError> {
        let changed = changed_since(machine, &self.former, plan);
        if !changed.is_empty() && !overwrites {
            return Err(ApplyError::ChangedSince(changed));
        }
        check_writable(self.host, plan)
    }

    pub fn pass(&mut self, machine: &Machine, changes: &[Change]) -> Result<(), ApplyError> {
        if changes.is_empty() {
            return Ok(());
        }
        let intent =
            |change: &Change| (change.place.clone(), change.current.clone(), change.wanted.clone());
        let intents: Vec<_> = changes.iter().map(intent).collect();
        let journal = Journal::read(self.host, machine)?.settled(self.host);
        let done = journal.intend(self.host, machine, &intents);
        let done = done.map_err(Problem::Journal);
        done.and_then(|()| changes.iter().try_for_each(|change| self.write(change)))
            .map_err(|problem| self.given_up(machine, problem))
    }

    /// What this run wrote so far.
    pub fn written(&self) -> &[Written] {
        &self.written
    }

    fn write<'c>(&mut self, change: &'c Change) -> Result<(), Problem<'c>> {
        let written = change.place.write(self.host, &change.wanted);
        let read_back = change.place.read(self.host);
        // What a refused write left behind is undone too: a card's disciplines are several, and not
        // all may be taken.
        if written.is_ok() || read_back != change.current {
            self.written.push(Written {
                place: change.place.clone(),
                before: change.current.clone(),
                wanted: change.wanted.clone(),
                read_back: read_back.clone(),
            });
        }
        written.map_err(|reason| Problem::Refused(change, reason))?;
        Journal::done(self.host, &change.place, read_back).map_err(Problem::Journal)
    }

    fn given_up(&mut self, machine: &Machine, problem: Problem) -> ApplyError {
        let not_undone = self.undo(machine);
        match problem {
            Problem::Journal(reason) => ApplyError::NotNoted { reason, not_undone },
            Problem::Refused(change, reason) => ApplyError::Refused {
                place: change.place.name(),
                wanted: change.wanted.clone(),
                reason,
                setting: change.setting.name,
                not_undone,
            },
        }
    }

    /// Puts back what this run wrote, and says what could not be.
    pub fn undo(&mut self, machine: &Machine) -> String {
        let mut written: Vec<Written> = self.written.drain(..).rev().collect();
        written.sort_by_key(|value| value.place.undo_rank());
        let noted = Journal::read(self.host, machine).unwrap_or_default();
        let mut journal = self.former.clone();
        let mut stuck = Vec::new();
        for value in written {
            let Written { place, before, wanted, .. } = value;
            let makes_folder = noted.entry(&place).is_some_and(|entry| entry.makes_folder);
            let Err(error) = restore(self.host, &place, before.as_deref(), makes_folder) else {
                // For the case that this is killed too; the journal is written anew below.
                let _ = Journal::done(self.host, &place, before);
                continue;
            };
            stuck.push(format!("{}: {error}", place.name()));
            let former = journal.entry(&place).cloned();
            let read_back = place.read(self.host);
            journal.add(
                machine,
                Entry {
                    before: former.map_or(before, |former| former.before),
                    ours: wanted,
                    makes_folder,
                    is_of_last_boot: true,
                    state: State::Done { read_back },
                    earlier: None,
                    place,
                },
            );
        }
        // Places that hold again what they held before this run are as the former journal says.
        let entries = journal.entries().to_vec();
        if let Err(error) = journal.keep_only(self.host, entries) {
            stuck.push(error.to_string());
        }
        match stuck.is_empty() {
            true => String::new(),
            false => format!(", except {}", stuck.join(", ")),
        }
    }
}

/// Why a pass cannot go on.
enum Problem<'c> {
    Refused(&'c Change, io::Error),
    Journal(JournalError),
}

pub fn check_writable(host: &Host, plan: &Plan) -> Result<(), ApplyError> {
    let check = |change: &Change| {
        let reason = change.place.check_writable(host).err()?;
        Some(Unwritable { place: change.place.name(), reason })
    };
    let unwritable: Vec<Unwritable> = plan.changes.iter().filter_map(check).collect();
    if unwritable.is_empty() { Ok(()) } else { Err(ApplyError::NotWritable(unwritable)) }
}

/// What is to be written over although it is no longer what an earlier run left there.
fn changed_since(machine: &Machine, journal: &Journal, plan: &Plan) -> Vec<ThreeWays> {
    let changed = |change: &Change| {
        let entry = journal.entry(&change.place)?;
        let State::Done { read_back } = &entry.state else { return None };
        if journal.is_gone(entry, machine) || *read_back == change.current {
            return None;
        }
        let text = |content: &Option<String>| content.clone().unwrap_or_default().trim().to_owned();
        Some(ThreeWays {
            place: change.place.name(),
            before: text(&entry.before),
            ours: text(read_back),
            now: text(&change.current),
        })
    };
    plan.changes.iter().filter_map(changed).collect()
}

/// Makes a place hold again what it held, to the byte.
pub fn restore(
    host: &Host,
    place: &Place,
    before: Option<&str>,
    makes_folder: bool,
) -> io::Result<()> {
    match (place, before) {
        (Place::File(path), None) => host.remove_file(path, makes_folder)?,
        (_, None) => {}
        // A queue or an interrupt that went with the card's number of queues.
        (_, Some(_)) if place.has_vanished(host) => return Ok(()),
        (_, Some(content)) => place.write(host, content)?,
    }
    let now = place.read(host);
    if now.as_deref() == before {
        return Ok(());
    }
    let (now, before) = (now.unwrap_or_default(), before.unwrap_or_default());
    Err(io::Error::other(format!("{:?} was written and it holds {:?}", before.trim(), now.trim())))
}

fn list(places: &[Unwritable]) -> String {
    let each = |place: &Unwritable| format!("{} ({})", place.place, place.reason);
    places.iter().map(each).collect::<Vec<_>>().join(", ")
}

pub fn three_ways(places: &[ThreeWays]) -> String {
    let each = |place: &ThreeWays| {
        let ThreeWays { place, before, ours, now } = place;
        format!("{place} (before hawser {before:?}, hawser's {ours:?}, now {now:?})")
    };
    places.iter().map(each).collect::<Vec<_>>().join(", ")
}
