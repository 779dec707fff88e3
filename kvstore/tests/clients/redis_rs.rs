//! redis-rs: its blocking connections, and its multiplexed one.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, Client, Commands, Connection, RedisResult, Value};

use crate::{DEADLINE, Server};

const BIG_BYTES: usize = 4 << 20;

#[test]
fn redis_rs() {
    for protocol in ["resp2", "resp3"] {
        let server = Server::start();
        let client = Client::open(server.url(protocol)).expect("an address");
        let connect = || client.get_connection().expect("connected");
        authentication(&server);
        values(&mut connect());
        pipelines(&mut connect());
        transactions(&connect);
        published(&connect);
        blocking(&connect);
        streams(&mut connect());
        scans(&mut connect());
        big_values(&mut connect());
        multiplexed(&client);
        println!("redis-rs: {protocol}");
    }
}

fn authentication(server: &Server) {
    let url = server.url("resp2");
    let refused = |url: String| {
        let client = Client::open(url).expect("an address");
        client.get_connection().and_then(|mut connection| connection.get::<_, Option<String>>("a"))
    };
    assert!(refused(url.replace("sesame", "wrong")).is_err());
    let error = refused(url.replace(":sesame@", "")).expect_err("it needs a password");
    assert_eq!(error.code(), Some("NOAUTH"), "{error}");
}

fn values(connection: &mut Connection) {
    let done: RedisResult<()> = connection.set_ex("s", "v", 100);
    done.expect("it is set");
    assert_eq!(connection.get("s"), Ok("v".to_string()));
    assert_eq!(connection.hset_multiple::<_, _, _, ()>("h", &[("a", 1), ("b", 2)]), Ok(()));
    let all: HashMap<String, i64> = connection.hgetall("h").expect("a hash");
    assert_eq!(all, HashMap::from([("a".to_string(), 1), ("b".to_string(), 2)]));
    assert_eq!(connection.zadd_multiple("z", &[(1.0, "a"), (2.5, "b")]), Ok(2));
    let expected = vec![("a".to_string(), 1.0), ("b".to_string(), 2.5)];
    assert_eq!(connection.zrange_withscores("z", 0, -1), Ok(expected));
    assert_eq!(connection.rpush("l", &[1, 2, 3]), Ok(3));
    assert_eq!(connection.lrange("l", 0, -1), Ok(vec![1, 2, 3]));
    let error = connection.incr::<_, _, i64>("h", 1).expect_err("a hash is no number");
    assert_eq!(error.code(), Some("WRONGTYPE"), "{error}");
}

fn pipelines(connection: &mut Connection) {
    let mut pipeline = redis::pipe();
    (0..10_000).for_each(|number| _ = pipeline.set(format!("p:{number}"), number).ignore());
    (0..10_000).for_each(|number| _ = pipeline.get(format!("p:{number}")));
    let answers: Vec<usize> = pipeline.query(connection).expect("they run");
    assert!(answers.into_iter().eq(0..10_000));
}

/// Several clients count up one key by WATCH, and none of them is lost.
fn transactions(connect: &(dyn Fn() -> Connection + Sync)) {
    let count = || {
        let mut connection = connect();
        for _ in 0..25 {
            redis::transaction(&mut connection, &["counter"], |connection, pipeline| {
                let value: Option<i64> = connection.get("counter")?;
                pipeline
                    .set("counter", value.unwrap_or(0) + 1)
                    .ignore()
                    .query::<Option<()>>(connection)
            })
            .expect("it is counted");
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| _ = scope.spawn(count)));
    assert_eq!(connect().get("counter"), Ok(100));
}

fn published(connect: &dyn Fn() -> Connection) {
    let (mut publisher, mut connection) = (connect(), connect());
    let mut subscriber = connection.as_pubsub();
    subscriber.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    subscriber.subscribe("news").expect("subscribed");
    subscriber.psubscribe("n*s").expect("subscribed");
    assert_eq!(publisher.publish("news", "hello"), Ok(2));
    for pattern in [None, Some("n*s".to_string())] {
        let message = subscriber.get_message().expect("a message");
        assert_eq!(message.get_payload(), Ok("hello".to_string()));
        assert_eq!(message.get_pattern(), Ok(pattern));
    }
}

fn blocking(connect: &(dyn Fn() -> Connection + Sync)) {
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| connect().blpop("queue", 0.0));
        let mut connection = connect();
        someone_waits(&mut connection);
        assert_eq!(connection.rpush("queue", "job"), Ok(1));
        let popped: RedisResult<(String, String)> = waiter.join().expect("it ends");
        assert_eq!(popped, Ok(("queue".to_string(), "job".to_string())));
    });
    assert_eq!(connect().blpop::<_, Value>("queue", 0.01), Ok(Value::Nil));
}

fn someone_waits(connection: &mut Connection) {
    let started = Instant::now();
    loop {
        let clients: String = redis::cmd("INFO").arg("clients").query(connection).expect("a text");
        if !clients.contains("blocked_clients:0") {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "nobody waits");
    }
}

fn streams(connection: &mut Connection) {
    let add = |number| connection.xadd("stream", "*", &[("number", number)]).expect("added");
    let ids: Vec<String> = (0..10).map(add).collect();
    assert_eq!(connection.xgroup_create::<_, _, _, ()>("stream", "group", "0"), Ok(()));
    let options = StreamReadOptions::default().group("group", "alice").count(4);
    let read: StreamReadReply =
        connection.xread_options(&["stream"], &[">"], &options).expect("entries");
    let got = read.keys[0].ids.iter().map(|entry| &entry.id);
    assert!(got.eq(&ids[..4]));
    assert_eq!(connection.xack("stream", "group", &ids[..2]), Ok(2));
    let pending: redis::streams::StreamPendingReply =
        connection.xpending("stream", "group").expect("a summary");
    assert_eq!(pending.count(), 2);
}

fn scans(connection: &mut Connection) {
    let found: HashSet<String> = connection
        .scan_match("p:*")
        .expect("a walk")
        .collect::<RedisResult<_>>()
        .expect("all of it is text");
    assert_eq!(found.len(), 10_000);
    let members: Vec<i64> = (0..1000).collect();
    assert_eq!(connection.sadd("bigset", &members), Ok(1000));
    let found: HashSet<i64> =
        connection.sscan("bigset").expect("a walk").collect::<RedisResult<_>>().expect("numbers");
    assert_eq!(found.len(), 1000);
}

fn big_values(connection: &mut Connection) {
    let value: Vec<u8> = (0..BIG_BYTES).map(|at| (at % 251) as u8).collect();
    assert_eq!(connection.set::<_, _, ()>("big", &value), Ok(()));
    assert!(connection.get::<_, Vec<u8>>("big").expect("it is there") == value);
}

/// One connection that many tasks share.
fn multiplexed(client: &Client) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let connection = client.get_multiplexed_async_connection().await.expect("connected");
        let tasks = (0..100).map(|number| {
            let mut connection = connection.clone();
            tokio::spawn(async move {
                let key = format!("task:{number}");
                connection.set::<_, _, ()>(&key, number).await.expect("it is set");
                connection.get::<_, i64>(&key).await.expect("it is there") == number
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            let same = tokio::time::timeout(Duration::from_secs(60), task).await;
            assert!(same.expect("in time").expect("it ends"));
        }
    });
}
