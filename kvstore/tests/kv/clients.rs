//! CLIENT, RESET, MONITOR, and clients that behave badly: each is bounded, and none delays the others.

use std::io::Write;
use std::time::{Duration, Instant};

use hawser_kv::Config;

use crate::differential::Oracle;
use crate::support::{Client, TempDir, Value, config, encode, start, stop, until};

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn id_of(client: &mut Client) -> i64 {
    let Value::Integer(id) = client.run("CLIENT ID") else { panic!("no id") };
    id
}

/// Answers that hold nothing of the server itself are those of Redis, word for word.
#[test]
fn answers_about_clients_are_those_of_redis() {
    let (oracle, dir) = (Oracle::start(), TempDir::new());
    let config = config(&dir);
    let server = start(&config);
    let (mut ours, mut theirs) = (Client::unix(&config.unix), Client::unix(&oracle.socket()));
    for command in [
        "CLIENT GETNAME",
        "CLIENT SETNAME me",
        "CLIENT GETNAME",
        "CLIENT SETNAME a\nb",
        "CLIENT GETNAME",
        "CLIENT",
        "CLIENT NOPE",
        "CLIENT ID extra",
        "CLIENT GETNAME extra",
        "CLIENT NO-EVICT on",
        "CLIENT NO-EVICT perhaps",
        "CLIENT NO-EVICT off",
        "CLIENT LIST TYPE nope",
        "CLIENT LIST TYPE master",
        "CLIENT LIST ID x",
        "CLIENT LIST ID 123456",
        "CLIENT LIST NOPE",
        "CLIENT LIST TYPE",
        "CLIENT KILL 1.2.3.4:5",
        "CLIENT KILL ID 0",
        "CLIENT KILL ID 123456",
        "CLIENT KILL ID x",
        "CLIENT KILL TYPE nope",
        "CLIENT KILL TYPE replica",
        "CLIENT KILL ADDR 1.2.3.4:5 LADDR 1.2.3.4:6",
        "CLIENT KILL USER nobody",
        "CLIENT KILL SKIPME perhaps",
        "CLIENT KILL SKIPME yes ID",
        "CLIENT KILL NOPE 1",
        "CLIENT KILL",
        "CLIENT UNBLOCK 123456",
        "CLIENT UNBLOCK x",
        "CLIENT UNBLOCK 1 NOPE",
        "CLIENT UNBLOCK 1 ERROR extra",
        "CLIENT UNBLOCK",
        "CLIENT PAUSE x",
        "CLIENT PAUSE -1",
        "CLIENT PAUSE 1 NOPE",
        "CLIENT PAUSE 0",
        "CLIENT PAUSE",
        "CLIENT UNPAUSE",
        "CLIENT UNPAUSE extra",
        "CLIENT REPLY NOPE",
        "CLIENT REPLY ON",
        "CLIENT REPLY",
        "RESET",
        "CLIENT GETNAME",
        "RESET extra",
        "MULTI",
        "CLIENT SETNAME inside",
        "CLIENT GETNAME",
        "CLIENT NOPE",
        "EXEC",
        "MULTI",
        "CLIENT SETNAME inside",
        "CLIENT GETNAME",
        "PING",
        "EXEC",
        "CLIENT GETNAME",
        "MULTI",
        "RESET",
        "EXEC",
        "WATCH a",
        "RESET",
        "QUIT",
    ] {
        assert_eq!(ours.run(command), theirs.run(command), "left is ours: {command}");
    }
    assert_eq!(ours.try_receive(), None);
    stop(server);
}

