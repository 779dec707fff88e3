//! RocksDB as this engine uses it.
//!
//! Three column families: `metadata`, `member` and `applied`, which holds one number: the sequence of
//! the last group of the write log that is in the database. That number is written in the same batch
//! as the group, RocksDB's own log is off and flushes are atomic over the families, so after a crash
//! the database is exactly some prefix of the write log and says which one.
//!
//! Compaction drops what nobody can see any more: expired keys, and members whose collection has
//! expired, was deleted or was written anew. It waits five minutes after an expiry, so that a clock
//! that is set back a little does not find half a collection.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rocksdb::compaction_filter::{CompactionFilter, Decision};
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::statistics::Ticker;
use rocksdb::{
    BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    FlushOptions, Options, ReadOptions, ReadTier, WriteBatch,
};
use thiserror::Error;

use super::layout::{self, Bounds, Family, Malformed};
use super::overlay::{self, Change};
use super::rows::Rows;
use super::seeded::SeededBug;
use super::settings::{database_options, family_options, small_family_options};
use super::spaces::Spaces;

const METADATA: &str = "metadata";
const MEMBER: &str = "member";
const APPLIED: &str = "applied";
const APPLIED_KEY: &[u8] = b"applied";

/// How long compaction leaves expired data alone.
const EXPIRY_GRACE_MS: u64 = 5 * 60 * 1000;

/// What can go wrong below the commands.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("{0}")]
    Rocks(#[from] rocksdb::Error),
    #[error("a stored value is malformed")]
    Malformed,
}

impl From<Malformed> for StoreError {
    fn from(_: Malformed) -> StoreError {
        StoreError::Malformed
    }
}

/// Whether compactions run by themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compactions {
    Run,
    /// What is there stays there, expired or not.
    Rest,
}

/// How files are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    ThroughPageCache,
    /// O_DIRECT, so that a walk over everything does not push out what others read.
    AroundPageCache,
}

pub struct Database {
    rocks: Arc<DB>,
    /// Kept because it holds RocksDB's own counters.
    options: Options,
    cache: Cache,
    dropped: Arc<Dropped>,
    rows: Rows,
    spaces: Spaces,
}

/// Rows that compactions have dropped because nobody could see them any more.
#[derive(Default)]
pub struct Dropped {
    pub expired_keys: AtomicU64,
    pub members: AtomicU64,
}

impl Database {
    /// `cache_bytes` and `memtable_bytes` bound RocksDB's memory together with its open files.
    pub fn open(
        dir: &Path,
        cache_bytes: usize,
        memtable_bytes: usize,
    ) -> Result<Database, StoreError> {
        let how = (Compactions::Run, Reads::ThroughPageCache);
        Database::open_with(dir, cache_bytes, memtable_bytes, how)
    }

    /// The same, but nothing in it goes by itself.
    pub fn open_resting(
        dir: &Path,
        cache_bytes: usize,
        memtable_bytes: usize,
        reads: Reads,
    ) -> Result<Database, StoreError> {
        let how = (Compactions::Rest, reads);
        Database::open_with(dir, cache_bytes, memtable_bytes, how)
    }

