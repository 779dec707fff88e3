//! Limits, at the limit and one past it.

use bytes::Bytes;
use hawser_codec::ids::Seq;
use hawser_codec::limits::PAYLOAD_BYTES_MAX;
use hawser_codec::link::{Acked, Pulled, to_control};
use hawser_control::node::counters::Counter;
use hawser_control::node::event::{
    Answer, Priority, Push, Refusal, Request, StoreOp, StreamId, To, Trim,
};
use hawser_control::node::limits::Limits;
use hawser_control::records::{KeyHash, Quota, TTL_S_MAX};

use crate::rig::{APP, Fate, Rig, device, push, session, to};

/// What a push is answered with, in a word.
fn outcome(rig: &mut Rig, request: Push) -> &'static str {
    match rig.ask(0, Request::Push(request)) {
        Answer::Accepted(_) => "accepted",
        Answer::Refused(refusal) => refusal.label(),
        other => panic!("not an answer to a push: {other:?}"),
    }
}

#[test]
fn a_push_is_checked() {
    let check = |change: &dyn Fn(&mut Push), expect: &str| {
        let mut rig = Rig::new(1, Limits::default(), Quota::default());
        let mut request = push(to("d"), "x");
        change(&mut request);
        assert_eq!(outcome(&mut rig, request), expect);
        let sent = rig.nodes[0].counters().get(Counter::Refused);
        assert_eq!(sent, u64::from(expect != "accepted"));
    };
    check(&|push| push.ttl_s = 0, "bad_ttl");
    check(&|push| push.ttl_s = 1, "accepted");
    check(&|push| push.ttl_s = TTL_S_MAX, "accepted");
    check(&|push| push.ttl_s = TTL_S_MAX + 1, "bad_ttl");
    check(&|push| push.payload = Bytes::new(), "accepted");
    check(&|push| push.payload = Bytes::from(vec![0; PAYLOAD_BYTES_MAX]), "accepted");
    check(&|push| push.payload = Bytes::from(vec![0; PAYLOAD_BYTES_MAX + 1]), "payload_too_large");
    check(&|push| push.app.0 = 2, "unknown_app");
}

