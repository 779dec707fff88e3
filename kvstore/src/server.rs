//! Starting, accepting, stopping.
//!
//! The server has threads of its own, whatever runtime its caller has: network threads (a small tokio
//! runtime), the writer and the checkpoint thread. Stopping goes in the order of the data: no new
//! connections, connections end when what they sent is answered, the writer ends when no connection is
//! left, the database is flushed.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::admin;
use crate::config::{Config, ConfigError, Durability};
use crate::connection::{Connection, Socket};
use crate::metrics::Snapshot;
use crate::session::Session;
use crate::shared::{Shared, Stopped};
use crate::store::database::{Database, StoreError, database_dir};
use crate::store::directory::{self, DirectoryError};
use crate::store::lasting;
use crate::store::log::{self, Log};
use crate::store::waiters::Waiters;
use crate::store::writer::{Job, Writer};
use crate::store::{checkpoint, checkpoints, everysec};
use crate::users::{Users, UsersError};

/// How long connections get to finish what they sent when the server stops.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A pause after a failed accept, which otherwise would spin while descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a server did not start. Each text says what to change.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    #[error("cannot listen on {address}: {error}; choose another `{setting}` or end what uses it")]
    Listen { address: String, setting: &'static str, error: io::Error },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("cannot use {}: {error}; set `dir` to a directory this process may write", dir.display())]
    Dir { dir: PathBuf, error: String },
    #[error("{} is in use by another process; stop it or set `dir` to another directory", dir.display())]
    InUse { dir: PathBuf },
    #[error("{} is no file of a write log; name one as the error message does, DIR/log/NUMBER.log", file.display())]
    NoLog { file: PathBuf },
    #[error("write log: {0}")]
    Log(#[from] log::OpenError),
    #[error("cannot apply the write log: {0}")]
    Replay(StoreError),
    #[error("users: {0}")]
    Users(#[from] UsersError),
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
}

pub struct Server;

/// A running server. Dropping it stops it without waiting; nothing answered is lost by that.
pub struct Handle {
    shared: Arc<Shared>,
    address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    unix: Option<PathBuf>,
    stop: watch::Sender<bool>,
    /// Yields `None` when the last connection and listener are gone.
    alive: mpsc::Receiver<()>,
    runtime: Option<Runtime>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the directory, replays the write log and listens. Blocks while it does.
    pub fn start(config: Config) -> Result<Handle, StartError> {
        config.check()?;
        let users = Users::new(&config.password, &config.users, &config.users_file)?;
        let tcp = bind_tcp(&config.listen, "listen")?;
        let admin = bind_tcp(&config.admin, "admin")?;
        let address_of = |listener: &Option<StdTcpListener>| {
            listener.as_ref().and_then(|listener| listener.local_addr().ok())
        };
        let (address, admin_address) = (address_of(&tcp), address_of(&admin));
        let (database, log) = open(&config)?;
        let unix = bind_unix(&config.unix)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.network_threads)
            .thread_name("hawser-kv-net")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;

        let unix_path = unix.is_some().then(|| config.unix.clone());
        let (jobs, queue) = mpsc::channel(config.queue_jobs_max);
        let shared = Arc::new(Shared::new(config, database, users));
        let threads = start_threads(&shared, log, queue).map_err(StartError::Threads)?;
        let (stop, stopping) = watch::channel(false);
        let (alive_sender, alive) = mpsc::channel(1);
        let accept = Accept { shared: shared.clone(), jobs, stopping, _alive: alive_sender };
        let _guard = runtime.enter();
        if let Some(listener) = tcp {
            let listener = TcpListener::from_std(listener).map_err(StartError::Threads)?;
            runtime.spawn(accept.clone().run(Listener::Tcp(listener)));
        }
        if let Some(listener) = unix {
            let listener = UnixListener::from_std(listener).map_err(StartError::Threads)?;
            runtime.spawn(accept.clone().run(Listener::Unix(listener)));
        }
        if let Some(listener) = admin {
            let listener = TcpListener::from_std(listener).map_err(StartError::Threads)?;
            runtime.spawn(admin::serve(listener, shared.clone(), accept.stopping.clone()));
        }
        drop(accept);
        drop(_guard);
        let runtime = Some(runtime);
        Ok(Handle {
            shared,
            address,
            admin_address,
            unix: unix_path,
            stop,
            alive,
            runtime,
            threads,
        })
    }
}

impl Server {
    /// Gives up what a file of a write log holds from a byte on, and the files after it. The database it
    /// belongs to is opened meanwhile, so that nobody else has it.
    pub fn cut_log(file: &Path, byte: u64) -> Result<Vec<log::Cut>, StartError> {
        let path = file.canonicalize().unwrap_or_default();
        let dir = path.parent().and_then(Path::parent).unwrap_or(Path::new(""));
        if log_dir(dir).as_path() != path.parent().unwrap_or(dir) || !database_dir(dir).is_dir() {
            return Err(StartError::NoLog { file: file.to_path_buf() });
        }
        let _database = open_database(&Config { dir: dir.into(), ..Config::default() })?;
        Ok(log::cut_off(&path, byte)?)
    }
}

impl Handle {
    /// Where it listens, with the real port.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    pub fn unix_path(&self) -> Option<&Path> {
        self.unix.as_deref()
    }

    /// Why no write is taken until a restart, if so.
    pub fn stopped(&self) -> Option<Stopped> {
        self.shared.stopped()
    }

    pub fn metrics(&self) -> Snapshot {
        self.shared.metrics.snapshot()
    }

    /// Answers what was sent, flushes, and returns when the directory is free.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(STOP_GRACE, self.alive.recv()).await.is_err() {
            tracing::warn!("connections that do not take their answers are closed");
        }
        let runtime = self.runtime.take();
        let threads = std::mem::take(&mut self.threads);
        // Whoever still holds the database holds its directory, so all of them are waited for: tasks
        // first, since the writer ends with the last of them.
        let joined = tokio::task::spawn_blocking(move || {
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(STOP_GRACE);
            }
            threads.into_iter().map(JoinHandle::join).all(|outcome| outcome.is_ok())
        });
        if !joined.await.unwrap_or(false) {
            tracing::error!("a thread of the store panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if let Some(unix) = &self.unix {
            _ = std::fs::remove_file(unix);
        }
    }
}

fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

fn open_database(config: &Config) -> Result<Database, StartError> {
    let dir = &config.dir;
    let unusable = |error: String| StartError::Dir { dir: dir.clone(), error };
    directory::claim(dir, &[&config.unix, &config.users_file])?;
    lasting::create(&database_dir(dir)).map_err(|error| unusable(error.to_string()))?;
    Database::open(&database_dir(dir), config.cache_mib << 20, config.memtable_mib << 20).map_err(
        |error| match error.to_string() {
            text if text.contains("LOCK:") || text.contains("lock hold by") => {
                StartError::InUse { dir: dir.clone() }
            }
            text => unusable(text),
        },
    )
}

fn open(config: &Config) -> Result<(Database, Log), StartError> {
    let dir = &config.dir;
    let database = open_database(config)?;
    let applied = database.applied().map_err(StartError::Replay)?;
    let log_dir = log_dir(dir);
    let mut replayed = 0u64;
    let segment_bytes_max = config.log_segment_mib << 20;
    let (log, cut) = Log::open(&log_dir, applied, segment_bytes_max, |sequence, record| {
        replayed += 1;
        database.apply(sequence, record).map_err(StartError::Replay)
    })?;
    if let Some(cut) = cut {
        let log::Cut { path, offset, bytes } = cut;
        tracing::warn!(?path, offset, bytes, "cut an unfinished group from the end of the log");
    }
    tracing::info!(applied, replayed, "opened {}", dir.display());
    // What was replayed would be replayed again, and old segments would stay.
    let flushed = database.flush().and_then(|()| database.flushed()).map_err(StartError::Replay)?;
    log.cleaner().delete_flushed(flushed)?;
    Ok((database, log))
}

