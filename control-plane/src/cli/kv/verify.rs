//! `hawser kv verify`.

use std::path::Path;

use anyhow::bail;
use hawser_kv::backup::audit::Findings;
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
    let mut unnamed = 0;
    let unknown = verified.unknown.iter();
    problems
        .extend(unknown.map(|path| format!("{}: the manifest does not know it", path.display())));
    match &verified.content {
        Some(Ok(content)) => {
            if content.digest != manifest.digest {
                problems.push(format!("its content has the digest {}", content.digest));
            }
            problems.extend(content.findings.first.iter().cloned());
            unnamed = unnamed_of(&content.findings);
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
        "problems_unnamed": unnamed,
    });
    let (keys, digest) = (manifest.keys, &manifest.digest);
    show(
        &document,
        (&problems, unnamed),
        format,
        format!("the backup is good: {keys} keys, digest {digest}"),
    )
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
        "problems_unnamed": unnamed_of(&findings),
        "torn_bytes": torn.as_ref().map_or(0, |torn| torn.bytes),
    });
    if let (Some(torn), Format::Human) = (&torn, format) {
        eprintln!(
            "the log ends with {} bytes of an unfinished group, which nobody was promised; the next start \
             cuts them",
            torn.bytes
        );
    }
    let found = (&findings.first[..], unnamed_of(&findings));
    show(&document, found, format, format!("all is good: {keys} keys, digest {digest}"))
}

/// How many were counted beyond those that are named.
fn unnamed_of(findings: &Findings) -> u64 {
    findings.count - findings.first.len() as u64
}

/// Says what was found. Problems are the answer of this command, and its failure.
fn show(
    document: &serde_json::Value,
    (problems, unnamed): (&[String], u64),
    format: Format,
    good: String,
) -> anyhow::Result<()> {
    match format {
        Format::Json => out::json(document)?,
        Format::Human if problems.is_empty() => out::line(good)?,
        Format::Human => out::line(problems.join("\n"))?,
    }
    if !problems.is_empty() {
        let named = problems.len() as u64;
        match unnamed {
            0 => bail!("{named} problems were found"),
            _ => bail!("{} problems were found, of which {named} are named", named + unnamed),
        }
    }
    Ok(())
}
