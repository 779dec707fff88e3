//! Clients that go, are ended or are held while the server is busy with them, and a stop in the middle of
//! it all.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hawser_kv::Config;

use crate::support::{Client, Process, TempDir, Value, binary, config, encode, start, stop, until};

fn ok() -> Value {
    Value::Simple("OK".into())
}

/// The line of a client in CLIENT LIST, if it is there.
fn line_of(admin: &mut Client, id: i64) -> Option<String> {
    let list = admin.run("CLIENT LIST").text();
    list.lines().find(|line| line.starts_with(&format!("id={id} "))).map(str::to_string)
}

fn id_of(client: &mut Client) -> i64 {
    match client.run("CLIENT ID") {
        Value::Integer(id) => id,
        other => panic!("no number: {other:?}"),
    }
}

fn number(admin: &mut Client, command: &str) -> u64 {
    match admin.run(command) {
        Value::Bulk(text) => String::from_utf8_lossy(&text).parse().expect("a number"),
        Value::Null => 0,
        other => panic!("{other:?}"),
    }
}

/// A client that is killed runs nothing more of what it had sent.
#[test]
fn who_is_killed_runs_nothing_more() {
    const COMMANDS: usize = 8_000;
    let dir = TempDir::new();
    // Each command is a group of its own.
    let config = Config { pipeline_commands_max: 1, ..config(&dir) };
    let server = start(&config);
    let mut admin = Client::unix(&config.unix);
    let mut client = Client::unix(&config.unix);
    let id = id_of(&mut client);
    // All of it is read before the first command is run.
    assert_eq!(admin.run("CLIENT PAUSE 1000000 WRITE"), ok());
    client.send(&encode(&["INCR", "n"]).repeat(COMMANDS));
    client.send(&encode(&["PING"]));
    assert_eq!(admin.run("CLIENT UNPAUSE"), ok());
    until("begun", || (number(&mut admin, "GET n") > 0).then_some(()));
    assert_eq!(admin.run(&format!("CLIENT KILL ID {id}")), Value::Integer(1));
    until("gone", || line_of(&mut admin, id).is_none().then_some(()));
    let ran = number(&mut admin, "GET n");
    assert!(ran < COMMANDS as u64, "all of them were run");
    stop(server);
}

/// One that waits, sends more than there is room for, and goes: nobody waits for it any more.
#[test]
fn who_goes_with_a_full_buffer_is_gone() {
    let dir = TempDir::new();
    let config = Config { request_bytes_max: 1 << 20, bulk_bytes_max: 512 * 1024, ..config(&dir) };
    let server = start(&config);
    let mut admin = Client::unix(&config.unix);
    let junk = vec![b'x'; 64 * 1024];
    for held in ["BLPOP k 0", "SET k 1"] {
        assert_eq!(admin.run("CLIENT PAUSE 1000000 WRITE"), ok());
        if held.starts_with("BLPOP") {
            assert_eq!(admin.run("CLIENT UNPAUSE"), ok());
        }
        let mut stream = UnixStream::connect(&config.unix).expect("it listens");
        stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let words: Vec<&str> = held.split(' ').collect();
        stream.write_all(&encode(&words)).expect("there is room");
        let mut taken = 0;
        while let Ok(count) = stream.write(&junk) {
            taken += count;
            assert!(taken < 64 << 20, "it takes whatever comes");
        }
        assert!(taken >= config.request_bytes_max, "{held}: only {taken} bytes were taken");
        assert_eq!(server.metrics().connections, 2, "{held}");
        drop(stream);
        until("gone", || (server.metrics().connections == 1).then_some(()));
        assert_eq!(admin.run("CLIENT UNPAUSE"), ok());
    }
    assert_eq!(server.metrics().blocked_clients, 0);
    assert_eq!(admin.run("RPUSH k 1"), Value::Integer(1), "nobody took it");
    assert_eq!(admin.run("LLEN k"), Value::Integer(1));
    stop(server);
}

