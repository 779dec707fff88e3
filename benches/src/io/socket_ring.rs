//! An io_uring over ordinary sockets, for the clients' side: connect, receive, send.
//!
//! A socket has one multishot receive in the kernel for as long as it is read from; bytes arrive in
//! buffers that the kernel picks. What is sent is staged until the next call into the kernel, which
//! executes it (MSG_DONTWAIT). A send that succeeds leaves no trace.
//!
//! Invariant: a socket stays open until its receive has said its last word (`armed: false`) and its
//! connect has been answered, because a number that the kernel still uses must not be used again.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use hawser_broker::io::recv_ring::RecvRing;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use socket2::SockAddr;

const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 16 * 1024;

const BUFFERS: u16 = 2048;
const BUFFER_BYTES: u32 = 2048;
const GROUP: u16 = 0;

/// Never exceeded, so that bytes on the stage stay where they are.
const STAGE_BYTES: usize = 256 * 1024;

/// Which use of which device's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    pub device: u32,
    /// 24 bits.
    pub turn: u32,
}

#[derive(Debug)]
pub enum Done {
    Connected {
        tag: Tag,
        connected: bool,
    },
    /// Bytes, to be read with [`SocketRing::read`].
    Bytes {
        tag: Tag,
        buffer: Buffer,
        armed: bool,
    },
    /// Nothing more comes: the peer has ended it, it failed, or the receive was cancelled.
    Ended {
        tag: Tag,
    },
    /// The receive has to be made again.
    Again {
        tag: Tag,
    },
    /// The peer does not read, or is gone.
    Unsent {
        tag: Tag,
    },
    Input,
}

#[derive(Debug)]
pub struct Buffer {
    id: u16,
    bytes: u32,
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Connect,
    Receive,
    Send,
    Cancel,
    Input,
}

/// `uring` stands before the rest: it is dropped first, and with it all that names memory here.
pub struct SocketRing {
    uring: IoUring,
    buffers: RecvRing,
    server: Box<SockAddr>,
    stage: Vec<u8>,
}

