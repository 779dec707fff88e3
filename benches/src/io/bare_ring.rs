//! One io_uring of the bare server, with a table of direct descriptors: the operations that a
//! connection needs, and what the kernel says about them.
//!
//! ```text
//!   accept (multishot) ──▶ Accepted ──▶ watch (multishot poll) ──▶ Ready ──▶ receive ──▶ Received
//! ```
//!
//! Sends and receives carry MSG_DONTWAIT, so the kernel executes them while they are submitted and
//! holds no pointer afterwards. A send that succeeds leaves no trace.
//!
//! Limits: what completes within one `enter` has to fit into the completion queue. The queue is
//! sized for an accept storm, and whoever sends drains it at least once in half a queue of sends.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use hawser_broker::io::recv_ring::RecvRing;
use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// Submissions per enter: the call's price vanishes, and the queue stays in the first-level cache.
pub const SUBMISSIONS: u32 = 256;

/// A heartbeat is two bytes; a connect and its topic mostly fit. No more receives than submissions
/// are executed between two drains, so half of the buffers are spare.
const RECV_BUFFERS: u16 = 512;
pub const RECV_BUFFER_BYTES: u32 = 128;
const RECV_GROUP: u16 = 0;

/// The dimensions of each ring.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Direct descriptors.
    pub table: u32,
    completions: u32,
}

impl Shape {
    /// 2,048 completions for 20,000 connections held a storm of accepts.
    pub fn for_table(table: u32) -> Shape {
        let completions = table / 8;
        Shape { table, completions: (1 << completions.max(1).ilog2()).clamp(SUBMISSIONS, 2048) }
    }

    /// Connections after which a ring stops accepting. A multishot accept that finds the table full
    /// loses the connection, and a queue full of them may be accepted before the kernel has seen
    /// the cancel.
    pub fn usable(&self) -> u32 {
        self.table - (self.completions + 64)
    }

    /// Connections below which accepting on the ring is worth while again.
    pub fn refill(&self) -> u32 {
        self.usable() - self.usable() / 8
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Accept,
    Watch,
    Receive,
    /// Bytes that live as long as the program.
    Reply,
    /// Staged bytes.
    Push,
    Cancel,
    Close,
    Wake,
    Input,
}

impl Kind {
    const ALL: [Kind; 9] = [
        Kind::Accept,
        Kind::Watch,
        Kind::Receive,
        Kind::Reply,
        Kind::Push,
        Kind::Cancel,
        Kind::Close,
        Kind::Wake,
        Kind::Input,
    ];
}

/// What the kernel says. `index` is a direct descriptor of the ring.
#[derive(Debug)]
pub enum Event {
    Accepted {
        index: u32,
    },
    /// The accept is over: cancelled, or out of something that may come back.
    AcceptEnded {
        starved: bool,
    },
    /// Bytes, or with `hangup` the end. The watch goes on if it is `armed`.
    Ready {
        index: u32,
        hangup: bool,
        armed: bool,
    },
    Received {
        index: u32,
        bytes: Received,
        more: bool,
    },
    /// There is nothing to receive: the peer has ended the connection, or it has failed.
    Ended {
        index: u32,
    },
    /// The receive has to be made again, for instance because all buffers were taken.
    Again {
        index: u32,
    },
    /// Of a staged send, or without `staged` of a reply. `waits`: not a byte was taken, since the
    /// peer does not read. Otherwise the stream has broken off.
    Unsent {
        index: u32,
        staged: bool,
        waits: bool,
    },
    /// Another ring may have work.
    Woken,
    /// Standard input has a line or its end.
    Input,
}

/// A buffer that the kernel has filled; it goes back with [`Ring::read`].
#[derive(Debug)]
pub struct Received {
    id: u16,
    bytes: u32,
}

/// `uring` stands before `buffers`: it is dropped first, and with it the registration.
pub struct Ring {
    uring: IoUring,
    buffers: RecvRing,
    /// Whether submissions are queued.
    pub is_queued: bool,
    /// Whether there may be completions that were not drained.
    pub is_entered: bool,
}

impl Ring {
    pub fn new(shape: &Shape) -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(shape.completions)
            .build(SUBMISSIONS)?;
        uring.submitter().register_files_sparse(shape.table)?;
        let buffers = RecvRing::new(&uring, RECV_GROUP, RECV_BUFFERS, RECV_BUFFER_BYTES)?;
        Ok(Ring { uring, buffers, is_queued: false, is_entered: false })
    }

