//! What goes wrong, and when: drawn from the seed before the run.

use super::random::Random;
use super::scenario::Scenario;

/// Processes are named by their places in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    KillNode {
        node: usize,
        silent: bool,
    },
    StartNode(usize),
    /// The node reaches the store and its callers, but no shard.
    PartitionNode {
        node: usize,
        for_ms: u64,
    },
    /// Some link is reset.
    CutLink,
    KillBroker {
        broker: usize,
        silent: bool,
    },
    /// It sends its devices elsewhere and ends.
    DrainBroker(usize),
    StartBroker(usize),
    MemoryLow {
        broker: usize,
        low: bool,
    },
    StallStore {
        for_ms: u64,
    },
    /// Every second operation fails.
    FlakyStore {
        for_ms: u64,
    },
    /// A node that knows less than it should asks for the end of a session that is the newest.
    StrayKick,
    /// A wall clock jumps to this far from the truth.
    SkewNode {
        node: usize,
        by_ms: i64,
    },
    SkewBroker {
        broker: usize,
        by_ms: i64,
    },
}

/// The disturbances of the faulty phase with their times. Everything that was stopped starts again
/// within it, or when the world heals.
pub fn plan(scenario: &Scenario, random: &mut Random) -> Vec<(u64, Disturbance)> {
    let mut plan = Vec::new();
    for _ in 0..scenario.disturbances {
        let at_ms = random.between(2_000, scenario.faulty_until_ms);
        let node = random.below(scenario.nodes);
        let broker = random.below(scenario.brokers);
        let skew = scenario.skew_ms;
        let by_ms = random.between(0, 2 * skew) as i64 - skew as i64;
        let disturbance = match random.below(14) {
            0 | 1 => {
                let down_ms = random.between(10, 12_000);
                plan.push((at_ms + down_ms, Disturbance::StartNode(node)));
                Disturbance::KillNode { node, silent: random.chance(300) }
            }
            2 => Disturbance::PartitionNode { node, for_ms: random.between(200, 20_000) },
            3 | 4 => Disturbance::CutLink,
            5 => {
                let down_ms = random.between(10, 10_000);
                plan.push((at_ms + down_ms, Disturbance::StartBroker(broker)));
                Disturbance::KillBroker { broker, silent: random.chance(300) }
            }
            6 => {
                plan.push((at_ms + random.between(5_000, 9_000), Disturbance::StartBroker(broker)));
                Disturbance::DrainBroker(broker)
            }
            7 => {
                let high = Disturbance::MemoryLow { broker, low: false };
                plan.push((at_ms + random.between(100, 8_000), high));
                Disturbance::MemoryLow { broker, low: true }
            }
            8 | 9 => Disturbance::StallStore { for_ms: random.between(50, 8_000) },
            10 => Disturbance::FlakyStore { for_ms: random.between(500, 6_000) },
            11 => Disturbance::StrayKick,
            12 => Disturbance::SkewNode { node, by_ms },
            _ => Disturbance::SkewBroker { broker, by_ms },
        };
        plan.push((at_ms, disturbance));
    }
    plan
}
