//! `hawser kv` with real processes: backups under writes, damage, and SIGKILL in the middle.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Generous: it is there to end a hang.
const DEADLINE: Duration = Duration::from_secs(120);

/// A store, in a directory of its own with all that a test makes.
struct Store {
    child: Option<Child>,
    folder: PathBuf,
}

impl Store {
    fn start() -> Store {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, SeqCst);
        let folder = std::env::temp_dir().join(format!("hkvo-{}-{number}", std::process::id()));
        fs::create_dir_all(folder.join("scratch")).unwrap();
        let mut store = Store { child: None, folder };
        store.start_on("data");
        store
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn start_on(&mut self, data: &str) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hawser"))
            .args(["kv", "start", "--listen", "", "--set", "log_segment_mib=1"])
            .args(["--set", "memtable_mib=1", "--set", "cache_mib=8", "--unix"])
            .arg(self.path("s"))
            .arg("--dir")
            .arg(self.path(data))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("hawser-kv ready on "), "{line:?}");
        self.child = Some(child);
    }

    fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        assert!(child.wait().unwrap().success());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn client(&self) -> redis::Connection {
        let url = format!("redis+unix://{}", self.path("s").display());
        redis::Client::open(url).unwrap().get_connection().unwrap()
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser"));
        command.arg("kv").args(line).env_clear().env("HAWSER_KV", self.path("s"));
        command.env("TMPDIR", self.path("scratch")).current_dir(&self.folder);
        command
    }

    fn json(&self, line: &[&str]) -> Value {
        let output = self.command(&[line, &["--json"]].concat()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line:?}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// What it prints, with exit code 1.
    fn refused(&self, line: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(line).output().unwrap();
        let text = [stdout, stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(status.code(), Some(1), "{line:?}: {text}");
        text
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Of every type, so much that segments and files turn over.
fn write(client: &mut redis::Connection, writer: u64, number: u64) {
    let text = format!("{number} ").repeat(100);
    let of = |kind: &str| format!("{kind}:{writer}:{}", number % 97);
    let mut all = redis::pipe();
    all.atomic();
    all.cmd("SET").arg(format!("s:{writer}:{number}")).arg(&text);
    all.cmd("SET").arg(of("t")).arg(&text).arg("PX").arg(1 + number % 3 * 1_000_000);
    all.cmd("HSET").arg(of("h")).arg(number).arg(&text);
    all.cmd("SADD").arg(of("m")).arg(number);
    all.cmd("ZADD").arg(of("z")).arg(number as f64 / 3.0).arg(number);
    all.cmd("RPUSH").arg(of("l")).arg(number);
    all.cmd("LPOP").arg(of("l"));
    all.cmd("LPUSH").arg(of("l")).arg(&text);
    all.cmd("XADD").arg(of("x")).arg("*").arg("f").arg(number);
    all.cmd("DEL").arg(format!("s:{writer}:{}", number / 2));
    all.exec(client).unwrap();
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "not {what} in time");
        std::thread::yield_now();
    }
}

/// Writes while `work` is done, which is told how many groups were written.
fn under_writes(store: &Store, work: impl FnOnce(&AtomicU64)) {
    let (written, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (mut client, written, is_over) = (store.client(), &written, &is_over);
            scope.spawn(move || {
                let mut number = 0;
                while !is_over.load(SeqCst) {
                    write(&mut client, writer, number);
                    written.fetch_add(1, SeqCst);
                    number += 1;
                }
            });
        }
        work(&written);
        is_over.store(true, SeqCst);
    });
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[test]
fn a_backup_under_writes_restores_to_its_digest() {
    let mut store = Store::start();
    let mut taken = Vec::new();
    under_writes(&store, |written| {
        for name in ["one", "two", "three"] {
            let before = written.load(SeqCst);
            until("written", || written.load(SeqCst) > before + 1000);
            taken.push(store.json(&["backup", "backups", "--name", name]));
        }
        let verified = store.json(&["verify"]);
        assert_eq!(verified["problems"], Value::Array(vec![]), "{verified}");
    });
    assert_eq!(store.json(&["checkpoint", "list"])["checkpoints"], Value::Array(vec![]));
    for (name, taken) in ["one", "two", "three"].into_iter().zip(&taken) {
        let path = format!("backups/{name}");
        let verified = store.json(&["verify", "--deep", &path]);
        assert_eq!(verified["problems"], Value::Array(vec![]), "{verified}");
        let restored = store.json(&["restore", &path, name]);
        assert_eq!(restored["digest"], taken["digest"]);
        let as_of = taken["taken_ms"].to_string();
        let verified = store.json(&["verify", name, "--as-of", &as_of]);
        for field in ["digest", "keys", "sequence"] {
            assert_eq!(verified[field], taken[field], "{field}");
        }
        assert_eq!(verified["torn_bytes"], 0);
    }
    // Each is whole by itself.
    fs::remove_dir_all(store.path("backups/one")).unwrap();
    store.json(&["verify", "--deep", "backups/three"]);
    store.stop();
    store.start_on("three");
    let keys: u64 = redis::cmd("DBSIZE").query(&mut store.client()).unwrap();
    assert!(keys > 1000, "{keys}");
    assert_eq!(store.json(&["verify"])["problems"], Value::Array(vec![]));
}

