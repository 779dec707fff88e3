//! Answers without what may differ between two servers that both are right.

use crate::support::Value;

/// Takes out what may differ: the order of unordered things, time left, and Redis's radix tree.
pub fn comparable(command: &[Vec<u8>], answer: Value) -> Value {
    let name = String::from_utf8_lossy(&command[0]).to_uppercase();
    match (name.as_str(), answer) {
        ("SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER", Value::Array(items))
            if command[2].starts_with(b"-") =>
        {
            Value::Integer(items.len() as i64)
        }
        ("HRANDFIELD" | "ZRANDMEMBER", Value::Array(items)) if command.len() > 3 => {
            match items.first() {
                Some(Value::Array(_)) => {
                    let mut items = items;
                    items.sort();
                    Value::Array(items)
                }
                _ => sorted_pairs(items),
            }
        }
        (
            "HKEYS" | "HVALS" | "KEYS" | "SMEMBERS" | "SPOP" | "SRANDMEMBER" | "SUNION" | "SINTER"
            | "SDIFF" | "HRANDFIELD" | "ZRANDMEMBER",
            Value::Array(mut items),
        ) => {
            items.sort();
            Value::Array(items)
        }
        (_, Value::Set(mut items)) => {
            items.sort();
            Value::Set(items)
        }
        ("DUMP", Value::Bulk(_)) => Value::Simple("a payload".into()),
        ("HGETALL", Value::Array(items)) => sorted_pairs(items),
        ("HGETALL", Value::Map(mut pairs)) => {
            pairs.sort();
            Value::Map(pairs)
        }
        ("SCAN" | "HSCAN" | "SSCAN" | "ZSCAN", Value::Array(mut page)) if page.len() == 2 => {
            if let Value::Array(items) = page.pop().expect("two") {
                let mut items = items;
                if name == "ZSCAN" {
                    items.iter_mut().skip(1).step_by(2).for_each(write_score_alike);
                }
                page.push(if name == "HSCAN" || name == "ZSCAN" {
                    sorted_pairs(items)
                } else {
                    items.sort();
                    Value::Array(items)
                });
            }
            Value::Array(page)
        }
        ("TTL" | "PTTL", Value::Integer(left)) => Value::Integer(left.min(1)),
        ("XINFO", answer) if matches!(command, [_, what, ..] if !what.eq_ignore_ascii_case(b"STREAM")) => {
            without_times(answer)
        }
        ("XPENDING", Value::Array(items)) if command.len() > 3 => {
            Value::Array(items.into_iter().map(|item| without_time_at(item, 2)).collect())
        }
        ("XINFO", Value::Array(items)) => {
            let items = items.into_iter().map(without_times).collect::<Vec<_>>();
            let pairs = items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            without_radix_tree(pairs)
        }
        ("XINFO", Value::Map(pairs)) => {
            let Value::Map(pairs) = without_times(Value::Map(pairs)) else { unreachable!() };
            without_radix_tree(pairs)
        }
        (_, answer) => answer,
    }
}

/// Redis writes a large whole score one way in a small sorted set, and another way in a large one.
fn write_score_alike(score: &mut Value) {
    if let Value::Bulk(text) = score
        && let Some(number) =
            std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok())
    {
        *text = number.to_string().into_bytes();
    }
}

fn sorted_pairs(items: Vec<Value>) -> Value {
    let mut pairs: Vec<Vec<Value>> = items.chunks(2).map(<[Value]>::to_vec).collect();
    pairs.sort();
    Value::Array(pairs.concat())
}

/// The answer without the moments that are in it.
fn without_times(answer: Value) -> Value {
    let is_time = |name: &Value| matches!(name, Value::Bulk(name) if matches!(&name[..], b"idle" | b"seen-time"));
    let is_pending = |name: &Value| matches!(name, Value::Bulk(name) if &name[..] == b"pending");
    let known = |name: &Value, value: Value| match value {
        Value::Integer(_) if is_time(name) => Value::Integer(0),
        Value::Array(items) if is_pending(name) => Value::Array(
            items
                .into_iter()
                .map(|item| {
                    let place = matches!(&item, Value::Array(parts) if parts.len() == 4);
                    without_time_at(item, if place { 2 } else { 1 })
                })
                .collect(),
        ),
        value => without_times(value),
    };
    match answer {
        Value::Map(pairs) => Value::Map(
            pairs
                .into_iter()
                .map(|(name, value)| {
                    let value = known(&name, value);
                    (name, value)
                })
                .collect(),
        ),
        Value::Array(items) => {
            let mut found: Vec<Value> = Vec::new();
            for item in items {
                let item = match found.last() {
                    Some(name) => known(name, item),
                    None => without_times(item),
                };
                found.push(item);
            }
            Value::Array(found)
        }
        other => other,
    }
}

fn without_time_at(item: Value, place: usize) -> Value {
    let Value::Array(mut parts) = item else { return item };
    if let Some(part @ Value::Integer(_)) = parts.get_mut(place) {
        *part = Value::Integer(0);
    }
    Value::Array(parts)
}

fn without_radix_tree(mut pairs: Vec<(Value, Value)>) -> Value {
    pairs.retain(|(name, _)| !name.text().starts_with("radix-tree"));
    Value::Map(pairs)
}
