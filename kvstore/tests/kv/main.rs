//! The store from outside, as one binary: it links RocksDB, which takes a while.
//!
//! ```text
//! admin         INFO, CONFIG, SLOWLOG, LATENCY, MEMORY
//! backup        digests, and what does not fit together
//! checkpoints   CHECKPOINT: copies by hard links
//! comparable    answers without what may differ
//! commands      what COMMAND says, and what is left out
//! differential  the same random commands to Redis and to us
//! blocking      commands that wait, of several clients at once, as Redis serves them
//! clients       CLIENT, MONITOR, and clients that behave badly
//! collections   hashes, sets and sorted sets: chance, size, walks, what expires
//! crash         SIGKILL at random moments
//! ends          clients that go or are held, and a stop in the middle of it
//! log           the write log under damage
//! reads         single rows, wherever they lie
//! full_disk     no room, and room again
//! lists         what their ends leave behind
//! directory     what stands in the way of using a directory
//! limits        every limit, and what stands in the way of starting
//! rdb           Redis's file format, and its values there and back
//! space         what it costs to let go of large collections
//! users         who may do what, and where
//! pubsub        publish and subscribe
//! whole         the process, a real client, cursors, times, compaction
//! ```

mod admin;
mod backup;
mod blocking;
mod checkpoints;
mod clients;
mod collections;
mod commands;
mod comparable;
mod crash;
mod differential;
mod directory;
mod ends;
mod full_disk;
mod limits;
mod lists;
mod log;
mod pubsub;
mod rdb;
mod reads;
mod space;
mod support;
mod users;
mod whole;
