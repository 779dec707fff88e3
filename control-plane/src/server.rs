//! The process: starts everything in order, says that it is ready, and stops it in the reverse
//! order.
//!
//! ```text
//!   signals ─▶ ports ─▶ store ─▶ hash key ─▶ node and its owner ─▶ link listener ─▶ API ─▶ "ready"
//!   SIGTERM ─▶ API ends its calls ─▶ links ─▶ owner ─▶ store
//! ```
//!
//! Ports are bound before the store is opened: that is what most often goes wrong. A signal ends
//! the start wherever it stands. Devices notice nothing of a stop: brokers keep their connections
//! and try their links again.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use hawser_kv::shared::Stopped;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::api::body::Budget;
use crate::api::{Api, auth, router, serve};
use crate::app::{LINK_EVENTS_MAX, NodeHandle, Owner};
use crate::clock::Clock;
use crate::config::{Plan, StoreAddress};
use crate::embedded::Embedded;
use crate::link::{self, LinkContext};
use crate::metrics::{Metrics, StoreMetrics};
use crate::node::event::{Answer, Request};
use crate::node::{Node, NodeConfig};
use crate::store::{DONE_MAX, Store};

/// Runs until SIGTERM or SIGINT. An error means that it could not start, or [`Stopped`] that its own store
/// is none any more.
pub async fn run(plan: Plan) -> anyhow::Result<()> {
    // Before anything that takes time: the replay of a log, or a store that does not answer.
    let mut signals = Signals::install()?;
    let mut embedded = None;
    let running = tokio::select! {
        running = start(&plan, &mut embedded) => Some(running?),
        () = signals.one() => None,
    };
    let mut panicked = None;
    if let Some(running) = running {
        tokio::select! {
            () = signals.one() => {}
            why = panic_of(&embedded) => panicked = Some(why),
        }
        tracing::info!("stopping");
        running.stop(plan.stop_timeout).await;
    }
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    panicked.map_or(Ok(()), |why| Err(why.into()))
}

/// Never returns for a store elsewhere.
async fn panic_of(embedded: &Option<Embedded>) -> Stopped {
    match embedded {
        Some(embedded) => embedded.panicked().await,
        None => std::future::pending().await,
    }
}

/// Everything but the store, which outlives it.
struct Running {
    /// Dropped when no more calls are to be taken.
    accepting: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    /// The node's owner and the link listener; they end with this value.
    background: JoinSet<()>,
}

impl Running {
    async fn stop(mut self, within: Duration) {
        drop(self.accepting);
        if timeout(within, &mut self.serving).await.is_err() {
            tracing::warn!("calls under way took too long and were cut off");
            self.serving.abort();
        }
        self.background.shutdown().await;
    }
}

/// Starts everything. The embedded store is put where the caller can stop it also if this is
/// dropped half-way.
async fn start(plan: &Plan, embedded: &mut Option<Embedded>) -> anyhow::Result<Running> {
    let api_listener = bind("listen_api", plan.listen_api).await?;
    let link_listener = bind("listen_link", plan.listen_link).await?;
    let (api_address, link_address) = (api_listener.local_addr()?, link_listener.local_addr()?);
    let node_id = plan.node_id.unwrap_or_else(|| derived_node_id(link_address));

    let (done_in, done) = mpsc::channel(DONE_MAX);
    let store_metrics = Arc::new(StoreMetrics::default());
    let shown = plan.store.shown();
    let url = match &plan.store {
        StoreAddress::Embedded { directory } => {
            let started = Embedded::start(directory).await;
            let started = started.with_context(|| format!("the store ({shown})"))?;
            embedded.insert(started).url()
        }
        StoreAddress::Remote { url } => url.clone(),
    };
    let store = Store::connect(
        &url,
        plan.store_start_timeout,
        plan.store_timeout,
        done_in,
        store_metrics.clone(),
    );
    let store = store.await.map_err(|error| anyhow!("the store ({shown}) {error}"))?;
    let hash_key =
        store.hash_key().await.map_err(|error| anyhow!("the store ({shown}) {error}"))?;

    let clock = Arc::new(Clock::start());
    let metrics = Arc::new(Metrics::default());
    let (link_events_in, link_events) = mpsc::channel(LINK_EVENTS_MAX);
    let node = Node::new(NodeConfig::new(node_id, hash_key));
    let (owner, handle) =
        Owner::new(node, store, clock.clone(), metrics.clone(), link_events, done);
    let mut background = JoinSet::new();
    background.spawn(owner.run());
    let context = Arc::new(LinkContext {
        node: node_id,
        key: plan.link_key.clone(),
        handshake_timeout: plan.link_handshake_timeout,
        links_max: plan.links_max,
        queue_bytes_max: plan.link_queue_bytes_max,
        events: link_events_in,
        clock: clock.clone(),
        metrics: metrics.clone(),
        next_link: Default::default(),
    });
    background.spawn(link::listen(link_listener, context));

    // Before the first call is taken: an app's key must not be refused because it is not known yet.
    // Callers of a node that starts again wait in the listener's queue meanwhile.
    know_the_apps(&handle, plan.store_start_timeout)
        .await
        .with_context(|| format!("the store ({shown})"))?;
    let api = Arc::new(Api {
        node: handle,
        node_id,
        hash_key,
        admin_key: plan.admin_key,
        broker_addresses: plan.broker_addresses.clone(),
        clock,
        metrics: metrics.clone(),
        store_metrics,
        refresh: auth::Refresh::default(),
        bodies: Budget::new(plan.api_bodies_bytes_max),
    });
    let limits = serve::Limits {
        connections_max: plan.api_connections_max,
        request_timeout: plan.api_request_timeout,
    };
    let (accepting, stop) = oneshot::channel::<()>();
    let stop = async {
        let _ = stop.await;
    };
    let serving = tokio::spawn(serve::serve(api_listener, router(api), limits, metrics, stop));
    announce(api_address, link_address)?;
    tracing::info!(node = format_args!("{node_id:016x}"), store = shown, "ready");
    Ok(Running { accepting, serving, background })
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Signals> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Signals { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn one(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{key} = {address}"))
}

/// Until the node has read the apps it can neither take a key nor register an app.
async fn know_the_apps(node: &NodeHandle, within: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    while node.request(Request::AppsRefresh).await != Ok(Answer::AppsFresh) {
        ensure!(Instant::now() < deadline, "did not give the table of apps");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The line that tests and `hawser play` wait for.
fn announce(api: SocketAddr, link: SocketAddr) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "hawser-control ready: api {api} link {link}")?;
    out.flush()
}

/// The same after every start on this host and port.
fn derived_node_id(link: SocketAddr) -> u64 {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let digest = Sha256::digest(format!("{}:{}", host.trim(), link.port()));
    let (head, _) = digest.split_first_chunk::<8>().expect("SHA-256 has 32 bytes");
    u64::from_le_bytes(*head).max(1)
}
