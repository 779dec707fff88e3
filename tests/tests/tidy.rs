//! What the compiler does not check: who may know whom, where `unsafe` may stand, how files look,
//! and that ARCHITECTURE.md speaks of code that exists.
//!
//! Each test reads the sources as text, after comments and strings have been blanked out, so that
//! a word in a sentence is not taken for code. It knows no more Rust than that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 1000;
const ARCHITECTURE_LINES_MAX: usize = 400;

/// Which of our crates each crate may depend on.
const MAY_KNOW: [(&str, &[&str]); 5] = [
    ("codec", &["hawser-codec-properties"]), // its tests only; see the next check
    ("broker", &["hawser-codec"]),
    ("kvstore", &[]),
    ("control-plane", &["hawser-codec", "hawser-kv", "hawser-tuning"]),
    ("tuning", &[]),
];

/// The only places with `unsafe`, each with a reason.
const UNSAFE_FOLDERS: [&str; 3] = [
    "broker/src/io",                // io_uring, and the calls of libc that a shard needs
    "benches/src/io", // the benchmark's bare loops, which are the floor of its measurements
    "codec/tests/no_allocation.rs", // the allocator that counts, which the language has no safe form of
];

/// Decisions: no clock, no socket, no file, no serde.
const PURE_FOLDERS: [&str; 3] = ["codec/src", "broker/src/core", "control-plane/src/node"];

const IMPURE: [&str; 8] = [
    "Instant::now",
    "SystemTime::now",
    "std::net",
    "std::fs",
    "std::thread",
    "tokio",
    "serde",
    "rand::",
];

#[test]
fn crates_depend_only_on_whom_they_may_know() {
    for (krate, allowed) in MAY_KNOW {
        for dependency in direct_dependencies(krate, &ALL_SECTIONS) {
            assert!(
                !dependency.starts_with("hawser-") || allowed.contains(&dependency.as_str()),
                "{krate} must not know {dependency}"
            );
        }
    }
    let codec: Vec<String> = direct_dependencies("codec", &["dependencies"]).into_iter().collect();
    assert_eq!(codec, ["siphasher"], "codec knows bytes and values");
}

const ALL_SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

#[test]
fn nothing_of_the_broker_reaches_tokio_or_the_store() {
    let locked = locked_dependencies();
    for (krate, forbidden) in [
        ("hawser-codec", &["tokio", "io-uring"][..]),
        ("hawser-broker", &["tokio", "redis", "rocksdb", "hawser-kv", "hawser-control"]),
        ("hawser-kv", &["hawser-codec", "hawser-broker", "hawser-control"]),
    ] {
        let reached = reach(&locked, krate);
        for name in forbidden {
            assert!(!reached.contains(*name), "{krate} reaches {name}");
        }
    }
}

#[test]
fn unsafe_stands_in_few_places_and_says_why() {
    for file in sources() {
        let allowed = UNSAFE_FOLDERS.iter().any(|folder| file.path.starts_with(folder));
        let lines: Vec<&str> = file.text.lines().collect();
        for (index, line) in file.code.lines().enumerate() {
            if !has_word(line, "unsafe") {
                continue;
            }
            let at = format!("{}:{}", file.path, index + 1);
            assert!(allowed, "{at}: unsafe outside {UNSAFE_FOLDERS:?}");
            // What an unsafe function does is in blocks of its own, and they say why.
            let safe = line.contains("unsafe fn") || says_why_it_is_safe(&lines, index);
            assert!(safe, "{at}: unsafe without a // SAFETY: line");
        }
    }
}

#[test]
fn crates_without_unsafe_forbid_it() {
    let holds_unsafe = |path: &str| {
        let folders = UNSAFE_FOLDERS.iter().filter(|folder| !folder.contains("/tests/"));
        folders.into_iter().any(|folder| path.split('/').next() == folder.split('/').next())
    };
    for file in sources().into_iter().filter(|file| is_crate_root(&file.path)) {
        if holds_unsafe(&file.path) && !file.path.contains("/tests/") {
            continue;
        }
        assert!(
            file.code.contains("#![forbid(unsafe_code)]") || file.path.contains("/tests/"),
            "{} lacks #![forbid(unsafe_code)]",
            file.path
        );
    }
}

