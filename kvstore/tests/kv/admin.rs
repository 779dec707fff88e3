//! What operators and their tools read and set: INFO, CONFIG, SLOWLOG, LATENCY, MEMORY.

use std::collections::BTreeMap;

use crate::differential::Oracle;
use crate::support::{Client, TempDir, Value, config, start, stop};

fn ok() -> Value {
    Value::Simple("OK".into())
}

/// The facts of INFO by section and name.
fn info(client: &mut Client, command: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let text = client.run(command).text();
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.split("\r\n").filter(|line| !line.is_empty()) {
        match line.strip_prefix("# ") {
            Some(name) => {
                section = name.to_string();
                found.entry(section.clone()).or_default();
            }
            None => {
                let (name, value) = line.split_once(':').expect("a name and a value");
                let facts = found.get_mut(&section).expect("a section");
                facts.insert(name.to_string(), value.to_string());
            }
        }
    }
    found
}

/// Sections are those of Redis, and names in them that are not there are few and known.
#[test]
fn info_has_what_exporters_read() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let oracle = Oracle::start();
    let mut ours = Client::unix(&config.unix);
    let mut theirs = oracle.connect();
    for client in [&mut ours, &mut theirs] {
        client.run("SET a 1 PX 10000000");
        client.run("HSET h f 1");
        client.run("NOSUCH");
        client.run("GET h");
    }
    for command in ["INFO", "INFO all", "INFO everything", "INFO default", "INFO Server cpu"] {
        let (ours, theirs) = (info(&mut ours, command), info(&mut theirs, command));
        assert!(ours.keys().eq(theirs.keys()), "{command}: {ours:?}");
    }
    let all = info(&mut ours, "INFO all");
    assert_eq!(all["Keyspace"]["db0"].split(",avg_ttl=").next(), Some("keys=2,expires=1"));
    assert!(all["Commandstats"]["cmdstat_hset"].starts_with("calls=1,usec="));
    assert!(all["Commandstats"]["cmdstat_get"].ends_with("rejected_calls=0,failed_calls=1"));
    assert_eq!(all["Errorstats"]["errorstat_ERR"], "count=1");
    assert_eq!(all["Errorstats"]["errorstat_WRONGTYPE"], "count=1");
    assert!(all["Latencystats"].contains_key("latency_percentiles_usec_set"));
    let wanted = [
        ("Server", "redis_version uptime_in_seconds process_id tcp_port run_id"),
        ("Clients", "connected_clients blocked_clients maxclients"),
        ("Memory", "used_memory used_memory_rss used_memory_peak maxmemory maxmemory_policy"),
        ("Persistence", "loading rdb_bgsave_in_progress aof_enabled aof_last_write_status"),
        ("Stats", "total_connections_received total_commands_processed rejected_connections"),
        ("Replication", "role connected_slaves master_repl_offset"),
        ("CPU", "used_cpu_sys used_cpu_user"),
    ];
    for (section, names) in wanted {
        for name in names.split(' ') {
            assert!(all[section].contains_key(name), "no {name} in {section}");
        }
    }
    assert!(all["Memory"]["used_memory_rss"].parse::<u64>().expect("a number") > 1 << 20);
    assert_eq!(ours.run("CONFIG RESETSTAT"), ok());
    let after = info(&mut ours, "INFO commandstats");
    let names: Vec<&str> = after["Commandstats"].keys().map(String::as_str).collect();
    assert_eq!(names, ["cmdstat_config|resetstat"]);
    stop(server);
}

