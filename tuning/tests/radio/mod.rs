//! Devices behind radios that sleep: many TCP clients in user space, on one raw socket.
//!
//! ```text
//!   server's kernel ──veth──▶ raw socket: segment for a device
//!                                │ never seen before, and not lost ─▶ acknowledged after the delay
//!                                │ seen before                     ─▶ counted: it was sent for nothing
//!                                │ lost, by the seed               ─▶ as if it had never come
//! ```
//!
//! A path has a constant round trip, or one that is short until a message wakes the radio up.
//!
//! A device asks for each message with one byte, so that there is always one on its way. What is sent
//! again while the radio sleeps arrives when it wakes, which is when the first copy is acknowledged;
//! so a repeat needs no answer of its own. It offers timestamps and SACK, as devices do.
//!
//! What the server did when is read from its own timestamps: a radio that stands still on a busy machine
//! sees late what was sent in time, and what is sent again because its answer was late is not counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 1);
pub const DEVICES: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 2);

/// Packets of ours find a route by this mark, and the kernel's own resets find none: to the kernel
/// the devices' connections do not exist.
pub const MARK: u32 = 1;

/// What lies between the server and a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Every round trip takes so long, that of the handshake too.
    Steady { round_trip_ms: u64 },
    /// A round trip takes [`AWAKE_MS`], but every third message wakes the radio first.
    Waking { wake_up_ms: u64 },
}

pub const PATHS: [Path; 6] = [
    Path::Waking { wake_up_ms: 300 },
    Path::Waking { wake_up_ms: 1_000 },
    Path::Waking { wake_up_ms: 2_000 },
    Path::Steady { round_trip_ms: 300 },
    Path::Steady { round_trip_ms: 1_000 },
    Path::Steady { round_trip_ms: 2_000 },
];

const AWAKE_MS: u64 = 50;
const PAUSE_MS: u64 = 20;
const MESSAGES: u32 = 6;
const DEVICES_PER_PATH: u16 = 100;
const LOST_PERCENT: u64 = 3;

/// Without a message for anybody. Longer than TCP ever waits before it sends again, which is 120 s; what
/// counts is the time that reads were asked to wait, of which a machine that stands still uses none up.
const PATIENCE: Duration = Duration::from_secs(150);
const READ: Duration = Duration::from_millis(50);

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// What the devices of one path met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub messages: u32,
    /// Messages that were sent again although the first had arrived and its answer was on its way.
    pub spurious: u32,
    /// Messages that came again because the one before was lost.
    pub needed: u32,
    /// How much later these came, all together.
    pub waited_ms: u64,
    /// Answers to a first packet that came again. No minimum changes them: their timeout is 1 s.
    pub handshakes: u32,
}

impl Counts {
    /// How much later than what was lost its second copy came.
    pub fn mean_wait_ms(&self) -> u64 {
        self.waited_ms / u64::from(self.needed.max(1))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Steady { round_trip_ms } => write!(f, "always {round_trip_ms} ms"),
            Path::Waking { wake_up_ms } => write!(f, "wakes up in {wake_up_ms} ms"),
        }
    }
}

impl Path {
    /// Of the message with this number; 0 is the handshake.
    fn round_trip_ms(self, message: u32) -> u64 {
        match self {
            Path::Steady { round_trip_ms } => round_trip_ms,
            Path::Waking { wake_up_ms } if message % 3 == 1 => wake_up_ms,
            Path::Waking { .. } => AWAKE_MS,
        }
    }
}

struct Device {
    path: usize,
    sequence: u32,
    expected: u32,
    peer_time: u32,
    messages: u32,
    /// Where the message ends that was taken last, acknowledged or not, and when the server sent it.
    taken: Option<(u32, u32)>,
    /// Where the message begins that was lost, and when the server sent it.
    lost: Option<(u32, u32)>,
    is_up: bool,
}

impl Device {
    fn is_taken(&self, end: u32) -> bool {
        self.taken.is_some_and(|(taken, _)| taken == end)
    }
}

/// Between two timestamps of the server, which are milliseconds and wrap around.
fn passed_ms(from_ms: u32, to_ms: u32) -> u64 {
    to_ms.wrapping_sub(from_ms).into()
}

enum Due {
    Connect,
    Acknowledge { to: u32 },
    Ask,
}

pub struct Radio {
    socket: Socket,
    server: SocketAddrV4,
    devices: BTreeMap<u16, Device>,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    actions: BTreeMap<u64, (u16, Due)>,
    next_action: u64,
    random: u64,
    begun: Instant,
    pub counts: [Counts; PATHS.len()],
}

