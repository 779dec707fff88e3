//! When a fleet gives a command up: no device gets further, it takes longer than it ever may, or
//! memory runs out. Every loop that waits for a server has one, so a server that is dead, silent, or
//! takes devices in and turns them out for ever ends a run instead of holding it.
//!
//! Only a count above every one before it is progress: devices that come and go count once. Time is
//! counted in steps of at most [`STEP_MS_MAX`], so a fleet that was suspended for a while does not
//! give up on waking.

use std::io;

use hawser_broker::plan::Memory;

use super::command::Limits;

const STEP_MS_MAX: u64 = 1_000;

/// How often memory is looked at.
const LOOK_MS: u64 = 100;

/// Whatever answers more slowly than this takes too long: 100 a second.
pub const SLOWEST_MS: u64 = 10;

pub struct Watch {
    limits: Limits,
    /// How long all of it may take.
    longest_ms: u64,
    passed_ms: u64,
    /// Since anybody got further than `furthest`.
    quiet_ms: u64,
    furthest: u64,
    now_ms: u64,
    looked_ms: u64,
}

impl Watch {
    /// From now on, with `done` as what there is already.
    pub fn new(limits: Limits, longest_ms: u64, done: u64, now_ms: u64) -> Watch {
        Watch {
            limits,
            longest_ms,
            passed_ms: 0,
            quiet_ms: 0,
            furthest: done,
            now_ms,
            looked_ms: now_ms,
        }
    }

    /// Why to give up, if it is time to.
    pub fn ends(&mut self, done: u64, now_ms: u64) -> io::Result<Option<String>> {
        let step_ms = now_ms.saturating_sub(self.now_ms).min(STEP_MS_MAX);
        self.now_ms = now_ms;
        self.passed_ms += step_ms;
        self.quiet_ms += step_ms;
        if done > self.furthest {
            (self.furthest, self.quiet_ms) = (done, 0);
        }
        let seconds = |ms: u64| ms as f64 / 1000.0;
        if self.quiet_ms > self.limits.quiet_ms {
            let quiet_s = seconds(self.limits.quiet_ms);
            return Ok(Some(format!("no device got further for {quiet_s} s")));
        }
        if self.passed_ms > self.longest_ms {
            return Ok(Some(format!("it took longer than {} s", seconds(self.longest_ms))));
        }
        if self.limits.free_min_bytes > 0 && now_ms >= self.looked_ms + LOOK_MS {
            self.looked_ms = now_ms;
            return short_of_memory(self.limits.free_min_bytes);
        }
        Ok(None)
    }
}

fn short_of_memory(free_min_bytes: u64) -> io::Result<Option<String>> {
    let free_bytes = Memory::read()?.free_bytes;
    Ok((free_bytes < free_min_bytes).then(|| {
        format!(
            "only {} MiB of memory are free, and {} are to stay so",
            free_bytes >> 20,
            free_min_bytes >> 20
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ends a watch whose count is `done` at each step, and after how many steps.
    fn end(
        limits: Limits,
        longest_ms: u64,
        step_ms: u64,
        done: impl Fn(u64) -> u64,
    ) -> (String, u64) {
        let mut watch = Watch::new(limits, longest_ms, 0, 0);
        (1..)
            .find_map(|step| Some((watch.ends(done(step), step * step_ms).unwrap()?, step)))
            .unwrap()
    }

    const LIMITS: Limits = Limits { free_min_bytes: 0, quiet_ms: 5_000 };

    #[test]
    fn devices_that_come_and_go_are_no_progress() {
        let (why, steps) = end(LIMITS, 1_000_000, 100, |step| 7 + step % 2);
        assert_eq!((why.as_str(), steps), ("no device got further for 5 s", 52));
    }

    #[test]
    fn what_crawls_has_an_end_too() {
        let (why, steps) = end(LIMITS, 60_000, 1_000, |step| step);
        assert_eq!((why.as_str(), steps), ("it took longer than 60 s", 61));
    }

    #[test]
    fn a_suspended_fleet_does_not_give_up_on_waking() {
        let (_, steps) = end(LIMITS, 1_000_000, 60_000, |_| 0);
        assert_eq!(steps, 6, "a minute away counts as a second");
    }

    #[test]
    fn memory_that_is_to_stay_free_ends_it() {
        let limits = Limits { free_min_bytes: u64::MAX, ..LIMITS };
        let (why, _) = end(limits, 1_000_000, 100, |step| step);
        assert!(why.contains("MiB of memory are free"), "{why}");
    }
}
