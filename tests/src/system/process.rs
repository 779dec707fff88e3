//! Child processes that do not outlive the test, and directories that do not either.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::wait::wait_for;

/// The place of one of the project's executables: beside the tests' own.
pub fn executable(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own place");
    let folder = test.parent().and_then(Path::parent).expect("target/release/deps/test");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run cargo build --release --workspace --bins",
        path.display()
    );
    path
}

/// Tests that start many processes or measure time take turns.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed has harmed nobody else.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running child. Dropped: killed, by its own id, and waited for.
pub struct Process {
    pub name: String,
    child: Child,
    /// Everything it has printed, both streams, for the message of a failure.
    output: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    pub fn start(name: &str, mut command: Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{name} did not start: {error}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        let readers = vec![collect(stdout, output.clone()), collect(stderr, output.clone())];
        Process { name: name.to_owned(), child, output, readers }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn output(&self) -> Vec<String> {
        lines(&self.output).clone()
    }

    /// The first line that contains `text`.
    pub fn line_with(&mut self, text: &str) -> String {
        let what = format!("{text:?} of {}", self.name);
        wait_for(&what, || {
            // Of a child that has ended, the last words are read before they are judged.
            let ended = self.child.try_wait().expect("it is our child");
            if ended.is_some() {
                self.read_to_the_end();
            }
            let lines = lines(&self.output);
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return Some(line.clone());
            }
            if let Some(status) = ended {
                panic!("{} ended with {status} before {text:?}:\n{}", self.name, lines.join("\n"));
            }
            None
        })
    }

    fn read_to_the_end(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -TERM {pid} failed");
    }

    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, || self.child.try_wait().expect("it is our child"))
    }

    /// Waits for a child that has a deadline of its own, and for the last of its words.
    pub fn wait_long(&mut self) -> (ExitStatus, Vec<String>) {
        let status = self.child.wait().expect("it is our child");
        self.read_to_the_end();
        (status, self.output())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ended = self.child.kill();
        let _status = self.child.wait();
        if thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name, self.output().join("\n"));
        }
    }
}

/// A test that fails while it looks at the lines must still be able to print them.
fn lines(output: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

fn collect(
    stream: impl std::io::Read + Send + 'static,
    into: Arc<Mutex<Vec<String>>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines(&into).push(line);
        }
    })
}

/// A directory of its own, removed when dropped.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hawser-test-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // What a process of the same id left when it was killed.
        let _left = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Folder { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Default for Folder {
    fn default() -> Folder {
        Folder::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Processes in it have ended: fields are dropped in order, the folder last.
        let _removed = fs::remove_dir_all(&self.path);
    }
}
