//! Counters of one server. Each only grows, but the gauges; all are plain atomics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ident,)+) => {
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $help])+ pub $name: AtomicU64,)+
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[doc = $help])+ pub $name: u64,)+
        }

        impl Metrics {
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Relaxed),)+ }
            }
        }

        impl Snapshot {
            /// Name, kind, help and value of each.
            pub fn rows(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
                vec![$((stringify!($name), stringify!($kind), concat!($($help),+), self.$name),)+]
            }
        }
    };
}

counters! {
    /// Connections that are open.
    connections: gauge,
    /// Connections whose command waits for a key.
    blocked_clients: gauge,
    /// Bytes of the commands that the writer was given and has not run.
    writer_queue_bytes: gauge,
    /// Connections accepted since the start.
    accepted_total: counter,
    /// Connections ended because of what they did not read, or of an answer that was too long.
    output_overflows_total: counter,
    /// Connections refused because of connections_max.
    refused_total: counter,
    /// Connections ended because of what they sent.
    protocol_errors_total: counter,
    /// Those of them that began an HTTP request: somebody's browser may be attacking this server.
    cross_protocol_total: counter,
    /// Commands run on network threads.
    read_commands: counter,
    /// Commands run by the writer.
    writer_commands: counter,
    /// Commands answered with an error because their group could not be made durable.
    writes_refused: counter,
    /// Reads that found their key.
    keyspace_hits: counter,
    /// Reads that did not.
    keyspace_misses: counter,
    /// Groups written to the log; writer_commands divided by it is what they hold.
    groups: counter,
    /// Bytes of the last group.
    group_bytes: gauge,
    /// Syncs of the log.
    syncs: counter,
    /// Bytes of the groups in the log.
    log_bytes: counter,
    /// Microseconds spent writing and syncing the log.
    log_micros: counter,
    /// Microseconds spent applying groups to the database.
    apply_micros: counter,
    /// Times the database was flushed and old log segments deleted.
    checkpoints: counter,
    /// Times that failed.
    checkpoint_failures: counter,
}
