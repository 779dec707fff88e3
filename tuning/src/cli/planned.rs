//! `hawser tune plan`: what would change, why, and the memory it implies.

use std::collections::BTreeMap;

use serde::Serialize;

use super::out::{self, Format};
use super::{Failure, Outcome, PlanArgs, machine_with};
use crate::host::Host;
use crate::machine::Machine;
use crate::place::Place;
use crate::plan::Plan;
use crate::setting::{Change, Kind};

pub const EXAMPLES: &str = "\
Examples:
  hawser tune plan --connections 5000000
  hawser tune plan --connections 1000000 --profile datacenter --only accept --only memory
  hawser tune plan --connections 5000000 --except 'deep idle states' --json
  hawser tune plan --connections 5000000 --only interrupts --nic eth0 --all

Exit codes: 0 nothing would change, 3 something would. Changes nothing itself.";

/// So many places of one setting are shown without --all.
const PLACES_SHOWN: usize = 3;

#[derive(Serialize)]
struct Document<'a> {
    connections: u64,
    profile: String,
    memory: MemoryRow,
    changes: Vec<ChangeRow<'a>>,
    advice: Vec<AdviceRow<'a>>,
    not_on_this_machine: Vec<&'a str>,
    unchanged: usize,
}

#[derive(Serialize)]
struct MemoryRow {
    machine_bytes: u64,
    reserve_bytes: u64,
    connections_bytes: u64,
    tables_bytes: u64,
    queues_bytes: u64,
    left_bytes: u64,
}

#[derive(Serialize)]
struct ChangeRow<'a> {
    family: String,
    setting: &'a str,
    place: String,
    current: Option<&'a str>,
    wanted: &'a str,
    why: &'a str,
    formula: &'a str,
    risk: &'a str,
    source: &'a str,
}

#[derive(Serialize)]
struct AdviceRow<'a> {
    family: String,
    setting: &'a str,
    kind: &'a str,
    text: &'a str,
}

pub fn run(host: &Host, args: &PlanArgs, format: Format) -> Result<Outcome, Failure> {
    let choice = args.goal.choice()?;
    let machine = machine_with(host, &args.goal.nic)?;
    let plan = Plan::make(host, &machine, args.goal.goal(), &choice)?;
    match format {
        Format::Json => out::json(&document(&plan))?,
        Format::Human => out::text(&shown(&machine, &plan, args.all))?,
    }
    Ok(if plan.changes.is_empty() { Outcome::AsItShouldBe } else { Outcome::Differs })
}

fn document(plan: &Plan) -> Document<'_> {
    let budget = &plan.budget;
    let changes = plan.changes.iter().map(|change| {
        let setting = change.setting;
        ChangeRow {
            family: setting.family.to_string(),
            setting: setting.name,
            place: change.place.name(),
            current: change.current.as_deref().map(str::trim),
            wanted: &change.wanted,
            why: setting.why,
            formula: setting.formula,
            risk: setting.risk,
            source: setting.source,
        }
    });
    let advice = plan.advice.iter().map(|advice| AdviceRow {
        family: advice.setting.family.to_string(),
        setting: advice.setting.name,
        kind: kind(advice.kind),
        text: &advice.text,
    });
    Document {
        connections: plan.goal.connections,
        profile: plan.goal.profile.to_string(),
        memory: MemoryRow {
            machine_bytes: budget.memory_bytes,
            reserve_bytes: budget.reserve_bytes,
            connections_bytes: budget.connections_bytes,
            tables_bytes: budget.tables_bytes,
            queues_bytes: budget.queues_bytes,
            left_bytes: budget.left_bytes - budget.queues_bytes,
        },
        changes: changes.collect(),
        advice: advice.collect(),
        not_on_this_machine: plan.absent.iter().map(|setting| setting.name).collect(),
        unchanged: plan.unchanged_count,
    }
}

/// The plan as people read it.
pub fn shown(machine: &Machine, plan: &Plan, all: bool) -> String {
    let mut text = format!(
        "{} connections, profile {}, on Linux {} with {} CPUs and {}\n\n",
        plan.goal.connections,
        plan.goal.profile,
        machine.kernel,
        machine.cpus.len(),
        out::size(machine.memory_bytes)
    );
    text.push_str(&memory(plan));
    text.push_str(&changes(plan, all));
    for (kind, heading) in
        [(Kind::Reboot, "NEEDS A REBOOT"), (Kind::ByHand, "LEFT TO YOU"), (Kind::Note, "TO KNOW")]
    {
        let mut advice = plan.advice.iter().filter(|advice| advice.kind == kind).peekable();
        if advice.peek().is_some() {
            text.push_str(&format!("\n{heading}\n"));
        }
        for advice in advice {
            text.push_str(&out::wrapped(
                "    ",
                &format!("  {}: ", advice.setting.name),
                &advice.text,
            ));
        }
    }
    if !plan.absent.is_empty() {
        text.push_str("\nNOT ON THIS KERNEL, OR NOT IN THIS NAMESPACE\n");
        for setting in &plan.absent {
            text.push_str(&format!("  {} ({})\n", setting.name, setting.kernels));
        }
    }
    let (changes, unchanged) = (plan.changes.len(), plan.unchanged_count);
    text.push_str(&format!("\n{changes} would change, {unchanged} are as they should be\n"));
    text
}

fn memory(plan: &Plan) -> String {
    let budget = &plan.budget;
    let rows = [
        ("connections", budget.connections_bytes),
        ("tables", budget.tables_bytes),
        ("queues of TCP, at most", budget.queues_bytes),
        ("reserve", budget.reserve_bytes),
        ("left over", budget.left_bytes - budget.queues_bytes),
    ];
    let rows = rows.map(|(what, bytes)| vec![what.to_owned(), out::size(bytes)]);
    out::table(&["MEMORY", ""], &rows)
}

fn changes(plan: &Plan, all: bool) -> String {
    let mut order: Vec<&str> = Vec::new();
    let mut by_setting: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    for change in &plan.changes {
        let name = change.setting.name;
        if !by_setting.contains_key(name) {
            order.push(name);
        }
        by_setting.entry(name).or_default().push(change);
    }
    let mut text = String::new();
    let mut family = None;
    for name in order {
        let changes = &by_setting[name];
        let setting = changes[0].setting;
        if family.replace(setting.family) != Some(setting.family) {
            text.push_str(&format!("\n{}\n", setting.family.to_string().to_uppercase()));
        }
        let shown_count = if all { changes.len() } else { PLACES_SHOWN };
        for change in changes.iter().take(shown_count) {
            text.push_str(&difference(change));
        }
        if changes.len() > shown_count {
            let more = changes.len() - shown_count;
            text.push_str(&format!("  and {more} more of {name}; --all shows them\n"));
        }
        text.push_str(&out::wrapped("      ", "      why: ", setting.why));
        text.push_str(&out::wrapped("      ", "      how much: ", setting.formula));
        text.push_str(&out::wrapped("      ", "      risk: ", setting.risk));
    }
    text
}

fn difference(change: &Change) -> String {
    let name = change.place.name();
    if let Place::File(_) = change.place {
        let verb = if change.current.is_some() { "is rewritten" } else { "is made" };
        return format!("  {name} {verb}\n");
    }
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let current = change.current.as_deref().map_or("(none)".to_owned(), plain);
    format!("  {name}: {current} -> {}\n", plain(&change.wanted))
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Note => "note",
        Kind::ByHand => "by_hand",
        Kind::Reboot => "reboot",
    }
}
