//! A connection that speaks RESP2, with blocking reads: commands are put together by the caller and sent in
//! batches, and answers are read one by one.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail};

use super::address::{Address, Place};

/// For whoever does not answer at all. A batch of commands is on disk long before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Text(String),
    Error(String),
    Integer(i64),
    Bytes(Vec<u8>),
    Nothing,
    Array(Vec<Answer>),
}

impl Answer {
    /// The first error in it.
    pub fn error(&self) -> Option<&str> {
        match self {
            Answer::Error(text) => Some(text),
            Answer::Array(items) => items.iter().find_map(Answer::error),
            _ => None,
        }
    }

    pub fn text(&self) -> String {
        match self {
            Answer::Text(text) | Answer::Error(text) => text.clone(),
            Answer::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Answer::Integer(number) => number.to_string(),
            Answer::Nothing | Answer::Array(_) => String::new(),
        }
    }
}

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(place: &Place) -> io::Result<Stream> {
        match place {
            Place::Tcp(place) => {
                let stream = TcpStream::connect(place)?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Place::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
        }
    }

    pub fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub struct Connection {
    pub stream: BufReader<Stream>,
    shown: String,
}

/// Nested deeper, an answer is none.
const DEPTH_MAX: usize = 8;

impl Connection {
    /// Connects and shows who we are. `password` is what the environment has; the address wins.
    pub fn open(address: &Address, password: Option<&str>) -> anyhow::Result<Connection> {
        let shown = address.to_string();
        let stream = Stream::connect(&address.place)
            .with_context(|| format!("nobody answers at {shown}: is the server running there?"))?;
        stream.set_read_timeout(ANSWER_TIMEOUT)?;
        let stream = BufReader::with_capacity(256 * 1024, stream);
        let mut connection = Connection { stream, shown };
        if let Some(password) = address.password.as_deref().or(password) {
            let user = address.user.as_deref();
            let words = [Some("AUTH"), user, Some(password)];
            let words: Vec<&str> = words.into_iter().flatten().collect();
            connection.must(&words).context("the password or user is wrong")?;
        }
        connection.must(&["PING"]).context(
            "the server wants a user or password: write redis://USER:PASSWORD@HOST:PORT, or set the \
             environment variable that --help names",
        )?;
        if let Some(database) = address.database {
            connection.must(&["SELECT", &database.to_string()])?;
        }
        Ok(connection)
    }

    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let sent = self.stream.get_mut().write_all(bytes);
        sent.with_context(|| format!("{} has closed the connection", self.shown))
    }

    pub fn receive(&mut self) -> anyhow::Result<Answer> {
        self.answer(0).with_context(|| format!("no answer from {}", self.shown))
    }

    pub fn call(&mut self, words: &[impl AsRef<[u8]>]) -> anyhow::Result<Answer> {
        let mut bytes = Vec::new();
        put_command(&mut bytes, words);
        self.send(&bytes)?;
        self.receive()
    }

    /// A command that is not to fail.
    pub fn must(&mut self, words: &[&str]) -> anyhow::Result<Answer> {
        match self.call(words)? {
            Answer::Error(text) => bail!("{} says: {text}", self.shown),
            answer => Ok(answer),
        }
    }

    pub fn line(&mut self) -> anyhow::Result<Vec<u8>> {
        const LINE_BYTES_MAX: u64 = 64 * 1024;
        let mut line = Vec::new();
        self.stream.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            bail!("the connection was closed");
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    }

    fn answer(&mut self, depth: usize) -> anyhow::Result<Answer> {
        let line = self.line()?;
        let text = || String::from_utf8_lossy(line.get(1..).unwrap_or_default()).into_owned();
        let number = || text().parse::<i64>().context("an answer that is not RESP");
        Ok(match line.first() {
            Some(b'+') => Answer::Text(text()),
            Some(b'-') => Answer::Error(text()),
            Some(b':') => Answer::Integer(number()?),
            Some(b'$') => match u64::try_from(number()?) {
                Err(_) => Answer::Nothing,
                Ok(bytes) => {
                    let mut value = Vec::new();
                    self.stream.by_ref().take(bytes + 2).read_to_end(&mut value)?;
                    if value.len() as u64 != bytes + 2 {
                        bail!("the connection was closed");
                    }
                    value.truncate(bytes as usize);
                    Answer::Bytes(value)
                }
            },
            Some(b'*') if depth < DEPTH_MAX => match u64::try_from(number()?) {
                Err(_) => Answer::Nothing,
                Ok(count) => {
                    let items = (0..count).map(|_| self.answer(depth + 1));
                    Answer::Array(items.collect::<Result<_, _>>()?)
                }
            },
            _ => bail!("an answer that is not RESP"),
        })
    }
}

/// Appends a command.
pub fn put_command(out: &mut Vec<u8>, words: &[impl AsRef<[u8]>]) {
    put_head(out, b'*', words.len());
    for word in words {
        let word = word.as_ref();
        put_head(out, b'$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn put_head(out: &mut Vec<u8>, kind: u8, number: usize) {
    out.push(kind);
    write!(out, "{number}\r\n").expect("memory takes it");
}
