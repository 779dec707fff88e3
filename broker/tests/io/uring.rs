//! The rings on loopback: many of them, slots that come back, short writes, wake-ups.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::echo::Echo;
use hawser_broker::io::host::EventFd;
use hawser_broker::io::probe::{Missing, probe};
use hawser_broker::io::retransmission::Bounds;
use hawser_broker::io::socket::Inherited;
use hawser_broker::io::uring::{RingShape, UringConfig, UringIo};
use hawser_broker::io::{Completion, Io, IoCounters, Target, socket};

const DEADLINE: Duration = Duration::from_secs(30);

const INHERITED: Inherited =
    Inherited { send_buffer_bytes: 16 * 1024, rto: Bounds { min_ms: 0, max_ms: 0 } };

/// A table with a completion queue of 16, so that a ring takes 44 connections.
const TABLE: u32 = 64;

struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    wake: Arc<EventFd>,
    /// After each turn: open connections, closed ones, counters.
    states: Receiver<(usize, u64, IoCounters)>,
    thread: Option<JoinHandle<Vec<u32>>>,
}

impl Server {
    fn start(address: &str, table: u32, rings_max: u32) -> Server {
        let listener = socket::listen(address.parse().unwrap(), 1, &INHERITED).unwrap().remove(0);
        let address = socket::local_address(&listener).unwrap();
        let (stop, wake) = (Arc::new(AtomicBool::new(false)), Arc::new(EventFd::new().unwrap()));
        let config = UringConfig {
            shape: RingShape::for_table(table),
            rings_max,
            links: 0,
            listeners: vec![listener],
            wake: wake.clone(),
        };
        let (report, states) = channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut echo = Echo::new(UringIo::new(config).expect("a ring"));
            while !stopped.load(Ordering::Relaxed) {
                // No time limit: whatever does not wake the rings hangs the test.
                echo.turn(None);
                echo.trace.clear();
                let state = (echo.open(), echo.closed, echo.io.counters());
                report.send(state).expect("the test listens");
            }
            echo.accepted
        });
        Server { address, stop, wake, states, thread: Some(thread) }
    }

    /// Waits for a turn after which the condition holds.
    fn wait_for(&self, what: &str, holds: impl Fn(usize, u64, IoCounters) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        let mut last = None;
        while let Ok(state) =
            self.states.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if holds(state.0, state.1, state.2) {
                return;
            }
            last = Some(state);
        }
        panic!("{what} did not come; the last turn: {last:?}");
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Ends the thread; returns the slots in the order of their accepts.
    fn end(mut self) -> Vec<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.wake.signal();
        self.thread.take().expect("ended once").join().expect("the server does not panic")
    }
}

fn echoes(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).expect("the echo comes");
    assert_eq!(back, bytes);
}

#[test]
fn connections_spread_over_rings_and_their_slots_come_back() {
    let server = Server::start("127.0.0.1:0", TABLE, 8);
    for round in 0..3 {
        let mut clients: Vec<TcpStream> = (0..150).map(|_| server.connect()).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            echoes(client, format!("round {round} client {index}").as_bytes());
        }
        // Once more, now that every ring sleeps.
        for client in &mut clients {
            echoes(client, &[round; 300]);
        }
        drop(clients);
        server.wait_for("the end of all", |open, _, counters| {
            open == 0 && counters.slots_in_use == 0
        });
    }
    let accepted = server.end();
    assert_eq!(accepted.len(), 450);
    let rings: HashSet<u32> = accepted.iter().map(|slot| slot / TABLE).collect();
    assert!(rings.len() >= 3, "150 connections do not fit two rings of {TABLE}: {rings:?}");
    let slots: HashSet<u32> = accepted.iter().copied().collect();
    assert!(slots.len() < 300, "450 connections used {} slots", slots.len());
}

#[test]
fn a_full_table_leaves_the_rest_waiting_and_takes_it_when_there_is_room() {
    let server = Server::start("127.0.0.1:0", TABLE, 1);
    let mut clients: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    let usable = u64::from(RingShape::for_table(TABLE).usable());
    for client in &mut clients[..usable as usize] {
        echoes(client, b"in");
    }
    // Those behind wait in the listener's queue; their turn comes as others leave.
    while !clients.is_empty() {
        let count = clients.len().min(10);
        clients.drain(..count);
        for client in clients.iter_mut().take(usable as usize - TABLE as usize / 4) {
            echoes(client, b"still or newly in");
        }
    }
    server.wait_for("the end of all", |open, _, counters| open == 0 && counters.slots_in_use == 0);
    let accepted = server.end();
    assert_eq!(accepted.len(), 100, "nobody was lost");
    assert!(accepted.iter().all(|&slot| slot < TABLE));
}

