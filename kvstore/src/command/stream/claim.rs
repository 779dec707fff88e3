//! XCLAIM and XAUTOCLAIM: pending entries change hands when their consumer seems to be gone.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::group::{Change, each_pending};
use super::read::put_entry;
use super::{find_entry, id};
use crate::command::error::{CommandError, shown};
use crate::command::{Write, is_word};
use crate::resp;
use crate::resp::reply::Reply;
use crate::store::layout::{Pending, StreamId};
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;

/// Entries XAUTOCLAIM looks at for each that it may claim, as in Redis.
const ATTEMPTS_FACTOR: u64 = 10;

/// The largest COUNT of XAUTOCLAIM, as in Redis.
const COUNT_MAX: i64 = i64::MAX / 16;

/// How entries are taken over.
struct Claim {
    min_idle_ms: i64,
    delivered_ms: u64,
    /// Instead of one more.
    deliveries: Option<u64>,
    just_id: bool,
}

impl Claim {
    fn takes(&self, pending: &Pending, now_ms: u64) -> bool {
        self.min_idle_ms <= 0 || now_ms as i64 - pending.delivered_ms as i64 >= self.min_idle_ms
    }

    /// Takes an entry over and answers it.
    fn run(
        &self,
        change: &mut Change<'_, '_, '_>,
        (id, entry): (StreamId, &[u8]),
        (mut pending, before): (Pending, Option<&[u8]>),
        consumer: &[u8],
        reply: &mut Reply,
    ) -> Outcome {
        change.see_consumer(consumer)?;
        pending.delivered_ms = self.delivered_ms;
        pending.deliveries = match self.deliveries {
            Some(deliveries) => deliveries,
            None => pending.deliveries + u64::from(!self.just_id),
        };
        pending.consumer = consumer.to_vec();
        change.assign(id, &pending, before)?;
        if self.just_id {
            reply.bulk(&id::text(id));
            return Ok(());
        }
        put_entry(reply, id, entry)
    }
}

fn no_group(args: &[Bytes]) -> CommandError {
    CommandError::NoGroup(shown(&args[1]), shown(&args[2]))
}

struct Options {
    ids: Vec<StreamId>,
    claim: Claim,
    force: bool,
    last: StreamId,
}

impl Options {
    fn parse(args: &[Bytes], now_ms: u64) -> Result<Options, CommandError> {
        let min_idle_ms = number(&args[4], CommandError::ClaimMinIdle("XCLAIM"))?;
        let ids: Vec<StreamId> =
            args[5..].iter().map_while(|text| id::parse(text, 0).ok()).collect();
        let claim = Claim { min_idle_ms, delivered_ms: now_ms, deliveries: None, just_id: false };
        let mut rest = args[5 + ids.len()..].iter();
        let mut found = Options { ids, claim, force: false, last: StreamId::MIN };
        let mut delivered_ms = None;
        while let Some(word) = rest.next() {
            let takes_value = ["idle", "time", "retrycount", "lastid"];
            let value = match takes_value.iter().any(|name| is_word(word, name)) {
                true => rest.next(),
                false => None,
            };
            match value {
                None if is_word(word, "force") => found.force = true,
                None if is_word(word, "justid") => found.claim.just_id = true,
                Some(value) if is_word(word, "idle") => {
                    let idle = number(value, CommandError::ClaimOption("IDLE"))?;
                    delivered_ms = Some((now_ms as i64).wrapping_sub(idle));
                }
                Some(value) if is_word(word, "time") => {
                    delivered_ms = Some(number(value, CommandError::ClaimOption("TIME"))?);
                }
                Some(value) if is_word(word, "retrycount") => {
                    let count = number(value, CommandError::ClaimOption("RETRYCOUNT"))?;
                    found.claim.deliveries = u64::try_from(count).ok();
                }
                Some(value) if is_word(word, "lastid") => found.last = id::parse(value, 0)?,
                _ => return Err(CommandError::ClaimUnrecognized(shown(word))),
            }
        }
        // A time that cannot be is now, as in Redis: clients' clocks differ.
        let past = |ms: &u64| *ms <= now_ms;
        let wanted = delivered_ms.and_then(|ms| u64::try_from(ms).ok()).filter(past);
        found.claim.delivered_ms = wanted.unwrap_or(now_ms);
        Ok(found)
    }
}

