//! The life of one connection: accepted, connected, heard, closed.
//!
//! ```text
//!  Accepted ─▶ Delayed ─▶ Connecting ─ Connect, ticket good ─▶ Online ─┐
//!      │                      │                                        │ any close reason
//!      └─ refused ────────────┴──────────────▶ Closing ◀───────────────┘
//!                                                 │ Event::Closed: the kernel has let go
//!                                                 ▼
//!                                                Free, and the next use has another generation
//! ```
//!
//! One timer per connection: the accept delay, then the handshake, then idleness. Whatever a
//! device sends proves that it lives; a heartbeat after a long silence proves that its path holds,
//! and lengthens the interval.
//!
//! Invariant **one-home**: a kick closes a session only if it has the lower epoch. A session's
//! epoch is above all that this shard gave or heard, and above the device's last one.
//!
//! Invariant **quiesced-slot**: a closed slot is free only after `Event::Closed`.

use hawser_codec::device::{Close, Connect, Downlink, MAJOR, Uplink, Welcome};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::ids::{Epoch, SessionRef, Stream};
use hawser_codec::limits::HEARTBEAT_S_MAX;
use hawser_codec::link::{Announced, Gone};

use super::event::{Action, Actions, Now};
use super::rows::{Flags, Row, State};
use super::topics::Joined;
use super::{Core, CoreConfig, SeededBug, send, ticket};
use crate::metrics::Counter;

/// How far ahead of our clock an epoch may be before we stop following it.
const EPOCH_AHEAD_MS: u64 = 5 * 60_000;

/// Good beats before the interval grows (Tencent Mars).
const BEATS_PER_STEP: u8 = 5;

/// Timers that one turn acts upon.
const EXPIRED_PER_TURN: u32 = 4096;

/// The intervals, and how long a silence may last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    steps_ms: [u64; 3],
    margin_ms: u64,
}

impl Heartbeat {
    /// Shortest, five thirds of it, longest: 3, 5 and 10 minutes by default.
    pub fn new(config: &CoreConfig) -> Heartbeat {
        let (min, max) = (config.heartbeat_min_ms, config.heartbeat_max_ms);
        assert!(0 < min && min <= max, "the interval has a range");
        let middle = (min.saturating_mul(5) / 3).min(max);
        Heartbeat { steps_ms: [min, middle, max], margin_ms: config.heartbeat_margin_ms }
    }

    /// After this long a silence the session is over.
    pub fn idle_ms(&self, step: u8) -> u64 {
        let interval_ms = self.steps_ms[step as usize];
        interval_ms + interval_ms / 2 + self.margin_ms
    }

    /// The longest step that is not above what the device proposes; 0 leaves it to us.
    fn step_for(&self, proposed_s: u16) -> u8 {
        let proposed_ms = u64::from(proposed_s) * 1000;
        self.steps_ms.iter().rposition(|&step_ms| step_ms <= proposed_ms).unwrap_or(0) as u8
    }

    /// Whole seconds, at least one.
    fn wire_s(&self, step: u8) -> u16 {
        (self.steps_ms[step as usize] / 1000).clamp(1, u64::from(HEARTBEAT_S_MAX)) as u16
    }

    /// A longer step, if there is one.
    fn longer(&self, step: u8) -> Option<u8> {
        let now_ms = self.steps_ms[step as usize];
        self.steps_ms.iter().position(|&step_ms| step_ms > now_ms).map(|step| step as u8)
    }
}

impl Core {
    pub(super) fn on_accepted(&mut self, slot: u32, now: Now, out: &mut Actions) {
        assert!(slot < self.config.slots_max, "slot {slot} is beyond the plan");
        self.rows.make(slot);
        self.wheel.make(slot);
        self.slots_end = self.slots_end.max(slot + 1);
        let refusal = self.refusal();
        let delay_ms = self.accept_delay_ms();
        let row = &mut self.rows[slot];
        assert!(row.state == State::Free, "slot {slot} was accepted while it was taken");
        *row = Row { generation: row.generation.wrapping_add(1), ..Row::default() };
        row.state = State::Connecting;
        self.counters.add(Counter::Accepted, 1);
        self.slots_in_use += 1;
        self.active += 1;
        if let Some(reason) = refusal {
            self.refuse(slot, reason, out);
        } else if delay_ms > 0 {
            self.rows[slot].state = State::Delayed;
            self.wheel.arm(slot, now.mono_ms + delay_ms);
            self.counters.add(Counter::DelayedAccepts, 1);
        } else {
            self.start_reading(slot, now, out);
        }
    }

