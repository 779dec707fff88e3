//! Hashes, sets and sorted sets: what chance, size, time and the order of events make of them, which a
//! comparison with Redis does not show.

use std::collections::{BTreeMap, BTreeSet};

use hawser_kv::store::database::{Database, unix_ms};
use hawser_kv::store::layout::{self, Counted, Family, Header, Kind};
use hawser_kv::store::overlay::Overlay;
use hawser_kv::store::settings::BLOB_BYTES_MIN;

use crate::differential::Oracle;
use crate::support::{Client, Random, TempDir, Value, config, encode, start, stop, until};

fn texts(value: Value) -> Vec<String> {
    match value {
        Value::Array(items) | Value::Set(items) => items.iter().map(Value::text).collect(),
        other => panic!("not many: {other:?}"),
    }
}

/// Sends commands without waiting for each answer; none of them may fail.
fn run_all(client: &mut Client, commands: &[Vec<String>]) {
    for part in commands.chunks(200) {
        client.send(&part.iter().flat_map(|command| encode(command)).collect::<Vec<u8>>());
        part.iter().for_each(|command| {
            let answer = client.receive();
            assert!(!answer.is_error(), "{command:?}: {answer:?}");
        });
    }
}

fn numbered(count: usize, command: &dyn Fn(usize) -> String) -> Vec<Vec<String>> {
    let words = |text: String| text.split(' ').map(str::to_string).collect();
    (0..count).map(|number| words(command(number))).collect()
}

/// Where Redis changes from one encoding to the next, with its settings as they come.
#[test]
fn encodings_are_those_of_redis() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let oracle = Oracle::start();
    let mut both = [Client::unix(&config.unix), oracle.connect()];
    for (kind, count) in [
        ("HSET", 512),
        ("HSET", 513),
        ("ZADD", 128),
        ("ZADD", 129),
        ("SADD", 512),
        ("SADD", 513),
        ("RPUSH", 1),
    ] {
        let key = format!("{kind}:{count}");
        let mut words = vec![kind.to_owned(), key.clone()];
        let width = if matches!(kind, "HSET" | "ZADD") { 2 } else { 1 };
        words.extend((0..count * width).map(|number: usize| number.to_string()));
        let [ours, theirs] = both.each_mut().map(|client| {
            assert_eq!(client.call(&words), Value::Integer(count as i64), "{key}");
            client.run(&format!("OBJECT ENCODING {key}")).text()
        });
        assert_eq!(ours, theirs, "{key}");
    }
    stop(server);
}

/// The sum of squared differences from an even distribution, over what is expected (chi-square).
fn unevenness(drawn: &[String], members: usize) -> f64 {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    drawn.iter().for_each(|member| *counts.entry(member).or_default() += 1);
    let expected = drawn.len() as f64 / members as f64;
    let missing = (members - counts.len()) as f64 * expected;
    let off = |count: usize| (count as f64 - expected).powi(2) / expected;
    counts.values().map(|count| off(*count)).sum::<f64>() + missing
}

