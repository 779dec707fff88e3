//! The apps: their keys, the members of each, and each one's place in its group log.
//!
//! A session names its app by the place in this table, so no delivery hashes anything. An app
//! that a newer key set lacks admits nobody any more, but keeps its place while sessions of it
//! are online: a key set cannot disconnect a device.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};

use hawser_codec::ids::{AppId, HashKey};
use hawser_codec::limits::APPS_MAX;
use hawser_codec::link::Keys;

use super::group::Group;
use super::rows::{Chunks, Row};
use super::ticket::TicketKey;

/// Places in the table: a whole key set, and as many apps again whose last sessions linger.
const PLACES_MAX: usize = 2 * APPS_MAX;

pub(super) struct Apps {
    version: u64,
    hash_key: Option<HashKey>,
    list: Vec<App>,
    by_id: HashMap<AppId, u16>,
    /// Only apps of the current key set.
    by_name: HashMap<Box<str>, u16>,
}

pub(super) struct App {
    pub id: AppId,
    pub keys: Vec<TicketKey>,
    /// The slots of all its sessions, in no order: the members of `TopicId::ALL`.
    pub members: Vec<u32>,
    pub group: Group,
    listed: bool,
}

impl Apps {
    pub fn new() -> Apps {
        Apps {
            version: 0,
            hash_key: None,
            list: Vec::new(),
            by_id: HashMap::new(),
            by_name: HashMap::new(),
        }
    }

    /// Replaces the key set if this one is newer; whether it was. Versions of two clusters, told
    /// apart by their hash keys, do not compare: what the control nodes say now is right, and what
    /// was on disk belongs to a store that is gone.
    pub fn replace(&mut self, keys: &Keys<'_>) -> bool {
        if self.hash_key == Some(keys.hash_key) && keys.version <= self.version {
            return false;
        }
        self.version = keys.version;
        self.hash_key = Some(keys.hash_key);
        self.by_name.clear();
        for app in &mut self.list {
            app.keys.clear();
            app.listed = false;
        }
        for given in &keys.apps {
            let Some(index) = self.place(given.app) else { continue };
            let app = &mut self[index];
            app.keys = given.keys.iter().map(TicketKey::new).collect();
            app.listed = true;
            self.by_name.insert(given.name.into(), index);
        }
        true
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// `None` until there is a key set.
    pub fn hash_key(&self) -> Option<&HashKey> {
        self.hash_key.as_ref()
    }

    pub fn by_name(&self, name: &str) -> Option<u16> {
        self.by_name.get(name).copied()
    }

    pub fn by_id(&self, id: AppId) -> Option<u16> {
        self.by_id.get(&id).copied()
    }

    pub fn indices(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.list.len() as u16
    }

    /// The place of an app: the one it has, that of an app which is over, or a new one.
    fn place(&mut self, id: AppId) -> Option<u16> {
        if let Some(index) = self.by_id(id) {
            return Some(index);
        }
        let app = App {
            id,
            keys: Vec::new(),
            members: Vec::new(),
            group: Group::default(),
            listed: false,
        };
        let index = if self.list.len() < APPS_MAX {
            self.list.push(app);
            self.list.len() - 1
        } else if let Some(index) = self.list.iter().position(App::is_over) {
            self.by_id.remove(&self.list[index].id);
            self.list[index] = app;
            index
        } else if self.list.len() < PLACES_MAX {
            self.list.push(app);
            self.list.len() - 1
        } else {
            return None;
        };
        self.by_id.insert(id, index as u16);
        Some(index as u16)
    }

    /// Asserts that members and rows agree; returns the number of members of all apps.
    pub fn invariants(&self, rows: &Chunks<Row>) -> u32 {
        assert!(self.list.len() <= PLACES_MAX);
        let mut count = 0;
        for (app, index) in self.list.iter().zip(0u16..) {
            assert_eq!(self.by_id(app.id), Some(index));
            for (&slot, place) in app.members.iter().zip(0u32..) {
                let row = &rows[slot];
                assert_eq!(
                    (row.app, row.place),
                    (index, place),
                    "slot {slot} stands where it says"
                );
                count += 1;
            }
            app.group.invariants(app.members.is_empty());
        }
        count
    }
}

impl App {
    /// Nobody can join it and nothing of it is left.
    fn is_over(&self) -> bool {
        !self.listed && self.members.is_empty() && self.group.is_idle()
    }

    /// Adds a session; returns its place.
    pub fn add_member(&mut self, slot: u32) -> u32 {
        self.members.push(slot);
        self.members.len() as u32 - 1
    }

    /// Removes the session at `place`; returns the slot that took the place, if one did.
    pub fn remove_member(&mut self, place: u32) -> Option<u32> {
        self.members.swap_remove(place as usize);
        if self.members.len() < self.members.capacity() / 4 {
            self.members.shrink_to(self.members.len() * 2);
        }
        self.members.get(place as usize).copied()
    }
}

impl Index<u16> for Apps {
    type Output = App;

    fn index(&self, index: u16) -> &App {
        &self.list[index as usize]
    }
}

impl IndexMut<u16> for Apps {
    fn index_mut(&mut self, index: u16) -> &mut App {
        &mut self.list[index as usize]
    }
}
