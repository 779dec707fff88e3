//! What the broker's decisions cost in instructions, held to the record in `instructions.json`: a
//! noisy machine hides a slower push, this does not. Rewritten by UPDATE_GOLDEN=1; a commit that
//! makes a figure grow says why.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Another processor or the seeds of hash tables move a figure by less.
const GROWTH_MAX_PERCENT: f64 = 5.0;

type Counts = BTreeMap<String, u64>;

#[test]
fn golden_instruction_counts() {
    let counted = count();
    let path = PathBuf::from("instructions.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let text = serde_json::to_string_pretty(&counted).unwrap() + "\n";
        std::fs::write(&path, text).unwrap();
    }
    let recorded: Counts = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let grown = grown(&recorded, &counted);
    assert!(
        grown.is_empty(),
        "make it cheaper, or rewrite {} and say why it must cost more:\n{}",
        path.display(),
        grown.join("\n")
    );
}

/// Names whose count grew by more than the limit, or that only one side has.
fn grown(recorded: &Counts, counted: &Counts) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> =
        recorded.keys().chain(counted.keys()).collect();
    let differs = |name: &&&String| match (recorded.get(**name), counted.get(**name)) {
        (Some(&before), Some(&now)) => {
            now as f64 > before as f64 * (1.0 + GROWTH_MAX_PERCENT / 100.0)
        }
        _ => true,
    };
    names
        .iter()
        .filter(differs)
        .map(|name| format!("{name}: {:?}, recorded {:?}", counted.get(*name), recorded.get(*name)))
        .collect()
}

#[test]
fn growth_is_seen_at_its_limit_and_one_past() {
    let counts = |push: u64| Counts::from([("push".to_owned(), push)]);
    assert_eq!(grown(&counts(1000), &counts(1050)), Vec::<String>::new());
    assert_eq!(grown(&counts(1000), &counts(1051)).len(), 1);
    assert_eq!(grown(&counts(1000), &counts(10)), Vec::<String>::new());
    assert_eq!(grown(&counts(1000), &Counts::new()).len(), 1);
    assert_eq!(grown(&Counts::new(), &counts(1)).len(), 1);
}

fn count() -> Counts {
    let output = Command::new(env!("CARGO_BIN_EXE_hawser-bench"))
        .args(["instructions", "--json", "--no-record"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut row: serde_json::Map<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(row.remove("benchmark"), Some(Value::from("instructions")));
    assert!(row.remove("scenario").is_some());
    let counts: Counts = serde_json::from_value(Value::Object(row)).unwrap();
    // A step that cost nothing was not run.
    assert!(counts.len() == 6 && counts.values().all(|&count| count > 50), "{counts:?}");
    counts
}
