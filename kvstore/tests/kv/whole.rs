//! What the comparison with Redis cannot show: the process, a real client, walks with cursors, times
//! that pass, and what compaction drops.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::process::Command;

use hawser_kv::Config;
use hawser_kv::store::database::{Database, unix_ms};
use hawser_kv::store::layout::{self, Counted, Family, Header, Kind};
use hawser_kv::store::overlay::Overlay;
use hawser_kv::store::spaces::Selected;
use hawser_kv::store::view::{Direction, Frozen, View};

use crate::support::{Client, Process, TempDir, Value, binary, config, encode, start, stop};

#[test]
fn the_process_ends_as_it_says() {
    let dir = TempDir::new();
    let mut process = Process::start(&mut binary(&config(&dir)));
    assert_eq!(Client::unix(&dir.join("s")).run("SET a 1"), Value::Simple("OK".into()));
    process.signal("TERM");
    assert_eq!(process.child.wait().expect("it ends").code(), Some(0));
    assert!(!dir.join("s").exists(), "the socket file is left behind");

    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_hawser-kv")).args(args).output();
        let output = output.expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text, String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, error, _) = run(&["--set", "cache_mb=5", "--check-config"]);
    assert_eq!(code, Some(2));
    assert_eq!(error, "hawser-kv: unknown setting `cache_mb`; did you mean `cache_mib`?\n");
    let (code, _, printed) = run(&["--set", "password=sesame", "--print-config"]);
    assert_eq!(code, Some(0));
    assert!(printed.contains("cache_mib = 128") && !printed.contains("sesame"), "{printed}");
}

/// Those that every write passes through share a processor, and nobody else is bound to it.
#[test]
fn the_writing_threads_share_a_processor() {
    for (wish, is_shared) in [("always", true), ("never", false)] {
        let dir = TempDir::new();
        let mut command = binary(&config(&dir));
        let process = Process::start(command.args(["--set", &format!("one_processor={wish}")]));
        assert_eq!(Client::unix(&dir.join("s")).run("SET a 1"), Value::Simple("OK".into()));
        let mut bound = BTreeSet::new();
        for thread in
            std::fs::read_dir(format!("/proc/{}/task", process.child.id())).expect("it runs")
        {
            let thread = thread.expect("an entry").path();
            let read = |file: &str| std::fs::read_to_string(thread.join(file)).unwrap_or_default();
            let status = read("status");
            let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
            if allowed.is_some_and(|allowed| allowed.parse::<usize>().is_ok()) {
                bound.insert((allowed.map(str::to_string), read("comm")));
            }
        }
        let places: BTreeSet<_> = bound.iter().map(|(place, _)| place).collect();
        let names: Vec<&str> = bound.iter().map(|(_, name)| name.trim()).collect();
        match is_shared {
            true => assert_eq!(names, ["hawser-kv-commi", "hawser-kv-net", "hawser-kv-write"]),
            // A machine of one processor binds everyone to it.
            false => assert!(bound.is_empty() || names.len() > 3, "{names:?}"),
        }
        assert!(places.len() <= 1, "{places:?}");
    }
}

/// As an operator lives it: the server does not start and says what to do, and that helps.
#[test]
fn a_damaged_log_is_refused_and_cut_by_choice() {
    let dir = TempDir::new();
    refuse_and_cut(&config(&dir));
}

#[test]
fn a_damaged_log_on_another_disk_is_cut_as_well() {
    let dir = TempDir::new();
    let (config, other) = (config(&dir), dir.join("other"));
    for made in [&config.dir, &other] {
        std::fs::create_dir(made).expect("a directory");
    }
    std::os::unix::fs::symlink(&other, config.dir.join("log")).expect("a link");
    refuse_and_cut(&config);
}

