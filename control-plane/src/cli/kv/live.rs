//! A live Redis as the source: we are its replica. It sends an RDB file of one moment, and then every
//! command that changes anything.
//!
//! ```text
//! PSYNC ? -1  ─▶  +FULLRESYNC id offset, $bytes or $EOF:mark, the file, (mark,) commands ...
//! SYNC        ─▶  $bytes, the file, commands ...                                before Redis 2.8
//! ```
//!
//! How far we are goes back once a second, after the store has answered: then Redis knows that we live,
//! and `INFO replication` there shows how far we are behind.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use hawser_kv::resp::request::{Parser, RequestLimits};

use super::address::Address;
use super::lane::{Failures, Lane, Limits, Subject, shown};
use super::wire::{Connection, put_command};

/// How often we say where we are.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long nothing is waited for at a time.
const TICK: Duration = Duration::from_millis(100);
/// Redis sends nothing for so long only when it has to fork first.
const FILE_TIMEOUT: Duration = Duration::from_secs(600);
/// Redis itself takes no longer commands.
const STREAM_LIMITS: RequestLimits = RequestLimits {
    arguments_max: 1 << 24,
    bulk_bytes_max: 512 << 20,
    request_bytes_max: 1 << 30,
    inline_bytes_max: 64 * 1024,
};

pub struct Live {
    connection: Connection,
    end: End,
    /// Where the file is in the stream of changes.
    offset: Option<u64>,
}

/// How the file ends.
enum End {
    After(u64),
    Mark(Vec<u8>),
}

impl Live {
    /// Asks for everything, and waits until it begins to come.
    pub fn begin(address: &Address, password: Option<&str>) -> anyhow::Result<Live> {
        let mut connection = Connection::open(address, password)?;
        connection.stream.get_ref().set_read_timeout(FILE_TIMEOUT)?;
        // What it does not know of these it refuses, and goes on.
        connection.call(&["REPLCONF", "capa", "eof", "capa", "psync2"])?;
        let mut request = Vec::new();
        put_command(&mut request, &["PSYNC", "?", "-1"]);
        connection.send(&request)?;
        let answer = line(&mut connection)?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let words: Vec<&str> = text.split(' ').collect();
        let (offset, head) = match words[..] {
            ["+FULLRESYNC", _, offset] => {
                let offset = offset.parse().context("Redis does not say where its file begins")?;
                (Some(offset), line(&mut connection)?)
            }
            [code, ..] if code.starts_with("-ERR") && text.contains("unknown command") => {
                let mut request = Vec::new();
                put_command(&mut request, &["SYNC"]);
                connection.send(&request)?;
                (None, line(&mut connection)?)
            }
            _ => bail!("Redis does not take us as its replica: {}", text.trim_start_matches('-')),
        };
        let end = match head.strip_prefix(b"$") {
            Some(rest) => match rest.strip_prefix(b"EOF:") {
                Some(mark) => End::Mark(mark.to_vec()),
                None => {
                    let bytes = std::str::from_utf8(rest).ok().and_then(|text| text.parse().ok());
                    End::After(bytes.context("Redis does not say how long its file is")?)
                }
            },
            None => bail!("Redis sends no file: {}", String::from_utf8_lossy(&head)),
        };
        Ok(Live { connection, end, offset })
    }

    /// Bytes of the file, when they are known before.
    pub fn file_bytes(&self) -> Option<u64> {
        match self.end {
            End::After(bytes) => Some(bytes),
            End::Mark(_) => None,
        }
    }

    /// The file, and after it what [`end_file`](Live::end_file) reads.
    pub fn file(&mut self) -> &mut impl BufRead {
        &mut self.connection.stream
    }

    /// To be called when the file was read, which had so many bytes.
    pub fn end_file(&mut self, bytes: u64) -> anyhow::Result<()> {
        match &self.end {
            End::After(all) if *all == bytes => Ok(()),
            End::After(all) => bail!("the file of Redis ends after {bytes} of {all} bytes"),
            End::Mark(mark) => {
                let mut found = vec![0; mark.len()];
                self.connection.stream.read_exact(&mut found)?;
                if found == *mark {
                    Ok(())
                } else {
                    bail!("the file of Redis does not end where it should")
                }
            }
        }
    }
}

/// A line that is not empty: empty ones say that Redis is still at work.
fn line(connection: &mut Connection) -> anyhow::Result<Vec<u8>> {
    loop {
        let line = connection.line().context("Redis sends no file")?;
        if !line.is_empty() {
            return Ok(line);
        }
    }
}

/// What following has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub commands: u64,
    pub bytes: u64,
    /// What Redis has that we have not, when it can be told.
    pub lag_bytes: Option<u64>,
}

