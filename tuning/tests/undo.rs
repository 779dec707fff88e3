//! What is applied is undone exactly: on trees of files at every point where a program can be killed,
//! and on the running kernel in a network namespace, killed a hundred times.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hawser_tuning::apply::{ApplyError, apply};
use hawser_tuning::goal::{Goal, Profile};
use hawser_tuning::journal::{self, Journal, JournalError};
use hawser_tuning::plan::{Choice, Plan};
use hawser_tuning::rollback::{Fate, RollbackError, rollback};

mod machines;

const GOAL: Goal = Goal { connections: 1_000_000, profile: Profile::Mobile };

fn plan(tree: &machines::Tree) -> Plan {
    Plan::make(&tree.host(), &tree.machine(), GOAL, &Choice::default()).unwrap()
}

/// All files below a folder, without hawser's own.
fn snapshot(folder: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.ends_with("var") {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if let Ok(content) = fs::read_to_string(&path) {
                all.insert(path.to_string_lossy().into_owned(), content);
            }
        }
    }
    all
}

/// Says which files differ and how.
fn assert_same(is: &BTreeMap<String, String>, expect: &BTreeMap<String, String>, when: &str) {
    let paths = is.keys().chain(expect.keys());
    let differs = paths.filter(|path| is.get(*path) != expect.get(*path));
    let shown: Vec<_> = differs.map(|path| (path, is.get(path), expect.get(path))).collect();
    assert!(shown.is_empty(), "{when}: {shown:?}");
}

#[test]
fn apply_is_idempotent_and_rollback_exact_on_all_machines() {
    for (name, tree) in machines::all() {
        let (host, before) = (tree.host(), snapshot(tree.path()));
        let written = apply(&host, &tree.machine(), &plan(&tree), false).unwrap();
        assert!(written.len() > 5 && written.iter().all(|value| !value.is_rounded()), "{name}");
        assert_ne!(snapshot(tree.path()), before, "{name}");
        assert!(plan(&tree).changes.is_empty(), "{name}: the plan is empty after it was applied");
        let fates = rollback(&host, &tree.machine(), false).unwrap();
        assert_eq!(fates.len(), written.len(), "{name}");
        assert_same(&snapshot(tree.path()), &before, name);
        assert!(!host.has(journal::PATH), "{name}: the journal ends with its last entry");
    }
}

/// Killed after any write, before or after it was noted, with a torn line or without.
#[test]
fn a_kill_at_any_point_is_undone() {
    let tree = machines::old_kernel();
    let (host, before) = (tree.host(), snapshot(tree.path()));
    let changes = plan(&tree).changes;
    apply(&host, &tree.machine(), &plan(&tree), false).unwrap();
    let lines: Vec<String> = host.raw(journal::PATH).unwrap().lines().map(str::to_owned).collect();
    rollback(&host, &tree.machine(), false).unwrap();
    let heads = lines.len() - changes.len();
    for written in 0..=changes.len() {
        for (noted, torn) in [(written, ""), (written.saturating_sub(1), ""), (written, "{\"do")] {
            for change in &changes[..written] {
                change.place.write(&host, &change.wanted).unwrap();
            }
            let text = format!("{}\n{torn}", lines[..heads + noted].join("\n"));
            host.write_file(journal::PATH, &text).unwrap();
            rollback(&host, &tree.machine(), false).unwrap();
            let when = format!("{written} written, {noted} noted, torn {torn:?}");
            assert_same(&snapshot(tree.path()), &before, &when);
        }
    }
}

#[test]
fn somebody_elses_change_is_shown_three_ways_and_left() {
    let tree = machines::small_vm();
    let (host, machine) = (tree.host(), tree.machine());
    apply(&host, &machine, &plan(&tree), false).unwrap();
    tree.sysctl("net.core.somaxconn", "1234");
    let error = apply(&host, &machine, &plan(&tree), false).unwrap_err();
    let ApplyError::ChangedSince(ways) = error else { panic!("{error}") };
    let ways: Vec<_> = ways.iter().map(|w| (&w.before[..], &w.ours[..], &w.now[..])).collect();
    assert_eq!(ways, [("4096", "62500", "1234")]);
    let fates = rollback(&host, &machine, false).unwrap();
    let theirs = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Theirs(_))).count();
    assert_eq!((theirs, host.text("proc/sys/net/core/somaxconn").as_deref()), (1, Some("1234")));
    assert_eq!(Journal::read(&host, &machine).unwrap().entries().len(), 1);
    rollback(&host, &machine, true).unwrap();
    assert_eq!(host.text("proc/sys/net/core/somaxconn").as_deref(), Some("4096"));
    assert!(!host.has(journal::PATH));
}

