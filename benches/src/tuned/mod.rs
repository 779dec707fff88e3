//! What `hawser tune` does for a broker, family by family: the same run before and after, in turn.
//!
//! ```text
//!   this program           a child for each run, in a network of its own as the kernel makes it
//!   for each round:        hawser-tune apply --only FAMILY   (what belongs to a network namespace)
//!     before, a family,    hawser-broker, fleet: connect, push, one to all
//!     another, ...     ──▶ one line of JSON, and everything is gone
//! ```
//!
//! What belongs to the whole machine is applied only if `--host` asks for it, by `hawser-tune` itself,
//! whose journal undoes it after each run. A family that would change nothing here is not run: its row
//! says so. One more case changes nothing and is run all the same: it shows what chance does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::kernel_memory::Slabs;
use crate::process::sibling;
use crate::results::Output;
use crate::scenario::{print, say};
use crate::spread::Spread;

pub mod run;

use self::run::Figures;

pub const METHOD: &str = "\
How it is measured:
  Each run starts a real hawser-broker with one shard and a fleet over TUN, in a network namespace that
  is as the kernel makes it but for what `hawser-tune apply --only FAMILY` sets there. Devices dial,
  8,192 at a time; then single messages as fast as the link takes them, and some messages to all. A round is one
  run before, one of each family, one of all of them, and one more before, which is called \"nothing\";
  each round begins with another of them. Ratios are of runs of the same round: after over before.
  sent_again is what the namespace's kernel sent twice. A family that would change nothing in such a
  namespace, nor on this host with --host, is not run; its row has no figures.

  With --host, what belongs to the whole machine is applied for the run too, and rolled back after it.
  If this program is killed then, `hawser tune rollback` puts it back.

Examples:
  hawser-bench tune --connections 30000
  hawser-bench tune --connections 100000 --rounds 9 --host
  hawser-bench tune --family accept --family rto --rounds 15";

/// As `hawser tune --only` names them.
const FAMILIES: [&str; 14] = [
    "limits",
    "memory",
    "accept",
    "hashes",
    "ports",
    "conntrack",
    "rto",
    "keepalive",
    "interrupts",
    "congestion",
    "power",
    "huge-pages",
    "io-uring",
    "clock",
];

/// Those whose settings a network namespace has for itself. The others are only the host's.
const OF_NAMESPACE: [&str; 7] =
    ["memory", "accept", "hashes", "ports", "rto", "keepalive", "congestion"];

const BEFORE: &str = "before";
const NOTHING: &str = "nothing";
const TOGETHER: &str = "together";

/// Where `hawser-tune` notes what it did to this machine.
const JOURNAL: &str = "/var/lib/hawser/tune.journal";

const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS_MAX: u32 = 600;
const SOCKETS_OF_OTHERS: f64 = 500.0;

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    /// Connections to hold
    #[arg(long, value_name = "N", default_value_t = 30_000,
          value_parser = clap::value_parser!(u32).range(1_000..=100_000))]
    connections: u32,
    /// Rounds of one run of each family
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Only this family; may be repeated
    #[arg(long, value_name = "FAMILY", value_parser = FAMILIES)]
    family: Vec<String>,
    /// Apply what belongs to the whole machine too, and roll it back after each run
    #[arg(long)]
    host: bool,
    /// The broker's binary; without it the one beside this program
    #[arg(long, value_name = "FILE")]
    broker: Option<PathBuf>,
}

/// What one kind of run is done with.
struct Case {
    name: &'static str,
    families: Vec<&'static str>,
    changed_in_namespace: usize,
    changed_on_host: usize,
    runs: Vec<Figures>,
}

impl Case {
    fn new(name: &'static str, families: Vec<&'static str>) -> Case {
        Case { name, families, changed_in_namespace: 0, changed_on_host: 0, runs: Vec::new() }
    }

    /// A case that changes nothing says what chance does, and what it does is known from two.
    fn is_run(&self) -> bool {
        self.families.is_empty() || self.changed_in_namespace + self.changed_on_host > 0
    }
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let tune = sibling(None, "hawser-tune")?;
    let broker = sibling(arguments.broker.as_deref(), "hawser-broker")?;
    ensure!(
        !arguments.host || !Path::new(JOURNAL).exists(),
        "this host is tuned already ({JOURNAL}): `hawser tune rollback` first, or leave out --host"
    );
    let sockets_idle = Slabs::read()?.sockets();
    let bench = Bench { arguments, tune, broker, sockets_idle };
    let mut cases = bench.cases()?;
    for round in 0..arguments.rounds as usize {
        let measured: Vec<usize> =
            (0..cases.len()).filter(|&index| cases[index].is_run()).collect();
        for turn in 0..measured.len() {
            let case = &mut cases[measured[(round + turn) % measured.len()]];
            say(&format!("round {} of {}: {}", round + 1, arguments.rounds, case.name));
            let figures = bench.measure(case)?;
            case.runs.push(figures);
        }
    }
    let (before, others) = cases.split_first().expect("the first case is what it was before");
    others.iter().try_for_each(|case| bench.report(before, case, output))
}

struct Bench<'a> {
    arguments: &'a Arguments,
    tune: PathBuf,
    broker: PathBuf,
    /// On this machine before the first run.
    sockets_idle: f64,
}

