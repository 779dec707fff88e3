//! `hawser-tune`: `hawser tune` alone. Everything is in [`hawser_tuning::cli`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    hawser_tuning::cli::main(std::env::args_os())
}
