//! What waits to be written to one link: a buffer that the owner of the node appends to and the
//! link's task swaps out.
//!
//! Everything that gathers during one write leaves with the next one. The buffer is bounded; a
//! link that falls further behind is cut off rather than missing single frames, because a new link
//! starts with everything announced again.

use std::sync::Mutex;

use hawser_codec::error::CloseReason;
use tokio::sync::Notify;

#[derive(Debug)]
pub struct Outbox {
    state: Mutex<State>,
    changed: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    closed: Option<CloseReason>,
}

/// The link has more waiting than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

impl Outbox {
    /// Keeps this much memory over an idle time.
    const KEPT_BYTES: usize = 256 * 1024;

    pub fn new(bytes_max: usize) -> Outbox {
        Outbox { state: Mutex::default(), changed: Notify::new(), bytes_max }
    }

    /// Appends a frame. Does not wake the link's task: [`Outbox::flush`] does, once a turn.
    pub fn push(&self, frame: &[u8]) -> Result<(), Overflow> {
        let mut state = self.lock();
        if state.bytes.len() + frame.len() > self.bytes_max {
            return Err(Overflow);
        }
        if state.closed.is_none() {
            state.bytes.extend_from_slice(frame);
        }
        Ok(())
    }

    pub fn flush(&self) {
        self.changed.notify_one();
    }

    /// Ends the link. The first reason stays.
    pub fn close(&self, reason: CloseReason) {
        self.lock().closed.get_or_insert(reason);
        self.changed.notify_one();
    }

    pub fn closed_for(&self) -> Option<CloseReason> {
        self.lock().closed
    }

    /// Waits for bytes and swaps them into `buffer`, which is empty. False: the link is closed.
    pub async fn take(&self, buffer: &mut Vec<u8>) -> bool {
        loop {
            {
                let mut state = self.lock();
                if state.closed.is_some() {
                    return false;
                }
                if !state.bytes.is_empty() {
                    std::mem::swap(&mut state.bytes, buffer);
                    state.bytes.shrink_to(Outbox::KEPT_BYTES);
                    return true;
                }
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_leave_in_order_and_together() {
        let outbox = Outbox::new(4);
        outbox.push(b"ab").unwrap();
        outbox.push(b"cd").unwrap();
        assert_eq!(outbox.push(b"e"), Err(Overflow));
        let mut buffer = Vec::new();
        assert!(outbox.take(&mut buffer).await);
        assert_eq!(buffer, b"abcd");
        outbox.push(b"e").unwrap();
        buffer.clear();
        assert!(outbox.take(&mut buffer).await);
        assert_eq!(buffer, b"e");
    }

    #[tokio::test]
    async fn closing_wakes_the_task_and_keeps_the_first_reason() {
        let outbox = Outbox::new(4);
        let mut buffer = Vec::new();
        let (open, ()) = tokio::join!(outbox.take(&mut buffer), async {
            outbox.close(CloseReason::LinkOverflow);
            outbox.close(CloseReason::Bye);
        });
        assert!(!open);
        assert_eq!(outbox.closed_for(), Some(CloseReason::LinkOverflow));
    }
}
