//! One client that writes until it is told to stop or the server is gone.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::Sender;

use crate::client::{Answer, Client, Words, encode, words};
use crate::oracle::{Ledger, Operation};
use crate::random::Random;

/// What all writers of a cycle look at.
#[derive(Default)]
pub struct Signals {
    pub stop: AtomicBool,
    /// A write that was refused for good ends the writer; otherwise it goes on with others.
    pub ends_when_refused: bool,
    pub refused: AtomicU64,
}

pub struct Writer {
    pub number: usize,
    pub random: Random,
    /// How many times as large values are as usual.
    pub scale: usize,
    /// Operations so far; ids of stream entries come from it.
    pub operations: u64,
}

/// What became of one operation.
enum Fate {
    Happened,
    Refused,
    /// Nobody knows, and the writer asks for nothing more.
    Open,
}

/// What an operation is answered whose outcome nobody knows.
const OUTCOME_OPEN: &str = "OUTCOMEOPEN";

const KEYS_OF_A_KIND: u64 = 4;
const PIPELINE_MAX: u64 = 6;
/// 2100-01-01. What expires then has not expired.
const FAR_SECONDS: u64 = 4_102_444_800;

impl Writer {
    /// Says after each pipeline how many operations were answered. An error is a wrong answer.
    pub fn run(
        &mut self,
        socket: &Path,
        ledger: &mut Ledger,
        signals: &Signals,
        progress: &Sender<u64>,
    ) -> Result<(), String> {
        let Some(mut client) = Client::connect(socket) else { return Ok(()) };
        let mut model = ledger.before.clone();
        while !signals.stop.load(SeqCst) {
            // Where one may be refused and the next one not, each answer is waited for: otherwise nobody
            // could say which of those without an answer have happened.
            let count = match signals.ends_when_refused {
                true => 1 + self.random.below(PIPELINE_MAX),
                false => 1,
            };
            let batch: Vec<Operation> = (0..count).map(|_| self.operation()).collect();
            let mut bytes = Vec::new();
            batch.iter().for_each(|operation| operation.encode(&mut bytes));
            let first = ledger.sent.len();
            ledger.sent.extend(batch.iter().cloned());
            if client.send(&bytes).is_none() {
                return Ok(());
            }
            let (mut answered, mut refused) = (0, Vec::new());
            for (index, operation) in batch.iter().enumerate() {
                let Some(answers) = operation.answers(&mut client) else { break };
                match fate(&answers) {
                    Fate::Open => break,
                    Fate::Refused => refused.push(first + index),
                    Fate::Happened => {
                        let expected = operation.run(&mut model);
                        compare(operation, &answers, &expected)?;
                        answered += 1;
                    }
                }
            }
            let is_cut_short = answered + refused.len() < batch.len();
            for index in refused.iter().rev() {
                ledger.sent.remove(*index);
            }
            ledger.answered += answered;
            let before = signals.refused.fetch_add(refused.len() as u64, SeqCst);
            let ends = signals.ends_when_refused && before + refused.len() as u64 > 0;
            if progress.send(answered as u64).is_err() || is_cut_short || ends {
                return Ok(());
            }
        }
        Ok(())
    }

    fn operation(&mut self) -> Operation {
        self.operations += 1;
        let is_transaction = self.random.below(4) == 0;
        let count = if is_transaction { 2 + self.random.below(4) } else { 1 };
        let mut commands: Vec<Words> = (0..count).map(|_| self.command()).collect();
        // A reader must not see one without the other, and nor must a crash.
        if is_transaction && self.random.below(2) == 0 {
            commands
                .push(words(&format!("XADD shared:log * w {}:{}", self.number, self.operations)));
            commands.push(words("INCRBY shared:count 1"));
        }
        Operation { commands, is_transaction }
    }