fn small() -> Store {
    let store = Store::start();
    let mut client = store.client();
    (0..30).for_each(|number| write(&mut client, 0, number));
    redis::cmd("SET").arg("large").arg(vec![7u8; 100_000]).exec(&mut client).unwrap();
    store
}

/// What the last backup in the folder has is linked from there, and is none the worse when that one goes.
#[test]
fn the_next_backup_copies_only_what_is_new() {
    let mut store = small();
    store.stop();
    // With the second start all of it is in files that never change.
    store.start_on("data");
    let first = store.json(&["backup", "backups", "--name", "one"]);
    assert_eq!((&first["linked_files"], &first["copied_bytes"]), (&0.into(), &first["bytes"]));
    let mut client = store.client();
    redis::cmd("SET").arg("one").arg("more").exec(&mut client).unwrap();
    let second = store.json(&["backup", "backups", "--name", "two"]);
    assert!(second["linked_files"].as_u64() > Some(0), "{second}");
    assert!(second["copied_bytes"].as_u64() < first["copied_bytes"].as_u64(), "{second}");
    assert_ne!(second["digest"], first["digest"]);
    fs::remove_dir_all(store.path("backups/one")).unwrap();
    store.json(&["verify", "--deep", "backups/two"]);
}

/// Every file below.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_of_each_file_is_named_with_its_place() {
    let mut store = small();
    store.stop();
    // A second start has flushed, so that there are files of every sort.
    store.start_on("data");
    store.json(&["backup", "backups", "--name", "one"]);
    let files = files(&store.path("backups/one"));
    let is_there = |end: &str| files.iter().any(|file| file.to_string_lossy().ends_with(end));
    assert!(is_there(".sst") && is_there(".blob") && is_there(".log") && is_there("/manifest"));
    for file in &files {
        let name = file.strip_prefix(&store.folder).unwrap().display().to_string();
        let whole = fs::read(file).unwrap();
        if whole.is_empty() {
            continue;
        }
        for offset in [0, whole.len() / 2, whole.len() - 1] {
            flip(file, offset);
            let found = store.refused(&["verify", "backups/one"]);
            assert!(found.contains(&name), "{name}: {found}");
            if !name.ends_with("manifest") {
                let place = format!("(bytes 0 to {})", whole.len());
                assert!(found.contains(&place), "{place}: {found}");
            }
            let refused = store.refused(&["restore", "backups/one", "restored"]);
            assert!(refused.contains(&name), "{name}: {refused}");
            assert!(!store.path("restored").exists());
            fs::write(file, &whole).unwrap();
        }
        fs::write(file, &whole[..whole.len() - 1]).unwrap();
        assert!(store.refused(&["verify", "backups/one"]).contains(&name));
        fs::remove_file(file).unwrap();
        let missing = store.refused(&["verify", "backups/one"]);
        assert!(missing.contains(&name) || name.ends_with("manifest"), "{name}: {missing}");
        fs::write(file, &whole).unwrap();
    }
    let strange = store.path("backups/one/data/rocksdb/999999.sst");
    fs::write(&strange, "x").unwrap();
    assert!(store.refused(&["verify", "backups/one"]).contains("999999.sst"));
    fs::remove_file(&strange).unwrap();
    store.json(&["verify", "--deep", "backups/one"]);
}

