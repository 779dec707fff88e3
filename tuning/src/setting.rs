//! One setting as data: what it is, why, by which formula, how far, at what risk, and how to undo it.
//!
//! A setting's `propose` looks at the machine and says for each place what its value should be; it
//! reads and never writes. Three ways of wanting a value cover all of them:
//!
//! - `at_least`: a limit. It is raised and never lowered, so nothing in use falls outside.
//! - `exactly`: a choice.
//! - `fields`: several numbers in one file, as `tcp_rmem` has.
//!
//! What this program leaves to the operator (boot parameters, services of others, hardware) is told.

use crate::budget::Budget;
use crate::family::Family;
use crate::goal::Goal;
use crate::host::Host;
use crate::machine::Machine;
use crate::place::Place;

pub struct Setting {
    pub family: Family,
    /// As an operator knows it.
    pub name: &'static str,
    pub what: &'static str,
    pub why: &'static str,
    pub formula: &'static str,
    /// The kernel versions that have it.
    pub kernels: &'static str,
    /// What the kernel documents as possible; every number proposed is clamped to it.
    pub range: (u64, u64),
    pub risk: &'static str,
    pub undo: &'static str,
    /// Where the kernel documents it.
    pub source: &'static str,
    pub propose: fn(&mut Proposals),
}

/// How a setting comes back. Most are of the first kind.
pub const UNDO_VALUE: &str = "the former value is written back";
pub const UNDO_NOTHING: &str = "nothing was changed";

/// A value that should differ from what is there.
#[derive(Clone)]
pub struct Change {
    pub setting: &'static Setting,
    pub place: Place,
    /// As read; `None` for a file of ours that does not exist yet.
    pub current: Option<String>,
    pub wanted: String,
}

/// What an operator has to know or do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A fact with a cost.
    Note,
    /// Something that this program leaves to people.
    ByHand,
    /// It takes effect with the next boot.
    Reboot,
}

#[derive(Clone)]
pub struct Advice {
    pub setting: &'static Setting,
    pub kind: Kind,
    pub text: String,
}

/// Collects what the settings propose for one machine.
pub struct Proposals<'a> {
    pub host: &'a Host,
    pub machine: &'a Machine,
    pub goal: &'a Goal,
    pub budget: &'a Budget,
    setting: &'static Setting,
    pub changes: Vec<Change>,
    pub advice: Vec<Advice>,
    /// How many places were looked at and are as they should be.
    pub unchanged_count: usize,
    /// Settings that this kernel or namespace does not have.
    pub absent: Vec<&'static Setting>,
}

impl<'a> Proposals<'a> {
    pub fn collect(
        host: &'a Host,
        machine: &'a Machine,
        goal: &'a Goal,
        budget: &'a Budget,
        settings: impl IntoIterator<Item = &'static Setting>,
    ) -> Option<Proposals<'a>> {
        let mut settings = settings.into_iter().peekable();
        let mut proposals = Proposals {
            host,
            machine,
            goal,
            budget,
            setting: settings.peek()?,
            changes: Vec::new(),
            advice: Vec::new(),
            unchanged_count: 0,
            absent: Vec::new(),
        };
        for setting in settings {
            proposals.setting = setting;
            (setting.propose)(&mut proposals);
        }
        Some(proposals)
    }

    /// A limit that is raised to this and never lowered.
    pub fn at_least(&mut self, place: Place, wanted: u64) {
        let (min, max) = self.setting.range;
        let wanted = wanted.clamp(min, max);
        let Some(current) = self.current(&place) else { return };
        match number(&current) {
            Some(is) if is >= u128::from(wanted) => self.unchanged_count += 1,
            _ => self.change(place, Some(current), wanted.to_string()),
        }
    }

    /// A number that is to be this one.
    pub fn number(&mut self, place: Place, wanted: u64) {
        let (min, max) = self.setting.range;
        self.exactly(place, &wanted.clamp(min, max).to_string());
    }

    /// A word, list or mask that is to be this one.
    pub fn exactly(&mut self, place: Place, wanted: &str) {
        let Some(current) = self.current(&place) else { return };
        if place.same(&current, wanted) {
            self.unchanged_count += 1;
        } else {
            self.change(place, Some(current), wanted.to_owned());
        }
    }

    /// Several numbers of one file, each a function of what is there.
    pub fn fields(&mut self, place: Place, wanted: impl Fn(&[u64]) -> Vec<u64>) {
        let Some(current) = self.current(&place) else { return };
        let (min, max) = self.setting.range;
        let numbers: Vec<u64> =
            current.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let wanted = wanted(&numbers).into_iter().map(|number| number.clamp(min, max));
        let wanted: Vec<String> = wanted.map(|number| number.to_string()).collect();
        self.exactly(place, &wanted.join("\t"));
    }

    /// A whole file of ours.
    pub fn file(&mut self, path: &str, content: &str) {
        let place = Place::File(path.to_owned());
        match place.read(self.host) {
            Some(current) if current == content => self.unchanged_count += 1,
            current => self.change(place, current, content.to_owned()),
        }
    }

    pub fn tell(&mut self, kind: Kind, text: impl Into<String>) {
        self.advice.push(Advice { setting: self.setting, kind, text: text.into() });
    }

    fn change(&mut self, place: Place, current: Option<String>, wanted: String) {
        self.changes.push(Change { setting: self.setting, place, current, wanted });
    }

    /// What is there now; a setting that is not there is remembered as absent.
    fn current(&mut self, place: &Place) -> Option<String> {
        let current = place.read(self.host);
        if current.is_none() && self.absent.last().is_none_or(|last| last.name != self.setting.name)
        {
            self.absent.push(self.setting);
        }
        current
    }
}

/// `fs.file-max` is beyond 64 bits on some kernels.
fn number(text: &str) -> Option<u128> {
    text.trim().parse().ok()
}
