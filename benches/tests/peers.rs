//! Devices and publishers that speak MQTT against a real broker, targets that are none, and the
//! servers that `peers` and `runtimes` put side by side. Needs mosquitto, which `.ci/setup test`
//! installs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const DEVICES: usize = 200;

/// The rows of one run, recorded to a folder that is removed.
struct Run {
    output: Output,
    folder: PathBuf,
}

impl Run {
    fn of(name: &str, line: &str) -> Run {
        let folder = std::env::temp_dir().join(format!("hawser-{name}-{}", std::process::id()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-bench"));
        command.args(line.split_whitespace()).arg("--results").arg(&folder);
        Run { output: command.output().expect("it starts"), folder }
    }

    fn error(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// The values of its rows of a benchmark, by server.
    fn rows(&self, benchmark: &str) -> Vec<Value> {
        assert!(self.output.status.success(), "{}", self.error());
        let path = self.folder.join(format!("{benchmark}.jsonl"));
        let text = std::fs::read_to_string(&path).expect("rows were recorded");
        let row =
            |line: &str| serde_json::from_str::<Value>(line).expect("a row")["values"].clone();
        let mut rows: Vec<Value> = text.lines().map(row).collect();
        rows.sort_by_key(|row| server(row).to_owned());
        rows
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A run that failed has made none.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn server(row: &Value) -> &str {
    row["server"].as_str().expect("a row names its server")
}

fn are_positive(row: &Value, names: &[&str]) {
    for name in names {
        assert!(row[name].as_f64().is_some_and(|value| value > 0.0), "{name} in {row}");
    }
}

const SHORT: &str = "--rounds 2 --seconds 1";

#[test]
fn mosquitto_beside_hawser_and_the_floor() {
    let run = Run::of(
        "peers",
        &format!("peers --servers hawser,mosquitto --floor --connections {DEVICES} {SHORT}"),
    );
    let (connections, fanout, mut push) =
        (run.rows("connections"), run.rows("fanout"), run.rows("push"));
    // Besides, there are those that had the same rate, if it was not too high for them.
    push.retain(|row| row["load"] == "p2p");
    for rows in [&connections, &fanout, &push] {
        let names: Vec<&str> = rows.iter().map(server).collect();
        assert_eq!(names[..2], ["bare", "hawser"]);
        assert!(names[2].starts_with("mosquitto 2.") && names.len() == 3, "{names:?}");
        for row in rows {
            assert_eq!((&row["run"], &row["connections"]), (&rows[0]["run"], &DEVICES.into()));
        }
        let config = rows[2]["server_config"].as_str().expect("its configuration");
        assert!(config.contains("set_tcp_nodelay true"), "{config}");
        assert_eq!(rows[2]["protocol"], "mqtt");
    }
    for row in &connections {
        assert_eq!(row["established"], DEVICES, "{row}");
        are_positive(row, &["setup_per_s", "setup_cpu_ns"]);
    }
    are_positive(&connections[2], &["user_bytes_per_conn"]);
    for row in &fanout {
        assert_eq!(
            (&row["sent"], &row["received"]),
            (&(2 * DEVICES).into(), &row["sent"]),
            "{row}"
        );
        are_positive(row, &["rate", "cpu_ns_per_message"]);
    }
    are_positive(&fanout[2], &["ratio_to_floor", "floor_rate"]);
    for row in &push {
        assert_eq!(row["received"], row["sent"], "{row}");
        are_positive(row, &["highest_rate", "rate", "p50_us", "p99_us", "p999_us", "max_us"]);
    }
}

#[test]
fn five_publishers_and_a_thousand_subscribers() {
    let run = Run::of(
        "fanout-5-1000",
        &format!("peers --servers mosquitto --load fanout-5-1000 --rate 20 --qos 1 {SHORT}"),
    );
    let [row] = &run.rows("fanout")[..] else { panic!("one row") };
    assert_eq!((&row["sent"], &row["received"]), (&20_000.into(), &20_000.into()), "{row}");
    assert_eq!((&row["publishers"], &row["connections"]), (&5.into(), &1_000.into()));
    are_positive(row, &["p50_us", "p999_us"]);
}

#[test]
fn a_server_that_runs_already() {
    let mosquitto = Mosquitto::start();
    let at = format!("--target {} --protocol mqtt --connections {DEVICES}", mosquitto.address);
    let run = Run::of("target-connections", &format!("connections {at}"));
    let [row] = &run.rows("connections")[..] else { panic!("one row") };
    assert_eq!((&row["ready"], &row["verified"]), (&DEVICES.into(), &DEVICES.into()), "{row}");
    assert_eq!(
        (server(row), &row["lost"]),
        (&*format!("mqtt at {}", mosquitto.address), &0.into())
    );
    assert_eq!(row["user_bytes_per_conn"], Value::Null, "its memory is not ours to see");
    let run = Run::of("target-fanout", &format!("fanout {at} --rounds 2 --qos 1"));
    are_positive(&run.rows("fanout")[0], &["rate"]);
    let run = Run::of("target-push", &format!("push {at} --rounds 1 --seconds 1 --rate 1000"));
    are_positive(&run.rows("push")[0], &["highest_rate", "p99_us"]);
}

struct Mosquitto {
    child: std::process::Child,
    address: String,
}

impl Mosquitto {
    /// The port is anybody's until the server has it, so more than one may have to be tried.
    fn start() -> Mosquitto {
        (0..10).find_map(|_| Mosquitto::start_on_a_port()).expect("mosquitto listens")
    }

    /// `None`: it has ended.
    fn start_on_a_port() -> Option<Mosquitto> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"].map(Path::new);
        let program = program.into_iter().find(|program| program.exists());
        let program = program.expect("mosquitto is installed by `.ci/setup test`");
        // Without a configuration it takes anonymous clients on loopback.
        let child = Command::new(program)
            .args(["-p", &address.port().to_string()])
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        let mut mosquitto = Mosquitto { child, address: address.to_string() };
        let mut has_ended = false;
        wait_for("mosquitto to listen or to end", || {
            has_ended = mosquitto.child.try_wait().expect("it is ours").is_some();
            // Where nobody listens yet a connection can be one to itself.
            let is_itself = |stream: TcpStream| stream.local_addr().ok() == Some(address);
            has_ended || TcpStream::connect(address).is_ok_and(|stream| !is_itself(stream))
        });
        (!has_ended).then_some(mosquitto)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Neither its own folder nor that of a run that was killed before.
#[test]
fn no_folder_remains_of_a_run_that_is_killed() {
    let mut ended = Command::new("true").spawn().expect("it starts");
    ended.wait().expect("it is ours");
    let memory = Path::new("/dev/shm");
    let left = memory.join(format!("hawser-bench-{}-mosquitto", ended.id()));
    std::fs::create_dir_all(&left).expect("a folder");
    let mut run = Command::new(env!("CARGO_BIN_EXE_hawser-bench"))
        .args("peers --servers mosquitto --connections 500 --no-record".split(' '))
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let log = memory.join(format!("hawser-bench-{}-mosquitto/log", run.id()));
    wait_for("the server's log", || log.exists());
    assert!(!left.exists(), "{} is of a run that is over", left.display());
    run.kill().expect("it is ours");
    run.wait().expect("it is ours");
    wait_for("the end of its folder", || !log.parent().expect("a folder").exists());
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !is_there() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A listener that does this with each connection, one after the other. It ends with the tests.
fn listen(mut with: impl FnMut(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            with(socket);
        }
    });
    address
}

/// Waits for the first words of a client.
fn hear(socket: &mut TcpStream) {
    // It may have gone already.
    let _ = socket.read(&mut [0; 256]);
}

#[test]
fn a_target_that_is_none_is_named_with_what_is_wrong() {
    // No other process is given this port, and no connection to it can come from it.
    let nobody = "127.0.0.1:1".to_owned();
    let closes = listen(|mut socket| hear(&mut socket));
    let other = listen(|mut socket| {
        hear(&mut socket);
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let refuses = listen(|mut socket| {
        hear(&mut socket);
        let _ = socket.write_all(b"\x20\x02\0\x05");
    });
    let mut kept = Vec::new();
    let silent = listen(move |socket| kept.push(socket));
    // The publisher is welcomed; all others are closed when they have introduced themselves.
    let mut welcomed = None;
    let half_way = listen(move |mut socket| {
        hear(&mut socket);
        if welcomed.is_none() {
            let _ = socket.write_all(b"\x20\x02\0\0");
            welcomed = Some(socket);
        }
    });
    let mut first = None;
    let for_ever = listen(move |mut socket| {
        hear(&mut socket);
        let _ = socket.write_all(b"\x20\x02\0\0");
        if first.is_some() {
            hear(&mut socket);
            let _ = socket.write_all(b"\x90\x04\0\x01\0\0");
        } else {
            first = Some(socket);
        }
    });
    for (target, said) in [
        (nobody, "see that the server runs and listens there"),
        (closes, "closed the connection instead of answering an MQTT CONNECT"),
        (other, "does not speak MQTT 3.1.1: it answered a CONNECT with \"HTTP/1.1"),
        (refuses, "refused an MQTT CONNECT: not authorized"),
        (silent, "did not answer an MQTT CONNECT within 5s"),
        // When it is given up, and whether for want of progress or of time, is the machine's affair.
        (half_way, " s (connection ended: "),
        // All are welcomed and turned out, again and again.
        (for_ever, " s (connection ended: "),
    ] {
        let run = Run::of(
            "no-target",
            &format!("connections --connections 20 --quiet-s 1 --protocol mqtt --target {target}"),
        );
        let error = run.error();
        assert!(error.contains(said) && error.contains(&target), "{error}");
        assert_eq!(run.output.status.code(), Some(1), "{error}");
    }
}

#[test]
fn what_cannot_be_asked_is_refused() {
    for (line, said) in [
        ("connections --target 127.0.0.1:1883", "use --protocol mqtt"),
        ("connections --protocol mqtt", "--protocol mqtt needs --target HOST:PORT"),
        ("storm --target 127.0.0.1:1 --protocol mqtt", "is for connections, fanout and push"),
        ("connections --target 5 --connections 5", "say the same"),
        ("connections --target five", "give a number of connections, or HOST:PORT"),
        ("push --target 127.0.0.1:1 --protocol mqtt --floor", "--floor"),
        ("peers --load fanout-5-1000,p2p", "fanout-5-1000 has 1,000 connections"),
        ("runtimes --binaries /nonexistent", "bare-glommio is left out"),
    ] {
        let run = Run::of("refused", line);
        assert!(!run.output.status.success(), "{line}");
        assert!(run.error().contains(said), "{line}: {}", run.error());
    }
}

/// Another workspace's servers, which are built here as `make test` builds them for their own tests.
#[test]
fn the_runtimes_beside_the_bare_server() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtimes/Cargo.toml");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(&manifest)
        .output()
        .expect("cargo starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => manifest.with_file_name("target"),
    };
    let binaries = target.join("release");
    let run = Run::of(
        "runtimes",
        &format!("runtimes --binaries {} --connections {DEVICES} {SHORT}", binaries.display()),
    );
    for benchmark in ["connections", "heartbeat", "fanout", "push"] {
        let mut rows = run.rows(benchmark);
        // Besides, there are those that had the same rate, if it was not too high for them.
        rows.retain(|row| benchmark != "push" || row["load"] == "p2p");
        let names: Vec<&str> = rows.iter().map(server).collect();
        assert_eq!(names, ["bare", "glommio 0.9.0", "tokio 1.54.1", "tokio-uring 0.5.0"]);
        for row in &rows {
            assert_eq!((&row["run"], &row["connections"]), (&rows[0]["run"], &DEVICES.into()));
            match benchmark {
                "connections" => assert_eq!(row["established"], DEVICES, "{row}"),
                _ => are_positive(row, &["cpu_ns_per_message", "rate"]),
            }
        }
    }
}
