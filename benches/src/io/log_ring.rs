//! One file on an io_uring: a record is written and made durable with one call.
//!
//! ```text
//!   write ──link──▶ fdatasync     two entries, one enter, two completions
//!   write with RWF_DSYNC          one of each
//! ```
//!
//! An append returns after all its completions, so the kernel never holds a record longer than the call.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};

/// What makes a write durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// An fdatasync, linked to it.
    Linked,
    /// A flag of the write itself.
    OfWrite,
}

pub struct LogRing {
    uring: IoUring,
    file: File,
    sync: Sync,
}

const WRITE: u64 = 1;
const SYNC: u64 = 2;

impl LogRing {
    pub fn new(file: File, sync: Sync) -> io::Result<LogRing> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .build(4)?;
        Ok(LogRing { uring, file, sync })
    }

    /// Durable when it returns.
    pub fn append(&mut self, record: &[u8], offset: u64) -> io::Result<()> {
        let bytes = u32::try_from(record.len()).map_err(io::Error::other)?;
        let fd = Fd(self.file.as_raw_fd());
        let write = opcode::Write::new(fd, record.as_ptr(), bytes).offset(offset);
        match self.sync {
            Sync::Linked => {
                let sync = opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build();
                let write = write.build().flags(squeue::Flags::IO_LINK);
                self.push(&[write.user_data(WRITE), sync.user_data(SYNC)]);
                self.finish(2, bytes)
            }
            Sync::OfWrite => {
                self.push(&[write.rw_flags(libc::RWF_DSYNC).build().user_data(WRITE)]);
                self.finish(1, bytes)
            }
        }
    }

    fn push(&mut self, entries: &[squeue::Entry]) {
        // SAFETY: what the entries point to, the record, is borrowed by `append`, which returns only
        // after every completion (`finish`); the descriptor is `self.file`'s.
        let pushed = unsafe { self.uring.submission().push_multiple(entries) };
        pushed.expect("the queue is empty before each append");
    }

    /// Waits for all completions, whatever they say, and only then says what went wrong.
    fn finish(&mut self, count: usize, bytes: u32) -> io::Result<()> {
        let (mut seen, mut failed) = (0, None);
        while seen < count {
            match self.uring.submit_and_wait(count - seen) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    // What was submitted may still be in the kernel and point to the record.
                    panic!("a ring that cannot be waited for: {error}");
                }
                _ => {}
            }
            for completion in self.uring.completion() {
                seen += 1;
                let expected = if completion.user_data() == WRITE { bytes as i32 } else { 0 };
                if completion.result() < 0 {
                    failed = Some(io::Error::from_raw_os_error(-completion.result()));
                } else if completion.result() != expected {
                    failed = Some(io::Error::other("a write of a part"));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
