//! What a journal says after runs that were refused, killed, or made beside each other, and after
//! restarts: what is restored is what hawser left, and nothing of anybody else's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use hawser_tuning::apply::{ApplyError, apply};
use hawser_tuning::goal::{Goal, Profile};
use hawser_tuning::journal::{self, Journal, JournalError};
use hawser_tuning::place::Place;
use hawser_tuning::plan::{Choice, Plan};
use hawser_tuning::rollback::{Fate, rollback};

mod machines;

const BOOT: &str = "proc/sys/kernel/random/boot_id";
const SOMAXCONN: &str = "net.core.somaxconn";
const DROP_IN: &str = "etc/systemd/system/hawser-broker.service.d";

fn plan(tree: &machines::Tree, connections: u64) -> Plan {
    let goal = Goal { connections, profile: Profile::Mobile };
    Plan::make(&tree.host(), &tree.machine(), goal, &Choice::default()).unwrap()
}

/// The same with one that is refused when it comes to writing, after so many others.
fn refused_after(tree: &machines::Tree, mut plan: Plan, count: usize) -> Plan {
    let mut bad = plan.changes[0].clone();
    (bad.place, bad.wanted) = (Place::Coalescing("eth0".to_owned()), "nonsense".to_owned());
    bad.current = bad.place.read(&tree.host());
    plan.changes.insert(count, bad);
    plan
}

/// All files of a machine but the journal.
fn files(tree: &machines::Tree) -> BTreeMap<String, Option<String>> {
    let mut find = Command::new("find");
    find.arg(tree.path()).args(["-path", "*/var", "-prune", "-o", "-print"]);
    let output = find.output().unwrap();
    let paths = String::from_utf8(output.stdout).unwrap();
    paths.lines().map(|path| (path.to_owned(), fs::read_to_string(path).ok())).collect()
}

fn count(fates: &[(Place, Fate)], is: impl Fn(&Fate) -> bool) -> usize {
    fates.iter().filter(|(_, fate)| is(fate)).count()
}

fn somaxconn(tree: &machines::Tree) -> String {
    tree.host().text("proc/sys/net/core/somaxconn").unwrap()
}

/// The journal as it is when apply is killed after so many of its places were noted as done.
fn cut_after(tree: &machines::Tree, done: usize) {
    let text = tree.host().raw(journal::PATH).unwrap();
    let (mut seen, mut kept) = (0, String::new());
    for line in text.lines() {
        seen += usize::from(line.starts_with("{\"done\""));
        if seen > done {
            break;
        }
        kept.push_str(&format!("{line}\n"));
    }
    tree.host().write_file(journal::PATH, &kept).unwrap();
}

#[test]
fn a_second_goal_that_is_refused_leaves_the_first_to_be_undone() {
    for written in 0..5 {
        let tree = machines::small_vm();
        let (host, machine) = (tree.host(), tree.machine());
        let before = files(&tree);
        apply(&host, &machine, &plan(&tree, 100_000), false).unwrap();
        let first = files(&tree);
        let error =
            apply(&host, &machine, &refused_after(&tree, plan(&tree, 1_000_000), written), false);
        assert!(matches!(error, Err(ApplyError::Refused { .. })), "{error:?}");
        assert_eq!(files(&tree), first, "the first goal holds");
        let fates = rollback(&host, &machine, false).unwrap();
        assert_eq!(count(&fates, |fate| matches!(fate, Fate::Theirs(_))), 0, "{fates:?}");
        assert_eq!(files(&tree), before);
    }
}

#[test]
fn what_a_former_boot_applied_is_not_taken_for_this_ones() {
    let tree = machines::small_vm();
    let host = tree.host();
    apply(&host, &tree.machine(), &plan(&tree, 1_000_000), false).unwrap();
    let ours = somaxconn(&tree);
    // Restarted, and now a file of the operator's has the same value.
    tree.put(BOOT, "99999999-2222-3333-4444-555555555555");
    let mut other = refused_after(&tree, plan(&tree, 1_500_000), 0);
    let refused = other.changes.remove(0);
    other.changes.retain(|change| change.place == Place::sysctl("net.ipv4.tcp_max_syn_backlog"));
    assert_eq!(apply(&host, &tree.machine(), &other, false).unwrap().len(), 1);
    other.changes = vec![refused];
    apply(&host, &tree.machine(), &other, false).unwrap_err();
    let fates = rollback(&host, &tree.machine(), false).unwrap();
    assert!(count(&fates, |fate| matches!(fate, Fate::GoneWithReboot)) > 5, "{fates:?}");
    assert_eq!(somaxconn(&tree), ours);
}

