//! A file that gets its name when it is complete. Until then it is `NAME.partial` and belongs to one
//! process; what a killed one has left is written over.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

pub struct Partial {
    file: File,
    path: PathBuf,
    /// What its name will be.
    target: PathBuf,
    has_name: bool,
}

impl Partial {
    pub fn open(target: &Path) -> anyhow::Result<Partial> {
        let target = std::path::absolute(target)?;
        let Some(name) = target.file_name().filter(|_| !target.is_dir()) else {
            bail!("{} is a directory; name a file in it", target.display())
        };
        let mut name = name.to_owned();
        name.push(".partial");
        let path = target.with_file_name(name);
        let context = || format!("cannot write {}", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(context)?;
        let is_ours = match file.try_lock() {
            Ok(()) => is_at(&file, &path),
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        };
        if !is_ours {
            bail!("{} is being written by another process; wait until it is done", path.display());
        }
        file.set_len(0).with_context(context)?;
        Ok(Partial { file, path, target, has_name: false })
    }

    /// To write it with.
    pub fn writer(&self) -> anyhow::Result<File> {
        Ok(self.file.try_clone()?)
    }

    /// It is complete, and gets its name when all of it is on the disk. How many bytes it has.
    pub fn complete(mut self) -> anyhow::Result<u64> {
        let context = || format!("cannot write {}", self.target.display());
        self.file.sync_all().with_context(context)?;
        let bytes = self.file.metadata().with_context(context)?.len();
        fs::rename(&self.path, &self.target).with_context(context)?;
        self.has_name = true;
        let folder = self.target.parent().unwrap_or(Path::new("/"));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        let context = || format!("cannot write {}", folder.display());
        synced.with_context(context)?;
        Ok(bytes)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.has_name {
            _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether the file is still there: whoever had it before may have given it its name since it was opened.
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |found: fs::Metadata| (found.dev(), found.ino());
    let (opened, found) = (file.metadata().map(inode), path.metadata().map(inode));
    opened.is_ok_and(|opened| found.is_ok_and(|found| opened == found))
}
