//! Every limit at its edge and one past it, and what stands in the way of starting.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::{Client, Process, TempDir, Value, config, encode, start, stop};
use bytes::BytesMut;
use hawser_kv::config::{Config, ConfigError, names};
use hawser_kv::resp::request::{Parser, ProtocolError, Request, RequestLimits};
use hawser_kv::store::database::Database;
use hawser_kv::store::layout::{self, Family};
use hawser_kv::store::overlay::Overlay;
use hawser_kv::store::spaces::Selected;
use hawser_kv::store::view::View;
use hawser_kv::{Server, StartError};
use proptest::prelude::*;

fn limits() -> RequestLimits {
    RequestLimits {
        arguments_max: 16,
        bulk_bytes_max: 1024,
        request_bytes_max: 2048,
        inline_bytes_max: 100,
    }
}

/// All commands of the input, which is given in pieces that end at `cuts`.
fn parse(input: &[u8], cuts: &[usize]) -> Result<Vec<Request>, ProtocolError> {
    let mut parser = Parser::default();
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([input.len()]) {
        buffer.extend_from_slice(&input[from..to]);
        from = to;
        while let Some(request) = parser.next(&mut buffer, &limits())? {
            found.push(request);
        }
    }
    Ok(found)
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let command = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..6);
    prop_oneof![
        4 => command.prop_map(|args| encode(&args)),
        1 => "[a-z]{1,6}( [a-z]{0,4}| \"a\\\\x41b\"| 'q w')*\r?\n".prop_map(String::into_bytes),
        1 => Just(b"*0\r\n\r\n*-1\r\n".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same_commands(
        pieces in prop::collection::vec(piece(), 0..12),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let input = pieces.concat();
        let mut cuts: Vec<usize> = cuts.drain(..).map(|cut| cut.index(input.len() + 1)).collect();
        cuts.sort();
        prop_assert_eq!(parse(&input, &cuts), parse(&input, &[]));
    }

    #[test]
    fn what_is_encoded_is_parsed(
        commands in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..8), 0..8),
    ) {
        let input: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        prop_assert_eq!(parse(&input, &[]).expect("good"), commands);
    }
}

#[test]
fn requests_at_their_limits_and_one_past() {
    let text = |bytes: usize| "x".repeat(bytes);
    let check = |input: &[u8], expect: Result<usize, ProtocolError>| {
        assert_eq!(parse(input, &[]).map(|found| found.len()), expect);
    };
    check(&encode(&[text(1024)]), Ok(1));
    check(&encode(&[text(1025)]), Err(ProtocolError::BulkInvalid));
    check(&encode(&[text(1024), text(1024)]), Ok(1));
    check(&encode(&[text(1024), text(1024), text(1)]), Err(ProtocolError::RequestTooLarge));
    check(&encode(&vec!["a"; 16]), Ok(1));
    check(&encode(&vec!["a"; 17]), Err(ProtocolError::CountInvalid));
    check(format!("{}\n", text(100)).as_bytes(), Ok(1));
    check(format!("{}\n", text(101)).as_bytes(), Err(ProtocolError::InlineTooLong));
    check(text(101).as_bytes(), Err(ProtocolError::InlineTooLong));
    check(format!("*{}", "1".repeat(70)).as_bytes(), Err(ProtocolError::CountTooLong));
    check(format!("*1\r\n${}", "1".repeat(70)).as_bytes(), Err(ProtocolError::BulkCountTooLong));
    check(b"*1\r\n$-1\r\n", Err(ProtocolError::BulkInvalid));
    check(b"*1\r\n+a\r\n", Err(ProtocolError::NoBulk(b'+')));
    check(b"*x\r\n", Err(ProtocolError::CountInvalid));
    check(b"set a \"b\r\n", Err(ProtocolError::QuotesUnbalanced));
    check(b"set a \"b\"c\r\n", Err(ProtocolError::QuotesUnbalanced));
    check(b"POST / HTTP/1.1\r\n", Err(ProtocolError::CrossProtocol));
    check(b"get a\r\nHost: example.org\r\nset a 1\r\n", Err(ProtocolError::CrossProtocol));
    check(b"get host:\r\nget post\r\n", Ok(2));
}

