//! The bare server does what every bare server must do, with one ring and with many.

use std::process::Command;

#[path = "../runtimes/tests/check/mod.rs"]
mod check;

const BENCH: &str = env!("CARGO_BIN_EXE_hawser-bench");

#[test]
fn one_ring() {
    check::check(Command::new(BENCH).arg("bare"), 2_000);
}

/// With so few descriptors a ring takes some seven hundred connections.
#[test]
fn many_rings() {
    let limited = "ulimit -n 1024 && exec \"$0\" bare";
    check::check(Command::new("sh").args(["-c", limited, BENCH]), 4_000);
}