impl Radio {
    pub fn new(server_port: u16, seed: u64) -> io::Result<Radio> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
        socket.set_mark(MARK)?;
        socket.bind(&SocketAddrV4::new(DEVICES, 0).into())?;
        let begun = Instant::now();
        let mut radio = Radio {
            socket,
            server: SocketAddrV4::new(SERVER, server_port),
            devices: BTreeMap::new(),
            due: BinaryHeap::new(),
            actions: BTreeMap::new(),
            next_action: 0,
            random: seed,
            begun,
            counts: Default::default(),
        };
        for path in 0..PATHS.len() {
            for index in 0..DEVICES_PER_PATH {
                let port = 20_000 + path as u16 * 1_000 + index;
                let device = Device {
                    path,
                    sequence: u32::from(port) << 8,
                    expected: 0,
                    peer_time: 0,
                    messages: 0,
                    taken: None,
                    lost: None,
                    is_up: false,
                };
                radio.devices.insert(port, device);
                radio.plan(port, u64::from(index) * 7, Due::Connect);
            }
        }
        Ok(radio)
    }

    /// Until every device has all of its messages.
    pub fn run(&mut self) -> io::Result<()> {
        let mut buffer = [0u8; 2048];
        let (mut heard, mut quiet) = (0, Duration::ZERO);
        while self.devices.values().any(|device| device.messages < MESSAGES) {
            if quiet > PATIENCE {
                let waiting = self.devices.values().filter(|device| device.messages < MESSAGES);
                let what = format!("{} devices wait for messages", waiting.count());
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            self.act()?;
            let until = self.due.peek().map_or(READ, |Reverse((at, _))| {
                at.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), READ)
            });
            self.socket.set_read_timeout(Some(until))?;
            match self.socket.read(&mut buffer) {
                Ok(length) => self.take(&buffer[..length])?,
                Err(error) if is_no_packet(&error) => quiet += until,
                Err(error) => return Err(error),
            }
            let messages = self.counts.iter().map(|counts| counts.messages).sum();
            if heard != messages {
                (heard, quiet) = (messages, Duration::ZERO);
            }
        }
        Ok(())
    }

    fn plan(&mut self, port: u16, after_ms: u64, due: Due) {
        self.next_action += 1;
        self.actions.insert(self.next_action, (port, due));
        let at = Instant::now() + Duration::from_millis(after_ms);
        self.due.push(Reverse((at, self.next_action)));
    }

    fn act(&mut self) -> io::Result<()> {
        while let Some(&Reverse((at, id))) = self.due.peek() {
            if at > Instant::now() {
                break;
            }
            self.due.pop();
            let (port, due) = self.actions.remove(&id).expect("each is planned once");
            match due {
                Due::Connect => self.send(port, SYN, &[])?,
                Due::Ask => {
                    self.send(port, PSH | ACK, b"?")?;
                    self.device(port).sequence += 1;
                }
                Due::Acknowledge { to } => {
                    self.device(port).expected = to;
                    self.send(port, ACK, &[])?;
                    if self.device(port).messages < MESSAGES {
                        self.plan(port, PAUSE_MS, Due::Ask);
                    }
                }
            }
        }
        Ok(())
    }

    fn device(&mut self, port: u16) -> &mut Device {
        self.devices.get_mut(&port).expect("a planned device is there")
    }

    fn take(&mut self, packet: &[u8]) -> io::Result<()> {
        let Some(segment) = Segment::parse(packet) else { return Ok(()) };
        // The server may still send again to devices of an earlier run, from another port.
        let is_ours = segment.from == self.server.port();
        let Some(device) = self.devices.get_mut(&segment.to).filter(|_| is_ours) else {
            return Ok(());
        };
        assert!(segment.flags & (RST | FIN) == 0, "the server ends no connection meanwhile");
        device.peer_time = segment.time.unwrap_or(device.peer_time);
        if segment.flags & SYN != 0 {
            if device.is_up {
                self.counts[device.path].handshakes += 1;
                return Ok(());
            }
            device.is_up = true;
            device.sequence += 1;
            let delay_ms = PATHS[device.path].round_trip_ms(0);
            let to = segment.sequence.wrapping_add(1);
            self.plan(segment.to, delay_ms, Due::Acknowledge { to });
            return Ok(());
        }
        if segment.length > 0 {
            self.take_message(&segment);
        }
        Ok(())
    }

    fn take_message(&mut self, segment: &Segment) {
        let is_lost = self.is_lost();
        let device = self.devices.get_mut(&segment.to).expect("it was found above");
        let counts = &mut self.counts[device.path];
        let end = segment.sequence.wrapping_add(segment.length);
        let sent_ms = segment.time.expect("the server takes the timestamps that it was offered");
        if end.wrapping_sub(device.expected) as i32 <= 0 || device.is_taken(end) {
            let delay_ms = PATHS[device.path].round_trip_ms(device.messages);
            let (_, first_ms) = device.taken.expect("what is known was taken");
            // One that was sent later than that was sent because the answer was not there in time.
            let is_spurious = device.is_taken(end) && passed_ms(first_ms, sent_ms) <= delay_ms;
            counts.spurious += u32::from(is_spurious);
            return;
        }
        let lost_ms = device.lost.filter(|(lost, _)| *lost == segment.sequence).map(|(_, ms)| ms);
        if let Some(lost_ms) = lost_ms {
            counts.needed += 1;
            counts.waited_ms += passed_ms(lost_ms, sent_ms);
        } else if is_lost {
            device.lost = Some((segment.sequence, sent_ms));
            return;
        }
        device.lost = None;
        device.taken = Some((end, sent_ms));
        device.messages += 1;
        counts.messages += 1;
        let delay_ms = PATHS[device.path].round_trip_ms(device.messages);
        self.plan(segment.to, delay_ms, Due::Acknowledge { to: end });
    }

    fn is_lost(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 100 < LOST_PERCENT
    }

    fn send(&mut self, port: u16, flags: u8, payload: &[u8]) -> io::Result<()> {
        let time = self.begun.elapsed().as_millis() as u32 + 1;
        let server = self.server;
        let device = self.device(port);
        let acknowledged = if flags & ACK != 0 { device.expected } else { 0 };
        let mut segment = Vec::with_capacity(64);
        segment.extend(port.to_be_bytes());
        segment.extend(server.port().to_be_bytes());
        segment.extend(device.sequence.to_be_bytes());
        segment.extend(acknowledged.to_be_bytes());
        segment.extend([0, flags]);
        segment.extend(60_000u16.to_be_bytes());
        segment.extend([0; 4]);
        if flags & SYN != 0 {
            // Largest segment 1,400 bytes; SACK permitted.
            segment.extend([2, 4, 5, 120, 1, 1, 4, 2]);
        }
        segment.extend([1, 1, 8, 10]);
        segment.extend(time.to_be_bytes());
        segment.extend(device.peer_time.to_be_bytes());
        segment[12] = ((segment.len() / 4) << 4) as u8;
        segment.extend(payload);
        let sum = checksum(&segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        self.socket.send_to(&segment, &SocketAddrV4::new(SERVER, 0).into()).map(drop)
    }
}