#[test]
fn a_broken_request_is_answered_after_those_before_it() {
    let dir = TempDir::new();
    let config = Config { bulk_bytes_max: 1024, ..config(&dir) };
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let mut input = encode(&["SET", "a", "1"]);
    input.extend(encode(&["SET", "b", &"x".repeat(1025)]));
    client.send(&input);
    assert_eq!(client.receive(), Value::Simple("OK".into()));
    let error = "ERR Protocol error: invalid bulk length";
    assert_eq!(client.receive(), Value::Error(error.into()));
    assert_eq!(client.try_receive(), None, "the connection is closed");
    assert_eq!(server.metrics().protocol_errors_total, 1);

    let mut client = Client::unix(&config.unix);
    assert_eq!(client.call(&["APPEND", "c", &"x".repeat(1024)]), Value::Integer(1024));
    let error = "ERR string exceeds maximum allowed size (bulk_bytes_max)";
    assert_eq!(client.call(&["APPEND", "c", "y"]), Value::Error(error.into()));
    stop(server);
}

/// A web page makes a browser send this. The commands in its body are not run.
#[test]
fn an_http_request_ends_its_connection() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    for (number, start) in ["POST / HTTP/1.1\r\n", "SET before 1\r\nhOsT: a\r\n"].iter().enumerate()
    {
        let mut client = Client::unix(&config.unix);
        client.send(format!("{start}content-length: 14\r\n\r\nSET attacked 1\r\n").as_bytes());
        if number == 1 {
            assert_eq!(
                client.receive(),
                Value::Simple("OK".into()),
                "what came before is answered"
            );
        }
        let error = "ERR Protocol error: this is not HTTP";
        assert_eq!(client.receive(), Value::Error(error.into()));
        assert_eq!(client.try_receive(), None, "the connection is closed");
    }
    assert_eq!(Client::unix(&config.unix).run("EXISTS attacked before"), Value::Integer(1));
    assert_eq!(server.metrics().cross_protocol_total, 2);
    stop(server);
}

/// Small requests that change very much: refused, and nothing of them is done.
#[test]
fn what_is_changed_at_once_is_bounded() {
    const VALUES: usize = 130;
    let dir = TempDir::new();
    let config = Config { memtable_mib: 64, ..config(&dir) };
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let value = "v".repeat(512 * 1024);
    assert!(VALUES * value.len() > config.changes_bytes_max());
    for number in 0..VALUES {
        let set = client.call(&["SET", &format!("k{number}"), &value]);
        assert_eq!(set, Value::Simple("OK".into()));
        let set = client.call(&["HSET", "hash", &format!("f{number}"), &value]);
        assert_eq!(set, Value::Integer(1));
    }
    let ok = Value::Simple("OK".into());
    assert_eq!(client.run("MULTI"), ok);
    let mut input = encode(&["SET", "first", "1"]);
    (0..VALUES).for_each(|number| input.extend(encode(&["EXPIRE", &format!("k{number}"), "100"])));
    input.extend(encode(&["EXEC"]));
    client.send(&input);
    for _ in 0..=VALUES {
        assert_eq!(client.receive(), Value::Simple("QUEUED".into()));
    }
    let refused = client.receive().text();
    assert!(refused.starts_with("EXECABORT Transaction discarded because it would"), "{refused}");
    assert_eq!(client.run("EXISTS first"), Value::Integer(0));
    for number in 0..VALUES {
        assert_eq!(client.run(&format!("TTL k{number}")), Value::Integer(-1));
    }

    let refused = client.run("RENAME hash other").text();
    assert!(refused.starts_with("ERR this would change more than"), "{refused}");
    assert_eq!(client.run("EXISTS other"), Value::Integer(0));
    assert_eq!(client.run("HLEN hash"), Value::Integer(VALUES as i64));
    assert_eq!(client.run("SET first 2"), ok, "the writer goes on");

    // The name of the hash is in the key of each field.
    let long = "k".repeat(512 * 1024);
    let fields: Vec<String> = (0..2 * VALUES).map(|number| number.to_string()).collect();
    let mut hset = vec!["HSET", &long];
    hset.extend(fields.iter().map(String::as_str));
    let refused = client.call(&hset).text();
    assert!(refused.starts_with("ERR this would change more than"), "{refused}");
    assert_eq!(client.call(&["EXISTS", &long]), Value::Integer(0));
    stop(server);
}

