//! `report`: one Markdown page with plots that says what was measured, to somebody who has never
//! seen hawser. It says nothing that is not in the rows, and the same rows make the same page.
//!
//! ```text
//!   results/*.jsonl ──▶ rows ──▶ table    the latest row of each size, by benchmark
//!                           └──▶ gallery  which rows make which plot ──▶ plot, axis: SVG
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use crate::figure::Unit;
use crate::results::{Output, Row};
use crate::rows::Rows;

mod axis;

mod gallery;

mod plot;

mod table;

use gallery::Place;
use table::{SECTIONS, Section, WORDS, day, glance, letter, machine};

const EXAMPLES: &str = "\
Examples:
  hawser-bench report
  hawser-bench report --results /var/tmp/results --out /var/tmp/page";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The folder for REPORT.md and plots/; without it, that of the results
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

const PAGE: &str = "REPORT.md";

const PLOTS: &str = "plots";

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let Rows { rows, warnings } = Rows::of_folder(&output.results)?;
    for warning in &warnings {
        eprintln!("hawser-bench: {warning}");
    }
    let folder = arguments.out.as_ref().unwrap_or(&output.results);
    let places = gallery::places(&rows);
    write_plots(&folder.join(PLOTS), &places)?;
    let path = folder.join(PAGE);
    std::fs::write(&path, page(&rows, &places))
        .with_context(|| format!("cannot write {}; use --out", path.display()))?;

    let drawn = places.iter().filter(|place| place.picture.is_some()).count();
    if output.json {
        output.say(
            "report",
            "page",
            json!({
                "page": path, "rows": rows.len(), "plots": drawn, "warnings": warnings.len(),
            }),
        );
    } else {
        println!("{}: {} rows, {drawn} plots", path.display(), rows.len());
    }
    Ok(())
}

/// A plot that is no longer drawn is removed, so that none is left from other rows.
fn write_plots(folder: &Path, places: &[Place]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make {}; use --out", folder.display()))?;
    for place in places {
        let path = folder.join(place.file);
        let done = match &place.picture {
            Some(picture) => std::fs::write(&path, &picture.svg),
            None if path.exists() => std::fs::remove_file(&path),
            None => Ok(()),
        };
        done.with_context(|| format!("cannot write {}; use --out", path.display()))?;
    }
    Ok(())
}

/// The latest rows, by benchmark in the order of the page.
type Latest<'a> = Vec<(&'a str, Vec<&'a Row>)>;

fn page(rows: &[Row], places: &[Place]) -> String {
    let latest = latest(rows);
    let shown = || latest.iter().flat_map(|(_, rows)| rows);
    let machines: BTreeSet<String> = shown().map(|row| machine(row)).collect();
    let machines: Vec<String> = machines.into_iter().collect();
    let mut page = introduction(rows, &machines);
    page += &at_a_glance(&latest, &machines);
    for (benchmark, rows) in &latest {
        page += &section(benchmark, rows, places, &machines);
    }
    page += &comparison(places);
    page += &not_measured(&latest, places);
    page
}

fn latest(rows: &[Row]) -> Latest<'_> {
    let mut by_benchmark: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in Rows::latest(rows).into_values() {
        by_benchmark.entry(&row.benchmark).or_default().push(row);
    }
    for rows in by_benchmark.values_mut() {
        // By size within a server and fleet, else as they were run.
        let size = |row: &&Row| {
            let count = |name| row.number(name).unwrap_or(0.0) as u64;
            (
                !row.is_ours(),
                row.word("server").to_owned(),
                row.word("fleet").to_owned(),
                count("connections"),
                row.offered_rate(),
                row.unix_s,
            )
        };
        rows.sort_by_key(size);
    }
    let known = SECTIONS.iter().map(|section| section.benchmark);
    let mut ordered: Latest<'_> =
        known.filter_map(|benchmark| by_benchmark.remove_entry(benchmark)).collect();
    ordered.extend(by_benchmark);
    ordered
}

fn introduction(rows: &[Row], machines: &[String]) -> String {
    let newest = rows.iter().map(|row| row.unix_s).max().unwrap_or(0);
    let mut text = format!(
        "# What hawser costs and carries\n\n\
         hawser is a connection broker: devices keep a TCP connection to it for days, and it gets \
         messages to them. This page is made by `hawser-bench report` from {} result rows, the \
         newest of {}. Of each scenario and size the latest row is shown. Absolute figures drift \
         from run to run; what is compared with a floor was measured beside it, in the same \
         run.\n\n\
         Words that recur:\n\n",
        Unit::Count.text(rows.len() as f64),
        day(newest)
    );
    for (word, meaning) in WORDS {
        text += &format!("- **{word}**: {meaning}.\n");
    }
    text += "\n## The machine\n\n";
    match machines {
        [machine] => text += &format!("{machine}.\n"),
        several => {
            text += "Rows of different machines are not to be compared.\n\n";
            for (machine, letter) in several.iter().zip('A'..='Z') {
                text += &format!("- **{letter}**: {machine}\n");
            }
        }
    }
    text
}