    fn start_reading(&mut self, slot: u32, now: Now, out: &mut Actions) {
        self.rows[slot].state = State::Connecting;
        self.wheel.arm(slot, now.mono_ms + self.config.handshake_timeout_ms);
        out.list.push(Action::StartReading { slot });
    }

    pub(super) fn on_frame(&mut self, slot: u32, frame: Uplink<'_>, now: Now, out: &mut Actions) {
        match (self.state(slot), frame) {
            (State::Connecting | State::Online, Uplink::Bye) => {
                self.close(slot, CloseReason::Bye, out);
            }
            (State::Connecting, Uplink::Connect(connect)) => {
                self.on_connect(slot, &connect, now, out);
            }
            (State::Connecting, _) | (State::Online, Uplink::Connect(_)) => {
                self.close(slot, CloseReason::Unexpected, out);
            }
            (State::Online, frame) => self.on_online_frame(slot, frame, now, out),
            // Frames that came in one turn with the one that ended the session.
            (State::Free | State::Delayed | State::Closing, _) => {}
        }
    }

    fn on_online_frame(&mut self, slot: u32, frame: Uplink<'_>, now: Now, out: &mut Actions) {
        match frame {
            Uplink::Subscribe { topic } => {
                let row = &mut self.rows[slot];
                let CoreConfig { topics_max, topics_bytes_max, .. } = self.config;
                let (list, app) = (&mut row.topics, row.app);
                match self.topics.join(list, slot, app, topic, topics_max, topics_bytes_max) {
                    Joined::New => self.joined_topic(slot, now, out),
                    Joined::Already => {}
                    Joined::TooMany => return self.close(slot, CloseReason::TooManyTopics, out),
                    Joined::NoRoom => {
                        self.counters.add(Counter::TopicsRefused, 1);
                        return self.close(slot, CloseReason::Overload, out);
                    }
                }
                return self.hear(slot, now);
            }
            Uplink::Unsubscribe { topic } => {
                let row = &mut self.rows[slot];
                self.topics.leave(&mut row.topics, row.app, topic);
            }
            Uplink::Ping => self.on_ping(slot, now, out),
            Uplink::Ack { seq } => self.take_ack(slot, seq),
            Uplink::GroupAck { seq } => {
                let row = &self.rows[slot];
                // Nobody has what was not sent, or does not exist.
                if seq <= row.group && self.apps[row.app].group.has(seq) {
                    self.counters.add(Counter::GroupAcks, 1);
                    self.links.group_ack(self.apps[row.app].id, seq);
                }
            }
            Uplink::Pull { stream, from } => {
                self.counters.add(Counter::Pulls, 1);
                match stream {
                    Stream::Inbox => self.on_inbox_pull(slot, from),
                    Stream::Group => self.on_group_pull(slot, from),
                }
            }
            Uplink::Connect(_) | Uplink::Bye => unreachable!("told apart by on_frame"),
        }
        // The device wrote its subscribes together with its connect, before anything else.
        self.rows[slot].flags.clear(Flags::SETTLING);
        self.hear(slot, now);
    }

    fn on_connect(&mut self, slot: u32, connect: &Connect<'_>, now: Now, out: &mut Actions) {
        if connect.major != MAJOR {
            return self.close(slot, CloseReason::Version, out);
        }
        let admitted = match ticket::verify(&self.apps, connect.ticket, now.unix_ms) {
            Ok(admitted) => admitted,
            Err(reason) => return self.close(slot, reason, out),
        };
        let epoch = self.next_epoch(connect.last_epoch, now);
        let row = &mut self.rows[slot];
        row.device = admitted.device;
        row.app = admitted.app;
        row.epoch = epoch;
        (row.sent, row.latest, row.acked) = (connect.inbox, connect.inbox, connect.inbox);
        row.step = self.heartbeat.step_for(connect.heartbeat_s);
        row.state = State::Online;
        let heartbeat_s = self.heartbeat.wire_s(row.step);
        self.online += 1;
        self.counters.add(Counter::Connected, 1);
        let group = self.join_group(slot, connect.group);
        self.hear(slot, now);
        send(out, slot, &Downlink::Welcome(Welcome { epoch, heartbeat_s, group }));
        self.announce(slot);
        self.pull_inbox(slot);
    }

    fn announce(&mut self, slot: u32) {
        self.counters.add(Counter::Announced, self.links.up() as u64);
        self.links.announce_everywhere(self.announcement(slot));
    }

