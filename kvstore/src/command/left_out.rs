//! The commands of Redis 7.0.15 that this server does not have, each with its reason. The list may only
//! shrink: a test asks a redis-server for all its commands and finds each of them either here or in
//! [`table`](super::table).

const BITS: &str = "bit operations would rewrite whole values on disk";
const GEO: &str = "geo indexes are not offered; sorted sets are";
const HYPERLOGLOG: &str = "HyperLogLog is not offered";
const SCRIPTS: &str = "there is no Lua; use MULTI and WATCH";
const SORTING: &str = "SORT reads keys that it does not name; sort in the client";
const CLUSTER: &str = "there is no cluster mode";
const REPLICATION: &str = "replicas do not speak Redis's replication protocol here";
const SNAPSHOTS: &str =
    "every answered write is in the log already; back up with `hawser kv backup`";
const MIGRATION: &str =
    "the server connects to no other; move keys with `hawser kv load` and `hawser kv dump`";
const MODULES: &str = "there are no modules";
const TRACKING: &str = "the server does not remember what clients have cached";
const PROCESS: &str = "the process is stopped by its supervisor (SIGTERM)";
const CONFIG_FILE: &str = "the configuration file belongs to the operator and is not rewritten";
const ALLOCATOR: &str = "the allocator has no such report";
const FUN: &str = "it does nothing";
const DEBUGGING: &str = "the process is not debugged through its clients";

pub const LEFT_OUT: &[(&str, &[&str])] = &[
    (BITS, &["bitcount", "bitfield", "bitfield_ro", "bitop", "bitpos", "getbit", "setbit"]),
    (
        GEO,
        &[
            "geoadd",
            "geodist",
            "geohash",
            "geopos",
            "georadius",
            "georadius_ro",
            "georadiusbymember",
            "georadiusbymember_ro",
            "geosearch",
            "geosearchstore",
        ],
    ),
    (HYPERLOGLOG, &["pfadd", "pfcount", "pfdebug", "pfmerge", "pfselftest"]),
    (
        SCRIPTS,
        &[
            "eval",
            "eval_ro",
            "evalsha",
            "evalsha_ro",
            "fcall",
            "fcall_ro",
            "script",
            "function|delete",
            "function|dump",
            "function|help",
            "function|kill",
            "function|load",
            "function|restore",
            "function|stats",
        ],
    ),
    (SORTING, &["sort", "sort_ro"]),
    (CLUSTER, &["asking", "cluster", "readonly", "readwrite", "restore-asking"]),
    (REPLICATION, &["failover", "psync", "replconf", "replicaof", "slaveof", "sync"]),
    (SNAPSHOTS, &["bgrewriteaof", "bgsave", "lastsave", "save"]),
    (MIGRATION, &["migrate"]),
    (MODULES, &["module"]),
    (TRACKING, &["client|caching", "client|getredir", "client|tracking", "client|trackinginfo"]),
    (PROCESS, &["shutdown"]),
    (CONFIG_FILE, &["config|rewrite"]),
    (ALLOCATOR, &["memory|malloc-stats", "memory|purge"]),
    (FUN, &["lolwut"]),
    (DEBUGGING, &["debug"]),
];

/// Why a command is not here, by its name or that of its container.
pub fn reason(name: &str) -> Option<&'static str> {
    let container = name.split('|').next().unwrap_or_default();
    let is_it = |left: &&str| *left == name || *left == container;
    LEFT_OUT.iter().find(|(_, names)| names.iter().any(is_it)).map(|(why, _)| *why)
}

/// The answer to a command that is left out.
pub fn answer(name: &str) -> Option<String> {
    let why = reason(name)?;
    Some(format!("ERR unknown command '{name}': this server leaves it out, since {why}"))
}