/// One line for each benchmark: ours, at the greatest size.
fn at_a_glance(latest: &Latest<'_>, machines: &[String]) -> String {
    let mut lines = String::new();
    for (benchmark, rows) in latest {
        let Some(section) = Section::of(benchmark) else { continue };
        let size = |row: &&&Row| row.number("connections").unwrap_or(0.0) as u64;
        let ours = rows.iter().filter(|row| row.is_ours());
        let largest = ours.clone().map(|row| size(&row)).max().unwrap_or(0);
        let Some(row) = ours.into_iter().find(|row| size(row) == largest) else { continue };
        let machine = match machines.len() {
            1 => String::new(),
            _ => format!(" {} |", letter(machines, row)),
        };
        lines += &format!(
            "| [{}](#{}) | {} | {} |{machine}\n",
            section.title,
            anchor(section.title),
            row.scenario,
            glance(section, row)
        );
    }
    let (title, rule) = if machines.len() > 1 { (" machine |", " --- |") } else { ("", "") };
    format!(
        "\n## At a glance\n\n\
         | benchmark | scenario | result |{title}\n| --- | --- | --- |{rule}\n{lines}"
    )
}

fn section(benchmark: &str, rows: &[&Row], places: &[Place], machines: &[String]) -> String {
    let known = Section::of(benchmark);
    let table = table::table(known, rows, machines);
    let title = known.map_or(benchmark, |section| section.title);
    let mut text = format!("\n## {title}\n\n");
    if let Some(section) = known {
        text += &format!("{}\n\n", section.about);
    }
    text += &table.text;
    let explained: Vec<String> = table
        .columns
        .iter()
        .filter(|(title, meaning)| {
            !meaning.is_empty() && !["server", "fleet"].contains(&title.as_str())
        })
        .map(|(title, meaning)| format!("- *{title}*: {meaning}\n"))
        .collect();
    if !explained.is_empty() {
        text += &format!("\n{}", explained.concat());
    }
    text += &kernel_memory(rows);
    for place in places.iter().filter(|place| place.benchmark == Some(benchmark)) {
        text += &plot(place);
    }
    text += &repeat(benchmark, rows);
    text
}

/// Where the kernel's memory goes, of our largest run that says it.
fn kernel_memory(rows: &[&Row]) -> String {
    let caches =
        |row: &&&Row| row.values.get("kernel_by_cache").and_then(Value::as_object).cloned();
    let Some((row, caches)) = rows
        .iter()
        .filter(|row| row.is_ours())
        .filter_map(|row| Some((row, caches(&row)?)))
        .next_back()
    else {
        return String::new();
    };
    let mut caches: Vec<(String, f64)> = caches
        .into_iter()
        .filter_map(|(name, bytes)| Some((name, bytes.as_f64().filter(|bytes| *bytes >= 0.5)?)))
        .collect();
    caches.sort_by(|a, b| b.1.total_cmp(&a.1));
    let each: Vec<String> = caches
        .iter()
        .map(|(name, bytes)| format!("`{name}` {}", Unit::Bytes.text(*bytes)))
        .collect();
    format!(
        "\nKernel memory of one connection by slab cache ({}): {}.\n",
        row.scenario,
        each.join(", ")
    )
}

fn plot(place: &Place) -> String {
    match &place.picture {
        Some(picture) => {
            format!("\n![{}]({PLOTS}/{})\n\n{}\n", place.subject, place.file, picture.caption)
        }
        None => no_plot(place),
    }
}

fn no_plot(place: &Place) -> String {
    format!(
        "\nNo plot of {}: there are fewer than two points. They come from {}.\n",
        place.subject, place.command
    )
}

/// The exact commands of the rows shown.
fn repeat(benchmark: &str, rows: &[&Row]) -> String {
    let mut commands: Vec<String> = Vec::new();
    let mut is_known = true;
    for row in rows {
        match row.settings().map(|settings| command(&settings)) {
            Some(command) if commands.contains(&command) => {}
            Some(command) => commands.push(command),
            None => is_known = false,
        }
    }
    let mut text = String::new();
    if !commands.is_empty() {
        text += &format!("\nTo repeat it:\n\n```sh\n{}\n```\n", commands.join("\n"));
    }
    if !is_known {
        text += &format!(
            "\nRows without a recorded command line come from `hawser-bench {benchmark}`; its \
             `--help` has the options.\n"
        );
    }
    text
}

fn command(settings: &[&str]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/+".contains(c);
    let mut command = "hawser-bench".to_owned();
    for setting in settings {
        command.push(' ');
        match !setting.is_empty() && setting.chars().all(is_plain) {
            true => command += setting,
            false => command += &format!("'{}'", setting.replace('\'', r"'\''")),
        }
    }
    command
}

fn comparison(places: &[Place]) -> String {
    let servers = || places.iter().filter(|place| place.benchmark.is_none());
    let mut text =
        "\n## Beside other servers\n\nEach plot is of one run, in which all servers did \
                    the same on the same machine.\n"
            .to_owned();
    servers().for_each(|place| text += &plot(place));
    text
}

/// Benchmarks without any row.
fn not_measured(latest: &Latest<'_>, places: &[Place]) -> String {
    let is_measured = |name: &str| latest.iter().any(|(benchmark, _)| *benchmark == name);
    let missing: Vec<&Section> =
        SECTIONS.iter().filter(|section| !is_measured(section.benchmark)).collect();
    if missing.is_empty() {
        return String::new();
    }
    let mut text = "\n## Not measured yet\n\n".to_owned();
    for section in missing {
        text += &format!("- {}: `hawser-bench {}`", section.title, section.benchmark);
        let plots = places.iter().filter(|place| place.benchmark == Some(section.benchmark));
        for place in plots {
            text += &format!("; a plot of {}: {}", place.subject, place.command);
        }
        text.push('\n');
    }
    text
}

/// The anchor that Markdown readers give a heading.
fn anchor(title: &str) -> String {
    title.to_lowercase().replace(' ', "-").replace(',', "")
}
