//! The host's files: `/proc`, `/sys` and `/etc` below a root folder.
//!
//! Everything that is read or written as a file goes through here, so that a tree of files is a
//! whole machine for a test. Paths have no leading slash. What is absent is `None`, never an error:
//! kernels, containers and cards differ in what they have, and the callers say what that means.
//!
//! It deliberately does not cache: whoever reads twice sees what somebody else changed between.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A machine's files.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The machine that this process runs on.
    pub fn live() -> Host {
        Host { root: PathBuf::from("/") }
    }

    /// A machine that is a tree of files.
    pub fn at(root: impl Into<PathBuf>) -> Host {
        Host { root: root.into() }
    }

    /// Whether netlink speaks of the same machine as the files.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The content as it is, with its last newline: what a rollback restores byte for byte.
    pub fn raw(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    pub fn text(&self, path: &str) -> Option<String> {
        Some(self.raw(path)?.trim().to_owned())
    }

    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// The names in a folder; numbers in them count as numbers, so that `rx-2` precedes `rx-10`.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_by_cached_key(|name| natural(name));
        names
    }

    /// Where a symbolic link leads, by its last part.
    pub fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Whether a value could be written: it is opened for writing and left alone. This is how a
    /// read-only `/proc/sys` or a lack of rights is found before anything is changed.
    pub fn check_writable(&self, path: &str) -> io::Result<()> {
        fs::OpenOptions::new().write(true).open(self.path(path)).map(drop)
    }

    /// Whether a file lets nobody write it, whatever the rights of this process are.
    pub fn is_for_reading_only(&self, path: &str) -> bool {
        fs::metadata(self.path(path)).is_ok_and(|about| about.permissions().readonly())
    }

    /// Writes a value in one call, as the kernel's files want it. Never creates a file.
    pub fn write_value(&self, path: &str, value: &str) -> io::Result<()> {
        // A fixture's file must not keep the end of a longer former value; the kernel ignores it.
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(self.path(path))?;
        file.write_all(value.as_bytes())
    }

    /// Writes a whole file of ours, so that a crash leaves either the former or the new one.
    pub fn write_file(&self, path: &str, content: &str) -> io::Result<()> {
        let target = self.path(path);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        let beside = beside(&target);
        // What a killed run left there; made anew, so that nothing is written through a link.
        let _ = fs::remove_file(&beside);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&beside)?;
        let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
        if let Err(error) = written.and_then(|()| fs::rename(&beside, &target)) {
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        Ok(())
    }

    /// Removes a file of ours, what a killed run left beside it and, where it was the only one, its
    /// folder.
    pub fn remove_file(&self, path: &str, with_folder: bool) -> io::Result<()> {
        let target = self.path(path);
        for file in [&beside(&target), &target] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if let Some(folder) = target.parent().filter(|_| with_folder) {
            // A folder that somebody else uses is not empty and stays.
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }
}

/// Where a file is written before it takes its name.
fn beside(target: &Path) -> PathBuf {
    target.with_extension("hawser-new")
}

/// Splits a name into texts and numbers.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(text_end);
        let number_end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (number, after) = after.split_at(number_end);
        parts.push((text.to_owned(), number.parse().unwrap_or(0)));
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["rx-10", "rx-2", "tx-0", "rx-0"] {
            fs::create_dir_all(folder.path().join("queues").join(name)).unwrap();
        }
        let host = Host::at(folder.path());
        assert_eq!(host.names("queues"), ["rx-0", "rx-2", "rx-10", "tx-0"]);
        assert!(host.names("absent").is_empty());
    }

    #[test]
    fn values_are_never_created_and_files_are_removed_with_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::at(folder.path());
        assert!(host.write_value("proc/sys/x", "1").is_err());
        host.write_file("etc/d/a.conf", "long content").unwrap();
        host.write_value("etc/d/a.conf", "1").unwrap();
        assert_eq!(host.raw("etc/d/a.conf").as_deref(), Some("1"));
        host.remove_file("etc/d/a.conf", true).unwrap();
        assert!(!host.has("etc/d") && host.has("etc"));
    }
}
