//! The disk as a file system of the kernel (FUSE).
//!
//! The kernel is told to remember nothing about names and sizes, and reads a file anew whenever it is
//! opened, since all of them change when power goes. Times and owners are not kept.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::disk::{Attributes, Disk, Trouble};

const FORGET_AT_ONCE: Duration = Duration::ZERO;
const BLOCK_BYTES: u32 = 4096;
/// Said to be free when nothing bounds it.
const FREE_BLOCKS: u64 = 1 << 24;
const FIRST_LIFE: Generation = Generation(0);
/// `fallocate` may reserve room, but then not make the file longer.
const KEEP_SIZE: i32 = 1;

pub struct LossyFilesystem(pub Arc<Mutex<Disk>>);

impl LossyFilesystem {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("not poisoned: nothing panics under it")
    }
}

fn errno(trouble: Trouble) -> Errno {
    match trouble {
        Trouble::NotFound => Errno::ENOENT,
        Trouble::Exists => Errno::EEXIST,
        Trouble::NotEmpty => Errno::ENOTEMPTY,
        Trouble::NotADirectory => Errno::ENOTDIR,
        Trouble::IsADirectory => Errno::EISDIR,
        Trouble::OtherDirectory => Errno::EXDEV,
        Trouble::NoSpace => Errno::ENOSPC,
        Trouble::Io => Errno::EIO,
    }
}

fn attr(attributes: Attributes) -> FileAttr {
    let (kind, perm) = match attributes.is_directory {
        true => (FileType::Directory, 0o755),
        false => (FileType::RegularFile, 0o644),
    };
    FileAttr {
        ino: INodeNo(attributes.inode),
        size: attributes.bytes,
        blocks: attributes.bytes.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn text(name: &OsStr) -> &str {
    name.to_str().expect("the store's names are ASCII")
}

fn entry(outcome: Result<Attributes, Trouble>, reply: ReplyEntry) {
    match outcome {
        Ok(found) => reply.entry(&FORGET_AT_ONCE, &attr(found), FIRST_LIFE),
        Err(trouble) => reply.error(errno(trouble)),
    }
}

fn empty(outcome: Result<(), Trouble>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(trouble) => reply.error(errno(trouble)),
    }
}

impl Filesystem for LossyFilesystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.disk().look_up(parent.0, text(name)), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.disk().attributes(ino.0) {
            Ok(found) => reply.attr(&FORGET_AT_ONCE, &attr(found)),
            Err(trouble) => reply.error(errno(trouble)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.disk();
        let resized = size.map_or(Ok(()), |bytes| disk.resize(ino.0, bytes));
        match resized.and_then(|()| disk.attributes(ino.0)) {
            Ok(found) => reply.attr(&FORGET_AT_ONCE, &attr(found)),
            Err(trouble) => reply.error(errno(trouble)),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        entry(self.disk().create(parent.0, text(name), true), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.disk().remove(parent.0, text(name)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.disk().remove(parent.0, text(name)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let outcome = self.disk().rename((parent.0, text(name)), (newparent.0, text(newname)));
        empty(outcome, reply);
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        entry(self.disk().link(ino.0, newparent.0, text(newname)), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.disk().open(ino.0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(trouble) => reply.error(errno(trouble)),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut disk = self.disk();
        let created = disk.create(parent.0, text(name), false);
        match created.and_then(|found| disk.open(found.inode).map(|()| found)) {
            Ok(found) => reply.created(
                &FORGET_AT_ONCE,
                &attr(found),
                FIRST_LIFE,
                FileHandle(0),
                FopenFlags::empty(),
            ),
            Err(trouble) => reply.error(errno(trouble)),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.disk().close(ino.0);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk().read(ino.0, offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(trouble) => reply.error(errno(trouble)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk().write(ino.0, offset, data) {
            Ok(written) => reply.written(written as u32),
            Err(trouble) => reply.error(errno(trouble)),
        }
    }

    /// Closing syncs nothing.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.disk().sync(ino.0), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.disk().sync(ino.0), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let names = match self.disk().names(ino.0) {
            Ok(names) => names,
            Err(trouble) => return reply.error(errno(trouble)),
        };
        for (index, (name, found)) in names.iter().enumerate().skip(offset as usize) {
            let kind = attr(*found).kind;
            if reply.add(INodeNo(found.inode), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let free = match self.disk().room_bytes {
            Some(bytes) => bytes / u64::from(BLOCK_BYTES),
            None => FREE_BLOCKS,
        };
        reply.statfs(FREE_BLOCKS, free, free, 1 << 20, 1 << 20, BLOCK_BYTES, 255, BLOCK_BYTES);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mut disk = self.disk();
        let grown = match disk.attributes(ino.0) {
            Ok(found) if mode & KEEP_SIZE == 0 && found.bytes < offset + length => {
                disk.resize(ino.0, offset + length)
            }
            other => other.map(|_| ()),
        };
        empty(grown, reply);
    }
}
