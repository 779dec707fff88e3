//! The processes of a benchmark and what `/proc` says about them: the broker under test, and this
//! program's own children, which take one command a line and answer with one line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::control_end::link_key_hex;
use crate::folder::Folder;
use crate::io;
use crate::results::plan_hash;

/// A process that is ended, and waited for, with its owner.
pub struct Owned(Child);

impl Owned {
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that says on its standard output when it is ready.
pub struct Server {
    process: Owned,
    /// Held open: the server would otherwise write to a closed pipe.
    _stdout: BufReader<ChildStdout>,
    /// The line it said.
    pub ready: String,
}

impl Server {
    pub fn start(command: &mut Command, processor: usize) -> anyhow::Result<Server> {
        command.stdout(Stdio::piped());
        let mut process = Owned(spawn_on(command, &[processor])?);
        let mut stdout = BufReader::new(process.0.stdout.take().expect("piped"));
        let mut ready = String::new();
        stdout.read_line(&mut ready)?;
        let name = command.get_program().to_string_lossy();
        ensure!(ready.contains(" ready"), "{name} did not get ready; what it said is above");
        Ok(Server { process, _stdout: stdout, ready })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// An error that says how it ended, if it has.
    pub fn is_there(&mut self) -> anyhow::Result<()> {
        match self.process.0.try_wait()? {
            Some(status) => bail!("the server under test has ended ({status})"),
            None => Ok(()),
        }
    }
}

/// The broker under test: one shard on one processor.
pub struct Broker {
    server: Server,
    pub plan_hash: String,
}

impl Broker {
    /// The settings must say where to listen.
    pub fn start(
        binary: &Path,
        control: SocketAddr,
        settings: &[String],
        processor: usize,
    ) -> anyhow::Result<Broker> {
        let mut command = Command::new(binary);
        command.env("HAWSER_LINK_KEY", link_key_hex());
        for setting in [
            "broker_id=1".to_owned(),
            "admin=127.0.0.1:0".to_owned(),
            format!("control={control}"),
            "shards=1".to_owned(),
        ] {
            command.arg("--set").arg(setting);
        }
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        let plan_hash = checked_plan_hash(&command)?;
        Ok(Broker { server: Server::start(&mut command, processor)?, plan_hash })
    }

    /// The sum of a metric over the shards, from the admin address.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let mut words = self.server.ready.split_whitespace().skip_while(|&word| word != "admin");
        let address = words.nth(1).context("the broker names its admin address")?;
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let value = |line: &str| {
            let (labelled, value) = line.rsplit_once(' ')?;
            let found = labelled.split('{').next() == Some(name);
            found.then(|| value.parse::<f64>().ok())?
        };
        let values: Vec<f64> = page.lines().filter_map(value).collect();
        ensure!(!values.is_empty(), "the broker has no metric {name}");
        Ok(values.iter().sum())
    }

    pub fn id(&self) -> u32 {
        self.server.id()
    }

    pub fn is_there(&mut self) -> anyhow::Result<()> {
        self.server.is_there()
    }
}

/// The hash of the plan with which this command would start a broker.
fn checked_plan_hash(broker: &Command) -> anyhow::Result<String> {
    let mut check = Command::new(broker.get_program());
    check.args(broker.get_args()).arg("--check-config");
    check.envs(broker.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let checked = check
        .output()
        .with_context(|| format!("cannot start {}", broker.get_program().to_string_lossy()))?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr).trim());
    Ok(plan_hash(&String::from_utf8_lossy(&checked.stdout)))
}

/// A binary beside this program, unless said otherwise.
pub fn sibling(given: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name(name),
    };
    ensure!(path.exists(), "{} does not exist: build it, or say where it is", path.display());
    Ok(path)
}

/// A child process of this program that takes commands.
pub struct Helper {
    process: Owned,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts this program again with these arguments.
    pub fn start(arguments: &[String], processor: usize) -> anyhow::Result<Helper> {
        Helper::of(&std::env::current_exe()?, arguments, processor)
    }

    pub fn of(program: &Path, arguments: &[String], processor: usize) -> anyhow::Result<Helper> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Owned(spawn_on(&mut command, &[processor])?);
        let stdin = process.0.stdin.take().expect("piped");
        let stdout = BufReader::new(process.0.stdout.take().expect("piped"));
        Ok(Helper { process, stdin, stdout })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn tell(&mut self, command: &str) -> anyhow::Result<()> {
        Ok(self.stdin.write_all(format!("{command}\n").as_bytes())?)
    }

    /// For one that is spoken with in another way.
    pub fn apart(self) -> (Owned, ChildStdin, BufReader<ChildStdout>) {
        (self.process, self.stdin, self.stdout)
    }

