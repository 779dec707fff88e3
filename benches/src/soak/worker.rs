//! One client of the soak: it writes to keys of its own, remembers what is in them, and checks every
//! answer. What it does next is chance, from a seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::client::{Answer, Client};

/// Keys of strings that one worker has at most: with 16 workers 150 MB, several times the cache.
const KEYS: u64 = 20_000;

/// Members and entries that one worker has at most.
const MEMBERS: u64 = 2_000;
const LIST_LEN_MAX: usize = 1_000;
const STREAM_LEN: u64 = 1_000;

/// Commands after which a worker leaves and comes back.
const COMMANDS_OF_CONNECTION: u64 = 3_000;

/// Fields of the large hash that is now and then made and deleted.
const LARGE_FIELDS: u64 = 5_000;

/// How much before and after its end an expiring key is not looked at: clocks and queues.
const EXPIRY_MARGIN: Duration = Duration::from_millis(1_500);

/// What all workers share.
#[derive(Default)]
pub struct Together {
    pub stop: AtomicBool,
    pub commands: AtomicU64,
    pub connects: AtomicU64,
    pub expired: AtomicU64,
    /// What the counter that all count up must be at the end.
    pub counted: AtomicU64,
}

/// What a string was set to: told by two numbers, so that remembering it costs little.
#[derive(Clone, Copy)]
struct Value {
    bytes: u64,
    start: u64,
}

impl Value {
    /// Bytes that do not compress, so that files are as large as what was written.
    fn text(self) -> Vec<u8> {
        let mixed = |at: u64| (at + self.start).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..self.bytes).map(|at| (mixed(at) >> 56) as u8 ^ (mixed(at) >> 29) as u8).collect()
    }
}

pub struct Worker<'a> {
    together: &'a Together,
    port: u16,
    client: Client,
    name: String,
    random: u64,
    commands: u64,
    strings: BTreeMap<u64, Value>,
    fields: BTreeMap<u64, i64>,
    list: VecDeque<u64>,
    members: BTreeSet<u64>,
    scores: BTreeMap<u64, i64>,
    entries: u64,
    pairs: i64,
    next: u64,
    /// Keys that expire, and when.
    expiring: VecDeque<(u64, Instant)>,
}

