//! From a checkpoint to a backup, on any file system.
//!
//! Files that never change and that the last backup in the same folder has are linked from there, so a
//! backup costs the room and the time of what is new, and each of them is whole: any may be deleted.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::audit::Findings;
use super::manifest::{Entry, Manifest, Source};
use super::still::Still;
use super::stream::{Meter, Report, stream};
use super::{BackupError, DATA, MANIFEST};
use super::{above, io_error, is_unfinished, lock, remove, sync_dir, unfinished};
use crate::store::database::unix_ms;
use crate::store::lasting;

/// What is to be done.
pub struct Order<'a> {
    /// A data directory that nobody changes meanwhile.
    pub checkpoint: &'a Path,
    /// Where the backup is made: its folder is made when it is missing.
    pub path: &'a Path,
    pub bytes_per_s_max: Option<u64>,
    /// Where a few files may lie while the digest is made.
    pub scratch: &'a Path,
}

/// What was done.
#[derive(Debug)]
pub struct Taken {
    pub manifest: Manifest,
    pub linked_files: usize,
    pub linked_bytes: u64,
    pub findings: Findings,
}

pub fn take(order: &Order<'_>, report: &mut Report<'_>) -> Result<Taken, BackupError> {
    let path = order.path;
    let folder = above(path);
    lasting::create(folder).map_err(|error| io_error(folder, error))?;
    let _lock = lock(folder)?;
    remove_unfinished(folder)?;
    if path.exists() {
        return Err(BackupError::Exists(path.to_path_buf()));
    }
    let unfinished = unfinished(path);
    let taken = fill(order, &unfinished, report).and_then(|taken| {
        fs::rename(&unfinished, path).map_err(|error| io_error(path, error))?;
        sync_dir(folder)?;
        Ok(taken)
    });
    taken.inspect_err(|_| _ = remove(&unfinished))
}

fn fill(
    order: &Order<'_>,
    unfinished: &Path,
    report: &mut Report<'_>,
) -> Result<Taken, BackupError> {
    let taken_ms = unix_ms();
    let folder = above(order.path);
    let last = last_backup(folder)?;
    let sources = files(order.checkpoint)?;
    let bytes = sources.iter().map(|(_, metadata)| metadata.len()).sum();
    let mut report = |progress| report(progress);
    let mut meter = Meter::new(bytes, order.bytes_per_s_max, &mut report);
    let data = unfinished.join(DATA);
    for dir in [&data, &data.join("log"), &data.join("rocksdb")] {
        fs::create_dir_all(dir).map_err(|error| io_error(dir, error))?;
    }
    let (mut linked_files, mut linked_bytes) = (0, 0);
    let mut entries = Vec::with_capacity(sources.len());
    for (path, metadata) in sources {
        let source = Source { inode: metadata.ino(), changed_ns: changed_ns(&metadata) };
        let to = data.join(&path);
        if let Some(entry) = last.as_ref().and_then(|last| last.link(&path, source, &to)) {
            linked_files += 1;
            linked_bytes += entry.bytes;
            meter.skip(entry.bytes);
            entries.push(entry);
            continue;
        }
        let from = order.checkpoint.join(&path);
        let copied = stream(&from, Some(&to), &mut meter)?;
        entries.push(Entry { path, bytes: copied.bytes, source, checks: copied.checks });
    }
    let still = Still::open(order.checkpoint, order.scratch)?;
    let audit = still.audit(taken_ms, &mut meter)?;
    let manifest = Manifest {
        sequence: still.sequence(),
        taken_ms,
        keys: audit.keys,
        digest: audit.digest,
        files: entries,
    };
    write_manifest(&unfinished.join(MANIFEST), &manifest)?;
    for dir in [&data.join("log"), &data.join("rocksdb"), &data, unfinished] {
        sync_dir(dir)?;
    }
    Ok(Taken { manifest, linked_files, linked_bytes, findings: audit.findings })
}

fn write_manifest(path: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let mut options = OpenOptions::new();
    let written = options.write(true).create_new(true).open(path).and_then(|mut file| {
        file.write_all(manifest.text().as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| io_error(path, error))
}

/// The files of a data directory, without what a process that has it open puts there for itself.
fn files(dir: &Path) -> Result<Vec<(String, fs::Metadata)>, BackupError> {
    let mut found = Vec::new();
    for folder in ["", "log", "rocksdb"] {
        let path = dir.join(folder);
        for entry in fs::read_dir(&path).map_err(|error| io_error(&path, error))? {
            let entry = entry.map_err(|error| io_error(&path, error))?;
            let metadata = entry.metadata().map_err(|error| io_error(&path, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_of_the_process = folder == "rocksdb" && name.starts_with("LO");
            if metadata.is_file() && !is_of_the_process {
                let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                found.push((name, metadata));
            }
        }
    }
    found.sort_by(|(left, _), (right, _)| left.cmp(right));
    Ok(found)
}

fn changed_ns(metadata: &fs::Metadata) -> i64 {
    metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec())
}

/// The newest backup of a folder.
struct Last {
    data: PathBuf,
    manifest: Manifest,
}

impl Last {
    /// Links a file from there, if it is the same and never changes.
    fn link(&self, path: &str, source: Source, to: &Path) -> Option<Entry> {
        let never_changes = path.ends_with(".sst") || path.ends_with(".blob");
        let files = &self.manifest.files;
        let found = files.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok()?;
        let entry = Some(&files[found]).filter(|entry| never_changes && entry.source == source)?;
        let from = self.data.join(path);
        let is_whole = from.metadata().is_ok_and(|found| found.len() == entry.bytes);
        // Where links do not work, or the file is gone, it is copied.
        (is_whole && fs::hard_link(&from, to).is_ok()).then(|| entry.clone())
    }
}

fn last_backup(folder: &Path) -> Result<Option<Last>, BackupError> {
    let mut last: Option<Last> = None;
    for name in names(folder)? {
        let path = folder.join(&name);
        // One that is damaged is not built upon, and no reason not to take another.
        if let Ok(manifest) = Manifest::read(&path.join(MANIFEST))
            && last.as_ref().is_none_or(|last| last.manifest.taken_ms < manifest.taken_ms)
        {
            last = Some(Last { data: path.join(DATA), manifest });
        }
    }
    if let Some(last) = &mut last {
        last.manifest.files.sort_by(|left, right| left.path.cmp(&right.path));
    }
    Ok(last)
}

fn names(folder: &Path) -> Result<Vec<String>, BackupError> {
    let failed = |error| io_error(folder, error);
    let entries = fs::read_dir(folder).map_err(failed)?;
    let name = |entry: std::io::Result<fs::DirEntry>| {
        Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect()
}

/// Removes what a backup that was killed has left; the folder is locked, so none is under way.
fn remove_unfinished(folder: &Path) -> Result<(), BackupError> {
    let mut names = names(folder)?.into_iter().filter(|name| is_unfinished(name));
    names.try_for_each(|name| remove(&folder.join(name)))
}
