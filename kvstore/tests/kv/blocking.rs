//! Commands that wait: several clients at once, the same steps to Redis and to us, and after each step
//! the same clients must have the same answers, the others none.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hawser_kv::Config;
use proptest::prelude::*;
use proptest::sample::select;

use crate::differential::Oracle;
use crate::support::{Client, Process, TempDir, Value, binary, config, encode, start, stop, until};

const CLIENTS: usize = 4;

/// A client whose answers are collected as they come.
struct Party {
    socket: std::os::unix::net::UnixStream,
    sent: usize,
    answers: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Party {
    fn new(path: &Path) -> Party {
        let socket = until("connected", || std::os::unix::net::UnixStream::connect(path).ok());
        let mut client = Client::over(socket.try_clone().expect("a second descriptor"));
        let answers = Arc::new(Mutex::new(Vec::new()));
        let collected = answers.clone();
        let reader = std::thread::spawn(move || {
            while let Some(answer) = client.try_receive() {
                collected.lock().expect("not poisoned").push(answer);
            }
        });
        Party { socket, sent: 0, answers, reader: Some(reader) }
    }

    fn send(&mut self, command: &str) {
        let words: Vec<&str> = command.split(' ').collect();
        let bytes = encode(&words);
        std::io::Write::write_all(&mut self.socket, &bytes).expect("the server reads");
        self.sent += 1;
    }

    fn answers(&self) -> Vec<Value> {
        self.answers.lock().expect("not poisoned").clone()
    }

    fn waits(&self) -> bool {
        self.answers.lock().expect("not poisoned").len() < self.sent
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.reader.take().expect("once").join().expect("the reader ends with its socket");
    }
}

struct Side {
    control: Client,
    parties: Vec<Party>,
}

impl Side {
    fn new(path: &Path) -> Side {
        let mut control = Client::unix(path);
        // The clients of the run before are gone, blocked ones included.
        until("clean", || (blocked(&mut control) == 0).then_some(()));
        assert_eq!(control.run("FLUSHALL"), Value::Simple("OK".into()));
        Side { control, parties: (0..CLIENTS).map(|_| Party::new(path)).collect() }
    }

