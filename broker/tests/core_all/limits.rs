//! Each limit at its value and one past it, and the pace of everything that is paced.

use hawser_broker::core::{Core, CoreConfig};
use hawser_broker::metrics::Counter;
use hawser_codec::error::CloseReason;

use crate::rules::config;
use crate::stage::Stage;

/// How often a word stands in what the core did.
fn count(done: &str, word: &str) -> usize {
    done.matches(word).count()
}

#[test]
fn topics_of_a_session() {
    let mut stage = Stage::new(config());
    stage.run("start 0 anna; sub 0 1; sub 0 2; sub 0 3; sub 0 4");
    assert_eq!(stage.run("sub 0 4"), "", "a repeated subscribe is none");
    assert_eq!(stage.core.counters().get(Counter::Subscriptions), 5, "the whole app included");
    assert_eq!(stage.run("unsub 0 2; sub 0 5"), "");
    assert_eq!(stage.run("sub 0 6"), "0<close too_many_topics 0ms; 0:close too_many_topics");
    assert_eq!(stage.core.counters().get(Counter::Topics), 0);
}

#[test]
fn memory_of_topics() {
    // Sessions with four topics each that are nobody else's, until one is closed.
    let fill = |topics_bytes_max: usize| {
        let mut stage = Stage::new(CoreConfig { topics_bytes_max, ..config() });
        for slot in 0..60 {
            stage.run(&format!("start {slot} device-{slot}"));
            for topic in 0..4 {
                let done = stage.run(&format!("sub {slot} {}", slot * 4 + topic));
                if !done.is_empty() {
                    let bye = "close overload 700ms b.example:7400";
                    assert_eq!(done, format!("{slot}<{bye}; {slot}:close overload"));
                    return stage;
                }
            }
        }
        stage
    };
    let bytes = |stage: &Stage| stage.core.counters().get(Counter::TopicBytes) as usize;
    let refused = |stage: &Stage| stage.core.counters().get(Counter::TopicsRefused);
    let all = fill(1 << 20);
    assert_eq!((all.core.counters().get(Counter::Topics), refused(&all)), (240, 0));
    assert_eq!(refused(&fill(bytes(&all))), 0, "at the limit");
    // All take the same.
    let limit = bytes(&all) / 240 * 239;
    assert_eq!(refused(&fill(limit)), 1, "one past it");

    // Who is in a topic may say so again, and who leaves makes room.
    let mut full = fill(bytes(&all));
    assert_eq!(full.run("sub 59 239"), "");
    assert_eq!(full.run("unsub 59 239; sub 59 1000"), "");
    full.run("start 60 late");
    assert!(full.run("sub 60 1001").contains("60:close overload"));
}

#[test]
fn connections() {
    let mut stage = Stage::new(CoreConfig { connections_max: 2, ..config() });
    assert_eq!(stage.run("accept 0; accept 1"), "0:start; 1:start");
    let refused = "2<close overload 700ms b.example:7400; 2:close overload";
    assert_eq!(stage.run("accept 2"), refused);
    assert_eq!(stage.core.counters().refused(CloseReason::Overload), 1);
    assert_eq!(stage.core.counters().closed(CloseReason::Overload), 0);
    // One that closes makes room at once, though its slot stays taken.
    assert_eq!(stage.run("hangup 0; accept 3"), "0:close reset; 3:start");
    assert_eq!(stage.core.sessions(), 2);
    assert_eq!(stage.core.counters().get(Counter::SlotsInUse), 4);
}

#[test]
fn the_accept_delay_grows_with_the_connections_above_the_limit() {
    let mut stage = Stage::new(CoreConfig {
        accept_delay_above: 1,
        accept_delay_ms_per_100k: 100_000,
        ..config()
    });
    assert_eq!(stage.run("accept 0; accept 1; accept 2"), "0:start");
    assert_eq!(stage.core.deadline_ms(), Some(1));
    assert_eq!(stage.run("wait 1"), "1:start");
    assert_eq!(stage.run("ping 2"), "", "nothing is read before its time");
    assert_eq!(stage.run("wait 1"), "2:start");
    assert_eq!(stage.core.counters().get(Counter::DelayedAccepts), 2);
    let mut stage = Stage::new(CoreConfig { accept_delay_above: 2, ..config() });
    assert_eq!(stage.run("accept 0; accept 1; accept 2; wait 1"), "0:start; 1:start; 2:start");
}

/// A group entry goes to `fanout_budget` members in a turn; what joins or leaves meanwhile gets
/// it at most once.
#[test]
fn the_fan_out_budget() {
    let mut stage = Stage::new(CoreConfig { fanout_budget: 10, ..config() });
    stage.run("up 0; start 40 other; gcursor 3");
    for slot in 0..25 {
        stage.run(&format!("start {slot} device-{slot}"));
    }
    let turn = stage.run("wait 20000; gdeliver 4 - hi");
    assert_eq!(count(&turn, "cast 4"), 10);
    assert_eq!(stage.core.deadline_ms(), Some(stage.now.mono_ms), "there is work left");
    // The list is walked down: the first member takes the place of a served one, and the last.
    let turn = stage.run("bye 20");
    assert_eq!(count(&turn, "cast 4"), 10);
    stage.run("start 41 late");
    let turn = stage.run("turn");
    assert_eq!(count(&turn, "cast 4"), 0, "{turn}");
    assert_eq!(stage.core.counters().get(Counter::GroupSent), 26);
    assert!(stage.core.deadline_ms() > Some(stage.now.mono_ms), "and now there is none");
}

