//! What commands print: tables for people, one JSON document for programs.

use std::io::{self, Write};

use serde::Serialize;

/// How a command answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Human,
    Json,
}

pub fn text(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut document = serde_json::to_string_pretty(value)?;
    document.push('\n');
    text(&document)
}

/// One line, for streams of documents.
pub fn json_line(value: &impl Serialize) -> io::Result<()> {
    text(&format!("{}\n", serde_json::to_string(value)?))
}

/// On standard error, in the form that all of `hawser` has.
pub fn failure(code: &str, message: &str, format: Format) {
    match format {
        Format::Human => eprintln!("hawser: {message}"),
        Format::Json => {
            eprintln!("{}", serde_json::json!({ "error": { "code": code, "message": message } }));
        }
    }
}

/// Columns two blanks apart, as wide as their widest cell.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|&cell| cell.to_owned()).collect();
    let all = || std::iter::once(&heading).chain(rows);
    let width = |column: usize| {
        let cells = all().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    all().map(line).collect()
}

/// Breaks a text into lines of at most 100 characters, all after the first indented.
pub fn wrapped(indent: &str, first: &str, text: &str) -> String {
    const WIDTH: usize = 100;
    let mut lines = String::from(first);
    let mut length = first.chars().count();
    for (index, word) in text.split_whitespace().enumerate() {
        if index > 0 && length + 1 + word.chars().count() > WIDTH {
            lines.push('\n');
            lines.push_str(indent);
            length = indent.len();
        } else if index > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += word.chars().count();
    }
    lines.push('\n');
    lines
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if bytes >= 1 << shift {
            return format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["bbb".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME  N\na     1\nbbb   22\n");
    }

    #[test]
    fn sizes_and_lines() {
        assert_eq!((size(512).as_str(), size(24 << 30).as_str()), ("512 B", "24.0 GiB"));
        let text = wrapped("  ", "- ", &"word ".repeat(30));
        assert!(text.lines().all(|line| line.len() <= 100) && text.lines().count() == 2, "{text}");
        assert!(text.lines().nth(1).unwrap().starts_with("  word"));
    }
}