    /// What follows `word` in the next line of answer. Another word is an error.
    pub fn hear(&mut self, word: &str) -> anyhow::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        match line.trim_end().split_once(' ') {
            Some((first, rest)) if first == word => Ok(rest.to_owned()),
            None if line.trim_end() == word => Ok(String::new()),
            _ => bail!("a child process said {:?} instead of {word}", line.trim_end()),
        }
    }

    pub fn ask(&mut self, command: &str, word: &str) -> anyhow::Result<String> {
        self.tell(command)?;
        self.hear(word)
    }
}

/// A server that is told its address, and writes what it says to a file in its folder.
pub struct Daemon {
    /// Before the folder: dropped in this order.
    process: Owned,
    folder: Folder,
    pub address: SocketAddr,
}

/// How long a server may take until it listens.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);

impl Daemon {
    /// Returns when it listens on loopback, on the port for which `command` was made.
    pub fn start(
        folder: Folder,
        processors: &[usize],
        command: impl Fn(SocketAddr, &Path) -> anyhow::Result<Command>,
    ) -> anyhow::Result<Daemon> {
        let file = File::create(folder.path().join(LOG)).context("its log")?;
        let spawn = |folder: &Folder| {
            // A port that was free a moment ago.
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let mut command = command(address, folder.path())?;
            command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file.try_clone()?);
            anyhow::Ok((Owned(spawn_on(&mut command, processors)?), address))
        };
        let (process, address) = spawn(&folder)?;
        let mut daemon = Daemon { process, folder, address };
        // Another one may take the port meanwhile, but hardly twice.
        if !daemon.listens()? {
            (daemon.process, daemon.address) = spawn(&daemon.folder)?;
            ensure!(daemon.listens()?, "it ended at once: {}", daemon.last_words());
        }
        Ok(daemon)
    }

    /// False when it has ended instead.
    fn listens(&mut self) -> anyhow::Result<bool> {
        let deadline = Instant::now() + LISTENS_WITHIN;
        loop {
            if self.has_ended()? {
                return Ok(false);
            }
            // To a port on which nobody listens a socket can be connected with itself.
            let connected = TcpStream::connect(self.address);
            if connected
                .is_ok_and(|socket| socket.local_addr().is_ok_and(|own| own != self.address))
            {
                return Ok(true);
            }
            ensure!(
                Instant::now() < deadline,
                "it did not listen on {} within {LISTENS_WITHIN:?}: {}",
                self.address,
                self.last_words()
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.0.try_wait()?.is_some())
    }

    /// The end of what it said.
    pub fn last_words(&self) -> String {
        let said = std::fs::read(self.folder.path().join(LOG)).unwrap_or_default();
        let end = &said[said.len().saturating_sub(LAST_WORDS_BYTES)..];
        String::from_utf8_lossy(end).trim().to_owned()
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(20);

const LOG: &str = "log";

const LAST_WORDS_BYTES: usize = 2_000;

/// A child inherits its starter's processors, so the starter moves there and back.
fn spawn_on(command: &mut Command, processors: &[usize]) -> anyhow::Result<Child> {
    let before = io::processors()?;
    io::end_with_parent(command);
    // A signal from the terminal is for the program that owns the children.
    command.process_group(0);
    io::pin(processors)?;
    let spawned = command.spawn();
    io::pin(&before)?;
    spawned.with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Private memory without a file behind it: heap, stacks.
    pub anonymous: u64,
    /// What no other process has: the former, and pages of files that it has written to.
    pub private: u64,
    /// Everything that is resident, code and shared mappings included.
    pub resident: u64,
}

pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let field = |name: &str| -> anyhow::Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("a field")?;
        let kib = line.split_whitespace().next().context("a number")?;
        Ok(1024 * kib.parse::<u64>()?)
    };
    Ok(Memory {
        anonymous: field("Anonymous:")?,
        private: field("Private_Clean:")? + field("Private_Dirty:")?,
        resident: field("Rss:")?,
    })
}

/// Processor time of a process until now, in nanoseconds; see [`io::cpu_ns`].
pub fn cpu_ns(pid: u32) -> anyhow::Result<u64> {
    io::cpu_ns(pid).with_context(|| format!("the processor time of process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_ended_counts() {
        const BUSY: Duration = Duration::from_millis(20);
        let own_ns = || {
            let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        };
        let before_ns = cpu_ns(std::process::id()).unwrap();
        let busy = std::thread::spawn(move || {
            while u128::from(own_ns()) < BUSY.as_nanos() {
                std::hint::spin_loop();
            }
        });
        busy.join().unwrap();
        let used_ns = cpu_ns(std::process::id()).unwrap() - before_ns;
        assert!(u128::from(used_ns) >= BUSY.as_nanos(), "{used_ns} ns");
        // Linux numbers processes up to 2^22.
        assert!(cpu_ns(5_000_000).is_err(), "there is no such process");
    }
}
