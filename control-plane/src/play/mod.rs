//! `hawser play`: a whole system on this machine, as real processes, with simulated devices.
//!
//! ```text
//!   hawser play ─┬─▶ hawser-kv            when several control nodes share a store
//!                ├─▶ hawser-control ...   the HTTP API is the only way in
//!                ├─▶ hawser-broker
//!                └─▶ hawser fleet ...     up to 9,000 devices each, over real TCP
//!
//!   process   one child: started, watched, killed, stopped
//!   ports     which ports they get, so that a killed one can come back under the same
//!   system    the servers and their configuration
//!   mark      what a payload says: message number and time
//!   device    one device over TCP
//!   fleet     the inside of a fleet process;  record: what it reports
//!   crowd     all fleet processes, seen from outside
//!   load      pushes through the API, each message accepted once
//!   check     accepted against seen, exactly
//!   once      the measured run;  watch: the interactive one
//! ```
//!
//! It is a client like any other: what it finds out, it finds out through the public API, the
//! device protocol and the broker's metrics.

pub mod check;
pub mod crowd;
pub mod device;
pub mod fleet;
pub mod load;
pub mod mark;
pub mod once;
pub mod ports;
pub mod process;
pub mod record;
pub mod scrape;
pub mod system;
pub mod watch;