    pub(super) fn announcement(&self, slot: u32) -> Announced {
        let row = &self.rows[slot];
        Announced {
            device: row.device,
            app: self.apps[row.app].id,
            session: row.session(slot),
            epoch: row.epoch,
            acked: row.acked,
        }
    }

    fn on_ping(&mut self, slot: u32, now: Now, out: &mut Actions) {
        self.counters.add(Counter::Heartbeats, 1);
        let row = &mut self.rows[slot];
        if row.flags.has(Flags::BLOCKED) {
            // Nothing is queued for a device that does not read. What it has still to read tells
            // it that the path holds.
            row.pongs_owed = row.pongs_owed.saturating_add(1);
        } else {
            send(out, slot, &Downlink::Pong);
        }
        let links_up = self.links.up();
        if (1..self.config.links as usize).contains(&links_up) && !self.waits_for_answer(slot) {
            // A node that this shard has no link to may have stored something.
            self.pull_inbox(slot);
        }
        // What waited for the device to be awake goes out now.
        self.notice_inbox(slot, out);
        self.notice_group(slot, out);
        let silence_ms = now.mono_ms.saturating_sub(self.heard_ms(slot));
        let row = &mut self.rows[slot];
        if silence_ms >= self.heartbeat.steps_ms[row.step as usize] / 2 {
            row.beats += 1;
        }
        if row.beats >= BEATS_PER_STEP {
            row.beats = 0;
            if let Some(longer) = self.heartbeat.longer(row.step) {
                row.step = longer;
                let heartbeat_s = self.heartbeat.wire_s(longer);
                send(out, slot, &Downlink::Interval { heartbeat_s });
                self.counters.add(Counter::IntervalsGrown, 1);
            }
        }
    }

    /// Puts the end of the silence off.
    fn hear(&mut self, slot: u32, now: Now) {
        let idle_ms = self.heartbeat.idle_ms(self.rows[slot].step);
        self.wheel.arm(slot, now.mono_ms + idle_ms);
    }

    /// When the device of an online session was heard last.
    pub(super) fn heard_ms(&self, slot: u32) -> u64 {
        let idle_ms = self.heartbeat.idle_ms(self.rows[slot].step);
        self.wheel.deadline_ms(slot).saturating_sub(idle_ms)
    }

    pub(super) fn on_bad_input(&mut self, slot: u32, error: DecodeError, out: &mut Actions) {
        if self.rows[slot].is_active() {
            self.counters.add_decode_error(error);
            self.close(slot, error.into(), out);
        }
    }

    pub(super) fn on_blocked(&mut self, slot: u32) {
        let row = &mut self.rows[slot];
        if row.state == State::Online && !row.flags.has(Flags::BLOCKED) {
            row.flags.set(Flags::BLOCKED);
            self.blocked += 1;
        }
    }

    pub(super) fn on_drained(&mut self, slot: u32, out: &mut Actions) {
        let row = &mut self.rows[slot];
        if row.state == State::Online && row.flags.take(Flags::BLOCKED) {
            self.blocked -= 1;
            for _ in 0..std::mem::take(&mut self.rows[slot].pongs_owed) {
                send(out, slot, &Downlink::Pong);
            }
            self.inbox_drained(slot, out);
            self.group_drained(slot, out);
        }
    }

    pub(super) fn on_kick(
        &mut self,
        session: SessionRef,
        epoch: Epoch,
        now: Now,
        out: &mut Actions,
    ) {
        // The newer session's shard may be ahead of us: what connects here next must be above it.
        self.hear_epoch(epoch, now);
        let Some(slot) = self.live(session) else { return };
        if self.rows[slot].epoch < epoch || self.bug(SeededBug::KickWithoutEpoch) {
            self.counters.add(Counter::Kicks, 1);
            self.close(slot, CloseReason::TakenOver, out);
        } else {
            self.counters.add(Counter::KicksIgnored, 1);
        }
    }

    /// Timers that are due, as many as a turn may take; the wheel has the rest.
    pub(super) fn expire(&mut self, now: Now, out: &mut Actions) {
        for _ in 0..EXPIRED_PER_TURN {
            let Some(slot) = self.wheel.pop(now.mono_ms) else { return };
            match self.rows[slot].state {
                State::Delayed => self.start_reading(slot, now, out),
                State::Connecting => self.close(slot, CloseReason::HandshakeTimeout, out),
                State::Online => self.close(slot, CloseReason::Idle, out),
                State::Free | State::Closing => unreachable!("slot {slot} has no timer"),
            }
        }
    }

