//! The two operations that look before they write: `WATCH`, reads, `MULTI` .. `EXEC`.
//!
//! `EXEC` answers nil when another writer changed what was watched; then nothing was done and the
//! result is `Conflict`. The connection belongs to the transaction. If it ends early the caller
//! drops the connection, and with it whatever was watched.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use hawser_codec::ids::{AppId, Seq};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};

use super::Trouble;
use super::commands::{append, entries, entry_id, good, info, optional_bytes, range_of_one, tail};
use crate::node::event::{Keyed, NewEntry, Outcome, Removal, StoreOp, StoreResult, StreamId, Tail};
use crate::records::{
    APPS_KEY, APPS_VERSION_KEY, Pointer, collapse_key, record_key, stream_key, tombstone_key,
};

/// Executes `op` on a connection of its own. `committing` is set right before `EXEC` is sent.
pub async fn run(
    op: &StoreOp,
    connection: &mut MultiplexedConnection,
    committing: &AtomicBool,
) -> Result<StoreResult, Trouble> {
    match op {
        StoreOp::AppendAll { stream, entries_max, entries } => {
            append_all(*stream, *entries_max, entries, connection, committing).await
        }
        StoreOp::WriteApp { expected, app, record } => {
            write_app(*expected, *app, record, connection, committing).await
        }
        _ => unreachable!("not a transaction"),
    }
}

async fn append_all(
    stream: StreamId,
    entries_max: u64,
    new: &[NewEntry],
    connection: &mut MultiplexedConnection,
    committing: &AtomicBool,
) -> Result<StoreResult, Trouble> {
    let seen = look(stream, new, connection).await?;
    if let Some(result) = nothing_to_write(&seen, entries_max) {
        send(connection, redis::pipe().cmd("UNWATCH")).await?;
        return Ok(result);
    }
    let mut pipeline = Pipeline::new();
    pipeline.cmd("MULTI");
    let outcomes = write(stream, new, &seen, &mut pipeline);
    info(&mut pipeline, stream);
    pipeline.cmd("EXEC");
    committing.store(true, Relaxed);
    match commit(connection, &pipeline).await? {
        Some(mut results) => {
            let reply = results.pop().ok_or(Trouble::Unexpected("an empty transaction"))?;
            Ok(StoreResult::AppendedAll { tail: tail(reply)?, outcomes })
        }
        None => Ok(StoreResult::Conflict),
    }
}

/// The result if every entry is a duplicate, or if those that are not would fill the stream.
fn nothing_to_write(seen: &Seen, entries_max: u64) -> Option<StoreResult> {
    let stored = seen.records.iter().filter(|record| record.is_none()).count() as u64;
    if stored == 0 {
        let known = seen.records.iter().flatten();
        let outcomes = known.map(|&pointer| Outcome::Duplicate(pointer)).collect();
        return Some(StoreResult::AppendedAll { tail: seen.tail, outcomes });
    }
    let removed = seen.earlier.iter().flatten().count() as u64;
    let full = seen.tail.entries + stored - removed > entries_max;
    full.then_some(StoreResult::Full(seen.tail))
}

/// What stands in the store before the transaction.
struct Seen {
    tail: Tail,
    /// Per entry: what its idempotency record points to.
    records: Vec<Option<Pointer>>,
    /// Per entry: the entry that its collapse key stands for, if that exists.
    earlier: Vec<Option<Pointer>>,
}

async fn look(
    stream: StreamId,
    new: &[NewEntry],
    connection: &mut MultiplexedConnection,
) -> Result<Seen, Trouble> {
    let record = |keyed: &Keyed| record_key(stream, keyed.key);
    let collapse = |keyed: &Keyed| collapse_key(stream, keyed.key);
    let record_keys: Vec<Option<String>> =
        new.iter().map(|entry| entry.record.as_ref().map(record)).collect();
    let collapse_keys: Vec<Option<String>> =
        new.iter().map(|entry| entry.collapse.as_ref().map(collapse)).collect();
    let mut pipeline = Pipeline::new();
    let watch = pipeline.cmd("WATCH").arg(stream_key(stream));
    for key in record_keys.iter().chain(&collapse_keys).flatten() {
        watch.arg(key);
    }
    info(&mut pipeline, stream);
    for key in record_keys.iter().chain(&collapse_keys).flatten() {
        pipeline.cmd("GET").arg(key);
    }
    let mut replies = send(connection, &pipeline).await?.into_iter();
    let mut next = || replies.next().ok_or(Trouble::Unexpected("fewer replies than commands"));
    good(next()?)?;
    let tail = tail(next()?)?;
    let mut pointers = |keys: &[Option<String>]| {
        let pointers = keys.iter().map(|key| match key {
            Some(_) => Ok(optional_bytes(next()?)?.as_deref().and_then(Pointer::decode)),
            None => Ok(None),
        });
        pointers.collect::<Result<Vec<Option<Pointer>>, Trouble>>()
    };
    let records = pointers(&record_keys)?;
    let mut collapses = pointers(&collapse_keys)?;
    // A duplicate is not stored, so it replaces nothing.
    for (collapse, record) in collapses.iter_mut().zip(&records) {
        *collapse = collapse.filter(|_| record.is_none());
    }
    let earlier = existing(stream, &collapses, connection).await?;
    Ok(Seen { tail, records, earlier })
}

