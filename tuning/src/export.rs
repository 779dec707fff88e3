//! A plan as files, for teams that apply things their own way, and for every boot.
//!
//! | format | what it holds | where it goes |
//! |---|---|---|
//! | sysctl | values of `/proc/sys` | `/etc/sysctl.d/90-hawser.conf` |
//! | systemd | the broker's limits, and a unit for what no other file can say | `/etc/systemd/system/` |
//! | udev | queues and steering, when a card appears | `/etc/udev/rules.d/90-hawser.rules` |
//! | ansible | all of it as tasks | a role of yours |
//!
//! Numbers of interrupts differ from boot to boot, so no file but the unit, which plans anew, sets
//! them.

use std::fmt::Write;

use crate::place::Place;
use crate::plan::Plan;
use crate::setting::{Change, Kind};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dialect {
    Sysctl,
    Systemd,
    Udev,
    Ansible,
}

pub fn export(plan: &Plan, dialect: Dialect) -> String {
    let mut text = format!(
        "# {} connections, profile {}: written by hawser tune export.\n",
        plan.goal.connections, plan.goal.profile
    );
    match dialect {
        Dialect::Sysctl => sysctl(plan, &mut text),
        Dialect::Systemd => systemd(plan, &mut text),
        Dialect::Udev => udev(plan, &mut text),
        Dialect::Ansible => ansible(plan, &mut text),
    }
    let reboot = plan.advice.iter().filter(|advice| advice.kind == Kind::Reboot);
    for advice in reboot {
        let _ = writeln!(text, "# By hand, with a reboot: {}", advice.text);
    }
    text
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

fn systemd(plan: &Plan, text: &mut String) {
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
         ExecStart=hawser tune apply --connections {connections} --profile {profile}\n\
         ExecStop=hawser tune rollback\n\n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        connections = plan.goal.connections,
        profile = plan.goal.profile
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
        match &change.place {
            Place::Channels(nic) => {
                let _ = writeln!(
                    text,
                    "ACTION==\"add\", SUBSYSTEM==\"net\", NAME==\"{nic}\", \
                     RUN+=\"/usr/sbin/ethtool -L {nic} combined {}\"",
                    change.wanted
                );
            }
            Place::Value(path) => {
                if let Some((nic, attribute)) = queue_attribute(path).filter(|(nic, _)| !grows(nic))
                {
                    let _ = writeln!(
                        text,
                        "ACTION==\"add\", SUBSYSTEM==\"net\", NAME==\"{nic}\", \
                         ATTR{{{attribute}}}=\"{}\"",
                        change.wanted
                    );
                }
            }
            Place::Coalescing(nic) => {
                let _ = writeln!(
                    text,
                    "ACTION==\"add\", SUBSYSTEM==\"net\", NAME==\"{nic}\", \
                     RUN+=\"/usr/sbin/ethtool -C {nic} {}\"",
                    change.wanted
                );
            }
            // A card that appears gets the default discipline, which is a sysctl.
            Place::File(_) | Place::RouteRto(_) | Place::Queueing(_) => {}
        }
    }
}

/// A card and the attribute below it.
fn queue_attribute(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("sys/class/net/")?.split_once('/')
}

fn ansible(plan: &Plan, text: &mut String) {
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
    let others = plan.changes.iter().any(|change| match &change.place {
        Place::Value(path) => !path.starts_with("proc/sys/"),
        Place::File(_) => false,
        _ => true,
    });
    if others {
        let _ = write!(
            text,
            "- name: what has no file of its own\n  ansible.builtin.command: hawser tune apply \
             --connections {} --profile {}\n  changed_when: false\n",
            plan.goal.connections, plan.goal.profile
        );
    }
}

/// On one line.
fn sentence(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
