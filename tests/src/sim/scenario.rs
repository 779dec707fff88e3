//! What a seed stands for: the size of the world, how hard it is treated, and for how long.
//!
//! Small on purpose: few slots, small sockets and short queues reach their limits within seconds
//! of virtual time, and a thousand small worlds reach more states than one large world.

use hawser_broker::core::CoreConfig;
use hawser_broker::io::sim::{Faults, SimConfig};
use hawser_broker::shard::ShardConfig;
use hawser_codec::limits::{DOWNLINK_BODY_BYTES_MAX, PULL_BYTES_MAX};
use hawser_control::node::limits::Limits;

use super::network::Delay;
use super::random::Random;

/// Both ends of every link have it.
pub const LINK_KEY: [u8; 32] = [7; 32];

/// Virtual time begins here.
pub const UNIX_START_MS: u64 = 1_700_000_000_000;

#[derive(Clone, Debug)]
pub struct Scenario {
    pub brokers: usize,
    pub shards_per_broker: usize,
    pub nodes: usize,
    pub apps: usize,
    pub identities: usize,
    pub topics: usize,
    /// Pushes in the faulty phase.
    pub messages: usize,
    /// Disturbances in the faulty phase.
    pub disturbances: usize,
    /// Connections that do not follow the protocol.
    pub rogues: usize,
    /// The faulty phase ends at this time.
    pub faulty_until_ms: u64,
    pub device_delay: Delay,
    pub link_delay: Delay,
    pub store_delay: Delay,
    /// How far a process's wall clock may be off.
    pub skew_ms: u64,
    /// Store operations that fail, in thousandths, while the world is faulty.
    pub store_failures: u64,
    pub io_faults: Faults,
    pub sim: SimConfig,
    pub shard: ShardConfig,
    pub limits: Limits,
}

impl Scenario {
    pub fn new(seed: u64) -> Scenario {
        let random = &mut Random::new(seed);
        let brokers = 1 + random.below(3);
        let shards_per_broker = 1 + random.below(2);
        let identities = 2 + random.below(10);
        let slots = (identities + 2 + random.below(12)) as u32;
        // A quarter of the worlds have no faults but what the workload does: what fails there
        // fails for a plain reason.
        let calm = random.chance(250);
        Scenario {
            brokers,
            shards_per_broker,
            nodes: 1 + random.below(2),
            apps: 1 + random.below(2),
            identities,
            topics: 3,
            messages: 30 + random.below(90),
            disturbances: if calm { 0 } else { 3 + random.below(16) },
            rogues: random.below(8),
            faulty_until_ms: random.between(25_000, 60_000),
            device_delay: delay(random, 30),
            link_delay: delay(random, 4),
            store_delay: delay(random, 6),
            skew_ms: if calm || random.chance(500) { 0 } else { random.between(1, 6_000) },
            store_failures: if calm || random.chance(400) { 0 } else { random.between(1, 80) },
            io_faults: if calm { Faults::default() } else { faults(random) },
            sim: SimConfig {
                seed,
                slots,
                socket_bytes: random.pick(&[2_048, 4_096, 16_384, 65_536]),
                buffers: random.pick(&[2, 8, 64]),
                buffer_bytes: random.pick(&[32, 128, 1024]),
                faults: Faults::default(),
            },
            shard: shard(random, slots),
            limits: limits(random),
        }
    }

    /// Whether nothing goes wrong but what the workload does.
    pub fn is_calm(&self) -> bool {
        self.disturbances == 0
    }
}

fn delay(random: &mut Random, most_ms: u64) -> Delay {
    let least_ms = random.between(0, most_ms / 3);
    Delay { least_ms, most_ms: random.between(least_ms, most_ms) }
}

fn faults(random: &mut Random) -> Faults {
    // Each kind is off in some worlds, so that its absence is tried as well.
    let mut up_to = |most: u64| if random.chance(300) { 0 } else { random.between(0, most) as u16 };
    Faults {
        short_reads: up_to(400),
        short_writes: up_to(150),
        delays: up_to(300),
        delay_ms_max: u64::from(up_to(25)),
        reorder: up_to(1) == 1,
        watches_end: up_to(60),
        watches_fail: up_to(100),
        no_buffers: up_to(100),
        resets: up_to(2),
        writable_delay_ms_max: u64::from(up_to(300)),
        ..Faults::default()
    }
}

fn shard(random: &mut Random, slots: u32) -> ShardConfig {
    let heartbeat_min_ms = random.between(2, 6) * 1000;
    ShardConfig {
        core: CoreConfig {
            slots_max: slots,
            // One more than devices: who takes a name over must get in first.
            connections_max: slots - random.below(2) as u32,
            handshake_timeout_ms: 4_000,
            heartbeat_min_ms,
            heartbeat_max_ms: heartbeat_min_ms * random.between(1, 3),
            heartbeat_margin_ms: 3_000,
            accept_delay_above: random.pick(&[4, 1_000_000]),
            accept_delay_ms_per_100k: random.pick(&[50, 200_000]),
            retry_after_ms: 1_500,
            drain_per_s: 20,
            redirect: vec!["10.1.0.1:7400".to_owned(), "broker.example:7400".to_owned()],
            topics_max: 32,
            fanout_budget: random.pick(&[1, 3, 64]),
            announce_budget: random.pick(&[1, 4, 64]),
            seed: random.draw(),
            ..CoreConfig::default()
        },
        link_key: LINK_KEY,
        // One answer to a pull must fit, or its device could never catch up.
        outbox_bytes_max: random.pick(&[PULL_BYTES_MAX + DOWNLINK_BODY_BYTES_MAX, 1 << 20]),
        partial_bytes_max: random.pick(&[2_048, 65_536]),
        link_queue_bytes_max: random.pick(&[300_000, 4 << 20]),
        link_idle_ms: 12_000,
        accepts_per_turn: random.pick(&[1, 4096]),
        ..ShardConfig::default()
    }
}

fn limits(random: &mut Random) -> Limits {
    Limits {
        tails_max: random.pick(&[2, 1000]),
        append_batch_max: random.pick(&[1, 3, 64]),
        reads_max: random.pick(&[1, 2, 64]),
        read_entries: random.pick(&[1, 3, 32]),
        reads_per_answer_max: random.pick(&[1, 4]),
        acks_waiting_max: 1000,
        trim_batch_max: random.pick(&[1, 128]),
        trims_max: random.pick(&[1, 16]),
        sweep_ms: 1_000,
        store_retry_ms: 50,
        store_retry_max_ms: 1_000,
        ..Limits::default()
    }
}