/// The kernel asks whether a silent client's machine is still there, and says when it is not.
#[test]
fn who_is_silent_is_asked_whether_it_is_there() {
    let dir = TempDir::new();
    let server = start(&Config { listen: "127.0.0.1:0".into(), ..config(&dir) });
    let address = server.address().expect("it listens");
    let mut client = Client::tcp(&address.to_string());
    assert_eq!(client.run("PING"), Value::Simple("PONG".into()));
    let port = format!(":{:04X}", address.port());
    // Local address, remote address, state, queues, which timer runs; 1 is an open connection.
    let timer = |table: &str| {
        let row = table
            .lines()
            .map(|row| row.split_whitespace().collect::<Vec<_>>())
            .find(|row| row.len() > 5 && row[1].ends_with(&port) && row[3] == "01")?;
        row[5].starts_with("02:").then_some(())
    };
    until("watched", || timer(&std::fs::read_to_string("/proc/net/tcp").expect("readable")));
    stop(server);
}

/// What writers were answered, each counting its own list up until the server is gone.
fn write(config: &Config, writer: usize) -> u64 {
    let mut client = Client::unix(&config.unix);
    let mut answered = 0;
    while client.try_send(&encode(&["RPUSH", &format!("list{writer}"), &answered.to_string()])) {
        match client.try_receive() {
            Some(Value::Integer(length)) => answered = length as u64,
            Some(other) => {
                assert!(other.text().ends_with("the server is stopping"), "{other:?}");
                break;
            }
            None => break,
        }
    }
    answered
}

/// SIGTERM while groups are on their way and clients are in every state: the process ends, by itself and
/// well, and what was answered is there.
#[test]
fn a_stop_finds_clients_in_every_state() {
    const WRITERS: usize = 4;
    for is_paused in [false, true] {
        let dir = TempDir::new();
        let config = config(&dir);
        let mut process = Process::start(&mut binary(&config));
        let mut admin = Client::unix(&config.unix);
        assert_eq!(admin.call(&["SET", "large", &"v".repeat(1 << 20)]), ok());
        let begins: [&[u8]; 7] = [
            b"BLPOP nothing 0\r\n",
            b"*2\r\n$3\r\nGET\r\n$1000\r\nhalf of a",
            b"MULTI\r\nSET a 1\r\n",
            b"WATCH a\r\n",
            b"SUBSCRIBE c\r\n",
            b"MONITOR\r\n",
            b"XREAD BLOCK 0 STREAMS s $\r\nSET a 1\r\n",
        ];
        let clients: Vec<UnixStream> = begins
            .iter()
            .map(|begin| {
                let mut stream = UnixStream::connect(&config.unix).expect("it listens");
                stream.write_all(begin).expect("there is room");
                stream
            })
            .collect();
        let mut unread = UnixStream::connect(&config.unix).expect("it listens");
        unread.write_all(&encode(&["GET", "large"]).repeat(100)).expect("there is room");
        let blocked = |admin: &mut Client| {
            admin.run("INFO clients").text().contains("blocked_clients:2\r\n").then_some(())
        };
        until("blocked", || blocked(&mut admin));
        let answered: Vec<u64> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let config = &config;
                    scope.spawn(move || write(config, writer))
                })
                .collect();
            until("busy", || {
                let length = admin.run(&format!("LLEN list{}", WRITERS - 1));
                (length != Value::Integer(0)).then_some(())
            });
            if is_paused {
                assert_eq!(admin.run("CLIENT PAUSE 1000000 WRITE"), ok());
            }
            process.signal("TERM");
            let code = until("over", || process.child.try_wait().expect("it can be asked"));
            assert_eq!(code.code(), Some(0));
            writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
        });
        drop((clients, unread));
        let process = Process::start(&mut binary(&config));
        let mut client = Client::unix(&config.unix);
        for (writer, answered) in answered.into_iter().enumerate() {
            let Value::Integer(length) = client.run(&format!("LLEN list{writer}")) else {
                panic!("no list");
            };
            assert!(length as u64 >= answered, "list{writer} has {length} of {answered}");
        }
        assert_eq!(client.run("EXISTS a"), Value::Integer(0), "nobody ran that");
        process.kill();
    }
}
