//! What it costs to let go of large collections.

use crate::support::{Client, TempDir, Value, config, start, stop};

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

/// Bytes that a command adds to the write log, which are all the rows that it changes.
fn written(client: &mut Client, command: &str) -> u64 {
    let bytes = |client: &mut Client| {
        let info = client.run("INFO persistence").text();
        let line =
            info.lines().find_map(|line| line.strip_prefix("log_bytes:")).expect("log_bytes");
        line.parse::<u64>().expect("a number")
    };
    let before = bytes(client);
    assert!(!client.run(command).is_error(), "{command}");
    bytes(client) - before
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
