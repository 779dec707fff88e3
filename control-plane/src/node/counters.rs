//! The table of a node's counters: name, help, cell.
//!
//! Counting is one addition; the shell copies the cells when the metrics page is asked for.

macro_rules! counters {
    ($($variant:ident, $name:literal, $help:literal;)*) => {
        /// One number that only grows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Counter { $($variant,)* }

        impl Counter {
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// The full metric name.
            pub fn name(self) -> &'static str {
                match self { $(Counter::$variant => concat!("hawser_control_", $name, "_total"),)* }
            }

            pub fn help(self) -> &'static str {
                match self { $(Counter::$variant => $help,)* }
            }
        }
    };
}

counters! {
    Accepted, "accepted", "Inbox messages stored by this node";
    GroupAccepted, "group_accepted", "Group messages stored by this node";
    Duplicates, "duplicates", "Pushes answered with an earlier message of the same idempotency key";
    Refused, "refused", "Calls refused, for whatever reason";
    Uncertain, "uncertain", "Pushes whose append the store did not answer; they may be stored";
    Delivered, "delivered", "Inbox entries removed because the device has them";
    Expired, "expired", "Inbox entries removed because their time was over";
    Collapsed, "collapsed", "Inbox entries replaced by a later one of the same collapse key";
    GroupExpired, "group_expired", "Group entries removed because their time was over";
    GroupCollapsed, "group_collapsed", "Group entries replaced by a later one of the same collapse key";
    Conflicts, "append_conflicts", "Appends that another writer was ahead of";
    TailReads, "tail_reads", "Reads of a stream's end before an append";
    Deliveries, "deliveries", "Inbox entries sent to a shard right after they were stored";
    GroupDeliveries, "group_deliveries", "Group entries sent to a shard right after they were stored";
    Pulls, "pulls", "Pulls of devices, inbox and group";
    PullsMerged, "pulls_merged", "Pulls that replaced a waiting one of the same session";
    PullsPutOff, "pulls_put_off", "Pulls answered without reading because too many waited";
    PullsRetried, "pulls_retried", "Pulls read again because the store failed";
    PulledEntries, "pulled_entries", "Entries sent in answers to pulls";
    Resets, "resets", "Devices told that their position does not exist";
    Fetches, "group_fetches", "Fetches of shards that missed group entries";
    Acks, "acks", "Acknowledgements taken in, repeats included";
    AcksDropped, "acks_dropped", "Acknowledgements dropped because too many waited";
    Announced, "announced", "Session records of shards";
    AnnouncedStale, "announced_stale", "Session records older than the known session";
    Moved, "routes_moved", "Sessions that replaced one elsewhere";
    RoutesRefused, "routes_refused", "Sessions without a route because the table is full";
    Kicks, "kicks", "Shards told to close an older session";
    Gone, "gone", "Session ends that removed a route";
    GroupCursors, "group_cursors", "Ends of group logs sent to shards";
    CountsLost, "counts_lost", "Counts whose storing the store did not answer";
    BadRecords, "bad_records", "Stored entries that could not be decoded";
    Unexpected, "unexpected", "Frames of unknown links, and frames that only a handshake may contain";
    StoreFailures, "store_failures", "Store operations that failed";
    SweptStreams, "swept_streams", "Streams looked at for expired entries";
}

/// The numbers of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    cells: [u64; Counter::ALL.len()],
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { cells: [0; Counter::ALL.len()] }
    }
}

impl Counters {
    #[inline]
    pub fn get(&self, counter: Counter) -> u64 {
        self.cells[counter as usize]
    }

    #[inline]
    pub fn add(&mut self, counter: Counter, count: u64) {
        self.cells[counter as usize] += count;
    }
}