/// A few members are read whole, many are reached through a stretch of places: both must be even.
#[test]
fn members_are_drawn_evenly() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    for (key, members) in [("few", 40), ("many", 1000)] {
        run_all(&mut client, &numbered(members, &|number| format!("SADD {key} member:{number}")));
        run_all(
            &mut client,
            &numbered(members, &|number| format!("HSET h{key} f{number} {number}")),
        );
        run_all(
            &mut client,
            &numbered(members, &|number| format!("ZADD z{key} {number} m{number}")),
        );
        for command in ["SRANDMEMBER ", "HRANDFIELD h", "ZRANDMEMBER z"] {
            let mut drawn = Vec::new();
            // Less than the members at a time, so that each draw is one of its own.
            for _ in 0..members {
                drawn.extend(texts(client.run(&format!("{command}{key} -20"))));
            }
            // The mean is one less than the members. Ten deviations above it never happen by chance.
            let most = members as f64 + 10.0 * (2.0 * members as f64).sqrt();
            let found = unevenness(&drawn, members);
            assert!(found < most, "{command}{key}: {found} of {most}");
        }
        for wanted in [1, 7, members / 2, members - 1, members, 2 * members] {
            let drawn = texts(client.run(&format!("SRANDMEMBER {key} {wanted}")));
            assert_eq!(drawn.len(), wanted.min(members));
            assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), drawn.len(), "all differ");
        }
        let mut popped = BTreeSet::new();
        while client.run(&format!("EXISTS {key}")) == Value::Integer(1) {
            let some = texts(client.run(&format!("SPOP {key} {}", 1 + members / 9)));
            some.into_iter().for_each(|member| assert!(popped.insert(member), "twice"));
            let one = client.run(&format!("SPOP {key}"));
            if one != Value::Null {
                assert!(popped.insert(one.text()), "twice");
            }
        }
        assert_eq!(popped.len(), members);
    }
    stop(server);
}

#[test]
fn what_is_drawn_is_bounded() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let member = "m".repeat(512 * 1024);
    assert_eq!(client.call(&["SADD", "s", &member]), Value::Integer(1));
    // Each member comes with its length and two line ends.
    let drawn = texts(client.run("SRANDMEMBER s -127"));
    assert_eq!(drawn.len(), 127);
    let error = "ERR more than 67108864 bytes were drawn; ask for fewer";
    assert_eq!(client.run("SRANDMEMBER s -128"), Value::Error(error.into()));
    assert_eq!(client.run("SRANDMEMBER s -9223372036854775807"), Value::Error(error.into()));
    stop(server);
}

#[test]
fn a_random_key_is_one_that_lives() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    assert_eq!(client.run("RANDOMKEY"), Value::Null);
    run_all(&mut client, &numbered(50, &|number| format!("SET k{number} 1")));
    run_all(&mut client, &numbered(50, &|number| format!("SET gone{number} 1 PXAT 1")));
    let drawn: Vec<String> = (0..1000).map(|_| client.run("RANDOMKEY").text()).collect();
    assert!(drawn.iter().all(|key| key.starts_with('k')), "{drawn:?}");
    assert!(unevenness(&drawn, 50) < 50.0 + 10.0 * 10.0);
    assert_eq!(client.run("DBSIZE"), Value::Integer(50));
    stop(server);
}

/// So many keys are counted; of more, all are concluded from where those are.
#[test]
fn keys_are_counted_as_far_as_that_is_quick() {
    const COUNTED_MAX: i64 = 1 << 17;
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let mut add = |range: std::ops::Range<i64>| {
        let numbers: Vec<i64> = range.collect();
        for some in numbers.chunks(1000) {
            let pairs = some.iter().map(|number| format!("k{number} 1"));
            client.run(&format!("MSET {}", pairs.collect::<Vec<_>>().join(" ")));
        }
        let Value::Integer(counted) = client.run("DBSIZE") else { panic!("no number") };
        counted
    };
    assert_eq!(add(0..COUNTED_MAX), COUNTED_MAX);
    for (from, to) in [(COUNTED_MAX, COUNTED_MAX + 1), (COUNTED_MAX + 1, 2 * COUNTED_MAX)] {
        let counted = add(from..to);
        assert!((counted - to).abs() < to / 50, "{counted} of {to}");
    }
    // Those of this database, those that live, and what a transaction has done so far.
    let mut counted = |commands: &[&str]| {
        commands.iter().for_each(|command| assert!(!client.run(command).is_error(), "{command}"));
        match client.run("EXEC") {
            Value::Array(answers) => answers.last().cloned(),
            other => panic!("{other:?}"),
        }
    };
    let Some(Value::Integer(all)) = counted(&["MULTI", "SET other 1", "DBSIZE"]) else {
        panic!("no number")
    };
    assert!((all - 2 * COUNTED_MAX).abs() < COUNTED_MAX / 25, "{all}");
    let none = Some(Value::Integer(0));
    assert_eq!(counted(&["SELECT 1", "MULTI", "DBSIZE"]), none);
    assert_eq!(counted(&["SWAPDB 0 1", "SELECT 0", "MULTI", "DBSIZE"]), none);
    assert_eq!(counted(&["SELECT 1", "MULTI", "FLUSHDB", "DBSIZE"]), none);
    stop(server);
}

