//! The links to the control nodes: what a turn has for each, and the walks that repeat everything.
//!
//! ```text
//!  session, delivery, group ── records ──▶ Outgoing of the link ── end of turn ──▶ one frame per list
//!
//!  LinkUp    ─▶ walk over all slots: announce each session there, and pull for it there
//!  LinkDown  ─▶ the same over a link that is left
//! ```
//!
//! One rule covers a control node's restart, a partition, and a crash between storing a message
//! and delivering it: whenever a link comes up or is lost, every session is announced and pulls.
//! What a node stores while it has no link to this shard is found by the pull that follows a
//! heartbeat as long as a link is missing.
//!
//! Limits: a walk visits at most `announce_budget` slots in a turn and pauses while as many
//! sessions wait for an answer over the link, so the control node's store sets the pace. A node
//! that answers too little to go on for [`STALL_MS`] is asked on: announcements must not wait for
//! reads for ever. A frame holds at most `LINK_BODY_BYTES_MAX`.

use hawser_codec::ids::{AppId, Seq, TopicId};
use hawser_codec::limits::{LINK_BODY_BYTES_MAX, TOPICS_PER_SESSION_MAX};
use hawser_codec::link::{Acked, Announced, Gone, GroupAcked, Pulled, Record, to_control};

use super::event::{Action, Actions, LinkIndex, Now};
use super::rows::{Flags, Row, State};
use super::{Core, SeededBug};
use crate::metrics::Counter;

/// How long the walk of a link waits for answers before it goes on without them.
const STALL_MS: u64 = 1_000;

/// Group acknowledgements come in bursts for the same few entries: so far back one is looked for.
const GROUP_ACKS_SEARCHED: usize = 8;

pub(super) struct Links {
    links: Vec<Link>,
    /// Times that a link came up.
    uses: u16,
}

struct Link {
    up: bool,
    /// Tells this use of the link from earlier ones and from those of other links; never 0.
    used: u16,
    walk: Option<Walk>,
    /// When the walk went on last.
    walked_ms: u64,
    /// Sessions whose inbox pull is outstanding over this use of the link.
    waiting: u32,
    out: Outgoing,
}

/// A round over all slots. One that is to begin again goes on where it is, for a whole round: if
/// links came and went faster than it takes, slots at the end would otherwise never be visited.
#[derive(Clone, Copy)]
struct Walk {
    next: u32,
    left: u32,
}

/// What is collected for a link in one turn.
#[derive(Default)]
struct Outgoing {
    announced: Vec<Announced>,
    pulls: Vec<Pulled>,
    acks: Vec<Acked>,
    group_acks: Vec<GroupAcked>,
    gone: Vec<Gone>,
    /// Frames that are no lists, encoded.
    frames: Vec<u8>,
}

impl Links {
    pub fn new(count: u8) -> Links {
        let links = (0..count)
            .map(|_| Link {
                up: false,
                used: 0,
                walk: None,
                walked_ms: 0,
                waiting: 0,
                out: Outgoing::default(),
            })
            .collect();
        Links { links, uses: 0 }
    }

    pub fn up(&self) -> usize {
        self.links.iter().filter(|link| link.up).count()
    }

    /// The link for what one node suffices for.
    pub fn preferred(&self) -> Option<LinkIndex> {
        self.links.iter().position(|link| link.up).map(|link| LinkIndex(link as u8))
    }

    /// The use that a link is in. What was asked over an earlier one is lost.
    pub fn use_of(&self, index: LinkIndex) -> u16 {
        self.links[index.0 as usize].used
    }

    /// A number that no link which is up has, also after 65,535 uses.
    fn next_use(&mut self) -> u16 {
        loop {
            self.uses = self.uses.checked_add(1).unwrap_or(1);
            if !self.is_in_use(self.uses) {
                return self.uses;
            }
        }
    }

    pub fn is_in_use(&self, used: u16) -> bool {
        self.links.iter().any(|link| link.up && link.used == used)
    }

    pub fn announce_everywhere(&mut self, record: Announced) {
        for link in self.links.iter_mut().filter(|link| link.up) {
            link.out.announced.push(record);
        }
    }

