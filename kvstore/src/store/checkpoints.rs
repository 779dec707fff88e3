//! Copies of everything at one moment, made by hard links while the server runs.
//!
//! ```text
//! DIR/checkpoints/NAME       a data directory of its own, on which a server starts
//! DIR/checkpoints/NAME.tmp   one that is being made, or that a crash has left; the next start removes it
//! ```
//!
//! RocksDB's files never change, and segments of the write log do not once the next one is there, so links
//! to them are copies; only the segment that is written to is copied. RocksDB is not flushed for it: what is
//! in its memtables is in the log from the last flush on, which is pinned meanwhile. The moment is the last
//! group in the copied log, read after RocksDB's files are linked, so that they cannot be ahead of it.
//!
//! A thread of its own does it, and no lock of ours is held meanwhile: the writer does not wait. How long it
//! takes depends on the number of files and on `log_segment_mib`, not on the data.
//!
//! **Invariant:** a checkpoint with its final name is whole, durable, and holds every write that was answered
//! before it was asked for. Limits: [`ORDERS_MAX`] wait.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rocksdb::checkpoint::Checkpoint;
use thiserror::Error;

use super::database::{StoreError, database_dir};
use super::directory::{self, DirectoryError};
use super::lasting;
use super::log::reader::{ReadError, Reader, Source};
use crate::resp::reply::Reply;
use crate::shared::Shared;

const UNFINISHED: &str = "tmp";

/// Orders that may wait; whoever comes then is told to come again.
const ORDERS_MAX: usize = 16;

/// RocksDB flushes for a checkpoint when its own log is longer than this. It has none.
const NEVER_FLUSH: u64 = u64::MAX;

/// Why a checkpoint was not made or deleted. Nothing half done is left.
#[derive(Debug, Error)]
pub enum CheckpointError {
    #[error("ERR there is a checkpoint `{0}` already; CHECKPOINT DEL deletes it")]
    Exists(String),
    #[error("ERR there is no checkpoint `{0}`; CHECKPOINT LIST lists them")]
    Missing(String),
    #[error(
        "ERR {} and {} are on two file systems, and hard links do not cross; put the whole data directory \
         on one", database.display(), checkpoints.display()
    )]
    TwoFileSystems { database: PathBuf, checkpoints: PathBuf },
    #[error("IOERR {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("IOERR {0}")]
    Directory(#[from] DirectoryError),
    #[error("IOERR {0}")]
    Database(#[from] StoreError),
    #[error("IOERR the write log: {0}")]
    Log(#[from] ReadError),
    #[error("ERR {ORDERS_MAX} orders wait already; come again when one is done")]
    Busy,
    #[error("ERR the server is stopping")]
    Stopping,
}

/// What a client wants. Names are plain ([`is_name`](crate::users::user::is_name)).
#[derive(Debug)]
pub enum Order {
    Add(String),
    Del(String),
    List,
}

/// Gives the client its answer.
pub type Answer = Box<dyn FnOnce(Reply) + Send>;

struct Task {
    order: Order,
    reply: Reply,
    answer: Answer,
}

/// The way to the thread.
#[derive(Default)]
pub struct Checkpoints {
    orders: Mutex<Option<SyncSender<Task>>>,
}

/// What the thread has to do.
pub struct Orders(Receiver<Task>);

impl Checkpoints {
    fn orders_mut(&self) -> MutexGuard<'_, Option<SyncSender<Task>>> {
        self.orders.lock().expect("nothing panics under it")
    }

    /// For the thread, once.
    pub fn open(&self) -> Orders {
        let (sender, receiver) = sync_channel(ORDERS_MAX);
        *self.orders_mut() = Some(sender);
        Orders(receiver)
    }

    /// The thread does what was ordered, and ends.
    pub fn close(&self) {
        *self.orders_mut() = None;
    }

    /// Orders something; the answer comes from the thread, or at once when it is refused.
    pub fn order(&self, order: Order, reply: Reply, answer: Answer) {
        let task = Task { order, reply, answer };
        let refused = match &*self.orders_mut() {
            None => Some((task, CheckpointError::Stopping)),
            Some(orders) => match orders.try_send(task) {
                Ok(()) => None,
                Err(TrySendError::Full(task)) => Some((task, CheckpointError::Busy)),
                Err(TrySendError::Disconnected(task)) => Some((task, CheckpointError::Stopping)),
            },
        };
        if let Some((mut task, error)) = refused {
            task.reply.error(&error.to_string());
            (task.answer)(task.reply);
        }
    }
}

/// Runs until [`Checkpoints::close`].
pub fn run(shared: &Shared, source: &Source, orders: &Orders) {
    let dir = shared.config.dir.join("checkpoints");
    if let Err(error) = remove_unfinished(&dir) {
        tracing::warn!(%error, "cannot remove what an unfinished checkpoint has left");
    }
    while let Ok(Task { order, mut reply, answer }) = orders.0.recv() {
        let done = match &order {
            Order::Add(name) => add(shared, source, &dir, name).map(|made| made.put(&mut reply)),
            Order::Del(name) => delete(&dir, name).map(|()| reply.ok()),
            Order::List => list(&dir).map(|names| {
                reply.array(names.len());
                names.iter().for_each(|name| reply.bulk(name.as_bytes()));
            }),
        };
        if let Err(error) = done {
            tracing::warn!(?order, %error, "checkpoint");
            reply.error(&error.to_string());
        }
        answer(reply);
    }
}

struct Made {
    path: PathBuf,
    sequence: u64,
    took: Duration,
}

impl Made {
    fn put(&self, reply: &mut Reply) {
        reply.map(3);
        reply.bulk(b"path");
        reply.bulk(self.path.as_os_str().as_encoded_bytes());
        reply.bulk(b"sequence");
        reply.integer(self.sequence as i64);
        reply.bulk(b"micros");
        reply.integer(self.took.as_micros() as i64);
    }
}

fn add(shared: &Shared, source: &Source, dir: &Path, name: &str) -> Result<Made, CheckpointError> {
    let started = Instant::now();
    lasting::create(dir).map_err(|error| io_error(dir, error))?;
    let (path, unfinished) = (dir.join(name), dir.join(format!("{name}.{UNFINISHED}")));
    if path.exists() {
        return Err(CheckpointError::Exists(name.to_string()));
    }
    check_links(&database_dir(&shared.config.dir), dir)?;
    remove(&unfinished).map_err(|error| io_error(&unfinished, error))?;
    let made = fill(shared, source, &unfinished).and_then(|sequence| {
        let renamed = fs::rename(&unfinished, &path).and_then(|()| File::open(dir)?.sync_all());
        renamed.map_err(|error| io_error(&path, error))?;
        Ok(sequence)
    });
    let sequence = made.inspect_err(|_| _ = remove(&unfinished).and_then(|()| remove(&path)))?;
    let path = path.canonicalize().unwrap_or(path);
    let took = started.elapsed();
    tracing::info!(name, sequence, micros = took.as_micros() as u64, "made a checkpoint");
    Ok(Made { path, sequence, took })
}

/// Puts everything there, and returns the last sequence that is in it.
fn fill(shared: &Shared, source: &Source, dir: &Path) -> Result<u64, CheckpointError> {
    directory::claim(dir, &[])?;
    let log = pin_unflushed(shared, source)?;
    let rocks = shared.database.rocks();
    let links = Checkpoint::new(rocks).map_err(StoreError::from)?;
    links
        .create_checkpoint_with_log_size(database_dir(dir), NEVER_FLUSH)
        .map_err(StoreError::from)?;
    let sequence = log.copy_to(&dir.join("log"))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| io_error(dir, error))?;
    Ok(sequence)
}

