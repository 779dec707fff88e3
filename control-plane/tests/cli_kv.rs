//! `hawser kv load` and `dump` between a real redis-server and a store.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hawser_kv::rdb::payload;
use hawser_kv::rdb::reader::{Event, Reader};
use hawser_kv::rdb::value::Piece;
use hawser_kv::{Config, Handle, Server};
use redis::Value;

/// There to end a hang, not to measure.
const DEADLINE: Duration = Duration::from_secs(60);

struct TempDir(PathBuf);

impl TempDir {
    fn new() -> TempDir {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Relaxed);
        let path = std::env::temp_dir().join(format!("hawser-kv-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A redis-server that ends with its value.
struct Redis {
    child: Child,
    dir: TempDir,
    port: u16,
}

impl Redis {
    /// With the `dump.rdb` of this directory, if there is one.
    fn start(dir: TempDir) -> Redis {
        let (child, port) = Redis::spawn(&dir);
        let mut redis = Redis { child, dir, port };
        while !until("started", || redis.listens()) {
            (redis.child, redis.port) = Redis::spawn(&redis.dir);
        }
        redis
    }

    fn spawn(dir: &TempDir) -> (Child, u16) {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
            .args(["--repl-diskless-sync-delay", "0", "--unixsocket"])
            .arg(dir.join("r"))
            .arg("--dir")
            .arg(&dir.0)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (apt-get install redis-server)");
        (child, port)
    }

    /// False when it has ended, as it does when another one has taken its port meanwhile. Its socket is
    /// asked: who connects to a free port over and over can end up connected to himself.
    fn listens(&mut self) -> Option<bool> {
        if self.child.try_wait().unwrap().is_some() {
            return Some(false);
        }
        let url = format!("redis+unix://{}", self.dir.join("r").display());
        let mut connection = redis::Client::open(url).unwrap().get_connection().ok()?;
        redis::cmd("PING").query::<String>(&mut connection).ok().map(|_| true)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn connect(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// The file that SAVE writes.
    fn save(&self) -> PathBuf {
        run(&mut self.connect(), "SAVE");
        self.dir.join("dump.rdb")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

struct Store {
    _handle: Handle,
    socket: PathBuf,
    dir: TempDir,
}

impl Store {
    fn start(change: impl FnOnce(Config) -> Config) -> Store {
        let dir = TempDir::new();
        let socket = dir.join("s");
        let config = Config {
            listen: String::new(),
            unix: socket.clone(),
            dir: dir.join("data"),
            log_segment_mib: 4,
            memtable_mib: 4,
            cache_mib: 8,
            ..Config::default()
        };
        Store { _handle: Server::start(change(config)).unwrap(), socket, dir }
    }

    fn address(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    fn connect(&self) -> redis::Connection {
        let url = format!("redis+unix://{}", self.socket.display());
        redis::Client::open(url).unwrap().get_connection().unwrap()
    }
}

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < DEADLINE, "not {what} in time");
        std::thread::yield_now();
    }
}

fn hawser(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser"));
    command.env_clear().args(words);
    command
}

fn json(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line)
        .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn succeeded(words: &[&str]) -> serde_json::Value {
    let output = hawser(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    json(&output)
}

fn run(connection: &mut redis::Connection, command: &str) -> Value {
    let mut words = command.split(' ');
    let mut built = redis::cmd(words.next().unwrap());
    words.for_each(|word| _ = built.arg(word));
    built.query(connection).unwrap_or_else(|error| panic!("{command:.200}: {error}"))
}

/// Keys of every type, small and large, in two databases.
fn fill(connection: &mut redis::Connection) {
    let mut all = redis::pipe();
    for number in 0..3000 {
        let name = format!("element-{number}-{}", "x".repeat(number % 60));
        all.cmd("SET").arg(format!("text:{number}")).arg(&name).ignore();
        all.cmd("RPUSH").arg("list:large").arg(&name).ignore();
        all.cmd("SADD").arg("set:large").arg(&name).ignore();
        all.cmd("HSET").arg("hash:large").arg(&name).arg(number).ignore();
        all.cmd("ZADD").arg("zset:large").arg(number as f64 / 7.0).arg(&name).ignore();
        all.cmd("XADD").arg("stream:large").arg(number + 1).arg("field").arg(&name).ignore();
    }
    all.query::<()>(connection).unwrap();
    for command in [
        "RPUSH list a 1 -300",
        "SADD set 1 2 3",
        "SADD names a b",
        "HSET hash f v g w",
        "ZADD zset 1 a inf b",
        "SET expires value PXAT 4102444800123",
        "PEXPIREAT hash 4102444800456",
        "PEXPIREAT list:large 4102444800789",
        "XDEL stream:large 7 9",
        "XGROUP CREATE stream:large g 0",
        "XGROUP CREATE stream:large h 5 ENTRIESREAD 5",
        "XREADGROUP GROUP g alice COUNT 700 STREAMS stream:large >",
        "XREADGROUP GROUP g bob COUNT 5 STREAMS stream:large >",
        "XGROUP CREATECONSUMER stream:large h carol",
        "XADD stream 1-1 f v",
        "XGROUP CREATE stream g 0",
        "XREADGROUP GROUP g alice STREAMS stream >",
        "XDEL stream 1-1",
        "SELECT 3",
        "SET other-database value",
        "RPUSH text:1 of another kind",
        "SELECT 0",
    ] {
        run(connection, command);
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(mut items) => {
            items.sort_by_key(|item| format!("{item:?}"));
            Value::Array(items)
        }
        other => other,
    }
}

/// Everything in a database, but what depends on the moment.
fn contents(connection: &mut redis::Connection, database: u8) -> Vec<String> {
    run(connection, &format!("SELECT {database}"));
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(connection).unwrap();
    keys.sort();
    let mut found = Vec::new();
    for key in keys {
        let Value::SimpleString(kind) = run(connection, &format!("TYPE {key}")) else { panic!() };
        let mut value = |command: &str| run(connection, &command.replace('@', &key));
        let values = match kind.as_str() {
            "string" => vec![value("GET @")],
            "list" => vec![value("LRANGE @ 0 -1")],
            "set" => vec![sorted(value("SMEMBERS @"))],
            "zset" => vec![value("ZRANGE @ 0 -1 WITHSCORES")],
            "hash" => vec![sorted(value("HKEYS @")), sorted(value("HVALS @"))],
            "stream" => {
                let Value::Array(facts) = value("XINFO STREAM @") else { panic!() };
                let of = |pair: &&[Value]| !format!("{:?}", pair[0]).contains("radix");
                let facts = facts.chunks(2).filter(of).flatten().cloned().collect();
                let mut all =
                    vec![Value::Array(facts), value("XRANGE @ - +"), value("XINFO GROUPS @")];
                for group in ["g", "h"].into_iter().take(if key.contains(':') { 2 } else { 1 }) {
                    all.push(value(&format!("XPENDING @ {group}")));
                }
                all
            }
            other => panic!("{other}"),
        };
        let expires = value("PEXPIRETIME @");
        found.push(format!("{database} {key} {kind} {expires:?} {values:?}"));
    }
    found
}

fn assert_same(ours: &mut redis::Connection, theirs: &mut redis::Connection) {
    for database in [0, 3] {
        let (ours, theirs) = (contents(ours, database), contents(theirs, database));
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!(ours == theirs, "{ours:.1500}\n{theirs:.1500}");
        }
    }
    run(ours, "SELECT 0");
    run(theirs, "SELECT 0");
}

#[test]
fn a_file_goes_in_and_comes_out_again() {
    let redis = Redis::start(TempDir::new());
    fill(&mut redis.connect());
    let file = redis.save();
    let file = file.to_str().unwrap();
    // So small that the large stream goes in entry by entry, too.
    let store = Store::start(|config| Config { bulk_bytes_max: 64 * 1024, ..config });
    // Twice is the same as once, also over other values.
    run(&mut store.connect(), "RPUSH text:5 other");
    for _ in 0..2 {
        let done = succeeded(&["kv", "load", file, "--to", &store.address(), "--json"]);
        assert_eq!(done["keys_loaded"], 3014);
        assert_eq!((&done["keys_failed"], &done["pending_lost"]), (&0.into(), &0.into()));
        assert_same(&mut store.connect(), &mut redis.connect());
    }
    let place = TempDir::new();
    let out = place.join("dump.rdb");
    let out = out.to_str().unwrap();
    let done = succeeded(&["kv", "dump", out, "--from", &store.address(), "--json"]);
    assert_eq!(done["keys"], 3014);
    assert_eq!(done["bytes"], std::fs::metadata(out).unwrap().len());
    assert_eq!(done["consistency"], "per key");
    assert_eq!(std::fs::read_dir(&place.0).unwrap().count(), 1, "nothing partial is left");
    let words = ["kv", "dump", out, "--from", &store.address(), "--one-moment", "--json"];
    let at_once = succeeded(&words);
    assert_eq!((&at_once["keys"], &at_once["bytes"]), (&done["keys"], &done["bytes"]));
    assert_eq!(at_once["consistency"], "one moment");
    let checkpoints = store.dir.join("data/checkpoints");
    assert_eq!(std::fs::read_dir(checkpoints).unwrap().count(), 0, "the checkpoint is deleted");
    let loaded = Redis::start(place);
    until("loaded", || redis::cmd("DBSIZE").query::<u64>(&mut loaded.connect()).ok());
    assert_same(&mut loaded.connect(), &mut redis.connect());
}

#[test]
fn a_live_redis_is_taken_over_and_followed() {
    let redis = Redis::start(TempDir::new());
    let mut theirs = redis.connect();
    fill(&mut theirs);
    let store = Store::start(|config| config);
    let address = store.address();
    let once = succeeded(&["kv", "load", "--from", &redis.url(), "--to", &address, "--json"]);
    assert_eq!(once["keys_loaded"], 3014);
    assert_same(&mut store.connect(), &mut theirs);

    let words = ["kv", "load", "--from", &redis.url(), "--to", &address, "--follow", "--json"];
    let mut command = hawser(&words);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(errors.any(|line| line.unwrap().contains("following")), "it follows");
    for number in 0..500 {
        run(&mut theirs, &format!("SET followed:{number} {number}"));
        run(&mut theirs, "INCR counted");
    }
    run(&mut theirs, "SELECT 3");
    run(&mut theirs, "SET other-database changed");
    run(&mut theirs, "SELECT 0");
    run(&mut theirs, "DEL list:large");
    run(&mut theirs, "MULTI");
    run(&mut theirs, "SPOP set");
    run(&mut theirs, "EXEC");
    run(&mut theirs, "XADD stream:large * last entry");
    run(&mut theirs, "SET last 1");
    let mut ours = store.connect();
    until("followed", || {
        let last: Option<String> = redis::cmd("GET").arg("last").query(&mut ours).unwrap();
        last
    });
    assert_same(&mut ours, &mut theirs);
    // What the store does not have is named, and the rest goes on.
    run(&mut theirs, "SETBIT bits 7 1");
    run(&mut theirs, "SET last 2");
    until("followed", || {
        let last: String = redis::cmd("GET").arg("last").query(&mut ours).unwrap();
        (last == "2").then_some(())
    });
    let ended = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert!(ended.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "one command failed");
    let done = json(&output);
    assert_eq!(done["followed"]["commands_failed"], 1);
    assert_eq!(done["followed"]["lag_bytes"], 0);
    let failure = &done["failures"][0];
    assert_eq!(failure["key"].as_str().unwrap().to_uppercase(), "SETBIT BITS");
}

/// Of a damaged file no part of a value stays, and it is said how far it went.
#[test]
fn what_comes_before_damage_is_loaded() {
    let redis = Redis::start(TempDir::new());
    let mut theirs = redis.connect();
    let many: Vec<String> =
        (0..20_000).map(|number| format!("element-{number}-0123456789")).collect();
    run(&mut theirs, &format!("RPUSH large {}", many.join(" ")));
    let whole = std::fs::read(redis.save()).unwrap();
    let store = Store::start(|config| config);
    run(&mut store.connect(), "SET other value");
    let bad = store.dir.join("bad.rdb");
    std::fs::write(&bad, &whole[..whole.len() - 1000]).unwrap();
    let (_, text) = failed(&["kv", "load", bad.to_str().unwrap(), "--to", &store.address()]);
    assert!(text.contains("ends too early; 0 keys before that are loaded"), "{text}");
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut store.connect()).unwrap();
    assert_eq!(keys, ["other"]);
}

/// A store in which somebody gives the key another expiry each time that it was asked for it, twice.
fn changing_store(listener: TcpListener) {
    let (stream, _) = listener.accept().unwrap();
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut line = || {
        let mut line = String::new();
        input.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let (mut output, mut expiries) = (stream, ["-1", "4102444800000"].into_iter());
    loop {
        let head = line();
        let Some(count) = head.strip_prefix('*') else { return };
        let words: Vec<String> = (0..count.parse::<usize>().unwrap())
            .map(|_| {
                line();
                line()
            })
            .collect();
        let answer = match &*words[0] {
            "INFO" => "$17\r\nhawser_kv_version\r\n".to_owned(),
            "DBSIZE" => ":1\r\n".to_owned(),
            "SCAN" => "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nk\r\n".to_owned(),
            "PEXPIRETIME" => format!(":{}\r\n", expiries.next().unwrap_or("4102444800456")),
            "DUMP" => {
                let payload = payload::of(&[Piece::String(b"v".to_vec())]);
                output.write_all(format!("${}\r\n", payload.len()).as_bytes()).unwrap();
                output.write_all(&payload).unwrap();
                "\r\n".to_owned()
            }
            _ => "+OK\r\n".to_owned(),
        };
        output.write_all(answer.as_bytes()).unwrap();
    }
}

#[test]
fn a_dumped_key_has_the_expiry_of_its_value() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let from = format!("redis://{}/0", listener.local_addr().unwrap());
    let store = std::thread::spawn(|| changing_store(listener));
    let dir = TempDir::new();
    let out = dir.join("dump.rdb");
    let done = succeeded(&["kv", "dump", out.to_str().unwrap(), "--from", &from, "--json"]);
    assert_eq!(done["keys"], 1);
    let bytes = std::fs::read(&out).unwrap();
    let mut reader = Reader::open(&bytes[..], 1 << 20).unwrap();
    let mut found = None;
    while let Some(event) = reader.next_event().unwrap() {
        if let Event::Key(key) = event {
            found = Some((key.name, key.expires_at_ms));
        }
    }
    assert_eq!(found, Some((b"k".to_vec(), Some(4_102_444_800_456))));
    store.join().unwrap();
}

fn failed(words: &[&str]) -> (Output, String) {
    let output = hawser(words).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, errors)
}

#[test]
fn what_cannot_be_loaded_is_named_and_the_rest_is_loaded() {
    let redis = Redis::start(TempDir::new());
    let mut theirs = redis.connect();
    let (long, longer) = ("x".repeat(4096), "x".repeat(4097));
    run(&mut theirs, &format!("SET fits {long}"));
    run(&mut theirs, &format!("SET too-long {longer}"));
    run(&mut theirs, &format!("RPUSH list a {longer}"));
    let many: Vec<String> =
        (0..5000).map(|number| format!("element-{number}-0123456789")).collect();
    run(&mut theirs, &format!("RPUSH large {} {longer}", many.join(" ")));
    run(&mut theirs, "SET small value");
    let file = redis.save();
    let store = Store::start(|config| Config { bulk_bytes_max: 4096, ..config });
    let file = file.to_str().unwrap();
    let (output, errors) = failed(&["kv", "load", file, "--to", &store.address(), "--json"]);
    let done = json(&output);
    assert_eq!((&done["keys_loaded"], &done["keys_failed"]), (&2.into(), &3.into()), "{done}");
    assert!(errors.contains("3 keys were not loaded"), "{errors}");
    let failures = done["failures"].as_array().unwrap();
    let too_long = failures.iter().find(|failure| failure["key"] == "too-long").unwrap();
    assert!(too_long["error"].as_str().unwrap().contains("bulk_bytes_max"), "{too_long}");
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut store.connect()).unwrap();
    keys.sort();
    assert_eq!(keys, ["fits", "small"], "no part of a value is there");
}

#[test]
fn what_stands_in_the_way_is_said() {
    let store = Store::start(|config| Config { password: "secret".into(), ..config });
    let dir = TempDir::new();
    let redis = Redis::start(TempDir::new());
    run(&mut redis.connect(), "SET key value");
    let file = redis.save();
    let whole = std::fs::read(&file).unwrap();
    let file = file.to_str().unwrap();
    let load = |file: &str, password: Option<&str>| {
        let mut command = hawser(&["kv", "load", file, "--to", &store.address()]);
        password.map(|password| command.env("HAWSER_KV_PASSWORD", password));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = load(file, None);
    assert!(code == Some(1) && text.contains("NOAUTH"), "{text}");
    let (code, text) = load(file, Some("wrong"));
    assert!(code == Some(1) && text.contains("WRONGPASS"), "{text}");
    let (code, text) = load(file, Some("secret"));
    assert!(code == Some(0), "{text}");

    let check = |bytes: &[u8], says: &str| {
        let path: &Path = &dir.join("bad.rdb");
        std::fs::write(path, bytes).unwrap();
        let (code, text) = load(path.to_str().unwrap(), Some("secret"));
        assert!(code == Some(1) && text.contains(says), "{text}");
    };
    check(&whole[..whole.len() - 3], "ends too early; 1 keys before that are loaded");
    check(&[&whole[..20], &[255], &whole[21..]].concat(), "at byte ");
    check(b"SQLite format 3", "no RDB file");
    let (code, text) = load("/nonexistent/file.rdb", Some("secret"));
    assert!(code == Some(1) && text.contains("/nonexistent/file.rdb"), "{text}");

    let (_, text) = failed(&["kv", "load", file, "--to", "127.0.0.1:1"]);
    assert!(text.contains("nobody answers at 127.0.0.1:1"), "{text}");
    let out = dir.join("out.rdb");
    let (_, text) = failed(&["kv", "dump", out.to_str().unwrap(), "--from", &redis.url()]);
    assert!(text.contains("redis-cli --rdb"), "{text}");
    assert!(!out.exists());
    let output = hawser(&["kv", "load", "--to", "127.0.0.1:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
