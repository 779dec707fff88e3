//! Directories that are still there after a power failure.
//!
//! Making one does not make its name last: that takes a sync of the directory it is in. Without it a
//! log whose every record was synced could be gone together with its directory.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::seeded::SeededBug;

/// Makes a directory and those above it, as far as they are missing, and their names durable.
pub fn create(path: &Path) -> io::Result<()> {
    let above = match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => return Ok(()),
    };
    let existed = path.is_dir();
    if !existed {
        create(above)?;
        fs::create_dir(path)?;
    }
    if SeededBug::ForgetsParentSync.is_on() {
        return Ok(());
    }
    // One that is there may come from a start that was killed right here, so it is synced too, unless
    // whoever made it keeps this process from looking at what is around it.
    match File::open(above).and_then(|above| above.sync_all()) {
        Err(error) if existed && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done,
    }
}
