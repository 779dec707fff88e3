//! The exact comparison: what the API accepted against what the application of each device saw.
//!
//! ```text
//!   accepted(number, seq)  ─▶┌────────┐
//!                            │ Ledger │─▶ lost, duplicates, out_of_order, misplaced
//!   saw(device, seq, number)▶└────────┘
//! ```
//!
//! Every message has a number in its payload, and its recipients follow from the number. So each
//! sighting is checked as it arrives, in constant time and with one bit or one word of memory:
//!
//! - **duplicate**: an application saw the same message number before;
//! - **out of order**: it saw a sequence number that is not above the last one of that stream;
//! - **misplaced**: it saw a message for somebody else, one that nobody sent, or one under another
//!   sequence number than the API had answered with;
//! - **lost**: accepted, and never seen by one of its recipients.
//!
//! A sighting may come before the API's answer is known, so sequence numbers are compared at the
//! end. A message without an answer may or may not arrive; it is counted apart and is no fault.

use hawser_codec::ids::Stream;

use super::mark::Kind;

/// Who gets a group message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    All,
    /// Devices whose number leaves this remainder.
    Topic(u32),
}

#[derive(Debug)]
pub struct Ledger {
    devices: u32,
    topics: u32,
    singles: Vec<Single>,
    groups: Vec<Group>,
    /// Per device the last sequence number of its inbox and of the group log.
    last: Vec<[u64; 2]>,
    answered_singles: u32,
    answered_groups: u32,
    delivered_singles: u32,
    delivered_group: u64,
    duplicates: u64,
    out_of_order: u64,
    misplaced: u64,
}

/// A message to device `number % devices`. Zero stands for "not yet": entries begin at 1.
#[derive(Clone, Copy, Debug, Default)]
struct Single {
    accepted_seq: u64,
    seen_seq: u64,
}

#[derive(Clone, Debug)]
struct Group {
    audience: Audience,
    accepted_seq: u64,
    seen_seq: u64,
    /// One bit per device.
    seen: Vec<u64>,
    seen_count: u32,
}

/// What the comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages to single devices that the API accepted, and those of them that arrived.
    pub accepted: u64,
    pub delivered: u64,
    /// Group messages that the API accepted, and the deliveries that they owe and have made.
    pub group_accepted: u64,
    pub group_expected: u64,
    pub group_delivered: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub out_of_order: u64,
    pub misplaced: u64,
    /// Messages whose call had no answer.
    pub unanswered: u64,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        let Verdict { lost, duplicates, out_of_order, misplaced, unanswered, .. } = *self;
        [lost, duplicates, out_of_order, misplaced, unanswered] == [0; 5]
    }
}

impl Ledger {
    pub fn new(devices: u32, topics: u32, messages: u32, audiences: &[Audience]) -> Ledger {
        let words = devices.div_ceil(64) as usize;
        let group = |&audience: &Audience| Group {
            audience,
            accepted_seq: 0,
            seen_seq: 0,
            seen: vec![0; words],
            seen_count: 0,
        };
        Ledger {
            devices,
            topics,
            singles: vec![Single::default(); messages as usize],
            groups: audiences.iter().map(group).collect(),
            last: vec![[0; 2]; devices as usize],
            answered_singles: 0,
            answered_groups: 0,
            delivered_singles: 0,
            delivered_group: 0,
            duplicates: 0,
            out_of_order: 0,
            misplaced: 0,
        }
    }

    /// The API accepted a message under this sequence number.
    pub fn accepted(&mut self, kind: Kind, number: u32, seq: u64) {
        assert!(seq > 0, "entries begin at 1");
        let (place, count) = match kind {
            Kind::Single => {
                (&mut self.singles[number as usize].accepted_seq, &mut self.answered_singles)
            }
            Kind::Group => {
                (&mut self.groups[number as usize].accepted_seq, &mut self.answered_groups)
            }
        };
        assert!(*place == 0, "a message is answered once");
        *place = seq;
        *count += 1;
    }

    /// The application of `device` saw a message.
    pub fn saw(&mut self, device: u32, stream: Stream, seq: u64, kind: Kind, number: u32) {
        let Some(last) = self.last.get_mut(device as usize) else {
            self.misplaced += 1;
            return;
        };
        let last = &mut last[stream as usize];
        if seq <= *last {
            self.out_of_order += 1;
        }
        *last = seq.max(*last);
        match (kind, stream) {
            (Kind::Single, Stream::Inbox) => self.saw_single(device, seq, number),
            (Kind::Group, Stream::Group) => self.saw_group(device, seq, number),
            _ => self.misplaced += 1,
        }
    }

    fn saw_single(&mut self, device: u32, seq: u64, number: u32) {
        match self.singles.get_mut(number as usize) {
            Some(single) if number % self.devices == device => {
                if single.seen_seq != 0 {
                    self.duplicates += 1;
                } else {
                    single.seen_seq = seq;
                    self.delivered_singles += 1;
                }
            }
            _ => self.misplaced += 1,
        }
    }