    pub fn gone_everywhere(&mut self, record: Gone) {
        for link in self.links.iter_mut().filter(|link| link.up) {
            link.out.gone.push(record);
        }
    }

    pub fn pull(&mut self, to: LinkIndex, record: Pulled) {
        let link = self.link(to);
        link.out.pulls.push(record);
        link.waiting += 1;
    }

    /// A session no longer waits for an answer over this use of a link; 0 is none.
    pub fn pull_is_over(&mut self, used: u16) {
        if let Some(link) = self.links.iter_mut().find(|link| link.up && link.used == used) {
            link.waiting = link.waiting.checked_sub(1).expect("bounded: every pull is counted");
        }
    }

    pub fn ack(&mut self, record: Acked) {
        if let Some(to) = self.preferred() {
            self.link(to).out.acks.push(record);
        }
    }

    pub fn group_ack(&mut self, app: AppId, seq: Seq) {
        let Some(to) = self.preferred() else { return };
        let acks = &mut self.link(to).out.group_acks;
        let recent = acks.iter_mut().rev().take(GROUP_ACKS_SEARCHED);
        match { recent }.find(|ack| (ack.app, ack.seq) == (app, seq)) {
            Some(ack) => ack.count += 1,
            None => acks.push(GroupAcked { app, seq, count: 1 }),
        }
    }

    /// Appends a frame that is no list.
    pub fn frame(&mut self, to: LinkIndex, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.link(to).out.frames);
    }

    /// Slots that walks have still to visit.
    pub fn walk_left(&self, slots: u32) -> u64 {
        let walks = self.links.iter().filter_map(|link| link.walk);
        walks.map(|walk| u64::from(walk.left.min(slots))).sum()
    }

    /// When the links need a turn.
    pub fn deadline_ms(&self, window: u32, now_ms: u64) -> Option<u64> {
        let of_link = |link: &Link| {
            if !link.out.is_empty() {
                return Some(now_ms);
            }
            link.walk.map(|_| link.walk_at_ms(window, now_ms))
        };
        self.links.iter().filter_map(of_link).min()
    }

    fn link(&mut self, index: LinkIndex) -> &mut Link {
        &mut self.links[index.0 as usize]
    }

    /// `uses` gives the `inbox_over` of every session.
    pub fn invariants(&self, uses: impl Iterator<Item = u16> + Clone) {
        for link in &self.links {
            assert!(link.up || link.out.is_empty(), "nothing is kept for a lost link");
            assert!(link.up || link.walk.is_none());
            if link.up {
                let waiting = uses.clone().filter(|&used| used == link.used).count();
                assert_eq!(waiting, link.waiting as usize, "bounded: every pull is counted");
            }
        }
    }
}

impl Link {
    /// When the walk may go on.
    fn walk_at_ms(&self, window: u32, now_ms: u64) -> u64 {
        if self.waiting < window { now_ms } else { self.walked_ms + STALL_MS }
    }

    /// Slots that the walk may visit now.
    fn allowance(&mut self, window: u32, now: Now) -> u32 {
        let allowance = match window.saturating_sub(self.waiting) {
            0 if now.mono_ms >= self.walked_ms + STALL_MS => window,
            left => left,
        };
        if allowance > 0 {
            self.walked_ms = now.mono_ms;
        }
        allowance
    }
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.announced.is_empty()
            && self.pulls.is_empty()
            && self.acks.is_empty()
            && self.group_acks.is_empty()
            && self.gone.is_empty()
            && self.frames.is_empty()
    }
}

impl Core {
    pub(super) fn on_link_up(&mut self, index: LinkIndex) {
        let used = self.links.next_use();
        let link = self.links.link(index);
        assert!(!link.up, "a link comes up once");
        link.up = true;
        link.used = used;
        link.waiting = 0;
        link.walk = Some(Walk { next: 0, left: self.slots_end });
        self.fetch_after_link_change(None);
    }

