//! The HTTP server: who may hold a connection, and for how long.
//!
//! ```text
//!   Waiting ──first byte──▶ Head ──whole──▶ Handled ──answer──▶ Answered ──written──▶ Waiting
//!   IDLE_MAX               timeout        the body: timeout     timeout
//! ```
//!
//! Each deadline but the first counts from one event, so a client that trickles bytes does not move
//! it: a request has one `request_timeout` from its first byte to its last, and its answer one more
//! to be taken. How long a handled call may take is the node's affair.
//!
//! A client without a key can hold a connection by doing nothing wrong. So it can be asked to
//! leave: when all places are taken, the oldest connection that has not shown a valid key makes room
//! for the new one. Connections with a key stay, and when all have one, new ones wait.
//!
//! Bounds: connections; bytes that hyper reads ahead on each, which is also the largest head. One
//! task per connection.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::metrics::Metrics;

/// How long a connection may wait for its next request.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// How long the rest of a refused body is read and thrown away. A client that still sends would
/// otherwise be reset, and not see why it was refused.
const LINGER_MAX: Duration = Duration::from_secs(5);
/// What is read ahead on one connection.
const READ_AHEAD_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections_max: usize,
    /// For a request to arrive whole, and for its answer to be taken.
    pub request_timeout: Duration,
}

/// Why this node ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutOff {
    /// No request came for a while. Nothing is wrong with that.
    Idle,
    /// The head of a request did not arrive in time.
    HeadTimeout,
    /// The answer was not taken in time.
    AnswerTimeout,
    /// It had shown no valid key when its place was needed.
    MadeRoom,
}

impl CutOff {
    pub const ALL: [CutOff; 4] =
        [CutOff::Idle, CutOff::HeadTimeout, CutOff::AnswerTimeout, CutOff::MadeRoom];

    pub fn label(self) -> &'static str {
        match self {
            CutOff::Idle => "idle",
            CutOff::HeadTimeout => "head_timeout",
            CutOff::AnswerTimeout => "answer_timeout",
            CutOff::MadeRoom => "made_room",
        }
    }
}

/// Serves until `stop` ends, then lets the calls under way end.
pub async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Places::new(limits, metrics));
    let (stopping_in, stopping) = watch::channel(());
    let mut stop = pin!(stop);
    for number in 0.. {
        let arrive = async {
            let (stream, _) = Listener::accept(&mut listener).await;
            (stream, places.room().await)
        };
        let (stream, permit) = tokio::select! {
            arrived = arrive => arrived,
            () = &mut stop => break,
        };
        let _ = stream.set_nodelay(true);
        let place = Place::take(number, &places, permit);
        tokio::spawn(attend(place, stream, router.clone(), stopping.clone()));
    }
    drop((listener, stopping_in));
    // Every place is free when every connection has ended.
    let _ = places.permits.acquire_many(limits.connections_max as u32).await;
}

/// One connection from its first byte to its last.
async fn attend(
    place: Arc<Place>,
    stream: TcpStream,
    router: Router,
    mut stopping: watch::Receiver<()>,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let arrival = place.arrival(request.body().is_end_stream());
        request.extensions_mut().insert(arrival);
        let (answer, place) = (router.call(request), place.clone());
        Box::pin(async move {
            let answer = answer.await;
            place.answered();
            answer
        })
    });
    let io = TokioIo::new(Stream { stream, place: place.clone() });
    let mut http = http1::Builder::new();
    http.max_buf_size(READ_AHEAD_BYTES_MAX);
    let mut connection = http.serve_connection(io, service);
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut asked_to_end = false;
    let cut_off = loop {
        // In this order: deadlines move only while the connection is polled.
        tokio::select! {
            biased;
            _ = poll_fn(|context| connection.poll_without_shutdown(context)) => break None,
            why = place.overdue(timer.as_mut()) => break Some(why),
            () = place.leave.notified() => {
                if !place.doing().has_key {
                    break Some(CutOff::MadeRoom);
                }
                place.places.stays.notify_one();
            }
            _ = stopping.changed(), if !asked_to_end => {
                Pin::new(&mut connection).graceful_shutdown();
                asked_to_end = true;
            }
        }
    };
    if let Some(why) = cut_off {
        place.places.metrics.api.cut_off(why);
    } else if place.doing().body_left && !asked_to_end {
        let stream = connection.into_parts().io.into_inner().stream;
        tokio::select! {
            _ = timeout(LINGER_MAX, linger(stream)) => {}
            () = place.leave.notified() => {}
        }
    }
}

/// Ends the answer, and reads until the client has ended too.
async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

/// What a request's handlers know of its connection.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When the whole request must be here.
    pub whole_by: Instant,
    place: Arc<Place>,
}

impl Arrival {
    /// The body has been read to its end.
    pub fn is_whole(&self) {
        self.place.doing().body_left = false;
    }