    fn command(&mut self) -> Words {
        let number = self.operations;
        let kind = *self.random.one_of(&["s", "c", "h", "l", "x"]);
        let key = self.key(kind);
        let field = self.random.below(12);
        let command = match (kind, self.random.below(12)) {
            (_, 0) => format!("DEL {key}"),
            (_, 1) => {
                let kind = *self.random.one_of(&["s", "c", "h", "l", "x"]);
                format!("RENAME {key} {}", self.key(kind))
            }
            (_, 2) => format!("EXPIREAT {key} {}", FAR_SECONDS + number),
            (_, 3) => format!("PERSIST {key}"),
            ("s", 4) => format!("GET {key}"),
            ("s", 5) => format!("GETDEL {key}"),
            ("s", 6 | 7) => format!("APPEND {key} {number}."),
            ("s", 8) => {
                let other = self.key("s");
                format!("MSET {key} {} {other} {}", self.value(), self.value())
            }
            ("s", _) => format!("SET {key} {}", self.value()),
            ("c", _) => format!("INCRBY {key} {}", self.random.below(1000)),
            ("h", 4) => format!("HLEN {key}"),
            ("h", 5) => format!("HDEL {key} f{field}"),
            ("h", 6) => format!("HINCRBY {key} n{field} {number}"),
            ("h", _) => format!("HSET {key} f{field} {}", self.value()),
            ("l", 4) => format!("LLEN {key}"),
            ("l", 5 | 6) => format!("LPOP {key}"),
            ("l", 7) => format!("RPOP {key}"),
            ("l", 8) => format!("LPUSH {key} {}", self.value()),
            ("l", _) => format!("RPUSH {key} {}", self.value()),
            ("x", 4) => format!("XLEN {key}"),
            ("x", 5) => format!("XTRIM {key} MAXLEN {}", self.random.below(20)),
            ("x", 6) => format!("XDEL {key} {}-0", number - self.random.below(20).min(number)),
            _ => return words(&format!("XADD {key} {}-0 v {}", self.entry_id(), self.value())),
        };
        words(&command)
    }

    /// Ids grow, also within one transaction.
    fn entry_id(&mut self) -> u64 {
        self.operations += 1;
        self.operations
    }

    fn key(&mut self, kind: &str) -> String {
        format!("w{}:{kind}{}", self.number, self.random.below(KEYS_OF_A_KIND))
    }

    /// Mostly small; some large, so that a record has many sectors.
    fn value(&mut self) -> String {
        let repeats = *self.random.one_of(&[1, 1, 4, 40, 400]);
        format!("v{}/", self.operations).repeat(repeats * self.scale)
    }
}

impl Operation {
    fn encode(&self, out: &mut Vec<u8>) {
        if self.is_transaction {
            encode(out, &words("MULTI"));
        }
        self.commands.iter().for_each(|command| encode(out, command));
        if self.is_transaction {
            encode(out, &words("EXEC"));
        }
    }

    fn answers(&self, client: &mut Client) -> Option<Vec<Answer>> {
        if !self.is_transaction {
            return Some(vec![client.receive()?]);
        }
        for _ in 0..=self.commands.len() {
            client.receive()?;
        }
        Some(match client.receive()? {
            Answer::Array(answers) => answers,
            other => vec![other],
        })
    }
}

fn fate(answers: &[Answer]) -> Fate {
    match answers {
        [Answer::Error(error)] if error.starts_with(OUTCOME_OPEN) => Fate::Open,
        [Answer::Error(error)] if error.contains("nothing was written") => Fate::Refused,
        // A disk without power is not read either.
        [Answer::Error(error)] if error.contains("the store cannot read") => Fate::Refused,
        _ => Fate::Happened,
    }
}

fn compare(
    operation: &Operation,
    answers: &[Answer],
    expected: &[Option<Answer>],
) -> Result<(), String> {
    let is_right = |(answer, expected): (&Answer, &Option<Answer>)| match expected {
        Some(expected) => expected == answer,
        None => !matches!(answer, Answer::Error(_)),
    };
    if answers.len() == expected.len() && answers.iter().zip(expected).all(is_right) {
        return Ok(());
    }
    let text = format!("wrong answer to {operation:?}: {answers:?}, not {expected:?}");
    Err(text.chars().take(1000).collect())
}