#[test]
fn settings_that_change_live_and_those_that_do_not() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let pair = |name: &str, value: &str| {
        Value::Array([name, value].map(|text| Value::Bulk(text.into())).to_vec())
    };
    assert_eq!(client.run("CONFIG SET slowlog-max-len 5 MAXCLIENTS 99"), ok());
    assert_eq!(client.run("CONFIG GET slowlog-max-l?n"), pair("slowlog-max-len", "5"));
    assert_eq!(client.run("CONFIG GET maxclients"), pair("maxclients", "99"));
    assert_eq!(client.run("CONFIG SET hash-max-ziplist-entries 7"), ok());
    assert_eq!(
        client.run("CONFIG GET hash-max-listpack-entries"),
        pair("hash-max-listpack-entries", "7")
    );
    let Value::Array(two) = client.run("CONFIG GET save appendonly") else { panic!("no pairs") };
    assert_eq!(two.len(), 4);
    // Everything is checked first.
    for (wrong, why) in [
        (
            "slowlog-max-len 6 nosuch 1",
            "Unknown option or number of arguments for CONFIG SET - 'no",
        ),
        ("slowlog-max-len 6 slowlog-max-len 7", "duplicate parameter"),
        ("slowlog-max-len 6 port 1", "cannot change while the server runs"),
        ("slowlog-max-len 6 cache_mib 1", "cannot change while the server runs"),
        ("slowlog-max-len 100001", "must be between 0 and 100000"),
        ("slowlog-max-len x", "couldn't be parsed into an integer"),
        ("slowlog-max-len", "wrong number of arguments for 'config|set'"),
    ] {
        let error = client.run(&format!("CONFIG SET {wrong}")).text();
        assert!(error.contains(why), "{wrong}: {error}");
    }
    assert_eq!(client.run("CONFIG GET slowlog-max-len"), pair("slowlog-max-len", "5"));
    assert_eq!(client.run("CONFIG SET slowlog-max-len 100000 appendonly yes"), ok());
    let rewrite = client.run("CONFIG REWRITE").text();
    assert!(rewrite.contains("leaves it out"), "{rewrite}");

    assert_eq!(client.run("CONFIG SET requirepass sesame"), ok());
    let mut other = Client::unix(&config.unix);
    assert_eq!(other.run("PING"), Value::Error("NOAUTH Authentication required.".into()));
    assert_eq!(other.run("AUTH sesame"), ok());
    let Value::Array(all) = other.run("CONFIG GET *") else { panic!("no pairs") };
    let text = all.iter().map(Value::text).collect::<Vec<_>>().join(" ");
    assert!(text.contains("requirepass") && !text.contains("sesame"), "{text}");
    assert_eq!(client.run("CONFIG SET maxclients 1"), ok());
    let mut third = Client::unix(&config.unix);
    assert_eq!(third.receive(), Value::Error("ERR max number of clients reached".into()));
    stop(server);
}

#[test]
fn slow_commands_are_listed_without_secrets() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    assert_eq!(client.run("CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 3"), ok());
    assert_eq!(client.run("SLOWLOG RESET"), ok());
    client.run("SET a 1");
    client.call(&["SET", "b", &"x".repeat(200)]);
    let mut words = vec!["DEL".to_string()];
    words.extend((0..40).map(|number| number.to_string()));
    client.call(&words);
    client.run("CONFIG SET requirepass secret-one");
    client.run("ACL SETUSER ann >secret-two");
    assert_eq!(client.run("SLOWLOG LEN"), Value::Integer(3));
    let Value::Array(entries) = client.run("SLOWLOG GET -1") else { panic!("no entries") };
    assert_eq!(entries.len(), 3);
    for entry in &entries {
        let Value::Array(fields) = entry else { panic!("no entry") };
        let Value::Array(words) = &fields[3] else { panic!("no words") };
        assert!(words.iter().all(|word| !word.text().contains("secret")), "{words:?}");
    }
    let Value::Array(entry) = &entries[2] else { panic!("no entry") };
    let Value::Array(words) = &entry[3] else { panic!("no words") };
    assert_eq!(words.len(), 32, "{words:?}");
    assert_eq!(words[31].text(), "... (10 more arguments)");
    assert_eq!(client.run("CONFIG SET slowlog-log-slower-than -1"), ok());
    assert_eq!(client.run("SLOWLOG RESET"), ok());
    assert_eq!(client.run("SLOWLOG LEN"), Value::Integer(0));
    let error = "ERR count should be greater than or equal to -1";
    assert_eq!(client.run("SLOWLOG GET -2"), Value::Error(error.into()));
    stop(server);
}