    /// The connection has shown a valid key, and keeps its place from now on.
    pub fn came_with_a_key(&self) {
        self.place.doing().has_key = true;
        self.place.places.strangers().remove(&self.place.number);
    }
}

/// The places for connections.
#[derive(Debug)]
struct Places {
    limits: Limits,
    permits: Arc<Semaphore>,
    /// Asks the connections to leave that have shown no valid key so far, the oldest first.
    strangers: Mutex<BTreeMap<u64, Arc<Notify>>>,
    /// One that was asked to leave has shown its key in the meantime, and stays.
    stays: Notify,
    metrics: Arc<Metrics>,
}

impl Places {
    fn new(limits: Limits, metrics: Arc<Metrics>) -> Places {
        let permits = Arc::new(Semaphore::new(limits.connections_max));
        Places { limits, permits, strangers: Mutex::default(), stays: Notify::new(), metrics }
    }

    /// Room for one more connection. Only the listener asks, so nobody else takes the place of the
    /// stranger that leaves.
    async fn room(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(permit) = self.permits.clone().try_acquire_owned() {
                return permit;
            }
            let asked = self.strangers().pop_first();
            if let Some((_, leave)) = &asked {
                leave.notify_one();
            }
            tokio::select! {
                permit = self.permits.clone().acquire_owned() => {
                    return permit.expect("the semaphore is never closed");
                }
                () = self.stays.notified(), if asked.is_some() => {}
            }
        }
    }

    fn strangers(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.strangers.lock().expect("no panic under the lock")
    }
}

/// A connection's place, and what it is doing.
#[derive(Debug)]
struct Place {
    number: u64,
    places: Arc<Places>,
    leave: Arc<Notify>,
    doing: Mutex<Doing>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Doing {
    phase: Phase,
    /// The body of the last request was not read to its end.
    body_left: bool,
    /// A request came with a valid key.
    has_key: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Waiting { until: Instant },
    Head { until: Instant },
    Handled,
    Answered { until: Instant },
}

impl Place {
    fn take(number: u64, places: &Arc<Places>, permit: OwnedSemaphorePermit) -> Arc<Place> {
        let leave = Arc::new(Notify::new());
        places.strangers().insert(number, leave.clone());
        places.metrics.api.connections.up();
        Arc::new(Place {
            number,
            places: places.clone(),
            leave,
            doing: Mutex::new(Doing {
                phase: Phase::Waiting { until: Instant::now() + IDLE_MAX },
                body_left: false,
                has_key: false,
            }),
            _permit: permit,
        })
    }

    fn timeout(&self) -> Instant {
        Instant::now() + self.places.limits.request_timeout
    }

    /// Bytes came.
    fn heard(&self) {
        let mut doing = self.doing();
        if let Phase::Waiting { .. } = doing.phase {
            doing.phase = Phase::Head { until: self.timeout() };
        }
    }

    /// The head of a request is whole. One that was sent ahead of the last answer begins now.
    fn arrival(self: &Arc<Place>, is_whole: bool) -> Arrival {
        let mut doing = self.doing();
        let whole_by = match doing.phase {
            Phase::Head { until } => until,
            _ => self.timeout(),
        };
        (doing.phase, doing.body_left) = (Phase::Handled, !is_whole);
        Arrival { whole_by, place: self.clone() }
    }

    fn answered(&self) {
        self.doing().phase = Phase::Answered { until: self.timeout() };
    }

    /// Everything that there was to write is with the kernel.
    fn written(&self) {
        let mut doing = self.doing();
        if let Phase::Answered { .. } = doing.phase {
            doing.phase = Phase::Waiting { until: Instant::now() + IDLE_MAX };
        }
    }

    /// Ends when a deadline has passed. It is looked up at each poll, since it moves.
    async fn overdue(&self, mut timer: Pin<&mut Sleep>) -> CutOff {
        poll_fn(|context| {
            let (until, why) = match self.doing().phase {
                Phase::Waiting { until } => (until, CutOff::Idle),
                Phase::Head { until } => (until, CutOff::HeadTimeout),
                Phase::Handled => return Poll::Pending,
                Phase::Answered { until } => (until, CutOff::AnswerTimeout),
            };
            if timer.deadline() != until {
                timer.as_mut().reset(until);
            }
            timer.as_mut().poll(context).map(|()| why)
        })
        .await
    }

    /// Only the connection's own task locks it, so it is never waited for.
    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().expect("no panic under the lock")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.strangers().remove(&self.number);
        self.places.metrics.api.connections.down();
    }
}

/// A connection that notes when a request begins and when an answer is written.
struct Stream {
    stream: TcpStream,
    place: Arc<Place>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.place.heard();
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_flush(context));
        self.place.written();
        Poll::Ready(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
