//! The simulator is only worth its name if it finds mistakes. Each seeded bug, a realistic one-line
//! mistake in the core or the node, must be found within a few seeds; without a bug the same seeds
//! are clean. Needs the feature `seeded-bugs`, which no binary has.

#![cfg(feature = "seeded-bugs")]

use hawser_broker::core::SeededBug as BrokerBug;
use hawser_control::node::SeededBug as NodeBug;
use hawser_tests::sim::{self, Options};

/// Seeds tried for one bug before it counts as missed.
const SEEDS: u64 = 400;

/// Seeds run at once.
const BATCH: u64 = 20;

#[test]
fn every_bug_of_the_broker_is_found() {
    let bugs = BrokerBug::ALL.map(|bug| Options { broker_bug: Some(bug), ..Options::default() });
    find_all(&bugs);
}

#[test]
fn every_bug_of_the_node_is_found() {
    let bugs = NodeBug::ALL.map(|bug| Options { node_bug: Some(bug), ..Options::default() });
    find_all(&bugs);
}

#[test]
fn without_a_bug_the_same_seeds_are_clean() {
    let summary = sim::run_many(1, SEEDS, &Options::default(), |_, _| {});
    let failures: Vec<String> = summary.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn find_all(bugs: &[Options]) {
    let missed: Vec<String> = bugs
        .iter()
        .filter(|options| !is_found(options))
        .map(|options| format!("{:?} {:?}", options.broker_bug, options.node_bug))
        .collect();
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:#?}");
}

fn is_found(options: &Options) -> bool {
    for first in (1..=SEEDS).step_by(BATCH as usize) {
        let summary = sim::run_many(first, BATCH, options, |_, _| {});
        if let Some(failure) = summary.failures.first() {
            let oracle = failure.message.lines().next().unwrap_or_default();
            println!(
                "{:?} {:?}: seed {}: {oracle}",
                options.broker_bug, options.node_bug, failure.seed
            );
            return true;
        }
    }
    false
}