fn start_threads(
    shared: &Arc<Shared>,
    log: Log,
    jobs: mpsc::Receiver<Job>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let (cleaner, syncer) = (log.cleaner(), log.syncer());
    let (running, writing) = std::sync::mpsc::channel();
    let (checkpoint, wanted) = std::sync::mpsc::sync_channel(1);
    let writer = Writer {
        shared: shared.clone(),
        log,
        jobs,
        checkpoint,
        unapplied: None,
        waiters: Waiters::default(),
    };
    let (flushing, syncing) = (shared.clone(), shared.clone());
    let (writing_to, copying, source) = (shared.clone(), shared.clone(), writer.log.source());
    let orders = shared.checkpoints.open();
    let named = |name: &str| std::thread::Builder::new().name(name.to_string());
    let mut threads = vec![
        named("hawser-kv-write").spawn(move || {
            writer.run();
            drop::<std::sync::mpsc::Sender<()>>(running);
            writing_to.checkpoints.close();
        })?,
        named("hawser-kv-copy").spawn(move || checkpoints::run(&copying, &source, &orders))?,
        named("hawser-kv-flush").spawn(move || checkpoint::run(flushing, cleaner, wanted))?,
    ];
    if shared.config.durability == Durability::EverySec {
        let sync = move || everysec::run(syncing, syncer, writing);
        threads.push(named("hawser-kv-sync").spawn(sync)?);
    }
    Ok(threads)
}

fn bind_tcp(address: &str, setting: &'static str) -> Result<Option<StdTcpListener>, StartError> {
    if address.is_empty() {
        return Ok(None);
    }
    let bound = StdTcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    let address = address.to_string();
    bound.map(Some).map_err(|error| StartError::Listen { address, setting, error })
}

/// A socket file that nobody answers on is left over from a crash, and replaced.
fn bind_unix(path: &Path) -> Result<Option<StdUnixListener>, StartError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let refused = StdUnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        _ = std::fs::remove_file(path);
    }
    let bound = StdUnixListener::bind(path)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    let address = path.display().to_string();
    bound.map(Some).map_err(|error| StartError::Listen { address, setting: "unix", error })
}

/// What an accepting task gives to each connection.
#[derive(Clone)]
struct Accept {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    stopping: watch::Receiver<bool>,
    /// Last, so that it goes after everything it stands for.
    _alive: mpsc::Sender<()>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accept {
    async fn run(self, listener: Listener) {
        let mut stopping = self.stopping.clone();
        loop {
            let accepted = tokio::select! {
                _ = stopping.changed() => return,
                accepted = self.next(&listener) => accepted,
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn next(&self, listener: &Listener) -> io::Result<()> {
        match listener {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are written whole; waiting for more only delays them.
                stream.set_nodelay(true)?;
                tokio::spawn(self.clone().connection(Socket::Tcp(stream)));
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(self.clone().connection(Socket::Unix(stream)));
            }
        }
        Ok(())
    }

    async fn connection(self, mut socket: Socket) {
        let metrics = &self.shared.metrics;
        let open = metrics.connections.fetch_add(1, Relaxed);
        if open >= self.shared.live.connections_max() as u64 {
            metrics.refused_total.fetch_add(1, Relaxed);
            _ = socket.refuse(b"-ERR max number of clients reached\r\n").await;
        } else {
            metrics.accepted_total.fetch_add(1, Relaxed);
            let addresses = socket.addresses(&self.shared.config.unix);
            let session = Session::new(self.shared.clone(), addresses);
            // A client that goes away is no event worth a log line.
            _ = Connection::new(socket, session, self.jobs, self.stopping).serve().await;
        }
        metrics.connections.fetch_sub(1, Relaxed);
    }
}
