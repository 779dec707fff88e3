//! Holds three things together: what the codec writes and reads, the golden file
//! `golden/frames.txt`, and the hex in `PROTOCOL.md`. A change of the wire format shows in all of
//! them or fails here. `UPDATE_GOLDEN=1 cargo test -p hawser-codec golden` rewrites the golden
//! file; the page is prose and is changed by hand.

use std::fmt::Write as _;

use codec_properties::samples::{Sample, Side, closes, samples};
use ed25519_dalek::{Signer, SigningKey};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::split;
use hawser_codec::ids::{DeviceId, HashKey, TopicId};
use hawser_codec::limits::*;
use hawser_codec::link::{BROKER_PROOF_CONTEXT, CONTROL_PROOF_CONTEXT, Hello};
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// What the codec writes is what the golden file has, and reads as what stands beside it.
#[test]
fn golden_frames() {
    let mut text = String::from(
        "One frame of every type and a close for every reason: side, type, bytes, value.\n\
         Rewritten by UPDATE_GOLDEN=1 cargo test -p hawser-codec golden; read the difference.\n",
    );
    for Sample { side, name, bytes } in &samples() {
        let value = describe(*side, bytes);
        write!(text, "\n{side:?} 0x{:02x} {name}\n  {}\n  {value}\n", bytes[0], hex(bytes))
            .unwrap();
    }
    for (reason, bytes) in &closes() {
        let value = describe(Side::Downlink, bytes);
        write!(text, "\nClose {}\n  {}\n  {value}\n", reason.label(), hex(bytes)).unwrap();
    }
    let path = "tests/golden/frames.txt";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, golden, "the wire format changed; see the top of this file");
}

/// All 256 types are asked about: what a decoder interprets has a sample, and nothing else does.
#[test]
fn golden_has_every_type() {
    let samples = samples();
    for side in Side::ALL {
        for kind in 0..=255 {
            let sampled = samples.iter().any(|one| one.side == side && one.bytes[0] == kind);
            assert_eq!(side.knows(kind), sampled, "{side:?} 0x{kind:02x}");
        }
    }
    let mut kinds: Vec<u8> = samples.iter().map(|one| one.bytes[0]).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), samples.len(), "a type has one meaning in all directions");
}

/// Each section `### 0xNN Name` of the page shows the sample of that type, in the same order.
#[test]
fn golden_page_shows_every_frame() {
    let page = page();
    let mut shown = Vec::new();
    for block in blocks(&page) {
        if block.info == "hex" {
            let title = block.heading.expect("a hex block follows the heading of a frame");
            let (kind, name) = title.split_once(' ').expect("type and name");
            let kind = u8::from_str_radix(kind, 16).expect("a hexadecimal type");
            let bytes = bytes_of(&block.lines);
            assert_eq!(kind, bytes[0], "heading and bytes of {name}");
            shown.push((name.to_owned(), bytes));
        }
    }
    let samples = samples();
    let written: Vec<_> =
        samples.iter().map(|one| (one.name.to_owned(), one.bytes.clone())).collect();
    for (page, codec) in shown.iter().zip(&written) {
        assert_eq!(page, codec, "the page's {} against what the codec writes", page.0);
    }
    assert_eq!(shown.len(), written.len(), "a frame is missing on the page, or stands there twice");
    for (sample, (_, bytes)) in samples.iter().zip(&shown) {
        let (frame, rest) = split(bytes, sample.side.body_bytes_max()).unwrap().unwrap();
        assert!(rest.is_empty());
        assert_eq!(sample.side.repeat(frame), Ok(Some(bytes.clone())), "{}", sample.name);
    }
}

/// The table of close reasons: number, label, whether a retry helps, a frame.
#[test]
fn golden_page_lists_every_close_reason() {
    let expected: Vec<Vec<String>> = closes()
        .iter()
        .map(|(reason, bytes)| {
            vec![
                (*reason as u8).to_string(),
                format!("`{}`", reason.label()),
                if reason.may_retry() { "yes" } else { "no" }.to_owned(),
                reason.text().to_owned(),
                format!("`{}`", hex(bytes)),
            ]
        })
        .collect();
    assert_table("| code | label | retry | meaning | shortest frame |", &expected);
    for code in 0..=255u8 {
        let reason = CloseReason::from_code(code);
        let named = CloseReason::ALL.iter().any(|one| *one as u8 == code);
        assert_eq!(reason as u8 == code, named, "code {code}");
        assert!(named || reason == CloseReason::Unknown, "code {code}");
    }
}

