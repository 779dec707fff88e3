//! Cycles of writing, crashing and looking at what is left.
//!
//! ```text
//! start ─▶ compare with the oracle ─▶ writers and a reader ─▶ something goes wrong ─▶ kill -9
//!   ▲                                                                                   │
//!   └── sometimes crashes once more while it starts ◀── power is lost (or not) ◀────────┘
//! ```
//!
//! What goes wrong depends on the seed alone; when exactly, also on how fast everything is. So a seed
//! replays the same plan, not the same interleaving.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::time::Duration;

use crate::client::Client;
use crate::disk::LossyDisk;
use crate::oracle::Oracle;
use crate::random::Random;
use crate::server::{Place, Server, TempDir};
use crate::writer::{Signals, Writer};

const WRITERS: usize = 4;
/// Answered operations in one cycle, at most.
const OPERATIONS_MAX: u64 = 1500;
/// After so many cycles the store begins anew in another directory: starting for the first time is a
/// moment to crash in, too.
const CYCLES_OF_A_STORE: u64 = 20;
/// Refused writes after which there is room again.
const REFUSED_MAX: u64 = 100;

/// What goes wrong in a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Killed after so many answers.
    Kill { after: u64 },
    /// Power goes after so many changes of the disk.
    Power { after: u64 },
    /// A sync of the log fails.
    SyncFails { after: u64 },
    /// A few writes to the log fail.
    WritesFail { after: u64 },
    /// There is no room but for so many bytes, for a while.
    DiskFull { room: u64 },
}

/// What a rig does to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Kills it. The disk is an ordinary one.
    Kill,
    /// Lets the disk fail, too. What was answered was promised to survive that.
    Power,
    /// The same, but a power failure may cost what was answered last. What is left must be a state that
    /// once was.
    EverySecond,
}

pub struct Rig {
    kind: Kind,
    place: Place,
    disk: Option<LossyDisk>,
    /// What runs between two cycles.
    server: Option<Server>,
    oracle: Oracle,
    writers: Vec<Writer>,
    seed: u64,
    cycle: u64,
    /// What the cycle did, for who must understand a failure.
    story: Vec<String>,
    _dir: TempDir,
}

impl Rig {
    pub fn new(name: &str, kind: Kind, seed: u64, seeded_bug: Option<&str>) -> Rig {
        let dir = TempDir::new(name);
        let mount = dir.path().join("disk");
        fs::create_dir(&mount).expect("a directory");
        let disk = (kind != Kind::Kill).then(|| LossyDisk::start(&mount));
        let place = Place {
            data: disk.as_ref().map_or(mount.clone(), |disk| disk.root.clone()).join("data"),
            socket: dir.path().join("s"),
            log: dir.path().join("log.txt"),
            durability: if kind == Kind::EverySecond { "everysec" } else { "always" },
            seeded_bug: seeded_bug.map(str::to_string),
        };
        let mut rig = Rig {
            kind,
            place,
            disk,
            server: None,
            oracle: Oracle::new(WRITERS),
            writers: Vec::new(),
            seed,
            cycle: 0,
            story: Vec::new(),
            _dir: dir,
        };
        rig.begin_anew();
        rig
    }

    /// Runs so many cycles. An error is a violation, with its cycle and what was done.
    pub fn run(&mut self, cycles: u64) -> Result<(), String> {
        for _ in 0..cycles {
            self.cycle().map_err(|why| {
                let story = self.story.join("; ");
                format!("seed {} cycle {}: {why} [{story}]", self.seed, self.cycle)
            })?;
        }
        Ok(())
    }

    fn begin_anew(&mut self) {
        self.server = None;
        _ = fs::remove_dir_all(&self.place.data);
        let above = self.place.data.parent().expect("the disk").to_path_buf();
        self.place.data = above.join(format!("data{}", self.cycle));
        self.oracle.clear();
        let writer = |number: usize| Writer {
            number,
            random: Random::new(self.seed << 20 | self.cycle << 4 | number as u64),
            scale: 1,
            operations: 0,
        };
        self.writers = (0..WRITERS).map(writer).collect();
    }

