//! No more room: writes are refused and say why, reads go on, nothing answered is lost, and writes work
//! again when there is room, without a restart.
//!
//! The room is taken away by the file size limit of the process, which needs no privileges and hits
//! the log in the middle of a record. It can be given back while the process runs. Where only one of
//! log and database shall be full, its directory is a small disk of its own: a tmpfs that only the
//! process sees ([`SmallDisk`]).

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Client, Process, TempDir, Value, binary, config, encode, until};
use hawser_kv::Config;
use hawser_kv::command::error::OUTCOME_OPEN;
use hawser_kv::config::Durability;

const LIMIT_BYTES: u64 = 600 * 1024;

fn key(number: u64) -> String {
    format!("key:{number}")
}

fn value(number: u64) -> String {
    format!("{number} ").repeat(400)
}

fn set_limit(process: &Process, bytes: &str) {
    let pid = process.child.id().to_string();
    let limit = format!("--fsize={bytes}:");
    let done = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(done.expect("prlimit is installed (util-linux)").success());
}

#[test]
fn writes_are_refused_until_there_is_room_again() {
    let dir = TempDir::new();
    let config = config(&dir);
    // The signal that comes with the error would end the process; real full disks send none.
    let server = binary(&config);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(server.get_program());
    command.args(server.get_args());
    let process = Process::start(&mut command);
    let mut client = Client::unix(&config.unix);

    set_limit(&process, &LIMIT_BYTES.to_string());
    let mut answered = 0;
    let refusal = loop {
        match client.call(&["SET", &key(answered), &value(answered)]) {
            Value::Simple(_) => answered += 1,
            other => break other.text(),
        }
        assert!(answered < 10_000, "the limit does not work");
    };
    assert!(refusal.starts_with("IOERR disk full: nothing was written"), "{refusal}");
    assert!(answered > 100, "only {answered} fitted");

    // Reads go on, also for others, and the refused write did not happen.
    let mut other = Client::unix(&config.unix);
    for number in 0..answered {
        assert_eq!(other.call(&["GET", &key(number)]), Value::Bulk(value(number).into_bytes()));
    }
    assert_eq!(other.call(&["GET", &key(answered)]), Value::Null);
    assert!(other.call(&["SET", "large", &value(7)]).is_error(), "there still is no room");

    set_limit(&process, "unlimited");
    for number in answered..answered + 300 {
        let done = client.call(&["SET", &key(number), &value(number)]);
        assert_eq!(done, Value::Simple("OK".into()));
    }
    process.kill();

    let process = Process::start(&mut binary(&config));
    let mut client = Client::unix(&config.unix);
    for number in 0..answered + 300 {
        assert_eq!(client.call(&["GET", &key(number)]), Value::Bulk(value(number).into_bytes()));
    }
    assert_eq!(client.run("DBSIZE"), Value::Integer(answered as i64 + 300));
    process.kill();
}

/// A running `hawser-kv` that has one of its directories on a disk of its own. Needs no privileges where
/// users may make namespaces.
struct SmallDisk {
    process: Process,
    /// The directory, as seen from outside the process.
    path: PathBuf,
    filler: Option<File>,
}

const PAGE: u64 = 4096;

impl SmallDisk {
    fn start(config: &Config, name: &str, bytes: u64) -> SmallDisk {
        let dir = config.dir.join(name);
        fs::create_dir_all(&dir).expect("a directory");
        let mount = format!("mount -t tmpfs -o size={bytes} small \"$1\"; shift; exec \"$@\"");
        let server = binary(config);
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", &mount, "sh"]);
        command.arg(&dir).arg(server.get_program()).args(server.get_args());
        let process = Process::start(&mut command);
        let dir = dir.strip_prefix("/").expect("an absolute path");
        let path = PathBuf::from(format!("/proc/{}/root", process.child.id())).join(dir);
        SmallDisk { process, path, filler: None }
    }

    /// Takes all room but so many pages.
    fn fill(&mut self, left: u64) {
        let mut filler = File::create(self.path.join("filler")).expect("a file");
        let mut bytes = 0;
        while filler.write_all(&[0; PAGE as usize]).is_ok() {
            bytes += PAGE;
        }
        filler.set_len(bytes - left * PAGE).expect("shorter than it is");
        self.filler = Some(filler);
    }

