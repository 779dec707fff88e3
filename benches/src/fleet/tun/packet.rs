//! IPv4 and TCP headers, written and read. Nothing is kept here.
//!
//! ```text
//!  | virtio_net 10 | IPv4 20 | TCP 20, on a SYN 24 | payload |
//! ```
//!
//! A device's number is in its address and port, so that no table is needed to find it: in the net
//! of its [`Lane`] `0.0.1.0 + number / 16384`, port `16384 + 2 * (number % 16384) + turn`. The turn
//! changes with each connection, because late segments of the last one may still be on their way.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::io::tun::HEADER_BYTES;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// What an Ethernet's worth of packet holds.
pub const MSS: usize = 1460;

/// A network for a server and its devices: half of 10.0.0.0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    net: u32,
}

pub const LANES: u8 = 2;

impl Lane {
    pub const MASK: Ipv4Addr = Ipv4Addr::new(255, 128, 0, 0);

    pub fn new(number: u8) -> Lane {
        assert!(number < LANES);
        Lane { net: u32::from_be_bytes([10, number * 128, 0, 0]) }
    }

    /// The kernel's side of the device; all others are devices.
    pub fn server(self) -> Ipv4Addr {
        Ipv4Addr::from(self.net | 0x007f_fffe)
    }

    /// The lane that this server is in.
    pub fn of(server: Ipv4Addr) -> Option<Lane> {
        (0..LANES).map(Lane::new).find(|lane| lane.server() == server)
    }
}

/// The first device's address within its net.
const FIRST_DEVICE: u32 = 0x100;
const FIRST_PORT: u16 = 1 << 14;
const PORT_BITS: u32 = 14;

/// Far fewer than the addresses below the server's hold.
pub const DEVICES_MAX: u32 = 1 << 24;

const IP_BYTES: usize = 20;
const TCP_BYTES: usize = 20;
const TCP: u8 = 6;

/// Packets to be written, one behind the other.
#[derive(Default)]
pub struct Packets {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packets {
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end])
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Who a device is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub device: u32,
    pub turn: bool,
}

impl Place {
    pub fn address(self, lane: Lane) -> SocketAddrV4 {
        let port = FIRST_PORT + ((self.device as u16 & 0x3fff) << 1 | u16::from(self.turn));
        let host = FIRST_DEVICE + (self.device >> PORT_BITS);
        SocketAddrV4::new(Ipv4Addr::from(lane.net + host), port)
    }

    fn of(lane: Lane, address: u32, port: u16) -> Option<Place> {
        let host = address.checked_sub(lane.net)?.checked_sub(FIRST_DEVICE)?;
        let port = port.checked_sub(FIRST_PORT)?;
        let device = host.checked_mul(1 << PORT_BITS)?.checked_add(u32::from(port >> 1))?;
        (device < DEVICES_MAX && port < 1 << (PORT_BITS + 1))
            .then_some(Place { device, turn: port & 1 == 1 })
    }
}

/// What is said in a segment besides its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
}

