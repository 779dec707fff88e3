//! What stands in the payload of a play message: its number and when it was sent.
//!
//! ```text
//!   play 3735928559 d 42 1760000000123456     message 42 of those for single devices
//!   play 3735928559 g 7 1760000000123456      group message 7
//! ```
//!
//! The first number is the run's: a store that is kept may still deliver messages of an earlier
//! one, which was interrupted. The second is what the checker compares; the time (microseconds since 1970) is what latency is
//! measured from. It is text, so that `hawser tail` shows something readable. All processes of a
//! play run on one machine and so share one clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Which list of accepted messages a number belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To one device.
    Single,
    /// To a topic or to all.
    Group,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub run: u32,
    pub kind: Kind,
    pub number: u32,
    pub sent_us: u64,
}

const PREFIX: &str = "play";

impl Mark {
    pub fn text(&self) -> String {
        let kind = match self.kind {
            Kind::Single => 'd',
            Kind::Group => 'g',
        };
        format!("{PREFIX} {} {kind} {} {}", self.run, self.number, self.sent_us)
    }

    /// `None` for a payload that no play wrote, such as one of `hawser push`.
    pub fn parse(payload: &[u8]) -> Option<Mark> {
        let mut words = std::str::from_utf8(payload).ok()?.split(' ');
        if words.next()? != PREFIX {
            return None;
        }
        let run = words.next()?.parse().ok()?;
        let kind = match words.next()? {
            "d" => Kind::Single,
            "g" => Kind::Group,
            _ => return None,
        };
        let number = words.next()?.parse().ok()?;
        let sent_us = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Mark { run, kind, number, sent_us })
    }
}

/// Microseconds since 1970.
pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_its_text_form() {
        for kind in [Kind::Single, Kind::Group] {
            let mark = Mark { run: 9, kind, number: u32::MAX, sent_us: 1_760_000_000_123_456 };
            assert_eq!(Mark::parse(mark.text().as_bytes()), Some(mark));
        }
    }

    #[test]
    fn other_payloads_have_no_mark() {
        let play = ["play", "play 1", "play 1 d 1", "play 1 x 1 2", "play d 1 2", "play 1 d -1 2"];
        for payload in ["", "hello", "play 1 d 1 2 3"].iter().chain(&play) {
            assert_eq!(Mark::parse(payload.as_bytes()), None, "{payload:?}");
        }
        assert_eq!(Mark::parse(&[0xff, 0xfe]), None);
    }
}
