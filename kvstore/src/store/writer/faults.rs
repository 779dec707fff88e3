//! What clients are told, and what is left, when the log or a thread fails while groups are on their way.

use std::time::{Duration, Instant};

use mio::{Events, Poll};

use super::tests::{Rig, TempDir, queued, rig, rig_with};
use super::*;
use crate::config::Config;
use crate::inbox::{Inbox, Letter};
use crate::session::Outcome;

/// Ends a hang; nothing is measured with it.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the next `count` who are answered are told, in the order they came.
fn outcomes(poll: &mut Poll, inbox: &Inbox, count: usize) -> Vec<Outcome> {
    let (started, mut events) = (Instant::now(), Events::with_capacity(1));
    let (mut found, mut letters) = (Vec::new(), Vec::new());
    while found.len() < count {
        assert!(started.elapsed() < DEADLINE, "{} of {count} were answered", found.len());
        if inbox.may_sleep() {
            poll.poll(&mut events, Some(Duration::from_secs(1))).expect("it waits");
        }
        inbox.woke();
        inbox.take(&mut letters);
        for letter in letters.drain(..) {
            if let Letter::Answered(client, outcome) = letter {
                found.push((client, outcome));
            }
        }
    }
    found.sort_by_key(|(client, _)| *client);
    found.into_iter().map(|(_, outcome)| outcome).collect()
}

fn answers(poll: &mut Poll, inbox: &Inbox, count: usize) -> Vec<String> {
    let text = |outcome| match outcome {
        Outcome::Answered(answer) => String::from_utf8(answer.bytes).expect("text"),
        _ => panic!("every job is answered"),
    };
    outcomes(poll, inbox, count).into_iter().map(text).collect()
}

fn run(rig: &mut Rig, command: Queued) -> String {
    let job = rig.job(Work::Pipeline(vec![command]));
    rig.group(vec![job]);
    answers(&mut rig.poll, &rig.inbox, 1).remove(0)
}

fn in_namespace(namespace: u32, words: &[&str]) -> Queued {
    Queued { selected: Selected { namespace, database: 0 }, ..queued(words) }
}

/// Runs pipelines as groups of their own, all of them before the first is synced, which fails.
fn fail_together(rig: &mut Rig, groups: Vec<Vec<Queued>>) -> Vec<String> {
    let committer = rig.writer.committer.clone();
    let held = committer.hold_syncs();
    rig.writer.log.fail_syncs();
    // Groups do not wait for those before them to land, as full ones would not either.
    rig.writer.has_ended = true;
    let count = groups.len();
    for commands in groups {
        let job = rig.job(Work::Pipeline(commands));
        rig.group(vec![job]);
    }
    drop(held);
    answers(&mut rig.poll, &rig.inbox, count)
}

/// A reader that saw a write that has not happened is told so, and does not get it.
#[test]
fn what_was_not_synced_was_seen_by_nobody() {
    let dir = TempDir::new("seen");
    let mut rig = rig(&dir.0);
    assert_eq!(rig.run(&["SET", "a", "1"]), "+OK\r\n");
    // The committer may take the second group together with the first.
    let read = || vec![queued(&["GET", "a"])];
    let groups = vec![vec![queued(&["SET", "a", "2"])], read(), read()];
    for answer in fail_together(&mut rig, groups) {
        assert!(answer.starts_with(&format!("-{OUTCOME_OPEN} the write log failed")), "{answer}");
    }
    assert_eq!(rig.run(&["GET", "a"]), "$1\r\n1\r\n", "reads go on");
}

/// A group whose writers wait for no sync is not applied over a hole where the one before it was.
#[test]
fn what_was_built_on_a_failed_group_fails_with_it() {
    let dir = TempDir::new("hole");
    let mut rig = rig(&dir.0);
    for (what, value) in [("ADD", "tulip"), ("DURABILITY", "none")] {
        assert_eq!(run(&mut rig, queued(&["NAMESPACE", what, "red", value])), "+OK\r\n");
    }
    let groups = vec![
        vec![queued(&["SET", "a", "1"]), in_namespace(1, &["RPUSH", "l", "x"])],
        vec![in_namespace(1, &["RPUSH", "l", "y"])],
        vec![in_namespace(1, &["LRANGE", "l", "0", "-1"])],
    ];
    for answer in fail_together(&mut rig, groups) {
        assert!(answer.starts_with(&format!("-{OUTCOME_OPEN} the write log failed")), "{answer}");
    }
    assert_eq!(run(&mut rig, in_namespace(1, &["LRANGE", "l", "0", "-1"])), "*0\r\n");
}

