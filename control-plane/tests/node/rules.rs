//! The rules of the node, one by one.

use bytes::Bytes;
use hawser_codec::error::CloseReason;
use hawser_codec::ids::{AppId, Epoch, Seq, SessionRef, TopicId};
use hawser_codec::limits::INLINE_BYTES_MAX;
use hawser_codec::link::{Acked, Announced, Gone, GroupAcked, Pulled, to_control};
use hawser_control::node::counters::Counter;
use hawser_control::node::event::{
    Accepted, Answer, Event, LinkId, MessageState, PushOutcome, Refusal, Request, StoreOp,
    StreamId, To, Wake,
};
use hawser_control::node::limits::Limits;
use hawser_control::records::{KeyHash, MessageId, Quota};

use crate::rig::{APP, Fate, Pending, Rig, START_UNIX_MS, device, new_app, push, session, to};

fn rig(nodes: usize) -> Rig {
    Rig::new(nodes, Limits::default(), Quota::default())
}

/// A node with device `d` on slot 1 of link 1.
fn online() -> Rig {
    let mut rig = rig(1);
    rig.link_up(0, 1, 10, 0);
    rig.announce(0, 1, "d", 1, 100);
    rig.settle();
    assert_eq!(rig.frames(), ["1: cursor 1 0"]);
    rig
}

fn accepted(answer: Answer) -> Accepted {
    match answer {
        Answer::Accepted(accepted) => accepted,
        other => panic!("not accepted: {other:?}"),
    }
}

fn pull(rig: &mut Rig, link: u32, slot: u32, name: &str, from: u64) {
    let pulled = Pulled { device: device(name), app: APP, session: session(slot), from: Seq(from) };
    rig.frame(0, link, |out| to_control::pull(out, &[pulled]));
}

fn ack(rig: &mut Rig, node: usize, link: u32, name: &str, seq: u64) {
    let acked = Acked { device: device(name), app: APP, seq: Seq(seq) };
    rig.frame(node, link, |out| to_control::ack(out, &[acked]));
}

fn state(rig: &mut Rig, node: usize, id: MessageId) -> MessageState {
    match rig.ask(node, Request::MessageState { app: APP, id }) {
        Answer::Message(info) => info.state,
        other => panic!("no state: {other:?}"),
    }
}

#[test]
fn a_push_is_answered_and_delivered_when_it_is_stored() {
    let mut rig = online();
    let call = rig.call(0, Request::Push(push(to("d"), "a")));
    assert!(matches!(rig.pending[0].request, StoreOp::Tail { .. }), "the stream is not known");
    rig.finish(0, Fate::Done);
    assert!(matches!(rig.pending[0].request, StoreOp::Append { seq: Seq(1), .. }));
    assert!(rig.answers.is_empty() && rig.frames().is_empty(), "not before it is stored");
    rig.finish(0, Fate::Done);
    let first = accepted(rig.answer(call));
    assert_eq!((first.seq, first.online, first.outcome), (Seq(1), true, PushOutcome::Stored));
    assert_eq!(rig.frames(), ["1: deliver 1.1 1=a"]);

    rig.call(0, Request::Push(push(to("d"), "b")));
    assert!(matches!(rig.pending[0].request, StoreOp::Append { seq: Seq(2), .. }), "remembered");
    rig.settle();
    assert_eq!(rig.frames(), ["1: deliver 1.1 2=b"]);
}

#[test]
fn bodies_travel_when_small_and_live() {
    let check = |payload_bytes: usize, wake: Wake, expect: &str| {
        let mut rig = online();
        let mut request = push(to("d"), "");
        request.payload = Bytes::from(vec![b'x'; payload_bytes]);
        request.wake = wake;
        accepted(rig.ask(0, Request::Push(request)));
        assert_eq!(rig.frames(), [format!("1: deliver 1.1 1{expect}")]);
    };
    check(0, Wake::Now, "=");
    check(INLINE_BYTES_MAX, Wake::Now, "=4096B");
    check(INLINE_BYTES_MAX + 1, Wake::Now, "/no-body");
    check(3, Wake::WhenAwake, "/awake=xxx");
    check(INLINE_BYTES_MAX + 1, Wake::WhenAwake, "/awake/no-body");

    let mut rig = online();
    let mut request = push(to("d"), "late");
    request.ttl_s = 1;
    let call = rig.call(0, Request::Push(request));
    rig.advance(1000);
    rig.settle();
    accepted(rig.answer(call));
    assert_eq!(rig.frames(), [""; 0], "it expired while it was stored");
}

