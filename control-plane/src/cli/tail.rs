//! `hawser tail`: be a device and print what arrives.
//!
//! It asks the API for a ticket, connects to a broker and stays, reconnecting as a device does. It
//! keeps no positions: each start is a device's first, so it sees what waits in the inbox and, of
//! group messages, those from now on. Everything it prints is acknowledged.

use std::io;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hawser_codec::error::CloseReason;
use hawser_codec::ids::TopicId;
use hawser_codec::limits::TOPICS_PER_SESSION_MAX;
use hawser_codec::session::{Backoff, Event, Positions, Profile, Session, Source};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::client::Client;
use super::connection::{PlayFile, Role, Target};
use super::failure::Usage;
use super::out::{self, Format};
use crate::play::device::{Clock, Owner, live};

pub const EXAMPLES: &str = "\
Examples:
  hawser tail                                  as device `tail`, until Ctrl-C
  hawser tail --device phone-1 --topic news
  hawser tail --count 1 --json                 one message, then exit

In another terminal:  hawser push device tail --text 'hello'";

#[derive(Debug, clap::Args)]
pub struct TailArgs {
    /// Device to be. A device has one connection: a second one with this name ends the first
    #[arg(long, value_name = "NAME", default_value = "tail", value_parser = super::device)]
    pub device: String,

    /// Topic to subscribe to; may be given up to 32 times
    #[arg(long = "topic", value_name = "TOPIC", value_parser = super::topic)]
    pub topics: Vec<String>,

    /// Exit after this many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Broker to connect to [default: the first that the control node names]
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    pub broker: Option<String>,

    #[command(flatten)]
    pub target: Target,
}

/// How long a ticket is good for: a tail that runs longer asks again when it is started again.
const TICKET_TTL_S: u32 = 7 * 86_400;

pub async fn run(args: TailArgs, format: Format) -> anyhow::Result<()> {
    if args.topics.len() > TOPICS_PER_SESSION_MAX {
        return Err(Usage("--topic: a device subscribes to at most 32 topics").into());
    }
    let client = args.target.client(Role::App)?;
    let app = args.target.app()?;
    let broker = broker_address(&args, &client, &app).await?;
    let ticket = client.ticket(&app, &args.device, TICKET_TTL_S).await?.ticket;
    let ticket = URL_SAFE_NO_PAD.decode(ticket).context("the ticket is not base64url")?;
    let topics: Vec<(TopicId, String)> =
        args.topics.iter().map(|topic| (TopicId::new(topic), topic.clone())).collect();
    eprintln!("{} of {app} at {broker}; Ctrl-C ends it", args.device);

    let clock = Clock::start();
    let mut session = Session::new(Positions::default(), std::process::id(), clock.now_ms());
    let mut tail = Tail {
        broker,
        ticket,
        topic_ids: topics.iter().map(|(id, _)| *id).collect(),
        topics,
        format,
        left: args.count,
        failed: None,
        connected: false,
    };
    let reason = tokio::select! {
        reason = live(&mut session, &mut tail, clock) => reason,
        signal = tokio::signal::ctrl_c() => return Ok(signal?),
    };
    match tail.failed {
        Some(error) => Err(error),
        None if reason == CloseReason::Bye => Ok(()),
        None if reason == CloseReason::TakenOver => bail!(
            "{} connected elsewhere, and a device has one connection; be another with --device",
            args.device
        ),
        None => bail!("the broker ended it: {reason}"),
    }
}

fn host_and_port(text: &str) -> Result<String, &'static str> {
    let good = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0));
    good.then(|| text.to_owned()).ok_or("write it as host:port, such as 127.0.0.1:7400")
}

async fn broker_address(args: &TailArgs, client: &Client, app: &str) -> anyhow::Result<SocketAddr> {
    let play = PlayFile::read().filter(|play| play.url == client.url());
    let address = match (&args.broker, play.and_then(|play| play.brokers.first().cloned())) {
        (Some(address), _) => address.clone(),
        (None, Some(address)) => address,
        (None, None) => {
            let answer = client.addresses(app).await?;
            first_address(&answer)
                .context("the control node names no broker; give one with --broker host:port")?
        }
    };
    let mut found = tokio::net::lookup_host(&address)
        .await
        .with_context(|| format!("cannot find {address}"))?;
    found.next().with_context(|| format!("{address} has no address"))
}

