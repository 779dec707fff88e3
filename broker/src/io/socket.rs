//! Listeners and link sockets, made through the socket API and then handed to a ring.
//!
//! Options of a listener are inherited by the sockets it accepts, so no call is made per
//! connection. With SO_REUSEPORT each shard has its own listener on the same port and the kernel
//! spreads the connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::retransmission::{self, Bounds};

/// Connections that the kernel holds ready until they are accepted; cut to `somaxconn`.
const BACKLOG: i32 = 65_535;

/// What a listener passes on to the sockets it accepts.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// Bounds what the kernel holds for a device that does not read; it doubles the number for its
    /// own overhead.
    pub send_buffer_bytes: usize,
    /// See [`retransmission`] for what the kernel makes of it.
    pub rto: Bounds,
}

/// Opens one listener per shard on an address. With port 0 the first gets a port from the kernel
/// and the others share it.
pub fn listen(
    address: SocketAddr,
    shards: usize,
    inherited: &Inherited,
) -> io::Result<Vec<Socket>> {
    // A probe without SO_REUSEPORT: with it, a second process with the same user could share the
    // port unnoticed, and both would get some of the devices.
    if address.port() != 0 {
        bind(address, false)?;
    }
    let mut address = address;
    let mut listeners = Vec::with_capacity(shards);
    for _ in 0..shards {
        let socket = bind(address, true)?;
        socket.set_send_buffer_size(inherited.send_buffer_bytes)?;
        retransmission::set(&socket, &inherited.rto)?;
        socket.listen(BACKLOG)?;
        address = local_address(&socket)?;
        listeners.push(socket);
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can both be configured.
        socket.set_only_v6(true)?;
    }
    // A push is one small segment; waiting for the acknowledgement of the last one would delay it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Makes the kernel prefer this listener of its SO_REUSEPORT group for connections whose first packet
/// that processor handles, or none.
pub fn prefer_processor(listener: &Socket, processor: Option<usize>) -> io::Result<()> {
    const NONE: i32 = -1;
    let processor = processor.map_or(Ok(NONE), i32::try_from).map_err(io::Error::other)?;
    set_option(listener, libc::SOL_SOCKET, libc::SO_INCOMING_CPU, processor)
}

pub fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))
}

/// A socket to dial a control node with.
pub fn dialler(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// A number among a socket's options.
pub(super) fn option(socket: &Socket, level: i32, name: i32) -> io::Result<i32> {
    let mut value: i32 = 0;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`, which has that many, and the
    // descriptor is open as long as `socket` is borrowed.
    let result = unsafe {
        let value = (&raw mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), level, name, value, &mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn set_option(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`, which has that many, and the descriptor is
    // open as long as `socket` is borrowed.
    let result = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
