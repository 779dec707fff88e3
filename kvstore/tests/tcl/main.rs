//! Redis's own tests (7.0.15, its Tcl suite in external mode) against the real `hawser-kv`.
//!
//! ```text
//! cargo test --release --locked -p hawser-control -p hawser-kv --test tcl               all eleven
//! cargo test --release --locked -p hawser-control -p hawser-kv --test tcl -- zset       one of them
//!     HAWSER_TCL_SHOW=1 (and -- --nocapture)   every case that does not pass, the skipped ones too
//!     UPDATE_GOLDEN=1                          takes the cases that pass now out of skip.txt
//!     HAWSER_TCL_RECORD=1                      writes cases.txt anew, from redis-server itself
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `cases.txt` | every case that redis-server passes, one a line: `suite \| case` |
//! | `skip.txt` | those that the store does not pass, with why: `suite \| case \| reason` |
//!
//! Each case of the first file must pass unless it is in the second, and must not pass if it is: so the
//! second can only shrink. A case that does not run counts as one that fails, and one that fails has a
//! second chance. A case with the reason `not run: …` would end its suite and is left out by the suite
//! itself. All that a suite printed is in the file that the summary line names.
//!
//! `.ci/setup test` fetches the suite. Cases of replicas and of the DEBUG command are left out, as the
//! suite's tags say, and so are a key's encoding and digest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Name here, and place in Redis's `tests/`.
const SUITES: [(&str, &str); 11] = [
    ("string", "unit/type/string"),
    ("hash", "unit/type/hash"),
    ("set", "unit/type/set"),
    ("zset", "unit/type/zset"),
    ("list", "unit/type/list"),
    ("incr", "unit/type/incr"),
    ("expire", "unit/expire"),
    ("scan", "unit/scan"),
    ("keyspace", "unit/keyspace"),
    ("multi", "unit/multi"),
    ("stream", "unit/type/stream"),
];

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tcl/cases.txt");
const SKIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tcl/skip.txt");

/// So starts the reason of a case after which the suite could not go on.
const NOT_RUN: &str = "not run: ";
/// Cases that may be in skip.txt: 2 % of all.
const SKIPPED_MAX: usize = 20;

/// A case that makes no progress for so long has failed. The slowest takes some seconds on an idle
/// machine.
const STUCK_SECONDS: &str = "100";
/// Redis's slowest suite takes half a minute on an idle machine.
const DEADLINE: Duration = Duration::from_secs(900);

/// The suites run beside each other, and rewrite parts of the same files.
static FILES: Mutex<()> = Mutex::new(());

