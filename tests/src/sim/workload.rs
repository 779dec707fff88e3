//! What users and senders do: pushes of every kind, and devices that come, go, move, join topics,
//! read slowly, and are restored from a backup.
//!
//! Everything is decided at the start, so that a plan can be read before it is run.

use hawser_control::node::event::{Priority, Wake};

use super::devices::{Application, Identity};
use super::ledger::{Fate, Ledger, Message, Target};
use super::random::Random;
use super::scenario::Scenario;

/// The workload begins when the world has had time to find itself.
pub const FIRST_MS: u64 = 3_000;

/// Applications and messages are named by their places in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Sends a message, or sends it again.
    Push(u32),
    Subscribe {
        app: usize,
        topic: usize,
    },
    Unsubscribe {
        app: usize,
        topic: usize,
    },
    Leave(usize),
    Open(usize),
    /// A new connection takes the old one's place, which stays half open.
    Move(usize),
    /// The connection is reset.
    Cut(usize),
    /// The user looks at the device.
    Wake(usize),
    /// The device has no network for a while.
    Unreachable {
        app: usize,
        for_ms: u64,
    },
    /// The device does not read for a while, from now or from its next connection on.
    Slow {
        app: usize,
        for_ms: u64,
    },
    /// A second installation of the same device name begins from nothing.
    Restore {
        identity: usize,
    },
}

/// The deeds of the faulty phase with their times, and the messages that they send.
pub fn plan(
    scenario: &Scenario,
    identities: &[Identity],
    apps: &[Application],
    ledger: &mut Ledger,
    random: &mut Random,
) -> Vec<(u64, Deed)> {
    let mut plan = Vec::new();
    let when = |random: &mut Random| random.between(FIRST_MS, scenario.faulty_until_ms);
    let mut at_ms = FIRST_MS;
    for _ in 0..scenario.messages {
        let message = message(scenario, identities, ledger, random);
        let number = message.number;
        ledger.messages.push(message);
        // Some come at once, so that nodes meet at a stream.
        at_ms = if random.chance(300) { at_ms } else { when(random) };
        plan.push((at_ms, Deed::Push(number)));
    }
    for _ in 0..random.below(2 + apps.len() * 3) {
        let app = random.below(apps.len());
        let topic = random.below(scenario.topics);
        let at_ms = when(random);
        let deed = match random.below(10) {
            0 => Deed::Subscribe { app, topic },
            1 => Deed::Unsubscribe { app, topic },
            2 => {
                plan.push((at_ms + random.between(100, 15_000), Deed::Open(app)));
                Deed::Leave(app)
            }
            3 | 4 => Deed::Move(app),
            5 => Deed::Cut(app),
            6 => Deed::Wake(app),
            7 => Deed::Unreachable { app, for_ms: random.between(500, 20_000) },
            8 => Deed::Slow { app, for_ms: random.between(1_000, 8_000) },
            _ => {
                // Whoever is taken over is opened again later, and takes over in turn.
                plan.push((at_ms + random.between(1_000, 20_000), Deed::Open(app)));
                Deed::Restore { identity: apps[app].identity }
            }
        };
        plan.push((at_ms, deed));
    }
    if random.chance(300) {
        flood(scenario, identities, apps, ledger, random, &mut plan);
    }
    if random.chance(400) {
        torrent(scenario, identities, apps, ledger, random, &mut plan);
    }
    plan
}

/// More small messages to a device that does not read than its socket holds.
fn torrent(
    scenario: &Scenario,
    identities: &[Identity],
    apps: &[Application],
    ledger: &mut Ledger,
    random: &mut Random,
    plan: &mut Vec<(u64, Deed)>,
) {
    let at_ms = random.between(FIRST_MS, scenario.faulty_until_ms);
    let app = random.below(apps.len());
    let identity = apps[app].identity;
    plan.push((at_ms, Deed::Slow { app, for_ms: 5_000 }));
    for _ in 0..30 {
        let mut message = message(scenario, identities, ledger, random);
        message.app = identities[identity].app;
        message.target = Target::Device(identity);
        message.device = Some(identities[identity].id);
        message.wake = Wake::Now;
        message.payload_bytes = 250;
        plan.push((at_ms + random.between(100, 4_900), Deed::Push(message.number)));
        ledger.messages.push(message);
    }
}

/// Devices that come back to a large inbox and do not read it: together more than a shard may hold.
fn flood(
    scenario: &Scenario,
    identities: &[Identity],
    apps: &[Application],
    ledger: &mut Ledger,
    random: &mut Random,
    plan: &mut Vec<(u64, Deed)>,
) {
    let at_ms = random.between(FIRST_MS, scenario.faulty_until_ms);
    for app in 0..apps.len().min(4) {
        plan.push((at_ms, Deed::Leave(app)));
        for _ in 0..4 {
            let mut message = message(scenario, identities, ledger, random);
            message.target = Target::Device(apps[app].identity);
            message.app = identities[apps[app].identity].app;
            message.device = Some(identities[apps[app].identity].id);
            message.payload_bytes = random.between(20_000, 40_000) as usize;
            plan.push((at_ms + random.between(50, 1_500), Deed::Push(message.number)));
            ledger.messages.push(message);
        }
        plan.push((at_ms + 2_500, Deed::Slow { app, for_ms: 9_000 }));
        plan.push((at_ms + 2_600, Deed::Open(app)));
    }
}

fn message(
    scenario: &Scenario,
    identities: &[Identity],
    ledger: &Ledger,
    random: &mut Random,
) -> Message {
    let identity = random.below(identities.len());
    let (app, target) = match random.below(10) {
        0..6 => (identities[identity].app, Target::Device(identity)),
        6..8 => (random.below(scenario.apps), Target::Topic(random.below(scenario.topics))),
        _ => (random.below(scenario.apps), Target::All),
    };
    let large = random.chance(60);
    Message {
        number: ledger.messages.len() as u32,
        app,
        target,
        device: matches!(target, Target::Device(_)).then_some(identities[identity].id),
        ttl_s: if random.chance(200) { random.between(1, 15) as u32 } else { 86_400 },
        wake: if random.chance(150) { Wake::WhenAwake } else { Wake::Now },
        priority: random.pick(&[Priority::Low, Priority::Normal, Priority::High]),
        collapse: random.chance(200).then(|| random.below(2) as u8),
        idempotent: random.chance(500),
        payload_bytes: if large { random.between(4_097, 9_000) } else { random.between(12, 300) }
            as usize,
        first_sent_ms: 0,
        sent_ms: 0,
        attempts: 0,
        fate: Fate::Open,
        doubtful: false,
        lost_answer: None,
        accepted_ms: 0,
        heard: 0,
    }
}

/// A message of the calm phase: nothing may keep it from its device.
pub fn calm_message(
    number: u32,
    app: usize,
    target: Target,
    wake: Wake,
    payload_bytes: usize,
    identities: &[Identity],
) -> Message {
    let device = match target {
        Target::Device(identity) => Some(identities[identity].id),
        Target::Topic(_) | Target::All => None,
    };
    Message {
        number,
        app,
        target,
        device,
        ttl_s: 3_600,
        wake,
        priority: Priority::Normal,
        collapse: None,
        idempotent: true,
        payload_bytes,
        first_sent_ms: 0,
        sent_ms: 0,
        attempts: 0,
        fate: Fate::Open,
        doubtful: false,
        lost_answer: None,
        accepted_ms: 0,
        heard: 0,
    }
}
