//! The rings of the bare server: as many as its connections need, one wait for all.
//!
//! ```text
//!   ring 0   standard input, the eventfd, connections 0 .. table
//!   ring 1   connections table .. 2 * table       signals the eventfd when it has work
//!   ...
//! ```
//!
//! A connection's slot is `ring * table + index`. What is to be sent is staged first: one buffer for
//! a turn, which stays as it is until all sends of it were submitted. So a turn's sends wait in the
//! queues of their rings, and each ring takes its share with one call.
//!
//! Limits: `RINGS_MAX` rings; a turn stages `STAGE_BYTES`.

use std::io;

use hawser_broker::io::host::EventFd;

use super::bare_ring::{Event, Ring, Shape};

/// 20 million connections with tables of 20,000.
pub const RINGS_MAX: u32 = 1024;

/// At least one frame of the largest size. Otherwise a turn's messages, and not much more than what
/// fits into the second-level cache.
pub const STAGE_BYTES: usize = 1 << 20;

pub struct Rings {
    rings: Vec<Ring>,
    shape: Shape,
    /// Never grows: sends that wait in a queue point into it.
    stage: Vec<u8>,
    /// Rings that a staged send waits in.
    staged_in: Vec<u32>,
    wake: EventFd,
    is_wake_watched: bool,
}

/// Bytes on the stage.
#[derive(Clone, Copy, Debug)]
pub struct Staged {
    start: usize,
    end: usize,
}

impl Rings {
    /// To be called by the thread that will use them: a ring has a single issuer.
    pub fn new(shape: Shape) -> io::Result<Rings> {
        Ok(Rings {
            rings: vec![Ring::new(&shape)?],
            shape,
            stage: Vec::with_capacity(STAGE_BYTES),
            staged_in: Vec::new(),
            wake: EventFd::new()?,
            is_wake_watched: false,
        })
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn count(&self) -> u32 {
        self.rings.len() as u32
    }

    pub fn add(&mut self) -> io::Result<()> {
        let ring = Ring::new(&self.shape)?;
        ring.signal(&self.wake)?;
        self.rings.push(ring);
        Ok(())
    }

    pub fn ring(&mut self, ring: u32) -> &mut Ring {
        &mut self.rings[ring as usize]
    }

    pub fn slot(&self, ring: u32, index: u32) -> u32 {
        ring * self.shape.table + index
    }

    /// Submits all staged sends. Afterwards the stage is empty.
    pub fn clear_stage(&mut self) {
        for ring in self.staged_in.drain(..) {
            let ring = &mut self.rings[ring as usize];
            if ring.is_queued {
                ring.enter();
            }
        }
        self.stage.clear();
    }

    /// Puts a frame on the stage, or does not if it has no room.
    pub fn stage(&mut self, frame: &[u8]) -> Option<Staged> {
        let start = self.stage.len();
        if frame.len() > self.stage.capacity() - start {
            return None;
        }
        self.stage.extend_from_slice(frame);
        Some(Staged { start, end: self.stage.len() })
    }

    /// Queues a send; `clear_stage` submits it at the latest.
    pub fn send(&mut self, slot: u32, staged: Staged) {
        let ring = slot / self.shape.table;
        if self.staged_in.last() != Some(&ring) {
            self.staged_in.push(ring);
        }
        let bytes = &self.stage[staged.start..staged.end];
        self.rings[ring as usize].send_staged(slot % self.shape.table, bytes);
    }

    /// Gives the kernel what is queued and sees to its work. If no ring had any, sleeps until one
    /// has an event or the time is over.
    pub fn wait(&mut self, timeout_ns: Option<u64>) {
        let may_sleep = timeout_ns != Some(0);
        let is_busy = self.enter_others();
        if is_busy || !may_sleep {
            let first = &mut self.rings[0];
            if first.is_queued || first.has_task_work() {
                first.enter();
            }
            return;
        }
        if self.rings.len() > 1 {
            // Signals so far are forgotten before the others are asked once more: a later one ends
            // the sleep.
            self.wake.forget();
            if !self.is_wake_watched {
                self.is_wake_watched = true;
                self.rings[0].watch_wake(&self.wake);
            }
            if self.enter_others() {
                return;
            }
        }
        self.rings[0].enter_and_wait(timeout_ns);
    }

    /// Whether any ring beyond the first had something to do, or has something to say.
    fn enter_others(&mut self) -> bool {
        let mut is_busy = false;
        for ring in &mut self.rings[1..] {
            if ring.is_queued || ring.has_task_work() {
                ring.enter();
            }
            is_busy |= ring.is_entered;
        }
        is_busy
    }

    /// Moves the events of a ring behind `events`.
    pub fn drain(&mut self, ring: u32, events: &mut Vec<Event>) {
        let drained = &mut self.rings[ring as usize];
        if !drained.is_entered {
            return;
        }
        drained.drain(events);
    }

    /// To be called for `Event::Woken`.
    pub fn woken(&mut self) {
        self.is_wake_watched = false;
    }
}
