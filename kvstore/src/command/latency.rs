//! LATENCY: what took longer than `latency-monitor-threshold`, and how long commands take.

use super::catalogue;
use super::error::CommandError;
use super::{Read, put_help, subcommand};
use crate::latency::Series;
use crate::resp::reply::Reply;
use crate::stats::Row;
use crate::store::database::unix_ms;

type Outcome = Result<(), CommandError>;
type Run = fn(&Read<'_>, &mut Reply) -> Outcome;

const COMMANDS: &[(&str, i16, Run)] = &[
    ("latency|doctor", 2, doctor),
    ("latency|graph", 3, graph),
    ("latency|help", 2, help),
    ("latency|histogram", -2, histogram),
    ("latency|history", 3, history),
    ("latency|latest", 2, latest),
    ("latency|reset", -2, reset),
];

/// Samples in a graph, one column each.
const GRAPH_COLUMNS: usize = 80;
const GRAPH_ROWS: u64 = 4;

pub fn latency(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    subcommand(read.args, COMMANDS)?(read, reply)
}

fn history(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let series = find(read).unwrap_or_default();
    reply.array(series.samples.len());
    for (at_s, ms) in series.samples {
        reply.array(2);
        reply.integer(at_s as i64);
        reply.integer(ms as i64);
    }
    Ok(())
}

fn find(read: &Read<'_>) -> Option<Series> {
    let name = std::str::from_utf8(&read.args[2]).ok()?;
    read.shared.latencies.all().remove(name)
}

fn latest(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let all = read.shared.latencies.all();
    reply.array(all.len());
    for (name, series) in all {
        let (at_s, ms) = series.samples.back().copied().unwrap_or_default();
        reply.array(4);
        reply.bulk(name.as_bytes());
        for number in [at_s, ms, series.worst_ms] {
            reply.integer(number as i64);
        }
    }
    Ok(())
}

fn reset(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.count(read.shared.latencies.reset(&read.args[2..]));
    Ok(())
}

/// One column a sample, as high as it was slow.
fn graph(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let Some(series) = find(read) else {
        let name = String::from_utf8_lossy(&read.args[2]).into_owned();
        return Err(CommandError::NoLatencySamples(name));
    };
    let skipped = series.samples.len().saturating_sub(GRAPH_COLUMNS);
    let samples: Vec<u64> = series.samples.iter().skip(skipped).map(|(_, ms)| *ms).collect();
    let high = samples.iter().copied().max().unwrap_or(0);
    let low = samples.iter().copied().min().unwrap_or(0);
    let mut text = format!(
        "{} - high {high} ms, low {low} ms (all time high {} ms)\n",
        String::from_utf8_lossy(&read.args[2]),
        series.worst_ms
    );
    for row in (0..GRAPH_ROWS).rev() {
        let floor = low + (high - low) * row / GRAPH_ROWS;
        let mark = |ms: &u64| if *ms > floor || row == 0 { '#' } else { ' ' };
        text.extend(samples.iter().map(mark));
        text.push('\n');
    }
    reply.verbatim(text.as_bytes());
    Ok(())
}

fn doctor(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let all = read.shared.latencies.all();
    let threshold_ms = read.shared.live.latency_threshold_ms();
    let text = match (threshold_ms, all.is_empty()) {
        (0, _) => {
            "Nothing is watched: CONFIG SET latency-monitor-threshold <milliseconds>, then ask \
                   again.\n"
                .to_string()
        }
        (_, true) => format!("Nothing took {threshold_ms} ms or longer.\n"),
        (_, false) => all.iter().map(|(name, series)| advice(name, series)).collect(),
    };
    reply.verbatim(text.as_bytes());
    Ok(())
}

fn advice(name: &str, series: &Series) -> String {
    let what = match name {
        "log-sync" => "the disk is slow to sync; look at what else writes to it",
        "db-apply" => "the database was slow to take writes; see its compactions in the log",
        "fast-command" => "a short command waited for the processor; is the machine overloaded?",
        _ => "SLOWLOG GET has the commands; avoid those over whole collections",
    };
    let latest_s = series.samples.back().map_or(0, |(at_s, _)| *at_s);
    let ago_s = (unix_ms() / 1000).saturating_sub(latest_s);
    let (count, worst_ms) = (series.samples.len(), series.worst_ms);
    format!("{name}: {count} samples, worst {worst_ms} ms, last {ago_s} s ago: {what}.\n")
}

fn histogram(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let rows = read.shared.stats.rows().into_iter().filter(|row| row.times.calls() > 0);
    let wanted: Vec<Row> = match &read.args[2..] {
        [] => rows.collect(),
        names => {
            let names: Vec<_> = names.iter().filter_map(|name| catalogue::find(name)).collect();
            let is_of = |row: &Row, name: &str| {
                let rest = row.name.strip_prefix(name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('|'))
            };
            rows.filter(|row| names.iter().any(|facts| is_of(row, facts.name))).collect()
        }
    };
    reply.map(wanted.len());
    for row in wanted {
        reply.bulk(row.name.as_bytes());
        reply.map(2);
        reply.bulk(b"calls");
        reply.integer(row.times.calls() as i64);
        reply.bulk(b"histogram_usec");
        let buckets = row.times.steps();
        reply.map(buckets.len());
        for (micros, below) in buckets {
            reply.integer(micros as i64);
            reply.integer(below as i64);
        }
    }
    Ok(())
}

fn help(_: &Read<'_>, reply: &mut Reply) -> Outcome {
    put_help(
        reply,
        "LATENCY",
        &[
            "DOCTOR",
            "    What was slow, and what to do about it.",
            "GRAPH <event>",
            "    The samples of an event, drawn.",
            "HISTOGRAM [<command> ...]",
            "    How long commands took.",
            "HISTORY <event>",
            "    The samples of an event: times and milliseconds.",
            "LATEST",
            "    The newest and the worst sample of each event.",
            "RESET [<event> ...]",
            "    Forget events, or all.",
        ],
    );
    Ok(())
}
