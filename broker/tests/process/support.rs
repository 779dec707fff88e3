//! What the tests of the process need: the real binary, a device and a control node, all of them
//! blocking, with one deadline for everything.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use hawser_codec::device::{Connect, Downlink, MAJOR, MINOR, Uplink};
use hawser_codec::error::CloseReason;
use hawser_codec::frame;
use hawser_codec::ids::{AppId, DeviceId, Epoch, HashKey, Seq};
use hawser_codec::limits::{DOWNLINK_BODY_BYTES_MAX, LINK_BODY_BYTES_MAX};
use hawser_codec::link::{
    AppKeys, BROKER_PROOF_CONTEXT, CONTROL_PROOF_CONTEXT, Hello, Keys, ToControl, VerifyKey,
    to_broker,
};
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use hmac::{Hmac, Mac};
use sha2::Sha256;

pub const DEADLINE: Duration = Duration::from_secs(30);

pub const APP: AppId = AppId(7);
pub const APP_NAME: &str = "shop";
pub const HASH_KEY: HashKey = HashKey([9; 16]);
pub const LINK_KEY: [u8; 32] = [0x5a; 32];

/// Asks until the answer is there.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        std::thread::yield_now();
    }
}

/// Runs a test once more in network and mount namespaces of its own, which a script prepares. True in
/// there.
pub fn inside(test: &str, script: &str) -> bool {
    const ROLE: &str = "HAWSER_TEST_ROLE";
    if std::env::var_os(ROLE).is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args(["--map-root-user", "--net", "--mount", "sh", "-ec"])
        .arg(format!("{script}; exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, "inside")
        .status()
        .expect("util-linux has unshare");
    assert!(status.success());
    false
}

/// A folder that disappears with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "hawser-broker-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        // What a process of the same id left when it was killed.
        let _left = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Puts the test's key set where a broker keeps it.
    pub fn with_keys(self) -> Folder {
        fs::write(self.0.join("keys"), key_set(1)).unwrap();
        self
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// A `hawser-broker` process.
pub struct Broker {
    child: Child,
    pub address: SocketAddr,
    pub addresses: Vec<SocketAddr>,
    pub admin: SocketAddr,
    state: Folder,
}

/// The command with settings that no other test disturbs.
pub fn command(settings: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-broker"));
    command.env_remove("HAWSER_LINK_KEY");
    let base = [
        "listen=127.0.0.1:0",
        "admin=127.0.0.1:0",
        "control=",
        "connections_max=2000",
        "pin=false",
        "memory_free_min_mib=1",
        "outbox_bytes_max=1048576",
        "link_queue_bytes_max=4194304",
    ];
    for setting in base.iter().chain(settings) {
        command.args(["--set", setting]);
    }
    command
}

impl Broker {
    /// Starts one that knows the test's app, and waits for its ready line.
    pub fn start(settings: &[&str]) -> Broker {
        Broker::start_in(Folder::new().with_keys(), settings)
    }

    pub fn start_in(state: Folder, settings: &[&str]) -> Broker {
        let mut command = command(settings);
        let state_dir = format!("state_dir={}", state.path().display());
        command.args(["--set", &state_dir]).env("HAWSER_LINK_KEY", hex(&LINK_KEY));
        let log = fs::File::create(state.path().join("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let rest = line.strip_prefix("hawser-broker ready on ").unwrap_or_else(|| {
            let _ended = child.kill();
            panic!("no ready line: {line:?}")
        });
        let (listen, admin) = rest.trim().split_once(" admin ").expect("both addresses");
        let addresses: Vec<SocketAddr> =
            listen.split(',').map(|address| address.parse().unwrap()).collect();
        Broker { child, address: addresses[0], addresses, admin: admin.parse().unwrap(), state }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A file of the broker's state.
    pub fn state_path(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.state_path("log")).unwrap()
    }

    pub fn signal(&self, signal: i32) {
        // The process is a child that was not waited for, so its id is its own.
        let arguments = [format!("-{signal}"), self.pid().to_string()];
        let status = Command::new("kill").args(arguments).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{signal} failed");
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait_until("the end of the broker", || self.child.try_wait().unwrap())
    }

    /// The sum over the shards of a metric; `line` is its name, and labels if it has some.
    pub fn metric(&self, line: &str) -> u64 {
        metric(&self.get("/metrics").1, line)
    }

    /// Per shard.
    pub fn metric_of_shards(&self, name: &str) -> Vec<u64> {
        let page = self.get("/metrics").1;
        (0..)
            .map(|shard| format!("{name}{{shard=\"{shard}\"}} "))
            .map_while(|start| page.lines().find_map(|line| line.strip_prefix(&start)))
            .map(|value| value.parse().unwrap())
            .collect()
    }

    pub fn wait_for_metric(&self, line: &str, value: u64) {
        let mut last = 0;
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            last = self.metric(line);
            if last == value {
                return;
            }
        }
        panic!("{line} is {last}, not {value}");
    }

    /// Status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).expect("a status line").parse().unwrap();
        (status, body.to_owned())
    }

    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.metric(&format!("hawser_broker_closed_total reason=\"{}\"", reason.label()))
    }

    pub fn wait_for_closed(&self, reason: CloseReason, count: u64) {
        let line = format!("hawser_broker_closed_total reason=\"{}\"", reason.label());
        self.wait_for_metric(&line, count);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Sums the lines of a name, and of a label if `line` goes on with ` label="value"`.
fn metric(page: &str, line: &str) -> u64 {
    let (name, label) = line.split_once(' ').unwrap_or((line, ""));
    let mut found = false;
    let sum = page
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        .map(|rest| {
            found = true;
            rest.rsplit(' ').next().expect("a value").parse::<u64>().unwrap()
        })
        .sum();
    assert!(found, "there is no metric {line}");
    sum
}

fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// The test's one app, as control nodes send it and brokers keep it.
pub fn key_set(version: u64) -> Vec<u8> {
    let key = VerifyKey {
        id: 1,
        algorithm: Algorithm::Ed25519,
        key: signing_key().verifying_key().to_bytes(),
    };
    let apps = vec![AppKeys { app: APP, name: APP_NAME, keys: vec![key] }];
    let mut bytes = Vec::new();
    Keys { version, hash_key: HASH_KEY, apps }.encode(&mut bytes);
    bytes
}

pub fn device_id(device: &str) -> DeviceId {
    DeviceId::new(&HASH_KEY, APP_NAME, device)
}

/// A ticket of the test's app that is good for an hour.
pub fn ticket(device: &str) -> Vec<u8> {
    signed(APP_NAME, device, unix_s() + 3600)
}

pub fn signed(app: &str, device: &str, expires_s: u64) -> Vec<u8> {
    let mut ticket = Ticket::unsigned(Algorithm::Ed25519, 1, expires_s, app, device);
    let signature = signing_key().sign(&[SIGNATURE_CONTEXT, &ticket].concat());
    ticket.extend_from_slice(&signature.to_bytes());
    ticket
}

pub fn unix_s() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// The connect frame of a device without a past.
pub fn connect_frame(ticket: &[u8]) -> Vec<u8> {
    connect_frame_of(MAJOR, ticket)
}

pub fn connect_frame_of(major: u8, ticket: &[u8]) -> Vec<u8> {
    let connect = Connect {
        major,
        minor: MINOR,
        heartbeat_s: 0,
        network: 0,
        last_epoch: Epoch::ZERO,
        inbox: Seq::ZERO,
        group: None,
        ticket,
    };
    let mut bytes = Vec::new();
    Uplink::Connect(connect).encode(&mut bytes);
    bytes
}

/// Frames from a blocking stream.
pub struct Frames {
    pub stream: TcpStream,
    input: VecDeque<u8>,
    body_bytes_max: usize,
}

impl Frames {
    pub fn new(stream: TcpStream, body_bytes_max: usize) -> Frames {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Frames { stream, input: VecDeque::new(), body_bytes_max }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame's type and body; `None` at the end of the stream.
    pub fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let bytes = self.input.make_contiguous();
            if let Some((frame, rest)) = frame::split(bytes, self.body_bytes_max).unwrap() {
                let (kind, body) = (frame.kind, frame.body.to_vec());
                let used = bytes.len() - rest.len();
                self.input.drain(..used);
                return Some((kind, body));
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.input.extend(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                // The test was stopped for a while and goes on.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("reading failed: {error}"),
            }
        }
    }
}

/// A device.
pub struct Device {
    pub frames: Frames,
}

impl Device {
    /// A connection on which nothing was said.
    pub fn dial(address: SocketAddr) -> Device {
        let stream = TcpStream::connect(address).unwrap();
        Device { frames: Frames::new(stream, DOWNLINK_BODY_BYTES_MAX) }
    }

    /// A session that is welcome.
    pub fn online(address: SocketAddr, device: &str) -> Device {
        let mut this = Device::dial(address);
        this.frames.write(&connect_frame(&ticket(device)));
        this.expect("a welcome", |frame| match frame {
            Downlink::Welcome(_) => Some(()),
            _ => None,
        });
        this
    }

    pub fn send(&mut self, frame: &Uplink<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.frames.write(&bytes);
    }

    /// Skips frames until one is what the test waits for.
    pub fn expect<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Downlink<'_>) -> Option<T>,
    ) -> T {
        loop {
            let Some((kind, body)) = self.frames.next() else {
                panic!("the broker hung up instead of sending {what}");
            };
            let frame = Downlink::decode(frame::Frame { kind, body: &body }).unwrap();
            if let Some(answer) = frame.and_then(|frame| wanted(&frame)) {
                return answer;
            }
        }
    }

    /// A heartbeat and its answer: the session lives.
    pub fn ping(&mut self) {
        self.send(&Uplink::Ping);
        self.expect("a pong", |frame| matches!(frame, Downlink::Pong).then_some(()));
    }

    /// The broker's last word, after which it hangs up.
    pub fn closed(mut self) -> Closed {
        let closed = self.expect("a close", |frame| match frame {
            Downlink::Close(close) => Some(Closed {
                reason: close.reason,
                retry_after_ms: close.retry_after_ms,
                addresses: close.addresses.iter().map(|&address| address.to_owned()).collect(),
            }),
            _ => None,
        });
        // Hanging up as a device does; the broker would wait a second for it.
        let _reset = self.frames.stream.shutdown(std::net::Shutdown::Write);
        assert_eq!(self.frames.next(), None, "a close is the last frame");
        closed
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    pub reason: CloseReason,
    pub retry_after_ms: u32,
    pub addresses: Vec<String>,
}

/// A control node that does what the test says.
pub struct Control {
    listener: TcpListener,
    key: [u8; 32],
}

/// The control end of a link.
pub struct Link {
    pub frames: Frames,
    pub hello: Hello,
}

impl Control {
    pub fn new(key: [u8; 32]) -> Control {
        Control { listener: TcpListener::bind("127.0.0.1:0").unwrap(), key }
    }

    pub fn setting(&self) -> String {
        format!("control={}", self.listener.local_addr().unwrap())
    }

    /// Takes the next dial up to its hello.
    pub fn accept(&self) -> Link {
        let (stream, _) = self.listener.accept().unwrap();
        let mut frames = Frames::new(stream, LINK_BODY_BYTES_MAX);
        let (kind, body) = frames.next().expect("a hello");
        match ToControl::decode(frame::Frame { kind, body: &body }).unwrap() {
            Some(ToControl::Hello(hello)) => Link { frames, hello },
            other => panic!("a hello comes first, not {other:?}"),
        }
    }

    /// Challenges; returns the broker's proof and the one that would be right, or `None` when the
    /// broker hangs up.
    pub fn challenge(&self, link: &mut Link) -> Option<(Vec<u8>, Vec<u8>)> {
        let (node, nonce) = (11, [4; 32]);
        let transcript = link.hello.transcript(node, &nonce);
        let ours = prove(&self.key, CONTROL_PROOF_CONTEXT, &transcript);
        let mut bytes = Vec::new();
        to_broker::challenge(&mut bytes, node, &nonce, &ours);
        link.frames.write(&bytes);
        let (kind, body) = link.frames.next()?;
        match ToControl::decode(frame::Frame { kind, body: &body }).unwrap() {
            Some(ToControl::Proof { proof }) => {
                let right = prove(&self.key, BROKER_PROOF_CONTEXT, &transcript);
                Some((proof.to_vec(), right.to_vec()))
            }
            other => panic!("a proof comes next, not {other:?}"),
        }
    }

    /// Takes a dial through the handshake and sends the key set.
    pub fn link(&self) -> Link {
        let mut link = self.accept();
        let (proof, right) = self.challenge(&mut link).expect("the broker has the key");
        assert_eq!(proof, right, "the broker proves that it has the key");
        let mut bytes = Vec::new();
        to_broker::accepted(&mut bytes, Epoch::ZERO);
        // Together, as they come in practice: the second frame is allowed by the first.
        let keys = key_set(2);
        to_broker::keys(
            &mut bytes,
            &Keys::decode(&mut hawser_codec::cursor::Reader::new(&keys)).unwrap(),
        );
        link.frames.write(&bytes);
        link
    }
}

impl Link {
    /// Skips frames until one is what the test waits for.
    pub fn expect<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&ToControl<'_>) -> Option<T>,
    ) -> T {
        loop {
            let Some((kind, body)) = self.frames.next() else {
                panic!("the broker hung up instead of sending {what}");
            };
            let frame = ToControl::decode(frame::Frame { kind, body: &body }).unwrap();
            if let Some(answer) = frame.and_then(|frame| wanted(&frame)) {
                return answer;
            }
        }
    }

    pub fn send(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        self.frames.write(&bytes);
    }
}

fn prove(key: &[u8; 32], context: &[u8], transcript: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(context);
    mac.update(transcript);
    mac.finalize().into_bytes().into()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
