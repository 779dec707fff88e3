//! Scenarios: what is done to a server with a fleet, and what is measured meanwhile.

mod busy;
pub mod churn;
pub mod connections;
pub mod contest;
mod control_node;
pub mod fanout;
mod pair;
pub mod push;
pub mod questions;
mod rates;
pub mod side;
pub mod slow;
pub mod stage;
pub mod storm;
pub mod target;

use std::io::IsTerminal;

use anyhow::ensure;
use serde_json::Value;

/// The values of a scenario for people: one a line, those that have no number left out.
pub fn print(title: &str, values: &Value) {
    println!("{title}");
    let Value::Object(values) = values else { return };
    for (name, value) in values {
        match value {
            Value::Number(_) | Value::String(_) => println!("  {name:<28} {}", shown(value)),
            Value::Object(parts) if !parts.is_empty() => {
                let parts: Vec<String> =
                    parts.iter().map(|(name, value)| format!("{name} {}", shown(value))).collect();
                println!("  {name:<28} {}", parts.join(", "));
            }
            _ => {}
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(number) if number.fract() != 0.0 && number.abs() < 1000.0 => {
                format!("{number:.2}")
            }
            Some(number) => grouped(number.round() as i64),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// With a comma at each thousand, so that millions can be told from hundreds of thousands.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if number < 0 { format!("-{out}") } else { out }
}

/// How late the last message of a run may be, that the machine stood still meanwhile.
const LATE_S: f64 = 2.0;

/// A rate that was asked for and is out of reach says nothing about latencies: they grow with the
/// length of the run.
pub fn reached(asked: Option<u32>, rate: f64, seconds: u32) -> anyhow::Result<()> {
    let Some(asked) = asked else { return Ok(()) };
    let share = rate / f64::from(asked);
    let late_s = f64::from(seconds) / share - f64::from(seconds);
    ensure!(
        share >= 0.9 || late_s <= LATE_S,
        "{asked} a second were asked for and {rate:.0} reached, so latencies would only say how long \
         this ran: choose a lower --rate"
    );
    Ok(())
}

/// Says on a terminal what happens next.
pub fn say(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_reached_but_for_a_moment_of_standing_still() {
        for (asked, rate, seconds, is_reached) in [
            (None, 1.0, 100, true),
            (Some(1000), 900.0, 100, true),
            (Some(1000), 899.0, 100, false),
            // Two seconds late, and a little more.
            (Some(1000), 334.0, 1, true),
            (Some(1000), 333.0, 1, false),
        ] {
            assert_eq!(reached(asked, rate, seconds).is_ok(), is_reached, "{asked:?} {rate}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, expected) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (-5_000_000, "-5,000,000")]
        {
            assert_eq!(grouped(number), expected);
        }
    }
}