    fn make_room(&mut self) {
        self.filler.take().expect("it was full").set_len(0).expect("shorter than it is");
    }
}

/// A segment of the log is full and there is no page for the next one, but some bytes are left in the
/// last page of this one: it goes on, and a restart misses nothing.
#[test]
fn a_log_segment_that_cannot_be_made_is_not_missed() {
    let dir = TempDir::new();
    // The database writes nothing out, so that the log alone holds everything, and no segment is made
    // beforehand.
    let durability = Durability::EverySec;
    let config = Config { memtable_mib: 64, durability, ..config(&dir) };
    let mut disk = SmallDisk::start(&config, "log", 8 << 20);
    let mut client = Client::unix(&config.unix);
    let segment = disk.path.join("00000000000000000001.log");
    let length = || fs::metadata(&segment).expect("the first segment").len();
    let mut answered = 0;
    let mut set = |bytes: usize| {
        let done = client.call(&["SET", &key(answered), &"v".repeat(bytes)]);
        assert_eq!(done, Value::Simple("OK".into()));
        answered += 1;
    };
    let full = 1 << 20;
    while length() < full - 2 * PAGE {
        set(PAGE as usize - 100);
    }
    while length() < full - PAGE / 2 {
        set(100);
    }
    disk.fill(1);
    (0..20).for_each(|_| set(100));
    assert!((full + 200..full + PAGE).contains(&length()), "{}", length());

    // What a crash at this moment leaves of the log, and a new database.
    let other = TempDir::new();
    let left = Config { ..crate::support::config(&other) };
    fs::create_dir_all(left.dir.join("log")).expect("a directory");
    for entry in fs::read_dir(&disk.path).expect("the log") {
        let path = entry.expect("an entry").path();
        if let Some(name) = path.file_name().filter(|name| *name != "filler") {
            fs::copy(&path, left.dir.join("log").join(name)).expect("copied");
        }
    }
    fs::copy(config.dir.join("format"), left.dir.join("format")).expect("copied");
    disk.make_room();
    set(100);
    // It is made after the answer.
    let files = || fs::read_dir(&disk.path).expect("the log").count();
    until("a new segment", || (files() == 3).then_some(()));
    disk.process.kill();

    let process = Process::start(&mut binary(&left));
    assert_eq!(Client::unix(&left.unix).run("DBSIZE"), Value::Integer(answered as i64 - 1));
    process.kill();
}

/// The database has no room for a transaction that is in the log, exchanges databases and makes a namespace.
/// Nobody sees any of it, and no other is run over it, until there is room; then all of it is there, also
/// after a restart.
#[test]
fn databases_are_moved_late_when_there_is_no_room() {
    let dir = TempDir::new();
    let config = config(&dir);
    let mut disk = SmallDisk::start(&config, "rocksdb", 32 << 20);
    let mut writer = Client::unix(&config.unix);
    disk.fill(0);
    let mut number = 0;
    let open = loop {
        assert!(number < 10_000, "the database still takes writes");
        writer.send(&encode(&["MULTI"]));
        writer.send(&encode(&["SET", &key(number), &value(number)]));
        writer.send(&encode(&["SWAPDB", "0", "1"]));
        writer.send(&encode(&["NAMESPACE", "ADD", &format!("n{number}"), &format!("t{number}")]));
        writer.send(&encode(&["EXEC"]));
        (0..4).for_each(|_| assert!(!writer.receive().is_error()));
        match writer.receive() {
            Value::Array(answers) => assert!(!answers.iter().any(Value::is_error), "{answers:?}"),
            other => break other.text(),
        }
        number += 1;
    };
    assert!(open.starts_with(OUTCOME_OPEN), "{open}");
    // The last transaction that was answered, and not the open one.
    are_apart(&config, number);
    let commands =
        ["SWAPDB 0 1", "NAMESPACE ADD other x", "NAMESPACE DEL n0", "FLUSHALL", "SET a 1"];
    for command in commands {
        let refused = writer.run(command).text();
        assert!(refused.starts_with("IOERR nothing was written"), "{command}: {refused}");
    }
    assert!(Client::unix(&config.unix).run(&format!("AUTH t{number}")).is_error());
    are_apart(&config, number);

    disk.make_room();
    until("writable", || (!writer.run("DEL other").is_error()).then_some(()));
    let check = |config: &Config| {
        are_apart(config, number + 1);
        let mut namespace = Client::unix(&config.unix);
        assert_eq!(namespace.run(&format!("AUTH t{number}")), Value::Simple("OK".into()));
        assert_eq!(namespace.run("DBSIZE"), Value::Integer(0));
    };
    check(&config);
    // The disk goes with the process, so a copy is made of what a crash would leave.
    disk.process.signal("STOP");
    let state = format!("/proc/{}/stat", disk.process.child.id());
    until("stopped", || fs::read_to_string(&state).ok()?.contains(") T ").then_some(()));
    let copied =
        Command::new("cp").arg("-rT").args([&disk.path, &config.dir.join("rocksdb")]).status();
    disk.process.kill();
    assert!(copied.expect("cp runs").success());
    let process = Process::start(&mut binary(&config));
    check(&config);
    process.kill();
}