#[test]
fn pushes_to_one_stream_keep_their_order_and_go_together() {
    let mut rig = online();
    let calls: Vec<_> =
        (0..5).map(|n| rig.call(0, Request::Push(push(to("d"), &format!("{n}"))))).collect();
    assert_eq!(rig.pending.len(), 1, "one operation per stream");
    rig.finish(0, Fate::Done);
    let StoreOp::AppendAll { entries, .. } = &rig.pending[0].request else {
        panic!("not together: {:?}", rig.pending);
    };
    assert_eq!(entries.len(), 5);
    rig.settle();
    let seqs: Vec<u64> = calls.iter().map(|&call| accepted(rig.answer(call)).seq.0).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    let delivered: Vec<String> = (0..5).map(|n| format!("1: deliver 1.1 {}={n}", n + 1)).collect();
    assert_eq!(rig.frames(), delivered);
}

#[test]
fn the_number_that_another_node_took_is_not_taken_again() {
    let mut rig = rig(2);
    accepted(rig.ask(0, Request::Push(push(to("d"), "a"))));
    assert_eq!(accepted(rig.ask(1, Request::Push(push(to("d"), "b")))).seq, Seq(2));
    let before = rig.nodes[0].counters().get(Counter::Conflicts);
    assert_eq!(accepted(rig.ask(0, Request::Push(push(to("d"), "c")))).seq, Seq(3));
    assert_eq!(rig.nodes[0].counters().get(Counter::Conflicts), before + 1);
}

#[test]
fn what_the_store_did_not_do_is_not_accepted() {
    let check = |fate: Fate, is_stored: bool, expect: &str| {
        let mut rig = rig(1);
        accepted(rig.ask(0, Request::Push(push(to("d"), "a"))));
        let call = rig.call(0, Request::Push(push(to("d"), "b")));
        rig.finish(0, fate);
        let Answer::Refused(refusal) = rig.answer(call) else { panic!("accepted") };
        assert_eq!(refusal.label(), expect);
        assert!(refusal.retry_after_ms().is_some_and(|ms| ms > 0));
        let next = accepted(rig.ask(0, Request::Push(push(to("d"), "c"))));
        assert_eq!(next.seq, Seq(if is_stored { 3 } else { 2 }));
    };
    check(Fate::Refused, false, "store_unavailable");
    check(Fate::DoneUnheard, true, "outcome_unknown");
    check(Fate::LostUnheard, false, "outcome_unknown");
}

#[test]
fn an_idempotency_key_stores_one_message() {
    let mut rig = rig(2);
    let mut request = push(to("d"), "a");
    request.idempotency = Some(KeyHash::new("order-1"));
    let call = rig.call(0, Request::Push(request.clone()));
    rig.finish(0, Fate::DoneUnheard);
    assert!(matches!(rig.answer(call), Answer::Refused(Refusal::OutcomeUnknown { .. })));

    // Stored and never delivered: the repeat reminds the shard, and the device pulls.
    rig.link_up(1, 1, 10, 0);
    rig.announce(1, 1, "d", 1, 100);
    rig.settle();
    rig.frames();
    let again = accepted(rig.ask(1, Request::Push(request.clone())));
    assert_eq!((again.seq, again.outcome), (Seq(1), PushOutcome::Duplicate));
    assert_eq!(rig.frames(), ["1: deliver 1.1 1/no-body"]);
    let both = [0, 0].map(|node| rig.call(node, Request::Push(request.clone())));
    rig.settle();
    for call in both {
        assert_eq!(accepted(rig.answer(call)).id, again.id);
    }
    let mut other = request;
    other.idempotency = Some(KeyHash::new("order-2"));
    assert_eq!(accepted(rig.ask(0, Request::Push(other))).seq, Seq(2));
}

