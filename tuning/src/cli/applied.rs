//! `hawser tune apply` and `hawser tune rollback`.

use serde::Serialize;

use super::out::{self, Format};
use super::{ApplyArgs, Failure, Outcome, RollbackArgs, machine, machine_with};
use crate::apply::{self, Run, Written};
use crate::host::Host;
use crate::journal::Journal;
use crate::machine::Machine;
use crate::place::Place;
use crate::plan::Plan;
use crate::rollback::{Fate, rollback};
use crate::setting::Change;

pub const APPLY_EXAMPLES: &str = "\
Examples:
  hawser tune apply --connections 5000000
  hawser tune apply --connections 5000000 --only rto --only accept
  hawser tune apply --connections 5000000 --except net.ipv4.ip_local_port_range

All or nothing: what cannot be written is found before anything is, and if the kernel refuses a value
what was written before it is put back. The journal /var/lib/hawser/tune.journal is on disk before the
first write, so `hawser tune rollback` works after a crash too. Values last until the next boot;
`hawser tune export` writes files that set them at every boot. Needs root.";

pub const ROLLBACK_EXAMPLES: &str = "\
Examples:
  hawser tune rollback
  hawser tune rollback --force      also what somebody else has changed since

Exit codes: 0 everything is as it was before, 3 something was left because somebody else changed it.";

#[derive(Serialize)]
struct AppliedRow {
    place: String,
    before: Option<String>,
    wanted: String,
    read_back: Option<String>,
    rounded: bool,
}

#[derive(Serialize)]
struct UndoneRow {
    place: String,
    fate: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

pub fn run_apply(host: &Host, args: &ApplyArgs, format: Format) -> Result<Outcome, Failure> {
    let choice = args.goal.choice()?;
    let look = || -> Result<(Machine, Plan), Failure> {
        let machine = machine_with(host, &args.goal.nic)?;
        let plan = Plan::make(host, &machine, args.goal.goal(), &choice)?;
        Ok((machine, plan))
    };
    let written = match look()? {
        (machine, plan) if plan.changes.is_empty() => {
            Journal::read(host, &machine)?;
            Vec::new()
        }
        (machine, plan) => {
            // Who may not write is told so before anything is made, the lock's folder too.
            apply::check_writable(host, &plan)?;
            let mut run = Run::begin(host, &machine)?;
            let (machine, plan) = look()?;
            run.check(&machine, &plan, args.overwrite)?;
            write(&mut run, machine, plan, look)?;
            run.written().to_vec()
        }
    };
    match format {
        Format::Json => out::json(&written.iter().map(row).collect::<Vec<_>>())?,
        Format::Human => out::text(&shown(&written))?,
    }
    Ok(Outcome::AsItShouldBe)
}

/// A card that gets other queues has other interrupts after that, of other numbers, and its driver sets
/// anew what belongs to each queue. So such cards go first, and all else is planned after them.
fn write(
    run: &mut Run,
    machine: Machine,
    plan: Plan,
    look: impl Fn() -> Result<(Machine, Plan), Failure>,
) -> Result<(), Failure> {
    let is_of_queues = |change: &Change| matches!(change.place, Place::Channels(_));
    if !plan.changes.iter().any(is_of_queues) {
        return Ok(run.pass(&machine, &plan.changes)?);
    }
    let queues: Vec<Change> = plan.changes.into_iter().filter(is_of_queues).collect();
    run.pass(&machine, &queues)?;
    let (machine, plan) = look().inspect_err(|_| {
        run.undo(&machine);
    })?;
    // Channels that the kernel made another number of are told and not tried again.
    let is_left = |change: &Change| !is_of_queues(change);
    let rest: Vec<Change> = plan.changes.into_iter().filter(is_left).collect();
    Ok(run.pass(&machine, &rest)?)
}

fn row(written: &Written) -> AppliedRow {
    let trimmed = |content: &Option<String>| content.as_ref().map(|text| text.trim().to_owned());
    AppliedRow {
        place: written.place.name(),
        before: trimmed(&written.before),
        wanted: written.wanted.trim().to_owned(),
        read_back: trimmed(&written.read_back),
        rounded: written.is_rounded(),
    }
}

fn shown(written: &[Written]) -> String {
    let mut text = String::new();
    for value in written.iter().filter(|value| value.is_rounded()) {
        let row = row(value);
        text.push_str(&format!(
            "{}: asked for {}, and the kernel made {} of it\n",
            row.place,
            row.wanted,
            row.read_back.as_deref().unwrap_or("nothing")
        ));
    }
    match written.len() {
        0 => text.push_str("nothing to change: this host is as it should be\n"),
        count => text.push_str(&format!("{count} changed; `hawser tune rollback` undoes it\n")),
    }
    text
}

pub fn run_rollback(host: &Host, args: &RollbackArgs, format: Format) -> Result<Outcome, Failure> {
    let machine = machine(host)?;
    let fates: Vec<UndoneRow> = rollback(host, &machine, args.force)?
        .into_iter()
        .map(|(place, fate)| undone(place.name(), fate))
        .collect();
    let open = fates.iter().filter(|row| row.fate == "theirs" || row.fate == "failed").count();
    match format {
        Format::Json => out::json(&fates)?,
        Format::Human => out::text(&told(&fates, open))?,
    }
    Ok(if open == 0 { Outcome::AsItShouldBe } else { Outcome::Differs })
}

fn undone(place: String, fate: Fate) -> UndoneRow {
    let (fate, detail) = match fate {
        Fate::Restored { before } => ("restored", before.map(|text| text.trim().to_owned())),
        Fate::AsBefore => ("as_before", None),
        Fate::GoneWithReboot => ("gone_with_reboot", None),
        Fate::Vanished => ("vanished", None),
        Fate::Theirs(ways) => {
            let detail = format!(
                "before hawser {:?}, hawser's {:?}, now {:?}",
                ways.before, ways.ours, ways.now
            );
            ("theirs", Some(detail))
        }
        Fate::Failed { reason } => ("failed", Some(reason)),
    };
    UndoneRow { place, fate, detail }
}

fn told(fates: &[UndoneRow], open: usize) -> String {
    let mut text = String::new();
    for row in fates {
        let detail = row.detail.as_deref().unwrap_or("");
        match row.fate {
            "theirs" => {
                text.push_str(&format!("{}: left, somebody else changed it: {detail}\n", row.place))
            }
            "failed" => text.push_str(&format!("{}: not restored: {detail}\n", row.place)),
            _ => {}
        }
    }
    let count = |fate| fates.iter().filter(|row| row.fate == fate).count();
    match fates.len() {
        0 => text.push_str("there is nothing to undo: nothing was applied here\n"),
        _ => text.push_str(&format!(
            "{} restored, {} were as before, {} undone by the reboot, {} not there any more, {open} left\n",
            count("restored"),
            count("as_before"),
            count("gone_with_reboot"),
            count("vanished")
        )),
    }
    text
}
