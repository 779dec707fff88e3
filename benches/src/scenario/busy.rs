//! How busy the processors of a measurement were: whose limit a rate is.
//!
//! The fleet and the control end share a processor, and the server has another. A rate at which the
//! former is full and the latter is not says what the devices can do, not the server.

use anyhow::Context;
use serde_json::{Value, json};

use super::side::Side;
use crate::io::{cpu_ns, monotonic_ns};
use crate::spread::median;

/// From here on a processor counts as full, in percent: a rest goes to looking at the clock.
const FULL: f64 = 90.0;

/// Processor time of all that take part, until a moment.
pub struct Clocks {
    at_ns: u64,
    /// None if it is not ours to see.
    server_ns: Option<u64>,
    fleet_ns: u64,
    control_ns: u64,
}

/// What of it was used between two moments, in percent of one processor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busy {
    pub server: Option<f64>,
    pub fleet: f64,
    /// This program: it sends what is pushed.
    pub control: f64,
}

impl Clocks {
    pub fn read(side: &mut dyn Side) -> anyhow::Result<Clocks> {
        Ok(Clocks {
            at_ns: monotonic_ns(),
            server_ns: side.server_cpu_ns()?,
            fleet_ns: side.fleet().cpu_ns()?,
            control_ns: cpu_ns(std::process::id()).context("this program's processor time")?,
        })
    }

    /// Of the server since then, in nanoseconds.
    pub fn server_ns_since(&self, before: &Clocks) -> Option<u64> {
        Some(self.server_ns?.saturating_sub(before.server_ns?))
    }

    pub fn since(&self, before: &Clocks) -> Busy {
        let ns = self.at_ns.saturating_sub(before.at_ns).max(1);
        let percent = |used_ns: u64| 100.0 * used_ns as f64 / ns as f64;
        Busy {
            server: self.server_ns_since(before).map(percent),
            fleet: percent(self.fleet_ns.saturating_sub(before.fleet_ns)),
            control: percent(self.control_ns.saturating_sub(before.control_ns)),
        }
    }
}

impl Busy {
    /// The medians of several rounds; none without a round.
    pub fn median(rounds: &[Busy]) -> Option<Busy> {
        Some(Busy {
            server: median(rounds.iter().filter_map(|one| one.server)),
            fleet: median(rounds.iter().map(|one| one.fleet))?,
            control: median(rounds.iter().map(|one| one.control))?,
        })
    }

    /// Whether the rate is one of the devices' side.
    pub fn is_bound_by_fleet(&self) -> bool {
        self.fleet + self.control > FULL && self.server.is_some_and(|server| server < FULL)
    }

    /// The three, each with a prefix to its name, and a word if the fleet was the limit.
    pub fn put(&self, prefix: &str, values: &mut Value) {
        let rounded = |percent: f64| json!((percent * 10.0).round() / 10.0);
        if let Some(server) = self.server {
            values[format!("{prefix}server_cpu_percent")] = rounded(server);
        }
        values[format!("{prefix}fleet_cpu_percent")] = rounded(self.fleet);
        values[format!("{prefix}control_cpu_percent")] = rounded(self.control);
        if self.is_bound_by_fleet() {
            values[format!("{prefix}bound_by")] = json!("fleet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bound_by_the_fleet_if_only_its_processor_is_full() {
        for (server, fleet, control, expected) in [
            (Some(70.0), 95.0, 1.0, true),
            (Some(70.0), 50.0, 45.0, true),
            (Some(98.0), 95.0, 1.0, false),
            (Some(70.0), 60.0, 20.0, false),
            (None, 95.0, 1.0, false),
        ] {
            let busy = Busy { server, fleet, control };
            let mut values = json!({});
            busy.put("x_", &mut values);
            assert_eq!(values["x_bound_by"] == "fleet", expected, "{busy:?}");
        }
    }

    #[test]
    fn what_is_used_is_a_share_of_the_time() {
        let clocks = |at_ns, server_ns, fleet_ns| Clocks {
            at_ns,
            server_ns: Some(server_ns),
            fleet_ns,
            control_ns: 7,
        };
        let busy = clocks(3_000, 1_500, 900).since(&clocks(1_000, 500, 900));
        assert_eq!(busy, Busy { server: Some(50.0), fleet: 0.0, control: 0.0 });
    }
}