#[test]
fn what_a_killed_run_never_wrote_is_somebody_elses() {
    let tree = machines::small_vm();
    let (host, machine) = (tree.host(), tree.machine());
    apply(&host, &machine, &plan(&tree, 1_000_000), false).unwrap();
    // Killed before it came to somaxconn, which somebody then set.
    let place = Place::sysctl(SOMAXCONN);
    let entries = Journal::read(&host, &machine).unwrap().entries().to_vec();
    let index = entries.iter().position(|entry| entry.place == place).unwrap();
    cut_after(&tree, index - 1);
    for entry in &entries[index..] {
        entry.place.write(&host, entry.before.as_deref().unwrap_or("")).unwrap();
    }
    tree.sysctl(SOMAXCONN, "1234");
    for _ in 0..2 {
        rollback(&host, &machine, false).unwrap();
        assert_eq!(somaxconn(&tree), "1234");
        assert!(!host.has(journal::PATH), "nothing of ours is left");
    }
}

#[test]
fn what_is_left_to_somebody_else_stays_left() {
    let tree = machines::small_vm();
    let (host, machine) = (tree.host(), tree.machine());
    apply(&host, &machine, &plan(&tree, 100_000), false).unwrap();
    // A larger goal, killed before its first write; then somebody sets one of its values.
    apply(&host, &machine, &plan(&tree, 1_000_000), false).unwrap();
    let entry = Journal::read(&host, &machine).unwrap().entry(&Place::sysctl(SOMAXCONN)).cloned();
    assert_eq!(entry.unwrap().earlier.as_deref(), Some("6250"));
    let lines = host.raw(journal::PATH).unwrap();
    let second = lines.rfind("{\"intent\"").unwrap();
    let end = second + lines[second..].find('\n').unwrap() + 1;
    host.write_file(journal::PATH, &lines[..end]).unwrap();
    tree.sysctl(SOMAXCONN, "1234");
    for round in 0..3 {
        let fates = rollback(&host, &machine, false).unwrap();
        let theirs = count(&fates, |fate| matches!(fate, Fate::Theirs(_)));
        assert!(theirs >= 1, "round {round}: {fates:?}");
        assert_eq!(somaxconn(&tree), "1234", "round {round}");
    }
    rollback(&host, &machine, true).unwrap();
    assert_eq!(somaxconn(&tree), "4096");
}

/// Each was writing a value of which the kernel made another when it was killed.
#[test]
fn two_killed_runs_have_a_place_each_that_was_being_written() {
    let tree = machines::small_vm();
    let (host, machine) = (tree.host(), tree.machine());
    let before = files(&tree);
    let backlog = Place::sysctl("net.ipv4.tcp_max_syn_backlog");
    for (place, rounded) in [(Place::sysctl(SOMAXCONN), "62501"), (backlog, "250001")] {
        let mut one = plan(&tree, 1_000_000);
        one.changes.retain(|change| change.place == place);
        let change = one.changes.remove(0);
        let journal = Journal::read(&host, &machine).unwrap().settled(&host);
        let intent = (change.place, change.current, change.wanted);
        journal.intend(&host, &machine, &[intent]).unwrap();
        place.write(&host, rounded).unwrap();
    }
    let fates = rollback(&host, &machine, false).unwrap();
    assert_eq!(count(&fates, |fate| matches!(fate, Fate::Restored { .. })), 2, "{fates:?}");
    assert_eq!(files(&tree), before);
}

#[test]
fn what_a_killed_run_left_beside_its_file_goes_with_it() {
    for made in [false, true] {
        let tree = machines::small_vm();
        let (host, machine) = (tree.host(), tree.machine());
        let before = files(&tree);
        let mut one = plan(&tree, 1_000_000);
        one.changes.retain(|change| matches!(change.place, Place::File(_)));
        apply(&host, &machine, &one, false).unwrap();
        cut_after(&tree, 0);
        let file = tree.path().join(DROP_IN).join("50-hawser-tune.conf");
        fs::write(file.with_extension("hawser-new"), "[Serv").unwrap();
        if !made {
            fs::remove_file(&file).unwrap();
        }
        rollback(&host, &machine, false).unwrap();
        assert_eq!(files(&tree), before, "renamed {made}");
    }
}

