//! Digests, and what does not fit together. The command line's part is tested where that is.

use std::path::{Path, PathBuf};
use std::process::Command;

use hawser_kv::Config;
use hawser_kv::backup::audit::{Audit, audit};
use hawser_kv::backup::restore::restore;
use hawser_kv::backup::stream::{CHUNK_BYTES, Meter, Streamed, stream};
use hawser_kv::backup::take::{Order, take};
use hawser_kv::backup::verify::{Content, directory};
use hawser_kv::store::database::Database;
use hawser_kv::store::layout::{self, Counted, Family, Header, Kind, List, Stream};
use hawser_kv::store::overlay::Overlay;
use hawser_kv::store::spaces::Selected;

use crate::support::{Client, TempDir, Value, config, start, stop};

/// Whatever has a digest, in some order.
const CONTENT: [&str; 17] = [
    "SET a one",
    "SET b two PXAT 4000000000000",
    "HSET h f1 v1 f2 v2 f3 v3",
    "SADD s x y z",
    "ZADD z 1 x -2.5 y inf w",
    "RPUSH l 1 2 3",
    "XADD x 5-1 f v",
    "XADD x 6-1 g w",
    "XADD x 7-1 g w",
    "XGROUP CREATE x g1 0",
    "XGROUP CREATE x g2 6-1",
    "XGROUP CREATECONSUMER x g1 c",
    "XCLAIM x g1 c 0 5-1 TIME 1000 RETRYCOUNT 3 FORCE",
    "XDEL x 7-1",
    "MOVE a 3",
    "NAMESPACE ADD n token",
    "SET c three",
];

fn content(config: &Config, as_of_ms: u64) -> Content {
    let scratch = config.dir.with_file_name("scratch");
    directory(&config.dir, Some(as_of_ms), &scratch, &mut |_| {}).expect("it can be looked at")
}

/// The digest of what commands make.
fn digest(commands: &[&str]) -> String {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    for command in commands {
        let answer = client.run(command);
        assert!(!answer.is_error(), "{command}: {answer:?}");
    }
    stop(server);
    let content = content(&config, 1);
    assert_eq!(content.findings.count, 0, "{:?}", content.findings);
    content.digest
}

/// `XGROUP CREATECONSUMER` and claims note the time, which is not the same twice.
fn without_times() -> Vec<&'static str> {
    CONTENT
        .into_iter()
        .filter(|command| !command.contains("CONSUMER") && !command.contains("XCLAIM"))
        .collect()
}

#[test]
fn a_digest_does_not_depend_on_the_layout() {
    let commands = without_times();
    let wanted = digest(&commands);
    assert_eq!(digest(&commands), wanted);
    // Other versions, other places in lists, other slots, garbage, and all of it compacted or not.
    let before = ["SET old 1", "DEL old", "LPUSH l 9 8", "LTRIM l 1 0", "HSET h old 1", "DEL h"];
    let after = ["LPUSH l 0", "LPOP l", "SADD s q", "SREM s q", "SWAPDB 0 5", "SWAPDB 5 0"];
    let detour: Vec<&str> = [&before[..], &commands, &after].concat();
    assert_eq!(digest(&detour), wanted);
}

#[test]
fn a_digest_depends_on_everything_that_can_be_read() {
    let commands = without_times();
    let wanted = digest(&commands);
    for change in [
        "SET b two",
        "SET b Two PXAT 4000000000000",
        "PEXPIREAT b 4000000000001",
        "HSET h f1 v2",
        "HDEL h f1",
        "SREM s x",
        "ZADD z 1.5 x",
        "LSET l 0 2",
        "RPUSH l 4",
        "XADD x 8-1 f v",
        "XSETID x 9-1",
        "XGROUP SETID x g1 5-1",
        "XGROUP DESTROY x g2",
        "XREADGROUP GROUP g1 c COUNT 1 STREAMS x >",
        "RENAME s t",
        "MOVE c 1",
        "SWAPDB 3 4",
        "NAMESPACE SET n other",
        "DEL c",
    ] {
        let changed: Vec<&str> = commands.iter().copied().chain([change]).collect();
        assert_ne!(digest(&changed), wanted, "{change}");
    }
}

/// What has expired counts as there as of before, and not as of after.
#[test]
fn a_digest_is_of_a_moment() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    client.run("SET a 1 PXAT 4000000000000");
    client.run("SET b 1");
    stop(server);
    assert_eq!(content(&config, 3_999_999_999_999).keys, 2);
    assert_eq!(content(&config, 4_000_000_000_000).keys, 1);
}

