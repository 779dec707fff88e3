//! `hawser kv get` and `info`.

use std::io::Write;

use anyhow::bail;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redis::{Value as Answer, cmd};
use serde_json::{Map, Value, json};

use super::super::out::{self, Format};
use super::store::Store;
use super::{GetArgs, InfoArgs};

pub fn get(args: &GetArgs, format: Format) -> anyhow::Result<()> {
    let mut store = args.target.connect()?;
    let key = &args.key;
    let kind: String = store.ask(cmd("TYPE").arg(key))?;
    let ttl_ms: i64 = store.ask(cmd("PTTL").arg(key))?;
    if kind == "none" {
        bail!("there is no key {key:?}");
    }
    let (value, has_more) = value(&mut store, key, &kind, args.limit as usize)?;
    match format {
        Format::Json => out::json(&json!({
            "key": key,
            "type": kind,
            "ttl_ms": (ttl_ms >= 0).then_some(ttl_ms),
            "value": in_json(&value),
            "has_more": has_more,
        }))?,
        Format::Human => {
            let mut stdout = std::io::stdout().lock();
            lines(&value, &mut stdout)?;
            stdout.flush()?;
            if has_more {
                eprintln!("there is more; --limit shows it");
            }
        }
    }
    Ok(())
}

/// What a key holds, as far as `limit`, and whether there is more.
fn value(store: &mut Store, key: &str, kind: &str, limit: usize) -> anyhow::Result<(Answer, bool)> {
    let end = limit.saturating_sub(1);
    let (command, width) = match kind {
        "string" => return Ok((store.ask(cmd("GET").arg(key))?, false)),
        "list" => (cmd("LRANGE").arg(key).arg(0).arg(limit).clone(), 1),
        "zset" => (cmd("ZRANGE").arg(key).arg(0).arg(limit).arg("WITHSCORES").clone(), 2),
        "stream" => (cmd("XRANGE").arg(key).arg("-").arg("+").arg("COUNT").arg(end + 2).clone(), 1),
        "hash" => return walk(store, "HSCAN", key, limit, 2),
        "set" => return walk(store, "SSCAN", key, limit, 1),
        other => bail!("this program does not know the type {other:?}"),
    };
    let Answer::Array(mut items) = store.ask(&command)? else { bail!("the answer is no array") };
    let has_more = items.len() > limit * width;
    items.truncate(limit * width);
    Ok((pairs(items, width), has_more))
}

/// Pages, since the whole of it may be larger than any answer.
fn walk(
    store: &mut Store,
    command: &str,
    key: &str,
    limit: usize,
    width: usize,
) -> anyhow::Result<(Answer, bool)> {
    let (mut cursor, mut found) = (0u64, Vec::new());
    loop {
        let page = cmd(command).arg(key).arg(cursor).arg("COUNT").arg(1000).clone();
        let (next, items): (u64, Vec<Answer>) = store.ask(&page)?;
        found.extend(items);
        cursor = next;
        if cursor == 0 || found.len() > limit * width {
            let has_more = found.len() > limit * width;
            found.truncate(limit * width);
            return Ok((pairs(found, width), has_more));
        }
    }
}

fn pairs(items: Vec<Answer>, width: usize) -> Answer {
    match width {
        1 => Answer::Array(items),
        _ => Answer::Array(items.chunks(width).map(|pair| Answer::Array(pair.to_vec())).collect()),
    }
}

fn in_json(value: &Answer) -> Value {
    match value {
        Answer::Array(items) => Value::Array(items.iter().map(in_json).collect()),
        Answer::BulkString(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::String(text.to_string()),
            Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
        },
        Answer::Int(number) => json!(number),
        Answer::SimpleString(text) => json!(text),
        Answer::Nil => Value::Null,
        other => Value::String(format!("{other:?}")),
    }
}

/// A line for each member; what belongs together is on one line with tabs between.
fn lines(value: &Answer, out: &mut impl Write) -> std::io::Result<()> {
    match value {
        Answer::Array(items) => items.iter().try_for_each(|item| {
            words(item, out)?;
            out.write_all(b"\n")
        }),
        single => {
            words(single, out)?;
            out.write_all(b"\n")
        }
    }
}

fn words(value: &Answer, out: &mut impl Write) -> std::io::Result<()> {
    match value {
        Answer::Array(items) => items.iter().enumerate().try_for_each(|(index, item)| {
            if index > 0 {
                out.write_all(b"\t")?;
            }
            words(item, out)
        }),
        Answer::BulkString(bytes) => out.write_all(bytes),
        Answer::Int(number) => write!(out, "{number}"),
        Answer::SimpleString(text) => out.write_all(text.as_bytes()),
        _ => Ok(()),
    }
}

pub fn info(args: &InfoArgs, format: Format) -> anyhow::Result<()> {
    let text: String = args.target.connect()?.ask(cmd("INFO").arg(&args.section))?;
    let mut sections: Vec<(String, Vec<(&str, &str)>)> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# ") {
            sections.push((name.to_lowercase(), Vec::new()));
        } else if let (Some((_, facts)), Some(fact)) = (sections.last_mut(), line.split_once(':')) {
            facts.push(fact);
        }
    }
    if sections.is_empty() {
        bail!("there is no such section; `hawser kv info everything` shows all");
    }
    if format == Format::Json {
        let sections = sections.iter().map(|(name, facts)| {
            let facts: Map<String, Value> =
                facts.iter().map(|(name, value)| (name.to_string(), fact(value))).collect();
            (name.clone(), Value::Object(facts))
        });
        return out::json(&Value::Object(sections.collect()));
    }
    for (name, facts) in &sections {
        let rows: Vec<(&str, String)> =
            facts.iter().map(|(name, value)| (*name, (*value).to_string())).collect();
        out::line(format!("{}\n{}", name.to_uppercase(), out::pairs(&rows)))?;
    }
    Ok(())
}

/// A number where it is one.
fn fact(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
}
