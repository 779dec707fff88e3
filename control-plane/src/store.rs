//! Executes the node's store operations over RESP: the only storage client.
//!
//! ```text
//!   one turn's operations ──▶ writes: one pipeline ──▶ connection W ─┐
//!                        ├──▶ reads:  one pipeline ──▶ connection R ─┼─▶ done (bounded)
//!                        └──▶ transactions: one task ──▶ a pool ─────┘
//! ```
//!
//! Reads have a connection of their own, since answers come in order and a read would wait for the
//! disk sync of the writes before it. `WATCH` belongs to a connection, so a transaction has one to
//! itself. Pipelines follow each other without waiting: while the store syncs one, the next one
//! gathers what has come meanwhile.
//!
//! Every operation gets exactly one result. While a connection is away its operations fail at
//! once, so callers learn it within microseconds; it is made anew with a growing pause. What was
//! sent and not answered is `Unknown` if it writes and `NotDone` if it only reads.
//!
//! Bounds: the node limits the operations under way; the pool and the queue of results are bounded
//! here. No retries: whether to repeat is the node's decision.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hawser_codec::ids::HashKey;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, Pipeline, Value};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::metrics::StoreMetrics;
use crate::node::event::{OpId, StoreFailure, StoreOp, StoreResult};
use crate::records::HASH_KEY_KEY;
use crate::secrets;

mod commands;
mod transactions;

/// Transactions at once. Each holds a connection for three round trips, so their number times what
/// the store makes durable in one sync is the rate.
const TRANSACTIONS_MAX: usize = 256;
/// Connections to the store: writes, reads, and one for each transaction.
pub const CONNECTIONS_MAX: usize = 2 + TRANSACTIONS_MAX;
/// Groups of results that may wait for the owner of the node.
pub const DONE_MAX: usize = 1024;
/// The pause before a connection is tried again, doubled up to the maximum.
const RECONNECT_MS: u64 = 50;
const RECONNECT_MAX_MS: u64 = 2_000;

/// The results of operations that ended together.
pub type Done = Vec<(OpId, StoreResult)>;

/// A store that is reached over RESP.
pub struct Store {
    writes: Arc<Connector>,
    reads: Arc<Connector>,
    pool: Pool,
    timeout: Duration,
    done: mpsc::Sender<Done>,
    metrics: Arc<StoreMetrics>,
    keepers: Vec<JoinHandle<()>>,
}

/// Why a store cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot be reached: {0}")]
    Unreachable(redis::RedisError),
    #[error("did not answer in time")]
    Silent,
    #[error("answered {0} to a simple read")]
    Strange(String),
}

impl Store {
    /// Connects, retrying for `within`. Results go to `done`.
    pub async fn connect(
        url: &str,
        within: Duration,
        timeout: Duration,
        done: mpsc::Sender<Done>,
        metrics: Arc<StoreMetrics>,
    ) -> Result<Arc<Store>, StoreError> {
        let client = open(url).map_err(StoreError::Unreachable)?;
        let writes = Connector::new(client.clone(), timeout, "writes");
        let reads = Connector::new(client, timeout, "reads");
        let deadline = Instant::now() + within;
        writes.connect_first(deadline).await?;
        reads.connect_first(deadline).await?;
        let keepers = [&writes, &reads].map(|connector| tokio::spawn(connector.clone().keep()));
        Ok(Arc::new(Store {
            pool: Pool::new(writes.clone()),
            writes,
            reads,
            timeout,
            done,
            metrics,
            keepers: keepers.into(),
        }))
    }

