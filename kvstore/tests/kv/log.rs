//! The write log under damage: a torn end is cut, anything else is refused with its place.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Random, TempDir};
use hawser_kv::store::log::reader::ReadError;
use hawser_kv::store::log::{self, Cut, Log, OpenError};

const SEGMENT: u64 = 1 << 20;
const HEADER_BYTES: usize = 28;

type Records = Vec<(u64, Vec<u8>)>;

fn open(dir: &Path, applied: u64, segment: u64) -> Result<(Log, Option<Cut>, Records), OpenError> {
    let mut records = Vec::new();
    let (log, cut) = Log::open(dir, applied, segment, |sequence, payload| {
        records.push((sequence, payload.to_vec()));
        Ok::<(), OpenError>(())
    })?;
    Ok((log, cut, records))
}

fn payload(sequence: u64) -> Vec<u8> {
    format!("payload {sequence} ").repeat(sequence as usize % 4 + 1).into_bytes()
}

fn written(range: std::ops::RangeInclusive<u64>) -> Records {
    range.map(|sequence| (sequence, payload(sequence))).collect()
}

/// Each one synced before the next.
fn append(log: &mut Log, count: u64) {
    for _ in 0..count {
        append_unsynced(log, 1);
        log.sync().expect("a disk that works");
    }
}

fn append_unsynced(log: &mut Log, count: u64) {
    for _ in 0..count {
        let sequence = log.next();
        assert_eq!(log.append(&payload(sequence)).expect("there is space"), sequence);
    }
}

/// A log with five records in one segment, and that segment's bytes.
fn five() -> (TempDir, PathBuf, Vec<u8>) {
    let dir = TempDir::new();
    let (mut log, _, _) = open(dir.path(), 0, SEGMENT).expect("a new log");
    append(&mut log, 5);
    let path = dir.join("00000000000000000001.log");
    let bytes = fs::read(&path).expect("the segment");
    (dir, path, bytes)
}

#[test]
fn replays_what_is_not_applied_across_segments() {
    let dir = TempDir::new();
    let (mut log, _, records) = open(dir.path(), 0, 1).expect("a new log");
    assert_eq!(records, []);
    for _ in 0..5 {
        append(&mut log, 2);
        assert!(log.rotate().expect("there is space"));
    }
    drop(log);
    for applied in 0..=10 {
        let (_, cut, records) = open(dir.path(), applied, 1).expect("a good log");
        assert_eq!((records, cut), (written(applied + 1..=10), None));
    }
    let (log, _, _) = open(dir.path(), 10, 1).expect("a good log");
    assert_eq!(log.cleaner().delete_flushed(5).expect("files to delete"), 2);
    let (_, _, records) = open(dir.path(), 5, 1).expect("a good log");
    assert_eq!(records, written(6..=10));
    let error = open(dir.path(), 3, 1).err().expect("sequence 4 is gone").to_string();
    assert!(error.contains("starts at sequence 5, but 4 is next"), "{error}");
}

/// A segment cannot be made for a while: the old one goes on, and everything is there afterwards.
#[test]
fn a_rotation_that_fails_leaves_nothing_behind() {
    let dir = TempDir::new();
    let (mut log, _, _) = open(dir.path(), 0, 1).expect("a new log");
    for blocked in ["00000000000000000003.log.tmp", "00000000000000000005.log"] {
        append(&mut log, 2);
        fs::create_dir(dir.join(blocked)).expect("something in the way");
        log.rotate().expect_err("the name is taken");
        assert!(!log.is_broken());
        fs::remove_dir(dir.join(blocked)).expect("it is empty");
    }
    append(&mut log, 1);
    let cleaner = log.cleaner();
    assert_eq!(cleaner.delete_flushed(5).expect("readable"), 0, "the only segment was deleted");
    drop(log);
    let (mut log, cut, records) = open(dir.path(), 0, 1).expect("a good log");
    assert_eq!((records, cut), (written(1..=5), None));
    append(&mut log, 1);
    assert!(log.rotate().expect("nothing is in the way"));
    assert_eq!(names(dir.path()).len(), 3, "{:?}", names(dir.path()));
}

/// What a segment without records is.
fn header() -> Vec<u8> {
    let dir = TempDir::new();
    open(dir.path(), 0, SEGMENT).expect("a new log");
    fs::read(dir.join("00000000000000000001.log")).expect("the segment")
}

