//! A copy of the log from a sequence on, made while the log is written.
//!
//! Segments that are written to no more never change, so a hard link is a copy of them; where links do not
//! reach (the copy is on another disk) they are copied. The one that is written to is copied up to its
//! last whole record, so that nothing of what is written later gets into the copy.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use super::reader::{Open, ReadError, Reader};
use super::{Segment, io_error, segments};

impl Reader {
    /// Copies what was written until now and was not read yet into `to`, durably, and returns the last
    /// sequence in there. The segments between are whole, so what was read may be in there too.
    pub fn copy_to(&self, to: &Path) -> Result<u64, ReadError> {
        let (dir, state) = (self.dir(), self.state());
        // In this order: a segment below `active` is written to no more, whatever comes in between.
        let active = state.active.load(SeqCst);
        let written = state.written.load(SeqCst);
        fs::create_dir(to).map_err(|error| io_error(to, error))?;
        let segments = segments(dir)?;
        let mut last = written;
        for (index, segment) in segments.iter().enumerate() {
            let following = segments.get(index + 1);
            if following.is_some_and(|following| following.first <= self.next_sequence()) {
                continue;
            }
            let name = segment.path.file_name().expect("segments are files");
            if segment.first < active {
                link(&segment.path, &to.join(name)).map_err(|error| io_error(to, error))?;
            } else {
                copy_whole_records(segment, written, &to.join(name))?;
            }
            // A file that is linked may go beyond what is asked for, up to the next one.
            last = last.max(segment.first - 1);
        }
        let synced = File::open(to).and_then(|dir| dir.sync_all());
        synced.map_err(|error| io_error(to, error))?;
        Ok(last)
    }
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy(from, u64::MAX, to),
        linked => linked,
    }
}

fn copy_whole_records(segment: &Segment, last: u64, to: &Path) -> Result<(), ReadError> {
    let mut open = Open::first(segment)?;
    for sequence in segment.first..=last {
        if open.take(sequence)?.is_none() {
            break;
        }
    }
    Ok(copy(&segment.path, open.offset(), to).map_err(|error| io_error(to, error))?)
}

fn copy(from: &Path, bytes: u64, to: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(to)?;
    io::copy(&mut File::open(from)?.take(bytes), &mut file)?;
    file.sync_all()
}
