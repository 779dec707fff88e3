//! `trait Io` on io_uring: one thread, as many rings as its connections need.
//!
//! ```text
//!   ring 0   links, wake-up eventfd, listeners' accept, devices 0 .. table
//!   ring 1   devices table .. 2 * table          (made when ring 0 is nearly full)
//!   ...
//!            ring 1.. signal ring 0's eventfd when they have work: one wait serves all
//! ```
//!
//! A device's slot is `ring * table + index`, where `index` is the direct descriptor that the
//! kernel allocated. One ring accepts at a time; the accept is cancelled while the table still has
//! room for a completion queue full of connections, because a multishot accept that finds the
//! table full loses the connection.
//!
//! Invariants: sends and receives carry MSG_DONTWAIT, so the kernel executes them during the
//! submission and holds no pointer of ours afterwards. A multishot operation that ended without
//! being cancelled is reported (watch) or armed again (accept).
//!
//! Limits: the completion queues bound what one turn sees; rings are never given back.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use socket2::{SockAddr, Socket};

use super::host::EventFd;
use super::recv_ring::RecvRing;
use super::token::{self, Kind};
use super::{
    Buffer, Completion, Io, IoCounters, LINK_SLOT_FIRST, Pending, Received, Target, Unsent,
};
use crate::core::event::Now;

/// Submissions per enter: large enough that the system call's price vanishes, small enough that
/// the queue stays in the first-level cache.
const SUBMISSIONS: u32 = 256;

/// Receive buffers per ring, and their size. A heartbeat is two bytes and an acknowledgement ten;
/// a connect with its ticket takes two buffers.
pub const RECV_BUFFERS: u16 = 1024;
pub const RECV_BUFFER_BYTES: u32 = 128;

/// Link traffic is bulk; its buffers are on ring 0 only.
pub const LINK_RECV_BUFFERS: u16 = 32;
pub const LINK_RECV_BUFFER_BYTES: u32 = 32 * 1024;

const DEVICE_GROUP: u16 = 0;
const LINK_GROUP: u16 = 1;

/// Completions translated ahead of the shard; the rest stays in the kernel's queues.
const READY_MAX: usize = 16 * 1024;

/// After an accept failed for want of memory or descriptors, the next try waits this long.
const ACCEPT_RETRY_MS: u64 = 20;

/// The dimensions of each ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingShape {
    /// Direct descriptors.
    pub table: u32,
    /// Completion queue entries.
    pub completions: u32,
}

impl RingShape {
    /// A queue of a tenth of the table held a reconnect storm without overflow (2048 per 20,000).
    pub fn for_table(table: u32) -> RingShape {
        let completions = (table / 8).clamp(16, 16 * 1024);
        let completions = 1 << completions.ilog2();
        RingShape { table, completions }
    }

    /// Descriptors that stay free because they could all be accepted before the cancel is seen.
    pub fn margin(&self) -> u32 {
        self.completions + (self.completions / 32).max(4)
    }

    /// Connections a ring is filled with.
    pub fn usable(&self) -> u32 {
        self.table - self.margin()
    }

    fn submissions(&self) -> u32 {
        SUBMISSIONS.min(self.completions)
    }
}

/// What a shard's rings are made of.
#[derive(Debug)]
pub struct UringConfig {
    pub shape: RingShape,
    pub rings_max: u32,
    pub links: u8,
    pub listeners: Vec<Socket>,
    /// Signalled by other threads to wake this one; also by rings 1 and up.
    pub wake: Arc<EventFd>,
}

pub struct UringIo {
    rings: Vec<Ring>,
    shape: RingShape,
    rings_max: u32,
    ready: VecDeque<Completion>,
    reap_next: usize,
    link_recv: RecvRing,
    links: Vec<Option<Socket>>,
    accept: Accept,
    wake: Arc<EventFd>,
    wake_armed: bool,
    /// A signal was taken since the last wait, for instance while a turn sent its bytes.
    woken: bool,
    started: Instant,
    random: File,
    counters: IoCounters,
}

/// `uring` stands before `recv`: it is dropped first, and with it the registration.
struct Ring {
    uring: IoUring,
    recv: RecvRing,
    slots_in_use: u32,
}

