//! What the store must hold: a few commands of Redis, written a second time and much simpler.
//!
//! One model belongs to one writer, whose keys nobody else writes. What all writers write together, a
//! stream and a counter, is accounted for by whoever compares ([`crate::oracle`]).

use std::collections::{BTreeMap, VecDeque};

use crate::client::{Answer, Client, Words, encode, words};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    String(Vec<u8>),
    Hash(Fields),
    List(VecDeque<Vec<u8>>),
    /// Ids `n-0` by their first part, and the value of the one field.
    Stream(BTreeMap<u64, Vec<u8>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub value: Value,
    /// Unix time in seconds; none of these times comes.
    pub expires_at: Option<i64>,
}

pub type Fields = BTreeMap<Vec<u8>, Vec<u8>>;

pub type Keys = BTreeMap<Vec<u8>, Entry>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub keys: Keys,
}

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

type Outcome = Result<Answer, &'static str>;

/// The value of a key, if it is there and of the right kind.
type Found<'a, T> = Result<Option<&'a mut T>, &'static str>;

fn text(word: &[u8]) -> &str {
    std::str::from_utf8(word).expect("the generator writes text")
}

fn number(word: &[u8]) -> i64 {
    text(word).parse().expect("the generator writes numbers")
}

impl Model {
    /// Does what the command does, and says what it answers.
    pub fn run(&mut self, command: &Words) -> Answer {
        let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        let outcome = match text(args[0]) {
            "SET" | "GET" | "APPEND" | "INCRBY" | "GETDEL" | "MSET" => self.string(&args),
            "HSET" | "HDEL" | "HINCRBY" | "HLEN" => self.hash(&args),
            "XADD" | "XTRIM" | "XDEL" | "XLEN" => self.stream(&args),
            "LPUSH" | "RPUSH" | "LPOP" | "RPOP" | "LLEN" => self.list(&args),
            "DEL" | "RENAME" | "EXPIREAT" | "PERSIST" => self.key(&args),
            other => panic!("the generator does not write {other}"),
        };
        outcome.unwrap_or_else(|error| Answer::Error(error.into()))
    }

    fn put(&mut self, key: &[u8], value: Value) {
        self.keys.insert(key.to_vec(), Entry { value, expires_at: None });
    }

    fn string(&mut self, args: &[&[u8]]) -> Outcome {
        let key = args[1];
        Ok(match (text(args[0]), &args[2..]) {
            ("SET", [value]) => {
                self.put(key, Value::String(value.to_vec()));
                Answer::Simple("OK".into())
            }
            ("MSET", _) => {
                for pair in args[1..].chunks(2) {
                    self.put(pair[0], Value::String(pair[1].to_vec()));
                }
                Answer::Simple("OK".into())
            }
            ("GET", []) => {
                self.string_at(key)?.map_or(Answer::Null, |value| Answer::Bulk(value.clone()))
            }
            ("GETDEL", []) => {
                let found = self.string_at(key)?.map(|value| Answer::Bulk(value.clone()));
                if found.is_some() {
                    self.keys.remove(key);
                }
                found.unwrap_or(Answer::Null)
            }
            ("APPEND", [more]) => {
                if self.string_at(key)?.is_none() {
                    self.put(key, Value::String(Vec::new()));
                }
                let value = self.string_at(key)?.expect("it was made");
                value.extend_from_slice(more);
                Answer::Integer(value.len() as i64)
            }
            ("INCRBY", [by]) => {
                if self.string_at(key)?.is_none() {
                    self.put(key, Value::String(b"0".to_vec()));
                }
                let value = self.string_at(key)?.expect("it was made");
                let Ok(current) = text(value).parse::<i64>() else {
                    return Err("ERR value is not an integer or out of range");
                };
                *value = (current + number(by)).to_string().into_bytes();
                Answer::Integer(current + number(by))
            }
            other => panic!("{other:?}"),
        })
    }