/// Keeps the log from after what RocksDB's files have.
fn pin_unflushed(shared: &Shared, source: &Source) -> Result<Reader, CheckpointError> {
    loop {
        match source.read_from(shared.database.flushed()? + 1) {
            // A flush came between, so there is more in the files now.
            Err(ReadError::Gone { first, .. }) if shared.database.flushed()? + 1 >= first => {}
            pinned => return Ok(pinned?),
        }
    }
}

fn check_links(database: &Path, checkpoints: &Path) -> Result<(), CheckpointError> {
    let device = |path: &Path| {
        path.metadata().map(|found| found.dev()).map_err(|error| io_error(path, error))
    };
    if device(database)? == device(checkpoints)? {
        return Ok(());
    }
    let (database, checkpoints) = (database.to_path_buf(), checkpoints.to_path_buf());
    Err(CheckpointError::TwoFileSystems { database, checkpoints })
}

fn delete(dir: &Path, name: &str) -> Result<(), CheckpointError> {
    let (path, unfinished) = (dir.join(name), dir.join(format!("{name}.{UNFINISHED}")));
    match fs::rename(&path, &unfinished) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(CheckpointError::Missing(name.to_string()))
        }
        // Renamed first, so that nobody finds half of one.
        renamed => {
            renamed.and_then(|()| remove(&unfinished)).map_err(|error| io_error(&path, error))
        }
    }
}

fn list(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    let mut names = names(dir).map_err(|error| io_error(dir, error))?;
    names.retain(|name| !name.contains('.'));
    names.sort();
    Ok(names)
}

fn remove_unfinished(dir: &Path) -> io::Result<()> {
    let mut names = names(dir)?;
    names.retain(|name| name.ends_with(&format!(".{UNFINISHED}")));
    names.iter().try_for_each(|name| remove(&dir.join(name)))
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn io_error(path: &Path, error: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_path_buf(), error }
}