#[test]
fn a_full_stream_refuses_until_there_is_room() {
    let check = |target: To, label: &str| {
        let quota = Quota { inbox_entries_max: 3, group_log_entries_max: 3, ..Quota::default() };
        let mut rig = Rig::new(2, Limits::default(), quota);
        // The second node's entries count too.
        let other = rig.ask(1, Request::Push(push(target, "x")));
        assert!(matches!(other, Answer::Accepted(_)));
        for expect in ["accepted", "accepted", label, label] {
            assert_eq!(outcome(&mut rig, push(target, "x")), expect);
        }
        // Together: as many as there is room for, in order.
        let stream = match target {
            To::Device(device) => StreamId::Inbox { app: APP, device },
            To::Topic(_) | To::All => StreamId::Group { app: APP },
        };
        let trims = vec![Trim { stream, upto: Seq(2) }];
        rig.model.execute(&StoreOp::Trim { trims }, rig.now.unix_ms);
        let calls: Vec<_> = (0..4).map(|_| rig.call(0, Request::Push(push(target, "x")))).collect();
        rig.settle();
        let labels: Vec<&str> = calls
            .into_iter()
            .map(|call| match rig.answer(call) {
                Answer::Accepted(_) => "accepted",
                Answer::Refused(refusal) => refusal.label(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(labels, ["accepted", "accepted", label, label]);
    };
    check(to("d"), "inbox_full");
    check(To::All, "group_log_full");
}

#[test]
fn a_full_inbox_takes_what_needs_no_room() {
    let quota = Quota { inbox_entries_max: 2, ..Quota::default() };
    let mut rig = Rig::new(1, Limits::default(), quota);
    let mut keyed = push(to("d"), "keyed");
    keyed.idempotency = Some(KeyHash::new("k"));
    let mut score = push(to("d"), "score");
    score.collapse = Some(KeyHash::new("c"));
    assert_eq!(outcome(&mut rig, keyed.clone()), "accepted");
    assert_eq!(outcome(&mut rig, score.clone()), "accepted");
    assert_eq!(outcome(&mut rig, push(to("d"), "x")), "inbox_full");
    assert_eq!(outcome(&mut rig, keyed), "accepted", "a repeat");
    assert_eq!(outcome(&mut rig, score.clone()), "accepted", "a replacement");
    score.collapse = Some(KeyHash::new("other"));
    assert_eq!(outcome(&mut rig, score), "inbox_full");
}

#[test]
fn a_rate_is_held_and_comes_back() {
    let quota = Quota { messages_per_s: 4, ..Quota::default() };
    let mut rig = Rig::new(1, Limits::default(), quota);
    for expect in ["accepted", "accepted", "accepted", "accepted", "quota_exceeded"] {
        assert_eq!(outcome(&mut rig, push(to("d"), "x")), expect);
    }
    let refusal = rig.refusal(0, Request::Push(push(to("d"), "x")));
    assert_eq!(refusal, Refusal::QuotaExceeded { retry_after_ms: 250 });
    rig.advance(249);
    assert_eq!(outcome(&mut rig, push(to("d"), "x")), "quota_exceeded");
    rig.advance(1);
    assert_eq!(outcome(&mut rig, push(to("d"), "x")), "accepted");
    rig.advance(3_600_000);
    for expect in ["accepted", "accepted", "accepted", "accepted", "quota_exceeded"] {
        assert_eq!(outcome(&mut rig, push(to("d"), "x")), expect, "one second's worth at most");
    }
}

#[test]
fn what_waits_for_the_store_is_bounded() {
    let check = |limits: Limits, priority: Priority, accepted: usize| {
        let mut rig = Rig::new(1, limits, Quota::default());
        rig.settle();
        let mut calls = Vec::new();
        for n in 0..=accepted {
            let mut request = push(to(&format!("d{}", n % 2)), "0123456789");
            request.priority = priority;
            calls.push(rig.call(0, Request::Push(request)));
        }
        let last = rig.answer(calls.pop().expect("there is one"));
        assert!(matches!(last, Answer::Refused(Refusal::Overloaded { .. })), "{last:?}");
        rig.settle();
        for call in calls {
            assert!(matches!(rig.answer(call), Answer::Accepted(_)));
        }
    };
    let count = Limits { pushes_waiting_max: 8, ..Limits::default() };
    check(count.clone(), Priority::High, 8);
    check(count.clone(), Priority::Normal, 6);
    check(count, Priority::Low, 4);
    // Of each entry ten bytes are payload and ten are ours.
    let bytes = Limits { pushes_waiting_bytes_max: 110, ..Limits::default() };
    check(bytes, Priority::High, 6);
    let stream = Limits { stream_waiting_max: 3, ..Limits::default() };
    check(stream, Priority::High, 6);
}

#[test]
fn a_push_that_always_loses_is_refused() {
    let limits = Limits { append_retries_max: 3, ..Limits::default() };
    let mut rig = Rig::new(2, limits, Quota::default());
    assert_eq!(outcome(&mut rig, push(to("d"), "x")), "accepted");
    let call = rig.call(0, Request::Push(push(to("d"), "x")));
    while !rig.answers.contains_key(&call) {
        // The other node is always first: between the read of the tail and the append.
        let other = rig.call(1, Request::Push(push(to("d"), "y")));
        while let Some(index) = rig.pending.iter().position(|pending| pending.node == 1) {
            rig.finish(index, Fate::Done);
        }
        assert!(matches!(rig.answer(other), Answer::Accepted(_)));
        // The append, and then the tail.
        for _ in 0..2 {
            if let Some(index) = rig.pending.iter().position(|pending| pending.node == 0) {
                rig.finish(index, Fate::Done);
            }
        }
    }
    let answer = rig.answer(call);
    assert!(matches!(answer, Answer::Refused(Refusal::StoreUnavailable { .. })), "{answer:?}");
    assert_eq!(rig.nodes[0].counters().get(Counter::Conflicts), 4);
}

#[test]
fn pulls_beyond_the_limit_are_told_to_come_again() {
    let limits = Limits { reads_max: 1, pulls_waiting_max: 2, ..Limits::default() };
    let mut rig = Rig::new(1, limits, Quota::default());
    rig.link_up(0, 1, 10, 0);
    let pull = |rig: &mut Rig, slot: u32, from: u64| {
        let name = format!("d{slot}");
        let (device, session) = (device(&name), session(slot));
        let pulled = Pulled { device, app: APP, session, from: Seq(from) };
        rig.frame(0, 1, |out| to_control::pull(out, &[pulled]));
        rig.frames()
    };
    assert!(pull(&mut rig, 1, 0).is_empty(), "under way");
    assert!(pull(&mut rig, 2, 0).is_empty(), "waits");
    assert!(pull(&mut rig, 3, 0).is_empty(), "waits");
    assert!(pull(&mut rig, 3, 0).is_empty(), "replaces its own");
    assert_eq!(pull(&mut rig, 4, 7), ["1: entries 4.1 upto 7 more []"]);
    rig.settle();
    assert_eq!(rig.frames().len(), 3, "each of the others is answered once");
    assert_eq!(rig.nodes[0].counters().get(Counter::PullsMerged), 1);
}

#[test]
fn links_take_turns() {
    let limits = Limits { reads_max: 1, ..Limits::default() };
    let mut rig = Rig::new(1, limits, Quota::default());
    rig.link_up(0, 1, 10, 0);
    rig.link_up(0, 2, 11, 0);
    for (link, slots) in [(1, 1..=4), (2, 5..=6)] {
        for slot in slots {
            let (device, session) = (device("d"), session(slot));
            let pulled = Pulled { device, app: APP, session, from: Seq(0) };
            rig.frame(0, link, |out| to_control::pull(out, &[pulled]));
        }
    }
    rig.settle();
    let order: Vec<String> =
        rig.frames().iter().map(|frame| frame[..frame.find(':').unwrap()].to_owned()).collect();
    assert_eq!(order, ["1", "1", "2", "1", "2", "1"]);
}

#[test]
fn acknowledgements_beyond_the_limit_are_dropped_and_made_good() {
    let limits = Limits { acks_waiting_max: 2, ..Limits::default() };
    let mut rig = Rig::new(1, limits, Quota::default());
    rig.link_up(0, 1, 10, 0);
    let acks: Vec<Acked> = ["a", "b", "c"]
        .map(|name| {
            assert_eq!(outcome(&mut rig, push(to(name), "x")), "accepted");
            Acked { device: device(name), app: APP, seq: Seq(1) }
        })
        .to_vec();
    for expect in [2, 3] {
        rig.frame(0, 1, |out| to_control::ack(out, &acks));
        if expect == 3 {
            let again = [acks[2]];
            rig.quiesce(100);
            rig.frame(0, 1, |out| to_control::ack(out, &again));
        }
        rig.quiesce(100);
        assert_eq!(rig.nodes[0].counters().get(Counter::Delivered), expect);
    }
}

#[test]
fn a_device_beyond_the_route_table_is_offline_and_keeps_its_inbox() {
    let limits = Limits { routes_max: 2, ..Limits::default() };
    let mut rig = Rig::new(1, limits, Quota::default());
    rig.link_up(0, 1, 10, 0);
    for (slot, name) in [(1, "a"), (2, "b"), (3, "c")] {
        rig.announce(0, 1, name, slot, 100);
    }
    rig.settle();
    assert_eq!(rig.nodes[0].status().sessions, 2);
    let Answer::Accepted(pushed) = rig.ask(0, Request::Push(push(to("c"), "x"))) else {
        panic!("refused");
    };
    assert!(!pushed.online);
}

#[test]
fn calls_that_wait_are_bounded() {
    let limits = Limits { calls_waiting_max: 2, ..Limits::default() };
    let mut rig = Rig::new(1, limits, Quota::default());
    let calls: Vec<_> = (0..3).map(|_| rig.call(0, Request::Status)).collect();
    let refused = rig.answer(calls[2]);
    assert!(matches!(refused, Answer::Refused(Refusal::Overloaded { .. })));
    rig.settle();
    for &call in &calls[..2] {
        assert!(matches!(rig.answer(call), Answer::Status(_)));
    }
}
