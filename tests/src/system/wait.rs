//! Waiting for a condition. The one place of the tests that sleeps, and only between two looks.

use std::time::{Duration, Instant};

/// Far beyond what anything takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(40);

const PAUSE: Duration = Duration::from_millis(5);

/// Looks until `look` gives something.
///
/// # Panics
///
/// When the deadline is over.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Looks until `is_so`.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || is_so().then_some(()));
}
