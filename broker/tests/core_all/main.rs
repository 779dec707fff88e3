//! The core of a shard, tested by its public interface.
//!
//! | module | what it checks |
//! |---|---|
//! | `stage` | a core with two apps, driven and read in words: `deliver 0 1 hello` ─▶ `0<push 1 hello` |
//! | `rules` | each rule of delivery, groups, links, admission as a short script |
//! | `limits` | each limit, at it and one past it |
//! | `tickets` | who is admitted, and every reason for which somebody is not |
//! | `world` | random devices, links and nodes against a store, judged by what applications got |
//! | `bugs` | that scripts and world together see every seeded bug |

#[cfg(feature = "seeded-bugs")]
mod bugs;
mod limits;
mod rules;
mod stage;
mod tickets;
mod world;
