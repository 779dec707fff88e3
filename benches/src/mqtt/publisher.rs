//! A connection that publishes: the sending side of a broker under test, as `control_end.rs` is for
//! hawser's. It blocks, and is the first to meet a server, so it also says what is wrong with one.
//!
//! What is published is written in pieces of [`WRITE_BYTES`], or at [`Publisher::flush`]. At QoS 1 at
//! most [`UNACKED_MAX`] messages wait for their acknowledgements; it reads these only when there is no
//! more room, so a server must be able to keep that many answers of four bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use hawser_bare_protocol::command::Push;
use hawser_bare_protocol::schedule::Schedule;

use super::packet::{Delivery, NotMqtt, Qos, Stream, ToClient, ToServer, refusal};
use super::topic_of;
use crate::io::monotonic_ns;

const WRITE_BYTES: usize = 64 * 1024;

const UNACKED_MAX: usize = 1024;

/// The longest that the protocol has: no run takes so long that a publisher would have to ping.
const KEEP_ALIVE_S: u16 = u16::MAX;

/// How long a server may take no bytes, or withhold acknowledgements.
const STUCK: Duration = Duration::from_secs(30);

/// Between looks at the clock when the next message is not due.
const NAP: Duration = Duration::from_micros(200);

pub struct Publisher {
    server: SocketAddr,
    socket: TcpStream,
    stream: Stream,
    qos: Qos,
    id: u16,
    unacked: usize,
    out: Vec<u8>,
}

impl Publisher {
    /// A publisher that the server has accepted within `patience`.
    pub fn connect(
        server: SocketAddr,
        client_id: &str,
        qos: Qos,
        patience: Duration,
    ) -> anyhow::Result<Publisher> {
        let socket = TcpStream::connect_timeout(&server, patience).with_context(|| {
            format!("cannot connect to {server}: see that the server runs and listens there")
        })?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(STUCK))?;
        let stream = Stream::default();
        let mut publisher =
            Publisher { server, socket, stream, qos, id: 0, unacked: 0, out: Vec::new() };
        ToServer::Connect { client_id, keep_alive_s: KEEP_ALIVE_S }.encode(&mut publisher.out);
        publisher.flush()?;
        publisher.await_welcome(patience)?;
        publisher.socket.set_read_timeout(Some(STUCK))?;
        Ok(publisher)
    }

    fn await_welcome(&mut self, patience: Duration) -> anyhow::Result<()> {
        let server = self.server;
        let mut code = None;
        let mut buffer = [0; 256];
        while code.is_none() {
            let count = match self.socket.read(&mut buffer) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    bail!("{server} did not answer an MQTT CONNECT within {patience:?}")
                }
                Ok(0) | Err(_) => bail!(
                    "{server} closed the connection instead of answering an MQTT CONNECT: does it \
                     speak MQTT 3.1.1, and to clients without a password?"
                ),
                Ok(count) => count,
            };
            let bytes = &buffer[..count];
            let fed = self.stream.feed(bytes, |packet| match packet {
                ToClient::ConnAck { code: said, .. } if code.is_none() => {
                    code = Some(said);
                    Ok(())
                }
                _ => Err(NotMqtt),
            });
            fed.map_err(|NotMqtt| {
                let said = bytes[..count.min(24)].escape_ascii();
                anyhow!("{server} does not speak MQTT 3.1.1: it answered a CONNECT with \"{said}\"")
            })?;
        }
        let code = code.expect("the loop ends with one");
        ensure!(code == 0, "{server} refused an MQTT CONNECT: {}", refusal(code));
        Ok(())
    }

    /// A wait with a limit is not resumed by itself after a signal.
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.socket.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// One message, which leaves at the latest with the next [`Publisher::flush`].
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> anyhow::Result<()> {
        let delivery = match self.qos {
            Qos::AtMostOnce => Delivery::AtMostOnce,
            Qos::AtLeastOnce => {
                if self.unacked == UNACKED_MAX {
                    self.await_acks(UNACKED_MAX / 2)?;
                }
                self.unacked += 1;
                self.id = self.id.checked_add(1).unwrap_or(1);
                Delivery::AtLeastOnce { id: self.id }
            }
        };
        ToServer::Publish { topic, delivery, payload }.encode(&mut self.out);
        if self.out.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    pub fn flush(&mut self) -> anyhow::Result<()> {
        let written = self.socket.write_all(&self.out);
        self.out.clear();
        let server = self.server;
        written.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                anyhow!("{server} took nothing from a publisher for {STUCK:?}")
            }
            _ => anyhow!("{server} ended a publisher's connection: {error}"),
        })
    }

    /// The order's messages, each to the topic of one of so many devices. The first eight bytes of a
    /// payload are when it was due, on the monotonic clock. Returns when the server has them, as far
    /// as the QoS tells.
    pub fn push(&mut self, order: Push, devices: u32) -> anyhow::Result<()> {
        let mut schedule = Schedule::new(order, devices as usize, monotonic_ns());
        let mut payload = vec![b'm'; order.payload_bytes];
        while let Some(due_ns) = schedule.due_ns() {
            let now_ns = monotonic_ns();
            if due_ns > now_ns {
                std::thread::sleep(NAP.min(Duration::from_nanos(due_ns - now_ns)));
                continue;
            }
            let mut left = WRITE_BYTES / order.payload_bytes;
            while left > 0
                && let Some(message) = schedule.next(now_ns)
            {
                payload[..8].copy_from_slice(&message.stamp_ns.to_le_bytes());
                self.publish(&topic_of(message.connection as u32), &payload)?;
                left -= 1;
            }
            self.flush()?;
        }
        self.await_acks(0)
    }

    /// Waits until no more than so many messages are unacknowledged.
    fn await_acks(&mut self, most: usize) -> anyhow::Result<()> {
        self.flush()?;
        let mut buffer = [0; 4096];
        while self.unacked > most {
            let count = match self.read(&mut buffer) {
                Ok(0) => bail!("{} ended a publisher's connection", self.server),
                Ok(count) => count,
                Err(error) => bail!("{} acknowledges no messages: {error}", self.server),
            };
            let unacked = &mut self.unacked;
            let fed = self.stream.feed(&buffer[..count], |packet| match packet {
                ToClient::PubAck { .. } if *unacked > 0 => {
                    *unacked -= 1;
                    Ok(())
                }
                _ => Err(NotMqtt),
            });
            fed.map_err(|NotMqtt| anyhow!("{} broke MQTT 3.1.1 to a publisher", self.server))?;
        }
        Ok(())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Without it some servers would publish a will, which there is not, or log an error.
        let mut out = Vec::new();
        ToServer::Disconnect.encode(&mut out);
        let _ = self.socket.write_all(&out);
    }
}
