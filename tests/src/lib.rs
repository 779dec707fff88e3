//! What the tests of the whole system are made of.
//!
//! | module | what it is |
//! |---|---|
//! | [`sim`] | the simulator: real decisions, virtual time, one seed |
//! | [`system`] | real processes on loopback, and clients that talk to them |
//!
//! The tests themselves stand in `tests/`.

#![forbid(unsafe_code)]

pub mod sim;
pub mod system;
