//! `hawser kv`: operate a store.
//!
//! ```text
//!   address   where a store or a Redis is
//!   store     asking a running one
//!   read      get, info
//!   top       the largest keys
//!   backup    checkpoint, backup, restore
//!   verify    whether a backup, a directory or a running store is good
//!   load      an RDB file or a live Redis into a store
//!   dump      a store into an RDB file
//!   partial   a file that gets its name when it is complete
//!   wire      a connection that speaks RESP
//!   lane      commands that are pipelined, and what failed
//!   loader    from the values of a file to commands
//!   live      be the replica of a Redis
//! ```
//!
//! These commands wait for the network and the disk and nothing else, so they do without a runtime.

mod address;
mod backup;
mod dump;
mod lane;
mod live;
mod load;
mod loader;
mod partial;
mod read;
mod store;
mod top;
mod verify;
mod wire;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hawser_kv::program;

use self::store::Target;
use super::out::Format;

/// Where passwords are when they are not in an address.
const STORE_PASSWORD: &str = "HAWSER_KV_PASSWORD";
const REDIS_PASSWORD: &str = "HAWSER_REDIS_PASSWORD";

pub const EXAMPLES: &str = "\
Examples:
  hawser kv start --dir /var/lib/hawser-kv      run a store in the foreground
  hawser kv info                                what it says about itself
  hawser kv backup /backups                     a copy of everything, while it runs
  hawser kv restore /backups/NAME /var/lib/hawser-kv
  hawser kv verify                              is all of it readable and consistent?

The store comes from --store, else from HAWSER_KV, else it is 127.0.0.1:7379; its password from the
address or from HAWSER_KV_PASSWORD.";

#[derive(Debug, Subcommand)]
pub enum KvCommand {
    /// Run a store in the foreground, as `hawser-kv` does
    #[command(after_help = START_EXAMPLES)]
    Start(Box<program::Options>),
    /// Print what a key holds
    #[command(after_help = GET_EXAMPLES)]
    Get(GetArgs),
    /// Show what the store says about itself
    #[command(after_help = INFO_EXAMPLES)]
    Info(InfoArgs),
    /// List the largest keys of each type
    #[command(after_help = TOP_EXAMPLES)]
    Top(TopArgs),
    /// Copies at one moment by hard links, on the store's own disk
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Copy everything to a folder while the store runs
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup(BackupArgs),
    /// Make a data directory from a backup
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
    /// Find out whether a backup, a data directory or a running store is good
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Load an RDB file of Redis, or everything of a live Redis
    #[command(after_help = load::EXAMPLES)]
    Load(load::LoadArgs),
    /// Write the keys of a store as an RDB file, which Redis reads
    #[command(after_help = dump::EXAMPLES)]
    Dump(dump::DumpArgs),
}

const START_EXAMPLES: &str = "\
Examples:
  hawser kv start --dir /var/lib/hawser-kv
  hawser kv start --config kvstore/hawser-kv.toml --set cache_mib=1024
  hawser kv start --unix /run/kv.sock --listen ''

SIGTERM and SIGINT stop it with everything flushed.";

const GET_EXAMPLES: &str = "\
Examples:
  hawser kv get user:17
  hawser kv get queue --limit 20 --json

A string is printed as it is; of other types a line for each member, field or entry. With --json, what
is no UTF-8 is {\"base64\": …}.";

#[derive(Debug, Args)]
pub struct GetArgs {
    pub key: String,

    /// Members, fields or entries to print at most
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: u32,

    #[command(flatten)]
    pub target: Target,
}

const INFO_EXAMPLES: &str = "\
Examples:
  hawser kv info
  hawser kv info memory --json";

#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Section to show [default: the usual ones]
    pub section: Option<String>,

    #[command(flatten)]
    pub target: Target,
}

const TOP_EXAMPLES: &str = "\
Examples:
  hawser kv top
  hawser kv top --count 3 --db 1 --json

It walks over all keys of one database. Bytes are those on disk before compression; of a collection
with more than 100,000 members they are computed from so many, and marked with ~.";

