//! Numbers for the commands that choose at random. Nobody may rely on them being hard to guess.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// splitmix64: every thread may take numbers from one state.
pub struct Random(AtomicU64);

impl Default for Random {
    fn default() -> Random {
        Random(AtomicU64::new(RandomState::new().hash_one("seed")))
    }
}

impl Random {
    /// A number from 0 to `end - 1`; 0 if `end` is 0.
    pub fn below(&self, end: u64) -> u64 {
        let mut bits = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        ((u128::from(bits) * u128::from(end)) >> 64) as u64
    }
}