/// A key that lives is counted, however many rows of expired ones come before it.
#[test]
fn no_key_is_counted_only_where_there_is_none() {
    const EXPIRED: u64 = (1 << 17) * 9 / 8;
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    for from in (0..EXPIRED).step_by(1000) {
        let range = from..EXPIRED.min(from + 1000);
        let sets = range.clone().map(|number| format!("SET k{number} 1 PX 1\r\n"));
        client.send(sets.collect::<String>().as_bytes());
        range.for_each(|_| assert!(!client.receive().is_error()));
    }
    until("expired", || (client.run("DBSIZE") == Value::Integer(0)).then_some(()));
    let mut names = (0..).map(|number| format!("alive{number}"));
    let last = names.find(|name| layout::place(name.as_bytes()) > u32::MAX / 20 * 19);
    assert!(!client.run(&format!("SET {} 1", last.expect("one in twenty"))).is_error());
    assert_eq!(client.run("DBSIZE"), Value::Integer(1));
    stop(server);
}

/// Walks with small pages while others change the collection, and the server starts anew in between.
/// What is there all the time is returned once; what never was, not at all.
#[test]
fn a_walk_holds_through_changes_and_restarts() {
    const MEMBERS: usize = 600;
    let dir = TempDir::new();
    let config = config(&dir);
    let mut server = start(&config);
    let mut client = Client::unix(&config.unix);
    for kind in ["SADD set", "HSET hash", "ZADD zset", "SET"] {
        let add = |name: &str, number: usize| match kind {
            "SADD set" => format!("SADD set {name}{number}"),
            "SET" => format!("SET {name}{number} 1"),
            "ZADD zset" => format!("ZADD zset {number} {name}{number}"),
            _ => format!("{kind} {name}{number} 1"),
        };
        let remove = |name: &str, number: usize| match kind {
            "SADD set" => format!("SREM set {name}{number}"),
            "HSET hash" => format!("HDEL hash {name}{number}"),
            "ZADD zset" => format!("ZREM zset {name}{number}"),
            _ => format!("DEL {name}{number}"),
        };
        run_all(&mut client, &numbered(MEMBERS, &|number| add("stays", number)));
        run_all(&mut client, &numbered(MEMBERS, &|number| add("goes", number)));
        let (scan, rest, width) = match kind {
            "SADD set" => ("SSCAN set", " MATCH stays*", 1),
            "HSET hash" => ("HSCAN hash", " MATCH stays*", 2),
            "ZADD zset" => ("ZSCAN zset", " MATCH stays*", 2),
            _ => ("SCAN", " MATCH stays*", 1),
        };
        let (mut found, mut cursor, mut pages) = (Vec::new(), "0".to_string(), 0);
        loop {
            let Value::Array(page) = client.run(&format!("{scan} {cursor}{rest} COUNT 13")) else {
                panic!("no page");
            };
            found.extend(texts(page[1].clone()).into_iter().step_by(width));
            cursor = page[0].text();
            if cursor == "0" {
                break;
            }
            run_all(&mut client, &numbered(10, &|number| remove("goes", pages * 10 + number)));
            run_all(&mut client, &numbered(10, &|number| add("comes", pages * 10 + number)));
            pages += 1;
            if pages == 20 {
                drop(client);
                stop(server);
                server = start(&config);
                client = Client::unix(&config.unix);
            }
        }
        assert!(pages > 50, "{pages} pages");
        let wanted: BTreeSet<String> =
            (0..MEMBERS).map(|number| format!("stays{number}")).collect();
        assert_eq!(found.len(), MEMBERS, "{kind}: each once");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted, "{kind}");
        // A cursor that nobody has given out is behind everything.
        let beyond = client.run(&format!("{scan} 18446744073709551615"));
        assert_eq!(beyond, Value::Array(vec![Value::Bulk(b"0".to_vec()), Value::Array(vec![])]));
        assert_eq!(client.run("FLUSHALL"), Value::Simple("OK".into()));
    }
    stop(server);
}

