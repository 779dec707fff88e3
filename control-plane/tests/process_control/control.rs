//! The real `hawser-control`.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::running::{Directory, Process};

pub const LINK_KEY: &str = "4242424242424242424242424242424242424242424242424242424242424242";
pub const ADMIN_KEY: &str = "operator-key-of-the-tests";

/// A `hawser-control` on free ports.
pub struct Control {
    pub process: Process,
    pub api: String,
    pub link: String,
    directory: Directory,
}

impl Control {
    /// With the embedded store.
    pub fn start() -> Control {
        Control::start_with(&[])
    }

    pub fn start_with(sets: &[&str]) -> Control {
        Control::start_in(Directory::new(), sets)
    }

    pub fn start_in(directory: Directory, sets: &[&str]) -> Control {
        let mut command = command(&directory, sets);
        Control::started(&mut command, directory)
    }

    pub fn started(command: &mut Command, directory: Directory) -> Control {
        let mut process = Process::start(command.stdout(Stdio::piped()));
        let mut line = String::new();
        let out = process.0.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let mut words = line.split_whitespace();
        let expected = ["hawser-control", "ready:", "api"];
        assert!(expected.iter().all(|word| words.next() == Some(word)), "{line:?}");
        let api = words.next().unwrap().to_owned();
        assert_eq!(words.next(), Some("link"), "{line:?}");
        let link = words.next().unwrap().to_owned();
        Control { process, api, link, directory }
    }

    /// Kills it without warning and starts it again on the same files, on new ports.
    pub fn restart(mut self, sets: &[&str]) -> Control {
        self.process.kill();
        Control::start_in(self.directory, sets)
    }
}

/// The command that starts a `hawser-control` in this directory.
pub fn command(directory: &Directory, sets: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-control"));
    command.env("HAWSER_LINK_KEY", LINK_KEY).env("HAWSER_ADMIN_KEY", ADMIN_KEY);
    command.args(["--set", "listen_api=127.0.0.1:0", "--set", "listen_link=127.0.0.1:0"]);
    command.args(["--set", "log=warn", "--set"]);
    command.arg(format!("data_dir={}", directory.file("data").display()));
    for set in sets {
        command.args(["--set", set]);
    }
    command
}
