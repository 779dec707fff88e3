//! The rig is only worth its name if it finds mistakes. Each seeded bug, a realistic one-line mistake in
//! the store, must be found within the cycles that `make test` runs; `main` shows that without one they
//! are clean. Needs the feature `seeded-bugs`.

use hawser_kv::store::seeded::SeededBug;

use crate::number_from;
use crate::rig::{Kind, Rig};

const CYCLES: u64 = 200;

#[test]
fn every_seeded_bug_is_caught() {
    let seed = number_from("HAWSER_CRASH_SEED", 1);
    let mut missed = Vec::new();
    for bug in SeededBug::ALL {
        let name = format!("{bug:?}");
        let found = Rig::new(&name, Kind::Power, seed, Some(&name)).run(CYCLES);
        match found {
            Ok(()) => missed.push(name),
            Err(violation) => println!("{name}: {violation:.300}"),
        }
    }
    assert!(missed.is_empty(), "not caught within {CYCLES} cycles: {missed:?}");
}
