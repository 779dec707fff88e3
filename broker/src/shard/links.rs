//! The links to the control nodes: dial, prove, run, cut, and dial again.
//!
//! ```text
//!   Down ─ retry time ─▶ Connecting ─▶ Greeting ─ Challenge ─▶ Proving ─ Accepted ─▶ Up
//!    ▲                       │            │ Hello sent           │ Proof sent       │
//!    └──────── Closed ◀── Closing ◀───────┴── refused, deadline, silence, overflow ──┘
//! ```
//!
//! Both ends prove that they have the link key, the control node first, by an HMAC over both
//! nonces and the identities; before that a peer may send frames of 256 bytes only. Link frames
//! are not encrypted here.
//!
//! Invariants: the core hears `LinkUp` and `LinkDown` in turns and link frames only in between.
//! What is queued for a link never exceeds `link_queue_bytes_max`: a link that falls behind is cut
//! and starts over, which loses nothing, since the shard announces everything again.

use std::net::SocketAddr;
use std::ops::Range;

use hawser_codec::error::CloseReason;
use hawser_codec::frame;
use hawser_codec::limits::{LINK_BODY_BYTES_MAX, LINK_HANDSHAKE_BODY_BYTES_MAX};
use hawser_codec::link::{
    BROKER_PROOF_CONTEXT, CONTROL_PROOF_CONTEXT, Hello, MAJOR, MINOR, ToBroker, to_control,
};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::Shard;
use super::mailbox::Notice;
use crate::core::event::{Event, LinkIndex};
use crate::io::{Buffer, Io, Pending, Received, Target};

/// From the dial to `Accepted`.
const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;

/// The first retry; each further one waits 1.8 times longer, up to the maximum. The upper half is
/// random, so that the shards of a region do not dial a restarted node together.
const RETRY_FIRST_MS: u64 = 100;
const RETRY_MAX_MS: u64 = 5_000;

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    address: SocketAddr,
    state: State,
    generation: u16,
    /// Of the state: when to dial, or when to give up. A link that is up is cut when it has been
    /// silent up to here.
    deadline_ms: u64,
    attempt: u32,
    in_kernel: InKernel,
    again: bool,
    hello: Option<Hello>,
    /// The start of a frame whose end has not arrived.
    input: Vec<u8>,
    /// What the socket has not taken, from `sent` on.
    output: Vec<u8>,
    sent: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Connecting,
    Greeting,
    Proving,
    Up,
    Closing,
}

/// The operations that have not given their last completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct InKernel {
    connect: bool,
    watch: bool,
    writable: bool,
    receive: bool,
    close: bool,
}

impl Link {
    pub fn new(address: SocketAddr) -> Link {
        Link {
            address,
            state: State::Down,
            generation: 0,
            deadline_ms: 0,
            attempt: 0,
            in_kernel: InKernel::default(),
            again: false,
            hello: None,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
        }
    }

    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// When something must happen; a closing link waits for the kernel only.
    pub fn deadline_ms(&self) -> Option<u64> {
        (self.state != State::Closing).then_some(self.deadline_ms)
    }

    pub fn queued_bytes(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Whether bytes wait that may be sent now.
    fn wants_send(&self) -> bool {
        let talks = matches!(self.state, State::Greeting | State::Proving | State::Up);
        talks && !self.in_kernel.writable && self.queued_bytes() > 0
    }

    fn body_bytes_max(&self) -> usize {
        if self.is_up() { LINK_BODY_BYTES_MAX } else { LINK_HANDSHAKE_BODY_BYTES_MAX }
    }

    fn retry_delay_ms(&self, random: u64) -> u64 {
        let mut delay = RETRY_FIRST_MS;
        for _ in 0..self.attempt {
            delay = (delay * 9 / 5).min(RETRY_MAX_MS);
        }
        delay / 2 + random % (delay / 2 + 1)
    }
}

impl<I: Io> Shard<I> {
    fn link_target(&self, index: u8) -> Target {
        Target::link(index, self.links[usize::from(index)].generation)
    }

    fn link_of(&mut self, target: Target) -> (u8, &mut Link) {
        let index = target.as_link().expect("the caller saw that it is a link");
        let link = &mut self.links[usize::from(index)];
        assert_eq!(link.generation, target.generation, "quiesced-slot: link {index}");
        (index, link)
    }

