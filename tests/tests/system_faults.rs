//! Peers that misbehave, disks that fill up, and a broker that is told to stop.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ed25519_dalek::{Signer, SigningKey};
use hawser_codec::device::{Connect, Downlink, MAJOR, MINOR, Uplink};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::{Framer, put_header};
use hawser_codec::ids::{Epoch, Seq};
use hawser_codec::limits::{DOWNLINK_BODY_BYTES_MAX, UPLINK_BODY_BYTES_MAX};
use hawser_codec::session::Positions;
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use hawser_tests::system::cluster::{App, Broker, Control, ControlOptions};
use hawser_tests::system::device::Device;
use hawser_tests::system::process::Folder;
use hawser_tests::system::wait::{wait_for, wait_until};
use serde_json::json;

#[test]
fn bad_input_ends_its_own_connection_for_its_own_reason_and_nothing_else() {
    let folder = Folder::new();
    let control = Control::start(&ControlOptions::embedded(&folder));
    let app = App::create(control.api, "shop");
    let broker = Broker::start(&folder, &[control.link], &[("broker_id", "1")]);
    // One that soon loses its patience, for those who do not come to an end. A busy machine may keep
    // others from it for as long.
    let settings = [("broker_id", "2"), ("handshake_timeout_ms", "1000")];
    let apart = Folder::new();
    let impatient = Broker::start(&apart, &[control.link], &settings);
    let mut bystanders = [&broker, &impatient].map(|broker| {
        broker.wait_linked(1);
        let name = format!("bystander-{}", broker.devices.port());
        let ticket = app.ticket(&name);
        let mut device = Device::connect(broker.devices, &ticket, &[], Positions::default());
        device.until_ready();
        (broker, name, device)
    });

    let good = app.ticket("mallory");
    let mut flipped = good.clone();
    *flipped.last_mut().expect("a ticket has bytes") ^= 1;
    let half = {
        let mut bytes = connect(MAJOR, &good);
        bytes.truncate(bytes.len() / 2);
        bytes
    };
    let mut oversized = Vec::new();
    put_header(&mut oversized, 0x10, UPLINK_BODY_BYTES_MAX + 1);
    let mut ack = Vec::new();
    Uplink::Ack { seq: Seq(1) }.encode(&mut ack);
    let cases: [(&str, Vec<u8>, CloseReason); 10] = [
        ("garbage", vec![0x01, 0x02, 0xaa, 0xbb], CloseReason::BadFrame),
        ("an oversized frame", oversized, CloseReason::FrameTooLarge),
        ("half a frame", half, CloseReason::HandshakeTimeout),
        ("nothing", Vec::new(), CloseReason::HandshakeTimeout),
        ("another version", connect(MAJOR + 1, &good), CloseReason::Version),
        ("no ticket", connect(MAJOR, b"\x07nonsense"), CloseReason::TicketMalformed),
        ("a forged ticket", connect(MAJOR, &flipped), CloseReason::TicketForged),
        ("an expired ticket", connect(MAJOR, &expired(&app)), CloseReason::TicketExpired),
        ("an unknown app", connect(MAJOR, &strange()), CloseReason::UnknownApp),
        ("an early acknowledgement", ack, CloseReason::Unexpected),
    ];
    for (what, bytes, reason) in cases {
        let broker = if reason == CloseReason::HandshakeTimeout { &impatient } else { &broker };
        let before = broker.closed(reason.label());
        assert_eq!(talk(broker.devices, &bytes, false), reason, "{what}");
        wait_until(&format!("{what} to be counted"), || {
            broker.closed(reason.label()) == before + 1
        });
    }
    let before = impatient.closed("handshake_timeout");
    let slow = talk(impatient.devices, &connect(MAJOR, &good), true);
    assert_eq!(slow, CloseReason::HandshakeTimeout, "one byte now and then");
    wait_until("it to be counted", || impatient.closed("handshake_timeout") == before + 1);

    for (broker, name, device) in &mut bystanders {
        app.push_to(name, "undisturbed");
        device.until_heard(1);
        assert_eq!((&device.closed, broker.metric("sessions", "")), (&None, 1), "{name}");
    }
}