    /// The cluster's key of device ids: made by the first node that asks, the same for all.
    pub async fn hash_key(&self) -> Result<HashKey, StoreError> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SET").arg(HASH_KEY_KEY).arg(&secrets::random::<16>()[..]).arg("NX");
        pipeline.cmd("GET").arg(HASH_KEY_KEY);
        let Some((_, mut connection)) = self.writes.current() else {
            return Err(StoreError::Silent);
        };
        let replies = timeout(self.timeout, connection.send_packed_commands(&pipeline, 0, 2))
            .await
            .map_err(|_| StoreError::Silent)?
            .map_err(StoreError::Unreachable)?;
        match replies.last() {
            Some(Value::BulkString(bytes)) => match bytes.as_slice().try_into() {
                Ok(key) => Ok(HashKey(key)),
                Err(_) => Err(StoreError::Strange("a key of the wrong size".into())),
            },
            other => Err(StoreError::Strange(format!("{other:?}"))),
        }
    }

    /// Starts a turn's operations. Returns at once.
    pub fn execute(self: &Arc<Store>, ops: Vec<(OpId, StoreOp)>) {
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        for (id, op) in ops {
            match Path::of(&op) {
                Path::Write => writes.push((id, op)),
                Path::Read => reads.push((id, op)),
                Path::Steps | Path::Transaction => {
                    let store = self.clone();
                    tokio::spawn(async move {
                        let result = store.run(&op).await;
                        store.report(vec![(id, result)]).await;
                    });
                }
            }
        }
        for batch in [writes, reads] {
            if !batch.is_empty() {
                let store = self.clone();
                tokio::spawn(async move {
                    let (ids, ops): (Vec<OpId>, Vec<StoreOp>) = batch.into_iter().unzip();
                    let results = store.pipeline(&ops).await;
                    store.report(ids.into_iter().zip(results).collect()).await;
                });
            }
        }
    }

    /// Executes one operation.
    pub async fn run(&self, op: &StoreOp) -> StoreResult {
        match Path::of(op) {
            Path::Write | Path::Read => {
                let mut results = self.pipeline(std::slice::from_ref(op)).await;
                results.pop().expect("one result per operation")
            }
            Path::Steps => self.steps(op).await,
            Path::Transaction => self.transaction(op).await,
        }
    }

    /// Executes operations of one kind, all reads or all writes, as one pipeline.
    async fn pipeline(&self, ops: &[StoreOp]) -> Vec<StoreResult> {
        let connector = match Path::of(&ops[0]) {
            Path::Read => &self.reads,
            _ => &self.writes,
        };
        let mut pipeline = Pipeline::with_capacity(ops.len() * 2);
        let counts: Vec<usize> = ops.iter().map(|op| commands::encode(op, &mut pipeline)).collect();
        let replies = match self.send(connector, &pipeline).await {
            Ok(replies) => replies,
            Err(failure) => {
                return ops.iter().map(|op| StoreResult::Failed(failure.of(op))).collect();
            }
        };
        let mut replies = replies.into_iter();
        let results = ops.iter().zip(counts).map(|(op, count)| {
            let mut own = replies.by_ref().take(count);
            let result = commands::decode(op, &mut own);
            own.for_each(drop);
            self.metrics.judged(result)
        });
        results.collect()
    }

    /// An operation of which each command depends on the answer to the one before.
    async fn steps(&self, op: &StoreOp) -> StoreResult {
        let connector = if op.writes() { &self.writes } else { &self.reads };
        let mut first = Pipeline::new();
        commands::encode(op, &mut first);
        let replies = match self.send(connector, &first).await {
            Ok(replies) => replies,
            Err(failure) => return StoreResult::Failed(failure.of(op)),
        };
        let next = match commands::next_step(op, replies) {
            Ok(commands::Next::Ends(result)) => return result,
            Ok(commands::Next::Step(next)) => next,
            Err(trouble) => return self.metrics.judged(Err(trouble)),
        };
        match self.send(connector, &next.pipeline).await {
            Ok(replies) => self.metrics.judged((next.finish)(replies)),
            // The first step was done.
            Err(_) if op.writes() => StoreResult::Failed(StoreFailure::Unknown),
            Err(_) => StoreResult::Failed(StoreFailure::NotDone),
        }
    }

    async fn send(
        &self,
        connector: &Connector,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, Unanswered> {
        let Some((generation, mut connection)) = connector.current() else {
            return Err(Unanswered::NotSent);
        };
        let started = Instant::now();
        let sent = connection.send_packed_commands(pipeline, 0, pipeline.len());
        let answer = timeout(self.timeout, sent).await;
        self.metrics.pipeline(pipeline.len(), started.elapsed());
        match answer {
            Ok(Ok(replies)) if replies.len() == pipeline.len() => return Ok(replies),
            Ok(Ok(_)) => connector.lost(generation, "an answer of the wrong length"),
            Ok(Err(error)) => connector.lost(generation, &error.to_string()),
            Err(_) => connector.lost(generation, "no answer in time"),
        }
        Err(Unanswered::Sent)
    }

    async fn transaction(&self, op: &StoreOp) -> StoreResult {
        // The wait for a turn is not the store's: only what follows has a deadline.
        let permit = self.pool.permits.acquire().await.expect("the semaphore is never closed");
        // Set right before EXEC is sent: from there on nobody knows until it is answered.
        let committing = AtomicBool::new(false);
        let started = Instant::now();
        let answer = timeout(self.timeout, async {
            let mut lease = self.pool.lease(permit).await?;
            let result = transactions::run(op, &mut lease.connection, &committing).await;
            if result.is_ok() {
                self.pool.put_back(lease);
            }
            result
        });
        let answer = answer.await;
        self.metrics.pipeline(1, started.elapsed());
        match answer {
            Ok(
                result @ (Ok(_)
                | Err(Trouble::Refused(_) | Trouble::Open(_) | Trouble::Unexpected(_))),
            ) => self.metrics.judged(result),
            Ok(Err(Trouble::Connection)) | Err(_) => {
                StoreResult::Failed(match committing.load(Relaxed) {
                    true => StoreFailure::Unknown,
                    false => StoreFailure::NotDone,
                })
            }
        }
    }

    async fn report(&self, done: Done) {
        for (_, result) in &done {
            self.metrics.result(result);
        }
        // The owner is gone only when the process stops.
        let _ = self.done.send(done).await;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for keeper in &self.keepers {
            keeper.abort();
        }
    }
}

