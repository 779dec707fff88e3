//! CHECKPOINT: what is in a copy, that it is one, and that nothing half done stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use hawser_kv::Config;

use crate::support::{Client, Process, TempDir, Value, binary, config, encode, start, stop, until};

const WRITERS: usize = 3;

fn value(number: u64) -> String {
    format!("{number}:").repeat(60)
}

/// The path of a new checkpoint.
fn add(client: &mut Client, name: &str) -> PathBuf {
    let Value::Array(made) = client.run(&format!("CHECKPOINT ADD {name}")) else {
        panic!("no checkpoint")
    };
    assert_eq!(made[0].text(), "path");
    PathBuf::from(made[1].text())
}

fn names(client: &mut Client) -> Vec<String> {
    let Value::Array(names) = client.run("CHECKPOINT LIST") else { panic!("no list") };
    names.iter().map(Value::text).collect()
}

fn on(dir: &TempDir, data: &Path) -> Config {
    Config { dir: data.to_path_buf(), unix: dir.join("t"), ..config(dir) }
}

/// Of each writer there is a prefix: all that was answered before, and nothing after a gap. Each of its
/// transactions is whole.
#[test]
fn a_checkpoint_is_a_moment_of_the_history() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let answered: [AtomicU64; WRITERS] = Default::default();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (writer, answered) in answered.iter().enumerate() {
            let (config, is_over) = (&config, &is_over);
            scope.spawn(move || {
                let mut client = Client::unix(&config.unix);
                for number in 0.. {
                    if is_over.load(SeqCst) {
                        return;
                    }
                    let set = ["SET", &format!("{writer}:{number}"), &value(number)];
                    client.send(&encode(&["MULTI"]));
                    client.send(&encode(&set));
                    client.send(&encode(&["INCR", &format!("count:{writer}")]));
                    client.send(&encode(&["EXEC"]));
                    (0..4).for_each(|_| assert!(!client.receive().is_error()));
                    answered.store(number + 1, SeqCst);
                }
            });
        }
        let mut client = Client::unix(&config.unix);
        for round in 1..=4u64 {
            // Far enough that the log turns over and RocksDB flushes.
            until("written", || {
                (answered.iter().all(|answered| answered.load(SeqCst) >= round * 1500))
                    .then_some(())
            });
            let before = answered.each_ref().map(|answered| answered.load(SeqCst));
            let path = add(&mut client, &format!("c{round}"));
            let config = on(&dir, &path);
            let copy = start(&config);
            let mut reader = Client::unix(&config.unix);
            for (writer, before) in before.into_iter().enumerate() {
                let count = reader.run(&format!("GET count:{writer}")).text();
                let count: u64 = count.parse().expect("a number");
                assert!(count >= before, "{count} of {before} answered");
                for number in 0..count {
                    let found = reader.run(&format!("GET {writer}:{number}"));
                    assert_eq!(found, Value::Bulk(value(number).into_bytes()), "of {count}");
                }
                let next = reader.run(&format!("EXISTS {writer}:{count}"));
                assert_eq!(next, Value::Integer(0));
                assert!(!reader.run(&format!("SET {writer}:0 changed")).is_error());
            }
            stop(copy);
        }
        is_over.store(true, SeqCst);
    });
    // What was done to the copies was not done to the original.
    let mut client = Client::unix(&config.unix);
    let is_intact = |client: &mut Client| {
        for (writer, answered) in answered.iter().enumerate() {
            let answered = answered.load(SeqCst);
            for number in [0, answered / 2, answered - 1] {
                let found = client.run(&format!("GET {writer}:{number}"));
                assert_eq!(found, Value::Bulk(value(number).into_bytes()));
            }
        }
    };
    is_intact(&mut client);
    assert_eq!(names(&mut client), ["c1", "c2", "c3", "c4"]);
    stop(server);
    let server = start(&config);
    is_intact(&mut Client::unix(&config.unix));
    stop(server);
}

