//! What happens to packets on their way, in one direction: loss, delay, reordering, duplication.
//! The kernel of a test machine may have no netem; this works everywhere.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt;
use std::str::FromStr;

/// Shares are of 1. A packet is delayed by `delay_ms`, and one of `reorder` by as much again, so
/// that later ones overtake it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wire {
    pub loss: f64,
    pub delay_ms: u64,
    pub reorder: f64,
    pub duplicate: f64,
}

/// `loss=0.01,delay_ms=50,reorder=0.02,duplicate=0.001`, any of them.
impl FromStr for Wire {
    type Err = String;

    fn from_str(text: &str) -> Result<Wire, String> {
        let mut wire = Wire::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or_else(|| format!("{part}: write name=value"))?;
            let share = || match value.parse::<f64>() {
                Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
                _ => Err(format!("{name}: {value} is not a share from 0 up to, and not, 1")),
            };
            match name {
                "loss" => wire.loss = share()?,
                "reorder" => wire.reorder = share()?,
                "duplicate" => wire.duplicate = share()?,
                "delay_ms" => match value.parse() {
                    Ok(delay_ms @ 0..=10_000) => wire.delay_ms = delay_ms,
                    _ => return Err(format!("delay_ms: {value} is not a number up to 10000")),
                },
                _ => {
                    return Err(format!("{name}: there are loss, delay_ms, reorder and duplicate"));
                }
            }
        }
        if wire.reorder > 0.0 && wire.delay_ms == 0 {
            return Err("reorder needs a delay_ms: a packet is held that much longer".to_owned());
        }
        Ok(wire)
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wire { loss, delay_ms, reorder, duplicate } = self;
        write!(f, "loss={loss},delay_ms={delay_ms},reorder={reorder},duplicate={duplicate}")
    }
}

/// A wire with what is on it.
pub struct Weather {
    wire: Wire,
    random: u64,
    held: BinaryHeap<Held>,
    count: u64,
    lost: u64,
}

struct Held {
    due_ms: u64,
    number: u64,
    packet: Box<[u8]>,
}

impl Weather {
    pub fn new(wire: Wire, seed: u64) -> Weather {
        Weather { wire, random: seed, held: BinaryHeap::new(), count: 0, lost: 0 }
    }

    pub fn is_calm(&self) -> bool {
        self.wire == Wire::default()
    }

    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether the packet arrives at once. If not, it is lost, or comes later from [`Weather::due`].
    pub fn lets_through(&mut self, packet: &[u8], now_ms: u64) -> bool {
        if self.happens(self.wire.loss) {
            self.lost += 1;
            return false;
        }
        if self.happens(self.wire.duplicate) {
            self.hold(packet, now_ms + self.wire.delay_ms);
        }
        if self.wire.delay_ms == 0 {
            return true;
        }
        let times = 1 + u64::from(self.happens(self.wire.reorder));
        self.hold(packet, now_ms + times * self.wire.delay_ms);
        false
    }

    /// A packet whose time has come.
    pub fn due(&mut self, now_ms: u64) -> Option<Box<[u8]>> {
        if self.held.peek()?.due_ms > now_ms {
            return None;
        }
        self.held.pop().map(|held| held.packet)
    }

    fn hold(&mut self, packet: &[u8], due_ms: u64) {
        self.count += 1;
        self.held.push(Held { due_ms, number: self.count, packet: packet.into() });
    }

    fn happens(&mut self, share: f64) -> bool {
        if share == 0.0 {
            return false;
        }
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let number = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (number as f64) < share * (1u64 << 53) as f64
    }
}

/// The earliest is the greatest; of equals, the one that came first.
impl Ord for Held {
    fn cmp(&self, other: &Held) -> Ordering {
        (other.due_ms, other.number).cmp(&(self.due_ms, self.number))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Held) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wire_is_read_or_refused() {
        let wire: Wire = "loss=0.01,delay_ms=50,reorder=0.02,duplicate=0.001".parse().unwrap();
        assert_eq!(wire, Wire { loss: 0.01, delay_ms: 50, reorder: 0.02, duplicate: 0.001 });
        assert_eq!("".parse(), Ok(Wire::default()));
        assert_eq!(wire.to_string().parse(), Ok(wire));
        for bad in
            ["loss", "loss=1", "loss=-0.1", "loss=x", "delay_ms=10001", "lag=1", "reorder=0.1"]
        {
            assert!(bad.parse::<Wire>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_are_kept_and_delays_too() {
        let wire = Wire { loss: 0.1, delay_ms: 10, reorder: 0.5, duplicate: 0.2 };
        let mut weather = Weather::new(wire, 7);
        const SENT: u32 = 100_000;
        for number in 0..SENT {
            assert!(!weather.lets_through(&number.to_ne_bytes(), 0), "everything is delayed");
        }
        assert!(weather.due(9).is_none());
        let early = std::iter::from_fn(|| weather.due(10)).count() as f64;
        let late = std::iter::from_fn(|| weather.due(20)).count() as f64;
        let share = |count: f64, of: f64| count / f64::from(SENT) / of;
        for (found, expected) in [
            (share(weather.lost() as f64, 1.0), 0.1),
            (share(early + late, 1.0), 0.9 * 1.2),
            (share(late, 1.0), 0.9 * 0.5),
        ] {
            assert!((found - expected).abs() < 0.01, "{found} {expected}");
        }
    }
}