#[test]
fn golden_page_lists_every_decode_error() {
    let expected: Vec<Vec<String>> = DecodeError::ALL
        .iter()
        .map(|&error| {
            let close = CloseReason::from(error);
            vec![format!("`{}`", error.label()), error.to_string(), format!("`{}`", close.label())]
        })
        .collect();
    assert_table("| error | meaning | close reason |", &expected);
}

#[test]
fn golden_page_lists_every_limit() {
    let expected: Vec<Vec<String>> = [
        ("UPLINK_BODY_BYTES_MAX", UPLINK_BODY_BYTES_MAX),
        ("DOWNLINK_BODY_BYTES_MAX", DOWNLINK_BODY_BYTES_MAX),
        ("LINK_BODY_BYTES_MAX", LINK_BODY_BYTES_MAX),
        ("LINK_HANDSHAKE_BODY_BYTES_MAX", LINK_HANDSHAKE_BODY_BYTES_MAX),
        ("PAYLOAD_BYTES_MAX", PAYLOAD_BYTES_MAX),
        ("INLINE_BYTES_MAX", INLINE_BYTES_MAX),
        ("PULL_ENTRIES_MAX", PULL_ENTRIES_MAX),
        ("PULL_BYTES_MAX", PULL_BYTES_MAX),
        ("APP_NAME_BYTES_MAX", APP_NAME_BYTES_MAX),
        ("DEVICE_NAME_BYTES_MAX", DEVICE_NAME_BYTES_MAX),
        ("TOPIC_NAME_BYTES_MAX", TOPIC_NAME_BYTES_MAX),
        ("TOPICS_PER_SESSION_MAX", TOPICS_PER_SESSION_MAX),
        ("TICKET_BYTES_MAX", TICKET_BYTES_MAX),
        ("REDIRECT_ADDRESSES_MAX", REDIRECT_ADDRESSES_MAX),
        ("ADDRESS_BYTES_MAX", ADDRESS_BYTES_MAX),
        ("APPS_MAX", APPS_MAX),
        ("APP_KEYS_MAX", APP_KEYS_MAX),
        ("HEARTBEAT_S_MAX", usize::from(HEARTBEAT_S_MAX)),
        ("SEQ_MAX", SEQ_MAX as usize),
    ]
    .iter()
    .map(|(name, value)| vec![format!("`{name}`"), value.to_string()])
    .collect();
    let in_code = include_str!("../src/limits.rs").matches("pub const ").count();
    assert_eq!(expected.len(), in_code, "a limit is missing in this test");
    let rows = table("| limit | value | of what |");
    let shown: Vec<Vec<String>> = rows.iter().map(|row| row[..2].to_vec()).collect();
    assert_eq!(shown, expected);
}

/// Every line of an exchange is whole frames of its direction, known and well formed.
#[test]
fn golden_page_exchanges() {
    let page = page();
    let mut exchanges = 0;
    for block in blocks(&page) {
        let (out, back) = match block.info.as_str() {
            "exchange device" => (Side::Uplink, Side::Downlink),
            "exchange link" => (Side::ToControl, Side::ToBroker),
            _ => continue,
        };
        exchanges += 1;
        for line in &block.lines {
            let (side, rest) = match line.split_at(1) {
                (">", rest) => (out, rest),
                ("<", rest) => (back, rest),
                _ => panic!("an exchange's line begins with > or <: {line}"),
            };
            let (_, comment) = rest.split_once(';').expect("a line says what it is");
            let bytes = bytes_of(&[rest.to_owned()]);
            let (frame, after) = split(&bytes, side.body_bytes_max()).unwrap().expect(line);
            assert!(after.is_empty(), "{line}");
            assert_eq!(side.repeat(frame).expect(line), Some(bytes.clone()), "{line}");
            let name = samples()
                .iter()
                .find(|one| one.side == side && one.bytes[0] == bytes[0])
                .map(|one| one.name)
                .expect(line);
            assert!(comment.trim_start().starts_with(name), "{line}");
        }
    }
    assert_eq!(exchanges, 4, "the page shows that many exchanges");
}

