//! The other end that does nothing but what any server must: a child process that accepts, takes a
//! greeting, answers with a welcome of the same size as a broker's, and holds the sockets with
//! nothing waiting on them. For fan-out it sends one given frame to all of them.
//!
//! | command | answer |
//! |---|---|
//! | (start) | `ready ADDRESS` |
//! | `hold COUNT` | `held COUNT` when that many connections were welcomed |
//! | `frame HEX` | `loaded` |
//! | `send` | `sent FAILED` |
//! | `drop` | `dropped` |

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, bail};
use hawser_codec::device::{Downlink, Welcome};
use hawser_codec::ids::{Epoch, Seq};

use socket2::{Domain, Socket, Type};

use crate::io;
use crate::io::send_ring::SendRing;

/// The broker's default.
const SEND_BUFFER_BYTES: usize = 131_072;

pub fn run() -> anyhow::Result<()> {
    io::raise_descriptor_limit()?;
    let listener = listen()?;
    println!("ready {}", listener.local_addr()?);
    let mut sockets: Vec<TcpStream> = Vec::new();
    let mut ring: Option<SendRing> = None;
    let mut frame = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("hold", count) => {
                let count: usize = count.parse()?;
                while sockets.len() < count {
                    sockets.push(welcome(&listener)?);
                }
                println!("held {count}");
            }
            ("frame", hex) => {
                frame = bytes_of(hex).context("a frame in hexadecimal")?;
                if ring.is_none() {
                    ring = Some(SendRing::new(&sockets)?);
                }
                println!("loaded");
            }
            ("send", _) => {
                let ring = ring.as_mut().context("a frame first")?;
                println!("sent {}", ring.send_to_all(&frame)?);
            }
            ("drop", _) => {
                ring = None;
                sockets.clear();
                println!("dropped");
            }
            _ => bail!("no command {line:?}"),
        }
    }
    Ok(())
}

/// A broker's options, which accepted sockets inherit, and room for all that connect at once: a full
/// queue would cost them a second each.
fn listen() -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn welcome(listener: &TcpListener) -> anyhow::Result<TcpStream> {
    let (mut socket, _) = listener.accept()?;
    let mut greeting = [0; 1024];
    if socket.read(&mut greeting)? == 0 {
        bail!("closed before a greeting");
    }
    let mut out = Vec::new();
    let welcome = Welcome { epoch: Epoch(1), heartbeat_s: 1800, group: Some(Seq::ZERO) };
    Downlink::Welcome(welcome).encode(&mut out);
    socket.write_all(&out)?;
    Ok(socket)
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}
