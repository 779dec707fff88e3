//! The ways to append a record to a file so that it is on the disk when the call returns.
//!
//! All but [`Growing`] write into a file of zeros that was made and synced beforehand, as the store's log
//! does, and begin at its start again when it is full.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::io::log_ring::{LogRing, Sync};

/// As large as a segment of the store's log.
pub const FILE_BYTES: u64 = 64 << 20;

const PIECE_BYTES: usize = 1 << 20;

/// What direct IO wants offsets, lengths and memory to be a multiple of, on any usual disk.
const BLOCK_BYTES: usize = 4096;

pub trait Writer {
    /// Durable when it returns.
    fn append(&mut self, record: &[u8]) -> io::Result<()>;
}

/// Makes a file of zeros in which a sync has only data to write.
pub fn make_zeros(path: &Path) -> io::Result<()> {
    let file = File::create_new(path)?;
    let zeros = vec![0; PIECE_BYTES];
    for offset in (0..FILE_BYTES).step_by(PIECE_BYTES) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()
}

/// Where the next record goes in a file of [`FILE_BYTES`].
#[derive(Default)]
struct Place(u64);

impl Place {
    fn take(&mut self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        assert!(bytes <= FILE_BYTES, "records are far smaller");
        if self.0 + bytes > FILE_BYTES {
            self.0 = 0;
        }
        self.0 += bytes;
        self.0 - bytes
    }
}

/// A write and an fdatasync, which has a new size and new blocks to write too.
pub struct Growing {
    file: File,
    bytes: u64,
}

impl Growing {
    pub fn new(path: &Path) -> io::Result<Growing> {
        Ok(Growing { file: File::create_new(path)?, bytes: 0 })
    }
}

impl Writer for Growing {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.bytes + record.len() as u64 > FILE_BYTES {
            self.file.set_len(0)?;
            self.bytes = 0;
        }
        self.file.write_all_at(record, self.bytes)?;
        self.bytes += record.len() as u64;
        self.file.sync_data()
    }
}

/// A write and an fdatasync: what the store does.
pub struct Prepared {
    file: File,
    place: Place,
}

impl Prepared {
    pub fn new(path: &Path) -> io::Result<Prepared> {
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Prepared { file, place: Place::default() })
    }
}

impl Writer for Prepared {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.file.write_all_at(record, self.place.take(record.len()))?;
        self.file.sync_data()
    }
}

/// One call: a write to a file that was opened with O_DSYNC.
pub struct Dsync {
    file: File,
    place: Place,
}

impl Dsync {
    pub fn new(path: &Path) -> io::Result<Dsync> {
        let file = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(path)?;
        Ok(Dsync { file, place: Place::default() })
    }
}

impl Writer for Dsync {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.file.write_all_at(record, self.place.take(record.len()))
    }
}

/// The same around the page cache. Each record is padded to whole blocks.
pub struct Direct {
    file: File,
    place: Place,
    buffer: Vec<u8>,
}

impl Direct {
    pub fn new(path: &Path) -> io::Result<Direct> {
        let flags = libc::O_DSYNC | libc::O_DIRECT;
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
        Ok(Direct { file, place: Place::default(), buffer: Vec::new() })
    }
}

impl Writer for Direct {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let padded = record.len().next_multiple_of(BLOCK_BYTES);
        if self.buffer.len() < padded + BLOCK_BYTES {
            self.buffer = vec![0; padded + BLOCK_BYTES];
        }
        let start = self.buffer.as_ptr().align_offset(BLOCK_BYTES);
        let block = &mut self.buffer[start..start + padded];
        block[..record.len()].copy_from_slice(record);
        block[record.len()..].fill(0);
        self.file.write_all_at(block, self.place.take(padded))
    }
}

/// A write and its sync on an io_uring, one enter for both.
pub struct Ring {
    ring: LogRing,
    place: Place,
}

impl Ring {
    pub fn new(path: &Path, sync: Sync) -> io::Result<Ring> {
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Ring { ring: LogRing::new(file, sync)?, place: Place::default() })
    }
}

impl Writer for Ring {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.ring.append(record, self.place.take(record.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_writes_what_it_was_given() {
        let folder = std::env::temp_dir().join(format!("hawser-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let records = [vec![1; 100], vec![2; BLOCK_BYTES], vec![3; BLOCK_BYTES + 1], vec![4; 1]];
        type Make = fn(&Path) -> io::Result<Box<dyn Writer>>;
        let ways: [(&str, usize, Make); 5] = [
            ("prepared", 1, |path| Ok(Box::new(Prepared::new(path)?))),
            ("dsync", 1, |path| Ok(Box::new(Dsync::new(path)?))),
            ("direct", BLOCK_BYTES, |path| Ok(Box::new(Direct::new(path)?))),
            ("ring", 1, |path| Ok(Box::new(Ring::new(path, Sync::Linked)?))),
            ("ring_dsync", 1, |path| Ok(Box::new(Ring::new(path, Sync::OfWrite)?))),
        ];
        for (name, padded_to, make) in ways {
            let path = folder.join(name);
            make_zeros(&path).expect("a file of zeros");
            let mut writer = make(&path).expect("a writer");
            let mut expected = Vec::new();
            for record in &records {
                writer.append(record).expect("an append");
                expected.extend_from_slice(record);
                expected.resize(expected.len().next_multiple_of(padded_to), 0);
            }
            let written = std::fs::read(&path).expect("what was written");
            assert_eq!(written.len() as u64, FILE_BYTES, "{name} has not changed the size");
            assert!(written.starts_with(&expected), "{name}");
            assert!(written[expected.len()..].iter().all(|&byte| byte == 0), "{name}");
        }
        let path = folder.join("growing");
        let mut growing = Growing::new(&path).expect("a writer");
        records.iter().for_each(|record| growing.append(record).expect("an append"));
        assert_eq!(std::fs::read(&path).expect("what was written"), records.concat());
        std::fs::remove_dir_all(&folder).expect("it was made above");
    }

    #[test]
    fn a_full_file_begins_anew() {
        let mut place = Place(FILE_BYTES - 10);
        assert_eq!(place.take(10), FILE_BYTES - 10);
        assert_eq!(place.take(1), 0);
    }
}
