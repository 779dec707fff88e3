//! The buffers that the kernel receives into, shared by all connections of a ring.
//!
//! ```text
//!   ring  [ entry | entry | ... ]      16 bytes each: address, size, id; the tail is in the first
//!   data  [ buffer 0 | buffer 1 | ...] an entry names one of these
//! ```
//!
//! A buffer belongs to the kernel from [`RecvRing::give_back`] until a completion names it, and to
//! whoever holds the [`super::Buffer`] after that. An idle connection owns none.
//!
//! Invariant: the tail is published before the next receive is submitted, or the kernel sees an
//! empty ring and answers ENOBUFS although buffers were given back.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

pub struct RecvRing {
    /// Page-aligned: `entries` entries, then `entries * buffer_bytes` of data.
    memory: NonNull<u8>,
    memory_bytes: usize,
    entries: u16,
    buffer_bytes: u32,
    /// Buffers ever given to the kernel, modulo 2^16; what the kernel reads as the tail.
    tail: u16,
}

impl RecvRing {
    /// Maps the memory, registers it as buffer group `group` and gives every buffer to the kernel.
    /// `entries` must be a power of two.
    pub fn new(
        ring: &IoUring,
        group: u16,
        entries: u16,
        buffer_bytes: u32,
    ) -> io::Result<RecvRing> {
        assert!(entries.is_power_of_two());
        let memory_bytes = RecvRing::memory_bytes(entries, buffer_bytes);
        // SAFETY: a fresh anonymous private mapping, aliased by nothing.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                memory_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(address.cast::<u8>()).expect("mmap does not return null");
        let mut this = RecvRing { memory, memory_bytes, entries, buffer_bytes, tail: 0 };
        // SAFETY: the mapping holds `entries` entries at its page-aligned start. It is unmapped in
        // `drop`, and the owner drops the ring, which ends the registration, before this.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(address as u64, entries, group, 0)?
        };
        for id in 0..entries {
            this.give_back(id);
        }
        Ok(this)
    }

    /// What a ring of this shape maps.
    pub fn memory_bytes(entries: u16, buffer_bytes: u32) -> usize {
        usize::from(entries) * (size_of::<BufRingEntry>() + buffer_bytes as usize)
    }

    /// The start of buffer `id`, which the kernel has filled with `bytes` bytes and which was not
    /// given back since.
    pub fn bytes(&self, id: u16, bytes: u32) -> &[u8] {
        assert!(id < self.entries && bytes <= self.buffer_bytes);
        // SAFETY: in bounds by the assert. The kernel does not write to a buffer between the
        // completion that names it and `give_back`, which takes the only `Buffer` of it by value.
        unsafe { std::slice::from_raw_parts(self.data(id), bytes as usize) }
    }

    /// Gives a buffer to the kernel and publishes the tail.
    pub fn give_back(&mut self, id: u16) {
        assert!(id < self.entries);
        let address = self.data(id) as u64;
        let index = usize::from(self.tail & (self.entries - 1));
        let ring = self.memory.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `index` is below `entries`. The kernel reads entries only between its head and
        // the tail, and at most `entries` buffers exist, so it is not reading this one.
        let entry = unsafe { &mut *ring.add(index) };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is an aligned u16 within the first entry (its reserved field, which the
        // setters above leave alone) and lives as long as the mapping.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(ring).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn data(&self, id: u16) -> *mut u8 {
        let ring_bytes = usize::from(self.entries) * size_of::<BufRingEntry>();
        // SAFETY: callers check `id`, so the sum stays within the mapping.
        unsafe {
            self.memory.as_ptr().add(ring_bytes + usize::from(id) * self.buffer_bytes as usize)
        }
    }
}

impl Drop for RecvRing {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size. Receives are executed while they are submitted
        // (MSG_DONTWAIT), so none that could still write here is in the kernel.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.memory_bytes) };
    }
}
