//! A connection to the store over which commands are pipelined: while one batch is being run, the next is
//! put together.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::bail;
use serde::Serialize;

use super::wire::{Answer, Connection, put_command};

/// A batch is sent when it has so many commands or bytes. The store takes as many commands at once.
const BATCH_COMMANDS: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;

/// Failures that are kept by name; the rest are counted.
const FAILURES_NAMED_MAX: usize = 100;

/// After one of these, no other command can succeed either.
const ENDING: [&str; 8] =
    ["IOERR", "READONLY", "NOAUTH", "NOPERM", "OUTCOMEOPEN", "OOM", "MISCONF", "LOADING"];

/// What some commands are about.
#[derive(Debug)]
pub struct Subject {
    pub database: u64,
    pub key: Vec<u8>,
    has_failed: Cell<bool>,
}

impl Subject {
    pub fn new(database: u64, key: Vec<u8>) -> Rc<Subject> {
        Rc::new(Subject { database, key, has_failed: Cell::new(false) })
    }
}

#[derive(Debug, Serialize)]
pub struct Failure {
    pub database: u64,
    pub key: String,
    pub error: String,
}

/// What has failed so far.
#[derive(Debug, Default)]
pub struct Failures {
    pub count: u64,
    pub named: Vec<Failure>,
}

impl Failures {
    /// A key fails once, however many of its commands do.
    pub fn add(&mut self, subject: &Subject, error: &str) {
        if subject.has_failed.replace(true) {
            return;
        }
        self.count += 1;
        if self.named.len() < FAILURES_NAMED_MAX {
            let key = shown(&subject.key);
            let error = error.to_owned();
            self.named.push(Failure { database: subject.database, key, error });
        }
    }
}

pub fn shown(key: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 128;
    let text = String::from_utf8_lossy(&key[..key.len().min(SHOWN_BYTES_MAX)]).into_owned();
    if key.len() > SHOWN_BYTES_MAX { format!("{text}... ({} bytes)", key.len()) } else { text }
}

/// What one command may have at most. More would end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub word_bytes_max: usize,
    pub request_bytes_max: usize,
    pub words_max: usize,
}

impl Limits {
    /// As the server says, or as they come when it does not.
    pub fn ask(connection: &mut Connection) -> anyhow::Result<Limits> {
        let mut setting = |name: &str, otherwise: usize| -> anyhow::Result<usize> {
            let answer = connection.call(&["CONFIG", "GET", name])?;
            let Answer::Array(pair) = answer else { return Ok(otherwise) };
            Ok(pair.get(1).and_then(|value| value.text().parse().ok()).unwrap_or(otherwise))
        };
        Ok(Limits {
            word_bytes_max: setting("proto-max-bulk-len", 512 * 1024)?,
            request_bytes_max: setting("request_bytes_max", 16 << 20)?,
            words_max: setting("arguments_max", 65_536)?,
        })
    }

    /// Why a command would be refused.
    pub fn refusal(&self, words: &[impl AsRef<[u8]>]) -> Option<String> {
        let longest = words.iter().map(|word| word.as_ref().len()).max().unwrap_or(0);
        let bytes: usize = words.iter().map(|word| word.as_ref().len()).sum();
        if longest > self.word_bytes_max {
            let max = self.word_bytes_max;
            return Some(format!(
                "it holds a string of {longest} bytes, and the store takes {max}: raise bulk_bytes_max"
            ));
        }
        if bytes > self.request_bytes_max {
            let max = self.request_bytes_max;
            return Some(format!(
                "one command for it has {bytes} bytes, and the store takes {max}: raise request_bytes_max"
            ));
        }
        let (count, max) = (words.len(), self.words_max);
        (count > max).then(|| {
            format!("one command for it has {count} words, and the store takes {max}: raise arguments_max")
        })
    }
}

pub struct Lane {
    connection: Connection,
    batch: Vec<u8>,
    /// What the commands of the batch are about, and those of the batch that was sent.
    batched: Vec<Rc<Subject>>,
    sent: Vec<Rc<Subject>>,
    /// Commands that were answered with an empty array.
    pub empty_answers: u64,
}

impl Lane {
    pub fn new(connection: Connection) -> Lane {
        Lane {
            connection,
            batch: Vec::new(),
            batched: Vec::new(),
            sent: Vec::new(),
            empty_answers: 0,
        }
    }

    pub fn push(
        &mut self,
        subject: &Rc<Subject>,
        words: &[impl AsRef<[u8]>],
        failures: &mut Failures,
    ) -> anyhow::Result<()> {
        put_command(&mut self.batch, words);
        self.batched.push(subject.clone());
        if self.batched.len() >= BATCH_COMMANDS || self.batch.len() >= BATCH_BYTES {
            self.send(failures)?;
        }
        Ok(())
    }

    /// Waits for the batch before, and sends this one.
    fn send(&mut self, failures: &mut Failures) -> anyhow::Result<()> {
        self.receive(failures)?;
        self.connection.send(&self.batch)?;
        self.batch.clear();
        std::mem::swap(&mut self.sent, &mut self.batched);
        Ok(())
    }

    fn receive(&mut self, failures: &mut Failures) -> anyhow::Result<()> {
        for subject in self.sent.drain(..) {
            let answer = self.connection.receive()?;
            self.empty_answers += u64::from(answer == Answer::Array(Vec::new()));
            let Some(error) = answer.error() else { continue };
            if ENDING.iter().any(|code| error.starts_with(code)) {
                bail!(
                    "the store refuses to write, at key {} of database {}: {error}; when that is mended, \
                     run the same command again",
                    shown(&subject.key),
                    subject.database
                );
            }
            failures.add(&subject, error);
        }
        Ok(())
    }

    /// Sends everything and waits until it is done.
    pub fn finish(&mut self, failures: &mut Failures) -> anyhow::Result<()> {
        if !self.batched.is_empty() {
            self.send(failures)?;
        }
        self.receive(failures)
    }

    /// What follows is of this database, if the store has it; otherwise why not.
    pub fn select(
        &mut self,
        database: u64,
        failures: &mut Failures,
    ) -> anyhow::Result<Option<String>> {
        self.finish(failures)?;
        let answer = self.connection.call(&["SELECT", &database.to_string()])?;
        Ok(answer.error().map(str::to_owned))
    }
}
