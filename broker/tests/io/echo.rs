//! An echo server on `trait Io`, for the tests of its two sides. It keeps the contract of the trait
//! with the least code: one receive and one send per connection at a time, close when quiet.

use std::collections::BTreeMap;

use hawser_broker::io::{Completion, Io, Pending, Received, Target, Unsent};

#[derive(Default)]
struct Conn {
    generation: u16,
    open: bool,
    watched: bool,
    receiving: bool,
    again: bool,
    writable: bool,
    ended: bool,
    closed: bool,
    /// Received and not yet sent back.
    echo: Vec<u8>,
}

pub struct Echo<I: Io> {
    pub io: I,
    conns: BTreeMap<u32, Conn>,
    /// Slots in the order of their accepts.
    pub accepted: Vec<u32>,
    pub closed: u64,
    /// A record of everything that happened, to compare runs.
    pub trace: Vec<String>,
}

impl<I: Io> Echo<I> {
    pub fn new(mut io: I) -> Echo<I> {
        io.accept_start();
        Echo { io, conns: BTreeMap::new(), accepted: Vec::new(), closed: 0, trace: Vec::new() }
    }

    pub fn open(&self) -> usize {
        self.conns.values().filter(|conn| conn.open).count()
    }

    /// One round: completions, receives, sends, closes.
    pub fn turn(&mut self, timeout_ms: Option<u64>) {
        self.io.wait(timeout_ms);
        loop {
            let mut progress = false;
            while let Some(completion) = self.io.next() {
                progress = true;
                self.trace.push(format!("{completion:?}"));
                self.take(completion);
            }
            if !progress {
                break;
            }
            self.io.submit();
        }
        self.send();
        self.close_quiet();
    }

    fn conn(&mut self, target: Target) -> &mut Conn {
        let conn = self.conns.get_mut(&target.slot).expect("a completion of a known slot");
        assert!(conn.open && conn.generation == target.generation, "{target:?} is stale");
        conn
    }

    fn take(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { slot } => {
                let conn = self.conns.entry(slot).or_default();
                assert!(!conn.open, "slot {slot} was accepted while it is open");
                *conn = Conn { generation: conn.generation + 1, open: true, ..Conn::default() };
                conn.watched = true;
                let target = Target { slot, generation: conn.generation };
                self.accepted.push(slot);
                self.io.watch(target);
            }
            Completion::Readable { target, armed, .. } => {
                let conn = self.conn(target);
                conn.watched = armed;
                let rewatch = !armed && !conn.ended;
                if rewatch {
                    conn.watched = true;
                    self.io.watch(target);
                }
                self.receive(target);
            }
            Completion::Received { target, result } => {
                let conn = self.conn(target);
                conn.receiving = false;
                let again = std::mem::take(&mut conn.again);
                match result {
                    Received::Bytes { buffer, more } => {
                        let bytes = self.io.bytes(&buffer).to_vec();
                        self.io.give_back(buffer);
                        self.conn(target).echo.extend(bytes);
                        if more || again {
                            self.receive(target);
                        }
                    }
                    Received::Empty if !again => {}
                    Received::Empty | Received::NoBuffers => self.receive(target),
                    Received::End | Received::Failed => self.end(target),
                }
            }
            Completion::Writable { target } => self.conn(target).writable = false,
            Completion::WatchFailed { target } => {
                self.conn(target).watched = false;
                self.end(target);
            }
            Completion::Closed { target } => {
                self.conn(target).open = false;
                self.closed += 1;
            }
            Completion::Connected { .. } => panic!("an echo server dials nobody"),
        }
    }

    fn receive(&mut self, target: Target) {
        let conn = self.conn(target);
        if conn.receiving {
            conn.again = true;
        } else if !conn.ended {
            conn.receiving = true;
            self.io.receive(target);
        }
    }

    fn end(&mut self, target: Target) {
        let conn = self.conn(target);
        if !conn.ended {
            conn.ended = true;
            let (watched, writable) = (conn.watched, conn.writable);
            if watched {
                self.io.cancel(target, Pending::Watch);
            }
            if writable {
                self.io.cancel(target, Pending::Writable);
            }
        }
    }

    fn send(&mut self) {
        let ready = |conn: &&Conn| {
            conn.open && !conn.closed && !conn.ended && !conn.writable && !conn.echo.is_empty()
        };
        let mut unsent: Vec<Unsent> = Vec::new();
        let sends = self.conns.iter().filter(|(_, conn)| ready(conn)).map(|(&slot, conn)| {
            (Target { slot, generation: conn.generation }, conn.echo.as_slice())
        });
        self.io.send(sends, &mut unsent);
        let sent: Vec<Target> = self
            .conns
            .iter()
            .filter(|(_, conn)| ready(conn))
            .map(|(&slot, conn)| Target { slot, generation: conn.generation })
            .collect();
        for target in sent {
            match unsent.iter().find(|short| short.target == target).copied() {
                None => self.conn(target).echo.clear(),
                Some(short) if short.failed => self.end(target),
                Some(short) => {
                    self.trace.push(format!("{short:?}"));
                    let conn = self.conn(target);
                    assert!((short.written as usize) < conn.echo.len());
                    conn.echo.drain(..short.written as usize);
                    conn.writable = true;
                    self.io.watch_writable(target);
                }
            }
        }
    }

    fn close_quiet(&mut self) {
        for (&slot, conn) in &mut self.conns {
            let quiet = !conn.watched && !conn.receiving && !conn.writable;
            if conn.open && conn.ended && quiet && !conn.closed {
                conn.closed = true;
                self.io.close(Target { slot, generation: conn.generation });
            }
        }
    }
}
