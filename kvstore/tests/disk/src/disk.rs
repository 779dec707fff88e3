//! A disk as programs must fear it: it has what was synced, and of everything else any part.
//!
//! ```text
//! file        now: what reads see        synced: what the platter has        pending: between the two
//! directory   the same for its names; only syncing the directory itself makes a name last
//! ```
//!
//! When power goes ([`Disk::cut_power`]), of what is pending each file and directory keeps nothing, a
//! beginning whose last write is torn, or any of its sectors ([`Loss`]). Changes of names last in the
//! order they were made, as with a journal.
//!
//! A sync that fails ([`Fault`]) drops what it should have written: reads go on to see it, a second sync
//! succeeds, and it is not on the platter. Linux does so.
//!
//! Invariants: `now` is `synced` with `pending` applied, except for what failed syncs have dropped. While
//! there is no power every operation fails. Memory is bounded by what the program under test stores.

use std::collections::{BTreeMap, BTreeSet};

pub const ROOT: u64 = 1;
const SECTOR_BYTES: usize = 512;

/// What an operation answers instead of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    NotFound,
    Exists,
    NotEmpty,
    NotADirectory,
    IsADirectory,
    OtherDirectory,
    NoSpace,
    Io,
}

/// How much of what was not synced is lost, for each file on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    All,
    /// A beginning stays; the last write of it may have arrived in part.
    Tear,
    /// Any sectors stay, whichever was written first.
    Shuffle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Sync,
}

/// An operation on files whose names end so fails with an I/O error, `times` times after `after` times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub operation: Operation,
    pub name_end: String,
    pub after: u64,
    pub times: u64,
}

#[derive(Clone, Debug)]
enum FileChange {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Put(String, u64),
    Remove(String),
    Rename(String, String),
}

#[derive(Clone, Debug, Default)]
struct File {
    now: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<FileChange>,
}

type Names = BTreeMap<String, u64>;

#[derive(Clone, Debug, Default)]
struct Directory {
    now: Names,
    synced: Names,
    pending: Vec<NameChange>,
}

#[derive(Clone, Debug)]
enum Content {
    File(File),
    Directory(Directory),
}

#[derive(Clone, Debug)]
struct Inode {
    content: Content,
    /// The last name it got, for faults.
    name: String,
    opens: u64,
}

/// What there is to say about a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub inode: u64,
    pub is_directory: bool,
    pub bytes: u64,
}

pub struct Disk {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    is_on: bool,
    /// Changes and syncs until power goes.
    changes_left: Option<u64>,
    /// Changes and syncs so far.
    pub changes: u64,
    /// Bytes that all files together may have.
    pub room_bytes: Option<u64>,
    faults: Vec<Fault>,
}

impl Default for Disk {
    fn default() -> Disk {
        let content = Content::Directory(Directory::default());
        let root = Inode { content, name: String::new(), opens: 0 };
        Disk {
            inodes: BTreeMap::from([(ROOT, root)]),
            next_inode: ROOT + 1,
            is_on: true,
            changes_left: None,
            changes: 0,
            room_bytes: None,
            faults: Vec::new(),
        }
    }
}

type Outcome<T> = Result<T, Trouble>;

/// What a test does to the disk.
impl Disk {
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Power goes instead of the change or sync that follows so many.
    pub fn cut_power_after(&mut self, changes: u64) {
        self.changes_left = Some(changes);
    }

    /// Power goes, and with it what was not synced. Everything is closed then.
    pub fn cut_power(&mut self, loss: Loss, random: &mut Random) {
        self.is_on = false;
        self.faults.clear();
        self.changes_left = None;
        for inode in self.inodes.values_mut() {
            inode.opens = 0;
            match &mut inode.content {
                Content::File(file) => file.lose(loss, random),
                Content::Directory(directory) => directory.lose(loss, random),
            }
        }
        self.forget_unreachable();
    }

    pub fn restore_power(&mut self) {
        self.is_on = true;
        self.changes_left = None;
    }

    pub fn add_fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }
}

/// What programs do with it.
impl Disk {
    pub fn attributes(&self, inode: u64) -> Outcome<Attributes> {
        self.powered()?;
        let found = self.inodes.get(&inode).ok_or(Trouble::NotFound)?;
        let (is_directory, bytes) = match &found.content {
            Content::File(file) => (false, file.now.len() as u64),
            Content::Directory(_) => (true, 0),
        };
        Ok(Attributes { inode, is_directory, bytes })
    }