/// Sends and reads until the broker ends the connection; the reason it gave.
fn talk(address: SocketAddr, bytes: &[u8], drip: bool) -> CloseReason {
    let mut stream = TcpStream::connect(address).expect("the broker listens");
    let timeout = if drip { 10 } else { 10_000 };
    stream.set_read_timeout(Some(Duration::from_millis(timeout))).expect("a timeout is set");
    let mut left = bytes;
    if !drip {
        stream.write_all(left).expect("the socket has room");
        left = &[];
    }
    let mut framer = Framer::default();
    let mut reason = None;
    let mut buffer = [0; 4096];
    loop {
        if let Some((first, rest)) = left.split_first() {
            // The last byte is kept back: the frame never becomes whole.
            if !rest.is_empty() && stream.write_all(&[*first]).is_ok() {
                left = rest;
            }
        }
        let count = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if drip && error.kind() == ErrorKind::WouldBlock => continue,
            // The test was stopped for a while and goes on.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => panic!("the broker did not end the connection: {error}"),
        };
        let fed = framer.feed(&buffer[..count], DOWNLINK_BODY_BYTES_MAX, |frame| {
            if let Some(Downlink::Close(close)) = Downlink::decode(frame)? {
                reason = Some(close.reason);
            }
            Ok::<(), DecodeError>(())
        });
        fed.expect("the broker speaks the protocol");
        if reason.is_some() {
            break;
        }
    }
    reason.expect("a close frame comes before the end")
}

fn connect(major: u8, ticket: &[u8]) -> Vec<u8> {
    let connect = Connect {
        major,
        minor: MINOR,
        heartbeat_s: 0,
        network: 0,
        last_epoch: Epoch::ZERO,
        inbox: Seq::ZERO,
        group: None,
        ticket,
    };
    let mut out = Vec::new();
    Uplink::Connect(connect).encode(&mut out);
    out
}

/// A ticket of the app that ended long ago. A broker looks at the time only of what verifies, or
/// before it verifies; either way a wrong signature must not hide behind an old date, so the app's
/// own ticket is awaited to expire.
fn expired(app: &App) -> Vec<u8> {
    let response = app.post("tickets", &json!({ "device": "late", "ttl_s": 1 }));
    let answer = response.expect("the API answers").json();
    let text = answer["ticket"].as_str().expect("a ticket").to_owned();
    let bytes = {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("base64url")
    };
    let expires_s = Ticket::decode(&bytes).expect("a ticket decodes").expires_s;
    wait_until("the ticket to expire", || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("after 1970").as_secs() > expires_s
    });
    bytes
}

/// A good ticket of an app that nobody registered.
fn strange() -> Vec<u8> {
    let mut ticket =
        Ticket::unsigned(Algorithm::Ed25519, 1, u64::from(u32::MAX), "stranger", "phone");
    let mut signed = SIGNATURE_CONTEXT.to_vec();
    signed.extend_from_slice(&ticket);
    ticket.extend_from_slice(&SigningKey::from_bytes(&[9; 32]).sign(&signed).to_bytes());
    ticket
}