/// Whoever waits for what a group took that has not happened is told, though nobody writes any more.
#[test]
fn a_failed_sync_leaves_nobody_waiting_for_what_is_there() {
    for apart in [false, true] {
        let dir = TempDir::new(if apart { "apart" } else { "together" });
        let mut rig = rig(&dir.0);
        assert_eq!(rig.run(&["RPUSH", "k", "1"]), ":1\r\n");
        let committer = rig.writer.committer.clone();
        let held = committer.hold_syncs();
        rig.writer.log.fail_syncs();
        let taking = rig.job(Work::Pipeline(vec![queued(&["LPOP", "k"])]));
        let waiting = rig.job(Work::Waiting { client: 9, command: queued(&["BLPOP", "k", "0"]) });
        if apart {
            rig.group(vec![taking]);
            // So that the second group does not wait for the first to land, as a full one would not either.
            rig.writer.has_ended = true;
            rig.group(vec![waiting]);
            rig.writer.has_ended = false;
        } else {
            rig.group(vec![taking, waiting]);
        }
        assert_eq!(rig.writer.waiters.len(), 1);
        let Rig { writer, jobs, mut poll, inbox } = rig;
        let thread = std::thread::spawn(move || writer.run());
        drop(held);
        let told = answers(&mut poll, &inbox, 2);
        assert!(told[0].starts_with(&format!("-{OUTCOME_OPEN} the write log failed")), "{told:?}");
        assert!(told[1].starts_with("-READONLY nothing was written"), "{told:?}");
        drop(jobs);
        thread.join().expect("it ends");
    }
}

/// What was answered before it was synced is read on, and nothing is written any more.
#[test]
fn a_failed_sync_of_what_nobody_waits_for_stops_all_writes() {
    let dir = TempDir::new("everysec-fails");
    let config = Config { durability: Durability::EverySec, ..Config::default() };
    let mut rig = rig_with(&dir.0, config);
    let shared = rig.writer.shared.clone();
    rig.writer.log.fail_syncs();
    assert_eq!(rig.run(&["SET", "a", "1"]), "+OK\r\n");
    let committer = rig.writer.committer.clone();
    let (running, ended) = std::sync::mpsc::channel();
    let syncing = std::thread::spawn(move || committer.sync_regularly(&ended));
    let started = Instant::now();
    while shared.stopped().is_none() {
        assert!(started.elapsed() < DEADLINE, "not synced in time");
        std::thread::yield_now();
    }
    assert_eq!(shared.stopped(), Some(Stopped::LogFailed));
    let refused = rig.run(&["SET", "a", "2"]);
    assert!(refused.starts_with("-READONLY nothing was written"), "{refused}");
    assert_eq!(rig.run(&["GET", "a"]), "$1\r\n1\r\n");
    drop(running);
    syncing.join().expect("it ends");
}

/// Everybody is told when the committer has panicked: those whose groups it had, those who wait for a key,
/// and those who come later.
#[test]
fn a_committer_that_panics_leaves_nobody_waiting() {
    let dir = TempDir::new("gone");
    let mut rig = rig(&dir.0);
    let shared = rig.writer.shared.clone();
    let waiting = rig.job(Work::Waiting { client: 9, command: queued(&["BLPOP", "k", "0"]) });
    rig.group(vec![waiting]);
    assert_eq!(rig.writer.waiters.len(), 1);
    let committer = rig.writer.committer.clone();
    let poisons = std::thread::spawn(move || {
        let _held = committer.hold();
        panic!("this test wants it");
    });
    poisons.join().expect_err("the committer panics when it finds this out");
    let mut jobs: Vec<Job> =
        (0..4).map(|_| rig.job(Work::Pipeline(vec![queued(&["SET", "a", "1"])]))).collect();
    let Rig { writer, jobs: to_writer, poll, inbox } = rig;
    let thread = std::thread::spawn(move || writer.run());
    let (started, mut told, mut letters) = (Instant::now(), 0, Vec::new());
    while told < 5 {
        assert!(started.elapsed() < DEADLINE, "only {told} were told");
        // Each comes after the one before it was told.
        if jobs.len() + told >= 4
            && let Some(job) = jobs.pop()
            && let Err(jobs) = to_writer.send(vec![job])
        {
            jobs.into_iter().for_each(|job| job.caller.not_taken());
        }
        inbox.take(&mut letters);
        for letter in letters.drain(..) {
            let Letter::Answered(_, outcome) = letter else { panic!("no answer") };
            assert!(matches!(outcome, Outcome::Lost | Outcome::NotTaken), "nothing was done");
            told += 1;
        }
        std::thread::yield_now();
    }
    assert_eq!(shared.stopped(), Some(Stopped::WriterPanicked));
    thread.join().expect("it ends by itself");
    drop((to_writer, poll));
}
