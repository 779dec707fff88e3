//! What must be true, by name. Each oracle knows the promise and nothing of how it is kept.
//!
//! | invariant | judged |
//! |---|---|
//! | `one-home` | at the end: a device name is online once, where the nodes say that it is |
//! | `fifo-per-device` | with every message that an application hears (`devices.rs`, `ledger.rs`) |
//! | `accounted-push` | with every message heard; at the end: each accepted message has one end |
//! | `quiesced-slot` | by `SimIo`, with every operation of a shard |
//! | `bounded` | after every turn of every shard, and by the structures' own checks |

use hawser_broker::io::Io;
use hawser_broker::io::sim::SimIo;
use hawser_broker::metrics::Counter;
use hawser_broker::shard::{Shard, ShardConfig};
use hawser_codec::error::CloseReason;
use hawser_control::node::event::{
    Answer, DeviceInfo, GroupInfo, MessageInfo, MessageState, Request, Status,
};

use super::devices::Application;
use super::ledger::{Fate, Message, Target};
use super::scenario::UNIX_START_MS;
use super::world::World;

/// What a shard's counters were before a turn.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    sessions: u64,
    blocked: u64,
    inline: u64,
}

impl Before {
    pub fn of(shard: &Shard<SimIo>) -> Before {
        let counters = shard.core().counters();
        Before {
            sessions: counters.get(Counter::Sessions),
            blocked: counters.get(Counter::Blocked),
            inline: counters.get(Counter::PushInline),
        }
    }
}

/// `bounded`: a body is not sent to a device whose socket is full. Seen when nobody has room.
pub fn holds_no_body_for_the_blocked(before: Before, shard: &Shard<SimIo>) {
    let now = Before::of(shard);
    let all_blocked = before.sessions > 0 && before.blocked == before.sessions;
    let same = now.sessions == before.sessions && now.blocked == before.blocked;
    assert!(
        !(all_blocked && same) || now.inline == before.inline,
        "bounded: a body was sent although every socket is full"
    );
}

/// `bounded`: what a shard holds for slow peers stays within its limits.
pub fn bounded(shard: &Shard<SimIo>, config: &ShardConfig) {
    let shell = shard.shell_counters();
    let core = shard.core();
    let slots = shard.io().counters().slots_in_use;
    let limits = [
        ("sessions", u64::from(core.sessions()), u64::from(config.core.slots_max)),
        ("slots", slots, u64::from(config.core.slots_max)),
        ("outbox bytes", core.counters().get(Counter::OutboxBytes), config.outbox_bytes_max as u64),
        ("partial bytes", shell.partial_bytes, config.partial_bytes_max as u64),
        (
            "link queue bytes",
            shell.link_queue_bytes,
            (config.link_queue_bytes_max * config.control.len()) as u64,
        ),
    ];
    for (what, held, limit) in limits {
        assert!(held <= limit, "bounded: {held} {what}, at most {limit} allowed");
    }
}

/// `fifo-per-device`: whoever heard a message before its sender was answered heard it in the place
/// that the sender is told.
pub fn accepted_as_heard(message: &Message, applications: &[Application]) {
    let Fate::Accepted { seq, .. } = message.fate else { return };
    for app in applications {
        if let Some(sighting) = app.record.seen.get(&message.number) {
            assert_eq!(
                sighting.seq, seq,
                "fifo-per-device: message {} was accepted in another place than it was heard",
                message.number
            );
        }
    }
}

/// Judges a world that has just healed: what was heard is acknowledged, although no later
/// acknowledgement covers it; and no counter was lost, unless its node was.
pub fn judge_healed(world: &mut World) {
    for number in 0..world.ledger.messages.len() {
        let message = world.ledger.messages[number].clone();
        if matches!(message.fate, Fate::Accepted { .. }) && !message.is_group() {
            single_accounted(world, &message);
        }
    }
    if world.scenario.is_calm() {
        counters_add_up(world);
    }
}

/// What was accepted before a node died does not wait for a heartbeat.
pub fn heard_promptly(world: &World, first: usize, died_ms: u64) {
    for message in &world.ledger.messages[first..] {
        let Target::Device(place) = message.target else { continue };
        let online =
            world.applications.iter().any(|app| app.identity == place && app.session.is_online());
        let accepted = matches!(message.fate, Fate::Accepted { .. });
        let promised = accepted && message.accepted_ms <= died_ms;
        assert!(
            !(promised && online) || message.heard > 0,
            "accounted-push: message {} still waits after a node died",
            message.number
        );
    }
}