macro_rules! suites {
    ($($name:ident),*) => { $(#[test] fn $name() { check(stringify!($name)); })* };
}
suites!(string, hash, set, zset, list, incr, expire, scan, keyspace, multi, stream);

#[test]
fn every_skipped_case_exists_and_says_why() {
    let cases = rows(CASES);
    for row in rows(SKIPPED) {
        let (case, reason) = row.rsplit_once(" | ").expect("suite | case | reason");
        assert!(cases.iter().any(|known| known == case), "skip.txt: there is no case {case:?}");
        assert!(reason.len() > 5, "skip.txt: why is {case:?} skipped?");
    }
    let skipped = rows(SKIPPED).len();
    assert!(skipped <= SKIPPED_MAX, "skip.txt: {skipped} cases are skipped; {SKIPPED_MAX} may be");
    assert!(cases.len() > 1000, "cases.txt has only {}", cases.len());
}

fn check(suite: &str) {
    let mut outcomes = run(suite);
    if std::env::var_os("HAWSER_TCL_RECORD").is_some() {
        return record(suite, &outcomes);
    }
    let mut recorded: BTreeMap<String, usize> = BTreeMap::new();
    for case in rows_of(CASES, suite) {
        *recorded.entry(case).or_default() += 1;
    }
    let skipped = skipped(suite);
    let passes = |outcomes: &BTreeMap<String, Outcome>, case: &str| {
        outcomes.get(case).is_some_and(|outcome| outcome.passed == recorded[case])
    };
    // Some cases measure time, which a busy machine spoils: one may fail once.
    if recorded.keys().any(|case| !passes(&outcomes, case) && !skipped.contains_key(case)) {
        println!("{suite}: once more");
        let again = run(suite).into_iter().filter(|(case, _)| !skipped.contains_key(case));
        outcomes.extend(again.filter(|(_, outcome)| outcome.error.is_none()));
    }
    let (mut failures, mut passing_skipped, mut passed) = (Vec::new(), Vec::new(), 0);
    for (case, count) in &recorded {
        let why = match outcomes.get(case) {
            _ if passes(&outcomes, case) => {
                passed += count;
                if skipped.contains_key(case) {
                    passing_skipped.push(case.clone());
                }
                continue;
            }
            None => "it did not run".to_string(),
            Some(Outcome { error: Some(error), .. }) => error.clone(),
            Some(outcome) => format!("it passed {} times, not {count}", outcome.passed),
        };
        let is_skipped = skipped.contains_key(case);
        if std::env::var_os("HAWSER_TCL_SHOW").is_some() {
            println!("{}{suite} | {case} | {why}", if is_skipped { "(skipped) " } else { "" });
        }
        if !is_skipped {
            failures.push(format!("{suite} | {case} | {why}"));
        }
    }
    let all: usize = recorded.values().sum();
    println!("{suite}: {passed} of {all} pass; {}", output_path(suite).display());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        unskip(suite, &passing_skipped);
        passing_skipped.clear();
    }
    assert!(
        failures.is_empty(),
        "{suite}: {} cases fail that are not in skip.txt:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(
        passing_skipped.is_empty(),
        "{suite}: these pass; UPDATE_GOLDEN=1 takes them out of skip.txt:\n{}",
        passing_skipped.join("\n")
    );
}

/// What became of the cases of one name.
#[derive(Default)]
struct Outcome {
    passed: usize,
    /// The first of its errors.
    error: Option<String>,
}

/// Runs one suite against a server of its own.
fn run(suite: &str) -> BTreeMap<String, Outcome> {
    let index = SUITES.iter().position(|(name, _)| *name == suite).expect("a suite");
    let dir = TempDir::new(suite);
    std::os::unix::fs::symlink(redis_tests(), dir.0.join("tests")).expect("a link");
    // The suite's parts talk over a port of their own, the first of 32 that is free from here on.
    let base = 11_000 + (std::process::id() as usize * SUITES.len() + index) % 300 * 36;
    let mut server = match std::env::var_os("HAWSER_TCL_RECORD") {
        None => Server::start(&dir.0),
        Some(_) => Server::start_redis(&dir.0, base + 1),
    };
    let output = File::create(output_path(suite)).expect("a file for the output");
    let mut command = Command::new("tclsh");
    command.current_dir(&dir.0).args(["tests/test_helper.tcl", "--host", "127.0.0.1", "--port"]);
    command.arg(&server.port).args([
        "--baseport",
        &(base + 34).to_string(),
        "--timeout",
        STUCK_SECONDS,
    ]);
    command.args(["--singledb", "--ignore-encoding", "--ignore-digest", "--clients", "1"]);
    command.args(["--durable", "--tags", "-needs:repl -needs:debug", "--single", SUITES[index].1]);
    for (case, reason) in skipped(suite) {
        if reason.starts_with(NOT_RUN) {
            command.args(["--skiptest", &case]);
        }
    }
    command.env_remove("TERM").stdin(Stdio::null()).stderr(output.try_clone().expect("a file"));
    let mut tcl = command.stdout(output).spawn().expect("tclsh is installed (.ci/setup test)");
    let ended = wait_for_end(&mut tcl);
    _ = tcl.kill();
    _ = tcl.wait();
    let died = server.child.try_wait().expect("our child");
    assert!(died.is_none(), "{suite}: the server ended: {died:?}; {}", server.log.display());
    if ended.is_none() {
        println!("{suite}: not done after {DEADLINE:?}");
    }
    outcomes(&fs::read_to_string(output_path(suite)).expect("text"))
}

fn wait_for_end(child: &mut Child) -> Option<ExitStatus> {
    let started = Instant::now();
    while started.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait().expect("our child") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Reads `[ok]: CASE (7 ms)` and `[err]: CASE in tests/PLACE`, after which comes why.
fn outcomes(output: &str) -> BTreeMap<String, Outcome> {
    let mut found: BTreeMap<String, Outcome> = BTreeMap::new();
    let mut lines = output.lines();
    while let Some(line) = lines.next() {
        if let Some(ok) = line.strip_prefix("[ok]: ") {
            let (case, _) = ok.rsplit_once(" (").expect("a case and its time");
            found.entry(case.to_string()).or_default().passed += 1;
        } else if let Some(error) = line.strip_prefix("[err]: ") {
            // Without a place it is not of a case but of what is between them.
            let Some((case, _)) = error.rsplit_once(" in tests/") else {
                println!("between cases: {error}");
                continue;
            };
            let why = lines.next().unwrap_or_default().chars().take(200).collect();
            found.entry(case.to_string()).or_default().error.get_or_insert(why);
        }
    }
    found
}

fn output_path(suite: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tcl-{suite}.txt"))
}

fn redis_tests() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| {
        Path::new(&std::env::var_os("HOME").expect("HOME is set")).join(".cache")
    });
    let tests = cache.join("hawser/redis-7.0.15/tests");
    let is_there = tests.join("test_helper.tcl").exists();
    assert!(is_there, "{} is not there; run `.ci/setup test`", tests.display());
    tests
}

