//! A thousand worlds, and proof that they are worth something: the same seed is the same world, and
//! together they reach what they are meant to reach.

use hawser_codec::error::CloseReason;
use hawser_tests::sim::{self, Options};

const SEEDS: u64 = 1000;

#[test]
fn a_thousand_worlds_keep_every_promise_and_reach_everything() {
    let summary = sim::run_many(1, SEEDS, &Options::default(), |_, _| {});
    assert_eq!(summary.seeds, SEEDS);
    let failures: Vec<String> = summary.failures.iter().map(ToString::to_string).collect();
    assert!(
        failures.is_empty(),
        "{} of {SEEDS} seeds failed; replay with cargo run --release -p hawser-tests -- \
         --verbose --seed N\n{}",
        failures.len(),
        failures[..failures.len().min(5)].join("\n")
    );
    let reasons = CloseReason::ALL.iter().filter(|reason| !LINKS_ONLY.contains(reason));
    let labels = reasons.map(|reason| reason.label());
    let missing: Vec<&str> = labels
        .chain(REACHED)
        .filter(|what| summary.reached.get(what).is_none_or(|&times| times == 0))
        .collect();
    assert!(missing.is_empty(), "never reached: {missing:?}; it was {:#?}", summary.reached);
}

/// Reasons that no device connection ends for.
const LINKS_ONLY: [CloseReason; 3] =
    [CloseReason::LinkAuth, CloseReason::LinkOverflow, CloseReason::Unknown];

/// Faults, paths of delivery, and ends, by the names under which worlds and shards count them. No
/// world has a store that went back, so none has a reset of a device's position.
const REACHED: [&str; 61] = [
    "end: released by a heartbeat",
    "disturbance: store flaky",
    "disturbance: stray kick",
    "disturbance: node killed",
    "disturbance: node's machine lost",
    "disturbance: node started",
    "disturbance: node partitioned",
    "disturbance: link cut",
    "disturbance: broker killed",
    "disturbance: broker's machine lost",
    "disturbance: broker drained",
    "disturbance: broker started",
    "disturbance: memory low",
    "disturbance: store stalled",
    "disturbance: node's clock jumped",
    "disturbance: broker's clock jumped",
    "drain: done",
    "broker: keys from disk",
    "link: cut for silence",
    "store: failed",
    "store: unknown outcome",
    "store: timed out",
    "store: answer to a dead node",
    "push: stored, online",
    "push: stored, offline",
    "push: duplicate",
    "link: announce",
    "link: gone",
    "link: pull",
    "link: ack",
    "link: group ack",
    "link: group pull",
    "link: group fetch",
    "link: group sent",
    "link: keys",
    "link: deliver",
    "link: entries",
    "link: group deliver",
    "link: group cursor",
    "link: group entries",
    "link: group fetched",
    "link: kick",
    "device: repeat recognised",
    "hawser_broker_push_inline_total",
    "hawser_broker_push_pulled_total",
    "hawser_broker_notices_total",
    "hawser_broker_pulls_total",
    "hawser_broker_acks_total",
    "hawser_broker_group_sent_total",
    "hawser_broker_group_pulled_total",
    "hawser_broker_group_waiting_total",
    "hawser_broker_group_fetches_total",
    "hawser_broker_duplicates_dropped_total",
    "hawser_broker_stale_dropped_total",
    "hawser_broker_kicks_total",
    "hawser_broker_heartbeats_total",
    "hawser_broker_intervals_grown_total",
    "hawser_broker_delayed_accepts_total",
    "end: delivered",
    "end: expired",
    "end: collapsed",
];

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 1..=20 {
        let first = sim::run(seed, &Options::default());
        let second = sim::run(seed, &Options::default());
        assert_eq!(first, second, "seed {seed} does not replay");
    }
    let one = sim::run(1, &Options::default()).map(|report| report.hash);
    let other = sim::run(2, &Options::default()).map(|report| report.hash);
    assert_ne!(one, other, "two seeds are two worlds");
}