/// The one ring that accepts, and what of it is in the kernel.
struct Accept {
    state: AcceptState,
    ring: u32,
    listeners: Vec<Listener>,
    retry_at_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptState {
    Paused,
    On,
    Ended,
}

struct Listener {
    socket: Socket,
    armed: bool,
    cancelling: bool,
}

/// Makes a ring with the flags all shards use.
pub(super) fn set_up(shape: &RingShape) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(shape.completions);
    // Linux 6.6; saves an indirection per submission.
    match builder.clone().setup_no_sqarray().build(shape.submissions()) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            builder.build(shape.submissions())
        }
        result => result,
    }
}

impl Ring {
    fn new(shape: &RingShape) -> io::Result<Ring> {
        let uring = set_up(shape)?;
        uring.submitter().register_files_sparse(shape.table)?;
        let recv = RecvRing::new(&uring, DEVICE_GROUP, RECV_BUFFERS, RECV_BUFFER_BYTES)?;
        Ok(Ring { uring, recv, slots_in_use: 0 })
    }

    /// Whether an enter would do anything: submissions, deferred work or overflowed completions.
    fn wants_enter(&mut self) -> bool {
        let queue = self.uring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Submits all that is queued. Runs deferred work if the kernel says there is some.
    fn enter(&mut self, counters: &mut IoCounters) {
        loop {
            counters.enters += 1;
            match self.uring.submit() {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    // A signal, or no memory for a request right now: what was not taken is still
                    // queued.
                    Some(libc::EINTR | libc::EAGAIN) => {}
                    _ => panic!("io_uring_enter refused a submission: {error}"),
                },
            }
            if self.uring.submission().is_empty() {
                return;
            }
        }
    }

    fn push(&mut self, entry: squeue::Entry, counters: &mut IoCounters) {
        loop {
            // SAFETY: every entry of this file names memory only in three cases. Sends: the bytes
            // are borrowed until `send` has submitted them, and MSG_DONTWAIT makes the submission
            // execute them. Connects: the address lives until `connect` has submitted it, which
            // copies it. Receives: the kernel takes a registered buffer.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.enter(counters);
        }
    }
}

impl UringIo {
    /// To be called by the thread that will use it: the rings have a single issuer.
    pub fn new(config: UringConfig) -> io::Result<UringIo> {
        assert!(config.rings_max > 0 && config.shape.table > 2 * config.shape.margin());
        let ring = Ring::new(&config.shape)?;
        let link_recv =
            RecvRing::new(&ring.uring, LINK_GROUP, LINK_RECV_BUFFERS, LINK_RECV_BUFFER_BYTES)?;
        let listeners = config
            .listeners
            .into_iter()
            .map(|socket| Listener { socket, armed: false, cancelling: false })
            .collect();
        Ok(UringIo {
            rings: vec![ring],
            shape: config.shape,
            rings_max: config.rings_max,
            ready: VecDeque::new(),
            reap_next: 0,
            link_recv,
            links: (0..config.links).map(|_| None).collect(),
            accept: Accept { state: AcceptState::Paused, ring: 0, listeners, retry_at_ms: 0 },
            wake: config.wake,
            wake_armed: false,
            woken: false,
            started: Instant::now(),
            random: File::open("/dev/urandom")?,
            counters: IoCounters { rings: 1, ..IoCounters::default() },
        })
    }

    /// The ring of a target and how it names the descriptor there.
    fn place(&self, target: Target) -> (usize, Descriptor) {
        match target.as_link() {
            Some(link) => {
                let link = self.links[usize::from(link)].as_ref().expect("the link is open");
                (0, Descriptor::Plain(link.as_raw_fd()))
            }
            None => {
                let (ring, index) =
                    (target.slot / self.shape.table, target.slot % self.shape.table);
                (ring as usize, Descriptor::Direct(index))
            }
        }
    }

    fn push(&mut self, ring: usize, entry: squeue::Entry) {
        self.rings[ring].push(entry, &mut self.counters);
    }