#[test]
fn a_collapse_key_keeps_the_latest() {
    let mut rig = online();
    let score = |rig: &mut Rig, payload: &str| {
        let mut request = push(to("d"), payload);
        request.collapse = Some(KeyHash::new("score"));
        accepted(rig.ask(0, Request::Push(request)))
    };
    let first = score(&mut rig, "1:0");
    accepted(rig.ask(0, Request::Push(push(to("d"), "other"))));
    let second = score(&mut rig, "2:0");
    assert_eq!(state(&mut rig, 0, first.id), MessageState::Collapsed);
    assert_eq!(state(&mut rig, 0, second.id), MessageState::Pending);
    rig.frames();
    pull(&mut rig, 1, 1, "d", 0);
    rig.settle();
    assert_eq!(rig.frames(), ["1: entries 1.1 upto 3 [2=other 3=2:0]"]);

    ack(&mut rig, 0, 1, "d", 3);
    rig.quiesce(100);
    let third = score(&mut rig, "3:0");
    assert_eq!(state(&mut rig, 0, second.id), MessageState::Delivered, "it was not waiting");
    assert_eq!(state(&mut rig, 0, third.id), MessageState::Pending);
}

#[test]
fn the_greater_epoch_has_the_route() {
    // Link 1 and 2 are two shards; what each announces, who is kicked, where a push goes.
    let check = |announced: &[(u32, u32, u64)], expect: &[&str]| {
        let mut rig = rig(1);
        rig.link_up(0, 1, 10, 0);
        rig.link_up(0, 2, 11, 0);
        for &(link, slot, epoch) in announced {
            rig.announce(0, link, "d", slot, epoch);
        }
        accepted(rig.ask(0, Request::Push(push(to("d"), "a"))));
        let frames: Vec<String> =
            rig.frames().into_iter().filter(|frame| !frame.contains("cursor")).collect();
        assert_eq!(frames, expect, "{announced:?}");
    };
    check(&[(1, 1, 100)], &["1: deliver 1.1 1=a"]);
    check(&[(1, 1, 100), (1, 1, 100)], &["1: deliver 1.1 1=a"]);
    check(&[(1, 1, 100), (2, 2, 101)], &["1: kick 1.1 101", "2: deliver 2.1 1=a"]);
    check(&[(2, 2, 101), (1, 1, 100)], &["1: kick 1.1 101", "2: deliver 2.1 1=a"]);
    check(&[(1, 1, 100), (1, 2, 101)], &["1: kick 1.1 101", "1: deliver 2.1 1=a"]);
    // Equal epochs: the greater broker, whoever came first; the kick is above the loser's epoch.
    check(&[(1, 1, 100), (2, 2, 100)], &["1: kick 1.1 101", "2: deliver 2.1 1=a"]);
    check(&[(2, 2, 100), (1, 1, 100)], &["1: kick 1.1 101", "2: deliver 2.1 1=a"]);
}

#[test]
fn a_route_ends_with_its_session_or_its_link() {
    let check = |end: &dyn Fn(&mut Rig), is_online: bool| {
        let mut rig = online();
        end(&mut rig);
        let pushed = accepted(rig.ask(0, Request::Push(push(to("d"), "a"))));
        assert_eq!(pushed.online, is_online);
        assert_eq!(rig.nodes[0].status().sessions, u64::from(is_online));
        rig.quiesce(1000);
    };
    let gone = |generation: u32| {
        move |rig: &mut Rig| {
            let session = SessionRef { slot: 1, generation };
            let gone = Gone { device: device("d"), session, reason: CloseReason::Bye };
            rig.frame(0, 1, |out| to_control::gone(out, &[gone]));
        }
    };
    check(&|_| {}, true);
    check(&gone(1), false);
    check(&gone(2), true);
    check(&|rig| rig.event(0, Event::LinkDown { link: LinkId(1) }), false);
    check(&|rig| rig.event(0, Event::LinkDown { link: LinkId(9) }), true);
    // The same shard links again: what it had is announced on the new link.
    check(&|rig| rig.link_up(0, 2, 10, 0), false);
    check(
        &|rig| {
            rig.link_up(0, 2, 10, 0);
            rig.announce(0, 2, "d", 1, 100);
            rig.event(0, Event::LinkDown { link: LinkId(1) });
        },
        true,
    );
    // Other frames of the replaced link are not heard.
    check(
        &|rig| {
            rig.link_up(0, 2, 10, 0);
            rig.announce(0, 1, "d", 1, 100);
        },
        false,
    );
}

