//! Commands from standard input, and the loop that carries them out on any of the runtimes.

use std::rc::Rc;
use std::time::Duration;

use hawser_bare_protocol::command::{Answer, Command, Push, Tally};
use hawser_bare_protocol::frames::put_push;
use hawser_bare_protocol::schedule::Schedule;
use tokio::sync::mpsc::{Receiver, channel};

use crate::process::monotonic_ns;
use crate::roster::{Peer, Roster};

/// Sends after which connections get their turn.
const TURN: usize = 256;

/// Commands that were read and not begun.
const WAITING_MAX: usize = 16;

/// What carrying out needs from a runtime.
pub trait Runtime {
    type Stream;

    /// Sends without waiting. False if nothing was sent: it would wait, or the connection has ended.
    fn send(&self, peer: &Rc<Peer<Self::Stream>>, frame: &[u8]) -> bool;

    /// Gives other tasks their turn. Returns how many sends since the last time failed after all.
    fn settle(&self) -> impl Future<Output = u64>;

    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;
}

/// Reads commands on a thread of its own. The channel is closed at the end of input.
pub fn read() -> Receiver<Command> {
    let (sender, receiver) = channel(WAITING_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let line = line.expect("standard input is text");
            let command = Command::parse(&line).unwrap_or_else(|error| panic!("{error}"));
            if sender.blocking_send(command).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Carries out commands until the end of input, which cuts short what is under way.
pub async fn obey<R: Runtime>(
    runtime: &R,
    roster: &Roster<R::Stream>,
    mut commands: Receiver<Command>,
) {
    while let Some(command) = commands.recv().await {
        let answer = match command {
            Command::Count => Answer::Count(roster.count() as u64),
            Command::Fanout { frame } => Answer::Fanned(fanout(runtime, roster, &frame).await),
            Command::Push(order) => Answer::Pushed(push(runtime, roster, order, &commands).await),
        };
        println!("{answer}");
    }
}

async fn fanout<R: Runtime>(runtime: &R, roster: &Roster<R::Stream>, frame: &[u8]) -> Tally {
    let started_ns = monotonic_ns();
    let mut tally = Tally::default();
    for place in 0..roster.count() {
        // Who leaves meanwhile shortens the list.
        if let Some(peer) = roster.get(place) {
            count(&mut tally, runtime.send(&peer, frame));
        }
        if place % TURN == TURN - 1 {
            settle(runtime, &mut tally).await;
        }
    }
    settle(runtime, &mut tally).await;
    tally.ns = monotonic_ns() - started_ns;
    tally
}

async fn push<R: Runtime>(
    runtime: &R,
    roster: &Roster<R::Stream>,
    order: Push,
    commands: &Receiver<Command>,
) -> Tally {
    let started_ns = monotonic_ns();
    let mut schedule = Schedule::new(order, roster.count(), started_ns);
    let mut tally = Tally::default();
    let mut frame = Vec::new();
    while let Some(due_ns) = schedule.due_ns() {
        let now_ns = monotonic_ns();
        for _ in 0..TURN {
            let Some(message) = schedule.next(now_ns) else { break };
            let Some(peer) = roster.get(message.connection) else {
                tally.failed += 1;
                continue;
            };
            frame.clear();
            put_push(&mut frame, message.seq, message.stamp_ns, order.payload_bytes);
            count(&mut tally, runtime.send(&peer, &frame));
        }
        settle(runtime, &mut tally).await;
        tally.ns = monotonic_ns() - started_ns;
        if commands.is_closed() {
            break;
        }
        if due_ns > now_ns {
            runtime.sleep(Duration::from_nanos(due_ns - now_ns)).await;
        }
    }
    tally
}

fn count(tally: &mut Tally, is_sent: bool) {
    if is_sent {
        tally.sent += 1;
    } else {
        tally.failed += 1;
    }
}

async fn settle<R: Runtime>(runtime: &R, tally: &mut Tally) {
    let failed = runtime.settle().await;
    tally.sent -= failed;
    tally.failed += failed;
}
