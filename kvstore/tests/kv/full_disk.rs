//! No more room: writes are refused and say why, reads go on, nothing answered is lost, and writes work
//! again when there is room, without a restart.
//!
//! The room is taken away by the file size limit of the process, which needs no privileges and hits
//! the log in the middle of a record. It can be given back while the process runs.

use std::process::Command;

use crate::support::{Client, Process, TempDir, Value, binary, config};

const LIMIT_BYTES: u64 = 600 * 1024;

fn key(number: u64) -> String {
    format!("key:{number}")
}

fn value(number: u64) -> String {
    format!("{number} ").repeat(400)
}

fn set_limit(process: &Process, bytes: &str) {
    let pid = process.child.id().to_string();
    let limit = format!("--fsize={bytes}:");
    let done = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(done.expect("prlimit is installed (util-linux)").success());
}

#[test]
fn writes_are_refused_until_there_is_room_again() {
    let dir = TempDir::new();
    let config = config(&dir);
    // The signal that comes with the error would end the process; real full disks send none.
    let server = binary(&config);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(server.get_program());
    command.args(server.get_args());
    let process = Process::start(&mut command);
    let mut client = Client::unix(&config.unix);

    set_limit(&process, &LIMIT_BYTES.to_string());
    let mut answered = 0;
    let refusal = loop {
        match client.call(&["SET", &key(answered), &value(answered)]) {
            Value::Simple(_) => answered += 1,
            other => break other.text(),
        }
        assert!(answered < 10_000, "the limit does not work");
    };
    assert!(refusal.starts_with("IOERR disk full: nothing was written"), "{refusal}");
    assert!(answered > 100, "only {answered} fitted");

    // Reads go on, also for others, and the refused write did not happen.
    let mut other = Client::unix(&config.unix);
    for number in 0..answered {
        assert_eq!(other.call(&["GET", &key(number)]), Value::Bulk(value(number).into_bytes()));
    }
    assert_eq!(other.call(&["GET", &key(answered)]), Value::Null);
    assert!(other.call(&["SET", "large", &value(7)]).is_error(), "there still is no room");

    set_limit(&process, "unlimited");
    for number in answered..answered + 300 {
        let done = client.call(&["SET", &key(number), &value(number)]);
        assert_eq!(done, Value::Simple("OK".into()));
    }
    process.kill();

    let process = Process::start(&mut binary(&config));
    let mut client = Client::unix(&config.unix);
    for number in 0..answered + 300 {
        assert_eq!(client.call(&["GET", &key(number)]), Value::Bulk(value(number).into_bytes()));
    }
    assert_eq!(client.run("DBSIZE"), Value::Integer(answered as i64 + 300));
    process.kill();
}