    fn poll(&mut self, target: Target, kind: Kind, events: u32, multishot: bool) {
        let (ring, descriptor) = self.place(target);
        let entry = match descriptor {
            Descriptor::Plain(fd) => opcode::PollAdd::new(Fd(fd), events),
            Descriptor::Direct(index) => opcode::PollAdd::new(Fixed(index), events),
        };
        let entry = entry.multi(multishot).build().user_data(token::encode(kind, target));
        self.push(ring, entry);
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Brings the accepts to what `accept.state` and the tables ask for. Called before each wait,
    /// so that arming again is bounded by the turns.
    fn steer_accept(&mut self) {
        let full = |ring: &Ring| ring.slots_in_use >= self.shape.usable();
        let stop =
            self.accept.state != AcceptState::On || full(&self.rings[self.accept.ring as usize]);
        if stop {
            self.cancel_accepts();
        }
        if self.accept.listeners.iter().any(|listener| listener.cancelling) {
            return;
        }
        match self.accept.state {
            AcceptState::Paused => {}
            // Nothing of the listeners is in the kernel: closing them is safe.
            AcceptState::Ended => self.accept.listeners.clear(),
            AcceptState::On => {
                if stop {
                    match self.ring_with_room() {
                        Some(ring) => self.accept.ring = ring,
                        None => return,
                    }
                }
                self.arm_accepts();
            }
        }
    }

    fn cancel_accepts(&mut self) {
        let ring = self.accept.ring as usize;
        for index in 0..self.accept.listeners.len() {
            let listener = &mut self.accept.listeners[index];
            if listener.armed && !listener.cancelling {
                listener.cancelling = true;
                let target = Target { slot: index as u32, generation: 0 };
                let entry = cancel_entry(Kind::Accept, target);
                self.push(ring, entry);
            }
        }
    }

    fn arm_accepts(&mut self) {
        if self.accept.listeners.iter().all(|listener| listener.armed)
            || self.now_ms() < self.accept.retry_at_ms
        {
            return;
        }
        let ring = self.accept.ring as usize;
        // An accept that is submitted together with a close could reuse its slot before the
        // close's completion is posted. Submitting the closes first puts their completions first.
        self.rings[ring].enter(&mut self.counters);
        for index in 0..self.accept.listeners.len() {
            let listener = &mut self.accept.listeners[index];
            if !listener.armed {
                listener.armed = true;
                let target = Target { slot: index as u32, generation: 0 };
                let entry = opcode::AcceptMulti::new(Fd(listener.socket.as_raw_fd()))
                    .allocate_file_index(true)
                    .build()
                    .user_data(token::encode(Kind::Accept, target));
                self.push(ring, entry);
            }
        }
    }

    /// The first ring that has come down to a margin below full, or a new one.
    fn ring_with_room(&mut self) -> Option<u32> {
        let refill = self.shape.usable() - self.shape.margin().min(self.shape.usable() / 2);
        if let Some(ring) = self.rings.iter().position(|ring| ring.slots_in_use <= refill) {
            return Some(ring as u32);
        }
        if self.rings.len() as u32 == self.rings_max {
            return None;
        }
        let made = Ring::new(&self.shape).and_then(|ring| {
            ring.uring.submitter().register_eventfd(self.wake.as_raw_fd())?;
            Ok(ring)
        });
        match made {
            Ok(ring) => {
                self.rings.push(ring);
                self.counters.rings += 1;
                Some(self.rings.len() as u32 - 1)
            }
            Err(error) => {
                eprintln!("hawser-broker: no ring beyond {}: {error}", self.rings.len());
                self.counters.accept_errors += 1;
                self.rings_max = self.rings.len() as u32;
                None
            }
        }
    }

    /// Enters the rings from `first` on that have something to do. The sleep enters ring 0 itself.
    fn enter_rings(&mut self, first: usize) {
        for ring in &mut self.rings[first..] {
            if ring.wants_enter() {
                ring.enter(&mut self.counters);
            }
        }
    }

    /// Begins where it stopped when there was too much, so that no ring starves another.
    fn reap_all(&mut self) {
        for _ in 0..self.rings.len() {
            if self.ready.len() >= READY_MAX {
                return;
            }
            let ring = self.reap_next % self.rings.len();
            self.reap(ring, None);
            self.reap_next = ring + 1;
        }
    }

    /// Translates a ring's completions. Sends that fell short go to `unsent`.
    fn reap(&mut self, ring: usize, mut unsent: Option<&mut Vec<Unsent>>) {
        loop {
            let Some(entry) = self.rings[ring].uring.completion().next() else { return };
            let (kind, target) = token::decode(entry.user_data());
            if kind == Kind::Send {
                let unsent = unsent.as_deref_mut().expect("a send completes within `send`");
                let result = entry.result();
                unsent.push(Unsent {
                    target,
                    written: result.max(0) as u32,
                    failed: result < 0 && result != -libc::EAGAIN,
                });
            } else {
                self.translate(ring, kind, target, &entry);
            }
        }
    }

    fn translate(&mut self, ring: usize, kind: Kind, target: Target, entry: &cqueue::Entry) {
        let result = entry.result();
        let armed = cqueue::more(entry.flags());
        let completion = match kind {
            Kind::Accept => return self.accepted(ring, target.slot, result, armed),
            Kind::Watch if result >= 0 => {
                let hangup = libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;
                if !armed {
                    self.counters.rearmed += 1;
                }
                Completion::Readable { target, hangup: result & hangup != 0, armed }
            }
            Kind::Watch if result == -libc::ECANCELED => {
                Completion::Readable { target, hangup: false, armed: false }
            }
            Kind::Watch => Completion::WatchFailed { target },
            Kind::Writable => Completion::Writable { target },
            Kind::Receive => {
                Completion::Received { target, result: self.received(ring, target, entry) }
            }
            Kind::Connect => Completion::Connected { target, connected: result == 0 },
            Kind::Close => {
                assert_eq!(result, 0, "closing slot {} failed", target.slot);
                self.rings[ring].slots_in_use -= 1;
                self.counters.slots_in_use -= 1;
                Completion::Closed { target }
            }
            // The operation had ended before the cancel found it.
            Kind::Cancel => return,
            Kind::Wake => {
                // Now and not before the next sleep: whoever signals from here on does it for
                // something that this turn may have missed.
                self.wake.forget();
                self.wake_armed = false;
                self.woken = true;
                return;
            }
            Kind::Send => unreachable!("sends are reaped by their caller"),
        };
        self.ready.push_back(completion);
    }

    fn accepted(&mut self, ring: usize, listener: u32, result: i32, armed: bool) {
        assert_eq!(ring as u32, self.accept.ring, "one ring accepts at a time");
        if !armed {
            let listener = &mut self.accept.listeners[listener as usize];
            let cancelled = std::mem::replace(&mut listener.cancelling, false);
            listener.armed = false;
            if !cancelled && result >= 0 {
                self.counters.rearmed += 1;
            }
        }
        if result >= 0 {
            self.rings[ring].slots_in_use += 1;
            self.counters.slots_in_use += 1;
            let slot = ring as u32 * self.shape.table + result as u32;
            self.ready.push_back(Completion::Accepted { slot });
            if self.rings[ring].slots_in_use >= self.shape.usable() {
                // Now, not with the next wait: what is accepted before the kernel sees the cancel
                // fits into the completion queue, which is what the margin is made for.
                self.cancel_accepts();
            }
        } else if result != -libc::ECANCELED {
            self.counters.accept_errors += 1;
            // A connection that was reset while it waited says nothing about the next one.
            if result != -libc::ECONNABORTED {
                self.accept.retry_at_ms = self.now_ms() + ACCEPT_RETRY_MS;
            }
        }
    }

    fn received(&mut self, ring: usize, target: Target, entry: &cqueue::Entry) -> Received {
        let result = entry.result();
        let id = cqueue::buffer_select(entry.flags());
        if result > 0 {
            let id = id.expect("received bytes are in a buffer");
            // Buffers of links are told by the ring number that no ring has.
            let ring = if target.as_link().is_some() { LINK_RING } else { ring as u32 };
            let buffer = Buffer { ring, id, bytes: result as u32 };
            return Received::Bytes { buffer, more: cqueue::sock_nonempty(entry.flags()) };
        }
        // A receive that failed may still have taken a buffer.
        if let Some(id) = id {
            match target.as_link() {
                Some(_) => self.link_recv.give_back(id),
                None => self.rings[ring].recv.give_back(id),
            }
        }
        match -result {
            0 => Received::End,
            libc::EAGAIN | libc::EINTR => Received::Empty,
            libc::ENOBUFS => {
                self.counters.no_buffers += 1;
                Received::NoBuffers
            }
            _ => Received::Failed,
        }
    }

    /// Sleeps on ring 0 until any ring has work, another thread signals, or the time is over.
    ///
    /// The other rings signal the eventfd only while this runs. They are asked once more after
    /// they were told to, so that work which came in between is not slept upon.
    fn sleep(&mut self, timeout_ms: Option<u64>) {
        self.signal_from_rings(true);
        self.enter_rings(1);
        self.reap_all();
        if self.ready.is_empty() {
            if !self.wake_armed {
                self.wake_armed = true;
                let target = Target { slot: 0, generation: 0 };
                let entry = opcode::PollAdd::new(Fd(self.wake.as_raw_fd()), libc::EPOLLIN as u32)
                    .build()
                    .user_data(token::encode(Kind::Wake, target));
                self.push(0, entry);
            }
            self.wait_on_first(timeout_ms);
        }
        self.signal_from_rings(false);
    }

    fn signal_from_rings(&mut self, on: bool) {
        for ring in &mut self.rings[1..] {
            let queue = ring.uring.completion();
            if on { queue.enable_eventfd() } else { queue.disable_eventfd() }
        }
        // The kernel publishes work and then reads the flag just written; this side is the mirror.
        fence(Ordering::SeqCst);
    }

    /// How long the wait may last for the accept's own sake: a failed one is tried again.
    fn accept_retry_in_ms(&self) -> Option<u64> {
        let idle = |listener: &Listener| !listener.armed;
        let retries = self.accept.state == AcceptState::On
            && self.accept.retry_at_ms > 0
            && self.accept.listeners.iter().any(idle);
        let left = self.accept.retry_at_ms.saturating_sub(self.now_ms());
        (retries && left > 0).then_some(left)
    }

    fn wait_on_first(&mut self, timeout_ms: Option<u64>) {
        self.counters.enters += 1;
        let submitter = self.rings[0].uring.submitter();
        let result = match timeout_ms {
            None => submitter.submit_and_wait(1),
            Some(ms) => {
                let timeout = Timespec::new().sec(ms / 1000).nsec((ms % 1000 * 1_000_000) as u32);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        if let Err(error) = result {
            match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                _ => panic!("io_uring_enter refused to wait: {error}"),
            }
        }
    }
}

/// `Buffer::ring` of a link's buffer.
const LINK_RING: u32 = u32::MAX;

enum Descriptor {
    Plain(RawFd),
    Direct(u32),
}

fn cancel_entry(kind: Kind, target: Target) -> squeue::Entry {
    opcode::AsyncCancel::new(token::encode(kind, target))
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(token::encode(Kind::Cancel, target))
}

impl Io for UringIo {
    fn now(&mut self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.now_ms(), unix_ms: unix.as_millis() as u64 }
    }

    fn fill_random(&mut self, bytes: &mut [u8]) {
        self.random.read_exact(bytes).expect("/dev/urandom does not end");
    }

    fn wait(&mut self, timeout_ms: Option<u64>) {
        self.steer_accept();
        self.submit();
        if self.ready.is_empty() && !self.woken && timeout_ms != Some(0) {
            let limits = [timeout_ms, self.accept_retry_in_ms()];
            self.sleep(limits.into_iter().flatten().min());
            self.submit();
        }
        // Whoever woke the shard is heard in the turn that begins now.
        self.woken = false;
    }

    fn submit(&mut self) {
        self.enter_rings(0);
        self.reap_all();
    }

    fn next(&mut self) -> Option<Completion> {
        self.ready.pop_front()
    }

    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        match buffer.ring {
            LINK_RING => self.link_recv.bytes(buffer.id, buffer.bytes),
            ring => self.rings[ring as usize].recv.bytes(buffer.id, buffer.bytes),
        }
    }