    /// Dials what is due and gives up what is overdue.
    pub(super) fn links_on_time(&mut self) {
        for index in 0..self.links.len() as u8 {
            let link = &self.links[usize::from(index)];
            if link.deadline_ms().is_none_or(|deadline_ms| deadline_ms > self.now.mono_ms) {
                continue;
            }
            match link.state {
                State::Down => self.dial(index),
                State::Connecting => self.cut_link(index, CloseReason::Reset),
                State::Greeting | State::Proving => {
                    self.cut_link(index, CloseReason::HandshakeTimeout);
                }
                State::Up => self.cut_link(index, CloseReason::Idle),
                State::Closing => {}
            }
        }
    }

    fn dial(&mut self, index: u8) {
        let link = &mut self.links[usize::from(index)];
        link.generation = link.generation.wrapping_add(1);
        link.state = State::Connecting;
        link.deadline_ms = self.now.mono_ms + HANDSHAKE_TIMEOUT_MS;
        link.in_kernel.connect = true;
        let (target, address) = (Target::link(index, link.generation), link.address);
        self.shell.link_dials += 1;
        self.io.connect(target, address);
    }

    pub(super) fn on_link_connected(&mut self, target: Target, connected: bool) {
        let (index, link) = self.link_of(target);
        link.in_kernel.connect = false;
        if link.state == State::Closing || !connected {
            self.cut_link(index, CloseReason::Reset);
            return;
        }
        link.state = State::Greeting;
        link.in_kernel.watch = true;
        let mut nonce = [0; 32];
        self.io.fill_random(&mut nonce);
        let hello = Hello {
            major: MAJOR,
            minor: MINOR,
            broker: self.config.broker,
            incarnation: self.config.incarnation,
            shard: self.config.shard,
            nonce,
        };
        let link = &mut self.links[usize::from(index)];
        link.hello = Some(hello);
        to_control::hello(&mut link.output, &hello);
        self.io.watch(target);
    }

    pub(super) fn on_link_readable(&mut self, target: Target, armed: bool) {
        let (index, link) = self.link_of(target);
        link.in_kernel.watch = armed;
        if link.state == State::Closing {
            self.close_link_if_quiet(index);
            return;
        }
        if !armed {
            link.in_kernel.watch = true;
            self.io.watch(target);
        }
        self.receive_link(index);
    }

    pub(super) fn on_link_watch_failed(&mut self, target: Target) {
        let (index, link) = self.link_of(target);
        link.in_kernel.watch = false;
        self.cut_link(index, CloseReason::Reset);
    }

    fn receive_link(&mut self, index: u8) {
        let target = self.link_target(index);
        let link = &mut self.links[usize::from(index)];
        if link.in_kernel.receive {
            link.again = true;
        } else {
            link.in_kernel.receive = true;
            self.io.receive(target);
            self.receives_queued = true;
        }
    }

    pub(super) fn on_link_received(&mut self, target: Target, result: Received) {
        let (index, link) = self.link_of(target);
        link.in_kernel.receive = false;
        let again = std::mem::take(&mut link.again);
        let closing = link.state == State::Closing;
        match result {
            Received::Bytes { buffer, more } => {
                if !closing {
                    self.on_link_bytes(index, &buffer);
                }
                self.io.give_back(buffer);
                if self.links[usize::from(index)].state != State::Closing && (more || again) {
                    self.receive_link(index);
                }
            }
            Received::Empty if again && !closing => self.receive_link(index),
            Received::Empty => {}
            Received::NoBuffers if !closing => self.receive_link(index),
            Received::NoBuffers => {}
            Received::End => self.cut_link(index, CloseReason::Bye),
            Received::Failed => self.cut_link(index, CloseReason::Reset),
        }
        self.close_link_if_quiet(index);
    }

    fn on_link_bytes(&mut self, index: u8, buffer: &Buffer) {
        let link = &mut self.links[usize::from(index)];
        if link.is_up() {
            link.deadline_ms = self.now.mono_ms + self.config.link_idle_ms;
        }
        let mut held = std::mem::take(&mut link.input);
        let bytes = self.io.bytes(buffer);
        if held.is_empty() && bytes.len() >= WARMED_BYTES_MIN {
            self.warm(bytes);
        }
        // What came whole is decoded where it stands; only an unfinished frame is copied.
        let result = if held.is_empty() {
            let used = self.on_link_input(index, &LinkInput::Received(buffer));
            held.extend_from_slice(&self.io.bytes(buffer)[used.bytes..]);
            used.result
        } else {
            held.extend_from_slice(bytes);
            let used = self.on_link_input(index, &LinkInput::Held(&held));
            held.drain(..used.bytes);
            used.result
        };
        match result {
            Ok(()) => self.links[usize::from(index)].input = held,
            Err(reason) => self.cut_link(index, reason),
        }
    }