    fn open_with(
        dir: &Path,
        cache_bytes: usize,
        memtable_bytes: usize,
        (compactions, reads): (Compactions, Reads),
    ) -> Result<Database, StoreError> {
        let is_resting = compactions == Compactions::Rest;
        let shared: Arc<OnceLock<Weak<DB>>> = Arc::default();
        let cache = Cache::new_lru_cache(cache_bytes);
        let dropped: Arc<Dropped> = Arc::default();
        let expired = dropped.clone();
        let families = [
            ColumnFamilyDescriptor::new("default", small_family_options(&cache, memtable_bytes)),
            ColumnFamilyDescriptor::new(APPLIED, small_family_options(&cache, memtable_bytes)),
            ColumnFamilyDescriptor::new(METADATA, {
                let mut options = family_options(Family::Metadata, &cache, memtable_bytes);
                options.set_disable_auto_compactions(is_resting);
                options.set_compaction_filter("hawser-expired", move |_, key, metadata| {
                    if layout::system_name(key).is_some() {
                        return Decision::Keep;
                    }
                    let decision = expired_metadata(metadata, unix_ms());
                    if let Decision::Remove = decision {
                        expired.expired_keys.fetch_add(1, Relaxed);
                    }
                    decision
                });
                options
            }),
            ColumnFamilyDescriptor::new(MEMBER, {
                let mut options = family_options(Family::Member, &cache, memtable_bytes);
                options.set_disable_auto_compactions(is_resting);
                options.set_compaction_filter_factory(OrphanFilters {
                    database: shared.clone(),
                    dropped: dropped.clone(),
                });
                options
            }),
        ];
        let mut options = database_options();
        options.set_use_direct_reads(reads == Reads::AroundPageCache);
        let rocks = Arc::new(DB::open_cf_descriptors(&options, dir, families)?);
        shared.set(Arc::downgrade(&rocks)).expect("set once, here");
        let (rows, spaces) = (Rows::new(0), Spaces::default());
        let database = Database { rocks, options, cache, dropped, rows, spaces };
        database.load_spaces()?;
        Ok(database)
    }

    /// With so many bytes for rows that were read lately.
    pub fn with_rows(mut self, bytes_max: usize) -> Database {
        self.rows = Rows::new(bytes_max);
        self
    }

    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    pub fn rocks(&self) -> &DB {
        &self.rocks
    }

    pub fn family(&self, family: Family) -> &ColumnFamily {
        self.family_named(match family {
            Family::Metadata => METADATA,
            Family::Member => MEMBER,
        })
    }

    fn family_named(&self, name: &str) -> &ColumnFamily {
        self.rocks.cf_handle(name).expect("the database was opened with its families")
    }

    /// Applies one record of the write log, and with it the fact that it was applied.
    pub fn apply(&self, sequence: u64, record: &[u8]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::with_capacity_bytes(record.len() * 2 + 64);
        let changes = overlay::decode(record)?;
        let mut rows = Vec::with_capacity(changes.len());
        let mut has_cleared = false;
        let mut system = Vec::new();
        let mut note = |family, key, value: Option<&[u8]>| {
            let name = layout::system_name(key).filter(|_| family == Family::Metadata);
            system.extend(name.map(|name| (name.to_vec(), value.map(<[u8]>::to_vec))));
        };
        for change in changes {
            match change {
                Change::Clear(from, to) => {
                    has_cleared = true;
                    let (lower, upper) = layout::spaces(from, to);
                    for family in [Family::Metadata, Family::Member] {
                        batch.delete_range_cf(self.family(family), &lower, &upper);
                    }
                }
                Change::Put(family, key, value) => {
                    batch.put_cf(self.family(family), key, value);
                    rows.extend((family == Family::Metadata).then_some((key, Some(value))));
                    note(family, key, Some(value));
                }
                Change::Delete(family, key) => {
                    batch.delete_cf(self.family(family), key);
                    rows.extend((family == Family::Metadata).then_some((key, None)));
                    note(family, key, None);
                }
            }
        }
        let marker = sequence + u64::from(SeededBug::MarkerAhead.is_on());
        batch.put_cf(self.family_named(APPLIED), APPLIED_KEY, marker.to_be_bytes());
        let moving = (!system.is_empty()).then(|| self.spaces.moving());
        self.rows.begin();
        let written = self.rocks.write_without_wal(batch);
        if has_cleared || written.is_err() {
            self.rows.clear();
        }
        if written.is_ok() {
            rows.into_iter().for_each(|(key, value)| self.rows.set(key, value));
        }
        self.rows.end();
        written?;
        if let Some(mut moving) = moving {
            moving.set(&system)?;
        }
        Ok(())
    }

