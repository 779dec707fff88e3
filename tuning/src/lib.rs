//! Puts a host in shape for millions of connections, and takes it back.
//!
//! In reading order:
//!
//! ```text
//!   host, place      the machine's files; where a value stands and how it is read and written
//!   machine          what there is: cpus, nic, interrupt; netlink for what only it knows
//!   goal, budget     how many connections are planned, and the memory that they take
//!   setting          one setting as data; family/ has them all, one file for each family
//!   plan             what would change on this machine, and why
//!   journal, apply   writes it down first, then does it; rollback undoes exactly that;
//!                    lock lets one at a time
//!   verify           reads back and measures
//!   export           the same for teams that apply things their own way
//!   placement        which interrupt should move to which core; watch does it while it runs
//!   cli              `hawser tune`
//! ```
//!
//! **Invariant:** nothing is changed before the journal that undoes it is on disk. **Invariant:**
//! decisions (family, plan, placement) are functions of what was read; only `apply`, `rollback` and
//! `watch` write.

#![forbid(unsafe_code)]

pub mod apply;
pub mod budget;
pub mod cli;
pub mod cpus;
pub mod export;
pub mod family;
pub mod goal;
pub mod host;
pub mod interrupt;
pub mod journal;
pub mod lock;
pub mod machine;
pub mod netlink;
pub mod nic;
pub mod place;
pub mod placement;
pub mod plan;
pub mod rollback;
pub mod setting;
pub mod verify;
pub mod watch;