#[test]
fn a_pull_is_answered_up_to_the_end() {
    let check = |pushes: u64, from: u64, expect: &str| {
        let limits = Limits { read_entries: 3, ..Limits::default() };
        let mut rig = Rig::new(1, limits, Quota::default());
        rig.link_up(0, 1, 10, 0);
        for n in 1..=pushes {
            accepted(rig.ask(0, Request::Push(push(to("d"), &format!("m{n}")))));
        }
        pull(&mut rig, 1, 1, "d", from);
        rig.settle();
        assert_eq!(rig.frames(), [format!("1: {expect}")]);
    };
    check(0, 0, "entries 1.1 upto 0 []");
    check(2, 0, "entries 1.1 upto 2 [1=m1 2=m2]");
    check(2, 1, "entries 1.1 upto 2 [2=m2]");
    check(2, 2, "entries 1.1 upto 2 []");
    check(3, 0, "entries 1.1 upto 3 [1=m1 2=m2 3=m3]");
    check(4, 0, "entries 1.1 upto 3 more [1=m1 2=m2 3=m3]");
    check(2, 3, "reset 1.1 2");
    check(0, 1, "reset 1.1 0");
}

#[test]
fn an_answer_is_cut_by_bytes_and_a_large_entry_goes_alone() {
    let mut rig = online();
    for _ in 0..4 {
        let mut request = push(to("d"), "");
        request.payload = Bytes::from(vec![b'x'; 60_000]);
        accepted(rig.ask(0, Request::Push(request)));
    }
    rig.frames();
    pull(&mut rig, 1, 1, "d", 0);
    rig.settle();
    assert_eq!(rig.frames(), ["1: entries 1.1 upto 2 more [1=60000B 2=60000B]"]);
}

#[test]
fn a_pull_is_read_again_until_the_store_answers() {
    let mut rig = online();
    accepted(rig.ask(0, Request::Push(push(to("d"), "a"))));
    rig.frames();
    pull(&mut rig, 1, 1, "d", 0);
    rig.finish(0, Fate::Refused);
    assert!(rig.pending.is_empty() && rig.frames().is_empty());
    rig.quiesce(1000);
    assert_eq!(rig.frames(), ["1: entries 1.1 upto 1 [1=a]"]);
}

#[test]
fn expired_entries_are_removed_counted_and_not_sent() {
    let mut rig = online();
    let mut short = push(to("d"), "short");
    short.ttl_s = 1;
    let first = accepted(rig.ask(0, Request::Push(short)));
    accepted(rig.ask(0, Request::Push(push(to("d"), "long"))));
    rig.frames();
    rig.now.unix_ms += 1000;
    assert_eq!(state(&mut rig, 0, first.id), MessageState::Expired, "still stored");
    pull(&mut rig, 1, 1, "d", 0);
    rig.finish(0, Fate::Done);
    assert!(rig.frames().is_empty(), "not before what expired is removed and counted");
    rig.settle();
    assert_eq!(rig.frames(), ["1: entries 1.1 upto 2 [2=long]"]);
    ack(&mut rig, 0, 1, "d", 2);
    rig.quiesce(100);
    let counters = rig.nodes[0].counters();
    assert_eq!(counters.get(Counter::Expired), 1);
    assert_eq!(counters.get(Counter::Delivered), 1);
    assert_eq!(state(&mut rig, 0, first.id), MessageState::Expired, "remembered");
}

