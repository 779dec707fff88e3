//! The plots of the report: which rows each is drawn from, and what it says about them.
//!
//! A plot joins only what may be joined: one machine and fleet, one size where size is not the
//! axis, and, where servers are compared, one run. A plot without rows is a sentence that says how
//! to get them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::axis::{Axis, Scale};
use super::plot::{Bar, Bars, Colour, Lines, Series, Stroke};
use super::table::{counted, machine};
use crate::figure::Unit;
use crate::results::Row;
use crate::rows::{OURS, SHARE};

/// A place for a plot in the report.
pub struct Place {
    /// The benchmark whose section it stands in; none for what compares servers.
    pub benchmark: Option<&'static str>,
    pub file: &'static str,
    /// What it shows, as part of a sentence.
    pub subject: &'static str,
    /// What makes its rows, in Markdown.
    pub command: &'static str,
    pub picture: Option<Picture>,
}

pub struct Picture {
    pub caption: &'static str,
    pub svg: String,
}

/// The servers of one comparison, best first, with the figure compared.
type Ranking<'a> = Vec<(&'a Row, f64)>;

pub fn places(rows: &[Row]) -> Vec<Place> {
    let place = |benchmark, file, subject, command, picture| Place {
        benchmark,
        file,
        subject,
        command,
        picture,
    };
    vec![
        place(
            Some("connections"),
            "memory.svg",
            "memory of a connection against the number of connections",
            "`hawser-bench connections --connections N` with several N",
            memory(rows),
        ),
        place(
            Some("connections"),
            "setup.svg",
            "how fast connections are set up while others are held",
            "`hawser-bench connections` with a fleet that records a set-up curve",
            setup(rows),
        ),
        place(
            Some("push"),
            "push-latency.svg",
            "latency of a message against the rate of messages",
            "`hawser-bench push --rate R` with several R",
            latency(rows, "push", "Latency of a message to one device", "messages in a second"),
        ),
        place(
            Some("heartbeat"),
            "heartbeat-latency.svg",
            "latency of a heartbeat against the rate of heartbeats",
            "`hawser-bench heartbeat --rate R` with several R",
            latency(rows, "heartbeat", "Round trip of a heartbeat", "heartbeats in a second"),
        ),
        place(
            Some("uplink"),
            "uplink-latency.svg",
            "latency of a pull against the rate of pulls",
            "`hawser-bench uplink --rate R` with several R",
            latency(rows, "uplink", "Round trip of a pull", "pulls in a second"),
        ),
        place(
            Some("soak"),
            "soak.svg",
            "memory and files of the store over a long time under load",
            "`hawser-bench soak`",
            soak(rows),
        ),
        place(
            None,
            "servers-memory.svg",
            "user memory of a connection in different servers",
            "`hawser-bench peers --floor`",
            servers_memory(rows),
        ),
        place(
            None,
            "servers-fanout.svg",
            "the fan-out rate of different servers",
            "`hawser-bench peers --floor`",
            servers_fanout(rows),
        ),
        place(
            None,
            "servers-p99.svg",
            "the 99th percentile of the push latency of different servers at one rate",
            "`hawser-bench peers --floor`",
            servers_p99(rows, false),
        ),
        place(
            None,
            "servers-p99-half.svg",
            "the 99th percentile of the push latency of different servers, each at half load",
            "`hawser-bench peers --floor`",
            servers_p99(rows, true),
        ),
        place(
            None,
            "runtimes-memory.svg",
            "user memory of a connection on different runtimes",
            "`hawser-bench runtimes`",
            runtimes_memory(rows),
        ),
        place(
            None,
            "runtimes-cpu.svg",
            "processor time of a message on different runtimes",
            "`hawser-bench runtimes`",
            runtimes_cpu(rows),
        ),
    ]
}

