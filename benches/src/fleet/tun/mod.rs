//! The fleet over a TUN device: real handshakes with the kernel's TCP, without a socket on this
//! side. See `tcp.rs` for the protocol and `wire.rs` for what the wire does to packets.

mod packet;
mod tcp;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::fleet::{Heard, Net};
use crate::io::epoll::Epoll;
use crate::io::namespace;
use crate::io::tun::Tun;

use packet::Packets;
pub use packet::{DEVICES_MAX, Lane};
use tcp::{BLOCK_BYTES, Tcp};
use wire::Weather;
pub use wire::Wire;

/// Together with a device's session and timer.
const _: () = assert!(BLOCK_BYTES + crate::fleet::hawser::DEVICE_BYTES <= 64);

/// Packets collected before they are written.
const BATCH: usize = 64;

/// How often overdue segments are looked for.
const SWEEP_MS: u64 = 100;

const PACKET_BYTES_MAX: usize = 2048;

const STDIN: u64 = 1;

pub struct TunNet {
    tun: Tun,
    epoll: Epoll,
    tcp: Tcp,
    out: Packets,
    up: Weather,
    down: Weather,
    swept_ms: u64,
    /// Connections that nobody answered.
    timed_out: Vec<u32>,
    read: u64,
    written: u64,
}

impl TunNet {
    /// Towards a server in this namespace, which will listen at the address of a [`Lane`] and run on
    /// `processor`.
    pub fn new(server: SocketAddr, processor: usize, up: Wire, down: Wire) -> io::Result<TunNet> {
        let lane = match server.ip() {
            IpAddr::V4(address) => Lane::of(address),
            IpAddr::V6(_) => None,
        };
        let lane = lane.ok_or_else(|| io::Error::other(format!("no device leads to {server}")))?;
        let tun = Tun::new(lane.server(), Lane::MASK)?;
        namespace::receive_on(tun.name(), processor)?;
        let epoll = Epoll::new()?;
        epoll.add(&tun, 0)?;
        epoll.add(&io::stdin(), STDIN)?;
        Ok(TunNet {
            tun,
            epoll,
            tcp: Tcp::new(lane, server.port()),
            out: Packets::default(),
            up: Weather::new(up, 1),
            down: Weather::new(down, 2),
            swept_ms: 0,
            timed_out: Vec::new(),
            read: 0,
            written: 0,
        })
    }

    fn flush_full(&mut self, now_ms: u64) -> io::Result<()> {
        if self.out.len() >= BATCH { self.flush(now_ms) } else { Ok(()) }
    }

    /// The next packet that gets through, in `buffer`.
    fn packet(&mut self, buffer: &mut [u8], now_ms: u64) -> io::Result<Option<usize>> {
        loop {
            if let Some(late) = self.down.due(now_ms) {
                buffer[..late.len()].copy_from_slice(&late);
                return Ok(Some(late.len()));
            }
            let Some(bytes) = self.tun.read(buffer)? else { return Ok(None) };
            self.read += 1;
            if self.down.is_calm() || self.down.lets_through(&buffer[..bytes], now_ms) {
                return Ok(Some(bytes));
            }
        }
    }
}

impl Net for TunNet {
    fn reserve(&mut self, devices: usize) {
        self.tcp.reserve(devices);
    }

    fn connect(&mut self, device: u32, now_ms: u64) -> io::Result<()> {
        self.tcp.connect(device, now_ms, &mut self.out);
        self.flush_full(now_ms)
    }

    fn send(&mut self, device: u32, bytes: &[u8], now_ms: u64) -> io::Result<()> {
        self.tcp.send(device, bytes, now_ms, &mut self.out);
        self.flush_full(now_ms)
    }

    fn silent(&mut self, device: u32) {
        if self.tcp.is_open(device) {
            self.tcp.acknowledge(device, &mut self.out);
        }
    }

    fn finish(&mut self, device: u32, now_ms: u64) {
        self.tcp.finish(device, now_ms, &mut self.out);
    }

    fn reset(&mut self, device: u32) {
        self.tcp.reset(device, &mut self.out);
    }

    fn stall(&mut self, device: u32, stalled: bool) {
        self.tcp.stall(device, stalled, &mut self.out);
    }

    fn next<'b>(&mut self, buffer: &'b mut [u8], now_ms: u64) -> io::Result<Option<Heard<'b>>> {
        if now_ms >= self.swept_ms + SWEEP_MS {
            self.swept_ms = now_ms;
            self.tcp.on_time(now_ms, &mut self.out, |device| self.timed_out.push(device));
        }
        if let Some(device) = self.timed_out.pop() {
            return Ok(Some(Heard { device, connected: false, data: &[], ended: true }));
        }
        assert!(buffer.len() >= PACKET_BYTES_MAX);
        loop {
            let Some(bytes) = self.packet(buffer, now_ms)? else { return Ok(None) };
            let heard = self.tcp.on_packet(&buffer[..bytes], now_ms, &mut self.out);
            let place = heard.map(|heard| {
                let start = heard.data.as_ptr() as usize - buffer.as_ptr() as usize;
                let range =
                    if heard.data.is_empty() { 0..0 } else { start..start + heard.data.len() };
                (heard.device, heard.connected, range, heard.end.is_some())
            });
            if let Some((device, connected, range, ended)) = place {
                return Ok(Some(Heard { device, connected, data: &buffer[range], ended }));
            }
            self.flush_full(now_ms)?;
        }
    }

    fn flush(&mut self, now_ms: u64) -> io::Result<()> {
        for packet in self.out.iter() {
            if self.up.is_calm() || self.up.lets_through(packet, now_ms) {
                self.tun.write(packet)?;
                self.written += 1;
            }
        }
        self.out.clear();
        while let Some(late) = self.up.due(now_ms) {
            self.tun.write(&late)?;
            self.written += 1;
        }
        Ok(())
    }

    fn wait(&mut self, timeout_ms: i32) -> io::Result<bool> {
        let timeout_ms =
            if self.up.is_calm() && self.down.is_calm() { timeout_ms } else { 1.min(timeout_ms) };
        Ok(self.epoll.wait(timeout_ms)?.any(|token| token == STDIN))
    }

    fn memory_bytes(&self) -> usize {
        self.tcp.memory_bytes()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let tcp = self.tcp.counters;
        vec![
            ("packets_read", self.read),
            ("packets_written", self.written),
            ("segments_repeated", tcp.repeated),
            ("segments_heard_again", tcp.repeats_heard),
            ("segments_out_of_order", tcp.out_of_order),
            ("strays", tcp.strays),
            ("packets_lost_by_wire", self.up.lost() + self.down.lost()),
        ]
    }
}
