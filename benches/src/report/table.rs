//! The tables of the report: one section for each benchmark, with the latest row of each size, and
//! a sentence for each column.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::figure::{Unit, unit};
use crate::results::Row;

/// What the report knows about a benchmark. One that it does not know gets a section with its
/// figures as they are called.
pub struct Section {
    pub benchmark: &'static str,
    pub title: &'static str,
    /// What is done, in a sentence or two.
    pub about: &'static str,
    pub columns: &'static [Column],
    /// For the page's first table: figures and what is said of each.
    pub glance: &'static [(&'static str, &'static str)],
    /// An object whose entries are lines of their own, and what one is called.
    pub each: Option<(&'static str, &'static str)>,
}

pub struct Column {
    /// The value's name or path in a row.
    pub value: &'static str,
    pub title: &'static str,
    pub meaning: &'static str,
}

const fn column(value: &'static str, title: &'static str, meaning: &'static str) -> Column {
    Column { value, title, meaning }
}

const CONNECTIONS: Column = column("connections", "connections", "connections of the run");
const SERVER: Column = column("server", "server", "what was measured");
const FLEET: Column = column("fleet", "fleet", "how the devices were made");
const SENT: Column = column("sent", "sent", "messages that the server was given");
const RECEIVED: Column = column("received", "received", "messages that arrived");
const P50: Column = column("p50_us", "p50", "half of the latencies are below this");
const P99: Column = column("p99_us", "p99", "one latency in a hundred is above this");
const P999: Column = column("p999_us", "p99.9", "one latency in a thousand is above this");
const MAX: Column = column("max_us", "max", "the longest latency of all");
const PAYLOAD: Column = column("payload_bytes", "payload", "bytes of a message's body");
const CPU: Column = column(
    "cpu_ns_per_message",
    "CPU for each",
    "processor time of the server for one, kernel included, at the highest rate",
);
const FLOOR_RATE: Column = column("floor_rate", "floor rate", "rate of the floor in the same run");
const RATIO: Column = column("ratio_to_floor", "of the floor", "rate as a share of the floor's");
const FLOOR_P99: Column = column("floor_p99_us", "floor p99", "p99 of the floor in the same run");
const BOUND: Column = column(
    "bound_by",
    "bound by",
    "`fleet` where the devices' processor was full and the server's was not: the server could do more",
);
const RATE: Column = column("rate", "rate", "messages, heartbeats or pulls in a second");

/// What latencies at a rate have in common.
const AT_RATE: &[Column] = &[
    CONNECTIONS,
    RATE,
    PAYLOAD,
    SENT,
    RECEIVED,
    P50,
    P99,
    P999,
    MAX,
    column("floor_p50_us", "floor p50", "p50 of the floor in the same run"),
    FLOOR_P99,
    column("floor_p999_us", "floor p99.9", "p99.9 of the floor in the same run"),
    FLOOR_RATE,
    RATIO,
    BOUND,
    CPU,
];

const GLANCE_AT_RATE: &[(&str, &str)] =
    &[("p50_us", "p50 {}"), ("p99_us", "p99 {}"), ("p999_us", "p99.9 {}"), ("rate", "at {}")];

