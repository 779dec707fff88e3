//! Reading the write log from any sequence on, while it is written.
//!
//! A reader gets what is on the disk and nothing else: a group that a power cut could still take back
//! must not reach another site. It pins the log from its next sequence on, so that segments stay until
//! they were read; whoever stops reading drops it.
//!
//! Limits: one record in memory at a time.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use thiserror::Error;

use super::record::{HEADER_BYTES, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES, decode};
use super::{OpenError, Segment, State, io_error, segments};

/// Why a sequence cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error(transparent)]
    File(#[from] OpenError),
    /// Whoever needs it needs a copy of the database first.
    #[error("sequence {wanted} is no longer in the log, which begins with {first}")]
    Gone { wanted: u64, first: u64 },
    #[error("sequence {wanted} is not written yet; the last one is {last}")]
    Ahead { wanted: u64, last: u64 },
}

/// Where readers come from.
#[derive(Clone)]
pub struct Source {
    dir: PathBuf,
    shared: Arc<State>,
}

impl Source {
    pub(super) fn new(dir: PathBuf, shared: Arc<State>) -> Source {
        Source { dir, shared }
    }

    /// The last sequence that is on the disk.
    pub fn synced(&self) -> u64 {
        self.shared.synced.load(SeqCst)
    }

    /// A reader whose first record is `from`, which may be the one that is written next.
    pub fn read_from(&self, from: u64) -> Result<Reader, ReadError> {
        let last = self.shared.written.load(SeqCst);
        if from > last + 1 {
            return Err(ReadError::Ahead { wanted: from, last });
        }
        // Pinned before it is looked for, so that it cannot go in between.
        let mut pins = self.shared.pins();
        let pin = pins.last_key_value().map_or(0, |(&pin, _)| pin + 1);
        pins.insert(pin, from);
        drop(pins);
        let reader = Reader { source: self.clone(), pin, next: from, segment: None };
        let first = segments(&self.dir)?.first().map_or(last + 1, |segment| segment.first);
        if from < first {
            return Err(ReadError::Gone { wanted: from, first });
        }
        Ok(reader)
    }
}

/// Reads group after group.
pub struct Reader {
    source: Source,
    pin: u64,
    next: u64,
    segment: Option<Open>,
}

/// A segment that is being read.
pub(super) struct Open {
    path: PathBuf,
    file: File,
    /// Where the next record begins.
    offset: u64,
}

impl Reader {
    /// The sequence that is read next.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The payload of the next group, or `None` when it is not on the disk yet.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        if self.next > self.source.synced() {
            return Ok(None);
        }
        if self.segment.is_none() {
            self.segment = Some(self.open()?);
        }
        let mut payload = self.segment.as_mut().expect("just opened").take(self.next)?;
        if payload.is_none() {
            // What is synced is whole, so this was the end of a segment.
            let segment = self.segment.insert(self.open()?);
            payload = segment.take(self.next)?;
        }
        // After a power cut the log may go on behind a gap, with what the database had.
        let payload = payload.ok_or(ReadError::Gone { wanted: self.next, first: self.next + 1 })?;
        self.next += 1;
        self.source.shared.pins().insert(self.pin, self.next);
        Ok(Some(payload))
    }

    /// The segment that has the next record, read up to it.
    fn open(&self) -> Result<Open, ReadError> {
        let mut segments = segments(&self.source.dir)?;
        segments.retain(|segment| segment.first <= self.next);
        let segment = segments.pop().expect("what is pinned is not deleted");
        let mut open = Open::first(&segment)?;
        for sequence in segment.first..self.next {
            if open.take(sequence)?.is_none() {
                break;
            }
        }
        Ok(open)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.source.dir
    }

    pub(super) fn state(&self) -> &State {
        &self.source.shared
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.source.shared.pins().remove(&self.pin);
    }
}

impl Open {
    /// Before its first record.
    pub(super) fn first(segment: &Segment) -> Result<Open, OpenError> {
        let path = segment.path.clone();
        let file = File::open(&path).map_err(|error| io_error(&path, error))?;
        Ok(Open { path, file, offset: HEADER_BYTES as u64 })
    }

    /// Where the next record begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The payload of the record that comes next, which is `sequence`; `None` at the end of the file.
    pub(super) fn take(&mut self, sequence: u64) -> Result<Option<Vec<u8>>, ReadError> {
        let Open { path, file, offset } = self;
        let mut bytes = vec![0; RECORD_HEADER_BYTES];
        match file.read_exact_at(&mut bytes, *offset) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(io_error(path, error).into()),
        }
        let damaged = |what| OpenError::Damaged { path: path.clone(), offset: *offset, what };
        let payload_bytes = u32::from_be_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(damaged("the length is impossible").into());
        }
        bytes.resize(RECORD_HEADER_BYTES + payload_bytes, 0);
        let payload_at = *offset + RECORD_HEADER_BYTES as u64;
        let read = file.read_exact_at(&mut bytes[RECORD_HEADER_BYTES..], payload_at);
        read.map_err(|error| io_error(path, error))?;
        match decode(&bytes) {
            Ok((record, _)) if record.sequence == sequence => {}
            Ok(_) => return Err(damaged("the sequence is wrong").into()),
            Err(what) => return Err(damaged(what).into()),
        }
        *offset += bytes.len() as u64;
        bytes.drain(..RECORD_HEADER_BYTES);
        Ok(Some(bytes))
    }
}
