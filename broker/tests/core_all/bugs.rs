//! The tests' own test: every deliberate mistake of the core is seen, by the scripts and, where
//! chance can meet it, by the random worlds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use hawser_broker::core::{CoreConfig, SeededBug};

use crate::world::World;
use crate::{rules, world};

/// Mistakes that the worlds cannot meet: their core never restarts, so its clock is never behind;
/// their nodes never kick the newer session; every lost link comes back in the end; and their
/// judge does not mind that a message comes too early.
const UNSEEN_BY_WORLDS: [SeededBug; 4] = [
    SeededBug::KickWithoutEpoch,
    SeededBug::NoPullAfterLinkLoss,
    SeededBug::AwakeAtOnce,
    SeededBug::EpochIgnoresLast,
];

/// How many worlds a mistake may survive.
const WORLDS: u64 = 150;

fn with(bug: SeededBug, config: CoreConfig) -> CoreConfig {
    CoreConfig { bug: Some(bug), ..config }
}

#[test]
fn the_rules_see_every_seeded_bug() {
    for bug in SeededBug::ALL {
        let is_seen = rules::RULES.iter().any(|rule| {
            let run = || rules::check(rule, with(bug, rules::config()));
            !matches!(catch_unwind(run), Ok(Ok(())))
        });
        assert!(is_seen, "no rule sees {bug:?}");
    }
}

#[test]
fn the_worlds_see_every_seeded_bug_that_they_can_meet() {
    let unseen: Vec<SeededBug> = SeededBug::ALL
        .into_iter()
        .filter(|&bug| {
            let is_well = |seed| {
                let world = World::new(seed, with(bug, world::config()));
                catch_unwind(AssertUnwindSafe(|| world.run())).is_ok()
            };
            (0..WORLDS).all(is_well)
        })
        .collect();
    assert_eq!(unseen, UNSEEN_BY_WORLDS);
}