    fn hash(&mut self, args: &[&[u8]]) -> Outcome {
        let key = args[1];
        let is_missing = self.hash_at(key)?.is_none();
        if is_missing && matches!(text(args[0]), "HSET" | "HINCRBY") {
            self.put(key, Value::Hash(BTreeMap::new()));
        }
        let Some(fields) = self.hash_at(key)? else { return Ok(Answer::Integer(0)) };
        let answer = match (text(args[0]), &args[2..]) {
            ("HSET", [field, value]) => {
                i64::from(fields.insert(field.to_vec(), value.to_vec()).is_none())
            }
            ("HDEL", [field]) => i64::from(fields.remove(*field).is_some()),
            ("HLEN", []) => fields.len() as i64,
            ("HINCRBY", [field, by]) => {
                let current = fields.get(*field).map_or(0, |value| number(value));
                fields.insert(field.to_vec(), (current + number(by)).to_string().into_bytes());
                current + number(by)
            }
            other => panic!("{other:?}"),
        };
        if fields.is_empty() {
            self.keys.remove(key);
        }
        Ok(Answer::Integer(answer))
    }

    fn stream(&mut self, args: &[&[u8]]) -> Outcome {
        let key = args[1];
        if self.stream_at(key)?.is_none() {
            if text(args[0]) != "XADD" {
                return Ok(Answer::Integer(0));
            }
            self.put(key, Value::Stream(BTreeMap::new()));
        }
        let entries = self.stream_at(key)?.expect("it was made");
        let id = |word: &[u8]| number(word.strip_suffix(b"-0").expect("our ids")) as u64;
        Ok(match (text(args[0]), &args[2..]) {
            ("XADD", [at, _, value]) => {
                entries.insert(id(at), value.to_vec());
                Answer::Bulk(at.to_vec())
            }
            ("XTRIM", [_, length]) => {
                let excess = entries.len().saturating_sub(number(length) as usize);
                for _ in 0..excess {
                    entries.pop_first();
                }
                Answer::Integer(excess as i64)
            }
            ("XDEL", [at]) => Answer::Integer(i64::from(entries.remove(&id(at)).is_some())),
            ("XLEN", []) => Answer::Integer(entries.len() as i64),
            other => panic!("{other:?}"),
        })
    }

    fn key(&mut self, args: &[&[u8]]) -> Outcome {
        let found = self.keys.get_mut(args[1]);
        Ok(match (text(args[0]), &args[2..]) {
            ("DEL", []) => Answer::Integer(i64::from(self.keys.remove(args[1]).is_some())),
            ("RENAME", [to]) => {
                let entry = self.keys.remove(args[1]).ok_or("ERR no such key")?;
                self.keys.insert(to.to_vec(), entry);
                Answer::Simple("OK".into())
            }
            ("EXPIREAT", [at]) => Answer::Integer(i64::from(
                found.map(|entry| entry.expires_at = Some(number(at))).is_some(),
            )),
            ("PERSIST", []) => Answer::Integer(i64::from(
                found.is_some_and(|entry| entry.expires_at.take().is_some()),
            )),
            other => panic!("{other:?}"),
        })
    }

    fn list(&mut self, args: &[&[u8]]) -> Outcome {
        let key = args[1];
        if self.list_at(key)?.is_none() {
            match text(args[0]) {
                "LPUSH" | "RPUSH" => self.put(key, Value::List(VecDeque::new())),
                "LLEN" => return Ok(Answer::Integer(0)),
                _ => return Ok(Answer::Null),
            }
        }
        let items = self.list_at(key)?.expect("it was made");
        let answer = match (text(args[0]), &args[2..]) {
            ("LPUSH", [item]) => {
                items.push_front(item.to_vec());
                Answer::Integer(items.len() as i64)
            }
            ("RPUSH", [item]) => {
                items.push_back(item.to_vec());
                Answer::Integer(items.len() as i64)
            }
            ("LPOP", []) => Answer::Bulk(items.pop_front().expect("no list is empty")),
            ("RPOP", []) => Answer::Bulk(items.pop_back().expect("no list is empty")),
            ("LLEN", []) => Answer::Integer(items.len() as i64),
            other => panic!("{other:?}"),
        };
        if items.is_empty() {
            self.keys.remove(key);
        }
        Ok(answer)
    }

