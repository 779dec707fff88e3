//! The oracle is Redis itself: the same random commands, on two connections, must get the same
//! answers from both, transactions, watches, expiries and restarts of our side included.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::comparable::comparable;
use crate::support::{Client, TempDir, Value};
use proptest::prelude::*;
use proptest::sample::select;

/// Far enough that no test reaches it.
const FUTURE_MS: &str = "4102444800000";
const FUTURE_S: &str = "4102444800";

#[derive(Clone, Debug)]
enum Op {
    Run(usize, String),
    /// Restores what the other server dumps of a key, with these options.
    Exchange(usize, &'static str, String),
    Reopen,
}

fn words(text: &str) -> Vec<Vec<u8>> {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn key() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c", "d"])
}

fn value() -> impl Strategy<Value = &'static str> {
    select(vec!["1", "-7", "9223372036854775807", "x", "00", "some-longer-text", "\u{0}\u{ff}"])
}

fn number() -> impl Strategy<Value = &'static str> {
    select(vec!["0", "1", "-1", "5", "100", "9223372036854775807", "-9223372036854775808", "x"])
}

fn float() -> impl Strategy<Value = &'static str> {
    select(vec![
        "1.1",
        "-0.1",
        "3",
        "0.2",
        "1e20",
        "-1e20",
        "5e-3",
        "1.5e3",
        "inf",
        "-inf",
        "nan",
        "x",
        "0x1.8p1",
        "1e4932",
        "1e-30",
        "12345678901234567890.5",
        "0.30000000000000004",
        "1e5000",
        "-0",
        ".5",
        "1.",
        "9007199254740993",
        "123456.789e-2",
    ])
}

fn field() -> impl Strategy<Value = &'static str> {
    select(vec!["f", "g", "h", "i"])
}

fn time() -> impl Strategy<Value = &'static str> {
    select(vec![FUTURE_MS, FUTURE_MS, "1", "0", "-5", "4102444800500", "9223372036854775807", "z"])
}

/// Relative times that are refused or already past: the others end at moments that differ between two
/// servers by the time between two calls.
fn relative_time() -> impl Strategy<Value = &'static str> {
    select(vec!["0", "-5", "z", "9223372036854775807", "-9223372036854775808"])
}

fn id() -> impl Strategy<Value = &'static str> {
    select(vec![
        "1-1",
        "1-2",
        "1-*",
        "2-*",
        "2-0",
        "3",
        "5-5",
        "7-0",
        "9-9",
        "0-0",
        "0-1",
        "x",
        "12-*",
        "20-1",
        "01-01",
        "-",
        "18446744073709551615-18446744073709551615",
    ])
}

fn bound() -> impl Strategy<Value = &'static str> {
    select(vec!["-", "+", "(1-1", "1", "2-0", "(5-5", "5", "(0-0", "20", "(x", "(-"])
}

fn set_options() -> impl Strategy<Value = String> {
    (
        select(vec!["", " NX", " XX", " nx xx"]),
        select(vec!["", " GET"]),
        select(vec!["", " KEEPTTL", " PXAT", " EXAT", " EX", " PX", " PXAT 1 EX", " BAD"]),
        time(),
        relative_time(),
    )
        .prop_map(|(nx, get, expiry, time, relative)| match expiry.trim() {
            "" | "KEEPTTL" | "BAD" => format!("{nx}{get}{expiry}"),
            "EXAT" => format!("{nx}{get}{expiry} {FUTURE_S}"),
            "PXAT" => format!("{nx}{get}{expiry} {time}"),
            _ => format!("{nx}{get}{expiry} {relative}"),
        })
}

fn string_command() -> impl Strategy<Value = String> {
    prop_oneof![
        (key(), value(), set_options()).prop_map(|(k, v, o)| format!("SET {k} {v}{o}")),
        key().prop_map(|k| format!("GET {k}")),
        (key(), key()).prop_map(|(a, b)| format!("MGET {a} {b}")),
        (key(), value()).prop_map(|(k, v)| format!("SETNX {k} {v}")),
        (key(), relative_time(), value()).prop_map(|(k, t, v)| format!("PSETEX {k} {t} {v}")),
        (key(), relative_time(), value()).prop_map(|(k, t, v)| format!("SETEX {k} {t} {v}")),
        (key(), value()).prop_map(|(k, v)| format!("GETSET {k} {v}")),
        key().prop_map(|k| format!("GETDEL {k}")),
        (key(), select(vec!["", " PERSIST", " PXAT 1", " EX 0", " KEEPTTL", " PX 1 PERSIST"]))
            .prop_map(|(k, o)| format!("GETEX {k}{o}")),
        (key(), time()).prop_map(|(k, t)| format!("GETEX {k} PXAT {t}")),
        (key(), value(), key(), value()).prop_map(|(a, v, b, w)| format!("MSET {a} {v} {b} {w}")),
        (key(), value(), key(), value()).prop_map(|(a, v, b, w)| format!("MSETNX {a} {v} {b} {w}")),
        (key(), value(), key()).prop_map(|(a, v, b)| format!("MSET {a} {v} {b}")),
        (key(), value()).prop_map(|(k, v)| format!("APPEND {k} {v}")),
        key().prop_map(|k| format!("STRLEN {k}")),
        (key(), rank(), rank()).prop_map(|(k, a, b)| format!("GETRANGE {k} {a} {b}")),
        (key(), rank(), rank()).prop_map(|(k, a, b)| format!("SUBSTR {k} {a} {b}")),
        (key(), select(vec!["0", "3", "20", "-1", "x"]), value())
            .prop_map(|(k, n, v)| format!("SETRANGE {k} {n} {v}")),
        (key(), select(vec!["0", "5"])).prop_map(|(k, n)| format!("SETRANGE {k} {n} ")),
        (key(), float()).prop_map(|(k, n)| format!("INCRBYFLOAT {k} {n}")),
        (key(), float()).prop_map(|(k, n)| format!("SET {k} {n}")),
        (
            key(),
            key(),
            select(vec![
                "",
                "",
                " LEN",
                " IDX",
                " IDX WITHMATCHLEN",
                " IDX MINMATCHLEN 2",
                " IDX LEN",
                " MINMATCHLEN x",
                " BAD",
                " idx minmatchlen -1 withmatchlen"
            ])
        )
            .prop_map(|(a, b, o)| format!("LCS {a} {b}{o}")),
        (key(), select(vec!["ohmytext", "mynewtext", "abcdbca", "bcadb"]))
            .prop_map(|(k, v)| format!("SET {k} {v}")),
        (select(vec!["INCR", "DECR"]), key()).prop_map(|(c, k)| format!("{c} {k}")),
        (select(vec!["INCRBY", "DECRBY"]), key(), number())
            .prop_map(|(c, k, n)| format!("{c} {k} {n}")),
    ]
}