#[test]
fn what_a_full_socket_does_not_take_is_reported_to_the_byte() {
    let server = Server::start("127.0.0.1:0", TABLE, 1);
    let mut client = server.connect();
    let sent: Vec<u8> =
        (0..2u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // Nobody reads while this writes, so the echo stops in the middle and goes on later.
    client.write_all(&sent).unwrap();
    let mut back = vec![0; sent.len()];
    client.read_exact(&mut back).unwrap();
    assert!(back == sent, "the echo differs");
    drop(client);
    server.wait_for("the end", |open, _, counters| open == 0 && counters.slots_in_use == 0);
    server.end();
}

#[test]
fn many_bytes_at_once_do_not_need_many_buffers() {
    let server = Server::start("127.0.0.1:0", TABLE, 2);
    let mut clients: Vec<TcpStream> = (0..60).map(|_| server.connect()).collect();
    let bytes = vec![7; 8 * 1024];
    for client in &mut clients {
        client.write_all(&bytes).unwrap();
    }
    for client in &mut clients {
        let mut back = vec![0; bytes.len()];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, bytes);
    }
    drop(clients);
    server.wait_for("the end of all", |open, _, _| open == 0);
    server.end();
}

#[test]
fn ipv6_and_resets_are_connections_like_others() {
    let server = Server::start("[::1]:0", TABLE, 1);
    let mut client = server.connect();
    echoes(&mut client, b"six");
    // Unread bytes and a close with a zero linger make the kernel send a reset.
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    server.wait_for("the end", |open, closed, counters| {
        (open, closed, counters.slots_in_use) == (0, 1, 0)
    });
    server.end();
}

/// A signal is heard before the output of a turn. One that comes later, while the turn sends, must
/// not be slept upon.
#[test]
fn a_wake_up_during_a_send_is_not_slept_upon() {
    let listener = socket::listen("127.0.0.1:0".parse().unwrap(), 1, &INHERITED).unwrap().remove(0);
    let address = socket::local_address(&listener).unwrap();
    let wake = Arc::new(EventFd::new().unwrap());
    let config = UringConfig {
        shape: RingShape::for_table(TABLE),
        rings_max: 1,
        links: 0,
        listeners: vec![listener],
        wake: wake.clone(),
    };
    let mut io = UringIo::new(config).expect("a ring");
    io.accept_start();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let target = loop {
        io.wait(Some(1_000));
        match io.next() {
            Some(Completion::Accepted { slot }) => break Target { slot, generation: 1 },
            None => {}
            other => panic!("only an accept can come, not {other:?}"),
        }
    };
    // Nothing happens, so this sleeps, which arms the wake-up.
    io.wait(Some(1));
    wake.signal();
    let mut unsent = Vec::new();
    io.send([(target, &b"x"[..])].into_iter(), &mut unsent);
    let started = Instant::now();
    io.wait(Some(DEADLINE.as_millis() as u64));
    assert!(started.elapsed() < DEADLINE / 2, "the signal was slept upon");
    assert!(unsent.is_empty());
    client.read_exact(&mut [0]).unwrap();

    // It is heard once: the next wait sleeps its time.
    let started = Instant::now();
    io.wait(Some(50));
    assert!(started.elapsed() >= Duration::from_millis(40));
}

#[test]
fn the_probe_accepts_this_kernel_and_names_what_is_refused() {
    probe(&RingShape::for_table(1024)).expect("this kernel has everything");
    let refused = probe(&RingShape::for_table(1 << 21)).expect_err("no kernel has such tables");
    assert!(matches!(refused, Missing::Table { .. }), "{refused:?}");
    assert!(refused.to_string().contains("ulimit -n"), "{refused}");
}

#[test]
fn shapes_leave_room_for_what_is_accepted_before_a_cancel_is_seen() {
    for table in [64, 100, 1_000, 20_000, 1 << 20] {
        let shape = RingShape::for_table(table);
        assert!(shape.completions.is_power_of_two() && shape.completions < table);
        assert!(shape.margin() >= shape.completions + 4);
        assert!(shape.usable() > shape.margin().min(table / 2), "{shape:?}");
    }
}
