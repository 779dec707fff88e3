//! Who is admitted: each algorithm, each way in which a ticket can be bad, and the key sets.

use hawser_broker::core::event::{Action, Actions, Event, LinkIndex, Now};
use hawser_broker::core::{Core, Gauges};
use hawser_broker::metrics::Counter;
use hawser_codec::device::{Connect, MAJOR, Uplink};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::split;
use hawser_codec::ids::{DeviceId, HashKey};
use hawser_codec::limits::LINK_BODY_BYTES_MAX;
use hawser_codec::link::{AppKeys, Keys, ToBroker, ToControl, VerifyKey, to_broker};
use hawser_codec::ticket::Algorithm::{self, Ed25519, HmacSha256};

use crate::rules::config;
use crate::stage::{EXPIRES_S, HASH_KEY, NEWS, SHOP, START_UNIX_MS, connect, frames, keys, ticket};

const NOW: Now = Now { mono_ms: 0, unix_ms: START_UNIX_MS };

/// How a connect with this ticket ends; `None`: it is admitted.
fn outcome(core: &mut Core, ticket: &[u8], now: Now) -> Option<CloseReason> {
    let mut out = Actions::default();
    let connect = connect(ticket);
    core.on_event(Event::Accepted { slot: 0 }, now, &mut out);
    core.on_event(Event::Frame { slot: 0, frame: Uplink::Connect(connect) }, now, &mut out);
    let reason = out.list.iter().find_map(|action| match action {
        Action::Close { reason, .. } => Some(*reason),
        _ => None,
    });
    if reason.is_none() {
        core.on_event(Event::Frame { slot: 0, frame: Uplink::Bye }, now, &mut out);
    }
    core.on_event(Event::Closed { slot: 0 }, now, &mut out);
    core.on_turn(now, Gauges::default(), &mut out);
    core.invariants();
    reason
}

fn set_keys(core: &mut Core, keys: &Keys<'_>) -> Actions {
    let mut bytes = Vec::new();
    to_broker::keys(&mut bytes, keys);
    let (frame, _) = split(&bytes, LINK_BODY_BYTES_MAX).unwrap().unwrap();
    let frame = ToBroker::decode(frame).unwrap().unwrap();
    let mut out = Actions::default();
    core.on_event(Event::Link { link: LinkIndex(0), frame }, NOW, &mut out);
    out
}

#[test]
fn a_ticket_admits_or_says_why_not() {
    let mut core = Core::new(config());
    set_keys(&mut core, &keys(1));
    let good = |algorithm| match algorithm {
        HmacSha256 => ticket("shop", "anna", algorithm, EXPIRES_S),
        Ed25519 => ticket("news", "anna", algorithm, EXPIRES_S),
    };
    let with = |algorithm, change: fn(&mut Vec<u8>)| {
        let mut ticket = good(algorithm);
        change(&mut ticket);
        ticket
    };
    let last = |ticket: &mut Vec<u8>| *ticket.last_mut().unwrap() ^= 1;
    let key_id = |ticket: &mut Vec<u8>| ticket[2] ^= 1;
    let device = |ticket: &mut Vec<u8>| {
        let at = ticket.windows(4).position(|name| name == b"anna").unwrap();
        ticket[at + 3] = b'e';
    };
    let expiry = |ticket: &mut Vec<u8>| ticket[6] ^= 1;
    let shorter = |ticket: &mut Vec<u8>| ticket.truncate(ticket.len() - 1);
    let cases: [(&str, Vec<u8>, Option<CloseReason>); 15] = [
        ("hmac", good(HmacSha256), None),
        ("ed25519", good(Ed25519), None),
        ("hmac signature", with(HmacSha256, last), Some(CloseReason::TicketForged)),
        ("ed25519 signature", with(Ed25519, last), Some(CloseReason::TicketForged)),
        ("hmac device", with(HmacSha256, device), Some(CloseReason::TicketForged)),
        ("ed25519 device", with(Ed25519, device), Some(CloseReason::TicketForged)),
        ("hmac expiry", with(HmacSha256, expiry), Some(CloseReason::TicketForged)),
        ("ed25519 expiry", with(Ed25519, expiry), Some(CloseReason::TicketForged)),
        ("key id", with(HmacSha256, key_id), Some(CloseReason::TicketForged)),
        ("shorter", with(Ed25519, shorter), Some(CloseReason::TicketMalformed)),
        ("empty", Vec::new(), Some(CloseReason::TicketMalformed)),
        (
            "the app's other algorithm",
            ticket("news", "anna", HmacSha256, EXPIRES_S),
            Some(CloseReason::TicketForged),
        ),
        (
            "another app's key",
            ticket("shop", "anna", Ed25519, EXPIRES_S),
            Some(CloseReason::TicketForged),
        ),
        (
            "no such app",
            ticket("shops", "anna", HmacSha256, EXPIRES_S),
            Some(CloseReason::UnknownApp),
        ),
        (
            "expired",
            ticket("shop", "anna", HmacSha256, START_UNIX_MS / 1000),
            Some(CloseReason::TicketExpired),
        ),
    ];
    for (name, ticket, expect) in cases {
        assert_eq!(outcome(&mut core, &ticket, NOW), expect, "{name}");
    }
    let counted = [
        (CloseReason::TicketForged, 9),
        (CloseReason::TicketMalformed, 2),
        (CloseReason::UnknownApp, 1),
        (CloseReason::TicketExpired, 1),
    ];
    for (reason, count) in counted {
        assert_eq!(core.counters().closed(reason), count, "{reason:?}");
    }
    assert_eq!(core.counters().get(Counter::Connected), 2);
}

