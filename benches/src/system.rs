//! The whole system under load, as one operator would see it: store, control node, broker and fleet
//! as real processes, undisturbed and with a `kill -9` in the middle. `hawser play --once` does the
//! work and the judging; this records what it says.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::process::sibling;
use crate::results::Output;

const METHOD: &str = "\
How it is measured:
  hawser play --once connects the devices, pushes the messages over the HTTP API, one after another
  from many callers, and 10 to groups, and waits for every acknowledgement. A message counts as
  accepted when the API has answered, which is after it is on disk; its latency runs from the call
  to the device's application. With a kill the process is ended with SIGKILL when half of the
  messages are accepted, and started again; then calls carry idempotency keys and are repeated until
  they are answered. Everything runs on this one machine. Each of the three runs is a row: undisturbed,
  with a kill of the control node, and with one of the broker.

Examples:
  hawser-bench system
  hawser-bench system --devices 1000 --messages 20000 --json";

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    /// Devices that connect
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    devices: u32,
    /// Messages to one device each
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    messages: u32,
    /// The binary of `hawser`; without it the one beside this program
    #[arg(long, value_name = "FILE")]
    hawser: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let Arguments { devices, messages, .. } = *arguments;
    let hawser = sibling(arguments.hawser.as_deref(), "hawser")?;
    if !output.json {
        println!("{devices} devices, {messages} messages to one device each, 10 to groups\n");
        println!(
            "  {:<22}{:>10}{:>6}{:>7}{:>7}{:>9}{:>9}{:>9}{:>11}",
            "", "messages/s", "lost", "twice", "order", "dropped", "p50 ms", "p99 ms", "p99.9 ms"
        );
    }
    for (name, kill) in [
        ("undisturbed", None),
        ("kill -9 control", Some("control")),
        ("kill -9 broker", Some("broker")),
    ] {
        let mut command = Command::new(&hawser);
        command.args(["play", "--once", "--json"]);
        command.args(["--devices", &devices.to_string(), "--messages", &messages.to_string()]);
        if let Some(kill) = kill {
            command.args(["--kill", kill]);
        }
        let done = command
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot run {}", hawser.display()))?;
        let summary: Value = serde_json::from_slice(&done.stdout)
            .with_context(|| format!("{} said no summary: {}", hawser.display(), done.status))?;
        if !output.json {
            let number = |field: &str| summary[field].as_f64().unwrap_or(f64::NAN);
            println!(
                "  {name:<22}{:>10.0}{:>6}{:>7}{:>7}{:>9}{:>9.1}{:>9.1}{:>11.1}",
                number("messages_per_s"),
                number("lost"),
                number("duplicates"),
                number("out_of_order"),
                number("dropped_connections"),
                number("p50_ms"),
                number("p99_ms"),
                number("p999_ms")
            );
        }
        let is_ok = done.status.success();
        output.row(
            "system",
            &format!("{devices} devices, {messages} messages, {name}"),
            None,
            summary,
        )?;
        ensure!(is_ok, "{name}: the run found something wrong; see above");
    }
    Ok(())
}
