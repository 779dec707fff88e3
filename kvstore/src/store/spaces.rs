//! Which database of which namespace lies in which space of the layout.
//!
//! A namespace has 16 databases, and a space for each: `16 * namespace + slot`. The slot of a database
//! is its number until `SWAPDB` exchanges two. What is not as it is in an empty directory has a row in
//! the system space:
//!
//! ```text
//! "slots"[namespace u32]     the slots of its databases, 16 bytes
//! "namespace"[name]          [number u32][SHA-256 of its token, in hexadecimal, 64 bytes][durability u8]?
//! "last-namespace"           [number u32] of the newest there has been
//! ```
//!
//! [`Spaces`] keeps what these rows say, as readers see it.
//!
//! A group that moves databases may also change what is in them. Its changes become visible in RocksDB, and
//! where databases are changes here, so whoever looks between the two ([`Spaces::moving`]) looks again
//! ([`Spaces::look`]): otherwise a key would show up in a database that it was never in.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::SeqCst, fence};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::layout::Malformed;
use crate::config::Durability;

/// Databases of one namespace, as many as Redis has unless it is told otherwise.
pub const DATABASES: u8 = 16;

/// Namespaces there can ever be; 0 is the one without a token.
pub const NAMESPACES_MAX: u32 = 1 << 16;

/// What a connection works on: `AUTH` chooses the namespace, `SELECT` the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selected {
    pub namespace: u32,
    pub database: u8,
}

/// The slots of a namespace's databases, by their number.
pub type Slots = [u8; DATABASES as usize];

/// A database is in the slot of its own number until it is swapped.
const UNSWAPPED: Slots = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Selected {
    pub fn space(self, slots: &Slots) -> u32 {
        self.namespace * u32::from(DATABASES) + u32::from(slots[usize::from(self.database)])
    }

    /// The first space of its namespace, and the first after it.
    pub fn namespace_spaces(self) -> (u32, u32) {
        let first = self.namespace * u32::from(DATABASES);
        (first, first + u32::from(DATABASES))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub number: u32,
    /// SHA-256 in hexadecimal.
    pub token: String,
    /// What its writes survive, if it does not go by the server's setting.
    pub durability: Option<Durability>,
}

const TOKEN_BYTES: usize = 64;

/// A row of the system space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Slots(u32),
    Namespace(String),
    LastNamespace,
}

const SLOTS: &[u8] = b"slots";
const NAMESPACE: &[u8] = b"namespace";
const LAST_NAMESPACE: &[u8] = b"last-namespace";

impl Row {
    pub fn name(&self) -> Vec<u8> {
        match self {
            Row::Slots(namespace) => [SLOTS, &namespace.to_be_bytes()].concat(),
            Row::Namespace(name) => [NAMESPACE, name.as_bytes()].concat(),
            Row::LastNamespace => LAST_NAMESPACE.to_vec(),
        }
    }

    fn of_name(name: &[u8]) -> Result<Row, Malformed> {
        if name == LAST_NAMESPACE {
            return Ok(Row::LastNamespace);
        }
        if let Some(namespace) = name.strip_prefix(SLOTS) {
            return Ok(Row::Slots(number(namespace)?));
        }
        let name = name.strip_prefix(NAMESPACE).ok_or(Malformed)?.to_vec();
        Ok(Row::Namespace(String::from_utf8(name).map_err(|_| Malformed)?))
    }
}

impl Namespace {
    pub fn encode(&self) -> Vec<u8> {
        let durability = self.durability.map(|durability| match durability {
            Durability::Always => 1,
            Durability::EverySec => 2,
            Durability::None => 3,
        });
        let mut row = [&self.number.to_be_bytes(), self.token.as_bytes()].concat();
        row.extend(durability);
        row
    }

    fn decode(value: &[u8]) -> Result<Namespace, Malformed> {
        let (number, rest) = value.split_first_chunk().ok_or(Malformed)?;
        let (token, durability) = rest.split_at_checked(TOKEN_BYTES).ok_or(Malformed)?;
        let token = String::from_utf8(token.to_vec()).map_err(|_| Malformed)?;
        let durability = match durability {
            [] => None,
            [1] => Some(Durability::Always),
            [2] => Some(Durability::EverySec),
            [3] => Some(Durability::None),
            _ => return Err(Malformed),
        };
        Ok(Namespace { number: u32::from_be_bytes(*number), token, durability })
    }
}

