//! The store from outside, as one binary: it links RocksDB, which takes a while.
//!
//! ```text
//! differential  the same random commands to Redis and to us
//! crash         SIGKILL at random moments
//! log           the write log under damage
//! full_disk     no room, and room again
//! limits        every limit, and what stands in the way of starting
//! whole         the process, a real client, cursors, times, compaction
//! ```

mod crash;
mod differential;
mod full_disk;
mod limits;
mod log;
mod support;
mod whole;
