//! The fleet over the kernel's sockets: a server on this machine, or on any other.
//!
//! One process has as many connections as it may have descriptors, and one source address as many
//! as it has ports; so a fleet is several processes, and towards loopback each eight thousand
//! devices have an address of their own. See `handle.rs`.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Heard, Net};
use crate::io::socket_ring::{Done, SocketRing, Tag};

/// Within the 20,000 descriptors that a process may often have.
pub const PER_PROCESS: u32 = 18_000;

/// Ports that one source address surely has.
const PER_ADDRESS: u32 = 8_000;

pub struct Sockets {
    ring: SocketRing,
    server: SocketAddr,
    /// The number of the first device, for its source address.
    first: u32,
    conns: Vec<Conn>,
    /// Sockets that are being closed: the kernel has not let go of them yet.
    closing: HashMap<Tag, Closing>,
    is_input_watched: bool,
    has_input: bool,
    refused: u64,
}

#[derive(Default)]
struct Conn {
    socket: Option<Socket>,
    turn: u32,
    state: State,
    /// A receive is in the kernel.
    armed: bool,
    stalled: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Connecting,
    Open,
}

/// What keeps a socket from being closed.
struct Closing {
    _socket: Socket,
    connecting: bool,
    armed: bool,
}

impl Sockets {
    pub fn new(server: SocketAddr, first: u32) -> io::Result<Sockets> {
        Ok(Sockets {
            ring: SocketRing::new(server)?,
            server,
            first,
            conns: Vec::new(),
            closing: HashMap::new(),
            is_input_watched: false,
            has_input: false,
            refused: 0,
        })
    }

    fn tag(&self, device: u32) -> Tag {
        Tag { device, turn: self.conns[device as usize].turn }
    }

    fn socket(&self, device: u32) -> io::Result<Socket> {
        let domain = Domain::for_address(self.server);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let IpAddr::V4(address) = self.server.ip()
            && address.is_loopback()
        {
            let lane = (self.first + device) / PER_ADDRESS;
            // Other ones towards another server, so that fleets beside each other, and ports that a
            // fleet has just left, do not use up the ports of one address.
            let beside = 1 + (self.server.port() % 250) as u8;
            let from = Ipv4Addr::new(127, beside, (lane / 250) as u8, 1 + (lane % 250) as u8);
            socket.bind(&SocketAddr::from((from, 0)).into())?;
        }
        Ok(socket)
    }

    /// Lets go of the device's socket, once the kernel has.
    fn drop_socket(&mut self, device: u32) {
        let tag = self.tag(device);
        let conn = &mut self.conns[device as usize];
        let (connecting, armed) = (conn.state == State::Connecting, conn.armed);
        (conn.state, conn.armed) = (State::Closed, false);
        conn.turn = (conn.turn + 1) & 0xff_ffff;
        if let Some(socket) = conn.socket.take()
            && (connecting || armed)
        {
            self.ring.cancel(tag);
            self.closing.insert(tag, Closing { _socket: socket, connecting, armed });
        }
    }

    /// Something of a socket that is being closed has ended.
    fn let_go(&mut self, tag: Tag, connect: bool) {
        if let Some(closing) = self.closing.get_mut(&tag) {
            closing.connecting &= !connect;
            closing.armed &= connect;
            if !closing.connecting && !closing.armed {
                self.closing.remove(&tag);
            }
        }
    }

    fn is_current(&self, tag: Tag) -> bool {
        let conn = &self.conns[tag.device as usize];
        conn.turn == tag.turn && conn.state != State::Closed
    }

    fn arm(&mut self, device: u32) {
        let tag = self.tag(device);
        let conn = &mut self.conns[device as usize];
        if conn.state == State::Open && !conn.armed && !conn.stalled {
            conn.armed = true;
            self.ring.receive(tag, conn.socket.as_ref().expect("an open one has a socket"));
        }
    }

