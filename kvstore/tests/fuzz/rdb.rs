//! The reader of RDB: a file if it starts like one, otherwise a payload of RESTORE.

use hawser_kv::rdb::reader::{Event, Reader};
use hawser_kv::rdb::value::Piece;
use hawser_kv::rdb::{RdbError, payload};

const STRING_BYTES_MAX: u64 = 1 << 20;

pub fn check(input: &[u8]) {
    let mut bytes = 0;
    let outcome = match input.starts_with(b"REDIS") {
        true => read_file(input, &mut bytes),
        false => payload::read(input, STRING_BYTES_MAX, |piece| {
            count(&piece, &mut bytes);
            Ok(())
        }),
    };
    if let Err(error) = outcome {
        assert!(error.offset <= input.len() as u64, "{error} behind the end");
    }
    // Compression makes at most 88 bytes of one; each entry of a stream may have the names of its node.
    assert!(bytes <= 88 * 88 * (input.len() + 1), "{bytes} bytes of {}", input.len());
}

fn read_file(input: &[u8], bytes: &mut usize) -> Result<(), RdbError> {
    let mut reader = Reader::open(input, STRING_BYTES_MAX)?;
    let mut is_within = false;
    while let Some(event) = reader.next_event()? {
        match event {
            Event::Piece(piece) => {
                assert!(is_within, "a piece of no key");
                count(&piece, bytes);
            }
            Event::Key(_) => assert!(!std::mem::replace(&mut is_within, true), "a key in a key"),
            Event::KeyEnd => assert!(std::mem::take(&mut is_within), "the end of no key"),
            _ => assert!(!is_within, "something else in a key"),
        }
    }
    Ok(())
}

fn count(piece: &Piece, bytes: &mut usize) {
    let (items, more) = match piece {
        Piece::String(text) => (1, text.len()),
        Piece::Elements(texts) | Piece::Members(texts) => {
            (texts.len(), texts.iter().map(Vec::len).sum())
        }
        Piece::Scored(pairs) => {
            assert!(pairs.iter().all(|(_, score)| !score.is_nan()), "a score that is no number");
            (pairs.len(), pairs.iter().map(|(member, _)| member.len()).sum())
        }
        Piece::Fields(pairs) => {
            (pairs.len(), pairs.iter().map(|(field, value)| field.len() + value.len()).sum())
        }
        Piece::Entries(entries) => {
            (entries.len(), entries.iter().flat_map(|entry| &entry.fields).map(Vec::len).sum())
        }
        Piece::Pending(pending) => (pending.len(), 0),
        Piece::Facts(_) | Piece::Group(_) | Piece::Consumer(_) | Piece::Module(_) => (1, 0),
    };
    assert!((1..=512).contains(&items), "a piece of {items}");
    *bytes += more;
}