#[test]
fn damage_of_a_data_directory_is_named() {
    let mut store = small();
    let held = store.refused(&["verify", "data"]);
    assert!(held.contains("is in use by a running server"), "{held}");
    store.kill();
    // Killed, so the log has everything; started and stopped, so RocksDB's files have it.
    store.json(&["verify", "data"]);
    let log = |store: &Store| {
        let mut logs = files(&store.path("data/log"));
        logs.retain(|log| fs::metadata(log).unwrap().len() > 28);
        logs.remove(0)
    };
    let damaged = log(&store);
    flip(&damaged, 100);
    let found = store.refused(&["verify", "data"]);
    assert!(found.contains("damaged at byte 28"), "{found}");
    flip(&damaged, 100);
    store.start_on("data");
    store.stop();
    let whole = store.json(&["verify", "data"]);
    let mut seen = 0;
    for file in files(&store.path("data/rocksdb")) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let is_of_data = name.ends_with(".sst") || name.ends_with(".blob");
        if is_of_data || name.starts_with("MANIFEST") {
            flip(&file, 40);
            let found = store.refused(&["verify", "data"]);
            let part = match name.rsplit_once('.') {
                Some((_, "sst")) => name.as_str(),
                Some(_) => "(in the ",
                None => "data: ",
            };
            assert!(found.contains(part), "{name} should say {part}: {found}");
            flip(&file, 40);
            seen += 1;
        }
    }
    assert!(seen > 2, "{seen} files");
    let as_of = whole["as_of_ms"].to_string();
    assert_eq!(store.json(&["verify", "data", "--as-of", &as_of])["digest"], whole["digest"]);
}