    /// Reads a word of each session that the frames are for. Among millions these are not in the
    /// cache, and here the reads do not wait for each other.
    fn warm(&self, mut bytes: &[u8]) {
        while let Ok(Some((frame, rest))) = frame::split(bytes, LINK_BODY_BYTES_MAX) {
            if let Ok(Some(ToBroker::Deliver { session, .. })) = ToBroker::decode(frame) {
                self.core.touch(session.slot);
            }
            bytes = rest;
        }
    }

    /// Takes all whole frames from the front of the input.
    fn on_link_input(&mut self, index: u8, input: &LinkInput<'_>) -> Used {
        let mut used = 0;
        loop {
            let body_bytes_max = self.links[usize::from(index)].body_bytes_max();
            let bytes = match input {
                LinkInput::Received(buffer) => self.io.bytes(buffer),
                LinkInput::Held(bytes) => bytes,
            };
            let unread = &bytes[used..];
            let (frame, rest) = match frame::split(unread, body_bytes_max) {
                Ok(Some(split)) => split,
                Ok(None) => return Used { bytes: used, result: Ok(()) },
                Err(error) => return Used { bytes: used, result: Err(error.into()) },
            };
            used = bytes.len() - rest.len();
            let result = match ToBroker::decode(frame) {
                // A type of a newer minor version is skipped.
                Ok(None) => Ok(()),
                Ok(Some(frame)) => {
                    let link = &mut self.links[usize::from(index)];
                    if link.is_up() {
                        let event = Event::Link { link: LinkIndex(index), frame };
                        self.core.on_event(event, self.now, &mut self.actions);
                        Ok(())
                    } else {
                        link.on_handshake(frame, &self.config.link_key)
                    }
                }
                Err(error) => Err(error.into()),
            };
            if let Err(reason) = result {
                return Used { bytes: used, result: Err(reason) };
            }
            self.link_came_up(index);
        }
    }

    /// Tells the core when the handshake has just ended.
    fn link_came_up(&mut self, index: u8) {
        let link = &mut self.links[usize::from(index)];
        if link.is_up() && link.hello.take().is_some() {
            link.attempt = 0;
            link.deadline_ms = self.now.mono_ms + self.config.link_idle_ms;
            self.mailbox.notify(Notice::LinkUp { link: LinkIndex(index) });
            self.tell(Event::LinkUp { link: LinkIndex(index) });
        }
    }

    /// `Action::SendLink`.
    pub(super) fn add_link_send(&mut self, index: LinkIndex, frame: Range<u32>) {
        let link = &mut self.links[usize::from(index.0)];
        if !link.is_up() {
            return;
        }
        let bytes = self.actions.frame(&frame);
        if link.queued_bytes() + bytes.len() > self.config.link_queue_bytes_max {
            self.links_to_cut.push((index.0, CloseReason::LinkOverflow));
        } else {
            link.output.extend_from_slice(bytes);
        }
    }

    pub(super) fn flush_links(&mut self) {
        if !self.links.iter().any(Link::wants_send) {
            return;
        }
        let mut unsent = std::mem::take(&mut self.outbox.unsent);
        let ready = self.links.iter().zip(0..).filter(|(link, _)| link.wants_send());
        let sends = ready
            .map(|(link, index)| (Target::link(index, link.generation), &link.output[link.sent..]));
        self.io.send(sends, &mut unsent);
        for index in 0..self.links.len() as u8 {
            let target = self.link_target(index);
            let link = &mut self.links[usize::from(index)];
            if !link.wants_send() {
                continue;
            }
            match unsent.iter().find(|short| short.target == target) {
                None => {
                    link.output.clear();
                    link.output.shrink_to(OUTPUT_BYTES_KEPT);
                    link.sent = 0;
                }
                Some(short) if short.failed => {
                    self.links_to_cut.push((index, CloseReason::Reset));
                }
                Some(short) => {
                    link.sent += short.written as usize;
                    link.in_kernel.writable = true;
                    self.io.watch_writable(target);
                }
            }
        }
        unsent.clear();
        self.outbox.unsent = unsent;
    }