fn memory(rows: &[Row]) -> Option<Picture> {
    let ours: Vec<&Row> = of(rows, "connections").filter(|row| row.is_ours()).collect();
    let place = group_with_most(&ours, place_of, connections)?;
    let ours: Vec<&Row> = ours.into_iter().filter(|row| place_of(row) == place).collect();
    let bare: Vec<&Row> = of(rows, "connections")
        .filter(|row| row.word("server") == "bare" && place_of(row) == place)
        .collect();
    let held = |row: &Row| Some(connections(row) as f64);
    let line = |name: &str, points, colour, stroke| Series {
        name: name.to_owned(),
        points,
        colour,
        stroke,
    };
    let own = |figure: &str| points(&ours, connections, held, figure);
    // What was measured in the same run counts for more.
    let floor = |figure: &str| match own(&format!("floor_{figure}")) {
        none if none.is_empty() => points(&bare, connections, held, figure),
        some => some,
    };
    let (kernel, user) = ("kernel_bytes_per_conn", "user_bytes_per_conn");
    let series = [
        line("kernel", own(kernel), Colour::Orange, Stroke::Solid),
        line("kernel, bare", floor(kernel), Colour::Orange, Stroke::Dashed),
        line("user", own(user), Colour::Blue, Stroke::Solid),
        line("user, bare", floor(user), Colour::Blue, Stroke::Dashed),
    ];
    let lines = Lines {
        title: "Memory of an idle connection".to_owned(),
        note: note(&ours, "hawser"),
        x: axis("connections held", Unit::Count, Scale::Logarithmic),
        y: axis("bytes for each connection", Unit::Bytes, Scale::Linear),
        series: drawn(series),
    };
    picture(
        &lines,
        "User memory is the server's own; kernel memory is what the kernel holds for the server's \
         end. A flat line means that a million connections cost a million times one. Dashed, where \
         it was measured: a bare loop that only holds the sockets.",
    )
}

const SETUP: &str = "setup_curve";

fn setup(rows: &[Row]) -> Option<Picture> {
    let with_curve = || of(rows, "connections").filter(|row| !curve(row, SETUP).is_empty());
    let ours = with_curve()
        .filter(|row| row.is_ours())
        .max_by_key(|row| (connections(row), row.unix_s))?;
    // Absolute rates of other runs say nothing beside these.
    let run = ours.word("run");
    let others: BTreeMap<&str, &Row> = with_curve()
        .filter(|row| !row.is_ours() && !run.is_empty() && row.word("run") == run)
        .map(|row| (row.word("server"), row))
        .collect();
    let series =
        [(OURS, ours)].into_iter().chain(others).zip(Colour::ALL).map(|((server, row), colour)| {
            Series {
                name: server.to_owned(),
                points: curve(row, SETUP),
                colour,
                stroke: if server == "bare" { Stroke::Dashed } else { Stroke::Solid },
            }
        });
    let lines = Lines {
        title: "Set-up rate while connections are held".to_owned(),
        note: note(&[ours], "up means verified and welcomed"),
        x: axis("connections held", Unit::Count, Scale::Linear),
        y: axis("connections set up in a second", Unit::PerSecond, Scale::Linear),
        series: drawn(series),
    };
    picture(
        &lines,
        "Each point is the rate at which further connections came up while that many were held. A \
         line that does not fall means that a full server takes newcomers as fast as an empty one.",
    )
}

fn latency(rows: &[Row], benchmark: &str, title: &str, rates: &str) -> Option<Picture> {
    let ours: Vec<&Row> = of(rows, benchmark).filter(|row| row.is_ours()).collect();
    let rate = |row: &Row| row.number("rate").filter(|&rate| rate > 0.0);
    let group = |row: &Row| {
        let size = |name| row.number(name).unwrap_or(0.0) as u64;
        (place_of(row), size("connections"), size("payload_bytes"))
    };
    let most = group_with_most(&ours, group, Row::offered_rate)?;
    let ours: Vec<&Row> = ours.into_iter().filter(|row| group(row) == most).collect();
    let line = |name: &str, figure: &str, colour, stroke| Series {
        name: name.to_owned(),
        points: points(&ours, Row::offered_rate, rate, figure),
        colour,
        stroke,
    };
    let series = [
        line("p99.9", "p999_us", Colour::Green, Stroke::Solid),
        line("p99", "p99_us", Colour::Orange, Stroke::Solid),
        line("p50", "p50_us", Colour::Blue, Stroke::Solid),
        line("p99.9 floor", "floor_p999_us", Colour::Green, Stroke::Dashed),
        line("p99 floor", "floor_p99_us", Colour::Orange, Stroke::Dashed),
        line("p50 floor", "floor_p50_us", Colour::Blue, Stroke::Dashed),
    ];
    let (_, connections, payload) = most;
    let mut about = format!("{} connections", Unit::Count.text(connections as f64));
    if payload > 0 {
        about += &format!(", {payload} B");
    }
    let lines = Lines {
        title: title.to_owned(),
        note: note(&ours, &about),
        x: axis(rates, Unit::PerSecond, Scale::Logarithmic),
        y: axis("latency, logarithmic", Unit::Microseconds, Scale::Logarithmic),
        series: drawn(series),
    };
    picture(
        &lines,
        "Half of the latencies are below p50, all but one in a hundred are below p99, all but one in \
         a thousand are below p99.9. Dashed, where it was measured: the same \
         traffic through a bare loop without a broker's work, in the same run.",
    )
}