    pub fn look_up(&self, directory: u64, name: &str) -> Outcome<Attributes> {
        self.powered()?;
        let inode = self.directory(directory)?.now.get(name).ok_or(Trouble::NotFound)?;
        self.attributes(*inode)
    }

    pub fn names(&self, directory: u64) -> Outcome<Vec<(String, Attributes)>> {
        self.powered()?;
        let names = &self.directory(directory)?.now;
        names.iter().map(|(name, inode)| Ok((name.clone(), self.attributes(*inode)?))).collect()
    }

    pub fn create(
        &mut self,
        directory: u64,
        name: &str,
        is_directory: bool,
    ) -> Outcome<Attributes> {
        self.change()?;
        if self.directory(directory)?.now.contains_key(name) {
            return Err(Trouble::Exists);
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        let content = match is_directory {
            true => Content::Directory(Directory::default()),
            false => Content::File(File::default()),
        };
        self.inodes.insert(inode, Inode { content, name: name.to_string(), opens: 0 });
        self.directory_mut(directory)?.change(NameChange::Put(name.to_string(), inode));
        self.attributes(inode)
    }

    pub fn link(&mut self, inode: u64, directory: u64, name: &str) -> Outcome<Attributes> {
        self.change()?;
        if self.directory(directory)?.now.contains_key(name) {
            return Err(Trouble::Exists);
        }
        self.directory_mut(directory)?.change(NameChange::Put(name.to_string(), inode));
        self.attributes(inode)
    }

    pub fn remove(&mut self, directory: u64, name: &str) -> Outcome<()> {
        self.change()?;
        let inode = self.look_up(directory, name)?.inode;
        if let Content::Directory(removed) = &self.inodes[&inode].content
            && !removed.now.is_empty()
        {
            return Err(Trouble::NotEmpty);
        }
        self.directory_mut(directory)?.change(NameChange::Remove(name.to_string()));
        Ok(())
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str)) -> Outcome<()> {
        self.change()?;
        if from.0 != to.0 {
            return Err(Trouble::OtherDirectory);
        }
        let inode = self.look_up(from.0, from.1)?.inode;
        let change = NameChange::Rename(from.1.to_string(), to.1.to_string());
        self.directory_mut(from.0)?.change(change);
        self.inodes.get_mut(&inode).expect("it was looked up").name = to.1.to_string();
        Ok(())
    }

    pub fn open(&mut self, inode: u64) -> Outcome<()> {
        self.powered()?;
        self.inodes.get_mut(&inode).ok_or(Trouble::NotFound)?.opens += 1;
        Ok(())
    }