#[test]
fn a_list_shows_every_client() {
    let dir = TempDir::new();
    let config = Config { listen: "127.0.0.1:0".into(), ..config(&dir) };
    let server = start(&config);
    let mut control = Client::unix(&config.unix);
    let address = server.address().expect("it listens").to_string();
    let mut tcp = Client::tcp(&address);
    assert_eq!(tcp.run("CLIENT SETNAME over-tcp"), ok());
    let mut blocked = Client::unix(&config.unix);
    let blocked_id = id_of(&mut blocked);
    blocked.send(&encode(&["BLPOP", "k", "0"]));
    let mut subscribed = Client::unix(&config.unix);
    subscribed.run("SUBSCRIBE a");
    subscribed.run("PSUBSCRIBE b*");
    let mut queueing = Client::unix(&config.unix);
    queueing.run("MULTI");
    queueing.run("SET a 1");
    let lines = until("listed", || {
        let list = control.run("CLIENT LIST").text();
        list.contains(" flags=bU ").then_some(list)
    });
    let line = |part: &str| {
        let found = lines.lines().find(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("no {part} in {lines}")).to_string()
    };
    assert_eq!(lines.lines().count(), 5);
    assert!(line(" name=over-tcp ").contains(&format!(" laddr={address} ")));
    assert!(
        line(" name=over-tcp ").contains(" flags=N ")
            && line(" name=over-tcp ").contains(" cmd=client|setname ")
    );
    let blocked_line = line(&format!("id={blocked_id} "));
    assert!(
        blocked_line.contains(" cmd=blpop ") && blocked_line.contains(" resp=2"),
        "{blocked_line}"
    );
    assert!(line(" flags=PU ").contains(" sub=1 psub=1 ssub=0 "));
    assert!(line(" flags=xU ").contains(" multi=1 "));
    assert!(line(" cmd=client|list ").contains(&format!(" addr={}:0 ", config.unix.display())));
    assert_eq!(control.run("CLIENT LIST TYPE pubsub").text().lines().count(), 1);
    assert_eq!(
        control.run(&format!("CLIENT LIST ID {blocked_id} 99999")).text().lines().count(),
        1
    );
    assert!(control.run("CLIENT INFO").text().starts_with(&format!("id={} ", id_of(&mut control))));
    stop(server);
}

#[test]
fn clients_are_ended_by_id_kind_and_address() {
    let dir = TempDir::new();
    let config = Config { listen: "127.0.0.1:0".into(), ..config(&dir) };
    let server = start(&config);
    let mut control = Client::unix(&config.unix);
    let mut idle = Client::unix(&config.unix);
    let idle_id = id_of(&mut idle);
    assert_eq!(control.run(&format!("CLIENT KILL ID {idle_id}")), Value::Integer(1));
    assert_eq!(idle.try_receive(), None);

    // One that waits for a key does not get the element that comes after its end.
    let mut blocked = Client::unix(&config.unix);
    let blocked_id = id_of(&mut blocked);
    blocked.send(&encode(&["BLPOP", "k", "0"]));
    until("blocked", || (server.metrics().blocked_clients == 1).then_some(()));
    assert_eq!(control.run(&format!("CLIENT KILL ID {blocked_id}")), Value::Integer(1));
    assert_eq!(blocked.try_receive(), None);
    until("unblocked", || (server.metrics().blocked_clients == 0).then_some(()));
    control.run("RPUSH k 1");
    assert_eq!(control.run("LLEN k"), Value::Integer(1));

    let mut subscribed = Client::unix(&config.unix);
    subscribed.run("SUBSCRIBE a");
    assert_eq!(control.run("CLIENT KILL TYPE pubsub"), Value::Integer(1));
    assert_eq!(subscribed.try_receive(), None);

    let mut tcp = Client::tcp(&server.address().expect("it listens").to_string());
    let info = tcp.run("CLIENT INFO").text();
    let address = info.split(' ').find_map(|word| word.strip_prefix("addr=")).expect("an address");
    assert_eq!(control.run(&format!("CLIENT KILL {address}")), ok());
    assert_eq!(tcp.try_receive(), None);
    assert_eq!(control.run("CLIENT KILL SKIPME yes"), Value::Integer(0), "nobody else is there");
    assert_eq!(control.run("CLIENT KILL SKIPME no USER default"), Value::Integer(1));
    assert_eq!(control.try_receive(), None);
    stop(server);
}