pub const SECTIONS: &[Section] = &[
    Section {
        benchmark: "connections",
        title: "Idle connections",
        about: "Devices connect, are verified and welcomed, and then say nothing. What does \
                holding them cost?",
        columns: &[
            CONNECTIONS,
            column("established", "established", "connections that TCP had up at the end"),
            column("verified", "verified", "devices whose heartbeat was answered when all were up"),
            column("lost", "lost", "connections that ended though nobody ended them"),
            column("tickets", "tickets", "how the permission to connect is signed"),
            column(
                "user_bytes_per_conn",
                "user memory",
                "memory of the server process, for each connection",
            ),
            column(
                "kernel_bytes_per_conn",
                "kernel memory",
                "memory of the kernel for the server's end, for each connection",
            ),
            column(
                "fleet_bytes_per_conn",
                "fleet memory",
                "memory of the devices' side, not the server's",
            ),
            column("setup_per_s", "set-up", "connections set up in a second"),
            column(
                "floor_user_bytes_per_conn",
                "floor user memory",
                "user memory of the floor in the same run",
            ),
            column(
                "floor_kernel_bytes_per_conn",
                "floor kernel memory",
                "kernel memory of the floor in the same run",
            ),
            column("floor_setup_per_s", "floor set-up", "set-up of the floor in the same run"),
            column("idle_cpu_percent", "idle CPU", "of one processor, while nothing happens"),
            column("memory_free_min_bytes", "free memory", "the least that the machine had free"),
        ],
        glance: &[
            ("user_bytes_per_conn", "{} of user memory each"),
            ("kernel_bytes_per_conn", "{} of kernel memory each"),
            ("setup_per_s", "set up at {}"),
            ("lost", "{} lost"),
        ],
        each: None,
    },
    Section {
        benchmark: "push",
        title: "Messages to single devices",
        about: "Messages go to one device after the other. The latency runs from the moment a \
                message was due, if a rate was asked for, to its arrival, so that a server that \
                falls behind cannot hide it.",
        columns: AT_RATE,
        glance: GLANCE_AT_RATE,
        each: None,
    },
    Section {
        benchmark: "fanout",
        title: "One message to all devices",
        about: "A message to a group that every device belongs to. How fast has everybody got it?",
        columns: &[
            CONNECTIONS,
            PAYLOAD,
            RATE,
            FLOOR_RATE,
            RATIO,
            BOUND,
            CPU,
            column(
                "floor_cpu_ns_per_message",
                "floor CPU",
                "processor time of the floor for a message in the same run",
            ),
            column("seconds", "time", "from the first send to the last arrival"),
        ],
        glance: &[
            ("rate", "{}"),
            ("ratio_to_floor", "{} of a bare loop's rate"),
            ("cpu_ns_per_message", "{} of processor time for each"),
        ],
        each: None,
    },
    Section {
        benchmark: "heartbeat",
        title: "Heartbeats",
        about: "Devices send heartbeats, and the server answers each. The latency is the round \
                trip.",
        columns: AT_RATE,
        glance: GLANCE_AT_RATE,
        each: None,
    },
    Section {
        benchmark: "uplink",
        title: "Pulls of devices",
        about: "Devices ask for what is in their inbox, and the answer comes from the control node. The \
                latency is the round trip; the floor's is that of a heartbeat, since it has nothing \
                behind it.",
        columns: AT_RATE,
        glance: GLANCE_AT_RATE,
        each: None,
    },
    Section {
        benchmark: "storm",
        title: "Reconnect storm",
        about: "Connections are cut all at once and come back all at once, while bystanders stay \
                connected.",
        columns: &[
            column("connections", "cut", "connections that were cut"),
            column("bystanders", "bystanders", "connections that had nothing to do with it"),
            column("back_s", "all back after", "from the cut until every device is welcomed again"),
            column(
                "bystanders_lost",
                "bystanders lost",
                "of those, how many lost their connection",
            ),
            column("accept_p50_us", "accept p50", "half of the devices were welcomed within this"),
            column("accept_p99_us", "accept p99", "one device in a hundred waited longer"),
            column("accept_max_us", "accept max", "the longest wait"),
            column("memory_peak_bytes", "memory peak", "the most memory that the server had"),
            column("back_per_s", "back", "devices welcomed again in a second"),
            column("floor_rate", "floor back", "the same of the floor in the same run"),
            RATIO,
        ],
        glance: &[
            ("back_s", "all back after {}"),
            ("bystanders_lost", "{} bystanders lost"),
            ("accept_p99_us", "p99 of a welcome {}"),
        ],
        each: None,
    },
    Section {
        benchmark: "slow",
        title: "Devices that do not read",
        about: "Some devices stop reading. Do the others notice?",
        columns: &[
            CONNECTIONS,
            column("stalled", "stalled", "devices that do not read"),
            column("rate", "rate", "messages in a second, to all devices in turn"),
            column("before_p99_us", "p99 before", "p99 before some stopped reading"),
            column("p99_us", "p99 during", "p99 of the others while those do not read"),
            column("floor_before_p99_us", "floor p99 before", "of the floor in the same run"),
            column("floor_p99_us", "floor p99 during", "of the floor in the same run"),
            column("held_back", "held back", "messages that waited for those that did not read"),
            column("received_after", "received after", "those that came when they read again"),
            column("lost", "lost", "connections that ended though nobody ended them"),
            column(
                "memory_growth_bytes",
                "growth",
                "what the server's memory grew by while messages waited",
            ),
        ],
        glance: &[
            ("stalled", "{} stalled"),
            ("before_p99_us", "p99 of the others {} before"),
            ("p99_us", "{} during"),
        ],
        each: None,
    },
    Section {
        benchmark: "churn",
        title: "Connections that come and go",
        about: "Devices leave and come back at a fixed rate. Does anything stay behind?",
        columns: &[
            CONNECTIONS,
            column("rate", "rate", "devices that leave and come back in a second"),
            column("seconds", "time", "how long"),
            column("lost", "lost", "connections that ended though their devices did not leave"),
            column("memory_growth_bytes", "growth", "memory of the server after minus before"),
            column(
                "floor_memory_growth_bytes",
                "floor growth",
                "memory of the floor after minus before, in the same run",
            ),
            column(
                "cpu_ns_per_connect",
                "CPU for each",
                "processor time of the server for one that leaves and comes back, kernel included",
            ),
            column("floor_cpu_ns_per_connect", "floor CPU", "the same of the floor"),
            column("ratio_to_floor", "of the floor", "floor CPU as a share of the server's"),
        ],
        glance: &[
            ("rate", "{} come and go"),
            ("memory_growth_bytes", "memory grew by {}"),
            ("lost", "{} others lost"),
        ],
        each: None,
    },
    Section {
        benchmark: "system",
        title: "The whole system",
        about: "Store, control node, broker and devices as real processes: every message is on \
                disk before its sender gets an answer. Undisturbed, and with a process killed in \
                the middle.",
        columns: &[
            column("accepted", "accepted", "messages that were answered, and so must arrive"),
            column("messages_per_s", "rate", "messages accepted in a second"),
            column("lost", "lost", "accepted messages that did not arrive"),
            column("duplicates", "twice", "messages that a device's application got twice"),
            column("out_of_order", "order", "messages that arrived out of their order"),
            column("dropped_connections", "dropped", "connections that ended"),
            column("p50_ms", "p50", "half of the latencies are below this"),
            column("p99_ms", "p99", "one latency in a hundred is above this"),
            column("p999_ms", "p99.9", "one latency in a thousand is above this"),
            column("max_ms", "max", "the longest latency of all"),
        ],
        glance: &[
            ("messages_per_s", "{}"),
            ("lost", "{} lost"),
            ("p99_ms", "p99 {} from the call to the device"),
        ],
        each: None,
    },
    Section {
        benchmark: "kv",
        title: "The store",
        about: "The store beside redis-server, with redis-benchmark as the client of both. A share is \
                the store's rate by Redis's in the same round.",
        columns: &[
            column("peer", "beside", "what it is compared with"),
            column(
                "keys",
                "keys",
                "different keys, where the data set is not ten times the block cache",
            ),
            column(
                "durable_set_rate",
                "durable SET",
                "writes in a second, synced before the answer",
            ),
            column(
                "durable_set_ratio",
                "durable SET, of Redis",
                "as a share of Redis's with appendfsync always",
            ),
            column(
                "durable_set_p99_ms",
                "durable p99",
                "one durable write in a hundred takes longer",
            ),
            column("durable_set_peer_p99_ms", "durable p99 of Redis", "the same of Redis"),
            column("set_rate", "SET", "writes in a second that nothing syncs"),
            column("set_ratio", "SET, of Redis", "as a share of Redis's without persistence"),
            column("get_rate", "GET", "reads in a second"),
            column("get_ratio", "GET, of Redis", "as a share of Redis's"),
            column("set_p16_ratio", "SET by 16, of Redis", "the same in pipelines of 16"),
            column("get_p16_ratio", "GET by 16, of Redis", "the same in pipelines of 16"),
            column(
                "cold_get_ratio",
                "cold GET, of Redis",
                "reads of a data set of ten times the block cache; Redis has all of it in memory",
            ),
        ],
        glance: &[],
        each: None,
    },
    Section {
        benchmark: "log",
        title: "Appending to the log",
        about: "Records as the store's log has them, each on the disk before the next one is written. The \
                store does what is called `prepared`.",
        columns: &[
            column("record_bytes", "record", "bytes of one record"),
            column("syncs_per_s", "rate", "records that are on the disk in a second"),
            column(
                "ratio_to_prepared.median",
                "of prepared",
                "rate as a share of `prepared`'s, median of the rounds",
            ),
            P50,
            P99,
        ],
        glance: &[],
        each: Some(("ways", "way")),
    },
    Section {
        benchmark: "soak",
        title: "The store for a long time",
        about: "Workers write to the store what comes to their minds, as fast as it answers, and check \
                every answer. Does it stay right, and does anything grow?",
        columns: &[
            column("minutes", "minutes", "how long"),
            column("clients", "clients", "workers, each with a connection"),
            column("commands", "commands", "commands that were answered"),
            column("commands_rate", "rate", "commands in a second, as all workers together did"),
            column("wrong", "wrong", "answers that were not what they had to be"),
            column("cache_mib", "cache, MiB", "the block cache that is configured"),
            column("memory_bytes", "memory", "the most that the process had"),
            column("memory_bytes_max", "of at most", "what it may have with this configuration"),
            column(
                "memory_growth_percent",
                "growth",
                "rise of a straight line through the memory of the last two thirds of the time",
            ),
            column("database_bytes", "database", "the most that its files had"),
            column("log_files", "log files", "the most files that the write log had"),
        ],
        glance: &[
            ("commands", "{} commands"),
            ("wrong", "{} wrong answers"),
            ("memory_bytes", "{} of memory"),
            ("memory_growth_percent", "which grew by {} in the last two thirds"),
        ],
        each: None,
    },
    Section {
        benchmark: "codec",
        title: "Encoding",
        about: "The same messages in hawser's format and in three others that could have carried \
                them.",
        columns: &[
            column("encode_ns.median", "encode", "time to write one message"),
            column("decode_ns.median", "decode", "time to read and check one message"),
            column("bytes", "size", "bytes of one message"),
        ],
        glance: &[
            ("xmpp_over_hawser.both.median", "{} times as fast as XMPP"),
            ("xmpp_over_hawser.bytes_percent", "with {} of its bytes"),
        ],
        each: Some(("formats", "format")),
    },
    Section {
        benchmark: "instructions",
        title: "Instructions",
        about: "Instructions that the broker executes in user space for one step, counted and not \
                timed, so that a noisy machine does not move them.",
        columns: &[
            column(
                "connect_ed25519",
                "connect, Ed25519",
                "a device admitted with an Ed25519 ticket",
            ),
            column("connect_hmac", "connect, HMAC", "a device admitted with an HMAC ticket"),
            column("heartbeat", "heartbeat", "a heartbeat and its answer"),
            column("push", "push", "a message of 64 bytes to its device"),
            column("acknowledgement", "acknowledgement", "the device's answer to it"),
            column("group_member", "group member", "one member's share of a message to a group"),
        ],
        glance: &[
            ("push", "{} for a message"),
            ("group_member", "{} for a member of a group"),
            ("connect_hmac", "{} for a connect"),
        ],
        each: None,
    },
];