fn key_command() -> impl Strategy<Value = String> {
    let expire = || select(vec!["EXPIRE", "PEXPIRE"]);
    let expire_at = || select(vec!["EXPIREAT", "PEXPIREAT"]);
    let condition =
        || select(vec!["", "", " NX", " XX", " GT", " LT", " NX GT", " GT LT", " lt xx", " AB"]);
    prop_oneof![
        (select(vec!["DEL", "UNLINK", "EXISTS"]), key(), key())
            .prop_map(|(c, a, b)| format!("{c} {a} {b}")),
        (select(vec!["TYPE", "PTTL", "TTL", "EXPIRETIME", "PEXPIRETIME", "PERSIST"]), key())
            .prop_map(|(c, k)| format!("{c} {k}")),
        (expire(), key(), relative_time(), condition())
            .prop_map(|(c, k, t, o)| format!("{c} {k} {t}{o}")),
        (expire_at(), key(), time(), condition())
            .prop_map(|(c, k, t, o)| format!("{c} {k} {t}{o}")),
        (key(), select(vec!["", " GT", " NX"]))
            .prop_map(|(k, o)| format!("PEXPIREAT {k} 4102444800600{o}")),
        (key(), key(), select(vec!["", "", " REPLACE", " DB 0", " DB 0 REPLACE", " DB x", " BAD"]))
            .prop_map(|(a, b, o)| format!("COPY {a} {b}{o}")),
        (key(), key()).prop_map(|(a, b)| format!("TOUCH {a} {b}")),
        (select(vec![
            "MOVE a 0",
            "MOVE a x",
            "SWAPDB 0 0",
            "SWAPDB x 0",
            "SWAPDB 0 x",
            "WAIT 0 0",
            "WAIT x 0",
            "WAIT 0 -1",
            "WAIT 0 x",
            "OBJECT REFCOUNT nosuch"
        ]))
        .prop_map(String::from),
        (select(vec!["RENAME", "RENAMENX"]), key(), key())
            .prop_map(|(c, a, b)| format!("{c} {a} {b}")),
        Just("DBSIZE".to_string()),
        select(vec!["KEYS *", "KEYS [ab]", "KEYS \\a", "KEYS [^a]", "KEYS ??", "KEYS a*"])
            .prop_map(String::from),
        select(vec![
            "SCAN 0 COUNT 1000",
            "SCAN 0 COUNT 1000 MATCH [a-c]",
            "SCAN 0 COUNT 0",
            "SCAN x",
            "SCAN 0 COUNT 1000 TYPE hash"
        ])
        .prop_map(String::from),
        Just("FLUSHALL".to_string()),
        select(vec!["PING", "PING hello", "ECHO x", "PING a b", "SELECT 0", "NOSUCH a b", "GET"])
            .prop_map(String::from),
    ]
}

fn hash_command() -> impl Strategy<Value = String> {
    prop_oneof![
        (key(), field(), value()).prop_map(|(k, f, v)| format!("HSET {k} {f} {v}")),
        (key(), field(), value(), field())
            .prop_map(|(k, f, v, g)| format!("HSET {k} {f} {v} {g} 3")),
        (key(), field(), value(), field())
            .prop_map(|(k, f, v, g)| format!("HMSET {k} {f} {v} {g}")),
        (key(), field(), value()).prop_map(|(k, f, v)| format!("HMSET {k} {f} {v}")),
        (key(), field(), value()).prop_map(|(k, f, v)| format!("HSETNX {k} {f} {v}")),
        (select(vec!["HGET", "HEXISTS", "HSTRLEN"]), key(), field())
            .prop_map(|(c, k, f)| format!("{c} {k} {f}")),
        (select(vec!["HDEL", "HMGET"]), key(), field(), field())
            .prop_map(|(c, k, f, g)| format!("{c} {k} {f} {g}")),
        (select(vec!["HLEN", "HGETALL", "HKEYS", "HVALS"]), key())
            .prop_map(|(c, k)| format!("{c} {k}")),
        (key(), field(), number()).prop_map(|(k, f, n)| format!("HINCRBY {k} {f} {n}")),
        (key(), field(), float()).prop_map(|(k, f, n)| format!("HINCRBYFLOAT {k} {f} {n}")),
        (key(), select(vec!["", " MATCH [fg]", " COUNT 0", " TYPE x"]))
            .prop_map(|(k, o)| format!("HSCAN {k} 0{o}")),
    ]
}

