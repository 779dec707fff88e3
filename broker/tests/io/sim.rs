//! The simulated side of `trait Io`: what it promises the simulator, under every fault.

use std::panic::AssertUnwindSafe;

use crate::echo::Echo;
use hawser_broker::core::event::Now;
use hawser_broker::io::sim::{Faults, PeerId, PeerState, SimConfig, SimIo};
use hawser_broker::io::{Completion, Io, Pending, Target};
use proptest::prelude::*;

fn now(mono_ms: u64) -> Now {
    Now { mono_ms, unix_ms: 1_700_000_000_000 + mono_ms }
}

/// Runs turns and lets time pass until nothing is under way.
fn settle(echo: &mut Echo<SimIo>, clock_ms: &mut u64) {
    for _ in 0..10_000 {
        match echo.io.due_ms() {
            None => return,
            Some(due_ms) => *clock_ms = due_ms.max(*clock_ms),
        }
        echo.io.set_now(now(*clock_ms));
        echo.turn(None);
    }
    panic!("the simulated kernel does not come to rest");
}

/// One client's run: writes `bytes`, reads the echo, closes. Returns what came back.
fn run(config: SimConfig, clients: &[Vec<u8>]) -> (Vec<(Vec<u8>, PeerState)>, Vec<String>) {
    let mut echo = Echo::new(SimIo::new(config));
    let mut clock_ms = 0;
    let peers: Vec<PeerId> = clients.iter().map(|_| echo.io.connect()).collect();
    let mut written = vec![0; clients.len()];
    let mut back: Vec<Vec<u8>> = vec![Vec::new(); clients.len()];
    for _ in 0..2_000 {
        let mut left = false;
        for (index, &peer) in peers.iter().enumerate() {
            written[index] += echo.io.write(peer, &clients[index][written[index]..]);
            let state = echo.io.read(peer, &mut back[index]);
            left |= state != PeerState::Reset && back[index].len() < clients[index].len();
        }
        if !left {
            break;
        }
        settle(&mut echo, &mut clock_ms);
    }
    for &peer in &peers {
        echo.io.close(peer);
    }
    settle(&mut echo, &mut clock_ms);
    assert_eq!(echo.open(), 0, "every connection has ended");
    assert_eq!(echo.io.outstanding(), 0, "nothing is left in the kernel");
    assert_eq!(echo.io.counters().slots_in_use, 0);
    let states = peers.iter().map(|&peer| echo.io.state(peer));
    let results = back.into_iter().zip(states).collect();
    (results, echo.trace)
}

