//! What the bare server knows of its connections: sixteen bytes each, in tables as large as the
//! rings', and a list in order of arrival.
//!
//! A connection that ends gives its place in the list to the last one, so that the list has no gaps.

use hawser_bare_protocol::skim::Skim;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Free,
    /// Has said nothing yet.
    Silent,
    Welcomed,
    /// Its watch is being cancelled; the descriptor is closed when that is done.
    Closing,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    state: State,
    skim: Skim,
    /// Where a welcomed connection stands in `order`.
    place: u32,
}

pub struct Connections {
    table: u32,
    slots: Vec<Box<[Slot]>>,
    order: Vec<u32>,
}

impl Connections {
    pub fn new(table: u32) -> Connections {
        Connections { table, slots: Vec::new(), order: Vec::new() }
    }

    /// Makes room for the connections of one more ring.
    pub fn add_table(&mut self) {
        self.slots.push(vec![Slot::default(); self.table as usize].into());
    }

    /// Welcomed and still open.
    pub fn count(&self) -> usize {
        self.order.len()
    }

    /// The slot of a welcomed connection, in order of arrival.
    pub fn get(&self, place: usize) -> Option<u32> {
        self.order.get(place).copied()
    }

    /// The first welcomed connection from this slot on.
    pub fn welcomed_from(&self, slot: u32) -> Option<u32> {
        let (first, skipped) = ((slot / self.table) as usize, (slot % self.table) as usize);
        let mut skipped = Some(skipped);
        (first..self.slots.len()).find_map(|ring| {
            let start = skipped.take().unwrap_or(0);
            let is_welcomed = |slot: &Slot| slot.state == State::Welcomed;
            let index = self.slots[ring][start..].iter().position(is_welcomed)?;
            Some(ring as u32 * self.table + (start + index) as u32)
        })
    }

    pub fn state(&self, slot: u32) -> State {
        self.slot(slot).state
    }

    pub fn open(&mut self, slot: u32) {
        let open = self.slot_mut(slot);
        assert_eq!(open.state, State::Free, "a descriptor in use was accepted again");
        *open = Slot { state: State::Silent, ..Slot::default() };
    }

    pub fn welcome(&mut self, slot: u32) {
        let place = self.order.len() as u32;
        self.order.push(slot);
        let welcomed = self.slot_mut(slot);
        (welcomed.state, welcomed.place) = (State::Welcomed, place);
    }

    pub fn skim(&mut self, slot: u32) -> &mut Skim {
        &mut self.slot_mut(slot).skim
    }

    /// The connection counts no longer, but its descriptor is still in use.
    pub fn closing(&mut self, slot: u32) {
        self.leave(slot);
        self.slot_mut(slot).state = State::Closing;
    }

    pub fn free(&mut self, slot: u32) {
        self.leave(slot);
        self.slot_mut(slot).state = State::Free;
    }

    fn leave(&mut self, slot: u32) {
        let Slot { state: State::Welcomed, place, .. } = *self.slot(slot) else { return };
        self.order.swap_remove(place as usize);
        if let Some(&moved) = self.order.get(place as usize) {
            self.slot_mut(moved).place = place;
        }
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.slots[(slot / self.table) as usize][(slot % self.table) as usize]
    }

    fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[(slot / self.table) as usize][(slot % self.table) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_no_gaps_and_the_tables_know_who_is_in_it() {
        let mut connections = Connections::new(4);
        (0..3).for_each(|_| connections.add_table());
        for slot in [1, 2, 5, 8] {
            connections.open(slot);
            connections.welcome(slot);
        }
        connections.open(3);
        connections.closing(1);
        assert_eq!(connections.order, [8, 2, 5], "the last took the place of the first");
        connections.free(8);
        assert_eq!(connections.order, [5, 2]);
        assert_eq!(connections.welcomed_from(0), Some(2), "not one that closes");
        assert_eq!(connections.welcomed_from(3), Some(5), "not one that is silent");
        assert_eq!(connections.welcomed_from(6), None);
        connections.free(5);
        connections.free(2);
        assert_eq!((connections.count(), connections.welcomed_from(0)), (0, None));
    }
}
