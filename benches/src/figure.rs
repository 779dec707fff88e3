//! What a figure's name says: its unit, how it is written, and whether more of it is better.
//!
//! The unit stands last in a name (`p99_us`, `memory_peak_bytes`), or before what it is shared out
//! to (`user_bytes_per_conn`, `cpu_ns_per_message`). A name without a unit is a count.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Count,
    PerSecond,
    Bytes,
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    Percent,
    /// A share of one, written as a percentage.
    Share,
}

/// Which way a figure should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
}

/// The unit of a figure, which may be a path (`broker.messages_per_s.median`).
pub fn unit(name: &str) -> Unit {
    let name = own_name(name);
    let shared_out = name.split_once("_per_").map_or(name, |(what, _)| what);
    match () {
        () if name.ends_with("_per_s") || name.ends_with("rate") => Unit::PerSecond,
        () if name.starts_with("ratio_") || name.ends_with("_ratio") => Unit::Share,
        () if name.ends_with("_percent") => Unit::Percent,
        () if is_last(shared_out, "bytes") => Unit::Bytes,
        () if is_last(shared_out, "ns") => Unit::Nanoseconds,
        () if is_last(name, "us") => Unit::Microseconds,
        () if is_last(name, "ms") => Unit::Milliseconds,
        () if is_last(name, "s") || name == "seconds" => Unit::Seconds,
        () => Unit::Count,
    }
}

/// Which way a figure of a benchmark should go. None for what is a setting, belongs to the floor, to
/// another server or to the time before something, or only describes.
pub fn better(benchmark: &str, name: &str) -> Option<Better> {
    const LESS: [&str; 9] = [
        "wrong",
        "lost",
        "bystanders_lost",
        "duplicates",
        "out_of_order",
        "dropped_connections",
        "unanswered",
        "idle_cpu_percent",
        "memory_growth_bytes",
    ];
    const SETTINGS: [&str; 3] = ["payload_bytes", "value_bytes", "seconds"];
    let leaf = own_name(name);
    let is_beside =
        name.starts_with("floor") || name.starts_with("before_") || name.contains("_peer_");
    if is_beside || SETTINGS.contains(&leaf) {
        return None;
    }
    if name.starts_with("xmpp_over_hawser.") && leaf != "bytes_percent" {
        return Some(Better::More);
    }
    if benchmark == "instructions" || LESS.contains(&leaf) {
        return Some(Better::Less);
    }
    match unit(name) {
        Unit::PerSecond | Unit::Share => Some(Better::More),
        Unit::Bytes if leaf.contains("_free_") => Some(Better::More),
        Unit::Count | Unit::Percent => None,
        _ => Some(Better::Less),
    }
}

/// The last part of a path that is not one of a spread.
fn own_name(path: &str) -> &str {
    let path = path.strip_suffix(".median").unwrap_or(path);
    path.rsplit('.').next().unwrap_or(path)
}

/// Whether `unit` is the last word of a name.
fn is_last(name: &str, unit: &str) -> bool {
    name.rsplit('_').next() == Some(unit)
}

impl Unit {
    /// A value as it stands in a table.
    pub fn text(self, value: f64) -> String {
        match self {
            Unit::Count => number(value),
            Unit::PerSecond => format!("{}/s", number(value)),
            Unit::Percent => format!("{} %", digits(value)),
            Unit::Share => format!("{} %", digits(100.0 * value)),
            Unit::Bytes => bytes(value),
            Unit::Nanoseconds | Unit::Microseconds | Unit::Milliseconds | Unit::Seconds => {
                time(value * self.seconds())
            }
        }
    }

    /// A value as it stands beside an axis, where it is round and room is short.
    pub fn short(self, value: f64) -> String {
        match self {
            Unit::Count | Unit::PerSecond => scaled(value),
            _ => self.text(value),
        }
    }

    fn seconds(self) -> f64 {
        match self {
            Unit::Nanoseconds => 1e-9,
            Unit::Microseconds => 1e-6,
            Unit::Milliseconds => 1e-3,
            _ => 1.0,
        }
    }
}

/// Three significant digits, and all of those before the point.
fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 99.95 || size == 0.0 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    // A measured 12.98 is 13.0; what is whole by nature has no point.
    let is_whole = (value - value.round()).abs() < 1e-9 * value.abs();
    format!("{value:.*}", if is_whole { 0 } else { decimals })
}

