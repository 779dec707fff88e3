//! Publish and subscribe: the same steps on Redis and here give every client the same messages.

use hawser_kv::Config;
use proptest::prelude::*;
use proptest::sample::select;

use crate::differential::Oracle;
use crate::support::{Client, TempDir, Value, config, encode, start, stop, until};

const CLIENTS: usize = 3;

/// Subscribes, publishes and asks; the answers of each client in the order they came.
struct Side {
    clients: Vec<Client>,
    control: Client,
}

impl Side {
    fn new(path: &std::path::Path, resp3: bool) -> Side {
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::unix(path)).collect();
        if resp3 {
            clients.iter_mut().for_each(|client| assert!(!client.run("HELLO 3").is_error()));
        }
        Side { clients, control: Client::unix(path) }
    }

    /// Everything the client gets for the command, up to the answer of a PING behind it, which is
    /// answered in every state of a connection. Without a command, what came by itself.
    fn step(&mut self, client: usize, command: Option<&str>) -> Vec<Value> {
        let client = &mut self.clients[client];
        if let Some(command) = command {
            client.send(&encode(&command.split(' ').collect::<Vec<_>>()));
        }
        client.send(&encode(&["PING", "end-of-step"]));
        let end = Value::Bulk(b"end-of-step".to_vec());
        let mut got = Vec::new();
        loop {
            let answer = client.receive();
            if answer == end
                || answer == Value::Array(vec![Value::Bulk(b"pong".to_vec()), end.clone()])
            {
                return sorted_by_pattern(got);
            }
            got.push(answer);
        }
    }

    fn rest(&mut self) -> Vec<Vec<Value>> {
        (0..CLIENTS).map(|client| self.step(client, None)).collect()
    }
}

/// Patterns that match the same message are asked in no order.
fn sorted_by_pattern(mut answers: Vec<Value>) -> Vec<Value> {
    let is_by_pattern = |answer: &Value| match answer {
        Value::Array(items) => items.first() == Some(&Value::Bulk(b"pmessage".to_vec())),
        _ => false,
    };
    for run in answers.chunk_by_mut(|a, b| is_by_pattern(a) && is_by_pattern(b)) {
        run.sort();
    }
    answers
}

fn command() -> impl Strategy<Value = String> {
    let channel = || select(vec!["news", "nose", "x"]);
    let pattern = || select(vec!["n*", "n?ws", "*"]);
    prop_oneof![
        3 => (channel(), channel()).prop_map(|(a, b)| format!("SUBSCRIBE {a} {b}")),
        2 => pattern().prop_map(|p| format!("PSUBSCRIBE {p}")),
        1 => channel().prop_map(|c| format!("SSUBSCRIBE {c}")),
        2 => channel().prop_map(|c| format!("UNSUBSCRIBE {c}")),
        1 => pattern().prop_map(|p| format!("PUNSUBSCRIBE {p}")),
        1 => channel().prop_map(|c| format!("SUNSUBSCRIBE {c}")),
        4 => (channel(), select(vec!["1", "2"])).prop_map(|(c, m)| format!("PUBLISH {c} {m}")),
        1 => channel().prop_map(|c| format!("SPUBLISH {c} m")),
        1 => (channel(), channel()).prop_map(|(a, b)| format!("PUBSUB NUMSUB {a} {b}")),
        1 => select(vec!["PUBSUB NUMPAT", "PUBSUB SHARDNUMSUB x", "PUBSUB CHANNELS nos*", "PUBSUB NOPE",
            "PUBSUB NUMSUB", "GET k", "RESET", "PUBSUB SHARDCHANNELS x", "PUBSUB CHANNELS a b"])
            .prop_map(String::from),
    ]
}

#[test]
fn messages_are_those_of_redis() {
    let (oracle, dir) = (Oracle::start(), TempDir::new());
    let config = config(&dir);
    let server = start(&config);
    let steps = prop::collection::vec((0..CLIENTS, command()), 1..40);
    let cases = ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() };
    proptest!(cases, |(resp3: bool, steps in steps)| {
        let mut ours = Side::new(&config.unix, resp3);
        let mut theirs = Side::new(&oracle.socket(), resp3);
        for (number, (client, command)) in steps.iter().enumerate() {
            let command = Some(command.as_str());
            let (got, wanted) = (ours.step(*client, command), theirs.step(*client, command));
            prop_assert_eq!(got, wanted, "left is ours: {} of {:#?}", number, steps);
            let (got, wanted) = (ours.rest(), theirs.rest());
            prop_assert_eq!(got, wanted, "left is ours, after: {} of {:#?}", number, steps);
        }
        // Who is gone gets nothing.
        drop((std::mem::take(&mut ours.clients), std::mem::take(&mut theirs.clients)));
        for side in [&mut ours, &mut theirs] {
            let nobody = Value::Array(vec![]);
            until("unsubscribed", || (side.control.run("PUBSUB CHANNELS") == nobody).then_some(()));
        }
    });
    stop(server);
}

