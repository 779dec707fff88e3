//! The whole shard on the simulated kernel: real core, real shell, real device sessions, and a small
//! control node with an inbox for each device. One seed, virtual time, every fault.

mod faults;
mod limits;
mod world;