    /// Of something opened before power went, there may be nothing left to close.
    pub fn close(&mut self, inode: u64) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.opens = inode.opens.saturating_sub(1);
        }
    }

    pub fn read(&mut self, inode: u64, offset: u64, bytes: usize) -> Outcome<Vec<u8>> {
        self.powered()?;
        self.fault(Operation::Read, inode)?;
        let now = &self.file_mut(inode)?.now;
        let start = usize::try_from(offset).map_or(now.len(), |offset| offset.min(now.len()));
        Ok(now[start..now.len().min(start + bytes)].to_vec())
    }

    /// Writes what there is room for, and says how much that was.
    pub fn write(&mut self, inode: u64, offset: u64, bytes: &[u8]) -> Outcome<usize> {
        self.change()?;
        self.fault(Operation::Write, inode)?;
        let offset = offset as usize;
        let room = self.room_left();
        let file = self.file_mut(inode)?;
        let end_max = file.now.len().saturating_add(room);
        let fitting = bytes.len().min(end_max.saturating_sub(offset));
        if fitting == 0 && !bytes.is_empty() {
            return Err(Trouble::NoSpace);
        }
        file.change(FileChange::Write { offset, bytes: bytes[..fitting].to_vec() });
        Ok(fitting)
    }

    pub fn resize(&mut self, inode: u64, bytes: u64) -> Outcome<()> {
        self.change()?;
        let room = self.room_left();
        let file = self.file_mut(inode)?;
        if bytes as usize > file.now.len().saturating_add(room) {
            return Err(Trouble::NoSpace);
        }
        file.change(FileChange::Resize(bytes as usize));
        Ok(())
    }

    pub fn sync(&mut self, inode: u64) -> Outcome<()> {
        self.change()?;
        let failed = self.fault(Operation::Sync, inode);
        match &mut self.inodes.get_mut(&inode).ok_or(Trouble::NotFound)?.content {
            Content::File(file) if failed.is_err() => file.pending.clear(),
            Content::Directory(directory) if failed.is_err() => directory.pending.clear(),
            Content::File(file) => {
                for change in file.pending.drain(..) {
                    change.apply(&mut file.synced);
                }
            }
            Content::Directory(directory) => {
                for change in directory.pending.drain(..) {
                    change.apply(&mut directory.synced);
                }
                self.forget_unreachable();
            }
        }
        failed
    }

    fn powered(&self) -> Outcome<()> {
        if self.is_on { Ok(()) } else { Err(Trouble::Io) }
    }

    fn change(&mut self) -> Outcome<()> {
        match &mut self.changes_left {
            Some(0) => self.is_on = false,
            Some(left) => *left -= 1,
            None => {}
        }
        self.powered()?;
        self.changes += 1;
        Ok(())
    }

    fn fault(&mut self, operation: Operation, inode: u64) -> Outcome<()> {
        let name = &self.inodes.get(&inode).ok_or(Trouble::NotFound)?.name;
        let matching = |fault: &&mut Fault| {
            fault.times > 0 && fault.operation == operation && name.ends_with(&fault.name_end)
        };
        let Some(fault) = self.faults.iter_mut().find(matching) else { return Ok(()) };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        fault.times -= 1;
        Err(Trouble::Io)
    }

    fn room_left(&self) -> usize {
        let Some(room) = self.room_bytes else { return usize::MAX };
        room.saturating_sub(self.used_bytes()) as usize
    }

    pub fn used_bytes(&self) -> u64 {
        let sizes = self.inodes.values().map(|inode| match &inode.content {
            Content::File(file) => file.now.len() as u64,
            Content::Directory(_) => 0,
        });
        sizes.sum()
    }

    fn directory(&self, inode: u64) -> Outcome<&Directory> {
        match &self.inodes.get(&inode).ok_or(Trouble::NotFound)?.content {
            Content::Directory(directory) => Ok(directory),
            Content::File(_) => Err(Trouble::NotADirectory),
        }
    }

    fn directory_mut(&mut self, inode: u64) -> Outcome<&mut Directory> {
        match &mut self.inodes.get_mut(&inode).ok_or(Trouble::NotFound)?.content {
            Content::Directory(directory) => Ok(directory),
            Content::File(_) => Err(Trouble::NotADirectory),
        }
    }

    fn file_mut(&mut self, inode: u64) -> Outcome<&mut File> {
        match &mut self.inodes.get_mut(&inode).ok_or(Trouble::NotFound)?.content {
            Content::File(file) => Ok(file),
            Content::Directory(_) => Err(Trouble::IsADirectory),
        }
    }

    /// Drops what has no name, neither now nor after power goes, and is not open.
    fn forget_unreachable(&mut self) {
        let mut reachable = BTreeSet::from([ROOT]);
        let mut waiting = vec![ROOT];
        while let Some(inode) = waiting.pop() {
            let Content::Directory(directory) = &self.inodes[&inode].content else { continue };
            let pending = directory.pending.iter().filter_map(|change| match change {
                NameChange::Put(_, inode) => Some(inode),
                _ => None,
            });
            let named = directory.now.values().chain(directory.synced.values()).chain(pending);
            waiting.extend(named.filter(|inode| reachable.insert(**inode)));
        }
        self.inodes.retain(|inode, found| found.opens > 0 || reachable.contains(inode));
    }
}

impl File {
    fn change(&mut self, change: FileChange) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    fn lose(&mut self, loss: Loss, random: &mut Random) {
        let mut pending = std::mem::take(&mut self.pending);
        match loss {
            Loss::All => pending.clear(),
            Loss::Tear => {
                pending.truncate(random.below(pending.len() as u64 + 1) as usize);
                if let Some(FileChange::Write { bytes, .. }) = pending.last_mut() {
                    bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
                }
            }
            Loss::Shuffle => {
                pending = pending.into_iter().flat_map(FileChange::sectors).collect();
                pending.retain(|_| random.below(2) == 0);
            }
        }
        for change in pending {
            change.apply(&mut self.synced);
        }
        self.now = self.synced.clone();
    }
}

