//! Every setting of RocksDB that is not its default, and why.
//!
//! What they are chosen for: values of some hundred bytes and collections of many small members; a data
//! set far larger than the memory; one writer that applies groups of many changes; reads of single rows,
//! often of rows that are not there; much that expires.
//!
//! Memory: the block cache (`cache_mib`), which also holds indexes and filters; the memtables, up to four
//! of `memtable_mib` for each of the two families with data; some 100 KiB for each open file.

use rocksdb::statistics::StatsLevel;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DataBlockIndexType, Options,
};

use super::layout::Family;

/// Files RocksDB keeps open at most. A machine's limit of open files is planned with it.
pub const OPEN_FILES_MAX: i32 = 512;

/// Values from this size on lie in blob files, so that compactions move their places and not them. Below
/// it, the second read that a blob costs is dearer than moving it.
pub const BLOB_BYTES_MIN: u64 = 16 << 10;

/// The size of one blob file. Several of them make a database of a few GiB, so that the oldest ones,
/// which hold what has expired, go soon.
const BLOB_FILE_BYTES: u64 = 64 << 20;

/// Compactions move blobs out of this share of the blob files, the oldest; the rest are too young to
/// hold much garbage.
const BLOB_MOVED_SHARE: f64 = 0.5;

/// When more than this share of the oldest blob files is garbage, they are rewritten. Together with the
/// one above it keeps what nobody can read below a tenth of the whole.
const BLOB_GARBAGE_MAX: f64 = 0.1;

/// Flushes and compactions write no faster, so that a sync of the write log never waits behind seconds of
/// their writes. Below it RocksDB finds the rate itself that it needs.
const WRITE_BYTES_PER_S_MAX: i64 = 256 << 20;

/// A file is compacted once it is so old, even if nobody writes: only compaction gives back the space of
/// what expired. For 1 TB it is 12 MB/s.
const COMPACTION_PERIOD_S: u64 = 24 * 3600;

pub fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // RocksDB's own log is off. The number of the last group in the database is only right if all
    // families are written to files at one moment.
    options.set_atomic_flush(true);
    // One flush and one compaction at a time on two processors, more on more.
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    options.set_max_background_jobs(processors.clamp(2, 8) as i32);
    options.set_max_open_files(OPEN_FILES_MAX);
    // Large files go to the disk while they are written, and not all at once when they are finished.
    options.set_bytes_per_sync(1 << 20);
    const REFILL_PERIOD_US: i64 = 100_000;
    const FAIRNESS: i32 = 10;
    options.set_auto_tuned_ratelimiter(WRITE_BYTES_PER_S_MAX, REFILL_PERIOD_US, FAIRNESS);
    // Whoever ends a read must not pay for deleting files that a compaction has made old meanwhile.
    options.set_avoid_unnecessary_blocking_io(true);
    // Hits of the cache and stalls are counted, which costs an addition each; histograms cost a clock.
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    // RocksDB's text logs. Ours has what a person must know.
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options
}

/// For a family that holds next to nothing.
pub fn small_family_options(cache: &Cache, memtable_bytes: usize) -> Options {
    let mut options = Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    options.set_block_based_table_factory(&table);
    // As large as the others: a full memtable of any family flushes all of them.
    options.set_write_buffer_size(memtable_bytes);
    options
}

pub fn family_options(family: Family, cache: &Cache, memtable_bytes: usize) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(&table_options(family, cache));
    options.set_write_buffer_size(memtable_bytes);
    // While one is written to a file, writes go on in the next; with four, a burst is longer than a
    // flush.
    options.set_max_write_buffer_number(4);
    // The last level has nine tenths of the data at any size, so at most a tenth is overwritten rows.
    options.set_level_compaction_dynamic_level_bytes(true);
    // A row that is read is often not there, or in files only: then a filter saves the search of each memtable.
    // With this share of the bytes it errs in fewer than one of a hundred reads.
    options.set_memtable_prefix_bloom_ratio(0.02);
    options.set_memtable_whole_key_filtering(true);
    options.set_compression_type(DBCompressionType::Lz4);
    if family == Family::Member {
        // Small where they stay. Not so single rows: messages of 150 bytes in JSON took 0.64 of the space with
        // Zstd, but a read that misses the cache took 1.5 times as long, all of it on the network thread.
        options.set_bottommost_compression_type(DBCompressionType::Zstd);
    }
    options.set_periodic_compaction_seconds(COMPACTION_PERIOD_S);
    // Queues delete at one end what they wrote at the other, and a read of that end walks over what was
    // deleted. A file with this many deletions close together is compacted at once.
    const WINDOW_ROWS: usize = 4096;
    const DELETIONS_IN_WINDOW_MAX: usize = 2048;
    const DELETED_SHARE_MAX: f64 = 0.5;
    options.add_compact_on_deletion_collector_factory(
        WINDOW_ROWS,
        DELETIONS_IN_WINDOW_MAX,
        DELETED_SHARE_MAX,
    );
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_BYTES_MIN);
    options.set_blob_file_size(BLOB_FILE_BYTES);
    options.set_blob_compression_type(DBCompressionType::Lz4);
    options.set_blob_cache(cache);
    options.set_enable_blob_gc(true);
    options.set_blob_gc_age_cutoff(BLOB_MOVED_SHARE);
    options.set_blob_gc_force_threshold(BLOB_GARBAGE_MAX);
    options
}

fn table_options(family: Family, cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    // One cache for all, so that whichever family is read has the memory.
    table.set_block_cache(cache);
    // Of indexes and filters only what is used is in memory: they are cut into blocks of 4 KiB that come
    // and go in the cache as data does, but before it. Only the tables of contents stay.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4 << 10);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // One in a hundred reads of a row that is not there touches the disk for nothing.
    table.set_bloom_filter(10.0, false);
    // The allocator's remainders are used for longer filters.
    table.set_optimize_filters_for_memory(true);
    // Members are read many together: fewer and better compressed blocks, and a miss that reads 12 KiB more,
    // which a disk does in the same time.
    table.set_block_size(16 << 10);
    if family == Family::Metadata {
        // Rows of this family are read one at a time. With blocks of 16 KiB the store was a tenth smaller and
        // a miss took a fifth longer, to unpack what nobody asked for.
        table.set_block_size(4 << 10);
        // A hash in each block finds them without a search.
        table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        table.set_data_block_hash_ratio(0.75);
    }
    table
}
