//! The other side of the links: shards and devices by the contract's rules.
//!
//! A shard here does what a broker's core does, without sockets and timers: it announces to every
//! node, pulls at one, sends what comes in order and pulls when something is missing. Frames take
//! their time in both directions, in order on each link, and are lost with it.

use hawser_codec::error::CloseReason;
use hawser_codec::ids::{Epoch, Seq, SessionRef};
use hawser_codec::link::{Acked, Announced, Entry, EntryFlags, Gone, Pulled, ToBroker, to_control};
use hawser_control::node::event::{Event, LinkId};

use super::{Device, NODES, Row, Up, World};
use crate::rig::{APP, decode, device};

impl World {
    // Links.

    pub(super) fn toggle_link(&mut self, shard: usize, node: usize) {
        match self.shards[shard].links[node] {
            Some(_) => self.link_down(shard, node),
            None => self.link_up(shard, node),
        }
    }

    pub(super) fn link_down(&mut self, shard: usize, node: usize) {
        let link = self.shards[shard].links[node].take().expect("the caller knows it is up");
        self.rig.event(node, Event::LinkDown { link: LinkId(link) });
        self.rig.sent.retain(|sent| sent.link.0 != link);
        self.uplink.retain(|up| up.link != link);
        self.frames_checked = self.rig.sent.len();
        if self.shards[shard].fetching == Some(link) {
            self.shards[shard].fetching = None;
            self.fetch(shard);
        }
        let slots: Vec<u32> = self.shards[shard].rows.keys().copied().collect();
        for slot in slots {
            let Some(row) = self.shards[shard].rows.get(&slot) else { continue };
            let (pulls, group_pulls) = (row.pulling == Some(link), row.group_pulling == Some(link));
            if pulls {
                self.pull(shard, slot);
            }
            if group_pulls {
                self.group_pull(shard, slot);
            }
        }
    }

    /// The one rule: announce all, pull for all.
    pub(super) fn link_up(&mut self, shard: usize, node: usize) {
        let link = self.id();
        self.after();
        self.rig.link_up(node, link, shard as u64 + 1, 0);
        self.frames_checked = self.rig.sent.len();
        self.shards[shard].links[node] = Some(link);
        let slots: Vec<u32> = self.shards[shard].rows.keys().copied().collect();
        for &slot in &slots {
            self.announce(shard, slot, node);
        }
        for &slot in &slots {
            self.pull_over(shard, slot, node);
            if self.shards[shard].rows[&slot].group_pulling.is_some() {
                self.group_pull(shard, slot);
            }
        }
        self.fetch(shard);
    }

    pub(super) fn announce(&mut self, shard: usize, slot: u32, node: usize) {
        let Some(link) = self.shards[shard].links[node] else { return };
        let row = &self.shards[shard].rows[&slot];
        let announced = Announced {
            device: device(&row.device.to_string()),
            app: APP,
            session: at(slot),
            epoch: Epoch(row.epoch),
            acked: row.acked,
        };
        self.up(node, link, |out| to_control::announce(out, &[announced]));
    }

    pub(super) fn pull(&mut self, shard: usize, slot: u32) {
        match (0..NODES).find(|&node| self.shards[shard].links[node].is_some()) {
            Some(node) => self.pull_over(shard, slot, node),
            None => self.row(shard, slot).pulling = None,
        }
    }

    pub(super) fn pull_over(&mut self, shard: usize, slot: u32, node: usize) {
        let link = self.shards[shard].links[node].expect("the link is up");
        let row = &self.shards[shard].rows[&slot];
        let owner = &self.devices[row.device];
        let from = if owner.home == Some((shard, slot)) { owner.position } else { row.acked };
        let pulled =
            Pulled { device: device(&row.device.to_string()), app: APP, session: at(slot), from };
        let row = self.row(shard, slot);
        row.acked = row.acked.max(from);
        row.sent = row.sent.max(from);
        row.pulling = Some(link);
        self.up(node, link, |out| to_control::pull(out, &[pulled]));
    }

    pub(super) fn group_pull(&mut self, shard: usize, slot: u32) {
        let owner = self.shards[shard].rows[&slot].device;
        let Some(from) = self.devices[owner].group else { return };
        let node = (0..NODES).find(|&node| self.shards[shard].links[node].is_some());
        let link = node.and_then(|node| self.shards[shard].links[node]);
        // Without a link the wish stands, under a link that never was.
        self.row(shard, slot).group_pulling = Some(link.unwrap_or(0));
        if let Some((node, link)) = node.zip(link) {
            self.up(node, link, |out| to_control::group_pull(out, APP, at(slot), from, &[]));
        }
    }

    pub(super) fn fetch(&mut self, shard: usize) {
        let state = &mut self.shards[shard];
        let Some(cursor) = state.cursor.filter(|&cursor| state.wanted > cursor) else { return };
        if state.fetching.is_some() {
            return;
        }
        let Some(node) = (0..NODES).find(|&node| state.links[node].is_some()) else { return };
        state.fetching = state.links[node];
        let link = state.links[node].expect("it was just found up");
        self.up(node, link, |out| to_control::group_fetch(out, APP, cursor));
    }

