//! Everything on disk, and the one thread that changes it.
//!
//! ```text
//! directory   whose directory it is, and of which version
//! lasting     directories that outlive a power failure
//! layout      keys and values in RocksDB
//! spaces      where the databases of a namespace are
//! view        what commands read from
//! overlay     the changes of a group
//! database    RocksDB
//! rows        what was read lately, in front of it
//! settings    how RocksDB is set up, and why
//! log         the write log, and reading it while it is written
//! group       jobs that are run together
//! waiters     clients whose commands wait for a key
//! writer      the thread that runs groups
//! checkpoint  the thread that flushes RocksDB and deletes old log segments
//! checkpoints the thread that makes copies of everything by hard links
//! commit      the thread that makes groups durable, applies and answers them
//! seeded      mistakes that the crash rig must see
//! ```

pub mod checkpoint;
pub mod checkpoints;
pub mod commit;
pub mod database;
pub mod directory;
pub mod group;
pub mod lasting;
pub mod layout;
pub mod log;
pub mod overlay;
pub mod rows;
pub mod seeded;
pub mod settings;
pub mod spaces;
pub mod view;
pub mod waiters;
pub mod writer;
