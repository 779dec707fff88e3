//! `hawser`: the operator's command line. Everything is in [`hawser_control::cli`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hawser_control::cli::main(std::env::args_os())
}