fn set_command() -> impl Strategy<Value = String> {
    let algebra = || select(vec!["SUNION", "SINTER", "SDIFF"]);
    prop_oneof![
        4 => (key(), field(), value(), field())
            .prop_map(|(k, f, v, g)| format!("SADD {k} {f} {v} {g}")),
        2 => (key(), field(), field()).prop_map(|(k, f, g)| format!("SREM {k} {f} {g}")),
        1 => (key(), key(), field()).prop_map(|(a, b, f)| format!("SMOVE {a} {b} {f}")),
        1 => (select(vec!["SCARD", "SMEMBERS"]), key()).prop_map(|(c, k)| format!("{c} {k}")),
        1 => (select(vec!["SISMEMBER", "SMISMEMBER"]), key(), field())
            .prop_map(|(c, k, f)| format!("{c} {k} {f}")),
        1 => (key(), field(), value()).prop_map(|(k, f, v)| format!("SMISMEMBER {k} {f} {v}")),
        // Which members these take by chance would differ: none, all, or what is wrong.
        1 => (key(), select(vec!["0", "1000", "-1", "x", "5 6", "9223372036854775808"]))
            .prop_map(|(k, n)| format!("SPOP {k} {n}")),
        1 => (key(), select(vec!["0", "1000", "-40", "x", "-9223372036854775808", "1 2"]))
            .prop_map(|(k, n)| format!("SRANDMEMBER {k} {n}")),
        2 => (algebra(), key(), key(), key())
            .prop_map(|(c, a, b, d)| format!("{c} {a} {b} {d}")),
        2 => (algebra(), key(), key(), key())
            .prop_map(|(c, a, b, d)| format!("{c}STORE {a} {b} {d}")),
        1 => (algebra(), key()).prop_map(|(c, a)| format!("{c} {a}")),
        1 => (select(vec!["1", "2", "0", "-1", "3", "x"]), key(), key(),
              select(vec!["", " LIMIT 1", " LIMIT 0", " LIMIT -1", " LIMIT x", " limit", " BAD 1"]))
            .prop_map(|(n, a, b, o)| format!("SINTERCARD {n} {a} {b}{o}")),
        1 => (key(), select(vec!["", " MATCH [fg]", " COUNT 0", " TYPE x", " COUNT x"]))
            .prop_map(|(k, o)| format!("SSCAN {k} 0{o}")),
    ]
}

fn score() -> impl Strategy<Value = &'static str> {
    select(vec![
        "0",
        "1",
        "1.1",
        "-3",
        "2e2",
        "-0",
        "1e17",
        "0.00001",
        "inf",
        "-inf",
        "+5.",
        "0x1p3",
        "3",
        "x",
        "nan",
        "1e400",
        "9007199254740993",
    ])
}

fn score_bound() -> impl Strategy<Value = &'static str> {
    select(vec![
        "-inf", "+inf", "inf", "0", "(0", "1", "(1.1", "200", "(200", "x", "(x", "nan", "(",
    ])
}

fn name_bound() -> impl Strategy<Value = &'static str> {
    select(vec!["-", "+", "[f", "(f", "[h", "(i", "[", "(zz", "x", "[g"])
}

fn rank() -> impl Strategy<Value = &'static str> {
    select(vec!["0", "1", "2", "-1", "-2", "3", "100", "-100", "x", "-9223372036854775808"])
}

fn range_limit() -> impl Strategy<Value = &'static str> {
    select(vec![
        "",
        "",
        " LIMIT 0 2",
        " LIMIT 1 -1",
        " LIMIT -1 2",
        " LIMIT 9 9",
        " LIMIT 1 0",
        " LIMIT x 1",
        " LIMIT 1",
    ])
}