#[test]
fn files_open_with_what_they_are_and_stay_short() {
    for file in sources() {
        let lines = file.text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{}: {lines} lines; split it", file.path);
        let first = file.text.lines().find(|line| !line.starts_with("#!["));
        assert!(
            first.is_some_and(|line| line.starts_with("//! ")),
            "{} does not open with //! and what it is",
            file.path
        );
    }
}

#[test]
fn nothing_is_left_for_later() {
    const BANNED: [&str; 6] =
        ["todo!", "unimplemented!", "dbg!", "#[ignore", "allow(dead_code)", "allow(unused"];
    for file in sources() {
        for (index, line) in file.code.lines().enumerate() {
            for banned in BANNED {
                assert!(!line.contains(banned), "{}:{}: {banned}", file.path, index + 1);
            }
        }
    }
}

/// A test waits for a condition with a deadline, so only the loop that does may sleep. Such a
/// function is named `wait_...` or `eventually`.
#[test]
fn tests_wait_for_conditions() {
    for file in sources() {
        let all = file.path.contains("tests/");
        let mut in_tests = all;
        let mut function = "";
        for (index, line) in file.code.lines().enumerate() {
            in_tests |= line.contains("#[cfg(test)]");
            if let Some(name) = function_name(line) {
                function = name;
            }
            let sleeps = has_word(line, "sleep") && !is_wait(function);
            assert!(!(in_tests && sleeps), "{}:{}: a sleep in {function}", file.path, index + 1);
        }
    }
}

fn is_wait(function: &str) -> bool {
    function.starts_with("wait_") || function == "eventually"
}

#[test]
fn decisions_know_no_clock_no_socket_and_no_serde() {
    for file in sources() {
        if !PURE_FOLDERS.iter().any(|folder| file.path.starts_with(folder)) {
            continue;
        }
        let code = file.code.split("#[cfg(test)]").next().expect("split gives one part");
        for word in IMPURE {
            assert!(!code.contains(word), "{} knows {word}", file.path);
        }
    }
    for file in sources().iter().filter(|file| file.path.starts_with("broker/src/core")) {
        assert!(!file.code.contains("crate::io"), "{}: core and io never meet", file.path);
    }
}

#[test]
fn the_architecture_page_is_short_and_its_invariants_are_asserted_and_tested() {
    let page = read("ARCHITECTURE.md");
    let lines = page.lines().count();
    assert!(lines < ARCHITECTURE_LINES_MAX, "ARCHITECTURE.md has {lines} lines");
    let names = named_invariants(&page);
    assert!(names.len() >= 5, "the table of named invariants was not found: {names:?}");
    let oracles = read("tests/src/sim/oracles.rs");
    let sources = sources();
    for name in names {
        assert!(oracles.contains(&name), "no oracle in tests/src/sim/oracles.rs names {name}");
        let asserted = sources.iter().any(|file| {
            let product = !file.path.starts_with("tests/") && file.path.contains("/src/");
            product && file.strings.iter().any(|text| text.contains(&name))
        });
        assert!(asserted, "no assert in the product names {name}");
    }
}

#[test]
fn the_architecture_page_names_files_that_exist() {
    let page = read("ARCHITECTURE.md");
    let root = root();
    let all: Vec<String> = sources().into_iter().map(|file| file.path).collect();
    for word in page.split('`').skip(1).step_by(2) {
        let is_file = word.ends_with(".rs") && !word.contains([' ', '*']);
        let is_folder = word.ends_with('/') && word.contains("src/");
        if is_file {
            let suffix = format!("/{word}");
            let found = root.join(word).exists() || all.iter().any(|path| path.ends_with(&suffix));
            assert!(found, "ARCHITECTURE.md names {word}, which does not exist");
        } else if is_folder {
            assert!(root.join(word).is_dir(), "ARCHITECTURE.md names {word}, which does not exist");
        }
    }
}

