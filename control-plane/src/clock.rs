//! The process's clocks: the only place that reads the time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hawser_codec::ids::Epoch;

use crate::node::event::Now;

/// How far ahead of this clock a peer's may be before it is not believed.
const SKEW_MS_MAX: u64 = 5 * 60 * 1000;

/// A monotonic clock, the time of day, and the hybrid logical clock of the links.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    last: AtomicU64,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { started: Instant::now(), last: AtomicU64::new(0) }
    }

    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.started.elapsed().as_millis() as u64, unix_ms: unix.as_millis() as u64 }
    }

    /// When `Now::mono_ms` will be `mono_ms`.
    pub fn instant(&self, mono_ms: u64) -> Instant {
        self.started + std::time::Duration::from_millis(mono_ms)
    }

    /// The next stamp of the hybrid logical clock.
    pub fn epoch(&self) -> Epoch {
        self.hear(Epoch::ZERO)
    }

    /// Moves the hybrid logical clock past a peer's stamp.
    pub fn hear(&self, seen: Epoch) -> Epoch {
        let unix_ms = self.now().unix_ms;
        let seen = seen.min(Epoch::from_ms(unix_ms + SKEW_MS_MAX));
        let tick = |last| Epoch(last).tick(unix_ms, seen).0;
        let before = self.last.fetch_update(Relaxed, Relaxed, |last| Some(tick(last)));
        Epoch(tick(before.expect("every stamp has a next one")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_ascend_and_do_not_believe_everything() {
        let clock = Clock::start();
        let (first, second) = (clock.epoch(), clock.epoch());
        assert!(first < second);
        let ahead = Epoch::from_ms(second.unix_ms() + 60_000);
        assert!(clock.hear(ahead) > ahead);
        assert!(clock.hear(Epoch(u64::MAX)).unix_ms() <= clock.now().unix_ms + SKEW_MS_MAX + 1);
        assert!(clock.epoch() > ahead);
    }
}