/// Whoever may no longer be there, or hear what they hear, is ended at once, asking or not.
#[test]
fn who_loses_their_rights_is_ended() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut control = Client::unix(&config.unix);
    for (change, then) in [
        ("ACL SETUSER bob -@all", Some(())),
        ("ACL SETUSER bob resetchannels &other", None),
        ("ACL DELUSER bob", None),
    ] {
        control.run("ACL DELUSER bob");
        assert_eq!(control.run("ACL SETUSER bob on nopass +@all ~* &*"), ok());
        let mut idle = Client::unix(&config.unix);
        assert_eq!(idle.run("AUTH bob x"), ok());
        assert!(matches!(idle.run("SUBSCRIBE news"), Value::Array(_)));
        assert!(!control.run(change).is_error());
        control.run("PUBLISH news message");
        assert_eq!(idle.try_receive().map(|_| ()), then, "{change}");
    }
    stop(server);
}

#[test]
fn a_pause_holds_what_it_says() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut control = Client::unix(&config.unix);
    let mut client = Client::unix(&config.unix);
    assert_eq!(control.run("CLIENT PAUSE 100000 WRITE"), ok());
    // Reads go on, and a write waits behind them.
    client
        .send(&[encode(&["GET", "k"]), encode(&["SET", "k", "1"]), encode(&["GET", "k"])].concat());
    assert_eq!(client.receive(), Value::Null);
    assert_eq!(control.run("GET k"), Value::Null);
    assert_eq!(control.run("CLIENT UNPAUSE"), ok());
    assert_eq!((client.receive(), client.receive()), (ok(), Value::Bulk(b"1".to_vec())));

    let started = Instant::now();
    assert_eq!(control.run("CLIENT PAUSE 100"), ok());
    assert_eq!(client.run("GET k"), Value::Bulk(b"1".to_vec()));
    assert!(started.elapsed() >= Duration::from_millis(100));

    // A client that goes while it is held is gone.
    assert_eq!(control.run("CLIENT PAUSE 100000 WRITE"), ok());
    client.send(&encode(&["SET", "k", "2"]));
    drop(client);
    until("gone", || (server.metrics().connections == 1).then_some(()));
    assert_eq!(control.run("CLIENT UNPAUSE"), ok());
    assert_eq!(control.run("GET k"), Value::Bulk(b"1".to_vec()));
    stop(server);
}

#[test]
fn a_client_may_want_no_answers() {
    let (oracle, dir) = (Oracle::start(), TempDir::new());
    let config = config(&dir);
    let server = start(&config);
    let steps = [
        "CLIENT REPLY OFF",
        "SET a 1",
        "GET a",
        "NOSUCH",
        "INCR a",
        "MULTI",
        "INCR a",
        "EXEC",
        "CLIENT REPLY ON",
        "GET a",
        "CLIENT REPLY SKIP",
        "INCR a",
        "INCR a",
        "CLIENT REPLY SKIP",
        "GET a",
        "GET a",
        "CLIENT REPLY SKIP",
        "CLIENT REPLY SKIP",
        "PING",
        "PING",
        "CLIENT REPLY OFF",
        "CLIENT REPLY SKIP",
        "PING",
        "RESET",
        "PING",
        "BLPOP list 0.001",
        "CLIENT REPLY SKIP",
        "BLPOP list 0.001",
        "PING last",
    ];
    let bytes: Vec<u8> =
        steps.iter().flat_map(|step| encode(&step.split(' ').collect::<Vec<_>>())).collect();
    let answers = [config.unix.clone(), oracle.socket()].map(|path| {
        let mut client = Client::unix(&path);
        client.send(&bytes);
        let mut answers = Vec::new();
        while answers.last() != Some(&Value::Bulk(b"last".to_vec())) {
            answers.push(client.receive());
        }
        answers
    });
    assert_eq!(answers[0], answers[1], "left is ours");
    stop(server);
}