fn sorted_set_change() -> impl Strategy<Value = String> {
    let options = || {
        select(vec![
            "",
            "",
            "",
            "",
            " NX",
            " XX",
            " GT",
            " LT",
            " CH",
            " INCR",
            " XX CH",
            " GT CH",
            " NX XX",
            " NX GT",
            " GT LT",
            " XX GT INCR",
            " NX INCR",
            " lt ch incr",
        ])
    };
    prop_oneof![
        5 => (key(), options(), score(), field()).prop_map(|(k, o, s, f)| format!("ZADD {k}{o} {s} {f}")),
        4 => (key(), options(), (score(), field()), (score(), field()))
            .prop_map(|(k, o, (s, f), (t, g))| format!("ZADD {k}{o} {s} {f} {t} {g}")),
        // One score for all, for the ranges by name.
        4 => (key(), field(), field()).prop_map(|(k, f, g)| format!("ZADD {k} 0 {f} 0 {g}")),
        1 => (key(), score()).prop_map(|(k, s)| format!("ZADD {k} CH {s}")),
        2 => (key(), score(), field()).prop_map(|(k, s, f)| format!("ZINCRBY {k} {s} {f}")),
        2 => (key(), field(), field()).prop_map(|(k, f, g)| format!("ZREM {k} {f} {g}")),
        1 => (key(), rank(), rank()).prop_map(|(k, a, b)| format!("ZREMRANGEBYRANK {k} {a} {b}")),
        1 => (key(), score_bound(), score_bound())
            .prop_map(|(k, a, b)| format!("ZREMRANGEBYSCORE {k} {a} {b}")),
        2 => (select(vec!["ZPOPMIN", "ZPOPMAX"]), key(), select(vec!["", " 0", " 2", " 9", " -1", " x", " 1 1"]))
            .prop_map(|(c, k, n)| format!("{c} {k}{n}")),
        2 => (select(vec!["1", "2", "0", "3", "x"]), key(), key(),
              select(vec![" MIN", " MAX", " MIN COUNT 2", " max count 9", " MIN COUNT 0", " MIN COUNT",
                          " MID", "", " MIN COUNT 1 COUNT 1"]))
            .prop_map(|(n, a, b, o)| format!("ZMPOP {n} {a} {b}{o}")),
        1 => (select(vec!["BZPOPMIN", "BZPOPMAX"]), key(), key(), select(vec!["0.001", "-1", "x"]))
            .prop_map(|(c, a, b, t)| format!("{c} {a} {b} {t}")),
        1 => (select(vec!["1", "2", "0", "x"]), key(), select(vec![" MIN", " MAX", " MIN COUNT 2", ""]))
            .prop_map(|(n, k, o)| format!("BZMPOP 0.001 {n} {k}{o}")),
        2 => (key(), key(), score_bound(), score_bound(), range_limit(), select(vec!["", " REV"]))
            .prop_map(|(a, b, min, max, l, r)| format!("ZRANGESTORE {a} {b} {min} {max} BYSCORE{l}{r}")),
        1 => (key(), key(), rank(), rank(), select(vec!["", " REV", " WITHSCORES", " LIMIT 1 1"]))
            .prop_map(|(a, b, min, max, o)| format!("ZRANGESTORE {a} {b} {min} {max}{o}")),
    ]
}

fn sorted_set_read() -> impl Strategy<Value = String> {
    let scores = || select(vec!["", "", " WITHSCORES", " withscores"]);
    prop_oneof![
        1 => key().prop_map(|k| format!("ZCARD {k}")),
        2 => (select(vec!["ZSCORE", "ZRANK", "ZREVRANK"]), key(), field())
            .prop_map(|(c, k, f)| format!("{c} {k} {f}")),
        1 => (key(), field(), field()).prop_map(|(k, f, g)| format!("ZMSCORE {k} {f} {g}")),
        3 => (select(vec!["ZRANGE", "ZREVRANGE"]), key(), rank(), rank(), scores())
            .prop_map(|(c, k, a, b, s)| format!("{c} {k} {a} {b}{s}")),
        1 => (key(), rank(), rank(), select(vec![" REV", " LIMIT 0 1", " LIMIT 0 -1", " BYSCORE BYLEX", " BAD"]))
            .prop_map(|(k, a, b, o)| format!("ZRANGE {k} {a} {b}{o}")),
        3 => (select(vec!["ZRANGEBYSCORE", "ZREVRANGEBYSCORE", "ZCOUNT"]), key(), score_bound(), score_bound(),
              scores(), range_limit())
            .prop_map(|(c, k, a, b, s, l)| match c {
                "ZCOUNT" => format!("{c} {k} {a} {b}"),
                _ => format!("{c} {k} {a} {b}{s}{l}"),
            }),
        2 => (key(), score_bound(), score_bound(), scores(), range_limit(), select(vec!["", " REV"]))
            .prop_map(|(k, a, b, s, l, r)| format!("ZRANGE {k} {a} {b}{l}{s} BYSCORE{r}")),
        1 => (key(), select(vec!["", " MATCH [fg]", " COUNT 0", " TYPE x"]))
            .prop_map(|(k, o)| format!("ZSCAN {k} 0{o}")),
        1 => (select(vec!["ZRANDMEMBER", "HRANDFIELD"]), key(),
              select(vec!["0", "1000", "-40", "x", "-9223372036854775808", "1000 WITHSCORES", "1000 withvalues",
                          "9223372036854775807 WITHVALUES", "1 WITHSCORES x", "-3 WITHSCORES"]))
            .prop_map(|(c, k, n)| format!("{c} {k} {n}")),
    ]
}

fn sorted_set_algebra() -> impl Strategy<Value = String> {
    let count = || select(vec!["1", "2", "2", "2", "2", "0", "-1", "3", "x"]);
    let options = || {
        select(vec![
            "",
            "",
            " WITHSCORES",
            " WEIGHTS 2 -1",
            " WEIGHTS inf 0",
            " WEIGHTS 1",
            " WEIGHTS x 1",
            " AGGREGATE MIN",
            " aggregate max WEIGHTS 1 2 WITHSCORES",
            " AGGREGATE SUM WITHSCORES",
            " AGGREGATE BAD",
            " LIMIT 1",
            " LIMIT 0",
            " LIMIT -1",
        ])
    };
    let name = || select(vec!["ZUNION", "ZINTER", "ZDIFF", "ZINTERCARD"]);
    prop_oneof![
        3 => (name(), count(), key(), key(), options())
            .prop_map(|(c, n, a, b, o)| format!("{c} {n} {a} {b}{o}")),
        2 => (select(vec!["ZUNIONSTORE", "ZINTERSTORE", "ZDIFFSTORE"]), key(), count(), key(), key(), options())
            .prop_map(|(c, d, n, a, b, o)| format!("{c} {d} {n} {a} {b}{o}")),
        1 => (name(), key()).prop_map(|(c, a)| format!("{c} 1 {a}")),
    ]
}