    pub(super) fn row(&mut self, shard: usize, slot: u32) -> &mut Row {
        self.shards[shard].rows.get_mut(&slot).expect("the session exists")
    }

    pub(super) fn up(&mut self, node: usize, link: u32, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        self.uplink.push(Up { node, link, bytes });
    }

    /// The first frame of some link arrives at its node.
    pub(super) fn hear(&mut self, a: usize) {
        if self.uplink.is_empty() {
            return;
        }
        let link = self.uplink[a % self.uplink.len()].link;
        let index = self.uplink.iter().position(|up| up.link == link);
        let up = self.uplink.remove(index.expect("it was just there"));
        self.rig.frame(up.node, link, |out| out.extend_from_slice(&up.bytes));
    }

    // Frames that arrive at shards.

    /// The first frame of some link arrives.
    pub(super) fn receive(&mut self, a: usize) {
        if self.rig.sent.is_empty() {
            return;
        }
        self.after();
        let link = self.rig.sent[a % self.rig.sent.len()].link;
        let index = self.rig.sent.iter().position(|sent| sent.link == link);
        let sent = self.rig.sent.remove(index.expect("it was just there"));
        self.frames_checked = self.rig.sent.len();
        let shard = self.shards.iter().position(|shard| shard.links.contains(&Some(link.0)));
        if let Some(shard) = shard {
            self.on_frame(shard, &sent.bytes);
        }
    }

    pub(super) fn on_frame(&mut self, shard: usize, bytes: &[u8]) {
        match decode(bytes) {
            ToBroker::Keys(_) => {}
            ToBroker::Deliver { session, entry } => self.on_deliver(shard, session.slot, &entry),
            ToBroker::Entries { session, upto, more, entries } => {
                if self.shards[shard].rows.contains_key(&session.slot) {
                    for entry in entries.iter() {
                        self.send(shard, session.slot, &entry);
                    }
                    self.on_caught_up(shard, session.slot, upto, more);
                }
            }
            ToBroker::Kick { session, epoch } => {
                let Some(row) = self.shards[shard].rows.get(&session.slot) else { return };
                if row.epoch < epoch.0 {
                    let owner = row.device;
                    assert!(self.devices[owner].epoch > row.epoch, "only the older one is closed");
                    self.close(shard, session.slot);
                }
            }
            ToBroker::GroupCursor { seq, .. } => self.on_cursor(shard, seq),
            ToBroker::GroupDeliver { entry, .. } => {
                let state = &mut self.shards[shard];
                match state.cursor {
                    Some(cursor) if entry.seq <= cursor => {}
                    Some(cursor) if entry.seq == cursor.next() => self.fan_out(shard, &entry),
                    _ => {
                        state.wanted = state.wanted.max(entry.seq);
                        self.fetch(shard);
                    }
                }
            }
            ToBroker::GroupFetched { upto, more, entries, .. } => {
                for entry in entries.iter() {
                    if self.shards[shard].cursor.is_none_or(|cursor| entry.seq > cursor) {
                        self.fan_out(shard, &entry);
                    }
                }
                let state = &mut self.shards[shard];
                state.cursor = state.cursor.max(Some(upto));
                state.fetching = None;
                if more {
                    state.wanted = state.wanted.max(upto.next());
                }
                self.fetch(shard);
            }
            ToBroker::GroupEntries { session, upto, more, entries } => {
                self.on_group_entries(shard, session.slot, upto, more, &mut entries.iter());
            }
            other => panic!("not expected here: {other:?}"),
        }
    }

    pub(super) fn on_deliver(&mut self, shard: usize, slot: u32, entry: &Entry<'_>) {
        let Some(row) = self.shards[shard].rows.get_mut(&slot) else { return };
        if entry.seq <= row.sent {
            return;
        }
        let has_body = !entry.flags.contains(EntryFlags::NO_BODY);
        let is_next = has_body && entry.seq == row.sent.next() && row.latest == row.sent;
        row.latest = row.latest.max(entry.seq);
        if row.pulling.is_some() {
            return;
        }
        if is_next {
            self.send(shard, slot, entry);
        } else {
            self.pull(shard, slot);
        }
    }

    /// A push frame to the device, if it is still there.
    pub(super) fn send(&mut self, shard: usize, slot: u32, entry: &Entry<'_>) {
        let row = self.row(shard, slot);
        if entry.seq <= row.sent {
            return;
        }
        row.sent = entry.seq;
        row.latest = row.latest.max(entry.seq);
        let owner = &mut self.devices[row.device];
        if owner.home == Some((shard, slot)) && entry.seq > owner.position {
            owner.position = entry.seq;
            let earlier = owner.got.insert(entry.seq, entry.payload.to_vec());
            assert_eq!(earlier, None, "delivered once");
        }
    }