#[test]
fn a_ticket_is_good_until_its_last_second() {
    let mut core = Core::new(config());
    set_keys(&mut core, &keys(1));
    let ticket = ticket("shop", "anna", HmacSha256, EXPIRES_S);
    let at = |unix_ms| Now { mono_ms: 0, unix_ms };
    assert_eq!(outcome(&mut core, &ticket, at(EXPIRES_S * 1000 - 1)), None);
    let expired = outcome(&mut core, &ticket, at(EXPIRES_S * 1000));
    assert_eq!(expired, Some(CloseReason::TicketExpired));
}

#[test]
fn keys_are_saved_restored_and_replaced_only_by_newer_ones() {
    let ticket = ticket("shop", "anna", HmacSha256, EXPIRES_S);
    let mut core = Core::new(config());
    assert_eq!(outcome(&mut core, &ticket, NOW), Some(CloseReason::NotReady));
    assert_eq!(core.counters().closed(CloseReason::NotReady), 1);

    let out = set_keys(&mut core, &keys(5));
    let [Action::SaveKeys { keys: saved }] = &out.list[..] else { panic!("{out:?}") };
    let saved = out.frame(saved).to_vec();
    assert_eq!(outcome(&mut core, &ticket, NOW), None);

    let mut restarted = Core::new(config());
    assert_eq!(restarted.restore_keys(&saved), Ok(()));
    assert_eq!(outcome(&mut restarted, &ticket, NOW), None, "while no control node is there");
    assert!(set_keys(&mut restarted, &keys(5)).is_empty(), "the same set is not saved again");

    let without_shop = Keys { apps: keys(6).apps.split_off(1), ..keys(6) };
    assert!(set_keys(&mut core, &Keys { version: 4, ..without_shop.clone() }).is_empty());
    assert_eq!(outcome(&mut core, &ticket, NOW), None, "an older set changes nothing");
    set_keys(&mut core, &without_shop);
    assert_eq!(outcome(&mut core, &ticket, NOW), Some(CloseReason::UnknownApp));

    let other_cluster = Keys { hash_key: HashKey([4; 16]), ..keys(1) };
    set_keys(&mut core, &other_cluster);
    assert_eq!(outcome(&mut core, &ticket, NOW), None, "its versions begin anew");

    let mut short = Core::new(config());
    assert_eq!(short.restore_keys(&saved[..saved.len() - 1]), Err(DecodeError::Truncated));
    let longer = [&saved[..], &[0]].concat();
    assert_eq!(short.restore_keys(&longer), Err(DecodeError::TrailingBytes));
    assert_eq!(outcome(&mut short, &ticket, NOW), Some(CloseReason::NotReady));
}

#[test]
fn a_key_that_is_no_point_of_the_curve_verifies_nothing() {
    // A y coordinate without an x, the identity, and a point of order four.
    let mut no_point = [0; 32];
    no_point[0] = 2;
    let mut identity = [0; 32];
    identity[0] = 1;
    for key in [no_point, identity, [0; 32]] {
        let key = VerifyKey { id: 1, algorithm: Ed25519, key };
        let apps = vec![AppKeys { app: NEWS, name: "news", keys: vec![key] }];
        let mut core = Core::new(config());
        set_keys(&mut core, &Keys { version: 1, hash_key: HASH_KEY, apps });
        // R the identity and s zero verify under small-order keys wherever that is not refused.
        let mut forged = ticket("news", "anna", Ed25519, EXPIRES_S);
        let signature = forged.len() - 64;
        forged[signature..].fill(0);
        forged[signature] = 1;
        assert_eq!(outcome(&mut core, &forged, NOW), Some(CloseReason::TicketForged));
    }
}

#[test]
fn a_device_is_announced_under_its_hash_and_app() {
    let mut core = Core::new(config());
    set_keys(&mut core, &keys(1));
    let mut out = Actions::default();
    core.on_event(Event::LinkUp { link: LinkIndex(0) }, NOW, &mut out);
    for (slot, app, algorithm) in [(0, "shop", HmacSha256), (1, "news", Algorithm::Ed25519)] {
        let ticket = ticket(app, "anna", algorithm, EXPIRES_S);
        let connect = connect(&ticket);
        core.on_event(Event::Accepted { slot }, NOW, &mut out);
        core.on_event(Event::Frame { slot, frame: Uplink::Connect(connect) }, NOW, &mut out);
    }
    out.clear();
    core.on_turn(NOW, Gauges::default(), &mut out);
    let Action::SendLink { frame, .. } = &out.list[0] else { panic!("{out:?}") };
    let frame = ToControl::decode(frames(out.frame(frame))[0]).unwrap().unwrap();
    let ToControl::Announce(announced) = frame else { panic!("{frame:?}") };
    let announced: Vec<_> = announced.iter().take(2).map(|a| (a.device, a.app)).collect();
    let device = |app| DeviceId::new(&HASH_KEY, app, "anna");
    assert_eq!(announced, [(device("shop"), SHOP), (device("news"), NEWS)]);
}

#[test]
fn another_major_version_is_refused_before_its_ticket() {
    let mut core = Core::new(config());
    let mut out = Actions::default();
    core.on_event(Event::Accepted { slot: 0 }, NOW, &mut out);
    let connect = Connect { major: MAJOR + 1, ..connect(&[]) };
    core.on_event(Event::Frame { slot: 0, frame: Uplink::Connect(connect) }, NOW, &mut out);
    assert_eq!(core.counters().closed(CloseReason::Version), 1);
}
