//! The simulator: a whole hawser in one thread, from one seed, in virtual time.
//!
//! ```text
//!   Application (codec's Session) ── Wire ──▶ Shard<SimIo> ── Wire ──▶ Node ──▶ Model
//!   Ledger: what was promised ◀── judged against ──▶ Record: what was heard
//! ```
//!
//! Everything that decides is the real code: shards with their shell, nodes, sessions. Simulated
//! are the kernel, the network, the store's path, and time. What goes wrong is drawn from the seed.
//!
//! In reading order:
//!
//! ```text
//! scenario      what a seed stands for
//! workload      what users and senders do        disturbances  what goes wrong
//! world         the phases of a run, and time
//! brokers       shard processes                  control       node processes
//! devices       applications                     rogues        hostile connections
//! network       wires                            store         the way to the model store
//! ledger        what was sent                    oracles       what must be true
//! trace         the hash, the lines, the counts  random        the seed
//! ```
//!
//! A run ends with a [`Report`] or a [`Failure`]: an oracle's or an assert's message. Not simulated:
//! io_uring itself, TCP's retransmissions, tokio, RESP; the whole-system tests have those.

pub mod brokers;
pub mod control;
pub mod devices;
pub mod disturbances;
pub mod ledger;
pub mod network;
pub mod oracles;
pub mod random;
pub mod rogues;
pub mod scenario;
pub mod store;
pub mod tickets;
pub mod trace;
pub mod workload;
pub mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use world::World;

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Print what happens.
    pub verbose: bool,
    #[cfg(feature = "seeded-bugs")]
    pub broker_bug: Option<hawser_broker::core::SeededBug>,
    #[cfg(feature = "seeded-bugs")]
    pub node_bug: Option<hawser_control::node::SeededBug>,
}

impl Options {
    pub fn verbose(verbose: bool) -> Options {
        Options {
            verbose,
            #[cfg(feature = "seeded-bugs")]
            broker_bug: None,
            #[cfg(feature = "seeded-bugs")]
            node_bug: None,
        }
    }
}

/// A run that kept every promise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of everything that happened, in order.
    pub hash: u64,
    pub lines: u64,
    /// What was reached, and how often.
    pub reached: BTreeMap<&'static str, u64>,
}

/// A run that did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub seed: u64,
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { seed, message } = self;
        write!(f, "seed {seed}: {message}\n  replay: hawser-sim --verbose --seed {seed}")
    }
}

/// Runs one seed.
pub fn run(seed: u64, options: &Options) -> Result<Report, Failure> {
    listen_to_panics(options.verbose);
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, options);
        world.run();
        oracles::judge(&mut world);
        world.brokers.report(&mut world.trace);
        let trace = &world.trace;
        Report { hash: trace.hash(), lines: trace.lines(), reached: trace.reached().clone() }
    }));
    result.map_err(|_| {
        let message = LAST_PANIC.with_borrow_mut(std::mem::take);
        Failure { seed, message }
    })
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    static PRINTS: RefCell<bool> = const { RefCell::new(true) };
}

/// Panics in a run are results: they are kept, and printed only for a reader.
fn listen_to_panics(print: bool) {
    static ONCE: Once = Once::new();
    PRINTS.set(print);
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let payload = info.payload();
            let owned = payload.downcast_ref::<String>().map(String::as_str);
            let text = owned.or_else(|| payload.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("a panic without words");
            LAST_PANIC.set(format!("{text}\n  at {place}"));
            if PRINTS.with_borrow(|&prints| prints) {
                before(info);
            }
        }));
    });
}

/// The sum of many runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub reached: BTreeMap<&'static str, u64>,
    pub failures: Vec<Failure>,
}

/// Runs the seeds `first..first + count` on all cores. `progress` hears each that is done.
pub fn run_many(
    first: u64,
    count: u64,
    options: &Options,
    progress: impl Fn(u64, Option<&Failure>) + Sync,
) -> Summary {
    let next = AtomicU64::new(0);
    let work = || {
        let mut summary = Summary::default();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return summary;
            }
            summary.seeds += 1;
            let result = run(first + at, options);
            progress(at + 1, result.as_ref().err());
            match result {
                Ok(report) => {
                    for (what, times) in report.reached {
                        *summary.reached.entry(what).or_default() += times;
                    }
                }
                Err(failure) => summary.failures.push(failure),
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut summary = Summary::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let part = worker.join().expect("panics of runs are caught");
            summary.seeds += part.seeds;
            summary.failures.extend(part.failures);
            for (what, times) in part.reached {
                *summary.reached.entry(what).or_default() += times;
            }
        }
    });
    summary.failures.sort_by_key(|failure| failure.seed);
    summary
}
