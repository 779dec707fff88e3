//! `hawser`: the operator's command line.
//!
//! ```text
//!   connection   which node, key and app: flags, environment, or a running play's file
//!   client       the public HTTP API
//!   commands     one function per command: call, then print
//!   tail         be a device
//!   kv           the store: start it, look at it, copy it, check it
//!   (tune)       this host's settings: all of it is in the crate hawser-tuning
//!   play         the arguments of `hawser play`, and how its result is shown
//!   out          tables and JSON
//!   failure      what is said when it did not work
//! ```
//!
//! It talks to the public API, the device protocol and RESP only: whatever it can do, so can anybody's
//! own program. Exit codes: 0 done, 1 failed, 2 the command line is wrong.

pub mod client;
pub mod connection;
pub mod out;

mod commands;
mod failure;
mod kv;
mod play;
mod tail;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use hawser_codec::ids::{is_device_name, is_topic_name};

use self::connection::Target;
use self::out::Format;

const EXAMPLES: &str = "\
Examples:
  hawser play                            a whole system on this machine, with simulated devices
  hawser push all --text 'hello'         in a second terminal: to every device of the app
  hawser tail                            be a device and print what arrives
  hawser status                          nodes, links, sessions and message counts

The connection comes from flags, else from HAWSER_URL, HAWSER_KEY and HAWSER_APP, else from the
`hawser play` that runs on this machine.

Exit codes: 0 done, 1 failed, 2 wrong command line. With --json, the last line on standard error is
{\"error\": {\"code\", \"message\", \"retry_after_ms\"}} unless it is done.";

/// Operate hawser: register apps, push messages, look at devices, or try it all on one machine.
#[derive(Debug, Parser)]
#[command(name = "hawser", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Print JSON instead of tables
    #[arg(long, global = true, display_order = 100)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register apps and list them
    #[command(subcommand)]
    App(AppCommand),
    /// Get a ticket, with which a device may connect
    #[command(after_help = TICKET_EXAMPLES)]
    Ticket(TicketArgs),
    /// Send a message to a device, a topic, or every device of the app
    #[command(subcommand, after_help = PUSH_EXAMPLES)]
    Push(PushCommand),
    /// Show what became of a message
    #[command(after_help = MESSAGE_EXAMPLES)]
    Message(MessageArgs),
    /// Look at devices
    #[command(subcommand)]
    Devices(DevicesCommand),
    /// Show nodes, links, sessions and message counts
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// Be a device: connect and print what arrives
    #[command(after_help = tail::EXAMPLES)]
    Tail(tail::TailArgs),
    /// Operate a store: run it, look into it, back it up, verify it, load and dump
    #[command(subcommand, after_help = kv::EXAMPLES)]
    Kv(kv::KvCommand),
    /// Run a whole system on this machine, or check one: nothing lost, repeated or out of order
    #[command(after_help = play::EXAMPLES)]
    Play(play::PlayArgs),
    /// Put this host in shape for millions of connections, and take it back
    Tune(hawser_tuning::cli::Tune),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// The simulated devices of `hawser play`
    #[command(hide = true)]
    Fleet(play::FleetArgs),
}

#[derive(Debug, Subcommand)]
pub enum AppCommand {
    /// Register an app; its keys are shown once
    #[command(after_help = APP_CREATE_EXAMPLES)]
    Create(AppCreateArgs),
    /// List the registered apps
    #[command(after_help = APP_LIST_EXAMPLES)]
    List(AppListArgs),
}

const APP_CREATE_EXAMPLES: &str = "\
Examples:
  hawser app create shop
  hawser app create shop --messages-per-s 5000 --json > shop.json

Needs the operator's key. The answer holds two secrets that are shown this once: the API key, with
which the app's server pushes, and the seed of the key with which it signs its devices' tickets.";

#[derive(Debug, Args)]
pub struct AppCreateArgs {
    /// Name of the app: a-z, 0-9 and hyphens, at most 32
    pub name: String,

    /// Messages that the app may push per second to one control node; 0: no limit [default: 0]
    #[arg(long, value_name = "N")]
    pub messages_per_s: Option<u32>,

    /// Messages that may wait for one device [default: 1000]
    #[arg(long, value_name = "N")]
    pub inbox_entries_max: Option<u32>,

    /// Group messages that may be live at once [default: 10000]
    #[arg(long, value_name = "N")]
    pub group_log_entries_max: Option<u32>,

    #[command(flatten)]
    pub target: Target,
}

const APP_LIST_EXAMPLES: &str = "\
Examples:
  hawser app list
  hawser app list --json

Needs the operator's key.";

#[derive(Debug, Args)]
pub struct AppListArgs {
    #[command(flatten)]
    pub target: Target,
}

const TICKET_EXAMPLES: &str = "\
Examples:
  hawser ticket phone-1
  hawser ticket phone-1 --ttl 30d --json

A device shows its ticket when it connects. An app's own server can sign tickets itself with the
app's signing key; this asks the control node to do it.";

#[derive(Debug, Args)]
pub struct TicketArgs {
    /// Device that the ticket is for
    #[arg(value_parser = device)]
    pub device: String,

    /// How long the ticket is good for: 90s, 15m, 12h, at most 30d
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = seconds)]
    pub ttl: u32,

    #[command(flatten)]
    pub target: Target,
}

const PUSH_EXAMPLES: &str = "\
Examples:
  hawser push all --text 'hello'
  hawser push device phone-1 --text 'your parcel is here' --ttl 1h
  hawser push topic news --file story.json --priority low
  hawser push device phone-1 --text 'score 2:1' --collapse-key score

