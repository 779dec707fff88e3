//! What the shell counts, and the page that Prometheus reads.
//!
//! Cells are atomics that are written from any task and read at a scrape; nothing here is read to
//! decide anything. The node counts what it decides on its own (`node/metrics.rs`); its owner
//! adds that to the page. Labels are closed sets: no app, device or address is ever one.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hawser_codec::error::{CloseReason, DecodeError};

use crate::api::errors::Code;
use crate::api::serve::CutOff;
use crate::node::event::{StoreFailure, StoreResult};
use crate::store::Trouble;

/// Everything the shell counts.
#[derive(Debug, Default)]
pub struct Metrics {
    pub api: ApiMetrics,
    pub links: LinkMetrics,
}

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A value that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn up(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub fn down(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Durations in buckets that double from 100 us to 3.3 s.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; Histogram::BUCKETS],
    sum_us: Counter,
    count: Counter,
}

impl Histogram {
    const BUCKETS: usize = 16;

    pub fn add(&self, duration: Duration) {
        let us = duration.as_micros() as u64;
        let index = (0..Histogram::BUCKETS).find(|&index| us <= Histogram::bound_us(index));
        if let Some(index) = index {
            self.buckets[index].add(1);
        }
        self.sum_us.add(us);
        self.count.add(1);
    }

    fn bound_us(index: usize) -> u64 {
        100 << index
    }
}

/// Requests and their answers.
#[derive(Debug, Default)]
pub struct ApiMetrics {
    pub connections: Gauge,
    pub requests: Histogram,
    pub ok: Counter,
    pub client_errors: Counter,
    pub server_errors: Counter,
    refused: [Counter; Code::ALL.len()],
    cut_off: [Counter; CutOff::ALL.len()],
}

impl ApiMetrics {
    pub fn request(&self, status: u16, took: Duration) {
        self.requests.add(took);
        let cell = match status {
            500.. => &self.server_errors,
            400..500 => &self.client_errors,
            _ => &self.ok,
        };
        cell.add(1);
    }

    /// A request, or a message of a batch, that was answered with an error.
    pub fn refused(&self, code: Code) {
        self.refused[place(&Code::ALL, code)].add(1);
    }

    pub fn cut_off(&self, why: CutOff) {
        self.cut_off[place(&CutOff::ALL, why)].add(1);
    }
}

/// Links, and peers that did not become one.
#[derive(Debug, Default)]
pub struct LinkMetrics {
    pub handshakes: Gauge,
    pub up: Gauge,
    pub accepted: Counter,
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    refused: [Counter; LinkRefusal::ALL.len()],
    closed: [Counter; CloseReason::ALL.len()],
    decode_errors: [Counter; DecodeError::ALL.len()],
}

impl LinkMetrics {
    pub fn refused(&self, refusal: LinkRefusal) {
        self.refused[refusal as usize].add(1);
    }

    pub fn closed(&self, reason: CloseReason) {
        self.closed[place(CloseReason::ALL, reason)].add(1);
    }

    pub fn decode_error(&self, error: DecodeError) {
        self.decode_errors[place(&DecodeError::ALL, error)].add(1);
    }
}

fn place<T: PartialEq>(all: &[T], one: T) -> usize {
    all.iter().position(|known| *known == one).expect("ALL has every variant")
}

/// Why a peer at the link port did not become a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRefusal {
    /// As many links or handshakes as are allowed.
    TooMany,
    Timeout,
    /// Its bytes are not a handshake, or it hung up.
    BadHandshake,
    Version,
    /// It does not have the link key.
    Auth,
}

impl LinkRefusal {
    pub const ALL: [LinkRefusal; 5] = [
        LinkRefusal::TooMany,
        LinkRefusal::Timeout,
        LinkRefusal::BadHandshake,
        LinkRefusal::Version,
        LinkRefusal::Auth,
    ];

    pub fn label(self) -> &'static str {
        match self {
            LinkRefusal::TooMany => "too_many",
            LinkRefusal::Timeout => "timeout",
            LinkRefusal::BadHandshake => "bad_handshake",
            LinkRefusal::Version => "version",
            LinkRefusal::Auth => "auth",
        }
    }
}