impl SocketRing {
    pub fn new(server: SocketAddr) -> io::Result<SocketRing> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let buffers = RecvRing::new(&uring, GROUP, BUFFERS, BUFFER_BYTES)?;
        let stage = Vec::with_capacity(STAGE_BYTES);
        Ok(SocketRing { uring, buffers, server: Box::new(server.into()), stage })
    }

    pub fn connect(&mut self, tag: Tag, socket: &impl AsRawFd) {
        let (address, length) = (self.server.as_ptr(), self.server.len());
        let connect = opcode::Connect::new(Fd(socket.as_raw_fd()), address.cast(), length).build();
        self.push(connect, Kind::Connect, tag);
    }

    pub fn receive(&mut self, tag: Tag, socket: &impl AsRawFd) {
        let receive = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), GROUP).build();
        self.push(receive, Kind::Receive, tag);
    }

    /// Ends the connect and the receive, if there are such.
    pub fn cancel(&mut self, tag: Tag) {
        for kind in [Kind::Connect, Kind::Receive] {
            let cancel = opcode::AsyncCancel::new(token(kind, tag)).build();
            self.push(cancel.flags(squeue::Flags::SKIP_SUCCESS), Kind::Cancel, tag);
        }
    }

    pub fn send(&mut self, tag: Tag, socket: &impl AsRawFd, bytes: &[u8]) {
        const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        assert!(bytes.len() <= STAGE_BYTES);
        if self.stage.len() + bytes.len() > STAGE_BYTES {
            self.submit();
        }
        let start = self.stage.len();
        self.stage.extend_from_slice(bytes);
        let staged = &self.stage[start..];
        let send = opcode::Send::new(Fd(socket.as_raw_fd()), staged.as_ptr(), staged.len() as u32)
            .flags(FLAGS)
            .build();
        self.push(send.flags(squeue::Flags::SKIP_SUCCESS), Kind::Send, tag);
    }

    /// One `Input` when standard input has something.
    pub fn watch_input(&mut self) {
        let input: RawFd = libc::STDIN_FILENO;
        let poll = opcode::PollAdd::new(Fd(input), libc::EPOLLIN as u32).build();
        self.push(poll, Kind::Input, Tag { device: 0, turn: 0 });
    }

    fn push(&mut self, entry: squeue::Entry, kind: Kind, tag: Tag) {
        let entry = entry.user_data(token(kind, tag));
        // SAFETY: two kinds name memory. A connect's address lives as long as the ring. A send's
        // bytes are on the stage, which neither moves nor is cleared before they were submitted,
        // and MSG_DONTWAIT makes the submission execute them.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.enter(0, None);
        }
    }

    /// Gives the kernel all that is queued.
    pub fn submit(&mut self) {
        while !self.uring.submission().is_empty() {
            self.enter(0, None);
        }
        self.stage.clear();
    }

    /// The same, and waits until there is something or the time is over.
    pub fn wait(&mut self, timeout_ms: u64) {
        self.submit();
        self.enter(1, Some(timeout_ms));
    }

    fn enter(&mut self, wanted: usize, timeout_ms: Option<u64>) {
        let result = match timeout_ms {
            None => self.uring.submit(),
            Some(ms) => {
                let timeout = Timespec::new().sec(ms / 1000).nsec((ms % 1000 * 1_000_000) as u32);
                let arguments = SubmitArgs::new().timespec(&timeout);
                self.uring.submitter().submit_with_args(wanted, &arguments)
            }
        };
        if let Err(error) = result {
            match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME) => {}
                _ => panic!("io_uring_enter refused: {error}"),
            }
        }
    }

    pub fn next(&mut self) -> Option<Done> {
        loop {
            let entry = self.uring.completion().next()?;
            if let Some(done) = self.translate(&entry) {
                return Some(done);
            }
        }
    }

    fn translate(&mut self, entry: &cqueue::Entry) -> Option<Done> {
        let (kind, tag) = (entry.user_data() >> 56, untoken(entry.user_data()));
        let (result, armed) = (entry.result(), cqueue::more(entry.flags()));
        match kind {
            k if k == Kind::Connect as u64 => Some(Done::Connected { tag, connected: result == 0 }),
            k if k == Kind::Receive as u64 => {
                let id = cqueue::buffer_select(entry.flags());
                if result > 0 {
                    let id = id.expect("received bytes are in a buffer");
                    let buffer = Buffer { id, bytes: result as u32 };
                    return Some(Done::Bytes { tag, buffer, armed });
                }
                if let Some(id) = id {
                    self.buffers.give_back(id);
                }
                match -result {
                    libc::ENOBUFS | libc::EINTR | libc::EAGAIN => Some(Done::Again { tag }),
                    _ => Some(Done::Ended { tag }),
                }
            }
            k if k == Kind::Send as u64 => Some(Done::Unsent { tag }),
            k if k == Kind::Input as u64 => Some(Done::Input),
            // There was nothing left to cancel.
            _ => None,
        }
    }

    /// Copies the bytes to the start of `into` and gives the buffer back; returns how many.
    pub fn read(&mut self, buffer: Buffer, into: &mut [u8]) -> usize {
        let bytes = self.buffers.bytes(buffer.id, buffer.bytes);
        into[..bytes.len()].copy_from_slice(bytes);
        self.buffers.give_back(buffer.id);
        buffer.bytes as usize
    }
}

fn token(kind: Kind, tag: Tag) -> u64 {
    (kind as u64) << 56 | u64::from(tag.turn & 0xff_ffff) << 32 | u64::from(tag.device)
}

fn untoken(token: u64) -> Tag {
    Tag { device: token as u32, turn: (token >> 32) as u32 & 0xff_ffff }
}
