//! hawser's Redis-protocol store on disk: RESP in front, a group-commit write log, RocksDB behind.
//!
//! ```text
//!              network threads                              writer                       committer
//!  socket ──▶ parse ──▶ reads: RocksDB as of now ──▶ socket
//!                 └──▶ writes ──▶ take all that wait, run them in order ──▶ one sync, apply to RocksDB,
//!                                 over an overlay, one log record           answer
//! ```
//!
//! Read in this order:
//!
//! ```text
//! config      every setting, with its limits
//! resp        the protocol: bytes to commands, answers to bytes
//! rdb         Redis's file format: values to bytes and back
//! store       layout of keys, RocksDB, the write log, the overlay of a group, the writer
//! command     what each command does, against a view or an overlay
//! watch       WATCH: which keys have changed since
//! session     one connection without its socket: order, transactions, what to do next
//! connection  one connection's socket
//! network     a thread that serves connections
//! inbox       what other threads tell it
//! caller      whom the writer answers
//! server      start and stop
//! descriptors the limit of open files
//! shared      what all of them look at
//! clients     every connection as the others see it
//! pubsub      who gets what is published
//! pause       when no commands are run
//! users       who may do what
//! live        the settings that change while the server runs
//! histogram   how long something took
//! stats       how often commands ran and how long
//! slowlog     commands that took long
//! latency     what else took long
//! process     what the kernel says about this process
//! memory      where the memory goes
//! metrics     counters
//! prometheus  what /metrics says
//! backup      copies of a whole store, and whether one is good
//! admin       /metrics and /health
//! program     the command line of it all
//! ```
//!
//! Invariants: `durable` a write is answered after it is synced; `visible` and after readers can see it;
//! `ordered` a connection's answers come in the order of its commands; `absolute` the log holds values,
//! not operations, so applying it twice changes nothing; `bounded` every queue and buffer has a limit.

#![forbid(unsafe_code)]

pub mod config;

pub mod resp;

pub mod rdb;

pub mod store;

pub mod command;

pub mod watch;

pub mod session;

pub mod connection;

pub mod network;

pub mod inbox;

pub mod caller;

pub mod server;

pub mod descriptors;

pub mod shared;

pub mod clients;

pub mod pubsub;

pub mod pause;

pub mod users;

pub mod live;

pub mod histogram;

pub mod stats;

pub mod slowlog;

pub mod latency;

pub mod process;

pub mod processor;

pub mod memory;

pub mod metrics;

pub mod prometheus;

pub mod backup;

pub mod admin;

pub mod program;

pub use config::Config;
pub use server::{Handle, Server, StartError};