    /// Cuts the links that the turn found to be broken or too far behind. What the core then asks
    /// for belongs to the next turn.
    pub(super) fn cut_links(&mut self) {
        let mut links = std::mem::take(&mut self.links_to_cut);
        for (index, reason) in links.drain(..) {
            self.cut_link(index, reason);
        }
        self.links_to_cut = links;
    }

    pub(super) fn on_link_writable(&mut self, target: Target) {
        let (index, link) = self.link_of(target);
        link.in_kernel.writable = false;
        // The front that was sent is given up when it is most of the buffer.
        if link.sent * 2 > link.output.len() {
            link.output.drain(..link.sent);
            link.sent = 0;
        }
        self.close_link_if_quiet(index);
    }

    /// Ends a link, whatever its state; idempotent.
    fn cut_link(&mut self, index: u8, reason: CloseReason) {
        let target = self.link_target(index);
        let link = &mut self.links[usize::from(index)];
        if matches!(link.state, State::Closing | State::Down) {
            self.close_link_if_quiet(index);
            return;
        }
        let was_up = link.is_up();
        link.state = State::Closing;
        link.hello = None;
        link.input = Vec::new();
        link.output = Vec::new();
        link.sent = 0;
        let in_kernel = link.in_kernel;
        for (running, pending) in [
            (in_kernel.connect, Pending::Connect),
            (in_kernel.watch, Pending::Watch),
            (in_kernel.writable, Pending::Writable),
        ] {
            if running {
                self.io.cancel(target, pending);
            }
        }
        match reason {
            CloseReason::LinkAuth | CloseReason::Version => self.shell.link_refusals += 1,
            CloseReason::LinkOverflow => self.shell.link_overflows += 1,
            _ => {}
        }
        let telling = was_up || matches!(reason, CloseReason::LinkAuth | CloseReason::Version);
        if telling {
            self.mailbox.notify(Notice::LinkDown { link: LinkIndex(index), reason });
        }
        if was_up {
            self.tell(Event::LinkDown { link: LinkIndex(index) });
        }
        self.close_link_if_quiet(index);
    }

    fn close_link_if_quiet(&mut self, index: u8) {
        let target = self.link_target(index);
        let link = &mut self.links[usize::from(index)];
        if link.state == State::Closing && link.in_kernel == InKernel::default() {
            link.in_kernel.close = true;
            self.io.close(target);
        }
    }

    pub(super) fn on_link_closed(&mut self, target: Target) {
        let mut random = [0; 8];
        self.io.fill_random(&mut random);
        let now_ms = self.now.mono_ms;
        let (_, link) = self.link_of(target);
        link.in_kernel.close = false;
        link.state = State::Down;
        link.deadline_ms = now_ms + link.retry_delay_ms(u64::from_le_bytes(random));
        link.attempt = link.attempt.saturating_add(1);
    }
}

/// What an idle link's output buffer may keep.
const OUTPUT_BYTES_KEPT: usize = 64 * 1024;

/// From so many bytes on there are several frames to overlap.
const WARMED_BYTES_MIN: usize = 512;

/// Where the bytes to decode stand.
enum LinkInput<'a> {
    Received(&'a Buffer),
    Held(&'a [u8]),
}

/// How far decoding came.
struct Used {
    bytes: usize,
    result: Result<(), CloseReason>,
}

impl Link {
    /// One frame before the link is up. Any other than the expected one ends it.
    fn on_handshake(&mut self, frame: ToBroker<'_>, key: &[u8; 32]) -> Result<(), CloseReason> {
        match (self.state, frame) {
            (State::Greeting, ToBroker::Challenge { major, node, nonce, proof, .. }) => {
                if major != MAJOR {
                    return Err(CloseReason::Version);
                }
                let hello = self.hello.as_ref().expect("a greeting link has said hello");
                let transcript = hello.transcript(node, &nonce);
                prover(key, CONTROL_PROOF_CONTEXT, &transcript)
                    .verify_slice(&proof)
                    .map_err(|_| CloseReason::LinkAuth)?;
                let ours = prover(key, BROKER_PROOF_CONTEXT, &transcript).finalize().into_bytes();
                to_control::proof(&mut self.output, &ours.into());
                self.state = State::Proving;
                Ok(())
            }
            (State::Proving, ToBroker::Accepted { .. }) => {
                self.state = State::Up;
                Ok(())
            }
            (_, ToBroker::Refused { reason }) => Err(reason),
            _ => Err(CloseReason::Unexpected),
        }
    }
}

fn prover(key: &[u8; 32], context: &[u8], transcript: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(context);
    mac.update(transcript);
    mac
}
