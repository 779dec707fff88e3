//! Replays the fuzz targets' committed inputs (`tests/fuzz/corpus/<target>/`) through the same
//! properties, so that what a fuzzer once found stays found. The inputs named `seed-...` are made
//! here: frames of every type, among others; `UPDATE_GOLDEN=1` rewrites them.

use std::path::{Path, PathBuf};

use codec_properties::TARGETS;
use codec_properties::bytes::frame_of;
use codec_properties::samples::{Side, closes, samples, ticket};
use hawser_codec::device::{Downlink, Welcome};
use hawser_codec::ids::{Epoch, Seq, Stream};
use hawser_codec::ticket::{Algorithm, Ticket};

#[test]
fn every_committed_input_holds() {
    for (target, property) in TARGETS {
        let inputs = inputs(target);
        assert!((10..=200).contains(&inputs.len()), "{target}: {} inputs", inputs.len());
        for path in inputs {
            let input = std::fs::read(&path).unwrap();
            // The name stands in the output of a test that fails.
            println!("{}", path.display());
            property(&input);
        }
    }
}

/// The seeds hold every frame type, so a type that is added is fuzzed from then on.
#[test]
fn golden_seeds() {
    for (target, name, input) in seeds() {
        let path = corpus(target).join(format!("seed-{name}"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(corpus(target)).unwrap();
            std::fs::write(&path, &input).unwrap();
        }
        let committed = std::fs::read(&path).unwrap_or_default();
        assert!(committed == input, "{} is not what this test makes", path.display());
    }
}

fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut all = Vec::new();
    for sample in samples() {
        let target = match sample.side {
            Side::Uplink | Side::Downlink => "device",
            Side::ToControl | Side::ToBroker => "link",
        };
        let name = format!("{:?}-{}", sample.side, sample.name).to_lowercase();
        all.push((target, name, sample.bytes));
    }
    let every_close = closes().into_iter().flat_map(|(_, bytes)| bytes).collect();
    all.push(("device", "every-close".to_owned(), every_close));
    all.push(("device", "newer-connect".to_owned(), frame_of(0x10, &[2, 0, 0xff, 0xff])));
    all.push(("device", "newer-type".to_owned(), frame_of(0x3f, b"anything")));
    all.push(("link", "newer-hello".to_owned(), frame_of(0x40, &[2, 0, 0xff])));
    all.extend(framer_seeds());
    all.extend(ticket_seeds());
    all.extend(session_seeds());
    all
}

/// Every sample in one stream, under each limit and several cuts; and headers that are refused.
fn framer_seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let stream: Vec<u8> = samples().into_iter().flat_map(|sample| sample.bytes).collect();
    let mut all = Vec::new();
    for selector in 0..5u8 {
        for (name, sizes) in [("ones", &[1u8][..]), ("mixed", &[3, 0, 17, 1, 200])] {
            let input = [&[selector, sizes.len() as u8], sizes, &stream].concat();
            all.push(("framer", format!("{name}-{selector}"), input));
        }
    }
    for (name, stream) in [
        ("too-large", &[0x21, 0xff, 0xff, 0x7f][..]),
        ("four-byte-length", &[0x21, 0x80, 0x80, 0x80, 0x01]),
        ("long-varint", &[0x21, 0x80, 0x00]),
        ("unfinished", &[0x21, 0x05, 0x01, 0x02]),
    ] {
        all.push(("framer", name.to_owned(), [&[2, 1, 1][..], stream].concat()));
    }
    all
}

fn ticket_seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let good = ticket();
    let mut all = vec![("ticket", "hmac".to_owned(), good.clone())];
    let (app, device) = ("a".repeat(32), "d".repeat(64));
    let mut longest = Ticket::unsigned(Algorithm::Ed25519, u32::MAX, u64::MAX, &app, &device);
    longest.extend([0xa5; 64]);
    all.push(("ticket", "longest".to_owned(), longest));
    for (name, at, value) in [
        ("version", 0, 2),
        ("algorithm", 1, 9),
        ("other-algorithm", 1, 1),
        ("app-too-long", 14, 33),
        ("app-upper-case", 15, b'S'),
        ("app-hyphen", 15, b'-'),
        ("device-control", 20, 7),
        ("not-utf8", 20, 0xff),
    ] {
        let mut changed = good.clone();
        changed[at] = value;
        all.push(("ticket", name.to_owned(), changed));
    }
    all.push(("ticket", "cut".to_owned(), good[..good.len() - 1].to_vec()));
    all.push(("ticket", "trailing".to_owned(), [&good[..], &[0]].concat()));
    all
}

/// Scripts: `1 0` dials, `6 n` and n bytes arrive, `0 n` lets time pass, `3 0` disconnects, `4 0`
/// pings, `5 255` leaves.
fn session_seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let frame = |frame: Downlink<'_>| {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes
    };
    let arrives = |bytes: Vec<u8>| [vec![6, bytes.len() as u8], bytes].concat();
    let group = Some(Seq(9));
    let welcome =
        arrives(frame(Downlink::Welcome(Welcome { epoch: Epoch(7), heartbeat_s: 60, group })));
    let online = [vec![1, 0], welcome.clone()].concat();
    let (stream, payload) = (Stream::Inbox, &b"m"[..]);
    let push = |seq| arrives(frame(Downlink::Push { seq: Seq(seq), payload }));
    let notice = arrives(frame(Downlink::Notice { stream, latest: Seq(5) }));
    let caught_up = arrives(frame(Downlink::CaughtUp { stream, upto: Seq(5), more: true }));
    let reset = arrives(frame(Downlink::Reset { stream, seq: Seq(1) }));
    let group_push = arrives(frame(Downlink::Broadcast { seq: Seq(10), payload }));
    let topic_push = arrives(frame(Downlink::TopicPush { seq: Seq(11), tag: 3, payload }));
    let mut all = vec![
        ("online", online.clone()),
        ("pushes", [online.clone(), push(1), push(2), push(2)].concat()),
        ("pulls", [online.clone(), notice.clone(), push(5), caught_up].concat()),
        ("resets", [online.clone(), push(4), notice, reset, push(2)].concat()),
        ("group", [online.clone(), group_push, topic_push].concat()),
        ("heartbeats", [online.clone(), vec![0, 16, 4, 0], arrives(vec![2, 0])].concat()),
        ("idle", [online.clone(), vec![0, 16, 0, 15, 3, 0, 0, 15, 1, 0]].concat()),
        ("reconnects", [online.clone(), push(1), vec![3, 0], online.clone(), push(1)].concat()),
        ("leaves", [online.clone(), vec![5, 255], push(1), vec![1, 0]].concat()),
        ("early", [vec![1, 0], push(1), vec![3, 0]].concat()),
        ("broken", [online.clone(), arrives(vec![0x21, 1, 0]), vec![3, 0]].concat()),
    ]
    .into_iter()
    .map(|(name, script)| ("session", name.to_owned(), script))
    .collect::<Vec<_>>();
    for (reason, bytes) in closes() {
        let script = [online.clone(), arrives(bytes), vec![3, 0, 1, 0, 5, 255]].concat();
        all.push(("session", format!("close-{}", reason.label()), script));
    }
    all
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(corpus(target))
        .unwrap_or_else(|error| panic!("{}: {error}", corpus(target).display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

fn corpus(target: &str) -> PathBuf {
    Path::new("../tests/fuzz/corpus").join(target)
}
