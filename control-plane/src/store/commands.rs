//! Store operations as RESP commands, and replies as results.
//!
//! [`encode`] appends an operation's commands to a pipeline and says how many; [`decode`] takes
//! that many replies. The commands of each operation are written down at [`StoreOp`].

use bytes::Bytes;
use hawser_codec::ids::{AppId, Seq};
use hawser_kv::command::error::OUTCOME_OPEN;
use redis::{Pipeline, Value};

use super::Trouble;
use crate::node::event::{
    Count, CountField, Expired, Removal, StoreOp, StoreResult, StreamId, Tail, Trim,
};
use crate::records::{
    APPS_KEY, APPS_VERSION_KEY, App, ENTRY_FIELD, NewApp, STREAM_PATTERN, count_key,
    parse_stream_key, stream_key, tombstone_key,
};

/// Appends the commands of an operation, of `ReadApps` those of the first step.
/// Returns how many there are.
pub fn encode(op: &StoreOp, out: &mut Pipeline) -> usize {
    let before = out.len();
    match op {
        StoreOp::Append { stream, seq, entry } => append(out, *stream, *seq, entry),
        StoreOp::Tail { stream } => info(out, *stream),
        StoreOp::Read { stream, after, count } => {
            info(out, *stream);
            let from = entry_id(Seq(after.0 + 1));
            out.cmd("XRANGE").arg(stream_key(*stream)).arg(from).arg("+").arg("COUNT").arg(*count);
        }
        StoreOp::Find { stream, seq } => {
            info(out, *stream);
            range_of_one(out, *stream, *seq);
            out.cmd("GET").arg(tombstone_key(*stream, *seq));
        }
        StoreOp::Trim { trims } => {
            for Trim { stream, upto } in trims {
                let first_kept = entry_id(Seq(upto.0 + 1));
                out.cmd("XTRIM").arg(stream_key(*stream)).arg("MINID").arg(first_kept);
            }
        }
        StoreOp::Delete { stream, entries } => {
            out.cmd("MULTI");
            for Expired { seq, keep_ms } in entries {
                let tombstone = tombstone_key(*stream, *seq);
                let set = out.cmd("SET").arg(tombstone).arg(Removal::Expired.as_str());
                set.arg("PX").arg(*keep_ms).arg("NX");
                out.cmd("XDEL").arg(stream_key(*stream)).arg(entry_id(*seq));
            }
            out.cmd("EXEC");
        }
        StoreOp::Scan { cursor, count } => {
            let scan = out.cmd("SCAN").arg(*cursor);
            scan.arg("MATCH").arg(STREAM_PATTERN).arg("COUNT").arg(*count);
        }
        StoreOp::Count { counts } => {
            for Count { key, field, by, keep_ms } in counts {
                let key = count_key(*key);
                out.cmd("HINCRBY").arg(&key).arg(field.as_str()).arg(*by);
                if let Some(keep_ms) = keep_ms {
                    out.cmd("PEXPIRE").arg(&key).arg(*keep_ms);
                }
            }
        }
        StoreOp::ReadCounts { keys } => {
            for key in keys {
                out.cmd("HGETALL").arg(count_key(*key));
            }
        }
        StoreOp::ReadApps { .. } => {
            out.cmd("GET").arg(APPS_VERSION_KEY);
        }
        StoreOp::AppendAll { .. } | StoreOp::WriteApp { .. } => {
            unreachable!("transactions have a file of their own")
        }
    }
    out.len() - before
}

