//! Redis's RDB format: values to bytes and back, in pieces. No store, no sockets, no clock.
//!
//! ```text
//! source    bytes in, counted and checksummed: lengths and strings
//! lzf       how strings are compressed
//! crc64     the checksum at the end
//! packed    small collections in one string: ziplist, listpack, intset, zipmap
//! value     one value of any type, in pieces
//! stream    the same for streams and their consumer groups
//! reader    a whole file
//! writer    values and files
//! payload   the form of DUMP and RESTORE: one value, version and checksum
//! ```
//!
//! Read: versions 1 to 12, every encoding that Redis ever wrote for the types that the store has. A value
//! of a module is skipped and named, functions are skipped and said, and fields of hashes that expire by
//! themselves (Redis 7.4) are refused. Written: version 10, which Redis 7.0 reads, each value in its
//! plainest encoding, since Redis makes its own small ones of them.
//!
//! Invariants: what is allocated is bounded by the bytes that are there, not by the lengths that they
//! claim; a reader holds one piece ([`PIECE_BYTES`]), one string, and what one consumer group has pending.

pub mod crc64;
pub mod lzf;
pub mod packed;
pub mod payload;
pub mod reader;
pub mod source;
pub mod stream;
pub mod value;
pub mod writer;

use std::io;

use thiserror::Error;

/// What is written, and the newest a payload of RESTORE may have, as in Redis 7.0.
pub const VERSION: u16 = 10;

/// The newest file that is read: that of Redis 7.4.
pub const FILE_VERSION_MAX: u16 = 12;

/// A piece of a collection is ended when it has so many bytes, or [`PIECE_ITEMS`].
pub const PIECE_BYTES: usize = 64 * 1024;
pub const PIECE_ITEMS: usize = 512;

/// The longest string of a file, as in Redis with its settings as they come.
pub const STRING_BYTES_MAX: u64 = 512 << 20;

/// What is wrong, and where.
#[derive(Debug, Error)]
#[error("at byte {offset}: {problem}")]
pub struct RdbError {
    /// Of what was read; inside of a packed collection, where that begins.
    pub offset: u64,
    pub problem: Problem,
}

#[derive(Debug, Error)]
pub enum Problem {
    #[error("it ends too early")]
    Truncated,
    #[error("this is no RDB file, which starts with REDIS and four digits")]
    NotRdb,
    #[error(
        "the file has version {0}, and {FILE_VERSION_MAX} is the newest that is known; let the Redis that \
         wrote it write one that an older Redis reads, or take its keys with `--from redis://`"
    )]
    TooNew(u16),
    #[error("{0}")]
    Corrupt(&'static str),
    #[error("a string of {0} bytes, and {1} are taken at most")]
    TooLong(u64, u64),
    #[error("type {0} is not known")]
    UnknownType(u8),
    #[error("{0}, which this store does not have")]
    NotOffered(&'static str),
    #[error("the checksum is {stored:016x} and should be {computed:016x}: the file is damaged")]
    Checksum { stored: u64, computed: u64 },
    #[error("{0}")]
    Io(io::Error),
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Stream,
    /// Of a module, of which nothing but its name is known.
    Module,
}

/// The numbers of the types, by how a value is encoded.
pub mod types {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    pub const ZSET_2: u8 = 5;
    pub const MODULE_1: u8 = 6;
    pub const MODULE_2: u8 = 7;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const STREAM: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_3: u8 = 21;
    /// Hashes whose fields expire, in four encodings.
    pub const HASH_EXPIRING: std::ops::RangeInclusive<u8> = 22..=25;
}