/// Looking at a directory changes no byte of it.
#[test]
fn looking_changes_nothing() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    CONTENT.iter().for_each(|command| assert!(!client.run(command).is_error(), "{command}"));
    // As a crash leaves it: with a log to replay, and half a record at its end.
    let Value::Array(made) = client.run("CHECKPOINT ADD c") else { panic!("no checkpoint") };
    let path = PathBuf::from(made[1].text());
    stop(server);
    let log = path.join("log");
    let last = files(&log).into_iter().max().expect("a segment").0;
    let mut bytes = std::fs::read(&last).expect("read");
    bytes.extend_from_slice(b"torn");
    std::fs::write(&last, &bytes).expect("written");
    let before = files(&path);
    let config = Config { dir: path, ..config };
    let found = content(&config, 1);
    assert_eq!((found.keys, found.torn.map(|torn| torn.bytes)), (8, Some(4)));
    assert_eq!(files(&config.dir), before);
}

/// Every file below, with what is in it.
fn files(dir: &std::path::Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.clone(), std::fs::read(&path).expect("read")));
        }
    }
    found.sort();
    found
}

/// A folder on the disk that this was built on; what is temporary may be in memory.
struct OnDisk(PathBuf);

impl OnDisk {
    fn new(name: &str) -> OnDisk {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("hkv-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        OnDisk(path)
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What of a file is in the page cache, as the kernel says.
fn cached_bytes(path: &Path) -> u64 {
    let output = Command::new("fincore").args(["-b", "-n", "-o", "RES"]).arg(path).output();
    let said = String::from_utf8(output.expect("util-linux has fincore").stdout).expect("text");
    said.trim().parse().expect("a number")
}

fn streamed(from: &Path, to: Option<&Path>) -> Streamed {
    stream(from, to, &mut Meter::new(0, None, &mut |_| {})).expect("a stream")
}

/// What was not in the page cache is not there afterwards, and what was there stays.
#[test]
fn a_stream_goes_around_the_page_cache() {
    let dir = OnDisk::new("stream");
    let file = |name: &str| dir.0.join(name);
    // A whole number of chunks and of blocks, one byte less, one more, one block more, and nothing.
    for bytes in [2 * CHUNK_BYTES, 2 * CHUNK_BYTES - 1, 2 * CHUNK_BYTES + 1, CHUNK_BYTES + 4096, 0]
    {
        let content: Vec<u8> = (0..bytes).map(|at| (at / 7 % 251) as u8).collect();
        std::fs::write(file("a"), &content).expect("written");
        let first = streamed(&file("a"), Some(&file("b")));
        let checks = content.chunks(CHUNK_BYTES).map(crc32c::crc32c).collect();
        assert_eq!(first, Streamed { bytes: bytes as u64, checks });
        // The part of a block at its end is written as any other file is.
        let of_end = 4096 * u64::from(!bytes.is_multiple_of(4096));
        assert_eq!(cached_bytes(&file("b")), of_end, "{bytes} written");

        assert_eq!(streamed(&file("b"), Some(&file("c"))), first);
        assert_eq!(streamed(&file("b"), None), first);
        assert_eq!(cached_bytes(&file("b")), of_end, "{bytes} read");

        assert_eq!(std::fs::read(file("b")).expect("read"), content);
        let cached = cached_bytes(&file("b"));
        assert!(cached >= bytes as u64);
        streamed(&file("b"), None);
        assert_eq!(cached_bytes(&file("b")), cached, "{bytes} stay");
        assert_eq!(std::fs::read(file("c")).expect("read"), content);
        for name in ["a", "b", "c"] {
            std::fs::remove_file(file(name)).expect("it was made above");
        }
    }
    let error = stream(&file("none"), None, &mut Meter::new(0, None, &mut |_| {}));
    assert_eq!(error.expect_err("there is none").error.kind(), std::io::ErrorKind::NotFound);
}

/// Nor does the walk that makes the digest leave anything of the data there.
#[test]
fn a_backup_goes_around_the_page_cache() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    for number in 0..2_000_u64 {
        // Hardly compressible.
        let mixed = (1..100).map(|at| (number * 100 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let value: String = mixed.map(|mixed| format!("{mixed:016x}")).collect();
        client.run(&format!("SET {number} {value}"));
    }
    stop(server);
    let disk = OnDisk::new("backup");
    let taken = |checkpoint: &Path, name: &str| {
        let (path, scratch) = (disk.0.join(name), &disk.0.join("scratch"));
        let order = Order { checkpoint, path: &path, bytes_per_s_max: None, scratch };
        take(&order, &mut |_| {}).expect("a backup").manifest
    };
    let first = taken(&config.dir, "first");
    let restored = disk.0.join("restored");
    restore(&disk.0.join("first"), &restored, None, &mut |_| {}).expect("restored");
    let of_data = || -> (u64, u64) {
        let files = std::fs::read_dir(restored.join("rocksdb")).expect("a folder");
        let data = files.map(|entry| entry.expect("an entry").path()).filter(|path| {
            path.extension().is_some_and(|extension| extension == "sst" || extension == "blob")
        });
        data.fold((0, 0), |(bytes, cached), path| {
            let len = path.metadata().expect("it is there").len();
            (bytes + len, cached + cached_bytes(&path))
        })
    };
    let (bytes, cached) = of_data();
    let ends = cached;
    assert!(bytes > 1 << 20 && ends < bytes / 10, "{ends} of {bytes} after a restore");
    let second = taken(&restored, "second");
    assert_eq!((second.keys, &second.digest), (2_000, &first.digest));
    let (_, cached) = of_data();
    assert!(cached <= ends, "{cached} of {bytes} after a backup, {ends} before");
}

/// Rows that no command writes, one after the other, and what is said of each.
#[test]
fn what_does_not_fit_together_is_named() {
    let header = |kind| Header { kind, expires_at_ms: 0 };
    let hash = |members| Counted { version: 7, members }.encode(header(Kind::Hash));
    let row = |name: &[u8]| layout::member_key(b"k", 7, name);
    let placed = |member: &[u8]| row(&layout::placed_name(member));
    let zset = |members| Counted { version: 7, members }.encode(header(Kind::SortedSet));
    let one = 1f64.to_be_bytes().to_vec();
    let list = List { version: 7, head: 10, tail: 12 }.encode(0);
    let id = layout::StreamId { ms: 5, seq: 0 };
    let stream = Stream { version: 7, length: 1, last: id, first: id, ..Stream::default() };
    let entry = (row(&layout::entry_name(id)), Vec::new());
    type Rows = Vec<(Vec<u8>, Vec<u8>)>;
    let check = |metadata: Vec<u8>, rows: Rows, expect: &str| {
        let found = audited(metadata, rows);
        match expect {
            "" => assert_eq!(found.findings.count, 0, "{:?}", found.findings),
            _ => {
                let first = found.findings.first.join("\n");
                assert!(first.contains(expect), "{expect}: {first:?}");
                assert!(first.starts_with("key \"k\" in database 0: "), "{first}");
            }
        }
    };
    let field = || (placed(b"f"), b"v".to_vec());
    check(hash(1), vec![field()], "");
    check(hash(2), vec![field()], "it says 2 members, and has 1");
    check(hash(1), vec![field(), (placed(b"g"), Vec::new())], "it says 1 members, and has 2");
    check(hash(1), vec![(row(b"\x05x"), Vec::new())], "that no command finds");
    let scored = || (row(&layout::scored_name(1.0, b"f")), Vec::new());
    check(zset(1), vec![(placed(b"f"), one.clone()), scored()], "");
    check(zset(1), vec![(placed(b"f"), one.clone())], "is not where its score 1 is");
    let stray = (row(&layout::scored_name(2.0, b"g")), Vec::new());
    check(
        zset(1),
        vec![(placed(b"f"), one), scored(), stray],
        "says 1 members by score, and has 2",
    );
    let element = |index: u64| (row(&index.to_be_bytes()), b"e".to_vec());
    check(list.clone(), vec![element(10), element(11)], "");
    // What a list has left behind is no mistake.
    check(list.clone(), vec![element(9), element(10), element(11), element(12)], "");
    check(list, vec![element(10), element(12)], "element 1 of 2 is missing");
    check(stream.encode(0), vec![entry.clone()], "");
    check(
        Stream { length: 2, ..stream }.encode(0),
        vec![entry.clone()],
        "says 2 entries, and has 1",
    );
    check(
        Stream { groups: 1, ..stream }.encode(0),
        vec![entry.clone()],
        "says 1 groups, and has 0",
    );
    let below = layout::StreamId { ms: 4, seq: 0 };
    check(Stream { last: below, ..stream }.encode(0), vec![entry.clone()], "is above");
    check(Stream { first: below, ..stream }.encode(0), vec![entry.clone()], "first entry");
    let pending = (row(&layout::pending_name(1, id)), Vec::new());
    check(stream.encode(0), vec![entry, pending], "it says 0 rows of groups, and has 1");
    check(b"\x09nonsense".to_vec(), vec![], "a row of it is malformed");
}

fn audited(metadata: Vec<u8>, rows: Vec<(Vec<u8>, Vec<u8>)>) -> Audit {
    let dir = TempDir::new();
    let database = Database::open(dir.path(), 1 << 20, 1 << 20).expect("a database");
    let mut overlay = Overlay::new(&database, 1);
    overlay.select(Selected::default());
    overlay.put(Family::Metadata, layout::metadata_key(b"k"), metadata);
    for (key, value) in rows {
        overlay.put(Family::Member, key, value);
    }
    let record = overlay.encode();
    database.apply(1, &record).expect("applied");
    audit(&database, 1, &mut |_| {}).expect("it can be read")
}
