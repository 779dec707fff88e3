//! Random days of a shard, each followed by calm: nothing is lost, nothing is left behind.

use hawser_broker::io::sim::{Faults, SimConfig};
use proptest::prelude::*;

use crate::world::{World, shard_config};

const DEVICES: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    Push {
        device: usize,
        bytes: usize,
    },
    /// The device's connection ends: politely, by a reset, or without a word.
    Close {
        device: usize,
    },
    Reset {
        device: usize,
    },
    Vanish {
        device: usize,
    },
    StopReading {
        device: usize,
    },
    Resume {
        device: usize,
    },
    CutLink,
    /// Somebody who is not a device.
    Stranger {
        bytes: Vec<u8>,
    },
    Run {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 0..DEVICES;
    prop_oneof![
        6 => (device(), 0..700usize).prop_map(|(device, bytes)| Step::Push { device, bytes }),
        1 => device().prop_map(|device| Step::Close { device }),
        1 => device().prop_map(|device| Step::Reset { device }),
        1 => device().prop_map(|device| Step::Vanish { device }),
        1 => device().prop_map(|device| Step::StopReading { device }),
        1 => device().prop_map(|device| Step::Resume { device }),
        1 => Just(Step::CutLink),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(|bytes| Step::Stranger { bytes }),
        5 => (0..3_000u64).prop_map(|ms| Step::Run { ms }),
    ]
}

fn faults() -> impl Strategy<Value = Faults> {
    let often = || prop_oneof![Just(0u16), 1..300u16];
    let counts = (0..5u16, 0..50u16, often());
    (often(), often(), often(), 0..200u64, any::<bool>(), often(), often(), counts).prop_map(
        |(
            short_reads,
            short_writes,
            delays,
            delay_ms_max,
            reorder,
            watches_end,
            no_buffers,
            (resets, accept_errors, watches_fail),
        )| Faults {
            short_reads,
            short_writes,
            delays,
            delay_ms_max,
            reorder,
            watches_end,
            watches_fail,
            no_buffers,
            resets,
            accept_errors,
            writable_delay_ms_max: delay_ms_max,
        },
    )
}

fn apply(world: &mut World, step: &Step) {
    let peer = |world: &World, device: usize| world.devices[device].peer;
    match *step {
        Step::Push { device, bytes } => world.push(device, bytes),
        Step::Close { device } => {
            if let Some(peer) = peer(world, device) {
                world.shard.io_mut().close(peer);
            }
        }
        Step::Reset { device } => {
            if let Some(peer) = peer(world, device) {
                world.shard.io_mut().reset(peer);
            }
        }
        Step::Vanish { device } => {
            if let Some(peer) = peer(world, device) {
                world.shard.io_mut().vanish(peer);
            }
        }
        Step::StopReading { device } => {
            if let Some(peer) = peer(world, device) {
                world.shard.io_mut().stop_reading(peer);
            }
        }
        Step::Resume { device } => {
            if let Some(peer) = peer(world, device) {
                world.shard.io_mut().resume_reading(peer);
            }
        }
        Step::CutLink => world.cut_link(),
        Step::Stranger { ref bytes } => {
            let peer = world.shard.io_mut().connect();
            world.shard.io_mut().write(peer, bytes);
        }
        Step::Run { ms } => world.run(ms),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn after_any_day_every_device_has_its_inbox_and_the_shard_is_clean(
        seed in any::<u64>(),
        faults in faults(),
        socket_bytes in 400..2_000usize,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let sim = SimConfig { seed, faults, slots: 12, socket_bytes, buffers: 4, buffer_bytes: 64 };
        let mut world = World::new(shard_config(12), sim, DEVICES);
        for step in &steps {
            apply(&mut world, step);
        }
        world.heal();
        // Long enough for vanished peers to be idle and for strangers to be timed out.
        world.run(120_000);
        for device in 0..DEVICES {
            prop_assert!(world.has_all(device), "device {device} lacks a message");
            let got = world.devices[device].got;
            prop_assert_eq!(world.acked(device), got, "device {}'s acknowledgements", device);
        }
        world.drain();
    }
}
