//! Latencies: recorded in nanoseconds, reported in microseconds, added up over processes.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// An hour; whatever takes longer is recorded as that.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Between processes: pairs of nanoseconds and how often they were measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Latency {
    histogram: Histogram<u64>,
}

impl From<Vec<(u64, u64)>> for Latency {
    fn from(pairs: Vec<(u64, u64)>) -> Latency {
        let mut latency = Latency::default();
        pairs.iter().for_each(|&(ns, count)| latency.histogram.saturating_record_n(ns, count));
        latency
    }
}

impl From<Latency> for Vec<(u64, u64)> {
    fn from(latency: Latency) -> Vec<(u64, u64)> {
        let recorded = latency.histogram.iter_recorded();
        recorded.map(|at| (at.value_iterated_to(), at.count_at_value())).collect()
    }
}

impl Default for Latency {
    fn default() -> Latency {
        let histogram = Histogram::new_with_bounds(100, LONGEST_NS, 3).expect("constants");
        Latency { histogram }
    }
}

impl Latency {
    pub fn record(&mut self, ns: u64) {
        self.histogram.saturating_record(ns);
    }

    pub fn add(&mut self, other: &Latency) {
        self.histogram.add(&other.histogram).expect("both have the same bounds");
    }

    /// The value at a quantile, in microseconds; `None` without any.
    pub fn at_us(&self, quantile: f64) -> Option<f64> {
        let us = self.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        (!self.histogram.is_empty()).then_some(us)
    }

    /// The usual four, each with a prefix to its name; nothing without values.
    pub fn put(&self, prefix: &str, values: &mut Value) {
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
            if let Some(us) = self.at_us(quantile) {
                values[format!("{prefix}{name}_us")] = json!((us * 10.0).round() / 10.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_recorded_wherever() {
        let (mut one, mut other) = (Latency::default(), Latency::default());
        assert_eq!(one.at_us(0.5), None);
        (1..=1000).for_each(|us| if us % 2 == 0 { &mut one } else { &mut other }.record(us * 1000));
        let carried: Latency =
            serde_json::from_str(&serde_json::to_string(&other).unwrap()).unwrap();
        one.add(&carried);
        let mut values = json!({});
        one.put("x_", &mut values);
        for (name, expected) in
            [("x_p50_us", 500.0), ("x_p99_us", 990.0), ("x_p999_us", 999.0), ("x_max_us", 1000.0)]
        {
            let value = values[name].as_f64().unwrap();
            assert!((value - expected).abs() <= expected / 500.0, "{name} {value} {expected}");
        }
    }
}
