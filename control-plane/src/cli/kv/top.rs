//! `hawser kv top`: the largest keys of each type.
//!
//! It walks over all keys with SCAN and asks for each what it takes. Memory: a page of keys, and as many
//! keys of each type as are listed. There is no list of the most read keys: the store does not count reads,
//! and a guess from a sample of its traffic would cost it more than it tells.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use redis::{Value as Answer, cmd, pipe};
use serde_json::json;

use super::super::out::{self, Format};
use super::TopArgs;
use super::store::{Shown, Store, size};

const KEYS_PER_PAGE: usize = 512;

/// Cursors are places, which lie evenly from 0 on.
const CURSORS: f64 = (1u64 << 32) as f64;

/// MEMORY USAGE adds up so many members.
const MEMBERS_MEASURED_MAX: u64 = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Large {
    bytes: u64,
    key: Vec<u8>,
    members: u64,
    is_estimate: bool,
}

#[derive(Default)]
struct OfType {
    keys: u64,
    bytes: u64,
    largest: BinaryHeap<Reverse<Large>>,
}

impl OfType {
    fn add(&mut self, large: Large, listed_max: usize) {
        self.keys += 1;
        self.bytes += large.bytes;
        self.largest.push(Reverse(large));
        if self.largest.len() > listed_max {
            self.largest.pop();
        }
    }
}

pub fn run(args: &TopArgs, format: Format) -> anyhow::Result<()> {
    let mut store = args.target.connect()?;
    let mut types: BTreeMap<String, OfType> = BTreeMap::new();
    let mut shown = Shown::new();
    let (mut cursor, mut keys) = (0u64, 0u64);
    loop {
        let page = cmd("SCAN").arg(cursor).arg("COUNT").arg(KEYS_PER_PAGE).clone();
        let (next, names): (u64, Vec<Vec<u8>>) = store.ask(&page)?;
        keys += names.len() as u64;
        for (kind, large) in measured(&mut store, names)? {
            types.entry(kind).or_default().add(large, args.count);
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
        shown.show(|| format!("{keys} keys, {:.0} %", cursor as f64 * 100.0 / CURSORS));
    }
    shown.end();
    match format {
        Format::Json => out::json(&document(types)),
        Format::Human if types.is_empty() => Ok(out::line("no keys")?),
        Format::Human => Ok(out::line(tables(types))?),
    }
}

/// Type and size of each key. One that has gone meanwhile is left out.
fn measured(store: &mut Store, keys: Vec<Vec<u8>>) -> anyhow::Result<Vec<(String, Large)>> {
    let mut asked = pipe();
    for key in &keys {
        asked.cmd("TYPE").arg(key).cmd("MEMORY").arg("USAGE").arg(key);
    }
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let answers = store.ask_all(&asked)?;
    let mut found: Vec<(String, Large)> = Vec::with_capacity(keys.len());
    for (key, answer) in keys.into_iter().zip(answers.chunks(2)) {
        if let [Answer::SimpleString(kind), Answer::Int(bytes)] = answer {
            let (bytes, members, is_estimate) = (*bytes as u64, 0, false);
            found.push((kind.clone(), Large { bytes, key, members, is_estimate }));
        }
    }
    let mut asked = pipe();
    for (kind, large) in &found {
        let length = match kind.as_str() {
            "hash" => "HLEN",
            "list" => "LLEN",
            "set" => "SCARD",
            "zset" => "ZCARD",
            "stream" => "XLEN",
            _ => "STRLEN",
        };
        asked.cmd(length).arg(&large.key);
    }
    if found.is_empty() {
        return Ok(found);
    }
    // Of another type meanwhile: its length is none of these, and stays 0.
    let answers = store.ask_all(asked.ignore_errors())?;
    for ((kind, large), answer) in found.iter_mut().zip(answers) {
        if let Answer::Int(members) = answer {
            large.members = members as u64;
        }
        if kind != "string" && large.members > MEMBERS_MEASURED_MAX {
            let times = large.members as f64 / MEMBERS_MEASURED_MAX as f64;
            large.bytes = (large.bytes as f64 * times) as u64;
            large.is_estimate = true;
        }
    }
    Ok(found)
}

fn document(types: BTreeMap<String, OfType>) -> serde_json::Value {
    let types = types.into_iter().map(|(kind, of_type)| {
        let OfType { keys, bytes, largest } = of_type;
        let largest = largest.into_sorted_vec().into_iter().map(|Reverse(large)| {
            json!({
                "key": String::from_utf8_lossy(&large.key),
                "bytes": large.bytes,
                "is_estimate": large.is_estimate,
                "length": large.members,
            })
        });
        let largest: Vec<_> = largest.collect();
        (kind, json!({ "keys": keys, "bytes": bytes, "largest": largest }))
    });
    json!({ "types": types.collect::<serde_json::Map<_, _>>() })
}

fn tables(types: BTreeMap<String, OfType>) -> String {
    let tables = types.into_iter().map(|(kind, of_type)| {
        let OfType { keys, bytes, largest } = of_type;
        let rows = largest.into_sorted_vec().into_iter().map(|Reverse(large)| {
            let about = if large.is_estimate { "~" } else { "" };
            vec![
                large.key.escape_ascii().to_string(),
                format!("{about}{}", size(large.bytes)),
                large.members.to_string(),
            ]
        });
        let table = out::table(&["KEY", "BYTES", "LENGTH"], &[1, 2], rows.collect());
        format!("{kind}: {keys} keys, {}\n{table}", size(bytes))
    });
    tables.collect::<Vec<_>>().join("\n")
}