#[test]
fn a_transaction_publishes_when_it_is_done() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut writer = Client::unix(&config.unix);
    let mut reader = Client::unix(&config.unix);
    let bulk = |text: &str| Value::Bulk(text.as_bytes().to_vec());
    let message = |text: &str| Value::Array(vec![bulk("message"), bulk("news"), bulk(text)]);
    assert_eq!(
        reader.run("SUBSCRIBE news"),
        Value::Array(vec![bulk("subscribe"), bulk("news"), Value::Integer(1)])
    );
    for command in
        ["MULTI", "SET k 1", "PUBLISH news first", "GET k", "CLIENT ID", "PUBLISH news second"]
    {
        assert!(!writer.run(command).is_error(), "{command}");
    }
    let Value::Array(answers) = writer.run("EXEC") else { panic!("no answers") };
    assert_eq!(answers.len(), 5);
    assert_eq!(answers[..3], [Value::Simple("OK".into()), Value::Integer(1), bulk("1")]);
    assert!(matches!(answers[3], Value::Integer(1..)) && answers[4] == Value::Integer(1));
    assert_eq!((reader.receive(), reader.receive()), (message("first"), message("second")));

    // Neither a transaction that is given up nor one whose keys have changed says anything.
    writer.run("MULTI");
    writer.run("PUBLISH news discarded");
    writer.run("DISCARD");
    writer.run("WATCH k");
    assert_eq!(Client::unix(&config.unix).run("SET k 2"), Value::Simple("OK".into()));
    writer.run("MULTI");
    writer.run("PUBLISH news unsaid");
    assert_eq!(writer.run("EXEC"), Value::NullArray);
    // Subscribing inside one puts the confirmations where the answer is.
    writer.run("MULTI");
    writer.run("SET k 3");
    writer.run("SUBSCRIBE a b");
    writer.run("GET k");
    writer.send(&encode(&["EXEC"]));
    let expected = [
        Value::Simple("OK".into()),
        Value::Array(vec![bulk("subscribe"), bulk("a"), Value::Integer(1)]),
    ];
    assert_eq!(
        writer.receive(),
        Value::Array(
            [&expected[..], &[Value::Array(vec![bulk("subscribe"), bulk("b"), Value::Integer(2)])]]
                .concat()
        )
    );
    assert_eq!(writer.receive(), bulk("3"));
    assert_eq!(Client::unix(&config.unix).run("PUBLISH news last"), Value::Integer(1));
    assert_eq!(reader.receive(), message("last"));
    stop(server);
}

/// A subscriber that reads nothing is cut at the limit and at no moment before; nobody waits for it.
#[test]
fn a_slow_subscriber_is_cut() {
    const MESSAGE_BYTES: usize = 64 * 1024;
    let dir = TempDir::new();
    let config = Config {
        outbox_bytes_max: 4 << 20,
        outbox_soft_bytes_max: 1 << 20,
        outbox_soft_seconds: 3600,
        ..config(&dir)
    };
    let server = start(&config);
    let mut slow = Client::unix(&config.unix);
    let mut fast = Client::unix(&config.unix);
    for client in [&mut slow, &mut fast] {
        assert!(matches!(client.run("SUBSCRIBE news"), Value::Array(_)));
    }
    let mut publisher = Client::unix(&config.unix);
    let message = "m".repeat(MESSAGE_BYTES);
    let (mut sent, mut receivers) = (0, 2);
    while receivers == 2 {
        let Value::Integer(count) = publisher.call(&["PUBLISH", "news", &message]) else {
            panic!("no number")
        };
        receivers = count;
        sent += 1;
        let Value::Array(got) = fast.receive() else { panic!("no message") };
        assert_eq!(got[2], Value::Bulk(message.clone().into_bytes()), "others get all of it");
        assert!(sent * MESSAGE_BYTES <= config.outbox_bytes_max + (16 << 20), "it is never cut");
    }
    assert!(sent * MESSAGE_BYTES > config.outbox_bytes_max, "it is cut too early: {sent}");
    assert_eq!(server.metrics().output_overflows_total, 1);
    let left = std::iter::from_fn(|| slow.try_receive()).count();
    assert!(left < sent, "what did not fit is gone with the connection");
    until("gone", || (server.metrics().connections == 2).then_some(()));
    stop(server);
}

/// Above the soft limit it is cut when that lasts too long.
#[test]
fn a_subscriber_that_stays_behind_is_cut() {
    let dir = TempDir::new();
    let config = Config {
        outbox_bytes_max: 64 << 20,
        outbox_soft_bytes_max: 1 << 20,
        outbox_soft_seconds: 1,
        ..config(&dir)
    };
    let server = start(&config);
    let mut slow = Client::unix(&config.unix);
    slow.run("SUBSCRIBE news");
    let mut publisher = Client::unix(&config.unix);
    let message = "m".repeat(256 * 1024);
    let fill = (2 << 20) / message.len() + 8;
    for _ in 0..fill {
        assert_eq!(publisher.call(&["PUBLISH", "news", &message]), Value::Integer(1));
    }
    assert_eq!(server.metrics().output_overflows_total, 0, "for a moment it may");
    until("cut", || {
        publisher.run("PUBLISH news x");
        (server.metrics().output_overflows_total == 1).then_some(())
    });
    stop(server);
}

#[test]
fn subscriptions_are_bounded() {
    let dir = TempDir::new();
    let config = Config { subscriptions_max: 3, ..config(&dir) };
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    client.send(&encode(&["SUBSCRIBE", "a", "b"]));
    client.send(&encode(&["SUBSCRIBE", "a", "c"]));
    (0..4).for_each(|_| assert!(matches!(client.receive(), Value::Array(_))));
    assert!(client.run("PSUBSCRIBE *").text().contains("subscriptions_max"));
    assert!(matches!(client.run("UNSUBSCRIBE a"), Value::Array(_)));
    assert!(matches!(client.run("PSUBSCRIBE *"), Value::Array(_)));
    stop(server);
}