/// The way an operation takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Write,
    Read,
    /// Commands that depend on earlier answers, on a shared connection.
    Steps,
    /// On a connection of its own.
    Transaction,
}

impl Path {
    fn of(op: &StoreOp) -> Path {
        match op {
            StoreOp::Append { .. }
            | StoreOp::Trim { .. }
            | StoreOp::Delete { .. }
            | StoreOp::Count { .. } => Path::Write,
            StoreOp::Tail { .. }
            | StoreOp::Read { .. }
            | StoreOp::Find { .. }
            | StoreOp::Scan { .. }
            | StoreOp::ReadCounts { .. } => Path::Read,
            StoreOp::ReadApps { .. } => Path::Steps,
            StoreOp::AppendAll { .. } | StoreOp::WriteApp { .. } => Path::Transaction,
        }
    }
}

impl StoreOp {
    fn writes(&self) -> bool {
        match self {
            StoreOp::Append { .. }
            | StoreOp::AppendAll { .. }
            | StoreOp::Trim { .. }
            | StoreOp::Delete { .. }
            | StoreOp::Count { .. }
            | StoreOp::WriteApp { .. } => true,
            StoreOp::Tail { .. }
            | StoreOp::Read { .. }
            | StoreOp::Find { .. }
            | StoreOp::Scan { .. }
            | StoreOp::ReadCounts { .. }
            | StoreOp::ReadApps { .. } => false,
        }
    }
}

/// No answer came.
#[derive(Clone, Copy)]
enum Unanswered {
    NotSent,
    Sent,
}

impl Unanswered {
    fn of(self, op: &StoreOp) -> StoreFailure {
        match self {
            Unanswered::Sent if op.writes() => StoreFailure::Unknown,
            Unanswered::Sent | Unanswered::NotSent => StoreFailure::NotDone,
        }
    }
}

/// Why an operation has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The connection broke.
    Connection,
    /// The store refused it and did nothing: the text is its error.
    Refused(String),
    /// The store has failed and does not know whether it was done: the text is its error.
    Open(String),
    /// The store answered something that the command cannot answer.
    Unexpected(&'static str),
}

/// One shared connection that is made anew when it breaks.
struct Connector {
    client: Client,
    config: AsyncConnectionConfig,
    name: &'static str,
    current: Mutex<Current>,
    broken: Notify,
}

/// The connection and how many there were before it, so that a late error of an earlier one does
/// not end it.
struct Current {
    generation: u64,
    connection: Option<MultiplexedConnection>,
}

