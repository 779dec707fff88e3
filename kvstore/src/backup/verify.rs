//! Whether a backup or the data of a stopped server is good, and where it is not.
//!
//! A backup is held to its manifest byte by byte; `deep` also opens it as a server would and makes its digest
//! anew. A data directory has no manifest: its log is read from end to end, every row of RocksDB is read, and
//! metadata and members are held to each other.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::audit::Findings;
use super::manifest::{Damage, Manifest};
use super::still::{Still, StillError};
use super::stream::{Failed, Meter, Report, stream};
use super::{BackupError, DATA, MANIFEST, io_error};
use crate::store::database::unix_ms;
use crate::store::log::Cut;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The bytes.
    Files,
    /// What they mean, too.
    Content,
}

/// What was found in a backup.
#[derive(Debug)]
pub struct Backup {
    pub manifest: Manifest,
    pub damage: Vec<Damage>,
    /// Files that the manifest does not know. They do no harm until the backup is used by hand.
    pub unknown: Vec<PathBuf>,
    /// With [`Depth::Content`], if the bytes are good.
    pub content: Option<Result<Content, StillError>>,
}

impl Backup {
    pub fn is_good(&self) -> bool {
        let is_same = |content: &Content| content.digest == self.manifest.digest;
        let is_good = |content: &Content| is_same(content) && content.findings.count == 0;
        let has_content =
            self.content.as_ref().is_none_or(|content| content.as_ref().is_ok_and(is_good));
        self.damage.is_empty() && self.unknown.is_empty() && has_content
    }
}

/// What is in a data directory.
#[derive(Debug)]
pub struct Content {
    pub sequence: u64,
    pub as_of_ms: u64,
    pub keys: u64,
    pub rows: u64,
    pub digest: String,
    pub findings: Findings,
    /// What a start would cut from the end of the log. Nobody was promised it.
    pub torn: Option<Cut>,
}

pub fn is_backup(path: &Path) -> bool {
    path.join(MANIFEST).is_file()
}

pub fn read_manifest(backup: &Path) -> Result<Manifest, BackupError> {
    if !is_backup(backup) {
        return Err(BackupError::NoBackup(backup.to_path_buf()));
    }
    Ok(Manifest::read(&backup.join(MANIFEST))?)
}

pub fn backup(
    path: &Path,
    depth: Depth,
    scratch: &Path,
    report: &mut Report<'_>,
) -> Result<Backup, BackupError> {
    let manifest = read_manifest(path)?;
    let data = path.join(DATA);
    let mut forward = |progress| report(progress);
    let mut meter = Meter::new(manifest.bytes(), None, &mut forward);
    let mut damage = Vec::new();
    for entry in &manifest.files {
        let file = data.join(&entry.path);
        match stream(&file, None, &mut meter) {
            Ok(found) => damage.extend(entry.compare(&file, &found)),
            Err(Failed { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                let (offset, bytes, what) = (0, entry.bytes, "the file is missing");
                damage.push(Damage { path: file, offset, bytes, what });
            }
            Err(Failed { error, .. }) => {
                tracing::warn!(%error, "{}", file.display());
                let (offset, bytes, what) = (0, entry.bytes, "the file cannot be read");
                damage.push(Damage { path: file, offset, bytes, what });
            }
        }
    }
    let unknown = unknown(&data, &manifest)?;
    let is_content_wanted = depth == Depth::Content && damage.is_empty();
    let as_of_ms = manifest.taken_ms;
    let content = is_content_wanted.then(|| look(&data, as_of_ms, scratch, &mut meter));
    Ok(Backup { manifest, damage, unknown, content })
}

/// The data of a server that does not run. `as_of_ms` is when keys are looked at as expired; now, if `None`.
pub fn directory(
    dir: &Path,
    as_of_ms: Option<u64>,
    scratch: &Path,
    report: &mut Report<'_>,
) -> Result<Content, StillError> {
    let mut forward = |progress| report(progress);
    let mut meter = Meter::new(0, None, &mut forward);
    look(dir, as_of_ms.unwrap_or_else(unix_ms), scratch, &mut meter)
}

fn look(
    dir: &Path,
    as_of_ms: u64,
    scratch: &Path,
    meter: &mut Meter<'_>,
) -> Result<Content, StillError> {
    let still = Still::open(dir, scratch)?;
    let rows = still.read_everything()?;
    let audit = still.audit(as_of_ms, meter)?;
    Ok(Content {
        sequence: still.sequence(),
        as_of_ms,
        keys: audit.keys,
        rows,
        digest: audit.digest,
        findings: audit.findings,
        torn: still.torn().cloned(),
    })
}

fn unknown(data: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>, BackupError> {
    let known: HashSet<PathBuf> =
        manifest.files.iter().map(|entry| data.join(&entry.path)).collect();
    let mut found = Vec::new();
    for dir in [data.to_path_buf(), data.join("log"), data.join("rocksdb")] {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.map_err(|error| io_error(&dir, error))?.path();
            if !path.is_dir() && !known.contains(&path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}
