//! The admin address: `/metrics` (Prometheus text), `/health` and `/plan` (JSON).
//!
//! One thread that serves one request at a time over plain HTTP/1.1. It asks each shard for a copy of
//! its numbers by mailbox and waits for the answer with a deadline, so a scrape costs a shard one copy
//! in a turn and never a lock. What the page says of CPUs is read from the kernel's files by this thread.
//!
//! Limits: requests of 4 KiB, two seconds for reading and for writing, one connection at a time.
//! There is no access control here: the address belongs on an operators' network.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use crate::cpus::Cpus;
use crate::io::IoCounters;
use crate::io::retransmission::Bounds;
use crate::metrics::{Kind, Sample, put_head};
use crate::plan::{Memory, Plan};
use crate::shard::mailbox::{Command, Mailbox, Snapshot};

const REQUEST_BYTES_MAX: usize = 4096;
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);

/// A shard whose turn takes longer than this does not answer.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(1);

/// What the pages are made of.
pub struct Admin {
    pub plan: Plan,
    pub rto: Bounds,
    pub cpus: Cpus,
    pub mailboxes: Vec<Arc<Mailbox>>,
    pub is_steering: Arc<AtomicBool>,
    pub draining: Arc<AtomicBool>,
}

impl Admin {
    /// Serves for ever; the process ends without it.
    pub fn serve(mut self, listener: &TcpListener) {
        for stream in listener.incoming() {
            // A client that hangs up early is its own affair.
            let _gone = stream.and_then(|stream| self.exchange(stream));
        }
    }

    fn exchange(&mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_write_timeout(Some(EXCHANGE_TIMEOUT))?;
        let head = read_head(&mut stream)?;
        let response = match head.split_whitespace().collect::<Vec<_>>()[..] {
            ["GET", path, ..] => self.page(path.split('?').next().unwrap_or_default()),
            [_, _, ..] => Page::text(405, "only GET is served\n"),
            _ => Page::text(400, "this is not HTTP\n"),
        };
        stream.write_all(response.to_http().as_bytes())
    }

    fn page(&mut self, path: &str) -> Page {
        match path {
            "/metrics" => {
                let body = self.metrics(&self.snapshots());
                Page { status: 200, kind: "text/plain; version=0.0.4; charset=utf-8", body }
            }
            "/health" => self.health(&self.snapshots()),
            "/plan" => Page { status: 200, kind: JSON, body: self.plan.to_json() + "\n" },
            _ => Page::text(404, "there are /metrics, /health and /plan\n"),
        }
    }

    /// Asks all shards at once; those that do not answer in time are missing.
    fn snapshots(&self) -> Vec<Snapshot> {
        let (reply, answers) = sync_channel(self.mailboxes.len());
        let asked = self
            .mailboxes
            .iter()
            .filter(|mailbox| mailbox.post(Command::Snapshot(reply.clone())).is_ok());
        let deadline = Instant::now() + SNAPSHOT_TIMEOUT;
        let mut snapshots: Vec<Snapshot> = (0..asked.count())
            .map_while(|_| {
                answers.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
            })
            .collect();
        snapshots.sort_by_key(|snapshot| snapshot.shard);
        snapshots
    }

    fn health(&self, snapshots: &[Snapshot]) -> Page {
        let draining = self.draining.load(Ordering::Relaxed);
        let answering = snapshots.len() == self.mailboxes.len();
        let status = match (answering, draining) {
            (false, _) => "stuck",
            (true, true) => "draining",
            (true, false) => "ok",
        };
        let sessions: u64 = snapshots
            .iter()
            .map(|snapshot| snapshot.core.get(crate::metrics::Counter::Sessions))
            .sum();
        let links: u64 = snapshots
            .iter()
            .map(|snapshot| snapshot.core.get(crate::metrics::Counter::LinksUp))
            .sum();
        let body = serde_json::json!({
            "status": status,
            "shards": self.mailboxes.len(),
            "shards_answering": snapshots.len(),
            "sessions": sessions,
            "links_up": links,
        });
        let code = if status == "ok" { 200 } else { 503 };
        Page { status: code, kind: JSON, body: format!("{body}\n") }
    }

