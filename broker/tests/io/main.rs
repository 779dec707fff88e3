//! Both sides of `trait Io`, driven by the same small echo server.

mod echo;
mod sim;
mod uring;
