//! One message at a time through real processes: who gets it, when, and what the API says about it.

use hawser_codec::error::CloseReason;
use hawser_codec::ids::TopicId;
use hawser_codec::session::Positions;
use hawser_tests::system::cluster::{App, Broker, Control, ControlOptions};
use hawser_tests::system::device::Device;
use hawser_tests::system::process::{Folder, Process};
use hawser_tests::system::wait::wait_until;
use serde_json::json;

/// A control node with its own store, and brokers.
struct System {
    brokers: Vec<Broker>,
    app: App,
    // Dropped after the brokers and before the folder.
    _control: Control,
    _folder: Folder,
}

impl System {
    fn start(brokers: usize, settings: &[(&str, &str)]) -> System {
        let folder = Folder::new();
        let control = Control::start(&ControlOptions::embedded(&folder));
        let app = App::create(control.api, "shop");
        let brokers: Vec<Broker> = (0..brokers)
            .map(|at| {
                let id = (at + 1).to_string();
                let mut settings = settings.to_vec();
                settings.push(("broker_id", &id));
                Broker::start(&folder, &[control.link], &settings)
            })
            .collect();
        for broker in &brokers {
            broker.wait_linked(1);
        }
        System { brokers, app, _control: control, _folder: folder }
    }

    fn device(&self, broker: usize, name: &str, topics: &[&str], from: Positions) -> Device {
        let topics: Vec<TopicId> = topics.iter().map(|topic| TopicId::new(topic)).collect();
        let ticket = self.app.ticket(name);
        let mut device = Device::connect(self.brokers[broker].devices, &ticket, &topics, from);
        device.until_ready();
        device
    }
}

#[test]
fn an_offline_device_gets_everything_from_its_own_number() {
    let system = System::start(1, &[]);
    let mut device = system.device(0, "phone", &["news"], Positions::default());
    let first = system.app.push_to("phone", "one");
    device.until_heard(1);
    let id = first["id"].as_str().expect("an id");
    // The acknowledgement travels with whatever the device reads next.
    wait_until("the acknowledgement", || {
        device.live();
        system.app.state(id) == "delivered"
    });
    device.drop_connection();
    wait_until("the route to go", || !system.app.is_online("phone"));

    for number in 2..=70 {
        let accepted = system.app.push_to("phone", &format!("inbox {number}"));
        assert_eq!(accepted["seq"], number);
        assert_eq!(accepted["online"], false);
    }
    system.app.push(&json!({ "to": { "topic": "news" }, "payload": "to the topic" }));
    system.app.push(&json!({ "to": { "topic": "other" }, "payload": "not for us" }));
    system.app.push(&json!({ "to": { "all": true }, "payload": "to all" }));

    let mut back = system.device(0, "phone", &["news"], device.session.positions());
    back.until_heard(71);
    let inbox: Vec<String> = (2..=70).map(|number| format!("inbox {number}")).collect();
    let of = |prefix: &str| -> Vec<&str> {
        back.payloads().into_iter().filter(|payload| payload.starts_with(prefix)).collect()
    };
    assert_eq!(of("inbox"), inbox, "each once, in order, from number 2");
    assert_eq!(of("to"), ["to the topic", "to all"]);
    assert_eq!((back.heard.len(), back.repeats), (71, 0));
}

#[test]
fn a_device_that_connects_elsewhere_leaves_its_old_place() {
    let system = System::start(2, &[]);
    let mut old = system.device(0, "phone", &[], Positions::default());
    let mut new = system.device(1, "phone", &[], Positions::default());
    assert_eq!(old.until_closed(), CloseReason::TakenOver);
    assert_eq!(old.session.stopped(), Some(CloseReason::TakenOver), "it must not fight back");
    wait_until("the kick to be counted", || system.brokers[0].closed("taken_over") == 1);
    assert_eq!(system.brokers[1].closed("taken_over"), 0);

    system.app.push_to("phone", "to the new place");
    new.until_heard(1);
    assert_eq!(old.heard, []);
}