impl FileChange {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            FileChange::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            FileChange::Resize(bytes) => content.resize(*bytes, 0),
        }
    }

    fn sectors(self) -> Vec<FileChange> {
        let FileChange::Write { offset, bytes } = self else { return vec![self] };
        let mut parts = Vec::new();
        let mut start = 0;
        while start < bytes.len() {
            let end = ((offset + start) / SECTOR_BYTES + 1) * SECTOR_BYTES - offset;
            let part = bytes[start..end.min(bytes.len())].to_vec();
            parts.push(FileChange::Write { offset: offset + start, bytes: part });
            start = end;
        }
        parts
    }
}

impl Directory {
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    fn lose(&mut self, loss: Loss, random: &mut Random) {
        let mut pending = std::mem::take(&mut self.pending);
        let kept = match loss {
            Loss::All => 0,
            Loss::Tear | Loss::Shuffle => random.below(pending.len() as u64 + 1) as usize,
        };
        pending.truncate(kept);
        for change in pending {
            change.apply(&mut self.synced);
        }
        self.now = self.synced.clone();
    }
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Put(name, inode) => _ = names.insert(name.clone(), *inode),
            NameChange::Remove(name) => _ = names.remove(name),
            NameChange::Rename(from, to) => {
                // A failed sync may have dropped the name it had.
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

/// Small, fast, the same every run (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with a file whose name lasts and whose first four bytes are synced, the other four not.
    fn half_synced() -> (Disk, u64) {
        let mut disk = Disk::default();
        let file = disk.create(ROOT, "file", false).expect("a new name").inode;
        disk.write(file, 0, b"kept").expect("there is room");
        disk.sync(file).expect("it syncs");
        disk.sync(ROOT).expect("it syncs");
        disk.write(file, 4, b"lost").expect("there is room");
        (disk, file)
    }

    fn after_power_loss(disk: &mut Disk, loss: Loss, seed: u64) -> Vec<u8> {
        disk.cut_power(loss, &mut Random::new(seed));
        assert_eq!(disk.look_up(ROOT, "file"), Err(Trouble::Io), "there is no power");
        disk.restore_power();
        let file = disk.look_up(ROOT, "file").expect("its name was synced").inode;
        disk.read(file, 0, 100).expect("a file")
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_is_lost_in_every_way() {
        for (loss, seen_wanted) in [(Loss::All, 1), (Loss::Tear, 5), (Loss::Shuffle, 2)] {
            let mut seen = BTreeSet::new();
            for seed in 0..100 {
                let (mut disk, _) = half_synced();
                let left = after_power_loss(&mut disk, loss, seed);
                assert!(b"keptlost".starts_with(&left) && left.len() >= 4, "{left:?}");
                seen.insert(left);
            }
            assert_eq!(seen.len(), seen_wanted, "{loss:?}");
        }
    }

    #[test]
    fn a_name_lasts_when_its_directory_was_synced() {
        let (mut disk, _) = half_synced();
        disk.create(ROOT, "new", false).expect("a new name");
        disk.rename((ROOT, "file"), (ROOT, "other")).expect("it is there");
        disk.cut_power(Loss::All, &mut Random::new(1));
        disk.restore_power();
        let names: Vec<String> =
            disk.names(ROOT).expect("a directory").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["file"]);
    }

    #[test]
    fn a_sync_that_failed_is_not_made_good_by_the_next() {
        let (mut disk, file) = half_synced();
        let (operation, name_end) = (Operation::Sync, "le".to_string());
        disk.add_fault(Fault { operation, name_end, after: 0, times: 1 });
        assert_eq!(disk.sync(file), Err(Trouble::Io));
        assert_eq!(disk.sync(file), Ok(()));
        assert_eq!(disk.read(file, 0, 100).expect("a file"), b"keptlost");
        assert_eq!(after_power_loss(&mut disk, Loss::All, 1), b"kept");
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let (mut disk, file) = half_synced();
        disk.room_bytes = Some(10);
        assert_eq!(disk.write(file, 8, b"more"), Ok(2));
        assert_eq!(disk.write(file, 10, b"more"), Err(Trouble::NoSpace));
        disk.room_bytes = None;
        assert_eq!(disk.write(file, 10, b"more"), Ok(4));
    }

    #[test]
    fn power_goes_at_the_change_that_was_named() {
        let (mut disk, file) = half_synced();
        disk.cut_power_after(1);
        assert_eq!(disk.write(file, 8, b"1"), Ok(1));
        assert_eq!(disk.sync(file), Err(Trouble::Io));
        assert!(!disk.is_on());
        assert_eq!(after_power_loss(&mut disk, Loss::All, 1), b"kept");
    }
}
