//! One child process: started, waited for, killed, stopped, and its log shown when it dies.
//!
//! A child runs in its own process group, so that Ctrl-C reaches only `hawser play`, which stops
//! the children in order. It dies with its parent in three ways: by `stop`, by the drop of the
//! value (SIGKILL), and, where `setpriv` is installed, by the kernel when the parent is killed. The
//! shell that arranges the last one also raises the soft limit on descriptors and then becomes the
//! program, so the process id stays.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Replaying a store's log takes longest.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const LOG_TAIL_LINES: usize = 20;

const LAUNCH: &str = r#"ulimit -n "$(ulimit -Hn)"
setpriv --pdeathsig KILL true 2>/dev/null && exec setpriv --pdeathsig KILL "$@"
exec "$@""#;

/// What to run.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub log: PathBuf,
}

#[derive(Debug)]
pub struct Process {
    spec: Spec,
    child: Child,
}

impl Process {
    /// Starts a server and returns when it has printed the line that says it is ready.
    pub async fn start_server(spec: Spec) -> anyhow::Result<Process> {
        let mut process = Process::spawn(spec, Stdio::null())?;
        let stdout = process.child.stdout.take().context("standard output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = timeout(READY_TIMEOUT, async {
            while let Some(line) = lines.next_line().await? {
                if line.contains(" ready") {
                    return Ok::<_, std::io::Error>(true);
                }
            }
            Ok(false)
        });
        match ready.await {
            Ok(Ok(true)) => {
                // Whatever it says later must not block it.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                Ok(process)
            }
            Ok(_) => {
                let status = process.child.wait().await?;
                bail!(process.obituary(status))
            }
            Err(_) => bail!(
                "{} was not ready after {} s\n{}",
                process.spec.name,
                READY_TIMEOUT.as_secs(),
                log_tail(&process.spec.log)
            ),
        }
    }

    /// Starts a process that is talked to through its standard input and output.
    pub fn start_piped(spec: Spec) -> anyhow::Result<(Process, ChildStdin, ChildStdout)> {
        let mut process = Process::spawn(spec, Stdio::piped())?;
        let stdin = process.child.stdin.take().context("standard input is piped")?;
        let stdout = process.child.stdout.take().context("standard output is piped")?;
        Ok((process, stdin, stdout))
    }

    fn spawn(spec: Spec, stdin: Stdio) -> anyhow::Result<Process> {
        if !spec.program.is_file() {
            bail!(
                "{} is not there: `hawser play` starts the programs that lie beside itself; build them with `make build`",
                spec.program.display()
            );
        }
        let log = OpenOptions::new().create(true).append(true).open(&spec.log);
        let log: File = log.with_context(|| format!("cannot write {}", spec.log.display()))?;
        let child = Command::new("/bin/sh")
            .args(["-c", LAUNCH, "sh"])
            .arg(&spec.program)
            .args(&spec.args)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", spec.name))?;
        Ok(Process { spec, child })
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// An error that names the process and shows the end of its log, if it has died.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!(self.obituary(status)),
            None => Ok(()),
        }
    }

    fn obituary(&self, status: ExitStatus) -> String {
        let (name, tail) = (&self.spec.name, log_tail(&self.spec.log));
        format!("{name} died unexpectedly ({status}); the end of its log:\n{tail}")
    }

    /// SIGKILL, as in a crash. Returns what to start again.
    pub async fn kill(mut self) -> anyhow::Result<Spec> {
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.spec.name))?;
        Ok(self.spec.clone())
    }

    /// SIGTERM, and SIGKILL if that does not end it in time.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            // The standard library can only kill; the shell's `kill` is always there.
            let mut terminate = Command::new("/bin/sh");
            terminate.args(["-c", &format!("kill -TERM {pid}")]).stderr(Stdio::null());
            terminate.status().await?;
        }
        if timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            let name = &self.spec.name;
            eprintln!("{name} did not stop within {} s and is killed", STOP_TIMEOUT.as_secs());
            self.child.kill().await?;
        }
        Ok(())
    }

    /// Waits for a process that ends by itself now, such as a fleet whose input was closed.
    pub async fn end(mut self) -> anyhow::Result<()> {
        if timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }
}

/// Not a clean end: an error or an interrupt. The process is gone when this returns, so that what it
/// had open (a store, a port) can be opened again.
impl Drop for Process {
    fn drop(&mut self) {
        if self.child.start_kill().is_err() {
            // It has ended and was waited for.
            return;
        }
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < STOP_TIMEOUT {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn log_tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    match shown {
        [] => "  (its log is empty)".to_owned(),
        _ => shown.iter().map(|line| format!("  {line}\n")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log of one child, which goes with the test.
    struct Log(PathBuf);

    impl Log {
        fn new(test: &str) -> Log {
            let name = format!("hawser-process-{}-{test}", std::process::id());
            Log(std::env::temp_dir().join(name))
        }

        fn shell(&self, script: &str) -> Spec {
            let args = vec!["-c".to_owned(), script.to_owned()];
            let program = PathBuf::from("/bin/sh");
            Spec { name: "the child".to_owned(), program, args, log: self.0.clone() }
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            let _gone = std::fs::remove_file(&self.0);
        }
    }

    #[tokio::test]
    async fn a_server_is_ready_when_it_says_so_and_stops_when_told() {
        let script = "echo noise; echo child ready on port; while true; do sleep 1; done";
        let log = Log::new("stops");
        let mut process = Process::start_server(log.shell(script)).await.unwrap();
        process.check().unwrap();
        process.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_dropped_child_is_gone() {
        let script = "echo child ready; while true; do sleep 1; done";
        let log = Log::new("dropped");
        let process = Process::start_server(log.shell(script)).await.unwrap();
        let entry = PathBuf::from(format!("/proc/{}", process.pid().unwrap()));
        assert!(entry.exists());
        drop(process);
        assert!(!entry.exists());
    }

    #[tokio::test]
    async fn a_child_that_dies_is_named_with_its_last_words() {
        let log = Log::new("dies");
        let error = Process::start_server(log.shell("echo the disk is full >&2; exit 3")).await;
        let text = error.unwrap_err().to_string();
        for part in ["the child", "exit status: 3", "the disk is full"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_says_what_to_build() {
        let shell = Log::new("absent").shell("");
        let spec = Spec { program: "/nonexistent/hawser-broker".into(), ..shell };
        let text = Process::start_server(spec).await.unwrap_err().to_string();
        assert!(text.contains("make build"), "{text}");
    }
}
