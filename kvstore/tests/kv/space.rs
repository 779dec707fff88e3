//! What it costs to let go of large collections.

use crate::support::{Client, Random, TempDir, Value, config, start, stop};

/// A hash with so many fields, written in parts.
fn make_hash(client: &mut Client, key: &str, fields: usize) {
    for from in (0..fields).step_by(1000) {
        let to = (from + 1000).min(fields);
        let pairs = (from..to).flat_map(|field| [format!("field:{field}"), "value".to_string()]);
        let words: Vec<String> =
            ["HSET".to_string(), key.to_string()].into_iter().chain(pairs).collect();
        assert_eq!(client.call(&words), Value::Integer((to - from) as i64));
    }
}

/// A number of INFO's.
fn persistence(client: &mut Client, name: &str) -> u64 {
    let info = client.run("INFO persistence").text();
    let mut facts = info.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = facts.find(|(key, _)| *key == name).expect("a fact");
    value.parse().expect("a number")
}

/// Bytes that a command adds to the write log, which are all the rows that it changes.
fn written(client: &mut Client, command: &str) -> u64 {
    let before = persistence(client, "log_bytes");
    assert!(!client.run(command).is_error(), "{command}");
    persistence(client, "log_bytes") - before
}

/// Whatever makes a collection go changes as many bytes for a hundred thousand members as for one.
#[test]
fn what_goes_costs_the_same_for_any_size() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    client.run("SADD source member");
    for command in [
        "DEL hash",
        "UNLINK hash",
        "SET hash value",
        "SUNIONSTORE hash source",
        "PEXPIREAT hash 1",
        "RENAME other hash",
        "FLUSHDB",
    ] {
        let [small, large] = [1, 100_000].map(|fields| {
            client.run("DEL hash");
            client.run("SADD source member");
            client.run("SET other value");
            make_hash(&mut client, "hash", fields);
            written(&mut client, command)
        });
        // The number of members stands in the row of the hash, where some commands write it again.
        assert!(large <= small + 8, "{command}: {small} bytes for one, {large} for many");
        let left = client.run("HLEN hash");
        assert!(left.is_error() || left == Value::Integer(0), "{command}: {left:?}");
    }
    stop(server);
}

#[test]
fn what_lies_in_blob_files_is_counted() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let mut random = Random(7);
    let value: Vec<u8> = (0..1 << 20).map(|_| random.below(256) as u8).collect();
    assert!(!client.call(&[&b"SET"[..], b"large", &value]).is_error());
    // What stops writes everything to files.
    stop(server);
    let server = start(&config);
    let disk_bytes = persistence(&mut Client::unix(&config.unix), "disk_bytes");
    assert!((1 << 20..1 << 21).contains(&disk_bytes), "{disk_bytes}");
    stop(server);
}
