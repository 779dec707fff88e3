//! `lossy-disk DIRECTORY`: mounts a disk in memory there, and does to it what its standard input says.
//!
//! One command a line, one line for an answer: `ok ...`, or `error ...`. Ends when its input does.
//!
//! | command | what happens |
//! |---|---|
//! | `off-after N` | power goes instead of the change or sync that follows N |
//! | `off all\|tear\|shuffle SEED` | power goes now, unless it has; so much of what was not synced is lost |
//! | `on` | power comes back |
//! | `fail read\|write\|sync END AFTER TIMES` | it fails so often on files whose names end so; `*` is any |
//! | `heal` | nothing fails any more |
//! | `room BYTES`, `room` | all files together have no more room; they have |
//! | `state` | `ok on\|off CHANGES BYTES`, of all files together |
//!
//! Meant to be run in a mount namespace of its own, so that the mount ends with it.

#![forbid(unsafe_code)]

mod disk;
mod filesystem;

use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex};

use disk::{Disk, Fault, Loss, Operation, Random};
use filesystem::LossyFilesystem;
use fuser::{Config, MountOption};

fn main() {
    let directory = std::env::args_os().nth(1).expect("usage: lossy-disk DIRECTORY");
    let disk = Arc::new(Mutex::new(Disk::default()));
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("lossy-disk".into())];
    let mounted = fuser::spawn_mount(LossyFilesystem(disk.clone()), directory, &config);
    let session = mounted.unwrap_or_else(|error| panic!("cannot mount: {error}"));
    answer("ok");
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("text");
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut disk = disk.lock().expect("not poisoned: nothing panics under it");
        match obey(&mut disk, &words) {
            Some(said) => answer(&format!("ok {said}")),
            None => answer(&format!("error no such command: {line}")),
        }
    }
    drop(session);
}

fn answer(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody reads");
}

fn obey(disk: &mut Disk, words: &[&str]) -> Option<String> {
    match words {
        ["off-after", changes] => disk.cut_power_after(changes.parse().ok()?),
        ["off", loss, seed] => {
            let loss = match *loss {
                "all" => Loss::All,
                "tear" => Loss::Tear,
                "shuffle" => Loss::Shuffle,
                _ => return None,
            };
            disk.cut_power(loss, &mut Random::new(seed.parse().ok()?));
        }
        ["on"] => disk.restore_power(),
        ["fail", operation, end, after, times] => {
            let operation = match *operation {
                "read" => Operation::Read,
                "write" => Operation::Write,
                "sync" => Operation::Sync,
                _ => return None,
            };
            let name_end = end.trim_start_matches('*').to_string();
            let (after, times) = (after.parse().ok()?, times.parse().ok()?);
            disk.add_fault(Fault { operation, name_end, after, times });
        }
        ["heal"] => disk.clear_faults(),
        ["room"] => disk.room_bytes = None,
        ["room", bytes] => disk.room_bytes = Some(bytes.parse().ok()?),
        ["state"] => {
            let power = if disk.is_on() { "on" } else { "off" };
            return Some(format!("{power} {} {}", disk.changes, disk.used_bytes()));
        }
        _ => return None,
    }
    Some(String::new())
}
