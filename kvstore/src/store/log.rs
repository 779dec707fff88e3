//! The write log: every group of changes, synced before anybody is answered who was promised that.
//!
//! ```text
//! DIR/log/00000000000000000042.log    named after the first sequence in it
//! segment   a header, then records: [sequence][synced][payload] and a checksum; bytes in `log/record.rs`
//! ```
//!
//! Sequences are dense across segments. `synced` is the last sequence that
//! was known to be on the disk when the record was written, and a segment is synced before the next one
//! is made. So a record that cannot be read was promised to somebody exactly if a later record or a later
//! segment says that it had been synced: then it is damaged, and opening fails with its place. Otherwise
//! it is the torn end of what was not synced, which is cut with all that follows ([`Cut`]).
//!
//! A new segment is made under another name, synced and renamed: so it either does not exist, and the
//! old one goes on, or everything from its number on is in it. A number in a file's name is therefore
//! also the end of the segment before it, and what [`Cleaner`] goes by. There are two exceptions. A file
//! without records whose numbers are in the segment before it is from a rotation that was given up half
//! way; it holds nothing, and opening removes it. And where not everything is synced, a power cut may
//! leave the database with more than the log: then the log goes on after what the database has.
//!
//! A segment may have been made beforehand as a file of zeros ([`Spare`]): then a sync has only data to write,
//! and no new size or blocks, which halves it on ext4. The zeros after the last record are its end, and are
//! cut off before the next segment is made.
//!
//! A failed write is undone by cutting the segment back, and the log goes on when there is space
//! again. A failed sync is not: the kernel may have dropped the pages and a second sync would claim
//! success, so the log refuses everything until the process is started again and has read what is
//! really there.
//!
//! Whoever has to read the log ([`reader`]) pins it, so that nothing is deleted before it was read.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use thiserror::Error;

use super::lasting;
use super::seeded::SeededBug;
use record::{HEADER_BYTES, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES, Salt};
use record::{decode, encode, is_known_as_synced};

pub mod copy;
pub mod reader;
mod record;

/// What the name of a segment that is being made ends with.
const UNFINISHED: &str = ".log.tmp";
const SPARE: &str = "spare.log.tmp";
const SPARE_PIECE_BYTES: usize = 1 << 20;
/// A spare segment takes at most this part of what is free: RocksDB needs space to make some.
const SPARE_SHARE: u64 = 4;

/// Why the log cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{}: damaged at byte {offset} ({what}), before what was synced; restore the file from a copy, or \
         give up everything from there on with: hawser-kv --cut-log {}@{offset}",
        path.display(), path.display()
    )]
    Damaged { path: PathBuf, offset: u64, what: &'static str },
    #[error("{}: starts at sequence {found}, but {wanted} is next; a log file is missing", path.display())]
    Missing { path: PathBuf, wanted: u64, found: u64 },
}

/// Why a group was not written.
#[derive(Debug, Error)]
pub enum AppendError {
    /// Nothing was written. It is worth trying again.
    #[error("{0}")]
    NotWritten(io::Error),
    /// Nobody knows what is on the disk. Only a restart finds out.
    #[error("{0}")]
    Broken(io::Error),
    /// Nothing was written, because the log had broken before.
    #[error("the log failed to sync before")]
    Stopped,
}

/// A torn record at the end of the log, which nobody was told about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub path: PathBuf,
    pub offset: u64,
    pub bytes: u64,
}

/// The log, open for appending.
pub struct Log {
    dir: Dir,
    shared: Arc<State>,
    /// That of the active segment.
    salt: Salt,
    /// Up to the last whole record. What is after it was never answered, or is zeros.
    bytes: u64,
    /// The active segment was a spare one.
    has_room: bool,
    /// A spare one was asked for.
    has_asked: bool,
    segment_bytes_max: u64,
    next: u64,
}