The message is on disk when the command returns. What became of it: hawser message ID";

#[derive(Debug, Subcommand)]
pub enum PushCommand {
    /// To one device
    #[command(after_help = PUSH_EXAMPLES)]
    Device {
        /// Device, as the app names it
        #[arg(value_parser = device)]
        device: String,
        #[command(flatten)]
        message: PushArgs,
    },
    /// To the devices that are subscribed to a topic
    #[command(after_help = PUSH_EXAMPLES)]
    Topic {
        /// Topic, as devices subscribe to it
        #[arg(value_parser = topic)]
        topic: String,
        #[command(flatten)]
        message: PushArgs,
    },
    /// To every device of the app
    #[command(after_help = PUSH_EXAMPLES)]
    All {
        #[command(flatten)]
        message: PushArgs,
    },
}

#[derive(Debug, Args)]
pub struct PushArgs {
    #[command(flatten)]
    pub payload: PayloadArgs,

    /// How long the message is worth delivering: 90s, 15m, 12h, at most 30d
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = seconds)]
    pub ttl: u32,

    /// Under overload the lower ones are refused first
    #[arg(long, value_enum, default_value_t = Priority::Normal)]
    pub priority: Priority,

    /// Deliver with the device's next heartbeat instead of waking it now
    #[arg(long)]
    pub when_awake: bool,

    /// Replace the waiting message that has the same key
    #[arg(long, value_name = "KEY")]
    pub collapse_key: Option<String>,

    /// A repeat with the same key within 24 hours is answered with the first message's id
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,

    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PayloadArgs {
    /// Payload as text
    #[arg(long)]
    pub text: Option<String>,

    /// Payload from a file of any content, at most 64 KiB; `-` is standard input
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Priority {
    Low,
    Normal,
    High,
}

const MESSAGE_EXAMPLES: &str = "\
Examples:
  hawser message \"$(hawser push device phone-1 --text hi --json | jq -r .id)\"";

#[derive(Debug, Args)]
pub struct MessageArgs {
    /// Id that the push answered with
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub id: String,

    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Subcommand)]
pub enum DevicesCommand {
    /// Show where a device is and what waits for it
    #[command(after_help = DEVICE_EXAMPLES)]
    Show {
        /// Device, as the app names it
        #[arg(value_parser = device)]
        device: String,
        #[command(flatten)]
        target: Target,
    },
}

const DEVICE_EXAMPLES: &str = "\
Examples:
  hawser devices show phone-1
  hawser devices show phone-1 --json";

const STATUS_EXAMPLES: &str = "\
Examples:
  hawser status
  hawser status --json

Needs the operator's key.";

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub target: Target,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  hawser completions bash > ~/.local/share/bash-completion/completions/hawser
  hawser completions zsh > ~/.zfunc/_hawser";

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

/// Runs the program with these arguments, its own name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    // Looked up by hand too, since a wrong command line has no fields.
    let format = if args.iter().any(|arg| arg == "--json") { Format::Json } else { Format::Human };
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return failure::report_arguments(&error, format),
    };
    let format = if cli.json { Format::Json } else { Format::Human };
    if let Command::Tune(tune) = cli.command {
        return hawser_tuning::cli::run(tune, cli.json);
    }
    match run(cli.command, format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, format),
    }
}

fn run(command: Command, format: Format) -> anyhow::Result<()> {
    match command {
        Command::Completions(args) => completions(args.shell),
        Command::Fleet(args) => args.run(),
        Command::Kv(command) => kv::run(command, format),
        command => {
            // One thread: the machine's cores belong to the servers.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run_async(command, format))
        }
    }
}

async fn run_async(command: Command, format: Format) -> anyhow::Result<()> {
    match command {
        Command::App(AppCommand::Create(args)) => commands::app_create(args, format).await,
        Command::App(AppCommand::List(args)) => commands::app_list(args, format).await,
        Command::Ticket(args) => commands::ticket(args, format).await,
        Command::Push(command) => commands::push(command, format).await,
        Command::Message(args) => commands::message(args, format).await,
        Command::Devices(DevicesCommand::Show { device, target }) => {
            commands::device(&device, &target, format).await
        }
        Command::Status(args) => commands::status(args, format).await,
        Command::Tail(args) => tail::run(args, format).await,
        Command::Play(args) => play::run(args, format).await,
        Command::Completions(_) | Command::Fleet(_) | Command::Kv(_) | Command::Tune(_) => {
            unreachable!("they need no runtime")
        }
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hawser", &mut script);
    Ok(out::line(String::from_utf8(script)?)?)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

/// `90`, `90s`, `15m`, `12h` or `30d` in seconds.
fn seconds(text: &str) -> Result<u32, String> {
    let (digits, unit_s) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    let count: Option<u32> = digits.parse().ok().filter(|&count| count > 0);
    count
        .and_then(|count| count.checked_mul(unit_s))
        .ok_or_else(|| "write a time such as 90s, 15m, 12h or 30d".to_owned())
}

fn device(name: &str) -> Result<String, &'static str> {
    let good = is_device_name(name).then(|| name.to_owned());
    good.ok_or("a device has 1 to 64 bytes without control characters")
}

fn topic(name: &str) -> Result<String, &'static str> {
    let good = is_topic_name(name).then(|| name.to_owned());
    good.ok_or("a topic has 1 to 128 bytes without control characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        for (text, expect) in
            [("90", 90), ("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000)]
        {
            assert_eq!(seconds(text), Ok(expect));
        }
        for text in ["", "s", "0", "0s", "-1s", "1w", "1.5h", "99999999999", "99999999d", "µ"] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }
}