    fn string_at(&mut self, key: &[u8]) -> Found<'_, Vec<u8>> {
        match self.keys.get_mut(key).map(|entry| &mut entry.value) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    fn hash_at(&mut self, key: &[u8]) -> Found<'_, Fields> {
        match self.keys.get_mut(key).map(|entry| &mut entry.value) {
            None => Ok(None),
            Some(Value::Hash(fields)) => Ok(Some(fields)),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    fn stream_at(&mut self, key: &[u8]) -> Found<'_, BTreeMap<u64, Vec<u8>>> {
        match self.keys.get_mut(key).map(|entry| &mut entry.value) {
            None => Ok(None),
            Some(Value::Stream(entries)) => Ok(Some(entries)),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    fn list_at(&mut self, key: &[u8]) -> Found<'_, VecDeque<Vec<u8>>> {
        match self.keys.get_mut(key).map(|entry| &mut entry.value) {
            None => Ok(None),
            Some(Value::List(items)) => Ok(Some(items)),
            Some(_) => Err(WRONG_TYPE),
        }
    }
}

/// What the names of keys that all writers write start with.
pub const SHARED: &[u8] = b"shared:";

/// What a reader says of a server that closed the connection.
pub const GONE: &str = "the server went away while it was read";

pub fn show(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// Everything the server has, but for what is shared. An answer that no sound store gives is a violation.
pub fn read_all(client: &mut Client) -> Result<Keys, String> {
    let names: Vec<Answer> = client.run("KEYS *").ok_or(GONE)?.items();
    let names = names.iter().map(|name| name.text().into_bytes());
    let names: Vec<Vec<u8>> = names.filter(|name| !name.starts_with(SHARED)).collect();
    let mut asked = Vec::new();
    for name in &names {
        for command in [&b"TYPE"[..], b"EXPIRETIME"] {
            encode(&mut asked, &vec![command.to_vec(), name.clone()]);
        }
    }
    client.send(&asked).ok_or(GONE)?;
    let mut found = Vec::new();
    let mut asked = Vec::new();
    for name in names {
        let kind = client.receive().ok_or(GONE)?.text();
        let expires_at = match client.receive().ok_or(GONE)? {
            Answer::Integer(-1) => None,
            Answer::Integer(at) => Some(at),
            other => return Err(format!("EXPIRETIME {} answered {other:?}", show(&name))),
        };
        let mut command = words(match kind.as_str() {
            "string" => "GET",
            "hash" => "HGETALL",
            "stream" => "XRANGE",
            "list" => "LRANGE",
            other => return Err(format!("{} is of the kind {other}", show(&name))),
        });
        command.push(name.clone());
        match kind.as_str() {
            "stream" => command.extend(words("- +")),
            "list" => command.extend(words("0 -1")),
            _ => {}
        }
        encode(&mut asked, &command);
        found.push((name, kind, expires_at));
    }
    client.send(&asked).ok_or(GONE)?;
    let mut keys = Keys::new();
    for (name, kind, expires_at) in found {
        let answer = client.receive().ok_or(GONE)?;
        let value = value(&kind, answer)
            .ok_or_else(|| format!("the {kind} {} is not readable as one", show(&name)))?;
        keys.insert(name, Entry { value, expires_at });
    }
    Ok(keys)
}

fn value(kind: &str, answer: Answer) -> Option<Value> {
    if kind == "string" {
        return Some(Value::String(bytes(answer)?));
    }
    let Answer::Array(items) = answer else { return None };
    let items = items.into_iter();
    Some(match kind {
        "list" => Value::List(items.map(bytes).collect::<Option<_>>()?),
        "hash" => {
            let mut items = items.map(bytes);
            let mut fields = BTreeMap::new();
            while let (Some(field), Some(value)) = (items.next(), items.next()) {
                fields.insert(field?, value?);
            }
            Value::Hash(fields)
        }
        _ => Value::Stream(items.map(entry).collect::<Option<_>>()?),
    })
}

fn bytes(answer: Answer) -> Option<Vec<u8>> {
    match answer {
        Answer::Bulk(bytes) => Some(bytes),
        _ => None,
    }
}

fn entry(answer: Answer) -> Option<(u64, Vec<u8>)> {
    let [id, fields] = <[Answer; 2]>::try_from(answer.items()).ok()?;
    let first = id.text().strip_suffix("-0")?.parse().ok()?;
    Some((first, bytes(fields.items().pop()?)?))
}
