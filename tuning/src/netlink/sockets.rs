//! Live TCP connections, as `ss -ti` sees them: inet_diag over netlink (sock_diag(7)).

use std::io;

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::exchange;

/// What is looked at of one established connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub local_port: u16,
    /// Its present retransmission timeout.
    pub rto_us: u32,
    pub rtt_us: u32,
    pub retransmitted_total: u32,
}

/// Shows `each` established connection of this network namespace.
pub fn established(mut each: impl FnMut(Connection)) -> io::Result<()> {
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let question = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states: StateFlags::ESTABLISHED,
            socket_id,
        });
        exchange::dump(NETLINK_SOCK_DIAG, question, |answer| {
            if let Some(connection) = connection(answer) {
                each(connection);
            }
        })?;
    }
    Ok(())
}

fn connection(answer: SockDiagMessage) -> Option<Connection> {
    let SockDiagMessage::InetResponse(response) = answer else { return None };
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) => Some(info),
        _ => None,
    })?;
    Some(Connection {
        local_port: response.header.socket_id.source_port,
        rto_us: info.rto,
        rtt_us: info.rtt,
        retransmitted_total: info.total_retrans,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_of_our_own_is_seen_with_its_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _server = listener.accept().unwrap();
        let mut seen = Vec::new();
        established(|connection| seen.push(connection)).unwrap();
        let ours = seen.iter().find(|connection| connection.local_port == port).unwrap();
        assert!(ours.rto_us > 0 && ours.retransmitted_total == 0, "{ours:?}");
    }
}
