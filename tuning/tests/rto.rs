//! What the retransmission minimum is worth and what it costs: devices whose radios take 300 ms, 1 s and
//! 2 s to wake up, and devices whose every round trip takes so long, with the kernel's 200 ms and with
//! what the mobile profile sets.
//!
//! Two network namespaces with a veth between them, made by the test and gone with its processes: in
//! one the server on the kernel's TCP, in the other the devices of `radio`. Three percent of the
//! messages are lost, by a seed. The table in README.md is this test's output.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hawser_tuning::verify;
use socket2::{Domain, Protocol, Socket, Type};

mod radio;

use radio::{Counts, DEVICES, MARK, PATHS, Path, Radio, SERVER};

const ROLE: &str = "HAWSER_TEST_ROLE";
const PORT: &str = "HAWSER_TEST_PORT";
const TEST: &str = "the_mobile_profile_ends_spurious_retransmissions";
const SEED: u64 = 0x2545_f491_4f6c_dd1d;
const MOBILE_MS: u64 = 3_000;

#[test]
fn the_mobile_profile_ends_spurious_retransmissions() {
    match std::env::var(ROLE).as_deref() {
        Ok("server") => return experiment(),
        Ok("devices") => return devices(),
        _ => {}
    }
    let status = Command::new("unshare")
        .args(["--map-root-user", "--net", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs none /var/lib && ip link set lo up && exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(ROLE, "server")
        .status()
        .expect("util-linux has unshare");
    assert!(status.success());
}

/// In the server's namespace: both settings, then the comparison.
fn experiment() {
    let there = Namespace::new();
    let without = measure(&there);
    let apply = ["apply", "--connections", "100000", "--only", "rto"];
    let applied = Command::new(env!("CARGO_BIN_EXE_hawser-tune")).args(apply).status().unwrap();
    assert!(applied.success());
    let with = measure(&there);
    println!(
        "| path | minimum | messages | sent again for nothing | sent again because lost | \
         how much later those came | handshakes sent again |\n|---|---|---|---|---|---|---|"
    );
    for (index, path) in PATHS.iter().enumerate() {
        for (minimum, counts) in [("200 ms", without[index]), ("3 s", with[index])] {
            let Counts { messages, spurious, needed, handshakes, .. } = counts;
            let later_ms = counts.mean_wait_ms();
            println!(
                "| {path} | {minimum} | {messages} | {spurious} | {needed} | {later_ms} ms | \
                 {handshakes} |"
            );
        }
    }
    for (index, path) in PATHS.iter().enumerate() {
        let (before, after) = (without[index], with[index]);
        assert!(before.needed > 0 && after.needed > 0, "{path}: nothing was lost");
        // The price.
        assert!(after.mean_wait_ms() >= MOBILE_MS, "{path}: {after:?} with the setting");
        // Where round trips differ, which is what the minimum is for.
        if let Path::Waking { .. } = path {
            assert!(before.spurious >= 100, "{path}: {before:?} without the setting");
            assert!(
                after.spurious * 10 <= before.spurious,
                "{path}: {after:?} with it, {before:?}"
            );
        }
    }
}

/// One run of all devices against a listener that is opened for it.
fn measure(there: &Namespace) -> Vec<Counts> {
    let listener = listen();
    let port = listener.local_addr().unwrap().port();
    let minimum_ms = verify::minimum_ms(&hawser_tuning::host::Host::live());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || answer(stream));
        }
    });
    let mut devices = Command::new("nsenter")
        .arg(there.net())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(ROLE, "devices")
        .env(PORT, port.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    devices.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(devices.wait().unwrap().success(), "{text}");
    if minimum_ms == MOBILE_MS {
        let timeouts = verify::timeouts(MOBILE_MS, Some(port)).unwrap();
        assert!(timeouts.connections > 0 && timeouts.below_minimum == 0, "{timeouts:?}");
    }
    let rows = text.lines().filter_map(|line| line.strip_prefix("counts "));
    rows.map(|row| {
        let numbers: Vec<u32> = row.split(' ').map(|word| word.parse().unwrap()).collect();
        Counts {
            messages: numbers[0],
            spurious: numbers[1],
            needed: numbers[2],
            waited_ms: numbers[3].into(),
            handshakes: numbers[4],
        }
    })
    .collect()
}

/// With room for all devices at once: their handshakes last as long as their round trips.
fn listen() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&SocketAddrV4::new(SERVER, 0).into()).unwrap();
    socket.listen(4_096).unwrap();
    socket.into()
}

/// A message for every byte that the device asks with.
fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut ask = [0u8; 1];
    while stream.read_exact(&mut ask).is_ok() && stream.write_all(&[7; 64]).is_ok() {}
}

fn devices() {
    let port = std::env::var(PORT).unwrap().parse().unwrap();
    let mut radio = Radio::new(port, SEED).unwrap();
    radio.run().unwrap();
    for Counts { messages, spurious, needed, waited_ms, handshakes } in radio.counts {
        // The test runner may have begun a line.
        println!("\ncounts {messages} {spurious} {needed} {waited_ms} {handshakes}");
    }
}

/// The devices' network, which ends with the process that holds it.
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn new() -> Namespace {
        // It reads what never comes, and ends when this process does.
        let holder = Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).spawn();
        let there = Namespace { holder: holder.unwrap() };
        there.wait_until_apart();
        let pid = there.holder.id().to_string();
        ip(&["link", "add", "server", "type", "veth", "peer", "name", "radio", "netns", &pid]);
        ip(&["address", "add", &format!("{SERVER}/24"), "dev", "server"]);
        ip(&["link", "set", "server", "up"]);
        let (mark, device) = (MARK.to_string(), DEVICES.to_string());
        for command in [
            &["address", "add", &device, "dev", "radio"][..],
            &["link", "set", "radio", "up"],
            &["link", "set", "lo", "up"],
            // Only what has the mark finds the way to the server.
            &["rule", "add", "fwmark", &mark, "table", "100"],
            &["route", "add", &SERVER.to_string(), "dev", "radio", "table", "100"],
        ] {
            let mut inside = Command::new("nsenter");
            let status = inside.arg(there.net()).arg("ip").args(command).status().unwrap();
            assert!(status.success(), "ip {command:?}");
        }
        there
    }

    fn net(&self) -> String {
        format!("--net=/proc/{}/ns/net", self.holder.id())
    }

    fn wait_until_apart(&self) {
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", self.holder.id());
        let deadline = Instant::now() + Duration::from_secs(20);
        while fs::read_link(&theirs).is_ok_and(|theirs| theirs == ours) {
            assert!(Instant::now() < deadline, "unshare makes no namespace");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("iproute2 has ip");
    assert!(status.success(), "ip {arguments:?}");
}
