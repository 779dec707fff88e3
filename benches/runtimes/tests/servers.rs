//! Each server does what every bare server must do.

use std::process::Command;

mod check;

const DEVICES: usize = 2_000;

#[test]
fn bare_tokio() {
    check::check(&mut Command::new(env!("CARGO_BIN_EXE_bare-tokio")), DEVICES);
}

#[test]
fn bare_tokio_uring() {
    check::check(&mut Command::new(env!("CARGO_BIN_EXE_bare-tokio-uring")), DEVICES);
}

#[test]
fn bare_glommio() {
    check::check(&mut Command::new(env!("CARGO_BIN_EXE_bare-glommio")), DEVICES);
}
