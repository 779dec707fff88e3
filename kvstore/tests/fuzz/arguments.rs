//! What commands make of their arguments: lines of words, each run in a transaction of its own, so that
//! none of them waits.

use std::path::PathBuf;

use hawser_kv::{Config, Handle, Server};

use crate::client::{Answer, Client, Words, words};

/// These change the connection or the server, and say so.
const LEFT_OUT: [&str; 12] = [
    "acl",
    "auth",
    "client",
    "config",
    "discard",
    "exec",
    "hello",
    "multi",
    "namespace",
    "quit",
    "reset",
    "select",
];

pub struct Running {
    client: Client,
    dir: PathBuf,
    handle: Option<Handle>,
}

impl Running {
    pub fn start() -> Running {
        let dir = std::env::temp_dir().join(format!("hkv-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let config = Config {
            listen: String::new(),
            unix: dir.join("s"),
            dir: dir.join("data"),
            ..Config::default()
        };
        let handle = Server::start(config).expect("the server starts");
        let client = Client::connect(&dir.join("s")).expect("it listens");
        Running { client, dir, handle: Some(handle) }
    }

    pub fn check(&mut self, input: &[u8]) {
        for line in input.split(|byte| *byte == b'\n') {
            let command: Words = line.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect();
            let name = String::from_utf8_lossy(&command[0]).to_lowercase();
            let is_left_out = LEFT_OUT.contains(&name.as_str())
                || name.ends_with("subscribe")
                || name == "monitor";
            if !is_left_out {
                self.check_command(&command);
            }
        }
    }

    /// A key may expire meanwhile, and is deleted then: that is a write, too. So one that writes although
    /// it answers an error must do so every time.
    fn check_command(&mut self, command: &Words) {
        for _ in 0..3 {
            let before = self.groups();
            let answer = self.run(command);
            let is_error = match answer {
                Answer::Error(_) => true,
                Answer::Array(_) => matches!(answer.items()[..], [Answer::Error(_)]),
                _ => false,
            };
            if !is_error || self.groups() == before {
                return;
            }
        }
        panic!(
            "it answers an error and writes: {:?}",
            String::from_utf8_lossy(&command.join(&b' '))
        );
    }

    fn run(&mut self, command: &Words) -> Answer {
        let mut bytes = Vec::new();
        for command in [&words("MULTI"), command, &words("EXEC")] {
            crate::client::encode(&mut bytes, command);
        }
        self.client.send(&bytes).expect("it reads");
        let answers = [(); 3].map(|()| self.client.receive().expect("it answers"));
        let [_, _, answer] = answers;
        answer
    }

    /// Groups in the write log.
    fn groups(&mut self) -> u64 {
        let text = self.client.run("INFO persistence").expect("it answers").text();
        let line = text.lines().find_map(|line| line.strip_prefix("log_groups:"));
        line.and_then(|number| number.trim().parse().ok()).expect("INFO says it")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.handle.take());
        _ = std::fs::remove_dir_all(&self.dir);
    }
}