/// The changes that come after the file, on their way to the store.
pub struct Follower {
    live: Live,
    lane: Lane,
    limits: Limits,
    pub failures: Failures,
    parser: Parser,
    buffer: BytesMut,
    /// Bytes of the stream up to the last whole command that was sent on.
    taken: u64,
    received: u64,
    database: u64,
    no_database: Option<String>,
    commands: u64,
    /// Asked for how far Redis is.
    observer: Option<Connection>,
}

impl Follower {
    pub fn new(
        live: Live,
        observer: Option<Connection>,
        (lane, limits, failures): (Lane, Limits, Failures),
    ) -> Follower {
        Follower {
            live,
            lane,
            limits,
            failures,
            parser: Parser::default(),
            buffer: BytesMut::new(),
            taken: 0,
            received: 0,
            database: 0,
            no_database: None,
            commands: 0,
            observer,
        }
    }

    /// Goes on until `stop` is set or Redis ends it, and says once a second how far it is.
    pub fn run(
        &mut self,
        stop: &Arc<AtomicBool>,
        mut say: impl FnMut(Progress, &Failures) -> anyhow::Result<()>,
    ) -> anyhow::Result<Progress> {
        self.live.connection.stream.get_ref().set_read_timeout(TICK)?;
        // Redis sends changes only to who has said that it has the file.
        self.acknowledge()?;
        let mut said = Instant::now();
        while !stop.load(Relaxed) {
            self.read()?;
            self.run_commands()?;
            if said.elapsed() >= REPORT_EVERY {
                said = Instant::now();
                self.acknowledge()?;
                say(self.progress(), &self.failures)?;
            }
        }
        self.lane.finish(&mut self.failures)?;
        self.acknowledge()?;
        Ok(self.progress())
    }

    /// Reads what is there, at most a bufferful; comes back after a moment when there is nothing.
    fn read(&mut self) -> anyhow::Result<()> {
        let input = &mut self.live.connection.stream;
        let bytes = match input.fill_buf() {
            Ok([]) => bail!("Redis has closed the connection; start again to take everything anew"),
            Ok(bytes) => bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error).context("the connection to Redis failed"),
        };
        self.buffer.extend_from_slice(bytes);
        let count = bytes.len();
        input.consume(count);
        self.received += count as u64;
        Ok(())
    }

    fn run_commands(&mut self) -> anyhow::Result<()> {
        loop {
            let next = self.parser.next(&mut self.buffer, &STREAM_LIMITS);
            let next =
                next.map_err(|error| anyhow::anyhow!("Redis sent no command: {}", error.text()))?;
            let Some(words) = next else { break };
            self.command(&words)?;
            self.taken = self.received - self.buffer.len() as u64;
        }
        self.lane.finish(&mut self.failures)
    }

    fn command(&mut self, words: &[Bytes]) -> anyhow::Result<()> {
        let is = |name: &str| words[0].eq_ignore_ascii_case(name.as_bytes());
        if is("PING") {
            return Ok(());
        }
        if is("REPLCONF") {
            self.lane.finish(&mut self.failures)?;
            return self.acknowledge();
        }
        if is("SELECT") && words.len() == 2 {
            let number = std::str::from_utf8(&words[1]).ok().and_then(|text| text.parse().ok());
            self.database = number.context("Redis selected what is no database")?;
            self.no_database = self.lane.select(self.database, &mut self.failures)?;
            return Ok(());
        }
        self.commands += 1;
        let shown = words[..words.len().min(2)].iter().map(|word| shown(word));
        let shown = shown.collect::<Vec<_>>().join(" ");
        let subject = Subject::new(self.database, shown.into_bytes());
        match self.no_database.clone().or_else(|| self.limits.refusal(words)) {
            Some(why) => self.failures.add(&subject, &why),
            None => self.lane.push(&subject, words, &mut self.failures)?,
        }
        Ok(())
    }

    /// Says up to where the store has everything.
    fn acknowledge(&mut self) -> anyhow::Result<()> {
        let Some(offset) = self.live.offset else { return Ok(()) };
        let mut command = Vec::new();
        put_command(&mut command, &["REPLCONF", "ACK", &(offset + self.taken).to_string()]);
        let sent = self.live.connection.stream.get_mut().write_all(&command);
        sent.context("Redis has closed the connection; start again to take everything anew")
    }

    fn progress(&mut self) -> Progress {
        let there = self.observer.as_mut().and_then(master_offset);
        let here = self.live.offset.map(|offset| offset + self.taken);
        let lag_bytes = there.zip(here).map(|(there, here)| there.saturating_sub(here));
        Progress { commands: self.commands, bytes: self.taken, lag_bytes }
    }
}

fn master_offset(connection: &mut Connection) -> Option<u64> {
    let text = connection.call(&["INFO", "replication"]).ok()?.text();
    let line = text.lines().find_map(|line| line.strip_prefix("master_repl_offset:"))?;
    line.trim().parse().ok()
}