#[test]
fn what_has_vanished_is_told_and_forgotten() {
    for forces in [false, true] {
        let tree = machines::two_sockets();
        let (host, machine) = (tree.host(), tree.machine());
        let before = files(&tree);
        apply(&host, &machine, &plan(&tree, 1_000_000), false).unwrap();
        // A card is taken out: its folder, its interrupts, what netlink says of it.
        let gone = |path: &str| {
            ["class/net/ens2f0", "ethtool/ens2f0", "queueing/ens2f0", "proc/irq/2"]
                .iter()
                .any(|part| path.contains(part))
        };
        for path in ["sys/class/net/ens2f0", "ethtool/ens2f0"] {
            fs::remove_dir_all(tree.path().join(path)).unwrap();
        }
        fs::remove_file(tree.path().join("queueing/ens2f0")).unwrap();
        for number in 200..232 {
            fs::remove_dir_all(tree.path().join(format!("proc/irq/{number}"))).unwrap();
        }
        let fates = rollback(&host, &machine, forces).unwrap();
        let vanished = count(&fates, |fate| matches!(fate, Fate::Vanished));
        assert_eq!(vanished, 32 + 32 + 1, "interrupts, XPS and the discipline: {fates:?}");
        let expect: BTreeMap<_, _> = before.into_iter().filter(|(path, _)| !gone(path)).collect();
        assert_eq!(files(&tree), expect);
        assert!(!host.has(journal::PATH));
    }
}

/// Its interrupts and what belongs to its queues are others afterwards, so they are planned after that.
#[test]
fn a_card_has_its_queues_before_anything_else_is_written_and_gives_them_back_first() {
    let tree = machines::tracked_and_balanced();
    let (root, before) = (tree.path().to_str().unwrap(), files(&tree));
    let apply = || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_hawser-tune"));
        program.args(["--root", root, "apply", "--connections", "1000000"]).output().unwrap()
    };
    // A file where the drop-in's folder has to be: what comes after the queues is refused.
    tree.put(DROP_IN, "in the way");
    let in_the_way = files(&tree);
    let told = String::from_utf8(apply().stderr).unwrap();
    assert!(told.contains("what was applied before it was undone; leave it out"), "{told}");
    assert_eq!(files(&tree), in_the_way, "the queues are as they were");
    assert!(!tree.host().has(journal::PATH));
    fs::remove_file(tree.path().join(DROP_IN)).unwrap();
    assert!(apply().status.success());
    let journal = tree.host().raw(journal::PATH).unwrap();
    let lines: Vec<&str> = journal.lines().skip(2).collect();
    assert!(lines[0].starts_with("{\"intent\"") && lines[0].contains("channels:eth0"), "{journal}");
    assert!(lines[1].starts_with("{\"done\"") && lines[1].contains("channels:eth0"), "{journal}");
    let fates = rollback(&tree.host(), &tree.machine(), false).unwrap();
    assert_eq!(fates[0].0, Place::Channels("eth0".to_owned()));
    assert_eq!(files(&tree), before);
}

#[test]
fn a_damaged_line_is_named_and_a_torn_one_is_dropped() {
    let tree = machines::small_vm();
    let (host, machine, before) = (tree.host(), tree.machine(), files(&tree));
    apply(&host, &machine, &plan(&tree, 1_000_000), false).unwrap();
    let whole = fs::read(host.path(journal::PATH)).unwrap();
    let check = |damage: &dyn Fn(&mut Vec<u8>), expect: Option<usize>| {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(host.path(journal::PATH), &bytes).unwrap();
        let line = match Journal::read(&host, &machine) {
            Err(JournalError::NotUnderstood { line, .. }) => Some(line),
            Err(error) => panic!("{error}"),
            Ok(_) => None,
        };
        assert_eq!(line, expect);
    };
    let third = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0 + 1;
    check(&|bytes| bytes[third] = 0xff, Some(3));
    check(&|bytes| bytes[third] = 0, Some(3));
    check(&|bytes| bytes.insert(third, b'\n'), Some(3));
    // A power cut can leave anything behind the last line that was synced.
    check(&|bytes| bytes.extend([0xff, 0, b'{']), None);
    check(&|bytes| bytes.clear(), None);
    check(&|bytes| bytes.truncate(5), None);
    check(&|bytes| bytes.extend([0; 4096]), None);
    rollback(&host, &machine, false).unwrap();
    assert_eq!(files(&tree), before);
}

#[test]
fn an_answer_that_cannot_be_written_does_not_say_that_nothing_was_done() {
    let tree = machines::small_vm();
    let mut program = Command::new(env!("CARGO_BIN_EXE_hawser-tune"));
    program.args(["--root", tree.path().to_str().unwrap(), "apply", "--connections", "1000000"]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = program.stdout(full).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("what was asked for is done, but the answer cannot be written"),
        "{told}"
    );
    assert_eq!(somaxconn(&tree), "62500");
}

