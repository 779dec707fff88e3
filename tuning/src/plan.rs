//! What would change on a machine for a goal, and why: a pure reading of it.
//!
//! **Invariant:** a plan is empty of changes exactly when applying it would write nothing.

use crate::budget::{Budget, InUse, TooMany};
use crate::family::{self, Family};
use crate::goal::Goal;
use crate::host::Host;
use crate::machine::Machine;
use crate::setting::{Advice, Change, Proposals, Setting};

pub struct Plan {
    pub goal: Goal,
    pub budget: Budget,
    pub changes: Vec<Change>,
    pub advice: Vec<Advice>,
    /// Settings that this kernel or namespace does not have.
    pub absent: Vec<&'static Setting>,
    pub unchanged_count: usize,
}

/// Which settings are planned. Both empty: all.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    pub only: Vec<Family>,
    /// Names of settings that are left out.
    pub except: Vec<String>,
}

impl Choice {
    pub fn settings(&self) -> impl Iterator<Item = &'static Setting> {
        let is_kept = |setting: &&Setting| !self.except.iter().any(|name| name == setting.name);
        family::settings(&self.only).filter(is_kept)
    }

    /// The first excepted name that no setting has.
    pub fn unknown(&self) -> Option<&str> {
        let is_known = |name: &str| family::settings(&[]).any(|setting| setting.name == name);
        self.except.iter().map(String::as_str).find(|name| !is_known(name))
    }
}

impl Plan {
    pub fn make(
        host: &Host,
        machine: &Machine,
        goal: Goal,
        choice: &Choice,
    ) -> Result<Plan, TooMany> {
        let budget = Budget::of(machine, &goal, InUse::read(host))?;
        let proposals = Proposals::collect(host, machine, &goal, &budget, choice.settings());
        Ok(match proposals {
            Some(Proposals { changes, advice, absent, unchanged_count, .. }) => {
                Plan { goal, budget, changes, advice, absent, unchanged_count }
            }
            None => Plan {
                goal,
                budget,
                changes: Vec::new(),
                advice: Vec::new(),
                absent: Vec::new(),
                unchanged_count: 0,
            },
        })
    }
}