/// The time was over, or a signal came.
fn is_no_packet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

struct Segment {
    from: u16,
    to: u16,
    sequence: u32,
    flags: u8,
    length: u32,
    time: Option<u32>,
}

impl Segment {
    fn parse(packet: &[u8]) -> Option<Segment> {
        let header = usize::from(packet.first()? & 15) * 4;
        let tcp = packet.get(header..)?;
        let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
        let offset = usize::from(tcp.get(12)? >> 4) * 4;
        Some(Segment {
            from: u16::from_be_bytes([*tcp.first()?, *tcp.get(1)?]),
            to: u16::from_be_bytes([*tcp.get(2)?, *tcp.get(3)?]),
            sequence: word(4)?,
            flags: *tcp.get(13)?,
            length: tcp.len().checked_sub(offset)? as u32,
            time: time(tcp.get(20..offset)?),
        })
    }
}

/// The sender's time, of the timestamp option.
fn time(mut options: &[u8]) -> Option<u32> {
    loop {
        match *options.first()? {
            0 => return None,
            1 => options = &options[1..],
            8 => return Some(u32::from_be_bytes(options.get(2..6)?.try_into().ok()?)),
            _ => options = options.get(usize::from(*options.get(1)?).max(1)..)?,
        }
    }
}

/// RFC 9293, 3.1: over the addresses, the protocol, the length, and the segment.
fn checksum(segment: &[u8]) -> u16 {
    let mut bytes = Vec::with_capacity(segment.len() + 13);
    bytes.extend(DEVICES.octets());
    bytes.extend(SERVER.octets());
    bytes.extend([0, 6]);
    bytes.extend((segment.len() as u16).to_be_bytes());
    bytes.extend(segment);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
