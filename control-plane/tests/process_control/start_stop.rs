//! The process: what it says when it cannot start, how it stops, and what it does while its store
//! is away or full.

use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::client::Client;
use crate::control::{ADMIN_KEY, Control, command};
use crate::redis::Redis;
use crate::running::{Directory, Process, eventually};
use serde_json::{Value, json};

/// Longer than any test: what ends earlier does so for another reason.
const WAITS_AN_HOUR: &str = "store_start_timeout_ms=3600000";

/// Runs a command that is to end: its exit code and what it said.
fn ends(command: &mut Command) -> (Option<i32>, String, String) {
    let mut process = Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let status = eventually("the process ends", || process.0.try_wait().unwrap());
    let (mut out, mut err) = (String::new(), String::new());
    process.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    process.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (status.code(), out, err)
}

fn file(directory: &Directory, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = directory.file(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// Exit code 2 and one line that says what to change.
fn check_refused(command: &mut Command, expect: &str) {
    let (code, out, err) = ends(command);
    assert_eq!(code, Some(2), "{expect}: {err}");
    assert_eq!(out, "", "{expect}");
    assert!(err.starts_with("hawser-control: "), "{err}");
    assert!(err.contains(expect), "{err:?} should contain {expect:?}");
    assert_eq!(err.lines().count(), 1, "{err}");
}

#[test]
fn what_cannot_start_says_what_to_change() {
    let directory = Directory::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let config = |name: &str, text: &str| {
        let path = file(&directory, name, text, 0o644);
        let mut command = command(&directory, &[]);
        command.arg("--config").arg(path);
        command
    };
    for (mut command, expect) in [
        (command(&directory, &[&format!("listen_api={taken}")]), "listen_api = 127.0.0.1:"),
        (command(&directory, &[&format!("listen_link={taken}")]), "Address already in use"),
        (command(&directory, &["listen_apii=x"]), "did you mean \"listen_api\"?"),
        (config("typo.toml", "listen_lnk = \"x\"\n"), "did you mean \"listen_link\"?"),
        (config("syntax.toml", "a = 1\nb = = 2\n"), "syntax.toml: line 2:"),
        (config("type.toml", "links_max = \"many\"\n"), "links_max"),
        (command(&directory, &["store=mysql://x"]), "store = \"mysql://x\""),
        (command(&directory, &["data_dir=/proc/nothing"]), "/proc/nothing"),
        (
            command(&directory, &["store=unix:///nowhere.sock", "store_start_timeout_ms=100"]),
            "the store (unix:///nowhere.sock) cannot be reached",
        ),
    ] {
        check_refused(command.arg("--set").arg("log=off"), expect);
    }
    let mut no_file = command(&directory, &[]);
    check_refused(no_file.arg("--config").arg("/does/not/exist.toml"), "/does/not/exist.toml:");
}

#[test]
fn keys_must_be_good_and_kept_secret() {
    let directory = Directory::new();
    let with = |name: &str, text: &str, mode: u32, key: &str| {
        let path = file(&directory, name, text, mode);
        let mut command = command(&directory, &[]);
        command.arg("--set").arg(format!("{key}={}", path.display()));
        command
    };
    let good = "0123456789abcdef".repeat(4);
    for (mut command, expect) in [
        (with("short", "abcd", 0o600, "link_key_file"), "must be 64 hexadecimal digits"),
        (with("open", &good, 0o644, "link_key_file"), "chmod 600"),
        (with("weak", "admin", 0o600, "admin_key_file"), "at least 16 visible characters"),
        (command(&directory, &["link_key_file=/does/not/exist"]), "cannot be read"),
    ] {
        check_refused(&mut command, expect);
    }
    let mut bad = command(&directory, &[]);
    check_refused(bad.env("HAWSER_LINK_KEY", "xyz"), "HAWSER_LINK_KEY: must be 64");
    let mut none = command(&directory, &[]);
    check_refused(none.env_remove("HAWSER_ADMIN_KEY"), "set admin_key_file or the environment");
}

#[test]
fn a_configuration_can_be_checked_and_printed() {
    let directory = Directory::new();
    let (code, out, _) = ends(command(&directory, &["links_max=9"]).arg("--print-config"));
    assert_eq!(code, Some(0));
    assert!(out.contains("links_max = 9\n"), "{out}");
    let printed = file(&directory, "printed.toml", &out, 0o644);
    let mut check = command(&directory, &[]);
    let (code, out, _) = ends(check.arg("--config").arg(printed).arg("--check-config"));
    assert_eq!((code, out.as_str()), (Some(0), "the configuration is good\n"));
    assert!(!directory.file("data").exists(), "checking starts nothing");
    check_refused(command(&directory, &["links_max=0"]).arg("--check-config"), "links_max");
}

/// The command with limits that the shell sets before.
fn limited(limits: &str, plain: &Command) -> Command {
    let mut limited = Command::new("bash");
    limited.args(["-c", &format!("{limits}; exec \"$0\" \"$@\"")]);
    limited.arg(plain.get_program()).args(plain.get_args());
    limited.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

#[test]
fn open_files_are_made_sure_of_at_the_start() {
    let directory = Directory::new();
    let plain = command(&directory, &[]);
    check_refused(&mut limited("ulimit -n 4096", &plain), "or raise the limit (ulimit -Hn");
    let small = ["api_connections_max=100", "links_max=100"];
    let plain = command(&directory, &small);
    let control =
        Control::started(&mut limited("ulimit -n 2000; ulimit -Sn 64", &plain), directory);
    let limits = format!("/proc/{}/limits", control.process.0.id());
    let limits = std::fs::read_to_string(limits).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3..5], ["2000", "2000"], "{line}");
}

#[test]
fn it_stops_when_asked() {
    for signal in ["TERM", "INT"] {
        let mut control = Control::start();
        let client = Client::new(&control);
        let key = client.app("shop", json!({}));
        let body = json!({"to": {"device": "d"}, "payload": "x"});
        client.post("/v1/apps/shop/messages", &key, &body).expect(202);
        drop(client);
        let pid = control.process.0.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let status = eventually("it stops", || control.process.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{signal}");
    }
}

/// Ends with code 0 although it was not ready yet.
fn check_stops_early(mut process: Process) {
    let pid = process.0.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    let status = eventually("it stops", || process.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn it_stops_while_it_waits_for_its_store() {
    let directory = Directory::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("store=redis://{}", silent.local_addr().unwrap());
    let process = Process::start(&mut command(&directory, &[&store, WAITS_AN_HOUR]));
    let _connection = silent.accept().unwrap();
    check_stops_early(process);
}

#[test]
fn it_stops_while_it_opens_its_files() {
    let directory = Directory::new();
    let store = directory.file("data").join("kv");
    std::fs::create_dir_all(&store).unwrap();
    // The first file that is read is a pipe, in which nothing ever comes.
    let pipe = store.join("format");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let process = Process::start(&mut command(&directory, &[]));
    let _writer = eventually("the file is read", || {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK).open(&pipe).ok()
    });
    check_stops_early(process);
}

fn push(client: &Client, key: &str, device: &str) -> crate::client::Reply {
    let body = json!({"to": {"device": device}, "payload": "x".repeat(1000)});
    client.post("/v1/apps/shop/messages", key, &body)
}

fn inbox(client: &Client, key: &str, device: &str) -> Value {
    client.get(&format!("/v1/apps/shop/devices/{device}"), key).expect(200)["inbox"].clone()
}

#[test]
fn while_the_store_is_away_calls_are_refused_with_a_delay() {
    let directory = Directory::new();
    let mut redis = Redis::start(&directory);
    let control = Control::start_with(&[&format!("store={}", redis.url())]);
    let client = Client::new(&control);
    let key = client.app("shop", json!({}));
    push(&client, &key, "d").expect(202);
    redis.kill();
    // The call that finds out may not know; the next ones are told that nothing was stored.
    let refused = eventually("the store is known to be away", || {
        let reply = push(&client, &key, "d");
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.retry_after.is_some(), "{reply:?}");
        (reply.body["error"]["code"] == "store_unavailable").then_some(reply.body)
    });
    assert!(refused["error"]["retry_after_ms"].as_u64().unwrap() > 0, "{refused}");
    client.get("/health", "").expect(200);
    eventually("status tells", || {
        (client.get("/v1/status", ADMIN_KEY).expect(200)["store_up"] == false).then_some(())
    });
    // This Redis keeps nothing over a restart; that it serves again is what matters here.
    let _redis = Redis::start(&directory);
    eventually("pushes are accepted again", || {
        let reply = client.post("/v1/apps", ADMIN_KEY, &json!({"name": "new"}));
        (reply.status == 201).then_some(())
    });
}

/// A file limit stands for a full disk: the store's log cannot grow beyond it.
#[test]
fn on_a_full_disk_pushes_are_refused_and_nothing_accepted_is_lost() {
    let directory = Directory::new();
    let plain = command(&directory, &[]);
    let mut limited = limited("trap '' XFSZ; ulimit -f 4096", &plain);
    let control = Control::started(&mut limited, directory);
    let client = Client::new(&control);
    let key = client.app("shop", json!({"inbox_entries_max": 100_000}));
    let message = json!({"to": {"device": "d"}, "payload": "x".repeat(10_000)});
    let batch = json!({"messages": vec![message; 50]});
    let mut accepted = 0;
    let refused = eventually("the disk is full", || {
        let reply = client.post("/v1/apps/shop/messages:batch", &key, &batch).expect(202);
        let results = reply["results"].as_array().unwrap().clone();
        accepted += results.iter().filter(|result| result["id"].is_string()).count();
        results.into_iter().find(|result| result["error"].is_object())
    });
    assert!(accepted > 0);
    assert!(refused["error"]["retry_after_ms"].is_number(), "{refused}");
    // A batch did not fit; single messages fill what is left.
    eventually("not one more message fits", || {
        let reply = push(&client, &key, "other");
        assert!(reply.status == 202 || reply.retry_after.is_some(), "{reply:?}");
        (reply.status == 503).then_some(())
    });
    // What does not write goes on.
    client.get("/health", "").expect(200);
    client.get("/v1/status", ADMIN_KEY).expect(200);
    let ticket = json!({"device": "d"});
    client.post("/v1/apps/shop/tickets", &key, &ticket).expect(200);
    assert!(inbox(&client, &key, "d")["entries"].as_u64().unwrap() >= accepted as u64);

    let control = control.restart(&[]);
    let client = Client::new(&control);
    let kept = inbox(&client, &key, "d");
    assert!(kept["entries"].as_u64().unwrap() >= accepted as u64, "{kept}, accepted {accepted}");
    push(&client, &key, "d").expect(202);
}
