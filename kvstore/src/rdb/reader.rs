//! A whole file, one event after the other, whatever its size.
//!
//! ```text
//! file   REDIS0010 (field)... [database] ([expiry][key])... ff [checksum 8]
//! key    [type u8][key][value]
//! ```

use std::io::BufRead;

use super::source::Source;
use super::value::{Piece, Value, module_name, skip_module_fields};
use super::{FILE_VERSION_MAX, Kind, Problem, RdbError};

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A fact about the file or the server that wrote it.
    Aux(Vec<u8>, Vec<u8>),
    /// The keys that follow are of this database.
    Database(u64),
    /// How many keys the database has, and how many of them expire. A hint.
    Sizes {
        keys: u64,
        expiring: u64,
    },
    /// A key; its value follows in pieces.
    Key(Key),
    Piece(Piece),
    /// The value before is complete.
    KeyEnd,
    /// Something was read over that is no key.
    Skipped(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Unix time; a time of 0 is past, too.
    pub expires_at_ms: Option<u64>,
}

pub struct Reader<R> {
    source: Source<R>,
    version: u16,
    expires_at_ms: Option<u64>,
    value: Option<Value>,
    has_ended: bool,
}

const SLOT_INFO: u8 = 244;
const FUNCTION: u8 = 245;
const FUNCTION_CANDIDATE: u8 = 246;
const MODULE_AUX: u8 = 247;
const IDLE: u8 = 248;
const FREQUENCY: u8 = 249;
const AUX: u8 = 250;
const SIZES: u8 = 251;
const EXPIRES_MS: u8 = 252;
const EXPIRES_S: u8 = 253;
const DATABASE: u8 = 254;
const END: u8 = 255;

/// The first version that has a checksum.
const CHECKSUM_VERSION: u16 = 5;

impl<R: BufRead> Reader<R> {
    /// Reads the head of the file.
    pub fn open(input: R, string_bytes_max: u64) -> Result<Reader<R>, RdbError> {
        let mut source = Source::new(input, string_bytes_max);
        let head: [u8; 9] = source.array().map_err(|error| match error.problem {
            Problem::Truncated => RdbError { offset: error.offset, problem: Problem::NotRdb },
            _ => error,
        })?;
        let digits = head.strip_prefix(b"REDIS").and_then(|text| std::str::from_utf8(text).ok());
        let version = digits.and_then(|digits| digits.parse().ok()).filter(|version| *version > 0);
        let Some(version) = version else {
            return Err(RdbError { offset: 0, problem: Problem::NotRdb });
        };
        if version > FILE_VERSION_MAX {
            return Err(source.error(Problem::TooNew(version)));
        }
        Ok(Reader { source, version, expires_at_ms: None, value: None, has_ended: false })
    }

    pub fn version(&self) -> u16 {
        self.version
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.source.offset()
    }

    /// What follows the file, when it has ended.
    pub fn into_rest(self) -> R {
        self.source.into_rest()
    }

    /// The next event; `None` at the end, when the checksum was right.
    pub fn next_event(&mut self) -> Result<Option<Event>, RdbError> {
        if let Some(value) = &mut self.value {
            let piece = value.next_piece(&mut self.source)?;
            return Ok(Some(match piece {
                Some(piece) => Event::Piece(piece),
                None => {
                    self.value = None;
                    Event::KeyEnd
                }
            }));
        }
        while !self.has_ended {
            if let Some(event) = self.field()? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn field(&mut self) -> Result<Option<Event>, RdbError> {
        let source = &mut self.source;
        Ok(match source.byte()? {
            AUX => Some(Event::Aux(source.string()?, source.string()?)),
            DATABASE => Some(Event::Database(source.length()?)),
            SIZES => Some(Event::Sizes { keys: source.length()?, expiring: source.length()? }),
            EXPIRES_MS => {
                self.expires_at_ms = Some(source.milliseconds()?);
                None
            }
            EXPIRES_S => {
                let seconds = i32::from_le_bytes(source.array()?);
                self.expires_at_ms = Some(u64::try_from(seconds).unwrap_or(0) * 1000);
                None
            }
            IDLE => {
                source.length()?;
                None
            }
            FREQUENCY => {
                source.byte()?;
                None
            }
            SLOT_INFO => {
                for _ in 0..3 {
                    source.length()?;
                }
                None
            }
            FUNCTION => {
                source.string()?;
                Some(Event::Skipped("a library of functions".to_string()))
            }
            FUNCTION_CANDIDATE => {
                let what = "a function of a release candidate of Redis 7.0";
                return Err(source.error(Problem::NotOffered(what)));
            }
            MODULE_AUX => {
                let id = source.length()?;
                source.length()?;
                source.length()?;
                skip_module_fields(source)?;
                Some(Event::Skipped(format!("data of the module {}", module_name(id))))
            }
            END => {
                self.check_end()?;
                self.has_ended = true;
                None
            }
            type_code => {
                let name = source.string()?;
                let value = Value::begin(source, type_code)?;
                let key = Key { name, kind: value.kind, expires_at_ms: self.expires_at_ms.take() };
                self.value = Some(value);
                Some(Event::Key(key))
            }
        })
    }

    fn check_end(&mut self) -> Result<(), RdbError> {
        if self.version < CHECKSUM_VERSION {
            return Ok(());
        }
        let computed = self.source.crc();
        let stored = u64::from_le_bytes(self.source.array()?);
        // Who wrote 0 was told to write none (`rdbchecksum no`).
        if stored != 0 && stored != computed {
            return Err(self.source.error(Problem::Checksum { stored, computed }));
        }
        Ok(())
    }
}