fn soak(rows: &[Row]) -> Option<Picture> {
    let longest = |row: &&Row| (row.number("minutes").unwrap_or(0.0) as u64, row.unix_s);
    let row = of(rows, "soak").max_by_key(longest)?;
    let line = |name: &str, figure, colour, stroke| Series {
        name: name.to_owned(),
        points: curve(row, figure),
        colour,
        stroke,
    };
    let series = [
        line("memory", "memory_curve_bytes", Colour::Blue, Stroke::Solid),
        line("cache", "cache_curve_bytes", Colour::Blue, Stroke::Dashed),
        line("database", "database_curve_bytes", Colour::Orange, Stroke::Solid),
        line("log", "log_curve_bytes", Colour::Green, Stroke::Solid),
    ];
    let lines = Lines {
        title: "The store under mixed load at full rate".to_owned(),
        note: note(&[row], &row.scenario),
        x: axis("time", Unit::Seconds, Scale::Linear),
        y: axis("bytes", Unit::Bytes, Scale::Linear),
        series: drawn(series),
    };
    picture(
        &lines,
        "Memory of the process, the block cache in it, and the files of the database and of the \
         write log. Lines that rise at first and then stay are caches that fill; one that went on \
         rising would be a leak.",
    )
}

fn memory_ranking(rows: &[Row], among: Among) -> Option<Ranking<'_>> {
    let memory = |row: &Row, _: &[&Row]| row.number("user_bytes_per_conn").filter(|&one| one > 0.0);
    let mut ranking = ranking(rows, among, "connections", memory)?;
    ranking.sort_by(|a, b| a.1.total_cmp(&b.1));
    Some(ranking)
}

fn memory_axis() -> Axis {
    axis("user memory for each connection, logarithmic", Unit::Bytes, Scale::Logarithmic)
}

fn runtimes_memory(rows: &[Row]) -> Option<Picture> {
    let ranking = memory_ranking(rows, Among::Runtimes)?;
    bars(
        "The same server on different runtimes: user memory of an idle connection",
        memory_axis(),
        &ranking,
        &of_run(&ranking),
        "Shorter is better. All speak hawser's protocol and do nothing else; `bare` is a loop on \
         io_uring without a runtime, as the broker is. What the kernel holds comes on top.",
    )
}

fn runtimes_cpu(rows: &[Row]) -> Option<Picture> {
    let cpu = |row: &Row, _: &[&Row]| row.number("cpu_ns_per_message").filter(|&one| one > 0.0);
    let mut ranking = ranking(rows, Among::Runtimes, "heartbeat", cpu)?;
    ranking.sort_by(|a, b| a.1.total_cmp(&b.1));
    bars(
        "The same server on different runtimes: processor time of a message",
        axis("processor time, kernel included", Unit::Nanoseconds, Scale::Linear),
        &ranking,
        &of_run(&ranking),
        "Shorter is better. A message is a heartbeat that is read and answered, at the highest \
         rate of each.",
    )
}

fn servers_memory(rows: &[Row]) -> Option<Picture> {
    let ranking = memory_ranking(rows, Among::Brokers)?;
    bars(
        "User memory of an idle connection",
        memory_axis(),
        &ranking,
        &of_run(&ranking),
        "Shorter is better; each line to the right is a multiple, not a step. What the kernel \
         holds for a connection comes on top.",
    )
}