    pub(super) fn on_link_down(&mut self, index: LinkIndex) {
        let link = self.links.link(index);
        if !link.up {
            return;
        }
        link.up = false;
        link.walk = None;
        link.out = Outgoing::default();
        // What its node stored a moment ago, and what it was asked and told, may be lost with it.
        if let Some(left) = self.links.preferred()
            && !self.bug(SeededBug::NoPullAfterLinkLoss)
        {
            let round = self.slots_end;
            let link = self.links.link(left);
            let next = link.walk.map_or(0, |walk| walk.next);
            link.walk = Some(Walk { next, left: round });
        }
        self.fetch_after_link_change(Some(index));
    }

    /// Advances every walk.
    pub(super) fn walk(&mut self, now: Now) {
        let window = self.config.announce_budget;
        for index in (0..self.config.links).map(LinkIndex) {
            let link = self.links.link(index);
            let Some(Walk { mut next, left }) = link.walk else { continue };
            let visits = left.min(link.allowance(window, now));
            for _ in 0..visits {
                if next >= self.slots_end {
                    next = 0;
                }
                self.announce_again(index, next);
                next += 1;
            }
            let left = left - visits;
            self.links.link(index).walk = (left > 0).then_some(Walk { next, left });
        }
    }

    /// Tells the node of the session, and pulls there: what was stored by a node that did not know
    /// the session, or did not live to tell of it, went nowhere.
    fn announce_again(&mut self, index: LinkIndex, slot: u32) {
        if self.rows.get(slot).is_none_or(|row| row.state != State::Online) {
            return;
        }
        let record = self.announcement(slot);
        self.links.link(index).out.announced.push(record);
        self.counters.add(Counter::Announced, 1);
        self.pull_inbox_over(index, slot);
        self.ask_group_again(index, slot);
    }

    fn ask_group_again(&mut self, index: LinkIndex, slot: u32) {
        let Row { flags, group_over, .. } = self.rows[slot];
        let is_lost = !self.links.is_in_use(group_over);
        if flags.has(Flags::G_PULLING) && !flags.has(Flags::G_OWED) && is_lost {
            self.send_group_pull(index, slot);
        }
    }

    /// Asks for the group entries of the session's topics.
    pub(super) fn send_group_pull(&mut self, to: LinkIndex, slot: u32) {
        let row = &mut self.rows[slot];
        row.group_over = self.links.use_of(to);
        let mut topics = [TopicId::ALL; TOPICS_PER_SESSION_MAX];
        let mut count = 0;
        for topic in self.topics.of(row.topics) {
            topics[count] = topic;
            count += 1;
        }
        let (app, session, from) = (self.apps[row.app].id, row.session(slot), row.group);
        self.links.frame(to, |out| {
            to_control::group_pull(out, app, session, from, &topics[..count]);
        });
    }

    /// Encodes what the turn has collected: an announcement before the session's pull, its pull
    /// before its end.
    pub(super) fn flush_links(&mut self, out: &mut Actions) {
        for (link, index) in self.links.links.iter_mut().zip(0u8..) {
            if link.out.is_empty() {
                continue;
            }
            let to = LinkIndex(index);
            put_list(out, to, &mut link.out.announced, to_control::announce);
            put_list(out, to, &mut link.out.pulls, to_control::pull);
            put_list(out, to, &mut link.out.acks, to_control::ack);
            put_list(out, to, &mut link.out.group_acks, to_control::group_ack);
            if !link.out.frames.is_empty() {
                let frame = out.write(|bytes| bytes.extend_from_slice(&link.out.frames));
                out.list.push(Action::SendLink { link: to, frame });
                link.out.frames.clear();
            }
            put_list(out, to, &mut link.out.gone, to_control::gone);
        }
    }
}

/// Encodes the records, in as many frames as they need, and forgets them.
fn put_list<R: Record>(
    out: &mut Actions,
    link: LinkIndex,
    records: &mut Vec<R>,
    encode: impl Fn(&mut Vec<u8>, &[R]),
) {
    for records in records.chunks(LINK_BODY_BYTES_MAX / R::BYTES) {
        let frame = out.write(|bytes| encode(bytes, records));
        out.list.push(Action::SendLink { link, frame });
    }
    records.clear();
}