/// What the log's own thread shares with those who sync, delete and read.
struct State {
    /// The segment that is written to.
    file: Mutex<Arc<File>>,
    /// The number in its name.
    active: AtomicU64,
    /// The last sequence that was written, and the last one that is known to be on the disk.
    written: AtomicU64,
    synced: AtomicU64,
    syncing: Mutex<()>,
    /// A sync has failed: nobody knows what is on the disk.
    broken: AtomicBool,
    /// What each reader reads next.
    pins: Mutex<BTreeMap<u64, u64>>,
    /// A file of zeros, for the next segment.
    spare: Mutex<Option<File>>,
}

impl State {
    fn file(&self) -> Arc<File> {
        self.file.lock().expect("nothing panics under it").clone()
    }

    fn pins(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.pins.lock().expect("nothing panics under it")
    }

    /// Makes durable what was written until now. One thread at a time: the kernel tells one of those who
    /// sync a file that it failed, and the others that it is well.
    fn sync(&self) -> Result<(), AppendError> {
        let _alone = self.syncing.lock().expect("nothing panics under it");
        let written = self.written.load(SeqCst);
        if self.broken.load(SeqCst) {
            return Err(AppendError::Stopped);
        }
        if self.synced.load(SeqCst) < written {
            // A segment is synced before the next one takes its place, so this one holds the rest.
            if let Err(error) = sync_file(&self.file()) {
                self.broken.store(true, SeqCst);
                return Err(AppendError::Broken(error));
            }
            self.synced.fetch_max(written, SeqCst);
        }
        Ok(())
    }
}

fn sync_file(file: &File) -> io::Result<()> {
    if SeededBug::SkipsSync.is_on() {
        return Ok(());
    }
    match file.sync_data() {
        Err(_) if SeededBug::RetriesSync.is_on() => file.sync_data(),
        done => done,
    }
}

impl Log {
    /// Gives every record after `applied` to `apply`, in order, cuts a torn end and starts a new
    /// segment. The caller deletes old segments when it has no more use for them.
    pub fn open<E: From<OpenError>>(
        dir: &Path,
        applied: u64,
        segment_bytes_max: u64,
        mut apply: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(Log, Option<Cut>), E> {
        lasting::create(dir).map_err(|error| io_error(dir, error))?;
        remove_unfinished(dir)?;
        let (next, cut) = replay_all(dir, applied, Replayed::GoesOn, &mut apply)?;
        let made = Dir::open(dir).and_then(|dir| {
            let created = dir.create_segment(next, None)?;
            dir.handle.sync_all()?;
            Ok((dir, created))
        });
        let (dir, (file, salt)) = made.map_err(|error| io_error(dir, error))?;
        let shared = State {
            file: Mutex::new(Arc::new(file)),
            active: AtomicU64::new(next),
            written: AtomicU64::new(next - 1),
            synced: AtomicU64::new(next - 1),
            syncing: Mutex::default(),
            broken: AtomicBool::new(false),
            pins: Mutex::default(),
            spare: Mutex::default(),
        };
        let (bytes, shared) = (HEADER_BYTES as u64, Arc::new(shared));
        let (has_room, has_asked) = (false, false);
        let log = Log { dir, shared, salt, bytes, has_room, has_asked, segment_bytes_max, next };
        Ok((log, cut))
    }

    /// What makes room for the segment after this one.
    pub fn spare(&self) -> Spare {
        let (path, bytes) = (self.dir.path.join(SPARE), self.segment_bytes_max);
        Spare { path, bytes, shared: self.shared.clone() }
    }

    /// What deletes old segments while this writes new ones.
    pub fn cleaner(&self) -> Cleaner {
        Cleaner { dir: self.dir.path.clone(), shared: self.shared.clone() }
    }

    /// What syncs from another thread while this writes.
    pub fn syncer(&self) -> Syncer {
        Syncer { shared: self.shared.clone() }
    }

    /// What reads while this writes.
    pub fn source(&self) -> reader::Source {
        reader::Source::new(self.dir.path.clone(), self.shared.clone())
    }

    /// The sequence the next group gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn is_broken(&self) -> bool {
        self.shared.broken.load(SeqCst)
    }