    fn saw_group(&mut self, device: u32, seq: u64, number: u32) {
        match self.groups.get_mut(number as usize) {
            Some(group) if group.audience.has(device, self.topics) => {
                let (word, bit) = (device as usize / 64, 1 << (device % 64));
                if group.seen[word] & bit != 0 {
                    self.duplicates += 1;
                    return;
                }
                group.seen[word] |= bit;
                group.seen_count += 1;
                self.delivered_group += 1;
                if group.seen_seq == 0 {
                    group.seen_seq = seq;
                } else if group.seen_seq != seq {
                    // One entry of one log: all see it under one number.
                    self.misplaced += 1;
                }
            }
            _ => self.misplaced += 1,
        }
    }

    /// Messages of both kinds that the API has accepted.
    pub fn accepted_count(&self) -> u64 {
        u64::from(self.answered_singles) + u64::from(self.answered_groups)
    }

    /// Deliveries of both kinds.
    pub fn delivered_count(&self) -> u64 {
        u64::from(self.delivered_singles) + self.delivered_group
    }

    /// Deliveries that there will be when every message is accepted.
    pub fn expected_count(&self) -> u64 {
        self.singles.len() as u64
            + self.groups.iter().map(|group| self.recipients(group.audience)).sum::<u64>()
    }

    fn recipients(&self, audience: Audience) -> u64 {
        match audience {
            Audience::All => u64::from(self.devices),
            Audience::Topic(topic) => {
                u64::from((self.devices + self.topics - 1 - topic) / self.topics)
            }
        }
    }

    /// Compares everything.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict {
            duplicates: self.duplicates,
            out_of_order: self.out_of_order,
            misplaced: self.misplaced,
            ..Verdict::default()
        };
        for single in &self.singles {
            if single.accepted_seq == 0 {
                verdict.unanswered += 1;
                continue;
            }
            verdict.accepted += 1;
            match single.seen_seq {
                0 => verdict.lost += 1,
                seen => {
                    verdict.delivered += 1;
                    verdict.misplaced += u64::from(seen != single.accepted_seq);
                }
            }
        }
        for group in &self.groups {
            if group.accepted_seq == 0 {
                verdict.unanswered += 1;
                continue;
            }
            let recipients = self.recipients(group.audience);
            verdict.group_accepted += 1;
            verdict.group_expected += recipients;
            verdict.group_delivered += u64::from(group.seen_count);
            verdict.lost += recipients - u64::from(group.seen_count);
            let seen_otherwise = group.seen_seq != 0 && group.seen_seq != group.accepted_seq;
            verdict.misplaced += u64::from(seen_otherwise);
        }
        verdict
    }

    /// What is missing, for a person: the first few deliveries that did not happen.
    pub fn missing(&self, examples_max: usize) -> Vec<String> {
        let singles = (0u32..).zip(&self.singles);
        let singles =
            singles.filter(|(_, single)| single.accepted_seq != 0 && single.seen_seq == 0);
        let singles = singles.map(|(number, single)| {
            let device = number % self.devices;
            format!("message {number}: device {device}, inbox entry {}", single.accepted_seq)
        });
        let groups = (0u32..).zip(&self.groups).filter(|(_, group)| group.accepted_seq != 0);
        let groups = groups.flat_map(|(number, group)| {
            let missed = (0..self.devices).filter(move |&device| {
                let seen = group.seen[device as usize / 64] & 1 << (device % 64) != 0;
                group.audience.has(device, self.topics) && !seen
            });
            let seq = group.accepted_seq;
            missed
                .map(move |device| format!("group message {number}: device {device}, entry {seq}"))
        });
        singles.chain(groups).take(examples_max).collect()
    }
}

