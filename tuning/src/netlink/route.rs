//! The retransmission minimum of the default route: what kernels before 6.11 have in place of the
//! sysctl `tcp_rto_min_us`.
//!
//! It is the route's metric RTAX_RTO_MIN, in milliseconds, and counts only while the lock bit of the
//! same number is set (net/ipv4/tcp_output.c reads it under `dst_metric_locked`). A machine with
//! several default routes of a family, or one over several next hops, is left to its operator; so is a
//! route that expires, as IPv6 has from its routers: replaced, it would stay when the router is gone.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::exchange;

/// RTAX_RTO_MIN of include/uapi/linux/rtnetlink.h.
const RTO_MIN_BIT: u32 = 1 << 13;

/// The minimum in milliseconds, 0 where it has none; `None` without exactly one default route.
pub fn read(family: u8) -> Option<u32> {
    let route = default_route(family)?;
    let rto_min = metrics(&route).into_iter().find_map(|metric| match metric {
        RouteMetric::RtoMin(ms) => Some(ms),
        _ => None,
    });
    Some(rto_min.unwrap_or(0))
}

/// Replaces the route by itself with another minimum; 0 takes it away.
pub fn write(family: u8, rto_min_ms: u32) -> io::Result<()> {
    let missing =
        || io::Error::new(io::ErrorKind::NotFound, "there is not exactly one default route");
    let mut route = default_route(family).ok_or_else(missing)?;
    let metrics = with_minimum(metrics(&route), rto_min_ms);
    // What the kernel counts about a route is not part of it.
    let is_kept = |attribute: &RouteAttribute| {
        !matches!(attribute, RouteAttribute::Metrics(_) | RouteAttribute::CacheInfo(_))
    };
    route.attributes.retain(is_kept);
    if !metrics.is_empty() {
        route.attributes.push(RouteAttribute::Metrics(metrics));
    }
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    exchange::change(NETLINK_ROUTE, flags, RouteNetlinkMessage::NewRoute(route))
}

fn with_minimum(metrics: Vec<RouteMetric>, rto_min_ms: u32) -> Vec<RouteMetric> {
    let mut lock = 0;
    let mut changed = Vec::new();
    for metric in metrics {
        match metric {
            RouteMetric::Lock(bits) => lock = bits,
            RouteMetric::RtoMin(_) => {}
            other => changed.push(other),
        }
    }
    lock &= !RTO_MIN_BIT;
    if rto_min_ms > 0 {
        lock |= RTO_MIN_BIT;
        changed.push(RouteMetric::RtoMin(rto_min_ms));
    }
    if lock != 0 {
        changed.insert(0, RouteMetric::Lock(lock));
    }
    changed
}

fn metrics(route: &RouteMessage) -> Vec<RouteMetric> {
    let metrics = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics.clone()),
        _ => None,
    });
    metrics.unwrap_or_default()
}

fn default_route(family: u8) -> Option<RouteMessage> {
    let address_family = if family == 6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let mut question = RouteMessage::default();
    question.header.address_family = address_family;
    let mut found = Vec::new();
    let take = |message| {
        if let RouteNetlinkMessage::NewRoute(route) = message
            && is_default(&route, address_family)
        {
            found.push(route);
        }
    };
    exchange::dump(NETLINK_ROUTE, RouteNetlinkMessage::GetRoute(question), take).ok()?;
    let is_plain = |route: &RouteMessage| {
        !route.attributes.iter().any(|attribute| match attribute {
            RouteAttribute::MultiPath(_) => true,
            RouteAttribute::CacheInfo(info) => info.expires != 0,
            _ => false,
        })
    };
    (found.len() == 1 && is_plain(&found[0])).then(|| found.swap_remove(0))
}

fn is_default(route: &RouteMessage, family: AddressFamily) -> bool {
    let header = &route.header;
    header.address_family == family
        && header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimum_and_its_lock_come_and_go_together() {
        let own = vec![RouteMetric::Lock(1 << 2), RouteMetric::Mtu(1400)];
        let with = with_minimum(own.clone(), 3000);
        let expect = vec![
            RouteMetric::Lock(1 << 2 | RTO_MIN_BIT),
            RouteMetric::Mtu(1400),
            RouteMetric::RtoMin(3000),
        ];
        assert_eq!(with, expect);
        assert_eq!(with_minimum(with, 0), own);
        assert!(with_minimum(with_minimum(Vec::new(), 3000), 0).is_empty());
    }
}
