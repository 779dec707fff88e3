//! The codec beside three others that could have carried the same messages.
//!
//! Each format gets a batch of the same messages and writes them into one buffer that it has had
//! before; then it reads that buffer as the stream it is. What counts as reading: every field is
//! found, checked and available, and nothing is copied that the format does not need to copy. All
//! formats take turns within each round, so that a change of the machine's speed meets them alike;
//! the ratio to XMPP is taken per round.
//!
//! Choices in favour of the others: XMPP stanzas are written without optional attributes, its
//! acknowledgement is the short one of XEP-0198, its text needs no escaping, and its parser
//! resolves no namespaces; MQTT gets a 10-byte topic and its receive buffer is filled outside the
//! measured time; JSON uses one-letter keys.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::results::Output;
use crate::spread::Spread;

mod hawser;

mod json;

mod mqtt;

mod xmpp;

const METHOD: &str = "\
How it is measured:
  Each format writes and reads batches of 256 messages of one kind, or of the mix that a device
  mostly sees: message, acknowledgement, heartbeat and its answer. In a round every format has its
  turn, so that what the machine does otherwise hits all alike, and of its batches the faster half
  counts. A time is that for one message: the median of the rounds, with quartiles. xmpp_over_hawser
  is how many times as long XMPP takes, from the same rounds.

Examples:
  hawser-bench codec
  hawser-bench codec --rounds 101 --json";

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    /// Rounds in which every format is measured once
    #[arg(long, value_name = "N", default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds for one measurement of one format
    #[arg(long, value_name = "MS", default_value_t = 5)]
    measure_ms: u64,
}

/// What all formats can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Ping,
    Pong,
    /// A message to one device.
    Push {
        seq: u64,
        payload: &'a str,
    },
    /// The device has everything up to `seq`.
    Ack {
        seq: u64,
    },
    /// There is more, up to `seq`.
    Notice {
        seq: u64,
    },
}

