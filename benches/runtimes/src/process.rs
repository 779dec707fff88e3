//! What the servers ask of the machine, whatever they run on.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// The broker's default.
const SEND_BUFFER_BYTES: usize = 131_072;

/// Connections that the kernel holds ready until they are accepted; cut to `somaxconn`.
const BACKLOG: i32 = 65_535;

#[derive(Parser)]
pub struct Arguments {
    /// Where devices connect
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
}

impl Arguments {
    /// Those of a server on this runtime. With `--version` it says the runtime and its version.
    pub fn of(runtime: &'static str) -> Arguments {
        let command = Arguments::command().name(runtime).version(locked_version(runtime));
        Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// The version of a dependency that this was built with.
fn locked_version(package: &str) -> &'static str {
    const LOCK: &str = include_str!("../Cargo.lock");
    let name = format!("name = \"{package}\"");
    LOCK.lines()
        .skip_while(|line| *line != name)
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .expect("a runtime is locked")
}

/// Raises the soft limit of open files to the hard one.
pub fn raise_descriptor_limit() -> anyhow::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

/// A listener with the options of a broker's, which accepted sockets inherit.
pub fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into()).with_context(|| format!("cannot listen on {address}"))?;
    set_options(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The options, for a listener that a runtime has made.
pub fn set_options(listener: &impl AsFd) -> anyhow::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    // Again, if it listens already: that only changes the backlog.
    Ok(socket.listen(BACKLOG)?)
}

/// CLOCK_MONOTONIC, which is the same for all processes.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
