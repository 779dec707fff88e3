//! The commands that are one call: ask the API, print the answer.
//!
//! With `--json` the API's own answer is printed, so that a script sees what the API documents.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hawser_codec::limits::PAYLOAD_BYTES_MAX;
use serde_json::Value;

use super::client::{Payload, Push, Quota, To};
use super::connection::{Role, Target};
use super::out::{self, Format};
use super::{
    AppCreateArgs, AppListArgs, MessageArgs, PayloadArgs, Priority, PushArgs, PushCommand,
    StatusArgs, TicketArgs,
};

pub async fn app_create(args: AppCreateArgs, format: Format) -> anyhow::Result<()> {
    let client = args.target.client(Role::Operator)?;
    let quota = Quota {
        messages_per_s: args.messages_per_s,
        inbox_entries_max: args.inbox_entries_max,
        group_log_entries_max: args.group_log_entries_max,
    };
    let app = client.app_create(&args.name, quota).await?;
    if format == Format::Json {
        return out::json(&app);
    }
    out::line(out::pairs(&[
        ("app", app.name),
        ("id", app.app_id.to_string()),
        ("API key", app.api_key),
        ("signing key", format!("{} {}", app.signing_key.kid, app.signing_key.alg)),
        ("  seed", app.signing_key.seed),
        ("  public", app.signing_key.public),
    ]))?;
    Ok(out::line("\nKeep the API key and the seed: they are not shown again.")?)
}

pub async fn app_list(args: AppListArgs, format: Format) -> anyhow::Result<()> {
    let answer = args.target.client(Role::Operator)?.apps().await?;
    if format == Format::Json {
        return out::json(&answer);
    }
    let apps = list(&answer["apps"]);
    if apps.is_empty() {
        return Ok(out::line("No apps yet: hawser app create NAME")?);
    }
    let rows = apps.iter().map(|app| {
        let quota = &app["quota"];
        vec![
            text(&app["name"]),
            text(&app["app_id"]),
            text(&quota["messages_per_s"]),
            text(&quota["inbox_entries_max"]),
            text(&quota["group_log_entries_max"]),
        ]
    });
    let heading = ["APP", "ID", "MESSAGES/S MAX", "INBOX MAX", "GROUP LOG MAX"];
    Ok(out::line(out::table(&heading, &[1, 2, 3, 4], rows.collect()))?)
}

pub async fn ticket(args: TicketArgs, format: Format) -> anyhow::Result<()> {
    let client = args.target.client(Role::App)?;
    let ticket = client.ticket(&args.target.app()?, &args.device, args.ttl).await?;
    match format {
        Format::Json => out::json(&ticket),
        // Alone on its line, for `$(hawser ticket phone-1)`.
        Format::Human => Ok(out::line(ticket.ticket)?),
    }
}

pub async fn push(command: PushCommand, format: Format) -> anyhow::Result<()> {
    let (to, args) = match command {
        PushCommand::Device { device, message } => (To::Device(device), message),
        PushCommand::Topic { topic, message } => (To::Topic(topic), message),
        PushCommand::All { message } => (To::All(true), message),
    };
    let PushArgs { payload, ttl, priority, when_awake, collapse_key, idempotency_key, target } =
        args;
    let push = Push {
        to,
        payload: read_payload(payload)?,
        ttl_s: ttl,
        priority: match priority {
            Priority::Low => Some("low"),
            Priority::Normal => None,
            Priority::High => Some("high"),
        },
        when_awake,
        collapse_key,
        idempotency_key,
    };
    let accepted = target.client(Role::App)?.push(&target.app()?, &push).await?;
    if format == Format::Json {
        return out::json(&accepted);
    }
    let place = match (accepted.duplicate, accepted.online) {
        (true, _) => "a repeat: this is the first one's id",
        (false, true) => "accepted; delivery is under way",
        (false, false) => "accepted; nobody is connected, it waits",
    };
    Ok(out::line(format!("{}  {place}", accepted.id))?)
}

