//! What is in a backup: a text that a person can read, and that says itself whether it is whole.
//!
//! ```text
//! hawser-kv backup 1
//! sequence 4711                        the last group of the write log that is in it
//! taken-ms 1790000000000               Unix time: what had expired by then is not in the digest
//! keys 12                              live keys
//! digest 9f86…                         SHA-256 of what they hold, see `audit`
//! file 1300000 88-17900 1f,2e rocksdb/000012.sst
//!                                      bytes, where it was copied from, CRC-32C of each MiB, path
//! end 60303a…                          SHA-256 of all lines above
//! ```
//!
//! "Where from" is the inode and the time of the last change of the source: an immutable file for which all
//! of it is the same is the same file, and the next backup links it instead of copying it again.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::stream::{CHUNK_BYTES, Streamed};

const FIRST_LINE: &str = "hawser-kv backup 1";
const FIRST_WORDS: &str = "hawser-kv backup ";

/// Why a manifest cannot be used.
#[derive(Debug, Error)]
pub enum ManifestError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: line {line} is damaged ({what}); use another backup", path.display())]
    Damaged { path: PathBuf, line: usize, what: &'static str },
    #[error("{} was written by a newer hawser (`{found}`); use that version", path.display())]
    Newer { path: PathBuf, found: String },
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub sequence: u64,
    pub taken_ms: u64,
    pub keys: u64,
    pub digest: String,
    pub files: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Inside the data directory.
    pub path: String,
    pub bytes: u64,
    pub source: Source,
    /// CRC-32C of each chunk.
    pub checks: Vec<u32>,
}

/// Which file it was a copy of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub inode: u64,
    pub changed_ns: i64,
}

/// A place in a backup that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub path: PathBuf,
    pub offset: u64,
    pub bytes: u64,
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { path, offset, bytes, what } = self;
        write!(out, "{}: {what} (bytes {offset} to {})", path.display(), offset + bytes)
    }
}

impl Manifest {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.bytes).sum()
    }

    pub fn by_path(&self) -> HashMap<&str, &Entry> {
        self.files.iter().map(|entry| (entry.path.as_str(), entry)).collect()
    }

    pub fn read(path: &Path) -> Result<Manifest, ManifestError> {
        let bytes = fs::read(path)
            .map_err(|error| ManifestError::Io { path: path.to_path_buf(), error })?;
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        if first.starts_with(FIRST_WORDS) && first != FIRST_LINE {
            let (path, found) = (path.to_path_buf(), first.into_owned());
            return Err(ManifestError::Newer { path, found });
        }
        parse(&bytes).map_err(|(line, what)| ManifestError::Damaged {
            path: path.to_path_buf(),
            line,
            what,
        })
    }

    pub fn text(&self) -> String {
        let Manifest { sequence, taken_ms, keys, digest, files } = self;
        let mut text = format!(
            "{FIRST_LINE}\nsequence {sequence}\ntaken-ms {taken_ms}\nkeys {keys}\ndigest {digest}\n"
        );
        for Entry { path, bytes, source, checks } in files {
            let checks: Vec<String> = checks.iter().map(|check| format!("{check:x}")).collect();
            let checks = if checks.is_empty() { "-".to_string() } else { checks.join(",") };
            let Source { inode, changed_ns } = source;
            _ = writeln!(text, "file {bytes} {inode}-{changed_ns} {checks} {path}");
        }
        let end = hex(&Sha256::digest(text.as_bytes()));
        _ = writeln!(text, "end {end}");
        text
    }
}

impl Entry {
    /// Where a file is not what was written down.
    pub fn compare(&self, file: &Path, found: &Streamed) -> Vec<Damage> {
        let mut damage = Vec::new();
        let mut add = |offset: u64, bytes, what| {
            damage.push(Damage { path: file.to_path_buf(), offset, bytes, what });
        };
        for (index, (wanted, found)) in self.checks.iter().zip(&found.checks).enumerate() {
            let offset = (index * CHUNK_BYTES) as u64;
            let bytes = (self.bytes - offset).min(CHUNK_BYTES as u64);
            if wanted != found {
                add(offset, bytes, "the checksum is wrong");
            }
        }
        match (found.bytes, self.bytes) {
            (is, was) if is < was => add(is, was - is, "the end is missing"),
            (is, was) if is > was => add(was, is - was, "there is more than was written"),
            _ => {}
        }
        damage
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        _ = write!(out, "{byte:02x}");
        out
    })
}

