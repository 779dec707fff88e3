//! The real `hawser-kv`, started and killed.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where a server lives. The socket and what it logs are not on the disk that fails.
#[derive(Clone)]
pub struct Place {
    pub data: PathBuf,
    pub socket: PathBuf,
    pub log: PathBuf,
    pub durability: &'static str,
    pub seeded_bug: Option<String>,
}

pub struct Server(Child);

impl Place {
    /// Small, so that segments turn over and memory is written out all the time.
    pub fn spawn(&self) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-kv"));
        command.args(["--listen", "", "--unix"]).arg(&self.socket).arg("--dir").arg(&self.data);
        for setting in ["log_segment_mib=1", "memtable_mib=1", "cache_mib=8"] {
            command.args(["--set", setting]);
        }
        command.args(["--set", &format!("durability={}", self.durability)]);
        if let Some(bug) = &self.seeded_bug {
            command.env("HAWSER_KV_SEEDED_BUG", bug);
        }
        let errors = File::create(&self.log).expect("a file for the log");
        let child = command.stdout(Stdio::piped()).stderr(errors).spawn();
        Server(child.expect("hawser-kv starts"))
    }

    /// Waits until it is ready, or says what it said.
    pub fn start(&self) -> Result<Server, String> {
        let mut server = self.spawn();
        let mut line = String::new();
        let stdout = server.0.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        if line.starts_with("hawser-kv ready on ") { Ok(server) } else { Err(self.said()) }
    }

    /// Its last words.
    pub fn said(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        lines.join(" / ")
    }

    /// The newest segment of its write log.
    pub fn newest_segment(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.data.join("log")).ok()?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.extension().is_some_and(|end| end == "log")).max()
    }
}

impl Server {
    /// SIGKILL, and waits until nothing of it runs.
    pub fn kill(mut self) {
        self.end();
    }

    /// Waits until it has ended by itself.
    #[cfg(feature = "seeded-bugs")]
    pub fn exit_code(mut self) -> Option<i32> {
        self.0.wait().expect("our child").code()
    }

    fn end(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A directory that goes with its value. Short, since socket paths may have only 107 bytes.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(name: &str) -> TempDir {
        let path = std::env::temp_dir().join(format!("hkc-{}-{name}", std::process::id()));
        // What a process of the same id left when it was killed.
        _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}
