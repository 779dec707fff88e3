//! What every bare server must do, checked from outside: the process is started, told things on
//! standard input, and talked to over real sockets. The servers' tests share this text.
//!
//! Patience is counted in looks and not in time, and what is checked of clocks is their order: a
//! machine that stands still for a minute changes nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use hawser_codec::device::{Connect, Downlink, MAJOR, MINOR, Uplink, Welcome};
use hawser_codec::frame::split;
use hawser_codec::ids::{Epoch, Seq, TopicId};
use hawser_codec::limits::DOWNLINK_BODY_BYTES_MAX;
use socket2::SockRef;

/// How often what should take milliseconds is looked for, and how long one look at a socket lasts.
/// The server alone may stand still for a minute too.
const LOOKS: u32 = 20_000;
const LONG_LOOKS: u32 = 120;
const LONG_LOOK: Duration = Duration::from_secs(1);

/// How often what stands against the clock is tried.
const TRIES: u32 = 5;

/// Messages of 60,000 bytes that fill the buffers of both ends many times over.
const FILLING: u32 = 2_000;

/// An orderly end keeps a port of this machine for a minute, and many tests use the same ports: all
/// other devices end with a reset.
const ORDERLY_ENDS_EVERY: usize = 8;

/// Checks a server with this many devices.
pub fn check(command: &mut Command, devices: usize) {
    let mut server = Server::start(command);
    assert_eq!(server.ask("count"), "count 0");
    assert_eq!(numbers(&server.ask("push 3 0 64 0"), "pushed")[..2], [0, 3], "nobody is there");

    let mut fleet = connect(server.address, devices);
    heartbeats(&mut fleet);
    fanout(&mut server, &mut fleet);
    pushes(&mut server, &mut fleet);
    paced_pushes(&mut server, &mut fleet);
    bad_length(&mut server);
    fleet = resets(&mut server, fleet);
    fanout(&mut server, &mut fleet);
    drop(fleet);
    deaf(&mut server);
    server.end();
}

/// Two heartbeats in one segment, one cut in two, and one beside what is dropped.
fn heartbeats(fleet: &mut [Device]) {
    let others = uplink(&[Uplink::Ack { seq: Seq(1) }, Uplink::Ping, Uplink::Bye]);
    for device in fleet.iter_mut() {
        device.say(&uplink(&[Uplink::Ping, Uplink::Ping]));
        device.say(&others[..4]);
        device.say(&others[4..]);
    }
    for device in fleet {
        (0..3).for_each(|_| assert_eq!(device.hear(), Heard::Pong));
    }
}

fn fanout(server: &mut Server, fleet: &mut [Device]) {
    // Longer than a line buffer, and more than one for each.
    for (seq, payload_bytes) in [(7, 3), (8, 4096)] {
        let payload = vec![b'f'; payload_bytes];
        let mut frame = Vec::new();
        Downlink::Broadcast { seq: Seq(seq), payload: &payload }.encode(&mut frame);
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let fanned = numbers(&server.ask(&format!("fanout {hex}")), "fanned");
        assert_eq!(fanned[..2], [fleet.len() as u64, 0], "sent, failed");
        for device in fleet.iter_mut() {
            assert_eq!(device.hear(), Heard::Broadcast { seq, payload_bytes });
        }
    }
}

/// As fast as possible: two rounds, and one message more.
fn pushes(server: &mut Server, fleet: &mut [Device]) {
    let devices = fleet.len() as u64;
    let count = 2 * devices + 1;
    let before_ns = fleet_clock(server, fleet);
    let pushed = numbers(&server.ask(&format!("push {count} 0 64 {devices}")), "pushed");
    assert_eq!(pushed[..2], [count, 0], "sent, failed");
    let (mut third, mut stamps) = (0, Vec::new());
    for device in fleet.iter_mut() {
        for seq in [2, 3] {
            let Heard::Push { seq: heard, payload_bytes: 64, stamp_ns } = device.hear() else {
                panic!("a device missed message {seq}")
            };
            assert_eq!(heard, seq);
            stamps.push(stamp_ns);
        }
        device.say(&uplink(&[Uplink::Ping]));
        match device.hear() {
            Heard::Push { seq: 4, .. } => {
                third += 1;
                assert_eq!(device.hear(), Heard::Pong);
            }
            heard => assert_eq!(heard, Heard::Pong),
        }
    }
    assert_eq!(third, 1, "the message beyond two rounds");
    let after_ns = fleet_clock(server, fleet);
    let strange = stamps.iter().find(|stamp_ns| !(before_ns..=after_ns).contains(stamp_ns));
    assert_eq!(strange, None, "sent between {before_ns} and {after_ns}");
}

