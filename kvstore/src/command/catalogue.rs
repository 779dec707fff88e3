//! What is known of every command of Redis 7.0.15: how many words, which flags, which words are keys,
//! which ACL categories. COMMAND, ACL and the checks before a command runs read it.
//!
//! The facts are in `catalogue.txt`, one command or subcommand a line, which a test holds to a running
//! redis-server. [`table`](super::table) says which of them run here, [`left_out`](super::left_out)
//! which do not.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;

use super::is_word;
use super::table::is_arity;
use crate::resp;

const TEXT: &str = include_str!("catalogue.txt");

/// Commands of this server that Redis does not have, in the same form.
const OWN: &str = "\
checkpoint\t-2\tadmin,noscript\t0,0,0\tadmin,slow,dangerous\t-\t-\t7.0.0\tserver
namespace\t-2\tadmin,noscript,loading,stale\t0,0,0\tadmin,slow,dangerous\t-\t-\t7.0.0\tserver
";

pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

pub struct Facts {
    /// In small letters; a subcommand with its container, as in `config|get`.
    pub name: &'static str,
    /// Words, the name included; negative means at least so many.
    pub arity: i16,
    pub flags: Vec<&'static str>,
    pub first_last_step: [i32; 3],
    pub categories: Vec<&'static str>,
    pub tips: Vec<&'static str>,
    pub key_specs: Vec<KeySpec>,
    pub since: &'static str,
    pub group: &'static str,
    /// Its place among all, for sets of commands.
    pub index: usize,
    /// The places of its subcommands, which follow it.
    subcommands: Range<usize>,
}

/// Where keys are among the words, and what is done with them.
pub struct KeySpec {
    pub flags: Vec<&'static str>,
    pub begin: Begin,
    pub find: Find,
}

pub enum Begin {
    Index(usize),
    /// After a word; negative starts count from the end and search backwards.
    Keyword(&'static str, isize),
    Unknown,
}

pub enum Find {
    /// The last key after the first (negative from the end, of the rest divided by `limit`), and a step.
    Range {
        last: isize,
        step: usize,
        limit: usize,
    },
    /// The number of keys is a word itself.
    Count {
        place: usize,
        first: usize,
        step: usize,
    },
    Unknown,
}

/// A key among the words of a command.
pub struct KeyPlace<'a> {
    pub index: usize,
    pub spec: &'a KeySpec,
}

/// Words that say how many keys there are, and do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKeys;

static ALL: LazyLock<Vec<Facts>> = LazyLock::new(|| {
    let lines = TEXT.lines().chain(OWN.lines()).filter(|line| !line.starts_with('#'));
    let mut all: Vec<Facts> = lines.enumerate().map(|(index, line)| parse(index, line)).collect();
    for index in 0..all.len() {
        let prefix = format!("{}|", all[index].name);
        let is_own = |facts: &&Facts| facts.name.starts_with(&prefix);
        let count = all[index + 1..].iter().take_while(is_own).count();
        all[index].subcommands = index + 1..index + 1 + count;
    }
    all
});

static BY_NAME: LazyLock<HashMap<&'static str, &'static Facts>> =
    LazyLock::new(|| ALL.iter().map(|facts| (facts.name, facts)).collect());

pub fn all() -> &'static [Facts] {
    &ALL
}

/// By its full name, in any case.
pub fn find(name: &[u8]) -> Option<&'static Facts> {
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    BY_NAME.get(name.as_str()).copied()
}

impl Facts {
    pub fn subcommands(&self) -> &'static [Facts] {
        &ALL[self.subcommands.clone()]
    }

    /// Of these words, which start with this command: itself, or the subcommand that they name.
    pub fn of_words(&'static self, words: &[Bytes]) -> Option<&'static Facts> {
        match words.get(1) {
            Some(word) if !self.subcommands.is_empty() => self.subcommand(word),
            _ => Some(self),
        }
    }

    pub fn subcommand(&self, word: &[u8]) -> Option<&'static Facts> {
        let start = self.name.len() + 1;
        self.subcommands().iter().find(|facts| is_word(word, &facts.name[start..]))
    }

    pub fn accepts(&self, words: usize) -> bool {
        is_arity(self.arity, words)
    }

    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    pub fn is_in(&self, category: &str) -> bool {
        self.categories.contains(&category)
    }

    /// The keys among the words.
    pub fn keys(&self, words: &[Bytes]) -> Result<Vec<KeyPlace<'_>>, InvalidKeys> {
        let mut found = Vec::new();
        for spec in &self.key_specs {
            let Some(first) = spec.begin.of(words) else { continue };
            let Some((first, last, step)) = spec.find.of(words, first)? else { continue };
            let last = last.min(words.len() as isize - 1);
            let places = (first as isize..=last).step_by(step);
            found.extend(places.map(|index| KeyPlace { index: index as usize, spec }));
        }
        Ok(found)
    }
}