fn servers_fanout(rows: &[Row]) -> Option<Picture> {
    let share = |row: &Row, peers: &[&Row]| {
        let floor = || {
            let bare = peers.iter().find(|peer| peer.word("server") == "bare")?;
            Some(row.number("rate")? / bare.number("rate").filter(|&rate| rate > 0.0)?)
        };
        Some(100.0 * row.number("ratio_to_floor").or_else(floor)?)
    };
    let mut ranking = ranking(rows, Among::Brokers, "fanout", share)?;
    ranking.sort_by(|a, b| b.1.total_cmp(&a.1));
    bars(
        "One message to all devices: rate as a share of a bare loop's",
        axis("percent of the bare loop's rate", Unit::Percent, Scale::Linear),
        &ranking,
        &of_run(&ranking),
        "Longer is better. 100 % is a loop that does nothing but send the same bytes to the same \
         sockets, in the same run.",
    )
}

/// At a rate that is the same for all, or each at half of its own highest.
fn servers_p99(rows: &[Row], is_own: bool) -> Option<Picture> {
    let p99 = |row: &Row, _: &[&Row]| {
        let p99_us = row.number("p99_us").filter(|&one| one > 0.0);
        p99_us.filter(|_| row.number(SHARE).is_some() == is_own)
    };
    let mut ranking = ranking(rows, Among::Brokers, "push", p99)?;
    ranking.sort_by(|a, b| a.1.total_cmp(&b.1));
    bars(
        match is_own {
            true => "99th percentile of the push latency, each at half load",
            false => "99th percentile of the push latency, all at one rate",
        },
        axis("latency, logarithmic", Unit::Microseconds, Scale::Logarithmic),
        &ranking,
        &at_rate(&ranking),
        "Shorter is better: one message in a hundred takes longer than this.",
    )
}

fn of<'a>(rows: &'a [Row], benchmark: &str) -> impl Iterator<Item = &'a Row> {
    rows.iter().filter(move |row| row.benchmark == benchmark)
}

/// Machine and fleet: what the rows of one line have in common.
fn place_of(row: &Row) -> (String, String) {
    (machine(row), row.word("fleet").to_owned())
}

/// The group whose rows have the most distinct sizes; of equals, the one with the most connections,
/// and of those the one measured last.
fn group_with_most<G: Ord + Clone>(
    rows: &[&Row],
    group: impl Fn(&Row) -> G,
    size: impl Fn(&Row) -> u64,
) -> Option<G> {
    let mut groups: BTreeMap<G, (BTreeSet<u64>, u64, u64)> = BTreeMap::new();
    for row in rows {
        let (sizes, held, unix_s) = groups.entry(group(row)).or_default();
        sizes.insert(size(row));
        *held = (*held).max(connections(row));
        *unix_s = (*unix_s).max(row.unix_s);
    }
    let (group, _) = groups
        .into_iter()
        .max_by_key(|(_, (sizes, held, unix_s))| (sizes.len(), *held, *unix_s))?;
    Some(group)
}

fn connections(row: &Row) -> u64 {
    row.number("connections").unwrap_or(0.0) as u64
}