/// The server's clock, from the stamps of a round of messages.
fn fleet_clock(server: &mut Server, fleet: &mut [Device]) -> u64 {
    server.ask(&format!("push {} 0 8 0", fleet.len()));
    let stamps = fleet.iter_mut().map(|device| match device.hear() {
        Heard::Push { seq: 1, payload_bytes: 8, stamp_ns } => stamp_ns,
        heard => panic!("instead of the first message came {heard:?}"),
    });
    stamps.max().expect("there are devices")
}

/// At a rate, messages are due at equal distances, whenever they are sent; heartbeats go on.
fn paced_pushes(server: &mut Server, fleet: &mut [Device]) {
    let is_heard = (0..TRIES).any(|_| is_heard_between_pushes(server, fleet));
    assert!(is_heard, "a heartbeat waited for the messages, {TRIES} times");
}

/// Whether a heartbeat was answered before the last message was due.
fn is_heard_between_pushes(server: &mut Server, fleet: &mut [Device]) -> bool {
    const RATE: u64 = 1_000;
    const COUNT: u64 = 1_500;
    let started = Instant::now();
    server.tell(&format!("push {COUNT} {RATE} 64 0"));
    fleet[0].say(&uplink(&[Uplink::Ping]));
    let mut stamps = Vec::new();
    loop {
        match fleet[0].hear() {
            Heard::Pong => break,
            Heard::Push { stamp_ns, .. } => stamps.push(stamp_ns),
            heard => panic!("instead of a pong came {heard:?}"),
        }
    }
    let messages_take = Duration::from_nanos((COUNT - 1) * 1_000_000_000 / RATE);
    let is_heard = started.elapsed() < messages_take;
    let pushed = numbers(&server.hear(), "pushed");
    assert_eq!(pushed[..2], [COUNT, 0], "sent, failed");
    let least_ns = messages_take.as_nanos() as u64;
    assert!(pushed[2] >= least_ns, "{COUNT} messages at {RATE}/s in {} ns", pushed[2]);
    let left = COUNT as usize - stamps.len();
    while stamps.len() < COUNT as usize {
        let before = stamps.len();
        for device in fleet.iter_mut() {
            // Each asks for a pong, which ends what was sent to it before.
            device.say(&uplink(&[Uplink::Ping]));
            while let Heard::Push { stamp_ns, .. } = device.hear() {
                stamps.push(stamp_ns);
            }
        }
        assert!(stamps.len() > before, "{left} were left, {} came", stamps.len());
    }
    stamps.sort_unstable();
    let span_ns = stamps[stamps.len() - 1] - stamps[0];
    assert_eq!(span_ns, least_ns, "from the first due to the last");
    is_heard
}

/// Who says what no device can say is closed, and nobody else.
fn bad_length(server: &mut Server) {
    let before = server.ask("count");
    let mut device = Device::connect(server.address);
    device.say(&[0x15, 0xff, 0xff, 0x7f]);
    assert_eq!(device.hear(), Heard::End);
    server.eventually(&before);
}

/// Resets, orderly ends, and connections that never said a word: all are forgotten, and new ones
/// are welcomed.
fn resets(server: &mut Server, mut fleet: Vec<Device>) -> Vec<Device> {
    let (devices, stay) = (fleet.len(), fleet.len() / 4);
    let silent: Vec<TcpStream> =
        (0..10).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    for (index, device) in fleet.drain(stay..).enumerate() {
        if index % ORDERLY_ENDS_EVERY == 0 {
            SockRef::from(&device.socket).set_linger(None).unwrap();
        }
    }
    drop(silent);
    server.eventually(&format!("count {stay}"));
    fleet.extend(connect(server.address, devices - stay));
    assert_eq!(server.ask("count"), format!("count {devices}"));
    fleet
}