/// The result of an operation that ends with its first step.
pub fn decode(
    op: &StoreOp,
    replies: &mut impl Iterator<Item = Value>,
) -> Result<StoreResult, Trouble> {
    let mut next = || replies.next().ok_or(Trouble::Unexpected("fewer replies than commands"));
    match op {
        StoreOp::Append { .. } => match next()? {
            Value::ServerError(error) if is_conflict(&error) => Ok(StoreResult::Conflict),
            reply => good(reply).map(|_| StoreResult::Appended),
        },
        StoreOp::Tail { .. } => Ok(StoreResult::Tail(tail(next()?)?)),
        StoreOp::Read { .. } => {
            Ok(StoreResult::Entries { tail: tail(next()?)?, entries: entries(next()?)? })
        }
        StoreOp::Find { .. } => Ok(StoreResult::Found {
            tail: tail(next()?)?,
            entry: entries(next()?)?.pop().map(|(_, entry)| entry),
            removal: optional_bytes(next()?)?.as_deref().and_then(Removal::parse),
        }),
        StoreOp::Trim { trims } => {
            let removed = trims.iter().map(|_| unsigned(next()?));
            Ok(StoreResult::Trimmed(removed.collect::<Result<_, Trouble>>()?))
        }
        StoreOp::Scan { .. } => scanned(next()?),
        StoreOp::Count { counts } => {
            for count in counts {
                good(next()?)?;
                if count.keep_ms.is_some() {
                    good(next()?)?;
                }
            }
            Ok(StoreResult::Counted)
        }
        StoreOp::ReadCounts { keys } => {
            let counts = keys.iter().map(|_| count_fields(next()?));
            Ok(StoreResult::Counts(counts.collect::<Result<_, Trouble>>()?))
        }
        StoreOp::Delete { entries, .. } => {
            for _ in 0..1 + 2 * entries.len() {
                good(next()?)?;
            }
            deleted(next()?)
        }
        StoreOp::ReadApps { .. } | StoreOp::AppendAll { .. } | StoreOp::WriteApp { .. } => {
            unreachable!("operations of several steps")
        }
    }
}

/// What follows the first step of an operation.
pub enum Next {
    Ends(StoreResult),
    Step(Step),
}

/// Commands, and how to read their answers.
pub struct Step {
    pub pipeline: Pipeline,
    pub finish: Box<dyn FnOnce(Vec<Value>) -> Result<StoreResult, Trouble> + Send>,
}

pub fn next_step(op: &StoreOp, replies: Vec<Value>) -> Result<Next, Trouble> {
    match op {
        StoreOp::ReadApps { known } => read_apps(*known, replies),
        _ => unreachable!("operations of one step"),
    }
}

/// What `EXEC` answers for pairs of a tombstone and a deletion.
fn deleted(reply: Value) -> Result<StoreResult, Trouble> {
    let Value::Array(results) = good(reply)? else {
        return Err(Trouble::Unexpected("EXEC answers an array"));
    };
    let mut count = 0;
    for pair in results.chunks_exact(2) {
        count += unsigned(pair[1].clone())?;
    }
    Ok(StoreResult::Deleted(count))
}

/// The apps, if their version is not the known one. They may be newer than the version: then the
/// next read finds a new version and the same apps.
fn read_apps(known: u64, replies: Vec<Value>) -> Result<Next, Trouble> {
    let reply = replies.into_iter().next().ok_or(Trouble::Unexpected("no version"))?;
    let version = match optional_bytes(reply)? {
        Some(bytes) => number(&bytes)?,
        None => 0,
    };
    if version == known {
        return Ok(Next::Ends(StoreResult::Apps { version, apps: None }));
    }
    let mut pipeline = Pipeline::new();
    pipeline.cmd("HGETALL").arg(APPS_KEY);
    let finish = Box::new(move |replies: Vec<Value>| {
        let reply = replies.into_iter().next().ok_or(Trouble::Unexpected("no apps"))?;
        let mut apps: Vec<App> = pairs(reply)?
            .into_iter()
            // What a later version wrote is left alone.
            .filter_map(|(id, record)| {
                let id = AppId(std::str::from_utf8(&id).ok()?.parse().ok()?);
                Some(App { id, new: NewApp::decode(&record)? })
            })
            .collect();
        apps.sort_by_key(|app| app.id);
        Ok(StoreResult::Apps { version, apps: Some(apps) })
    });
    Ok(Next::Step(Step { pipeline, finish }))
}

pub fn append(out: &mut Pipeline, stream: StreamId, seq: Seq, entry: &Bytes) {
    let add = out.cmd("XADD").arg(stream_key(stream)).arg(entry_id(seq));
    add.arg(ENTRY_FIELD).arg(&entry[..]);
}