fn number(text: &[u8], error: CommandError) -> Result<i64, CommandError> {
    resp::integer(text).ok_or(error)
}

pub fn xclaim(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let (args, now_ms) = (write.args, write.now_ms);
    let found = Change::of(write, &args[1], &args[2])?;
    let mut change = found.ok_or_else(|| no_group(args))?;
    let options = Options::parse(args, now_ms)?;
    let (key, consumer) = (&args[1], &args[3]);
    change.group.last = change.group.last.max(options.last);
    let open = reply.open_array();
    let mut claimed = 0;
    for id in options.ids {
        let pending = change.pending(id)?;
        let Some(entry) = find_entry(change.write.overlay, key, &change.stream, id)? else {
            // It was deleted, and nobody needs to acknowledge it.
            if let Some(pending) = pending {
                change.remove_pending(id, &pending)?;
            }
            continue;
        };
        let before = pending.as_ref().map(|pending| pending.consumer.clone());
        let new = Pending { delivered_ms: now_ms, deliveries: 1, consumer: Vec::new() };
        let pending = match pending {
            Some(pending) if !options.claim.takes(&pending, now_ms) => continue,
            Some(pending) => pending,
            None if options.force => new,
            None => continue,
        };
        let pending = (pending, before.as_deref());
        options.claim.run(&mut change, (id, &entry), pending, consumer, reply)?;
        claimed += 1;
    }
    change.finish();
    reply.close_array(open, claimed);
    Ok(())
}

pub fn xautoclaim(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let (args, now_ms) = (write.args, write.now_ms);
    let min_idle_ms = number(&args[4], CommandError::ClaimMinIdle("XAUTOCLAIM"))?;
    let start = id::parse_start(&args[5])?;
    let (mut count, mut just_id) = (100, false);
    let mut rest = args[6..].iter();
    while let Some(word) = rest.next() {
        match rest.len() {
            1.. if is_word(word, "count") => {
                let value = rest.next().ok_or(CommandError::Syntax)?;
                let valid = resp::integer(value).filter(|count| (1..=COUNT_MAX).contains(count));
                count = valid.ok_or(CommandError::ClaimCount)?;
            }
            _ if is_word(word, "justid") => just_id = true,
            _ => return Err(CommandError::Syntax),
        }
    }
    let found = Change::of(write, &args[1], &args[2])?;
    let mut change = found.ok_or_else(|| no_group(args))?;
    let claim = Claim { min_idle_ms, delivered_ms: now_ms, deliveries: None, just_id };
    auto_claim(&mut change, args, &claim, (start, count as u64), reply)?;
    change.finish();
    Ok(())
}

/// Goes through what is pending from `start` on.
fn auto_claim(
    change: &mut Change<'_, '_, '_>,
    args: &[Bytes],
    claim: &Claim,
    (start, mut count): (StreamId, u64),
    reply: &mut Reply,
) -> Outcome {
    let (key, consumer) = (&args[1], &args[3]);
    let now_ms = change.write.now_ms;
    // What is idle long enough, and where the next call goes on.
    let (mut ready, mut next) = (Vec::new(), StreamId::MIN);
    let mut attempts = count.saturating_mul(ATTEMPTS_FACTOR);
    let (view, stream) = (&*change.write.overlay, change.stream);
    let from = (start, Direction::Forward);
    each_pending(view, key, &stream, &change.group, from, &mut |id, pending| {
        if attempts == 0 || count == 0 {
            next = id;
            return Ok(ControlFlow::Break(()));
        }
        attempts -= 1;
        let entry = find_entry(view, key, &stream, id)?;
        if entry.is_none() || claim.takes(&pending, now_ms) {
            count -= 1;
            ready.push((id, pending, entry));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    reply.array(3);
    reply.bulk(&id::text(next));
    let open = reply.open_array();
    let (mut claimed, mut deleted) = (0, Vec::new());
    for (id, pending, entry) in ready {
        let Some(entry) = entry else {
            change.remove_pending(id, &pending)?;
            deleted.push(id);
            continue;
        };
        let before = pending.consumer.clone();
        claim.run(change, (id, &entry), (pending, Some(&before)), consumer, reply)?;
        claimed += 1;
    }
    reply.close_array(open, claimed);
    reply.array(deleted.len());
    deleted.into_iter().for_each(|id| reply.bulk(&id::text(id)));
    Ok(())
}