    /// One row of metadata, by its whole key, as the database has it now.
    pub fn row(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let moment = self.rows.now();
        if let Some(moment) = moment
            && let Some(value) = self.rows.get(key)
            && self.rows.is_now(moment)
        {
            return Ok(Some(value));
        }
        let found = self.rocks.get_pinned_cf(self.family(Family::Metadata), key)?;
        if let (Some(moment), Some(value)) = (moment, &found) {
            self.rows.keep(moment, key, value);
        }
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// What the rows of the system space say at the start.
    fn load_spaces(&self) -> Result<(), StoreError> {
        let (lower, upper) = layout::system_space();
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(lower);
        options.set_iterate_upper_bound(upper);
        let mut rows = self.rocks.raw_iterator_cf_opt(self.family(Family::Metadata), options);
        rows.seek_to_first();
        let mut found = Vec::new();
        while let Some((key, value)) = rows.item() {
            let name = layout::system_name(key).ok_or(Malformed)?;
            found.push((name.to_vec(), Some(value.to_vec())));
            rows.next();
        }
        rows.status()?;
        if !found.is_empty() {
            self.spaces.moving().set(&found)?;
        }
        Ok(())
    }

    pub fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    /// The last group of the write log that readers see. 0 in a new database.
    pub fn applied(&self) -> Result<u64, StoreError> {
        self.applied_as_of(ReadTier::All)
    }

    /// The last group that is in RocksDB's files, and so needs the write log no longer.
    pub fn flushed(&self) -> Result<u64, StoreError> {
        self.applied_as_of(ReadTier::Persisted)
    }

    fn applied_as_of(&self, tier: ReadTier) -> Result<u64, StoreError> {
        let mut options = ReadOptions::default();
        options.set_read_tier(tier);
        let found =
            self.rocks.get_pinned_cf_opt(self.family_named(APPLIED), APPLIED_KEY, &options)?;
        match found {
            None => Ok(0),
            Some(bytes) => Ok(u64::from_be_bytes(bytes[..].try_into().map_err(|_| Malformed)?)),
        }
    }

    /// Writes all memtables to files, all families at one moment.
    pub fn flush(&self) -> Result<(), StoreError> {
        let families = [METADATA, MEMBER, APPLIED].map(|name| self.family_named(name));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        Ok(self.rocks.flush_cfs_opt(&families.iter().collect::<Vec<_>>(), &options)?)
    }

    /// Rewrites everything once, and so drops all garbage that may be dropped.
    pub fn compact(&self) {
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        for family in [Family::Metadata, Family::Member] {
            self.rocks.compact_range_cf_opt(
                self.family(family),
                None::<&[u8]>,
                None::<&[u8]>,
                &options,
            );
        }
    }

    /// What RocksDB has counted since the start.
    pub fn ticker(&self, ticker: Ticker) -> u64 {
        self.options.get_ticker_count(ticker)
    }

    pub fn cache_bytes(&self) -> u64 {
        self.cache.get_usage() as u64
    }

    pub fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// Files of one level, over the families with data.
    pub fn files_at_level(&self, level: usize) -> u64 {
        let name = format!("rocksdb.num-files-at-level{level}");
        let files = |family| {
            let value = self.rocks.property_value_cf(self.family(family), &name).ok().flatten();
            value.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        [Family::Metadata, Family::Member].into_iter().map(files).sum()
    }

    /// Bytes of all tables and blob files.
    pub fn files_bytes(&self) -> u64 {
        self.property("rocksdb.live-sst-files-size") + self.property("rocksdb.total-blob-file-size")
    }

    /// A number RocksDB keeps for all families together.
    pub fn property_of_one(&self, name: &str) -> u64 {
        let value = self.rocks.property_int_value_cf(self.family_named(METADATA), name);
        value.ok().flatten().unwrap_or(0)
    }

    /// A number RocksDB keeps, summed over the families.
    pub fn property(&self, name: &str) -> u64 {
        [Family::Metadata, Family::Member].map(|family| self.property_of(family, name)).iter().sum()
    }

    pub fn property_of(&self, family: Family, name: &str) -> u64 {
        let value = self.rocks.property_int_value_cf(self.family(family), name);
        value.ok().flatten().unwrap_or(0)
    }
}

impl Drop for Database {
    /// A compaction may hold the database for a moment through its filter; it must not be the one
    /// that closes it.
    fn drop(&mut self) {
        self.rocks.cancel_all_background_work(true);
    }
}

fn expired_metadata(metadata: &[u8], now_ms: u64) -> Decision {
    match layout::Header::decode(metadata) {
        Ok((header, _)) if header.is_expired(now_ms.saturating_sub(EXPIRY_GRACE_MS)) => {
            Decision::Remove
        }
        // What cannot be read is kept: a compaction is no place to lose data.
        _ => Decision::Keep,
    }
}

struct OrphanFilters {
    database: Arc<OnceLock<Weak<DB>>>,
    dropped: Arc<Dropped>,
}

impl CompactionFilterFactory for OrphanFilters {
    type Filter = OrphanFilter;

    fn create(&mut self, _: CompactionFilterContext) -> OrphanFilter {
        let (database, dropped) = (self.database.clone(), self.dropped.clone());
        OrphanFilter { database, dropped, now_ms: unix_ms(), owner: None }
    }

    fn name(&self) -> &CStr {
        c"hawser-orphans"
    }
}

/// Drops members whose collection is gone, and those a list has left behind. Members of one collection
/// lie together, so what is known of the last owner is kept.
struct OrphanFilter {
    database: Arc<OnceLock<Weak<DB>>>,
    dropped: Arc<Dropped>,
    now_ms: u64,
    owner: Option<Owner>,
}

struct Owner {
    space: u32,
    key: Vec<u8>,
    version: u64,
    /// Where its members lie, now and as of the last flush. `None`: it is gone.
    bounds: [Option<Bounds>; 2],
}

impl Owner {
    /// Whether the member belongs to it neither now nor as of the last flush. Now is at least as new as
    /// the member, since both were written in one batch. The last flush is what there would be after a
    /// power failure, if the log had not been synced since.
    fn has_left(&self, member_key: &[u8]) -> bool {
        let member_key = &*layout::in_space(member_key, 0);
        let holds = |(lower, upper): &Bounds| (&lower[..]..&upper[..]).contains(&member_key);
        !self.bounds.iter().flatten().any(holds)
    }
}

impl OrphanFilter {
    /// `None` when it cannot be known.
    fn find_owner(&self, space: u32, key: &[u8], version: u64) -> Option<Owner> {
        let rocks = self.database.get()?.upgrade()?;
        let mut row = layout::metadata_key(key);
        layout::move_to_space(&mut row, space);
        let bounds_as_of = |tier: ReadTier| {
            let mut options = ReadOptions::default();
            options.set_read_tier(tier);
            // A compaction looks at everything once, and must not push out what is read often.
            options.fill_cache(false);
            let family = rocks.cf_handle(METADATA)?;
            let found = rocks.get_pinned_cf_opt(family, &row, &options).ok()?;
            let Some(metadata) = found else { return Some(None) };
            let (header, current) = layout::version_of(&metadata).ok()?;
            if header.is_expired(self.now_ms.saturating_sub(EXPIRY_GRACE_MS))
                || current != Some(version)
            {
                return Some(None);
            }
            layout::member_bounds(key, &metadata).ok()
        };
        let bounds = [bounds_as_of(ReadTier::All)?, bounds_as_of(ReadTier::Persisted)?];
        Some(Owner { space, key: key.to_vec(), version, bounds })
    }
}

impl CompactionFilter for OrphanFilter {
    fn filter(&mut self, _: u32, member_key: &[u8], _: &[u8]) -> Decision {
        let Ok((space, key, version)) = layout::member_owner(member_key) else {
            return Decision::Keep;
        };
        let is_known =
            |owner: &Owner| owner.version == version && owner.space == space && owner.key == key;
        if !self.owner.as_ref().is_some_and(is_known) {
            self.owner = self.find_owner(space, key, version);
        }
        let has_left = self.owner.as_ref().is_some_and(|owner| owner.has_left(member_key));
        if !has_left {
            return Decision::Keep;
        }
        self.dropped.members.fetch_add(1, Relaxed);
        Decision::Remove
    }

    fn name(&self) -> &CStr {
        c"hawser-orphan"
    }
}

pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

/// Where RocksDB lies inside the data directory.
pub fn database_dir(dir: &Path) -> PathBuf {
    dir.join("rocksdb")
}