/// Builds a hash below the server, since a million fields through it would take a minute.
fn put_hash(overlay: &mut Overlay<'_>, key: &[u8], header: Header, version: u64, fields: u64) {
    let metadata = Counted { version, members: fields }.encode(header);
    overlay.put(Family::Metadata, layout::metadata_key(key), metadata);
}

fn put_field(overlay: &mut Overlay<'_>, key: &[u8], version: u64, number: u64, value: &[u8]) {
    let name = layout::placed_name(format!("field:{number}").as_bytes());
    overlay.put(Family::Member, layout::member_key(key, version, &name), value.to_vec());
}

/// Whatever its size, deleting a collection or writing over it is one small change.
#[test]
fn deleting_a_million_fields_is_one_small_change() {
    const FIELDS: u64 = 1_000_000;
    let dir = TempDir::new();
    let config = config(&dir);
    // The directory gets its log, and the hashes come in as if they had been flushed.
    stop(start(&config));
    let path = hawser_kv::store::database::database_dir(&config.dir);
    let database = Database::open(&path, 8 << 20, 16 << 20).expect("a database");
    let never = Header { kind: Kind::Hash, expires_at_ms: 0 };
    let keys = [&b"deleted"[..], b"unlinked", b"overwritten", b"expired"];
    for part in 0..100 {
        let mut overlay = Overlay::new(&database, 0);
        for (version, key) in keys.iter().enumerate() {
            // The first has a million, and the others enough to be noticed.
            let fields = if version == 0 { FIELDS } else { FIELDS / 100 };
            put_hash(&mut overlay, key, never, version as u64 + 1, fields);
            for number in part * fields / 100..(part + 1) * fields / 100 {
                put_field(&mut overlay, key, version as u64 + 1, number, b"value");
            }
        }
        database.apply(0, &overlay.encode()).expect("applied");
    }
    database.flush().expect("flushed");
    drop(database);

    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    assert_eq!(client.run("HLEN deleted"), Value::Integer(FIELDS as i64));
    assert_eq!(client.run("HGET deleted field:999999"), Value::Bulk(b"value".to_vec()));
    for (command, answer) in [
        ("DEL deleted", Value::Integer(1)),
        ("UNLINK unlinked", Value::Integer(1)),
        ("SET overwritten 1", Value::Simple("OK".into())),
        ("PEXPIRE expired 0", Value::Integer(1)),
    ] {
        let before = server.metrics().log_bytes;
        assert_eq!(client.run(command), answer);
        let written = server.metrics().log_bytes - before;
        assert!(written < 100, "{command} wrote {written} bytes");
    }
    assert_eq!(client.run("HLEN deleted"), Value::Integer(0));
    assert_eq!(client.run("HSET deleted new 1"), Value::Integer(1));
    assert_eq!(
        client.run("HGETALL deleted"),
        Value::Array(vec![Value::Bulk(b"new".to_vec()), Value::Bulk(b"1".to_vec()),])
    );
    stop(server);
}

