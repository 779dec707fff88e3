//! `user_data` of a submission: what it was and whom it was for.
//!
//! ```text
//!   63      56 55      48 47          32 31                 0
//!   ┌─────────┬──────────┬──────────────┬────────────────────┐
//!   │ kind    │ 0        │ generation   │ slot               │
//!   └─────────┴──────────┴──────────────┴────────────────────┘
//! ```
//!
//! The token is a value, never a pointer: a stray completion can be recognised, not dereferenced.

use super::Target;

/// The operation a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Multishot accept; the slot field is the listener's index.
    Accept = 1,
    Watch = 2,
    Writable = 3,
    Receive = 4,
    Send = 5,
    Connect = 6,
    Close = 7,
    /// Posts a completion only when it finds nothing to cancel; nobody waits for it.
    Cancel = 8,
    /// The eventfd of the shard.
    Wake = 9,
}

impl Kind {
    fn from_code(code: u8) -> Kind {
        match code {
            1 => Kind::Accept,
            2 => Kind::Watch,
            3 => Kind::Writable,
            4 => Kind::Receive,
            5 => Kind::Send,
            6 => Kind::Connect,
            7 => Kind::Close,
            8 => Kind::Cancel,
            9 => Kind::Wake,
            _ => panic!("a completion carries a token that was never submitted: kind {code}"),
        }
    }
}

pub fn encode(kind: Kind, target: Target) -> u64 {
    (kind as u64) << 56 | u64::from(target.generation) << 32 | u64::from(target.slot)
}

pub fn decode(token: u64) -> (Kind, Target) {
    let target = Target { slot: token as u32, generation: (token >> 32) as u16 };
    (Kind::from_code((token >> 56) as u8), target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives() {
        for code in 1..=9 {
            let kind = Kind::from_code(code);
            for slot in [0, 1, 19_999, u32::MAX] {
                for generation in [0, 1, u16::MAX] {
                    let target = Target { slot, generation };
                    assert_eq!(decode(encode(kind, target)), (kind, target));
                }
            }
        }
    }
}
