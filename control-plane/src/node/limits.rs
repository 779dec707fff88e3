//! Every maximum and every interval of a node, in one place.
//!
//! What waits is bounded by count and by bytes; past a limit a call is refused with
//! `Refusal::Overloaded`, and a pull is answered with "more", so that the device asks again.

/// Plain values with defaults for one node of a large cluster; tests lower them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Routes held. 16 B of key and 32 B of value each, at most doubled by the table's slack.
    pub routes_max: usize,
    pub links_max: usize,
    /// Streams whose tail is remembered, 48 B each. Others cost one more read per push.
    pub tails_max: usize,
    /// Pushes that wait for the store, and their bytes.
    pub pushes_waiting_max: usize,
    pub pushes_waiting_bytes_max: usize,
    /// Of those, for one stream.
    pub stream_waiting_max: usize,
    /// Entries and bytes of one transaction.
    pub append_batch_max: usize,
    pub append_batch_bytes_max: usize,
    /// Appends lost to other writers before the push is refused.
    pub append_retries_max: u32,
    /// Reads under way at once for pulls and fetches. Each holds at most `read_entries` payloads.
    pub reads_max: usize,
    /// Entries read by one operation.
    pub read_entries: u32,
    /// Reads for one answer: a group pull may skip many entries of other topics.
    pub reads_per_answer_max: u32,
    /// Pulls that wait, over all links.
    pub pulls_waiting_max: usize,
    /// Devices whose acknowledgement waits to be stored. Later ones are dropped: acknowledgements
    /// are cumulative.
    pub acks_waiting_max: usize,
    /// Streams of one trim operation, and trim operations under way.
    pub trim_batch_max: usize,
    pub trims_max: usize,
    /// Other API calls that wait for the store.
    pub calls_waiting_max: usize,
    /// Group entries whose counts wait to be stored.
    pub group_counts_max: usize,

    /// A session's announcement arrives within this time of its first pull: a link that is silent
    /// for longer is replaced, and the new one begins with all sessions.
    pub announce_late_ms: u64,
    pub apps_refresh_ms: u64,
    pub ack_flush_ms: u64,
    pub counts_flush_ms: u64,
    /// How often the end of each group log is compared with what links were sent.
    pub group_check_ms: u64,
    /// One step of the scan for expired entries.
    pub sweep_ms: u64,
    /// Keys looked at in one step.
    pub sweep_keys: u32,
    /// The pause after the last key.
    pub sweep_cycle_ms: u64,
    /// The pause of reads after the store failed, doubled up to the maximum.
    pub store_retry_ms: u64,
    pub store_retry_max_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            routes_max: 20_000_000,
            links_max: 4096,
            tails_max: 1_000_000,
            pushes_waiting_max: 65_536,
            pushes_waiting_bytes_max: 256 << 20,
            stream_waiting_max: 4096,
            append_batch_max: 64,
            append_batch_bytes_max: 1 << 20,
            append_retries_max: 32,
            reads_max: 64,
            read_entries: 32,
            reads_per_answer_max: 4,
            pulls_waiting_max: 8_000_000,
            acks_waiting_max: 1_000_000,
            trim_batch_max: 128,
            trims_max: 16,
            calls_waiting_max: 4096,
            group_counts_max: 65_536,
            announce_late_ms: 30_000,
            apps_refresh_ms: 1_000,
            ack_flush_ms: 10,
            counts_flush_ms: 1_000,
            group_check_ms: 2_000,
            sweep_ms: 50,
            sweep_keys: 100,
            sweep_cycle_ms: 30_000,
            store_retry_ms: 50,
            store_retry_max_ms: 2_000,
        }
    }
}
