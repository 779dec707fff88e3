//! The form in which DUMP gives a value and RESTORE takes one.
//!
//! ```text
//! payload   [type u8][value][version u16][checksum u64], the last two little-endian
//! ```

use super::source::Source;
use super::stream::EntriesRead;
use super::value::{Piece, Value};
use super::{RdbError, VERSION, crc64, types, writer};

const END_BYTES: usize = 2 + 8;

/// Makes a payload of a type and its value.
pub fn end(value: &mut Vec<u8>) {
    value.extend_from_slice(&VERSION.to_le_bytes());
    let crc = crc64::update(0, value);
    value.extend_from_slice(&crc.to_le_bytes());
}

/// The payload of a value of which these are all the pieces.
pub fn of(pieces: &[Piece]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pieces.iter().map(Piece::bytes).sum::<usize>() + 32);
    let count = pieces.iter().map(|piece| match piece {
        Piece::Elements(items) | Piece::Members(items) => items.len(),
        Piece::Scored(items) => items.len(),
        Piece::Fields(items) => items.len(),
        _ => 0,
    });
    let count = count.sum::<usize>() as u64;
    let type_code = match pieces.first() {
        None | Some(Piece::String(_)) => types::STRING,
        Some(Piece::Elements(_)) => types::LIST,
        Some(Piece::Members(_)) => types::SET,
        Some(Piece::Scored(_)) => types::ZSET_2,
        Some(Piece::Fields(_)) => types::HASH,
        Some(_) => {
            put_stream(&mut out, pieces);
            end(&mut out);
            return out;
        }
    };
    out.push(type_code);
    if type_code != types::STRING {
        writer::put_length(&mut out, count);
    }
    for piece in pieces {
        match piece {
            Piece::String(string) => writer::put_string(&mut out, string),
            Piece::Elements(items) | Piece::Members(items) => {
                items.iter().for_each(|item| writer::put_string(&mut out, item));
            }
            Piece::Scored(pairs) => {
                for (member, score) in pairs {
                    writer::put_string(&mut out, member);
                    writer::put_score(&mut out, *score);
                }
            }
            Piece::Fields(pairs) => {
                for (field, value) in pairs {
                    writer::put_string(&mut out, field);
                    writer::put_string(&mut out, value);
                }
            }
            _ => unreachable!("all pieces of a value are of its type"),
        }
    }
    end(&mut out);
    out
}

fn put_stream(out: &mut Vec<u8>, pieces: &[Piece]) {
    let mut entries = writer::Entries::default();
    let mut rest = pieces.iter();
    for piece in rest.by_ref() {
        match piece {
            Piece::Entries(more) => more.iter().for_each(|entry| entries.add_entry(entry)),
            Piece::Facts(facts) => {
                std::mem::take(&mut entries).put(out, facts);
                break;
            }
            _ => unreachable!("entries and facts come first"),
        }
    }
    let rest = rest.as_slice();
    let groups = rest.iter().filter(|piece| matches!(piece, Piece::Group(_)));
    writer::put_length(out, groups.count() as u64);
    let mut rest = rest;
    while let Some((Piece::Group(group), tail)) = rest.split_first() {
        let size = tail.iter().take_while(|piece| !matches!(piece, Piece::Group(_))).count();
        let (own, others) = tail.split_at(size);
        rest = others;
        writer::put_string(out, &group.name);
        writer::put_id(out, group.last);
        writer::put_length(
            out,
            match group.entries_read {
                EntriesRead::Known(read) => read,
                EntriesRead::Unknown | EntriesRead::NotSaid => u64::MAX,
            },
        );
        put_consumers(out, own);
    }
}

/// What is pending for a group, and its consumers with what each of them has.
fn put_consumers(out: &mut Vec<u8>, pieces: &[Piece]) {
    let pending = |pieces: &[Piece]| {
        let all = pieces.iter().filter_map(|piece| match piece {
            Piece::Pending(pending) => Some(pending.clone()),
            _ => None,
        });
        all.flatten().collect::<Vec<_>>()
    };
    let mut all = pending(pieces);
    all.sort_by_key(|pending| pending.id);
    writer::put_length(out, all.len() as u64);
    for one in all {
        out.extend_from_slice(&one.id.to_bytes());
        writer::put_milliseconds(out, one.delivered_ms);
        writer::put_length(out, one.deliveries);
    }
    let is_consumer = |piece: &Piece| matches!(piece, Piece::Consumer(_));
    writer::put_length(out, pieces.iter().filter(|piece| is_consumer(piece)).count() as u64);
    for (at, piece) in pieces.iter().enumerate() {
        let Piece::Consumer(consumer) = piece else { continue };
        let rest = &pieces[at + 1..];
        let size = rest.iter().take_while(|piece| !is_consumer(piece)).count();
        let own = pending(&rest[..size]);
        writer::put_string(out, &consumer.name);
        writer::put_milliseconds(out, consumer.seen_ms);
        writer::put_length(out, own.len() as u64);
        own.iter().for_each(|one| out.extend_from_slice(&one.id.to_bytes()));
    }
}

/// The type and value of a payload; `None` when its version is newer or its checksum wrong.
pub fn open(payload: &[u8]) -> Option<&[u8]> {
    let (value, end) = payload.split_at_checked(payload.len().checked_sub(END_BYTES)?)?;
    let version = u16::from_le_bytes([end[0], end[1]]);
    let stored = u64::from_le_bytes(end[2..].try_into().ok()?);
    let computed = crc64::update(0, &payload[..payload.len() - 8]);
    (version <= VERSION && stored == computed).then_some(value)
}

/// Gives every piece of an opened payload to `take`. What follows the value is not looked at, as in Redis.
pub fn read<E: From<RdbError>>(
    value: &[u8],
    string_bytes_max: u64,
    mut take: impl FnMut(Piece) -> Result<(), E>,
) -> Result<(), E> {
    let mut source = Source::new(value, string_bytes_max);
    let type_code = source.byte()?;
    let mut value = Value::begin(&mut source, type_code)?;
    while let Some(piece) = value.next_piece(&mut source)? {
        take(piece)?;
    }
    Ok(())
}
