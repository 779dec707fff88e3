//! The store inside the process: a hawser-kv server with threads of its own, on a Unix socket in
//! the data directory.
//!
//! ```text
//!   data_dir/kv/         the server's files
//!   data_dir/kv.sock     where it listens; nowhere else
//! ```
//!
//! The node talks RESP to it as to any other store: one storage client, and moving to a store of
//! its own is a change of one line. The directory is made for its owner alone, since whoever can
//! open the socket can read every message.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use hawser_kv::shared::Stopped;
use hawser_kv::{Config, Handle, Server, StartError};

/// A running server. Dropping it loses nothing that was answered.
pub struct Embedded {
    server: Handle,
    socket: PathBuf,
}

/// Why it cannot run in this directory.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("data_dir {}: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("data_dir {}: {source}", path.display())]
    Server { path: PathBuf, source: StartError },
}

impl Embedded {
    /// Opens the files and replays the log, which may take seconds.
    pub async fn start(directory: &Path) -> Result<Embedded, EmbeddedError> {
        let path = directory.to_owned();
        let starting = tokio::task::spawn_blocking(move || start(path));
        starting.await.expect("the start does not panic")
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Waits until a thread has panicked without which it is no store.
    pub async fn panicked(&self) -> Stopped {
        self.server.panicked().await
    }

    /// Returns when the files are closed.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

fn start(path: PathBuf) -> Result<Embedded, EmbeddedError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
    // Absolute, because a URL has no other paths.
    let directory = match made.and_then(|()| path.canonicalize()) {
        Ok(directory) => directory,
        Err(source) => return Err(EmbeddedError::Directory { path, source }),
    };
    let socket = directory.join("kv.sock");
    let config = Config {
        listen: String::new(),
        unix: socket.clone(),
        admin: String::new(),
        dir: directory.join("kv"),
        ..Config::default()
    };
    match Server::start(config) {
        Ok(server) => Ok(Embedded { server, socket }),
        Err(source) => Err(EmbeddedError::Server { path, source }),
    }
}