fn faults() -> impl Strategy<Value = Faults> {
    let often = || prop_oneof![Just(0u16), 1..400u16];
    (often(), often(), often(), 0..50u64, any::<bool>(), often(), often(), 0..20u64).prop_map(
        |(
            short_reads,
            short_writes,
            delays,
            delay_ms_max,
            reorder,
            watches_end,
            no_buffers,
            late,
        )| {
            Faults {
                short_reads,
                short_writes,
                delays,
                delay_ms_max,
                reorder,
                watches_end,
                no_buffers,
                writable_delay_ms_max: late,
                ..Faults::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever the faults are, TCP's promise holds: the bytes arrive, in order, once.
    #[test]
    fn faults_lose_no_byte(
        seed in any::<u64>(),
        faults in faults(),
        socket_bytes in 16..300usize,
        clients in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 1..8),
    ) {
        // Fewer slots than clients would leave some in the queue for ever: nobody leaves here.
        let config = SimConfig { seed, faults, socket_bytes, slots: 8, buffers: 2, buffer_bytes: 32 };
        let (results, _) = run(config, &clients);
        for ((back, state), sent) in results.iter().zip(&clients) {
            prop_assert_eq!(back, sent);
            prop_assert_eq!(*state, PeerState::Closed);
        }
    }

    /// With resets a prefix arrives, and only the connection that was reset is short of some.
    #[test]
    fn a_reset_cuts_its_own_stream_only(
        seed in any::<u64>(),
        faults in faults(),
        resets in 1..100u16,
        accept_errors in 0..200u16,
        clients in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 1..8),
    ) {
        let faults = Faults { resets, accept_errors, ..faults };
        let config = SimConfig { seed, faults, slots: 8, ..SimConfig::default() };
        let (results, _) = run(config, &clients);
        for ((back, state), sent) in results.iter().zip(&clients) {
            prop_assert!(sent.starts_with(back));
            prop_assert!(*state == PeerState::Reset || back == sent);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run(seed in any::<u64>(), faults in faults()) {
        let clients: Vec<Vec<u8>> = (1..6u8).map(|i| vec![i; 100 * usize::from(i)]).collect();
        let config = SimConfig { seed, faults, socket_bytes: 128, ..SimConfig::default() };
        let (first, second) = (run(config, &clients), run(config, &clients));
        prop_assert_eq!(first, second);
    }
}

#[test]
fn each_fault_is_seen_and_seeds_differ() {
    let clients: Vec<Vec<u8>> = (1..9u8).map(|i| vec![i; 400]).collect();
    let base = SimConfig { socket_bytes: 4096, ..SimConfig::default() };
    let (calm, calm_trace) = run(base, &clients);
    assert!(calm.iter().all(|(_, state)| *state == PeerState::Closed));
    assert_eq!(run(SimConfig { seed: 2, ..base }, &clients).1, calm_trace, "no fault, no chance");
    let none = Faults::default();
    let delayed = Faults { delays: 300, delay_ms_max: 9, ..none };
    for (faults, mark) in [
        (Faults { short_reads: 300, ..none }, ""),
        (Faults { short_writes: 300, ..none }, "Unsent"),
        (Faults { watches_end: 300, ..none }, "armed: false"),
        (Faults { watches_end: 300, watches_fail: 999, ..none }, "WatchFailed"),
        (Faults { no_buffers: 300, ..none }, "NoBuffers"),
        (Faults { resets: 300, ..none }, "Failed"),
        (Faults { reorder: true, ..none }, ""),
        (delayed, ""),
    ] {
        let (_, trace) = run(SimConfig { faults, ..base }, &clients);
        assert_ne!(trace, calm_trace, "{faults:?} changed nothing");
        assert!(trace.iter().any(|line| line.contains(mark)), "{faults:?} shows no {mark}");
        let (_, other) = run(SimConfig { seed: 2, faults, ..base }, &clients);
        assert_ne!(trace, other, "{faults:?} does not depend on the seed");
    }
}

#[test]
fn a_slot_is_reused_in_the_batch_that_freed_it() {
    let mut echo = Echo::new(SimIo::new(SimConfig { slots: 1, ..SimConfig::default() }));
    let mut clock_ms = 0;
    let peers: Vec<PeerId> = (0..5).map(|_| echo.io.connect()).collect();
    for &peer in &peers {
        echo.io.write(peer, b"x");
        settle(&mut echo, &mut clock_ms);
        echo.io.close(peer);
    }
    settle(&mut echo, &mut clock_ms);
    assert_eq!(echo.accepted, [0; 5]);
    let races = echo
        .trace
        .windows(2)
        .filter(|pair| pair[0].starts_with("Closed") && pair[1].starts_with("Accepted"));
    assert_eq!(races.count(), 4);
}

#[test]
fn a_vanished_peer_takes_bytes_until_its_socket_is_full_and_never_answers() {
    let mut io = SimIo::new(SimConfig { socket_bytes: 10, ..SimConfig::default() });
    io.accept_start();
    let peer = io.connect();
    io.wait(None);
    assert!(matches!(io.next(), Some(Completion::Accepted { slot: 0 })));
    io.vanish(peer);
    io.resume_reading(peer);
    assert_eq!(io.write(peer, b"gone"), 0);
    let target = Target { slot: 0, generation: 1 };
    let mut unsent = Vec::new();
    io.send([(target, &[1u8; 15][..])].into_iter(), &mut unsent);
    assert_eq!((unsent[0].written, unsent[0].failed), (10, false));
    let mut taken = Vec::new();
    assert_eq!(io.read(peer, &mut taken), PeerState::Open);
    assert!(taken.is_empty());
}

/// The guard of **quiesced-slot**: each way to break it panics.
#[test]
fn breaking_the_contract_is_caught() {
    let check = |what: &str, expect: &str, act: &dyn Fn(&mut SimIo, Target)| {
        let mut io = SimIo::new(SimConfig::default());
        io.accept_start();
        io.connect();
        io.wait(None);
        let Some(Completion::Accepted { slot }) = io.next() else { panic!("nobody came") };
        let target = Target { slot, generation: 1 };
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| act(&mut io, target)));
        let panic = result.expect_err(what);
        let message = panic.downcast_ref::<String>().expect("a formatted panic");
        assert!(message.contains(expect), "{what}: {message}");
    };
    check("close with a watch", "with an operation outstanding", &|io, target| {
        io.watch(target);
        Io::close(io, target);
    });
    check("close with a receive", "with an operation outstanding", &|io, target| {
        io.receive(target);
        io.wait(None);
        Io::close(io, target);
    });
    check("close before the cancel is done", "with an operation outstanding", &|io, target| {
        io.watch(target);
        io.cancel(target, Pending::Watch);
        Io::close(io, target);
    });
    check("use after close", "is closed", &|io, target| {
        Io::close(io, target);
        io.receive(target);
    });
    check("send after close", "is closed", &|io, target| {
        Io::close(io, target);
        io.send([(target, &b"x"[..])].into_iter(), &mut Vec::new());
    });
    check("use of a free slot", "is not open", &|io, target| {
        io.watch(Target { slot: target.slot + 1, generation: 1 });
    });
    check("two watches", "is watched already", &|io, target| {
        io.watch(target);
        io.watch(target);
    });
    check("two receives", "receives already", &|io, target| {
        io.receive(target);
        io.receive(target);
    });
    check("two sends in a call", "is sent to twice", &|io, target| {
        io.send([(target, &b"x"[..]), (target, &b"y"[..])].into_iter(), &mut Vec::new());
    });
    check("a stale generation", "with a stale generation", &|io, target| {
        io.watch(target);
        io.receive(Target { generation: 2, ..target });
    });
}