    /// Signals the eventfd whenever this ring has something to do or to say.
    pub fn signal(&self, wake: &impl AsRawFd) -> io::Result<()> {
        self.uring.submitter().register_eventfd(wake.as_raw_fd())
    }

    pub fn accept(&mut self, listener: &impl AsFd) {
        let accept = opcode::AcceptMulti::new(Fd(listener.as_fd().as_raw_fd()));
        self.push(accept.allocate_file_index(true).build(), Kind::Accept, 0);
    }

    pub fn cancel_accept(&mut self) {
        self.cancel(Kind::Accept, 0);
    }

    /// Edge-triggered.
    pub fn watch(&mut self, index: u32) {
        let events = (libc::EPOLLIN | libc::EPOLLRDHUP) as u32;
        let poll = opcode::PollAdd::new(Fixed(index), events).multi(true).build();
        self.push(poll, Kind::Watch, index);
    }

    pub fn cancel_watch(&mut self, index: u32) {
        self.cancel(Kind::Watch, index);
    }

    pub fn receive(&mut self, index: u32) {
        let receive = opcode::Recv::new(Fixed(index), std::ptr::null_mut(), RECV_BUFFER_BYTES)
            .buf_group(RECV_GROUP)
            .flags(libc::MSG_DONTWAIT)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(receive, Kind::Receive, index);
    }

    pub fn reply(&mut self, index: u32, bytes: &'static [u8]) {
        self.send(index, bytes.as_ptr(), bytes.len(), Kind::Reply);
    }

    /// Sends `bytes` with the next enter, until when the caller keeps them where they are.
    pub(super) fn send_staged(&mut self, index: u32, bytes: &[u8]) {
        self.send(index, bytes.as_ptr(), bytes.len(), Kind::Push);
    }

    /// MSG_WAITALL makes a short write a failure, and a failure leaves a trace.
    fn send(&mut self, index: u32, bytes: *const u8, length: usize, kind: Kind) {
        const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let length = u32::try_from(length).expect("a frame is small");
        let send = opcode::Send::new(Fixed(index), bytes, length).flags(FLAGS).build();
        self.push(send.flags(squeue::Flags::SKIP_SUCCESS), kind, index);
    }

    pub fn close(&mut self, index: u32) {
        let close = opcode::Close::new(Fixed(index)).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(close, Kind::Close, index);
    }

    /// One `Woken` when the eventfd is signalled.
    pub fn watch_wake(&mut self, wake: &impl AsRawFd) {
        let poll = opcode::PollAdd::new(Fd(wake.as_raw_fd()), libc::EPOLLIN as u32).build();
        self.push(poll, Kind::Wake, 0);
    }

    /// One `Input` when standard input has something.
    pub fn watch_input(&mut self) {
        let poll = opcode::PollAdd::new(Fd(libc::STDIN_FILENO), libc::EPOLLIN as u32).build();
        self.push(poll, Kind::Input, 0);
    }

    fn cancel(&mut self, kind: Kind, index: u32) {
        let cancel = opcode::AsyncCancel::new(token(kind, index)).build();
        self.push(cancel.flags(squeue::Flags::SKIP_SUCCESS), Kind::Cancel, index);
    }