/// The store's operations and how they end.
#[derive(Debug)]
pub struct StoreMetrics {
    commands: Counter,
    answers: Histogram,
    results: Counter,
    conflicts: Counter,
    not_done: Counter,
    unknown: Counter,
    /// When an error of the store was last logged, in seconds since `born`.
    logged_s: AtomicU64,
    born: Instant,
}

impl Default for StoreMetrics {
    fn default() -> StoreMetrics {
        StoreMetrics {
            commands: Counter::default(),
            answers: Histogram::default(),
            results: Counter::default(),
            conflicts: Counter::default(),
            not_done: Counter::default(),
            unknown: Counter::default(),
            logged_s: AtomicU64::new(u64::MAX),
            born: Instant::now(),
        }
    }
}

impl StoreMetrics {
    pub fn pipeline(&self, commands: usize, took: Duration) {
        self.commands.add(commands as u64);
        self.answers.add(took);
    }

    /// What an error means for the operation. The store's words are logged, at most once a second.
    pub fn judged(&self, result: Result<StoreResult, Trouble>) -> StoreResult {
        let trouble = match result {
            Ok(result) => return result,
            Err(trouble) => trouble,
        };
        let second = self.born.elapsed().as_secs();
        if self.logged_s.swap(second, Relaxed) != second {
            tracing::error!(?trouble, "the store refuses operations");
        }
        StoreResult::Failed(match trouble {
            Trouble::Open(_) | Trouble::Connection => StoreFailure::Unknown,
            Trouble::Refused(_) | Trouble::Unexpected(_) => StoreFailure::NotDone,
        })
    }

    pub fn result(&self, result: &StoreResult) {
        self.results.add(1);
        match result {
            StoreResult::Conflict => self.conflicts.add(1),
            StoreResult::Failed(StoreFailure::NotDone) => self.not_done.add(1),
            StoreResult::Failed(StoreFailure::Unknown) => self.unknown.add(1),
            _ => {}
        }
    }
}

/// A page in the text format of Prometheus.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    pub fn into_text(self) -> String {
        self.0
    }

    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "counter", help);
        self.line(format_args!("hawser_control_{name} {value}"));
    }

    /// A counter that has its full name already.
    pub fn node_counter(&mut self, full_name: &str, help: &str, value: u64) {
        let name = full_name.strip_prefix("hawser_control_").expect("every name has the prefix");
        self.counter(name, help, value);
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.line(format_args!("hawser_control_{name} {value}"));
    }

    /// One counter for each value of a label.
    pub fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        self.head(name, "counter", help);
        for (value_of_label, value) in values {
            self.line(format_args!(
                "hawser_control_{name}{{{label}=\"{value_of_label}\"}} {value}"
            ));
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let mut below = 0;
        for (index, bucket) in histogram.buckets.iter().enumerate() {
            below += bucket.get();
            let bound_s = Histogram::bound_us(index) as f64 / 1e6;
            self.line(format_args!("hawser_control_{name}_bucket{{le=\"{bound_s}\"}} {below}"));
        }
        let (count, sum_s) = (histogram.count.get(), histogram.sum_us.get() as f64 / 1e6);
        self.line(format_args!("hawser_control_{name}_bucket{{le=\"+Inf\"}} {count}"));
        self.line(format_args!("hawser_control_{name}_sum {sum_s}"));
        self.line(format_args!("hawser_control_{name}_count {count}"));
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP hawser_control_{name} {help}"));
        self.line(format_args!("# TYPE hawser_control_{name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a String does not fail");
    }
}

impl ApiMetrics {
    pub fn write(&self, page: &mut Page) {
        page.gauge("api_connections", "Open HTTP connections.", self.connections.get());
        page.counters(
            "api_requests_total",
            "Answered requests by kind of answer.",
            "answer",
            [
                ("ok", self.ok.get()),
                ("client_error", self.client_errors.get()),
                ("server_error", self.server_errors.get()),
            ],
        );
        page.counters(
            "api_refusals_total",
            "Requests, and messages of batches, that were answered with an error, by its code.",
            "code",
            Code::ALL.iter().zip(&self.refused).map(|(code, n)| (code.label(), n.get())),
        );
        page.counters(
            "api_connections_cut_off_total",
            "HTTP connections that this node ended.",
            "reason",
            CutOff::ALL.iter().zip(&self.cut_off).map(|(why, n)| (why.label(), n.get())),
        );
        page.histogram("api_request_seconds", "From request to answer.", &self.requests);
    }
}

