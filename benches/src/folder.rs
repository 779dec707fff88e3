//! A folder of a run, which goes with the run however that ends.
//!
//! ```text
//!   run ──holds a pipe──▶ `hawser-bench remove FOLDER`, which removes it when the pipe ends
//! ```
//!
//! The pipe ends when its owner lets go of it, and when the run is killed: nothing depends on the
//! run's own last words. Should both be killed at once, the next run removes what they left.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// Folders are called this, the run's process, and what they are for.
const PREFIX: &str = "hawser-bench-";

/// How long servers that die with their run may go on writing.
const DEADLINE: Duration = Duration::from_secs(10);

pub struct Folder {
    path: PathBuf,
    /// Removes it when its standard input ends.
    remover: Child,
}

impl Folder {
    /// In memory where the machine has such a place: for little.
    pub fn in_memory(name: &str) -> anyhow::Result<Folder> {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Folder::new(memory, name) } else { Folder::on_disk(name) }
    }

    /// Where it takes no memory that is being measured.
    pub fn on_disk(name: &str) -> anyhow::Result<Folder> {
        Folder::new(&std::env::temp_dir(), name)
    }

    /// On the disk that is to be measured.
    pub fn within(dir: &Path, name: &str) -> anyhow::Result<Folder> {
        let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
        Folder::new(&dir, name)
    }

    fn new(parent: &Path, name: &str) -> anyhow::Result<Folder> {
        remove_leftovers(parent);
        let path = parent.join(format!("{PREFIX}{}-{name}", std::process::id()));
        // Before the folder is there, so that it never is without.
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("remove").arg(&path).stdin(Stdio::piped()).stdout(Stdio::null());
        // A signal from the terminal is not for it.
        command.process_group(0);
        let remover = command.spawn().context("cannot start what removes a folder")?;
        let folder = Folder { path, remover };
        // Of an earlier run whose process had the same number, if at all: its data is not this run's.
        if folder.path.exists() {
            std::fs::remove_dir_all(&folder.path)
                .with_context(|| folder.path.display().to_string())?;
        }
        std::fs::create_dir(&folder.path).with_context(|| folder.path.display().to_string())?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        // What it could not do is in nobody's way: another run has another folder.
        let _ = self.remover.wait();
    }
}

#[derive(clap::Args)]
pub struct Arguments {
    folder: PathBuf,
}

/// The process that removes a folder when its standard input has ended.
pub fn remove(arguments: &Arguments) -> anyhow::Result<()> {
    let name = arguments.folder.file_name().and_then(|name| name.to_str());
    ensure!(
        name.is_some_and(|name| name.starts_with(PREFIX)),
        "{} is no folder of a run",
        arguments.folder.display()
    );
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let begun = Instant::now();
    while let Err(error) = std::fs::remove_dir_all(&arguments.folder) {
        let is_gone = !arguments.folder.exists();
        if is_gone || begun.elapsed() > DEADLINE {
            let why = || format!("{} stays", arguments.folder.display());
            return if is_gone { Ok(()) } else { Err(error).with_context(why) };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Removes the folders of runs that are no more.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let run = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let is_over = run
            .and_then(|run| run.parse::<u32>().ok())
            .is_some_and(|run| !Path::new(&format!("/proc/{run}")).exists());
        if is_over {
            // It may be another user's.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