#[derive(Clone, Debug)]
enum Change {
    Put(Family, u8, u8),
    Delete(Family, u8),
    Clear,
    ClearAll,
    Select(u8),
    Swap(u8, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let family = || prop_oneof![Just(Family::Metadata), Just(Family::Member)];
    prop_oneof![
        6 => (family(), 0..8u8, any::<u8>()).prop_map(|(family, key, value)| Change::Put(family, key, value)),
        3 => (family(), 0..8u8).prop_map(|(family, key)| Change::Delete(family, key)),
        1 => Just(Change::Clear),
        1 => Just(Change::ClearAll),
        2 => (0..3u8).prop_map(Change::Select),
        1 => (0..3u8, 0..3u8).prop_map(|(a, b)| Change::Swap(a, b)),
    ]
}

fn make(overlay: &mut Overlay<'_>, changes: &[Change]) {
    for change in changes {
        match *change {
            Change::Put(family, key, value) => {
                overlay.put(family, layout::metadata_key(&[key]), vec![value]);
            }
            Change::Delete(family, key) => overlay.delete(family, layout::metadata_key(&[key])),
            Change::Clear => overlay.clear_database(),
            Change::ClearAll => overlay.clear_namespace(),
            Change::Select(database) => overlay.select(Selected { namespace: 0, database }),
            Change::Swap(a, b) => overlay.swap(a, b),
        }
    }
}

/// Everything that can be seen of a group.
fn seen(overlay: &Overlay<'_>) -> (Vec<u8>, BTreeSet<Vec<u8>>, Selected, u32, usize) {
    let changed = overlay.own().changed_keys().map(<[u8]>::to_vec).collect();
    let space = overlay.space_of(overlay.selected());
    (overlay.encode(), changed, overlay.selected(), space, overlay.bytes())
}

#[test]
fn what_is_undone_was_never_there() {
    let dir = TempDir::new();
    let database = Database::open(dir.path(), 1 << 20, 1 << 20).expect("a database");
    let changes = || prop::collection::vec(change(), 0..12);
    let config = ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() };
    let inputs = (changes(), changes(), changes(), 0..200usize);
    proptest!(config, |((before, kept, undone, bytes_max) in inputs)| {
        let mut overlay = Overlay::new(&database, 1);
        make(&mut overlay, &before);
        let outer = (overlay.start(bytes_max), seen(&overlay));
        make(&mut overlay, &kept);
        let inner = (overlay.savepoint(), seen(&overlay));
        prop_assert!(overlay.bytes() <= outer.1.4 + bytes_max);
        prop_assert!(overlay.encode().len() <= overlay.bytes());
        make(&mut overlay, &undone);
        overlay.undo_to(inner.0);
        prop_assert_eq!(seen(&overlay), inner.1);
        overlay.undo_to(outer.0);
        prop_assert_eq!(seen(&overlay), outer.1);
    });
}

#[test]
fn connections_transactions_and_watches_are_bounded() {
    let dir = TempDir::new();
    let config = Config {
        connections_max: 2,
        transaction_commands_max: 3,
        watched_keys_max: 2,
        pipeline_commands_max: 2,
        ..config(&dir)
    };
    let server = start(&config);
    let mut first = Client::unix(&config.unix);
    let mut second = Client::unix(&config.unix);
    assert_eq!(first.run("PING"), Value::Simple("PONG".into()));
    assert_eq!(second.run("PING"), Value::Simple("PONG".into()));
    let mut third = Client::unix(&config.unix);
    assert_eq!(third.receive(), Value::Error("ERR max number of clients reached".into()));
    assert_eq!(third.try_receive(), None);

    let queued = Value::Simple("QUEUED".into());
    for (commands, is_good) in [(3, true), (4, false)] {
        assert_eq!(first.run("MULTI"), Value::Simple("OK".into()));
        for _ in 0..3 {
            assert_eq!(first.run("INCR n"), queued);
        }
        if commands > 3 {
            assert!(first.run("INCR n").text().contains("transaction_commands_max"));
        }
        let outcome = first.run("EXEC");
        assert_eq!(!outcome.is_error(), is_good, "{outcome:?}");
    }
    assert_eq!(first.run("GET n"), Value::Bulk(b"3".to_vec()));
    assert_eq!(first.run("WATCH a b"), Value::Simple("OK".into()));
    assert!(first.run("WATCH c").text().contains("watched_keys_max"));

    // Longer than a batch, reads between the writes: in order all the same.
    let mut input = Vec::new();
    for _ in 0..20 {
        input.extend(encode(&["INCR", "p"]));
        input.extend(encode(&["GET", "p"]));
        input.extend(encode(&["HGETALL", "none"]));
    }
    first.send(&input);
    for number in 1..=20 {
        assert_eq!(first.receive(), Value::Integer(number));
        assert_eq!(first.receive(), Value::Bulk(number.to_string().into_bytes()));
        assert_eq!(first.receive(), Value::Array(vec![]));
    }
    stop(server);
}

