//! `hawser kv verify`.

use std::path::Path;

use anyhow::bail;
use hawser_kv::backup::verify::{self, Content, Depth};
use serde_json::json;

use super::super::failure::Usage;
use super::super::out::{self, Format};
use super::VerifyArgs;
use super::backup::text;
use super::store::{Held, Shown};

pub fn run(args: &VerifyArgs, format: Format) -> anyhow::Result<()> {
    match &args.path {
        Some(path) if verify::is_backup(path) => backup(path, args, format),
        _ if args.deep => {
            Err(Usage("--deep is for backups; of all else everything is looked at").into())
        }
        Some(path) => directory(path, args, format),
        None => {
            let held = Held::new(args.target.connect()?)?;
            directory(&held.checkpoint.path, args, format)
        }
    }
}

fn backup(path: &Path, args: &VerifyArgs, format: Format) -> anyhow::Result<()> {
    let depth = if args.deep { Depth::Content } else { Depth::Files };
    let mut shown = Shown::new();
    let mut report = |progress| shown.show(|| text(progress));
    let verified = verify::backup(path, depth, &args.scratch.folder(), &mut report);
    shown.end();
    let verified = verified?;
    let manifest = &verified.manifest;
    let mut problems: Vec<String> = verified.damage.iter().map(ToString::to_string).collect();
    let unknown = verified.unknown.iter();
    problems
        .extend(unknown.map(|path| format!("{}: the manifest does not know it", path.display())));
    match &verified.content {
        Some(Ok(content)) => {
            if content.digest != manifest.digest {
                problems.push(format!("its content has the digest {}", content.digest));
            }
            problems.extend(content.findings.first.iter().cloned());
        }
        Some(Err(error)) => problems.push(error.to_string()),
        None => {}
    }
    let document = json!({
        "path": path.display().to_string(),
        "sequence": manifest.sequence,
        "taken_ms": manifest.taken_ms,
        "keys": manifest.keys,
        "digest": manifest.digest,
        "bytes": manifest.bytes(),
        "deep": args.deep,
        "problems": problems,
    });
    let (keys, digest) = (manifest.keys, &manifest.digest);
    show(&document, &problems, format, format!("the backup is good: {keys} keys, digest {digest}"))
}

fn directory(path: &Path, args: &VerifyArgs, format: Format) -> anyhow::Result<()> {
    let mut shown = Shown::new();
    let mut report = |progress| shown.show(|| text(progress));
    let verified = verify::directory(path, args.as_of, &args.scratch.folder(), &mut report);
    shown.end();
    let Content { sequence, as_of_ms, keys, rows, digest, findings, torn } = verified?;
    let document = json!({
        "path": path.display().to_string(),
        "sequence": sequence,
        "as_of_ms": as_of_ms,
        "keys": keys,
        "rows": rows,
        "digest": digest,
        "problems": findings.first,
        "torn_bytes": torn.as_ref().map_or(0, |torn| torn.bytes),
    });
    if let (Some(torn), Format::Human) = (&torn, format) {
        eprintln!(
            "the log ends with {} bytes of an unfinished group, which nobody was promised; the next start \
             cuts them",
            torn.bytes
        );
    }
    show(&document, &findings.first, format, format!("all is good: {keys} keys, digest {digest}"))
}

/// Says what was found. Problems are the answer of this command, and its failure.
fn show(
    document: &serde_json::Value,
    problems: &[String],
    format: Format,
    good: String,
) -> anyhow::Result<()> {
    match format {
        Format::Json => out::json(document)?,
        Format::Human if problems.is_empty() => out::line(good)?,
        Format::Human => out::line(problems.join("\n"))?,
    }
    if !problems.is_empty() {
        bail!("{} problems were found", problems.len());
    }
    Ok(())
}
