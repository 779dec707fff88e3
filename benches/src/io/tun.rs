//! A TUN device: a network device whose other side is this process. What the kernel sends to it is
//! read here, packet by packet; what is written here the kernel receives.
//!
//! Packets have the header of `virtio_net` in front, so that neither side computes checksums over
//! payloads: the kernel leaves its own out, and takes ours with only the pseudo header's sum in
//! (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::check;
use super::namespace::{control_socket, raise, request, socket_fd};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUN_F_CSUM: libc::c_ulong = 1;

/// Bytes of the header in front of each packet.
pub const HEADER_BYTES: usize = 10;

/// The kernel puts a number in. The namespace is this program's own.
const NAME: &str = "devices%d";

/// Packets that may wait for this process. A fan-out to millions is ahead of the reader for a
/// while, and what finds no room is lost and sent again a fifth of a second later.
const QUEUE_PACKETS: i32 = 1 << 19;

pub struct Tun {
    file: File,
    name: String,
}

impl Tun {
    /// Makes the device in the present namespace, gives the kernel's side an address, and brings
    /// it up. It goes with this value.
    pub fn new(address: Ipv4Addr, mask: Ipv4Addr) -> io::Result<Tun> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        let mut make = request(NAME);
        make.ifr_ifru.ifru_flags =
            (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        // SAFETY: the request lives during the call, which fills in the name; the second call takes
        // no pointer.
        unsafe {
            check(libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut make))?;
            check(libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD as _, TUN_F_CSUM))?;
        }
        let socket = control_socket()?;
        for (code, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
            let mut set = make;
            set.ifr_ifru.ifru_addr = socket_address(value);
            // SAFETY: the request lives during the call, and the address is the member it uses.
            check(unsafe { libc::ioctl(socket_fd(&socket), code as _, &raw mut set) })?;
        }
        let mut set = make;
        set.ifr_ifru.ifru_metric = QUEUE_PACKETS;
        // SAFETY: as above; the queue length is in the place of the metric.
        check(unsafe { libc::ioctl(socket_fd(&socket), libc::SIOCSIFTXQLEN as _, &raw mut set) })?;
        raise(make)?;
        let name = make.ifr_name.iter().take_while(|&&byte| byte != 0);
        let name = name.map(|&byte| char::from(byte as u8)).collect();
        Ok(Tun { file, name })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next packet, with its header; `None` when there is none now.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.file.read(buffer) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        self.file.write(packet).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let internet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain data of the same size; the family says which one it is.
    unsafe { std::mem::transmute(internet) }
}