    /// Writes one group and returns its sequence. It is durable after the next sync.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, AppendError> {
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "groups are bounded");
        if self.is_broken() {
            return Err(AppendError::Stopped);
        }
        let sequence = self.next;
        let record = encode(self.salt, sequence, self.shared.synced.load(SeqCst), payload);
        if let Err(error) = self.shared.file().write_all_at(&record, self.bytes)
            && !SeededBug::IgnoresWriteError.is_on()
        {
            return Err(self.undo(error));
        }
        self.bytes += record.len() as u64;
        self.next += 1;
        self.shared.written.store(sequence, SeqCst);
        Ok(sequence)
    }

    /// Makes all groups durable that were written.
    pub fn sync(&self) -> Result<(), AppendError> {
        self.shared.sync()
    }

    /// Starts a new segment when the current one is full, or when it is the first one and there is a spare
    /// one by now. Returns whether it did. After an error the current one goes on, unless nobody knows
    /// whether a crash would leave the new one.
    pub fn rotate(&mut self) -> io::Result<bool> {
        let mut spare = self.shared.spare.lock().expect("nothing panics under it");
        if self.bytes < self.segment_bytes_max && (self.has_room || spare.is_none()) {
            return Ok(false);
        }
        self.shared.sync().map_err(io::Error::other)?;
        if self.has_room {
            // Whoever reads a segment that is not the last one finds its end where the file ends.
            let file = self.shared.file();
            let cut = file.set_len(self.bytes).and_then(|()| file.sync_all());
            cut.inspect_err(|_| self.shared.broken.store(true, SeqCst))?;
        }
        let has_room = spare.is_some();
        let (file, salt) = self.dir.create_segment(self.next, spare.take())?;
        drop(spare);
        (self.salt, self.bytes, self.has_room) = (salt, HEADER_BYTES as u64, has_room);
        *self.shared.file.lock().expect("nothing panics under it") = Arc::new(file);
        self.shared.active.store(self.next, SeqCst);
        let broken = &self.shared.broken;
        if !SeededBug::ForgetsDirectorySync.is_on() {
            self.dir.handle.sync_all().inspect_err(|_| broken.store(true, SeqCst))?;
        }
        Ok(true)
    }

    /// Whether it is time to make room for the next segment. Said once.
    pub fn wants_spare(&mut self) -> bool {
        let is_time = !self.has_room && !self.has_asked && self.bytes > self.segment_bytes_max / 64;
        self.has_asked |= is_time;
        is_time
    }

    fn undo(&mut self, error: io::Error) -> AppendError {
        if SeededBug::ForgetsToCut.is_on() {
            return AppendError::NotWritten(error);
        }
        self.has_room = false;
        match self.shared.file().set_len(self.bytes) {
            Ok(()) => AppendError::NotWritten(error),
            Err(_) => {
                self.shared.broken.store(true, SeqCst);
                AppendError::Broken(error)
            }
        }
    }
}

/// The directory, held open so that making its names durable needs no descriptor.
struct Dir {
    path: PathBuf,
    handle: File,
}

impl Dir {
    fn open(path: &Path) -> io::Result<Dir> {
        Ok(Dir { path: path.to_path_buf(), handle: File::open(path)? })
    }

    /// Makes a segment whose name is not durable yet. After an error there is none.
    fn create_segment(&self, first: u64, spare: Option<File>) -> io::Result<(File, Salt)> {
        let path = self.path.join(format!("{first:020}.log"));
        let unfinished = match spare {
            Some(_) => self.path.join(SPARE),
            None => self.path.join(format!("{first:020}{UNFINISHED}")),
        };
        // A segment of this name can only be one without a whole record in it.
        let made = begin_segment(spare, &unfinished)
            .and_then(|made| fs::rename(&unfinished, &path).map(|()| made));
        // Whoever looks for segments ignores it, should it stay.
        made.inspect_err(|_| _ = fs::remove_file(&unfinished))
    }
}

fn begin_segment(spare: Option<File>, path: &Path) -> io::Result<(File, Salt)> {
    let file = match spare {
        Some(spare) => spare,
        None => OpenOptions::new().write(true).create(true).truncate(true).open(path)?,
    };
    let salt = Salt::random();
    file.write_all_at(&salt.header(), 0)?;
    file.sync_all()?;
    Ok((file, salt))
}

