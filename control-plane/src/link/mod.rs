//! The tokio end of the links: a listener for brokers' shards.
//!
//! ```text
//!   accept ─▶ handshake (bounded in number and time) ─▶ Up ─▶ whole frames ─▶ owner of the node
//!                                                        outbox ◀─ frames ──┘
//! ```
//!
//! One task serves one link: it reads whole frames into chunks for the owner, writes what the
//! owner puts into the link's [`Outbox`], and pings. The owner decodes; a frame that it cannot
//! decode costs the peer its link. A peer that has not proved that it has the link key reaches
//! nothing but `handshake.rs`.
//!
//! Bounds: handshakes and links in number, the outbox in bytes, chunks by the owner's queue: when
//! that is full, the link is not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::split;
use hawser_codec::limits::LINK_BODY_BYTES_MAX;
use hawser_codec::link::{Hello, to_broker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::clock::Clock;
use crate::metrics::{LinkRefusal, Metrics};
use crate::node::event::LinkId;
use crate::secrets::LinkKey;

mod handshake;
mod outbox;

pub use outbox::Outbox;

/// Peers that may be in the handshake at once.
pub const HANDSHAKES_MAX: usize = 256;
/// A shard cuts a link that says nothing for 30 s.
const PING_EVERY: Duration = Duration::from_secs(5);
/// A shard answers pings, so silence means that the path is gone.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// A peer that takes nothing for this long is gone.
const WRITE_MAX: Duration = Duration::from_secs(20);
const READ_BYTES: usize = 64 * 1024;

/// What a link tells the owner of the node.
#[derive(Debug)]
pub enum LinkEvent {
    Up {
        link: LinkId,
        hello: Hello,
        outbox: Arc<Outbox>,
    },
    /// Whole frames.
    Frames {
        link: LinkId,
        bytes: Bytes,
    },
    /// The last event of a link.
    Down {
        link: LinkId,
    },
}

/// What every link task needs.
pub struct LinkContext {
    pub node: u64,
    pub key: LinkKey,
    pub handshake_timeout: Duration,
    pub links_max: usize,
    pub queue_bytes_max: usize,
    pub events: mpsc::Sender<LinkEvent>,
    pub clock: Arc<Clock>,
    pub metrics: Arc<Metrics>,
    pub next_link: AtomicU32,
}

/// Accepts peers until the task is ended.
pub async fn listen(listener: TcpListener, context: Arc<LinkContext>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let links = Arc::new(Semaphore::new(context.links_max));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Descriptors are used up, as a rule; they come back when something closes.
                tracing::warn!(%error, "cannot accept on the link port");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (Ok(handshake), Ok(link)) =
            (handshakes.clone().try_acquire_owned(), links.clone().try_acquire_owned())
        else {
            context.metrics.links.refused(LinkRefusal::TooMany);
            continue;
        };
        let context = context.clone();
        tokio::spawn(async move {
            let admitted = admit(stream, &context).await;
            drop(handshake);
            if let Some((stream, hello)) = admitted {
                serve(stream, hello, &context).await;
            }
            drop(link);
        });
    }
}

async fn admit(mut stream: TcpStream, context: &LinkContext) -> Option<(TcpStream, Hello)> {
    let metrics = &context.metrics.links;
    metrics.handshakes.up();
    let _ = stream.set_nodelay(true);
    let shaken = handshake::accept(&mut stream, context.node, &context.key, &context.clock);
    let refusal = match timeout(context.handshake_timeout, shaken).await {
        Ok(Ok(hello)) => Ok(hello),
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(LinkRefusal::Timeout),
    };
    metrics.handshakes.down();
    match refusal {
        Ok(hello) => Some((stream, hello)),
        Err(refusal) => {
            metrics.refused(refusal);
            tracing::debug!(reason = refusal.label(), "refused a peer at the link port");
            None
        }
    }
}

