//! What every decoder must hold for any bytes, as plain functions: a fuzz target calls one of them
//! with what it invents, and the codec's own tests replay the committed corpora through the same.
//!
//! | target | input |
//! |---|---|
//! | `framer` | a limit, split sizes, then a byte stream |
//! | `device` | a byte stream, read as a device's and as a broker's |
//! | `link` | a byte stream, read as a shard's and as a control node's |
//! | `ticket` | one ticket |
//! | `session` | a script of what happens to a device's session |

#![forbid(unsafe_code)]

pub mod bytes;

pub mod script;
