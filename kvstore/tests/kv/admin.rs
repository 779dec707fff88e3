//! What operators and their tools read and set: INFO, CONFIG, SLOWLOG, LATENCY, MEMORY.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;

use hawser_kv::{Config, Handle};

use crate::differential::Oracle;
use crate::support::{Client, TempDir, Value, config, start, stop, until};

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
    for (written, bytes) in
        [("200gb", 200 << 30), ("200G", 200_000_000_000u64), ("9Kb", 9 << 10), ("0b", 0)]
    {
        let answer = client.run(&format!("CONFIG SET maxmemory {written}"));
        let is_set = client.run("CONFIG GET maxmemory") == pair("maxmemory", &bytes.to_string());
        // With 9 KiB everything is refused that may need memory; CONFIG is not.
        assert!(answer == ok() && is_set, "{written}: {answer:?}");
    }
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
        ("slowlog-max-len 6 maxmemory", "syntax error"),
        ("slowlog-max-len 6 maxmemory 1tb", "argument must be a memory value"),
        ("slowlog-max-len 6 maxmemory mb", "argument must be a memory value"),
        ("slowlog-max-len 6 maxmemory -1", "argument must be a memory value"),
        ("slowlog-max-len 6 maxmemory 9999999999gb", "argument must be a memory value"),
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

/// Whoever runs the command, the thread of the connection or the writer, now or after a wait.
#[test]
fn slow_commands_are_listed_with_their_client() {
    let dir = TempDir::new();
    let config = Config { listen: "127.0.0.1:0".into(), ..config(&dir) };
    let server = start(&config);
    let mut client = Client::tcp(&server.address().expect("it listens").to_string());
    let mut other = Client::unix(&config.unix);
    assert_eq!(client.run("CLIENT SETNAME slow-one"), ok());
    let shown = client.run("CLIENT INFO").text();
    let address = shown.split(' ').find_map(|word| word.strip_prefix("addr=")).expect("an address");
    assert_eq!(other.run("CONFIG SET slowlog-log-slower-than 0"), ok());
    client.run("GET a");
    client.run("SET a 1");
    client.send(b"BLPOP l 0\r\n");
    until("blocked", || {
        let facts = info(&mut other, "INFO clients");
        (facts["Clients"]["blocked_clients"] == "1").then_some(())
    });
    other.run("RPUSH l 1");
    client.receive();
    let Value::Array(entries) = other.run("SLOWLOG GET -1") else { panic!("no entries") };
    for command in ["GET", "SET", "BLPOP"] {
        let entry = entries.iter().find_map(|entry| {
            let Value::Array(fields) = entry else { panic!("no entry") };
            let Value::Array(words) = &fields[3] else { panic!("no words") };
            (words[0].text() == command).then_some(fields)
        });
        let entry = entry.unwrap_or_else(|| panic!("no {command} in {entries:?}"));
        assert_eq!((&*entry[4].text(), &*entry[5].text()), (address, "slow-one"), "{command}");
    }
    stop(server);
}

/// What is text for people says so in the new protocol.
#[test]
fn texts_are_of_the_type_that_redis_gives_them() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let oracle = Oracle::start();
    let (mut ours, mut theirs) = (Client::unix(&config.unix), oracle.connect());
    let kind = |value: &Value| std::mem::discriminant(value);
    for protocol in ["HELLO 2", "HELLO 3"] {
        ours.run(protocol);
        theirs.run(protocol);
        for command in [
            "INFO server",
            "INFO nosuch",
            "MEMORY DOCTOR",
            "LATENCY DOCTOR",
            "CLIENT LIST",
            "CLIENT INFO",
        ] {
            let (ours, theirs) = (ours.run(command), theirs.run(command));
            assert_eq!(kind(&ours), kind(&theirs), "{protocol}, {command}: {ours:?} {theirs:?}");
        }
    }
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

/// What `/metrics` answers.
fn metrics(server: &Handle) -> String {
    let address = server.admin_address().expect("it listens");
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("sent");
    let answer = std::io::read_to_string(stream).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    body.to_string()
}

