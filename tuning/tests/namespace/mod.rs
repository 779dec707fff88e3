//! A network and mount namespace of a test's own, in which it runs itself once more as root. Nothing
//! of it outlives the test, and the host's settings are not in it.

use std::process::{Command, Output};

const ROLE: &str = "HAWSER_TEST_ROLE";

/// Runs a test once more in namespaces that a script prepares. True in there.
pub fn inside(test: &str, script: &str) -> bool {
    again(test, script, &["--map-root-user", "--net", "--mount"])
}

/// The same with the rights of whoever runs the test: some files of a card ask for those of the first
/// user namespace, which only root has.
#[allow(dead_code, reason = "not every test needs it")]
pub fn inside_as_root(test: &str, script: &str) -> bool {
    again(test, script, &["--net", "--mount"])
}

fn again(test: &str, script: &str, namespaces: &[&str]) -> bool {
    if std::env::var_os(ROLE).is_some() {
        return true;
    }
    let prepare = "mount -t tmpfs none /var/lib; mount -t sysfs none /sys; ip link set lo up";
    let status = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-ec"])
        .arg(format!("{prepare}; {script}; exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, "inside")
        .status()
        .expect("util-linux has unshare");
    assert!(status.success());
    false
}

pub fn tune(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hawser-tune")).args(arguments).output().unwrap()
}
