//! `WATCH`: which keys have changed since a connection looked.
//!
//! Only watched keys are counted. A change is counted after readers can see it and before it is answered,
//! so a key watched too early fails a transaction that could have passed, never the other way round. What
//! readers do not see yet, the transaction looks for in the groups themselves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::command::find;
use crate::shared::Shared;
use crate::store::database::{Database, unix_ms};
use crate::store::layout;
use crate::store::overlay::Overlay;
use crate::store::spaces::Selected;
use crate::store::view::Frozen;

/// A key as a connection saw it when it began to watch.
struct Watched {
    key: Bytes,
    selected: Selected,
    /// The metadata key, in the space where the database was.
    row: Bytes,
    changes: u64,
    clears: u64,
    existed: bool,
}

/// The keys one connection watches. They are watched until this is dropped.
pub struct WatchSet {
    shared: Arc<Shared>,
    keys: Vec<Watched>,
}

impl WatchSet {
    pub fn new(shared: Arc<Shared>) -> WatchSet {
        WatchSet { shared, keys: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn add(&mut self, key: &Bytes, selected: Selected) {
        if self.keys.iter().all(|watched| watched.key != key || watched.selected != selected) {
            self.keys.push(self.shared.watches.watch(key, selected, &self.shared.database));
        }
    }

    /// Whether nothing has changed; `group` is what runs now, before the transaction, and `settled` the
    /// last group whose changes are counted.
    pub fn is_unchanged(&self, group: &mut Overlay<'_>, settled: u64, now_ms: u64) -> bool {
        let watches = &self.shared.watches;
        self.keys.iter().all(|key| watches.is_unchanged(key, group, settled, now_ms))
    }
}

impl Drop for WatchSet {
    fn drop(&mut self) {
        self.shared.watches.unwatch(&self.keys);
    }
}

#[derive(Default)]
pub struct Watches {
    keys: Mutex<HashMap<Bytes, Entry>>,
    /// Size of `keys`, so that nobody pays for the lock while nobody watches.
    count: AtomicUsize,
}

struct Entry {
    watchers: usize,
    changes: u64,
    /// How often its space was dropped.
    clears: u64,
}

impl Watches {
    /// Counts first and looks then: a change between the two is seen and counted, which fails the
    /// transaction needlessly, but never misses one.
    fn watch(&self, key: &Bytes, selected: Selected, database: &Database) -> Watched {
        let mut keys = self.lock();
        // A copy: the original shares its memory with everything read from the socket at that time.
        let key = Bytes::copy_from_slice(key);
        let mut row = layout::metadata_key(&key);
        layout::move_to_space(&mut row, database.spaces().space(selected));
        let row = Bytes::from(row);
        let new = Entry { watchers: 0, changes: 0, clears: 0 };
        let entry = keys.entry(row.clone()).or_insert(new);
        entry.watchers += 1;
        let (changes, clears) = (entry.changes, entry.clears);
        self.count.store(keys.len(), SeqCst);
        drop(keys);
        // A key that cannot be read fails its transaction: it will not be found unchanged.
        let live = find(&Frozen::new(database, selected), unix_ms(), &key);
        let existed = live.is_ok_and(|live| live.is_some());
        Watched { key, selected, row, changes, clears, existed }
    }

    fn unwatch(&self, watched: &[Watched]) {
        if watched.is_empty() {
            return;
        }
        let mut keys = self.lock();
        for watched in watched {
            let entry = keys.get_mut(&watched.row).expect("a watched key is in the table");
            entry.watchers -= 1;
            if entry.watchers == 0 {
                keys.remove(&watched.row);
            }
        }
        self.count.store(keys.len(), SeqCst);
    }

    /// Counts the changes of a group that has become visible.
    pub fn mark<'a>(&self, changed: impl Iterator<Item = &'a [u8]>, cleared: &[(u32, u32)]) {
        if self.count.load(SeqCst) == 0 {
            return;
        }
        let mut keys = self.lock();
        for key in changed {
            if let Some(entry) = keys.get_mut(key) {
                entry.changes += 1;
            }
        }
        for (from, to) in cleared {
            for (row, entry) in keys.iter_mut() {
                entry.clears += u64::from((*from..*to).contains(&layout::space_of(row)));
            }
        }
    }

    fn is_unchanged(
        &self,
        watched: &Watched,
        group: &mut Overlay<'_>,
        settled: u64,
        now_ms: u64,
    ) -> bool {
        let space = layout::space_of(&watched.row);
        // After a SWAPDB the key is another one.
        if group.has_changed(&watched.row, settled) || group.space_of(watched.selected) != space {
            return false;
        }
        let counted = self.lock().get(&watched.row).map(|entry| (entry.changes, entry.clears));
        let Some((changes, clears)) = counted else { return false };
        let cleared = group.has_cleared(space, settled);
        if changes != watched.changes || watched.existed && (cleared || clears != watched.clears) {
            return false;
        }
        group.select(watched.selected);
        // It may have expired, which is no change that anybody made.
        !watched.existed || find(group, now_ms, &watched.key).is_ok_and(|live| live.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, Entry>> {
        self.keys.lock().expect("not poisoned: nothing panics under it")
    }
}