impl Begin {
    fn of(&self, words: &[Bytes]) -> Option<usize> {
        let is_it = |index: &usize, word: &str| is_word(&words[*index], word);
        let found = match self {
            Begin::Index(index) => return Some(*index),
            Begin::Unknown => return None,
            Begin::Keyword(word, from @ 0..) => {
                (*from as usize..words.len()).find(|index| is_it(index, word))
            }
            Begin::Keyword(word, from) => {
                let start = words.len().checked_add_signed(*from)?;
                (1..=start).rev().find(|index| is_it(index, word))
            }
        };
        found.map(|index| index + 1)
    }
}

impl Find {
    /// First, last and step.
    fn of(
        &self,
        words: &[Bytes],
        first: usize,
    ) -> Result<Option<(usize, isize, usize)>, InvalidKeys> {
        let (start, count) = (first as isize, words.len() as isize);
        Ok(match self {
            Find::Unknown => None,
            Find::Range { last: last @ 0.., step, .. } => Some((first, start + last, *step)),
            Find::Range { last, step, limit: 0 } => Some((first, count + last, *step)),
            Find::Range { last, step, limit } => {
                let keys = (count - start) / *limit as isize;
                Some((first, start + keys + last, *step))
            }
            Find::Count { place, first: offset, step } => {
                let word = words.get(first + place).ok_or(InvalidKeys)?;
                let keys = resp::integer(word).and_then(|keys| isize::try_from(keys).ok());
                let keys = keys.filter(|keys| (0..=count).contains(keys)).ok_or(InvalidKeys)?;
                let first = first + offset;
                Some((first, first as isize + keys - 1, *step))
            }
        })
    }
}

/// A line of the file. Anything else than what it says at its top is a bug, which the tests find.
fn parse(index: usize, line: &'static str) -> Facts {
    let fields: Vec<&str> = line.split('\t').collect();
    let [name, arity, flags, places, categories, tips, specs, since, group] = fields[..] else {
        panic!("a line has nine fields: {line}");
    };
    let list = |text: &'static str, between: char| match text {
        "-" => Vec::new(),
        text => text.split(between).collect(),
    };
    let places: Vec<i32> = places.split(',').map(number).collect();
    Facts {
        name,
        arity: number(arity),
        flags: list(flags, ','),
        first_last_step: places.try_into().expect("three places"),
        categories: list(categories, ','),
        tips: list(tips, ','),
        key_specs: list(specs, ' ').into_iter().map(key_spec).collect(),
        since,
        group,
        index,
        subcommands: 0..0,
    }
}

fn key_spec(text: &'static str) -> KeySpec {
    let (flags, rest) = text.split_once('@').expect("flags before @");
    let (begin, find) = rest.split_once('/').expect("two searches");
    let begin: Vec<&str> = begin.split(':').collect();
    let find: Vec<&str> = find.split(':').collect();
    KeySpec {
        flags: flags.split(',').collect(),
        begin: match begin[..] {
            ["index", index] => Begin::Index(number(index)),
            ["keyword", word, from] => Begin::Keyword(word, number(from)),
            _ => Begin::Unknown,
        },
        find: match find[..] {
            ["range", last, step, limit] => {
                Find::Range { last: number(last), step: number(step), limit: number(limit) }
            }
            ["keynum", place, first, step] => {
                Find::Count { place: number(place), first: number(first), step: number(step) }
            }
            _ => Find::Unknown,
        },
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().expect("a number")
}
