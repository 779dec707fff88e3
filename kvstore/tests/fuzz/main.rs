//! What must hold for any bytes: the committed inputs (`corpus/<target>/`) are replayed, and then each
//! run invents some of its own from them.
//!
//! | target | input | holds |
//! |---|---|---|
//! | `resp` | limits, sizes of pieces, a stream | the same commands and the same error however it is cut; no command beyond the limits |
//! | `log` | a segment of the write log | it opens to a dense row of records and then again to the same, or is refused |
//! | `rdb` | an RDB file, or a payload of RESTORE | it is read or refused at a place within it; what is read is no more than the bytes could hold |
//! | `arguments` | commands, a line each | each is answered, one that answers an error has written nothing, and the server lives |
//!
//! ```text
//! cargo test --release --locked -p hawser-control -p hawser-kv --test fuzz -- --nocapture
//!     HAWSER_FUZZ_SEED=7       what another run invented, which it printed
//!     HAWSER_FUZZ_ROUNDS=1000  so many times as much
//!     UPDATE_GOLDEN=1          rewrites the inputs named seed-...
//! ```
//!
//! An input that fails is kept, and the message says where. When it is mended, commit it under a name that
//! says what it was. Nothing here looks at what code an input reaches; these targets link RocksDB, which is
//! not compiled a second time for that.

mod arguments;
#[path = "../crash/client.rs"]
mod client;
mod log;
mod mutate;
mod rdb;
mod resp;
mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use mutate::Mutator;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus");

fn number_from(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Replays a target's corpus through its property, and then `count` inputs made from it.
fn fuzz(target: &str, count: u64, mut property: impl FnMut(&[u8])) {
    let mut corpus = Vec::new();
    for path in inputs(target) {
        let input = std::fs::read(&path).expect("a committed input");
        // The name stands in the output of a test that fails.
        println!("{}", path.display());
        property(&input);
        corpus.push(input);
    }
    assert!((10..=200).contains(&corpus.len()), "{target}: {} inputs", corpus.len());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = number_from("HAWSER_FUZZ_SEED", now.map_or(1, |since| since.as_secs() % 100_000));
    let count = count * number_from("HAWSER_FUZZ_ROUNDS", 1);
    println!("{target}: HAWSER_FUZZ_SEED={seed}, {count} inputs");
    let mut mutator = Mutator::new(seed);
    for _ in 0..count {
        let input = mutator.next(&corpus);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| property(&input))) {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
            std::fs::write(&path, &input).expect("the target folder can be written");
            println!("{target}: the input that failed is in {}", path.display());
            std::panic::resume_unwind(panic);
        }
    }
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(Path::new(CORPUS).join(target)).expect("a folder of inputs");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn resp_holds() {
    fuzz("resp", 20_000, resp::check);
}

#[test]
fn log_holds() {
    let dir = log::Segment::new();
    fuzz("log", 300, |input| dir.check(input));
}

#[test]
fn rdb_holds() {
    fuzz("rdb", 20_000, rdb::check);
}

#[test]
fn arguments_hold() {
    let mut server = arguments::Running::start();
    fuzz("arguments", 1500, |input| server.check(input));
}

#[test]
fn golden_seeds() {
    for (target, name, input) in seeds::all() {
        let path = Path::new(CORPUS).join(target).join(format!("seed-{name}"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(&path, &input).expect("the corpus can be written");
        }
        let committed = std::fs::read(&path).unwrap_or_default();
        assert!(committed == input, "{} is not what this test makes", path.display());
    }
}
