//! Reading and writing large files: one chunk in memory, its checksum, a rate limit, progress.
//!
//! Everything that a backup or a restore reads or writes of the data goes through [`stream`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// What is read at once, and has a checksum of its own.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What went through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streamed {
    pub bytes: u64,
    /// CRC-32C of each chunk.
    pub checks: Vec<u32>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub bytes: u64,
    pub bytes_total: u64,
    /// Live keys that were looked at, once the files are done.
    pub keys: u64,
}

/// Is told now and then how far it is.
pub type Report<'a> = dyn FnMut(Progress) + 'a;

/// Counts what goes through, and keeps it at a rate.
pub struct Meter<'a> {
    pub progress: Progress,
    bytes_per_s_max: Option<u64>,
    started: Instant,
    /// What counts for the rate.
    paced_bytes: u64,
    report: &'a mut Report<'a>,
}

impl<'a> Meter<'a> {
    pub fn new(
        bytes_total: u64,
        bytes_per_s_max: Option<u64>,
        report: &'a mut Report<'a>,
    ) -> Meter<'a> {
        let progress = Progress { bytes_total, ..Progress::default() };
        let started = Instant::now();
        Meter { progress, bytes_per_s_max, started, paced_bytes: 0, report }
    }

    /// What needs no copying.
    pub fn skip(&mut self, bytes: u64) {
        self.progress.bytes += bytes;
        (self.report)(self.progress);
    }

    pub fn keys(&mut self, keys: u64) {
        self.progress.keys = keys;
        (self.report)(self.progress);
    }

    /// Waits until so many bytes may have gone through.
    fn pace(&mut self, bytes: u64) {
        self.paced_bytes += bytes;
        self.skip(bytes);
        if let Some(rate) = self.bytes_per_s_max {
            let due = Duration::from_secs_f64(self.paced_bytes as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(self.started.elapsed()));
        }
    }
}

/// Reads a file, and writes what it reads to a new one if there is to be one, which is durable then.
pub fn stream(from: &Path, to: Option<&Path>, meter: &mut Meter<'_>) -> io::Result<Streamed> {
    let mut source = File::open(from)?;
    let new = |to: &Path| OpenOptions::new().write(true).create_new(true).open(to);
    let mut target = to.map(new).transpose()?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut streamed = Streamed::default();
    loop {
        let bytes = read_whole(&mut source, &mut chunk)?;
        if bytes == 0 {
            break;
        }
        if let Some(target) = &mut target {
            target.write_all(&chunk[..bytes])?;
        }
        streamed.checks.push(crc32c::crc32c(&chunk[..bytes]));
        streamed.bytes += bytes as u64;
        meter.pace(bytes as u64);
    }
    target.map_or(Ok(()), |target| target.sync_all())?;
    Ok(streamed)
}

/// Fills the chunk as far as the file goes.
fn read_whole(source: &mut File, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match source.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