/// The columns that precede those of a section, where they hold something.
const LEADING: &[Column] = &[SERVER, FLEET];

/// Words in the columns that a reader does not know.
pub const WORDS: &[(&str, &str)] = &[
    (
        "server",
        "what was measured: `hawser` is hawser's broker, `bare` a loop that only moves bytes, \
         others as named",
    ),
    (
        "fleet",
        "how the devices were made: `sockets` are ordinary sockets of other processes, `tun` is a \
         TCP of the benchmark's own that needs no sockets of this kernel",
    ),
    (
        "floor",
        "the least that the work can cost: the same bytes over the same sockets by the bare loop, \
         in the same run",
    ),
    ("p50, p99, p99.9", "half, 99 of 100, 999 of 1,000 are faster than this"),
];

/// A table in Markdown, and the columns that it has.
pub struct Table {
    pub text: String,
    pub columns: Vec<(String, &'static str)>,
}

impl Section {
    pub fn of(benchmark: &str) -> Option<&'static Section> {
        SECTIONS.iter().find(|section| section.benchmark == benchmark)
    }
}

/// The table of one benchmark's rows. `machines` are those of the whole report, which are named by
/// letters if they are several.
pub fn table(section: Option<&Section>, rows: &[&Row], machines: &[String]) -> Table {
    let lines: Vec<Row> = rows.iter().flat_map(|row| lines(section, row)).collect();
    let columns = columns(section, &lines);
    let mut header = vec!["scenario".to_owned()];
    header.extend(columns.iter().map(|(_, title, _)| title.clone()));
    if machines.len() > 1 {
        header.push("machine".to_owned());
    }
    header.extend(["commit", "day"].map(str::to_owned));

    let mut text = format!("| {} |\n", header.join(" | "));
    let is_word = |path: &str| lines.iter().any(|line| !line.word(path).is_empty());
    let rules: Vec<&str> = ["---"]
        .into_iter()
        .chain(columns.iter().map(|(path, ..)| if is_word(path) { "---" } else { "---:" }))
        .chain((1 + columns.len()..header.len()).map(|_| "---"))
        .collect();
    text += &format!("| {} |\n", rules.join(" | "));
    for line in &lines {
        let mut cells = vec![line.scenario.clone()];
        cells.extend(columns.iter().map(|(path, ..)| cell(line, path)));
        if machines.len() > 1 {
            cells.push(letter(machines, line));
        }
        cells.push(format!("`{}`", line.commit));
        cells.push(day(line.unix_s));
        text += &format!("| {} |\n", cells.join(" | "));
    }
    let columns = columns.into_iter().map(|(_, title, meaning)| (title, meaning)).collect();
    Table { text, columns }
}

