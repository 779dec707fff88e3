//! Redis's file format: what Redis writes is read, in every encoding, and what is written Redis reads.

use std::io::BufReader;

use hawser_kv::rdb::reader::{Event, Key, Reader};
use hawser_kv::rdb::value::Piece;
use hawser_kv::rdb::writer::FileWriter;
use hawser_kv::rdb::{Kind, Problem, RdbError, STRING_BYTES_MAX, payload};

use crate::differential::Oracle;
use crate::support::{Client, TempDir, Value, config, encode, start, stop, until};

/// Redis's settings with which every collection takes its small form, and with which none does.
const SMALL: &str = "CONFIG SET hash-max-listpack-entries 100000 hash-max-listpack-value 1000 \
    zset-max-listpack-entries 100000 zset-max-listpack-value 1000 set-max-intset-entries 100000 \
    list-max-listpack-size -2 stream-node-max-entries 100 list-compress-depth 0";
const LARGE: &str = "CONFIG SET hash-max-listpack-entries 0 zset-max-listpack-entries 0 \
    set-max-intset-entries 0 list-max-listpack-size 3 stream-node-max-entries 2 list-compress-depth 1";

fn words(command: &str) -> Vec<Vec<u8>> {
    command.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

fn run(client: &mut Client, command: &str) -> Value {
    let answer = client.call(&words(command));
    assert!(!answer.is_error(), "{command}: {answer:?}");
    answer
}

/// Texts at the ends of every encoding of strings and integers.
fn texts() -> Vec<Vec<u8>> {
    let numbers = [
        0,
        1,
        12,
        13,
        127,
        128,
        -1,
        -128,
        -129,
        4095,
        4096,
        -4096,
        -4097,
        32_767,
        32_768,
        -32_768,
        -32_769,
        8_388_607,
        8_388_608,
        -8_388_608,
        -8_388_609,
        2_147_483_647,
        2_147_483_648,
        -2_147_483_648,
        -2_147_483_649,
        i64::MAX,
        i64::MIN,
    ];
    let mut texts: Vec<Vec<u8>> = numbers.map(|number: i64| number.to_string().into()).to_vec();
    texts.extend(["", "-0", "007", "+1", " 1", "1.5", "\r\n", "\u{0}\u{ff}"].map(Into::into));
    // Random bytes for those that cannot be compressed.
    let mut random = crate::support::Random(7);
    for bytes in [20, 21, 63, 64, 252, 253, 254, 255, 4095, 4096, 16_383, 16_384, 70_000] {
        texts.push(vec![b'x'; bytes]);
        texts.push((0..bytes).map(|_| random.below(256) as u8).collect());
    }
    texts
}

/// Writes keys of every type whose names start with `name`.
fn fill(client: &mut Client, name: &str) {
    let texts = texts();
    let mut all = |words: Vec<Vec<u8>>| {
        let answer = client.call(&words);
        assert!(!answer.is_error(), "{answer:?}");
    };
    let command = |start: &str| words(start);
    for (at, text) in texts.iter().enumerate() {
        all([command(&format!("SET {name}:text{at}")), vec![text.clone()]].concat());
        all([command(&format!("HSET {name}:hash{at} field")), vec![text.clone()]].concat());
    }
    let pairs: Vec<Vec<u8>> = texts.iter().flat_map(|text| [text.clone(), text.clone()]).collect();
    let scored: Vec<Vec<u8>> = texts
        .iter()
        .enumerate()
        .flat_map(|(at, text)| [format!("{}", at as f64 / 3.0 - 5.0).into(), text.clone()])
        .collect();
    all([command(&format!("RPUSH {name}:list")), texts.clone()].concat());
    all([command(&format!("SADD {name}:set")), texts.clone()].concat());
    all([command(&format!("HSET {name}:hash")), pairs].concat());
    all([command(&format!("ZADD {name}:zset")), scored].concat());
    for number in ["1 2 3", "-40000 1 70000", "9223372036854775807 -9223372036854775808 0"] {
        all(command(&format!("SADD {name}:integers:{} {number}", number.len())));
    }
    all(command(&format!("ZADD {name}:scores inf a -inf b 0 c 1e300 d 3 e -2.5e-9 f")));
    for number in 0..700 {
        all(command(&format!("RPUSH {name}:long {number} element-{number}")));
        all(command(&format!("HSET {name}:wide field-{number} {number}")));
        all(command(&format!("ZADD {name}:ranked {number} member-{number}")));
        all(command(&format!("SADD {name}:many member-{number}")));
    }
    all(command(&format!("SET {name}:expires value PXAT 4102444800123")));
    all(command(&format!("PEXPIREAT {name}:hash 4102444800456")));
    fill_streams(client, name);
}

fn fill_streams(client: &mut Client, name: &str) {
    let stream = format!("{name}:stream");
    for number in 1..300u64 {
        let more = if number % 7 == 0 { "other 1 field" } else { "field" };
        run(client, &format!("XADD {stream} {}-{} {more} v{number}", 1000 + number / 3, number));
    }
    run(client, &format!("XADD {stream} 2000-1 a b"));
    run(client, &format!("XADD {stream} 2000-18446744073709551615 a b"));
    run(client, &format!("XDEL {stream} 1010-30 1020-61"));
    run(client, &format!("XGROUP CREATE {stream} first 0"));
    run(client, &format!("XGROUP CREATE {stream} second 1050-150 ENTRIESREAD 150"));
    run(client, &format!("XGROUP CREATE {stream} empty $"));
    run(client, &format!("XREADGROUP GROUP first alice COUNT 20 STREAMS {stream} >"));
    run(client, &format!("XREADGROUP GROUP first bob COUNT 600 STREAMS {stream} >"));
    run(client, &format!("XREADGROUP GROUP second alice COUNT 3 STREAMS {stream} >"));
    run(client, &format!("XGROUP CREATECONSUMER {stream} second idle"));
    run(client, &format!("XACK {stream} first 1000-1 1000-2"));
    run(client, &format!("XDEL {stream} 1001-3"));
    run(client, &format!("XADD {name}:trimmed 5-5 a b"));
    run(client, &format!("XTRIM {name}:trimmed MAXLEN 0"));
}

fn keys(client: &mut Client) -> Vec<Vec<u8>> {
    let Value::Array(mut keys) = run(client, "KEYS *") else { panic!("no keys") };
    keys.sort();
    let bytes = |key| if let Value::Bulk(bytes) = key { bytes } else { panic!("{key:?}") };
    keys.into_iter().map(bytes).collect()
}

/// All that commands say about a key, without what depends on the moment.
fn contents(client: &mut Client, key: &[u8]) -> Vec<Value> {
    let mut ask = |words: &[&[u8]]| client.call(words);
    let kind = ask(&[b"TYPE", key]);
    let sorted = |answer| match answer {
        Value::Array(mut items) => {
            items.sort();
            Value::Array(items)
        }
        other => other,
    };
    let value = match kind.text().as_str() {
        "string" => vec![ask(&[b"GET", key])],
        "list" => vec![ask(&[b"LRANGE", key, b"0", b"-1"])],
        "set" => vec![sorted(ask(&[b"SMEMBERS", key]))],
        "zset" => vec![ask(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"])],
        "hash" => match ask(&[b"HGETALL", key]) {
            Value::Array(items) => {
                let mut pairs: Vec<Vec<Value>> = items.chunks(2).map(<[Value]>::to_vec).collect();
                pairs.sort();
                vec![Value::Array(pairs.concat())]
            }
            other => vec![other],
        },
        "stream" => {
            let full = ask(&[b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"]);
            let Value::Array(facts) = full else { panic!("{full:?}") };
            let facts = facts.chunks(2).filter(|pair| !pair[0].text().starts_with("radix"));
            facts.flatten().cloned().collect()
        }
        other => panic!("{other}"),
    };
    [vec![kind], value, vec![ask(&[b"PEXPIRETIME", key])]].concat()
}

/// Every key of the first, in both.
fn assert_same(first: &mut Client, second: &mut Client) {
    let names = keys(first);
    assert_eq!(names.len(), keys(second).len());
    for name in names {
        let (ours, theirs) = (contents(first, &name), contents(second, &name));
        assert!(ours == theirs, "{}: {ours:.500?}\n{theirs:.500?}", String::from_utf8_lossy(&name));
    }
}

fn dump(client: &mut Client, key: &[u8]) -> Vec<u8> {
    match client.call(&[b"DUMP", key]) {
        Value::Bulk(payload) => payload,
        other => panic!("{}: {other:?}", String::from_utf8_lossy(key)),
    }
}

fn copy_by_payloads(from: &mut Client, to: &mut Client) {
    for key in keys(from) {
        let payload = dump(from, &key);
        let Value::Integer(expires) = from.call(&[b"PEXPIRETIME".to_vec(), key.clone()]) else {
            panic!("no time")
        };
        let expires = expires.max(0).to_string();
        let restore = [b"RESTORE", &key[..], expires.as_bytes(), &payload, b"ABSTTL"];
        assert_eq!(to.call(&restore), Value::Simple("OK".into()), "{key:?}");
    }
}

/// Redis with keys in each of its encodings.
fn filled() -> (Oracle, Client) {
    let oracle = Oracle::start();
    let mut client = oracle.connect();
    for (settings, name) in [(SMALL, "small"), (LARGE, "large")] {
        run(&mut client, settings);
        fill(&mut client, name);
    }
    (oracle, client)
}

#[test]
fn values_go_there_and_back() {
    let (_oracle, mut redis) = filled();
    let dir = TempDir::new();
    let handle = start(&config(&dir));
    let mut ours = Client::unix(&dir.join("s"));
    copy_by_payloads(&mut redis, &mut ours);
    assert_same(&mut redis, &mut ours);

    let back = Oracle::start();
    let mut back = back.connect();
    copy_by_payloads(&mut ours, &mut back);
    assert_same(&mut redis, &mut back);
    stop(handle);
}

#[test]
fn a_file_of_these_values_is_read_by_redis() {
    let (_oracle, mut redis) = filled();
    let dir = TempDir::new();
    let handle = start(&config(&dir));
    let mut ours = Client::unix(&dir.join("s"));
    copy_by_payloads(&mut redis, &mut ours);

    let place = TempDir::new();
    let file = std::fs::File::create(place.join("dump.rdb")).expect("a file");
    let mut file = FileWriter::begin(file).expect("written");
    file.aux("hawser-ver", "0").expect("written");
    let names = keys(&mut ours);
    file.database(0, names.len() as u64).expect("written");
    for key in &names {
        let payload = dump(&mut ours, key);
        let Value::Integer(expires) = ours.call(&[&b"PEXPIRETIME"[..], &key[..]]) else { panic!() };
        let value = payload::open(&payload).expect("our own");
        file.key(key, u64::try_from(expires).ok(), value).expect("written");
    }
    file.finish().expect("written");
    let loaded = Oracle::start_in(place);
    let mut loaded = loaded.connect();
    until("loaded", || (!loaded.run("DBSIZE").is_error()).then_some(()));
    assert_same(&mut redis, &mut loaded);
    stop(handle);
}

/// The file that Redis saves.
fn saved(client: &mut Client, oracle: &Oracle) -> Vec<u8> {
    run(client, "SAVE");
    std::fs::read(oracle.file()).expect("SAVE wrote it")
}

fn events(file: &[u8]) -> Result<Vec<Event>, RdbError> {
    let mut reader = Reader::open(file, STRING_BYTES_MAX)?;
    let mut events = Vec::new();
    while let Some(event) = reader.next_event()? {
        events.push(event);
    }
    Ok(events)
}

#[test]
fn a_file_of_redis_is_read_in_small_pieces() {
    let (oracle, mut redis) = filled();
    let file = saved(&mut redis, &oracle);
    let mut found: Vec<Key> = Vec::new();
    let mut reader = Reader::open(BufReader::new(&file[..]), STRING_BYTES_MAX).expect("a file");
    assert_eq!(reader.version(), 10);
    let mut all = 0;
    while let Some(event) = reader.next_event().expect("a whole file") {
        match event {
            Event::Key(key) => found.push(key),
            Event::Piece(piece) => {
                let items = match piece {
                    Piece::Elements(items) | Piece::Members(items) => items.len(),
                    Piece::Scored(items) => items.len(),
                    Piece::Fields(items) => items.len(),
                    Piece::Entries(items) => items.len(),
                    Piece::Pending(items) => items.len(),
                    _ => 1,
                };
                assert!(items <= 512, "{items}");
                all += items;
            }
            _ => {}
        }
    }
    assert!(all > 8000, "{all}");
    assert_eq!(reader.offset(), file.len() as u64);
    let mut names: Vec<Vec<u8>> = found.iter().map(|key| key.name.clone()).collect();
    names.sort();
    assert_eq!(names, keys(&mut redis));
    let expiring = found.iter().find(|key| key.name == b"small:expires").expect("it is there");
    assert_eq!((expiring.kind, expiring.expires_at_ms), (Kind::String, Some(4_102_444_800_123)));
}

/// A small file in which every kind of field is.
fn small_file() -> Vec<u8> {
    let oracle = Oracle::start();
    let mut client = oracle.connect();
    for (settings, name) in [(SMALL, "s"), (LARGE, "l")] {
        run(&mut client, settings);
        run(&mut client, &format!("RPUSH {name}:list a b 1 -300 70000 5000000000"));
        run(&mut client, &format!("SADD {name}:set 1 2 3"));
        run(&mut client, &format!("HSET {name}:hash f v g {}", "x".repeat(60)));
        run(&mut client, &format!("ZADD {name}:zset 1 a 2.5 b"));
        run(&mut client, &format!("XADD {name}:stream 1-1 f v"));
        run(&mut client, &format!("XADD {name}:stream 1-2 g v"));
        run(&mut client, &format!("XGROUP CREATE {name}:stream g 0"));
        run(&mut client, &format!("XREADGROUP GROUP g c COUNT 1 STREAMS {name}:stream >"));
    }
    run(&mut client, "SET text value PXAT 4102444800123");
    saved(&mut client, &oracle)
}

#[test]
fn what_is_cut_off_or_changed_is_refused_with_its_place() {
    let file = small_file();
    let whole = events(&file).expect("a whole file");
    assert!(whole.len() > 30);
    for end in 0..file.len() {
        let error = events(&file[..end]).expect_err("it is cut off");
        assert!(error.offset <= end as u64, "{end}: {error}");
        let is_short = matches!(error.problem, Problem::Truncated | Problem::NotRdb);
        assert!(is_short, "{end}: {error}");
    }
    for place in 0..file.len() {
        for bit in 0..8 {
            let mut changed = file.clone();
            changed[place] ^= 1 << bit;
            let outcome = events(&changed);
            let error = outcome.expect_err("a changed bit is seen");
            assert!(error.offset <= file.len() as u64, "{place}: {error}");
        }
    }
}

/// A payload by its type and value.
fn payload_of(type_code: u8, value: &[u8]) -> Vec<u8> {
    let mut payload = [&[type_code], value].concat();
    payload::end(&mut payload);
    payload
}

/// A string as RDB has it.
fn string(bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 64);
    [&[bytes.len() as u8], bytes].concat()
}

fn ziplist(elements: &[&[u8]]) -> Vec<u8> {
    let (mut body, mut before, mut tail) = (Vec::new(), 0, 10);
    for element in elements {
        tail = 10 + body.len();
        let encoded = [&[before][..], element].concat();
        before = encoded.len() as u8;
        body.extend(encoded);
    }
    let bytes = (10 + body.len() + 1) as u32;
    let head = [&bytes.to_le_bytes()[..], &(tail as u32).to_le_bytes()].concat();
    [&head, &(elements.len() as u16).to_le_bytes()[..], &body, &[0xff]].concat()
}

/// Encodings that no Redis of today writes, and Redis 7.0 still reads.
#[test]
fn old_encodings_are_read_as_redis_reads_them() {
    let oracle = Oracle::start();
    let mut redis = oracle.connect();
    let dir = TempDir::new();
    let handle = start(&config(&dir));
    let mut ours = Client::unix(&dir.join("s"));
    let integers: [&[u8]; 9] = [
        b"\x01a",
        b"\xf1",
        b"\xfd",
        b"\xfe\x80",
        b"\xc0\x00\x80",
        b"\xf0\x00\x00\x80",
        b"\xd0\x00\x00\x00\x80",
        b"\xe0\x00\x00\x00\x00\x00\x00\x00\x80",
        b"\x80\x00\x00\x00\x01b",
    ];
    let pairs: [&[u8]; 4] = [
        b"\x01f",
        b"\xf2",
        b"\x01g",
        b"\x401234567890123456789012345678901234567890123456789012345678901234",
    ];
    // A length of 14 bits has its high bits in the first byte.
    let long = [&b"\x40\x41"[..], &[b'y'; 65]].concat();
    let pairs = [pairs[0], pairs[1], pairs[2], &long];
    let scores: [&[u8]; 4] = [b"\x01m", b"\x032.5", b"\x01n", b"\xf4"];
    let zipmap = b"\x02\x01f\x03\x00abc\x01g\x02\x03vw\0\0\0\xff";
    // Lengths of 254 and more take five bytes.
    let long_zipmap = [b"\x01\x01f\xfe\x2c\x01\x00\x00\x01", &[b'z'; 300][..], b"\0\xff"].concat();
    let old_scores =
        [&[5][..], b"\x01a\xff", b"\x01b\xfe", b"\x01c\x013", b"\x01d\x04-2.5", b"\x01e\x051e-20"]
            .concat();
    let list = |count: u8, nodes: &[Vec<u8>]| [&[count][..], &nodes.concat()].concat();
    let long_string =
        |bytes: &[u8]| [&[0x40 | (bytes.len() >> 8) as u8, bytes.len() as u8], bytes].concat();
    let cases: Vec<(&str, u8, Vec<u8>)> = vec![
        ("list", 1, b"\x03\x01a\xc0\xff\xc2\x00\x00\x01\x00".to_vec()),
        ("set", 2, b"\x02\x01a\x01b".to_vec()),
        ("old-zset", 3, old_scores),
        ("hash", 4, b"\x02\x01a\x01b\x01c\x00".to_vec()),
        ("zset", 5, b"\x01\x01a\0\0\0\0\0\0\xf0\x3f".to_vec()),
        ("zipmap", 9, string(zipmap)),
        ("long-zipmap", 9, long_string(&long_zipmap)),
        ("list-ziplist", 10, string(&ziplist(&integers))),
        ("intset", 11, string(b"\x02\0\0\0\x02\0\0\0\xfe\xff\x07\0")),
        ("zset-ziplist", 12, string(&ziplist(&scores))),
        ("hash-ziplist", 13, long_string(&ziplist(&pairs))),
        ("quicklist", 14, list(2, &[string(&ziplist(&integers)), string(&ziplist(&pairs[..2]))])),
        (
            "quicklist-2",
            18,
            list(2, &[b"\x01\x03abc".to_vec(), b"\x02\x0a\x0a\0\0\0\x01\0\x81x\x02\xff".to_vec()]),
        ),
        ("lzf", 0, b"\xc3\x04\x0b\x01ab\x00\x01".to_vec()),
        ("lzf-right", 0, b"\xc3\x06\x0b\x01ab\xe0\x00\x01".to_vec()),
    ];
    for (name, type_code, value) in cases {
        let payload = payload_of(type_code, &value);
        let restore = [b"RESTORE", name.as_bytes(), b"0", &payload];
        let (our_answer, their_answer) = (ours.call(&restore), redis.call(&restore));
        assert_eq!(our_answer, their_answer, "{name}");
    }
    assert_eq!(keys(&mut redis).len(), 14, "all but the broken one are there");
    assert_same(&mut redis, &mut ours);
    stop(handle);
}

/// Streams of before Redis 7.0 say less; sets in listpacks and consumers with two times are newer than
/// the oracle.
#[test]
fn what_the_oracle_does_not_know_is_read_too() {
    let dir = TempDir::new();
    let handle = start(&config(&dir));
    let mut ours = Client::unix(&dir.join("s"));
    let node = b"\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01";
    // Two entries with field f: head 2,0,1,f,0; then 2,0,0,v,4 and 2,0,1,w,4.
    let items = b"\x02\x01\x00\x01\x01\x01\x81f\x02\x00\x01\x02\x01\x00\x01\x00\x01\x81v\x02\x04\x01\x02\x01\x00\x01\x01\x01\x81w\x02\x04\x01";
    let bytes = (6 + items.len() + 1) as u32;
    let listpack = [&bytes.to_le_bytes()[..], &15u16.to_le_bytes(), items, b"\xff"].concat();
    let group = |has_read: &[u8], active: &[u8]| {
        let time = 1000u64.to_le_bytes();
        [
            &b"\x01\x01g\x01\x01"[..],
            has_read,
            b"\x01",
            node,
            &time,
            b"\x03",
            b"\x01\x01c",
            &time,
            active,
            b"\x01",
            node,
        ]
        .concat()
    };
    let entries = [&b"\x01"[..], &string(node), &string(&listpack), b"\x02\x01\x02"].concat();
    let oldest = [&entries[..], &group(b"", b"")].concat();
    let newest =
        [&entries[..], b"\x01\x01\x00\x00\x05", &group(b"\x02", &1u64.to_le_bytes())].concat();
    let set = b"\x0a\x0a\0\0\0\x01\0\x81x\x02\xff";
    for (name, type_code, value) in
        [("15", 15, &oldest[..]), ("21", 21, &newest[..]), ("20", 20, &set[..])]
    {
        let payload = payload_of(type_code, value);
        let restore = [b"RESTORE", name.as_bytes(), b"0", &payload];
        assert_eq!(ours.call(&restore), Value::Simple("OK".into()), "{name}");
    }
    assert_eq!(run(&mut ours, "SMEMBERS 20"), Value::Array(vec![Value::Bulk(b"x".to_vec())]));
    let read = |ours: &mut Client, name: &str| {
        let Value::Array(groups) = run(ours, &format!("XINFO GROUPS {name}")) else { panic!() };
        let Value::Array(facts) = &groups[0] else { panic!() };
        (facts[9].clone(), facts[11].clone())
    };
    // One of two was read, which is the estimate of Redis 7.0; and what was said.
    assert_eq!(read(&mut ours, "15"), (Value::Integer(1), Value::Integer(1)));
    assert_eq!(read(&mut ours, "21"), (Value::Integer(2), Value::Integer(3)));
    for name in ["15", "21"] {
        let Value::Array(entries) = run(&mut ours, &format!("XRANGE {name} - +")) else { panic!() };
        assert_eq!(entries.len(), 2);
        let Value::Array(pending) = run(&mut ours, &format!("XPENDING {name} g")) else { panic!() };
        assert_eq!(pending[0], Value::Integer(1));
    }
    stop(handle);
}

#[test]
fn lengths_that_lie_are_refused_before_they_cost_memory() {
    let refused = |value: &[u8]| {
        let pieces = payload::read(value, 1 << 20, |_| Ok::<(), RdbError>(()));
        pieces.expect_err("it lies").problem
    };
    let huge = b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff";
    assert!(matches!(refused(&[&[0], &huge[..]].concat()), Problem::TooLong(..)));
    for type_code in [1, 2, 3, 4, 5, 14, 15, 18, 19, 21] {
        let value = [&[type_code], &huge[..], b"\x01a"].concat();
        let problem = refused(&value);
        assert!(!matches!(problem, Problem::TooLong(..)), "{type_code}: {problem}");
    }
    // Four bytes that become a mebibyte.
    let packed = b"\x00\xc3\x04\x80\x00\x10\x00\x00\x01ab\x00";
    assert!(matches!(refused(packed), Problem::Corrupt(_)));
    for type_code in [6, 8, 22, 23, 24, 25, 26, 99] {
        let problem = refused(&[type_code, 0]);
        assert!(matches!(problem, Problem::NotOffered(_) | Problem::UnknownType(_)));
    }
}

#[test]
fn files_of_other_versions_and_fields_are_read_or_refused_by_name() {
    let read = |text: &[u8]| events(text);
    let problem = |text: &[u8]| read(text).expect_err("refused").problem;
    assert_eq!(read(b"REDIS0001\xfe\x00\x00\x01k\x01v\xff").expect("no checksum yet").len(), 4);
    assert!(matches!(problem(b"REDIS0000\xff"), Problem::NotRdb));
    assert!(matches!(problem(b"REDIS0013\xff"), Problem::TooNew(13)));
    assert!(matches!(problem(b"RADIS0010\xff"), Problem::NotRdb));
    assert!(matches!(problem(b""), Problem::NotRdb));
    // A checksum of 0 says that there is none; any other must be right.
    assert!(read(b"REDIS0009\x00\x01k\x01v\xff\0\0\0\0\0\0\0\0").is_ok());
    let wrong = problem(b"REDIS0009\x00\x01k\x01v\xff\x01\0\0\0\0\0\0\0");
    assert!(matches!(wrong, Problem::Checksum { stored: 1, .. }));
    let skipped = read(
        b"REDIS0011\xf5\x03abc\xf4\x01\x02\x03\xf7\x81\x00\x00\x00\x00\x00\x00\x00\x01\x02\x01\x05\x02hi\x00\xf8\x05\xf9\x07\xfd\x01\x00\x00\x00\x00\x01k\x01v\xff\0\0\0\0\0\0\0\0",
    )
    .expect("a newer file");
    let names: Vec<String> = skipped.iter().map(|event| format!("{event:?}")).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(names[0].contains("functions") && names[1].contains("module AAAAAAAAA"));
    assert!(names[2].contains("Some(1000)"), "{names:?}");
    // The value of a module is read over and named.
    let module = read(b"REDIS0010\x07\x01k\x81\x00\x00\x00\x00\x00\x00\x00\x01\x02\x05\x04\0\0\0\0\0\0\0\0\x03\0\0\0\0\x00\xff\0\0\0\0\0\0\0\0");
    let module = module.expect("read over");
    assert!(matches!(&module[1], Event::Piece(Piece::Module(name)) if name == "AAAAAAAAA"));
    assert!(matches!(problem(b"REDIS0012\x18\x01k\x00"), Problem::NotOffered(_)));
    assert!(matches!(problem(b"REDIS0010\x06\x01k\x00"), Problem::NotOffered(_)));
    assert!(matches!(problem(b"REDIS0010\xf6\x01k\x00"), Problem::NotOffered(_)));
}

#[test]
fn restore_keeps_to_the_limits_of_commands() {
    let dir = TempDir::new();
    let config = hawser_kv::Config {
        bulk_bytes_max: 4096,
        request_bytes_max: 8192,
        output_bytes_max: 1 << 20,
        ..config(&dir)
    };
    let handle = start(&config);
    let mut ours = Client::unix(&dir.join("s"));
    // A payload is small, and what it holds is not: 4096 bytes are allowed, one more is not.
    let compressed = |bytes: usize| {
        let mut value = vec![0xc3];
        let copies = (bytes - 1) / 264;
        let rest = bytes - 1 - 264 * copies;
        let mut packed = vec![0, b'x'];
        packed.extend([0xe0, 255, 0].repeat(copies));
        if rest >= 9 {
            packed.extend([0xe0, (rest - 9) as u8, 0]);
        }
        value.extend([packed.len() as u8, 0x80]);
        value.extend((bytes as u32).to_be_bytes());
        value.extend(packed);
        payload_of(0, &value)
    };
    let restore = |name: &str, payload: &[u8]| {
        encode(&[b"RESTORE", name.as_bytes(), b"0", payload, b"REPLACE"])
    };
    ours.send(&restore("k", &compressed(4096)));
    assert_eq!(ours.receive(), Value::Simple("OK".into()));
    assert_eq!(run(&mut ours, "STRLEN k"), Value::Integer(4096));
    ours.send(&restore("k", &compressed(4097)));
    let answer = ours.receive();
    assert!(answer.is_error() && answer.text().contains("bulk_bytes_max"), "{answer:?}");
    assert_eq!(run(&mut ours, "STRLEN k"), Value::Integer(4096), "nothing was lost");

    // DUMP gives no more than an answer may have, and says so.
    let element = "x".repeat(4000);
    let mut pushed = 0;
    let answer = loop {
        run(&mut ours, &format!("RPUSH l {element}"));
        pushed += 1;
        let answer = ours.run("DUMP l");
        if answer.is_error() || pushed > 300 {
            break answer;
        }
    };
    assert!(answer.text().contains("output_bytes_max"), "{answer:?}");
    assert_eq!(pushed, (1 << 20) / 4002 + 1);
    stop(handle);
}
