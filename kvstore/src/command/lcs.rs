//! LCS: what two strings have in common, in order.
//!
//! Limit: the table of one number for each pair of bytes may have [`TABLE_BYTES_MAX`].

use super::error::CommandError;
use super::{Read, integer, is_word};
use crate::resp::reply::Reply;
use crate::store::layout::Kind;

/// About 50 ms of work.
const TABLE_BYTES_MAX: usize = 64 << 20;

#[derive(Default)]
struct Options {
    wants_length: bool,
    wants_matches: bool,
    with_lengths: bool,
    length_min: i64,
}

impl Options {
    fn parse(mut args: &[bytes::Bytes]) -> Result<Options, CommandError> {
        let mut found = Options::default();
        while let Some((word, rest)) = args.split_first() {
            args = rest;
            match rest {
                _ if is_word(word, "idx") => found.wants_matches = true,
                _ if is_word(word, "len") => found.wants_length = true,
                _ if is_word(word, "withmatchlen") => found.with_lengths = true,
                [length, rest @ ..] if is_word(word, "minmatchlen") => {
                    found.length_min = integer(length)?;
                    args = rest;
                }
                _ => return Err(CommandError::Syntax),
            }
        }
        if found.wants_length && found.wants_matches {
            return Err(CommandError::LcsLengthAndMatches);
        }
        Ok(found)
    }
}

/// A stretch that is the same in both strings: where it starts in each, and how long it is.
struct Match {
    left: usize,
    right: usize,
    bytes: usize,
}

pub fn lcs(read: &Read<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    let (left, right) = (string(read, 1)?, string(read, 2)?);
    let options = Options::parse(&read.args[3..])?;
    let table = Table::new(&left, &right)?;
    let length = table.at(left.len(), right.len());
    if options.wants_length {
        reply.integer(length.into());
        return Ok(());
    }
    let matches = table.matches(&left, &right);
    if !options.wants_matches {
        let common = matches.iter().rev().map(|found| &left[found.left..][..found.bytes]);
        reply.bulk(&common.collect::<Vec<_>>().concat());
        return Ok(());
    }
    reply.map(2);
    reply.bulk(b"matches");
    let long = |found: &&Match| found.bytes as i64 >= options.length_min;
    reply.array(matches.iter().filter(long).count());
    for found in matches.iter().filter(long) {
        reply.array(2 + usize::from(options.with_lengths));
        for start in [found.left, found.right] {
            reply.array(2);
            reply.count(start);
            reply.count(start + found.bytes - 1);
        }
        if options.with_lengths {
            reply.count(found.bytes);
        }
    }
    reply.bulk(b"len");
    reply.integer(length.into());
    Ok(())
}

fn string(read: &Read<'_>, index: usize) -> Result<Vec<u8>, CommandError> {
    let live = read.find(&read.args[index])?;
    let value = live.as_ref().map(|live| live.expect(Kind::String)).transpose();
    Ok(value.map_err(|_| CommandError::LcsNotStrings)?.unwrap_or_default().to_vec())
}

/// How much the starts of the two strings have in common, for each pair of lengths.
struct Table {
    width: usize,
    lengths: Vec<u32>,
}

impl Table {
    fn new(left: &[u8], right: &[u8]) -> Result<Table, CommandError> {
        let width = right.len() + 1;
        let cells = (left.len() + 1).saturating_mul(width);
        if cells.saturating_mul(size_of::<u32>()) > TABLE_BYTES_MAX {
            return Err(CommandError::LcsTooLong);
        }
        let mut table = Table { width, lengths: vec![0; cells] };
        for (i, byte) in left.iter().enumerate() {
            for (j, other) in right.iter().enumerate() {
                let length = match byte == other {
                    true => table.at(i, j) + 1,
                    false => table.at(i, j + 1).max(table.at(i + 1, j)),
                };
                table.lengths[(i + 1) * width + j + 1] = length;
            }
        }
        Ok(table)
    }

    fn at(&self, left: usize, right: usize) -> u32 {
        self.lengths[left * self.width + right]
    }

    /// The stretches, from the last to the first.
    fn matches(&self, left: &[u8], right: &[u8]) -> Vec<Match> {
        let mut found: Vec<Match> = Vec::new();
        let (mut i, mut j) = (left.len(), right.len());
        while i > 0 && j > 0 {
            if left[i - 1] == right[j - 1] {
                match found.last_mut() {
                    Some(last) if (last.left, last.right) == (i, j) => {
                        (last.left, last.right) = (i - 1, j - 1);
                        last.bytes += 1;
                    }
                    _ => found.push(Match { left: i - 1, right: j - 1, bytes: 1 }),
                }
                (i, j) = (i - 1, j - 1);
            } else if self.at(i - 1, j) > self.at(i, j - 1) {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        found
    }
}