/// A whole number with its thousands set apart; a small one with decimals if it has them.
fn number(value: f64) -> String {
    if value.abs() < 99.5 {
        return digits(value);
    }
    let all = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (index, digit) in all.chars().enumerate() {
        if index > 0 && (all.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bytes(value: f64) -> String {
    const KIB: f64 = 1024.0;
    match value.abs() {
        size if size < 100.0 * KIB => format!("{} B", number(value)),
        size if size < KIB * KIB => format!("{} KiB", digits(value / KIB)),
        size if size < KIB * KIB * KIB => format!("{} MiB", digits(value / KIB / KIB)),
        _ => format!("{} GiB", digits(value / KIB / KIB / KIB)),
    }
}

fn time(seconds: f64) -> String {
    match seconds.abs() {
        0.0 => "0".to_owned(),
        size if size < 0.9995e-6 => format!("{} ns", digits(seconds * 1e9)),
        size if size < 0.9995e-3 => format!("{} µs", digits(seconds * 1e6)),
        size if size < 0.9995 => format!("{} ms", digits(seconds * 1e3)),
        _ => format!("{} s", digits(seconds)),
    }
}

fn scaled(value: f64) -> String {
    match value.abs() {
        size if size >= 999_500.0 => format!("{} M", digits(value / 1e6)),
        size if size >= 999.5 => format!("{} k", digits(value / 1e3)),
        _ => digits(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_unit_and_direction() {
        let check = |benchmark: &str, name: &str, expected: (Unit, Option<Better>)| {
            assert_eq!((unit(name), better(benchmark, name)), expected, "{name}");
        };
        let (less, more) = (Some(Better::Less), Some(Better::More));
        check("push", "p99_us", (Unit::Microseconds, less));
        check("push", "floor_p99_us", (Unit::Microseconds, None));
        check("push", "rate", (Unit::PerSecond, more));
        check("push", "floor_rate", (Unit::PerSecond, None));
        check("push", "ratio_to_floor", (Unit::Share, more));
        check("push", "sent", (Unit::Count, None));
        check("push", "cpu_ns_per_message", (Unit::Nanoseconds, less));
        check("slow", "before_p99_us", (Unit::Microseconds, None));
        check("system", "p50_ms", (Unit::Milliseconds, less));
        check("storm", "back_s", (Unit::Seconds, less));
        check("storm", "memory_peak_bytes", (Unit::Bytes, less));
        check("churn", "memory_growth_bytes", (Unit::Bytes, less));
        check("churn", "floor_memory_growth_bytes", (Unit::Bytes, None));
        check("churn", "cpu_ns_per_connect", (Unit::Nanoseconds, less));
        check("kv", "durable_set_ratio", (Unit::Share, more));
        check("kv", "set_p99_ms", (Unit::Milliseconds, less));
        check("kv", "set_peer_p99_ms", (Unit::Milliseconds, None));
        check("kv", "set_peer_rate", (Unit::PerSecond, None));
        check("kv", "value_bytes", (Unit::Bytes, None));
        check("connections", "user_bytes_per_conn", (Unit::Bytes, less));
        check("connections", "setup_per_s", (Unit::PerSecond, more));
        check("connections", "idle_cpu_percent", (Unit::Percent, less));
        check("connections", "memory_free_min_bytes", (Unit::Bytes, more));
        check("connections", "kernel_by_cache.TCP", (Unit::Count, None));
        check("instructions", "push", (Unit::Count, less));
        check("codec", "formats.hawser.encode_ns.median", (Unit::Nanoseconds, less));
        check("codec", "xmpp_over_hawser.both.median", (Unit::Count, more));
    }

    #[test]
    fn values_are_written_for_people() {
        let check = |unit: Unit, value: f64, expected: &str| {
            assert_eq!(unit.text(value), expected, "{unit:?} {value}");
        };
        check(Unit::Count, 5_000_000.0, "5,000,000");
        check(Unit::Count, -1_234.0, "-1,234");
        check(Unit::Count, 0.0, "0");
        check(Unit::Count, 12.5, "12.5");
        check(Unit::PerSecond, 146_094.6, "146,095/s");
        check(Unit::Bytes, 171.2, "171 B");
        check(Unit::Bytes, 4_106.4, "4,106 B");
        check(Unit::Bytes, 3.7 * 1024.0 * 1024.0 * 1024.0, "3.70 GiB");
        check(Unit::Nanoseconds, 653.4, "653 ns");
        check(Unit::Nanoseconds, 6_534.3, "6.53 µs");
        check(Unit::Microseconds, 850.0, "850 µs");
        check(Unit::Microseconds, 12_345.0, "12.3 ms");
        check(Unit::Milliseconds, 1_641.5, "1.64 s");
        check(Unit::Share, 0.985, "98.5 %");
        check(Unit::Share, 1.0, "100 %");
        assert_eq!(Unit::Count.short(2_000_000.0), "2 M");
        assert_eq!(Unit::PerSecond.short(50_000.0), "50 k");
    }
}
