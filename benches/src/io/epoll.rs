//! Readiness of many descriptors, level-triggered.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::check;

pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// Events taken with one call.
const EVENTS: usize = 1024;

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: the call takes no pointer.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS] })
    }

    /// Watches for input. The watch ends when the descriptor is closed.
    pub fn add(&self, fd: &impl AsFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        let (epoll, fd) = (self.fd.as_raw_fd(), fd.as_fd().as_raw_fd());
        // SAFETY: both descriptors are open, and the event lives during the call.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
    }

    /// The tokens that are readable, after at most `timeout_ms`.
    pub fn wait(&mut self, timeout_ms: i32) -> io::Result<impl Iterator<Item = u64>> {
        let (pointer, count) = (self.events.as_mut_ptr(), self.events.len() as i32);
        // SAFETY: the pointer is to that many events, which live during the call.
        let ready = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), pointer, count, timeout_ms) };
        let ready = match check(ready) {
            Ok(ready) => ready as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(self.events[..ready].iter().map(|event| event.u64))
    }
}