    pub(super) fn on_caught_up(&mut self, shard: usize, slot: u32, upto: Seq, more: bool) {
        let row = self.row(shard, slot);
        row.sent = row.sent.max(upto);
        row.latest = row.latest.max(upto);
        row.pulling = None;
        let (behind, owner) = (row.latest > row.sent, row.device);
        let owner = &mut self.devices[owner];
        if owner.home == Some((shard, slot)) {
            owner.position = owner.position.max(upto);
            if more || behind {
                self.pull(shard, slot);
            }
        }
    }

    pub(super) fn on_cursor(&mut self, shard: usize, seq: Seq) {
        let state = &mut self.shards[shard];
        if state.cursor.is_some() {
            state.wanted = state.wanted.max(seq);
            self.fetch(shard);
            return;
        }
        state.cursor = Some(seq);
        let slots: Vec<u32> = state.rows.keys().copied().collect();
        for slot in slots {
            self.join_group(shard, slot);
        }
        self.fetch(shard);
    }

    /// A session finds its place in the group log, once the shard has one.
    pub(super) fn join_group(&mut self, shard: usize, slot: u32) {
        let Some(cursor) = self.shards[shard].cursor else { return };
        let owner = &mut self.devices[self.shards[shard].rows[&slot].device];
        if owner.home != Some((shard, slot)) {
            return;
        }
        match owner.group {
            None => {
                owner.group = Some(cursor);
                owner.group_start = cursor;
            }
            Some(group) if group != cursor => self.group_pull(shard, slot),
            Some(_) => {}
        }
    }

    pub(super) fn fan_out(&mut self, shard: usize, entry: &Entry<'_>) {
        self.shards[shard].cursor = Some(entry.seq);
        let slots: Vec<u32> = self.shards[shard].rows.keys().copied().collect();
        for slot in slots {
            let row = &self.shards[shard].rows[&slot];
            let owner = &mut self.devices[row.device];
            if owner.home != Some((shard, slot)) || row.group_pulling.is_some() {
                continue;
            }
            match owner.group {
                Some(group) if entry.seq <= group => {}
                Some(group) if entry.seq == group.next() => take_group(owner, entry),
                _ => self.group_pull(shard, slot),
            }
        }
    }

    pub(super) fn on_group_entries(
        &mut self,
        shard: usize,
        slot: u32,
        upto: Seq,
        more: bool,
        entries: &mut dyn Iterator<Item = Entry<'_>>,
    ) {
        let cursor = self.shards[shard].cursor;
        let Some(row) = self.shards[shard].rows.get_mut(&slot) else { return };
        row.group_pulling = None;
        let owner = &mut self.devices[row.device];
        if owner.home != Some((shard, slot)) {
            return;
        }
        for entry in entries {
            if owner.group.is_some_and(|group| entry.seq > group) {
                take_group(owner, &entry);
            }
        }
        owner.group = owner.group.max(Some(upto));
        if more || owner.group < cursor {
            self.group_pull(shard, slot);
        }
    }

    // Devices.

    pub(super) fn connect(&mut self, index: usize, shard: usize) {
        let slot = self.id();
        let owner = &mut self.devices[index];
        owner.epoch = (self.rig.now.unix_ms << 16).max(owner.epoch + 1);
        owner.home = Some((shard, slot));
        let row = Row {
            device: index,
            epoch: owner.epoch,
            sent: owner.position,
            latest: owner.position,
            acked: owner.position,
            pulling: None,
            group_pulling: None,
        };
        self.shards[shard].rows.insert(slot, row);
        for node in 0..NODES {
            self.announce(shard, slot, node);
        }
        self.pull(shard, slot);
        self.join_group(shard, slot);
    }

    pub(super) fn disconnect(&mut self, index: usize) {
        if let Some((shard, slot)) = self.devices[index].home {
            self.close(shard, slot);
        }
    }

    pub(super) fn close(&mut self, shard: usize, slot: u32) {
        let row = self.shards[shard].rows.remove(&slot).expect("the caller knows it is open");
        let owner = &mut self.devices[row.device];
        if owner.home == Some((shard, slot)) {
            owner.home = None;
        }
        let gone = Gone {
            device: device(&row.device.to_string()),
            session: at(slot),
            reason: CloseReason::Bye,
        };
        for node in 0..NODES {
            if let Some(link) = self.shards[shard].links[node] {
                self.up(node, link, |out| to_control::gone(out, &[gone]));
            }
        }
    }

    pub(super) fn acknowledge(&mut self, index: usize, b: usize) {
        let Some((shard, slot)) = self.devices[index].home else { return };
        let seq = self.devices[index].position;
        let row = self.row(shard, slot);
        row.acked = row.acked.max(seq);
        let node = b % NODES;
        let Some(link) = self.shards[shard].links[node] else { return };
        let acked = Acked { device: device(&index.to_string()), app: APP, seq };
        self.up(node, link, |out| to_control::ack(out, &[acked]));
    }
}

fn take_group(owner: &mut Device, entry: &Entry<'_>) {
    owner.group = Some(entry.seq);
    let earlier = owner.group_got.insert(entry.seq, entry.payload.to_vec());
    assert_eq!(earlier, None, "a group entry is delivered once");
}

fn at(slot: u32) -> SessionRef {
    SessionRef { slot, generation: 1 }
}