fn number(bytes: &[u8]) -> Result<u32, Malformed> {
    Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?))
}

#[derive(Clone, Debug, Default)]
pub struct Rows {
    slots: HashMap<u32, Slots>,
    durabilities: HashMap<u32, Durability>,
    pub namespaces: BTreeMap<String, Namespace>,
    pub last_namespace: u32,
}

impl Rows {
    /// Takes a row as it is now; `None` when it is gone.
    pub fn set(&mut self, name: &[u8], value: Option<&[u8]>) -> Result<(), Malformed> {
        match (Row::of_name(name)?, value) {
            (Row::Slots(namespace), Some(slots)) => {
                self.slots.insert(namespace, slots.try_into().map_err(|_| Malformed)?);
            }
            (Row::Slots(namespace), None) => _ = self.slots.remove(&namespace),
            (Row::Namespace(name), Some(value)) => {
                let namespace = Namespace::decode(value)?;
                self.durabilities.remove(&namespace.number);
                let durability = namespace.durability.map(|wanted| (namespace.number, wanted));
                self.durabilities.extend(durability);
                self.namespaces.insert(name, namespace);
            }
            (Row::Namespace(name), None) => {
                if let Some(gone) = self.namespaces.remove(&name) {
                    self.durabilities.remove(&gone.number);
                }
            }
            (Row::LastNamespace, value) => {
                self.last_namespace = value.map(number).transpose()?.unwrap_or(0);
            }
        }
        Ok(())
    }

    pub fn slots(&self, namespace: u32) -> Slots {
        self.slots.get(&namespace).copied().unwrap_or(UNSWAPPED)
    }
}

#[derive(Default)]
pub struct Spaces {
    rows: RwLock<Rows>,
    /// Grows by two when they change, and is odd meanwhile. While it is 0 nobody pays for the lock.
    changes: AtomicU64,
}

/// The rows are about to change; whoever asks for them waits until this is dropped.
pub struct Moving<'s> {
    changes: &'s AtomicU64,
    rows: RwLockWriteGuard<'s, Rows>,
}

impl Moving<'_> {
    /// Rows of the system space have become visible; their names are without the space.
    pub fn set(&mut self, changed: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), Malformed> {
        changed.iter().try_for_each(|(name, value)| self.rows.set(name, value.as_deref()))
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.changes.fetch_add(1, SeqCst);
    }
}

impl Spaces {
    pub fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    pub fn slots(&self, namespace: u32) -> Slots {
        if self.changes() == 0 { UNSWAPPED } else { self.rows().slots(namespace) }
    }

    pub fn space(&self, selected: Selected) -> u32 {
        selected.space(&self.slots(selected.namespace))
    }

    pub fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().expect("not poisoned: nothing panics under it")
    }

    /// What a group changes becomes visible while this is held, and where databases are with it.
    pub fn moving(&self) -> Moving<'_> {
        let rows = self.rows.write().expect("not poisoned: nothing panics under it");
        self.changes.fetch_add(1, SeqCst);
        Moving { changes: &self.changes, rows }
    }

    /// What `look` finds in the space of a database, at a moment when that is where it is.
    pub fn look<T>(&self, selected: Selected, look: impl Fn(u32) -> T) -> T {
        loop {
            let before = self.changes();
            // Waits for whoever moves databases.
            let found = look(self.space(selected));
            fence(Acquire);
            if before.is_multiple_of(2) && self.changes() == before {
                return found;
            }
        }
    }

    /// The namespace that a token, by its hash, opens.
    pub fn opened_by(&self, token: &str) -> Option<(String, u32)> {
        let rows = self.rows();
        let found = rows.namespaces.iter().find(|(_, namespace)| namespace.token == token);
        found.map(|(name, namespace)| (name.clone(), namespace.number))
    }

    /// What its writes survive, unless it goes by the server's setting.
    pub fn durability(&self, namespace: u32) -> Option<Durability> {
        if namespace == 0 {
            return None;
        }
        self.rows().durabilities.get(&namespace).copied()
    }

    /// Whether a connection may stay in it.
    pub fn exists(&self, namespace: u32) -> bool {
        let is_it = |known: &Namespace| known.number == namespace;
        namespace == 0 || self.rows().namespaces.values().any(is_it)
    }
}