#[test]
fn the_walk_removes_what_nobody_reads() {
    let limits = Limits { sweep_keys: 2, read_entries: 2, ..Limits::default() };
    let mut rig = Rig::new(2, limits, Quota::default());
    for name in ["a", "b", "c"] {
        for ttl_s in [100, 1, 1, 1, 100] {
            let mut request = push(to(name), "x");
            request.ttl_s = ttl_s;
            accepted(rig.ask(0, Request::Push(request)));
        }
    }
    let mut everyone = push(To::All, "x");
    everyone.ttl_s = 1;
    accepted(rig.ask(0, Request::Push(everyone)));
    for _ in 0..8 {
        rig.quiesce(40_000 / 8);
    }
    let sum = |rig: &Rig, counter| -> u64 {
        rig.nodes.iter().map(|node| node.counters().get(counter)).sum()
    };
    assert_eq!(sum(&rig, Counter::Expired), 9, "each once, though both nodes walk");
    assert_eq!(sum(&rig, Counter::GroupExpired), 1);
    for name in ["a", "b", "c"] {
        let stream = StreamId::Inbox { app: APP, device: device(name) };
        let left: Vec<u64> = rig.model.entries(stream).map(|(seq, _)| seq.0).collect();
        assert_eq!(left, [1, 5]);
    }
}

#[test]
fn an_acknowledgement_counts_each_message_once() {
    let mut rig = rig(2);
    for node in 0..2 {
        rig.link_up(node, node as u32 + 1, 10, 0);
    }
    let ids: Vec<MessageId> =
        (0..3).map(|_| accepted(rig.ask(0, Request::Push(push(to("d"), "x")))).id).collect();
    ack(&mut rig, 0, 1, "d", 1);
    ack(&mut rig, 0, 1, "d", 2);
    ack(&mut rig, 0, 1, "d", 1);
    ack(&mut rig, 1, 2, "d", 2);
    rig.advance(10);
    let is_trim = |pending: &&Pending| matches!(pending.request, StoreOp::Trim { .. });
    assert_eq!(rig.pending.iter().filter(is_trim).count(), 2, "one trim per node");
    rig.settle();
    let delivered: u64 = rig.nodes.iter().map(|node| node.counters().get(Counter::Delivered)).sum();
    assert_eq!(delivered, 2);
    let states: Vec<MessageState> = ids.iter().map(|&id| state(&mut rig, 1, id)).collect();
    let expect = [MessageState::Delivered, MessageState::Delivered, MessageState::Pending];
    assert_eq!(states, expect);
}

#[test]
fn an_announcement_that_comes_after_a_push_is_told_of_it() {
    let check = |acked: u64, expect: &[&str]| {
        let mut rig = rig(1);
        rig.link_up(0, 1, 10, 0);
        for _ in 0..3 {
            accepted(rig.ask(0, Request::Push(push(to("d"), "x"))));
        }
        let announced = Announced {
            device: device("d"),
            app: APP,
            session: session(1),
            epoch: Epoch(100),
            acked: Seq(acked),
        };
        rig.frame(0, 1, |out| to_control::announce(out, &[announced]));
        let frames: Vec<String> =
            rig.frames().into_iter().filter(|frame| !frame.contains("cursor")).collect();
        assert_eq!(frames, expect, "acknowledged up to {acked}");
    };
    check(0, &["1: deliver 1.1 3/no-body"]);
    check(2, &["1: deliver 1.1 3/no-body"]);
    check(3, &[]);
}

/// The state of a message that was replaced by one with a shorter life is kept as long as its own.
#[test]
fn a_collapsed_message_is_known_as_long_as_if_it_had_lived() {
    let mut rig = rig(1);
    let collapsing = |payload: &str, ttl_s: u32| {
        let collapse = Some(KeyHash::new("score"));
        hawser_control::node::event::Push { collapse, ttl_s, ..push(to("d"), payload) }
    };
    let long_s = 30 * 24 * 3600;
    let first = accepted(rig.ask(0, Request::Push(collapsing("first", long_s))));
    accepted(rig.ask(0, Request::Push(collapsing("second", 1))));
    for (days, expect) in [(0, MessageState::Collapsed), (29, MessageState::Collapsed)] {
        rig.quiesce(days * 24 * 3600 * 1000);
        assert_eq!(state(&mut rig, 0, first.id), expect, "after {days} days");
    }
}

