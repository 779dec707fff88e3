//! What `apply` did, so that `rollback` can undo exactly that: one JSON object a line.
//!
//! ```text
//!   {"machine": ..}      whose journal this is; once
//!   {"boot": ..}         a boot in which something was applied
//!   {"intent": ..}       a place, what it held, and what it is to hold; all of a run before any write
//!   {"done": ..}         a place, and what it held when it was read back
//! ```
//!
//! **Invariant:** a place is written only after its intent is on disk, and in the order of intents;
//! so at most one place was being written when the program was killed: the first that is not done.
//! A torn last line is what was not finished writing, and is dropped.
//!
//! What such a run left open is decided before the next one begins ([`Journal::settled`]), so that of two
//! runs that were killed one after the other each has its own place that was being written.
//!
//! What stands in it is written with the rights of whoever calls `rollback`, so it has to be theirs or
//! root's, and nobody else may be able to write it.
//!
//! It is written anew when most of its lines are of the past: `watch` adds two with each move, for ever.
//!
//! A place keeps the first content that was there before hawser, however often it is applied again;
//! except that with a new boot what is lost with a reboot starts anew.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::machine::Machine;
use crate::place::Place;

/// Where it stands, below the machine's root.
pub const PATH: &str = "var/lib/hawser/tune.journal";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Machine { version: u32, id: String },
    Boot { id: String, network_namespace: String },
    Intent { place: String, before: Option<String>, ours: String, makes_folder: bool },
    Done { place: String, read_back: Option<String> },
}

const VERSION: u32 = 1;

/// Nobody but its owner writes it, whatever the mask of the process is.
const MODE: u32 = 0o644;

/// So many lines for each place, and so many more, before it is written anew. A place has two.
const LINES_PER_PLACE_MAX: usize = 8;
const LINES_MORE_MAX: usize = 256;

/// How far the last write of a place got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Written, and this is what it then held.
    Done { read_back: Option<String> },
    /// Being written when the program ended: it holds the former or any form of our value.
    Interrupted,
    /// Never written.
    Planned,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub place: Place,
    /// What it held before hawser; `None` for a file of ours that did not exist.
    pub before: Option<String>,
    pub ours: String,
    pub makes_folder: bool,
    /// In the boot that the journal's last entries are of.
    pub is_of_last_boot: bool,
    pub state: State,
    /// What it held when the last run began, if that was not the first.
    pub earlier: Option<String>,
}

impl Entry {
    fn lines(&self) -> Vec<Line> {
        let place = self.place.to_string();
        let mut lines = vec![Line::Intent {
            place: place.clone(),
            before: self.before.clone(),
            ours: self.ours.clone(),
            makes_folder: self.makes_folder,
        }];
        if let State::Done { read_back } = &self.state {
            lines.push(Line::Done { place, read_back: read_back.clone() });
        }
        lines
    }
}

#[derive(Clone, Debug, Default)]
pub struct Journal {
    machine: Option<String>,
    boot: Option<(String, String)>,
    entries: Vec<Entry>,
    line_count: usize,
    /// It says something else than the file, or the same in too many words.
    is_to_be_rewritten: bool,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(
        "the journal /{PATH} is of another machine ({theirs}, this is {ours}): move it away if this machine was made from that one's image"
    )]
    OtherMachine { theirs: String, ours: String },
    #[error(
        "the journal /{PATH} is of network namespace {theirs}, this is {ours}: run it there, or move the journal away if that namespace has ended"
    )]
    OtherNamespace { theirs: String, ours: String },
    #[error(
        "line {line} of the journal /{PATH} is not understood: {reason}; nothing was changed. Each line has what a place held before: put the line right, or take it back by hand and move the journal away"
    )]
    NotUnderstood { line: usize, reason: String },
    #[error(
        "the journal /{PATH} has version {version}, and this program knows {VERSION}: use a newer one"
    )]
    Version { version: u32 },
    #[error(
        "the journal /{PATH} is of user {owner} or can be written by others, and what it says would be done with your rights: look at it, then `chown root` and `chmod 644` it"
    )]
    NotTrusted { owner: u32 },
    #[error(
        "another hawser tune is changing this host and did not end in {patience_s} s: wait until it has, then try again"
    )]
    Busy { patience_s: u64 },
    #[error("cannot read or write the journal /{PATH}: {0}")]
    Io(#[from] io::Error),
}