/// Makes a file of zeros that becomes the next segment.
pub struct Spare {
    path: PathBuf,
    bytes: u64,
    shared: Arc<State>,
}

impl Spare {
    /// Makes one, unless there is one or it would take the space that others need. It takes as long as
    /// writing a whole segment; without it the next segment is made as it is needed.
    pub fn prepare(&self) -> io::Result<()> {
        if self.shared.spare.lock().expect("nothing panics under it").is_some() {
            return Ok(());
        }
        let disk = rustix::fs::statvfs(self.path.parent().expect("it is in the log's directory"))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) / SPARE_SHARE < self.bytes {
            return Ok(());
        }
        let file = self.zeros().inspect_err(|_| _ = fs::remove_file(&self.path))?;
        *self.shared.spare.lock().expect("nothing panics under it") = Some(file);
        Ok(())
    }

    /// Written and synced in pieces, so that the log's own syncs get through between them.
    fn zeros(&self) -> io::Result<File> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&self.path)?;
        let zeros = vec![0; SPARE_PIECE_BYTES];
        let mut offset = 0;
        while offset < self.bytes {
            file.write_all_at(&zeros, offset)?;
            file.sync_data()?;
            offset += zeros.len() as u64;
        }
        file.sync_all()?;
        Ok(file)
    }
}

/// Makes durable what another thread writes.
pub struct Syncer {
    shared: Arc<State>,
}

impl Syncer {
    pub fn sync(&self) -> Result<(), AppendError> {
        self.shared.sync()
    }

    /// Whether a sync has failed, so that nobody knows what is on the disk.
    pub fn is_broken(&self) -> bool {
        self.shared.broken.load(SeqCst)
    }

    /// Keeps everybody from syncing.
    #[cfg(test)]
    pub fn hold(&self) -> impl Drop {
        self.shared.syncing.lock().expect("nothing panics under it")
    }
}

/// Deletes segments that are needed no longer. Never touches the one that is written to, nor what is
/// pinned.
pub struct Cleaner {
    dir: PathBuf,
    shared: Arc<State>,
}

impl Cleaner {
    /// Deletes the segments whose every record is at or below `flushed` and was read by those who pin
    /// the log, and says how many.
    pub fn delete_flushed(&self, flushed: u64) -> Result<usize, OpenError> {
        // The pins are held until all is deleted, so that nobody begins to read meanwhile.
        let pins = self.shared.pins();
        let pinned = pins.values().min().map_or(u64::MAX, |&from| from - 1);
        let unneeded = flushed.min(pinned);
        let active = self.shared.active.load(SeqCst);
        let mut segments = segments(&self.dir)?;
        // A number above it is none of a segment, and says nothing about where the active one ends.
        segments.retain(|segment| segment.first <= active);
        let mut deleted = 0;
        for pair in
            segments.windows(2).take_while(|pair| pair[1].first <= unneeded.saturating_add(1))
        {
            fs::remove_file(&pair[0].path).map_err(|error| io_error(&pair[0].path, error))?;
            deleted += 1;
        }
        Ok(deleted)
    }
}

/// Bytes of all segments.
pub fn size_bytes(dir: &Path) -> u64 {
    let Ok(segments) = segments(dir) else { return 0 };
    segments.iter().filter_map(|segment| segment.path.metadata().ok()).map(|file| file.len()).sum()
}

struct Segment {
    first: u64,
    path: PathBuf,
}

impl Segment {
    /// Whether there is nothing after its header, or nothing but zeros.
    fn is_empty(&self) -> Result<bool, OpenError> {
        let mut header = [0; HEADER_BYTES + RECORD_HEADER_BYTES];
        let read = File::open(&self.path).and_then(|file| read_up_to(&file, &mut header));
        let bytes = read.map_err(|error| io_error(&self.path, error))?;
        Ok(header[..bytes].get(HEADER_BYTES..).is_none_or(is_zeros))
    }
}

