//! `hawser tune verify` and `hawser tune export`.

use std::time::Duration;

use serde::Serialize;

use super::out::{self, Format};
use super::{ExportArgs, Failure, Outcome, VerifyArgs, machine, machine_with};
use crate::export::{Dialect, export};
use crate::host::Host;
use crate::plan::Plan;
use crate::verify::{self, Reading};

pub const VERIFY_EXAMPLES: &str = "\
Examples:
  hawser tune verify                       reads back, then measures for 10 s
  hawser tune verify --port 7001           only connections of this port, the broker's
  hawser tune verify --seconds 0 --json    reads back only

Exit codes: 0 everything that was applied holds, 3 something does not.";

pub const EXPORT_EXAMPLES: &str = "\
Examples:
  hawser tune export sysctl --connections 5000000 > /etc/sysctl.d/90-hawser.conf
  hawser tune export systemd --connections 5000000
  hawser tune export ansible --connections 5000000 --only accept > tasks.yml

Writes what would change on this machine; on one that is in shape already it is empty.";

#[derive(Serialize)]
struct Document {
    applied: Vec<PlaceRow>,
    rto: Option<RtoRow>,
    self_test: Option<SelfTestRow>,
    cpus: Vec<CpuRow>,
}

#[derive(Serialize)]
struct PlaceRow {
    place: String,
    applied: String,
    now: Option<String>,
    holds: bool,
}

#[derive(Serialize)]
struct RtoRow {
    minimum_ms: u64,
    connections: u64,
    below_minimum: u64,
    least_ms: Option<u64>,
    most_ms: Option<u64>,
    retransmitted_total: u64,
}

#[derive(Serialize)]
struct SelfTestRow {
    rto_ms: Option<u64>,
    holds: bool,
    reason: Option<String>,
}

#[derive(Serialize)]
struct CpuRow {
    cpu: u32,
    interrupts: u64,
    net_rx: u64,
    net_tx: u64,
    softirq_percent: f64,
}

pub fn run_verify(host: &Host, args: &VerifyArgs, format: Format) -> Result<Outcome, Failure> {
    let machine = machine(host)?;
    let applied = verify::places(host, &machine)?.into_iter().map(|checked| PlaceRow {
        place: checked.place,
        applied: checked.applied.trim().to_owned(),
        now: checked.now.map(|now| now.trim().to_owned()),
        holds: checked.holds,
    });
    let document = Document {
        applied: applied.collect(),
        // Netlink and loopback are of the machine that this runs on, not of a tree of files.
        rto: if host.is_live() { rto(host, args.port) } else { None },
        self_test: host.is_live().then(|| self_test(host)),
        cpus: cpus(host, args.seconds),
    };
    match format {
        Format::Json => out::json(&document)?,
        Format::Human => out::text(&shown(&document))?,
    }
    let holds = document.applied.iter().all(|row| row.holds)
        && document.self_test.as_ref().is_none_or(|test| test.holds);
    Ok(if holds { Outcome::AsItShouldBe } else { Outcome::Differs })
}

fn rto(host: &Host, port: Option<u16>) -> Option<RtoRow> {
    let minimum_ms = verify::minimum_ms(host);
    let timeouts = verify::timeouts(minimum_ms, port).ok()?;
    Some(RtoRow {
        minimum_ms,
        connections: timeouts.connections,
        below_minimum: timeouts.below_minimum,
        least_ms: timeouts.least_ms,
        most_ms: timeouts.most_ms,
        retransmitted_total: timeouts.retransmitted_total,
    })
}

fn self_test(host: &Host) -> SelfTestRow {
    match verify::self_test(host) {
        Ok(test) => SelfTestRow { rto_ms: Some(test.rto_ms), holds: test.holds, reason: None },
        // A namespace whose loopback is down cannot be tested, which is not a wrong setting.
        Err(error) => SelfTestRow { rto_ms: None, holds: true, reason: Some(error.to_string()) },
    }
}

fn cpus(host: &Host, seconds: u64) -> Vec<CpuRow> {
    if seconds == 0 {
        return Vec::new();
    }
    let earlier = Reading::take(host);
    std::thread::sleep(Duration::from_secs(seconds));
    let measured = Reading::take(host).since(&earlier).into_iter();
    let row = |(cpu, measured): (u32, verify::Measured)| CpuRow {
        cpu,
        interrupts: measured.interrupts,
        net_rx: measured.work.net_rx,
        net_tx: measured.work.net_tx,
        softirq_percent: percent(measured.work.softirq_ticks, measured.work.total_ticks),
    };
    measured.map(row).collect()
}

fn percent(part: u64, whole: u64) -> f64 {
    (part * 1_000).checked_div(whole).map_or(0.0, |tenths| tenths as f64 / 10.0)
}

fn shown(document: &Document) -> String {
    let mut text = String::new();
    let differs = document.applied.iter().filter(|row| !row.holds);
    for row in differs {
        let now = row.now.as_deref().unwrap_or("gone");
        text.push_str(&format!("{}: applied {}, now {now}\n", row.place, row.applied));
    }
    let held = document.applied.iter().filter(|row| row.holds).count();
    text.push_str(&format!("{held} of {} applied values hold\n", document.applied.len()));
    if held < document.applied.len() {
        text.push_str(
            "`hawser tune apply` sets them again, as after a restart; `rollback` shows whose they are\n",
        );
    }
    if let Some(rto) = &document.rto {
        let range = match (rto.least_ms, rto.most_ms) {
            (Some(least), Some(most)) => format!(", from {least} to {most} ms"),
            _ => String::new(),
        };
        text.push_str(&format!(
            "retransmission timeouts of {} connections{range}; {} below the minimum of {} ms, {} \
             segments sent again so far\n",
            rto.connections, rto.below_minimum, rto.minimum_ms, rto.retransmitted_total
        ));
    }
    if let Some(test) = &document.self_test {
        let result = match (&test.reason, test.rto_ms) {
            (Some(reason), _) => format!("could not be made: {reason}"),
            (None, ms) if test.holds => format!("has the minimum: {} ms", ms.unwrap_or(0)),
            (None, ms) => format!("is below the minimum: {} ms", ms.unwrap_or(0)),
        };
        text.push_str(&format!("a new connection over loopback {result}\n"));
    }
    if !document.cpus.is_empty() {
        let row = |row: &CpuRow| {
            vec![
                row.cpu.to_string(),
                row.interrupts.to_string(),
                row.net_rx.to_string(),
                row.net_tx.to_string(),
                format!("{:.1} %", row.softirq_percent),
            ]
        };
        let rows: Vec<_> = document.cpus.iter().map(row).collect();
        let heading = ["CPU", "INTERRUPTS", "NET_RX", "NET_TX", "SOFTIRQ"];
        text.push_str(&format!("\n{}", out::table(&heading, &rows)));
    }
    text
}

#[derive(Serialize)]
struct ExportDocument<'a> {
    dialect: Dialect,
    changes: usize,
    text: &'a str,
}

pub fn run_export(host: &Host, args: &ExportArgs, format: Format) -> Result<Outcome, Failure> {
    let choice = args.goal.choice()?;
    let machine = machine_with(host, &args.goal.nic)?;
    let plan = Plan::make(host, &machine, args.goal.goal(), &choice)?;
    let text = export(&plan, &choice, &args.goal.nic, args.dialect);
    match format {
        Format::Json => out::json(&ExportDocument {
            dialect: args.dialect,
            changes: plan.changes.len(),
            text: &text,
        })?,
        Format::Human => out::text(&text)?,
    }
    Ok(Outcome::AsItShouldBe)
}
