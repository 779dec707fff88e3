//! The commands that are one call: ask the API, print the answer.
//!
//! With `--json` the API's own answer is printed, so that a script sees what the API documents.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

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
    let message = client.message(&args.target.app()?, &args.id).await?;
    if format == Format::Json {
        return out::json(&message);
    }
    Ok(out::line(out::pairs(&message_pairs(&message)))?)
}

fn message_pairs(message: &Value) -> Vec<(&'static str, String)> {
    let mut pairs = vec![
        ("id", text(&message["id"])),
        ("state", text(&message["state"])),
        ("expires", from_now(&message["expires_at"])),
    ];
    // Only a group message has counts.
    for (name, field) in
        [("sent at once", "sent"), ("to be pulled", "waiting"), ("acknowledged", "acknowledged")]
    {
        if !message[field].is_null() {
            pairs.push((name, text(&message[field])));
        }
    }
    pairs
}

pub async fn device(device: &str, target: &Target, format: Format) -> anyhow::Result<()> {
    let client = target.client(Role::App)?;
    let answer = client.device(&target.app()?, device).await?;
    if format == Format::Json {
        return out::json(&answer);
    }
    Ok(out::line(out::pairs(&device_pairs(device, &answer)))?)
}

fn device_pairs(device: &str, answer: &Value) -> Vec<(&'static str, String)> {
    let inbox = &answer["inbox"];
    let mut pairs = vec![("device", device.to_owned()), ("online", text(&answer["online"]))];
    if answer["online"] == true {
        pairs.extend([
            ("connected", from_now(&answer["since"])),
            ("broker", text(&answer["broker"])),
            ("shard", text(&answer["shard"])),
        ]);
    }
    pairs.extend([
        ("waiting", text(&inbox["entries"])),
        ("last message", text(&inbox["last_seq"])),
        ("acknowledged", text(&inbox["acked"])),
    ]);
    pairs
}

pub async fn status(args: StatusArgs, format: Format) -> anyhow::Result<()> {
    let status = args.target.client(Role::Operator)?.status().await?;
    if format == Format::Json {
        return out::json(&status);
    }
    Ok(out::line(status_text(&status))?)
}

fn status_text(status: &Value) -> String {
    let node = out::pairs(&[
        ("node", text(&status["node"])),
        ("version", text(&status["version"])),
        ("up", status["uptime_s"].as_u64().map_or("-".to_owned(), duration)),
        ("store", if status["store_up"] == true { "up" } else { "down" }.to_owned()),
        ("sessions", text(&status["sessions"])),
        ("pushes waiting", text(&status["pushes_waiting"])),
        ("pulls waiting", text(&status["pulls_waiting"])),
    ]);
    let links = fields_table(&status["links"], &["broker", "shard", "sessions"]);
    let apps = fields_table(
        &status["apps"],
        &[
            "name",
            "accepted",
            "delivered",
            "pending",
            "expired",
            "collapsed",
            "group_accepted",
            "group_expired",
            "group_collapsed",
        ],
    );
    format!("{node}\nSHARDS\n{links}\nAPPS\n{apps}")
}

/// A table of these fields of each object; all but the first are numbers.
fn fields_table(objects: &Value, fields: &[&str]) -> String {
    let heading: Vec<String> =
        fields.iter().map(|field| field.replace('_', " ").to_uppercase()).collect();
    let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
    let row = |object: &Value| fields.iter().map(|field| text(&object[*field])).collect();
    let numbers: Vec<usize> = (1..fields.len()).collect();
    out::table(&heading, &numbers, list(objects).iter().map(row).collect())
}

/// A time in seconds since 1970, as people think of it.
fn from_now(time_s: &Value) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match time_s.as_u64() {
        Some(time_s) if time_s > now_s => format!("in {}", duration(time_s - now_s)),
        Some(time_s) => format!("{} ago", duration(now_s - time_s)),
        None => "-".to_owned(),
    }
}

/// The two largest units.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
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
    fn a_status_becomes_tables() {
        let status = serde_json::json!({
            "node": "01", "version": "1", "uptime_s": 3700, "store_up": true, "sessions": 12,
            "pushes_waiting": 0, "pulls_waiting": 0,
            "links": [{"broker": "7f", "shard": 1, "sessions": 12}],
            "apps": [{"name": "shop", "accepted": 5, "delivered": 4, "pending": 1}],
        });
        let shown = status_text(&status);
        for part in ["1 h 1 min", "SHARD", " 7f ", "GROUP ACCEPTED", " shop "] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        assert!(!shown.contains(['{', '"']), "{shown}");
    }

    #[test]
    fn only_an_online_device_has_a_place() {
        let inbox = serde_json::json!({"entries": 3, "last_seq": 9, "acked": 6});
        let offline = serde_json::json!({"online": false, "inbox": inbox});
        let names = |answer: &Value| -> Vec<&str> {
            device_pairs("d", answer).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(
            names(&offline),
            ["device", "online", "waiting", "last message", "acknowledged"]
        );
        let online =
            serde_json::json!({"online": true, "broker": "7f", "shard": 0, "inbox": inbox});
        assert!(names(&online).contains(&"shard"));
    }

    #[test]
    fn only_a_group_message_has_counts() {
        let single = serde_json::json!({"id": "a", "state": "pending", "expires_at": u64::MAX});
        assert_eq!(message_pairs(&single).len(), 3);
        let group = serde_json::json!({"id": "a", "state": "pending", "expires_at": 0, "sent": 1,
                                       "waiting": 2, "acknowledged": 3});
        assert_eq!(message_pairs(&group).len(), 6);
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, expect) in
            [(0, "0 s"), (61, "1 min 1 s"), (7_260, "2 h 1 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(duration(seconds), expect);
        }
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