fn read_up_to(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn is_zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn segments(dir: &Path) -> Result<Vec<Segment>, OpenError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| io_error(dir, error))? {
        let path = entry.map_err(|error| io_error(dir, error))?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let first = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let (true, Some(first)) = (is_log, first) {
            found.push(Segment { first, path });
        }
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found)
}

/// Removes what a crash or an error left of segments that were being made.
fn remove_unfinished(dir: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(dir).map_err(|error| io_error(dir, error))? {
        let path = entry.map_err(|error| io_error(dir, error))?.path();
        if path.to_str().is_some_and(|path| path.ends_with(UNFINISHED)) {
            fs::remove_file(&path).map_err(|error| io_error(&path, error))?;
        }
    }
    Ok(())
}

/// What becomes of a log that was replayed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replayed {
    /// It is appended to: what is built upon is made durable, and a torn end is cut.
    GoesOn,
    /// It stays as it is.
    Stays,
}

/// Looks at a log that nobody has open, and changes nothing of it: every record after `applied` is given
/// to `apply`. Returns the last sequence, and the torn end that opening it would cut.
pub fn look<E: From<OpenError>>(
    dir: &Path,
    applied: u64,
    mut apply: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(u64, Option<Cut>), E> {
    let (next, torn) = replay_all(dir, applied, Replayed::Stays, &mut apply)?;
    Ok((next - 1, torn))
}

/// Gives every record after `applied` to `apply`, in order. Returns what comes next, and the torn end.
fn replay_all<E: From<OpenError>>(
    dir: &Path,
    applied: u64,
    after: Replayed,
    apply: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(u64, Option<Cut>), E> {
    let segments = segments(dir)?;
    let mut next = segments.first().map_or(applied + 1, |segment| segment.first);
    if next > applied + 1 {
        let path = segments[0].path.clone();
        return Err(OpenError::Missing { path, wanted: applied + 1, found: next }.into());
    }
    let mut cut = None;
    for (index, segment) in segments.iter().enumerate() {
        let path = &segment.path;
        if segment.first < next && segment.is_empty()? {
            if after == Replayed::GoesOn {
                tracing::warn!(?path, "removed a log file of a rotation that had failed");
                fs::remove_file(path).map_err(|error| io_error(path, error))?;
            }
            continue;
        }
        if segment.first > next && segment.first <= applied + 1 {
            // What is missing is in the database, which had more than was synced of the log.
            next = segment.first;
        }
        if segment.first != next {
            let path = path.clone();
            return Err(OpenError::Missing { path, wanted: next, found: segment.first }.into());
        }
        let mut synced_below = 0;
        for later in &segments[index + 1..] {
            let shown = if later.is_empty()? { later.first } else { u64::MAX };
            synced_below = synced_below.max(shown);
        }
        let found = replay(segment, synced_below, &mut next, after, |sequence, payload| {
            if sequence > applied { apply(sequence, payload) } else { Ok(()) }
        })?;
        cut = found.or(cut);
    }
    // The files may be older than the database when an operator put a copy back; never reuse a
    // sequence the database has seen.
    Ok((next.max(applied + 1), cut))
}

/// Records below `synced_below` were synced, as later segments show, and must be whole.
fn replay<E: From<OpenError>>(
    segment: &Segment,
    synced_below: u64,
    next: &mut u64,
    after: Replayed,
    mut apply: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<Option<Cut>, E> {
    let path = &segment.path;
    let mut bytes = Vec::new();
    // A process that was killed may have written records and not synced them. What is replayed is built
    // upon, so it must not get lost any more.
    let read = File::open(path).and_then(|mut file| {
        file.read_to_end(&mut bytes)?;
        let is_built_upon = after == Replayed::GoesOn && !SeededBug::TrustsWhatItReads.is_on();
        if is_built_upon { file.sync_all() } else { Ok(()) }
    });
    read.map_err(|error| io_error(path, error))?;
    let damaged = |offset: usize, what| OpenError::Damaged {
        path: path.clone(),
        offset: offset as u64,
        what,
    };
    let Some((salt, mut rest)) = Salt::of(&bytes) else {
        // A crash while the segment was made: nothing was in it yet.
        if *next >= synced_below && bytes.len() <= HEADER_BYTES {
            return Ok(Some(torn_end(path, &bytes, 0, after)?));
        }
        return Err(damaged(0, "the header is wrong").into());
    };
    while !rest.is_empty() {
        let offset = bytes.len() - rest.len();
        if is_room(rest) && *next >= synced_below {
            if after == Replayed::GoesOn {
                cut(path, offset).map_err(|error| io_error(path, error))?;
            }
            return Ok(None);
        }
        match decode(rest) {
            Ok((record, after)) if record.sequence == *next => {
                if !(after.is_empty() && SeededBug::StopsReplayEarly.is_on()) {
                    apply(record.sequence, record.payload)?;
                }
                *next += 1;
                rest = after;
            }
            Ok(_) => return Err(damaged(offset, "the sequence is wrong").into()),
            Err(what) if *next < synced_below || is_known_as_synced(salt, rest, *next) => {
                return Err(damaged(offset, what).into());
            }
            Err(_) => return Ok(Some(torn_end(path, &bytes, offset, after)?)),
        }
    }
    Ok(None)
}

/// Whether this is room for records and nothing else. No record begins with a whole header of zeros.
fn is_room(rest: &[u8]) -> bool {
    is_zeros(&rest[..rest.len().min(RECORD_HEADER_BYTES)]) && is_zeros(rest)
}

fn torn_end(path: &Path, bytes: &[u8], offset: usize, after: Replayed) -> Result<Cut, OpenError> {
    if after == Replayed::GoesOn {
        cut(path, offset).map_err(|error| io_error(path, error))?;
    }
    let (offset, bytes) = (offset as u64, (bytes.len() - offset) as u64);
    Ok(Cut { path: path.to_path_buf(), offset, bytes })
}

fn cut(path: &Path, offset: usize) -> io::Result<()> {
    if offset < HEADER_BYTES {
        return fs::remove_file(path);
    }
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(offset as u64)?;
    file.sync_all()
}

/// Gives up what is in a segment from `offset` on, and the segments after it: 0 is all of it, anything else
/// the place of a record. The database keeps what it has of that. For an operator who has no copy of a damaged file; no process may have the log open.
pub fn cut_off(path: &Path, offset: u64) -> Result<Vec<Cut>, OpenError> {
    let failed = |error| io_error(path, error);
    let found = path.parent().map(segments).transpose()?.unwrap_or_default();
    let Some(at) = found.iter().position(|segment| segment.path == path) else {
        return Err(failed(io::Error::other("this is no file of a write log")));
    };
    let whole = path.metadata().map_err(failed)?.len();
    if (1..HEADER_BYTES as u64).contains(&offset) || offset >= whole {
        let range = format!("it has {whole} bytes, and the first record begins at {HEADER_BYTES}");
        return Err(failed(io::Error::other(range)));
    }
    let mut cuts = vec![Cut { path: path.to_path_buf(), offset, bytes: whole - offset }];
    // From the end on, so that a log that is cut half way has no gap.
    for later in found[at + 1..].iter().rev() {
        let bytes = later.path.metadata().map_err(|error| io_error(&later.path, error))?.len();
        fs::remove_file(&later.path).map_err(|error| io_error(&later.path, error))?;
        cuts.push(Cut { path: later.path.clone(), offset: 0, bytes });
    }
    let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
    file.set_len(offset).and_then(|()| file.sync_all()).map_err(failed)?;
    let dir = path.parent().expect("a file is in a directory");
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| io_error(dir, error))?;
    Ok(cuts)
}

fn io_error(path: &Path, error: io::Error) -> OpenError {
    OpenError::Io { path: path.to_path_buf(), error }
}

#[cfg(test)]
impl Log {
    /// From here on as on a disk that takes writes and fails to sync: that is what the kernel says
    /// of a device without anything to sync.
    pub fn fail_syncs(&mut self) {
        let null = OpenOptions::new().append(true).open("/dev/null").expect("it is everywhere");
        *self.shared.file.lock().expect("nothing panics under it") = Arc::new(null);
    }
}
