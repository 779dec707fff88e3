//! Does what a plan says: all or nothing, and nothing before the journal is on disk.
//!
//! ```text
//!   may everything be written? ─▶ journal: all intents, to disk ─▶ for each: write, read back, done
//!          │ no: refused                                              │ the kernel refuses:
//!          ▼ nothing was changed                                      ▼ what this run wrote is undone
//! ```

use std::io;

use crate::host::Host;
use crate::journal::{Journal, JournalError, State};
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
    let journal = Journal::read(host, machine)?;
    if plan.changes.is_empty() {
        return Ok(Vec::new());
    }
    let changed = changed_since(machine, &journal, plan);
    if !changed.is_empty() && !overwrites {
        return Err(ApplyError::ChangedSince(changed));
    }
    check_writable(host, plan)?;
    let intent =
        |change: &Change| (change.place.clone(), change.current.clone(), change.wanted.clone());
    let intents: Vec<_> = plan.changes.iter().map(intent).collect();
    journal.intend(host, machine, &intents)?;
    let mut written = Vec::new();
    for change in &plan.changes {
        match write(host, change)? {
            Ok(value) => written.push(value),
            Err(reason) => {
                written.extend(half_written(host, change));
                let not_undone = undo(host, machine, &journal, &written, plan)?;
                return Err(ApplyError::Refused {
                    place: change.place.name(),
                    wanted: change.wanted.clone(),
                    reason,
                    setting: change.setting.name,
                    not_undone,
                });
            }
        }
    }
    Ok(written)
}

fn write(host: &Host, change: &Change) -> Result<io::Result<Written>, JournalError> {
    if let Err(reason) = change.place.write(host, &change.wanted) {
        return Ok(Err(reason));
    }
    let read_back = change.place.read(host);
    Journal::done(host, &change.place, read_back.clone())?;
    let (place, before) = (change.place.clone(), change.current.clone());
    Ok(Ok(Written { place, before, wanted: change.wanted.clone(), read_back }))
}

fn check_writable(host: &Host, plan: &Plan) -> Result<(), ApplyError> {
    let check = |change: &Change| {
        let reason = change.place.check_writable(host).err()?;
        Some(Unwritable { place: change.place.name(), reason })
    };
    let unwritable: Vec<Unwritable> = plan.changes.iter().filter_map(check).collect();
    if unwritable.is_empty() { Ok(()) } else { Err(ApplyError::NotWritable(unwritable)) }
}

/// What a refused write left behind: a card's disciplines are several, and not all may be taken.
fn half_written(host: &Host, change: &Change) -> Option<Written> {
    let read_back = change.place.read(host);
    (read_back != change.current).then(|| Written {
        place: change.place.clone(),
        before: change.current.clone(),
        wanted: change.wanted.clone(),
        read_back,
    })
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

/// Puts back what this run wrote, and says what could not be.
fn undo(
    host: &Host,
    machine: &Machine,
    former: &Journal,
    written: &[Written],
    plan: &Plan,
) -> Result<String, JournalError> {
    let journal = Journal::read(host, machine)?;
    let mut stuck = Vec::new();
    for value in written.iter().rev() {
        let makes_folder = journal.entry(&value.place).is_some_and(|entry| entry.makes_folder);
        match restore(host, &value.place, value.before.as_deref(), makes_folder) {
            Ok(()) => Journal::done(host, &value.place, value.before.clone())?,
            Err(error) => stuck.push(format!("{}: {error}", value.place.name())),
        }
    }
    // Places that hold again what they held before this run are none of the journal's any more,
    // unless an earlier run had changed them.
    let is_kept = |place: &Place| {
        former.entry(place).is_some() || stuck.iter().any(|text| text.starts_with(&place.name()))
    };
    let journal = Journal::read(host, machine)?;
    let planned: Vec<&Place> = plan.changes.iter().map(|change| &change.place).collect();
    let places = journal.entries().iter().map(|entry| entry.place.clone());
    let kept: Vec<Place> =
        places.filter(|place| !planned.contains(&place) || is_kept(place)).collect();
    journal.keep_only(host, &kept)?;
    Ok(match stuck.is_empty() {
        true => String::new(),
        false => format!(", except {}", stuck.join(", ")),
    })
}

/// Makes a place hold again what it held, to the byte.
pub fn restore(
    host: &Host,
    place: &Place,
    before: Option<&str>,
    makes_folder: bool,
) -> io::Result<()> {
    match (place, before) {
        (Place::File(path), None) if host.has(path) => host.remove_file(path, makes_folder)?,
        (_, None) => {}
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