/// The line and what is wrong with it.
type Wrong = (usize, &'static str);

fn parse(bytes: &[u8]) -> Result<Manifest, Wrong> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        (1 + before.iter().filter(|byte| **byte == b'\n').count(), "it is no text")
    })?;
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let mut field = |name: &str| {
        let (number, line) = lines.next().ok_or((1, "the end is missing"))?;
        let value = line.strip_prefix(name).ok_or((number, "it is another one than expected"))?;
        Ok::<_, Wrong>((number, value.trim_start()))
    };
    field(FIRST_LINE)?;
    let number = |(line, text): (usize, &str)| text.parse().map_err(|_| (line, "no number"));
    let sequence = number(field("sequence ")?)?;
    let taken_ms = number(field("taken-ms ")?)?;
    let keys = number(field("keys ")?)?;
    let (line, digest) = field("digest ")?;
    if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err((line, "no digest"));
    }
    let digest = digest.to_string();
    let mut files = Vec::new();
    for (number, line) in lines {
        if let Some(end) = line.strip_prefix("end ") {
            let above = text.len() - line.len() - 1;
            let is_last = text.as_bytes()[above..] == *format!("{line}\n").as_bytes();
            if !is_last || hex(&Sha256::digest(&text.as_bytes()[..above])) != end {
                return Err((number, "the checksum of the lines above is another one"));
            }
            return Ok(Manifest { sequence, taken_ms, keys, digest, files });
        }
        files.push(entry(line).ok_or((number, "it is no line about a file"))?);
    }
    Err((text.lines().count() + 1, "the end is missing"))
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.splitn(5, ' ');
    let is_file = words.next()? == "file";
    let bytes: u64 = words.next()?.parse().ok()?;
    let (inode, changed_ns) = words.next()?.split_once('-')?;
    let source = Source { inode: inode.parse().ok()?, changed_ns: changed_ns.parse().ok()? };
    let checks = match words.next()? {
        "-" => Vec::new(),
        text => text
            .split(',')
            .map(|check| u32::from_str_radix(check, 16).ok())
            .collect::<Option<Vec<_>>>()?,
    };
    let path = words.next()?.to_string();
    let is_whole = checks.len() as u64 == bytes.div_ceil(CHUNK_BYTES as u64);
    (is_file && is_whole && is_inside(&path)).then_some(Entry { path, bytes, source, checks })
}

/// Whether nobody who follows the path leaves the data directory.
fn is_inside(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name =
        |name: &str| !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_plain);
    path.split('/').count() <= 2 && path.split('/').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let source = Source { inode: 88, changed_ns: -5 };
        let entry = |path: &str, bytes, checks: &[u32]| Entry {
            path: path.to_string(),
            bytes,
            source,
            checks: checks.to_vec(),
        };
        let files = vec![
            entry("format", 12, &[7]),
            entry("log/00000000000000000001.log", 0, &[]),
            entry("rocksdb/000012.sst", (CHUNK_BYTES + 1) as u64, &[1, u32::MAX]),
        ];
        Manifest { sequence: 4711, taken_ms: 1, keys: 12, digest: "ab".repeat(32), files }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(parse(manifest().text().as_bytes()), Ok(manifest()));
    }

    /// Whatever byte is changed, removed or added, it is no manifest any more.
    #[test]
    fn every_change_is_seen() {
        let text = manifest().text().into_bytes();
        for at in 0..text.len() {
            for bit in [1, 0x20, 0x80] {
                let mut changed = text.clone();
                changed[at] ^= bit;
                assert!(parse(&changed).is_err(), "byte {at} ^ {bit}");
            }
            assert!(parse(&text[..at]).is_err(), "cut at {at}");
        }
        assert!(parse(&[&text[..], b"file"].concat()).is_err());
    }

    /// Wherever letters of several bytes are put, it is refused, and no letter is cut in half to find out.
    #[test]
    fn text_of_other_languages_is_no_manifest() {
        let text = manifest().text();
        for garbage in ["ä", "\u{1f980}", "\u{7ff}\n", "end ä", "end \u{1f980}\n", "\nend ä"] {
            for at in 0..=text.len() {
                let mut changed = text.clone();
                changed.insert_str(at, garbage);
                assert!(parse(changed.as_bytes()).is_err(), "{garbage:?} at {at}");
            }
        }
    }

    #[test]
    fn no_path_leads_out() {
        for path in ["../x", "/etc/x", "rocksdb/../x", "a/b/c", "", "rocksdb/", ".x", "a b"] {
            assert!(!is_inside(path), "{path}");
        }
    }
}