/// Keys of their own, most members of which have one score, as ranges by name want it.
fn sorted_set_names() -> impl Strategy<Value = String> {
    let key = || select(vec!["n", "m"]);
    prop_oneof![
        4 => (key(), field(), field()).prop_map(|(k, f, g)| format!("ZADD {k} 0 {f} 0 {g}")),
        1 => (key(), field()).prop_map(|(k, f)| format!("ZREM {k} {f}")),
        1 => (key(), score(), field()).prop_map(|(k, s, f)| format!("ZADD {k} {s} {f}")),
        1 => key().prop_map(|k| format!("ZADD {k} 0 f 1 g 2 h 3 i")),
        3 => (select(vec!["ZRANGEBYLEX", "ZREVRANGEBYLEX", "ZLEXCOUNT"]), key(), name_bound(), name_bound(),
              range_limit())
            .prop_map(|(c, k, a, b, l)| match c {
                "ZLEXCOUNT" => format!("{c} {k} {a} {b}"),
                _ => format!("{c} {k} {a} {b}{l}"),
            }),
        1 => (key(), name_bound(), name_bound(), range_limit(), select(vec!["", " REV", " WITHSCORES"]))
            .prop_map(|(k, a, b, l, r)| format!("ZRANGE {k} {a} {b} BYLEX{l}{r}")),
        1 => (key(), name_bound(), name_bound())
            .prop_map(|(k, a, b)| format!("ZREMRANGEBYLEX {k} {a} {b}")),
        1 => (key(), key(), name_bound(), name_bound(), range_limit())
            .prop_map(|(a, b, min, max, l)| format!("ZRANGESTORE {a} {b} {min} {max} BYLEX{l}")),
    ]
}

fn sorted_set_command() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => sorted_set_change(),
        4 => sorted_set_read(),
        2 => sorted_set_algebra(),
        3 => sorted_set_names(),
    ]
}

fn stream_command() -> impl Strategy<Value = String> {
    let trim = || {
        select(vec![
            "",
            "",
            "",
            " MAXLEN 2",
            " MAXLEN = 0",
            " MINID 2",
            " MAXLEN -1",
            " MINID x",
            " LIMIT 5",
            " MAXLEN 3 LIMIT 1",
            " MAXLEN 1 MINID 1",
            " NOMKSTREAM",
            " MINID = 5-5",
        ])
    };
    let count =
        || select(vec!["", "", " COUNT 1", " COUNT 2", " COUNT 0", " COUNT -3", " COUNT x"]);
    prop_oneof![
        6 => (key(), trim(), id(), field(), value())
            .prop_map(|(k, t, i, f, v)| format!("XADD {k}{t} {i} {f} {v}")),
        1 => (key(), id(), field()).prop_map(|(k, i, f)| format!("XADD {k} {i} {f}")),
        1 => (key(), trim()).prop_map(|(k, t)| format!("XTRIM {k}{t}")),
        2 => (key(), id(), id()).prop_map(|(k, i, j)| format!("XDEL {k} {i} {j}")),
        1 => key().prop_map(|k| format!("XLEN {k}")),
        2 => (key(), bound(), bound(), count()).prop_map(|(k, a, b, c)| format!("XRANGE {k} {a} {b}{c}")),
        2 => (key(), bound(), bound(), count())
            .prop_map(|(k, a, b, c)| format!("XREVRANGE {k} {a} {b}{c}")),
        1 => (count(), key(), key(), id(), id())
            .prop_map(|(c, k, l, i, j)| format!("XREAD{c} STREAMS {k} {l} {i} {j}")),
        1 => (key(), key()).prop_map(|(k, l)| format!("XREAD STREAMS {k} {l} $")),
        1 => (key(), id()).prop_map(|(k, i)| format!("XREAD STREAMS {k} {i}")),
        2 => key().prop_map(|k| format!("XINFO STREAM {k}")),
        // Redis does not tell watchers of XSETID; only keys that are never watched get it.
        1 => (select(vec!["c", "d"]), id(), select(vec!["", " ENTRIESADDED 9 MAXDELETEDID 2-0",
              " ENTRIESADDED 1", " MAXDELETEDID 99-0", " ENTRIESADDED -1", " NOPE"]))
            .prop_map(|(k, i, o)| format!("XSETID {k} {i}{o}")),
    ]
}