    fn give_back(&mut self, buffer: Buffer) {
        match buffer.ring {
            LINK_RING => self.link_recv.give_back(buffer.id),
            ring => self.rings[ring as usize].recv.give_back(buffer.id),
        }
    }

    fn accept_start(&mut self) {
        if self.accept.state == AcceptState::Paused {
            self.accept.state = AcceptState::On;
        }
    }

    fn accept_pause(&mut self) {
        if self.accept.state == AcceptState::On {
            self.accept.state = AcceptState::Paused;
        }
    }

    fn accept_end(&mut self) {
        self.accept.state = AcceptState::Ended;
    }

    fn connect(&mut self, target: Target, address: SocketAddr) {
        let link = usize::from(target.as_link().expect("only links are dialled"));
        assert!(self.links[link].is_none(), "the link is closed before it is dialled again");
        let socket = match super::socket::dialler(address) {
            Ok(socket) => socket,
            Err(_) => {
                self.ready.push_back(Completion::Connected { target, connected: false });
                return;
            }
        };
        let address = SockAddr::from(address);
        let entry =
            opcode::Connect::new(Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len())
                .build()
                .user_data(token::encode(Kind::Connect, target));
        self.links[link] = Some(socket);
        self.push(0, entry);
        // The kernel copies the address during the submission.
        self.rings[0].enter(&mut self.counters);
    }

