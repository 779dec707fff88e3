//! One user: how it proves who it is, and what it may do.
//!
//! A user is what its rules have made of it, one after the other, in Redis's language (`on >secret
//! ~cache:* &news:* +@read -keys`). Passwords are kept as their SHA-256 only.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::command::catalogue::{self, Facts};
use crate::command::commands::flags_of;
use crate::command::scan::glob;
use crate::command::table;

/// Patterns and passwords of one user, at most.
pub const LISTED_MAX: usize = 1024;

const SANITIZES: &str = "sanitize-payload";
const SKIPS_SANITIZING: &str = "skip-sanitize-payload";

/// Why a rule was not taken; the texts are Redis's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RuleError {
    #[error("Syntax error")]
    Syntax,
    #[error("Unknown command or category name in ACL")]
    UnknownCommand,
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not \
         have any effect. Try 'resetkeys' to start with an empty list of patterns"
    )]
    AfterAllKeys,
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does \
         not have any effect. Try 'resetchannels' to start with an empty list of channels"
    )]
    AfterAllChannels,
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    #[error(
        "The password hash must be exactly 64 characters and contain only lowercase hexadecimal \
         characters"
    )]
    BadHash,
    #[error("Allowing first-arg of a subcommand is not supported")]
    FirstArgument,
    #[error("Selectors in parentheses are not offered; make another user")]
    Selector,
    #[error("A user has at most 1024 patterns and passwords")]
    TooMany,
}

/// Why a command is not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    Command(&'static str),
    Key(Bytes),
    Channel(Bytes),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyPattern {
    pattern: Bytes,
    reads: bool,
    writes: bool,
}

/// A list of patterns, or everything.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Patterns<T> {
    All,
    These(Vec<T>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub is_on: bool,
    pub needs_no_password: bool,
    /// A word that Redis's users have once it was said; there is nothing here that it changes.
    sanitizing: Option<&'static str>,
    /// SHA-256 in hexadecimal.
    passwords: Vec<String>,
    keys: Patterns<KeyPattern>,
    channels: Patterns<Bytes>,
    /// Also what will be added later.
    all_commands: bool,
    /// By their place in the catalogue.
    commands: Vec<bool>,
    /// Commands that are allowed with one first argument only.
    first_arguments: Vec<(usize, String)>,
    /// The rules that made `commands`, to be shown.
    rules: Vec<String>,
}

pub fn hash_of(password: &[u8]) -> String {
    Sha256::digest(password).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How long it takes says nothing about where two texts differ.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |bits, (a, b)| bits | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differing) == 0
}

/// A name that fits into a file, a log line and a metric.
pub fn is_name(text: &[u8]) -> Option<&str> {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_good = (1..=64).contains(&text.len()) && text.iter().all(good);
    std::str::from_utf8(text).ok().filter(|_| is_good)
}

impl User {
    /// May do nothing, and nobody can be it yet.
    pub fn new(name: &str) -> User {
        User {
            name: name.to_string(),
            is_on: false,
            needs_no_password: false,
            sanitizing: None,
            passwords: Vec::new(),
            keys: Patterns::These(Vec::new()),
            channels: Patterns::These(Vec::new()),
            all_commands: false,
            commands: vec![false; catalogue::all().len()],
            first_arguments: Vec::new(),
            rules: vec!["-@all".to_string()],
        }
    }

    /// What every connection is before it says who it is.
    pub fn default_user(password: &str) -> User {
        let mut user = User::new("default");
        for rule in ["on", "nopass", "~*", "&*", "+@all"] {
            user.apply(rule.as_bytes()).expect("a good rule");
        }
        if !password.is_empty() {
            user.apply(&[b">", password.as_bytes()].concat()).expect("a good rule");
        }
        user
    }

    /// Whoever has opened a namespace: everything in it, and nothing of the server.
    pub fn of_namespace(name: &str) -> User {
        let mut user = User::new(name);
        for rule in ["on", "~*", "&*", "+@all", "-@admin", "-namespace"] {
            user.apply(rule.as_bytes()).expect("a good rule");
        }
        user
    }

    pub fn is_password(&self, password: &[u8]) -> bool {
        let hash = hash_of(password);
        let is_it = |known: &String| equal_in_constant_time(known.as_bytes(), hash.as_bytes());
        self.needs_no_password || self.passwords.iter().filter(|known| is_it(known)).count() > 0
    }

