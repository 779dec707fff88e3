//! What was asked for, what was answered, and whether a store that was started again fits to it.
//!
//! A writer's operations go over one connection, so they happen in its order. After a crash the store
//! must be where one writer's operations have happened up to some point, not before the last that was
//! answered: **all** of the writer's keys at the same point, since groups are applied as a whole and in
//! order. All writers also append to one stream and count in one counter, often in one transaction with
//! their own keys: there, everyone's entries are in order, up to the same point again.

use std::collections::BTreeMap;

use crate::client::{Answer, Client, Words};
use crate::model::{GONE, Keys, Model, SHARED, read_all, show};

/// Commands that happen together or not at all.
#[derive(Clone, Debug)]
pub struct Operation {
    pub commands: Vec<Words>,
    pub is_transaction: bool,
}

impl Operation {
    /// Does it to the model. What a shared key answers is not known from one writer alone.
    pub fn run(&self, model: &mut Model) -> Vec<Option<Answer>> {
        let run = |command: &Words| {
            let is_shared = command[1].starts_with(SHARED);
            (!is_shared).then(|| model.run(command))
        };
        self.commands.iter().map(run).collect()
    }

    /// The entry it appends to the shared stream.
    fn shared_entry(&self) -> Option<&[u8]> {
        let appends = |command: &&Words| command[0] == b"XADD" && command[1].starts_with(SHARED);
        self.commands.iter().find(appends).map(|command| &command[4][..])
    }

    fn counts(&self) -> usize {
        let counts = |command: &&Words| command[0] == b"INCRBY" && command[1].starts_with(SHARED);
        self.commands.iter().filter(counts).count()
    }
}

/// What one writer has done since the store was last looked at.
pub struct Ledger {
    /// Its keys as they were then.
    pub before: Model,
    /// Sent, in order. Those that were refused are taken out again.
    pub sent: Vec<Operation>,
    /// How many of them are known to have happened.
    pub answered: usize,
    /// Its entries in the shared stream that were there then.
    entries: Vec<Vec<u8>>,
}

pub struct Oracle {
    pub ledgers: Vec<Ledger>,
    /// The shared counter as it was when the store was last looked at.
    count: usize,
    /// The most that a reader has seen it at.
    pub count_seen: usize,
}

impl Oracle {
    pub fn new(writers: usize) -> Oracle {
        let ledger = || Ledger {
            before: Model::default(),
            sent: Vec::new(),
            answered: 0,
            entries: Vec::new(),
        };
        Oracle { ledgers: (0..writers).map(|_| ledger()).collect(), count: 0, count_seen: 0 }
    }

    /// What was answered may be lost, from some moment on.
    pub fn forgive(&mut self) {
        self.count_seen = 0;
        self.ledgers.iter_mut().for_each(|ledger| ledger.answered = 0);
    }

    /// Everything was dropped.
    pub fn clear(&mut self) {
        *self = Oracle::new(self.ledgers.len());
    }

    /// Compares, and goes on from what is there.
    pub fn check(&mut self, client: &mut Client) -> Result<(), String> {
        let keys = read_all(client)?;
        let (entries, count) = read_shared(client)?;
        let mut shares: BTreeMap<usize, Keys> = BTreeMap::new();
        for (key, entry) in keys {
            let owner = owner(&key).filter(|owner| *owner < self.ledgers.len());
            let owner = owner.ok_or_else(|| format!("nobody wrote {}", show(&key)))?;
            shares.entry(owner).or_default().insert(key, entry);
        }
        let mut counted = self.count;
        for (writer, ledger) in self.ledgers.iter_mut().enumerate() {
            let start = format!("{writer}:").into_bytes();
            let own = entries.iter().filter(|entry| entry.starts_with(&start));
            let found = Model { keys: shares.remove(&writer).unwrap_or_default() };
            let happened = ledger.settle(found, own.cloned().collect());
            counted += happened.map_err(|why| format!("writer {writer}: {why}"))?;
        }
        let all: usize = self.ledgers.iter().map(|ledger| ledger.entries.len()).sum();
        if entries.len() != all {
            return Err("the shared stream has entries that nobody wrote".into());
        }
        if count != counted {
            return Err(format!("the shared counter is {count}; {counted} have counted"));
        }
        if count < self.count_seen {
            return Err(format!("a reader saw the counter at {}; it is {count}", self.count_seen));
        }
        (self.count, self.count_seen) = (count, count);
        Ok(())
    }
}

impl Ledger {
    /// Finds the point up to which operations have happened; says how many counted until there.
    fn settle(&mut self, found: Model, entries: Vec<Vec<u8>>) -> Result<usize, String> {
        let mut model = self.before.clone();
        let mut expected = self.entries.clone();
        let mut counted = 0;
        let mut after_answered = None;
        for point in 0..=self.sent.len() {
            if point >= self.answered {
                if model == found && expected == entries {
                    (self.before, self.entries) = (found, entries);
                    self.sent.clear();
                    self.answered = 0;
                    return Ok(counted);
                }
                after_answered.get_or_insert((model.clone(), expected.len()));
            }
            if let Some(operation) = self.sent.get(point) {
                operation.run(&mut model);
                expected.extend(operation.shared_entry().map(<[u8]>::to_vec));
                counted += operation.counts();
            }
        }
        let (model, expected) = after_answered.expect("answered is at most sent");
        Err(format!(
            "{} operations were sent and {} answered, and the store is at none of the points between; \
             at the answered one {}, and {} entries shared, not {expected}",
            self.sent.len(),
            self.answered,
            difference(&model.keys, &found.keys),
            entries.len(),
        ))
    }
}

/// The first key that is not as it should be.
fn difference(wanted: &Keys, found: &Keys) -> String {
    let names = wanted.keys().chain(found.keys());
    let differing = names.clone().filter(|name| wanted.get(*name) != found.get(*name)).count();
    match names.clone().find(|name| wanted.get(*name) != found.get(*name)) {
        None => "all keys are right".into(),
        Some(name) => {
            let text = format!(
                "{differing} keys differ, first {}: {:?}, not {:?}",
                show(name),
                found.get(name),
                wanted.get(name)
            );
            text.chars().take(600).collect()
        }
    }
}

/// The writer whose key it is: `w3:...`.
fn owner(key: &[u8]) -> Option<usize> {
    let (owner, _) = std::str::from_utf8(key.strip_prefix(b"w")?).ok()?.split_once(':')?;
    owner.parse().ok()
}

fn read_shared(client: &mut Client) -> Result<(Vec<Vec<u8>>, usize), String> {
    let answer = client.run("XRANGE shared:log - +").ok_or(GONE)?;
    let entry = |entry: Answer| Some(entry.items().pop()?.items().get(1)?.text().into_bytes());
    let entries = match answer {
        Answer::Array(items) => items.into_iter().map(entry).collect(),
        _ => None,
    };
    let entries = entries.ok_or("the shared stream is not readable as one")?;
    let count = client.run("GET shared:count").ok_or(GONE)?.text();
    let number = if count.is_empty() { Ok(0) } else { count.parse() };
    Ok((entries, number.map_err(|_| format!("the shared counter is {count:.80}"))?))
}
