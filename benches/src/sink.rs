//! The device side of the connection benchmarks: a child process that opens many connections, says
//! the same on each, and then only counts the bytes that arrive. It is the same program with the
//! same code path whether a broker or the floor is at the other end.
//!
//! Commands, one a line, and their answers:
//!
//! | command | answer |
//! |---|---|
//! | `open LANE ADDRESS COUNT FIRST` | `opened COUNT` when each connection got its welcome |
//! | `expect LANE BYTES` | `armed`, then `received BYTES` when that many more have arrived |
//! | `close LANE` | `closed` |
//!
//! A lane is `broker` or `floor`. Connections are closed with a reset, so that none lingers.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use hawser_codec::device::{Connect, Downlink, MAJOR, MINOR, Uplink};
use hawser_codec::frame::split;
use hawser_codec::ids::{Epoch, Seq, TopicId};
use hawser_codec::limits::DOWNLINK_BODY_BYTES_MAX;
use socket2::{Domain, SockRef, Socket, Type};

use crate::control_end::ticket;
use crate::io;
use crate::io::epoll::Epoll;

/// The topic that every device of the benchmarks joins.
pub const TOPIC: &str = "news";

/// How long bytes that are expected may take.
const DEADLINE: Duration = Duration::from_secs(30);

const STDIN: u64 = u64::MAX;

struct Sink {
    epoll: Epoll,
    lanes: [Lane; 2],
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Lane {
    sockets: Vec<TcpStream>,
    received: u64,
    expected: Option<Expected>,
}

struct Expected {
    bytes: u64,
    deadline: Instant,
}

/// Where a lane stands in tokens and in commands.
fn lane_index(name: &str) -> anyhow::Result<usize> {
    match name {
        "broker" => Ok(0),
        "floor" => Ok(1),
        _ => bail!("no lane {name}"),
    }
}

pub fn run() -> anyhow::Result<()> {
    io::raise_descriptor_limit()?;
    let mut sink =
        Sink { epoll: Epoll::new()?, lanes: Default::default(), buffer: vec![0; 64 * 1024] };
    let stdin = std::io::stdin();
    sink.epoll.add(&stdin, STDIN)?;
    loop {
        let tokens: Vec<u64> = sink.epoll.wait(1_000)?.collect();
        for token in tokens {
            if token == STDIN {
                let mut line = String::new();
                // One command at a time, so nothing is left in the buffer behind this line.
                if stdin.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                sink.obey(line.trim_end())?;
            } else {
                sink.receive((token >> 32) as usize, (token & 0xffff_ffff) as usize)?;
            }
        }
        sink.report()?;
    }
}

impl Sink {
    fn obey(&mut self, command: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = command.split(' ').collect();
        let lane = lane_index(words.get(1).context("a lane")?)?;
        match words[..] {
            ["open", _, address, count, first] => {
                self.open(lane, address.parse()?, count.parse()?, first.parse()?)?;
                println!("opened {count}");
            }
            ["expect", _, bytes] => {
                // What arrived before, such as the end of a handshake, does not count.
                self.drain(lane)?;
                let expected =
                    Expected { bytes: bytes.parse()?, deadline: Instant::now() + DEADLINE };
                self.lanes[lane].received = 0;
                self.lanes[lane].expected = Some(expected);
                println!("armed");
            }
            ["close", _] => {
                self.lanes[lane] = Lane::default();
                println!("closed");
            }
            _ => bail!("no command {command:?}"),
        }
        Ok(())
    }

    fn open(
        &mut self,
        lane: usize,
        address: SocketAddr,
        count: u32,
        first: u32,
    ) -> anyhow::Result<()> {
        let expires_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
        let mut sockets = Vec::with_capacity(count as usize);
        for number in first..first + count {
            let mut socket = connect(address, number)
                .with_context(|| format!("connection {} of {count}", number - first))?;
            socket.write_all(&greeting(number, expires_s))?;
            sockets.push(socket);
        }
        for (index, socket) in sockets.iter_mut().enumerate() {
            read_welcome(socket).with_context(|| format!("the welcome of connection {index}"))?;
            socket.set_nonblocking(true)?;
            self.epoll.add(socket, (lane as u64) << 32 | index as u64)?;
        }
        self.lanes[lane] = Lane { sockets, received: 0, expected: None };
        Ok(())
    }

    fn receive(&mut self, lane: usize, index: usize) -> anyhow::Result<()> {
        let lane = &mut self.lanes[lane];
        // Events of connections that were just closed may still be in the batch.
        let Some(socket) = lane.sockets.get_mut(index) else { return Ok(()) };
        match socket.read(&mut self.buffer) {
            Ok(0) => bail!("connection {index} was closed"),
            Ok(count) => lane.received += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn drain(&mut self, lane: usize) -> anyhow::Result<()> {
        for index in 0..self.lanes[lane].sockets.len() {
            self.receive(lane, index)?;
        }
        Ok(())
    }

    fn report(&mut self) -> anyhow::Result<()> {
        for lane in &mut self.lanes {
            let Some(expected) = &lane.expected else { continue };
            if lane.received >= expected.bytes || Instant::now() > expected.deadline {
                println!("received {}", lane.received);
                lane.expected = None;
            }
        }
        Ok(())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        for socket in &self.sockets {
            // Best effort: without it the connection only lingers.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
}

/// From one of several loopback addresses, since one has ports for 28,000 connections.
fn connect(address: SocketAddr, number: u32) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let from = Ipv4Addr::new(127, 0, 1 + (number / 8_000) as u8, 1);
    socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into())?;
    socket.connect(&address.into())?;
    socket.set_read_timeout(Some(DEADLINE))?;
    Ok(socket.into())
}

fn greeting(number: u32, expires_s: u64) -> Vec<u8> {
    let ticket = ticket(&format!("d-{number}"), expires_s);
    let mut out = Vec::new();
    let connect = Connect {
        major: MAJOR,
        minor: MINOR,
        heartbeat_s: 0,
        network: 0,
        last_epoch: Epoch::ZERO,
        inbox: Seq::ZERO,
        group: None,
        ticket: &ticket,
    };
    Uplink::Connect(connect).encode(&mut out);
    Uplink::Subscribe { topic: TopicId::new(TOPIC) }.encode(&mut out);
    out
}

/// Reads up to the welcome; what came with it is counted as nothing.
fn read_welcome(socket: &mut TcpStream) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 256];
    loop {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            bail!("closed before it");
        }
        bytes.extend_from_slice(&buffer[..count]);
        if let Some((frame, _)) = split(&bytes, DOWNLINK_BODY_BYTES_MAX)? {
            match Downlink::decode(frame)? {
                Some(Downlink::Welcome(_)) => return Ok(()),
                other => bail!("instead came {other:?}"),
            }
        }
    }
}
