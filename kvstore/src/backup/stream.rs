//! Reading and writing large files: one chunk in memory, its checksum, a rate limit, progress.
//!
//! Everything that a backup or a restore reads or writes of the data goes through [`stream`], around the
//! page cache (O_DIRECT): a backup reads the whole store once, and what it reads would push out what
//! clients read again and again. What is in the cache already stays there, unlike with
//! `posix_fadvise(DONTNEED)`. Where a file system or a disk cannot do that, files go through the cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::BackupError;

/// What is read at once, and has a checksum of its own.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What direct IO wants offsets, lengths and memory to be a multiple of: the blocks of usual disks.
const BLOCK_BYTES: usize = 4096;

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

/// What could not be read or written.
#[derive(Debug)]
pub struct Failed {
    pub path: PathBuf,
    pub error: io::Error,
}

impl From<Failed> for BackupError {
    fn from(Failed { path, error }: Failed) -> BackupError {
        BackupError::Io { path, error }
    }
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
pub fn stream(from: &Path, to: Option<&Path>, meter: &mut Meter<'_>) -> Result<Streamed, Failed> {
    let reading = |error| Failed { path: from.to_path_buf(), error };
    let writing = |error| Failed { path: to.unwrap_or(from).to_path_buf(), error };
    let mut source = Around::open(from, OpenOptions::new().read(true)).map_err(reading)?;
    let new = |to: &Path| {
        File::create_new(to)?;
        Around::open(to, OpenOptions::new().write(true))
    };
    let mut target = to.map(new).transpose().map_err(writing)?;
    let mut memory = vec![0; CHUNK_BYTES + BLOCK_BYTES];
    let start = memory.as_ptr().align_offset(BLOCK_BYTES);
    let chunk = &mut memory[start..start + CHUNK_BYTES];
    let mut streamed = Streamed::default();
    loop {
        let bytes = source.read(chunk, streamed.bytes).map_err(reading)?;
        if bytes == 0 {
            break;
        }
        if let Some(target) = &mut target {
            target.write(&chunk[..bytes], streamed.bytes).map_err(writing)?;
        }
        streamed.checks.push(crc32c::crc32c(&chunk[..bytes]));
        streamed.bytes += bytes as u64;
        meter.pace(bytes as u64);
    }
    target.map_or(Ok(()), |target| target.through.sync_all()).map_err(writing)?;
    Ok(streamed)
}

/// Whether files beside this one can be read around the page cache.
pub fn can_go_around(path: &Path) -> bool {
    open_around(path, OpenOptions::new().read(true)).is_ok()
}

fn open_around(path: &Path, options: &OpenOptions) -> io::Result<File> {
    options.clone().custom_flags(libc::O_DIRECT).open(path)
}

/// A file, open twice.
struct Around {
    /// Around the page cache, as long as that works.
    around: Option<File>,
    through: File,
}

impl Around {
    fn open(path: &Path, options: &OpenOptions) -> io::Result<Around> {
        let through = options.open(path)?;
        Ok(Around { around: open_around(path, options).ok(), through })
    }

    /// Fills the chunk as far as the file goes.
    fn read(&mut self, chunk: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < chunk.len() {
            let rest = &mut chunk[filled..];
            // Within a block there is nothing but the end of the file, or an end of what was there in time.
            let is_whole = filled.is_multiple_of(BLOCK_BYTES);
            match self.run(is_whole, |file| file.read_at(rest, offset + filled as u64)) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Chunks before the last one are whole, so what is no whole block is the end of the file.
    fn write(&mut self, chunk: &[u8], offset: u64) -> io::Result<()> {
        let (blocks, rest) = chunk.split_at(chunk.len() - chunk.len() % BLOCK_BYTES);
        self.run(true, |file| file.write_all_at(blocks, offset))?;
        self.run(false, |file| file.write_all_at(rest, offset + blocks.len() as u64))
    }

    fn run<T>(
        &mut self,
        is_whole: bool,
        mut io: impl FnMut(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(around) = self.around.as_ref().filter(|_| is_whole) else {
            return io(&self.through);
        };
        match io(around) {
            // Blocks of this disk are larger.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.around = None;
                io(&self.through)
            }
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_file_that_failed() {
        let dir = std::env::temp_dir().join(format!("hkv-stream-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let (source, missing) = (dir.join("source"), dir.join("missing/file"));
        std::fs::write(&source, "x").expect("written");
        let failed = |from: &Path, to: &Path| {
            let mut report = |_| {};
            let mut meter = Meter::new(1, None, &mut report);
            stream(from, Some(to), &mut meter).expect_err("it is missing").path
        };
        assert_eq!(failed(&source, &missing), missing);
        assert_eq!(failed(&missing, &dir.join("target")), missing);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
