//! The lines of standard input, and those of standard output.

use std::fmt;
use std::net::SocketAddr;

use hawser_codec::limits::PAYLOAD_BYTES_MAX;

use crate::frames::STAMP_BYTES;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Count,
    /// These bytes to every connection.
    Fanout {
        frame: Vec<u8>,
    },
    Push(Push),
}

/// An order of single messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    pub count: u64,
    /// Messages a second; 0 is as fast as possible.
    pub rate: u64,
    pub payload_bytes: usize,
    /// The number of the first message.
    pub first: u64,
}

/// What became of a fan-out or of single messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub sent: u64,
    pub failed: u64,
    /// From the command to the last send.
    pub ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Ready(SocketAddr),
    Count(u64),
    Fanned(Tally),
    Pushed(Tally),
}

/// A line that is no command. The sender is a program, so this is a bug of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCommand {
    pub line: String,
}

impl fmt::Display for BadCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = &self.line;
        write!(f, "no command {line:?}: say count, fanout HEX or push COUNT RATE PAYLOAD FIRST")?;
        write!(f, " with a payload of {STAMP_BYTES} to {PAYLOAD_BYTES_MAX} bytes")
    }
}

impl std::error::Error for BadCommand {}

impl Command {
    pub fn parse(line: &str) -> Result<Command, BadCommand> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let command = match words[..] {
            ["count"] => Some(Command::Count),
            ["fanout", hex] => bytes_of(hex).map(|frame| Command::Fanout { frame }),
            ["push", count, rate, payload, first] => {
                Push::parse(count, rate, payload, first).map(Command::Push)
            }
            _ => None,
        };
        command.ok_or_else(|| BadCommand { line: line.chars().take(80).collect() })
    }
}

impl Push {
    fn parse(count: &str, rate: &str, payload: &str, first: &str) -> Option<Push> {
        let payload_bytes = payload.parse().ok()?;
        (STAMP_BYTES..=PAYLOAD_BYTES_MAX).contains(&payload_bytes).then_some(())?;
        let (count, rate) = (count.parse().ok()?, rate.parse().ok()?);
        Some(Push { count, rate, payload_bytes, first: first.parse().ok()? })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Ready(address) => write!(f, "ready {address}"),
            Answer::Count(count) => write!(f, "count {count}"),
            Answer::Fanned(Tally { sent, failed, ns }) => write!(f, "fanned {sent} {failed} {ns}"),
            Answer::Pushed(Tally { sent, failed, ns }) => write!(f, "pushed {sent} {failed} {ns}"),
        }
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    let is_frame = !digits.is_empty() && digits.len().is_multiple_of(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    is_frame.then(|| digits.chunks_exact(2).map(byte).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_are_refused() {
        let push = Push { count: 5, rate: 0, payload_bytes: 64, first: 7 };
        for (line, expected) in [
            ("count", Some(Command::Count)),
            ("fanout 02Ff", Some(Command::Fanout { frame: vec![0x02, 0xff] })),
            ("push 5 0 64 7", Some(Command::Push(push))),
            ("fanout", None),
            ("fanout 020", None),
            ("fanout 0g", None),
            ("push 5 0 7 7", None),
            ("push 5 0 65537 7", None),
            ("push 5 -1 64 7", None),
            ("", None),
        ] {
            assert_eq!(Command::parse(line).ok(), expected, "{line:?}");
        }
    }
}
