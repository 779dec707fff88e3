//! The store's executor against real servers and against the model in memory: the same operations
//! have the same results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::redis::Redis;
use crate::running::{DEADLINE, Directory};
use bytes::Bytes;
use hawser_codec::ids::{AppId, DeviceId, Seq};
use hawser_control::embedded::Embedded;
use hawser_control::metrics::StoreMetrics;
use hawser_control::node::event::{
    Count, CountField, CountKey, Expired, Keyed, NewEntry, OpId, Outcome, Removal, StoreFailure,
    StoreOp, StoreResult, StreamId, Tail, Trim,
};
use hawser_control::node::model::Model;
use hawser_control::records::{KeyHash, NewApp, Quota};
use hawser_control::store::{DONE_MAX, Done, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Longer than any test takes.
const KEEP_MS: u64 = 3_600_000;

async fn connect(url: &str) -> (Arc<Store>, mpsc::Receiver<Done>) {
    let (done_in, done) = mpsc::channel(DONE_MAX);
    let metrics = Arc::new(StoreMetrics::default());
    let store = Store::connect(url, DEADLINE, DEADLINE, done_in, metrics);
    (store.await.expect("the server listens"), done)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// One step of a random history; made an operation when the model says where streams end.
#[derive(Clone, Debug)]
enum Step {
    Append { stream: u8, ahead: u8, entry: Vec<u8> },
    AppendAll { stream: u8, room: u8, entries: Vec<Drawn> },
    Tail { stream: u8 },
    Read { stream: u8, after: u8, count: u8 },
    Find { stream: u8, seq: u8 },
    Trim { trims: Vec<(u8, u8)> },
    Delete { stream: u8, seqs: Vec<u8> },
    Count { counts: Vec<(u8, u8, u8)> },
    ReadCounts { keys: Vec<u8> },
    ReadApps { stale: bool },
    WriteApp { stale: bool, app: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let entry = || prop::collection::vec(any::<u8>(), 0..40);
    let stream = || 0..6u8;
    let new = (entry(), prop::option::of(0..4u8), prop::option::of(0..4u8));
    prop_oneof![
        4 => (stream(), 0..4u8, entry())
            .prop_map(|(stream, ahead, entry)| Step::Append { stream, ahead, entry }),
        4 => (stream(), any::<u8>(), prop::collection::vec(new, 1..6))
            .prop_map(|(stream, room, entries)| Step::AppendAll { stream, room, entries }),
        1 => stream().prop_map(|stream| Step::Tail { stream }),
        2 => (stream(), any::<u8>(), 1..9u8)
            .prop_map(|(stream, after, count)| Step::Read { stream, after, count }),
        2 => (stream(), any::<u8>()).prop_map(|(stream, seq)| Step::Find { stream, seq }),
        1 => prop::collection::vec((stream(), any::<u8>()), 1..4)
            .prop_map(|trims| Step::Trim { trims }),
        1 => (stream(), prop::collection::vec(any::<u8>(), 1..5))
            .prop_map(|(stream, seqs)| Step::Delete { stream, seqs }),
        1 => prop::collection::vec((0..4u8, 0..10u8, any::<u8>()), 1..5)
            .prop_map(|counts| Step::Count { counts }),
        1 => prop::collection::vec(0..4u8, 1..4).prop_map(|keys| Step::ReadCounts { keys }),
        1 => any::<bool>().prop_map(|stale| Step::ReadApps { stale }),
        1 => (any::<bool>(), 1..4u8).prop_map(|(stale, app)| Step::WriteApp { stale, app }),
    ]
}

fn stream_of(index: u8) -> StreamId {
    let app = AppId(1 + u32::from(index) % 2);
    match index / 2 {
        0 => StreamId::Group { app },
        device => StreamId::Inbox { app, device: DeviceId(u128::MAX / u128::from(device)) },
    }
}

fn count_key(index: u8) -> CountKey {
    match index {
        0 | 1 => CountKey::App(AppId(1 + u32::from(index))),
        _ => CountKey::GroupEntry { app: AppId(1), seq: Seq(u64::from(index)) },
    }
}

impl Step {
    fn op(&self, model: &Model) -> StoreOp {
        // A place near the end of the stream, where things happen.
        let near = |stream, back: u8| {
            let last = model.tail(stream).last.0;
            Seq((last + 2).saturating_sub(u64::from(back % 16)).max(1))
        };
        let version =
            || match Model::execute(&mut model.clone(), &StoreOp::ReadApps { known: 0 }, 0) {
                StoreResult::Apps { version, .. } => version,
                other => panic!("{other:?}"),
            };
        match self {
            Step::Append { stream, ahead, entry } => {
                let stream = stream_of(*stream);
                let seq = Seq((model.tail(stream).last.0 + u64::from(*ahead)).max(1));
                StoreOp::Append { stream, seq, entry: Bytes::from(entry.clone()) }
            }
            Step::AppendAll { stream, room, entries } => {
                let stream = stream_of(*stream);
                StoreOp::AppendAll {
                    stream,
                    entries_max: model.tail(stream).entries + u64::from(room % 8),
                    entries: new_entries(entries),
                }
            }
            Step::Tail { stream } => StoreOp::Tail { stream: stream_of(*stream) },
            Step::Read { stream, after, count } => {
                let stream = stream_of(*stream);
                StoreOp::Read { stream, after: near(stream, *after), count: u32::from(*count) }
            }
            Step::Find { stream, seq } => {
                let stream = stream_of(*stream);
                StoreOp::Find { stream, seq: near(stream, *seq) }
            }
            Step::Trim { trims } => {
                let trim = |&(stream, upto): &(u8, u8)| {
                    let stream = stream_of(stream);
                    Trim { stream, upto: near(stream, upto) }
                };
                StoreOp::Trim { trims: trims.iter().map(trim).collect() }
            }
            Step::Delete { stream, seqs } => {
                let stream = stream_of(*stream);
                let expired = |&seq: &u8| Expired { seq: near(stream, seq), keep_ms: KEEP_MS };
                StoreOp::Delete { stream, entries: seqs.iter().map(expired).collect() }
            }
            Step::Count { counts } => {
                let count = |&(key, field, by): &(u8, u8, u8)| Count {
                    key: count_key(key),
                    field: CountField::ALL[usize::from(field)],
                    by: u64::from(by),
                    keep_ms: (key > 1).then_some(KEEP_MS),
                };
                StoreOp::Count { counts: counts.iter().map(count).collect() }
            }
            Step::ReadCounts { keys } => {
                StoreOp::ReadCounts { keys: keys.iter().map(|&key| count_key(key)).collect() }
            }
            Step::ReadApps { stale } => {
                StoreOp::ReadApps { known: if *stale { u64::MAX } else { version() } }
            }
            Step::WriteApp { stale, app } => StoreOp::WriteApp {
                expected: version() + u64::from(*stale),
                app: AppId(u32::from(*app)),
                record: app_record(*app),
            },
        }
    }
}

/// An entry as it is drawn: its bytes, its idempotency key, its collapse key.
type Drawn = (Vec<u8>, Option<u8>, Option<u8>);

/// No key twice, as the node promises.
fn new_entries(entries: &[Drawn]) -> Vec<NewEntry> {
    let (mut records, mut collapses) = (Vec::new(), Vec::new());
    let once = |used: &mut Vec<u8>, key: Option<u8>| {
        let key = key.filter(|key| !used.contains(key))?;
        used.push(key);
        Some(Keyed { key: KeyHash(u128::from(key)), keep_ms: KEEP_MS })
    };
    let new = |(place, (entry, record, collapse)): (usize, &Drawn)| NewEntry {
        entry: Bytes::from(entry.clone()),
        expires_unix_ms: 1_000 + place as u64,
        record: once(&mut records, *record),
        collapse: once(&mut collapses, *collapse),
    };
    entries.iter().enumerate().map(new).collect()
}

fn app_record(app: u8) -> Bytes {
    let new = NewApp {
        name: format!("app-{app}"),
        quota: Quota::default(),
        api_key_hash: [app; 32],
        keys: Vec::new(),
        created_unix_ms: 7,
    };
    new.encode()
}

/// Histories of both continue over the cases, as a store's do.
fn same_as_the_model(url: &str) {
    let runtime = runtime();
    let (store, _done) = runtime.block_on(connect(url));
    let model = std::cell::RefCell::new(Model::default());
    let mut runner = TestRunner::new(Config { cases: 96, ..Config::default() });
    let history = prop::collection::vec(step(), 1..60);
    runner
        .run(&history, |steps| {
            for step in steps {
                let op = step.op(&model.borrow());
                let expect = model.borrow_mut().execute(&op, 1);
                let result = runtime.block_on(store.run(&op));
                prop_assert_eq!(result, expect, "{:?}", op);
            }
            let streams: Vec<StreamId> = model.borrow().streams().collect();
            prop_assert_eq!(runtime.block_on(all_streams(&store)), streams);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

/// By scanning. A scan may name a stream twice.
async fn all_streams(store: &Store) -> Vec<StreamId> {
    let mut all = Vec::new();
    let mut cursor = 0;
    loop {
        match store.run(&StoreOp::Scan { cursor, count: 3 }).await {
            StoreResult::Scanned { cursor: next, streams } => {
                all.extend(streams);
                cursor = next;
            }
            other => panic!("{other:?}"),
        }
        if cursor == 0 {
            all.sort();
            all.dedup();
            return all;
        }
    }
}

/// Writers of one stream: every number is given once, and none is left out.
fn writers_take_turns(url: &str) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 40;
    let runtime = runtime();
    let stream = StreamId::Group { app: AppId(77) };
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let (store, _done) = connect(url).await;
            writers.spawn(async move {
                let mut given = Vec::new();
                while given.len() < EACH as usize {
                    let entry = NewEntry {
                        entry: Bytes::from(format!("{writer}:{}", given.len())),
                        expires_unix_ms: 1,
                        record: None,
                        collapse: None,
                    };
                    let op = StoreOp::AppendAll { stream, entries_max: 1000, entries: vec![entry] };
                    match store.run(&op).await {
                        StoreResult::AppendedAll { outcomes, .. } => match outcomes[..] {
                            [Outcome::Stored { seq }] => given.push(seq.0),
                            _ => panic!("{outcomes:?}"),
                        },
                        StoreResult::Conflict => {}
                        other => panic!("{other:?}"),
                    }
                }
                given
            });
        }
        let mut all: Vec<u64> = writers.join_all().await.concat();
        all.sort();
        assert_eq!(all, (1..=WRITERS * EACH).collect::<Vec<u64>>());
    });
}

/// One turn's operations of every kind: each is reported once.
fn every_operation_is_reported_once(url: &str) {
    let runtime = runtime();
    runtime.block_on(async {
        let (store, mut done) = connect(url).await;
        let stream = |app: u32| StreamId::Group { app: AppId(1000 + app) };
        let mut ops = Vec::new();
        for app in 0..50 {
            let entry = Bytes::from_static(b"x");
            ops.push(StoreOp::Append { stream: stream(app), seq: Seq(1), entry });
            ops.push(StoreOp::Tail { stream: stream(app + 100) });
            ops.push(StoreOp::ReadApps { known: 0 });
            ops.push(StoreOp::AppendAll {
                stream: stream(app + 200),
                entries_max: 9,
                entries: new_entries(&[(vec![1], None, None)]),
            });
        }
        let count = ops.len() as u64;
        store.execute((0..count).map(OpId).zip(ops).collect());
        let mut seen = Vec::new();
        while seen.len() < count as usize {
            for (id, result) in done.recv().await.unwrap() {
                match (id.0 % 4, &result) {
                    (0, StoreResult::Appended)
                    | (1, StoreResult::Tail(Tail { last: Seq(0), entries: 0, first: None }))
                    | (2, StoreResult::Apps { .. })
                    | (3, StoreResult::AppendedAll { .. }) => seen.push(id.0),
                    _ => panic!("{id:?}: {result:?}"),
                }
            }
        }
        seen.sort();
        assert_eq!(seen, (0..count).collect::<Vec<u64>>());
        assert!(done.try_recv().is_err());
    });
}

/// What has a time goes when it is over.
fn records_expire(url: &str) {
    let runtime = runtime();
    runtime.block_on(async {
        let (store, _done) = connect(url).await;
        let stream = StreamId::Group { app: AppId(88) };
        let keyed = |key| Some(Keyed { key: KeyHash(key), keep_ms: 20 });
        let entry = |record, collapse| NewEntry {
            entry: Bytes::from_static(b"x"),
            expires_unix_ms: 1,
            record,
            collapse,
        };
        let append = |entry| StoreOp::AppendAll { stream, entries_max: 9, entries: vec![entry] };
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let stored = async |entry: NewEntry| loop {
            match store.run(&append(entry.clone())).await {
                StoreResult::AppendedAll { outcomes, .. } => return outcomes[0],
                // The record's end fell between the look and the write.
                StoreResult::Conflict => assert!(tokio::time::Instant::now() < deadline),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(stored(entry(keyed(1), None)).await, Outcome::Stored { seq: Seq(1) });
        // Until the record is gone, the same key is a duplicate.
        while let Outcome::Duplicate(pointer) = stored(entry(keyed(1), None)).await {
            assert_eq!(pointer.seq, Seq(1));
            assert!(tokio::time::Instant::now() < deadline);
        }
        let gone = vec![Expired { seq: Seq(1), keep_ms: 20 }];
        let deleted = store.run(&StoreOp::Delete { stream, entries: gone }).await;
        assert_eq!(deleted, StoreResult::Deleted(1));
        loop {
            match store.run(&StoreOp::Find { stream, seq: Seq(1) }).await {
                StoreResult::Found { entry: None, removal: Some(Removal::Expired), .. } => {}
                StoreResult::Found { entry: None, removal: None, .. } => break,
                other => panic!("{other:?}"),
            }
            assert!(tokio::time::Instant::now() < deadline);
        }
    });
}

fn every_property(url: &str) {
    same_as_the_model(url);
    writers_take_turns(url);
    every_operation_is_reported_once(url);
    records_expire(url);
}

#[test]
fn redis_does_what_the_model_does() {
    let directory = Directory::new();
    let redis = Redis::start(&directory);
    every_property(&redis.url());
}

#[test]
fn the_embedded_store_does_what_the_model_does() {
    let directory = Directory::new();
    let runtime = runtime();
    let embedded = runtime.block_on(Embedded::start(&directory.file("data"))).unwrap();
    every_property(&embedded.url());
    runtime.block_on(embedded.stop());
}

#[test]
fn the_cluster_has_one_hash_key() {
    let directory = Directory::new();
    let redis = Redis::start(&directory);
    runtime().block_on(async {
        let (one, _done) = connect(&redis.url()).await;
        let (two, _done) = connect(&redis.url()).await;
        let (first, second) = tokio::join!(one.hash_key(), two.hash_key());
        assert!(first.unwrap() == second.unwrap());
    });
}

/// While the store is away operations fail at once, each with one result, and it is found again.
#[test]
fn a_store_that_goes_away_is_found_again() {
    let directory = Directory::new();
    let mut redis = Redis::start(&directory);
    let runtime = runtime();
    let (store, _done) = runtime.block_on(connect(&redis.url()));
    let stream = StreamId::Group { app: AppId(1) };
    let tail = StoreOp::Tail { stream };
    let append = |seq| StoreOp::Append { stream, seq: Seq(seq), entry: Bytes::from_static(b"x") };
    let all = StoreOp::AppendAll {
        stream,
        entries_max: 9,
        entries: new_entries(&[(vec![1], None, None)]),
    };
    let run = |op: &StoreOp| runtime.block_on(store.run(op));
    assert_eq!(run(&append(1)), StoreResult::Appended);
    redis.kill();
    let not_done = StoreResult::Failed(StoreFailure::NotDone);
    assert_eq!(run(&tail), not_done);
    // The first one may have been sent; from then on the connection is known to be away.
    let first = run(&append(2));
    assert!(matches!(first, StoreResult::Failed(_)), "{first:?}");
    assert_eq!(run(&append(2)), not_done);
    assert_eq!(run(&all), not_done);
    let _redis = Redis::start(&directory);
    crate::running::eventually("the store is found again", || {
        let results = (run(&tail), run(&all));
        matches!(results, (StoreResult::Tail(_), StoreResult::AppendedAll { .. })).then_some(())
    });
}

/// A server that takes everything and answers nothing costs an operation its time, no more.
#[test]
fn silence_is_not_an_answer() {
    let directory = Directory::new();
    let socket = directory.file("silent.sock");
    let silent = Arc::new(AtomicBool::new(false));
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let is_silent = silent.clone();
    std::thread::spawn(move || answer_pings(&listener, &is_silent));
    let runtime = runtime();
    let url = format!("unix://{}", socket.display());
    let store = runtime.block_on(async {
        let (done_in, _done) = mpsc::channel(DONE_MAX);
        let metrics = Arc::new(StoreMetrics::default());
        Store::connect(&url, DEADLINE, Duration::from_millis(50), done_in, metrics).await.unwrap()
    });
    silent.store(true, Relaxed);
    let stream = StreamId::Group { app: AppId(1) };
    let append = StoreOp::Append { stream, seq: Seq(1), entry: Bytes::new() };
    let result = runtime.block_on(store.run(&append));
    assert_eq!(result, StoreResult::Failed(StoreFailure::Unknown));
    let result = runtime.block_on(store.run(&StoreOp::Tail { stream }));
    assert_eq!(result, StoreResult::Failed(StoreFailure::NotDone));
}

/// Answers whatever the client says when it connects with `+OK`, until it is to be silent.
fn answer_pings(listener: &std::os::unix::net::UnixListener, silent: &Arc<AtomicBool>) {
    use std::io::{Read as _, Write as _};
    for stream in listener.incoming() {
        let (mut stream, silent) = (stream.unwrap(), silent.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                let commands = buffer[..count].iter().filter(|&&byte| byte == b'*').count();
                if !silent.load(Relaxed) && stream.write_all(&b"+OK\r\n".repeat(commands)).is_err()
                {
                    return;
                }
            }
        });
    }
}
