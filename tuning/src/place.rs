//! Where a setting's value stands, how it is read and written, and when two texts are one value.
//!
//! Six kinds of places: a file of the kernel, a whole file of ours, and over netlink a card's number
//! of channels, its coalescing, its queueing discipline, and the retransmission minimum of the default
//! route. As text, which is how a journal names them: `proc/sys/...`, `file:etc/...`, `channels:eth0`,
//! `coalescing:eth0`, `queueing:eth0`, `route-rto:4`.
//!
//! A fixture has no netlink: there the last four are the files `ethtool/NIC/combined`,
//! `ethtool/NIC/coalescing`, `queueing/NIC` and `route/FAMILY/rto_min_ms`.

use std::fmt;
use std::io;

use crate::cpus::CpuSet;
use crate::host::Host;
use crate::netlink::{channels, coalescing, queueing, route};
use crate::nic::{self, Coalescing};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A file of the kernel, which holds one value.
    Value(String),
    /// A whole file of ours.
    File(String),
    /// The combined channels of a card.
    Channels(String),
    /// How long a card gathers packets before it interrupts.
    Coalescing(String),
    /// The queueing disciplines of a card; see [`queueing`].
    Queueing(String),
    /// `rto_min` of the default route, in milliseconds; 0 is none. 4 or 6 is the family.
    RouteRto(u8),
}

impl Place {
    pub fn sysctl(name: &str) -> Place {
        Place::Value(format!("proc/sys/{}", name.replace('.', "/")))
    }

    /// `None` for what no run of ours writes, so that a journal cannot speak of it.
    pub fn parse(text: &str) -> Option<Place> {
        if text.split(['/', ':']).any(|part| part.is_empty() || part == "..") {
            return None;
        }
        Some(match text.split_once(':') {
            Some(("file", path)) if path.starts_with("etc/systemd/system/") => {
                Place::File(path.to_owned())
            }
            Some(("channels", nic)) => Place::Channels(nic.to_owned()),
            Some(("coalescing", nic)) => Place::Coalescing(nic.to_owned()),
            Some(("queueing", nic)) => Place::Queueing(nic.to_owned()),
            Some(("route-rto", family)) => Place::RouteRto(family.parse().ok()?),
            // A PCI address has colons too.
            _ if text.starts_with("proc/") || text.starts_with("sys/") => {
                Place::Value(text.to_owned())
            }
            _ => return None,
        })
    }

    /// The content as it is; `None` if there is no such place on this machine.
    pub fn read(&self, host: &Host) -> Option<String> {
        match self {
            Place::Value(path) | Place::File(path) => host.raw(path),
            Place::Channels(nic) if host.is_live() => {
                let channels = channels::read(nic)?;
                Some(channels.combined.to_string())
            }
            Place::Channels(nic) => host.raw(&fixture_channels(nic)),
            Place::Coalescing(nic) if host.is_live() => Some(coalescing::read(nic)?.to_string()),
            Place::Coalescing(nic) => host.raw(&nic::fixture_coalescing(nic)),
            Place::Queueing(nic) if host.is_live() => queueing::read(index(host, nic).ok()?),
            Place::Queueing(nic) => host.raw(&fixture_queueing(nic)),
            Place::RouteRto(family) if host.is_live() => Some(route::read(*family)?.to_string()),
            Place::RouteRto(family) => host.raw(&fixture_route(*family)),
        }
    }

    pub fn check_writable(&self, host: &Host) -> io::Result<()> {
        match self {
            Place::Value(path) => host.check_writable(path),
            Place::File(_) => Ok(()),
            _ if host.is_live() => may_administer(host),
            Place::Channels(nic) => host.check_writable(&fixture_channels(nic)),
            Place::Coalescing(nic) => host.check_writable(&nic::fixture_coalescing(nic)),
            Place::Queueing(nic) => host.check_writable(&fixture_queueing(nic)),
            Place::RouteRto(family) => host.check_writable(&fixture_route(*family)),
        }
    }

    pub fn write(&self, host: &Host, value: &str) -> io::Result<()> {
        let number =
            || value.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        match self {
            Place::Value(path) if host.is_live() => host.write_value(path, writable(value)),
            Place::Value(path) => {
                let shown = as_shown(&host.raw(path).unwrap_or_default(), value);
                host.write_value(path, &shown)
            }
            Place::File(path) => host.write_file(path, value),
            Place::Channels(nic) if host.is_live() => channels::write(nic, number()?),
            Place::Channels(nic) => host.write_value(&fixture_channels(nic), value),
            Place::Coalescing(nic) => {
                let wanted = Coalescing::parse(value);
                let wanted = wanted.ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
                match host.is_live() {
                    true => coalescing::write(nic, wanted),
                    false => host.write_value(&nic::fixture_coalescing(nic), value),
                }
            }
            Place::Queueing(nic) if host.is_live() => queueing::write(index(host, nic)?, value),
            Place::Queueing(nic) => host.write_value(&fixture_queueing(nic), value),
            Place::RouteRto(family) if host.is_live() => route::write(*family, number()?),
            Place::RouteRto(family) => host.write_value(&fixture_route(*family), value),
        }
    }

    /// Whether two contents of this place are the same value: kernels print tabs where people
    /// write blanks, pad masks with zeros, and show a choice in brackets among what else there is.
    pub fn same(&self, a: &str, b: &str) -> bool {
        match self {
            Place::File(_) => a == b,
            Place::Value(path) if path.ends_with("_cpus") => {
                CpuSet::from_mask(a).is_some() && CpuSet::from_mask(a) == CpuSet::from_mask(b)
            }
            Place::Value(path) if path.ends_with("_affinity_list") => {
                CpuSet::from_list(a).is_some() && CpuSet::from_list(a) == CpuSet::from_list(b)
            }
            _ => writable(a).split_whitespace().eq(writable(b).split_whitespace()),
        }
    }