#[test]
fn names_are_checked_and_checkpoints_deleted() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let mut check = |command: &str, expect: &str| {
        let answer = client.run(command);
        assert!(answer.text().starts_with(expect), "{command}: {answer:?}");
    };
    for name in ["../x", "a/b", ".", "", "a.tmp", &"a".repeat(65)] {
        check(&format!("CHECKPOINT ADD {name}"), "ERR a name has 1 to 64 letters");
    }
    check("CHECKPOINT", "ERR wrong number of arguments for 'checkpoint' command");
    check("CHECKPOINT NO", "ERR unknown subcommand or wrong number of arguments for 'NO'");
    check("CHECKPOINT DEL a", "ERR there is no checkpoint `a`");
    let path = add(&mut client, &"a".repeat(64));
    assert!(path.starts_with(config.dir.canonicalize().expect("it is there")), "{path:?}");
    let path = add(&mut client, "a");
    let mut check = |command: &str, expect: &str| {
        let answer = client.run(command);
        assert!(answer.text().starts_with(expect), "{command}: {answer:?}");
    };
    check("CHECKPOINT ADD a", "ERR there is a checkpoint `a` already; CHECKPOINT DEL deletes it");
    assert!(path.join("format").exists());
    check("CHECKPOINT DEL a", "OK");
    assert!(!path.exists());
    check("MULTI", "OK");
    check("CHECKPOINT ADD b", "QUEUED");
    let Value::Array(answers) = client.run("EXEC") else { panic!("no array") };
    assert!(answers[0].text().starts_with("ERR CHECKPOINT is not for transactions"));
    assert_eq!(names(&mut client), ["a".repeat(64)]);

    assert_eq!(client.run("NAMESPACE ADD n token"), Value::Simple("OK".into()));
    let mut other = Client::unix(&config.unix);
    other.run("AUTH token");
    assert!(other.run("CHECKPOINT LIST").text().starts_with("NOPERM"));
    stop(server);
}

/// What a crash left of one that was being made goes with the next start.
#[test]
fn what_is_unfinished_goes() {
    let dir = TempDir::new();
    let config = config(&dir);
    let process = Process::start(&mut binary(&config));
    let mut client = Client::unix(&config.unix);
    let whole = add(&mut client, "whole");
    process.kill();
    let left = config.dir.join("checkpoints/left.tmp");
    fs::create_dir_all(left.join("rocksdb")).expect("made");
    fs::write(left.join("rocksdb/CURRENT"), "half").expect("written");
    let process = Process::start(&mut binary(&config));
    let mut client = Client::unix(&config.unix);
    assert_eq!(names(&mut client), ["whole"]);
    assert!(!left.exists() && whole.exists());
    process.kill();
}

/// The limit of the size of files stands for a full disk: the copy of the log does not fit.
#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = binary(&config);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(server.get_program());
    let process = Process::start(command.args(server.get_args()));
    let mut client = Client::unix(&config.unix);
    for number in 0..200 {
        client.call(&["SET", &number.to_string(), &value(number)]);
    }
    let limit = |bytes: &str| {
        let pid = process.child.id().to_string();
        let limit = format!("--fsize={bytes}:");
        let done = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(done.expect("prlimit is installed (util-linux)").success());
    };
    limit("16384");
    let refused = client.run("CHECKPOINT ADD a").text();
    assert!(refused.starts_with("IOERR ") && refused.contains("too large"), "{refused}");
    let left: Vec<_> = fs::read_dir(config.dir.join("checkpoints")).expect("made").collect();
    assert!(left.is_empty(), "{left:?}");
    limit("unlimited");
    add(&mut client, "a");
    process.kill();
}

#[test]
fn a_disk_of_its_own_for_the_database_is_said() {
    let dir = TempDir::new();
    let config = config(&dir);
    let database = config.dir.join("rocksdb");
    fs::create_dir_all(&database).expect("a directory");
    let server = binary(&config);
    let mount = "mount -t tmpfs other \"$1\"; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", mount, "sh"]);
    command.arg(&database).arg(server.get_program()).args(server.get_args());
    let process = Process::start(&mut command);
    let refused = Client::unix(&config.unix).run("CHECKPOINT ADD a").text();
    assert!(refused.contains("are on two file systems"), "{refused}");
    assert!(names(&mut Client::unix(&config.unix)).is_empty());
    process.kill();
}

/// A log on a disk of its own is copied.
#[test]
fn a_disk_of_its_own_for_the_log_is_no_hindrance() {
    let dir = TempDir::new();
    let config = config(&dir);
    let log = config.dir.join("log");
    fs::create_dir_all(&log).expect("a directory");
    let server = binary(&config);
    let mount = "mount -t tmpfs other \"$1\"; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", mount, "sh"]);
    command.arg(&log).arg(server.get_program()).args(server.get_args());
    let process = Process::start(&mut command);
    let mut client = Client::unix(&config.unix);
    for number in 0..2500 {
        client.call(&["SET", &number.to_string(), &value(number)]);
    }
    let path = add(&mut client, "a");
    let config = on(&dir, &path);
    let copy = start(&config);
    let mut reader = Client::unix(&config.unix);
    assert_eq!(reader.run("DBSIZE"), Value::Integer(2500));
    assert_eq!(reader.run("GET 2499"), Value::Bulk(value(2499).into_bytes()));
    stop(copy);
    process.kill();
}
