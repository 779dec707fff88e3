//! A fan-out or single messages under way: each turn sends a part, so that what devices say is heard
//! meanwhile.

use anyhow::ensure;
use hawser_bare_protocol::command::{Answer, Push, Tally};
use hawser_bare_protocol::frames::put_push;
use hawser_bare_protocol::schedule::Schedule;

use super::connections::Connections;
use crate::io::bare_ring::SUBMISSIONS;
use crate::io::bare_rings::{Rings, STAGE_BYTES};
use crate::io::monotonic_ns;

/// Sends of a fan-out in a turn. They go to one ring, whose queue of completions has to hold them if
/// all fail.
const FANOUT_TURN: u32 = 4 * SUBMISSIONS;

/// Single messages in a turn, per ring: one call then takes so many.
const PUSH_TURN_PER_RING: u32 = 64;
const PUSH_TURN_MIN: u32 = SUBMISSIONS;
const PUSH_TURN_MAX: u32 = 8_192;

pub struct Job {
    work: Work,
    started_ns: u64,
    tally: Tally,
}

enum Work {
    /// Goes by slots, not by arrival, so that a call's sends are neighbours.
    Fanout {
        frame: Vec<u8>,
        next_slot: Option<u32>,
    },
    Push {
        schedule: Schedule,
        payload_bytes: usize,
        frame: Vec<u8>,
    },
}

impl Job {
    pub fn fanout(frame: Vec<u8>) -> anyhow::Result<Job> {
        ensure!(frame.len() <= STAGE_BYTES, "a frame has at most {STAGE_BYTES} bytes");
        Ok(Job::new(monotonic_ns(), Work::Fanout { frame, next_slot: Some(0) }))
    }

    pub fn push(order: Push, connections: &Connections) -> Job {
        let started_ns = monotonic_ns();
        let schedule = Schedule::new(order, connections.count(), started_ns);
        let payload_bytes = order.payload_bytes;
        Job::new(started_ns, Work::Push { schedule, payload_bytes, frame: Vec::new() })
    }

    fn new(started_ns: u64, work: Work) -> Job {
        Job { work, started_ns, tally: Tally::default() }
    }

    /// Hands a turn's share of sends to the kernel.
    pub fn step(&mut self, rings: &mut Rings, connections: &Connections) {
        let tally = &mut self.tally;
        match &mut self.work {
            Work::Fanout { frame, next_slot } => {
                let staged = rings.stage(frame).expect("it was checked, and the stage is empty");
                for _ in 0..FANOUT_TURN {
                    *next_slot = next_slot.and_then(|slot| connections.welcomed_from(slot));
                    let Some(slot) = next_slot else { break };
                    rings.send(*slot, staged);
                    tally.sent += 1;
                    *slot += 1;
                }
            }
            Work::Push { schedule, payload_bytes, frame } => {
                let now_ns = monotonic_ns();
                let turn = (PUSH_TURN_PER_RING * rings.count()).clamp(PUSH_TURN_MIN, PUSH_TURN_MAX);
                let turn = turn.min((STAGE_BYTES / (*payload_bytes + 16)) as u32);
                for _ in 0..turn {
                    let Some(message) = schedule.next(now_ns) else { break };
                    let Some(slot) = connections.get(message.connection) else {
                        tally.failed += 1;
                        continue;
                    };
                    frame.clear();
                    put_push(frame, message.seq, message.stamp_ns, *payload_bytes);
                    let staged = rings.stage(frame).expect("the turn is cut to the stage");
                    rings.send(slot, staged);
                    tally.sent += 1;
                }
            }
        }
        rings.clear_stage();
        self.tally.ns = monotonic_ns() - self.started_ns;
    }

    /// A send that was handed over was not made.
    pub fn failed(&mut self) {
        self.tally.sent -= 1;
        self.tally.failed += 1;
    }

    /// When there is something to send; `None` when all is sent.
    pub fn due_in_ns(&self) -> Option<u64> {
        match &self.work {
            Work::Fanout { next_slot, .. } => next_slot.map(|_| 0),
            Work::Push { schedule, .. } => Some(schedule.due_ns()?.saturating_sub(monotonic_ns())),
        }
    }

    pub fn answer(&self) -> Answer {
        match self.work {
            Work::Fanout { .. } => Answer::Fanned(self.tally),
            Work::Push { .. } => Answer::Pushed(self.tally),
        }
    }
}
