//! `compare`: what two sets of rows differ in. Of each set the latest row of each scenario and size
//! is taken, and for each figure that both have the ratio is printed.
//!
//! Two rows are comparable if they come from the same machine, kernel, plan and options. What a row
//! of an earlier commit does not say is taken to be the same only if neither row says it. Rows that
//! are not comparable are named with the reason, and the command fails, unless it is told to go on.

use std::path::Path;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::figure::{Better, Unit, better, unit};
use crate::results::{Output, Row};
use crate::rows::{Key, Rows};

const EXAMPLES: &str = "\
A and B are files of rows, or commits or runs whose rows are in the folder of results. Absolute
figures drift from run to run on a shared machine; what is a share of a floor (ratio_to_floor) does
not, since the floor was measured in the same run.

Examples:
  hawser-bench compare 752e69d33e09 e0af212de678
  hawser-bench compare before/push.jsonl after/push.jsonl
  hawser-bench compare monday tuesday --results /var/tmp/results --tolerance 10

Exit codes:
  0 after a comparison, whatever it found; 1 when the rows cannot be read;
  2 when there is nothing to compare, or rows are not comparable";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// What the other is compared with: a file, a commit or a run
    a: String,
    /// A file, a commit or a run
    b: String,
    /// Percent by which a figure may differ before it is called better or worse
    #[arg(long, default_value_t = 5.0, value_parser = tolerance)]
    tolerance: f64,
    /// Compare rows that are not comparable too
    #[arg(long)]
    anyway: bool,
}

/// Nothing was compared, or not everything; the reasons have been printed.
#[derive(Debug)]
pub struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Virtual machines of one kind differ by a few pages.
const MEMORY_DIFFERENCE_MAX: f64 = 0.01;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Better,
    Worse,
    /// Within the tolerance.
    Same,
    /// Neither way is better.
    Described,
}

/// The latest rows of both sides for one scenario and size.
struct Pair<'a> {
    key: &'a Key,
    scenario: &'a str,
    /// Why they are not comparable.
    reasons: Vec<String>,
    figures: Vec<Figure>,
}

struct Figure {
    name: String,
    a: f64,
    b: f64,
    verdict: Verdict,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let (a, b) = sides(arguments, &output.results)?;
    let (a, b) = (Rows::latest(&a), Rows::latest(&b));
    let pairs: Vec<Pair<'_>> = a
        .iter()
        .filter_map(|(key, a)| Some(Pair::of(key, a, b.get(key)?, arguments.tolerance)))
        .collect();
    if pairs.is_empty() {
        let message = format!(
            "{} and {} have no row of the same benchmark, scenario and size; run the same commands \
             for both",
            arguments.a, arguments.b
        );
        return Err(Refused(message).into());
    }
    if output.json {
        output.say("compare", &format!("{} {}", arguments.a, arguments.b), in_json(&pairs));
    } else {
        print(arguments, &pairs);
    }
    let refused = pairs.iter().filter(|pair| !pair.reasons.is_empty()).count();
    if refused > 0 && !arguments.anyway {
        let message = format!(
            "{refused} of {} pairs of rows are not comparable; measure them alike, or use --anyway",
            pairs.len()
        );
        return Err(Refused(message).into());
    }
    Ok(())
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if (0.0..1000.0).contains(&percent) => Ok(percent),
        _ => Err("give a percentage from 0 to 1000".to_owned()),
    }
}

/// The rows of both sides.
fn sides(arguments: &Arguments, folder: &Path) -> anyhow::Result<(Vec<Row>, Vec<Row>)> {
    let mut recorded = None;
    let mut side = |name: &str| -> anyhow::Result<Vec<Row>> {
        let path = Path::new(name);
        if path.is_file() {
            return Ok(warned(Rows::of_file(path)?));
        }
        if recorded.is_none() {
            recorded = Some(warned(Rows::of_folder(folder)?));
        }
        let rows: Vec<Row> =
            recorded.iter().flatten().filter(|row| is_of(row, name)).cloned().collect();
        ensure!(
            !rows.is_empty(),
            "{name} is no file, and no row in {} has it as commit or run; name a file, or use \
             --results",
            folder.display()
        );
        Ok(rows)
    };
    Ok((side(&arguments.a)?, side(&arguments.b)?))
}