/// Empty files with numbers that the segment before them has, and files that were never renamed: what
/// half a rotation leaves. They hold nothing, so nothing is missing.
#[test]
fn files_of_half_a_rotation_are_removed() {
    for content in [&b""[..], b"hawserkv", &header()] {
        for torn in [false, true] {
            let (dir, path, bytes) = five();
            if torn {
                fs::write(&path, &bytes[..bytes.len() - 1]).expect("a file");
            }
            for stale in ["00000000000000000002.log", "00000000000000000004.log"] {
                fs::write(dir.join(stale), content).expect("a file");
            }
            fs::write(dir.join("00000000000000000006.log.tmp"), content).expect("a file");
            let (log, cut, records) = open(dir.path(), 0, SEGMENT).expect("nothing is missing");
            let count = if torn { 4 } else { 5 };
            assert_eq!((records, cut.is_some()), (written(1..=count), torn), "{content:?}");
            assert_eq!(names(dir.path()).len(), 2, "{:?}", names(dir.path()));
            drop(log);
        }
    }
    // A record that such a file shows to have been synced is not torn but damaged.
    let (dir, path, bytes) = five();
    fs::write(&path, &bytes[..bytes.len() - 1]).expect("a file");
    fs::write(dir.join("00000000000000000006.log"), header()).expect("a file");
    assert!(matches!(open(dir.path(), 0, SEGMENT).err(), Some(OpenError::Damaged { .. })));
}