#[test]
fn answers_larger_than_a_batch_come_whole_and_in_order() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let value = "v".repeat(512 * 1024);
    assert_eq!(client.call(&["SET", "big", &value]), Value::Simple("OK".into()));
    let mut input = Vec::new();
    for _ in 0..24 {
        input.extend(encode(&["INCR", "n"]));
        input.extend(encode(&["GET", "big"]));
    }
    client.send(&input);
    for number in 1..=24 {
        assert_eq!(client.receive(), Value::Integer(number));
        assert_eq!(client.receive(), Value::Bulk(value.clone().into_bytes()));
    }
    stop(server);
}

#[test]
fn a_password_is_asked_for() {
    let dir = TempDir::new();
    let config = Config { password: "sesame".into(), ..config(&dir) };
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let refused = Value::Error("NOAUTH Authentication required.".into());
    for command in ["GET a", "SET a 1", "MULTI", "INFO"] {
        assert_eq!(client.run(command), refused, "{command}");
    }
    assert!(client.run("HELLO 3").text().starts_with("NOAUTH HELLO must be called"));
    assert!(client.run("AUTH sesam").text().starts_with("WRONGPASS"));
    assert!(client.run("AUTH root sesame").text().starts_with("WRONGPASS"));
    assert_eq!(client.run("SET a 1"), refused);
    assert!(matches!(client.run("HELLO 3 AUTH default sesame"), Value::Map(_)));
    assert_eq!(client.run("GET a"), Value::Null);
    // Strangers may not make the server hold much.
    let mut stranger = Client::unix(&config.unix);
    stranger.send(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n");
    assert!(stranger.receive().text().contains("invalid bulk length"));
    assert!(!config.printed().contains("sesame"));
    stop(server);
}

#[test]
fn what_is_taken_is_named() {
    let dir = TempDir::new();
    let config = Config { listen: "127.0.0.1:0".into(), ..config(&dir) };
    let server = start(&config);
    let address = server.address().expect("it listens").to_string();
    let other = TempDir::new();
    let error_of =
        |config: &Config| Server::start(config.clone()).err().expect("something is taken");

    let error = error_of(&Config { listen: address.clone(), ..crate::support::config(&other) });
    assert!(matches!(error, StartError::Listen { setting: "listen", .. }), "{error}");
    assert!(error.to_string().contains(&address), "{error}");
    let error = error_of(&Config { unix: config.unix.clone(), ..crate::support::config(&other) });
    assert!(matches!(error, StartError::Listen { setting: "unix", .. }), "{error}");
    let error = error_of(&Config { dir: config.dir.clone(), ..crate::support::config(&other) });
    assert!(matches!(error, StartError::InUse { .. }), "{error}");
    let file = other.join("file");
    std::fs::write(&file, "").expect("a file");
    let error = error_of(&Config { dir: file, ..crate::support::config(&other) });
    assert!(matches!(error, StartError::Directory(_)), "{error}");

    assert_eq!(Client::tcp(&address).run("PING"), Value::Simple("PONG".into()));
    stop(server);
    // Everything was given back.
    stop(start(&Config { listen: address, ..config }));
}

/// `hawser-kv` with other limits of open files.
fn with_open_files(limit: &str, config: &Config) -> Command {
    let server = crate::support::binary(config);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limit}; exec \"$0\" \"$@\"")]);
    command.arg(server.get_program()).args(server.get_args());
    command
}