impl Audience {
    fn has(self, device: u32, topics: u32) -> bool {
        match self {
            Audience::All => true,
            Audience::Topic(topic) => device % topics == topic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: u32 = 3;
    const TOPICS: u32 = 2;

    /// Six single messages (two per device, numbers d and d + 3) and two group messages: to all
    /// (log entry 1) and to topic 0, devices 0 and 2 (log entry 2). All accepted.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(DEVICES, TOPICS, 6, &[Audience::All, Audience::Topic(0)]);
        for number in 0..6 {
            ledger.accepted(Kind::Single, number, u64::from(1 + number / DEVICES));
        }
        ledger.accepted(Kind::Group, 0, 1);
        ledger.accepted(Kind::Group, 1, 2);
        ledger
    }

    /// What happens when nothing goes wrong: (device, stream, seq, kind, number).
    fn sightings() -> Vec<(u32, Stream, u64, Kind, u32)> {
        let single = |number: u32| {
            let seq = u64::from(1 + number / DEVICES);
            (number % DEVICES, Stream::Inbox, seq, Kind::Single, number)
        };
        let all = (0..DEVICES).map(|device| (device, Stream::Group, 1, Kind::Group, 0));
        let topic = [0, 2].map(|device| (device, Stream::Group, 2, Kind::Group, 1));
        (0..6).map(single).chain(all).chain(topic).collect()
    }

    fn verdict_of(sightings: &[(u32, Stream, u64, Kind, u32)]) -> Verdict {
        let mut ledger = ledger();
        for &(device, stream, seq, kind, number) in sightings {
            ledger.saw(device, stream, seq, kind, number);
        }
        ledger.verdict()
    }

    fn clean() -> Verdict {
        Verdict {
            accepted: 6,
            delivered: 6,
            group_accepted: 2,
            group_expected: 5,
            group_delivered: 5,
            ..Verdict::default()
        }
    }

    #[test]
    fn a_perfect_run_is_clean() {
        let verdict = verdict_of(&sightings());
        assert_eq!(verdict, clean());
        assert!(verdict.is_clean());
    }

    #[test]
    fn every_single_omission_is_lost() {
        for index in 0..sightings().len() {
            let mut seen = sightings();
            let (device, _, _, kind, _) = seen.remove(index);
            let verdict = verdict_of(&seen);
            assert_eq!(verdict.lost, 1, "{index}");
            assert!(!verdict.is_clean());
            assert_eq!(verdict.delivered, 6 - u64::from(kind == Kind::Single), "{device}");
        }
    }

    #[test]
    fn every_repeat_is_a_duplicate() {
        for index in 0..sightings().len() {
            // Under its own number again, as a broken session would report it, and under a new one,
            // as a message that was accepted twice would arrive.
            for (seq, out_of_order) in [(sightings()[index].2, 1), (9, 0)] {
                let mut seen = sightings();
                let (device, stream, _, kind, number) = seen[index];
                seen.push((device, stream, seq, kind, number));
                let verdict = verdict_of(&seen);
                assert_eq!(verdict.duplicates, 1, "{index}");
                assert_eq!(verdict.out_of_order, out_of_order, "{index}");
                assert_eq!(verdict.lost, 0);
                assert!(!verdict.is_clean());
            }
        }
    }

    #[test]
    fn a_swap_is_out_of_order() {
        let mut seen = sightings();
        seen.swap(1, 4); // Both of device 1.
        assert_eq!(verdict_of(&seen), Verdict { out_of_order: 1, ..clean() });
        let mut seen = sightings();
        seen.swap(6, 9); // Both of device 0 in the group log.
        assert_eq!(verdict_of(&seen), Verdict { out_of_order: 1, ..clean() });
    }

    #[test]
    fn a_message_for_somebody_else_is_misplaced() {
        for stray in [
            (1, Stream::Inbox, 9, Kind::Single, 0), // Message 0 is device 0's.
            (1, Stream::Group, 9, Kind::Group, 1),  // Device 1 is not in topic 0.
            (0, Stream::Inbox, 9, Kind::Single, 6), // There is no message 6.
            (0, Stream::Group, 9, Kind::Group, 2),
            (3, Stream::Inbox, 1, Kind::Single, 0), // There is no device 3.
            (0, Stream::Group, 9, Kind::Single, 0), // By the wrong stream.
        ] {
            let mut seen = sightings();
            seen.push(stray);
            assert_eq!(verdict_of(&seen), Verdict { misplaced: 1, ..clean() }, "{stray:?}");
        }
    }

    #[test]
    fn a_sequence_number_other_than_the_answer_is_misplaced() {
        let mut seen = sightings();
        seen[5].2 = 7;
        assert_eq!(verdict_of(&seen), Verdict { misplaced: 1, ..clean() });
        let mut seen = sightings();
        seen[10].2 = 7; // Device 2 sees entry 2 as 7; device 0 sees it right.
        assert_eq!(verdict_of(&seen), Verdict { misplaced: 1, ..clean() });
    }

    #[test]
    fn what_was_not_accepted_is_not_lost() {
        let mut ledger = Ledger::new(1, 1, 2, &[Audience::All]);
        ledger.accepted(Kind::Single, 0, 1);
        ledger.saw(0, Stream::Inbox, 1, Kind::Single, 0);
        let verdict = ledger.verdict();
        assert_eq!((verdict.lost, verdict.unanswered), (0, 2));
        assert!(!verdict.is_clean(), "the run did not do what it set out to do");
    }

    #[test]
    fn topics_are_counted_exactly() {
        for devices in 1..20 {
            for topics in 1..6 {
                let ledger = Ledger::new(devices, topics, 0, &[]);
                for topic in 0..topics {
                    let members = (0..devices).filter(|device| device % topics == topic).count();
                    assert_eq!(ledger.recipients(Audience::Topic(topic)), members as u64);
                }
            }
        }
    }

    #[test]
    fn the_missing_are_named() {
        let mut ledger = ledger();
        for (device, stream, seq, kind, number) in sightings() {
            if (device, kind) != (2, Kind::Group) && number != 4 {
                ledger.saw(device, stream, seq, kind, number);
            }
        }
        assert_eq!(
            ledger.missing(9),
            [
                "message 4: device 1, inbox entry 2",
                "group message 0: device 2, entry 1",
                "group message 1: device 2, entry 2",
            ]
        );
        assert_eq!(ledger.missing(1).len(), 1);
    }
}
