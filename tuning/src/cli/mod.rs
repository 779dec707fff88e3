//! `hawser tune`: the command line.
//!
//! ```text
//!   inspect    the machine as tables
//!   plan       what would change, and why
//!   apply      writes the journal, then the values
//!   rollback   undoes what the journal has
//!   verify     reads back and measures
//!   export     files for teams that apply things their own way
//!   watch      moves interrupts by load, while it runs
//! ```
//!
//! Exit codes: 0 done and as it should be, 1 failed and nothing changed, 2 wrong command line, 3 it
//! would change, differs, or was left to somebody else's change.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::apply::ApplyError;
use crate::export::Dialect;
use crate::family::Family;
use crate::goal::{self, Goal, Profile};
use crate::host::Host;
use crate::journal::JournalError;
use crate::machine::{Machine, Unreadable};
use crate::netlink::channels;
use crate::plan::Choice;
use crate::rollback::RollbackError;

mod applied;
mod inspect;
mod out;
mod planned;
mod verified;
mod watched;

use self::out::Format;

const FAILED: u8 = 1;
const WRONG_COMMAND_LINE: u8 = 2;
const DIFFERS: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  hawser tune inspect                              the machine, its cards and their interrupts
  hawser tune plan --connections 5000000           what would change, why, and the memory it implies
  hawser tune apply --connections 5000000          change it, all or nothing
  hawser tune verify                               prove that it holds
  hawser tune rollback                             and take it back

Exit codes: 0 as it should be, 1 failed and nothing changed, 2 wrong command line, 3 something would
change or differs. Nothing but apply, rollback and watch changes anything.";

/// Put this host in shape for millions of connections, and take it back.
#[derive(Debug, Parser)]
#[command(name = "hawser-tune", version, max_term_width = 100)]
struct Alone {
    /// Print JSON instead of tables
    #[arg(long, global = true, display_order = 100)]
    json: bool,

    #[command(flatten)]
    tune: Tune,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Tune {
    /// Folder that holds proc, sys and etc of the machine
    #[arg(long, global = true, value_name = "FOLDER", default_value = "/", display_order = 101)]
    root: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show CPUs, nodes, cards, and where interrupts land
    #[command(after_help = inspect::EXAMPLES)]
    Inspect,
    /// Show what would change for a number of connections, why, and the memory it implies
    #[command(after_help = planned::EXAMPLES)]
    Plan(PlanArgs),
    /// Change what the plan says, after writing down how to undo it
    #[command(after_help = applied::APPLY_EXAMPLES)]
    Apply(ApplyArgs),
    /// Undo exactly what was applied
    #[command(after_help = applied::ROLLBACK_EXAMPLES)]
    Rollback(RollbackArgs),
    /// Read back what was applied, and measure what it is for
    #[command(after_help = verified::VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Write the plan as files for sysctl.d, systemd, udev or ansible
    #[command(after_help = verified::EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// Move interrupts away from busy CPUs while the machine runs
    #[command(after_help = watched::EXAMPLES)]
    Watch(WatchArgs),
}

#[derive(Debug, Args)]
struct PlanArgs {
    #[command(flatten)]
    goal: GoalArgs,

    /// Show every place of settings that have many
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
struct ApplyArgs {
    #[command(flatten)]
    goal: GoalArgs,

    /// Also write over what somebody else changed since it was applied before
    #[arg(long)]
    overwrite: bool,
}

#[derive(Debug, Args)]
struct RollbackArgs {
    /// Also restore what somebody else changed since
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// How long interrupts and softirqs are counted; 0: not at all
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    seconds: u64,

    /// Only timeouts of connections with this local port
    #[arg(long)]
    port: Option<u16>,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Whose files
    #[arg(value_enum)]
    dialect: Dialect,

    #[command(flatten)]
    goal: GoalArgs,
}

#[derive(Debug, Args)]
struct WatchArgs {
    /// Seconds between two decisions
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval_s: u64,

    /// End after so many rounds
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,

    /// Say what would move and move nothing
    #[arg(long)]
    dry_run: bool,

    /// Only this network card; may be repeated
    #[arg(long, value_name = "NAME")]
    nic: Vec<String>,
}

#[derive(Debug, Args)]
struct GoalArgs {
    /// Connections that this machine is to hold at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=goal::CONNECTIONS_MAX))]
    connections: u64,

    /// Where the devices are
    #[arg(long, value_enum, default_value_t = Profile::Mobile)]
    profile: Profile,

    /// Only these families of settings; may be repeated
    #[arg(long, value_enum, value_name = "FAMILY")]
    only: Vec<Family>,

    /// Leave this setting out; may be repeated
    #[arg(long, value_name = "SETTING")]
    except: Vec<String>,