    fn metrics(&mut self, snapshots: &[Snapshot]) -> String {
        let mut page = String::with_capacity(32 * 1024);
        let per_shard: Vec<(u16, Vec<Sample>)> =
            snapshots.iter().map(|snapshot| (snapshot.shard, samples(snapshot))).collect();
        let lines = per_shard.first().map_or(0, |(_, samples)| samples.len());
        let mut name = "";
        for line in 0..lines {
            for (shard, samples) in &per_shard {
                let sample = &samples[line];
                if sample.name != name {
                    name = sample.name;
                    put_head(&mut page, name, sample.help, sample.kind);
                }
                let value = sample.value;
                // Writing to a string does not fail.
                let _ = match sample.label {
                    None => writeln!(page, "{name}{{shard=\"{shard}\"}} {value}"),
                    Some((label, of)) => {
                        writeln!(page, "{name}{{shard=\"{shard}\",{label}=\"{of}\"}} {value}")
                    }
                };
            }
        }
        for sample in self.process_samples(snapshots) {
            put_head(&mut page, sample.name, sample.help, sample.kind);
            let _ = writeln!(page, "{} {}", sample.name, sample.value);
        }
        self.cpus.put(&mut page);
        page
    }

    /// What is known of the process and the machine, once and without a shard.
    fn process_samples(&self, snapshots: &[Snapshot]) -> Vec<Sample> {
        let gauge =
            |name, help, value| Sample { name, help, kind: Kind::Gauge, label: None, value };
        let memory = Memory::read().map_or(0, |memory| memory.free_bytes);
        vec![
            gauge(
                "hawser_broker_shards_answering",
                "Shards that answered this scrape",
                snapshots.len() as u64,
            ),
            gauge(
                "hawser_broker_connections_max",
                "Connections above which devices are refused",
                self.plan.connections_max,
            ),
            gauge(
                "hawser_broker_rto_min_ms",
                "Least time before TCP sends again to a device, unless its route says otherwise",
                self.rto.min_ms,
            ),
            gauge(
                "hawser_broker_rto_max_ms",
                "Longest time between two tries of TCP to send to a device",
                self.rto.max_ms,
            ),
            gauge(
                "hawser_broker_process_anon_bytes",
                "Anonymous memory of the process that is resident",
                anon_bytes().unwrap_or(0),
            ),
            gauge(
                "hawser_broker_memory_free_bytes",
                "Free memory of the machine: free, buffers and cache, without shared memory",
                memory,
            ),
            gauge(
                "hawser_broker_memory_free_min_bytes",
                "Free memory below which nobody is admitted",
                self.plan.memory_free_min_bytes,
            ),
            gauge(
                "hawser_broker_steering",
                "1 while connections go to the shard whose processor receives them",
                self.is_steering.load(Ordering::Relaxed).into(),
            ),
            gauge(
                "hawser_broker_draining",
                "1 while the broker drains",
                self.draining.load(Ordering::Relaxed).into(),
            ),
        ]
    }
}

const JSON: &str = "application/json";

struct Page {
    status: u16,
    kind: &'static str,
    body: String,
}

impl Page {
    fn text(status: u16, body: &str) -> Page {
        Page { status, kind: "text/plain; charset=utf-8", body: body.to_owned() }
    }

    fn to_http(&self) -> String {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            _ => "Service Unavailable",
        };
        format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{}",
            self.status,
            self.kind,
            self.body.len(),
            self.body
        )
    }
}

/// Reads up to the empty line that ends a request's head; bodies are not expected.
fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let deadline = Instant::now() + EXCHANGE_TIMEOUT;
    let mut bytes = [0; REQUEST_BYTES_MAX];
    let mut count = 0;
    while count < bytes.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let read = stream.read(&mut bytes[count..])?;
        count += read;
        if read == 0 || bytes[..count].windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// One shard's lines, in the same order for each.
fn samples(snapshot: &Snapshot) -> Vec<Sample> {
    let io = io_samples(&snapshot.io);
    snapshot.core.samples().chain(snapshot.shell.samples()).chain(io).collect()
}

fn io_samples(counters: &IoCounters) -> [Sample; 5] {
    let sample = |name, help, kind, value| Sample { name, help, kind, label: None, value };
    [
        sample("hawser_broker_rings", "Rings in use", Kind::Gauge, counters.rings),
        sample(
            "hawser_broker_enters_total",
            "System calls that entered a ring",
            Kind::Counter,
            counters.enters,
        ),
        sample(
            "hawser_broker_accept_errors_total",
            "Accepts that the kernel could not finish",
            Kind::Counter,
            counters.accept_errors,
        ),
        sample(
            "hawser_broker_rearmed_total",
            "Multishot operations that ended early and were armed again",
            Kind::Counter,
            counters.rearmed,
        ),
        sample(
            "hawser_broker_no_buffers_total",
            "Receives that found no free buffer and were repeated",
            Kind::Counter,
            counters.no_buffers,
        ),
    ]
}

fn anon_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}