/// Hashes and strings of which one in ten lives; the others have expired, or were never written.
fn fill(dir: &TempDir, with_expired: bool) -> Database {
    const KEYS: u64 = 2000;
    const FIELDS: u64 = 20;
    let long_ago = unix_ms() - 3_600_000;
    let database = Database::open(dir.path(), 8 << 20, 4 << 20).expect("a database");
    for sequence in 0..40 {
        let mut overlay = Overlay::new(&database, sequence);
        for number in (KEYS / 40 * sequence)..(KEYS / 40 * (sequence + 1)) {
            let is_alive = number % 10 == 0;
            if !is_alive && !with_expired {
                continue;
            }
            let mut random = Random(number + 1);
            let mut noise =
                |bytes| (0..bytes).map(|_| random.below(256) as u8).collect::<Vec<u8>>();
            let expires_at_ms = if is_alive { 0 } else { long_ago };
            let (key, version) = (format!("hash:{number}").into_bytes(), number + 1);
            put_hash(
                &mut overlay,
                &key,
                Header { kind: Kind::Hash, expires_at_ms },
                version,
                FIELDS,
            );
            for field in 0..FIELDS {
                put_field(&mut overlay, &key, version, field, &noise(100));
            }
            // Those of every second key lie in blob files.
            let bytes = if number / 10 % 2 == 0 { BLOB_BYTES_MIN as usize } else { 300 };
            let key = layout::metadata_key(format!("string:{number}").as_bytes());
            overlay.put(Family::Metadata, key, layout::string(&noise(bytes), expires_at_ms));
        }
        database.apply(sequence, &overlay.encode()).expect("applied");
        if sequence % 4 == 3 {
            database.flush().expect("flushed");
        }
    }
    database
}

/// What lies in RocksDB's files.
fn stored_bytes(database: &Database) -> u64 {
    let properties = ["rocksdb.live-sst-files-size", "rocksdb.live-blob-file-size"];
    properties.map(|property| database.property(property)).iter().sum()
}

/// After one compaction the files hold what lives and at most a tenth more. For blob files it takes the
/// compactions that RocksDB starts itself when it has seen what became garbage.
#[test]
fn expired_data_is_gone_after_one_compaction() {
    let (dir, other) = (TempDir::new(), TempDir::new());
    let (database, alone) = (fill(&dir, true), fill(&other, false));
    database.compact();
    alone.compact();
    let wanted = stored_bytes(&alone);
    let rows = |database: &Database| database.property("rocksdb.estimate-num-keys");
    assert_eq!(rows(&database), rows(&alone));
    until("rid of expired values", || (stored_bytes(&database) * 10 <= wanted * 11).then_some(()));
}

/// Who waits for the ends of sorted sets is served in order, by whatever makes one.
#[test]
fn waiting_for_sorted_sets() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut writing = Client::unix(&config.unix);
    for (make, lowest, highest) in [
        ("ZADD z 1 a 2 b 3 c", "a", "c"),
        ("ZUNIONSTORE z 1 other", "x", "z"),
        ("RENAME other z", "x", "z"),
    ] {
        assert!(!writing.run("ZADD other 1 x 2 y 3 z").is_error());
        let mut waiting = ["BZPOPMIN none z 0", "BZPOPMAX z 0", "BZMPOP 0 2 none z MIN COUNT 9"]
            .map(|command| {
                let mut client = Client::unix(&config.unix);
                let blocked = blocked_clients(&mut writing);
                client.send(&encode(&command.split(' ').collect::<Vec<_>>()));
                until("waiting", || (blocked_clients(&mut writing) > blocked).then_some(()));
                client
            });
        assert!(!writing.run(make).is_error());
        let [first, second, third] = &mut waiting;
        assert_eq!(texts(first.receive()), ["z", lowest, "1"]);
        assert_eq!(texts(second.receive()), ["z", highest, "3"]);
        let Value::Array(rest) = third.receive() else { panic!("no array") };
        let Value::Array(members) = &rest[1] else { panic!("no members") };
        assert_eq!((rest[0].text().as_str(), members.len()), ("z", 1));
        assert_eq!(writing.run("EXISTS z"), Value::Integer(0));
    }
    stop(server);
}

fn blocked_clients(client: &mut Client) -> usize {
    let info = client.run("INFO clients").text();
    let line = info.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
    line.expect("a line").trim().parse().expect("a number")
}
