//! When TCP sends again what was not acknowledged: the bounds of a connection's retransmission timeout.
//!
//! A connection has the bounds of the listener that accepted it, so they are set once for each
//! listener and cost nothing per connection. The least is, in the order in which the kernel looks:
//!
//! 1. the route's `rto_min` (ip-route(8)), which is not seen from here;
//! 2. that of the listener: what `net.ipv4.tcp_rto_min_us` said when it was opened (Linux 6.11), or
//!    what TCP_RTO_MIN_US put over it (6.15). The kernel takes the option up to its own 200 ms and
//!    refuses anything above with EINVAL (net/ipv4/tcp.c, do_tcp_setsockopt).
//!
//! So a process can lower the minimum by itself, and only the host can raise it. What a kernel does
//! not take is no error here: [`held`] tells what is in force.

use std::io;

use socket2::Socket;

use super::socket::{option, set_option};

/// Of <linux/tcp.h>, since Linux 6.15.
const TCP_RTO_MAX_MS: i32 = 44;
const TCP_RTO_MIN_US: i32 = 45;

/// What kernels have that do not say: TCP_RTO_MIN and TCP_RTO_MAX of <net/tcp.h>.
const KERNEL: Bounds = Bounds { min_ms: 200, max_ms: 120_000 };

/// The most that a socket may ask for as its minimum.
pub const SOCKET_MIN_MS_MAX: u64 = KERNEL.min_ms;

/// The kernel rounds up to its tick, which is at most this long (HZ = 100).
const TICK_MS_MAX: u64 = 10;

/// The least and the longest wait. In what is wanted, 0 leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub min_ms: u64,
    pub max_ms: u64,
}

impl Bounds {
    /// Whether the minimum is what was asked for. Above what a socket may choose, more will do: it is
    /// the host's decision.
    pub fn has_min(&self, wanted_ms: u64) -> bool {
        match wanted_ms {
            0 => true,
            1..=SOCKET_MIN_MS_MAX => is_rounded(self.min_ms, wanted_ms),
            _ => self.min_ms >= wanted_ms,
        }
    }

    pub fn has_max(&self, wanted_ms: u64) -> bool {
        wanted_ms == 0 || is_rounded(self.max_ms, wanted_ms)
    }
}

fn is_rounded(held_ms: u64, wanted_ms: u64) -> bool {
    (wanted_ms..=wanted_ms + TICK_MS_MAX).contains(&held_ms)
}

/// Asks the kernel for what is wanted.
pub fn set(listener: &Socket, wanted: &Bounds) -> io::Result<()> {
    for (name, value) in [(TCP_RTO_MIN_US, wanted.min_ms * 1_000), (TCP_RTO_MAX_MS, wanted.max_ms)]
    {
        let value = i32::try_from(value).map_err(io::Error::other)?;
        if value == 0 {
            continue;
        }
        match set_option(listener, libc::IPPROTO_TCP, name, value) {
            Err(error) if !is_not_taken(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn is_not_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOPROTOOPT))
}

/// What connections of this listener have, unless their route says otherwise. A kernel that has no
/// option to ask may still have a sysctl, which the listener took over when it was opened.
pub fn held(listener: &Socket) -> Bounds {
    let asked = |name| {
        let value = option(listener, libc::IPPROTO_TCP, name).ok()?;
        u64::try_from(value).ok()
    };
    let min_us = asked(TCP_RTO_MIN_US).or_else(|| sysctl("tcp_rto_min_us"));
    let min_ms = min_us.map_or(KERNEL.min_ms, |us| us / 1_000);
    let max_ms = asked(TCP_RTO_MAX_MS).unwrap_or(KERNEL.max_ms);
    // The kernel bounds the timeout from below, and then from above.
    Bounds { min_ms: min_ms.min(max_ms), max_ms }
}

fn sysctl(name: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_rounded_up_is_in_force_and_what_was_refused_is_not() {
        let check = |held_ms, wanted_ms, expect| {
            let held = Bounds { min_ms: held_ms, max_ms: held_ms };
            assert_eq!(held.has_min(wanted_ms), expect, "{wanted_ms} ms of {held_ms} ms");
        };
        check(200, 0, true);
        check(52, 50, true);
        check(60, 50, true);
        check(61, 50, false);
        check(200, 50, false);
        check(200, 200, true);
        check(3_000, 200, false);
        check(200, 201, false);
        check(200, 3_000, false);
        check(2_999, 3_000, false);
        check(3_000, 3_000, true);
        check(5_000, 3_000, true);
        assert!(KERNEL.has_max(0) && KERNEL.has_max(120_000) && !KERNEL.has_max(30_000));
    }
}