fn list_command() -> impl Strategy<Value = String> {
    let index = || select(vec!["0", "1", "2", "-1", "-2", "-9", "5", "9223372036854775807", "x"]);
    let end = || select(vec!["LEFT", "RIGHT", "left", "UP"]);
    let element = || select(vec!["f", "g", "h"]);
    let push = || select(vec!["LPUSH", "RPUSH", "LPUSH", "RPUSH", "LPUSHX", "RPUSHX"]);
    let positions = select(vec!["", " RANK -1", " RANK 2", " RANK 0", " RANK -2 MAXLEN 3"]);
    let matches =
        select(vec!["", " COUNT 0", " COUNT 2", " COUNT -1", " MAXLEN 2", " MAXLEN -1", " BAD 1"]);
    prop_oneof![
        4 => (push(), key(), element()).prop_map(|(c, k, e)| format!("{c} {k} {e}")),
        4 => (push(), key(), element(), element(), value())
            .prop_map(|(c, k, e, f, g)| format!("{c} {k} {e} {f} {g} {e} {e}")),
        2 => (select(vec!["LPOP", "RPOP"]), key(), select(vec!["", "", " 2", " 0", " 9", " -1", " x", " 1 2"]))
            .prop_map(|(c, k, n)| format!("{c} {k}{n}")),
        1 => key().prop_map(|k| format!("LLEN {k}")),
        1 => (key(), index()).prop_map(|(k, i)| format!("LINDEX {k} {i}")),
        3 => (key(), index(), index()).prop_map(|(k, i, j)| format!("LRANGE {k} {i} {j}")),
        2 => (key(), index(), element()).prop_map(|(k, i, e)| format!("LSET {k} {i} {e}")),
        1 => (key(), index(), index()).prop_map(|(k, i, j)| format!("LTRIM {k} {i} {j}")),
        2 => (key(), index(), element()).prop_map(|(k, i, e)| format!("LREM {k} {i} {e}")),
        2 => (key(), select(vec!["BEFORE", "after", "AT"]), element(), value())
            .prop_map(|(k, s, p, e)| format!("LINSERT {k} {s} {p} {e}")),
        2 => (key(), element(), positions, matches).prop_map(|(k, e, r, c)| format!("LPOS {k} {e}{r}{c}")),
        2 => (key(), key(), end(), end()).prop_map(|(a, b, f, t)| format!("LMOVE {a} {b} {f} {t}")),
        1 => (key(), key()).prop_map(|(a, b)| format!("RPOPLPUSH {a} {b}")),
        2 => (select(vec!["1", "2", "0", "-1", "9", "x"]), key(), key(), end(),
              select(vec!["", " COUNT 2", " COUNT 0", " COUNT x", " BAD"]))
            .prop_map(|(n, a, b, e, c)| format!("LMPOP {n} {a} {b} {e}{c}")),
        // Where there is nothing, Redis takes up to 100 ms to say so.
        1 => (select(vec!["BLPOP", "BRPOP"]), key(), key(), select(vec!["0.001", "-1", "x", "1e30x"]))
            .prop_map(|(c, a, b, t)| format!("{c} {a} {b} {t}")),
        1 => (key(), key(), end(), end()).prop_map(|(a, b, f, t)| format!("BLMOVE {a} {b} {f} {t} 0.001")),
        1 => (select(vec!["1", "2", "9", "x"]), key(), end())
            .prop_map(|(n, k, e)| format!("BLMPOP 0.001 {n} {k} {e} COUNT 2")),
        1 => (key(), end(), select(vec!["", " COUNT 3"])).prop_map(|(k, e, c)| format!("LMPOP 1 {k} {e}{c}")),
    ]
}

/// Redis does not tell watchers of what happens to a group; only keys that are never watched have any.
fn group_command() -> impl Strategy<Value = String> {
    let stream = || select(vec!["c", "d"]);
    let group = || select(vec!["g", "g", "g", "h"]);
    let consumer = || select(vec!["alice", "bob", "eve"]);
    let count =
        || select(vec!["", "", " COUNT 1", " COUNT 2", " COUNT 0", " COUNT -1", " COUNT x"]);
    let idle = || select(vec!["0", "0", "-1", "50000", "x"]);
    let after = || select(vec![">", ">", ">", ">", "0", "0", "1-2", "5", "$", "x"]);
    let claim = || {
        select(vec![
            "",
            "",
            " JUSTID",
            " FORCE",
            " FORCE JUSTID",
            " IDLE 90000",
            " RETRYCOUNT 7 FORCE",
            " TIME 1000",
            " IDLE x",
            " RETRYCOUNT -2",
            " LASTID 5-0",
            " NOPE",
            " TIME 99999999999999",
        ])
    };
    prop_oneof![
        4 => (stream(), group(), select(vec!["0", "0", "$", "2-0", "x", "-"]),
              select(vec!["", " MKSTREAM", " MKSTREAM", " ENTRIESREAD 2", " ENTRIESREAD -2", " NOPE"]))
            .prop_map(|(k, g, i, o)| format!("XGROUP CREATE {k} {g} {i}{o}")),
        1 => (stream(), group(), select(vec!["0", "$", "1-1", "-", "+", "x"]),
              select(vec!["", "", " ENTRIESREAD 3", " MKSTREAM"]))
            .prop_map(|(k, g, i, o)| format!("XGROUP SETID {k} {g} {i}{o}")),
        1 => (stream(), group()).prop_map(|(k, g)| format!("XGROUP DESTROY {k} {g}")),
        2 => (select(vec!["CREATECONSUMER", "DELCONSUMER"]), stream(), group(), consumer())
            .prop_map(|(c, k, g, n)| format!("XGROUP {c} {k} {g} {n}")),
        1 => select(vec!["XGROUP NOPE c g", "XGROUP CREATE c", "XGROUP DESTROY c g x", "XINFO NOPE c",
              "XINFO STREAM", "XINFO GROUPS c d", "XINFO STREAM c FULL COUNT", "XINFO STREAM c NOPE",
              "XREAD STREAMS c >", "XREAD GROUP g a STREAMS c 0", "XREADGROUP STREAMS a b c d > > >",
              "XREADGROUP GROUP g x STREAMS c", "XREAD NOACK STREAMS c 0", "XREAD COUNT STREAMS c"])
            .prop_map(String::from),
        8 => (group(), consumer(), count(), select(vec!["", "", " NOACK"]), stream(), after())
            .prop_map(|(g, n, c, o, k, i)| format!("XREADGROUP GROUP {g} {n}{c}{o} STREAMS {k} {i}")),
        1 => (group(), consumer(), after(), after())
            .prop_map(|(g, n, i, j)| format!("XREADGROUP GROUP {g} {n} STREAMS c d {i} {j}")),
        3 => (stream(), group(), id(), id()).prop_map(|(k, g, i, j)| format!("XACK {k} {g} {i} {j}")),
        2 => (stream(), group()).prop_map(|(k, g)| format!("XPENDING {k} {g}")),
        2 => (stream(), group(), select(vec!["", "", " IDLE 50000", " IDLE x", " IDLE 0"]), bound(),
              bound(), select(vec!["10", "1", "0", "-1", "x"]), select(vec!["", " bob", " nobody"]))
            .prop_map(|(k, g, o, a, b, c, n)| format!("XPENDING {k} {g}{o} {a} {b} {c}{n}")),
        3 => (stream(), group(), consumer(), idle(), id(), id(), claim())
            .prop_map(|(k, g, n, t, i, j, o)| format!("XCLAIM {k} {g} {n} {t} {i} {j}{o}")),
        3 => (stream(), group(), consumer(), idle(), select(vec!["0", "-", "2-0", "(1-1", "x", "+"]),
              select(vec!["", " COUNT 1", " COUNT 2 JUSTID", " JUSTID", " COUNT 0", " NOPE"]))
            .prop_map(|(k, g, n, t, i, o)| format!("XAUTOCLAIM {k} {g} {n} {t} {i}{o}")),
        2 => (stream(), select(vec!["", " FULL", " FULL COUNT 1", " FULL COUNT 0", " FULL COUNT x"]))
            .prop_map(|(k, o)| format!("XINFO STREAM {k}{o}")),
        2 => stream().prop_map(|k| format!("XINFO GROUPS {k}")),
        2 => (stream(), group()).prop_map(|(k, g)| format!("XINFO CONSUMERS {k} {g}")),
        4 => (stream(), id(), field(), value()).prop_map(|(k, i, f, v)| format!("XADD {k} {i} {f} {v}")),
        1 => (stream(), id()).prop_map(|(k, i)| format!("XDEL {k} {i}")),
        1 => stream().prop_map(|k| format!("XTRIM {k} MAXLEN 2")),
    ]
}

