//! Protection at the door, and the drain.
//!
//! ```text
//!  Accepted ─▶ draining? memory low? full? ─▶ refused: reason, when to return, where to go
//!           ─▶ above the limit?            ─▶ read from later: 50 ms for each 100 k above it
//!
//!  Drain ─▶ StopAccepting ─▶ drain_per_s sessions closed with the other addresses ─▶ Drained
//! ```
//!
//! Reading later is what slows a storm down: a connection costs little before its first frame,
//! and its ticket, session and catch-up read are what must be spread.

use hawser_codec::error::CloseReason;

use super::Core;
use super::event::{Action, Actions, Now};

/// Slots that the drain looks at in one turn.
const SLOTS_PER_TURN: u32 = 65_536;

/// A drain under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    began_ms: u64,
    /// Connections that it has ended.
    ended: u64,
    /// The next slot to look at.
    next: u32,
    is_over: bool,
}

impl Core {
    /// Why nobody is admitted now.
    pub(super) fn refusal(&self) -> Option<CloseReason> {
        if self.drain.is_some() {
            Some(CloseReason::Drain)
        } else if self.memory_low || self.active >= self.config.connections_max {
            Some(CloseReason::Overload)
        } else {
            None
        }
    }

    /// How long a connection that is accepted now waits before it is read from.
    pub(super) fn accept_delay_ms(&self) -> u64 {
        let above = (self.active + 1).saturating_sub(self.config.accept_delay_above);
        (u64::from(above) * self.config.accept_delay_ms_per_100k).div_ceil(100_000)
    }

    /// The addresses that refused and drained devices are given.
    pub(super) fn redirect(&self) -> Vec<&str> {
        self.config.redirect.iter().map(String::as_str).collect()
    }

    pub(super) fn on_drain(&mut self, now: Now, out: &mut Actions) {
        if self.drain.is_none() {
            self.drain = Some(Drain { began_ms: now.mono_ms, ended: 0, next: 0, is_over: false });
            out.list.push(Action::StopAccepting);
        }
    }

    /// Ends as many connections as the pace allows by now.
    pub(super) fn advance_drain(&mut self, now: Now, out: &mut Actions) {
        let Some(mut drain) = self.drain else { return };
        let due = (now.mono_ms - drain.began_ms) * u64::from(self.config.drain_per_s) / 1000;
        let end = self.slots_end.min(drain.next.saturating_add(SLOTS_PER_TURN));
        while drain.next < end && drain.ended < due {
            if self.rows.get(drain.next).is_some_and(|row| row.is_active()) {
                self.close(drain.next, CloseReason::Drain, out);
                drain.ended += 1;
            }
            drain.next += 1;
        }
        if !drain.is_over && self.slots_in_use == 0 {
            drain.is_over = true;
            out.list.push(Action::Drained);
        }
        self.drain = Some(drain);
    }

    /// When the drain may end the next connection.
    pub(super) fn drain_deadline_ms(&self) -> Option<u64> {
        let drain = self.drain?;
        if self.slots_in_use == 0 {
            return (!drain.is_over).then_some(drain.began_ms);
        }
        let next_ms = ((drain.ended + 1) * 1000).div_ceil(u64::from(self.config.drain_per_s));
        (self.active > 0).then_some(drain.began_ms + next_ms)
    }
}