/// One Rust file of the project.
struct Source {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
    /// The text with comments and the insides of strings blanked out; same lines.
    code: String,
    /// The string literals.
    strings: Vec<String>,
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    for folder in ["codec", "broker", "kvstore", "control-plane", "tuning", "benches", "tests"] {
        rust_files(&root.join(folder), &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 20, "the sources were not found");
    let load = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source file is readable");
        let (code, strings) = blank(&text);
        let path = path.strip_prefix(&root).expect("under the root").to_string_lossy().into_owned();
        Source { path, text, code, strings }
    };
    paths.into_iter().map(load).collect()
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder is readable") {
        let path = entry.expect("a folder entry is readable").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                rust_files(&path, out);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Blanks comments and strings, and returns the strings.
fn blank(text: &str) -> (String, Vec<String>) {
    let mut code = String::with_capacity(text.len());
    let mut strings = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (length, literal) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), false)
        } else if let Some(hashes) = raw_string(rest) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            let end = rest[open..].find(&close).map_or(rest.len(), |at| open + at + close.len());
            (end, true)
        } else if c == '"' {
            (quoted(rest), true)
        } else if let Some(length) = character(rest) {
            (length, false)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        if literal {
            strings.push(rest[..length].to_owned());
        }
        code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    (code, strings)
}

/// How many `#` a raw string at the start of `text` has.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.bytes().take_while(|&b| b == b'#').count();
    let is_byte_string = text.starts_with('b');
    (after[hashes..].starts_with('"') && !is_byte_string).then_some(hashes)
}

/// The length of the string literal at the start of `text`.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character literal at the start of `text`, if one is there.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.strip_prefix('\'')?.char_indices();
    match chars.next()?.1 {
        '\\' => text[3..].find('\'').map(|end| 3 + end + 1),
        _ => chars.next().filter(|&(_, c)| c == '\'').map(|(index, _)| 1 + index + 1),
    }
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

fn function_name(line: &str) -> Option<&str> {
    let after = &line[line.find("fn ")? + 3..];
    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    (end > 0).then(|| &after[..end])
}

/// Whether the comment above the statement of line `index` has a SAFETY line.
fn says_why_it_is_safe(lines: &[&str], index: usize) -> bool {
    let statement_ends = |line: &str| line.is_empty() || line.ends_with([';', '{', '}', ',']);
    let above = lines[..index].iter().rev().map(|line| line.trim());
    above
        .skip_while(|line| !line.starts_with("//") && !statement_ends(line))
        .take_while(|line| line.starts_with("//"))
        .any(|line| line.starts_with("// SAFETY:"))
}

fn is_crate_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        [_, "src", "lib.rs" | "main.rs"] | [_, "src", "bin", _] => true,
        [_, "tests", file] => file.ends_with(".rs"),
        _ => false,
    }
}

/// The names in these sections of a manifest.
fn direct_dependencies(krate: &str, sections: &[&str]) -> BTreeSet<String> {
    let manifest: toml::Table =
        read(&format!("{krate}/Cargo.toml")).parse().expect("a manifest is TOML");
    let tables = sections.iter().filter_map(|&section| manifest.get(section)?.as_table());
    tables.flat_map(|table| table.keys().cloned()).collect()
}

/// Package name to the names of what it depends on, as locked.
fn locked_dependencies() -> BTreeMap<String, Vec<String>> {
    let lock: toml::Table = read("Cargo.lock").parse().expect("the lock file is TOML");
    let packages = lock["package"].as_array().expect("packages are a list");
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().expect("a package has a name").to_owned();
        let dependencies = package.get("dependencies").and_then(toml::Value::as_array);
        // An entry is a name, or a name and a version where there are several.
        let names = dependencies.into_iter().flatten().filter_map(|entry| {
            entry.as_str().and_then(|entry| entry.split(' ').next()).map(str::to_owned)
        });
        all.entry(name).or_default().extend(names);
    }
    all
}

fn reach(all: &BTreeMap<String, Vec<String>>, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        let dependencies = all.get(&name).unwrap_or_else(|| panic!("{name} is not locked"));
        for dependency in dependencies {
            if reached.insert(dependency.clone()) {
                open.push(dependency.clone());
            }
        }
    }
    reached
}

/// The first column of the table under "Named invariants".
fn named_invariants(page: &str) -> Vec<String> {
    page.lines()
        .skip_while(|line| *line != "## Named invariants")
        .take_while(|line| !line.starts_with("## ") || *line == "## Named invariants")
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn blanking_keeps_code_and_lines() {
    let text = "let a = \"un\\\"safe\"; // unsafe\nlet b = 'x'; fn f<'a>() {} r#\"un\"safe\"# c";
    let (code, strings) = blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.lines().count(), 2);
    assert!(!has_word(&code, "unsafe") && code.contains("fn f<'a>() {}") && code.ends_with(" c"));
    assert_eq!(strings, ["\"un\\\"safe\"", "r#\"un\"safe\"#"]);
}
