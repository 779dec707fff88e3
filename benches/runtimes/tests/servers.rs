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

#[test]
fn each_says_what_it_runs_on() {
    for (program, runtime) in [
        (env!("CARGO_BIN_EXE_bare-tokio"), "tokio"),
        (env!("CARGO_BIN_EXE_bare-tokio-uring"), "tokio-uring"),
        (env!("CARGO_BIN_EXE_bare-glommio"), "glommio"),
    ] {
        let said = Command::new(program).arg("--version").output().unwrap().stdout;
        let pinned = include_str!("../Cargo.toml")
            .lines()
            .find(|line| line.starts_with(&format!("{runtime} = ")))
            .and_then(|line| line.split('"').find_map(|part| part.strip_prefix('=')))
            .expect("its version is pinned");
        assert_eq!(String::from_utf8_lossy(&said), format!("{runtime} {pinned}\n"));
    }
}
