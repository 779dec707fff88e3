//! What the tests share: a client that shows answers as they are, temporary directories, processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hawser_kv::processor::OneProcessor;
use hawser_kv::{Config, Handle, Server};

/// Generous: a deadline is there to end a hang, not to measure.
pub const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Verbatim(Vec<u8>),
    Null,
    NullArray,
    /// As it came, since how it is written is part of the answer.
    Double(String),
    Array(Vec<Value>),
    Set(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

impl Value {
    pub fn text(&self) -> String {
        match self {
            Value::Simple(text) | Value::Error(text) => text.clone(),
            Value::Bulk(bytes) | Value::Verbatim(bytes) => {
                String::from_utf8_lossy(bytes).into_owned()
            }
            other => panic!("no text: {other:?}"),
        }
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error(_))
    }
}

/// A socket of either kind.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
}

impl Client {
    pub fn unix(path: &Path) -> Client {
        let stream = until("connected", || UnixStream::connect(path).ok());
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Client::over(stream)
    }

    pub fn over(stream: UnixStream) -> Client {
        Client { stream: BufReader::new(Box::new(stream)) }
    }

    pub fn tcp(address: &str) -> Client {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Client { stream: BufReader::new(Box::new(stream)) }
    }

    pub fn call(&mut self, args: &[impl AsRef<[u8]>]) -> Value {
        self.send(&encode(args));
        self.receive()
    }

    /// Words without spaces in them.
    pub fn run(&mut self, command: &str) -> Value {
        self.call(&command.split(' ').collect::<Vec<_>>())
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the server reads");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    pub fn receive(&mut self) -> Value {
        self.try_receive().expect("the server answers")
    }

    pub fn try_receive(&mut self) -> Option<Value> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).ok()?;
        let body = line.strip_suffix(b"\r\n")?;
        let text = || String::from_utf8_lossy(&body[1..]).into_owned();
        let number = || text().parse::<i64>().expect("a number");
        Some(match body[0] {
            b'+' => Value::Simple(text()),
            b'-' => Value::Error(text()),
            b':' => Value::Integer(number()),
            b'_' => Value::Null,
            b'$' if number() < 0 => Value::Null,
            b'$' => {
                let mut bytes = vec![0; number() as usize + 2];
                self.stream.read_exact(&mut bytes).ok()?;
                bytes.truncate(bytes.len() - 2);
                Value::Bulk(bytes)
            }
            b'*' if number() < 0 => Value::NullArray,
            b'=' => {
                let mut bytes = vec![0; number() as usize + 2];
                self.stream.read_exact(&mut bytes).ok()?;
                Value::Verbatim(bytes[4..bytes.len() - 2].to_vec())
            }
            b'*' | b'>' => {
                let items = (0..number()).map(|_| self.try_receive());
                Value::Array(items.collect::<Option<_>>()?)
            }
            b',' => Value::Double(text()),
            b'~' => {
                let items = (0..number()).map(|_| self.try_receive());
                Value::Set(items.collect::<Option<_>>()?)
            }
            b'%' => {
                let pairs = (0..number()).map(|_| Some((self.try_receive()?, self.try_receive()?)));
                Value::Map(pairs.collect::<Option<_>>()?)
            }
            other => panic!("an answer starts with {:?}", other as char),
        })
    }
}

pub fn encode(args: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// A directory that goes with its value. Short, since socket paths may have only 107 bytes.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Relaxed);
        let path = std::env::temp_dir().join(format!("hkv-{}-{number}", std::process::id()));
        // What a process of the same id left when it was killed.
        _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Small and on a socket file, so that tests cannot meet each other.
pub fn config(dir: &TempDir) -> Config {
    Config {
        listen: String::new(),
        unix: dir.join("s"),
        dir: dir.join("data"),
        log_segment_mib: 1,
        memtable_mib: 1,
        cache_mib: 8,
        // Many run side by side in one process.
        one_processor: OneProcessor::Never,
        ..Config::default()
    }
}

pub fn start(config: &Config) -> Handle {
    Server::start(config.clone()).expect("the server starts")
}

pub fn stop(handle: Handle) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(handle.stop());
}

/// A child process that is killed, by its pid, when the test is done with it.
pub struct Process {
    pub child: Child,
}

impl Process {
    /// Starts `hawser-kv` and waits for its ready line.
    pub fn start(command: &mut Command) -> Process {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("hawser-kv starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert!(line.starts_with("hawser-kv ready on "), "not ready: {line:?}");
        Process { child }
    }

    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(done.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

pub fn binary(config: &Config) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-kv"));
    command.arg("--unix").arg(&config.unix).arg("--dir").arg(&config.dir).args(["--listen", ""]);
    for (name, value) in [
        ("log_segment_mib", config.log_segment_mib),
        ("memtable_mib", config.memtable_mib as u64),
        ("cache_mib", config.cache_mib as u64),
    ] {
        command.args(["--set", &format!("{name}={value}")]);
    }
    let durability = format!("durability={:?}", config.durability).to_lowercase();
    command.args(["--set", &durability]);
    command
}

/// Waits for a condition, up to [`DEADLINE`].
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < DEADLINE, "not {what} in time");
        std::thread::yield_now();
    }
}

/// Small, fast, the same every run (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}