impl LinkMetrics {
    pub fn write(&self, page: &mut Page) {
        page.gauge("links_up", "Authenticated links of shards.", self.up.get());
        page.gauge(
            "link_handshakes",
            "Peers that are not authenticated yet.",
            self.handshakes.get(),
        );
        page.counter("links_accepted_total", "Links that were authenticated.", self.accepted.get());
        page.counters(
            "links_refused_total",
            "Peers that did not become a link.",
            "reason",
            LinkRefusal::ALL.map(|refusal| (refusal.label(), self.refused[refusal as usize].get())),
        );
        page.counters(
            "links_closed_total",
            "Links that ended.",
            "reason",
            CloseReason::ALL.iter().zip(&self.closed).map(|(reason, n)| (reason.label(), n.get())),
        );
        page.counters(
            "link_decode_errors_total",
            "Frames of authenticated peers that could not be decoded.",
            "error",
            DecodeError::ALL
                .iter()
                .zip(&self.decode_errors)
                .map(|(error, n)| (error.label(), n.get())),
        );
        page.counter("link_in_bytes_total", "Bytes from shards.", self.bytes_in.get());
        page.counter("link_out_bytes_total", "Bytes to shards.", self.bytes_out.get());
    }
}

impl StoreMetrics {
    pub fn write(&self, page: &mut Page) {
        page.counter("store_commands_total", "RESP commands sent.", self.commands.get());
        page.counter("store_operations_total", "Operations that ended.", self.results.get());
        page.counter(
            "store_conflicts_total",
            "Appends that found another writer first.",
            self.conflicts.get(),
        );
        page.counters(
            "store_failures_total",
            "Operations without a result.",
            "kind",
            [("not_done", self.not_done.get()), ("unknown", self.unknown.get())],
        );
        page.histogram("store_answer_seconds", "From pipeline to answer.", &self.answers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let histogram = Histogram::default();
        for ms in [0, 1, 1, 50, 10_000] {
            histogram.add(Duration::from_millis(ms));
        }
        let mut page = Page::default();
        page.histogram("x_seconds", "An example.", &histogram);
        let text = page.into_text();
        for line in [
            "hawser_control_x_seconds_bucket{le=\"0.0001\"} 1",
            "hawser_control_x_seconds_bucket{le=\"0.0016\"} 3",
            "hawser_control_x_seconds_bucket{le=\"3.2768\"} 4",
            "hawser_control_x_seconds_bucket{le=\"+Inf\"} 5",
            "hawser_control_x_seconds_count 5",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
    }

    #[test]
    fn every_label_has_a_place() {
        let metrics = ApiMetrics::default();
        Code::ALL.iter().for_each(|&code| metrics.refused(code));
        CutOff::ALL.iter().for_each(|&why| metrics.cut_off(why));
        let mut page = Page::default();
        metrics.write(&mut page);
        let text = page.into_text();
        for line in ["refusals_total{code=\"bad_field\"} 1", "cut_off_total{reason=\"idle\"} 1"] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let labelled = |line: &&str| line.contains("code=") || line.contains("reason=");
        assert!(text.lines().filter(labelled).all(|line| line.ends_with("} 1")), "{text}");

        let metrics = LinkMetrics::default();
        CloseReason::ALL.iter().for_each(|&reason| metrics.closed(reason));
        DecodeError::ALL.iter().for_each(|&error| metrics.decode_error(error));
        LinkRefusal::ALL.iter().for_each(|&refusal| metrics.refused(refusal));
        let mut page = Page::default();
        metrics.write(&mut page);
        let text = page.into_text();
        assert!(text.contains("links_closed_total{reason=\"link_overflow\"} 1"), "{text}");
        assert!(!text.contains("} 0"), "{text}");
    }
}