    fn cycle(&mut self) -> Result<(), String> {
        self.cycle += 1;
        self.story.clear();
        let mut random = Random::new(self.seed << 20 ^ self.cycle);
        if self.cycle.is_multiple_of(CYCLES_OF_A_STORE) {
            self.begin_anew();
        }
        let trouble = self.trouble(&mut random);
        // With large values segments turn over and the database writes out its memory.
        let scale = *random.one_of(&[1, 1, 12]);
        self.writers.iter_mut().for_each(|writer| writer.scale = scale);
        self.story.push(format!("{trouble:?}, values x{scale}"));
        let server = match self.server.take() {
            Some(server) => server,
            None => self.start()?,
        };
        self.disturb(trouble);
        let outcome = self.write(trouble, server);
        self.lose(&mut random, trouble);
        outcome?;
        // Where nobody was told that a record was synced, damage looks like the end of what was.
        if random.below(6) == 0 && self.kind != Kind::EverySecond {
            self.flip_a_bit(&mut random)?;
        }
        if random.below(3) == 0 {
            self.crash_while_starting(&mut random);
        }
        self.server = Some(self.start()?);
        self.compare(&mut random)
    }

    fn trouble(&self, random: &mut Random) -> Trouble {
        let scale = *random.one_of(&[1, 4, 40]);
        let after = 1 + random.below(OPERATIONS_MAX / scale);
        if self.disk.is_none() {
            return Trouble::Kill { after };
        }
        match random.below(10) {
            0..5 => Trouble::Power { after },
            5 => Trouble::SyncFails { after: after / 4 },
            6 => Trouble::WritesFail { after: after / 4 },
            7 => Trouble::DiskFull { room: after * 512 },
            _ => Trouble::Kill { after },
        }
    }

    fn start(&self) -> Result<Server, String> {
        self.place.start().map_err(|said| format!("it does not start: {said}"))
    }

    /// Looks at everything, and sometimes drops everything.
    fn compare(&mut self, random: &mut Random) -> Result<(), String> {
        let mut client = Client::connect(&self.place.socket).ok_or("it does not listen")?;
        self.oracle.check(&mut client)?;
        // Where it may get lost again, the oracle could not forget everything.
        if random.below(8) == 0 && self.kind != Kind::EverySecond {
            client.run("FLUSHALL").ok_or("it went away")?;
            self.story.push("FLUSHALL".into());
            self.oracle.clear();
        }
        Ok(())
    }

    fn disturb(&mut self, trouble: Trouble) {
        let Some(disk) = &mut self.disk else { return };
        match trouble {
            Trouble::Kill { .. } => {}
            Trouble::Power { after } => _ = disk.tell(&format!("off-after {after}")),
            Trouble::SyncFails { after } => _ = disk.tell(&format!("fail sync .log {after} 1")),
            Trouble::WritesFail { after } => _ = disk.tell(&format!("fail write .log {after} 3")),
            Trouble::DiskFull { room } => {
                let bytes = disk.used_bytes() + room;
                disk.tell(&format!("room {bytes}"));
            }
        }
    }

