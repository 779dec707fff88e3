//! Keeps interrupts spread while the machine runs: measure, decide by [`placement`], move, say so.
//!
//! Each round looks at the interrupts of the cards' queues over one interval. A round makes at most
//! [`MOVES_MAX`] moves, and an interrupt that was moved rests for [`REST_ROUNDS`], so that a load that
//! swings faster than it can be followed is not followed. What is moved is in the journal first, like
//! everything that is applied; `rollback` puts it back.

use std::collections::BTreeMap;

use crate::cpus::CpuSet;
use crate::host::Host;
use crate::interrupt::{self, Interrupt, affinity_path};
use crate::journal::{Journal, JournalError};
use crate::lock::{self, Lock};
use crate::machine::Machine;
use crate::place::Place;
use crate::placement::{self, Group, Load, Move};

const MOVES_MAX: usize = 4;
const REST_ROUNDS: u32 = 6;

pub struct Watch {
    former: Vec<Interrupt>,
    /// Rounds until an interrupt may move again.
    resting: BTreeMap<u32, u32>,
}

/// What became of a move.
#[derive(Clone, Debug)]
pub struct Moved {
    pub made: Move,
    pub name: String,
    /// Interrupts in the interval that decided it.
    pub weight: u64,
    /// Why the kernel or its driver did not take it.
    pub refused: Option<String>,
}

impl Watch {
    pub fn begin(host: &Host) -> Watch {
        Watch { former: interrupt::read_all(host), resting: BTreeMap::new() }
    }

    /// Compares with the last reading and decides; reads, and writes nothing.
    pub fn decide(&mut self, host: &Host, machine: &Machine) -> Vec<Moved> {
        let now = interrupt::read_all(host);
        let weights = weights(&self.former, &now);
        self.resting.retain(|_, rounds| {
            *rounds -= 1;
            *rounds > 0
        });
        let mut decided = Vec::new();
        for mut group in groups(machine, &now, &weights) {
            group.resting = self.resting.keys().copied().collect();
            let moves = placement::moves(&group);
            decided.extend(placement::first(&group, moves, MOVES_MAX - decided.len()));
        }
        let told = |made: Move| Moved {
            made,
            name: name(&now, made.interrupt),
            weight: weights.get(&made.interrupt).map_or(0, |(_, weight)| *weight),
            refused: None,
        };
        let moved = decided.into_iter().map(told).collect();
        self.former = now;
        moved
    }

    /// Makes the moves, each in the journal first.
    pub fn carry_out(
        &mut self,
        host: &Host,
        machine: &Machine,
        moves: &mut [Moved],
    ) -> Result<(), JournalError> {
        if moves.is_empty() {
            return Ok(());
        }
        if machine.irqbalance_runs {
            // It may have been started long after the watch.
            let refused = "irqbalance runs and would undo it: `systemctl disable --now irqbalance`";
            moves.iter_mut().for_each(|moved| moved.refused = Some(refused.to_owned()));
            return Ok(());
        }
        let _lock = Lock::take(host, lock::PATIENCE)?;
        for moved in moves {
            let place = Place::Value(affinity_path(moved.made.interrupt));
            let wanted = moved.made.to.to_string();
            let journal = Journal::read(host, machine)?.settled(host);
            journal.intend(host, machine, &[(place.clone(), place.read(host), wanted.clone())])?;
            moved.refused = place.write(host, &wanted).err().map(|error| error.to_string());
            Journal::done(host, &place, place.read(host))?;
            self.resting.insert(moved.made.interrupt, REST_ROUNDS);
        }
        Ok(())
    }
}

/// Where an interrupt fired most since the last reading, and how often in all.
fn weights(former: &[Interrupt], now: &[Interrupt]) -> BTreeMap<u32, (u32, u64)> {
    let before = |number: u32| former.iter().find(|interrupt| interrupt.number == number);
    let weight = |interrupt: &Interrupt| {
        let grown = interrupt.since(before(interrupt.number)?);
        let (cpu, _) = grown.iter().max_by_key(|(_, count)| **count)?;
        Some((interrupt.number, (*cpu, grown.values().sum())))
    };
    now.iter().filter_map(weight).collect()
}

/// The cards' interrupts by node. One that may go to several CPUs counts where it fired.
fn groups(machine: &Machine, now: &[Interrupt], weights: &BTreeMap<u32, (u32, u64)>) -> Vec<Group> {
    let mut by_node: BTreeMap<Option<u32>, Group> = BTreeMap::new();
    for nic in &machine.nics {
        let near = machine.cpus_near(nic);
        let group = by_node.entry(nic.node).or_default();
        for number in &nic.interrupts {
            let Some(&(fired_on, weight)) = weights.get(number) else { continue };
            let bound = now.iter().find(|interrupt| interrupt.number == *number);
            let bound = bound.map(|interrupt| &interrupt.affinity).filter(|set| set.len() == 1);
            let cpu = bound.and_then(CpuSet::first).unwrap_or(fired_on);
            group.loads.push(Load { interrupt: *number, cpu, weight });
        }
        group.cpus = near;
    }
    by_node.into_values().collect()
}

fn name(interrupts: &[Interrupt], number: u32) -> String {
    let found = interrupts.iter().find(|interrupt| interrupt.number == number);
    found.map_or_else(String::new, |interrupt| interrupt.name.clone())
}
