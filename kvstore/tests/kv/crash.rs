//! SIGKILL at random moments, with the real binary: every answered write is there afterwards, and
//! nothing is there that nobody wrote.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use hawser_kv::Config;
use hawser_kv::config::Durability;

use crate::support::{Client, Process, Random, TempDir, Value, binary, config, encode, until};

/// For each durability: the kernel has what was written, whether it is synced or not.
const ROUNDS: [(Durability, u64); 3] =
    [(Durability::Always, 8), (Durability::EverySec, 3), (Durability::None, 3)];
const WRITERS: u64 = 4;
const PIPELINE: u64 = 16;

/// Long enough that segments turn over and RocksDB flushes while the test runs.
fn value(writer: u64, number: u64) -> Vec<u8> {
    format!("{writer}/{number}/").repeat(150).into_bytes()
}

/// What one writer knows: which numbers were answered, and how many were sent.
#[derive(Clone, Default)]
struct Progress {
    answered: BTreeSet<u64>,
    sent: u64,
}

#[test]
fn answered_writes_survive_sigkill() {
    for (durability, rounds) in ROUNDS {
        survive(durability, rounds);
    }
}

fn survive(durability: Durability, rounds: u64) {
    let dir = TempDir::new();
    let config = Config { durability, ..config(&dir) };
    let progress = Mutex::new(vec![Progress::default(); WRITERS as usize]);
    let mut random = Random(0x5eed);
    for round in 0..rounds {
        let process = Process::start(&mut binary(&config));
        check(&config, &progress.lock().expect("not poisoned"));
        let answered = AtomicU64::new(0);
        let kill_after = 1 + random.below(3000);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (progress, answered, unix) = (&progress, &answered, &config.unix);
                scope.spawn(move || write(writer, unix, progress, answered));
            }
            until("answered", || (answered.load(SeqCst) >= kill_after).then_some(()));
            process.kill();
        });
        assert!(answered.load(SeqCst) >= kill_after, "{durability:?} round {round}");
    }
    let process = Process::start(&mut binary(&config));
    check(&config, &progress.lock().expect("not poisoned"));
    process.signal("TERM");
}

/// Writes until the server is gone: a string, a hash field, a stream entry and a counter each time, as
/// one transaction, so that a torn group would show.
fn write(
    writer: u64,
    unix: &std::path::Path,
    progress: &Mutex<Vec<Progress>>,
    answered: &AtomicU64,
) {
    let mut client = Client::unix(unix);
    loop {
        let first = {
            let mut all = progress.lock().expect("not poisoned");
            let mine = &mut all[writer as usize];
            mine.sent += PIPELINE;
            mine.sent - PIPELINE
        };
        let mut pipeline = Vec::new();
        for number in first..first + PIPELINE {
            let (text, value) = (number.to_string(), value(writer, number));
            let key = |kind: &str| format!("{kind}{writer}").into_bytes();
            pipeline.extend(encode(&["MULTI"]));
            pipeline.extend(encode(&[b"SET", &key(&format!("s{number}:"))[..], &value]));
            pipeline.extend(encode(&[b"HSET", &key("h")[..], text.as_bytes(), b"1"]));
            let id = format!("{}-0", number + 1);
            pipeline.extend(encode(&[
                b"XADD",
                &key("x")[..],
                id.as_bytes(),
                b"n",
                text.as_bytes(),
            ]));
            pipeline.extend(encode(&["EXEC"]));
        }
        if !client.try_send(&pipeline) {
            return;
        }
        for number in first..first + PIPELINE {
            for _ in 0..4 {
                if client.try_receive().is_none() {
                    return;
                }
            }
            match client.try_receive() {
                Some(Value::Array(answers)) => assert!(!answers.iter().any(Value::is_error)),
                Some(other) => panic!("{other:?}"),
                None => return,
            }
            progress.lock().expect("not poisoned")[writer as usize].answered.insert(number);
            answered.fetch_add(1, SeqCst);
        }
    }
}

fn check(config: &Config, progress: &[Progress]) {
    let mut client = Client::unix(&config.unix);
    for (writer, progress) in progress.iter().enumerate() {
        let stream = client.call(&["XRANGE".into(), format!("x{writer}"), "-".into(), "+".into()]);
        let Value::Array(entries) = stream else { panic!("{stream:?}") };
        let present: BTreeSet<u64> = entries.iter().map(number_of).collect();
        let newest = present.last().copied();
        assert!(newest.is_none_or(|newest| newest < progress.sent), "nobody wrote {newest:?}");
        for number in 0..progress.sent {
            let is_there = present.contains(&number);
            assert!(is_there || !progress.answered.contains(&number), "{writer}/{number} is gone");
            // Everything is looked at once near the time it was written, and some of it every time.
            if number + 200 > progress.sent || number % 16 == 0 {
                let set = client.call(&["GET".into(), format!("s{number}:{writer}")]);
                let field = client.call(&["HGET".into(), format!("h{writer}"), number.to_string()]);
                let (set_wanted, field_wanted) = match is_there {
                    true => (Value::Bulk(value(writer as u64, number)), Value::Bulk(b"1".to_vec())),
                    false => (Value::Null, Value::Null),
                };
                assert_eq!((set, field), (set_wanted, field_wanted), "{writer}/{number} is torn");
            }
        }
    }
}

fn number_of(entry: &Value) -> u64 {
    let Value::Array(entry) = entry else { panic!("{entry:?}") };
    let id = entry[0].text();
    id.strip_suffix("-0").expect("our ids").parse::<u64>().expect("a number") - 1
}