#[derive(Debug, Args)]
pub struct TopArgs {
    /// Keys to list of each type
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub count: usize,

    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// Make one: a data directory of its own, in which a store can be started
    #[command(after_help = CHECKPOINT_EXAMPLES)]
    Add {
        /// Letters, digits, - and _
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Delete one, and with it the files that nothing else needs
    #[command(after_help = CHECKPOINT_EXAMPLES)]
    Del {
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// List them
    #[command(after_help = CHECKPOINT_EXAMPLES)]
    List {
        #[command(flatten)]
        target: Target,
    },
}

const CHECKPOINT_EXAMPLES: &str = "\
Examples:
  hawser kv checkpoint add before-upgrade
  hawser kv checkpoint list
  hawser kv checkpoint del before-upgrade

A checkpoint is made in less than a second, whatever the size, and costs no room at first. It keeps
files that the store has replaced since, so it costs more the longer it stays. It is no backup: it
lies on the same disk.";

const BACKUP_EXAMPLES: &str = "\
Examples:
  hawser kv backup /backups
  hawser kv backup /backups --name before-upgrade --rate-mib 50

Makes /backups/NAME, which gets its name when all of it is on the disk. Each is whole by itself; files
that the last one in the same folder has too are linked from there. It runs on the store's machine, by
a user that may read its data directory.";

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Folder of the backups
    pub folder: PathBuf,

    /// Name of this one [default: the time]
    #[arg(long)]
    pub name: Option<String>,

    /// MiB to copy per second at most [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    pub rate_mib: Option<u64>,

    #[command(flatten)]
    pub scratch: Scratch,

    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
pub struct Scratch {
    /// Folder for temporary files, which may take some hundred MiB [default: the system's]
    #[arg(long = "scratch", value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl Scratch {
    fn folder(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(std::env::temp_dir)
    }
}

const RESTORE_EXAMPLES: &str = "\
Examples:
  hawser kv restore /backups/20261121T231800Z /var/lib/hawser-kv
  hawser kv start --dir /var/lib/hawser-kv

Every byte is held to the backup's manifest while it is copied. The directory must be empty or missing,
and gets its name when all of it is on the disk.";

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A backup
    pub backup: PathBuf,

    /// The data directory to make
    pub dir: PathBuf,

    /// MiB to copy per second at most [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    pub rate_mib: Option<u64>,
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  hawser kv verify                              the running store
  hawser kv verify /var/lib/hawser-kv           the data of a stopped one
  hawser kv verify /backups/20261121T231800Z    a backup against its manifest
  hawser kv verify --deep /backups/20261121T231800Z

Exit code 1 when anything is wrong; every damage is named with its place. Nothing is changed.";

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A backup or a data directory [default: the running store]
    pub path: Option<PathBuf>,

    /// Of a backup, also open it and make its digest anew
    #[arg(long)]
    pub deep: bool,

    /// Unix time in ms for which the digest is made: keys that expire later count [default: now]
    #[arg(long, value_name = "MS")]
    pub as_of: Option<u64>,

    #[command(flatten)]
    pub scratch: Scratch,

    #[command(flatten)]
    pub target: Target,
}

pub fn run(command: KvCommand, format: Format) -> anyhow::Result<()> {
    match command {
        KvCommand::Start(options) => program::run(&options),
        KvCommand::Get(args) => read::get(&args, format),
        KvCommand::Info(args) => read::info(&args, format),
        KvCommand::Top(args) => top::run(&args, format),
        KvCommand::Checkpoint(command) => backup::checkpoint(&command, format),
        KvCommand::Backup(args) => backup::backup(&args, format),
        KvCommand::Restore(args) => backup::restore(&args, format),
        KvCommand::Verify(args) => verify::run(&args, format),
        KvCommand::Load(args) => load::run(args, format),
        KvCommand::Dump(args) => dump::run(args, format),
    }
}

fn password(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|password| !password.is_empty())
}
