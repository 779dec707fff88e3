//! What a process asks of its machine besides sockets: limits, processors, signals, eventfds.
//!
//! It stands here because these calls need `unsafe`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// A counter in the kernel that wakes a waiting ring. Any thread may signal it.
#[derive(Debug)]
pub struct EventFd {
    file: File,
}

impl EventFd {
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: no memory is passed; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and nobody else has it.
        Ok(EventFd { file: unsafe { File::from_raw_fd(fd) } })
    }

    /// Wakes the waiter, or keeps it from falling asleep. A full counter has the same effect.
    pub fn signal(&self) {
        let _full = (&self.file).write(&1u64.to_ne_bytes());
    }

    /// Takes all signals so far.
    pub fn forget(&self) {
        let _empty = (&self.file).read(&mut [0; 8]);
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// The hard limit of open files, which also bounds a ring's table. Raises the soft one to it.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_max)
}

/// Keeps the kernel from backing the process with huge pages, which the allocator would ask for. An
/// allocator leaves small holes everywhere, and with pages of 2 MiB each hole costs one: 15,000 idle
/// connections took 840 B each instead of 129 B. Best effort.
pub fn refuse_huge_pages() {
    // SAFETY: no memory is passed; it only changes how later page faults of this process are served.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// The processors this process may run on.
pub fn processors() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is valid and empty; the kernel fills at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        set
    };
    // SAFETY: CPU_ISSET reads within the set for indices below CPU_SETSIZE.
    let has = |&cpu: &usize| unsafe { libc::CPU_ISSET(cpu, &set) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(has).collect())
}

/// Keeps the calling thread on one processor.
pub fn pin_thread(processor: usize) -> io::Result<()> {
    assert!(processor < libc::CPU_SETSIZE as usize);
    // SAFETY: the set is valid from zeroes; the index is in range by the assert.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// SIGTERM and SIGINT, taken by asking instead of by a handler. Make it before any thread starts:
/// threads inherit the blocked mask.
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    pub fn block() -> io::Result<Signals> {
        // SAFETY: the set is initialised by sigemptyset before it is used.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
                0 => Ok(Signals { set }),
                code => Err(io::Error::from_raw_os_error(code)),
            }
        }
    }

    /// Waits up to `timeout_ms` for one of them; whether it came.
    pub fn wait(&self, timeout_ms: u64) -> bool {
        let timeout = libc::timespec {
            tv_sec: (timeout_ms / 1000) as libc::time_t,
            tv_nsec: (timeout_ms % 1000 * 1_000_000) as libc::c_long,
        };
        // SAFETY: the set and the timeout are valid; no siginfo is asked for.
        unsafe { libc::sigtimedwait(&self.set, std::ptr::null_mut(), &timeout) > 0 }
    }
}