#[test]
fn what_one_run_after_another_changed_goes_back_to_the_first() {
    let tree = machines::small_vm();
    let (host, before) = (tree.host(), snapshot(tree.path()));
    for connections in [10_000, 200_000, 1_000_000] {
        let goal = Goal { connections, ..GOAL };
        let plan = Plan::make(&host, &tree.machine(), goal, &Choice::default()).unwrap();
        apply(&host, &tree.machine(), &plan, false).unwrap();
    }
    rollback(&host, &tree.machine(), false).unwrap();
    assert_same(&snapshot(tree.path()), &before, "rolled back");
}

#[test]
fn a_reboot_undoes_the_running_values_and_rollback_the_files() {
    let tree = machines::small_vm();
    let (host, before) = (tree.host(), snapshot(tree.path()));
    apply(&host, &tree.machine(), &plan(&tree), false).unwrap();
    // The machine comes up with its own values, one of them another than last time.
    for (path, content) in &before {
        fs::write(path, content).unwrap();
    }
    tree.sysctl("net.core.somaxconn", "128");
    tree.put("proc/sys/kernel/random/boot_id", "99999999-2222-3333-4444-555555555555");
    let restarted = snapshot(tree.path());
    let fates = rollback(&host, &tree.machine(), false).unwrap();
    let gone = fates.iter().filter(|(_, fate)| matches!(fate, Fate::GoneWithReboot)).count();
    assert_eq!(gone, 1, "the value that differs now was not ours to restore");
    let drop_in = "hawser-broker.service.d";
    assert!(restarted.keys().any(|path| path.contains(drop_in)));
    let is = snapshot(tree.path());
    let expect: BTreeMap<_, _> =
        restarted.into_iter().filter(|(path, _)| !path.contains(drop_in)).collect();
    assert_same(&is, &expect, "restarted and rolled back");
}

#[test]
fn a_journal_of_another_machine_or_of_the_future_is_refused() {
    let check = |change: &dyn Fn(&machines::Tree), expect: &str| {
        let tree = machines::small_vm();
        apply(&tree.host(), &tree.machine(), &plan(&tree), false).unwrap();
        change(&tree);
        let before = snapshot(tree.path());
        let error = rollback(&tree.host(), &tree.machine(), false).unwrap_err();
        let RollbackError::Journal(error) = error else { panic!("{error}") };
        assert!(error.to_string().contains(expect), "{error}");
        let error = apply(&tree.host(), &tree.machine(), &plan(&tree), false).unwrap_err();
        assert!(matches!(error, ApplyError::Journal(_)), "{error}");
        assert_same(&snapshot(tree.path()), &before, expect);
    };
    check(&|tree| tree.put("etc/machine-id", "another"), "another machine");
    let journal = |tree: &machines::Tree, from: &str, to: &str| {
        let text = tree.host().raw(journal::PATH).unwrap();
        assert!(text.contains(from));
        tree.host().write_file(journal::PATH, &text.replacen(from, to, 1)).unwrap();
    };
    check(&|tree| journal(tree, "\"version\":1", "\"version\":9"), "newer");
    check(&|tree| journal(tree, "{\"intent\"", "{\"intend\""), "line 3");
    let (theirs, ours) = ("net:[1]".to_owned(), "net:[2]".to_owned());
    let other = JournalError::OtherNamespace { theirs, ours };
    assert!(other.to_string().contains("net:[1]"));
}