/// Lines that are no comments.
fn rows(path: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("# "));
    lines.map(str::to_string).collect()
}

fn rows_of(path: &str, suite: &str) -> Vec<String> {
    let start = format!("{suite} | ");
    rows(path).iter().filter_map(|row| row.strip_prefix(&start)).map(str::to_string).collect()
}

fn skipped(suite: &str) -> BTreeMap<String, String> {
    let rows = rows_of(SKIPPED, suite).into_iter();
    let pairs = rows.map(|row| {
        let (case, reason) = row.rsplit_once(" | ").expect("suite | case | reason");
        (case.to_string(), reason.to_string())
    });
    pairs.collect()
}

fn unskip(suite: &str, passing: &[String]) {
    let _files = FILES.lock().expect("not poisoned");
    let text = fs::read_to_string(SKIPPED).expect("skip.txt");
    let goes =
        |line: &str| passing.iter().any(|case| line.starts_with(&format!("{suite} | {case} | ")));
    let stay: String =
        text.lines().filter(|line| !goes(line)).flat_map(|line| [line, "\n"]).collect();
    fs::write(SKIPPED, stay).expect("skip.txt can be written");
}

fn record(suite: &str, outcomes: &BTreeMap<String, Outcome>) {
    let _files = FILES.lock().expect("not poisoned");
    let start = format!("{suite} | ");
    let mut all = rows(CASES);
    all.retain(|row| !row.starts_with(&start));
    for (case, outcome) in outcomes {
        assert!(outcome.error.is_none(), "redis-server fails {case}: {:?}", outcome.error);
        all.extend((0..outcome.passed).map(|_| format!("{start}{case}")));
    }
    all.sort_by_key(|row| {
        SUITES.iter().position(|(name, _)| row.split(" | ").next() == Some(name))
    });
    fs::write(CASES, all.join("\n") + "\n").expect("cases.txt can be written");
}

/// `hawser-kv`, or what the cases are recorded from.
struct Server {
    child: Child,
    port: String,
    log: PathBuf,
}

impl Server {
    fn start(dir: &Path) -> Server {
        let log = dir.join("log.txt");
        let errors = File::create(&log).expect("a file for the log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-kv"));
        command.args(["--listen", "127.0.0.1:0", "--dir"]).arg(dir.join("data"));
        // Some cases send on two connections without waiting in between, and expect the order in which
        // they sent. Only one thread that reads them all has that.
        command.args(["--set", "network_threads=1"]);
        let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line.trim_end().strip_prefix("hawser-kv ready on ").expect("a ready line");
        let port = address.rsplit_once(':').expect("an address").1.to_string();
        Server { child, port, log }
    }

    fn start_redis(dir: &Path, port: usize) -> Server {
        let log = dir.join("log.txt");
        let errors = File::create(&log).expect("a file for the log");
        let port = port.to_string();
        let mut command = Command::new("redis-server");
        command.current_dir(dir).args(["--port", &port, "--save", ""]);
        let mut child = command.stdout(errors).spawn().expect("redis-server starts");
        while TcpStream::connect(format!("127.0.0.1:{port}")).is_err() {
            let ended = child.try_wait().expect("our child");
            assert!(ended.is_none(), "redis-server ended: {}", log.display());
            std::thread::yield_now();
        }
        Server { child, port, log }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> TempDir {
        let path = std::env::temp_dir().join(format!("hkv-tcl-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}
