//! The bare server on tokio: a current-thread runtime, whose tasks need not be `Send`.
//!
//! A connection's task waits for readiness and reads into a buffer that exists only then, as tokio's
//! documentation of `readable` advises for many idle connections. Sends are `try_write`: the socket
//! takes the bytes at once, or the send has failed. tokio's timer has steps of a millisecond, so
//! single messages at a rate leave in bursts of that distance.

#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use hawser_bare_protocol::command::Answer;
use hawser_bare_protocol::frames;
use hawser_bare_protocol::skim::Skim;
use hawser_bare_runtimes::READ_BYTES;
use hawser_bare_runtimes::orders::{self, Runtime};
use hawser_bare_runtimes::process::{Arguments, listen, raise_descriptor_limit};
use hawser_bare_runtimes::roster::{Peer, Roster};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};

/// After an accept failed for want of memory or descriptors.
const RETRY: Duration = Duration::from_millis(20);

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::of("tokio");
    raise_descriptor_limit()?;
    let commands = orders::read();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listen(arguments.listen)?)?;
        println!("{}", Answer::Ready(listener.local_addr().context("an address")?));
        let roster = Roster::new();
        tokio::task::spawn_local(accept(listener, Rc::clone(&roster)));
        orders::obey(&Tokio, &roster, commands).await;
        Ok(())
    })
}

async fn accept(listener: TcpListener, roster: Rc<Roster<TcpStream>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(serve(Peer::new(stream), Rc::clone(&roster)));
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn serve(peer: Rc<Peer<TcpStream>>, roster: Rc<Roster<TcpStream>>) {
    let mut skim = Skim::default();
    while peer.stream.readable().await.is_ok() {
        let mut buffer = [0; READ_BYTES];
        let count = match peer.stream.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(_) => break,
        };
        let Ok(pings) = skim.pings(&buffer[..count]) else { break };
        if !peer.is_welcomed() {
            roster.enter(&peer);
            Tokio.send(&peer, &frames::welcome());
        }
        if pings > 0 {
            Tokio.send(&peer, &frames::pongs(pings));
        }
    }
    roster.leave(&peer);
}

struct Tokio;

impl Runtime for Tokio {
    type Stream = TcpStream;

    fn send(&self, peer: &Rc<Peer<TcpStream>>, frame: &[u8]) -> bool {
        match peer.stream.try_write(frame) {
            Ok(count) if count == frame.len() => true,
            Ok(_) => {
                // After half a frame nothing more can follow. It may have ended by itself.
                let _ = SockRef::from(&peer.stream).shutdown(Shutdown::Both);
                false
            }
            Err(_) => false,
        }
    }

    async fn settle(&self) -> u64 {
        tokio::task::yield_now().await;
        0
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}