impl Connector {
    fn new(client: Client, timeout: Duration, name: &'static str) -> Arc<Connector> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(None);
        let current = Mutex::new(Current { generation: 0, connection: None });
        Arc::new(Connector { client, config, name, current, broken: Notify::new() })
    }

    fn current(&self) -> Option<(u64, MultiplexedConnection)> {
        let current = self.current.lock().expect("no panic while it is held");
        Some((current.generation, current.connection.clone()?))
    }

    fn lost(&self, generation: u64, why: &str) {
        let mut current = self.current.lock().expect("no panic while it is held");
        if current.generation == generation && current.connection.take().is_some() {
            tracing::warn!(connection = self.name, why, "the store is away");
            self.broken.notify_one();
        }
    }

    async fn open(&self) -> redis::RedisResult<MultiplexedConnection> {
        self.client.get_multiplexed_async_connection_with_config(&self.config).await
    }

    async fn connect_first(&self, deadline: Instant) -> Result<(), StoreError> {
        let mut pause = Duration::from_millis(RECONNECT_MS);
        loop {
            match self.open().await {
                Ok(connection) => {
                    self.install(connection);
                    return Ok(());
                }
                Err(error) if Instant::now() + pause >= deadline => {
                    return Err(StoreError::Unreachable(error));
                }
                Err(error) => tracing::warn!(%error, "waiting for the store"),
            }
            pause = pause_and_double(pause).await;
        }
    }

    fn install(&self, connection: MultiplexedConnection) {
        let mut current = self.current.lock().expect("no panic while it is held");
        current.generation += 1;
        current.connection = Some(connection);
    }

    /// Replaces the connection whenever it is lost.
    async fn keep(self: Arc<Connector>) {
        loop {
            self.broken.notified().await;
            let mut pause = Duration::from_millis(RECONNECT_MS);
            loop {
                match self.open().await {
                    Ok(connection) => {
                        self.install(connection);
                        tracing::info!(connection = self.name, "the store is back");
                        break;
                    }
                    Err(_) => pause = pause_and_double(pause).await,
                }
            }
        }
    }
}

async fn pause_and_double(pause: Duration) -> Duration {
    tokio::time::sleep(pause).await;
    (pause * 2).min(Duration::from_millis(RECONNECT_MAX_MS))
}

/// Connections that one transaction at a time has to itself.
struct Pool {
    shared: Arc<Connector>,
    idle: Mutex<Vec<(u64, MultiplexedConnection)>>,
    permits: Semaphore,
}

struct Lease<'a> {
    generation: u64,
    connection: MultiplexedConnection,
    _permit: SemaphorePermit<'a>,
}

impl Pool {
    fn new(shared: Arc<Connector>) -> Pool {
        let permits = Semaphore::new(TRANSACTIONS_MAX);
        Pool { shared, idle: Mutex::new(Vec::new()), permits }
    }

    /// An idle connection, or a new one. None while the shared connection is away: that one is
    /// tried again with pauses, and a queue of attempts here would only be in its way.
    async fn lease<'a>(&self, permit: SemaphorePermit<'a>) -> Result<Lease<'a>, Trouble> {
        let (generation, _) = self.shared.current().ok_or(Trouble::Connection)?;
        let idle = {
            let mut idle = self.idle.lock().expect("no panic while it is held");
            // Those made before the store went away are dead with it.
            idle.retain(|(made, _)| *made == generation);
            idle.pop()
        };
        let connection = match idle {
            Some((_, connection)) => connection,
            None => self.shared.open().await.map_err(|_| Trouble::Connection)?,
        };
        Ok(Lease { generation, connection, _permit: permit })
    }

    /// Only for a connection whose last transaction was answered: nothing is watched any more.
    fn put_back(&self, lease: Lease<'_>) {
        let mut idle = self.idle.lock().expect("no panic while it is held");
        idle.push((lease.generation, lease.connection));
    }
}

fn open(url: &str) -> redis::RedisResult<Client> {
    let info = url.into_connection_info()?;
    // CLIENT SETINFO would be an unknown command to a lean server.
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    Client::open(info.set_redis_settings(settings))
}