/// Values that an implementation in another language can check itself against.
#[test]
fn golden_page_vectors() {
    let seed = [7u8; 32];
    let body = Ticket::unsigned(Algorithm::Ed25519, 1, 1_800_000_000, "shop", "d-1");
    let signed = [SIGNATURE_CONTEXT, &body].concat();
    let mut ed25519 = body.clone();
    ed25519.extend(SigningKey::from_bytes(&seed).sign(&signed).to_bytes());

    let body = Ticket::unsigned(Algorithm::HmacSha256, 1, 1_800_000_000, "shop", "d-1");
    let mut hmac_sha256 = body.clone();
    hmac_sha256.extend(hmac(&seed, &[SIGNATURE_CONTEXT, &body]));

    let hello = Hello {
        major: 1,
        minor: 0,
        broker: 9,
        incarnation: 1_700_000_000_000,
        shard: 1,
        nonce: [0xa1; 32],
    };
    let transcript = hello.transcript(2, &[0xb2; 32]);
    let device = DeviceId::new(&HashKey([7; 16]), "shop", "d-1");
    let topic = TopicId::new("news");

    let vectors: [(&str, Vec<u8>); 6] = [
        ("ticket-ed25519", ed25519),
        ("ticket-hmac-sha256", hmac_sha256),
        ("link-proof-control", hmac(&seed, &[CONTROL_PROOF_CONTEXT, &transcript]).to_vec()),
        ("link-proof-broker", hmac(&seed, &[BROKER_PROOF_CONTEXT, &transcript]).to_vec()),
        ("device-id", device.0.to_le_bytes().to_vec()),
        ("topic-id", topic.0.to_le_bytes().to_vec()),
    ];
    let page = page();
    let shown: Vec<(String, String)> = blocks(&page)
        .iter()
        .filter_map(|block| {
            let name = block.info.strip_prefix("vector ")?;
            Some((name.to_owned(), hex(&bytes_of(&block.lines))))
        })
        .collect();
    let expected: Vec<(String, String)> =
        vectors.iter().map(|(name, bytes)| ((*name).to_owned(), hex(bytes))).collect();
    assert_eq!(shown, expected);
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// A fenced block of the page, and the frame's heading that stands right before it.
struct Block {
    info: String,
    lines: Vec<String>,
    heading: Option<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut all = Vec::new();
    let mut open: Option<Block> = None;
    let mut heading = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => all.push(block),
            (Some(info), None) => {
                open = Some(Block {
                    info: info.to_owned(),
                    lines: Vec::new(),
                    heading: heading.take(),
                });
            }
            (None, Some(mut block)) => {
                block.lines.push(line.to_owned());
                open = Some(block);
            }
            (None, None) => {
                if let Some(title) = line.strip_prefix("### 0x") {
                    heading = Some(title.to_owned());
                }
            }
        }
    }
    assert!(open.is_none(), "an open block at the end of the page");
    all
}

/// The bytes of hex lines; what follows a semicolon is comment.
fn bytes_of(lines: &[String]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|line| line.split(';').next().unwrap_or_default().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap_or_else(|_| panic!("not a byte: {byte}")))
        .collect()
}

fn assert_table(header: &str, expected: &[Vec<String>]) {
    for (shown, expected) in table(header).iter().zip(expected) {
        assert_eq!(shown, expected);
    }
    assert_eq!(table(header).len(), expected.len(), "rows under {header}");
}

/// The rows of the page's table with this header.
fn table(header: &str) -> Vec<Vec<String>> {
    let page = page();
    let rows: Vec<Vec<String>> = page
        .lines()
        .skip_while(|line| *line != header)
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "the page has no table {header}");
    rows
}

fn describe(side: Side, bytes: &[u8]) -> String {
    let (frame, rest) = split(bytes, side.body_bytes_max()).unwrap().expect("a whole frame");
    assert!(rest.is_empty());
    side.describe(frame).expect("well formed").expect("a known type")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn page() -> String {
    std::fs::read_to_string("PROTOCOL.md").expect("codec/PROTOCOL.md")
}