/// A device that does not read: sends to it fail, and nobody waits for it.
fn deaf(server: &mut Server) {
    server.eventually("count 0");
    let _deaf = connect(server.address, 1);
    let mut frame = Vec::new();
    Downlink::Broadcast { seq: Seq(9), payload: &[b'd'; 60_000] }.encode(&mut frame);
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    for _ in 0..FILLING {
        let fanned = numbers(&server.ask(&format!("fanout {hex}")), "fanned");
        if fanned[..2] == [0, 1] {
            return;
        }
        assert_eq!(fanned[..2], [1, 0], "sent, failed");
    }
    panic!("no send to it fails");
}

struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Server {
    fn start(command: &mut Command) -> Server {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Server { child, stdin, stdout, address };
        let ready = server.hear();
        server.address = ready.strip_prefix("ready ").expect(&ready).parse().unwrap();
        server
    }

    fn tell(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("it was not ended");
        stdin.write_all(format!("{command}\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.hear()
    }

    /// Asks for the count until it is this.
    fn eventually(&mut self, count: &str) {
        for _ in 0..LOOKS {
            if self.ask("count") == count {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{} and not {count}", self.ask("count"));
    }

    /// The end of its input is the end of it.
    fn end(mut self) {
        drop(self.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn numbers(answer: &str, word: &str) -> Vec<u64> {
    let rest = answer.strip_prefix(word).unwrap_or_else(|| panic!("{answer:?} and not {word}"));
    rest.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

struct Device {
    socket: TcpStream,
    /// What was received and not heard yet.
    bytes: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Welcome(Welcome),
    Pong,
    Push { seq: u64, payload_bytes: usize, stamp_ns: u64 },
    Broadcast { seq: u64, payload_bytes: usize },
    End,
}

/// All greet before the first waits for its welcome.
fn connect(address: SocketAddr, devices: usize) -> Vec<Device> {
    let mut fleet: Vec<Device> = (0..devices).map(|_| Device::connect(address)).collect();
    let topic = TopicId::new("news");
    for (index, device) in fleet.iter_mut().enumerate() {
        // With a long ticket, so that the greeting outgrows a server's buffer; some say their topic
        // later, which must not be welcomed again.
        let ticket = vec![1; 50 + index % 200];
        let connect = Connect {
            major: MAJOR,
            minor: MINOR,
            heartbeat_s: 0,
            network: 0,
            last_epoch: Epoch::ZERO,
            inbox: Seq::ZERO,
            group: None,
            ticket: &ticket,
        };
        if index % 3 == 0 {
            device.say(&uplink(&[Uplink::Connect(connect)]));
            device.say(&uplink(&[Uplink::Subscribe { topic }]));
        } else {
            device.say(&uplink(&[Uplink::Connect(connect), Uplink::Subscribe { topic }]));
        }
    }
    let welcome = Welcome { epoch: Epoch(1), heartbeat_s: 1800, group: Some(Seq::ZERO) };
    for device in &mut fleet {
        assert_eq!(device.hear(), Heard::Welcome(welcome));
    }
    fleet
}

impl Device {
    fn connect(address: SocketAddr) -> Device {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LONG_LOOK)).unwrap();
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
        Device { socket, bytes: Vec::new() }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    fn hear(&mut self) -> Heard {
        let mut buffer = [0; 4096];
        let mut looks = 0;
        loop {
            if let Some((frame, rest)) = split(&self.bytes, DOWNLINK_BODY_BYTES_MAX).unwrap() {
                let heard = match Downlink::decode(frame).unwrap().unwrap() {
                    Downlink::Welcome(welcome) => Heard::Welcome(welcome),
                    Downlink::Pong => Heard::Pong,
                    Downlink::Push { seq, payload } => Heard::Push {
                        seq: seq.0,
                        payload_bytes: payload.len(),
                        stamp_ns: u64::from_le_bytes(payload[..8].try_into().unwrap()),
                    },
                    Downlink::Broadcast { seq, payload } => {
                        Heard::Broadcast { seq: seq.0, payload_bytes: payload.len() }
                    }
                    other => panic!("no bare server says {other:?}"),
                };
                self.bytes = rest.to_vec();
                return heard;
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Heard::End,
                Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Heard::End;
                }
                Err(error) if looks < LONG_LOOKS && is_passing(&error) => looks += 1,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }
}

/// Nothing came yet, or this process was stopped meanwhile.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

fn uplink(frames: &[Uplink]) -> Vec<u8> {
    let mut out = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out
}
