//! What `export` writes does the same as the plan that it was made of, and no more.

use std::process::Command;

use hawser_tuning::goal::{Goal, Profile};
use hawser_tuning::plan::{Choice, Plan};

mod machines;

fn export(tree: &machines::Tree, arguments: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_hawser-tune"));
    program.args(["--root", tree.path().to_str().unwrap(), "export"]).args(arguments);
    let output = program.args(["--connections", "1000000"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_plans_anew_plans_the_same() {
    let tree = machines::amd_nps4();
    let choice = ["--only", "interrupts", "--except", "receive packet steering (RPS)"];
    let card = ["--nic", "enp65s0f0np0"];
    let whole = "hawser tune apply --connections 1000000 --profile mobile";
    let part = format!(
        "{whole} --only interrupts --except \"receive packet steering (RPS)\" --nic \"enp65s0f0np0\""
    );
    for (dialect, before) in [("systemd", "ExecStart="), ("ansible", "ansible.builtin.command: ")] {
        let line = |text: String| {
            let line = text.lines().find_map(|line| line.trim_start().strip_prefix(before));
            line.map(str::to_owned)
        };
        assert_eq!(line(export(&tree, &[dialect])).as_deref(), Some(whole));
        let arguments = [&[dialect][..], &choice, &card].concat();
        assert_eq!(line(export(&tree, &arguments)), Some(part.clone()), "{dialect}");
    }
    // What has a file of its own needs no command.
    let text = export(&tree, &["ansible", "--only", "accept"]);
    assert!(text.contains("ansible.posix.sysctl") && !text.contains("command"), "{text}");
}

/// The rule matches what the card is called in the end, which is the event that moves it or, where it
/// keeps its name, the one that adds it. `NAME` is empty in a rule unless another rule has set it.
#[test]
fn rules_match_a_card_by_the_name_that_it_has() {
    let tree = machines::old_kernel();
    tree.put("ethtool/eno1/combined", "4");
    tree.put("ethtool/eno1/coalescing", "adaptive-rx off rx-usecs 0");
    let text = export(&tree, &["udev"]);
    let event = "ACTION==\"add|move\", SUBSYSTEM==\"net\", KERNEL==\"eno1\", ";
    let channels = format!("{event}RUN+=\"/usr/sbin/ethtool -L eno1 combined 8\"\n");
    let coalescing = format!("{event}RUN+=\"/usr/sbin/ethtool -C eno1 adaptive-rx on\"\n");
    assert!(text.contains(&channels) && text.contains(&coalescing), "{text}");
    tree.put("ethtool/eno1/combined", "8");
    let text = export(&tree, &["udev"]);
    assert!(text.contains(&format!("{event}ATTR{{queues/tx-7/xps_cpus}}=\"80\"\n")), "{text}");
}

#[test]
fn a_name_that_means_something_in_a_rule_is_not_written_into_one() {
    let card = |name| machines::Card {
        name,
        node: 0,
        queues: 1,
        combined: 1,
        combined_max: 2,
        first_interrupt: 40,
        prefix: "a-TxRx-",
        coalescing: "adaptive-rx on",
        queueing: "fq",
    };
    for (name, is_plain) in
        [("lan-0_1.7", true), ("lan*", false), ("a\"b", false), ("$env{X}", false)]
    {
        let tree = machines::Tree::new("6.1.0", 8, 2).nodes(1, 8, None).card(&card(name)).done();
        let text = export(&tree, &["udev"]);
        assert_eq!(text.contains("KERNEL=="), is_plain, "{text}");
        assert_eq!(text.contains("# By hand: "), !is_plain, "{text}");
    }
}

#[test]
fn json_is_one_document_for_each_dialect_and_machine() {
    let goal = Goal { connections: 1_000_000, profile: Profile::Mobile };
    for (name, tree) in machines::all() {
        let plan = Plan::make(&tree.host(), &tree.machine(), goal, &Choice::default()).unwrap();
        for dialect in ["sysctl", "systemd", "udev", "ansible"] {
            let document: serde_json::Value =
                serde_json::from_str(&export(&tree, &["--json", dialect])).unwrap();
            assert_eq!(document["dialect"], dialect, "{name}");
            assert_eq!(document["text"], export(&tree, &[dialect]), "{name}");
            assert_eq!(document["changes"], plan.changes.len(), "{name}");
        }
    }
}