#[test]
fn open_files_are_enough_for_what_is_configured() {
    let dir = TempDir::new();
    let config = config(&dir);
    let process =
        Process::start(with_open_files("-Sn 200", &config).args(["--set", "connections_max=100"]));
    let limits = format!("/proc/{}/limits", process.child.id());
    let limits = std::fs::read_to_string(limits).expect("a running process");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let numbers: Vec<&str> = line.split_whitespace().skip(3).collect();
    assert_eq!(numbers[0], numbers[1], "the soft limit is the hard one");
    process.kill();

    let refusal = |connections_max: &str| {
        let mut command = with_open_files("-n 700", &config);
        command.args(["--set", connections_max, "--check-config"]);
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(refusal("connections_max=60"), (Some(0), String::new()));
    let (code, error) = refusal("connections_max=61");
    assert_eq!(code, Some(2));
    assert_eq!(
        error,
        "hawser-kv: connections_max = 61 needs 701 open files, but the limit is 700; set \
         connections_max to at most 60, or raise the limit (ulimit -Hn, LimitNOFILE=)\n"
    );
}

#[test]
fn settings_are_checked() {
    let error = |text: &str, sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        Config::parse(text, &sets).expect_err("a bad setting")
    };
    let unknown = |name: &str, nearest: &str| ConfigError::Unknown {
        name: name.into(),
        nearest: nearest.into(),
    };
    assert_eq!(error("conections_max = 5", &[]), unknown("conections_max", "connections_max"));
    assert_eq!(error("", &["cache_mb=5"]), unknown("cache_mb", "cache_mib"));
    assert_eq!(error("", &["cache_mib"]), ConfigError::NoValue("cache_mib".into()));
    assert!(matches!(error("cache_mib = \"x\"", &[]), ConfigError::Invalid(_)));
    assert!(matches!(error("", &["network_threads=257"]), ConfigError::OutOfRange { .. }));
    assert_eq!(error("listen = \"\"", &[]), ConfigError::NowhereToListen);
    assert_eq!(error("request_bytes_max = 1024", &[]), ConfigError::RequestBelowBulk);
    let sets = ["dir=/some/where".to_string(), "cache_mib=7".to_string()];
    let good = Config::parse("cache_mib = 5\nunix = \"/x\"", &sets).expect("good");
    assert_eq!((good.cache_mib, good.dir, good.unix), (7, "/some/where".into(), "/x".into()));
}

/// The example names every setting, with its default.
#[test]
fn the_example_is_complete() {
    let text = include_str!("../../hawser-kv.toml");
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix("#= ").unwrap_or(line))
        .filter(|line| !line.starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n");
    let table: toml::Table = uncommented.parse().expect("TOML");
    let mut shown: Vec<String> = table.keys().cloned().collect();
    shown.sort();
    let mut known = names();
    known.sort();
    assert_eq!(shown, known);
    assert_eq!(Config::parse(&uncommented, &[]), Ok(Config::default()));
    assert_eq!(Config::parse(text, &[]), Ok(Config::default()));
}

/// What CONFIG SET maxmemory allows is less than any process has, so the same is refused on both.
#[test]
fn memory_is_bounded_as_redis_bounds_it() {
    let (oracle, dir) = (crate::differential::Oracle::start(), TempDir::new());
    let config = config(&dir);
    let server = start(&config);
    let mut ours = [Client::unix(&config.unix), Client::unix(&config.unix)];
    let mut theirs = [oracle.connect(), oracle.connect()];
    for (client, command) in [
        (0, "SET a 1"),
        (1, "MULTI"),
        (1, "SET a 2"),
        (0, "CONFIG SET maxmemory 1"),
        (0, "CONFIG GET maxmemory"),
        (1, "EXEC"),
        (1, "EXEC"),
        (0, "SET a 3"),
        (0, "RPUSH l 1"),
        (0, "GET a"),
        (0, "DEL b"),
        (0, "MULTI"),
        (0, "GET a"),
        (0, "EXEC"),
        (0, "MULTI"),
        (0, "DISCARD"),
        (0, "CONFIG SET maxmemory 0"),
        (0, "SET a 4"),
        (1, "GET a"),
    ] {
        let (ours, theirs) = (ours[client].run(command), theirs[client].run(command));
        assert_eq!(ours, theirs, "left is ours: {command}");
    }
    // Answers stay in the order of the commands.
    ours[0].run("CONFIG SET maxmemory 1");
    let mut input = encode(&["DEL", "a"]);
    input.extend(encode(&["SET", "a", "1"]));
    input.extend(encode(&["DEL", "a"]));
    ours[0].send(&input);
    assert_eq!(ours[0].receive(), Value::Integer(1));
    assert!(ours[0].receive().text().starts_with("OOM command not allowed"));
    assert_eq!(ours[0].receive(), Value::Integer(0));
    stop(server);
}