impl<'a> Worker<'a> {
    pub fn new(port: u16, number: u64, together: &'a Together) -> anyhow::Result<Worker<'a>> {
        Ok(Worker {
            together,
            port,
            client: Client::connect(port)?,
            name: format!("w{number}"),
            random: 0x9e37_79b9_7f4a_7c15 ^ (number + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9),
            commands: 0,
            strings: BTreeMap::new(),
            fields: BTreeMap::new(),
            list: VecDeque::new(),
            members: BTreeSet::new(),
            scores: BTreeMap::new(),
            entries: 0,
            pairs: 0,
            next: 0,
            expiring: VecDeque::new(),
        })
    }

    pub fn run(mut self) -> anyhow::Result<()> {
        while !self.together.stop.load(Relaxed) {
            let before = self.commands;
            match self.below(100) {
                0..20 => self.string()?,
                20..35 => self.pipeline()?,
                35..47 => self.hash()?,
                47..57 => self.list()?,
                57..67 => self.set()?,
                67..77 => self.sorted_set()?,
                77..84 => self.stream()?,
                84..89 => self.transaction()?,
                89..94 => self.expiry()?,
                94..96 => self.blocking()?,
                96..98 => self.scan()?,
                98 => self.large()?,
                _ => self.delete()?,
            }
            self.together.commands.fetch_add(self.commands - before, Relaxed);
            if self.commands > COMMANDS_OF_CONNECTION {
                self.commands = 0;
                self.client = Client::connect(self.port)?;
                self.together.connects.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }

    /// Mostly some hundred bytes, now and then enough for a blob file.
    fn value(&mut self) -> Value {
        let bytes = if self.below(200) == 0 { 40_000 } else { 16 + self.below(500) };
        Value { bytes, start: self.below(1 << 40) }
    }

    fn remembered(&self, number: u64) -> Answer {
        self.strings.get(&number).map_or(Answer::Nil, |value| Answer::Text(value.text()))
    }

    fn check(&mut self, words: &[&[u8]], expected: &Answer) -> anyhow::Result<()> {
        self.commands += 1;
        let answer = self.client.call(words)?;
        same(words, &answer, expected)
    }

    fn check_text(&mut self, command: &str, expected: Answer) -> anyhow::Result<()> {
        self.check(&command.split(' ').map(str::as_bytes).collect::<Vec<_>>(), &expected)
    }

    fn string(&mut self) -> anyhow::Result<()> {
        let number = self.below(KEYS);
        let key = format!("{}:s:{number}", self.name);
        match self.below(4) {
            0 => {
                let value = self.value();
                self.check(&[b"SET", key.as_bytes(), &value.text()], &"OK".into())?;
                self.strings.insert(number, value);
            }
            1 => {
                let expected = self.remembered(number);
                self.strings.remove(&number);
                self.check(&[b"GETDEL", key.as_bytes()], &expected)?;
            }
            _ => {
                let expected = self.remembered(number);
                self.check(&[b"GET", key.as_bytes()], &expected)?;
            }
        }
        Ok(())
    }

    fn pipeline(&mut self) -> anyhow::Result<()> {
        let count = 1 + self.below(32);
        let mut expected = Vec::new();
        for _ in 0..count {
            let number = self.below(KEYS);
            let key = format!("{}:s:{number}", self.name);
            if self.below(2) == 0 {
                let value = self.value();
                self.client.push(&[b"SET", key.as_bytes(), &value.text()]);
                self.strings.insert(number, value);
                expected.push("OK".into());
            } else {
                self.client.push(&[b"GET", key.as_bytes()]);
                expected.push(self.remembered(number));
            }
        }
        self.client.flush()?;
        for expected in &expected {
            let answer = self.client.answer()?;
            same(&[b"a pipeline"], &answer, expected)?;
        }
        self.commands += count;
        Ok(())
    }

    fn hash(&mut self) -> anyhow::Result<()> {
        let (name, field) = (self.name.clone(), self.below(MEMBERS));
        match self.below(4) {
            0 | 1 => {
                let value = self.fields.entry(field).or_default();
                *value += 3;
                let value = *value;
                self.check_text(&format!("HINCRBY {name}:h {field} 3"), Answer::Number(value))
            }
            2 => {
                let gone = i64::from(self.fields.remove(&field).is_some());
                self.check_text(&format!("HDEL {name}:h {field}"), Answer::Number(gone))
            }
            _ => {
                let len = self.fields.len() as i64;
                self.check_text(&format!("HLEN {name}:h"), Answer::Number(len))?;
                let value = self.fields.get(&field);
                let value = value.map_or(Answer::Nil, |value| value.to_string().as_str().into());
                self.check_text(&format!("HGET {name}:h {field}"), value)
            }
        }
    }

    fn list(&mut self) -> anyhow::Result<()> {
        let name = self.name.clone();
        if self.list.len() < LIST_LEN_MAX && self.below(2) == 0 {
            self.next += 1;
            self.list.push_back(self.next);
            let len = Answer::Number(self.list.len() as i64);
            return self.check_text(&format!("RPUSH {name}:l {}", self.next), len);
        }
        let first = self.list.pop_front();
        let first = first.map_or(Answer::Nil, |number| number.to_string().as_str().into());
        self.check_text(&format!("LPOP {name}:l"), first)
    }

    fn set(&mut self) -> anyhow::Result<()> {
        let (name, member) = (self.name.clone(), self.below(MEMBERS));
        match self.below(3) {
            0 => {
                let new = Answer::Number(self.members.insert(member).into());
                self.check_text(&format!("SADD {name}:m {member}"), new)
            }
            1 => {
                let gone = Answer::Number(self.members.remove(&member).into());
                self.check_text(&format!("SREM {name}:m {member}"), gone)
            }
            _ => {
                let is_in = Answer::Number(self.members.contains(&member).into());
                self.check_text(&format!("SISMEMBER {name}:m {member}"), is_in)
            }
        }
    }

    fn sorted_set(&mut self) -> anyhow::Result<()> {
        let (name, member) = (self.name.clone(), self.below(MEMBERS));
        match self.below(4) {
            0 | 1 => {
                let score = self.below(1_000) as i64;
                let new = Answer::Number(self.scores.insert(member, score).is_none().into());
                self.check_text(&format!("ZADD {name}:z {score} {member}"), new)
            }
            2 => {
                // Of equal scores the member that is less as text.
                let least = self.scores.iter().map(|(member, score)| (*score, member.to_string()));
                let popped = least.min().map_or(vec![], |(score, member)| {
                    self.scores.remove(&member.parse().expect("a number"));
                    vec![member.as_str().into(), score.to_string().as_str().into()]
                });
                self.check_text(&format!("ZPOPMIN {name}:z"), Answer::List(popped))
            }
            _ => {
                let score = self.scores.get(&member);
                let score = score.map_or(Answer::Nil, |score| score.to_string().as_str().into());
                self.check_text(&format!("ZSCORE {name}:z {member}"), score)
            }
        }
    }

    /// Every entry that is added is read through the group once, in order, and acknowledged.
    fn stream(&mut self) -> anyhow::Result<()> {
        let key = format!("{}:x", self.name);
        if self.entries == 0 {
            self.commands += 1;
            self.client.run(&format!("XGROUP CREATE {key} g 0 MKSTREAM"))?;
        }
        self.entries += 1;
        let (id, entry) = (format!("{}-1", self.entries), self.entries.to_string());
        let add = format!("XADD {key} MAXLEN ~ {STREAM_LEN} {id} n {entry}");
        self.check_text(&add, id.as_str().into())?;
        let fields = Answer::List(vec!["n".into(), entry.as_str().into()]);
        let entries = Answer::List(vec![Answer::List(vec![id.as_str().into(), fields])]);
        let read = Answer::List(vec![Answer::List(vec![key.as_str().into(), entries])]);
        self.check_text(&format!("XREADGROUP GROUP g c COUNT 10 STREAMS {key} >"), read)?;
        self.check_text(&format!("XACK {key} g {id}"), Answer::Number(1))
    }

    /// Two counters of its own that are always equal, and one that all have together.
    fn transaction(&mut self) -> anyhow::Result<()> {
        let name = self.name.clone();
        self.pairs += 1;
        self.check_text(&format!("WATCH {name}:a"), "OK".into())?;
        self.check_text("MULTI", "OK".into())?;
        for command in [format!("INCR {name}:a"), format!("INCR {name}:b"), "INCR all".into()] {
            self.check_text(&command, "QUEUED".into())?;
        }
        self.commands += 1;
        let answer = self.client.run("EXEC")?;
        let pair = Answer::Number(self.pairs);
        let is_right = matches!(&answer, Answer::List(answers)
            if answers.len() == 3 && answers[0] == pair && answers[1] == pair);
        ensure!(is_right, "EXEC answered {answer:?} where both are {pair:?}");
        self.together.counted.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Sets a key that expires, and looks at those whose time is over, or not yet.
    fn expiry(&mut self) -> anyhow::Result<()> {
        self.next += 1;
        let (number, ms) = (self.next, 2_000 + self.below(20_000));
        let value = self.value().text();
        let key = format!("{}:e:{number}", self.name);
        let now = Instant::now();
        let set: [&[u8]; 5] = [b"SET", key.as_bytes(), &value, b"PX", &ms.to_string().into_bytes()];
        self.check(&set, &"OK".into())?;
        if now.elapsed() + EXPIRY_MARGIN < Duration::from_millis(ms) {
            let bytes = Answer::Number(value.len() as i64);
            self.check(&[b"STRLEN", key.as_bytes()], &bytes)?;
        }
        self.expiring.push_back((number, Instant::now() + Duration::from_millis(ms)));
        while let Some((number, end)) = self.expiring.front().copied()
            && Instant::now() > end + EXPIRY_MARGIN
        {
            self.expiring.pop_front();
            self.check_text(&format!("EXISTS {}:e:{number}", self.name), Answer::Number(0))?;
            self.together.expired.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// A second client waits for what this one pushes.
    fn blocking(&mut self) -> anyhow::Result<()> {
        let key = format!("{}:q", self.name);
        let mut waiter = Client::connect(self.port)?;
        self.together.connects.fetch_add(1, Relaxed);
        self.next += 1;
        let token = self.next.to_string();
        waiter.push(&[b"BLPOP", key.as_bytes(), b"30"]);
        waiter.flush()?;
        self.commands += 2;
        let pushed = self.client.call(&[b"RPUSH", key.as_bytes(), token.as_bytes()])?;
        same(&[b"RPUSH", key.as_bytes()], &pushed, &Answer::Number(1))?;
        let popped = Answer::List(vec![key.as_str().into(), token.as_str().into()]);
        same(&[b"BLPOP", key.as_bytes()], &waiter.answer()?, &popped)
    }

    /// A walk over the set gives every member once.
    fn scan(&mut self) -> anyhow::Result<()> {
        let (mut cursor, mut found, mut steps) = (b"0".to_vec(), BTreeSet::new(), 0);
        let key = format!("{}:m", self.name);
        loop {
            self.commands += 1;
            steps += 1;
            let scan: [&[u8]; 5] = [b"SSCAN", key.as_bytes(), &cursor, b"COUNT", b"200"];
            let Answer::List(parts) = self.client.call(&scan)? else {
                anyhow::bail!("SSCAN answered no list");
            };
            let [Answer::Text(next), Answer::List(members)] = &parts[..] else {
                anyhow::bail!("SSCAN answered {parts:?}");
            };
            for member in members {
                let Answer::Text(text) = member else { anyhow::bail!("no member: {member:?}") };
                found.insert(String::from_utf8_lossy(text).parse::<u64>()?);
            }
            cursor.clone_from(next);
            if cursor == b"0" {
                break;
            }
            ensure!(steps <= MEMBERS, "a walk does not end");
        }
        let (is, should) = (found.len(), self.members.len());
        ensure!(found == self.members, "SSCAN {key} found {is} members of {should}");
        Ok(())
    }

    /// A large hash comes and goes as a whole.
    fn large(&mut self) -> anyhow::Result<()> {
        let key = format!("{}:large", self.name);
        let pairs: Vec<String> =
            (0..LARGE_FIELDS).flat_map(|field| [field.to_string(), "x".repeat(20)]).collect();
        let mut words: Vec<&[u8]> = vec![b"HSET", key.as_bytes()];
        words.extend(pairs.iter().map(String::as_bytes));
        let all = Answer::Number(LARGE_FIELDS as i64);
        self.check(&words[..], &all)?;
        self.check(&[b"HLEN", key.as_bytes()], &all)?;
        self.check(&[b"UNLINK", key.as_bytes()], &Answer::Number(1))?;
        self.check(&[b"HGET", key.as_bytes(), b"1"], &Answer::Nil)
    }

    /// One of its collections goes.
    fn delete(&mut self) -> anyhow::Result<()> {
        let (name, kind) = (self.name.clone(), self.below(4));
        let (kind, was_there) = match kind {
            0 => ("h", !std::mem::take(&mut self.fields).is_empty()),
            1 => ("l", !std::mem::take(&mut self.list).is_empty()),
            2 => ("m", !std::mem::take(&mut self.members).is_empty()),
            _ => ("z", !std::mem::take(&mut self.scores).is_empty()),
        };
        self.check_text(&format!("DEL {name}:{kind}"), Answer::Number(was_there.into()))
    }
}

fn same(words: &[&[u8]], answer: &Answer, expected: &Answer) -> anyhow::Result<()> {
    if answer == expected {
        return Ok(());
    }
    let shown = |text: String| text.chars().take(300).collect::<String>();
    let command: Vec<_> = words.iter().take(6).map(|word| String::from_utf8_lossy(word)).collect();
    anyhow::bail!(
        "{} answered {} and not {}",
        shown(command.join(" ")),
        shown(format!("{answer:?}")),
        shown(format!("{expected:?}"))
    )
}