#[test]
fn the_fan_out_queue() {
    const JOBS_PER_APP_MAX: usize = 128;
    let mut stage = Stage::new(CoreConfig { fanout_budget: 1, ..config() });
    stage.run("up 0; start 0 anna; start 1 ben; gcursor 0; turn; turn; turn");
    stage.run("wait 20000");
    // A turn serves one of two members, so every second entry stays.
    let mut done = String::new();
    let mut taken = 0;
    while !done.contains("gfetch") && stage.core.counters().get(Counter::GroupNoRoom) == 0 {
        taken += 1;
        done = stage.run(&format!("gdeliver {taken} - x"));
        assert!(taken < 1000, "the queue has no end");
    }
    // The turn that refused one ended another.
    assert_eq!(stage.core.counters().get(Counter::FanoutJobs) as usize, JOBS_PER_APP_MAX - 1);
    assert_eq!(stage.core.counters().get(Counter::GroupNoRoom), 1);
    // It is fetched when half the queue is free, not before.
    let mut turns = 0;
    while !done.contains("gfetch") {
        done = stage.run("turn");
        turns += 1;
        assert!(turns < 1000, "it is never fetched");
    }
    assert_eq!(stage.core.counters().get(Counter::FanoutJobs) as usize, JOBS_PER_APP_MAX / 2);
    stage.run(&format!("gfetched {taken} {taken}=x"));
    for _ in 0..300 {
        stage.run("turn");
    }
    assert_eq!(stage.core.counters().get(Counter::GroupSent), 2 * taken);
    assert_eq!(stage.core.counters().get(Counter::FanoutBytes), 0);
}

/// A walk announces `announce_budget` sessions in a turn, and waits for as many answers.
#[test]
fn the_announce_budget() {
    let mut stage = Stage::new(CoreConfig { announce_budget: 10, ..config() });
    for slot in 0..25 {
        stage.run(&format!("start {slot} device-{slot}"));
    }
    let done = stage.run("up 0");
    let pulls = (0..10).map(|slot| format!(" {slot}@0")).collect::<String>();
    assert!(done.ends_with(&format!("L0>pull{pulls}")), "{done}");
    assert_eq!(stage.core.counters().get(Counter::WalkLeft), 15);
    assert_eq!(stage.run("turn"), "", "nothing was answered");
    assert_eq!(stage.core.deadline_ms(), Some(1000));
    let done = stage.run("entries 0 0; entries 1 0");
    assert_eq!(done, "L0>announce 10=0; L0>pull 10@0; L0>announce 11=0; L0>pull 11@0");
    // A node that answers nothing is asked on after a second.
    assert_eq!(stage.run("wait 999"), "");
    assert_eq!(count(&stage.run("wait 1"), "@0"), 10);
    assert_eq!(count(&stage.run("wait 1000"), "@0"), 3);
    assert_eq!(stage.core.counters().get(Counter::WalkLeft), 0);
    assert_eq!(stage.core.counters().get(Counter::Announced), 25);
}

/// Timers of 5,000 connections that come at once take two turns.
#[test]
fn the_budget_of_timers() {
    const CONNECTIONS: u32 = 5_000;
    let mut stage = Stage::new(CoreConfig {
        slots_max: CONNECTIONS,
        connections_max: CONNECTIONS,
        ..CoreConfig::default()
    });
    for slot in 0..CONNECTIONS {
        stage.run(&format!("accept {slot}"));
    }
    let done = stage.run("wait 10000");
    assert_eq!(count(&done, ":close handshake_timeout"), 4096);
    assert_eq!(stage.core.deadline_ms(), Some(10_000), "the rest is due");
    assert_eq!(count(&stage.run("turn"), ":close handshake_timeout"), 904);
}

#[test]
fn nobody_is_silent_while_input_waits() {
    let mut stage = Stage::new(config());
    stage.run("up 0; up 1; start 0 anna; entries 0 0");
    stage.gauges.is_behind = true;
    assert_eq!(stage.run("wait 10000000"), "");
    assert_eq!(stage.run("ping 0"), "0<pong");
    stage.gauges.is_behind = false;
    assert_eq!(stage.run("turn"), "", "it was heard");
}