    fn watch(&mut self, target: Target) {
        // Edge-triggered: a multishot poll is, unless IORING_POLL_ADD_LEVEL is asked for.
        self.poll(target, Kind::Watch, (libc::EPOLLIN | libc::EPOLLRDHUP) as u32, true);
    }

    fn watch_writable(&mut self, target: Target) {
        self.poll(target, Kind::Writable, libc::EPOLLOUT as u32, false);
    }

    fn receive(&mut self, target: Target) {
        let (ring, descriptor) = self.place(target);
        let null = std::ptr::null_mut();
        let entry = match descriptor {
            Descriptor::Plain(fd) => opcode::Recv::new(Fd(fd), null, LINK_RECV_BUFFER_BYTES)
                .buf_group(LINK_GROUP)
                .flags(libc::MSG_DONTWAIT)
                .build(),
            Descriptor::Direct(index) => opcode::Recv::new(Fixed(index), null, RECV_BUFFER_BYTES)
                .buf_group(DEVICE_GROUP)
                .flags(libc::MSG_DONTWAIT)
                .build(),
        };
        let entry = entry
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(token::encode(Kind::Receive, target));
        self.push(ring, entry);
    }

    fn send<'a>(
        &mut self,
        sends: impl Iterator<Item = (Target, &'a [u8])>,
        unsent: &mut Vec<Unsent>,
    ) {
        // MSG_WAITALL makes a short write a failure, and a failure posts a completion in spite of
        // SKIP_SUCCESS. MSG_DONTWAIT makes the kernel give up instead of waiting for room, so the
        // operation is over when its submission is.
        const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        for (target, bytes) in sends {
            assert!(!bytes.is_empty());
            let length = u32::try_from(bytes.len()).expect("a send is below 4 GiB");
            let (ring, descriptor) = self.place(target);
            let entry = match descriptor {
                Descriptor::Plain(fd) => opcode::Send::new(Fd(fd), bytes.as_ptr(), length),
                Descriptor::Direct(index) => {
                    opcode::Send::new(Fixed(index), bytes.as_ptr(), length)
                }
            };
            let entry = entry
                .flags(FLAGS)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(token::encode(Kind::Send, target));
            self.push(ring, entry);
            // Failures must not be left in a queue that the next ones overflow.
            if self.rings[ring].uring.submission().is_full() {
                self.finish_sends(ring, unsent);
            }
        }
        for ring in 0..self.rings.len() {
            if !self.rings[ring].uring.submission().is_empty() {
                self.finish_sends(ring, unsent);
            }
        }
    }

