//! The settings that CONFIG SET changes while the server runs. They start from the configuration and are
//! not written back to it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::config::Config;

/// Entries SLOWLOG may be told to keep, at most.
pub const SLOWLOG_LEN_MAX: usize = 100_000;

pub struct Live {
    connections_max: AtomicUsize,
    slower_than_micros: AtomicI64,
    slowlog_len_max: AtomicUsize,
    memory_bytes_max: AtomicU64,
    latency_threshold_ms: AtomicU64,
    stream_node_entries: AtomicU64,
    /// Settings of Redis that choose how it lays values out in memory. They are taken, so that clients
    /// that set them go on, and mean nothing here.
    encodings: Mutex<BTreeMap<&'static str, String>>,
}

impl Live {
    pub fn new(config: &Config) -> Live {
        Live {
            connections_max: AtomicUsize::new(config.connections_max),
            slower_than_micros: AtomicI64::new(10_000),
            slowlog_len_max: AtomicUsize::new(128),
            memory_bytes_max: AtomicU64::new(0),
            latency_threshold_ms: AtomicU64::new(0),
            stream_node_entries: AtomicU64::new(100),
            encodings: Mutex::default(),
        }
    }

    pub fn connections_max(&self) -> usize {
        self.connections_max.load(Relaxed)
    }

    /// Below 0 nothing is slow.
    pub fn slower_than_micros(&self) -> i64 {
        self.slower_than_micros.load(Relaxed)
    }

    pub fn slowlog_len_max(&self) -> usize {
        self.slowlog_len_max.load(Relaxed)
    }

    /// With more memory than this the process takes no commands that may need some; 0 is no limit.
    pub fn memory_bytes_max(&self) -> u64 {
        self.memory_bytes_max.load(Relaxed)
    }

    pub fn set_memory_bytes_max(&self, value: u64) {
        self.memory_bytes_max.store(value, Relaxed);
    }

    pub fn latency_threshold_ms(&self) -> u64 {
        self.latency_threshold_ms.load(Relaxed)
    }

    /// What an approximate XTRIM leaves is a multiple of this, as Redis's streams have nodes of so many.
    pub fn stream_node_entries(&self) -> u64 {
        self.stream_node_entries.load(Relaxed)
    }

    pub fn set_stream_node_entries(&self, value: u64) {
        self.stream_node_entries.store(value, Relaxed);
    }

    pub fn set_connections_max(&self, value: usize) {
        self.connections_max.store(value, Relaxed);
    }

    pub fn set_slower_than_micros(&self, value: i64) {
        self.slower_than_micros.store(value, Relaxed);
    }

    pub fn set_slowlog_len_max(&self, value: usize) {
        self.slowlog_len_max.store(value, Relaxed);
    }

    pub fn set_latency_threshold_ms(&self, value: u64) {
        self.latency_threshold_ms.store(value, Relaxed);
    }

    pub fn encoding(&self, name: &str) -> Option<String> {
        self.encodings.lock().expect("not poisoned: nothing panics under it").get(name).cloned()
    }

    pub fn set_encoding(&self, name: &'static str, value: String) {
        let mut encodings = self.encodings.lock().expect("not poisoned: nothing panics under it");
        encodings.insert(name, value);
    }
}
