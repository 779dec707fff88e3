//! The link port of the real process: who gets in, what the others cost, and a message's way over
//! a link.

use crate::client::Client;
use crate::control::{Control, LINK_KEY};
use crate::running::eventually;
use crate::shard::{Shard, hello};
use hawser_codec::error::CloseReason;
use hawser_codec::frame::{Frame, put_header};
use hawser_codec::ids::{AppId, DeviceId, Epoch, HashKey, Seq, SessionRef};
use hawser_codec::limits::{LINK_BODY_BYTES_MAX, LINK_HANDSHAKE_BODY_BYTES_MAX};
use hawser_codec::link::{
    Acked, Announced, BROKER_PROOF_CONTEXT, Hello, Pulled, ToBroker, to_control,
};
use serde_json::{Value, json};

/// The reason in a `Refused` frame.
fn refused(frames: &[(u8, Vec<u8>)]) -> Option<CloseReason> {
    frames.iter().find_map(|(kind, body)| {
        match ToBroker::decode(Frame { kind: *kind, body }).unwrap() {
            Some(ToBroker::Refused { reason }) => Some(reason),
            _ => None,
        }
    })
}

/// A counter of the process. `line` is everything before the value.
fn metric(client: &Client, line: &str) -> u64 {
    let page = client.get("/metrics", "").expect(200);
    let page = page.as_str().unwrap();
    let start = format!("hawser_control_{line} ");
    let value = page.lines().find_map(|other| other.strip_prefix(&start));
    value.unwrap_or_else(|| panic!("no {start} in {page}")).parse().unwrap()
}

#[test]
fn only_those_with_the_key_get_in() {
    let control = Control::start();
    let client = Client::new(&control);
    let mut witness = Shard::link(&control, 0);

    let mut wrong = Shard::dial(&control);
    wrong.shake(&hello(1), &"43".repeat(32));
    assert_eq!(refused(&wrong.ends()), Some(CloseReason::LinkAuth));

    let mut old = Shard::dial(&control);
    old.send(|out| to_control::hello(out, &Hello { major: 9, ..hello(1) }));
    assert_eq!(refused(&old.ends()), Some(CloseReason::Version));

    // A proof for another identity is no proof.
    let mut other = Shard::dial(&control);
    other.send(|out| to_control::hello(out, &hello(1)));
    let (node, nonce) = other.next(|frame| match frame {
        ToBroker::Challenge { node, nonce, .. } => Some((*node, *nonce)),
        _ => None,
    });
    let transcript = hello(2).transcript(node, &nonce);
    let key = hawser_control::secrets::LinkKey::parse(LINK_KEY).unwrap();
    let proof = key.proof(BROKER_PROOF_CONTEXT, &transcript);
    other.send(|out| to_control::proof(out, &proof));
    assert_eq!(refused(&other.ends()), Some(CloseReason::LinkAuth));

    assert_eq!(metric(&client, "links_refused_total{reason=\"auth\"}"), 2);
    assert_eq!(metric(&client, "links_refused_total{reason=\"version\"}"), 1);
    assert_eq!(metric(&client, "links_up"), 1);
    // The link that was there is as it was.
    witness.send(|out| to_control::ack(out, &[]));
    client.app("shop", json!({}));
    witness.next(|frame| matches!(frame, ToBroker::Keys(_)).then_some(()));
}

#[test]
fn garbage_costs_its_connection_only() {
    let control = Control::start();
    let client = Client::new(&control);
    let mut witness = Shard::link(&control, 0);

    let mut too_long = Vec::new();
    put_header(&mut too_long, 0x40, LINK_HANDSHAKE_BODY_BYTES_MAX + 1);
    let mut early = Vec::new();
    to_control::announce(&mut early, &[announced(DeviceId(1), AppId(1))]);
    let mut pong = Vec::new();
    to_control::pong(&mut pong, Epoch(1));
    let http = b"GET / HTTP/1.1\r\n".repeat(10);
    for garbage in [&http[..], &[0xff; 512], &too_long, &early, &pong] {
        let mut peer = Shard::dial(&control);
        peer.send_or_not(garbage);
        assert!(peer.ends().is_empty(), "{garbage:?}");
    }
    assert_eq!(metric(&client, "links_refused_total{reason=\"bad_handshake\"}"), 5);

    // Behind the handshake too.
    let mut huge = Vec::new();
    put_header(&mut huge, 0x42, LINK_BODY_BYTES_MAX + 1);
    let mut cut = Vec::new();
    put_header(&mut cut, 0x45, 5);
    cut.extend_from_slice(&[1; 5]);
    let mut again = Vec::new();
    to_control::hello(&mut again, &hello(3));
    for (garbage, reason) in [
        (&huge, CloseReason::FrameTooLarge),
        (&cut, CloseReason::BadFrame),
        (&again, CloseReason::Unexpected),
    ] {
        let mut peer = Shard::link(&control, 3);
        peer.send_or_not(garbage);
        peer.ends();
        let line = format!("links_closed_total{{reason=\"{}\"}}", reason.label());
        eventually("the link is counted", || (metric(&client, &line) == 1).then_some(()));
    }
    client.app("shop", json!({}));
    witness.next(|frame| matches!(frame, ToBroker::Keys(_)).then_some(()));
    assert_eq!(metric(&client, "links_up"), 1);
}