#[test]
fn a_draining_broker_sends_its_devices_elsewhere_and_ends_well() {
    let folder = Folder::new();
    let control = Control::start(&ControlOptions::embedded(&folder));
    let app = App::create(control.api, "shop");
    let other = Broker::start(&folder, &[control.link], &[("broker_id", "2")]);
    let redirect = other.devices.to_string();
    let settings = [("broker_id", "1"), ("redirect", redirect.as_str()), ("retry_after_ms", "10")];
    let mut broker = Broker::start(&folder, &[control.link], &settings);
    broker.wait_linked(1);
    other.wait_linked(1);
    let mut devices: Vec<(Device, Vec<u8>)> = (0..20)
        .map(|number| {
            let ticket = app.ticket(&format!("device-{number}"));
            let from = Positions::default();
            let mut device = Device::connect(broker.devices, &ticket, &[], from);
            device.until_ready();
            (device, ticket)
        })
        .collect();

    broker.process.terminate();
    for (number, (device, ticket)) in devices.iter_mut().enumerate() {
        assert_eq!(device.until_closed(), CloseReason::Drain);
        let (_, addresses) = device.closed.clone().expect("it was closed");
        assert_eq!(addresses, std::slice::from_ref(&redirect), "it is told where to go");
        app.push_to(&format!("device-{number}"), "on the way");
        device.dial(addresses[0].parse().expect("an address"), ticket, &[]);
        device.until_ready();
        device.until_heard(1);
    }
    assert_eq!(broker.process.wait().code(), Some(0));
    assert_eq!(other.metric("sessions", ""), 20);
}

/// A store on a file system of its own, so small that it can be filled. The mount is private to the
/// process and ends with it; from outside it is reached through /proc.
#[test]
fn a_full_disk_refuses_pushes_loses_nothing_and_recovers() {
    let folder = Folder::new();
    let place = folder.join("disk");
    fs::create_dir(&place).expect("a directory is made");
    let options = ControlOptions { data: place.join("data"), ..ControlOptions::embedded(&folder) };
    let script = format!("mount -t tmpfs -o size=160m tmpfs {} && exec \"$@\"", place.display());
    let mut wrapper = Command::new("unshare");
    let as_root = fs::metadata("/proc/self").is_ok_and(|meta| {
        use std::os::unix::fs::MetadataExt;
        meta.uid() == 0
    });
    wrapper.args([if as_root { "-m" } else { "-rm" }, "sh", "-c", &script, "sh"]);
    let control = Control::start_wrapped(wrapper, &options);
    let app = App::create(control.api, "shop");
    let broker = Broker::start(&folder, &[control.link], &[]);
    broker.wait_linked(1);
    let mut device =
        Device::connect(broker.devices, &app.ticket("phone"), &[], Positions::default());
    device.until_ready();
    app.push_to("phone", "before");
    device.until_heard(1);

    let inside = PathBuf::from(format!("/proc/{}/root{}", control.process.id(), place.display()));
    let filler = inside.join("filler");
    fill(&filler);
    let mut accepted = vec!["before".to_owned()];
    let mut number = 0;
    let payload = "x".repeat(32 * 1024);
    // The log may have room left in what it has allocated; large messages use it up.
    let refused = wait_for("a refusal", || {
        number += 1;
        let text = format!("{number} {payload}");
        let body = json!({ "to": { "device": "phone" }, "payload": text });
        let response = app.post("messages", &body).expect("the API answers");
        device.live();
        if response.status == 202 {
            accepted.push(text);
            return None;
        }
        Some(response)
    });
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(device.closed, None, "a store that is full costs no connection");

    fs::remove_file(&filler).expect("the filler is ours");
    let body = json!({ "to": { "device": "phone" }, "payload": "after" });
    wait_until("the store to recover", || {
        device.live();
        app.post("messages", &body).is_some_and(|response| response.status == 202)
    });
    accepted.push("after".to_owned());
    device
        .until("everything that was accepted", |device| device.payloads().last() == Some(&"after"));
    let heard: Vec<&str> = device.payloads();
    for text in &accepted {
        let times = heard.iter().filter(|heard| *heard == text).count();
        assert_eq!(times, 1, "{:.20} was heard {times} times", text);
    }
    assert_eq!(broker.closed("reset"), 0);
}

/// Writes until the file system is full.
fn fill(path: &PathBuf) {
    let mut file = fs::File::create(path).expect("the disk is reached");
    let block = vec![0; 64 * 1024];
    while file.write_all(&block).is_ok() {}
}
