//! The shell's bounds, each met on purpose.

use hawser_broker::io::Io as _;
use hawser_broker::io::sim::{Faults, PeerState, SimConfig};
use hawser_broker::metrics::Counter;
use hawser_broker::shard::ShardConfig;
use hawser_codec::error::CloseReason;

use crate::world::{World, shard_config};

fn sim(slots: u32) -> SimConfig {
    SimConfig { slots, socket_bytes: 1_000, ..SimConfig::default() }
}

#[test]
fn a_turn_that_accepts_too_many_is_followed_by_one_that_accepts_none() {
    let mut world = World::new(shard_config(12), sim(12), 9);
    world.run(5_000);
    assert!(world.shard.shell_counters().accept_pauses > 0);
    assert_eq!(world.shard.core().counters().get(Counter::Sessions), 9);
    world.drain();
}

#[test]
fn a_peer_that_does_not_hang_up_is_closed_after_a_second() {
    let mut world = World::new(shard_config(4), sim(4), 0);
    let peer = world.shard.io_mut().connect();
    world.shard.io_mut().write(peer, &[0xff; 10]);
    world.run(900);
    assert_eq!(world.shard.core().counters().closed(CloseReason::FrameTooLarge), 1);
    assert_eq!(world.shard.io().counters().slots_in_use, 1, "it may still read why");
    world.run(200);
    assert_eq!(world.shard.io().counters().slots_in_use, 0);
    let mut why = Vec::new();
    assert_eq!(world.shard.io_mut().read(peer, &mut why), PeerState::Closed);
    assert!(!why.is_empty());
}

#[test]
fn input_after_the_end_is_discarded_and_does_not_reset_the_last_word() {
    let mut world = World::new(shard_config(4), sim(4), 0);
    let peer = world.shard.io_mut().connect();
    world.shard.io_mut().write(peer, &[0xff; 10]);
    for _ in 0..20 {
        world.run(50);
        world.shard.io_mut().write(peer, &[0x01, 0x00]);
    }
    world.run(1_000);
    assert_ne!(world.shard.io().state(peer), PeerState::Reset, "unread input would reset it");
    assert_eq!(world.shard.core().counters().get(Counter::Heartbeats), 0);
}

#[test]
fn slots_that_are_all_taken_leave_the_rest_waiting() {
    // Twelve slots, ten connections allowed, twenty devices that all want in.
    let mut world = World::new(shard_config(12), sim(12), 20);
    world.run(10_000);
    assert_eq!(world.shard.core().counters().get(Counter::Sessions), 10);
    assert!(world.shard.core().counters().refused(CloseReason::Overload) > 0);
    for device in &mut world.devices[..10] {
        device.left = true;
    }
    world.drain();
}

#[test]
fn a_link_that_cannot_be_dialled_is_tried_again_with_growing_pauses() {
    let mut world = World::new(shard_config(4), sim(4), 0);
    let mut dials = 0;
    // The world's control node would admit it, so it is refused here before each step.
    for _ in 0..600 {
        let now_ms = world.now_ms;
        let now = hawser_broker::core::event::Now { mono_ms: now_ms, unix_ms: now_ms };
        world.shard.io_mut().set_now(now);
        world.shard.turn();
        for dialled in world.shard.io_mut().dialled() {
            dials += 1;
            world.shard.io_mut().refuse(dialled.peer);
        }
        world.now_ms += 100;
    }
    // A minute: about eight quick tries, then one every 2.5 to 5 seconds.
    assert!((15..=35).contains(&dials), "{dials} dials in a minute");
}

#[test]
fn a_flood_of_short_writes_keeps_the_pool_within_its_limit() {
    // A blocked device holds the rest of one message at most; three of them fill the pool.
    let config = ShardConfig { outbox_bytes_max: 1_500, ..shard_config(12) };
    let mut world = World::new(config, sim(12), 8);
    world.run(2_000);
    world.set_faults(Faults { short_writes: 900, writable_delay_ms_max: 500, ..Faults::default() });
    for round in 0..200 {
        world.push(round % 8, 600);
        world.run(10);
    }
    assert!(world.shard.shell_counters().remainders_refused > 0, "the pool was never full");
    assert!(world.shard.core().counters().closed(CloseReason::SlowReader) > 0);
    world.heal();
    world.run(60_000);
    for device in 0..8 {
        assert!(world.has_all(device), "device {device} lacks a message");
    }
    world.drain();
}
