//! The write log under damage: a torn end is cut, anything else is refused with its place.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Random, TempDir};
use hawser_kv::store::log::{Cut, Log, OpenError};

const SEGMENT: u64 = 1 << 20;

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

fn append(log: &mut Log, count: u64) {
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

/// Empty files with numbers that the segment before them has, and files that were never renamed: what
/// half a rotation leaves. They hold nothing, so nothing is missing.
#[test]
fn files_of_half_a_rotation_are_removed() {
    for content in ["", "hawserkv", "hawserkv-log-v1\n"] {
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
    fs::write(dir.join("00000000000000000006.log"), "hawserkv-log-v1\n").expect("a file");
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
    let last_starts = bytes.len() - 16 - payload(5).len();
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
                assert!(at <= offset as u64 && offset as u64 - at < 16 + 64);
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