impl Bench<'_> {
    /// Before, each family, all together, and before once more.
    fn cases(&self) -> anyhow::Result<Vec<Case>> {
        let is_asked = |name: &str| {
            self.arguments.family.is_empty() || self.arguments.family.iter().any(|f| f == name)
        };
        let asked: Vec<&'static str> = FAMILIES.into_iter().filter(|name| is_asked(name)).collect();
        let mut cases = vec![Case::new(BEFORE, Vec::new())];
        cases.extend(asked.iter().map(|&name| Case::new(name, vec![name])));
        if asked.len() > 1 {
            cases.push(Case::new(TOGETHER, asked));
        }
        cases.push(Case::new(NOTHING, Vec::new()));
        for case in cases.iter_mut().filter(|case| !case.families.is_empty()) {
            case.changed_in_namespace = self.child(case, true)?.changed;
            if self.arguments.host {
                case.changed_on_host = self.planned(&case.families)?;
            }
        }
        Ok(cases)
    }

    /// How many values of this host would change.
    fn planned(&self, families: &[&str]) -> anyhow::Result<usize> {
        let planned = self.tuner("plan", families).args(["--json"]).output()?;
        let document: Value = serde_json::from_slice(&planned.stdout)
            .with_context(|| String::from_utf8_lossy(&planned.stderr).trim().to_owned())?;
        let changes = document["changes"].as_array().map_or(&[][..], Vec::as_slice);
        // A file for the next start of a service changes nothing of a run.
        let counts = |change: &&Value| {
            change["place"].as_str().is_some_and(|place| !place.starts_with("/etc/"))
        };
        Ok(changes.iter().filter(counts).count())
    }

    fn measure(&self, case: &Case) -> anyhow::Result<Figures> {
        let applied = match case.changed_on_host {
            0 => None,
            _ => Some(Applied::on_host(self, &case.families)?),
        };
        let figures = self.child(case, false);
        applied.map_or(Ok(()), Applied::undo)?;
        self.wait_for_sockets_to_go()?;
        figures
    }

    /// The kernel frees the sockets of a run that has ended one by one, and the next run counts its own.
    fn wait_for_sockets_to_go(&self) -> anyhow::Result<()> {
        for _ in 0..LOOKS_MAX {
            if Slabs::read()?.sockets() < self.sockets_idle + SOCKETS_OF_OTHERS {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        bail!("sockets of a run do not go away: what else runs here?")
    }

    fn tuner(&self, command: &str, families: &[&str]) -> Command {
        let mut tuner = Command::new(&self.tune);
        tuner.arg(command).arg("--connections").arg(self.arguments.connections.to_string());
        families.iter().for_each(|family| {
            tuner.args(["--only", family]);
        });
        tuner
    }

    /// One run, in a process of its own, which leaves its namespace with it.
    fn child(&self, case: &Case, only_looks: bool) -> anyhow::Result<Figures> {
        let mut child = Command::new(std::env::current_exe()?);
        child.arg("tuned").arg("--connections").arg(self.arguments.connections.to_string());
        child.arg("--broker").arg(&self.broker).arg("--tune").arg(&self.tune);
        let of_namespace = case.families.iter().filter(|name| OF_NAMESPACE.contains(name));
        of_namespace.for_each(|family| {
            child.args(["--family", family]);
        });
        if only_looks {
            child.arg("--only-apply");
        }
        let done = child.stderr(Stdio::inherit()).output()?;
        ensure!(done.status.success(), "a run of {} failed; what it said is above", case.name);
        serde_json::from_slice(&done.stdout).context("a run's figures")
    }

    fn report(&self, before: &Case, case: &Case, output: &Output) -> anyhow::Result<()> {
        let mut values = json!({
            "connections": self.arguments.connections,
            "changed_in_namespace": case.changed_in_namespace,
            "changed_on_host": case.changed_on_host,
            "rounds": case.runs.len(),
        });
        if !case.runs.is_empty() {
            for (name, of) in run::FIGURES {
                let own = Spread::of(case.runs.iter().map(of));
                let former = Spread::of(before.runs.iter().map(of));
                values[name] = json!(own.median.round());
                values[format!("{name}_before")] = json!(former.median.round());
                // A count that is nothing before has no ratio.
                if before.runs.iter().all(|run| of(run) > 0.0) {
                    let pairs = case.runs.iter().zip(&before.runs);
                    let ratio = Spread::of(pairs.map(|(after, before)| of(after) / of(before)));
                    values[format!("{name}_ratio")] = json!(ratio.median);
                    values[format!("{name}_ratio_quartiles")] = json!([ratio.low, ratio.high]);
                }
            }
        }
        let scenario = format!("{}, {} over tun", case.name, self.arguments.connections);
        if !output.json {
            print(&format!("tune, {scenario}"), &values);
        }
        output.row("tune", &scenario, None, values)
    }
}

/// What was applied to the host; it is undone whatever becomes of the run.
struct Applied<'a> {
    bench: &'a Bench<'a>,
    is_undone: bool,
}

impl<'a> Applied<'a> {
    fn on_host(bench: &'a Bench<'a>, families: &[&str]) -> anyhow::Result<Applied<'a>> {
        let applied = Applied { bench, is_undone: false };
        let done = bench.tuner("apply", families).stdout(Stdio::null()).status()?;
        ensure!(done.success(), "hawser-tune could not apply to this host; what it said is above");
        Ok(applied)
    }

    fn undo(mut self) -> anyhow::Result<()> {
        self.is_undone = true;
        self.roll_back()
    }

    fn roll_back(&self) -> anyhow::Result<()> {
        let mut rollback = Command::new(&self.bench.tune);
        let done = rollback.arg("rollback").stdout(Stdio::null()).status()?;
        if !done.success() {
            bail!("not everything was put back: `hawser tune rollback` says what is left");
        }
        Ok(())
    }
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        if !self.is_undone
            && let Err(error) = self.roll_back()
        {
            eprintln!("hawser-bench: {error:#}");
        }
    }
}
