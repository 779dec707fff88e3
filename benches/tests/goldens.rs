//! `report` and `compare` on fixed rows, held to the files in `golden`. `UPDATE_GOLDEN=1` rewrites
//! them; then look at the plots, not only at their text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const REPORT: &str = "tests/golden/report";
const COMPARE: &str = "tests/golden/compare";

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hawser-bench")).args(arguments).output().unwrap()
}

#[test]
fn golden_report() {
    let out = std::env::temp_dir().join(format!("hawser-report-{}", std::process::id()));
    // A plot of rows that are there no more goes.
    std::fs::create_dir_all(out.join("plots")).unwrap();
    std::fs::write(out.join("plots/uplink-latency.svg"), "of another day").unwrap();

    let rows = format!("{REPORT}/rows");
    let done = bench(&["report", "--results", &rows, "--out", out.to_str().unwrap()]);
    let (said, warned) =
        (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{warned}");
    assert!(said.ends_with("REPORT.md: 54 rows, 8 plots\n"), "{said}");
    assert!(warned.contains("push.jsonl:12: left out, no result row"), "{warned}");

    let made = files(&out);
    std::fs::remove_dir_all(&out).unwrap();
    let page = Path::new(REPORT).join("page");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = std::fs::remove_dir_all(&page);
        for (name, text) in &made {
            write(&page.join(name), text);
        }
    }
    let golden = files(&page);
    assert!(made.keys().eq(golden.keys()), "{:?}, not {:?}", made.keys(), golden.keys());
    for (name, text) in &made {
        assert_same(&page.join(name), text, &golden[name]);
    }
}

/// What a command says and how it ends.
struct Case {
    name: &'static str,
    arguments: &'static [&'static str],
    code: i32,
}

const CASES: [Case; 12] = [
    case("two-files", &["rows/monday.jsonl", "rows/tuesday.jsonl"], 0),
    case("two-runs", &["monday", "tuesday", "--results", "rows"], 0),
    case("two-commits", &["aaaaaaa", "bbbbbbb+", "--results", "rows", "--tolerance", "50"], 0),
    case("json", &["monday", "tuesday", "--results", "rows", "--json"], 0),
    case("torn-line", &["rows/monday.jsonl", "torn.jsonl"], 0),
    case("not-comparable", &["rows/monday.jsonl", "rows/elsewhere.jsonl"], 2),
    case("not-comparable-json", &["rows/monday.jsonl", "rows/elsewhere.jsonl", "--json"], 2),
    case("anyway", &["rows/monday.jsonl", "rows/elsewhere.jsonl", "--anyway"], 0),
    case("nothing-in-common", &["rows/monday.jsonl", "only-codec.jsonl"], 2),
    case("no-rows", &["rows/monday.jsonl", "no-rows.jsonl"], 1),
    case("unknown-run", &["monday", "wednesday", "--results", "rows"], 1),
    case("no-folder", &["monday", "tuesday", "--results", "nowhere"], 1),
];

const fn case(name: &'static str, arguments: &'static [&'static str], code: i32) -> Case {
    Case { name, arguments, code }
}

#[test]
fn golden_compare() {
    for Case { name, arguments, code } in CASES {
        let done = Command::new(env!("CARGO_BIN_EXE_hawser-bench"))
            .arg("compare")
            .args(arguments)
            .current_dir(COMPARE)
            .output()
            .unwrap();
        let text = format!(
            "$ hawser-bench compare {}\n{}{}exit code {}\n",
            arguments.join(" "),
            String::from_utf8(done.stdout).unwrap(),
            String::from_utf8(done.stderr).unwrap(),
            done.status.code().unwrap()
        );
        assert_eq!(done.status.code(), Some(code), "{text}");
        let path = Path::new(COMPARE).join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            write(&path, &text);
        }
        assert_same(&path, &text, &std::fs::read_to_string(&path).unwrap_or_default());
    }
}

#[test]
fn a_report_needs_rows() {
    for (folder, expected) in [
        ("tests/golden/nowhere", "cannot read tests/golden/nowhere; use --results"),
        ("tests/golden/report", "tests/golden/report has no results; run a benchmark first"),
        (COMPARE, "no-rows.jsonl has no result row; give a file that a benchmark wrote"),
    ] {
        let done = bench(&["report", "--results", folder]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code() == Some(1) && said.contains(expected), "{folder}: {said}");
    }
}

/// All files below a folder with their texts.
fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_owned();
                found.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn assert_same(path: &Path, made: &str, golden: &str) {
    let at = made.lines().zip(golden.lines()).position(|(made, golden)| made != golden);
    let line = at.unwrap_or_else(|| made.lines().count().min(golden.lines().count()));
    assert!(
        made == golden,
        "{} differs from line {}; UPDATE_GOLDEN=1 rewrites it\nmade:   {:?}\ngolden: {:?}",
        path.display(),
        line + 1,
        made.lines().nth(line),
        golden.lines().nth(line)
    );
}
