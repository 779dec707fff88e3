//! What the comparison with Redis cannot show of lists: what their ends leave behind, and the limit of
//! what may move.

use std::ops::ControlFlow;

use hawser_kv::Config;
use hawser_kv::store::database::Database;
use hawser_kv::store::layout::{self, Family, List};
use hawser_kv::store::overlay::Overlay;
use hawser_kv::store::spaces::Selected;
use hawser_kv::store::view::{Direction, Frozen, View};

use crate::support::{Client, TempDir, Value, config, encode, start, stop};

/// Popping and trimming write the metadata alone, whatever goes.
#[test]
fn a_trim_costs_the_same_for_any_length() {
    let dir = TempDir::new();
    let config = config(&dir);
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let mut push = vec!["RPUSH".to_string(), "queue".into()];
    push.extend((0..20_000).map(|number| number.to_string()));
    assert_eq!(client.call(&push), Value::Integer(20_000));
    for (command, answer) in [
        ("LTRIM queue 19000 -1", Value::Simple("OK".into())),
        ("LPOP queue", Value::Bulk(b"19000".to_vec())),
        ("RENAME queue other", Value::Simple("OK".into())),
        ("LLEN other", Value::Integer(999)),
        ("LRANGE other 0 1", Value::Array(vec![19_001, 19_002].into_iter().map(bulk).collect())),
        ("LRANGE other -1 -1", Value::Array(vec![bulk(19_999)])),
    ] {
        let before = server.metrics().log_bytes;
        assert_eq!(client.run(command), answer, "{command}");
        // A rename copies, but only what is left.
        let bytes_max = if command.starts_with("RENAME") { 999 * 64 } else { 200 };
        assert!(server.metrics().log_bytes - before <= bytes_max, "{command}");
    }
    stop(server);
}

fn bulk(number: i64) -> Value {
    Value::Bulk(number.to_string().into_bytes())
}

#[test]
fn compaction_drops_what_a_list_left_behind() {
    let dir = TempDir::new();
    let database = Database::open(dir.path(), 8 << 20, 1 << 20).expect("a new database");
    let indices = || {
        let (lower, upper) = layout::whole_space();
        let mut found = Vec::new();
        let visit = &mut |member: &[u8], _: &[u8]| {
            let index = member.last_chunk::<8>().expect("an index");
            found.push(u64::from_be_bytes(*index));
            ControlFlow::Continue(())
        };
        let view = Frozen::new(&database, Selected::default());
        view.scan(Family::Member, &lower, &upper, Direction::Forward, visit).expect("readable");
        found
    };
    let list = |head: u64, tail: u64| List { version: 1, head, tail };
    let put = |overlay: &mut Overlay<'_>, list: List| {
        overlay.put(Family::Metadata, layout::metadata_key(b"l"), list.encode(0));
    };
    let mut overlay = Overlay::new(&database, 1);
    put(&mut overlay, list(10, 20));
    for index in 10..20u64 {
        let member = layout::member_key(b"l", 1, &index.to_be_bytes());
        overlay.put(Family::Member, member, b"e".to_vec());
    }
    database.apply(1, &overlay.encode()).expect("applied");
    database.flush().expect("flushed");
    let mut overlay = Overlay::new(&database, 2);
    put(&mut overlay, list(13, 18));
    database.apply(2, &overlay.encode()).expect("applied");
    assert_eq!(indices(), (10..20).collect::<Vec<_>>());
    database.compact();
    assert_eq!(indices(), (13..18).collect::<Vec<_>>());
}

/// An element goes into the middle while what has to move may be changed at once.
#[test]
fn what_moves_in_a_list_is_bounded() {
    const ELEMENT_BYTES: usize = 512 * 1024;
    let dir = TempDir::new();
    let config = Config { memtable_mib: 64, ..config(&dir) };
    let server = start(&config);
    let mut client = Client::unix(&config.unix);
    let element = "e".repeat(ELEMENT_BYTES);
    let fit = config.changes_bytes_max() / ELEMENT_BYTES - 2;
    assert_eq!(client.run("RPUSH list pivot"), Value::Integer(1));
    for _ in 0..fit {
        client.send(&encode(&["LPUSH", "list", &element]));
        client.send(&encode(&["RPUSH", "list", &element]));
    }
    (0..2 * fit).for_each(|_| assert!(!client.receive().is_error()));
    let length = 2 * fit as i64 + 1;
    assert_eq!(client.run("LINSERT list AFTER pivot x"), Value::Integer(length + 1));
    assert_eq!(client.run("LREM list 1 x"), Value::Integer(1));
    for _ in 0..4 {
        assert!(!client.call(&["LPUSH", "list", &element]).is_error());
        assert!(!client.call(&["RPUSH", "list", &element]).is_error());
    }
    for command in
        ["LINSERT list AFTER pivot x", "LINSERT list BEFORE pivot x", "LREM list 1 pivot"]
    {
        let refused = client.run(command).text();
        assert!(refused.starts_with("ERR this would change more than"), "{command}: {refused}");
    }
    assert_eq!(client.run("LLEN list"), Value::Integer(length + 8));
    assert_eq!(client.run("LPOS list pivot"), Value::Integer(fit as i64 + 4));
    stop(server);
}