    /// Runs one step, and waits until every command is either answered or blocked.
    fn step(&mut self, client: usize, command: &str) -> Vec<Vec<Value>> {
        self.parties[client].send(command);
        until("settled", || {
            // In this order: who is served is no longer counted when the answer is here.
            let waiting = self.parties.iter().filter(|party| party.waits()).count();
            (blocked(&mut self.control) == waiting).then_some(())
        });
        self.parties.iter().map(Party::answers).collect()
    }
}

fn blocked(control: &mut Client) -> usize {
    let info = control.run("INFO clients").text();
    let line = info.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
    line.expect("a line").trim().parse().expect("a number")
}

fn command() -> impl Strategy<Value = String> {
    let key = || select(vec!["a", "b", "c"]);
    let end = || select(vec!["LEFT", "RIGHT"]);
    prop_oneof![
        3 => (select(vec!["BLPOP", "BRPOP"]), key(), key()).prop_map(|(c, a, b)| format!("{c} {a} {b} 0")),
        1 => key().prop_map(|k| format!("BLPOP {k} {k} {k} 0")),
        2 => (key(), key(), end(), end()).prop_map(|(a, b, f, t)| format!("BLMOVE {a} {b} {f} {t} 0")),
        1 => (key(), key()).prop_map(|(a, b)| format!("BRPOPLPUSH {a} {b} 0")),
        2 => (key(), key(), end(), select(vec!["", " COUNT 2"]))
            .prop_map(|(a, b, e, c)| format!("BLMPOP 0 2 {a} {b} {e}{c}")),
        5 => (select(vec!["LPUSH", "RPUSH"]), key(), select(vec!["1", "1 2", "1 2 3 4"]))
            .prop_map(|(c, k, v)| format!("{c} {k} {v}")),
        1 => (key(), key()).prop_map(|(a, b)| format!("RENAME {a} {b}")),
        2 => (select(vec!["BZPOPMIN", "BZPOPMAX"]), key(), key())
            .prop_map(|(c, a, b)| format!("{c} {a} {b} 0")),
        1 => (key(), key(), select(vec!["MIN", "MAX COUNT 2"]))
            .prop_map(|(a, b, e)| format!("BZMPOP 0 2 {a} {b} {e}")),
        3 => (key(), select(vec!["1 m", "2 n", "1 m 2 n 3 o"])).prop_map(|(k, m)| format!("ZADD {k} {m}")),
        1 => (key(), key()).prop_map(|(a, b)| format!("LMOVE {a} {b} LEFT LEFT")),
        1 => key().prop_map(|k| format!("SET {k} string")),
        1 => key().prop_map(|k| format!("DEL {k}")),
        1 => key().prop_map(|k| format!("LRANGE {k} 0 -1")),
        2 => select(vec!["MULTI", "EXEC"]).prop_map(String::from),
        1 => key().prop_map(|k| format!("WATCH {k}")),
        3 => (key(), select(vec!["$", "0", "1-1", "2"])).prop_map(|(k, i)| format!("XREAD BLOCK 0 STREAMS {k} {i}")),
        1 => (key(), key()).prop_map(|(a, b)| format!("XREAD COUNT 1 BLOCK 0 STREAMS {a} {b} $ $")),
        5 => (key(), select(vec!["1-*", "2-*", "3-1"])).prop_map(|(k, i)| format!("XADD {k} {i} f v")),
        1 => key().prop_map(|k| format!("XGROUP CREATE {k} g $ MKSTREAM")),
        1 => key().prop_map(|k| format!("XGROUP DESTROY {k} g")),
        3 => (key(), select(vec!["ann", "bob"]), select(vec!["", " NOACK", " COUNT 1"]))
            .prop_map(|(k, n, o)| format!("XREADGROUP GROUP g {n} BLOCK 0{o} STREAMS {k} >")),
        1 => key().prop_map(|k| format!("XPENDING {k} g")),
    ]
}

#[test]
fn those_who_wait_are_served_as_redis_serves_them() {
    let (oracle, dir) = (Oracle::start(), TempDir::new());
    let config = config(&dir);
    let server = start(&config);
    let steps = prop::collection::vec((0..CLIENTS, command()), 1..30);
    let cases = ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() };
    proptest!(cases, |(steps in steps)| {
        let mut ours = Side::new(&config.unix);
        let mut theirs = Side::new(&oracle.socket());
        let mut run = Vec::new();
        for (client, command) in steps {
            if theirs.parties[client].waits() {
                continue;
            }
            run.push(format!("{client}: {command}"));
            let (ours, theirs) = (ours.step(client, &command), theirs.step(client, &command));
            prop_assert_eq!(ours, theirs, "left is ours: {:#?}", run);
        }
    });
    stop(server);
}

#[test]
fn time_unblock_and_a_lost_client_end_the_waiting() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut control = Client::unix(&config.unix);
    let blocked_are = |count: u64| {
        until("blocked", || (server.metrics().blocked_clients == count).then_some(()));
    };

    let started = Instant::now();
    assert_eq!(control.run("BLPOP none 0.05"), Value::NullArray);
    assert!(started.elapsed() >= Duration::from_millis(50));

    for (how, answer) in [
        ("", Value::NullArray),
        (" TIMEOUT", Value::NullArray),
        (" ERROR", Value::Error("UNBLOCKED client unblocked via CLIENT UNBLOCK".into())),
    ] {
        let mut waiting = Client::unix(&config.unix);
        let id = waiting.run("CLIENT ID");
        let Value::Integer(id) = id else { panic!("{id:?}") };
        let unblock = format!("CLIENT UNBLOCK {id}{how}");
        assert_eq!(control.run(&unblock), Value::Integer(0), "it does not wait yet");
        waiting.send(&encode(&["BLMOVE", "from", "to", "LEFT", "RIGHT", "0"]));
        blocked_are(1);
        assert_eq!(control.run(&unblock), Value::Integer(1));
        assert_eq!(waiting.receive(), answer);
        assert_eq!(control.run(&unblock), Value::Integer(0));
        assert_eq!(waiting.run("PING"), Value::Simple("PONG".into()), "it goes on");
    }

    // The first is gone, so its element goes to the second; what the second sent meanwhile comes after.
    let mut first = Client::unix(&config.unix);
    let mut second = Client::unix(&config.unix);
    first.send(&encode(&["BLPOP", "k", "0"]));
    blocked_are(1);
    second.send(&encode(&["BRPOP", "other", "k", "0"]));
    second.send(&encode(&["LLEN", "k"]));
    blocked_are(2);
    drop(first);
    blocked_are(1);
    assert_eq!(control.run("RPUSH k 1 2"), Value::Integer(2));
    let popped = ["k", "2"].map(|word| Value::Bulk(word.into()));
    assert_eq!(second.receive(), Value::Array(popped.into()));
    assert_eq!(second.receive(), Value::Integer(1));
    blocked_are(0);
    stop(server);
}

