//! Client libraries as people install them, unchanged, against the real `hawser-kv`.
//!
//! | client | where from | what uses it |
//! |---|---|---|
//! | redis-py | `requirements.txt` | `redis_py.py`, once with RESP2 and once with RESP3 |
//! | ioredis | `package-lock.json` | `ioredis.js` |
//! | redis-rs | `Cargo.lock` | `redis_rs.rs`, with both protocols |
//! | redis-benchmark | the distribution | here |
//!
//! Each is put through authentication, all types, pipelines, transactions with WATCH, publish and
//! subscribe, commands that wait, streams with groups, walks with cursors and values of 4 MiB. `.ci/setup
//! test` installs what is not there.

mod redis_rs;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

const PASSWORD: &str = "sesame";

/// Each script takes some seconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(300);

#[test]
fn redis_py() {
    for protocol in ["2", "3"] {
        let server = Server::start();
        let mut script = Command::new("python3");
        script.arg(source("redis_py.py")).args([&server.host, &server.port, PASSWORD, protocol]);
        run(script.env("PYTHONPATH", installed("python", "redis/__init__.py")));
    }
}

#[test]
fn ioredis() {
    let server = Server::start();
    let mut script = Command::new("node");
    script.arg(source("ioredis.js")).args([&server.host, &server.port, PASSWORD]);
    let modules = installed("node", "node_modules/ioredis/package.json").join("node_modules");
    run(script.env("NODE_PATH", modules));
}

/// All of its tests, each of which checks that no answer is an error.
#[test]
fn redis_benchmark() {
    let server = Server::start();
    for pipelined in ["1", "16"] {
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.args(["-h", &server.host, "-p", &server.port, "-a", PASSWORD, "-e", "-q"]);
        let output = run(benchmark.args(["-n", "2000", "-c", "20", "-r", "1000", "-P", pipelined]));
        for test in
            ["SET: ", "GET: ", "INCR", "LPUSH", "SPOP", "ZADD", "LRANGE_600", "MSET (10 keys)"]
        {
            let has_rate = |line: &str| line.contains(test) && line.contains("per second");
            assert!(output.split(['\r', '\n']).any(has_rate), "no rate of {test}:\n{output}");
        }
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// The folder that `.ci/setup test` has installed a client into.
fn installed(name: &str, file: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| {
        Path::new(&std::env::var_os("HOME").expect("HOME is set")).join(".cache")
    });
    let folder = cache.join("hawser/clients").join(name);
    assert!(
        folder.join(file).exists(),
        "{file} is not in {}; run `.ci/setup test`",
        folder.display()
    );
    folder
}

/// Runs a program to its end, which must be a good one, and gives what it printed.
fn run(command: &mut Command) -> String {
    let (output, writer) = std::io::pipe().expect("a pipe");
    command.stdin(Stdio::null()).stderr(writer.try_clone().expect("a pipe")).stdout(writer);
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("{:?}: {error}; run `.ci/setup test`", command.get_program())
    });
    // Or else reading would wait for our own end of the pipe.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    // It ends when nobody holds the other end any more, so when the program has ended.
    let (sender, printed) = mpsc::channel();
    std::thread::spawn(move || sender.send(std::io::read_to_string(output)));
    let output = printed.recv_timeout(DEADLINE);
    if output.is_err() {
        child.kill().expect("our child");
    }
    let status = child.wait().expect("our child");
    let output = output.unwrap_or_else(|_| panic!("{:?} does not end", command.get_program()));
    let output = output.expect("text");
    assert!(status.success(), "{status:?}:\n{output}");
    print!("{output}");
    output
}

/// `hawser-kv` with a password, on a port of its own, killed when the test is done.
pub struct Server {
    child: Child,
    dir: PathBuf,
    host: String,
    port: String,
}

impl Server {
    pub fn start() -> Server {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Relaxed);
        let dir = std::env::temp_dir().join(format!("hkv-clients-{}-{number}", std::process::id()));
        // What a process of the same id left when it was killed.
        _ = std::fs::remove_dir_all(&dir);
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-kv"));
        command.args([
            "--listen",
            "127.0.0.1:0",
            "--set",
            &format!("password={PASSWORD}"),
            "--dir",
        ]);
        command.arg(&dir).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line.trim_end().strip_prefix("hawser-kv ready on ").expect("a ready line");
        let (host, port) = address.rsplit_once(':').expect("an address");
        Server { child, dir, host: host.to_string(), port: port.to_string() }
    }

    pub fn url(&self, protocol: &str) -> String {
        format!("redis://:{PASSWORD}@{}:{}/?protocol={protocol}", self.host, self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        _ = std::fs::remove_dir_all(&self.dir);
    }
}