#[test]
fn handshakes_have_a_deadline_and_links_a_limit() {
    let control = Control::start_with(&["link_handshake_timeout_ms=100", "links_max=1"]);
    let client = Client::new(&control);
    let mut silent = Shard::dial(&control);
    assert!(silent.ends().is_empty());
    assert_eq!(metric(&client, "links_refused_total{reason=\"timeout\"}"), 1);
    // A busy machine may keep this one from its deadline, too.
    let _only = eventually("the silent peer's place is free", || Shard::try_link(&control, 0));
    let too_many = || metric(&client, "links_refused_total{reason=\"too_many\"}");
    let before = too_many();
    let mut second = Shard::dial(&control);
    assert!(second.ends().is_empty());
    assert_eq!(too_many(), before + 1);
}

const SESSION: SessionRef = SessionRef { slot: 5, generation: 6 };

fn announced(device: DeviceId, app: AppId) -> Announced {
    Announced { device, app, session: SESSION, epoch: Epoch::from_ms(1), acked: Seq(0) }
}

#[test]
fn a_message_travels_over_the_link_and_back() {
    let control = Control::start();
    let client = Client::new(&control);
    let key = client.app("shop", json!({}));
    let mut shard = Shard::dial(&control);
    shard.shake(&hello(0), LINK_KEY);
    let (hash_key, app): (HashKey, AppId) = shard.next(|frame| match frame {
        ToBroker::Keys(keys) => Some((keys.hash_key, keys.apps.first()?.app)),
        _ => None,
    });
    let device = DeviceId::new(&hash_key, "shop", "phone");
    shard.send(|out| to_control::announce(out, &[announced(device, app)]));
    let path = "/v1/apps/shop/devices/phone";
    eventually("the device is online", || {
        (client.get(path, &key).expect(200)["online"] == true).then_some(())
    });

    let push = |to: Value, payload: &str| {
        let body = json!({"to": to, "payload": payload});
        client.post("/v1/apps/shop/messages", &key, &body).expect(202)
    };
    let accepted = push(json!({"device": "phone"}), "hello");
    assert_eq!(accepted["online"], true);
    shard.next(|frame| match frame {
        ToBroker::Deliver { session, entry } => {
            assert_eq!((*session, entry.seq, entry.payload), (SESSION, Seq(1), &b"hello"[..]));
            Some(())
        }
        _ => None,
    });
    let pulled = Pulled { device, app, session: SESSION, from: Seq(0) };
    shard.send(|out| to_control::pull(out, &[pulled]));
    shard.next(|frame| match frame {
        ToBroker::Entries { session, upto, more, entries } => {
            assert_eq!((*session, *upto, *more), (SESSION, Seq(1), false));
            let payloads: Vec<&[u8]> = entries.iter().map(|entry| entry.payload).collect();
            assert_eq!(payloads, [b"hello"]);
            Some(())
        }
        _ => None,
    });
    shard.send(|out| to_control::ack(out, &[Acked { device, app, seq: Seq(1) }]));
    let path = format!("/v1/apps/shop/messages/{}", accepted["id"].as_str().unwrap());
    eventually("the message is delivered", || {
        (client.get(&path, &key).expect(200)["state"] == "delivered").then_some(())
    });

    push(json!({"all": true}), "to all");
    shard.next(|frame| match frame {
        ToBroker::GroupDeliver { entry, .. } => {
            assert_eq!((entry.seq, entry.payload), (Seq(1), &b"to all"[..]));
            Some(())
        }
        _ => None,
    });

    // The end of a link ends nothing but the route.
    drop(shard);
    let path = "/v1/apps/shop/devices/phone";
    eventually("the device is offline", || {
        (client.get(path, &key).expect(200)["online"] == false).then_some(())
    });
    assert_eq!(push(json!({"device": "phone"}), "later")["seq"], 2);
}
