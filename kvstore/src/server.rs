//! Starting, accepting, stopping.
//!
//! The server has threads of its own, whatever runtime its caller has: network threads, the writer, the
//! committer, one that syncs what nobody waits for, and the checkpoint thread; each is named. Stopping goes in the order of the data: no new
//! connections, connections end when what they sent is answered, the writer ends when no network thread
//! is left, then the committer, and the database is flushed.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use mio::Poll;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::admin;
use crate::config::{Config, ConfigError, Durability};
use crate::inbox::Inbox;
use crate::metrics::Snapshot;
use crate::network::{Common, Listeners, Network};
use crate::processor::Place;
use crate::shared::{Shared, Stopped};
use crate::store::commit::{Committer, GROUPS_MAX};
use crate::store::database::{Database, StoreError, database_dir};
use crate::store::directory::{self, DirectoryError};
use crate::store::lasting;
use crate::store::log::{self, Log};
use crate::store::writer::{Jobs, Order, Writer};
use crate::store::{checkpoint, checkpoints};
use crate::users::{Users, UsersError};

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

/// A running server. Dropping it stops it and blocks until its threads have ended; [`stop`](Handle::stop)
/// is for those who must not block.
pub struct Handle {
    shared: Arc<Shared>,
    address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    unix: Option<PathBuf>,
    is_stopping: Arc<AtomicBool>,
    inboxes: Arc<[Arc<Inbox>]>,
    threads: Vec<JoinHandle<()>>,
    /// What answers `/metrics` and `/health` ends with it.
    admin: Option<oneshot::Sender<()>>,
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
        let unix_path = unix.is_some().then(|| config.unix.clone());
        let threads = network_threads(&config);
        let place = Place::of(config.one_processor);
        let shared = Arc::new(Shared::new(config, database, users));
        let (orders, heard) = mpsc::channel();
        let jobs = Jobs::new(orders.clone(), shared.clone());
        let mut handle = Handle {
            shared: shared.clone(),
            address,
            admin_address,
            unix: unix_path,
            is_stopping: Arc::default(),
            inboxes: Arc::new([]),
            threads: start_writing(&shared, log, (orders, heard), place.clone())
                .map_err(StartError::Threads)?,
            admin: None,
        };
        let listeners = Listeners {
            tcp: tcp.map(mio::net::TcpListener::from_std),
            unix: unix.map(mio::net::UnixListener::from_std),
        };
        handle.start_network((threads, place), jobs, listeners).map_err(StartError::Threads)?;
        if let Some(listener) = admin {
            handle.start_admin(listener).map_err(StartError::Threads)?;
        }
        Ok(handle)
    }
}