    /// The user with one rule more. After an error it is worth nothing.
    pub fn apply(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        let word = String::from_utf8_lossy(rule).to_lowercase();
        match (word.as_str(), rule.first()) {
            (_, None) => {}
            ("on", _) => self.is_on = true,
            ("off", _) => self.is_on = false,
            (SKIPS_SANITIZING, _) => self.sanitizing = Some(SKIPS_SANITIZING),
            (SANITIZES, _) => self.sanitizing = Some(SANITIZES),
            ("nopass", _) => (self.needs_no_password, self.passwords) = (true, Vec::new()),
            ("resetpass", _) => (self.needs_no_password, self.passwords) = (false, Vec::new()),
            ("clearselectors", _) => {}
            ("reset", _) => {
                *self = User { sanitizing: Some(SANITIZES), ..User::new(&self.name) };
            }
            ("allkeys" | "~*", _) => self.keys = Patterns::All,
            ("resetkeys", _) => self.keys = Patterns::These(Vec::new()),
            ("allchannels" | "&*", _) => self.channels = Patterns::All,
            ("resetchannels", _) => self.channels = Patterns::These(Vec::new()),
            ("allcommands", _) => self.set_category("all", true)?,
            ("nocommands", _) => self.set_category("all", false)?,
            (_, Some(b'>' | b'#' | b'<' | b'!')) => self.set_password(rule)?,
            (_, Some(b'~' | b'%')) => self.add_key_pattern(rule)?,
            (_, Some(b'&')) => self.add_channel(&rule[1..])?,
            (_, Some(b'(')) => return Err(RuleError::Selector),
            (word, Some(sign @ (b'+' | b'-'))) => match word[1..].strip_prefix('@') {
                Some(category) => self.set_category(category, *sign == b'+')?,
                None => self.set_command(&word[1..], *sign == b'+')?,
            },
            _ => return Err(RuleError::Syntax),
        }
        let keys = if let Patterns::These(keys) = &self.keys { keys.len() } else { 0 };
        let channels = if let Patterns::These(all) = &self.channels { all.len() } else { 0 };
        let listed = keys + channels + self.passwords.len() + self.first_arguments.len();
        if listed > LISTED_MAX { Err(RuleError::TooMany) } else { Ok(()) }
    }

    fn set_password(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        let (kind, text) = (rule[0], &rule[1..]);
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let hash = match kind {
            b'>' | b'<' => hash_of(text),
            _ if text.len() == 64 && text.iter().all(is_hex) => {
                String::from_utf8_lossy(text).into_owned()
            }
            _ => return Err(RuleError::BadHash),
        };
        let known = self.passwords.iter().position(|password| *password == hash);
        match (kind, known) {
            (b'>' | b'#', known) => {
                self.needs_no_password = false;
                if known.is_none() {
                    self.passwords.push(hash);
                }
            }
            (_, Some(place)) => _ = self.passwords.remove(place),
            (_, None) => return Err(RuleError::NoSuchPassword),
        }
        Ok(())
    }

    fn add_key_pattern(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        let Patterns::These(patterns) = &mut self.keys else { return Err(RuleError::AfterAllKeys) };
        let tilde = rule.iter().position(|byte| *byte == b'~').ok_or(RuleError::Syntax)?;
        let (access, pattern) = (&rule[..tilde], &rule[tilde + 1..]);
        let (reads, writes) = match access.to_ascii_uppercase().as_slice() {
            b"" | b"%RW" | b"%WR" => (true, true),
            b"%R" => (true, false),
            b"%W" => (false, true),
            b"%" => (false, false),
            _ => return Err(RuleError::Syntax),
        };
        let pattern = good_pattern(pattern)?;
        match patterns.iter_mut().find(|known| known.pattern == pattern) {
            Some(known) => {
                (known.reads, known.writes) = (known.reads || reads, known.writes || writes);
            }
            None => patterns.push(KeyPattern { pattern, reads, writes }),
        }
        Ok(())
    }

    fn add_channel(&mut self, pattern: &[u8]) -> Result<(), RuleError> {
        let Patterns::These(patterns) = &mut self.channels else {
            return Err(RuleError::AfterAllChannels);
        };
        let pattern = good_pattern(pattern)?;
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
        Ok(())
    }

    fn set_category(&mut self, category: &str, allow: bool) -> Result<(), RuleError> {
        if category == "all" {
            self.all_commands = allow;
            self.commands.fill(allow);
            self.first_arguments.clear();
            self.rules.clear();
        } else {
            if !catalogue::CATEGORIES.contains(&category) {
                return Err(RuleError::UnknownCommand);
            }
            let of_category = catalogue::all().iter().filter(|facts| facts.is_in(category));
            of_category.for_each(|facts| self.set(facts, allow));
        }
        self.remember(format!("@{category}"), allow);
        Ok(())
    }

    fn set_command(&mut self, name: &str, allow: bool) -> Result<(), RuleError> {
        if let Some(facts) = catalogue::find(name.as_bytes()) {
            self.set(facts, allow);
            self.remember(name.to_string(), allow);
            return Ok(());
        }
        let (name_of, argument) = name.rsplit_once('|').ok_or(RuleError::UnknownCommand)?;
        let facts = catalogue::find(name_of.as_bytes()).ok_or(RuleError::UnknownCommand)?;
        match () {
            () if name_of.contains('|') => Err(RuleError::FirstArgument),
            () if !facts.subcommands().is_empty() || !allow => Err(RuleError::UnknownCommand),
            () if argument.is_empty() => Err(RuleError::Syntax),
            () => {
                self.first_arguments.push((facts.index, argument.to_string()));
                self.remember(name.to_string(), allow);
                Ok(())
            }
        }
    }

