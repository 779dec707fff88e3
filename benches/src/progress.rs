//! A line on the terminal that says how far a long step is. Elsewhere it is silent.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(200);
const BAR: usize = 24;

pub struct Progress {
    what: String,
    begun: Instant,
    drawn: Option<Instant>,
    on: bool,
}

impl Progress {
    pub fn new(what: impl Into<String>) -> Progress {
        let on = std::io::stderr().is_terminal();
        Progress { what: what.into(), begun: Instant::now(), drawn: None, on }
    }

    pub fn at(&mut self, done: u64, of: u64) {
        if !self.on || self.drawn.is_some_and(|drawn| drawn.elapsed() < EVERY) {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = line(&self.what, done, of, self.begun.elapsed().as_secs_f64());
        // A terminal that is gone is no reason to end a measurement.
        let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, of: u64, seconds: f64) -> String {
    let share = if of == 0 { 1.0 } else { done as f64 / of as f64 };
    let full = (share * BAR as f64) as usize;
    let rate = done as f64 / seconds.max(0.001);
    let left_s = if done == 0 { 0.0 } else { (of.saturating_sub(done)) as f64 / rate.max(0.001) };
    format!(
        "{what} [{}{}] {done} of {of}  {rate:.0}/s  {left_s:.0} s left",
        "#".repeat(full.min(BAR)),
        ".".repeat(BAR - full.min(BAR)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        assert_eq!(
            line("connecting", 250, 1000, 10.0),
            "connecting [######..................] 250 of 1000  25/s  30 s left"
        );
        assert!(line("x", 0, 0, 0.0).contains("0 of 0"));
    }
}