/// A value that cannot be written is found before anything is; one that is refused undoes the rest.
#[test]
fn a_refusal_leaves_nothing_half_done() {
    let tree = machines::small_vm();
    let (host, before) = (tree.host(), snapshot(tree.path()));
    let mut bad = plan(&tree);
    // A file where the drop-in's folder has to be: known only when it is made.
    tree.put("etc/systemd/system/hawser-broker.service.d", "in the way");
    let in_the_way = snapshot(tree.path());
    bad.changes.rotate_left(1);
    let error = apply(&host, &tree.machine(), &bad, false).unwrap_err();
    assert!(matches!(error, ApplyError::Refused { .. }), "{error}");
    assert_same(&snapshot(tree.path()), &in_the_way, "refused");
    assert!(!host.has(journal::PATH));
    // A place that is not there when it comes to writing.
    let whole = plan(&tree);
    fs::remove_file(host.path("proc/sys/net/core/somaxconn")).unwrap();
    let error = apply(&host, &tree.machine(), &whole, false).unwrap_err();
    assert!(matches!(error, ApplyError::NotWritable(_)), "{error}");
    let mut now = snapshot(tree.path());
    for (path, content) in &before {
        now.entry(path.clone()).or_insert_with(|| content.clone());
    }
    now.retain(|path, _| !path.ends_with("service.d"));
    assert_same(&now, &before, "not writable");
    assert!(!host.has(journal::PATH));
}

const KILLS: u32 = 100;
const IN_NAMESPACE: &str = "HAWSER_TEST_IN_NAMESPACE";
const TEST: &str = "killed_a_hundred_times_on_the_running_kernel";

/// Families whose values belong to the network namespace, so that the host keeps its own.
const ARGUMENTS: [&str; 17] = [
    "apply",
    "--connections",
    "1000000",
    "--only",
    "accept",
    "--only",
    "rto",
    "--only",
    "memory",
    "--only",
    "ports",
    "--only",
    "hashes",
    "--only",
    "congestion",
    "--only",
    "keepalive",
];

/// Runs itself once more in a network and mount namespace of its own, which end with it.
#[test]
fn killed_a_hundred_times_on_the_running_kernel() {
    if std::env::var_os(IN_NAMESPACE).is_some() {
        return in_namespace();
    }
    let status = Command::new("unshare")
        .args(["--map-root-user", "--net", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs none /var/lib && ip link set lo up && exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(IN_NAMESPACE, "1")
        .status()
        .expect("util-linux has unshare");
    assert!(status.success());
}

fn in_namespace() {
    let settings = Path::new("/proc/sys/net");
    let before = snapshot(settings);
    assert!(tune(&ARGUMENTS).success());
    assert_ne!(snapshot(settings), before);
    assert!(tune(&["verify", "--seconds", "0"]).success(), "the self-test sees the timeout");
    assert!(tune(&["rollback"]).success());
    assert_same(&snapshot(settings), &before, "rolled back");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut killed, mut midway, mut attempts) = (0, 0, 0);
    while killed < KILLS {
        attempts += 1;
        assert!(attempts < 50 * KILLS, "killed only {killed} times before it was done");
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let differs = kill_after_journal(Duration::from_micros(random % 300));
        if let Some(differs) = differs {
            killed += 1;
            midway += u32::from(differs && snapshot(settings) != before);
        }
        assert!(tune(&["rollback"]).success());
        assert_same(&snapshot(settings), &before, &format!("attempt {attempts}"));
    }
    println!("{killed} kills in {attempts} attempts, {midway} of them with values changed");
}

/// Kills `apply` so long after its journal appeared. `None` if it had ended by then, else whether the
/// journal was there.
fn kill_after_journal(delay: Duration) -> Option<bool> {
    let journal = Path::new("/").join(journal::PATH);
    let mut child = Command::new(env!("CARGO_BIN_EXE_hawser-tune"))
        .args(ARGUMENTS)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !journal.exists() && child.try_wait().unwrap().is_none() {
        std::hint::spin_loop();
    }
    let start = Instant::now();
    while start.elapsed() < delay {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    (!status.success()).then(|| journal.exists())
}

fn tune(arguments: &[&str]) -> std::process::ExitStatus {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-tune"));
    command.args(arguments).stdout(Stdio::null()).status().unwrap()
}
