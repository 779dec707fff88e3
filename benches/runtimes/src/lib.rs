//! The bare server on other runtimes: what `bare-tokio`, `bare-tokio-uring` and `bare-glommio` share.
//! Each is the same server as `hawser-bench bare`, on one thread, as a user of that runtime would
//! write it: a task for each connection, and the buffers and sends that the runtime has.
//!
//! ```text
//! process   the descriptor limit, the listener's options, the clock
//! roster    who is connected, in order of arrival
//! orders    commands from standard input, and the loop that carries them out
//! ```
//!
//! A thread waits for standard input; everything else is on the runtime's one thread.
//!
//! Limits: a plain descriptor for each connection, so as many as the process may open.

#![forbid(unsafe_code)]

pub mod process;

pub mod roster;

pub mod orders;

/// As in `hawser-bench`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a connection reads into: a heartbeat is two bytes, and a connect mostly fits.
pub const READ_BYTES: usize = 128;
