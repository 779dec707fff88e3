//! Who may do what: the users of a server.
//!
//! ```text
//! user     one user and its rules
//! denials  what was refused lately
//! ```
//!
//! Users come from the configuration (`password`, `users`) or from a file (`users_file`), and ACL
//! SETUSER changes them until the next start, or for good with ACL SAVE. They belong to the server, not to
//! the data. A change reaches a connection with its next command: each looks at [`Users::changes`].

pub mod denials;
pub mod user;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use thiserror::Error;

use denials::Denials;
use user::{RuleError, User};

/// Users of one server, at most.
pub const USERS_MAX: usize = 10_000;

pub const DEFAULT: &str = "default";

/// Why users could not be made. Each text says where.
#[derive(Debug, Error)]
pub enum UsersError {
    #[error("{place}: a line is `user NAME RULE...`")]
    NoUser { place: String },
    #[error("{place}: {error} (`{rule}`)")]
    Rule { place: String, rule: String, error: RuleError },
    #[error("{place}: user `{name}` is defined twice")]
    Twice { place: String, name: String },
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("more than {USERS_MAX} users")]
    TooMany,
    #[error("{0} {1}")]
    Modifier(String, RuleError),
    #[error("Usernames can't contain spaces or null characters")]
    Name,
}

type Table = BTreeMap<String, Arc<User>>;

pub struct Users {
    table: RwLock<Table>,
    /// How often anything of the table was changed.
    changes: AtomicU64,
    file: Option<PathBuf>,
    pub denials: Denials,
}

impl Users {
    /// `lines` are rules without the word `user` before them. A file has all users, and then nothing
    /// else may have any.
    pub fn new(password: &str, lines: &[String], file: &Path) -> Result<Users, UsersError> {
        let file = Some(file.to_path_buf()).filter(|file| !file.as_os_str().is_empty());
        let lines = lines.iter().map(|line| format!("user {line}"));
        let mut table = parse("users", &lines.collect::<Vec<_>>().join("\n"))?;
        if let Some(file) = &file {
            table.extend(read(file)?);
        }
        table.entry(DEFAULT.into()).or_insert_with(|| Arc::new(User::default_user(password)));
        let (changes, denials) = (AtomicU64::new(0), Denials::default());
        Ok(Users { table: RwLock::new(table), changes, file, denials })
    }

    pub fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    pub fn default_user(&self) -> Arc<User> {
        self.read()[DEFAULT].clone()
    }

    pub fn all(&self) -> Vec<Arc<User>> {
        self.read().values().cloned().collect()
    }

    pub fn find(&self, name: &[u8]) -> Option<Arc<User>> {
        self.read().get(std::str::from_utf8(name).ok()?).cloned()
    }

    /// The user, if this is one of its passwords.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Arc<User>> {
        self.find(name).filter(|user| user.is_on && user.is_password(password))
    }

    /// All rules are taken, or none.
    pub fn set(&self, name: &[u8], rules: &[Bytes]) -> Result<(), UsersError> {
        let name = std::str::from_utf8(name).map_err(|_| UsersError::Name)?;
        if name.bytes().any(|byte| byte.is_ascii_whitespace() || byte == 0) {
            return Err(UsersError::Name);
        }
        let mut table = self.table.write().expect("not poisoned: nothing panics under it");
        let mut user = table.get(name).map_or_else(|| User::new(name), |user| (**user).clone());
        for rule in rules {
            user.apply(rule).map_err(|error| {
                let rule = String::from_utf8_lossy(rule);
                UsersError::Modifier(format!("Error in ACL SETUSER modifier '{rule}':"), error)
            })?;
        }
        if table.len() >= USERS_MAX && !table.contains_key(name) {
            return Err(UsersError::TooMany);
        }
        table.insert(name.to_string(), Arc::new(user));
        self.changes.fetch_add(1, SeqCst);
        Ok(())
    }

    pub fn remove(&self, name: &[u8]) -> bool {
        let Ok(name) = std::str::from_utf8(name) else { return false };
        let mut table = self.table.write().expect("not poisoned: nothing panics under it");
        let removed = table.remove(name).is_some();
        self.changes.fetch_add(u64::from(removed), SeqCst);
        removed
    }

    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Takes the users from the file; when it is bad they stay as they were.
    pub fn load(&self) -> Result<(), UsersError> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut table = read(file)?;
        let default = || Arc::new(User::default_user(""));
        table.entry(DEFAULT.into()).or_insert_with(default);
        *self.table.write().expect("not poisoned: nothing panics under it") = table;
        self.changes.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Writes a new file and puts it in the place of the old one, so that there is always a whole one.
    pub fn save(&self) -> io::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let text: String = self.all().iter().map(|user| user.described() + "\n").collect();
        let unfinished = path.with_extension("tmp");
        let mut file = File::create(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().expect("not poisoned: nothing panics under it")
    }
}

fn read(path: &Path) -> Result<Table, UsersError> {
    let failed = |error| UsersError::File { path: path.to_path_buf(), error };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse(&path.display().to_string(), &text)
}

fn parse(place: &str, text: &str) -> Result<Table, UsersError> {
    let mut table = Table::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{place}, line {}", number + 1);
        let mut words = line.split_whitespace();
        let name = match (words.next(), words.next()) {
            (None, _) => continue,
            (Some(word), _) if word.starts_with('#') => continue,
            (Some("user"), Some(name)) => name,
            _ => return Err(UsersError::NoUser { place }),
        };
        let mut user = User::new(name);
        for rule in words {
            user.apply(rule.as_bytes()).map_err(|error| {
                let (place, rule) = (place.clone(), rule.to_string());
                UsersError::Rule { place, rule, error }
            })?;
        }
        if table.insert(name.to_string(), Arc::new(user)).is_some() {
            return Err(UsersError::Twice { place, name: name.to_string() });
        }
    }
    if table.len() > USERS_MAX { Err(UsersError::TooMany) } else { Ok(table) }
}
