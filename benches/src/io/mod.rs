//! What the standard library does not offer and the benchmarks need from the kernel: readiness of
//! many sockets, the bare server's rings, a file on a ring, processor pinning, the descriptor limit, the clock that
//! processes share. The only `unsafe` of this crate is in this folder.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

pub mod bare_ring;

pub mod bare_rings;

pub mod epoll;

pub mod log_ring;

pub mod namespace;

pub mod socket_ring;

pub mod tun;

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live value of the type that the call fills.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; the call only reads it.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_max)
}

/// The processors that the calling thread may run on.
pub fn processors() -> io::Result<Vec<usize>> {
    // SAFETY: a processor set is plain bits, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let bytes = std::mem::size_of::<libc::cpu_set_t>();
    // SAFETY: the pointer is to a live set of that many bytes.
    check(unsafe { libc::sched_getaffinity(0, bytes, &raw mut set) })?;
    // SAFETY: every index is below the set's size.
    let is_in = |&cpu: &usize| unsafe { libc::CPU_ISSET(cpu, &set) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(is_in).collect())
}

/// Lets the calling thread, and what it starts from here on, run on these processors only.
pub fn pin(processors: &[usize]) -> io::Result<()> {
    // SAFETY: a processor set is plain bits, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in processors {
        assert!(cpu < libc::CPU_SETSIZE as usize);
        // SAFETY: the index is below the set's size.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the pointer is to a live set of that many bytes.
    check(unsafe { libc::sched_setaffinity(0, std::mem::size_of_val(&set), &raw const set) })
        .map(drop)
}

/// The monotonic clock in nanoseconds, which all processes of a machine share.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value of the type that the call fills.
    check(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) })
        .expect("every Linux has this clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Processor time of a process in nanoseconds: that of all its threads, those that have ended too. It
/// only grows.
pub fn cpu_ns(pid: u32) -> io::Result<u64> {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: the pointer is to a live value of the type that the call fills.
    let error = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: as above.
    check(unsafe { libc::clock_gettime(clock, &raw mut time) })?;
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Makes a child end at once when the thread that starts it ends, however that comes about.
pub fn end_with_parent(command: &mut Command) {
    let end = || {
        // SAFETY: the call takes no pointer, and may be made between fork and exec.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(end) };
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