    /// Whether there is nothing any more that could be restored: the card was taken out or has another
    /// name, the queue or the interrupt is gone, or the module that had the setting.
    pub fn has_vanished(&self, host: &Host) -> bool {
        match self {
            Place::Value(path) => !host.has(path),
            Place::Channels(nic) | Place::Coalescing(nic) | Place::Queueing(nic) => {
                !host.has(&format!("sys/class/net/{nic}"))
            }
            Place::File(_) | Place::RouteRto(_) => false,
        }
    }

    /// What is to be undone first has the least. A card that is left by its discipline gets the default
    /// of that moment; and with its number of queues a driver may set anew what each of them has.
    pub fn undo_rank(&self) -> u8 {
        match self {
            Place::Value(path) if path == "proc/sys/net/core/default_qdisc" => 0,
            Place::Channels(_) => 1,
            _ => 2,
        }
    }

    /// Lost when the machine restarts.
    pub fn is_volatile(&self) -> bool {
        !matches!(self, Place::File(_))
    }
}

/// The name that an operator knows it by.
impl Place {
    pub fn name(&self) -> String {
        match self {
            Place::Value(path) => match path.strip_prefix("proc/sys/") {
                Some(name) => name.replace('/', "."),
                None => format!("/{path}"),
            },
            Place::File(path) => format!("/{path}"),
            Place::Channels(nic) => format!("{nic} combined channels"),
            Place::Coalescing(nic) => format!("{nic} coalescing"),
            Place::Queueing(nic) => format!("{nic} queueing discipline"),
            Place::RouteRto(family) => format!("default IPv{family} route rto_min (ms)"),
        }
    }
}

/// As a journal writes it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Value(path) => f.write_str(path),
            Place::File(path) => write!(f, "file:{path}"),
            Place::Channels(nic) => write!(f, "channels:{nic}"),
            Place::Coalescing(nic) => write!(f, "coalescing:{nic}"),
            Place::Queueing(nic) => write!(f, "queueing:{nic}"),
            Place::RouteRto(family) => write!(f, "route-rto:{family}"),
        }
    }
}

/// What has to be written to get this content: of `always [madvise] never` the word in brackets.
fn writable(content: &str) -> &str {
    let chosen = content.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    chosen.map_or(content, |(word, _)| word)
}

/// What a file with a choice holds after a word was written: the same words, other brackets. In a
/// fixture nobody else does that.
fn as_shown(former: &str, value: &str) -> String {
    if writable(former) == former {
        return value.to_owned();
    }
    let word = writable(value).trim();
    former.replace(['[', ']'], "").replace(word, &format!("[{word}]"))
}

fn fixture_channels(nic: &str) -> String {
    format!("ethtool/{nic}/combined")
}

fn fixture_queueing(nic: &str) -> String {
    format!("queueing/{nic}")
}

fn index(host: &Host, nic: &str) -> io::Result<u32> {
    let index = host.number(&format!("sys/class/net/{nic}/ifindex"));
    index.map(|index| index as u32).ok_or(io::Error::from(io::ErrorKind::NotFound))
}

fn fixture_route(family: u8) -> String {
    format!("route/{family}/rto_min_ms")
}

/// Netlink cannot be asked for permission without changing something, but the rights of this
/// process can be read: CAP_NET_ADMIN is bit 12.
fn may_administer(host: &Host) -> io::Result<()> {
    let status = host.raw("proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0");
    let rights = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
    const NET_ADMIN: u64 = 1 << 12;
    if rights & NET_ADMIN == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "needs CAP_NET_ADMIN"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_one_text_each() {
        for text in [
            "proc/sys/net/core/somaxconn",
            "sys/bus/pci/devices/0000:41:00.0/numa_node",
            "file:etc/systemd/system/x.d/50.conf",
            "channels:eth0",
            "coalescing:eth0",
            "queueing:eth0",
            "route-rto:4",
        ] {
            assert_eq!(Place::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "etc/passwd",
            "file:etc/passwd",
            "file:etc/systemd/system/../../passwd",
            "file:/etc/systemd/system/x.d/50.conf",
            "proc/../etc/passwd",
            "sys//kernel",
            "channels:",
            "channels:../eth0",
            "route-rto:four",
        ] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
        assert_eq!(Place::sysctl("net.core.somaxconn").name(), "net.core.somaxconn");
    }

    #[test]
    fn one_value_has_several_texts() {
        let check = |place: &str, a: &str, b: &str, same: bool| {
            assert_eq!(Place::parse(place).unwrap().same(a, b), same, "{place} {a:?} {b:?}");
        };
        check("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n", "4096 131072 6291456", true);
        check(
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always [madvise] never\n",
            "madvise",
            true,
        );
        check(
            "sys/kernel/mm/transparent_hugepage/enabled",
            "[always] madvise never\n",
            "madvise",
            false,
        );
        check("sys/class/net/e/queues/tx-0/xps_cpus", "00000000,00000003\n", "3", true);
        check("sys/class/net/e/queues/tx-0/xps_cpus", "", "", false);
        check("proc/irq/4/smp_affinity_list", "0-1\n", "0,1", true);
        check("file:etc/systemd/system/x.d/50.conf", "a\n", "a", false);
    }
}