/// A when-awake message waits for its device's next heartbeat, and no longer.
pub fn released_by_heartbeats(world: &mut World, first: u32, since_ms: u64) {
    for app in &world.applications {
        for (number, sighting) in app.record.seen.range(first..) {
            let heartbeat = sighting.pong_ms >= since_ms;
            assert!(heartbeat, "accounted-push: message {number} woke app {}", app.label);
        }
    }
    world.trace.reach("end: released by a heartbeat");
}

/// Judges a world that has become quiet.
pub fn judge(world: &mut World) {
    one_home(world);
    for number in 0..world.ledger.messages.len() {
        let message = world.ledger.messages[number].clone();
        match message.fate {
            Fate::Open => panic!("accounted-push: message {number} never got an answer"),
            Fate::Refused => {
                assert_eq!(message.heard, 0, "accounted-push: message {number} was refused");
            }
            Fate::Doubtful => {}
            Fate::Accepted { .. } if message.is_group() => group_accounted(world, &message),
            Fate::Accepted { .. } => single_accounted(world, &message),
        }
    }
}

/// `one-home`, as devices, brokers and nodes see it.
fn one_home(world: &mut World) {
    let online: Vec<bool> = world.applications.iter().map(|app| app.session.is_online()).collect();
    let sessions = world.brokers.sessions();
    let expected = online.iter().filter(|&&online| online).count() as u64;
    assert_eq!(sessions, expected, "one-home: the brokers hold {sessions} sessions");
    for place in 0..world.identities.len() {
        let homes: Vec<usize> = (0..online.len())
            .filter(|&at| online[at] && world.applications[at].identity == place)
            .collect();
        assert!(homes.len() <= 1, "one-home: device {place} is online as apps {homes:?}");
        for app in world.applications.iter().filter(|app| app.identity == place) {
            let lost = app.is_open() && !homes.contains(&app.label);
            assert!(!lost, "one-home: app {} does not find home", app.label);
            // Clocks that differ may let an older connection win; clocks that agree may not.
            let taken = app.session.stopped() == Some(CloseReason::TakenOver);
            assert!(
                !taken || !homes.is_empty() || world.scenario.skew_ms > 0,
                "one-home: app {} was taken over by nobody",
                app.label
            );
        }
        let expected = homes.first().map(|&at| {
            let wire = world.applications[at].wire.as_ref().expect("online");
            let process = &world.brokers.shards[wire.shard];
            (process.broker as u64 + 1, process.index)
        });
        for node in world.controls.up() {
            let info = device_info(world, node, place);
            let session = info.session.map(|session| (session.broker, session.shard));
            assert_eq!(session, expected, "one-home: node {node} looks for device {place}");
        }
    }
}

/// `accounted-push` for a message to one device: delivered, expired, collapsed, or waiting.
fn single_accounted(world: &mut World, message: &Message) {
    let number = message.number;
    let states: Vec<MessageState> = world
        .controls
        .up()
        .into_iter()
        .map(|node| message_info(world, node, message).state)
        .collect();
    let state = states[0];
    assert!(states.iter().all(|&other| other == state), "nodes differ about {number}: {states:?}");
    let Target::Device(place) = message.target else { return };
    let of_device = || world.applications.iter().filter(move |app| app.identity == place);
    // A device that claimed to have what was never sent has acknowledged what it did not hear.
    if of_device().any(|app| app.record.resets > 0) {
        return;
    }
    let heard = message.heard > 0;
    let online = of_device().any(|app| app.session.is_online());
    match state {
        MessageState::Delivered => {
            assert!(heard, "accounted-push: message {number} is delivered, but nobody heard it");
        }
        MessageState::Expired => {
            let over = may_have_expired(world, message);
            assert!(over, "accounted-push: message {number} is expired before its time");
        }
        MessageState::Collapsed => {
            let replaced = may_have_collapsed(world, message);
            assert!(replaced, "accounted-push: message {number} is collapsed for no other");
        }
        MessageState::Pending => {
            let lost = if heard { "its acknowledgement" } else { "it" };
            assert!(!online, "accounted-push: message {number} waits, {lost} is lost");
        }
    }
    world.trace.reach(match state {
        MessageState::Delivered => "end: delivered",
        MessageState::Expired => "end: expired",
        MessageState::Collapsed => "end: collapsed",
        MessageState::Pending => "end: waiting",
    });
}