impl Server {
    /// Gives up what a file of a write log holds from a byte on, and the files after it. The database it
    /// belongs to is opened meanwhile, so that nobody else has it.
    pub fn cut_log(file: &Path, byte: u64) -> Result<Vec<log::Cut>, StartError> {
        // As it is named: what is called `log` there may be a link to another disk.
        let path = std::path::absolute(file).unwrap_or_default();
        let dir = path.parent().and_then(Path::parent).unwrap_or(Path::new(""));
        let is_named = path.parent() == Some(log_dir(dir).as_path()) && path.is_file();
        if !is_named || !database_dir(dir).is_dir() {
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

    /// Waits until a thread has panicked without which the server is none. What is in the log is there
    /// after a restart.
    pub async fn panicked(&self) -> Stopped {
        self.shared.panicked().await
    }

    pub fn metrics(&self) -> Snapshot {
        self.shared.metrics.snapshot()
    }

    fn start_network(
        &mut self,
        (threads, mut place): (usize, Place),
        jobs: Jobs,
        mut listeners: Listeners,
    ) -> io::Result<()> {
        let polls = (0..threads).map(|_| Poll::new()).collect::<io::Result<Vec<Poll>>>()?;
        let inboxes: io::Result<Vec<_>> =
            polls.iter().map(|poll| Inbox::new(poll).map(Arc::new)).collect();
        self.inboxes = inboxes?.into();
        let common = Common {
            shared: self.shared.clone(),
            is_stopping: self.is_stopping.clone(),
            jobs: Arc::new(jobs),
            inboxes: self.inboxes.clone(),
        };
        for (poll, inbox) in polls.into_iter().zip(self.inboxes.iter()) {
            let listeners = std::mem::take(&mut listeners);
            let network = Network::new(common.clone(), poll, inbox.clone(), listeners)?;
            // Others are there because one processor is not enough.
            let mut place = std::mem::replace(&mut place, Place::anywhere());
            self.threads.push(named("hawser-kv-net").spawn(move || {
                place.share();
                network.run();
            })?);
        }
        Ok(())
    }

    fn start_admin(&mut self, listener: StdTcpListener) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        drop(guard);
        let (held, let_go) = oneshot::channel();
        let shared = self.shared.clone();
        self.threads.push(named("hawser-kv-admin").spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = let_go => {}
                    () = admin::serve(listener, shared) => {}
                }
            });
        })?);
        self.admin = Some(held);
        Ok(())
    }

    /// Answers what was sent, flushes, and returns when the directory is free.
    pub async fn stop(self) {
        _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

/// Blocks until what [`Handle::stop`] promises is done. Threads that outlived it would use RocksDB while
/// the process ends, and hold the directory.
impl Drop for Handle {
    fn drop(&mut self) {
        self.is_stopping.store(true, SeqCst);
        self.inboxes.iter().for_each(|inbox| inbox.wake());
        self.admin = None;
        let panicked = self.threads.drain(..).map(JoinHandle::join).filter(Result::is_err).count();
        if panicked > 0 {
            tracing::error!("a thread of the store panicked");
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
    let database = open_database(config)?.with_rows(config.rows_mib << 20);
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

/// Half of the cores unless told otherwise, since the writer and the kernel want the rest.
fn network_threads(config: &Config) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    if config.network_threads == 0 { (cores / 2).max(1) } else { config.network_threads }
}

fn named(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_string())
}

/// Starts the writer and those who work for it. They end after the last who sends jobs.
fn start_writing(
    shared: &Arc<Shared>,
    log: Log,
    (orders, heard): (Sender<Order>, Receiver<Order>),
    place: Place,
) -> io::Result<Vec<JoinHandle<()>>> {
    let cleaner = log.cleaner();
    // Whoever does not wait for syncs has nothing of it.
    let spare = (shared.config.durability == Durability::Always).then(|| log.spare());
    let (checkpoint, wanted) = mpsc::sync_channel(1);
    let (landings, landing) = mpsc::sync_channel(GROUPS_MAX);
    let committer = Arc::new(Committer::new(shared.clone(), log.syncer(), orders));
    let writer = Writer::new(shared.clone(), log, heard, checkpoint, (committer.clone(), landings));
    let (flushing, writing, copying) = (shared.clone(), shared.clone(), shared.clone());
    let (source, orders) = (writer.log.source(), shared.checkpoints.open());
    let (committing, ended) = mpsc::channel();
    let syncer = committer.clone();
    let mut writers = place.clone();
    Ok(vec![
        named("hawser-kv-write").spawn(move || {
            writers.share();
            let _closing = Closing(writing);
            writer.run();
        })?,
        named("hawser-kv-copy").spawn(move || checkpoints::run(&copying, &source, &orders))?,
        named("hawser-kv-commit").spawn(move || {
            let _committing = committing;
            committer.run(&landing, place);
        })?,
        named("hawser-kv-sync").spawn(move || syncer.sync_regularly(&ended))?,
        named("hawser-kv-flush")
            .spawn(move || checkpoint::run(flushing, (cleaner, spare), wanted))?,
    ])
}

/// Ends the thread that copies together with the writer, however that ends.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.checkpoints.close();
    }
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