    /// Everybody writes until the trouble has come; then the server is killed.
    fn write(&mut self, trouble: Trouble, server: Server) -> Result<(), String> {
        let passes = matches!(trouble, Trouble::WritesFail { .. } | Trouble::DiskFull { .. });
        let signals = Signals { ends_when_refused: !passes, ..Signals::default() };
        let answers_max = match trouble {
            Trouble::Kill { after } => after,
            _ => OPERATIONS_MAX,
        };
        let (place, disk) = (&self.place, &mut self.disk);
        let (ledgers, writers) = (&mut self.oracle.ledgers, &mut self.writers);
        let count_seen = &mut self.oracle.count_seen;
        std::thread::scope(|scope| {
            let (progress, arrived) = mpsc::channel();
            let mut threads = Vec::new();
            for (writer, ledger) in writers.iter_mut().zip(ledgers) {
                let (signals, progress) = (&signals, progress.clone());
                threads.push(
                    scope.spawn(move || writer.run(&place.socket, ledger, signals, &progress)),
                );
            }
            drop(progress);
            let reader = scope.spawn(|| watch_count(&place.socket));
            let mut answered = 0;
            for more in arrived {
                answered += more;
                if signals.refused.load(SeqCst) >= REFUSED_MAX
                    && let Some(disk) = disk
                {
                    disk.tell("room");
                }
                if answered >= answers_max {
                    break;
                }
            }
            server.kill();
            signals.stop.store(true, SeqCst);
            let seen = reader.join().expect("the reader does not panic");
            *count_seen = seen.max(*count_seen);
            let outcomes = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            outcomes.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// Takes the power away and gives it back, unless only the process was to die.
    fn lose(&mut self, random: &mut Random, trouble: Trouble) {
        let Some(disk) = &mut self.disk else { return };
        disk.tell("room");
        disk.tell("heal");
        if matches!(trouble, Trouble::Kill { .. }) && random.below(2) == 0 {
            return;
        }
        if self.kind == Kind::EverySecond {
            self.oracle.forgive();
        }
        let loss = *random.one_of(&["all", "tear", "shuffle"]);
        self.story.push(format!("power off, {loss}"));
        disk.tell(&format!("off {loss} {}", random.below(1 << 30)));
        disk.tell("on");
    }

    fn crash_while_starting(&mut self, random: &mut Random) {
        self.story.push("crash while starting".into());
        match &mut self.disk {
            None => {
                let server = self.place.spawn();
                wait_a_moment(Duration::from_micros(random.below(60_000)));
                server.kill();
            }
            Some(disk) => {
                disk.tell(&format!("off-after {}", random.below(80)));
                // It gets ready or it does not; either way this is its end.
                drop(self.place.start());
                self.lose(random, Trouble::Power { after: 0 });
            }
        }
    }

    /// Damages a record of the write log that a later one knows to be synced. Nobody may start with it; the
    /// last ones are left alone, since damage there looks like a write that was not finished.
    fn flip_a_bit(&mut self, random: &mut Random) -> Result<(), String> {
        let Some(path) = self.place.newest_segment() else { return Ok(()) };
        let end = known_as_synced(&path);
        if end == HEADER_BYTES {
            return Ok(());
        }
        let offset = random.below(end);
        let mask = 1 << random.below(8);
        self.story.push(format!("bit flipped at {offset} of {end}"));
        flip(&path, offset, mask);
        match self.place.start() {
            Ok(_) => Err("a flipped bit in the write log went unnoticed".into()),
            Err(said) if !said.contains("damaged at byte") => {
                Err(format!("a flipped bit is not named: {said}"))
            }
            Err(_) => {
                flip(&path, offset, mask);
                Ok(())
            }
        }
    }
}

impl Drop for Rig {
    /// The server goes before the disk, and both before the directory.
    fn drop(&mut self) {
        self.server = None;
        self.disk = None;
    }
}

/// Reads what all writers count until the server is gone, and says how far it was.
fn watch_count(socket: &Path) -> usize {
    let mut seen = 0;
    let Some(mut client) = Client::connect(socket) else { return 0 };
    while let Some(answer) = client.run("GET shared:count") {
        seen = answer.text().parse().unwrap_or(seen);
    }
    seen
}

fn wait_a_moment(time: Duration) {
    std::thread::sleep(time);
}

const HEADER_BYTES: u64 = 28;
const SALT_AT: usize = 16;
const RECORD_HEADER_BYTES: u64 = 24;

/// Where the last record ends that a later one says was synced; where the header ends if none does.
fn known_as_synced(path: &Path) -> u64 {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.expect("the segment can be read");
    let number =
        |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight"));
    let (mut start, mut synced_max, mut records) = (HEADER_BYTES, 0, Vec::new());
    while let Some(header) = bytes.get(start as usize..(start + RECORD_HEADER_BYTES) as usize) {
        let length = u32::from_be_bytes(header[..4].try_into().expect("four bytes"));
        let end = start + RECORD_HEADER_BYTES + u64::from(length);
        let Some(record) = bytes.get(start as usize..end as usize) else { break };
        if crc32c::crc32c(&record[8..]).to_be_bytes() != record[4..8] {
            break;
        }
        records.push((number(record, 8), end));
        synced_max = (number(record, 16) ^ number(&bytes, SALT_AT)).max(synced_max);
        start = end;
    }
    let known = records.iter().rev().find(|(sequence, _)| *sequence <= synced_max);
    known.map_or(HEADER_BYTES, |(_, end)| *end)
}

fn flip(path: &Path, offset: u64, mask: u8) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).expect("the segment");
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset)).expect("inside the file");
    file.read_exact(&mut byte).expect("inside the file");
    file.seek(SeekFrom::Start(offset)).expect("inside the file");
    file.write_all(&[byte[0] ^ mask]).expect("room");
    file.sync_all().expect("it syncs");
}