/// What a node stored between a session's pull, at another node, and the session's announcement is
/// told even when the node has forgotten where the inbox ends.
#[test]
fn a_node_that_forgets_reads_for_a_session_that_is_announced_late() {
    let announce = |rig: &mut Rig| {
        rig.announce(0, 1, "d", 1, 100);
        rig.settle();
        rig.frames().into_iter().filter(|frame| !frame.contains("cursor")).collect::<Vec<_>>()
    };
    let told = ["1: entries 1.1 upto 1 [1=x]"];
    let limits = Limits { tails_max: 2, ..Limits::default() };
    let late_ms = limits.announce_late_ms;
    for (others, wait_ms, expect) in [
        // Remembered: the number is enough.
        (0, 0, &["1: deliver 1.1 1/no-body"][..]),
        // Two generations of one stream each: the third stream pushes the first one out.
        (2, 0, &told),
        (2, late_ms - 1, &told),
        // By then the announcement would have come, or its link would have been replaced.
        (2, late_ms, &[]),
    ] {
        let mut rig = Rig::new(1, limits.clone(), Quota::default());
        rig.link_up(0, 1, 10, 0);
        accepted(rig.ask(0, Request::Push(push(to("d"), "x"))));
        for other in 0..others {
            accepted(rig.ask(0, Request::Push(push(to(&format!("other-{other}")), "x"))));
        }
        rig.advance(wait_ms);
        rig.settle();
        assert_eq!(announce(&mut rig), expect, "{others} others, {wait_ms} ms later");
    }
}

#[test]
fn a_node_whose_store_failed_reads_for_a_session_that_is_announced_late() {
    let mut rig = rig(1);
    rig.link_up(0, 1, 10, 0);
    let call = rig.call(0, Request::Push(push(to("d"), "x")));
    rig.finish(0, Fate::Done);
    assert!(matches!(rig.pending[0].request, StoreOp::Append { .. }));
    rig.finish(0, Fate::DoneUnheard);
    assert!(matches!(rig.answer(call), Answer::Refused(Refusal::OutcomeUnknown { .. })));
    rig.announce(0, 1, "d", 1, 100);
    rig.settle();
    let frames: Vec<String> =
        rig.frames().into_iter().filter(|frame| !frame.contains("cursor")).collect();
    assert_eq!(frames, ["1: entries 1.1 upto 1 [1=x]"]);
}

#[test]
fn an_announcement_and_a_pull_acknowledge_too() {
    let check = |acked: u64, from: u64, left: u64| {
        let mut rig = rig(1);
        for _ in 0..3 {
            accepted(rig.ask(0, Request::Push(push(to("d"), "x"))));
        }
        rig.link_up(0, 1, 10, 0);
        let announced = Announced {
            device: device("d"),
            app: APP,
            session: session(1),
            epoch: Epoch(100),
            acked: Seq(acked),
        };
        rig.frame(0, 1, |out| to_control::announce(out, &[announced]));
        pull(&mut rig, 1, 1, "d", from);
        rig.settle();
        rig.quiesce(100);
        let Answer::Device(info) =
            rig.ask(0, Request::DeviceShow { app: APP, device: device("d") })
        else {
            panic!("not shown");
        };
        assert_eq!((info.inbox.entries, info.inbox.last), (left, Seq(3)));
        assert_eq!(info.inbox.settled, Seq(3 - left));
    };
    check(0, 0, 3);
    check(1, 0, 2);
    check(0, 2, 1);
    check(3, 3, 0);
}