fn warned(rows: Rows) -> Vec<Row> {
    for warning in &rows.warnings {
        eprintln!("hawser-bench: {warning}");
    }
    rows.rows
}

/// Whether a row is of a run, or of a commit that may be shortened. A commit with changed files is
/// another one, and has to be asked for with its plus.
fn is_of(row: &Row, name: &str) -> bool {
    const COMMIT_MIN: usize = 7;
    let is_commit = name.len() >= COMMIT_MIN
        && row.commit.starts_with(name.trim_end_matches('+'))
        && row.commit.ends_with('+') == name.ends_with('+');
    is_commit || row.word("run") == name
}

impl<'a> Pair<'a> {
    fn of(key: &'a Key, a: &'a Row, b: &Row, tolerance: f64) -> Pair<'a> {
        let figures = a.figures().into_iter().filter_map(|(name, a)| {
            let b = b.number(&name)?;
            let verdict = verdict(&key.benchmark, &name, (a, b), tolerance);
            Some(Figure { name, a, b, verdict })
        });
        let figures = figures.collect();
        Pair { key, scenario: &a.scenario, reasons: reasons(a, b), figures }
    }

    fn title(&self) -> String {
        let parts = [&self.key.benchmark, self.scenario, &self.key.server, &self.key.fleet];
        let mut title: Vec<String> =
            parts.iter().filter(|part| !part.is_empty()).map(|part| (*part).to_owned()).collect();
        if self.key.connections > 0 {
            title.push(format!("{} connections", Unit::Count.text(self.key.connections as f64)));
        }
        if self.key.rate > 0 {
            title.push(Unit::PerSecond.text(self.key.rate as f64));
        }
        title.join(", ")
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.figures.iter().filter(|figure| figure.verdict == verdict).count()
    }
}

fn verdict(benchmark: &str, name: &str, (a, b): (f64, f64), tolerance: f64) -> Verdict {
    let Some(better) = better(benchmark, name) else { return Verdict::Described };
    let margin = a.abs() * tolerance / 100.0;
    match better {
        _ if (b - a).abs() <= margin => Verdict::Same,
        Better::Less if b < a => Verdict::Better,
        Better::More if b > a => Verdict::Better,
        _ => Verdict::Worse,
    }
}

/// Why two rows are not comparable.
fn reasons(a: &Row, b: &Row) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut differ = |what: &str, a: String, b: String| {
        if a != b {
            reasons.push(format!("{what}: {a} and {b}"));
        }
    };
    let said = |text: Option<String>| text.unwrap_or_else(|| "not recorded".to_owned());
    differ("processor", a.cpu.clone(), b.cpu.clone());
    differ("processors", a.cpus.to_string(), b.cpus.to_string());
    differ("kernel", a.kernel.clone(), b.kernel.clone());
    let memory = |row: &Row| said(row.memory_bytes.map(|bytes| format!("{bytes} bytes")));
    if !is_like(a.memory_bytes, b.memory_bytes) {
        differ("memory", memory(a), memory(b));
    }
    let plan = |row: &Row| row.plan_hash.clone().unwrap_or_else(|| "none".to_owned());
    differ("plan", plan(a), plan(b));
    let options = |row: &Row| said(row.settings().map(|settings| settings.join(" ")));
    differ("options", options(a), options(b));
    reasons
}

fn is_like(a: Option<u64>, b: Option<u64>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return false };
    a.abs_diff(b) as f64 <= a as f64 * MEMORY_DIFFERENCE_MAX
}