/// Starts a command and kills it when `is_reached`.
fn kill_when(store: &Store, line: &[&str], what: &str, is_reached: impl Fn() -> bool) {
    let mut command = store.command(line);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until(what, || {
        let is_over = child.try_wait().unwrap().is_some();
        assert!(!is_over, "it was done before it was killed");
        is_reached()
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn killed_in_the_middle_nothing_half_done_is_taken_for_whole() {
    let store = small();
    let mut client = store.client();
    for number in 0..64 {
        let key = format!("large:{number}");
        redis::cmd("SET").arg(key).arg(vec![number as u8; 120_000]).exec(&mut client).unwrap();
    }
    let names = |dir: &str| {
        let entries = fs::read_dir(store.path(dir)).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    // At one MiB a second it takes some seconds.
    let slow = ["backup", "backups", "--name", "one", "--rate-mib", "1"];
    for _ in 0..2 {
        let copied = store.path("backups/.one.unfinished/data/log");
        kill_when(&store, &slow, "copying", || {
            fs::read_dir(&copied).is_ok_and(|mut entries| entries.next().is_some())
        });
        assert_eq!(names("backups"), [".one.unfinished"]);
    }
    store.json(&["backup", "backups", "--name", "one"]);
    assert_eq!(names("backups"), ["one"]);
    assert_eq!(store.json(&["checkpoint", "list"])["checkpoints"], Value::Array(vec![]));
    store.json(&["verify", "--deep", "backups/one"]);

    let slow = ["restore", "backups/one", "restored/here", "--rate-mib", "1"];
    for _ in 0..2 {
        let copied = store.path("restored/.here.unfinished/log");
        kill_when(&store, &slow, "copying", || {
            fs::read_dir(&copied).is_ok_and(|mut entries| entries.next().is_some())
        });
        assert_eq!(names("restored"), [".here.unfinished"]);
    }
    store.json(&["restore", "backups/one", "restored/here"]);
    assert_eq!(names("restored"), ["here"]);
    store.json(&["verify", "restored/here"]);

    let dump = ["dump", "out/file.rdb", "--one-moment"];
    fs::create_dir(store.path("out")).unwrap();
    kill_when(&store, &dump, "making its store", || !names("scratch").is_empty());
    assert_eq!(names("out"), ["file.rdb.partial"]);
    store.json(&dump);
    assert_eq!(names("out"), ["file.rdb"]);
    assert_eq!(store.json(&["checkpoint", "list"])["checkpoints"], Value::Array(vec![]));
    assert!(names("scratch").is_empty(), "{:?}", names("scratch"));
}

#[test]
fn what_stands_in_the_way_is_said() {
    let store = small();
    store.json(&["backup", "backups", "--name", "one"]);
    let check = |line: &[&str], part: &str| {
        let said = store.refused(line);
        assert!(said.contains(part), "{line:?} should say {part:?}: {said}");
    };
    check(&["backup", "backups", "--name", "one"], "there is a backup");
    check(&["backup", "backups", "--name", "../one"], "a name has letters");
    check(&["restore", "backups/one", "data"], "data is not empty");
    check(&["restore", "backups", "new"], "is no backup");
    check(&["verify", "backups"], "is this a data directory of hawser-kv?");
    check(&["get", "nokey"], "there is no key");
    check(&["info", "nosection"], "there is no such section");
    check(&["checkpoint", "add", "a/b"], "a name has 1 to 64 letters");
    check(&["checkpoint", "del", "nope"], "there is no checkpoint `nope`");
    check(&["get", "a", "--store", "127.0.0.1:1"], "no store answers at 127.0.0.1:1");
    let wrong = store.command(&["get", "a"]).env("HAWSER_KV_PASSWORD", "wrong").output().unwrap();
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("/s: ERR AUTH <password> called without any"), "{said}");
    for line in [
        &["verify", "--deep", "data"][..],
        &["checkpoint", "add", "held-one"],
        &["load", "dump.rdb", "--follow"],
    ] {
        let usage = store.command(line).output().unwrap();
        assert_eq!(usage.status.code(), Some(2), "{line:?}");
    }
    // Into an empty directory, which exists, it restores, and keeps out whom that kept out.
    fs::create_dir(store.path("empty")).unwrap();
    fs::set_permissions(store.path("empty"), fs::Permissions::from_mode(0o710)).unwrap();
    store.json(&["restore", "backups/one", "empty"]);
    assert!(store.path("empty/format").exists());
    assert_eq!(store.path("empty").metadata().unwrap().permissions().mode() & 0o777, 0o710);
    check(&["dump", "backups"], "backups is a directory; name a file in it");
    let partial = fs::File::create(store.path("two.rdb.partial")).unwrap();
    partial.lock().unwrap();
    check(&["dump", "two.rdb"], "two.rdb.partial is being written by another process");
    drop(partial);
    store.json(&["dump", "two.rdb"]);
    assert!(!store.path("two.rdb.partial").exists());
    // A folder that another backup uses is left alone.
    let folder = fs::File::open(store.path("backups")).unwrap();
    folder.lock().unwrap();
    check(&["backup", "backups", "--name", "two"], "is being used by another backup");
}

#[test]
fn keys_and_figures_are_shown() {
    let store = Store::start();
    let mut client = store.client();
    let mut all = redis::pipe();
    all.cmd("SET").arg("text").arg("hello").cmd("SET").arg("bytes").arg(&[0xffu8, 0][..]);
    all.cmd("HSET").arg("hash").arg("f").arg("v").cmd("SADD").arg("set").arg("m");
    all.cmd("ZADD").arg("zset").arg(1.5).arg("m").cmd("RPUSH").arg("list").arg("a").arg("b");
    all.cmd("XADD").arg("stream").arg("1-1").arg("f").arg("v");
    all.cmd("PEXPIRE").arg("hash").arg(1_000_000);
    for number in 0..100 {
        all.cmd("SADD").arg("big").arg(number);
    }
    all.exec(&mut client).unwrap();
    for (key, kind, value) in [
        ("text", "string", r#""hello""#),
        ("bytes", "string", r#"{"base64":"/wA="}"#),
        ("hash", "hash", r#"[["f","v"]]"#),
        ("set", "set", r#"["m"]"#),
        ("zset", "zset", r#"[["m","1.5"]]"#),
        ("list", "list", r#"["a","b"]"#),
        ("stream", "stream", r#"[["1-1",["f","v"]]]"#),
    ] {
        let got = store.json(&["get", key]);
        assert_eq!((text(&got["type"]), got["value"].to_string()), (kind, value.to_string()));
        assert_eq!(got["ttl_ms"].is_null(), key != "hash");
    }
    let got = store.json(&["get", "list", "--limit", "1"]);
    assert_eq!((got["value"].to_string(), &got["has_more"]), (r#"["a"]"#.into(), &true.into()));
    let raw = store.command(&["get", "bytes"]).output().unwrap();
    assert_eq!(raw.stdout, [0xff, 0, b'\n']);

    let info = store.json(&["info", "server"]);
    assert!(info["server"]["uptime_in_seconds"].is_number(), "{info}");
    let top = store.json(&["top", "--count", "1"]);
    let sets = &top["types"]["set"];
    assert_eq!((&sets["keys"], sets["largest"].as_array().unwrap().len()), (&2.into(), 1));
    assert_eq!(
        (&sets["largest"][0]["key"], &sets["largest"][0]["length"]),
        (&"big".into(), &100.into())
    );
    assert_eq!(top["types"]["string"]["keys"], 2);
    let elsewhere = store.json(&["top", "--db", "1"]);
    assert_eq!(elsewhere["types"].as_object().unwrap().len(), 0);

    let made = store.json(&["checkpoint", "add", "c"]);
    assert!(Path::new(text(&made["path"])).join("format").exists());
    assert_eq!(store.json(&["checkpoint", "list"])["checkpoints"][0], "c");
    store.json(&["checkpoint", "del", "c"]);
}
