//! The inside of one fleet process: thousands of simulated devices on one thread.
//!
//! ```text
//!   hawser play ──stdin──▶ the app's name and signing key, once; closing it ends the fleet
//!               ◀─stdout── a record for everything that an application sees
//! ```
//!
//! The fleet signs its devices' tickets itself, as an app's own server would. Devices keep their
//! positions across reconnects and subscribe to one topic each: device `i` to topic `i % topics`.

use std::cell::RefCell;
use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use hawser_codec::ids::TopicId;
use hawser_codec::session::{Backoff, Event, Positions, Profile, Session};
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::LocalSet;

use super::device::{Clock, Owner, live};
use super::mark::{Mark, unix_us};
use super::record::{Record, What};

/// Devices of one process: each is a descriptor, and 20,000 is a common hard limit.
pub const DEVICES_PER_FLEET_MAX: u32 = 9_000;

/// Dials under way at once, so that a fleet does not overflow the accept queue.
const DIALS_MAX: usize = 256;

/// Devices per source address: one address has about 28,000 ports towards one listener.
const DEVICES_PER_SOURCE: u32 = 25_000;

/// Reconnects within a test's patience; jitter comes from each session's seed.
const BACKOFF: Backoff = Backoff { first_ms: 200, max_ms: 2_000 };

const TICKET_TTL_S: u64 = 24 * 3600;

/// What a fleet process is told on its command line.
#[derive(Clone, Copy, Debug)]
pub struct FleetPlan {
    pub broker: SocketAddr,
    /// The number of its first device.
    pub first: u32,
    pub count: u32,
    pub topics: u32,
    /// Messages of other runs are nothing to compare.
    pub run: u32,
    /// Whether the whole play has more devices than one source address has ports.
    pub many_sources: bool,
}

/// The name of a simulated device.
pub fn device_name(device: u32) -> String {
    format!("device-{device:06}")
}

/// The name of a topic that simulated devices subscribe to.
pub fn topic_name(topic: u32) -> String {
    format!("topic-{topic}")
}

/// What the fleet is told on its standard input: one line, since arguments are public.
#[derive(Debug)]
pub struct Credentials {
    pub app: String,
    pub key_id: u32,
    /// base64url, as the API gives it.
    pub seed: String,
}

impl Credentials {
    pub fn line(&self) -> String {
        format!("{} {} {}\n", self.app, self.key_id, self.seed)
    }

    fn parse(line: &str) -> Option<(String, u32, SigningKey)> {
        let mut words = line.split_whitespace();
        let (app, key_id, seed) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let seed: [u8; 32] = URL_SAFE_NO_PAD.decode(seed).ok()?.try_into().ok()?;
        Some((app.to_owned(), key_id, SigningKey::from_bytes(&seed)))
    }
}

/// Runs the fleet until standard input closes.
pub fn run(plan: FleetPlan) -> anyhow::Result<()> {
    anyhow::ensure!(
        plan.count <= DEVICES_PER_FLEET_MAX,
        "a fleet has at most {DEVICES_PER_FLEET_MAX} devices"
    );
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("cannot read the credentials")?;
    let (app, key_id, key) =
        Credentials::parse(&line).context("the credentials line is not `app key-id seed`")?;
    let fleet = Rc::new(Fleet {
        plan,
        app,
        key_id,
        key,
        clock: Clock::start(),
        dials: Semaphore::new(DIALS_MAX).into(),
        outbox: RefCell::default(),
        written: Notify::new(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let end = stdin_closed();
        for device in plan.first..plan.first + plan.count {
            tokio::task::spawn_local(run_device(fleet.clone(), device));
        }
        tokio::select! {
            result = fleet.report() => result.context("cannot report to `hawser play`"),
            _ = end => Ok(()),
        }
    })
}

/// Resolves when the other end of standard input goes away. A thread, since reading it blocks.
fn stdin_closed() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock().take(u64::MAX), &mut io::sink());
        let _ = sender.send(());
    });
    receiver
}

/// What the devices of one process share.
struct Fleet {
    plan: FleetPlan,
    app: String,
    key_id: u32,
    key: SigningKey,
    clock: Clock,
    dials: std::sync::Arc<Semaphore>,
    outbox: RefCell<Vec<u8>>,
    written: Notify,
}

impl Fleet {
    fn tell(&self, device: u32, what: What) {
        Record { device, what }.encode(&mut self.outbox.borrow_mut());
        self.written.notify_one();
    }

