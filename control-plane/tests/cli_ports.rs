//! The ports of a play. Alone in its process: a child that another test starts would hold, until it
//! becomes its program, the listener that the search for a free port just closed.

use std::net::TcpListener;

use hawser_control::play::ports::Ports;

#[test]
fn a_port_is_given_once_and_only_when_free() {
    let mut ports = Ports::of_this_process();
    let taken = ports.any().unwrap();
    let held = TcpListener::bind(taken).unwrap();
    assert_ne!(
        Ports::of_this_process().preferably(taken.port()).unwrap(),
        taken,
        "somebody listens there"
    );
    drop(held);
    assert_ne!(ports.preferably(taken.port()).unwrap(), taken, "it was given before");
    assert_eq!(Ports::of_this_process().preferably(taken.port()).unwrap(), taken);
}