fn refuse_and_cut(config: &Config) {
    let process = Process::start(&mut binary(config));
    let mut client = Client::unix(&config.unix);
    for number in 1..=3 {
        assert!(!client.run(&format!("SET key{number} {number}")).is_error());
    }
    let path = std::fs::read_dir(config.dir.join("log")).expect("a log").next().expect("a segment");
    let path = path.expect("an entry").path();
    let run = |place: &str| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_hawser-kv")).args(["--cut-log", place]).output();
        let output = output.expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, error) = run(&format!("{}@28", path.display()));
    assert_eq!(code, Some(2), "it was cut while it is used");
    assert!(error.contains("is in use by another process"), "{error}");
    process.kill();

    let mut bytes = std::fs::read(&path).expect("a segment");
    let second =
        28 + 24 + u32::from_be_bytes(bytes[28..32].try_into().expect("four bytes")) as usize;
    bytes[second + 24] ^= 1;
    std::fs::write(&path, &bytes).expect("a file");
    let output = binary(config).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let place = error.trim_end().rsplit(' ').next().expect("the last word").to_owned();
    assert_eq!(place, format!("{}@{second}", path.display()), "{error}");

    for bad in ["", "nonsense", "/etc/passwd@20", &format!("{}@x", path.display()), "log/1.log@0"] {
        assert_eq!(run(bad).0, Some(2), "{bad}");
    }
    let (code, said, error) = run(&place);
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains(&format!("given up from byte {second} on")), "{said}");
    let process = Process::start(&mut binary(config));
    let mut client = Client::unix(&config.unix);
    let all = client.run("MGET key1 key2 key3");
    assert_eq!(all, Value::Array(vec![Value::Bulk(b"1".to_vec()), Value::Null, Value::Null]));
    assert!(!client.run("SET key2 again").is_error());
    process.signal("TERM");
}

#[tokio::test(flavor = "current_thread")]
async fn a_real_client_speaks_to_it() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let address = format!("redis+unix://{}?protocol=resp3", config.unix.display());
    let client = redis::Client::open(address).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("connected");
    let mut pipeline = redis::pipe();
    for number in 1..=1000 {
        let id = format!("{number}-0");
        pipeline.cmd("XADD").arg("inbox").arg(id).arg("m").arg(number);
    }
    let ids: Vec<String> = pipeline.query_async(&mut connection).await.expect("added");
    assert_eq!(ids.last().map(String::as_str), Some("1000-0"));
    let again = redis::cmd("XADD").arg("inbox").arg("1000-0").arg("m").arg(1).to_owned();
    let error = again.query_async::<String>(&mut connection).await.expect_err("too small");
    assert!(error.to_string().contains("equal or smaller"), "{error}");
    let (first, second): (String, i64) = redis::pipe()
        .atomic()
        .cmd("SET")
        .arg("a")
        .arg(41)
        .cmd("INCR")
        .arg("a")
        .query_async(&mut connection)
        .await
        .expect("a transaction");
    assert_eq!((first.as_str(), second), ("OK", 42));
    drop(connection);
    server.stop().await;
}

#[test]
fn a_walk_gives_everything_once() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let keys: BTreeSet<String> = (0..500).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        client.send(&encode(&["SET", key, "1"]));
    }
    for field in 0..300 {
        client.send(&encode(&["HSET", "hash", &format!("f{field}"), "1"]));
    }
    (0..800).for_each(|_| assert!(!client.receive().is_error()));

    let mut walk = |command: &[&str], rest: &[&str]| {
        let (mut found, mut cursor) = (Vec::new(), "0".to_string());
        loop {
            let page = client.call(&[command, &[&cursor], rest].concat());
            let Value::Array(page) = page else { panic!("{page:?}") };
            let Value::Array(items) = &page[1] else { panic!("{page:?}") };
            found.extend(items.iter().map(Value::text));
            cursor = page[0].text();
            if cursor == "0" {
                return found;
            }
        }
    };
    let found = walk(&["SCAN"], &["COUNT", "7", "TYPE", "string"]);
    assert_eq!(found.len(), 500);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), keys);
    assert_eq!(walk(&["HSCAN", "hash"], &["MATCH", "f?", "COUNT", "9"]).len(), 20);
    stop(server);
}