    /// Writes records in the order in which they were made. Writing blocks the thread when `hawser
    /// play` does not keep up: then the devices stop reading too, and nothing is buffered without
    /// bound.
    async fn report(&self) -> io::Result<()> {
        loop {
            self.written.notified().await;
            let records = std::mem::take(&mut *self.outbox.borrow_mut());
            let mut stdout = io::stdout().lock();
            stdout.write_all(&records)?;
            stdout.flush()?;
        }
    }

    fn ticket(&self, device: u32) -> Vec<u8> {
        let now_s =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let mut ticket = Ticket::unsigned(
            Algorithm::Ed25519,
            self.key_id,
            now_s + TICKET_TTL_S,
            &self.app,
            &device_name(device),
        );
        let signature = self.key.sign(&[SIGNATURE_CONTEXT, &ticket].concat());
        ticket.extend_from_slice(&signature.to_bytes());
        ticket
    }
}

async fn run_device(fleet: Rc<Fleet>, device: u32) {
    let mut session = Session::new(Positions::default(), device, fleet.clock.now_ms());
    let clock = fleet.clock;
    let mut owner = SimulatedDevice { fleet, device, dialling: None, welcomed: false };
    let reason = live(&mut session, &mut owner, clock).await;
    // A simulated device never leaves on purpose, so this is for a person to read in the log.
    eprintln!("{} stopped: {reason}", device_name(device));
}

struct SimulatedDevice {
    fleet: Rc<Fleet>,
    device: u32,
    /// Held from before the dial until the welcome.
    dialling: Option<OwnedSemaphorePermit>,
    welcomed: bool,
}

impl Owner for SimulatedDevice {
    fn backoff(&self) -> Backoff {
        BACKOFF
    }

    async fn admit(&mut self) {
        let permit = self.fleet.dials.clone().acquire_owned().await;
        self.dialling = Some(permit.expect("the semaphore is never closed"));
    }

    async fn dial(&mut self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if self.fleet.plan.many_sources {
            let last = 2 + (self.device / DEVICES_PER_SOURCE) as u8;
            socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0))?;
        }
        let stream = socket.connect(self.fleet.plan.broker).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn introduce(&mut self, greet: impl FnOnce(&Profile<'_>)) {
        let ticket = self.fleet.ticket(self.device);
        let topic = self.device.checked_rem(self.fleet.plan.topics);
        let topics = topic.map(|topic| TopicId::new(&topic_name(topic)));
        greet(&Profile {
            ticket: &ticket,
            topics: topics.as_slice(),
            heartbeat_s: 0,
            network: 1,
            backoff: BACKOFF,
        });
    }

    fn hear(&mut self, event: Event<'_>) {
        let what = match event {
            Event::Welcomed { .. } => {
                self.welcomed = true;
                self.dialling = None;
                return;
            }
            Event::Ready => What::Ready,
            Event::Reset { .. } => What::Reset,
            Event::Message { stream, seq, payload, .. } => match Mark::parse(payload) {
                Some(Mark { run, kind, number, sent_us }) if run == self.fleet.plan.run => {
                    let waited_us = unix_us().saturating_sub(sent_us);
                    let latency_us = u32::try_from(waited_us).unwrap_or(u32::MAX);
                    What::Seen { kind, stream, seq: seq.0, number, latency_us }
                }
                Some(_) | None => What::Other,
            },
            // The session has recognised it: the application does not see it.
            Event::Repeat { .. } | Event::Pong | Event::CaughtUp { .. } | Event::Closing(_) => {
                return;
            }
        };
        self.fleet.tell(self.device, what);
    }

    fn lost(&mut self) {
        self.dialling = None;
        if std::mem::take(&mut self.welcomed) {
            self.fleet.tell(self.device, What::Lost);
        }
    }

    fn is_done(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_travel_in_one_line() {
        let seed = URL_SAFE_NO_PAD.encode([7; 32]);
        let line = Credentials { app: "shop".to_owned(), key_id: 3, seed }.line();
        let (app, key_id, key) = Credentials::parse(&line).unwrap();
        assert_eq!((app.as_str(), key_id, key.to_bytes()), ("shop", 3, [7; 32]));
        for bad in ["", "shop", "shop 3", "shop x AAAA", "shop 3 AAAA"] {
            assert!(Credentials::parse(bad).is_none(), "{bad:?}");
        }
    }
}
