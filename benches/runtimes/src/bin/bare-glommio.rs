//! The bare server on glommio: one executor.
//!
//! A connection's task polls its stream with a buffer that exists only while it is polled; glommio
//! receives at once if there is something, and otherwise waits for readiness on its ring. Sends go to
//! the socket at once too, or have failed.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fs::File;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::ensure;
use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use hawser_bare_protocol::command::Answer;
use hawser_bare_protocol::frames;
use hawser_bare_protocol::skim::Skim;
use hawser_bare_runtimes::READ_BYTES;
use hawser_bare_runtimes::orders::{self, Runtime};
use hawser_bare_runtimes::process::{Arguments, raise_descriptor_limit, set_options};
use hawser_bare_runtimes::roster::{Peer, Roster};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::Socket;

/// After an accept failed for want of memory or descriptors.
const RETRY: Duration = Duration::from_millis(20);

/// A turn's receives; the default of 128 is meant for files.
const RING_DEPTH: usize = 1_024;

type Stream = RefCell<TcpStream>;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::of("glommio");
    raise_descriptor_limit()?;
    let commands = orders::read();
    let builder = LocalExecutorBuilder::new(Placement::Unbound).ring_depth(RING_DEPTH);
    let executor = builder.make().map_err(|error| anyhow::anyhow!("no executor: {error}"))?;
    executor.run(async {
        let listener = listen(arguments.listen)?;
        let address = listener.local_addr().map_err(|error| anyhow::anyhow!("{error}"))?;
        println!("{}", Answer::Ready(address));
        let roster = Roster::new();
        glommio::spawn_local(accept(listener, Rc::clone(&roster))).detach();
        orders::obey(&Glommio, &roster, commands).await;
        // Every connection has a task, and there is nothing to save.
        std::process::exit(0)
    })
}

/// glommio makes its listeners itself, with no options and without telling the descriptor. That is
/// the lowest one that is free, and a duplicate of it is the same socket, through which the options
/// can be set.
fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let lowest_free = File::open("/dev/null")?.as_raw_fd();
    let listener = TcpListener::bind(address)
        .map_err(|error| anyhow::anyhow!("cannot listen on {address}: {error}"))?;
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    let duplicate = Socket::from(pidfd_getfd(process, lowest_free, PidfdGetfdFlags::empty())?);
    let is_same = duplicate.local_addr()?.as_socket() == listener.local_addr().ok();
    ensure!(is_same, "descriptor {lowest_free} is not the listener");
    set_options(&duplicate)?;
    Ok(listener)
}

async fn accept(listener: TcpListener, roster: Rc<Roster<Stream>>) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let peer = Peer::new(RefCell::new(stream));
                glommio::spawn_local(serve(peer, Rc::clone(&roster))).detach();
            }
            Err(_) => glommio::timer::sleep(RETRY).await,
        }
    }
}

async fn serve(peer: Rc<Peer<Stream>>, roster: Rc<Roster<Stream>>) {
    let mut skim = Skim::default();
    // One step is: receive, and count the heartbeats. `None` is the end.
    while let Some(pings) = poll_fn(|cx| poll_pings(&peer.stream, &mut skim, cx)).await {
        if !peer.is_welcomed() {
            roster.enter(&peer);
            Glommio.send(&peer, &frames::welcome());
        }
        if pings > 0 {
            Glommio.send(&peer, &frames::pongs(pings));
        }
    }
    roster.leave(&peer);
}

fn poll_pings(stream: &Stream, skim: &mut Skim, cx: &mut Context<'_>) -> Poll<Option<usize>> {
    let mut buffer = [0; READ_BYTES];
    Pin::new(&mut *stream.borrow_mut()).poll_read(cx, &mut buffer).map(|read| match read {
        Ok(count @ 1..) => skim.pings(&buffer[..count]).ok(),
        Ok(0) | Err(_) => None,
    })
}

struct Glommio;

impl Runtime for Glommio {
    type Stream = Stream;

    fn send(&self, peer: &Rc<Peer<Stream>>, frame: &[u8]) -> bool {
        // Nobody wants to be woken: a send that would wait has failed.
        let mut cx = Context::from_waker(Waker::noop());
        let mut stream = peer.stream.borrow_mut();
        match Pin::new(&mut *stream).poll_write(&mut cx, frame) {
            Poll::Ready(Ok(count)) if count == frame.len() => true,
            Poll::Ready(Ok(_)) => {
                // After half a frame nothing more can follow. It may have ended by itself.
                let _ = Pin::new(&mut *stream).poll_close(&mut cx);
                false
            }
            Poll::Ready(Err(_)) | Poll::Pending => false,
        }
    }

    async fn settle(&self) -> u64 {
        glommio::executor().yield_task_queue_now().await;
        0
    }

    async fn sleep(&self, time: Duration) {
        glommio::timer::sleep(time).await;
    }
}