pub fn info(out: &mut Pipeline, stream: StreamId) {
    out.cmd("XINFO").arg("STREAM").arg(stream_key(stream));
}

pub fn range_of_one(out: &mut Pipeline, stream: StreamId, seq: Seq) {
    let id = entry_id(seq);
    out.cmd("XRANGE").arg(stream_key(stream)).arg(&id).arg(&id);
}

pub fn entry_id(seq: Seq) -> String {
    format!("{}-0", seq.0)
}

/// `XADD` with an id that is not above the top one.
fn is_conflict(error: &redis::ServerError) -> bool {
    error.details().is_some_and(|details| details.contains("equal or smaller"))
}

/// Whatever is not an error. hawser-kv says so when it cannot tell whether a write was done; every
/// other error means that it was not.
pub fn good(reply: Value) -> Result<Value, Trouble> {
    match reply {
        Value::ServerError(error) => match error.code() {
            OUTCOME_OPEN => Err(Trouble::Open(error.to_string())),
            _ => Err(Trouble::Refused(error.to_string())),
        },
        reply => Ok(reply),
    }
}

/// The answer of `XINFO STREAM`. A stream that does not exist is an empty one.
pub fn tail(reply: Value) -> Result<Tail, Trouble> {
    if let Value::ServerError(error) = &reply
        && error.details().is_some_and(|details| details.contains("no such key"))
    {
        return Ok(Tail::default());
    }
    let mut tail = Tail::default();
    for (name, value) in fields(reply)? {
        match &name[..] {
            b"length" => tail.entries = unsigned(value)?,
            b"last-generated-id" => tail.last = seq(&bytes(value)?)?,
            b"first-entry" => tail.first = first(value)?,
            _ => {}
        }
    }
    Ok(tail)
}

/// The number in `first-entry`, which is nil or empty when there is none.
fn first(value: Value) -> Result<Option<Seq>, Trouble> {
    match value {
        Value::Nil => Ok(None),
        value => match array(value)?.into_iter().next() {
            Some(id) => Ok(Some(seq(&bytes(id)?)?)),
            None => Ok(None),
        },
    }
}

/// The answer of `XRANGE`. An entry without our field is somebody else's and reads as empty.
pub fn entries(reply: Value) -> Result<Vec<(Seq, Bytes)>, Trouble> {
    let entries = array(reply)?.into_iter().map(|entry| {
        let mut parts = array(entry)?.into_iter();
        let (Some(id), Some(values)) = (parts.next(), parts.next()) else {
            return Err(Trouble::Unexpected("an entry without fields"));
        };
        let values = pairs(values)?;
        let ours = values.into_iter().find(|(name, _)| name == ENTRY_FIELD);
        Ok((seq(&bytes(id)?)?, ours.map(|(_, value)| Bytes::from(value)).unwrap_or_default()))
    });
    entries.collect()
}

fn scanned(reply: Value) -> Result<StoreResult, Trouble> {
    let mut parts = array(reply)?.into_iter();
    let (Some(cursor), Some(keys)) = (parts.next(), parts.next()) else {
        return Err(Trouble::Unexpected("a scan without cursor or keys"));
    };
    let mut streams = Vec::new();
    for key in array(keys)? {
        let key = bytes(key)?;
        streams.extend(std::str::from_utf8(&key).ok().and_then(parse_stream_key));
    }
    Ok(StoreResult::Scanned { cursor: number(&bytes(cursor)?)?, streams })
}

fn count_fields(reply: Value) -> Result<Vec<(CountField, u64)>, Trouble> {
    let mut counts = Vec::new();
    for (name, value) in pairs(reply)? {
        if let Some(field) = CountField::parse(&name) {
            counts.push((field, number(&value)?));
        }
    }
    counts.sort_by_key(|&(field, _)| field);
    Ok(counts)
}

pub fn unsigned(reply: Value) -> Result<u64, Trouble> {
    match good(reply)? {
        Value::Int(value) => {
            u64::try_from(value).map_err(|_| Trouble::Unexpected("a negative number"))
        }
        _ => Err(Trouble::Unexpected("not a number")),
    }
}

