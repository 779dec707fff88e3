//! The disk that loses what was not synced (`tests/disk`), as a process with a mount of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

pub struct LossyDisk {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Where it is mounted, as this process sees it.
    pub root: PathBuf,
}

impl LossyDisk {
    /// `mount` is an empty directory. Needs `unshare` and permission to use `/dev/fuse`.
    pub fn start(mount: &Path) -> LossyDisk {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]).arg(program()).arg(mount);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("unshare is installed (util-linux)");
        let commands = process.stdin.take().expect("piped");
        let mut answers = BufReader::new(process.stdout.take().expect("piped"));
        let mut line = String::new();
        answers.read_line(&mut line).expect("a line");
        assert_eq!(line, "ok\n", "the lossy disk cannot be mounted; is /dev/fuse there for you?");
        let inside = mount.strip_prefix("/").expect("an absolute path");
        let root = PathBuf::from(format!("/proc/{}/root", process.id())).join(inside);
        LossyDisk { process, commands, answers, root }
    }

    pub fn tell(&mut self, command: &str) -> String {
        writeln!(self.commands, "{command}").expect("the disk listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the disk answers");
        let answer = line.trim_end().strip_prefix("ok");
        answer.unwrap_or_else(|| panic!("{command}: {line}")).trim().to_string()
    }

    pub fn used_bytes(&mut self) -> u64 {
        let state = self.tell("state");
        state.rsplit(' ').next().and_then(|bytes| bytes.parse().ok()).expect("a number")
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// Compiled on first use. It is a workspace of its own, for the reason its manifest gives.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk/Cargo.toml");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("disk");
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--quiet", "--release", "--locked", "--manifest-path", manifest]);
        let built = command.arg("--target-dir").arg(&target).status().expect("cargo runs");
        assert!(built.success(), "{manifest} does not compile");
        target.join("release/hawser-lossy-disk")
    })
}