    /// Only this network card; may be repeated
    #[arg(long, value_name = "NAME")]
    nic: Vec<String>,
}

impl GoalArgs {
    fn goal(&self) -> Goal {
        Goal { connections: self.connections, profile: self.profile }
    }

    fn choice(&self) -> Result<Choice, Failure> {
        let choice = Choice { only: self.only.clone(), except: self.except.clone() };
        match choice.unknown() {
            Some(name) => Err(Failure::UnknownSetting { name: name.to_owned() }),
            None => Ok(choice),
        }
    }
}

/// What a command did when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    AsItShouldBe,
    Differs,
}

/// Why a command failed. Each sentence says what to do.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no setting is called {name:?}: `hawser tune plan` shows the names")]
    UnknownSetting { name: String },
    #[error("no network card is called {name:?}: {there}; `hawser tune inspect` shows them")]
    NoSuchNic { name: String, there: String },
    #[error(transparent)]
    Machine(#[from] Unreadable),
    #[error(transparent)]
    TooMany(#[from] crate::budget::TooMany),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(
        "irqbalance runs and would undo each move: `systemctl disable --now irqbalance` first, or look with --dry-run"
    )]
    Irqbalance,
    #[error("what was asked for is done, but the answer cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    /// What a program reads with `--json`.
    fn code(&self) -> &'static str {
        match self {
            Failure::UnknownSetting { .. } => "usage",
            Failure::NoSuchNic { .. } => "no_such_nic",
            Failure::Machine(_) => "machine_unreadable",
            Failure::TooMany(_) => "too_many_connections",
            Failure::Journal(_)
            | Failure::Apply(ApplyError::Journal(_) | ApplyError::NotNoted { .. })
            | Failure::Rollback(RollbackError::Journal(_)) => "journal",
            Failure::Irqbalance => "irqbalance_runs",
            Failure::Apply(ApplyError::NotWritable(_))
            | Failure::Rollback(RollbackError::NotWritable(_)) => "not_writable",
            Failure::Apply(ApplyError::ChangedSince(_)) => "changed_since",
            Failure::Apply(ApplyError::Refused { .. }) => "refused",
            Failure::Output(_) => "failed",
        }
    }
}

/// Runs `hawser-tune` with these arguments, its own name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let is_json = args.iter().any(|arg| arg == "--json");
    match Alone::try_parse_from(args) {
        Ok(Alone { json, tune }) => run(tune, json),
        Err(error) if is_json && error.use_stderr() => {
            out::failure("usage", error.to_string().trim_end(), Format::Json);
            ExitCode::from(WRONG_COMMAND_LINE)
        }
        Err(error) => {
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { WRONG_COMMAND_LINE } else { 0 })
        }
    }
}

/// Runs `hawser tune`.
pub fn run(tune: Tune, json: bool) -> ExitCode {
    let format = if json { Format::Json } else { Format::Human };
    let host = if tune.root.as_os_str() == "/" { Host::live() } else { Host::at(&tune.root) };
    let result = match tune.command {
        Command::Inspect => inspect::run(&host, format),
        Command::Plan(args) => planned::run(&host, &args, format),
        Command::Apply(args) => applied::run_apply(&host, &args, format),
        Command::Rollback(args) => applied::run_rollback(&host, &args, format),
        Command::Verify(args) => verified::run_verify(&host, &args, format),
        Command::Export(args) => verified::run_export(&host, &args, format),
        Command::Watch(args) => watched::run(&host, &args, format),
    };
    match result {
        Ok(Outcome::AsItShouldBe) => ExitCode::SUCCESS,
        Ok(Outcome::Differs) => ExitCode::from(DIFFERS),
        // A reader that went away (`hawser tune inspect | head -1`) is no failure.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            out::failure(failure.code(), &failure.to_string(), format);
            match failure {
                Failure::UnknownSetting { .. } | Failure::NoSuchNic { .. } => {
                    ExitCode::from(WRONG_COMMAND_LINE)
                }
                _ => ExitCode::from(FAILED),
            }
        }
    }
}

fn machine(host: &Host) -> Result<Machine, Failure> {
    Ok(Machine::read(host, &channels::abilities(host))?)
}

/// The machine with these of its cards; with all if none is named.
fn machine_with(host: &Host, nics: &[String]) -> Result<Machine, Failure> {
    let mut machine = machine(host)?;
    if let Some(name) = nics.iter().find(|name| machine.nics.iter().all(|nic| nic.name != **name)) {
        let names: Vec<&str> = machine.nics.iter().map(|nic| nic.name.as_str()).collect();
        let there = match names.is_empty() {
            true => "this machine has none with a device behind it".to_owned(),
            false => format!("there are {}", names.join(", ")),
        };
        return Err(Failure::NoSuchNic { name: name.clone(), there });
    }
    machine.nics.retain(|nic| nics.is_empty() || nics.contains(&nic.name));
    Ok(machine)
}