pub fn optional_bytes(reply: Value) -> Result<Option<Vec<u8>>, Trouble> {
    match reply {
        Value::Nil => Ok(None),
        reply => bytes(reply).map(Some),
    }
}

fn bytes(reply: Value) -> Result<Vec<u8>, Trouble> {
    match good(reply)? {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        _ => Err(Trouble::Unexpected("not a string")),
    }
}

fn array(reply: Value) -> Result<Vec<Value>, Trouble> {
    match good(reply)? {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(Trouble::Unexpected("not an array")),
    }
}

/// A name and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// Names and values that alternate, the values as they are.
fn fields(reply: Value) -> Result<Vec<(Vec<u8>, Value)>, Trouble> {
    let mut values = array(reply)?.into_iter();
    let mut fields = Vec::with_capacity(values.len() / 2);
    while let Some(name) = values.next() {
        let value = values.next().ok_or(Trouble::Unexpected("a name without a value"))?;
        fields.push((bytes(name)?, value));
    }
    Ok(fields)
}

fn pairs(reply: Value) -> Result<Vec<Pair>, Trouble> {
    fields(reply)?.into_iter().map(|(name, value)| Ok((name, bytes(value)?))).collect()
}

fn number(bytes: &[u8]) -> Result<u64, Trouble> {
    let text = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    text.ok_or(Trouble::Unexpected("not a decimal number"))
}

fn seq(id: &[u8]) -> Result<Seq, Trouble> {
    let number_of_id = id.split(|&b| b == b'-').next().unwrap_or_default();
    Seq::new(number(number_of_id)?).map_err(|_| Trouble::Unexpected("a number beyond Seq::MAX"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::event::CountKey;

    fn text(value: &str) -> Value {
        Value::BulkString(value.as_bytes().to_vec())
    }

    #[test]
    fn a_stream_that_is_not_there_is_empty() {
        let entry = Value::Array(vec![text("4-0"), Value::Array(vec![text("m"), text("x")])]);
        let reply = Value::Array(vec![
            text("length"),
            Value::Int(2),
            text("last-generated-id"),
            text("9-0"),
            text("first-entry"),
            entry.clone(),
        ]);
        let expect = Tail { last: Seq(9), entries: 2, first: Some(Seq(4)) };
        assert_eq!(tail(reply), Ok(expect));
        assert_eq!(entries(Value::Array(vec![entry])), Ok(vec![(Seq(4), Bytes::from("x"))]));
        assert!(tail(Value::Int(1)).is_err());
        assert!(entries(Value::Array(vec![Value::Array(vec![text("1-0")])])).is_err());
    }

    #[test]
    fn only_the_code_says_that_nobody_knows() {
        let refused = |line: &str| {
            let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
            good(reply.expect("an error")).expect_err("an error")
        };
        let open = refused(&format!("{OUTCOME_OPEN} the disk is full"));
        assert!(matches!(open, Trouble::Open(_)), "{open:?}");
        for line in ["IOERR nothing was written", "READONLY nothing was written", "ERR OUTCOMEOPEN"]
        {
            let refusal = refused(line);
            assert!(matches!(refusal, Trouble::Refused(_)), "{refusal:?}");
        }
    }

    #[test]
    fn the_number_of_commands_is_the_number_of_replies_read() {
        let stream = StreamId::Group { app: AppId(1) };
        let count = Count {
            key: CountKey::App(AppId(1)),
            field: CountField::Accepted,
            by: 1,
            keep_ms: Some(5),
        };
        for (op, expect) in [
            (StoreOp::Tail { stream }, 1),
            (StoreOp::Read { stream, after: Seq(0), count: 5 }, 2),
            (StoreOp::Find { stream, seq: Seq(1) }, 3),
            (StoreOp::Trim { trims: vec![Trim { stream, upto: Seq(1) }; 3] }, 3),
            (StoreOp::Count { counts: vec![count, Count { keep_ms: None, ..count }] }, 3),
            (StoreOp::ReadCounts { keys: vec![CountKey::App(AppId(1)); 2] }, 2),
        ] {
            assert_eq!(encode(&op, &mut Pipeline::new()), expect, "{op:?}");
        }
    }
}