/// The points of a line, one for each size: that of the latest row which has both coordinates.
fn points(
    rows: &[&Row],
    size: impl Fn(&Row) -> u64,
    x: impl Fn(&Row) -> Option<f64>,
    figure: &str,
) -> Vec<(f64, f64)> {
    let mut latest: BTreeMap<u64, (u64, (f64, f64))> = BTreeMap::new();
    for row in rows {
        if let (Some(x), Some(y)) = (x(row), row.number(figure)) {
            let held = latest.entry(size(row)).or_insert((row.unix_s, (x, y)));
            if row.unix_s >= held.0 {
                *held = (row.unix_s, (x, y));
            }
        }
    }
    let mut points: Vec<(f64, f64)> = latest.into_values().map(|(_, point)| point).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// The pairs of a row's curve.
fn curve(row: &Row, name: &str) -> Vec<(f64, f64)> {
    let pairs = row.values.get(name).and_then(Value::as_array);
    let pair = |value: &Value| Some((value.get(0)?.as_f64()?, value.get(1)?.as_f64()?));
    pairs.into_iter().flatten().filter_map(pair).collect()
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Among {
    Brokers,
    /// The bare server on each: `hawser-bench runtimes`.
    Runtimes,
}

impl Among {
    fn has(self, row: &Row) -> bool {
        row.word("run").starts_with("runtimes") == (self == Among::Runtimes)
    }
}

/// The servers of the latest run that has ours and at least one more, at one size, with a figure of
/// each.
fn ranking<'a>(
    rows: &'a [Row],
    among: Among,
    benchmark: &str,
    figure: impl Fn(&Row, &[&Row]) -> Option<f64>,
) -> Option<Ranking<'a>> {
    let size = |row: &Row| {
        let count = |name| row.number(name).unwrap_or(0.0) as u64;
        (count("connections"), row.offered_rate(), count(SHARE), count("payload_bytes"))
    };
    let mut groups: BTreeMap<_, BTreeMap<&str, &Row>> = BTreeMap::new();
    let in_runs = of(rows, benchmark).filter(|row| !row.word("run").is_empty() && among.has(row));
    for row in in_runs {
        let server = if row.is_ours() { OURS } else { row.word("server") };
        groups.entry((row.word("run"), machine(row), size(row))).or_default().insert(server, row);
    }
    let rank = |servers: BTreeMap<&'a str, &'a Row>| -> Ranking<'a> {
        let all: Vec<&Row> = servers.into_values().collect();
        all.iter().filter_map(|row| Some((*row, figure(row, &all)?))).collect()
    };
    let rankings = groups.into_iter().map(|((.., size), servers)| (size, rank(servers)));
    let (_, best) =
        rankings.filter(|(_, ranking)| ranking.len() > 1).max_by_key(|(size, ranking)| {
            let has_ours = ranking.iter().any(|(row, _)| row.is_ours());
            (has_ours, ranking.iter().map(|(row, _)| row.unix_s).max(), ranking.len(), *size)
        })?;
    Some(best)
}

/// The size and the run of what is compared.
fn of_run(ranking: &Ranking<'_>) -> String {
    let Some((first, _)) = ranking.first() else { return String::new() };
    let connections = Unit::Count.text(first.number("connections").unwrap_or(0.0));
    format!("{connections} connections, run {}", first.word("run"))
}

/// The same with the rate at which latencies were taken.
fn at_rate(ranking: &Ranking<'_>) -> String {
    let about = of_run(ranking);
    let Some((first, _)) = ranking.first() else { return about };
    match first.number(SHARE) {
        Some(share) => format!("each at {share} % of its highest rate, {about}"),
        None if first.offered_rate() > 0 => {
            format!("{} messages/s, {about}", Unit::Count.text(first.offered_rate() as f64))
        }
        None => about,
    }
}

fn bars(
    title: &str,
    axis: Axis,
    ranking: &Ranking<'_>,
    about: &str,
    caption: &'static str,
) -> Option<Picture> {
    let rows: Vec<&Row> = ranking.iter().map(|(row, _)| *row).collect();
    let bars = ranking.iter().map(|&(row, value)| Bar {
        name: if row.is_ours() { OURS.to_owned() } else { row.word("server").to_owned() },
        value,
        colour: match row.word("server") {
            "bare" => Colour::PaleGrey,
            _ if row.is_ours() => Colour::Blue,
            _ => Colour::Grey,
        },
    });
    let bars =
        Bars { title: title.to_owned(), note: note(&rows, about), axis, bars: bars.collect() };
    Some(Picture { caption, svg: bars.svg() })
}

fn axis(label: &str, unit: Unit, scale: Scale) -> Axis {
    Axis { label: label.to_owned(), unit, scale }
}

fn drawn(series: impl IntoIterator<Item = Series>) -> Vec<Series> {
    series.into_iter().filter(|series| !series.points.is_empty()).collect()
}

fn picture(lines: &Lines, caption: &'static str) -> Option<Picture> {
    let is_line = lines.series.iter().any(|series| series.points.len() > 1);
    is_line.then(|| Picture { caption, svg: lines.svg() })
}

/// What was measured, on the machine of all its rows, at which commit.
fn note(rows: &[&Row], about: &str) -> String {
    let machine = rows.first().map(|row| machine(row)).unwrap_or_default();
    let commits: BTreeSet<&str> = rows.iter().map(|row| row.commit.as_str()).collect();
    let commit = match commits.len() {
        1 => format!("commit {}", commits.into_iter().next().unwrap_or_default()),
        several => counted(several, "commit"),
    };
    [about, &machine, &commit].map(|part| part.replace(' ', "\u{a0}")).join("; ")
}
