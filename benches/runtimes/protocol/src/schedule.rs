//! Which single message goes to which connection, and when.
//!
//! Message `k` goes to connection `k * STEP mod N`, where N is how many there were at the command and
//! STEP is a prime that does not divide N: neighbours in time are strangers in memory, and N messages
//! visit all. With a rate the load is open: message `first + i` is due at `start + i / rate`, and one
//! that is late keeps the time it was due, so that its latency says what a device would have waited.

use crate::command::Push;

const STEPS: [u64; 3] = [7919, 7907, 7901];

const SECOND_NS: u128 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// In order of arrival. There may be no such connection any more.
    pub connection: usize,
    pub seq: u64,
    /// When it was due, or with no rate, the time that was given for now.
    pub stamp_ns: u64,
}

#[derive(Clone, Debug)]
pub struct Schedule {
    order: Push,
    connections: u64,
    step: u64,
    started_ns: u64,
    /// Messages handed out.
    done: u64,
}

impl Schedule {
    /// With no connection at all every message is for one that does not exist.
    pub fn new(order: Push, connections: usize, started_ns: u64) -> Schedule {
        let connections = connections.max(1) as u64;
        let visits_all = |step: &u64| !connections.is_multiple_of(*step);
        let step = STEPS.into_iter().find(visits_all).expect("no N has all these factors");
        Schedule { order, connections, step, started_ns, done: 0 }
    }

    /// The next message, if it is due.
    pub fn next(&mut self, now_ns: u64) -> Option<Message> {
        let due_ns = self.due_ns()?;
        if due_ns > now_ns {
            return None;
        }
        let number = self.order.first + self.done;
        self.done += 1;
        let place = number % self.connections * self.step % self.connections;
        Some(Message {
            connection: place as usize,
            seq: 1 + number / self.connections,
            stamp_ns: if self.order.rate == 0 { now_ns } else { due_ns },
        })
    }

    /// When the next message is due; `None` when all were handed out.
    pub fn due_ns(&self) -> Option<u64> {
        if self.done == self.order.count {
            return None;
        }
        let after_ns = match self.order.rate {
            0 => 0,
            rate => (u128::from(self.done) * SECOND_NS / u128::from(rate)) as u64,
        };
        Some(self.started_ns + after_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_connection_is_visited_once_a_round() {
        for connections in [1, 2, 1000, 7919, 2 * 7919 * 7907] {
            let connections_u64 = connections as u64;
            let first = 3 * connections_u64;
            let order =
                Push { count: connections_u64.min(50_000), rate: 0, payload_bytes: 8, first };
            let mut schedule = Schedule::new(order, connections, 5);
            let mut visited = BTreeSet::new();
            while let Some(message) = schedule.next(9) {
                assert!(message.connection < connections && visited.insert(message.connection));
                assert_eq!((message.seq, message.stamp_ns), (4, 9));
            }
            assert_eq!(visited.len() as u64, order.count);
        }
    }

    #[test]
    fn late_messages_keep_the_time_they_were_due() {
        let order = Push { count: 3, rate: 1_000_000, payload_bytes: 8, first: 0 };
        let mut schedule = Schedule::new(order, 10, 500);
        assert_eq!(schedule.next(499), None);
        let stamps = [schedule.next(1_600), schedule.next(1_600), schedule.next(1_600)];
        assert_eq!(stamps.map(|one| one.map(|one| one.stamp_ns)), [Some(500), Some(1_500), None]);
        assert_eq!(schedule.due_ns(), Some(2_500));
        assert_eq!(schedule.next(9_000).map(|one| one.stamp_ns), Some(2_500));
        assert_eq!((schedule.next(9_000), schedule.due_ns()), (None, None));
    }
}