async fn serve(stream: TcpStream, hello: Hello, context: &LinkContext) {
    let metrics = &context.metrics.links;
    let link = LinkId(context.next_link.fetch_add(1, Relaxed));
    let outbox = Arc::new(Outbox::new(context.queue_bytes_max));
    let up = LinkEvent::Up { link, hello, outbox: outbox.clone() };
    if context.events.send(up).await.is_err() {
        return;
    }
    metrics.accepted.add(1);
    metrics.up.up();
    let (broker, shard) = (hello.broker, hello.shard);
    tracing::info!(link = link.0, broker = format_args!("{broker:016x}"), shard, "link up");
    let (reader, writer) = stream.into_split();
    let end = tokio::select! {
        end = read(reader, link, context) => end,
        end = write(writer, &outbox, context) => end,
    };
    outbox.close(end.reason());
    let reason = outbox.closed_for().unwrap_or(CloseReason::Reset);
    metrics.closed(reason);
    metrics.up.down();
    tracing::info!(link = link.0, reason = reason.label(), "link down");
    let _ = context.events.send(LinkEvent::Down { link }).await;
}

/// Why a link's task ends.
enum End {
    Hangup,
    Silent,
    Bad(DecodeError),
    Broken,
    /// The owner closed the outbox, and that says why.
    Closed,
}

impl End {
    fn reason(&self) -> CloseReason {
        match self {
            End::Hangup => CloseReason::Bye,
            End::Silent => CloseReason::Idle,
            End::Bad(DecodeError::FrameTooLarge) => CloseReason::FrameTooLarge,
            End::Bad(_) => CloseReason::BadFrame,
            End::Broken | End::Closed => CloseReason::Reset,
        }
    }
}

async fn read(
    mut reader: tokio::net::tcp::OwnedReadHalf,
    link: LinkId,
    context: &LinkContext,
) -> End {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        buffer.reserve(READ_BYTES);
        match timeout(SILENCE_MAX, reader.read_buf(&mut buffer)).await {
            Ok(Ok(0)) => return End::Hangup,
            Ok(Ok(count)) => context.metrics.links.bytes_in.add(count as u64),
            Ok(Err(_)) => return End::Broken,
            Err(_) => return End::Silent,
        }
        let whole = match whole_frames_bytes(&buffer) {
            Ok(0) => continue,
            Ok(whole) => whole,
            Err(error) => {
                context.metrics.links.decode_error(error);
                return End::Bad(error);
            }
        };
        let bytes = buffer.split_to(whole).freeze();
        if context.events.send(LinkEvent::Frames { link, bytes }).await.is_err() {
            return End::Closed;
        }
    }
}

/// How many bytes at the front of `buffer` are whole frames.
fn whole_frames_bytes(buffer: &[u8]) -> Result<usize, DecodeError> {
    let mut rest = buffer;
    while let Some((_, after)) = split(rest, LINK_BODY_BYTES_MAX)? {
        rest = after;
    }
    Ok(buffer.len() - rest.len())
}

async fn write(
    mut writer: tokio::net::tcp::OwnedWriteHalf,
    outbox: &Outbox,
    context: &LinkContext,
) -> End {
    let mut pings = interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        tokio::select! {
            open = outbox.take(&mut buffer) => if !open { return End::Closed },
            _ = pings.tick() => to_broker::ping(&mut buffer, context.clock.epoch()),
        }
        match timeout(WRITE_MAX, writer.write_all(&buffer)).await {
            Ok(Ok(())) => context.metrics.links.bytes_out.add(buffer.len() as u64),
            Ok(Err(_)) => return End::Broken,
            Err(_) => return End::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_codec::ids::Epoch;
    use hawser_codec::link::to_control;

    #[test]
    fn only_whole_frames_are_passed_on() {
        let mut bytes = Vec::new();
        to_control::pong(&mut bytes, Epoch(1));
        let one = bytes.len();
        to_control::pong(&mut bytes, Epoch(2));
        for end in 0..=bytes.len() {
            assert_eq!(whole_frames_bytes(&bytes[..end]), Ok(end / one * one));
        }
        assert_eq!(
            whole_frames_bytes(&[1, 0xff, 0xff, 0xff, 0x7f]),
            Err(DecodeError::FrameTooLarge)
        );
    }
}