impl Header {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Adds the segment from a device to `port` of the server.
    pub fn put(&self, out: &mut Packets, lane: Lane, from: Place, port: u16, payload: &[u8]) {
        let options: &[u8] = match self.has(SYN) {
            true => &[2, 4, (MSS >> 8) as u8, MSS as u8],
            false => &[],
        };
        let tcp_bytes = TCP_BYTES + options.len() + payload.len();
        let address = from.address(lane);
        let (source, destination) = (address.ip().to_bits(), lane.server().to_bits());

        let bytes = &mut out.bytes;
        // Needs a checksum from the TCP header on, into its 16th byte.
        bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, IP_BYTES as u8, 0, 16, 0]);
        let mut ip = [0; IP_BYTES];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&((IP_BYTES + tcp_bytes) as u16).to_be_bytes());
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = TCP;
        ip[12..16].copy_from_slice(&source.to_be_bytes());
        ip[16..20].copy_from_slice(&destination.to_be_bytes());
        let words = ip.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let checksum = !fold(words.sum());
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend_from_slice(&ip);

        let pseudo = (source >> 16)
            + (source & 0xffff)
            + (destination >> 16)
            + (destination & 0xffff)
            + u32::from(TCP)
            + tcp_bytes as u32;
        let mut tcp = [0; TCP_BYTES];
        tcp[0..2].copy_from_slice(&address.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&port.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.to_be_bytes());
        tcp[12] = (((TCP_BYTES + options.len()) / 4) << 4) as u8;
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp[16..18].copy_from_slice(&fold(pseudo).to_be_bytes());
        bytes.extend_from_slice(&tcp);
        bytes.extend_from_slice(options);
        bytes.extend_from_slice(payload);
        out.ends.push(bytes.len());
    }

    /// Reads what the kernel sent: to which device, from which port. `None`: not TCP over IPv4 for
    /// a device, such as the router solicitations of IPv6.
    pub fn read(lane: Lane, packet: &[u8]) -> Option<(Place, u16, Header, &[u8])> {
        let ip = packet.get(HEADER_BYTES..)?;
        let (ip_bytes, total) = (usize::from(ip.first()? & 15) * 4, usize::from(be16(ip, 2)?));
        if ip[0] >> 4 != 4 || *ip.get(9)? != TCP {
            return None;
        }
        let tcp = ip.get(ip_bytes..total)?;
        let place = Place::of(lane, be32(ip, 16)?, be16(tcp, 2)?)?;
        let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
        let header = Header {
            flags: tcp[13],
            seq: be32(tcp, 4)?,
            ack: be32(tcp, 8)?,
            window: be16(tcp, 14)?,
        };
        Some((place, be16(tcp, 0)?, header, payload))
    }
}

/// The ones' complement sum in 16 bits.
fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_two_addresses_of_its_own_in_each_lane() {
        for lane in (0..LANES).map(Lane::new) {
            assert_eq!(Lane::of(lane.server()), Some(lane));
            for device in [0, 1, 16_383, 16_384, 4_999_999, DEVICES_MAX - 1] {
                for turn in [false, true] {
                    let place = Place { device, turn };
                    let address = place.address(lane);
                    assert_eq!(
                        Place::of(lane, address.ip().to_bits(), address.port()),
                        Some(place)
                    );
                    assert!(*address.ip() < lane.server());
                    assert!(address.ip().to_bits() & Lane::MASK.to_bits() == lane.net);
                }
            }
            let first = lane.net + FIRST_DEVICE;
            assert_eq!(Place::of(lane, first - 1, 20_000), None);
            assert_eq!(Place::of(lane, first, FIRST_PORT - 1), None);
            assert_eq!(Place::of(lane, first, 49_152), None, "one past the last port");
            assert_eq!(Place::of(lane, first + (DEVICES_MAX >> PORT_BITS), 20_000), None);
        }
        assert_eq!(Lane::of(Ipv4Addr::LOCALHOST), None);
    }

    /// A written packet, turned round, is read as what was written. Torn anywhere it is not read,
    /// or read with what its own length says, but never out of bounds.
    #[test]
    fn what_is_written_can_be_read() {
        let mut packets = Packets::default();
        let header = Header { flags: PSH | ACK, seq: 7, ack: 9, window: 500 };
        header.put(
            &mut packets,
            Lane::new(1),
            Place { device: 77_777, turn: true },
            7400,
            b"hello",
        );
        assert_eq!(packets.len(), 1);
        let mut packet = packets.iter().next().unwrap().to_vec();
        let (ip, tcp) = (HEADER_BYTES, HEADER_BYTES + IP_BYTES);
        for byte in 0..4 {
            packet.swap(ip + 12 + byte, ip + 16 + byte);
        }
        packet.swap(tcp, tcp + 2);
        packet.swap(tcp + 1, tcp + 3);
        let (place, port, read, payload) = Header::read(Lane::new(1), &packet).unwrap();
        assert_eq!((place, port), (Place { device: 77_777, turn: true }, 7400));
        assert_eq!((read, payload), (header, &b"hello"[..]));
        for end in 0..packet.len() {
            assert_eq!(Header::read(Lane::new(1), &packet[..end]), None);
        }
        let checked: u32 =
            packet[ip..tcp].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        assert_eq!(fold(checked), 0xffff, "the header's checksum");
    }
}
