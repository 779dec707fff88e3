//! A plan as files, for teams that apply things their own way, and for every boot.
//!
//! | format | what it holds | where it goes |
//! |---|---|---|
//! | sysctl | values of `/proc/sys` | `/etc/sysctl.d/90-hawser.conf` |
//! | systemd | the broker's limits, and a unit for what no other file can say | `/etc/systemd/system/` |
//! | udev | queues and steering, when a card appears or gets its name | `/etc/udev/rules.d/90-hawser.rules` |
//! | ansible | all of it as tasks | a role of yours |
//!
//! Numbers of interrupts differ from boot to boot, so no file but the unit, which plans anew, sets
//! them. What plans anew does so for the same families, settings and cards as the export.

use std::fmt::Write;

use crate::place::Place;
use crate::plan::{Choice, Plan};
use crate::setting::{Change, Kind};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    Sysctl,
    Systemd,
    Udev,
    Ansible,
}

/// The files of a plan that was made of this choice, for these cards or for all.
pub fn export(plan: &Plan, choice: &Choice, nics: &[String], dialect: Dialect) -> String {
    let apply = apply(plan, choice, nics);
    let mut text = format!(
        "# {} connections, profile {}: written by hawser tune export.\n",
        plan.goal.connections, plan.goal.profile
    );
    match dialect {
        Dialect::Sysctl => sysctl(plan, &mut text),
        Dialect::Systemd => systemd(plan, &apply, &mut text),
        Dialect::Udev => udev(plan, &mut text),
        Dialect::Ansible => ansible(plan, &apply, &mut text),
    }
    let reboot = plan.advice.iter().filter(|advice| advice.kind == Kind::Reboot);
    for advice in reboot {
        let _ = writeln!(text, "# By hand, with a reboot: {}", advice.text);
    }
    text
}

/// The command that plans the same anew, as systemd and shells read it.
fn apply(plan: &Plan, choice: &Choice, nics: &[String]) -> String {
    let mut words = format!(
        "hawser tune apply --connections {} --profile {}",
        plan.goal.connections, plan.goal.profile
    );
    for family in &choice.only {
        let _ = write!(words, " --only {family}");
    }
    for name in &choice.except {
        let _ = write!(words, " --except \"{name}\"");
    }
    for nic in nics {
        let _ = write!(words, " --nic \"{nic}\"");
    }
    words
}

/// Name and value of what is below /proc/sys.
fn sysctls(plan: &Plan) -> impl Iterator<Item = (&Change, String, String)> {
    plan.changes.iter().filter_map(|change| match &change.place {
        Place::Value(path) if path.starts_with("proc/sys/") => {
            let value = change.wanted.split_whitespace().collect::<Vec<_>>().join(" ");
            Some((change, change.place.name(), value))
        }
        _ => None,
    })
}

fn files(plan: &Plan) -> impl Iterator<Item = (&str, &str)> {
    plan.changes.iter().filter_map(|change| match &change.place {
        Place::File(path) => Some((path.as_str(), change.wanted.as_str())),
        _ => None,
    })
}

fn sysctl(plan: &Plan, text: &mut String) {
    for (change, name, value) in sysctls(plan) {
        let _ = writeln!(text, "\n# {}\n{name} = {value}", sentence(change.setting.why));
    }
}

fn systemd(plan: &Plan, apply: &str, text: &mut String) {
    for (path, content) in files(plan) {
        let _ = writeln!(text, "\n# /{path}\n{}", content.trim_end());
    }
    let _ = write!(
        text,
        "\n# /etc/systemd/system/hawser-tune.service\n\
         [Unit]\n\
         Description=Host settings for {connections} connections\n\
         Before=hawser-broker.service\n\
         After=network-online.target\n\
         Wants=network-online.target\n\n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart={apply}\n\
         ExecStop=hawser tune rollback\n\n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        connections = plan.goal.connections,
    );
}

/// Steering that was planned for the present queues is wrong once there are more of them: then the
/// unit, which plans twice, does it.
fn udev(plan: &Plan, text: &mut String) {
    let grows = |nic: &str| {
        let channels = Place::Channels(nic.to_owned());
        plan.changes.iter().any(|change| change.place == channels)
    };
    for change in &plan.changes {
        let (nic, action) = match &change.place {
            Place::Channels(nic) => {
                (nic.as_str(), run(&format!("-L {nic} combined {}", change.wanted)))
            }
            Place::Coalescing(nic) => (nic.as_str(), run(&format!("-C {nic} {}", change.wanted))),
            Place::Value(path) => match queue_attribute(path).filter(|(nic, _)| !grows(nic)) {
                Some((nic, attribute)) => {
                    (nic, format!("ATTR{{{attribute}}}=\"{}\"", change.wanted))
                }
                None => continue,
            },
            // A card that appears gets the default discipline, which is a sysctl.
            Place::File(_) | Place::RouteRto(_) | Place::Queueing(_) => continue,
        };
        if is_plain(nic) {
            // A card that is given another name has it with the event that moves it.
            let event = format!("ACTION==\"add|move\", SUBSYSTEM==\"net\", KERNEL==\"{nic}\"");
            let _ = writeln!(text, "{event}, {action}");
        } else {
            let place = change.place.name();
            let _ =
                writeln!(text, "# By hand: {place}, since a rule cannot have that name as it is.");
        }
    }
}

fn run(arguments: &str) -> String {
    format!("RUN+=\"/usr/sbin/ethtool {arguments}\"")
}

/// Whether a name means only itself in a rule, which knows patterns, substitutions and quotes.
fn is_plain(nic: &str) -> bool {
    nic.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A card and the attribute below it.
fn queue_attribute(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("sys/class/net/")?.split_once('/')
}

fn ansible(plan: &Plan, apply: &str, text: &mut String) {
    for (_, name, value) in sysctls(plan) {
        let _ = write!(
            text,
            "- name: {name}\n  ansible.posix.sysctl:\n    name: {name}\n    value: \"{value}\"\n    \
             sysctl_file: /etc/sysctl.d/90-hawser.conf\n"
        );
    }
    for (path, content) in files(plan) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let _ = write!(
            text,
            "- name: folder of {path}\n  ansible.builtin.file:\n    path: /{folder}\n    state: \
             directory\n- name: {path}\n  ansible.builtin.copy:\n    dest: /{path}\n    content: |\n"
        );
        for line in content.lines() {
            let _ = writeln!(text, "      {line}");
        }
    }
    if files(plan).next().is_some() {
        text.push_str(
            "- name: systemd reads its files again\n  ansible.builtin.systemd:\n    daemon_reload: true\n",
        );
    }
    let others = plan.changes.iter().any(|change| match &change.place {
        Place::Value(path) => !path.starts_with("proc/sys/"),
        Place::File(_) => false,
        _ => true,
    });
    if others {
        let _ = write!(
            text,
            "- name: what has no file of its own\n  ansible.builtin.command: {apply}\n  \
             register: hawser_tune\n  changed_when: \"'nothing to change' not in hawser_tune.stdout\"\n",
        );
    }
}

/// On one line.
fn sentence(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