/// Between the passes too, and while its file is made.
#[test]
fn killed_at_random_with_cards_and_files_it_is_undone() {
    let tree = machines::tracked_and_balanced();
    let (root, before) = (tree.path().to_str().unwrap(), files(&tree));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut killed, mut midway) = (0, 0);
    for attempt in 0..5_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut program = Command::new(env!("CARGO_BIN_EXE_hawser-tune"));
        program.args(["--root", root, "apply", "--connections", "1000000"]);
        let mut apply = program.stdout(std::process::Stdio::null()).spawn().unwrap();
        let journal = tree.path().join(journal::PATH);
        while !journal.exists() && apply.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        let (start, delay) = (Instant::now(), Duration::from_micros(random % 30_000));
        while start.elapsed() < delay {
            std::hint::spin_loop();
        }
        apply.kill().unwrap();
        killed += u32::from(!apply.wait().unwrap().success());
        midway += u32::from(files(&tree) != before);
        let fates = rollback(&tree.host(), &tree.machine(), false).unwrap();
        assert_eq!(count(&fates, |fate| matches!(fate, Fate::Theirs(_))), 0, "{attempt} {fates:?}");
        assert_eq!(files(&tree), before, "attempt {attempt}");
        if killed == 50 {
            break;
        }
    }
    assert!(killed == 50 && midway > 10, "{killed} kills, {midway} with values changed");
}

/// It is obeyed with the rights of root.
#[test]
fn a_journal_that_others_can_write_is_refused() {
    let tree = machines::small_vm();
    let (host, machine) = (tree.host(), tree.machine());
    apply(&host, &machine, &plan(&tree, 1_000_000), false).unwrap();
    let path = host.path(journal::PATH);
    let is_refused =
        || matches!(Journal::read(&host, &machine), Err(JournalError::NotTrusted { .. }));
    for (mode, refused) in [(0o644, false), (0o600, false), (0o664, true), (0o646, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(is_refused(), refused, "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    rollback(&host, &machine, false).unwrap();
}

#[test]
fn a_larger_goal_is_undone_like_the_first_on_all_machines() {
    for (name, tree) in machines::all() {
        let (host, machine, before) = (tree.host(), tree.machine(), files(&tree));
        for connections in [100_000, 1_000_000] {
            apply(&host, &machine, &plan(&tree, connections), false).unwrap();
        }
        rollback(&host, &machine, false).unwrap();
        assert_eq!(files(&tree), before, "{name}");
    }
}

/// Whoever comes second has the first one's values as they were before, not in between.
#[test]
fn two_at_once_are_undone_like_one() {
    for _ in 0..20 {
        let tree = machines::small_vm();
        let root = tree.path().to_str().unwrap();
        let before = files(&tree);
        let start = |connections: &str| {
            let mut program = Command::new(env!("CARGO_BIN_EXE_hawser-tune"));
            program.args(["--root", root, "apply", "--connections", connections]);
            program.stdout(std::process::Stdio::null()).spawn().unwrap()
        };
        let runs = ["900000", "1000000", "800000"].map(start);
        for mut run in runs {
            assert!(run.wait().unwrap().success());
        }
        assert_eq!(somaxconn(&tree), "62500");
        let fates = rollback(&tree.host(), &tree.machine(), false).unwrap();
        assert_eq!(count(&fates, |fate| matches!(fate, Fate::Theirs(_))), 0, "{fates:?}");
        assert_eq!(files(&tree), before);
    }
}

/// As `watch` writes it for months.
#[test]
fn a_journal_of_many_moves_stays_short_and_remembers_the_first_place() {
    let tree = machines::old_kernel();
    let (host, machine) = (tree.host(), tree.machine());
    let before = files(&tree);
    let mut longest = 0;
    for round in 0..700u32 {
        let place = Place::Value(hawser_tuning::interrupt::affinity_path(80 + round % 2));
        let journal = Journal::read(&host, &machine).unwrap().settled(&host);
        let wanted = (round % 7).to_string();
        let intent = (place.clone(), place.read(&host), wanted.clone());
        journal.intend(&host, &machine, &[intent]).unwrap();
        place.write(&host, &wanted).unwrap();
        Journal::done(&host, &place, place.read(&host)).unwrap();
        longest = longest.max(host.raw(journal::PATH).unwrap().lines().count());
    }
    // 256 lines and 8 for each of two places, then the two that are appended.
    assert!((256..=274).contains(&longest), "{longest}");
    rollback(&host, &machine, false).unwrap();
    assert_eq!(files(&tree), before);
}