/// `accounted-push` for a group: whoever was a member all the time heard it once.
fn group_accounted(world: &mut World, message: &Message) {
    let number = message.number;
    let infos: Vec<GroupInfo> =
        world.controls.up().into_iter().map(|node| group_info(world, node, message)).collect();
    for info in &infos {
        let gone = info.state == MessageState::Expired || info.state == MessageState::Collapsed;
        let may = may_have_expired(world, message) || may_have_collapsed(world, message);
        assert!(!gone || may, "accounted-push: group message {number} is {:?}", info.state);
    }
    if may_have_expired(world, message) || may_have_collapsed(world, message) {
        return;
    }
    for app in &world.applications {
        if must_hear(world, app, message) {
            let heard = app.record.seen.contains_key(&number);
            assert!(
                heard,
                "accounted-push: group message {number} never reached app {}",
                app.label
            );
        }
    }
    world.trace.reach("end: group message reached its members");
}

/// Whether an application was there, and a member, before the message was sent, and is to the end.
fn must_hear(world: &World, app: &Application, message: &Message) -> bool {
    let there = app.record.group_from.is_some_and(|(_, at_ms)| at_ms < message.first_sent_ms);
    let member = match message.target {
        Target::All => true,
        Target::Topic(topic) => app.memberships.iter().any(|member| {
            let since = member.since_ms.is_some_and(|at_ms| at_ms < message.first_sent_ms);
            member.topic == topic && since
        }),
        Target::Device(_) => false,
    };
    let of_app = world.identities[app.identity].app == message.app;
    of_app && there && member && app.session.is_online()
}

fn may_have_expired(world: &World, message: &Message) -> bool {
    let Some(id) = message.id() else { return true };
    let latest_ms = UNIX_START_MS + world.trace.now_ms + 2 * world.scenario.skew_ms;
    // Ids round up to seconds.
    latest_ms + 1_000 >= id.expires_unix_ms()
}

fn may_have_collapsed(world: &World, message: &Message) -> bool {
    let same_stream = |other: &&Message| {
        other.app == message.app
            && other.is_group() == message.is_group()
            && other.device == message.device
    };
    message.collapse.is_some()
        && world.ledger.messages.iter().filter(same_stream).any(|other| {
            other.number != message.number
                && other.collapse == message.collapse
                && other.fate != Fate::Refused
        })
}

/// The nodes' counters of a world in which nothing failed.
fn counters_add_up(world: &mut World) {
    let node = world.controls.up()[0];
    let status = status(world, node);
    for app in 0..world.apps.len() {
        let id = world.apps[app].id;
        let totals = status.apps.iter().find(|totals| totals.app == id);
        let totals = totals.unwrap_or_else(|| panic!("accounted-push: {id:?} is not counted"));
        let accepted =
            world.ledger.messages.iter().filter(|message| {
                message.app == app && matches!(message.fate, Fate::Accepted { .. })
            });
        let (group, single): (Vec<&Message>, Vec<&Message>) =
            accepted.partition(|message| message.is_group());
        assert_eq!(totals.accepted, single.len() as u64, "accounted-push: accepted of {id:?}");
        assert_eq!(totals.group_accepted, group.len() as u64, "accounted-push: groups of {id:?}");
        let ended = totals.delivered + totals.expired + totals.collapsed;
        assert_eq!(totals.accepted, ended + totals.pending, "accounted-push: {totals:?}");
    }
    let links = world.scenario.brokers * world.scenario.shards_per_broker;
    assert_eq!(status.links.len(), links, "every shard has a link");
    assert_eq!(status.sessions, world.brokers.sessions(), "one-home: routes are sessions");
}

fn device_info(world: &mut World, node: usize, place: usize) -> DeviceInfo {
    let identity = &world.identities[place];
    let request = Request::DeviceShow { app: world.apps[identity.app].id, device: identity.id };
    match world.ask(node, request) {
        Answer::Device(info) => info,
        other => panic!("device {place}: {other:?}"),
    }
}

fn message_info(world: &mut World, node: usize, message: &Message) -> MessageInfo {
    match state(world, node, message) {
        Answer::Message(info) => info,
        other => panic!("accounted-push: the state of {}: {other:?}", message.number),
    }
}

fn group_info(world: &mut World, node: usize, message: &Message) -> GroupInfo {
    match state(world, node, message) {
        Answer::Group(info) => info,
        other => panic!("accounted-push: the state of {}: {other:?}", message.number),
    }
}

fn state(world: &mut World, node: usize, message: &Message) -> Answer {
    let id = message.id().expect("accepted messages have ids");
    let app = world.apps[message.app].id;
    world.ask(node, Request::MessageState { app, id })
}

fn status(world: &mut World, node: usize) -> Status {
    match world.ask(node, Request::Status) {
        Answer::Status(status) => *status,
        other => panic!("status: {other:?}"),
    }
}