impl Figure {
    /// None where nothing became something.
    fn ratio(&self) -> Option<f64> {
        match (self.a, self.b) {
            (a, b) if a == b => Some(1.0),
            (0.0, _) => None,
            (a, b) => Some(b / a),
        }
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Same => "same",
            Verdict::Described => "",
        }
    }
}

fn print(arguments: &Arguments, pairs: &[Pair<'_>]) {
    println!(
        "A = {}, B = {}; within {} % is the same\n",
        arguments.a, arguments.b, arguments.tolerance
    );
    for pair in pairs {
        println!("{}", pair.title());
        for reason in &pair.reasons {
            println!("  not comparable: {reason}");
        }
        if pair.reasons.is_empty() || arguments.anyway {
            print_figures(&pair.figures);
        }
        println!();
    }
    let compared = || pairs.iter().filter(|pair| pair.reasons.is_empty() || arguments.anyway);
    let count = |verdict| compared().map(|pair| pair.count(verdict)).sum::<usize>();
    println!(
        "{} pairs of rows compared: {} figures better, {} worse, {} the same",
        compared().count(),
        count(Verdict::Better),
        count(Verdict::Worse),
        count(Verdict::Same)
    );
}

fn print_figures(figures: &[Figure]) {
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0).max(20);
    println!("  {:<width$} {:>14} {:>14} {:>8}", "", "A", "B", "B/A");
    for figure in figures {
        let unit = unit(&figure.name);
        let ratio = figure.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
        let line = format!(
            "  {:<width$} {:>14} {:>14} {ratio:>8}  {}",
            figure.name,
            unit.text(figure.a),
            unit.text(figure.b),
            figure.verdict.word()
        );
        println!("{}", line.trim_end());
    }
}

fn in_json(pairs: &[Pair<'_>]) -> Value {
    let figure = |figure: &Figure| {
        let verdict = Some(figure.verdict.word()).filter(|word| !word.is_empty());
        json!({
            "name": figure.name, "a": figure.a, "b": figure.b,
            "ratio": figure.ratio(), "verdict": verdict,
        })
    };
    let pair = |pair: &Pair<'_>| {
        json!({
            "benchmark": pair.key.benchmark,
            "scenario": pair.scenario,
            "server": pair.key.server,
            "fleet": pair.key.fleet,
            "comparable": pair.reasons.is_empty(),
            "reasons": pair.reasons,
            "figures": pair.figures.iter().map(figure).collect::<Vec<_>>(),
        })
    };
    json!({ "pairs": pairs.iter().map(pair).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_know_the_direction_and_the_tolerance() {
        let check = |name: &str, a: f64, b: f64, expected: Verdict| {
            assert_eq!(verdict("push", name, (a, b), 5.0), expected, "{name} {a} {b}");
        };
        check("p99_us", 100.0, 105.0, Verdict::Same);
        check("p99_us", 100.0, 105.1, Verdict::Worse);
        check("p99_us", 100.0, 94.9, Verdict::Better);
        check("rate", 100.0, 94.9, Verdict::Worse);
        check("rate", 100.0, 106.0, Verdict::Better);
        check("lost", 0.0, 0.0, Verdict::Same);
        check("lost", 0.0, 1.0, Verdict::Worse);
        check("lost", 1.0, 0.0, Verdict::Better);
        check("floor_p99_us", 100.0, 200.0, Verdict::Described);
    }

    #[test]
    fn a_commit_with_changed_files_is_another_one() {
        let row = |commit: &str| -> Row {
            let values = json!({"run": "monday"});
            let row =
                json!({"benchmark": "push", "scenario": "", "commit": commit, "values": values});
            serde_json::from_value(row).unwrap()
        };
        assert!(is_of(&row("0123456789ab"), "0123456"));
        assert!(!is_of(&row("0123456789ab"), "012345"));
        assert!(!is_of(&row("0123456789ab+"), "0123456789ab"));
        assert!(is_of(&row("0123456789ab+"), "0123456789ab+"));
        assert!(is_of(&row("0123456789ab"), "monday"));
    }
}