    /// Ends a connection: what it was is forgotten now, the slot is free when the kernel says so.
    pub(super) fn close(&mut self, slot: u32, reason: CloseReason, out: &mut Actions) {
        if self.rows[slot].is_active() {
            self.counters.add_closed(reason);
            self.end(slot, reason, out);
        }
    }

    /// Turns a connection away at the door.
    fn refuse(&mut self, slot: u32, reason: CloseReason, out: &mut Actions) {
        self.counters.add_refused(reason);
        self.end(slot, reason, out);
    }

    fn end(&mut self, slot: u32, reason: CloseReason, out: &mut Actions) {
        if says_goodbye(reason) {
            send(out, slot, &Downlink::Close(self.goodbye(reason)));
        }
        out.list.push(Action::Close { slot, reason });
        if self.rows[slot].state == State::Online {
            self.forget(slot, reason);
        }
        self.wheel.cancel(slot);
        self.rows[slot].state =
            if self.bug(SeededBug::SlotFreeBeforeClosed) { State::Free } else { State::Closing };
        self.active -= 1;
    }

    /// The last words: where to go and when, if the connection could live elsewhere or later.
    fn goodbye(&self, reason: CloseReason) -> Close<'_> {
        let (retry_after_ms, addresses) = match reason {
            CloseReason::Overload => (self.config.retry_after_ms, self.redirect()),
            // Drains are paced; the device's own back-off is enough.
            CloseReason::Drain => (0, self.redirect()),
            CloseReason::NotReady => (self.config.retry_after_ms, Vec::new()),
            _ => (0, Vec::new()),
        };
        Close { reason, retry_after_ms, addresses }
    }

    /// Takes an online session out of everything.
    fn forget(&mut self, slot: u32, reason: CloseReason) {
        let row = &mut self.rows[slot];
        let gone = Gone { device: row.device, session: row.session(slot), reason };
        self.topics.leave_all(&mut row.topics);
        row.pongs_owed = 0;
        let (app, place) = (row.app, row.place);
        if row.flags.take(Flags::BLOCKED) {
            self.blocked -= 1;
        }
        if let Some(moved) = self.apps[app].remove_member(place) {
            self.rows[moved].place = place;
        }
        if self.apps[app].members.is_empty() {
            self.end_group(app);
        }
        self.pull_is_over(slot);
        self.links.gone_everywhere(gone);
        self.online -= 1;
    }

    /// Nothing of the connection is in the kernel any more.
    pub(super) fn on_closed(&mut self, slot: u32) {
        let row = &mut self.rows[slot];
        assert!(row.state == State::Closing, "slot {slot} ended before it was closed");
        row.state = State::Free;
        self.slots_in_use -= 1;
    }

    /// The slot of a session that still exists, for a frame that names it.
    #[inline]
    pub(super) fn live(&mut self, session: SessionRef) -> Option<u32> {
        let any_generation = self.bug(SeededBug::StaleGeneration);
        let is_live = self.rows.get(session.slot).is_some_and(|row| {
            row.state == State::Online && (row.generation == session.generation || any_generation)
        });
        if !is_live {
            self.counters.add(Counter::Stale, 1);
        }
        is_live.then_some(session.slot)
    }

    fn state(&self, slot: u32) -> State {
        self.rows[slot].state
    }

    /// A stamp above all that was given here, and above the device's last session.
    fn next_epoch(&mut self, last: Epoch, now: Now) -> Epoch {
        let last = if self.bug(SeededBug::EpochIgnoresLast) { Epoch::ZERO } else { last };
        let bound = Epoch::from_ms(now.unix_ms + EPOCH_AHEAD_MS);
        self.clock = self.clock.tick(now.unix_ms, last.min(bound));
        self.clock
    }

    /// Follows a clock that is ahead, within the bound.
    pub(super) fn hear_epoch(&mut self, heard: Epoch, now: Now) {
        let bound = Epoch::from_ms(now.unix_ms + EPOCH_AHEAD_MS);
        self.clock = self.clock.max(heard.min(bound));
    }

    pub(super) fn clock(&self) -> Epoch {
        self.clock
    }
}

/// Whether the device can still read, and is told why.
fn says_goodbye(reason: CloseReason) -> bool {
    !matches!(reason, CloseReason::Bye | CloseReason::Reset | CloseReason::SlowReader)
}