#[test]
fn a_monitor_sees_what_others_run() {
    let dir = TempDir::new();
    let config = Config { listen: "127.0.0.1:0".into(), ..config(&dir) };
    let server = start(&config);
    let mut monitor = Client::unix(&config.unix);
    assert_eq!(monitor.run("MONITOR"), ok());
    let mut client = Client::tcp(&server.address().expect("it listens").to_string());
    let peer = client.run("CLIENT INFO").text();
    let peer = peer.split(' ').find_map(|word| word.strip_prefix("addr=")).expect("an address");
    for command in [
        "SET a \"\u{1}\u{e9}\"",
        "AUTH secret",
        "HELLO 2 SETNAME auth AUTH default secret",
        "CONFIG GET x",
        "MULTI",
        "INCR n",
        "EXEC",
    ] {
        client.run(command);
    }
    client.run("GET end");
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|line: &String| line.contains("\"end\"")) {
        let line = monitor.receive().text();
        let (time, rest) = line.split_once(' ').expect("a time");
        assert!(time.parse::<f64>().is_ok_and(|time| time > 1e9), "{line}");
        seen.push(rest.to_string());
    }
    let expected = [
        "\"CLIENT\" \"INFO\"",
        "\"SET\" \"a\" \"\\\"\\x01\\xc3\\xa9\\\"\"",
        "\"AUTH\" \"(redacted)\"",
        "\"HELLO\" \"2\" \"SETNAME\" \"auth\" \"AUTH\" \"(redacted)\" \"(redacted)\"",
        "\"MULTI\"",
        "\"INCR\" \"n\"",
        "\"EXEC\"",
        "\"GET\" \"end\"",
    ];
    assert_eq!(seen, expected.map(|command| format!("[0 {peer}] {command}")));
    // It goes on being a client, and RESET ends it.
    assert_eq!(monitor.run("RESET"), Value::Simple("RESET".into()));
    client.run("GET unseen");
    assert_eq!(monitor.run("PING"), Value::Simple("PONG".into()));
    stop(server);
}

/// All commands before the first answer is read, answers much larger than any buffer between.
#[test]
fn a_pipeline_may_be_read_late() {
    const VALUE_BYTES: usize = 64 * 1024;
    const COMMANDS: usize = 2_000;
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    assert_eq!(client.call(&["SET", "k", &"v".repeat(VALUE_BYTES)]), ok());
    // A comment makes the commands long too: more than the sockets hold on their way.
    let get = encode(&["MGET", "k", &"x".repeat(1000)]);
    client.send(&get.repeat(COMMANDS));
    let mut other = Client::unix(&config.unix);
    for _ in 0..COMMANDS {
        assert!(matches!(client.receive(), Value::Array(_)));
    }
    assert_eq!(other.run("PING"), Value::Simple("PONG".into()));
    stop(server);
}

/// A client that never reads costs what is configured, whatever it sends, and others are served.
#[test]
fn a_pipeline_that_is_never_read_is_bounded() {
    let dir = TempDir::new();
    let config = Config { request_bytes_max: 1 << 20, bulk_bytes_max: 512 * 1024, ..config(&dir) };
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    assert_eq!(client.call(&["SET", "k", &"v".repeat(256 * 1024)]), ok());
    let mut silent = std::os::unix::net::UnixStream::connect(&config.unix).expect("it listens");
    silent.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let gets = encode(&["GET", "k"]).repeat(10_000);
    let mut taken = 0;
    while let Ok(count) = silent.write(&gets) {
        taken += count;
        assert!(taken < 64 << 20, "it takes whatever comes");
    }
    let list = client.run("CLIENT LIST").text();
    let held = |name: &str| {
        let numbers = list.split_whitespace().filter_map(|word| word.strip_prefix(name));
        numbers.map(|number| number.parse::<usize>().expect("a number")).max().expect("some")
    };
    assert!(held("qbuf=") <= config.request_bytes_max + (512 << 10), "{list}");
    assert!(held("obl=") <= (1 << 20) + 512 * 1024, "{list}");
    // Each within the client's deadline, while the other goes on holding what it holds.
    (0..100).for_each(|_| assert!(!client.run("INCR n").is_error()));
    stop(server);
}

