//! `CLIENT PAUSE`: for some time no client's commands are run, or none that may write.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    Writes,
    All,
}

#[derive(Default)]
pub struct Pause {
    /// Whom it holds, and until when.
    held: Mutex<Option<(Paused, Instant)>>,
    /// Whether `held` is something, so that nobody pays for the lock while nothing is paused.
    is_set: AtomicBool,
}

impl Pause {
    /// As in Redis the later end stays, and a pause of everything is not narrowed by one of writes.
    pub fn set(&self, mut paused: Paused, mut until: Instant) {
        let mut held = self.held();
        if let Some((before, ends)) = *held
            && ends > Instant::now()
        {
            until = until.max(ends);
            if before == Paused::All {
                paused = Paused::All;
            }
        }
        *held = Some((paused, until));
        self.is_set.store(true, SeqCst);
    }

    /// Whoever is held has to be told to look.
    pub fn clear(&self) {
        *self.held() = None;
        self.is_set.store(false, SeqCst);
    }

    /// Whether a command has to wait now.
    pub fn holds(&self, writes: bool) -> bool {
        self.held_until(writes).is_some()
    }

    /// Until when such a command has to wait.
    pub fn held_until(&self, writes: bool) -> Option<Instant> {
        if !self.is_set.load(SeqCst) {
            return None;
        }
        let (paused, until) = (*self.held())?;
        let is_held = paused == Paused::All || writes;
        (is_held && until > Instant::now()).then_some(until)
    }

    fn held(&self) -> MutexGuard<'_, Option<(Paused, Instant)>> {
        self.held.lock().expect("not poisoned: nothing panics under it")
    }
}
