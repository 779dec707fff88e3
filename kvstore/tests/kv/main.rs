//! The store from outside, as one binary: it links RocksDB, which takes a while.
//!
//! ```text
//! differential  the same random commands to Redis and to us
//! blocking      commands that wait, of several clients at once, as Redis serves them
//! crash         SIGKILL at random moments
//! log           the write log under damage
//! full_disk     no room, and room again
//! lists         what their ends leave behind
//! limits        every limit, and what stands in the way of starting
//! whole         the process, a real client, cursors, times, compaction
//! ```

mod blocking;
mod crash;
mod differential;
mod full_disk;
mod limits;
mod lists;
mod log;
mod support;
mod whole;