/// What is not UTF-8 travels as base64.
fn read_payload(args: PayloadArgs) -> anyhow::Result<Payload> {
    let PayloadArgs { text, file } = args;
    let bytes = match (text, file) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(path)) if path == Path::new("-") => {
            read_limited(std::io::stdin().lock()).context("cannot read standard input")?
        }
        (None, Some(path)) => {
            let shown = || format!("cannot read {}", path.display());
            read_limited(File::open(&path).with_context(shown)?).with_context(shown)?
        }
        (None, None) => unreachable!("clap requires one of the two"),
    };
    ensure!(
        bytes.len() <= PAYLOAD_BYTES_MAX,
        "the payload is larger than {PAYLOAD_BYTES_MAX} bytes: send a link to it instead"
    );
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Payload::Text(text),
        Err(error) => Payload::Base64(STANDARD.encode(error.as_bytes())),
    })
}

/// One byte more than is allowed shows that there is too much.
fn read_limited(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(PAYLOAD_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub async fn message(args: MessageArgs, format: Format) -> anyhow::Result<()> {
    let client = args.target.client(Role::App)?;
    show(&client.message(&args.target.app()?, &args.id).await?, format)
}

pub async fn device(device: &str, target: &Target, format: Format) -> anyhow::Result<()> {
    let client = target.client(Role::App)?;
    show(&client.device(&target.app()?, device).await?, format)
}

pub async fn status(args: StatusArgs, format: Format) -> anyhow::Result<()> {
    show(&args.target.client(Role::Operator)?.status().await?, format)
}

/// Any answer: its plain fields as pairs, then a table for each list of objects.
fn show(answer: &Value, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => out::json(answer),
        Format::Human => Ok(out::line(human(answer))?),
    }
}

fn human(answer: &Value) -> String {
    let mut plain = Vec::new();
    let mut lists = Vec::new();
    collect("", answer, &mut plain, &mut lists);
    let plain: Vec<(&str, String)> =
        plain.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let mut shown = out::pairs(&plain);
    for (name, rows) in lists {
        let mut heading: Vec<String> = Vec::new();
        let mut cells = Vec::new();
        for row in rows {
            let mut plain = Vec::new();
            collect("", row, &mut plain, &mut Vec::new());
            heading = plain.iter().map(|(name, _)| name.to_uppercase()).collect();
            cells.push(plain.into_iter().map(|(_, value)| value).collect());
        }
        let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
        let numbers: Vec<usize> = (1..heading.len()).collect();
        shown += &format!("\n{}\n{}", name.to_uppercase(), out::table(&heading, &numbers, cells));
    }
    shown
}

/// Flattens nested objects into `inbox entries`, and sets lists of objects apart.
fn collect<'a>(
    prefix: &str,
    value: &'a Value,
    plain: &mut Vec<(String, String)>,
    lists: &mut Vec<(String, &'a [Value])>,
) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        let name = format!("{prefix}{}", name.replace('_', " "));
        match value {
            Value::Object(_) => collect(&format!("{name} "), value, plain, lists),
            Value::Array(rows) if rows.iter().any(Value::is_object) => lists.push((name, rows)),
            _ => plain.push((name, text(value))),
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_pairs_and_tables() {
        let answer = serde_json::json!({
            "online": true,
            "inbox": {"entries": 3, "last_seq": 9},
            "since": null,
            "brokers": [{"broker": "7f", "sessions": 12}],
        });
        let shown = human(&answer);
        for part in ["online", "yes", "inbox entries", "BROKERS", "SESSIONS", "7f"] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        assert!(!shown.contains(['{', '"']), "{shown}");
    }

    #[test]
    fn a_payload_that_is_no_text_travels_as_base64() {
        let path = std::env::temp_dir().join(format!("hawser-payload-{}", std::process::id()));
        std::fs::write(&path, [0xff, 0x00]).unwrap();
        let payload = read_payload(PayloadArgs { text: None, file: Some(path.clone()) }).unwrap();
        assert!(matches!(payload, Payload::Base64(text) if text == "/wA="));
        std::fs::write(&path, vec![b'x'; PAYLOAD_BYTES_MAX + 1]).unwrap();
        let error = read_payload(PayloadArgs { text: None, file: Some(path.clone()) });
        assert!(error.unwrap_err().to_string().contains("larger than 65536"));
        std::fs::remove_file(path).unwrap();
    }
}