/// An answer that is larger than any may be ends its connection, as Redis's output limit does.
#[test]
fn an_answer_is_bounded() {
    const ELEMENT_BYTES: usize = 256 * 1024;
    let dir = TempDir::new();
    let config = Config { output_bytes_max: 2 << 20, ..config(&dir) };
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let element = "e".repeat(ELEMENT_BYTES);
    for number in 1..=7 {
        assert_eq!(client.call(&["RPUSH", "list", &element]), Value::Integer(number));
    }
    assert!(matches!(client.run("LRANGE list 0 -1"), Value::Array(items) if items.len() == 7));
    assert_eq!(client.call(&["RPUSH", "list", &element]), Value::Integer(8));
    for commands in [&["LRANGE list 0 -1"][..], &["MULTI", "LRANGE list 0 -1", "EXEC"]] {
        let mut greedy = Client::unix(&config.unix);
        for command in commands {
            greedy.send(&encode(&command.split(' ').collect::<Vec<_>>()));
        }
        let got: Vec<Value> = std::iter::from_fn(|| greedy.try_receive()).collect();
        assert!(got.iter().all(|answer| matches!(answer, Value::Simple(_))), "{commands:?}");
    }
    assert_eq!(server.metrics().output_overflows_total, 2);
    assert_eq!(client.run("LLEN list"), Value::Integer(8), "others go on");
    stop(server);
}

/// What is not RESP, and what is too much: answered as Redis does, and nobody else waits.
#[test]
fn bad_input_is_answered_as_redis_answers_it() {
    let (oracle, dir) = (Oracle::start(), TempDir::new());
    let config = config(&dir);
    let server = start(&config);
    let mut other = Client::unix(&config.unix);
    for input in [
        &b"*1\r\n$-1\r\n"[..],
        b"*1\r\n$2147483648\r\n",
        b"*1\r\n$9223372036854775808\r\n",
        b"*1\r\n$abc\r\n",
        b"*1\r\n:1\r\n",
        b"*2\r\n$4\r\nPING\r\nx\r\n",
        b"*x\r\n",
        b"*2147483648\r\n",
        b"*-9223372036854775809\r\n",
        b"set a \"b\r\n",
        b"set a 'b'c\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$99999999999\r\n",
        b"PING\r\n*1\r\n$x\r\n",
        b"\r\n\r\n*0\r\n*-5\r\nPING\r\n*y\r\n",
    ] {
        let answers = [config.unix.clone(), oracle.socket()].map(|path| {
            let mut client = Client::unix(&path);
            client.send(input);
            std::iter::from_fn(|| client.try_receive()).collect::<Vec<_>>()
        });
        assert_eq!(answers[0], answers[1], "left is ours: {:?}", String::from_utf8_lossy(input));
        assert_eq!(other.run("PING"), Value::Simple("PONG".into()));
    }
    stop(server);
}

/// A million commands in one transaction: what does not fit is refused as it comes, EXEC says so, and
/// others are served meanwhile.
#[test]
fn a_transaction_of_a_million_is_refused_and_delays_nobody() {
    const COMMANDS: usize = 1_000_000;
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let path = config.unix.clone();
    let max = config.transaction_commands_max;
    let greedy = std::thread::spawn(move || {
        let mut client = Client::unix(&path);
        assert_eq!(client.run("MULTI"), ok());
        let batch = encode(&["INCR", "n"]).repeat(10_000);
        for round in 0..COMMANDS / 10_000 {
            client.send(&batch);
            for number in 0..10_000 {
                let is_taken = !client.receive().is_error();
                assert_eq!(is_taken, round * 10_000 + number < max);
            }
        }
        client.run("EXEC")
    });
    let mut other = Client::unix(&config.unix);
    let mut served = 0;
    while !greedy.is_finished() {
        assert!(!other.run("INCR other").is_error());
        served += 1;
    }
    let outcome = greedy.join().expect("it ends");
    assert!(outcome.text().starts_with("EXECABORT"), "{outcome:?}");
    assert_eq!(other.run("EXISTS n"), Value::Integer(0));
    // It came about as often as the other's hundred rounds, and did not wait for all of them.
    assert!(served >= 20, "only {served} commands of the other were served");
    stop(server);
}
