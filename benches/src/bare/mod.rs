//! The floor that every scenario is compared with: a server that holds connections, answers
//! heartbeats and sends what it is told to, with io_uring and nothing around it. No session, no
//! timer, no check of what devices say: only what any server on this kernel must do.
//!
//! It speaks the device protocol as far as that: a `Welcome` to the first bytes of a connection, a
//! `Pong` to each `Ping`, pushes. What it is told and what it answers is in `hawser_bare_protocol`.
//! Commands wait while one is under way; the end of input ends the process at once.
//!
//! Like the broker it has one thread, direct descriptors in as many rings as needed, a multishot
//! poll for each connection, and a one-shot receive into shared buffers when there is something. So
//! one process with 20,000 descriptors holds millions.
//!
//! Limits: 1,024 rings, each with 20,000 descriptors or the process's limit if that is less.

use std::io::Read;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use hawser_bare_protocol::command::{Answer, Command};
use hawser_bare_protocol::frames;
use hawser_broker::io::host::refuse_huge_pages;
use hawser_broker::io::retransmission::Bounds;
use hawser_broker::io::socket::{Inherited, listen, local_address};

use crate::io;
use crate::io::bare_ring::{Event, RECV_BUFFER_BYTES, Received, Shape};
use crate::io::bare_rings::Rings;
use accept::{Accept, Steered};
use connections::{Connections, State};
use job::Job;

mod accept;

mod connections;

mod job;

/// The broker's default.
const SEND_BUFFER_BYTES: u32 = 131_072;

/// What one ring holds. A larger table was not measured.
const TABLE_MAX: u64 = 20_000;
const TABLE_MIN: u64 = 1_024;

/// Bytes of commands read at once; no less than standard input's own buffer, which stays empty so.
const INPUT_BYTES: usize = 64 * 1024;

#[derive(clap::Args)]
pub struct Arguments {
    /// Where devices connect
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Of each connection's socket
    #[arg(long, value_name = "BYTES", default_value_t = SEND_BUFFER_BYTES)]
    send_buffer_bytes: u32,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // As the broker does: with them memory grows in steps of 2 MiB.
    refuse_huge_pages();
    let limit = io::raise_descriptor_limit()?;
    ensure!(limit >= TABLE_MIN, "the limit of open files is {limit}: raise it to {TABLE_MIN}");
    let inherited = Inherited {
        send_buffer_bytes: arguments.send_buffer_bytes as usize,
        rto: Bounds::default(),
    };
    let listener = listen(arguments.listen, 1, &inherited)
        .with_context(|| format!("cannot listen on {}", arguments.listen))?
        .pop()
        .expect("one was asked for");
    let address = local_address(&listener)?;
    let shape = Shape::for_table(limit.min(TABLE_MAX) as u32);
    let mut bare = Bare {
        rings: Rings::new(shape).context("cannot make a ring: Linux 6.6 or newer is needed")?,
        connections: Connections::new(shape.table),
        accept: Accept::new(listener),
        welcome: frames::welcome().leak(),
        pongs: frames::pongs(PONGS_MAX).leak(),
        events: Vec::new(),
        input: Input::Watched(Vec::new()),
        job: None,
    };
    bare.connections.add_table();
    bare.rings.ring(0).watch_input();
    println!("{}", Answer::Ready(address));
    while bare.input != Input::Ended {
        bare.turn()?;
    }
    Ok(())
}

/// The heartbeats that can end in one buffer: the first may have begun before it.
const PONGS_MAX: usize = RECV_BUFFER_BYTES as usize / 2 + 1;

struct Bare {
    rings: Rings,
    connections: Connections,
    accept: Accept,
    welcome: &'static [u8],
    pongs: &'static [u8],
    /// Of the ring that is being served; kept for its memory.
    events: Vec<Event>,
    input: Input,
    job: Option<Job>,
}

/// Standard input, with what of it was not obeyed yet.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    Watched(Vec<u8>),
    Ended,
}

impl Bare {
    fn turn(&mut self) -> anyhow::Result<()> {
        let steered = self.accept.steer(&mut self.rings).context("cannot make another ring")?;
        if steered == Steered::RingAdded {
            self.connections.add_table();
        }
        if let Some(job) = &mut self.job {
            job.step(&mut self.rings, &self.connections);
        }
        let job_ns = self.job.as_ref().map(|job| job.due_in_ns().unwrap_or(0));
        let limits = [job_ns, self.accept.retry_in_ns()];
        self.rings.wait(limits.into_iter().flatten().min());
        for ring in 0..self.rings.count() {
            self.serve(ring)?;
        }
        self.finish_job();
        self.obey()
    }

