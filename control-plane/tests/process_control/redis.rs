//! A real redis-server.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::running::{Directory, Process, eventually};

/// A redis-server on a Unix socket that writes nothing to disk.
pub struct Redis {
    process: Process,
    socket: PathBuf,
}

impl Redis {
    pub fn start(directory: &Directory) -> Redis {
        let socket = directory.file("redis.sock");
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(&socket).stdout(Stdio::null());
        let process = Process::start(&mut command);
        eventually("redis-server listens", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(())
        });
        Redis { process, socket }
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }
}
