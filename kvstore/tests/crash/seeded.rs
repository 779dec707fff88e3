//! The rig is only worth its name if it finds mistakes. Each seeded bug, a realistic one-line mistake in
//! the store, must be found within the cycles that `make test` runs, nearly always in the first few; `main`
//! shows that without one they are clean. What needs a rare moment, such as a kill between a write and its
//! sync and then a power cut before the next one, gets more rounds of cycles. Needs the feature
//! `seeded-bugs`.

use hawser_kv::store::seeded::SeededBug;

use crate::number_from;
use crate::rig::{Kind, Rig};

const CYCLES: u64 = 200;
const ROUNDS: u64 = 20;

#[test]
fn every_seeded_bug_is_caught() {
    let seed = number_from("HAWSER_CRASH_SEED", 1);
    let mut missed = Vec::new();
    for bug in SeededBug::ALL {
        let name = format!("{bug:?}");
        let round =
            |round| Rig::new(&name, Kind::Power, seed + round, Some(&name)).run(CYCLES).err();
        match (0..ROUNDS).find_map(|number| Some((number, round(number)?))) {
            None => missed.push(name),
            Some((number, violation)) => println!("{name}, round {number}: {violation:.300}"),
        }
    }
    assert!(missed.is_empty(), "not caught within {ROUNDS} rounds of {CYCLES} cycles: {missed:?}");
}
