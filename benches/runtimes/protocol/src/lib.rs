//! What the bare servers of the benchmarks have in common, whatever they run on: the commands they
//! take and the answers they give on standard input and output, the frames they exchange with
//! devices, and the order in which single messages go out. No IO and no clock, so that a difference
//! between two servers is a difference between what they run on.
//!
//! | command, one a line | answer, one a line |
//! |---|---|
//! | (start) | `ready ADDRESS` |
//! | `count` | `count N`: connections welcomed and still open |
//! | `fanout HEX` | `fanned SENT FAILED NS`: that frame to every connection |
//! | `push COUNT RATE PAYLOAD FIRST` | `pushed SENT FAILED NS`: single messages, see [`schedule`] |
//! | (end of input) | the process exits with 0 |
//!
//! NS runs from the command to the moment the last send was handed to the kernel. A send that would
//! wait counts as failed. Commands are worked through one after another.

#![forbid(unsafe_code)]

pub mod command;

pub mod schedule;

pub mod skim;

pub mod frames;