/// Each of the first `count` keys was set in the first database, and then the first two were exchanged.
fn are_apart(config: &Config, count: u64) {
    let mut client = Client::unix(&config.unix);
    for database in 0..2 {
        assert_eq!(client.run(&format!("SELECT {database}")), Value::Simple("OK".into()));
        for number in 0..count {
            let is_here = (count - number) % 2 == database;
            let wanted =
                if is_here { Value::Bulk(value(number).into_bytes()) } else { Value::Null };
            assert_eq!(client.run(&format!("GET {}", key(number))), wanted, "{number} of {count}");
        }
        assert_eq!(client.run(&format!("EXISTS {}", key(count))), Value::Integer(0));
    }
}

/// The database has no room for what is already in the log. The write becomes visible when there is
/// room, and breaks a WATCH then.
#[test]
fn a_write_that_the_database_takes_late_breaks_a_watch() {
    let dir = TempDir::new();
    let config = config(&dir);
    let mut disk = SmallDisk::start(&config, "rocksdb", 32 << 20);
    let mut writer = Client::unix(&config.unix);
    let mut watcher = Client::unix(&config.unix);
    disk.fill(0);
    let (mut number, mut open) = (0, Value::Null);
    while !open.is_error() {
        number += 1;
        assert!(number < 10_000, "the database still takes writes");
        assert_eq!(watcher.run("UNWATCH"), Value::Simple("OK".into()));
        assert_eq!(watcher.run(&format!("WATCH {}", key(number))), Value::Simple("OK".into()));
        open = writer.call(&["SET", &key(number), &value(number)]);
    }
    assert!(open.text().starts_with(OUTCOME_OPEN), "{open:?}");
    assert_eq!(watcher.run(&format!("GET {}", key(number))), Value::Null, "it is not visible yet");
    let refused = writer.run("SET other 1");
    assert!(refused.text().starts_with("IOERR nothing was written"), "{refused:?}");
    let trouble = |writer: &mut Client| {
        let info = writer.run("INFO persistence");
        info.text().contains("writes_trouble:the database does not take")
    };
    assert!(trouble(&mut writer));

    disk.make_room();
    until("writable", || (!writer.run("DEL other").is_error()).then_some(()));
    assert!(!trouble(&mut writer));
    let wanted = Value::Bulk(value(number).into_bytes());
    assert_eq!(writer.run(&format!("GET {}", key(number))), wanted);
    watcher.send(&encode(&["MULTI"]));
    watcher.send(&encode(&["SET", &key(number), "stale"]));
    watcher.send(&encode(&["EXEC"]));
    let answers = [(); 3].map(|()| watcher.receive());
    assert_eq!(answers[2], Value::NullArray, "the watched key had changed");
    assert_eq!(writer.run(&format!("GET {}", key(number))), wanted);
    disk.process.kill();
}