/// A wire format with its buffers.
pub trait Format: Default {
    const NAME: &'static str;
    /// Writes a batch and returns its bytes.
    fn encode(&mut self, batch: &[Message<'_>]) -> usize;
    /// Puts what was encoded where `decode` reads it. Not measured.
    fn load(&mut self);
    /// Reads everything that was loaded.
    fn decode(&mut self, each: impl FnMut(Message<'_>));
}

/// Messages of a batch: enough to measure, few enough to stay in the processor's cache.
const BATCH: usize = 256;

const PAYLOAD_64: &str = "Order 184220 has left the warehouse and arrives tomorrow by noon";

const _: () = assert!(PAYLOAD_64.len() == 64);

/// The sequence number of the messages; MQTT's packet identifiers end at 65,535.
const SEQ: u64 = 42_000;

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let payload_1k = PAYLOAD_64.repeat(16);
    let (payload, seq) = (PAYLOAD_64, SEQ);
    let push = Message::Push { seq, payload };
    let scenarios: [(&str, &[Message<'_>]); 6] = [
        // What a device's day is made of.
        ("mix", &[push, Message::Ack { seq }, Message::Ping, Message::Pong]),
        ("push 64 B", &[push]),
        ("push 1 KiB", &[Message::Push { seq, payload: &payload_1k }]),
        ("ack", &[Message::Ack { seq }]),
        ("notice", &[Message::Notice { seq }]),
        ("heartbeat", &[Message::Ping, Message::Pong]),
    ];
    if !output.json {
        println!(
            "ns per message: median (quartiles) of {} rounds; x: times hawser\n",
            arguments.rounds
        );
    }
    for (scenario, pattern) in scenarios {
        let batch: Vec<Message<'_>> = pattern.iter().copied().cycle().take(BATCH).collect();
        let mut bench = [
            Lane::new::<hawser::Hawser>(),
            Lane::new::<xmpp::Xmpp>(),
            Lane::new::<mqtt::Mqtt>(),
            Lane::new::<json::Json>(),
        ];
        let time = Duration::from_millis(arguments.measure_ms);
        for _ in 0..arguments.rounds {
            for lane in &mut bench {
                let measured = (lane.measure)(&batch, time);
                lane.rounds.push(measured);
            }
        }
        report(scenario, &bench, arguments, output)?;
    }
    Ok(())
}

/// One format's measurements.
struct Lane {
    name: &'static str,
    measure: fn(&[Message<'_>], Duration) -> Measured,
    rounds: Vec<Measured>,
}

#[derive(Clone, Copy)]
struct Measured {
    encode_ns: f64,
    decode_ns: f64,
    bytes: f64,
}

impl Lane {
    fn new<F: Format>() -> Lane {
        Lane { name: F::NAME, measure: measure::<F>, rounds: Vec::new() }
    }

    fn spread(&self, of: impl Fn(&Measured) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(of))
    }
}

/// Encodes and decodes the batch for `time` each. The first pass checks that the format says what
/// it was given, and warms its buffers.
fn measure<F: Format>(batch: &[Message<'_>], time: Duration) -> Measured {
    let mut format = F::default();
    let bytes = format.encode(batch);
    format.load();
    let mut expected = batch.iter();
    format.decode(|message| assert_eq!(Some(&message), expected.next(), "{}", F::NAME));
    assert!(expected.next().is_none(), "{} lost messages", F::NAME);

    let encode_ns = per_message(batch.len(), time, || {
        let started = Instant::now();
        black_box(format.encode(black_box(batch)));
        started.elapsed()
    });
    let decode_ns = per_message(batch.len(), time, || {
        format.load();
        let started = Instant::now();
        format.decode(|message| {
            black_box(message);
        });
        started.elapsed()
    });
    Measured { encode_ns, decode_ns, bytes: bytes as f64 / batch.len() as f64 }
}

/// Repeats a batch until `time` is used up; the fastest half of the batches is averaged, so that
/// an interruption by another process is not counted.
fn per_message(messages: usize, time: Duration, mut batch: impl FnMut() -> Duration) -> f64 {
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < 8 || started.elapsed() < time {
        times.push(batch());
    }
    times.sort_unstable();
    let fastest = &times[..times.len() / 2];
    let total: Duration = fastest.iter().sum();
    total.as_nanos() as f64 / (fastest.len() * messages) as f64
}

fn report(
    scenario: &str,
    lanes: &[Lane],
    arguments: &Arguments,
    output: &Output,
) -> anyhow::Result<()> {
    let (ours, xmpp) = (&lanes[0], &lanes[1]);
    let ratio = |of: fn(&Measured) -> f64| {
        Spread::of(xmpp.rounds.iter().zip(&ours.rounds).map(|(xmpp, ours)| of(xmpp) / of(ours)))
    };
    let faster_encode = ratio(|one| one.encode_ns);
    let faster_decode = ratio(|one| one.decode_ns);
    let faster_both = ratio(|one| one.encode_ns + one.decode_ns);
    let bytes_percent = 100.0 * ours.rounds[0].bytes / xmpp.rounds[0].bytes;

    let mut formats = serde_json::Map::new();
    for lane in lanes {
        formats.insert(
            lane.name.to_owned(),
            json!({
                "encode_ns": lane.spread(|one| one.encode_ns),
                "decode_ns": lane.spread(|one| one.decode_ns),
                "bytes": lane.rounds[0].bytes,
            }),
        );
    }
    let values = json!({
        "rounds": arguments.rounds,
        "formats": formats,
        "xmpp_over_hawser": {
            "encode": faster_encode, "decode": faster_decode, "both": faster_both,
            "bytes_percent": bytes_percent,
        },
    });
    output.row("codec", scenario, None, values)?;
    if output.json {
        return Ok(());
    }
    println!("{scenario:<12} {:>30} {:>30} {:>9}", "encode", "decode", "bytes");
    for lane in lanes {
        let cell = |of: fn(&Measured) -> f64| {
            let (spread, base) = (lane.spread(of), ours.spread(of));
            let times = spread.median / base.median;
            format!("{:.1} ({:.1}-{:.1}) {times:>5.1}x", spread.median, spread.low, spread.high)
        };
        let (encode, decode) = (cell(|one| one.encode_ns), cell(|one| one.decode_ns));
        println!("  {:<10} {encode:>30} {decode:>30} {:>9.1}", lane.name, lane.rounds[0].bytes);
    }
    println!(
        "  against XMPP: encode {:.1}x, decode {:.1}x, both {:.1}x faster; {bytes_percent:.0} % of its bytes\n",
        faster_encode.median, faster_decode.median, faster_both.median
    );
    Ok(())
}
