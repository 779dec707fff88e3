//! The crash rig: the real `hawser-kv` under concurrent writers is killed at random moments, and loses
//! power, has a full disk, failing syncs and flipped bits on a disk of our own making.
//!
//! ```text
//! client   sockets and RESP               server  the process
//! model    what commands do               disk    the disk that loses what was not synced (tests/disk)
//! writer   what is asked for              rig     one cycle after the other
//! oracle   whether what is there fits     random  the seed
//! ```
//!
//! ```text
//! cargo test --release --locked -p hawser-control -p hawser-kv --test crash -- --nocapture
//!     HAWSER_CRASH_SEED=7        the plan of another run, which it printed
//!     HAWSER_CRASH_CYCLES=10000  longer
//! ... --features hawser-kv/seeded-bugs --test crash -- seeded    does it find mistakes?
//! ```

mod client;
mod disk;
mod model;
mod oracle;
mod random;
mod rig;
#[cfg(feature = "seeded-bugs")]
mod seeded;
mod server;
mod writer;

use rig::{Kind, Rig};

impl Kind {
    /// How many `make test` runs.
    fn cycles(self) -> u64 {
        match self {
            Kind::Kill | Kind::Power => 200,
            Kind::EverySecond => 100,
        }
    }
}

fn number_from(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}"))
    })
}

fn run(name: &str, kind: Kind) {
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = number_from("HAWSER_CRASH_SEED", fresh.map_or(1, |since| since.as_secs() % 100_000));
    let cycles = number_from("HAWSER_CRASH_CYCLES", kind.cycles());
    println!("{name}: HAWSER_CRASH_SEED={seed} HAWSER_CRASH_CYCLES={cycles}");
    let outcome = Rig::new(name, kind, seed, None).run(cycles);
    if let Err(violation) = outcome {
        panic!("{name}: {violation}");
    }
}

#[test]
fn what_was_answered_survives_sigkill() {
    run("kill", Kind::Kill);
}

#[test]
fn what_was_answered_survives_a_failing_disk() {
    run("power", Kind::Power);
}

#[test]
fn what_is_synced_every_second_is_a_state_that_was() {
    run("everysec", Kind::EverySecond);
}