#[test]
fn a_group_push_goes_once_to_each_shard_of_the_app() {
    let mut rig = rig(1);
    for link in 1..=3 {
        rig.link_up(0, link, 10 + u64::from(link), 0);
    }
    rig.announce(0, 1, "a", 1, 100);
    rig.announce(0, 1, "b", 2, 100);
    rig.announce(0, 3, "c", 1, 100);
    rig.settle();
    assert_eq!(rig.frames(), ["1: cursor 1 0", "3: cursor 1 0"], "after the first of the app");
    let mut request = push(To::Topic(TopicId::new("news")), "hi");
    assert!(accepted(rig.ask(0, Request::Push(request.clone()))).online);
    assert_eq!(rig.frames(), ["1: group 1 1/topic=hi", "3: group 1 1/topic=hi"]);

    request.to = To::All;
    request.payload = Bytes::from(vec![b'x'; INLINE_BYTES_MAX + 1]);
    rig.event(0, Event::LinkDown { link: LinkId(3) });
    accepted(rig.ask(0, Request::Push(request)));
    assert_eq!(rig.frames(), ["1: group 1 2/no-body"]);
}

#[test]
fn group_reads_filter_by_topic_and_shards_get_everything() {
    let limits = Limits { read_entries: 2, reads_per_answer_max: 2, ..Limits::default() };
    let mut rig = Rig::new(1, limits, Quota::default());
    rig.link_up(0, 1, 10, 0);
    let (news, sport) = (TopicId::new("news"), TopicId::new("sport"));
    let all = [To::Topic(news), To::Topic(sport), To::Topic(sport), To::All, To::Topic(news)];
    for (n, to) in all.into_iter().enumerate() {
        accepted(rig.ask(0, Request::Push(push(to, &format!("m{}", n + 1)))));
    }
    let mut check = |from: u64, topics: &[TopicId], expect: &str| {
        rig.frame(0, 1, |out| to_control::group_pull(out, APP, session(4), Seq(from), topics));
        rig.settle();
        assert_eq!(rig.frames(), [format!("1: group-entries 4.1 {expect}")]);
    };
    check(0, &[news], "upto 2 more [1/topic=m1]");
    check(2, &[news], "upto 4 more [4=m4]");
    check(4, &[news], "upto 5 [5/topic=m5]");
    check(1, &[], "upto 5 [4=m4]");
    check(5, &[news, sport], "upto 5 []");

    rig.frame(0, 1, |out| to_control::group_fetch(out, APP, Seq(3)));
    rig.settle();
    assert_eq!(rig.frames(), ["1: fetched 1 upto 5 [4=m4 5/topic=m5]"]);
}

#[test]
fn the_end_of_a_log_that_another_node_made_longer_is_told() {
    let mut rig = rig(2);
    rig.link_up(0, 1, 10, 0);
    rig.announce(0, 1, "a", 1, 100);
    rig.settle();
    assert_eq!(rig.frames(), ["1: cursor 1 0"]);
    accepted(rig.ask(1, Request::Push(push(To::All, "x"))));
    rig.quiesce(4000);
    assert_eq!(rig.frames(), ["1: cursor 1 1"], "once");
}

#[test]
fn a_group_message_tells_what_became_of_it() {
    let mut rig = rig(2);
    rig.link_up(0, 1, 10, 0);
    let id = accepted(rig.ask(0, Request::Push(push(To::All, "x")))).id;
    let counted = |rig: &mut Rig, node: usize| {
        let Answer::Group(info) = rig.ask(node, Request::MessageState { app: APP, id }) else {
            panic!("no state");
        };
        (info.sent, info.waiting, info.acknowledged)
    };
    rig.frame(0, 1, |out| to_control::group_sent(out, APP, Seq(1), 5, 2));
    let acked = GroupAcked { app: APP, seq: Seq(1), count: 3 };
    rig.frame(0, 1, |out| to_control::group_ack(out, &[acked, acked]));
    assert_eq!(counted(&mut rig, 0), (5, 2, 6), "what is not stored yet counts on its node");
    assert_eq!(counted(&mut rig, 1), (0, 0, 0));
    rig.quiesce(2000);
    assert_eq!(counted(&mut rig, 0), (5, 2, 6));
    assert_eq!(counted(&mut rig, 1), (5, 2, 6));
}

