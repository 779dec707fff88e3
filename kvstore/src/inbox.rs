//! What other threads tell a network thread: new connections, answers, and that a connection should look
//! around.
//!
//! The thread sleeps in the kernel, so the first letter to a sleeping thread wakes it with a system call,
//! and those after it do not. Whoever has many letters at once sends them as a [`Post`], which takes each
//! inbox's lock once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use mio::{Poll, Token, Waker};

use crate::connection::Stream;
use crate::session::Outcome;

/// What the waker's own events come as. No connection has this number: they begin with 1.
pub const WAKER: Token = Token(0);

/// A connection is named by its client's number, which is never used again.
pub enum Letter {
    Accepted(Stream),
    /// What became of what the connection submitted.
    Answered(u64, Outcome),
    /// There are messages for the connection, or something about it has changed.
    Look(u64),
}

pub struct Inbox {
    letters: Mutex<Vec<Letter>>,
    waker: Waker,
    is_asleep: AtomicBool,
}

impl Inbox {
    pub fn new(poll: &Poll) -> io::Result<Inbox> {
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok(Inbox { letters: Mutex::default(), waker, is_asleep: AtomicBool::new(false) })
    }

    pub fn put(&self, letter: Letter) {
        self.lock().push(letter);
        self.wake();
    }

    fn put_all(&self, letters: &mut Vec<Letter>) {
        self.lock().append(letters);
        self.wake();
    }

    /// Wakes the thread if it sleeps.
    pub fn wake(&self) {
        // A thread that cannot be woken is found by those who wait for it.
        if self.is_asleep.swap(false, SeqCst) {
            _ = self.waker.wake();
        }
    }

    /// Takes what there is, in the order it came, into an empty vector.
    pub fn take(&self, into: &mut Vec<Letter>) {
        std::mem::swap(into, &mut *self.lock());
    }

    /// Says that the thread is about to sleep. `false` when it must not, because there are letters.
    pub fn may_sleep(&self) -> bool {
        self.is_asleep.store(true, SeqCst);
        let may_sleep = self.lock().is_empty();
        if !may_sleep {
            self.woke();
        }
        may_sleep
    }

    pub fn woke(&self) {
        self.is_asleep.store(false, SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Letter>> {
        self.letters.lock().expect("not poisoned: nothing panics under it")
    }
}

/// Letters that go out together.
#[derive(Default)]
pub struct Post(Vec<(Arc<Inbox>, Vec<Letter>)>);

impl Post {
    /// There are as few inboxes as network threads.
    pub fn add(&mut self, inbox: &Arc<Inbox>, letter: Letter) {
        match self.0.iter_mut().find(|(known, _)| Arc::ptr_eq(known, inbox)) {
            Some((_, letters)) => letters.push(letter),
            None => self.0.push((inbox.clone(), vec![letter])),
        }
    }

    /// What was added is on its way, and this is empty again.
    pub fn send(&mut self) {
        for (inbox, letters) in &mut self.0 {
            if !letters.is_empty() {
                inbox.put_all(letters);
            }
        }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.send();
    }
}