/// The lines of a row: one, or one for each entry of the object that the section names.
fn lines(section: Option<&Section>, row: &Row) -> Vec<Row> {
    let each = section.and_then(|section| section.each);
    let Some((object, called)) = each else { return vec![row.clone()] };
    let entries = row.values.get(object).and_then(Value::as_object);
    let mut lines = Vec::new();
    for (name, values) in entries.into_iter().flatten() {
        let mut line = row.clone();
        line.values = values.as_object().cloned().unwrap_or_default();
        line.values.insert(called.to_owned(), Value::from(name.as_str()));
        lines.push(line);
    }
    lines
}

/// Path, title and meaning of each column that any line fills.
fn columns(section: Option<&Section>, lines: &[Row]) -> Vec<(String, String, &'static str)> {
    let is_filled = |path: &str| {
        lines.iter().any(|line| line.number(path).is_some() || !line.word(path).is_empty())
    };
    let known =
        |column: &Column| (column.value.to_owned(), column.title.to_owned(), column.meaning);
    let mut columns: Vec<(String, String, &str)> = LEADING.iter().map(known).collect();
    match section {
        Some(section) => {
            let called = section.each.map(|(_, called)| called);
            columns.extend(called.map(|called| (called.to_owned(), called.to_owned(), "")));
            columns.extend(section.columns.iter().map(known));
        }
        None => {
            let names: BTreeSet<String> =
                lines.iter().flat_map(Row::figures).map(|(name, _)| name).collect();
            columns.extend(names.into_iter().map(|name| (name.clone(), name, "")));
        }
    }
    columns.retain(|(path, ..)| is_filled(path));
    columns
}

