//! The bare server on tokio-uring.
//!
//! The kernel owns a buffer while it is used, and there is no waiting without a read: so every idle
//! connection has a buffer of its own. Sends are write operations, each a task that owns its bytes.
//! What is submitted reaches the kernel when the thread parks, so a batch of sends is one call.
//!
//! An operation cannot be told not to wait. A write that is not over shortly after its batch is late:
//! if it is a send it counts as failed, and further ones to that connection fail until it is over.
//!
//! The ring is not set up with DEFER_TASKRUN, with which this runtime hangs. The timer is tokio's,
//! with steps of a millisecond.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use hawser_bare_protocol::command::Answer;
use hawser_bare_protocol::frames;
use hawser_bare_protocol::skim::Skim;
use hawser_bare_runtimes::READ_BYTES;
use hawser_bare_runtimes::orders::{self, Runtime};
use hawser_bare_runtimes::process::{Arguments, listen, raise_descriptor_limit};
use hawser_bare_runtimes::roster::{Peer, Roster};
use tokio::sync::{Mutex, Notify};
use tokio_uring::net::{TcpListener, TcpStream};

/// After an accept failed for want of memory or descriptors.
const RETRY: Duration = Duration::from_millis(20);

/// How long a batch of sends may take. A send into a socket with room is over when it is submitted,
/// so this only has to outlast whatever else keeps the processor; a device that does not read costs
/// it once.
const PATIENCE: Duration = Duration::from_millis(100);

/// A turn's sends and some receives.
const SUBMISSIONS: u32 = 512;
const COMPLETIONS: u32 = 8_192;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::of("tokio-uring");
    raise_descriptor_limit()?;
    let commands = orders::read();
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(COMPLETIONS);
    tokio_uring::builder().entries(SUBMISSIONS).uring_builder(&ring).start(async {
        let listener = listen(arguments.listen)?;
        // The ring waits for connections, which it does only for a socket that may block.
        listener.set_nonblocking(false)?;
        println!("{}", Answer::Ready(listener.local_addr()?));
        let (uring, roster) = (Uring::default(), Roster::new());
        let listener = TcpListener::from_std(listener);
        tokio_uring::spawn(accept(listener, uring.clone(), Rc::clone(&roster)));
        orders::obey(&uring, &roster, commands).await;
        // Operations of all connections are in the kernel, and there is nothing to save.
        std::process::exit(0)
    })
}

struct Stream {
    tcp: TcpStream,
    /// Held by the write whose turn it is: another could get between its parts.
    turn: Mutex<()>,
    /// Writes that are not over, and the batch of the latest.
    writes: Cell<u32>,
    latest: Cell<u64>,
}

async fn accept(listener: TcpListener, uring: Uring, roster: Rc<Roster<Stream>>) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                let (turn, writes, latest) = Default::default();
                let peer = Peer::new(Stream { tcp, turn, writes, latest });
                tokio_uring::spawn(serve(peer, uring.clone(), Rc::clone(&roster)));
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn serve(peer: Rc<Peer<Stream>>, uring: Uring, roster: Rc<Roster<Stream>>) {
    let mut skim = Skim::default();
    let mut buffer = Vec::with_capacity(READ_BYTES);
    loop {
        let (read, filled) = peer.stream.tcp.read(buffer).await;
        let Ok(count @ 1..) = read else { break };
        let Ok(pings) = skim.pings(&filled[..count]) else { break };
        buffer = filled;
        if !peer.is_welcomed() {
            roster.enter(&peer);
            uring.reply(&peer, frames::welcome()).await;
        }
        if pings > 0 {
            uring.reply(&peer, frames::pongs(pings)).await;
        }
    }
    roster.leave(&peer);
    // A write that waits would keep the socket open. It may have ended by itself.
    let _ = peer.stream.tcp.shutdown(Shutdown::Both);
}

#[derive(Clone, Default)]
struct Uring {
    batch: Rc<RefCell<Rc<Batch>>>,
    /// Batches that were waited for. What is under way of these is late.
    settled: Rc<Cell<u64>>,
}

/// The writes begun since the last time that the others had their turn.
#[derive(Default)]
struct Batch {
    number: u64,
    under_way: Cell<u64>,
    /// Sends that failed or are under way.
    unsent: Cell<u64>,
    is_over: Notify,
}

impl Uring {
    /// The batch of a new write. `None` if the last one to this connection is late.
    fn begin(&self, stream: &Stream) -> Option<Rc<Batch>> {
        let batch = Rc::clone(&self.batch.borrow());
        if stream.writes.get() > 0 && stream.latest.get() < self.settled.get() {
            return None;
        }
        stream.latest.set(batch.number);
        stream.writes.update(|count| count + 1);
        batch.under_way.update(|count| count + 1);
        Some(batch)
    }

    /// Drops the reply if the peer does not read.
    async fn reply(&self, peer: &Peer<Stream>, frame: Vec<u8>) {
        if let Some(batch) = self.begin(&peer.stream) {
            // If it fails, so does the connection's next read.
            let _ = write(&peer.stream, frame).await;
            batch.end(&peer.stream);
        }
    }
}

async fn write(stream: &Stream, frame: Vec<u8>) -> std::io::Result<()> {
    let _turn = stream.turn.lock().await;
    stream.tcp.write_all(frame).await.0
}

impl Batch {
    fn end(&self, stream: &Stream) {
        stream.writes.update(|count| count - 1);
        self.under_way.update(|count| count - 1);
        if self.under_way.get() == 0 {
            self.is_over.notify_one();
        }
    }
}

impl Runtime for Uring {
    type Stream = Stream;

    fn send(&self, peer: &Rc<Peer<Stream>>, frame: &[u8]) -> bool {
        let Some(batch) = self.begin(&peer.stream) else { return false };
        batch.unsent.update(|count| count + 1);
        let (peer, frame) = (Rc::clone(peer), frame.to_vec());
        tokio_uring::spawn(async move {
            if write(&peer.stream, frame).await.is_ok() {
                batch.unsent.update(|count| count - 1);
            }
            batch.end(&peer.stream);
        });
        true
    }

    async fn settle(&self) -> u64 {
        let next = self.batch.borrow().number + 1;
        let batch = self.batch.replace(Rc::new(Batch { number: next, ..Batch::default() }));
        let over = async {
            while batch.under_way.get() > 0 {
                batch.is_over.notified().await;
            }
        };
        // Out of time or not, what is under way from here on is late.
        let _ = tokio::time::timeout(PATIENCE, over).await;
        self.settled.set(next);
        batch.unsent.get()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}