    fn serve(&mut self, ring: u32) -> anyhow::Result<()> {
        let mut events = std::mem::take(&mut self.events);
        self.rings.drain(ring, &mut events);
        for event in events.drain(..) {
            self.on_event(ring, event)?;
        }
        self.events = events;
        Ok(())
    }

    fn on_event(&mut self, ring: u32, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Accepted { index } => {
                self.connections.open(self.rings.slot(ring, index));
                self.rings.ring(ring).watch(index);
                self.accept.accepted(ring, &mut self.rings);
            }
            Event::AcceptEnded { starved } => self.accept.ended(starved),
            Event::Ready { index, hangup, armed } => self.ready(ring, index, hangup, armed),
            Event::Received { index, bytes, more } => self.received(ring, index, bytes, more),
            Event::Again { index } => self.rings.ring(ring).receive(index),
            Event::Ended { index } => self.end(ring, index),
            Event::Unsent { index, staged, waits } => {
                if let (true, Some(job)) = (staged, &mut self.job) {
                    job.failed();
                }
                // After half a frame nothing more can follow.
                if !waits {
                    self.end(ring, index);
                }
            }
            Event::Woken => self.rings.woken(),
            Event::Input => self.read_input()?,
        }
        Ok(())
    }

    fn ready(&mut self, ring: u32, index: u32, hangup: bool, armed: bool) {
        let slot = self.rings.slot(ring, index);
        let state = self.connections.state(slot);
        if !armed && (hangup || state == State::Closing) {
            // Nothing of the connection is in the kernel any more.
            self.connections.free(slot);
            self.accept.closed(ring);
            self.rings.ring(ring).close(index);
        } else if hangup {
            self.end(ring, index);
        } else if state != State::Closing {
            if !armed {
                self.rings.ring(ring).watch(index);
            }
            self.rings.ring(ring).receive(index);
        }
    }

    fn received(&mut self, ring: u32, index: u32, bytes: Received, more: bool) {
        let slot = self.rings.slot(ring, index);
        let skim = self.connections.skim(slot);
        let pings = self.rings.ring(ring).read(bytes, |bytes| skim.pings(bytes));
        let state = self.connections.state(slot);
        if matches!(state, State::Closing | State::Free) {
            return;
        }
        let Ok(pings) = pings else { return self.end(ring, index) };
        let ring = self.rings.ring(ring);
        if state == State::Silent {
            self.connections.welcome(slot);
            ring.reply(index, self.welcome);
        }
        if pings > 0 {
            ring.reply(index, &self.pongs[..pings * self.pongs.len() / PONGS_MAX]);
        }
        if more {
            ring.receive(index);
        }
    }

    /// The connection counts no longer. It is closed when its watch has ended, so that nothing in
    /// the kernel speaks of its descriptor when that is used again.
    fn end(&mut self, ring: u32, index: u32) {
        let slot = self.rings.slot(ring, index);
        if matches!(self.connections.state(slot), State::Silent | State::Welcomed) {
            self.connections.closing(slot);
            self.rings.ring(ring).cancel_watch(index);
        }
    }

    fn finish_job(&mut self) {
        if let Some(job) = self.job.take_if(|job| job.due_in_ns().is_none()) {
            println!("{}", job.answer());
        }
    }

    fn read_input(&mut self) -> anyhow::Result<()> {
        let mut buffer = vec![0; INPUT_BYTES];
        let count = std::io::stdin().read(&mut buffer)?;
        match &mut self.input {
            Input::Watched(pending) if count > 0 => pending.extend_from_slice(&buffer[..count]),
            _ => self.input = Input::Ended,
        }
        self.rings.ring(0).watch_input();
        Ok(())
    }

    /// Begins with what was told, one command after another.
    fn obey(&mut self) -> anyhow::Result<()> {
        while self.job.is_none() {
            let Input::Watched(pending) = &mut self.input else { break };
            let Some(end) = pending.iter().position(|&byte| byte == b'\n') else { break };
            let line: Vec<u8> = pending.drain(..=end).collect();
            match Command::parse(&String::from_utf8_lossy(&line))? {
                Command::Count => println!("{}", Answer::Count(self.connections.count() as u64)),
                Command::Fanout { frame } => self.job = Some(Job::fanout(frame)?),
                Command::Push(order) => self.job = Some(Job::push(order, &self.connections)),
            }
        }
        Ok(())
    }
}
