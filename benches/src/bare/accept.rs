//! Which ring accepts. Only one does at a time: a listener's multishot accept puts what it accepts
//! into the table of the ring it is armed on. Before that table is full the accept is cancelled, and
//! when it has ended the next ring with room is armed.

use std::time::{Duration, Instant};

use socket2::Socket;

use crate::io::bare_rings::{RINGS_MAX, Rings};

/// After an accept failed for want of memory or descriptors, the next try waits this long.
const RETRY: Duration = Duration::from_millis(20);

pub struct Accept {
    listener: Socket,
    ring: u32,
    is_armed: bool,
    is_cancelling: bool,
    retry_at: Option<Instant>,
    /// Descriptors in use of each ring.
    used: Vec<u32>,
}

/// What [`Accept::steer`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steered {
    AsItWas,
    /// There is one more ring.
    RingAdded,
}

impl Accept {
    pub fn new(listener: Socket) -> Accept {
        let (ring, used) = (0, vec![0]);
        Accept { listener, ring, is_armed: false, is_cancelling: false, retry_at: None, used }
    }

    /// Arms the accept if it is not, on the ring where it belongs. Once a turn.
    pub fn steer(&mut self, rings: &mut Rings) -> std::io::Result<Steered> {
        if self.is_armed || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(Steered::AsItWas);
        }
        self.retry_at = None;
        let mut steered = Steered::AsItWas;
        if self.used[self.ring as usize] >= rings.shape().usable() {
            let refill = rings.shape().refill();
            match self.used.iter().position(|&used| used <= refill) {
                Some(ring) => self.ring = ring as u32,
                None if rings.count() == RINGS_MAX => return Ok(Steered::AsItWas),
                None => {
                    rings.add()?;
                    self.used.push(0);
                    self.ring = rings.count() - 1;
                    steered = Steered::RingAdded;
                }
            }
        }
        rings.ring(self.ring).accept(&self.listener);
        self.is_armed = true;
        Ok(steered)
    }

    /// When `steer` has something to do although nothing happens.
    pub fn retry_in_ns(&self) -> Option<u64> {
        let at = self.retry_at?;
        Some(at.saturating_duration_since(Instant::now()).as_nanos() as u64)
    }

    /// A connection was accepted on this ring. At the margin the accept is cancelled at once: what
    /// is accepted before the kernel has seen that is what the margin is made for.
    pub fn accepted(&mut self, ring: u32, rings: &mut Rings) {
        self.used[ring as usize] += 1;
        if self.used[ring as usize] >= rings.shape().usable() && !self.is_cancelling {
            self.is_cancelling = true;
            rings.ring(ring).cancel_accept();
            rings.ring(ring).enter();
        }
    }

    pub fn ended(&mut self, starved: bool) {
        (self.is_armed, self.is_cancelling) = (false, false);
        if starved {
            self.retry_at = Some(Instant::now() + RETRY);
        }
    }

    pub fn closed(&mut self, ring: u32) {
        self.used[ring as usize] -= 1;
    }
}