#[test]
fn times_pass() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let before = unix_ms();
    assert_eq!(client.run("SET a 1 EX 100"), Value::Simple("OK".into()));
    let Value::Integer(at) = client.run("PEXPIRETIME a") else { panic!("no time") };
    assert!((before + 100_000..=unix_ms() + 100_000).contains(&(at as u64)));
    assert_eq!(client.run("HSET h f 1"), Value::Integer(1));
    assert_eq!(client.run("PEXPIRE h 30"), Value::Integer(1));
    crate::support::until("expired", || {
        (client.run("EXISTS h") == Value::Integer(0)).then_some(())
    });
    assert_eq!(client.run("HGETALL h"), Value::Array(vec![]));
    // A new life of the key has none of the old fields.
    assert_eq!(client.run("HSET h g 2"), Value::Integer(1));
    assert_eq!(client.run("HKEYS h"), Value::Array(vec![Value::Bulk(b"g".to_vec())]));

    let Value::Bulk(first) = client.run("XADD s * f 1") else { panic!("no id") };
    let Value::Bulk(second) = client.run("XADD s * f 1") else { panic!("no id") };
    assert_ne!(first, second);
    for _ in 0..250 {
        client.run("XADD s MAXLEN ~ 100 * f 1");
    }
    let Value::Integer(length) = client.run("XLEN s") else { panic!("no length") };
    assert!((100..200).contains(&length), "{length}");
    stop(server);
}

#[test]
fn compaction_drops_what_nobody_can_see() {
    let dir = TempDir::new();
    let database = Database::open(dir.path(), 8 << 20, 1 << 20).expect("a new database");
    let write = |sequence: u64, change: &dyn Fn(&mut Overlay<'_>)| {
        let mut overlay = Overlay::new(&database, sequence);
        change(&mut overlay);
        database.apply(sequence, &overlay.encode()).expect("applied");
    };
    let put_hash = |overlay: &mut Overlay<'_>, key: &[u8], version: u64, expires_at_ms: u64| {
        let header = Header { kind: Kind::Hash, expires_at_ms };
        let metadata = Counted { version, members: 3 }.encode(header);
        overlay.put(Family::Metadata, layout::metadata_key(key), metadata);
        for field in [b"f", b"g", b"h"] {
            let name = layout::placed_name(field);
            overlay.put(Family::Member, layout::member_key(key, version, &name), b"1".to_vec());
        }
    };
    let long_ago = unix_ms() - 3_600_000;
    write(1, &|overlay| {
        put_hash(overlay, b"kept", 1, 0);
        put_hash(overlay, b"deleted", 2, 0);
        put_hash(overlay, b"replaced", 3, 0);
        put_hash(overlay, b"expired", 4, long_ago);
        put_hash(overlay, b"just expired", 5, unix_ms() - 1000);
    });
    database.flush().expect("flushed");
    write(2, &|overlay| {
        overlay.delete(Family::Metadata, layout::metadata_key(b"deleted"));
        put_hash(overlay, b"replaced", 6, 0);
    });
    database.flush().expect("flushed");
    assert_eq!(database.flushed().expect("readable"), 2);
    database.compact();

    let rows = |family: Family| {
        let (lower, upper) = layout::whole_space();
        let mut found = Vec::new();
        let visit = &mut |key: &[u8], _: &[u8]| {
            found.push(key.to_vec());
            ControlFlow::Continue(())
        };
        let view = Frozen::new(&database, Selected::default());
        view.scan(family, &lower, &upper, Direction::Forward, visit).expect("readable");
        found
    };
    let metadata: BTreeSet<Vec<u8>> = rows(Family::Metadata).into_iter().collect();
    let wanted = [&b"kept"[..], b"replaced", b"just expired"].map(layout::metadata_key);
    assert_eq!(metadata, BTreeSet::from(wanted));
    let owners: BTreeSet<u64> =
        rows(Family::Member).iter().map(|row| layout::member_owner(row).expect("ours").2).collect();
    // Metadata is compacted first, and what it dropped took its members with it.
    assert_eq!(owners, BTreeSet::from([1, 5, 6]));
}
