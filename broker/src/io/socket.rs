//! Listeners and link sockets, made through the socket API and then handed to a ring.
//!
//! Options of a listener are inherited by the sockets it accepts, so no call is made per
//! connection. With SO_REUSEPORT each shard has its own listener on the same port and the kernel
//! spreads the connections.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel holds ready until they are accepted; cut to `somaxconn`.
const BACKLOG: i32 = 65_535;

/// Opens one listener per shard on an address. With port 0 the first gets a port from the kernel
/// and the others share it. `send_buffer_bytes` bounds what the kernel holds for a device that
/// does not read; it doubles the number for its own overhead.
pub fn listen(
    address: SocketAddr,
    shards: usize,
    send_buffer_bytes: usize,
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
        socket.set_send_buffer_size(send_buffer_bytes)?;
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