/// Those of the pointed-to entries that the stream still has.
async fn existing(
    stream: StreamId,
    pointers: &[Option<Pointer>],
    connection: &mut MultiplexedConnection,
) -> Result<Vec<Option<Pointer>>, Trouble> {
    let mut pipeline = Pipeline::new();
    for pointer in pointers.iter().flatten() {
        range_of_one(&mut pipeline, stream, pointer.seq);
    }
    if pipeline.is_empty() {
        return Ok(vec![None; pointers.len()]);
    }
    let mut replies = send(connection, &pipeline).await?.into_iter();
    let found = pointers.iter().map(|pointer| match pointer {
        Some(pointer) => {
            let reply = replies.next().ok_or(Trouble::Unexpected("fewer replies than commands"))?;
            Ok((!entries(reply)?.is_empty()).then_some(*pointer))
        }
        None => Ok(None),
    });
    found.collect()
}

/// Appends the commands between `MULTI` and `EXEC`.
fn write(stream: StreamId, new: &[NewEntry], seen: &Seen, out: &mut Pipeline) -> Vec<Outcome> {
    let mut last = seen.tail.last;
    let outcomes = new.iter().enumerate().map(|(index, entry)| {
        if let Some(pointer) = seen.records[index] {
            return Outcome::Duplicate(pointer);
        }
        last = last.next();
        append(out, stream, last, &entry.entry);
        let pointer = Pointer { seq: last, expires_unix_ms: entry.expires_unix_ms }.encode();
        if let Some(Keyed { key, keep_ms }) = entry.record {
            let set = out.cmd("SET").arg(record_key(stream, key)).arg(&pointer[..]);
            set.arg("PX").arg(keep_ms);
        }
        let Some(Keyed { key, keep_ms }) = entry.collapse else {
            return Outcome::Stored { seq: last };
        };
        let set = out.cmd("SET").arg(collapse_key(stream, key)).arg(&pointer[..]);
        set.arg("PX").arg(keep_ms);
        match seen.earlier[index] {
            Some(earlier) => {
                let longer_ms = earlier.expires_unix_ms.saturating_sub(entry.expires_unix_ms);
                remove(stream, earlier.seq, keep_ms + longer_ms, out);
                Outcome::Collapsed { seq: last, earlier: earlier.seq }
            }
            None => Outcome::Stored { seq: last },
        }
    });
    outcomes.collect()
}

/// Removes the entry that a newer one replaces. What became of it can be asked for as long as if it
/// had lived.
fn remove(stream: StreamId, earlier: Seq, keep_ms: u64, out: &mut Pipeline) {
    out.cmd("XDEL").arg(stream_key(stream)).arg(entry_id(earlier));
    let set = out.cmd("SET").arg(tombstone_key(stream, earlier)).arg(Removal::Collapsed.as_str());
    set.arg("PX").arg(keep_ms);
}

async fn write_app(
    expected: u64,
    app: AppId,
    record: &Bytes,
    connection: &mut MultiplexedConnection,
    committing: &AtomicBool,
) -> Result<StoreResult, Trouble> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("WATCH").arg(APPS_VERSION_KEY);
    pipeline.cmd("GET").arg(APPS_VERSION_KEY);
    let mut replies = send(connection, &pipeline).await?.into_iter();
    good(replies.next().unwrap_or_default())?;
    let version = match optional_bytes(replies.next().unwrap_or_default())? {
        Some(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()),
        None => Some(0),
    };
    if version != Some(expected) {
        send(connection, redis::pipe().cmd("UNWATCH")).await?;
        return Ok(StoreResult::Conflict);
    }
    let mut pipeline = Pipeline::new();
    pipeline.cmd("MULTI");
    pipeline.cmd("HSET").arg(APPS_KEY).arg(app.0).arg(&record[..]);
    pipeline.cmd("SET").arg(APPS_VERSION_KEY).arg(expected + 1);
    pipeline.cmd("EXEC");
    committing.store(true, Relaxed);
    match commit(connection, &pipeline).await? {
        Some(_) => Ok(StoreResult::AppWritten),
        None => Ok(StoreResult::Conflict),
    }
}

/// Sends `MULTI` .. `EXEC`. `None`: another writer was first.
async fn commit(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
) -> Result<Option<Vec<Value>>, Trouble> {
    let mut replies = send(connection, pipeline).await?;
    match replies.pop() {
        Some(Value::Nil) => Ok(None),
        Some(Value::Array(results)) => {
            // The store executes all or none, but one that breaks this must not pass unseen, and
            // nobody knows then what was done.
            match results.iter().any(|result| matches!(result, Value::ServerError(_))) {
                true => Err(Trouble::Connection),
                false => Ok(Some(results)),
            }
        }
        Some(reply) => {
            good(reply)?;
            Err(Trouble::Unexpected("EXEC answers an array or nil"))
        }
        None => Err(Trouble::Unexpected("no answer to EXEC")),
    }
}

async fn send(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
) -> Result<Vec<Value>, Trouble> {
    let replies = connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
    match replies {
        Ok(replies) if replies.len() == pipeline.len() => Ok(replies),
        Ok(_) => Err(Trouble::Unexpected("fewer replies than commands")),
        Err(_) => Err(Trouble::Connection),
    }
}
