//! `hawser tune watch`: moves interrupts by load until it is stopped.

use std::time::Duration;

use serde::Serialize;

use super::out::{self, Format};
use super::{Failure, Outcome, WatchArgs, machine_with};
use crate::host::Host;
use crate::watch::{Moved, Watch};

pub const EXAMPLES: &str = "\
Examples:
  hawser tune watch                            every 10 s, until it is stopped
  hawser tune watch --dry-run --rounds 6       a minute of what it would do
  hawser tune watch --interval-s 30 --json     one line of JSON for each move

Moves an interrupt when a CPU of a card's node has more than 20 % above an even share, at most four a
round, each in the journal first: `hawser tune rollback` puts all of them back.";

#[derive(Serialize)]
struct Row<'a> {
    interrupt: u32,
    name: &'a str,
    from: u32,
    to: u32,
    count: u64,
    outcome: &'a str,
    reason: Option<&'a str>,
}

pub fn run(host: &Host, args: &WatchArgs, format: Format) -> Result<Outcome, Failure> {
    if machine_with(host, &args.nic)?.irqbalance_runs && !args.dry_run {
        return Err(Failure::Irqbalance);
    }
    let mut watch = Watch::begin(host);
    let mut round = 0;
    while args.rounds.is_none_or(|rounds| round < rounds) {
        round += 1;
        std::thread::sleep(Duration::from_secs(args.interval_s));
        let machine = machine_with(host, &args.nic)?;
        let mut moves = watch.decide(host, &machine);
        if !args.dry_run {
            watch.carry_out(host, &machine, &mut moves)?;
        }
        for moved in &moves {
            told(moved, args.dry_run, format)?;
        }
    }
    Ok(Outcome::AsItShouldBe)
}

fn told(moved: &Moved, dry_run: bool, format: Format) -> Result<(), Failure> {
    let outcome = match (&moved.refused, dry_run) {
        (_, true) => "would move",
        (None, false) => "moved",
        (Some(_), false) => "refused",
    };
    let row = Row {
        interrupt: moved.made.interrupt,
        name: &moved.name,
        from: moved.made.from,
        to: moved.made.to,
        count: moved.weight,
        outcome,
        reason: moved.refused.as_deref(),
    };
    match format {
        Format::Json => out::json_line(&row)?,
        Format::Human => {
            let Row { interrupt, name, from, to, count, .. } = row;
            let reason = row.reason.map_or(String::new(), |reason| format!(": {reason}"));
            out::text(&format!(
                "{outcome} {name} ({interrupt}) from CPU {from} to {to}: {count} interrupts{reason}\n"
            ))?;
        }
    }
    Ok(())
}
