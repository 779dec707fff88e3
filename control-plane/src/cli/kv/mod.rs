//! `hawser kv`: operate a store.
//!
//! ```text
//!   load      an RDB file or a live Redis into a store
//!   dump      a store into an RDB file
//!   address   where a store or a Redis is
//!   wire      a connection that speaks RESP
//!   lane      commands that are pipelined, and what failed
//!   loader    from the values of a file to commands
//!   live      be the replica of a Redis
//! ```
//!
//! These commands wait for the network and nothing else, so they do without a runtime.

mod address;
mod dump;
mod lane;
mod live;
mod load;
mod loader;
mod wire;

use clap::Subcommand;

use super::out::Format;

/// Where passwords are when they are not in an address.
const STORE_PASSWORD: &str = "HAWSER_KV_PASSWORD";
const REDIS_PASSWORD: &str = "HAWSER_REDIS_PASSWORD";

#[derive(Debug, Subcommand)]
pub enum KvCommand {
    /// Load an RDB file of Redis, or everything of a live Redis
    #[command(after_help = load::EXAMPLES)]
    Load(load::LoadArgs),
    /// Write the keys of a store as an RDB file, which Redis reads
    #[command(after_help = dump::EXAMPLES)]
    Dump(dump::DumpArgs),
}

pub fn run(command: KvCommand, format: Format) -> anyhow::Result<()> {
    match command {
        KvCommand::Load(args) => load::run(args, format),
        KvCommand::Dump(args) => dump::run(args, format),
    }
}

fn password(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|password| !password.is_empty())
}
