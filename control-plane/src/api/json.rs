//! Bodies as values, once, and where in a body a mistake is.
//!
//! serde says what is wrong and at which byte; the path to that byte (`messages[3].ttl_s`) is found
//! by a second look at the text, which only a wrong request pays for.

use serde::Deserialize;

use super::errors::ApiError;
use crate::nearest::nearest;

/// Parses a document that borrows from the body what it can.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| explain(body, &error))
}

fn explain(body: &[u8], error: &serde_json::Error) -> ApiError {
    let full = error.to_string();
    let message = full.split(" at line ").next().unwrap_or(&full);
    if !error.is_data() {
        return ApiError::BadJson { message: full };
    }
    let offset = offset_of(body, error.line(), error.column());
    if let Some(name) = quoted(message, "missing field `").next() {
        let field = join(&path_at(body, offset), name);
        return ApiError::field(field, "is missing");
    }
    if message.starts_with("unknown field `") {
        let mut names = quoted(message, "`");
        let typed = names.next().unwrap_or_default();
        let known: Vec<&str> = names.collect();
        let hint = match nearest(typed, known.iter().copied()) {
            Some(name) => format!("no such field; did you mean {name}?"),
            None => format!("no such field; there are {}", known.join(", ")),
        };
        // The mistake is found when the name was read, so the path already ends with it.
        return ApiError::field(path_at(body, offset), hint);
    }
    if message.starts_with("duplicate field `") {
        return ApiError::field(path_at(body, offset), "stands there twice");
    }
    match path_at(body, offset) {
        path if path.is_empty() => ApiError::BadJson { message: message.to_owned() },
        path => ApiError::field(path, message),
    }
}

/// What stands in backquotes, from the first occurrence of `start` on.
fn quoted<'a>(message: &'a str, start: &str) -> impl Iterator<Item = &'a str> {
    let from = message.find(start).map_or(message.len(), |at| at + start.len() - 1);
    message[from..].split('`').skip(1).step_by(2)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The byte after line and column, which count from one.
fn offset_of(body: &[u8], line: usize, column: usize) -> usize {
    let line_start = body
        .split_inclusive(|&b| b == b'\n')
        .take(line.saturating_sub(1))
        .map(<[u8]>::len)
        .sum::<usize>();
    (line_start + column).min(body.len())
}

/// An open object or array.
enum Open {
    /// The name that was read last.
    Object(String),
    Array(usize),
}

/// The path to the value that contains byte `offset`. The text before it is valid JSON.
fn path_at(body: &[u8], offset: usize) -> String {
    let mut open: Vec<Open> = Vec::new();
    let mut bytes = body[..offset].iter().copied().enumerate();
    // A text in an object is a name if it stands after `{` or `,`.
    let mut name_next = false;
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'{' => {
                open.push(Open::Object(String::new()));
                name_next = true;
            }
            b'[' => open.push(Open::Array(0)),
            b'}' | b']' => drop(open.pop()),
            b',' => match open.last_mut() {
                Some(Open::Array(index)) => *index += 1,
                Some(Open::Object(_)) => name_next = true,
                None => {}
            },
            b'"' => {
                let mut end = offset;
                while let Some((at, byte)) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => {
                            end = at;
                            break;
                        }
                        _ => {}
                    }
                }
                if let (true, Some(Open::Object(name))) = (name_next, open.last_mut()) {
                    *name = String::from_utf8_lossy(&body[at + 1..end]).into_owned();
                    name_next = false;
                }
            }
            _ => {}
        }
    }
    open.iter().fold(String::new(), |path, level| match level {
        Open::Object(name) if name.is_empty() => path,
        Open::Object(name) => join(&path, name),
        Open::Array(index) => format!("{path}[{index}]"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        name: String,
        #[serde(default)]
        list: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        ttl_s: u32,
        #[serde(default)]
        quota: Option<Box<Inner>>,
    }

    fn check(body: &str, expect: &str) {
        let error = parse::<Outer>(body.as_bytes()).expect_err(body).detail();
        assert_eq!(error.message, expect, "{body}");
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        check(r#"{"name": 5}"#, "name: invalid type: integer `5`, expected a string");
        check(r#"{"nam": "x"}"#, "nam: no such field; did you mean name?");
        check(r#"{"zzzzzz": "x"}"#, "zzzzzz: no such field; there are name, list");
        check(r#"{"list": []}"#, "name: is missing");
        check("{}", "name: is missing");
        check(
            "{\"name\": \"a\\\"{[\",\n \"list\": [{\"ttl_s\": 1},\n {\"ttl_s\": -1}]}",
            "list[1].ttl_s: invalid value: integer `-1`, expected u32",
        );
        check(
            r#"{"name": "x", "list": [{"ttl_s": 1, "quota": {"tttl_s": 3}}]}"#,
            "list[0].quota.tttl_s: no such field; did you mean ttl_s?",
        );
        check(r#"{"name": "x", "list": [{"ttl_s": 1}, {}]}"#, "list[1].ttl_s: is missing");
        check(r#"{"name": "x", "name": "y"}"#, "name: stands there twice");
        check(
            r#"{"name": "x", "list": [3]}"#,
            "list[0]: invalid type: integer `3`, expected struct Inner",
        );
        check(
            "[]",
            "the body is not valid JSON: invalid length 0, expected struct Outer with 2 elements",
        );
        check(
            "{\"name\"",
            "the body is not valid JSON: EOF while parsing an object at line 1 column 7",
        );
        check("", "the body is not valid JSON: EOF while parsing a value at line 1 column 0");
    }
}
