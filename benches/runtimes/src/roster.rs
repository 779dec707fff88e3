//! Who is connected: the welcomed connections in order of arrival. One that leaves gives its place to
//! the last one, so that the list has no gaps.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A connection, which its task shares with the roster.
#[derive(Debug)]
pub struct Peer<S> {
    /// In the roster's list; `None` before it is welcomed and after it has left.
    place: Cell<Option<u32>>,
    pub stream: S,
}

impl<S> Peer<S> {
    pub fn new(stream: S) -> Rc<Peer<S>> {
        Rc::new(Peer { place: Cell::new(None), stream })
    }

    pub fn is_welcomed(&self) -> bool {
        self.place.get().is_some()
    }
}

#[derive(Debug)]
pub struct Roster<S> {
    peers: RefCell<Vec<Rc<Peer<S>>>>,
}

impl<S> Roster<S> {
    pub fn new() -> Rc<Roster<S>> {
        Rc::new(Roster { peers: RefCell::default() })
    }

    pub fn count(&self) -> usize {
        self.peers.borrow().len()
    }

    pub fn get(&self, place: usize) -> Option<Rc<Peer<S>>> {
        self.peers.borrow().get(place).cloned()
    }

    pub fn enter(&self, peer: &Rc<Peer<S>>) {
        let mut peers = self.peers.borrow_mut();
        peer.place.set(Some(peers.len() as u32));
        peers.push(Rc::clone(peer));
    }

    pub fn leave(&self, peer: &Peer<S>) {
        let Some(place) = peer.place.take() else { return };
        let mut peers = self.peers.borrow_mut();
        peers.swap_remove(place as usize);
        if let Some(moved) = peers.get(place as usize) {
            moved.place.set(Some(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_no_gaps_and_everybody_knows_its_place() {
        let roster = Roster::new();
        let peers = ['a', 'b', 'c'].map(Peer::new);
        peers.iter().for_each(|peer| roster.enter(peer));
        let list = || (0..roster.count()).map(|place| roster.get(place).unwrap().stream);
        roster.leave(&peers[0]);
        assert_eq!(list().collect::<String>(), "cb", "the last took the place of the first");
        roster.leave(&peers[2]);
        roster.leave(&peers[2]);
        assert_eq!(list().collect::<String>(), "b");
        assert!(peers[1].is_welcomed() && !peers[2].is_welcomed());
    }
}