#[test]
fn what_takes_long_is_kept() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    assert_eq!(client.run("LATENCY LATEST"), Value::Array(vec![]));
    assert!(client.run("LATENCY DOCTOR").text().contains("latency-monitor-threshold"));
    assert_eq!(client.run("CONFIG SET latency-monitor-threshold 1"), ok());
    for field in 0..40 {
        let words: Vec<String> = ["HSET".to_string(), "h".to_string()]
            .into_iter()
            .chain((0..1000).flat_map(|number| [format!("{field}:{number}"), "v".repeat(90)]))
            .collect();
        assert_eq!(client.call(&words), Value::Integer(1000));
    }
    assert!(!client.run("HGETALL h").is_error());
    let Value::Array(latest) = client.run("LATENCY LATEST") else { panic!("no events") };
    let Value::Array(event) = &latest[0] else { panic!("no event") };
    let name = event[0].text();
    let Value::Array(history) = client.run(&format!("LATENCY HISTORY {name}")) else { panic!() };
    assert!(!history.is_empty());
    assert!(client.run(&format!("LATENCY GRAPH {name}")).text().contains('#'));
    assert!(client.run("LATENCY DOCTOR").text().contains(&name));
    let missing = "ERR No samples available for event 'none'";
    assert_eq!(client.run("LATENCY GRAPH none"), Value::Error(missing.into()));
    assert_eq!(client.run("LATENCY HISTORY none"), Value::Array(vec![]));
    let Value::Array(histogram) = client.run("LATENCY HISTOGRAM hset hgetall") else { panic!() };
    assert_eq!(histogram.len(), 4);
    let Value::Array(hset) = &histogram[3] else { panic!("no histogram") };
    assert!(matches!(hset[1], Value::Integer(1 | 40)), "{hset:?}");
    assert_eq!(client.run(&format!("LATENCY RESET {name}")), Value::Integer(1));
    stop(server);
}

#[test]
fn time_and_role_are_those_of_a_single_redis() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let oracle = Oracle::start();
    let (mut ours, mut theirs) = (Client::unix(&config.unix), oracle.connect());
    assert_eq!(ours.run("ROLE"), theirs.run("ROLE"));
    let seconds = |value: Value| match value {
        Value::Array(parts) if parts.len() == 2 => {
            parts[0].text().parse::<u64>().expect("a number")
        }
        other => panic!("no time: {other:?}"),
    };
    let (before, now, after) = (theirs.run("TIME"), ours.run("TIME"), theirs.run("TIME"));
    assert!((seconds(before)..=seconds(after)).contains(&seconds(now)));
    stop(server);
}

#[test]
fn memory_shows_where_it_is() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    client.call(&["SET", "a", &"x".repeat(1000)]);
    client.call(&["HSET", "h", "f", &"x".repeat(5000)]);
    let bytes = |value: Value| match value {
        Value::Integer(bytes) => bytes,
        other => panic!("no number: {other:?}"),
    };
    assert!((1000..1100).contains(&bytes(client.run("MEMORY USAGE a"))));
    assert!((5000..5200).contains(&bytes(client.run("MEMORY USAGE h SAMPLES 0"))));
    assert_eq!(client.run("MEMORY USAGE none"), Value::Null);
    assert!(client.run("MEMORY USAGE a SAMPLES -1").is_error());
    let Value::Array(stats) = client.run("MEMORY STATS") else { panic!("no stats") };
    let total = stats.chunks(2).find(|pair| pair[0].text() == "total.allocated");
    assert!(bytes(total.expect("it is there")[1].clone()) > 1 << 20);
    assert!(client.run("MEMORY DOCTOR").text().contains("cache_mib"));
    stop(server);
}
