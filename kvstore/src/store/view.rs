//! What a command may read from: the database as it stands, or the group that is being executed.
//!
//! Commands are written once against [`View`]. A network thread gives them a [`Frozen`] database, so
//! that all reads of one turn of a connection see one moment; the writer gives them its
//! [`Overlay`](super::overlay::Overlay), so that they see what the group has changed so far.

use std::cell::{Cell, OnceCell};
use std::ops::ControlFlow;

use rocksdb::{DB, ReadOptions, SnapshotWithThreadMode};

use super::database::{Database, StoreError};
use super::layout::{self, Family};
use super::spaces::Selected;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

impl Direction {
    /// Whether one key comes before another.
    pub fn is_before(self, one: &[u8], other: &[u8]) -> bool {
        match self {
            Direction::Forward => one < other,
            Direction::Backward => one > other,
        }
    }
}

/// Called with each key, its space included, and value of a scan until it breaks.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

pub trait View {
    /// The database that is read from.
    fn selected(&self) -> Selected;

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the pairs with `lower <= key < upper`.
    fn scan(
        &self,
        family: Family,
        lower: &[u8],
        upper: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError>;
}

/// One moment of one database: the one at which something was first read that takes more than one row.
/// Until then single rows may be read as they are at that time, which is cheaper ([`Frozen::read_one_row`]).
pub struct Frozen<'a> {
    database: &'a Database,
    /// With the space of the database at that moment.
    moment: OnceCell<(SnapshotWithThreadMode<'a, DB>, u32)>,
    /// What is read next is one row.
    is_one_row: Cell<bool>,
    selected: Selected,
}

impl<'a> Frozen<'a> {
    pub fn new(database: &'a Database, selected: Selected) -> Frozen<'a> {
        Frozen { database, moment: OnceCell::new(), is_one_row: Cell::new(false), selected }
    }

    /// Says whether the next command reads one row and nothing else.
    pub fn read_one_row(&self, is_one_row: bool) {
        self.is_one_row.set(is_one_row);
    }

    fn moment(&self) -> &(SnapshotWithThreadMode<'a, DB>, u32) {
        let (database, selected) = (self.database, self.selected);
        self.moment.get_or_init(|| {
            database.spaces().look(selected, |space| (database.rocks().snapshot(), space))
        })
    }
}

impl View for Frozen<'_> {
    fn selected(&self) -> Selected {
        self.selected
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        // What is read never goes back in time, so not once there is a moment that is looked at.
        if self.is_one_row.get() && family == Family::Metadata && self.moment.get().is_none() {
            let row = |space| self.database.row(&layout::in_space(key, space));
            return Ok(self.database.spaces().look(self.selected, row)?.map(Into::into));
        }
        let (snapshot, space) = self.moment();
        let key = layout::in_space(key, *space);
        let found = snapshot.get_pinned_cf(self.database.family(family), key)?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        family: Family,
        lower: &[u8],
        upper: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let (snapshot, space) = self.moment();
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(&*layout::in_space(lower, *space));
        options.set_iterate_upper_bound(&*layout::end_in_space(upper, *space));
        let mut rows = snapshot.raw_iterator_cf_opt(self.database.family(family), options);
        match direction {
            Direction::Forward => rows.seek_to_first(),
            Direction::Backward => rows.seek_to_last(),
        }
        while let Some((key, value)) = rows.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.prev(),
            }
        }
        Ok(rows.status()?)
    }
}
