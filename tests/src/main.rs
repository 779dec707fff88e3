//! `hawser-sim`: runs seeds of the simulator, many for a verdict or one for its story.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use hawser_tests::sim::{self, Failure, Options};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs hawser in virtual time, with faults, and judges it.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Run this one seed
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run this many seeds, on all cores
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Print what happens (with --seed), or what was reached (with --seeds)
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.seed {
        Some(seed) => one(seed, args.verbose),
        None => many(&args),
    }
}

fn one(seed: u64, verbose: bool) -> ExitCode {
    match sim::run(seed, &Options::verbose(verbose)) {
        Ok(report) => {
            println!("seed {seed}: good; {} lines, hash {:016x}", report.lines, report.hash);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn many(args: &Args) -> ExitCode {
    let begin = Instant::now();
    let progress = |done: u64, failure: Option<&Failure>| {
        if let Some(failure) = failure {
            println!("{failure}");
        }
        if done.is_multiple_of(100) {
            let seconds = begin.elapsed().as_secs_f64();
            println!("{done} of {} seeds, {:.0} a second", args.seeds, done as f64 / seconds);
        }
    };
    let summary = sim::run_many(args.first, args.seeds, &Options::default(), progress);
    if args.verbose {
        for (what, times) in &summary.reached {
            println!("{times:>12} {what}");
        }
    }
    let failed = summary.failures.len();
    let seconds = begin.elapsed().as_secs_f64();
    println!("{} seeds in {seconds:.1} s, {failed} failed", summary.seeds);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
