//! `hawser kv checkpoint`, `backup` and `restore`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use hawser_kv::backup::audit::Findings;
use hawser_kv::backup::stream::Progress;
use hawser_kv::backup::{restore as restoring, take};
use serde_json::json;

use super::super::failure::Usage;
use super::super::out::{self, Format};
use super::store::{HELD, Held, Shown, size};
use super::{BackupArgs, CheckpointCommand, RestoreArgs};

pub fn checkpoint(command: &CheckpointCommand, format: Format) -> anyhow::Result<()> {
    match command {
        CheckpointCommand::Add { name, .. } if name.starts_with(HELD) => Err(Usage(
            "names that begin with held- are of checkpoints that go with the command that made them",
        )
        .into()),
        CheckpointCommand::Add { name, target } => {
            let made = target.connect()?.checkpoint(name)?;
            let (path, sequence) = (made.path.display().to_string(), made.sequence);
            match format {
                Format::Json => {
                    out::json(&json!({ "path": path, "sequence": sequence, "micros": made.micros }))
                }
                Format::Human => Ok(out::line(path)?),
            }
        }
        CheckpointCommand::Del { name, target } => {
            target.connect()?.delete_checkpoint(name)?;
            match format {
                Format::Json => out::json(&json!({ "deleted": name })),
                Format::Human => Ok(out::line(format!("deleted {name}"))?),
            }
        }
        CheckpointCommand::List { target } => {
            let names = target.connect()?.checkpoints()?;
            match format {
                Format::Json => out::json(&json!({ "checkpoints": names })),
                Format::Human if names.is_empty() => Ok(out::line("none")?),
                Format::Human => Ok(out::line(names.join("\n"))?),
            }
        }
    }
}

pub fn backup(args: &BackupArgs, format: Format) -> anyhow::Result<()> {
    let name = args.name.clone().unwrap_or_else(time_name);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = !name.starts_with('.') && name.bytes().all(is_plain) && !name.is_empty();
    ensure!(
        is_name,
        "--name: a name has letters, digits, `.`, `-` and `_`, and begins without a dot"
    );
    let held = Held::new(args.target.connect()?)?;
    let path = std::path::absolute(&args.folder)?.join(&name);
    let order = take::Order {
        checkpoint: &held.checkpoint.path,
        path: &path,
        bytes_per_s_max: args.rate_mib.map(|mib| mib << 20),
        scratch: &args.scratch.folder(),
    };
    let mut shown = Shown::new();
    let taken = take::take(&order, &mut |progress| shown.show(|| text(progress)));
    shown.end();
    let taken = taken?;
    drop(held);
    let manifest = &taken.manifest;
    let copied = manifest.bytes() - taken.linked_bytes;
    let path = path.display().to_string();
    match format {
        Format::Json => out::json(&json!({
            "path": path,
            "sequence": manifest.sequence,
            "taken_ms": manifest.taken_ms,
            "keys": manifest.keys,
            "digest": manifest.digest,
            "files": manifest.files.len(),
            "bytes": manifest.bytes(),
            "copied_bytes": copied,
            "linked_files": taken.linked_files,
            "findings": taken.findings.count,
        }))?,
        Format::Human => out::line(out::pairs(&[
            ("backup", path),
            ("keys", manifest.keys.to_string()),
            ("size", format!("{}, of which {} were copied", size(manifest.bytes()), size(copied))),
            ("sequence", manifest.sequence.to_string()),
            ("digest", manifest.digest.clone()),
        ]))?,
    }
    warn_of(&taken.findings);
    Ok(())
}

/// It is a good copy of what is not as it should be.
fn warn_of(findings: &Findings) {
    if findings.count > 0 {
        let (count, first) = (findings.count, &findings.first[0]);
        eprintln!(
            "hawser: {count} keys of the store are not consistent; `hawser kv verify` names them. The \
             first: {first}"
        );
    }
}

pub fn restore(args: &RestoreArgs, format: Format) -> anyhow::Result<()> {
    let rate = args.rate_mib.map(|mib| mib << 20);
    let mut shown = Shown::new();
    let mut report = |progress| shown.show(|| text(progress));
    let restored = restoring::restore(&args.backup, &args.dir, rate, &mut report);
    shown.end();
    let manifest = restored?;
    let dir = args.dir.display().to_string();
    match format {
        Format::Json => out::json(&json!({
            "dir": dir,
            "sequence": manifest.sequence,
            "taken_ms": manifest.taken_ms,
            "keys": manifest.keys,
            "digest": manifest.digest,
            "files": manifest.files.len(),
            "bytes": manifest.bytes(),
        })),
        Format::Human => Ok(out::line(format!(
            "restored {} keys, {}; start it with: hawser kv start --dir {dir}",
            manifest.keys,
            size(manifest.bytes())
        ))?),
    }
}

/// How far it is.
pub fn text(progress: Progress) -> String {
    let Progress { bytes, bytes_total, keys } = progress;
    match keys {
        0 => format!("{} of {}", size(bytes), size(bytes_total)),
        _ if bytes_total == 0 => format!("{keys} keys looked at"),
        _ => format!("{} copied, {keys} keys looked at", size(bytes)),
    }
}

/// The time, so that names sort as they came.
fn time_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    utc(since.as_secs())
}

/// `20261121T231800Z`; the day is computed as in Howard Hinnant's "chrono-compatible date algorithms".
fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here, so that the leap day is the last.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_are_utc() {
        for (unix_s, expect) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_709_210_096, "20240229T123456Z"),
            (1_798_761_599, "20261231T235959Z"),
        ] {
            assert_eq!(utc(unix_s), expect);
        }
    }
}
