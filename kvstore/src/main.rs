//! `hawser-kv`: the store as a process of its own.
//!
//! Exit codes: 0 stopped on SIGTERM or SIGINT with everything flushed; 1 a thread has panicked, so that a
//! restart helps; 2 configuration, port or directory, with one line that says what to change.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use hawser_kv::program;
use hawser_kv::shared::Stopped;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A Redis-protocol store on disk; every answered write survives a crash.
#[derive(Parser)]
#[command(name = "hawser-kv", version)]
struct Arguments {
    #[command(flatten)]
    options: program::Options,
}

fn main() -> ExitCode {
    match program::run(&Arguments::parse().options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hawser-kv: {error:#}");
            ExitCode::from(if error.is::<Stopped>() { 1 } else { 2 })
        }
    }
}