/// The list holds texts, or objects with an `address`.
fn first_address(answer: &Value) -> Option<String> {
    let first = answer["addresses"].as_array()?.first()?;
    let address = if first.is_object() { &first["address"] } else { first };
    Some(address.as_str()?.to_owned())
}

struct Tail {
    broker: SocketAddr,
    ticket: Vec<u8>,
    topic_ids: Vec<TopicId>,
    topics: Vec<(TopicId, String)>,
    format: Format,
    left: Option<u64>,
    /// Standard output is gone, or the like.
    failed: Option<anyhow::Error>,
    connected: bool,
}

impl Tail {
    fn print(&self, source: Source, seq: u64, payload: &[u8]) -> anyhow::Result<()> {
        let topic = match source {
            Source::Topic { tag } => self.topics.iter().find(|(id, _)| id.tag() == tag),
            Source::Device | Source::App => None,
        };
        let to = match (source, topic) {
            (Source::Device, _) => "device".to_owned(),
            (Source::App, _) => "all".to_owned(),
            (Source::Topic { .. }, Some((_, name))) => format!("topic {name}"),
            (Source::Topic { tag }, None) => format!("topic {tag:08x}"),
        };
        let text = std::str::from_utf8(payload).ok();
        if self.format == Format::Json {
            let mut message = json!({"to": to, "seq": seq, "received_unix_ms": unix_ms()});
            match text {
                Some(text) => message["payload"] = text.into(),
                None => message["payload_base64"] = URL_SAFE_NO_PAD.encode(payload).into(),
            }
            return out::json_line(&message);
        }
        let body = match text {
            // A payload must not move the cursor or recolour the terminal.
            Some(text) => text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"),
            None => format!("({} bytes that are no text)", payload.len()),
        };
        Ok(out::line(format!("{to} #{seq}  {body}"))?)
    }
}

impl Owner for Tail {
    fn backoff(&self) -> Backoff {
        Backoff { first_ms: 500, max_ms: 10_000 }
    }

    async fn admit(&mut self) {}

    async fn dial(&mut self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.broker).await;
        if let Err(error) = &stream {
            eprintln!("cannot reach the broker at {}: {error}; trying again", self.broker);
        }
        let stream = stream?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn introduce(&mut self, greet: impl FnOnce(&Profile<'_>)) {
        greet(&Profile {
            ticket: &self.ticket,
            topics: &self.topic_ids,
            heartbeat_s: 0,
            network: 0,
            backoff: self.backoff(),
        });
    }

    fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Message { source, seq, payload, .. } => {
                if self.is_done() {
                    return;
                }
                self.failed = self.print(source, seq.0, payload).err();
                self.left = self.left.map(|left| left - 1);
            }
            Event::Ready => {
                self.connected = true;
                eprintln!("connected");
            }
            Event::Reset { stream, seq } => {
                eprintln!("the store went back: {stream:?} goes on from {}", seq.0);
            }
            Event::Closing(close) => eprintln!("the broker closes: {}", close.reason),
            Event::Welcomed { .. }
            | Event::Repeat { .. }
            | Event::CaughtUp { .. }
            | Event::Pong => {}
        }
    }

    fn lost(&mut self) {
        if std::mem::take(&mut self.connected) && !self.is_done() {
            eprintln!("disconnected; reconnecting");
        }
    }

    fn is_done(&self) -> bool {
        self.failed.is_some() || self.left == Some(0)
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_texts_or_objects() {
        for answer in [
            json!({"addresses": ["127.0.0.1:7400", "x:1"]}),
            json!({"addresses": [{"address": "127.0.0.1:7400", "load": 0.1}]}),
        ] {
            assert_eq!(first_address(&answer).as_deref(), Some("127.0.0.1:7400"));
        }
        assert_eq!(first_address(&json!({"addresses": []})), None);
        assert_eq!(first_address(&json!({})), None);
    }
}
