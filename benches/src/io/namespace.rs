//! A network of its own for a process and its children, that costs the host nothing, with a view of
//! `/sys` that shows it.
//!
//! The namespace has no name: it goes with the last process in it, however that ends, so there is
//! nothing to clean up and no leftover to stumble over. Its settings are its own; the host's are
//! neither read nor written.

use std::fs;
use std::io;
use std::mem::zeroed;
use std::path::Path;

use super::check;

/// The namespace's own settings. All of them are per network namespace.
const SETTINGS: [(&str, &str); 8] = [
    ("net/core/somaxconn", "65535"),
    ("net/ipv4/tcp_max_syn_backlog", "1048576"),
    // A cookie would hide that the backlog is full, and forgets the client's segment size.
    ("net/ipv4/tcp_syncookies", "0"),
    ("net/ipv4/tcp_no_metrics_save", "1"),
    // The first bytes after a pause may leave at once, as on a server that is set up for this.
    ("net/ipv4/tcp_slow_start_after_idle", "0"),
    ORPHAN_RETRIES,
    ("net/ipv4/ip_local_port_range", "1024 65535"),
    // In every kernel, without pacing: what is measured is the server, not how it shares a path.
    ("net/ipv4/tcp_congestion_control", "reno"),
];

/// Sockets of a server that has ended have nobody left to say goodbye to.
const ORPHAN_RETRIES: (&str, &str) = ("net/ipv4/tcp_orphan_retries", "1");

/// When the namespace's kernel sends a segment again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retransmit {
    /// After 200 ms at least, as a kernel does by itself: for a wire that loses packets.
    AsUsual,
    /// Not before [`RETRANSMIT_MIN`].
    Late,
}

/// As on a host that is set up for mobile links. A fleet on one processor may have half a second of
/// segments before it, and with the default of 200 ms each of them would be sent twice. Since Linux
/// 6.11; without it fan-outs to millions lose time.
const RETRANSMIT_MIN: (&str, &str) = ("net/ipv4/tcp_rto_min_us", "3000000");

/// Buckets of the hash of established connections: the largest that the kernel takes is 2^24.
const BUCKETS_MAX: u32 = 1 << 24;

/// Why there can be no namespace, and what to do about it.
#[derive(Debug)]
pub struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Moves the calling thread, and what it starts from here on, into a new network with nothing but
/// loopback, with room for `connections`. Call it before the first thread is started.
///
/// The kernel sizes a namespace's connection table from a setting of the namespace it is made in.
/// So one is made only to hold that setting, and the one to stay in is made from there.
pub fn enter(connections: u32, retransmit: Retransmit) -> Result<(), Refused> {
    unshare()?;
    let buckets = connections.next_power_of_two().clamp(1 << 16, BUCKETS_MAX);
    set("net/ipv4/tcp_child_ehash_entries", &buckets.to_string())?;
    unshare()?;
    for (name, value) in SETTINGS {
        set(name, value)?;
    }
    let can_wait = Path::new("/proc/sys").join(RETRANSMIT_MIN.0).exists();
    if retransmit == Retransmit::Late && can_wait {
        set(RETRANSMIT_MIN.0, RETRANSMIT_MIN.1)?;
    }
    see_network().map_err(|error| {
        Refused(format!("cannot show the new network in /sys: {error}; use --fleet sockets"))
    })?;
    raise(request("lo")).map_err(|error| Refused(format!("loopback of the new namespace: {error}")))
}

/// The same as the kernel makes it, and with a folder of state that nobody else has: what tunes the
/// namespace notes there what it did. Only how soon the sockets of a run that has ended go is set.
pub fn enter_as_made() -> Result<(), Refused> {
    unshare()?;
    set(ORPHAN_RETRIES.0, ORPHAN_RETRIES.1)?;
    see_network()
        .and_then(|()| hide_state())
        .map_err(|error| Refused(format!("cannot show the new network in /sys: {error}")))?;
    raise(request("lo")).map_err(|error| Refused(format!("loopback of the new namespace: {error}")))
}

/// Has what arrives over a network device received by one processor, whoever sends it. So a server's
/// processor does all of its server's work, as it does with a network card whose interrupts are bound
/// to it; otherwise half of the kernel's share would be done by the fleet's.
pub fn receive_on(device: &str, processor: usize) -> io::Result<()> {
    // Groups of 32 processors in hexadecimal, the highest first.
    let zeros = ",00000000".repeat(processor / 32);
    let mask = format!("{:08x}{zeros}", 1u32 << (processor % 32));
    fs::write(format!("/sys/class/net/{device}/queues/rx-0/rps_cpus"), mask)
}

/// Shows the present network in `/sys`, to this process and its children only.
fn see_network() -> io::Result<()> {
    // SAFETY: the calls take no pointers but to constant texts that end with a zero.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        let (none, root, private) =
            (std::ptr::null(), c"/".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
        check(libc::mount(none, root, none, private, none.cast()))?;
        let (kind, at) = (c"sysfs".as_ptr(), c"/sys".as_ptr());
        check(libc::mount(kind, at, kind, 0, none.cast())).map(drop)
    }
}

/// An empty `/var/lib`, for this process and its children only.
fn hide_state() -> io::Result<()> {
    let (kind, at) = (c"tmpfs".as_ptr(), c"/var/lib".as_ptr());
    // SAFETY: the call takes no pointers but to constant texts that end with a zero.
    check(unsafe { libc::mount(kind, at, kind, 0, std::ptr::null()) }).map(drop)
}

fn unshare() -> Result<(), Refused> {
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop).map_err(|error| {
        Refused(match error.raw_os_error() {
            Some(libc::EPERM) => {
                "a network namespace needs root (CAP_SYS_ADMIN): run this as root, \
                                  or use --fleet sockets"
                    .to_owned()
            }
            Some(libc::EINVAL) => "this kernel has no network namespaces (CONFIG_NET_NS): use \
                                   --fleet sockets"
                .to_owned(),
            _ => format!("cannot make a network namespace: {error}; use --fleet sockets"),
        })
    })
}

fn set(name: &str, value: &str) -> Result<(), Refused> {
    fs::write(format!("/proc/sys/{name}"), value).map_err(|error| {
        let advice = "mount /proc/sys writable, or use --fleet sockets";
        Refused(format!("cannot set {} = {value}: {error}; {advice}", name.replace('/', ".")))
    })
}

/// Brings the network device of this request up.
pub(super) fn raise(mut request: libc::ifreq) -> io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: the request lives during the calls, and the flags are the member they use.
    unsafe {
        check(libc::ioctl(socket_fd(&socket), libc::SIOCGIFFLAGS as _, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(socket_fd(&socket), libc::SIOCSIFFLAGS as _, &raw mut request))?;
    }
    Ok(())
}

/// Any socket will do to speak of network devices.
pub(super) fn control_socket() -> io::Result<std::net::UdpSocket> {
    std::net::UdpSocket::bind("0.0.0.0:0")
}

pub(super) fn socket_fd(socket: &std::net::UdpSocket) -> libc::c_int {
    std::os::fd::AsRawFd::as_raw_fd(socket)
}

/// A request about the device of this name.
pub(super) fn request(name: &str) -> libc::ifreq {
    // SAFETY: a request is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    assert!(name.len() < request.ifr_name.len());
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}
