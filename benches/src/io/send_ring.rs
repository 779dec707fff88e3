//! The floor of a fan-out: one frame to many sockets, with io_uring and nothing around it. Sockets
//! are registered, 256 sends go to the kernel with one call, a send that succeeds completes without
//! a trace, and one that would wait fails instead.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};

const SENDS_PER_ENTER: u32 = 256;

pub struct SendRing {
    ring: IoUring,
    sockets: u32,
}

impl SendRing {
    /// The sockets must stay open as long as this lives.
    pub fn new(sockets: &[TcpStream]) -> io::Result<SendRing> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(4 * SENDS_PER_ENTER)
            .build(SENDS_PER_ENTER)?;
        let fds: Vec<i32> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter().register_files(&fds)?;
        Ok(SendRing { ring, sockets: fds.len() as u32 })
    }

    /// Sends the frame to every socket and returns how many did not take it.
    pub fn send_to_all(&mut self, frame: &[u8]) -> io::Result<u64> {
        let mut failed = 0;
        let bytes = u32::try_from(frame.len()).expect("a frame is small");
        for socket in 0..self.sockets {
            let send = opcode::Send::new(types::Fixed(socket), frame.as_ptr(), bytes)
                .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS);
            // SAFETY: the kernel reads the frame while it executes the send, and with
            // MSG_DONTWAIT that is over when `submit` returns, while `frame` is borrowed.
            let pushed = unsafe { self.ring.submission().push(&send) };
            pushed.expect("the queue is emptied whenever it is full");
            if socket % SENDS_PER_ENTER == SENDS_PER_ENTER - 1 || socket == self.sockets - 1 {
                self.ring.submit()?;
                failed += self.ring.completion().count() as u64;
            }
        }
        Ok(failed)
    }
}
