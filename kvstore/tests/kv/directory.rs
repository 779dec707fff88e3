//! What stands in the way of using a data directory, and what is then said.

use std::fs;
use std::path::Path;
use std::process::Command;

use hawser_kv::store::directory::FORMAT;
use hawser_kv::{Config, Server};

use crate::support::{Client, Process, TempDir, Value, binary, config, start, stop};

/// Why a server does not start.
fn refusal(config: &Config) -> String {
    let refused = Server::start(config.clone()).err();
    refused.expect("it must not start").to_string()
}

fn is_untouched(dir: &Path, names: &[&str]) -> bool {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut found: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
    found.sort();
    found == names
}

#[test]
fn a_directory_of_another_program_is_left_alone() {
    let dir = TempDir::new();
    let config = config(&dir);
    fs::create_dir_all(&config.dir).expect("a directory");
    fs::write(config.dir.join("dump.rdb"), "REDIS0010").expect("written");
    let refused = refusal(&config);
    assert!(
        refused.contains("is no data directory of hawser-kv, but holds `dump.rdb`"),
        "{refused}"
    );
    assert!(is_untouched(&config.dir, &["dump.rdb"]));

    fs::remove_file(config.dir.join("dump.rdb")).expect("removed");
    fs::write(config.dir.join("format"), "postgres 14\n").expect("written");
    let refused = refusal(&config);
    assert!(refused.contains("but holds `format`"), "{refused}");
    assert!(is_untouched(&config.dir, &["format"]));
}

#[test]
fn another_version_is_named() {
    let dir = TempDir::new();
    let config = config(&dir);
    stop(start(&config));
    let format = config.dir.join("format");
    assert_eq!(fs::read_to_string(&format).expect("readable"), format!("hawser-kv {FORMAT}\n"));
    for (version, what) in [(FORMAT + 1, "a newer hawser-kv"), (FORMAT - 1, "an older hawser-kv")] {
        fs::write(&format, format!("hawser-kv {version}\n")).expect("written");
        let refused = refusal(&config);
        assert!(refused.contains(what), "{refused}");
        assert!(
            refused.contains(&format!("format {version}, this one reads {FORMAT}")),
            "{refused}"
        );
    }
    fs::write(&format, format!("hawser-kv {FORMAT}\n")).expect("written");
    stop(start(&config));
}

#[test]
fn a_server_that_is_dropped_has_let_go_of_it() {
    let dir = TempDir::new();
    let config = config(&dir);
    for round in 0..20 {
        let server = start(&config);
        let mut client = Client::unix(&config.unix);
        assert_eq!(client.run("INCR count"), Value::Integer(round + 1));
        drop(server);
    }
}

#[test]
fn files_of_the_configuration_may_be_in_it() {
    let dir = TempDir::new();
    let mut config = config(&dir);
    config.unix = config.dir.join("s");
    config.users_file = config.dir.join("users");
    fs::create_dir_all(&config.dir).expect("a directory");
    fs::write(&config.users_file, "user ann on nopass ~* +@all\n").expect("written");
    stop(start(&config));
}

#[test]
fn a_directory_in_use_is_not_opened_again() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let other = Config { unix: dir.join("t"), ..config.clone() };
    let refused = refusal(&other);
    assert!(refused.contains("is in use by another process"), "{refused}");
    stop(server);
    let _process = Process::start(&mut binary(&config));
    let refused = refusal(&other);
    assert!(refused.contains("is in use by another process"), "{refused}");
    assert_eq!(Client::unix(&config.unix).run("PING"), Value::Simple("PONG".into()));
}

/// A mount of its own makes it read-only for whoever runs the tests, root as well.
#[test]
fn a_read_only_directory_is_named() {
    let dir = TempDir::new();
    let config = config(&dir);
    for is_new in [true, false] {
        fs::create_dir_all(&config.dir).expect("a directory");
        let data = config.dir.display();
        let script = format!(
            "mount --bind {data} {data} && mount -o remount,ro,bind {data} && \
             exec {} --listen '' --unix {} --dir {data}",
            env!("CARGO_BIN_EXE_hawser-kv"),
            config.unix.display()
        );
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .output()
            .expect("unshare is installed");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        let last = error.lines().last().expect("a line");
        assert!(last.starts_with("hawser-kv: cannot use "), "{last}");
        assert!(last.to_lowercase().contains("read-only"), "{last}");
        assert!(last.contains("set `dir` to a directory this process may write"), "{last}");
        if is_new {
            stop(start(&config));
        }
    }
}