#[test]
fn when_awake_messages_wait_for_a_heartbeat() {
    let system = System::start(1, &[]);
    let mut device = system.device(0, "phone", &[], Positions::default());
    system.app.push(&json!({ "to": { "device": "phone" }, "payload": "soft", "when_awake": true }));
    // A message to another device overtakes it on the same shards, so the first has arrived there.
    let mut other = system.device(0, "tablet", &[], Positions::default());
    system.app.push_to("tablet", "loud");
    other.until_heard(1);
    device.live();
    assert_eq!(device.payloads(), [""; 0], "it must not wake the device");
    device.ping();
    device.until_heard(1);
    assert_eq!(device.payloads(), ["soft"]);
    assert_eq!(device.pongs, 1);
}

#[test]
fn what_is_too_old_is_expired_and_not_delivered() {
    let system = System::start(1, &[]);
    let message = json!({ "to": { "device": "phone" }, "payload": "stale", "ttl_s": 1 });
    let stale = system.app.push(&message);
    let fresh = system.app.push_to("phone", "fresh");
    system.app.wait_state(stale["id"].as_str().expect("an id"), "expired");
    let mut device = system.device(0, "phone", &[], Positions::default());
    device.until_heard(1);
    let id = fresh["id"].as_str().expect("an id");
    wait_until("the acknowledgement", || {
        device.live();
        system.app.state(id) == "delivered"
    });
    assert_eq!(device.payloads(), ["fresh"]);
    assert_eq!(system.app.state(stale["id"].as_str().expect("an id")), "expired");
}

#[test]
fn a_newer_message_of_a_collapse_key_replaces_the_waiting_one() {
    let system = System::start(1, &[]);
    let score = |payload: &str| json!({ "to": { "device": "tv" }, "payload": payload, "collapse_key": "score" });
    let first = system.app.push(&score("1:0"));
    let second = system.app.push(&score("2:0"));
    let mut device = system.device(0, "tv", &[], Positions::default());
    device.until_heard(1);
    assert_eq!(device.payloads(), ["2:0"]);
    assert_eq!(system.app.state(first["id"].as_str().expect("an id")), "collapsed");
    let id = second["id"].as_str().expect("an id");
    wait_until("the acknowledgement", || {
        device.live();
        system.app.state(id) == "delivered"
    });
}

#[test]
fn redis_serves_as_the_store_and_a_repeat_is_answered_with_the_first() {
    let folder = Folder::new();
    let socket = folder.join("redis.sock");
    let mut command = std::process::Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--appendonly", "yes", "--unixsocket"]);
    command.arg(&socket).arg("--dir").arg(folder.path());
    let _redis = Process::start("redis-server", command);
    wait_until("the socket of Redis", || socket.exists());
    let options = |node| ControlOptions {
        node,
        store: format!("unix://{}", socket.display()),
        data: folder.join(&format!("control-{node}")),
        link_port: 0,
        api_port: 0,
    };
    let mut first = Control::start(&options(1));
    let second = Control::start(&options(2));
    let app = App::create(first.api, "shop");
    let broker = Broker::start(&folder, &[first.link, second.link], &[]);
    broker.wait_linked(2);
    let ticket = app.ticket("phone");
    let mut device = Device::connect(broker.devices, &ticket, &[], Positions::default());
    device.until_ready();

    let message = json!({
        "to": { "device": "phone" }, "payload": "once", "idempotency_key": "order 7",
    });
    let accepted = app.push(&message);
    let elsewhere = App { api: second.api, ..app.clone() };
    let again = elsewhere.push_until_accepted(&message);
    assert_eq!((&again["id"], &again["duplicate"]), (&accepted["id"], &json!(true)));
    device.until_heard(1);

    first.process.kill();
    let accepted = elsewhere.push_until_accepted(&json!({
        "to": { "device": "phone" }, "payload": "by the other node",
    }));
    assert_eq!(accepted["seq"], 2, "both nodes write one stream");
    device.until_heard(2);
    assert_eq!(device.payloads(), ["once", "by the other node"]);
    assert_eq!(device.closed, None);
}
