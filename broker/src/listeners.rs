//! The listeners of the shards: for each address one per shard, and what accepted sockets inherit.
//!
//! ```text
//!              shard 0   shard 1   ...
//!   address 0     o         o            one SO_REUSEPORT group
//!   address 1     o         o            another
//! ```
//!
//! Invariant: every option is set here, on the listener, so that none is set per connection.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::config::Config;
use crate::io::retransmission::{self, Bounds, SOCKET_MIN_MS_MAX};
use crate::io::socket::{self, Inherited};
use crate::plan::Plan;

/// An address that cannot be listened on, for the operator.
#[derive(Debug)]
pub struct ListenError {
    pub address: SocketAddr,
    pub error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListenError { address, error } = self;
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; another process has the port: stop it or choose another address. A broker that was \
                 killed has it until the kernel has closed its connections: then start again"
            }
            io::ErrorKind::AddrNotAvailable => "; this host does not have the address",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            _ => "",
        };
        write!(f, "cannot listen on {address}: {error}{advice}")
    }
}

/// What a process had in its rings is closed by the kernel some time after its end; so long the port is
/// not free for the one that replaces it at once.
const FREED_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);

fn listen(address: SocketAddr, shards: usize, inherited: &Inherited) -> io::Result<Vec<Socket>> {
    let begun = Instant::now();
    loop {
        match socket::listen(address, shards, inherited) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < FREED_TIMEOUT =>
            {
                std::thread::sleep(LOOK_EVERY);
            }
            result => return result,
        }
    }
}

pub struct Listeners {
    /// The real ones, with the ports that the kernel chose.
    pub addresses: Vec<SocketAddr>,
    /// Of each shard, one for each address.
    pub of_shards: Vec<Vec<Socket>>,
    /// The bounds of the retransmission timeout that connections have.
    pub rto: Bounds,
}

impl Listeners {
    pub fn open(config: &Config, shards: usize) -> Result<Listeners, ListenError> {
        let wanted = Bounds { min_ms: config.rto_min_ms, max_ms: config.rto_max_ms };
        let inherited = Inherited { send_buffer_bytes: config.send_buffer_bytes, rto: wanted };
        let mut listeners = Listeners {
            addresses: Vec::new(),
            of_shards: (0..shards).map(|_| Vec::new()).collect(),
            rto: Bounds::default(),
        };
        for address in config.listen_addresses() {
            let failed = |error| ListenError { address, error };
            let sockets = listen(address, shards, &inherited).map_err(failed)?;
            listeners.addresses.push(socket::local_address(&sockets[0]).map_err(failed)?);
            listeners.rto = retransmission::held(&sockets[0]);
            for (of_shard, socket) in listeners.of_shards.iter_mut().zip(sockets) {
                of_shard.push(socket);
            }
        }
        Ok(listeners)
    }

    /// What of the configuration the kernel did not take, and what to do about it.
    pub fn not_in_force(&self, config: &Config, plan: &Plan) -> Vec<String> {
        let mut lines = Vec::new();
        let Bounds { min_ms, max_ms } = self.rto;
        if !self.rto.has_min(config.rto_min_ms) {
            let what_to_do = match config.rto_min_ms {
                0..=SOCKET_MIN_MS_MAX => {
                    "leave it at 0, or use a kernel with TCP_RTO_MIN_US (Linux 6.15)".to_owned()
                }
                _ => format!(
                    "the kernel lets a socket choose at most {SOCKET_MIN_MS_MAX} ms: run `hawser tune \
                     apply --only rto --connections {}` and start the broker again",
                    plan.connections_max
                ),
            };
            lines.push(format!(
                "rto_min_ms = {} is not in force, connections have {min_ms} ms; {what_to_do}",
                config.rto_min_ms
            ));
        }
        if !self.rto.has_max(config.rto_max_ms) {
            lines.push(format!(
                "rto_max_ms = {} is not in force, connections have {max_ms} ms; leave it at 0, or use \
                 a kernel with TCP_RTO_MAX_MS (Linux 6.15)",
                config.rto_max_ms
            ));
        }
        lines
    }
}