#[test]
fn metrics_are_those_of_the_table() {
    const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/METRICS.md");
    let dir = TempDir::new();
    let config = Config { admin: "127.0.0.1:0".into(), ..config(&dir) };
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    for command in ["SET a 1", "GET a", "GET none", "INCR", "HSET a f v", "NOSUCH"] {
        client.run(command);
    }
    let text = metrics(&server);
    let mut families = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# ")) {
        let [what, name, rest] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let family: &mut [String; 2] = families.entry(name).or_default();
        family[usize::from(what == "HELP")] = rest.to_string();
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = name.split('{').next().expect("a name");
        let of_histogram = ["_bucket", "_sum", "_count"].map(|end| name.strip_suffix(end));
        let names = [Some(name)].into_iter().chain(of_histogram).flatten();
        assert!(names.into_iter().any(|name| families.contains_key(name)), "{line}");
    }
    for sample in [
        "hawser_kv_keyspace_hits 1",
        "hawser_kv_keyspace_misses 1",
        "hawser_kv_command_seconds_count{command=\"set\"} 1",
        "hawser_kv_commands_failed_total{command=\"hset\"} 1",
        "hawser_kv_commands_rejected_total{command=\"incr\"} 1",
        "hawser_kv_errors_total{code=\"WRONGTYPE\"} 1",
        "hawser_kv_log_sync_seconds_count 1",
        "hawser_kv_apply_seconds_bucket{le=\"+Inf\"} 1",
        "hawser_kv_memory_max_bytes{part=\"block_cache\"} 8388608",
    ] {
        assert!(text.lines().any(|line| line == sample), "no {sample} in\n{text}");
    }
    let row =
        |(name, [kind, help]): (&&str, &[String; 2])| format!("| `{name}` | {kind} | {help} |\n");
    let rows: String = families.iter().map(row).collect();
    let table = format!("| name | kind | meaning |\n|---|---|---|\n{rows}");
    let page = std::fs::read_to_string(TABLE).expect("the page");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let head = page.split("| name |").next().expect("what stands before the table");
        std::fs::write(TABLE, format!("{head}{table}")).expect("written");
    } else {
        assert!(page.ends_with(&table), "UPDATE_GOLDEN=1 rewrites METRICS.md");
    }
    stop(server);
}

/// Every part of the memory has its bytes, and those that have a bound in bytes are within it.
#[test]
fn memory_is_accounted_for() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let mut other = Client::unix(&config.unix);
    other.run("MULTI");
    other.call(&["SET", "a", &"v".repeat(100_000)]);
    other.send(b"*2\r\n$4\r\nECHO\r\n$1000\r\n");
    for number in 0..100 {
        client.call(&["SET", &format!("k{number}"), &"v".repeat(10_000)]);
    }
    let memory = info(&mut client, "INFO memory").remove("Memory").expect("the section");
    let bytes = |name: &str| memory[name].parse::<u64>().expect("a number");
    for part in [
        "block_cache",
        "rows",
        "memtables",
        "client_input",
        "client_output",
        "client_outbox",
        "transactions",
        "writer_queue",
        "group",
        "slowlog",
    ] {
        let (used, max) = (bytes(&format!("{part}_bytes")), bytes(&format!("{part}_bytes_max")));
        assert!(used <= max, "{part}: {used} of {max}");
    }
    assert!(bytes("transactions_bytes") >= 100_000, "{memory:?}");
    assert!(bytes("memtables_bytes") >= 100_000, "{memory:?}");
    assert!(bytes("group_bytes") >= 10_000, "{memory:?}");
    assert!(bytes("client_input_bytes") > 0 && bytes("other_bytes") > 0, "{memory:?}");
    stop(server);
}

/// What finds its key and what does not is counted as Redis counts it.
#[test]
fn hits_and_misses_are_those_of_redis() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let oracle = Oracle::start();
    let counts = |client: &mut Client| {
        for command in [
            "SET a 1",
            "GET a",
            "GET none",
            "MGET a none a",
            "HSET h f v",
            "HGET h f",
            "HGET none f",
            "EXISTS a none h",
            "RPUSH l 1",
            "LRANGE l 0 -1",
            "LLEN none",
            "SADD s 1",
            "SISMEMBER s 1",
            "ZADD z 1 a",
            "ZSCORE z a",
            "ZRANGE none 0 -1",
            "XADD x 1-1 f v",
            "XRANGE x - +",
            "XLEN none",
            "TTL a",
            "TYPE none",
            "STRLEN a",
        ] {
            assert!(!client.run(command).is_error(), "{command}");
        }
        let stats = info(client, "INFO stats").remove("Stats").expect("the section");
        ["keyspace_hits", "keyspace_misses"].map(|name| stats[name].clone())
    };
    assert_eq!(counts(&mut Client::unix(&config.unix)), counts(&mut oracle.connect()));
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