    fn cancel(&mut self, target: Target, pending: Pending) {
        let kind = match pending {
            Pending::Watch => Kind::Watch,
            Pending::Writable => Kind::Writable,
            Pending::Connect => Kind::Connect,
        };
        let (ring, _) = self.place(target);
        self.push(ring, cancel_entry(kind, target));
    }

    fn close(&mut self, target: Target) {
        if let Some(link) = target.as_link() {
            // Nothing of it is in the kernel (quiesced-slot), so the descriptor is simply closed.
            self.links[usize::from(link)] = None;
            self.ready.push_back(Completion::Closed { target });
            return;
        }
        let index = target.slot % self.shape.table;
        let entry =
            opcode::Close::new(Fixed(index)).build().user_data(token::encode(Kind::Close, target));
        self.push((target.slot / self.shape.table) as usize, entry);
    }

    fn counters(&self) -> IoCounters {
        self.counters
    }
}

impl UringIo {
    /// Submits a ring's sends and collects what fell short. When this returns the kernel holds no
    /// pointer to the bytes.
    fn finish_sends(&mut self, ring: usize, unsent: &mut Vec<Unsent>) {
        loop {
            self.rings[ring].enter(&mut self.counters);
            self.reap(ring, Some(unsent));
            let queue = self.rings[ring].uring.submission();
            if queue.is_empty() && !queue.cq_overflow() {
                return;
            }
        }
    }
}

const _: () = assert!(LINK_SLOT_FIRST as u64 > 264 * 20_000, "devices and links share the numbers");
