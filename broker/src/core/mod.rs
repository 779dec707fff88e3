//! The sans-IO core of one shard.

use hawser_codec::error::DecodeError;

use crate::metrics::Counters;

pub mod event;

use event::{Actions, Event, Now};

/// What a shard's core must know. Plain values; the configuration file is the shell's.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Slots are numbered `0..slots_max`.
    pub slots_max: u32,
    /// Connections above this are refused. At most `slots_max`.
    pub connections_max: u32,
    /// Links are numbered `0..links`.
    pub links: u8,
    pub handshake_timeout_ms: u64,
    pub heartbeat_min_ms: u64,
    pub heartbeat_max_ms: u64,
    /// A session is idle after one and a half intervals and this margin.
    pub heartbeat_margin_ms: u64,
    pub accept_delay_above: u32,
    pub accept_delay_ms_per_100k: u64,
    pub retry_after_ms: u32,
    pub drain_per_s: u32,
    /// At most `REDIRECT_ADDRESSES_MAX` addresses of at most `ADDRESS_BYTES_MAX` bytes.
    pub redirect: Vec<String>,
    pub topics_max: u32,
    /// Sends of group entries in one turn.
    pub fanout_budget: u32,
    /// Sessions announced again in one turn.
    pub announce_budget: u32,
    /// Keys the hash of the topic table, so that devices cannot choose colliding topics.
    pub seed: u64,
}

impl Default for CoreConfig {
    fn default() -> CoreConfig {
        CoreConfig {
            slots_max: 20_000,
            connections_max: 20_000,
            links: 1,
            handshake_timeout_ms: 10_000,
            heartbeat_min_ms: 180_000,
            heartbeat_max_ms: 600_000,
            heartbeat_margin_ms: 20_000,
            accept_delay_above: 1_000_000,
            accept_delay_ms_per_100k: 50,
            retry_after_ms: 5_000,
            drain_per_s: 1_000,
            redirect: Vec::new(),
            topics_max: 32,
            fanout_budget: 4096,
            announce_budget: 4096,
            seed: 0,
        }
    }
}

/// What the shell measures and the core decides upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Free memory is below the watermark: nobody is admitted.
    pub memory_low: bool,
    /// Bytes held for devices that do not read. Only shown.
    pub outbox_bytes: u64,
}

/// One shard's sessions and everything decided about them.
pub struct Core {
    config: CoreConfig,
    counters: Counters,
}

impl Core {
    pub fn new(config: CoreConfig) -> Core {
        Core { config, counters: Counters::default() }
    }

    /// Takes over a key set that was kept on disk (`Action::SaveKeys`).
    pub fn restore_keys(&mut self, _bytes: &[u8]) -> Result<(), DecodeError> {
        Ok(())
    }

    /// Takes in what happened.
    pub fn on_event(&mut self, _event: Event<'_>, _now: Now, _out: &mut Actions) {}

    /// Ends a turn, after its events: timers, fan-out, announce walks, drain, batches to the links.
    pub fn on_turn(&mut self, _now: Now, _gauges: Gauges, _out: &mut Actions) {}

    /// When `on_turn` must run next, in `Now::mono_ms`. A time that has passed means at once.
    pub fn deadline_ms(&self) -> Option<u64> {
        None
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Connections that are neither free nor closing.
    pub fn sessions(&self) -> u32 {
        0
    }

    /// Asserts the whole structure; slow, for tests.
    pub fn invariants(&self) {}
}
