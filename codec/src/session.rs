//! The device's side of the protocol as a state machine: what every client, test and benchmark runs.
//!
//! ```text
//!            on_connected        Welcome                 heartbeat due
//!  Waiting ─▶ Dialling ─▶ Greeting ─────▶ Online ───────────────▶ Pinged
//!     ▲          │            │             ▲  ◀───── any frame ─────┘ │
//!     └──────────┴────────────┴─────────────┴── hang up, back off ◀────┘
//!                             └──▶ Stopped: a reason that a retry cannot mend
//! ```
//!
//! It owns no socket, no clock and no buffer. The caller passes bytes, the time, and a buffer to
//! write to; a session is 48 bytes, so that one process can hold millions.
//!
//! What it promises to the application:
//! - each inbox entry and each group entry is reported once, in order: an entry at or below the
//!   position already held is a repeat, acknowledged again and not reported;
//! - positions only grow, unless the server says that its store went back ([`Event::Reset`]);
//! - reconnects follow the server's delay, or else a capped exponential back-off with jitter.
//!
//! It does not keep its [`Positions`] across restarts of the process: the caller does.

use crate::device::{Close, Connect, Downlink, MAJOR, MINOR, Uplink, Welcome};
use crate::error::{CloseReason, DecodeError};
use crate::frame::Framer;
use crate::ids::{Epoch, Seq, Stream, TopicId};
use crate::limits::{DOWNLINK_BODY_BYTES_MAX, TOPICS_PER_SESSION_MAX};

/// How long a dial, a welcome or a pong may take before the session hangs up.
const ANSWER_TIMEOUT_MS: u64 = 20_000;

/// What the sessions of one device have in common. Borrowed by each call, so that a million
/// sessions can share or derive it.
#[derive(Clone, Copy, Debug)]
pub struct Profile<'a> {
    pub ticket: &'a [u8],
    /// At most [`TOPICS_PER_SESSION_MAX`].
    pub topics: &'a [TopicId],
    /// The interval to propose; 0 leaves it to the server.
    pub heartbeat_s: u16,
    pub network: u32,
    pub backoff: Backoff,
}

/// The delay before reconnects that the server did not time: `first_ms * 1.8^attempt`, at most
/// `max_ms`, of which a random half is jitter. goim's and gRPC's shape.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first_ms: u32,
    pub max_ms: u32,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { first_ms: 3_000, max_ms: 300_000 }
    }
}

/// What a device must remember across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Positions {
    pub epoch: Epoch,
    pub inbox: Seq,
    /// `None` until the first session learnt where the present is.
    pub group: Option<Seq>,
}

/// What the application is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The broker accepted the session.
    Welcomed { epoch: Epoch },
    /// The session has a place in both streams: messages from here on reach it. Once per
    /// connection.
    Ready,
    /// A message, for the first time. Acknowledged after the call that reports it.
    Message { stream: Stream, seq: Seq, source: Source, payload: &'a [u8] },
    /// A message that was reported before. Acknowledged again.
    Repeat { stream: Stream, seq: Seq },
    /// The server answered a heartbeat.
    Pong,
    /// The server answered a pull, and nothing more waits.
    CaughtUp { stream: Stream },
    /// The server's stream ends before the device's position; the position went back to `seq`.
    Reset { stream: Stream, seq: Seq },
    /// The broker ends the connection.
    Closing(Close<'a>),
}

/// By what a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Device,
    App,
    /// The tag of one of the session's topics.
    Topic {
        tag: u32,
    },
}

/// What the caller must do with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing before [`Session::deadline_ms`].
    Wait,
    /// Open a connection and call [`Session::on_connected`], or [`Session::on_disconnected`] when
    /// that fails.
    Dial,
    /// Close the connection and call [`Session::on_disconnected`].
    HangUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Dialling,
    Greeting,
    Online,
    Pinged,
    /// The broker said close, or an answer is overdue; the caller hangs up.
    Closing,
    Stopped(CloseReason),
}

/// One device's session.
#[derive(Clone, Debug)]
pub struct Session {
    epoch: Epoch,
    inbox: Seq,
    /// Meaningful once the session `has_group`.
    group: Seq,
    deadline_ms: u64,
    /// The server's delay for the next reconnect; 0: none given.
    retry_after_ms: u32,
    /// Differs between sessions, so that their jitter does.
    seed: u32,
    heartbeat_s: u16,
    /// Reconnects since the last welcome.
    attempt: u8,
    phase: Phase,
    has_group: bool,
    pulling_inbox: bool,
    pulling_group: bool,
    ready: bool,
}

const _: () = assert!(std::mem::size_of::<Session>() <= 48);

