//! `CLIENT PAUSE`: for some time no client's commands are run, or none that may write.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Instant;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    Writes,
    All,
}

/// Whom it holds, and until when.
type Held = Option<(Paused, Instant)>;

pub struct Pause {
    held: watch::Sender<Held>,
    /// Whether `held` is something, so that nobody pays for the lock while nothing is paused.
    is_set: AtomicBool,
}

impl Default for Pause {
    fn default() -> Pause {
        Pause { held: watch::Sender::new(None), is_set: AtomicBool::new(false) }
    }
}

impl Pause {
    /// As in Redis the later end stays, and a pause of everything is not narrowed by one of writes.
    pub fn set(&self, paused: Paused, until: Instant) {
        self.is_set.store(true, SeqCst);
        self.held.send_modify(|held| {
            let (mut paused, mut until) = (paused, until);
            if let Some((before, ends)) = *held
                && ends > Instant::now()
            {
                until = until.max(ends);
                if before == Paused::All {
                    paused = Paused::All;
                }
            }
            *held = Some((paused, until));
        });
    }

    pub fn clear(&self) {
        self.is_set.store(false, SeqCst);
        self.held.send_replace(None);
    }

    /// Whether a command has to wait now.
    pub fn holds(&self, writes: bool) -> bool {
        self.is_set.load(SeqCst) && applies(*self.held.borrow(), writes).is_some()
    }

    /// Returns when such a command may run.
    pub async fn over(&self, writes: bool) {
        let mut held = self.held.subscribe();
        loop {
            let now = *held.borrow_and_update();
            let Some(until) = applies(now, writes) else { return };
            tokio::select! {
                _ = tokio::time::sleep_until(until.into()) => return,
                changed = held.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn applies(held: Held, writes: bool) -> Option<Instant> {
    let (paused, until) = held?;
    let is_held = paused == Paused::All || writes;
    (is_held && until > Instant::now()).then_some(until)
}