#[test]
fn a_file_that_is_no_segment_does_not_end_the_active_one() {
    let dir = TempDir::new();
    let (mut log, _, _) = open(dir.path(), 0, 1).expect("a new log");
    append(&mut log, 2);
    assert!(log.rotate().expect("there is space"));
    append(&mut log, 3);
    fs::write(dir.join("00000000000000000004.log"), "").expect("a file");
    assert_eq!(log.cleaner().delete_flushed(4).expect("readable"), 1);
    assert_eq!(names(dir.path()), ["00000000000000000003.log", "00000000000000000004.log"]);
    drop(log);
    let (_, _, records) = open(dir.path(), 4, 1).expect("nothing is missing");
    assert_eq!(records, written(5..=5));
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the directory").map(|entry| entry.expect("an entry"));
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_missing_segment_in_the_middle_is_refused() {
    let dir = TempDir::new();
    let (mut log, _, _) = open(dir.path(), 0, 1).expect("a new log");
    for _ in 0..3 {
        append(&mut log, 1);
        log.rotate().expect("there is space");
    }
    drop(log);
    fs::remove_file(dir.join("00000000000000000002.log")).expect("it is there");
    let error = open(dir.path(), 0, 1).err().expect("a segment is missing").to_string();
    assert!(error.contains("starts at sequence 3, but 2 is next"), "{error}");
}

/// Wherever the file ends, what is whole before it is kept, and the log goes on from there.
#[test]
fn every_truncation_leaves_a_prefix() {
    let (dir, path, bytes) = five();
    for length in 0..bytes.len() {
        for entry in fs::read_dir(dir.path()).expect("the directory") {
            fs::remove_file(entry.expect("an entry").path()).expect("a file");
        }
        fs::write(&path, &bytes[..length]).expect("a file");
        let (mut log, cut, records) = open(dir.path(), 0, SEGMENT).expect("a prefix is good");
        let count = records.len() as u64;
        assert_eq!(records, written(1..=count), "cut at {length}");
        assert!(count < 5);
        if let Some(cut) = cut {
            assert_eq!((cut.offset + cut.bytes, &cut.path), (length as u64, &path));
        }
        append(&mut log, 1);
        drop(log);
        let (_, cut, records) = open(dir.path(), 0, SEGMENT).expect("a good log");
        assert_eq!((records, cut), (written(1..=count + 1), None), "cut at {length}");
    }
}

/// Whichever byte is damaged: in the last record it counts as torn, before it opening is refused, and
/// nothing damaged is ever replayed.
#[test]
fn every_damaged_byte_is_noticed() {
    let (dir, path, bytes) = five();
    let last_starts = bytes.len() - 24 - payload(5).len();
    let mut random = Random(7);
    for offset in 0..bytes.len() {
        for entry in fs::read_dir(dir.path()).expect("the directory") {
            fs::remove_file(entry.expect("an entry").path()).expect("a file");
        }
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1 << random.below(8);
        fs::write(&path, &damaged).expect("a file");
        match open(dir.path(), 0, SEGMENT) {
            Ok((_, cut, records)) => {
                assert!(offset >= last_starts, "damage at {offset} went unnoticed");
                assert_eq!(records, written(1..=4));
                assert_eq!(cut.expect("something was cut").offset, last_starts as u64);
            }
            Err(OpenError::Damaged { path: named, offset: at, .. }) => {
                assert!(offset < last_starts, "a torn end at {offset} was refused");
                assert_eq!(named, path);
                assert!(at <= offset as u64 && offset as u64 - at < 24 + 64);
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_segment_that_is_not_the_last_must_be_whole() {
    let dir = TempDir::new();
    let (mut log, _, _) = open(dir.path(), 0, 1).expect("a new log");
    append(&mut log, 2);
    log.rotate().expect("there is space");
    append(&mut log, 2);
    drop(log);
    let path = dir.join("00000000000000000001.log");
    let bytes = fs::read(&path).expect("the segment");
    fs::write(&path, &bytes[..bytes.len() - 1]).expect("a file");
    let error = open(dir.path(), 0, 1).err().expect("not whole").to_string();
    assert!(error.contains("00000000000000000001.log: damaged at byte"), "{error}");
}

/// Damage in what was never synced is a torn end, whatever is whole behind it; damage in what a later
/// record says was synced is not.
#[test]
fn only_what_was_synced_must_be_whole() {
    for synced in 0..=5 {
        let dir = TempDir::new();
        let (mut log, _, _) = open(dir.path(), 0, SEGMENT).expect("a new log");
        let mut starts = Vec::new();
        let path = dir.join("00000000000000000001.log");
        for sequence in 1..=6 {
            starts.push(fs::metadata(&path).expect("the segment").len() as usize);
            append_unsynced(&mut log, 1);
            if sequence == synced {
                log.sync().expect("a disk that works");
            }
        }
        drop(log);
        let bytes = fs::read(&path).expect("the segment");
        for sequence in 1..=6 {
            let mut damaged = bytes.clone();
            damaged[starts[sequence - 1] + 30] ^= 1;
            fs::remove_dir_all(dir.path()).expect("a directory");
            fs::create_dir(dir.path()).expect("a directory");
            fs::write(&path, &damaged).expect("a file");
            match open(dir.path(), 0, SEGMENT) {
                Ok((_, cut, records)) => {
                    assert!(sequence > synced, "damage in {sequence} of {synced} went unnoticed");
                    assert_eq!(records, written(1..=sequence as u64 - 1));
                    assert_eq!(cut.expect("it was cut").offset as usize, starts[sequence - 1]);
                }
                Err(OpenError::Damaged { offset, .. }) => {
                    assert!(sequence <= synced, "a torn {sequence} of {synced} was refused");
                    assert_eq!(offset as usize, starts[sequence - 1]);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// After a power cut the database may have more than the log, where not everything is synced. The log
/// goes on behind it, and the gap is no missing file.
#[test]
fn a_log_that_ends_before_the_database_goes_on_behind_it() {
    let dir = TempDir::new();
    let (mut log, _, _) = open(dir.path(), 0, SEGMENT).expect("a new log");
    append_unsynced(&mut log, 3);
    drop(log);
    for _ in 0..2 {
        let (log, cut, records) = open(dir.path(), 7, SEGMENT).expect("a gap that is explained");
        assert_eq!((log.next(), cut, records), (8, None, Vec::new()));
    }
    let error = open(dir.path(), 6, SEGMENT).err().expect("sequence 7 is gone").to_string();
    assert!(error.contains("starts at sequence 8, but 4 is next"), "{error}");
    let (log, _, _) = open(dir.path(), 7, SEGMENT).expect("a gap that is explained");
    let mut reader = log.source().read_from(2).expect("it is there");
    assert_eq!(reader.read().expect("whole"), Some(payload(2)));
    assert_eq!(reader.read().expect("whole"), Some(payload(3)));
    assert!(matches!(reader.read(), Err(ReadError::Gone { wanted: 4, .. })));
}

#[test]
fn a_reader_gets_what_is_synced_from_any_sequence_on() {
    let dir = TempDir::new();
    let (mut log, _, _) = open(dir.path(), 0, 1).expect("a new log");
    for _ in 0..4 {
        append(&mut log, 2);
        log.rotate().expect("there is space");
    }
    let source = log.source();
    for from in 1..=9 {
        let mut reader = source.read_from(from).expect("it is there, or comes next");
        for sequence in from..=8 {
            assert_eq!(reader.read().expect("whole"), Some(payload(sequence)));
        }
        assert_eq!(reader.read().expect("whole"), None);
        assert_eq!(reader.next_sequence(), 9);
    }
    assert!(matches!(source.read_from(10), Err(ReadError::Ahead { wanted: 10, last: 8 })));
    let mut reader = source.read_from(9).expect("it comes next");
    append_unsynced(&mut log, 2);
    assert_eq!(reader.read().expect("whole"), None, "it is not on the disk");
    log.syncer().sync().expect("a disk that works");
    for sequence in 9..=10 {
        assert_eq!(reader.read().expect("whole"), Some(payload(sequence)));
    }
    assert_eq!(reader.read().expect("whole"), None);
}

#[test]
fn what_a_reader_needs_is_not_deleted() {
    let dir = TempDir::new();
    let (mut log, _, _) = open(dir.path(), 0, 1).expect("a new log");
    for _ in 0..4 {
        append(&mut log, 2);
        log.rotate().expect("there is space");
    }
    let (source, cleaner) = (log.source(), log.cleaner());
    let mut slow = source.read_from(4).expect("it is there");
    let fast = source.read_from(8).expect("it is there");
    assert_eq!(cleaner.delete_flushed(8).expect("readable"), 1, "4 is in the second of four");
    drop(fast);
    assert_eq!(cleaner.delete_flushed(8).expect("readable"), 0);
    assert_eq!(slow.read().expect("whole"), Some(payload(4)));
    assert_eq!(cleaner.delete_flushed(8).expect("readable"), 1);
    assert!(matches!(source.read_from(4), Err(ReadError::Gone { wanted: 4, first: 5 })));
    drop(slow);
    assert_eq!(cleaner.delete_flushed(8).expect("readable"), 2);
    let mut reader = source.read_from(9).expect("it comes next");
    append(&mut log, 1);
    assert_eq!(reader.read().expect("whole"), Some(payload(9)));
}

#[test]
fn a_reader_is_told_of_damage() {
    let dir = TempDir::new();
    let (mut log, _, _) = open(dir.path(), 0, SEGMENT).expect("a new log");
    append(&mut log, 3);
    let path = dir.join("00000000000000000001.log");
    let mut bytes = fs::read(&path).expect("the segment");
    let second = HEADER_BYTES + 24 + payload(1).len();
    bytes[second + 25] ^= 1;
    fs::write(&path, &bytes).expect("a file");
    let mut reader = log.source().read_from(1).expect("it is there");
    assert_eq!(reader.read().expect("whole"), Some(payload(1)));
    let error = reader.read().expect_err("it is damaged").to_string();
    let place = format!("damaged at byte {second} (the checksum is wrong)");
    assert!(error.contains(&place), "{error}");
}

/// What the error message offers an operator without a copy.
#[test]
fn a_damaged_log_can_be_cut_where_it_is_damaged() {
    let dir = TempDir::new();
    let (mut log, _, _) = open(dir.path(), 0, 1).expect("a new log");
    for _ in 0..3 {
        append(&mut log, 2);
        log.rotate().expect("there is space");
    }
    drop(log);
    let path = dir.join("00000000000000000003.log");
    let mut bytes = fs::read(&path).expect("the segment");
    let fourth = HEADER_BYTES + 24 + payload(3).len();
    bytes[fourth + 24] ^= 1;
    fs::write(&path, &bytes).expect("a file");
    let error = open(dir.path(), 0, 1).err().expect("damaged").to_string();
    assert!(error.contains(&format!("--cut-log {}@{fourth}", path.display())), "{error}");
    for bad in [1, HEADER_BYTES as u64 - 1, bytes.len() as u64] {
        log::cut_off(&path, bad).expect_err("no record can begin there");
    }
    log::cut_off(&dir.join("00000000000000000004.log"), 28).expect_err("there is no such file");
    assert!(open(dir.path(), 0, 1).is_err(), "nothing was cut");
    let cuts = log::cut_off(&path, fourth as u64).expect("a place in the log");
    assert_eq!((cuts.len(), cuts[0].offset), (3, fourth as u64));
    let (log, cut, records) = open(dir.path(), 0, 1).expect("a good log");
    assert_eq!((log.next(), cut, records), (4, None, written(1..=3)));
}

/// A disk loses whole sectors, and records are small: the last one alone knows that the others were synced.
#[test]
fn one_record_behind_any_damage_shows_what_was_synced() {
    const RECORDS: u64 = 200;
    let dir = TempDir::new();
    let mut log = open(dir.path(), 0, SEGMENT).expect("a new log").0;
    let path = dir.join("00000000000000000001.log");
    let mut starts = Vec::new();
    for _ in 0..RECORDS {
        starts.push(path.metadata().expect("the segment").len() as usize);
        append(&mut log, 1);
    }
    drop(log);
    let bytes = fs::read(&path).expect("the segment");
    let last = starts[RECORDS as usize - 1];
    for &start in &starts[..RECORDS as usize - 1] {
        for lost in [0, 0xff] {
            let mut damaged = bytes.clone();
            damaged[start..last].fill(lost);
            fs::write(&path, &damaged).expect("a file");
            match open(dir.path(), 0, SEGMENT).err() {
                Some(OpenError::Damaged { offset, .. }) => assert_eq!(offset, start as u64),
                other => panic!("{} bytes from {start} on: {other:?}", last - start),
            }
        }
    }
}

#[test]
fn a_spare_segment_leaves_space_to_others() {
    let dir = TempDir::new();
    let disk = rustix::fs::statvfs(dir.path()).expect("a disk");
    for (segment, is_made) in [(disk.f_bavail * disk.f_frsize / 3, false), (SEGMENT, true)] {
        let (log, _, _) = open(dir.path(), 0, segment).expect("a log");
        log.spare().prepare().expect("a disk that works");
        assert_eq!(dir.join("spare.log.tmp").exists(), is_made, "{segment}");
    }
}

#[test]
fn a_segment_whose_header_is_damaged_can_be_given_up_whole() {
    for at in 0..HEADER_BYTES {
        let dir = TempDir::new();
        let (mut log, _, _) = open(dir.path(), 0, 1).expect("a new log");
        append(&mut log, 2);
        log.rotate().expect("there is space");
        append(&mut log, 2);
        drop(log);
        let path = dir.join("00000000000000000003.log");
        let mut bytes = fs::read(&path).expect("the segment");
        bytes[at] ^= 1;
        fs::write(&path, &bytes).expect("a file");
        let error = open(dir.path(), 0, 1).err().expect("damaged").to_string();
        assert!(error.contains("damaged at byte 0 (the header is wrong)"), "{error}");
        assert!(error.contains(&format!("--cut-log {}@0", path.display())), "{error}");
        let cuts = log::cut_off(&path, 0).expect("all of it");
        assert_eq!((cuts.len(), cuts[0].bytes), (1, bytes.len() as u64));
        let (log, _, records) = open(dir.path(), 0, 1).expect("a good log");
        assert_eq!((log.next(), records), (3, written(1..=2)));
    }
}

/// Clients decide what is in a payload, and guess sequences easily. The last record is torn, and what is in
/// it says that it had been synced.
#[test]
fn a_payload_cannot_pass_for_a_record() {
    for salt in [0, 1, u64::MAX] {
        let (dir, path, _) = five();
        let mut log = open(dir.path(), 0, SEGMENT).expect("a good log").0;
        // It would be the next one, right behind the header of the one that it is in.
        log.append(&record(salt, 7, 6, b"never written")).expect("there is space");
        drop(log);
        fs::remove_file(&path).expect("the segment before");
        let path = dir.join("00000000000000000006.log");
        let mut torn = fs::read(&path).expect("the segment");
        torn[HEADER_BYTES] ^= 1;
        fs::write(&path, &torn).expect("a file");
        let (log, cut, records) = open(dir.path(), 5, SEGMENT).expect("a torn end and no damage");
        assert_eq!((log.next(), records), (6, vec![]));
        let cut = cut.expect("a torn end");
        assert_eq!(
            (cut.offset, cut.bytes),
            (HEADER_BYTES as u64, (torn.len() - HEADER_BYTES) as u64)
        );
    }
}

/// As the log's documentation has it.
fn record(salt: u64, sequence: u64, synced: u64, payload: &[u8]) -> Vec<u8> {
    let after = [&sequence.to_be_bytes()[..], &(synced ^ salt).to_be_bytes(), payload].concat();
    let length = (payload.len() as u32).to_be_bytes();
    [&length[..], &crc32c::crc32c(&after).to_be_bytes(), &after].concat()
}
