//! What commands print: a table for people, one JSON document per line for programs.

use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// How a command answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Human,
    Json,
}

/// Writes to standard output. A reader that went away (`hawser status | head -1`) ends the
/// program quietly, as it does other commands.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_ref().trim_end().as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(serde_json::to_string_pretty(value)?)?)
}

/// One line, for streams of documents.
pub fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(serde_json::to_string(value)?)?)
}

/// A table with a heading; columns named in `numbers` are aligned to the right.
pub fn table(heading: &[&str], numbers: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heading.iter().copied())
        .add_rows(rows);
    for &index in numbers {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    trimmed(&table)
}

/// Names and values, one pair a line.
pub fn pairs(rows: &[(&str, String)]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .add_rows(rows.iter().map(|(name, value)| [(*name).to_owned(), value.clone()]));
    trimmed(&table)
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A line on standard error that is rewritten in place on a terminal, and printed now and then
/// where it is not.
#[derive(Debug)]
pub struct LiveLine {
    rewrites: bool,
    updates: u32,
    shown: bool,
}

/// Without a terminal, one update of so many is printed.
const PLAIN_EVERY: u32 = 10;

impl LiveLine {
    pub fn on_stderr() -> LiveLine {
        LiveLine { rewrites: io::stderr().is_terminal(), updates: 0, shown: false }
    }

    pub fn update(&mut self, text: &str) {
        if self.rewrites {
            eprint!("\r\x1b[2K{text}");
            self.shown = true;
        } else if self.updates.is_multiple_of(PLAIN_EVERY) {
            eprintln!("{text}");
        }
        self.updates += 1;
    }

    /// Ends the line, so that what is printed next starts on its own.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprintln!();
        }
    }

    /// A line that stays.
    pub fn say(&mut self, text: &str) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[2K");
        }
        eprintln!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_trailing_blanks() {
        let rows =
            vec![vec!["a".to_owned(), "1".to_owned()], vec!["bb".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["NAME", "N"], &[1], rows), " NAME   N\n a      1\n bb    22\n");
    }
}
