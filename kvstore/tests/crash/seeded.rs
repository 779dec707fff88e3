//! The rig is only worth its name if it finds mistakes. Each seeded bug, a realistic one-line mistake in
//! the store, must be found within the cycles that `make test` runs, nearly always in the first few; `main`
//! shows that without one they are clean. What needs a rare moment, such as a kill between a write and its
//! sync and then a power cut before the next one, gets more rounds of cycles. Needs the feature
//! `seeded-bugs`.

use hawser_kv::store::seeded::SeededBug;

use crate::client::{Answer, Client};
use crate::number_from;
use crate::rig::{Kind, Rig};
use crate::server::{Place, TempDir};

const CYCLES: u64 = 200;
const ROUNDS: u64 = 20;

#[test]
fn every_seeded_bug_is_caught() {
    let seed = number_from("HAWSER_CRASH_SEED", 1);
    let mut missed = Vec::new();
    for bug in SeededBug::ALL {
        let name = format!("{bug:?}");
        let round =
            |round| Rig::new(&name, Kind::Power, seed + round, Some(&name)).run(CYCLES).err();
        match (0..ROUNDS).find_map(|number| Some((number, round(number)?))) {
            None => missed.push(name),
            Some((number, violation)) => println!("{name}, round {number}: {violation:.300}"),
        }
    }
    assert!(missed.is_empty(), "not caught within {ROUNDS} rounds of {CYCLES} cycles: {missed:?}");
}

/// So a supervisor starts it again, and what was answered is there.
#[test]
fn a_panic_ends_the_program_with_its_reason() {
    let dir = TempDir::new("panic");
    let place = Place {
        data: dir.path().join("data"),
        socket: dir.path().join("s"),
        log: dir.path().join("log"),
        durability: "always",
        seeded_bug: Some(format!("{:?}", SeededBug::PanicsWhileWriting)),
    };
    let server = place.start().expect("it starts");
    let mut client = Client::connect(&place.socket).expect("it listens");
    assert_eq!(client.run("SET first 1"), Some(Answer::Simple("OK".into())));
    let open = client.run("SET second 2").expect("an answer").text();
    assert!(open.starts_with("OUTCOMEOPEN"), "{open}");
    assert_eq!(server.exit_code(), Some(1), "{}", place.said());
    assert!(place.said().contains("the writing thread panicked"), "{}", place.said());
    let whole = Place { seeded_bug: None, ..place };
    let _server = whole.start().expect("it starts again");
    let mut client = Client::connect(&whole.socket).expect("it listens");
    assert_eq!(client.run("GET first"), Some(Answer::Bulk(b"1".to_vec())));
    assert_eq!(client.run("GET second"), Some(Answer::Null));
}