fn cell(row: &Row, path: &str) -> String {
    match (row.number(path), row.word(path)) {
        (Some(value), _) => unit(path).text(value),
        (None, "") => "-".to_owned(),
        (None, word) => word.to_owned(),
    }
}

/// What the first table says about a row.
pub fn glance(section: &Section, row: &Row) -> String {
    let say = |&(figure, sentence): &(&str, &str)| {
        Some(sentence.replace("{}", &unit(figure).text(row.number(figure)?)))
    };
    section.glance.iter().filter_map(say).collect::<Vec<_>>().join(", ")
}

/// A machine in words.
pub fn machine(row: &Row) -> String {
    let memory = match row.memory_bytes {
        Some(bytes) => Unit::Bytes.text(bytes as f64),
        None => "memory not recorded".to_owned(),
    };
    let cpus = counted(row.cpus, "processor");
    format!("{}, {cpus}, {memory}, Linux {}", row.cpu, row.kernel)
}

/// The letter of a row's machine.
pub fn letter(machines: &[String], row: &Row) -> String {
    let machine = machine(row);
    let index = machines.iter().position(|one| *one == machine).unwrap_or(0);
    char::from(b'A' + (index % 26) as u8).to_string()
}

/// "1 commit", "2 commits".
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The day of a time in UTC, as year-month-day.
pub fn day(unix_s: u64) -> String {
    let mut days = unix_s / 86_400;
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_follow_the_calendar() {
        let check = |unix_s: u64, expected: &str| assert_eq!(day(unix_s), expected);
        check(0, "1970-01-01");
        check(951_782_400, "2000-02-29");
        check(951_868_800, "2000-03-01");
        check(1_735_689_599, "2024-12-31");
        check(1_735_689_600, "2025-01-01");
    }
}