impl Session {
    /// A session that dials at once. `seed` should differ between devices.
    pub fn new(positions: Positions, seed: u32, now_ms: u64) -> Session {
        Session {
            epoch: positions.epoch,
            inbox: positions.inbox,
            group: positions.group.unwrap_or_default(),
            has_group: positions.group.is_some(),
            deadline_ms: now_ms,
            retry_after_ms: 0,
            seed,
            heartbeat_s: 0,
            attempt: 0,
            phase: Phase::Waiting,
            pulling_inbox: false,
            pulling_group: false,
            ready: false,
        }
    }

    pub fn positions(&self) -> Positions {
        Positions { epoch: self.epoch, inbox: self.inbox, group: self.group() }
    }

    fn group(&self) -> Option<Seq> {
        self.has_group.then_some(self.group)
    }

    fn place_group(&mut self, seq: Seq) {
        (self.group, self.has_group) = (seq, true);
    }

    /// Whether the broker has accepted the session and it has not ended.
    pub fn is_online(&self) -> bool {
        matches!(self.phase, Phase::Online | Phase::Pinged)
    }

    /// Whether it is on its way there: dialled, and not welcomed yet.
    pub fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Dialling | Phase::Greeting)
    }

    /// Whether messages sent from now on reach this session.
    pub fn is_ready(&self) -> bool {
        self.is_online() && self.ready
    }

    /// The reason for which the session will not reconnect by itself.
    pub fn stopped(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Stopped(reason) => Some(reason),
            _ => None,
        }
    }

    /// The heartbeat interval in force, 0 before the first welcome.
    pub fn heartbeat_s(&self) -> u16 {
        self.heartbeat_s
    }

    /// When [`Session::on_time`] must be called next; `u64::MAX`: never.
    pub fn deadline_ms(&self) -> u64 {
        match self.phase {
            Phase::Stopped(_) => u64::MAX,
            _ => self.deadline_ms,
        }
    }

    /// The connection is open: introduce ourselves. Writes nothing if the session has stopped.
    pub fn on_connected(&mut self, profile: &Profile<'_>, now_ms: u64, out: &mut Vec<u8>) {
        assert!(profile.topics.len() <= TOPICS_PER_SESSION_MAX);
        if matches!(self.phase, Phase::Stopped(_)) {
            // It left while the caller dialled; the caller hangs up.
            return;
        }
        let connect = Connect {
            major: MAJOR,
            minor: MINOR,
            heartbeat_s: profile.heartbeat_s,
            network: profile.network,
            last_epoch: self.epoch,
            inbox: self.inbox,
            group: self.group(),
            ticket: profile.ticket,
        };
        Uplink::Connect(connect).encode(out);
        for &topic in profile.topics {
            Uplink::Subscribe { topic }.encode(out);
        }
        self.phase = Phase::Greeting;
        self.deadline_ms = now_ms + ANSWER_TIMEOUT_MS;
        self.pulling_inbox = false;
        self.pulling_group = false;
        self.ready = false;
    }

    /// Bytes arrived. Replies are appended to `out`; `on_event` hears what the application should.
    /// After an error the caller hangs up. Each connection begins with an empty framer.
    pub fn on_bytes(
        &mut self,
        framer: &mut Framer,
        bytes: &[u8],
        now_ms: u64,
        out: &mut Vec<u8>,
        mut on_event: impl FnMut(Event<'_>),
    ) -> Result<Command, DecodeError> {
        let mut inbox_ack = None;
        let result = framer.feed(bytes, DOWNLINK_BODY_BYTES_MAX, |frame| {
            if let Some(frame) = Downlink::decode(frame)? {
                self.on_frame(frame, now_ms, &mut inbox_ack, out, &mut on_event);
            }
            Ok(())
        });
        // Inbox acknowledgements are cumulative, so one covers everything that came together.
        if let Some(seq) = inbox_ack {
            Uplink::Ack { seq }.encode(out);
        }
        if result.is_err() && self.stopped().is_none() {
            self.phase = Phase::Closing;
        }
        result.map(|()| self.command())
    }

    fn on_frame(
        &mut self,
        frame: Downlink<'_>,
        now_ms: u64,
        inbox_ack: &mut Option<Seq>,
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        if !self.allows(&frame) {
            // After a close nothing counts; otherwise the broker broke the protocol.
            if !matches!(self.phase, Phase::Stopped(_)) {
                self.phase = Phase::Closing;
            }
            return;
        }
        if self.phase == Phase::Pinged {
            // Whatever arrives proves the path; the pong need not come first.
            self.phase = Phase::Online;
            self.deadline_ms = now_ms + self.heartbeat_ms();
        }
        match frame {
            Downlink::Pong => on_event(Event::Pong),
            Downlink::Welcome(welcome) => self.on_welcome(welcome, now_ms, out, on_event),
            Downlink::Push { seq, payload } => {
                if seq > self.inbox {
                    self.inbox = seq;
                    let (stream, source) = (Stream::Inbox, Source::Device);
                    on_event(Event::Message { stream, seq, source, payload });
                } else {
                    on_event(Event::Repeat { stream: Stream::Inbox, seq });
                }
                *inbox_ack = Some(self.inbox);
            }
            Downlink::Broadcast { seq, payload } => {
                self.on_group(seq, Source::App, payload, out, on_event);
            }
            Downlink::TopicPush { seq, tag, payload } => {
                self.on_group(seq, Source::Topic { tag }, payload, out, on_event);
            }
            Downlink::Notice { stream, latest } => {
                if stream == Stream::Group && !self.has_group {
                    // The present, for a session that has no past, is right before this entry.
                    self.place_group(Seq(latest.0.saturating_sub(1)));
                    self.become_ready(on_event);
                }
                if !*self.pulling(stream) {
                    self.pull(stream, out);
                }
            }
            Downlink::CaughtUp { stream, upto, more } => {
                self.on_caught_up(stream, upto, more, out, on_event);
            }
            Downlink::Reset { stream, seq } => {
                match stream {
                    Stream::Inbox => {
                        self.inbox = seq;
                        // What came before it is of another count.
                        *inbox_ack = None;
                    }
                    Stream::Group => self.place_group(seq),
                }
                // It answers a pull; otherwise later notices would go unheard.
                *self.pulling(stream) = false;
                on_event(Event::Reset { stream, seq });
                self.become_ready(on_event);
            }
            Downlink::Interval { heartbeat_s } => {
                // A shorter interval must not wait for the end of a longer one.
                self.heartbeat_s = heartbeat_s;
                self.deadline_ms = now_ms + self.heartbeat_ms();
            }
            Downlink::Close(close) => {
                self.retry_after_ms = close.retry_after_ms;
                self.phase = if close.reason.may_retry() {
                    Phase::Closing
                } else {
                    Phase::Stopped(close.reason)
                };
                on_event(Event::Closing(close));
            }
        }
    }

    /// A connection is welcomed once, and only a welcome or a close comes first.
    fn allows(&self, frame: &Downlink<'_>) -> bool {
        match self.phase {
            Phase::Greeting => matches!(frame, Downlink::Welcome(_) | Downlink::Close(_)),
            Phase::Online | Phase::Pinged => !matches!(frame, Downlink::Welcome(_)),
            Phase::Waiting | Phase::Dialling | Phase::Closing | Phase::Stopped(_) => false,
        }
    }

    fn on_welcome(
        &mut self,
        welcome: Welcome,
        now_ms: u64,
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        self.epoch = welcome.epoch;
        self.heartbeat_s = welcome.heartbeat_s;
        self.attempt = 0;
        self.retry_after_ms = 0;
        self.phase = Phase::Online;
        self.deadline_ms = now_ms + self.heartbeat_ms();
        on_event(Event::Welcomed { epoch: welcome.epoch });
        match (self.group(), welcome.group) {
            (None, Some(head)) => self.place_group(head),
            (Some(position), Some(head)) if position != head => self.pull(Stream::Group, out),
            (_, _) => {}
        }
        self.become_ready(on_event);
    }

    fn on_group(
        &mut self,
        seq: Seq,
        source: Source,
        payload: &[u8],
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        let stream = Stream::Group;
        if self.group().is_none_or(|position| seq > position) {
            self.place_group(seq);
            on_event(Event::Message { stream, seq, source, payload });
        } else {
            on_event(Event::Repeat { stream, seq });
        }
        // Group acknowledgements are counted per message, so each gets its own.
        Uplink::GroupAck { seq }.encode(out);
        self.become_ready(on_event);
    }

    fn on_caught_up(
        &mut self,
        stream: Stream,
        upto: Seq,
        more: bool,
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        match stream {
            Stream::Inbox => self.inbox = self.inbox.max(upto),
            Stream::Group => {
                self.place_group(self.group().map_or(upto, |at| at.max(upto)));
            }
        }
        *self.pulling(stream) = false;
        if more {
            self.pull(stream, out);
        } else {
            on_event(Event::CaughtUp { stream });
        }
        self.become_ready(on_event);
    }

    fn become_ready(&mut self, on_event: &mut impl FnMut(Event<'_>)) {
        if !self.ready && self.has_group {
            self.ready = true;
            on_event(Event::Ready);
        }
    }

    fn pull(&mut self, stream: Stream, out: &mut Vec<u8>) {
        let from = match stream {
            Stream::Inbox => self.inbox,
            Stream::Group => self.group().unwrap_or(Seq::ZERO),
        };
        *self.pulling(stream) = true;
        Uplink::Pull { stream, from }.encode(out);
    }

    fn pulling(&mut self, stream: Stream) -> &mut bool {
        match stream {
            Stream::Inbox => &mut self.pulling_inbox,
            Stream::Group => &mut self.pulling_group,
        }
    }

    /// The connection is gone, or could not be made: back off, unless the session has stopped.
    /// Nothing happens when it is told twice.
    pub fn on_disconnected(&mut self, backoff: Backoff, now_ms: u64) {
        if matches!(self.phase, Phase::Stopped(_) | Phase::Waiting) {
            return;
        }
        self.phase = Phase::Waiting;
        self.ready = false;
        self.deadline_ms = now_ms + self.reconnect_delay_ms(backoff);
        self.attempt = self.attempt.saturating_add(1);
        self.retry_after_ms = 0;
    }

    /// Acts on a deadline that has come; earlier calls do nothing.
    pub fn on_time(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Command {
        if now_ms < self.deadline_ms() {
            return self.command();
        }
        match self.phase {
            Phase::Waiting => {
                self.phase = Phase::Dialling;
                self.deadline_ms = now_ms + ANSWER_TIMEOUT_MS;
                return Command::Dial;
            }
            Phase::Online => self.ping(now_ms, out),
            Phase::Dialling | Phase::Greeting | Phase::Pinged => self.phase = Phase::Closing,
            Phase::Closing | Phase::Stopped(_) => {}
        }
        self.command()
    }

    /// A heartbeat now, as when the device wakes up: it releases `when-awake` messages.
    pub fn ping(&mut self, now_ms: u64, out: &mut Vec<u8>) {
        assert!(self.is_online(), "only an online session has a heartbeat");
        Uplink::Ping.encode(out);
        if self.phase == Phase::Online {
            // A further ping does not give the first one's answer more time.
            self.phase = Phase::Pinged;
            self.deadline_ms = now_ms + ANSWER_TIMEOUT_MS;
        }
    }

    /// Asks whether the inbox has anything new, as when the user looks. Writes nothing while an
    /// answer is awaited.
    pub fn pull_inbox(&mut self, out: &mut Vec<u8>) {
        assert!(self.is_online(), "only an online session can ask");
        if !self.pulling_inbox {
            self.pull(Stream::Inbox, out);
        }
    }

    /// Joins a topic while online. The caller adds it to its profile for the next connect.
    pub fn subscribe(&self, topic: TopicId, out: &mut Vec<u8>) {
        Uplink::Subscribe { topic }.encode(out);
    }

    /// Leaves a topic while online.
    pub fn unsubscribe(&self, topic: TopicId, out: &mut Vec<u8>) {
        Uplink::Unsubscribe { topic }.encode(out);
    }

    /// Says goodbye. The session stays stopped; positions remain valid for a new one.
    pub fn leave(&mut self, out: &mut Vec<u8>) {
        if self.is_online() {
            Uplink::Bye.encode(out);
        }
        if self.stopped().is_none() {
            self.phase = Phase::Stopped(CloseReason::Bye);
        }
    }

    fn command(&self) -> Command {
        match self.phase {
            Phase::Closing | Phase::Stopped(_) => Command::HangUp,
            _ => Command::Wait,
        }
    }

    fn heartbeat_ms(&self) -> u64 {
        u64::from(self.heartbeat_s) * 1000
    }

    /// The server's delay plus up to a quarter of it, or the back-off with its upper half random.
    fn reconnect_delay_ms(&self, backoff: Backoff) -> u64 {
        if self.retry_after_ms > 0 {
            let delay = u64::from(self.retry_after_ms);
            return delay + self.jitter(delay / 4);
        }
        let mut delay = u64::from(backoff.first_ms);
        for _ in 0..self.attempt {
            delay = (delay * 9 / 5).min(u64::from(backoff.max_ms));
        }
        let half = delay.min(u64::from(backoff.max_ms)) / 2;
        half + self.jitter(half)
    }

    /// A number in `0..=max`, the same for the same seed, epoch and attempt (SplitMix64).
    fn jitter(&self, max: u64) -> u64 {
        let mut x = (u64::from(self.seed) << 8 | u64::from(self.attempt)) ^ self.epoch.0;
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % (max + 1)
    }
}