#[test]
fn a_list_longer_than_a_frame_is_cut() {
    const SESSIONS: u32 = 30_000;
    let mut stage = Stage::new(CoreConfig {
        slots_max: SESSIONS,
        connections_max: SESSIONS,
        announce_budget: SESSIONS,
        ..CoreConfig::default()
    });
    for slot in 0..SESSIONS {
        stage.start_quietly(slot);
    }
    let done = stage.run("up 0");
    assert_eq!(count(&done, "announce"), 2, "44 bytes each, a mebibyte in a frame");
    assert_eq!(count(&done, "pull"), 2);
    assert_eq!(count(&done, "@0"), SESSIONS as usize);
}

#[test]
fn the_drain_pace() {
    let mut stage = Stage::new(CoreConfig { drain_per_s: 4, ..config() });
    for slot in 0..10 {
        stage.run(&format!("start {slot} device-{slot}"));
    }
    stage.run("drain");
    assert_eq!(stage.core.deadline_ms(), Some(250));
    assert_eq!(count(&stage.run("wait 1000"), ":close drain"), 4);
    assert_eq!(stage.core.deadline_ms(), Some(1250));
    assert_eq!(count(&stage.run("wait 2000"), ":close drain"), 6);
    assert_eq!(stage.core.counters().closed(CloseReason::Drain), 10);
}

/// Each reason for which a shard ends a connection, once, and counted as that and nothing else.
#[test]
fn every_close_reason_is_reachable_and_counted() {
    use CloseReason::*;
    let scripts = [
        (Bye, "start 0 anna; bye 0"),
        (Reset, "start 0 anna; hangup 0"),
        (Drain, "start 0 anna; drain; wait 100"),
        (TakenOver, "start 0 anna; kick 0 1"),
        (Idle, "start 0 anna; wait 290000"),
        (HandshakeTimeout, "accept 0; wait 10000"),
        (BadFrame, "accept 0; bad 0"),
        (FrameTooLarge, "accept 0; big 0"),
        (TooManyTopics, "start 0 anna; sub 0 1; sub 0 2; sub 0 3; sub 0 4; sub 0 5"),
        (SlowReader, "start 0 anna; slow 0"),
        (Unexpected, "accept 0; ping 0"),
    ];
    for (reason, script) in scripts {
        let mut stage = Stage::new(config());
        let done = stage.run(script);
        assert!(done.contains(&format!("0:close {}", reason.label())), "{reason:?}: {done}");
        for &other in CloseReason::ALL {
            assert_eq!(stage.core.counters().closed(other), u64::from(other == reason));
            assert_eq!(stage.core.counters().refused(other), 0);
        }
    }
    // The door refuses for Overload and Drain, `tickets` has what a connect can lack, and the
    // rest ends links.
    let elsewhere = [
        Overload,
        Version,
        TicketExpired,
        TicketForged,
        TicketMalformed,
        UnknownApp,
        NotReady,
        LinkAuth,
        LinkOverflow,
        Unknown,
    ];
    assert_eq!(scripts.len() + elsewhere.len(), CloseReason::ALL.len());
}

/// A shard where nothing happens sleeps until its next timer, and one without sessions for ever.
#[test]
fn an_idle_core_has_exact_deadlines() {
    let mut stage = Stage::new(config());
    assert_eq!(stage.core.deadline_ms(), None);
    stage.run("up 0; up 1; accept 0");
    let mut wakes = 0;
    while stage.core.sessions() > 0 {
        let next_ms = stage.core.deadline_ms().expect("the handshake has a deadline");
        assert!(next_ms > stage.now.mono_ms, "a busy loop");
        let done = stage.run(&format!("wait {}", next_ms - stage.now.mono_ms));
        wakes += 1;
        assert_eq!(done.is_empty(), stage.core.sessions() > 0);
    }
    assert_eq!(stage.now.mono_ms, 10_000, "exactly when the handshake timed out");
    assert!(wakes <= 4, "{wakes} wake-ups for one timer");
    assert_eq!(stage.core.deadline_ms(), None);
}

#[test]
fn memory_of_a_row() {
    let mut stage = Stage::new(config());
    stage.run("start 0 anna");
    // Rows and timers come in chunks of 4,096.
    assert_eq!(stage.core.counters().get(Counter::RowBytes), 4096 * 96);
}

#[test]
#[should_panic(expected = "was accepted while it was taken")]
fn a_taken_slot_is_not_given_twice() {
    Stage::new(config()).run("accept 0; hangup 0; accept 0");
}

#[test]
#[should_panic(expected = "ended before it was closed")]
fn a_slot_ends_after_its_close() {
    Stage::new(config()).run("accept 0; closed 0");
}

#[test]
fn contradictory_configurations_are_refused() {
    let broken = [
        CoreConfig { connections_max: 65, ..config() },
        CoreConfig { topics_max: 33, ..config() },
        CoreConfig { heartbeat_min_ms: 5, heartbeat_max_ms: 4, ..config() },
        CoreConfig { drain_per_s: 0, ..config() },
        CoreConfig { redirect: vec![String::new()], ..config() },
        CoreConfig { redirect: vec!["a:1".into(); 9], ..config() },
    ];
    for config in broken {
        let text = format!("{config:?}");
        assert!(std::panic::catch_unwind(|| Core::new(config)).is_err(), "{text}");
    }
}
