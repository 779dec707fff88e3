//! The smallest client of the store: one blocking connection, RESP2, commands one by one or pipelined.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};

/// Far longer than any answer takes; a server that hangs ends the run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Text(Vec<u8>),
    Error(String),
    Number(i64),
    Nil,
    List(Vec<Answer>),
}

impl From<&str> for Answer {
    fn from(text: &str) -> Answer {
        Answer::Text(text.as_bytes().to_vec())
    }
}

pub struct Client {
    stream: BufReader<TcpStream>,
    out: Vec<u8>,
}

impl Client {
    pub fn connect(port: u16) -> anyhow::Result<Client> {
        let stream =
            TcpStream::connect(("127.0.0.1", port)).context("the store does not listen")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Client { stream: BufReader::new(stream), out: Vec::new() })
    }

    /// Puts a command behind those that are sent with the next [`flush`](Client::flush).
    pub fn push(&mut self, words: &[&[u8]]) {
        write!(self.out, "*{}\r\n", words.len()).expect("writing to memory does not fail");
        for word in words {
            write!(self.out, "${}\r\n", word.len()).expect("writing to memory does not fail");
            self.out.extend_from_slice(word);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.stream.get_mut().write_all(&self.out).context("the store does not read")?;
        self.out.clear();
        Ok(())
    }

    pub fn call(&mut self, words: &[&[u8]]) -> anyhow::Result<Answer> {
        self.push(words);
        self.flush()?;
        self.answer()
    }

    /// Words without spaces in them.
    pub fn run(&mut self, command: &str) -> anyhow::Result<Answer> {
        self.call(&command.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    pub fn answer(&mut self) -> anyhow::Result<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("no answer")?;
        let body = line.strip_suffix("\r\n").context("the connection was closed")?;
        let (kind, text) = body.split_at_checked(1).context("an empty answer")?;
        let number = || text.parse::<i64>().with_context(|| format!("no number: {body}"));
        Ok(match kind {
            "+" => Answer::from(text),
            "-" => Answer::Error(text.to_owned()),
            ":" => Answer::Number(number()?),
            "$" | "*" if number()? < 0 => Answer::Nil,
            "$" => {
                let mut bytes = vec![0; number()? as usize + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Answer::Text(bytes)
            }
            "*" => Answer::List((0..number()?).map(|_| self.answer()).collect::<Result<_, _>>()?),
            _ => bail!("no answer starts like {body:?}"),
        })
    }
}