#[test]
fn totals_add_up_over_nodes() {
    let mut rig = rig(2);
    for node in [0, 1, 0] {
        accepted(rig.ask(node, Request::Push(push(to("d"), "x"))));
    }
    rig.link_up(1, 1, 10, 0);
    ack(&mut rig, 1, 1, "d", 1);
    rig.quiesce(2000);
    let Answer::Status(status) = rig.ask(0, Request::Status) else { panic!("no status") };
    let totals = status.apps[0];
    assert_eq!((totals.accepted, totals.delivered, totals.pending), (3, 1, 2));
}

#[test]
fn apps_are_registered_once_and_known_everywhere() {
    let mut rig = Rig::empty(2, Limits::default());
    let early = rig.refusal(0, Request::Push(push(to("d"), "x")));
    assert!(matches!(early, Refusal::StoreUnavailable { .. }), "{early:?}");
    rig.link_up(1, 1, 10, 0);
    rig.frames();
    // Both nodes register at the same time.
    let calls = [0, 1].map(|node| {
        rig.call(node, Request::AppCreate(new_app(&format!("app{node}"), Quota::default())))
    });
    rig.settle();
    let ids = calls.map(|call| rig.answer(call));
    assert_eq!(ids[0], Answer::AppCreated { app: AppId(1) });
    assert_eq!(ids[1], Answer::AppCreated { app: AppId(2) });
    let keys = rig.frames();
    assert_eq!(keys.last().unwrap(), "1: keys v2 app0,app1");
    assert_eq!(rig.nodes[0].apps().len(), 1, "not asked since");
    assert_eq!(rig.ask(0, Request::AppsRefresh), Answer::AppsFresh);
    let names: Vec<&str> = rig.nodes[0].apps().iter().map(|app| app.new.name.as_str()).collect();
    assert_eq!(names, ["app0", "app1"]);

    let taken = new_app("app0", Quota::default());
    assert_eq!(rig.refusal(1, Request::AppCreate(taken)), Refusal::AppNameTaken);
    let named = new_app("-", Quota::default());
    assert_eq!(rig.refusal(1, Request::AppCreate(named)), Refusal::BadAppName);
    let quota = Quota { inbox_entries_max: 0, ..Quota::default() };
    assert_eq!(rig.refusal(1, Request::AppCreate(new_app("x", quota))), Refusal::BadQuota);
}

#[test]
fn keys_are_sent_when_they_are_known() {
    let mut rig = Rig::empty(1, Limits::default());
    rig.event(0, Event::LinkUp { link: LinkId(1), broker: 1, incarnation: 1, shard: 0 });
    assert_eq!(rig.frames(), [""; 0], "an empty set would send everybody away");
    rig.settle();
    assert_eq!(rig.frames(), ["1: keys v0 "]);
    rig.event(0, Event::LinkUp { link: LinkId(2), broker: 1, incarnation: 1, shard: 1 });
    assert_eq!(rig.frames(), ["2: keys v0 "]);
}

#[test]
fn questions_about_what_is_not_there() {
    let mut rig = rig(1);
    let pushed = accepted(rig.ask(0, Request::Push(push(to("d"), "x"))));
    let other = AppId(9);
    let ask = |rig: &mut Rig, app, id| rig.refusal(0, Request::MessageState { app, id });
    assert_eq!(ask(&mut rig, other, pushed.id), Refusal::UnknownApp);
    let elsewhere = MessageId { stream: StreamId::Group { app: other }, ..pushed.id };
    assert_eq!(ask(&mut rig, APP, elsewhere), Refusal::UnknownMessage);
    let later = MessageId { seq: Seq(2), ..pushed.id };
    assert_eq!(ask(&mut rig, APP, later), Refusal::UnknownMessage);
    let shown = rig.refusal(0, Request::DeviceShow { app: other, device: device("d") });
    assert_eq!(shown, Refusal::UnknownApp);
    let stream = pushed.id.stream;
    let forgotten = MessageId::new(stream, Seq(1), START_UNIX_MS - 8 * 24 * 3_600_000);
    assert_eq!(state(&mut rig, 0, forgotten), MessageState::Pending, "as long as it is there");
}