    fn set(&mut self, facts: &Facts, allow: bool) {
        self.all_commands &= allow;
        self.first_arguments.retain(|(index, _)| *index != facts.index);
        self.commands[facts.index] = allow;
        facts.subcommands().iter().for_each(|facts| self.commands[facts.index] = allow);
    }

    /// A later rule about the same replaces an earlier one.
    fn remember(&mut self, about: String, allow: bool) {
        self.rules.retain(|rule| rule[1..] != about);
        self.rules.push(format!("{}{about}", if allow { '+' } else { '-' }));
    }

    /// Nothing to check: nearly all connections of nearly all servers.
    pub fn is_unrestricted(&self) -> bool {
        self.all_commands && self.keys == Patterns::All && self.channels == Patterns::All
    }

    /// Whether these words, which are this command, may be run.
    pub fn check(&self, facts: &'static Facts, words: &[Bytes]) -> Result<(), Denied> {
        if !facts.has_flag("no_auth") && !self.may_run(facts, words) {
            return Err(Denied::Command(facts.name));
        }
        if let Patterns::These(patterns) = &self.keys {
            for key in facts.keys(words).unwrap_or_default() {
                let flags = flags_of(facts, words, key.spec);
                if flags.contains(&"not_key") {
                    continue;
                }
                let reads = flags.contains(&"access");
                let writes = ["insert", "delete", "update"].iter().any(|flag| flags.contains(flag));
                let allows = |known: &KeyPattern| {
                    (known.reads || !reads)
                        && (known.writes || !writes)
                        && glob(&known.pattern, &words[key.index])
                };
                if !patterns.iter().any(allows) {
                    return Err(Denied::Key(words[key.index].clone()));
                }
            }
        }
        for channel in table::channels(facts, words) {
            if !self.may_use_channel(channel, facts.name == "psubscribe") {
                return Err(Denied::Channel(channel.clone()));
            }
        }
        Ok(())
    }

    fn may_run(&self, facts: &Facts, words: &[Bytes]) -> bool {
        let is_first = |(index, first): &(usize, String)| {
            let is_it = |word: &Bytes| word.eq_ignore_ascii_case(first.as_bytes());
            *index == facts.index && words.get(1).is_some_and(is_it)
        };
        self.commands[facts.index] || self.first_arguments.iter().any(is_first)
    }

    /// A pattern to subscribe to must be one of the user's own, letter by letter.
    /// Patterns must be allowed as they are written.
    pub fn may_use_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        match &self.channels {
            Patterns::All => true,
            Patterns::These(known) if is_pattern => known.iter().any(|known| known == channel),
            Patterns::These(known) => known.iter().any(|known| glob(known, channel)),
        }
    }

    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.is_on { "on" } else { "off" }];
        flags.extend(self.needs_no_password.then_some("nopass"));
        flags.extend(self.sanitizing);
        flags
    }

    pub fn passwords(&self) -> &[String] {
        &self.passwords
    }

    pub fn command_rules(&self) -> String {
        let mut rules = self.rules.clone();
        // What follows a rule about all needs it; without one it started from nothing.
        if !rules.first().is_some_and(|rule| rule.ends_with("@all")) {
            rules.insert(0, "-@all".to_string());
        }
        rules.join(" ")
    }

    pub fn key_rules(&self) -> String {
        let Patterns::These(patterns) = &self.keys else { return "~*".to_string() };
        let rule = |known: &KeyPattern| {
            let access = match (known.reads, known.writes) {
                (true, true) => "",
                (true, false) => "%R",
                (false, true) => "%W",
                (false, false) => "%",
            };
            format!("{access}~{}", String::from_utf8_lossy(&known.pattern))
        };
        patterns.iter().map(rule).collect::<Vec<_>>().join(" ")
    }

    pub fn channel_rules(&self) -> String {
        let Patterns::These(patterns) = &self.channels else { return "&*".to_string() };
        let rule = |known: &Bytes| format!("&{}", String::from_utf8_lossy(known));
        patterns.iter().map(rule).collect::<Vec<_>>().join(" ")
    }

    /// The rules that make this user again, as ACL LIST and the file have them.
    pub fn described(&self) -> String {
        let mut words: Vec<String> = self.flags().into_iter().map(str::to_string).collect();
        words.extend(self.passwords.iter().map(|hash| format!("#{hash}")));
        words.extend(Some(self.key_rules()).filter(|rules| !rules.is_empty()));
        if self.channels != Patterns::All {
            words.push("resetchannels".to_string());
        }
        words.extend(Some(self.channel_rules()).filter(|rules| !rules.is_empty()));
        words.push(self.command_rules());
        format!("user {} {}", self.name, words.join(" "))
    }
}

fn good_pattern(pattern: &[u8]) -> Result<Bytes, RuleError> {
    let bad = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0 || *byte == 0x0b;
    if pattern.iter().any(bad) {
        Err(RuleError::Syntax)
    } else {
        Ok(Bytes::copy_from_slice(pattern))
    }
}
