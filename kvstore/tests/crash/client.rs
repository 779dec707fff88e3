//! A client that pipelines, and knows when the server is gone.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Ends a hang; nothing is measured with it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Answer>),
}

impl Answer {
    pub fn text(&self) -> String {
        match self {
            Answer::Simple(text) | Answer::Error(text) => text.clone(),
            Answer::Integer(number) => number.to_string(),
            Answer::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Answer::Null => String::new(),
            Answer::Array(_) => panic!("no text: {self:?}"),
        }
    }

    pub fn items(self) -> Vec<Answer> {
        match self {
            Answer::Array(items) => items,
            other => panic!("no array: {other:?}"),
        }
    }
}

pub type Words = Vec<Vec<u8>>;

pub fn words(text: &str) -> Words {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

pub fn encode(out: &mut Vec<u8>, command: &Words) {
    out.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for word in command {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Every function answers `None` when the server has closed the connection.
pub struct Client(BufReader<UnixStream>);

impl Client {
    pub fn connect(path: &Path) -> Option<Client> {
        let stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("a timeout");
        Some(Client(BufReader::new(stream)))
    }

    pub fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.0.get_mut().write_all(bytes).ok()
    }

    pub fn call(&mut self, command: &Words) -> Option<Answer> {
        let mut bytes = Vec::new();
        encode(&mut bytes, command);
        self.send(&bytes)?;
        self.receive()
    }

    pub fn run(&mut self, command: &str) -> Option<Answer> {
        self.call(&words(command))
    }

    pub fn receive(&mut self) -> Option<Answer> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).ok()?;
        let body = line.strip_suffix(b"\r\n")?;
        let text = || String::from_utf8_lossy(&body[1..]).into_owned();
        let number = || text().parse::<i64>().expect("a number");
        Some(match body[0] {
            b'+' => Answer::Simple(text()),
            b'-' => Answer::Error(text()),
            b':' => Answer::Integer(number()),
            b'$' | b'*' if number() < 0 => Answer::Null,
            b'$' => {
                let mut bytes = vec![0; number() as usize + 2];
                self.0.read_exact(&mut bytes).ok()?;
                bytes.truncate(bytes.len() - 2);
                Answer::Bulk(bytes)
            }
            b'*' => Answer::Array((0..number()).map(|_| self.receive()).collect::<Option<_>>()?),
            other => panic!("an answer starts with {:?}", other as char),
        })
    }
}