    fn take<'b>(&mut self, done: Done, buffer: &'b mut [u8]) -> Option<Heard<'b>> {
        let ended = |device| Heard { device, connected: false, data: &[], ended: true };
        match done {
            Done::Connected { tag, .. } if !self.is_current(tag) => self.let_go(tag, true),
            Done::Connected { tag, connected: true } => {
                self.conns[tag.device as usize].state = State::Open;
                self.arm(tag.device);
                return Some(Heard {
                    device: tag.device,
                    connected: true,
                    data: &[],
                    ended: false,
                });
            }
            Done::Connected { tag, connected: false } => {
                self.refused += 1;
                self.conns[tag.device as usize].state = State::Open;
                self.drop_socket(tag.device);
                return Some(ended(tag.device));
            }
            Done::Bytes { tag, buffer: filled, armed } => {
                let bytes = self.ring.read(filled, buffer);
                if !self.is_current(tag) {
                    if !armed {
                        self.let_go(tag, false);
                    }
                    return None;
                }
                if !armed {
                    self.conns[tag.device as usize].armed = false;
                    self.arm(tag.device);
                }
                let data = &buffer[..bytes];
                return Some(Heard { device: tag.device, connected: false, data, ended: false });
            }
            Done::Ended { tag } | Done::Again { tag } if !self.is_current(tag) => {
                self.let_go(tag, false);
            }
            Done::Again { tag } => {
                self.conns[tag.device as usize].armed = false;
                self.arm(tag.device);
            }
            Done::Ended { tag } => {
                self.conns[tag.device as usize].armed = false;
                if !self.conns[tag.device as usize].stalled {
                    self.drop_socket(tag.device);
                    return Some(ended(tag.device));
                }
            }
            Done::Unsent { tag } if self.is_current(tag) => {
                self.drop_socket(tag.device);
                return Some(ended(tag.device));
            }
            Done::Unsent { .. } => {}
            Done::Input => (self.is_input_watched, self.has_input) = (false, true),
        }
        None
    }
}

impl Net for Sockets {
    fn reserve(&mut self, devices: usize) {
        self.conns.reserve_exact(devices.saturating_sub(self.conns.len()));
    }

    fn connect(&mut self, device: u32, _now_ms: u64) -> io::Result<()> {
        let index = device as usize;
        if index >= self.conns.len() {
            self.conns.resize_with(index + 1, Conn::default);
        }
        let socket = self.socket(device)?;
        let tag = self.tag(device);
        self.ring.connect(tag, &socket);
        let conn = &mut self.conns[index];
        (conn.socket, conn.state, conn.stalled) = (Some(socket), State::Connecting, false);
        Ok(())
    }

    fn send(&mut self, device: u32, bytes: &[u8], _now_ms: u64) -> io::Result<()> {
        let tag = self.tag(device);
        let conn = &self.conns[device as usize];
        if let (Some(socket), State::Open) = (&conn.socket, conn.state) {
            self.ring.send(tag, socket, bytes);
        }
        Ok(())
    }

    fn silent(&mut self, _device: u32) {}

    fn finish(&mut self, device: u32, _now_ms: u64) {
        self.ring.submit();
        self.drop_socket(device);
    }

    fn reset(&mut self, device: u32) {
        if let Some(socket) = &self.conns[device as usize].socket {
            // Without it the other side only gets a FIN.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
        self.drop_socket(device);
    }

    fn stall(&mut self, device: u32, stalled: bool) {
        let tag = self.tag(device);
        let conn = &mut self.conns[device as usize];
        conn.stalled = stalled;
        if stalled && conn.armed {
            self.ring.cancel(tag);
        } else {
            self.arm(device);
        }
    }

    fn next<'b>(&mut self, buffer: &'b mut [u8], _now_ms: u64) -> io::Result<Option<Heard<'b>>> {
        while let Some(done) = self.ring.next() {
            let heard = self
                .take(done, buffer)
                .map(|heard| (heard.device, heard.connected, heard.data.len(), heard.ended));
            if let Some((device, connected, bytes, ended)) = heard {
                return Ok(Some(Heard { device, connected, data: &buffer[..bytes], ended }));
            }
        }
        Ok(None)
    }

    fn flush(&mut self, _now_ms: u64) -> io::Result<()> {
        self.ring.submit();
        Ok(())
    }

    fn wait(&mut self, timeout_ms: i32) -> io::Result<bool> {
        if std::mem::take(&mut self.has_input) {
            return Ok(true);
        }
        if !std::mem::replace(&mut self.is_input_watched, true) {
            self.ring.watch_input();
        }
        self.ring.wait(timeout_ms as u64);
        Ok(false)
    }

    fn memory_bytes(&self) -> usize {
        self.conns.capacity() * size_of::<Conn>()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("connects_refused", self.refused)]
    }
}