/// More than one group may answer: the rest of those who wait are served before anything else runs.
#[test]
fn those_who_wait_are_served_over_several_groups() {
    const WAITING: usize = 180;
    const ENTRY_BYTES: usize = 500 * 1024;
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut control = Client::unix(&config.unix);
    let mut waiting: Vec<Client> = (0..WAITING).map(|_| Client::unix(&config.unix)).collect();
    for client in &mut waiting {
        client.send(&encode(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]));
    }
    until("blocked", || (server.metrics().blocked_clients == WAITING as u64).then_some(()));
    // What they are to get is gone before the last of them could be served in one group.
    control.send(&encode(&["XADD", "s", "1-1", "f", &"e".repeat(ENTRY_BYTES)]));
    control.send(&encode(&["DEL", "s"]));
    for client in &mut waiting {
        let Value::Array(streams) = client.receive() else { panic!("no entry") };
        let Value::Array(stream) = &streams[0] else { panic!("no stream: {streams:?}") };
        assert_eq!(stream[0], Value::Bulk(b"s".to_vec()));
    }
    assert_eq!(control.receive(), Value::Bulk(b"1-1".to_vec()));
    assert_eq!(control.receive(), Value::Integer(1));
    stop(server);
}

/// What is waited for is bounded over all clients.
#[test]
fn keys_waited_for_are_bounded() {
    let dir = TempDir::new();
    let config = Config { waiting_keys_max: 3, ..config(&dir) };
    let server = start(&config);
    let mut first = Client::unix(&config.unix);
    let mut second = Client::unix(&config.unix);
    first.send(&encode(&["BLPOP", "a", "b", "0"]));
    until("blocked", || (server.metrics().blocked_clients == 1).then_some(()));
    assert!(second.run("BLPOP c d 0").text().contains("waiting_keys_max"));
    assert_eq!(second.run("BLPOP c 0.01"), Value::NullArray, "one more has room");
    assert_eq!(second.run("RPUSH b x"), Value::Integer(1));
    let popped = ["b", "x"].map(|word| Value::Bulk(word.into()));
    assert_eq!(first.receive(), Value::Array(popped.into()));
    assert_eq!(second.run("BLPOP c d e 0.01"), Value::NullArray, "and all of it when nobody waits");
    stop(server);
}

/// What a client got stays taken, and what nobody got stays there, through kill -9.
#[test]
fn what_was_served_is_on_disk() {
    let dir = TempDir::new();
    let config = config(&dir);
    let process = Process::start(&mut binary(&config));
    let mut waiting = Client::unix(&config.unix);
    let mut control = Client::unix(&config.unix);
    for number in 0..50 {
        waiting.send(&encode(&["BLMOVE", "queue", "done", "LEFT", "RIGHT", "0"]));
        let pushed = control.call(&["RPUSH", "queue", &number.to_string()]);
        assert!(matches!(pushed, Value::Integer(1..)), "{pushed:?}");
        assert_eq!(waiting.receive(), Value::Bulk(number.to_string().into_bytes()));
    }
    assert_eq!(control.run("RPUSH queue left"), Value::Integer(1));
    process.kill();
    let server = start(&config);
    let mut control = Client::unix(&config.unix);
    assert_eq!(control.run("LLEN done"), Value::Integer(50));
    assert_eq!(control.run("LRANGE queue 0 -1"), Value::Array(vec![Value::Bulk(b"left".to_vec())]));
    stop(server);
}
