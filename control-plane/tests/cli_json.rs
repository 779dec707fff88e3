//! What `--json` prints, against a real control node. No broker: nobody is connected.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const OPERATOR_KEY: &str = "operator-key-of-this-test";

/// A control node with an embedded store in a temporary directory.
struct Node {
    child: Child,
    directory: PathBuf,
    url: String,
}

impl Node {
    fn start(name: &str) -> Node {
        let directory = std::env::temp_dir().join(format!("hawser-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_hawser-control"))
            .args(["--set", "listen_api=127.0.0.1:0", "--set", "listen_link=127.0.0.1:0"])
            .arg("--set")
            .arg(format!("data_dir={}", directory.join("data").display()))
            .env("HAWSER_LINK_KEY", "ab".repeat(32))
            .env("HAWSER_ADMIN_KEY", OPERATOR_KEY)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(directory.join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let mut words = ready.split_whitespace().skip_while(|&word| word != "api");
        let api = words.nth(1).unwrap_or_else(|| {
            let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
            panic!("not ready: {ready:?}\n{log}")
        });
        Node { child, url: format!("http://{api}"), directory }
    }

    fn hawser(&self, key: &str, line: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_hawser"))
            .args(line)
            .env_clear()
            .env("HOME", &self.directory)
            .env("HAWSER_URL", &self.url)
            .env("HAWSER_KEY", key)
            .env("HAWSER_APP", "shop")
            .output()
            .unwrap()
    }

    fn json(&self, key: &str, line: &[&str]) -> Value {
        let output = self.hawser(key, &[line, &["--json"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line:?}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    fn human(&self, key: &str, line: &[&str]) -> String {
        let output = self.hawser(key, line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a failure with exit code 1 says on its one line.
    fn json_error(&self, key: &str, line: &[&str]) -> Value {
        let output = self.hawser(key, &[line, &["--json"]].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{line:?}");
        assert_eq!(stderr.lines().count(), 1, "{line:?}: {stderr}");
        serde_json::from_str::<Value>(&stderr).unwrap()["error"].take()
    }

    fn refused(&self, key: &str, line: &[&str], part: &str) {
        let output = self.hawser(key, line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line:?}: {stderr}");
        assert!(stderr.contains(part), "{line:?} should say {part:?}: {stderr}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[track_caller]
fn has(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(!value[field].is_null(), "{field} is missing in {value}");
    }
}

#[test]
fn every_command_prints_the_documented_json() {
    let node = Node::start("cli-json");

    let app = node.json(OPERATOR_KEY, &["app", "create", "shop", "--messages-per-s", "500"]);
    has(&app, &["app_id", "name", "api_key", "signing_key"]);
    has(&app["signing_key"], &["kid", "alg", "seed", "public"]);
    let key = app["api_key"].as_str().unwrap();

    let apps = node.json(OPERATOR_KEY, &["app", "list"]);
    assert_eq!(apps["apps"][0]["name"], "shop");
    assert_eq!(apps["apps"][0]["quota"]["messages_per_s"], 500);

    let ticket = node.json(key, &["ticket", "phone-1", "--ttl", "1h"]);
    has(&ticket, &["ticket", "expires_at"]);

    let push = ["push", "device", "phone-1", "--text", "hi", "--idempotency-key", "once"];
    let first = node.json(key, &push);
    assert_eq!(
        (&first["seq"], &first["online"], &first["duplicate"]),
        (&1.into(), &false.into(), &false.into())
    );
    let again = node.json(key, &push);
    assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &true.into()));

    let message = node.json(key, &["message", first["id"].as_str().unwrap()]);
    assert_eq!(message["state"], "pending");

    let group = node.json(key, &["push", "topic", "news", "--text", "x", "--priority", "low"]);
    has(&group, &["id", "seq"]);

    let device = node.json(key, &["devices", "show", "phone-1"]);
    assert_eq!(device["online"], false);
    assert_eq!(device["inbox"]["entries"], 1);

    let status = node.json(OPERATOR_KEY, &["status"]);
    has(&status, &["links", "apps", "sessions"]);
}

#[test]
fn people_get_tables_and_reasons() {
    let node = Node::start("cli-human");
    let app = node.json(OPERATOR_KEY, &["app", "create", "shop"]);
    let key = app["api_key"].as_str().unwrap();

    let apps = node.human(OPERATOR_KEY, &["app", "list"]);
    assert!(apps.contains("APP") && apps.contains("shop"), "{apps}");
    let ticket = node.human(key, &["ticket", "phone-1"]);
    assert_eq!(ticket.split_whitespace().count(), 1, "alone on its line, for $(...): {ticket}");
    let pushed = node.human(key, &["push", "all", "--text", "hi"]);
    assert!(pushed.contains("accepted"), "{pushed}");
    let device = node.human(key, &["devices", "show", "phone-1"]);
    assert!(device.contains("waiting"), "{device}");
    let status = node.human(OPERATOR_KEY, &["status"]);
    assert!(status.contains("sessions") && status.contains("APPS"), "{status}");

    node.refused(OPERATOR_KEY, &["app", "create", "shop"], "exists");
    node.refused("wrong", &["app", "list"], "401");
    node.refused("wrong", &["app", "list"], "--key or HAWSER_KEY");
    node.refused(key, &["app", "list"], "403");
    node.refused(key, &["app", "list"], "operator's key");
    node.refused(key, &["push", "all", "--text", "x", "--ttl", "60d"], "ttl_s");
    node.refused(key, &["ticket", "phone-1", "--ttl", "60d"], "ttl_s");
    node.refused(key, &["push", "all", "--text", "x", "--app", "other"], "404");
    node.refused(key, &["push", "all", "--text", "x", "--app", "other"], "hawser app list");
}

#[test]
fn refusals_are_json_with_the_apis_codes() {
    let node = Node::start("cli-json-errors");
    let create = ["app", "create", "shop", "--inbox-entries-max", "1"];
    let app = node.json(OPERATOR_KEY, &create);
    let key = app["api_key"].as_str().unwrap();
    for (key, line, code) in [
        ("wrong", &["app", "list"][..], "unauthorized"),
        (key, &["app", "list"], "forbidden"),
        (OPERATOR_KEY, &["app", "create", "shop"], "app_name_taken"),
        (OPERATOR_KEY, &["push", "all", "--text", "x", "--app", "other"], "unknown_app"),
        (key, &["push", "all", "--text", "x", "--ttl", "60d"], "bad_field"),
        (key, &["message", "nonsense"], "bad_field"),
        ("wrong", &["tail"], "unauthorized"),
    ] {
        let error = node.json_error(key, line);
        assert_eq!(error["code"], code, "{line:?}: {error}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{error}");
        assert!(error["retry_after_ms"].is_null(), "{error}");
    }
    let push = ["push", "device", "d", "--text", "x"];
    node.json(key, &push);
    let error = node.json_error(key, &push);
    assert_eq!(error["code"], "inbox_full");
    assert!(error["retry_after_ms"].as_u64().unwrap() > 0, "{error}");
    node.refused(key, &push, "may succeed in");
}

/// A running `hawser play` leaves a file; with it no flag is needed. One that is left by a play
/// that has ended counts for nothing.
#[test]
fn a_second_terminal_needs_no_flags() {
    let node = Node::start("cli-play-file");
    let app = node.json(OPERATOR_KEY, &["app", "create", "shop"]);
    let runtime = node.directory.join("runtime");
    std::fs::create_dir_all(runtime.join("hawser")).unwrap();
    let publish = |pid: u32| {
        let play = serde_json::json!({
            "pid": pid, "url": node.url, "app": "shop", "key": app["api_key"],
            "operator_key": OPERATOR_KEY, "brokers": ["127.0.0.1:1"],
        });
        std::fs::write(runtime.join("hawser/play.json"), play.to_string()).unwrap();
    };
    let hawser = |line: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_hawser"))
            .args(line)
            .env_clear()
            .env("XDG_RUNTIME_DIR", &runtime)
            .output()
            .unwrap()
    };

    publish(std::process::id());
    for line in [&["push", "all", "--text", "hi"][..], &["status"], &["app", "list"]] {
        let output = hawser(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line:?}: {stderr}");
    }
    // Its keys are for its own node only.
    let elsewhere = hawser(&["status", "--url", "http://127.0.0.1:1"]);
    assert_eq!(elsewhere.status.code(), Some(2));

    let mut ended = Command::new("/bin/true").spawn().unwrap();
    ended.wait().unwrap();
    publish(ended.id());
    assert_eq!(hawser(&["status"]).status.code(), Some(2));
}
