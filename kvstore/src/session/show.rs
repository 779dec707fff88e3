//! What one connection shows of itself: to CLIENT LIST, and to those that MONITOR.

use std::fmt::Write as _;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::Session;
use crate::command::catalogue::Facts;
use crate::command::is_word;

impl Session {
    /// Brings up to date what others see of this connection.
    pub(super) fn show(&self) {
        let mut facts = self.client.facts();
        facts.last_active = Instant::now();
        facts.last_command = self.last_command;
        facts.protocol = self.reply.protocol();
        facts.queued = self.transaction.as_ref().map(|transaction| transaction.commands.len());
        facts.queued_bytes = self.transaction.as_ref().map_or(0, |transaction| transaction.bytes);
        facts.input_bytes = self.input.len();
        facts.input_room = self.input.capacity() - self.input.len();
        facts.output_bytes = self.reply.len();
        facts.database = self.selected.database.into();
        if facts.user != self.user.name {
            facts.user.clone_from(&self.user.name);
        }
    }

    /// Tells those that MONITOR what this connection runs now. Commands of an administrator are not
    /// shown, and no passwords.
    pub(super) fn tell_monitors(&self, facts: &Facts, args: &[Bytes]) {
        let shared = &self.shared;
        if !shared.clients.has_monitors()
            || facts.has_flag("admin")
            || facts.has_flag("skip_monitor")
        {
            return;
        }
        let line = Bytes::from(self.monitor_line(args));
        for monitor in shared.clients.monitors() {
            shared.put(&monitor, line.clone());
        }
    }

    fn monitor_line(&self, args: &[Bytes]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (addresses, database) = (&self.client.addresses, self.selected.database);
        let from = match addresses.is_unix {
            true => format!("unix:{}", addresses.local.trim_end_matches(":0")),
            false => addresses.peer.clone(),
        };
        let mut line = format!("+{}.{:06} [{database} {from}]", now.as_secs(), now.subsec_micros());
        let secrets = secrets(args);
        for (index, arg) in args.iter().enumerate() {
            line.push(' ');
            put_quoted(&mut line, if secrets.contains(&index) { b"(redacted)" } else { arg });
        }
        line.push_str("\r\n");
        line
    }
}

/// The places of words that are a password or belong to one.
fn secrets(args: &[Bytes]) -> Vec<usize> {
    match &args[0][..] {
        name if is_word(name, "auth") => (1..args.len()).collect(),
        name if is_word(name, "hello") => secrets_of_hello(args),
        _ => Vec::new(),
    }
}

/// Option by option, since a name may be `auth`, too.
fn secrets_of_hello(args: &[Bytes]) -> Vec<usize> {
    let (mut found, mut at) = (Vec::new(), 2);
    while let Some(option) = args.get(at) {
        if is_word(option, "auth") {
            found.extend([at + 1, at + 2]);
            at += 3;
        } else if is_word(option, "setname") {
            at += 2;
        } else {
            // What nobody knows may have been meant as a password.
            found.extend(at..args.len());
            break;
        }
    }
    found
}

/// In quotes, as Redis prints values.
fn put_quoted(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for &byte in bytes {
        match byte {
            b'\\' | b'"' => out.extend(['\\', byte.into()]),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            7 => out.push_str("\\a"),
            8 => out.push_str("\\b"),
            b' '..=b'~' => out.push(byte.into()),
            _ => write!(out, "\\x{byte:02x}").expect("writing to memory does not fail"),
        }
    }
    out.push('"');
}
