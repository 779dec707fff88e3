//! Single rows are found wherever they lie: in the memory that is written to, in memory that is being written
//! out, and in files, in each of which a filter says where not to look. A map says what there is.

use std::collections::HashMap;

use hawser_kv::Config;

use crate::support::{Client, Random, TempDir, Value, config, start, stop};

const NAMES: u64 = 400;
const STEPS: u64 = 1200;

/// What there should be: strings, and fields of hashes.
#[derive(Default)]
struct Shadow {
    strings: HashMap<u64, Vec<u8>>,
    fields: HashMap<(u64, u64), Vec<u8>>,
}

/// Above and below what goes into blob files; half of it can be compressed.
fn value(random: &mut Random) -> Vec<u8> {
    let bytes = [0, 10, 300, 5_000, 20_000][random.below(5) as usize];
    (0..bytes).map(|at| if at % 2 == 0 { b'x' } else { random.below(256) as u8 }).collect()
}

fn key(kind: &str, name: u64) -> Vec<u8> {
    format!("{kind}{name}").into_bytes()
}

fn field(name: u64) -> (u64, u64) {
    (name % 20, name / 20)
}

fn change(client: &mut Client, random: &mut Random, shadow: &mut Shadow) {
    let name = random.below(NAMES);
    let (hash, member) = field(name);
    let answer = match random.below(1000) {
        0..450 => {
            let value = value(random);
            shadow.strings.insert(name, value.clone());
            client.call(&[b"SET", &key("s", name)[..], &value])
        }
        450..600 => {
            shadow.strings.remove(&name);
            client.call(&[b"DEL", &key("s", name)[..]])
        }
        600..850 => {
            let value = value(random);
            shadow.fields.insert((hash, member), value.clone());
            client.call(&[b"HSET", &key("h", hash)[..], &key("m", member), &value])
        }
        850..970 => {
            shadow.fields.remove(&(hash, member));
            client.call(&[b"HDEL", &key("h", hash)[..], &key("m", member)])
        }
        970..997 => {
            shadow.fields.retain(|(other, _), _| *other != hash);
            client.call(&[b"DEL", &key("h", hash)[..]])
        }
        _ => {
            *shadow = Shadow::default();
            client.run("FLUSHALL")
        }
    };
    assert!(!answer.is_error(), "{answer:?}");
}

fn found(value: Option<&Vec<u8>>) -> Value {
    value.map_or(Value::Null, |value| Value::Bulk(value.clone()))
}

fn compare_one(client: &mut Client, shadow: &Shadow, name: u64) {
    let (hash, member) = field(name);
    let string = client.call(&[b"GET", &key("s", name)[..]]);
    assert!(string == found(shadow.strings.get(&name)), "s{name}");
    let field = client.call(&[b"HGET", &key("h", hash)[..], &key("m", member)]);
    assert!(field == found(shadow.fields.get(&(hash, member))), "h{hash} m{member}");
}

#[test]
fn rows_are_found_wherever_they_lie() {
    for seed in [1, 2] {
        let dir = TempDir::new();
        // Nothing is kept of what was read.
        let config = Config { rows_mib: 0, ..config(&dir) };
        let (mut random, mut shadow) = (Random(seed), Shadow::default());
        let mut flushes = 0;
        for _ in 0..4 {
            let server = start(&config);
            let mut client = Client::unix(&config.unix);
            for step in 0..STEPS {
                change(&mut client, &mut random, &mut shadow);
                compare_one(&mut client, &shadow, random.below(NAMES));
                if step % (STEPS / 2) == 0 {
                    (0..NAMES).for_each(|name| compare_one(&mut client, &shadow, name));
                }
            }
            let hashes =
                (0..20).filter(|hash| shadow.fields.keys().any(|(other, _)| other == hash));
            let keys = shadow.strings.len() + hashes.count();
            assert_eq!(client.run("DBSIZE"), Value::Integer(keys as i64));
            flushes += server.metrics().checkpoints;
            stop(server);
        }
        assert!(flushes >= 4, "it was hardly ever written to files: {flushes}");
    }
}