/// Commands that choose and drop databases. Three of them, so that sequences meet themselves.
fn database_command() -> impl Strategy<Value = String> {
    select(vec![
        "SELECT 0",
        "SELECT 0",
        "SELECT 1",
        "SELECT 15",
        "SELECT 16",
        "SELECT -1",
        "SELECT x",
        "FLUSHDB",
        "FLUSHDB ASYNC",
        "FLUSHALL SYNC",
        "FLUSHDB x",
        "DBSIZE",
        "MOVE a 1",
        "MOVE a 0",
        "MOVE c 15",
        "MOVE a x",
        "MOVE a 16",
        "COPY a b DB 1",
        "COPY c a DB 0 REPLACE",
        "COPY c c DB 15",
        "COPY a b DB 99",
        "SWAPDB x 1",
        "SWAPDB 0 y",
        "SWAPDB 0 16",
        "SWAPDB 2 2",
    ])
    .prop_map(String::from)
}

fn transaction_command() -> impl Strategy<Value = String> {
    select(vec![
        "MULTI",
        "MULTI",
        "EXEC",
        "EXEC",
        "EXEC",
        "DISCARD",
        "UNWATCH",
        "WATCH a",
        "WATCH a b",
        "WATCH",
        "EXEC extra",
    ])
    .prop_map(String::from)
}

fn op() -> impl Strategy<Value = Op> {
    let command = prop_oneof![
        4 => string_command(),
        3 => key_command(),
        4 => hash_command(),
        5 => set_command(),
        8 => sorted_set_command(),
        5 => stream_command(),
        5 => list_command(),
        5 => group_command(),
        1 => database_command(),
        3 => transaction_command(),
    ];
    prop_oneof![
        150 => (0..2usize, command).prop_map(|(connection, text)| Op::Run(connection, text)),
        3 => (0..2usize, key(), restored()).prop_map(|(c, k, text)| Op::Exchange(c, k, text)),
        1 => Just(Op::Reopen),
    ]
}

/// RESTORE with `@` in place of the payload.
fn restored() -> impl Strategy<Value = String> {
    let options = select(vec![
        "",
        "",
        " REPLACE",
        " REPLACE",
        " replace absttl",
        " ABSTTL IDLETIME 5",
        " REPLACE FREQ 255",
        " FREQ 256",
        " FREQ 1 IDLETIME 1",
        " IDLETIME",
        " IDLETIME -1",
        " IDLETIME x",
        " NOPE",
    ]);
    let payload = select(vec!["@", "@", "@", "@", "@", "@x", "x", "0123456789"]);
    let expiry = select(vec!["0", "0", "0", "-1", "x", FUTURE_MS]);
    (key(), expiry, payload, options).prop_map(|(k, t, p, o)| {
        // A time from now would end at different moments.
        let absolute = if t == FUTURE_MS { " ABSTTL" } else { "" };
        format!("RESTORE {k} {t} {p}{absolute}{o}")
    })
}