impl Journal {
    /// The journal of this machine; empty if there is none.
    pub fn read(host: &Host, machine: &Machine) -> Result<Journal, JournalError> {
        let mut file = match fs::File::open(host.path(PATH)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Journal::default()),
            Err(error) => return Err(error.into()),
        };
        check_owner(&file)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut journal = Journal::default();
        let end = bytes.iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
        for (index, line) in bytes[..end].split(|&byte| byte == b'\n').enumerate() {
            // Of an empty file one empty line is left.
            if end == 0 {
                break;
            }
            journal.line_count = index + 1;
            let line_error =
                |reason: String| JournalError::NotUnderstood { line: index + 1, reason };
            let line =
                serde_json::from_slice(line).map_err(|error| line_error(error.to_string()))?;
            journal.take(line).map_err(|problem| match problem {
                Problem::Place(place) => line_error(format!("{place:?} is no place")),
                Problem::Version(version) => JournalError::Version { version },
            })?;
        }
        journal.mark_interrupted();
        journal.check(machine)?;
        let line_count_max = LINES_PER_PLACE_MAX * journal.entries.len() + LINES_MORE_MAX;
        journal.is_to_be_rewritten = journal.line_count > line_count_max;
        Ok(journal)
    }

    /// The same with what a killed run left open decided by what the places hold: what it was writing is
    /// ours as it is, what it had not begun has what an earlier run left there, and what no run ever
    /// wrote is not ours.
    pub fn settled(mut self, host: &Host) -> Journal {
        let is_open = |entry: &Entry| !matches!(entry.state, State::Done { .. });
        self.is_to_be_rewritten |= self.entries.iter().any(is_open);
        self.entries.retain_mut(|entry| {
            let now = entry.place.read(host);
            let is_written = now.as_deref().is_some_and(|now| entry.place.same(now, &entry.ours));
            let left = match &entry.state {
                State::Done { .. } => return true,
                State::Planned if !is_written && entry.earlier.is_none() => return false,
                State::Planned if !is_written => entry.earlier.take(),
                State::Interrupted | State::Planned => now,
            };
            entry.state = State::Done { read_back: left };
            true
        });
        self
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn entry(&self, place: &Place) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.place == *place)
    }

    /// Whether the machine was restarted since this was written, and the place lost it thereby.
    pub fn is_gone(&self, entry: &Entry, machine: &Machine) -> bool {
        let is_of_this_boot = self.boot.as_ref().is_some_and(|(boot, _)| *boot == machine.boot_id);
        entry.place.is_volatile() && !(is_of_this_boot && entry.is_of_last_boot)
    }

    /// Writes down what is about to be done, and returns when it is on disk.
    pub fn intend(
        &self,
        host: &Host,
        machine: &Machine,
        intents: &[(Place, Option<String>, String)],
    ) -> Result<(), JournalError> {
        let mut lines = if self.is_to_be_rewritten { self.lines() } else { Vec::new() };
        if self.machine.is_none() {
            lines.push(Line::Machine { version: VERSION, id: machine.id.clone() });
        }
        let boot = boot_of(machine);
        if self.boot.as_ref() != Some(&boot) {
            lines.push(Line::Boot { id: boot.0, network_namespace: boot.1 });
        }
        lines.extend(intents.iter().map(|(place, before, ours)| Line::Intent {
            place: place.to_string(),
            before: before.clone(),
            ours: ours.clone(),
            makes_folder: makes_folder(host, place),
        }));
        match self.is_to_be_rewritten {
            true => Ok(replace(host, &lines)?),
            false => append_to_disk(host, &lines),
        }
    }

    /// Notes that a place was written. It need not reach the disk: what it speaks of is lost with
    /// the same power, or is a file whose content says the same.
    pub fn done(host: &Host, place: &Place, read_back: Option<String>) -> Result<(), JournalError> {
        let mut file = fs::OpenOptions::new().append(true).open(host.path(PATH))?;
        let line = text(&Line::Done { place: place.to_string(), read_back });
        Ok(file.write_all(line.as_bytes())?)
    }

    /// Forgets all entries but these; without any the journal is removed.
    pub fn keep_only(mut self, host: &Host, kept: Vec<Entry>) -> Result<(), JournalError> {
        if kept.is_empty() {
            return match fs::remove_file(host.path(PATH)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            };
        }
        self.entries = kept;
        Ok(replace(host, &self.lines())?)
    }

    /// Takes an entry of this boot in, in place of a former one of the same place.
    pub fn add(&mut self, machine: &Machine, entry: Entry) {
        let boot = boot_of(machine);
        if self.boot.as_ref() != Some(&boot) {
            self.entries.iter_mut().for_each(|entry| entry.is_of_last_boot = false);
            (self.machine, self.boot) = (Some(machine.id.clone()), Some(boot));
        }
        self.entries.retain(|former| former.place != entry.place);
        self.entries.push(entry);
    }

    /// What is read as this again. Entries of former boots stand before the line of the last.
    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        lines.extend(self.machine.clone().map(|id| Line::Machine { version: VERSION, id }));
        let (of_last, former): (Vec<&Entry>, Vec<&Entry>) =
            self.entries.iter().partition(|entry| entry.is_of_last_boot);
        let boot =
            self.boot.clone().map(|(id, network_namespace)| Line::Boot { id, network_namespace });
        lines.extend(former.into_iter().flat_map(Entry::lines));
        lines.extend(boot);
        lines.extend(of_last.into_iter().flat_map(Entry::lines));
        lines
    }

    fn check(&self, machine: &Machine) -> Result<(), JournalError> {
        if let Some(theirs) = self.machine.as_ref().filter(|id| **id != machine.id) {
            let (theirs, ours) = (theirs.clone(), machine.id.clone());
            return Err(JournalError::OtherMachine { theirs, ours });
        }
        match &self.boot {
            // The number of a namespace means nothing after a reboot.
            Some((boot, theirs))
                if *boot == machine.boot_id && *theirs != machine.network_namespace =>
            {
                let (theirs, ours) = (theirs.clone(), machine.network_namespace.clone());
                Err(JournalError::OtherNamespace { theirs, ours })
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, line: Line) -> Result<(), Problem> {
        match line {
            Line::Machine { version, .. } if version > VERSION => {
                return Err(Problem::Version(version));
            }
            Line::Machine { id, .. } => self.machine = Some(id),
            Line::Boot { id, network_namespace } => {
                self.boot = Some((id, network_namespace));
                self.entries.iter_mut().for_each(|entry| entry.is_of_last_boot = false);
            }
            Line::Intent { place, before, ours, makes_folder } => {
                let place = Place::parse(&place).ok_or(Problem::Place(place))?;
                self.intent(place, before, ours, makes_folder);
            }
            Line::Done { place, read_back } => {
                let place = Place::parse(&place).ok_or(Problem::Place(place))?;
                if let Some(entry) = self.entries.iter_mut().find(|entry| entry.place == place) {
                    entry.state = State::Done { read_back };
                }
            }
        }
        Ok(())
    }

    fn intent(&mut self, place: Place, before: Option<String>, ours: String, makes_folder: bool) {
        let found = self.entries.iter().position(|entry| entry.place == place);
        // A later run goes to the end: writes happen in the order of their intents.
        let former = found.map(|index| self.entries.remove(index));
        let former = former.filter(|entry| entry.is_of_last_boot || !place.is_volatile());
        let entry = match former {
            Some(entry) => Entry {
                before: entry.before,
                makes_folder: entry.makes_folder || makes_folder,
                earlier: before,
                ours,
                is_of_last_boot: true,
                state: State::Planned,
                place,
            },
            None => Entry {
                place,
                before,
                ours,
                makes_folder,
                is_of_last_boot: true,
                state: State::Planned,
                earlier: None,
            },
        };
        self.entries.push(entry);
    }

    /// The first that is not done may have been written; those after it were not.
    fn mark_interrupted(&mut self) {
        let mut first = true;
        for entry in &mut self.entries {
            if !matches!(entry.state, State::Done { .. }) {
                let state = if first { State::Interrupted } else { State::Planned };
                entry.state = state;
                first = false;
            }
        }
    }
}

enum Problem {
    Place(String),
    Version(u32),
}

fn makes_folder(host: &Host, place: &Place) -> bool {
    let Place::File(path) = place else { return false };
    path.rsplit_once('/').is_some_and(|(folder, _)| !host.has(folder))
}

fn text(line: &Line) -> String {
    format!("{}\n", serde_json::to_string(line).expect("texts are valid JSON"))
}

/// The boot and the network namespace of this moment.
fn boot_of(machine: &Machine) -> (String, String) {
    (machine.boot_id.clone(), machine.network_namespace.clone())
}

fn check_owner(journal: &fs::File) -> Result<(), JournalError> {
    let about = journal.metadata()?;
    // The owner of a process's folder is its effective user.
    let ours = fs::metadata("/proc/self").map_or(0, |process| process.uid());
    let is_trusted = [0, ours].contains(&about.uid()) && about.mode() & 0o022 == 0;
    if is_trusted { Ok(()) } else { Err(JournalError::NotTrusted { owner: about.uid() }) }
}

fn append_to_disk(host: &Host, lines: &[Line]) -> Result<(), JournalError> {
    let path = host.path(PATH);
    let folder = path.parent().expect("the journal is in a folder").to_owned();
    fs::create_dir_all(&folder)?;
    // A torn line of a killed run would swallow the first one of this.
    let former = fs::read(&path).unwrap_or_default();
    let whole = former.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let mut file = fs::OpenOptions::new().create(true).append(true).mode(MODE).open(&path)?;
    if whole < former.len() {
        file.set_len(whole as u64)?;
    }
    let text: String = lines.iter().map(text).collect();
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Nothing of it will be done, so nothing of it may be read.
        let _ = file.set_len(whole as u64);
        return Err(error.into());
    }
    Ok(fs::File::open(&folder)?.sync_all()?)
}

/// Writes the whole journal anew; a crash leaves the former or this one.
fn replace(host: &Host, lines: &[Line]) -> io::Result<()> {
    let text: String = lines.iter().map(text).collect();
    host.write_file(PATH, &text)?;
    fs::File::open(host.path(PATH).parent().expect("the journal is in a folder"))?.sync_all()
}