    fn push(&mut self, entry: squeue::Entry, kind: Kind, index: u32) {
        let entry = entry.user_data(token(kind, index));
        // SAFETY: only sends name memory of ours. The bytes of a reply live for ever. Staged bytes
        // stay where they are until they were submitted (`Rings::clear_stage`), and MSG_DONTWAIT
        // makes the submission execute them.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.enter();
        }
        self.is_queued = true;
    }

    /// Whether the kernel wants this thread to do its share, for instance of an event.
    pub fn has_task_work(&mut self) -> bool {
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Submits all that is queued, and does what [`Ring::has_task_work`] speaks of.
    pub fn enter(&mut self) {
        loop {
            check_enter(self.uring.submit());
            if self.uring.submission().is_empty() {
                break;
            }
        }
        (self.is_queued, self.is_entered) = (false, true);
    }

    /// Submits all that is queued, then sleeps until this ring has an event or the time is over.
    pub fn enter_and_wait(&mut self, timeout_ns: Option<u64>) {
        check_enter(match timeout_ns {
            None => self.uring.submitter().submit_and_wait(1),
            Some(ns) => {
                let (s, ns) = (ns / 1_000_000_000, (ns % 1_000_000_000) as u32);
                let timeout = Timespec::new().sec(s).nsec(ns);
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        });
        (self.is_queued, self.is_entered) = (!self.uring.submission().is_empty(), true);
    }

    /// Moves what has completed behind `events`.
    pub fn drain(&mut self, events: &mut Vec<Event>) {
        self.is_entered = false;
        let Ring { uring, buffers, .. } = self;
        for entry in uring.completion() {
            translate(buffers, &entry, events);
        }
    }

    /// Hands the bytes to `reader` and gives the buffer back to the kernel.
    pub fn read<T>(&mut self, received: Received, reader: impl FnOnce(&[u8]) -> T) -> T {
        let read = reader(self.buffers.bytes(received.id, received.bytes));
        self.buffers.give_back(received.id);
        read
    }
}

/// A signal, a timeout and a short shortage of memory leave in the queue what was not taken.
fn check_enter(result: io::Result<usize>) {
    if let Err(error) = result {
        match error.raw_os_error() {
            Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME) => {}
            _ => panic!("io_uring_enter refused: {error}"),
        }
    }
}

fn token(kind: Kind, index: u32) -> u64 {
    (kind as u64) << 32 | u64::from(index)
}

fn translate(buffers: &mut RecvRing, entry: &cqueue::Entry, events: &mut Vec<Event>) {
    let (token, result) = (entry.user_data(), entry.result());
    let (kind, index) = (Kind::ALL[(token >> 32) as usize], token as u32);
    let armed = cqueue::more(entry.flags());
    match kind {
        Kind::Accept => {
            if result >= 0 {
                events.push(Event::Accepted { index: result as u32 });
            }
            if !armed {
                // A connection that was reset while it waited says nothing about the next one.
                let harmless = [libc::ECANCELED, libc::ECONNABORTED, libc::EINTR];
                let starved = result < 0 && !harmless.contains(&-result);
                events.push(Event::AcceptEnded { starved });
            }
        }
        Kind::Watch => {
            let ends = libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;
            let hangup = result < 0 || result & ends != 0;
            events.push(Event::Ready { index, hangup, armed });
        }
        Kind::Receive => events.extend(received(buffers, entry, index)),
        Kind::Reply | Kind::Push => events.push(Event::Unsent {
            index,
            staged: kind == Kind::Push,
            waits: result == -libc::EAGAIN,
        }),
        // There was nothing left to cancel.
        Kind::Cancel => {}
        Kind::Close => panic!("descriptor {index} could not be closed: {result}"),
        Kind::Wake => events.push(Event::Woken),
        Kind::Input => events.push(Event::Input),
    }
}

/// Nothing if there was nothing to receive: the watch says when there is.
fn received(buffers: &mut RecvRing, entry: &cqueue::Entry, index: u32) -> Option<Event> {
    let result = entry.result();
    let id = cqueue::buffer_select(entry.flags());
    if result > 0 {
        let id = id.expect("received bytes are in a buffer");
        let bytes = Received { id, bytes: result as u32 };
        return Some(Event::Received { index, bytes, more: cqueue::sock_nonempty(entry.flags()) });
    }
    // A receive that failed may still have taken a buffer.
    if let Some(id) = id {
        buffers.give_back(id);
    }
    match -result {
        libc::EAGAIN => None,
        libc::ENOBUFS | libc::EINTR => Some(Event::Again { index }),
        _ => Some(Event::Ended { index }),
    }
}