/// Redis in memory only, ended by its pid.
pub struct Oracle {
    child: Child,
    dir: TempDir,
}

impl Oracle {
    pub fn start() -> Oracle {
        Oracle::start_in(TempDir::new())
    }

    /// With the `dump.rdb` of this directory, if there is one.
    pub fn start_in(dir: TempDir) -> Oracle {
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(dir.join("r"))
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed (apt-get install redis-server)");
        Oracle { child, dir }
    }

    pub fn connect(&self) -> Client {
        Client::unix(&self.socket())
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("r")
    }

    /// The file that SAVE writes.
    pub fn file(&self) -> PathBuf {
        self.dir.join("dump.rdb")
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

struct Pair {
    oracle: Oracle,
    _dir: TempDir,
    config: hawser_kv::Config,
    server: Option<hawser_kv::Handle>,
    ours: Vec<Client>,
    theirs: Vec<Client>,
    resp3: bool,
    /// The commands queued since MULTI on each connection, to know how to read the answer of EXEC.
    queued: [Vec<Vec<Vec<u8>>>; 2],
}

impl Pair {
    fn start() -> Pair {
        let dir = TempDir::new();
        let config = crate::support::config(&dir);
        let server = Some(crate::support::start(&config));
        let (oracle, resp3) = (Oracle::start(), false);
        let (ours, theirs) = (Vec::new(), Vec::new());
        Pair { oracle, _dir: dir, config, server, ours, theirs, resp3, queued: Default::default() }
    }

    fn connect(&mut self) {
        self.ours = (0..2).map(|_| Client::unix(&self.config.unix)).collect();
        self.theirs = (0..2).map(|_| self.oracle.connect()).collect();
        self.queued = Default::default();
        if self.resp3 {
            for client in self.ours.iter_mut().chain(&mut self.theirs) {
                assert!(!client.run("HELLO 3").is_error());
            }
        }
    }

    fn begin(&mut self, resp3: bool) {
        self.resp3 = resp3;
        self.connect();
        for client in [&mut self.ours[0], &mut self.theirs[0]] {
            assert_eq!(client.run("FLUSHALL"), Value::Simple("OK".into()));
        }
    }

    fn reopen(&mut self) {
        self.ours.clear();
        crate::support::stop(self.server.take().expect("it runs"));
        self.server = Some(crate::support::start(&self.config));
        self.connect();
    }

    /// Both answers, in a form that may be compared.
    fn run(&mut self, connection: usize, command: &[Vec<u8>]) -> (Value, Value) {
        let ours = self.ours[connection].call(command);
        let theirs = self.theirs[connection].call(command);
        let is_queued = theirs == Value::Simple("QUEUED".into());
        let queued = std::mem::take(&mut self.queued[connection]);
        let answers = match (&ours, &theirs) {
            (Value::Array(ours), Value::Array(theirs))
                if command[0].eq_ignore_ascii_case(b"EXEC") && ours.len() == theirs.len() =>
            {
                let read = |answers: &[Value]| {
                    let each = answers.iter().cloned().zip(&queued);
                    Value::Array(
                        each.map(|(answer, command)| comparable(command, answer)).collect(),
                    )
                };
                (read(ours), read(theirs))
            }
            _ => (comparable(command, ours), comparable(command, theirs)),
        };
        let first = command[0].to_ascii_uppercase();
        if is_queued || !matches!(&first[..], b"EXEC" | b"DISCARD") {
            self.queued[connection] = queued;
        }
        if is_queued {
            self.queued[connection].push(command.to_vec());
        }
        answers
    }
}

impl Pair {
    /// Each server gets what the other one dumps. Where that is no payload, its answer is all there is.
    fn exchange(&mut self, connection: usize, key: &str, restore: &str) -> (Value, Value) {
        let dump = words(&format!("DUMP {key}"));
        let ours = self.ours[connection].call(&dump);
        let theirs = self.theirs[connection].call(&dump);
        let (Value::Bulk(our_payload), Value::Bulk(their_payload)) = (&ours, &theirs) else {
            if theirs == Value::Simple("QUEUED".into()) {
                self.queued[connection].push(dump);
            }
            return (ours, theirs);
        };
        let with = |payload: &[u8]| {
            let mut words = words(restore);
            if words[3].first() == Some(&b'@') {
                words[3].splice(..1, payload.iter().copied());
            }
            words
        };
        let ours = self.ours[connection].call(&with(their_payload));
        (ours, self.theirs[connection].call(&with(our_payload)))
    }
}

thread_local! {
    static PAIR: RefCell<Option<Pair>> = const { RefCell::new(None) };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_of_redis(resp3: bool, ops in prop::collection::vec(op(), 1..160)) {
        // Given back only when it is known to be good.
        let mut pair = PAIR.take().unwrap_or_else(Pair::start);
        pair.begin(resp3);
        for op in &ops {
            match op {
                Op::Reopen => pair.reopen(),
                Op::Exchange(connection, key, restore) => {
                    let (ours, theirs) = pair.exchange(*connection, key, restore);
                    prop_assert_eq!(ours, theirs, "left is ours: {} of {}", restore, key);
                }
                Op::Run(connection, command) => {
                    let (ours, theirs) = pair.run(*connection, &words(command));
                    prop_assert_eq!(ours, theirs, "left is ours: {}", command);
                }
            }
        }
        PAIR.set(Some(pair));
    }
}
