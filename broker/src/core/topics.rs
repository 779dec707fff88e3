//! Who is in which topic.
//!
//! ```text
//!  row.topics ─▶ membership ─▶ membership ─▶ end       one list per session, through `next`
//!                 │ topic, place
//!                 ▼
//!  topic "news":  [ (slot, membership) (slot, membership) ... ]    dense; left by swap_remove
//! ```
//!
//! Fan-out walks a dense array; joining and leaving are constant, apart from the walk over the
//! session's own few memberships. A membership takes 20 bytes, 12 in its record and 8 in the topic;
//! a topic some 100 more, however few its members. `bytes` is what all of it takes.
//!
//! Topic ids come from devices, so the table hashes them with a secret.

use std::collections::HashMap;
use std::hash::BuildHasher;

use hawser_codec::ids::TopicId;
use siphasher::sip::SipHasher13;

use super::rows::Chunks;

/// Ends the list of a session's memberships.
pub(super) const NO_MEMBERSHIP: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Topics {
    topics: Vec<Topic>,
    free_topics: Vec<u32>,
    index: HashMap<(u16, u64), u32, Keyed>,
    memberships: Chunks<Membership>,
    /// The first of the free membership records, linked by `next`.
    free_membership: u32,
    /// Membership records ever used.
    made: u32,
    members: u64,
    /// What the member lists have room for.
    room: usize,
}

#[derive(Debug)]
struct Topic {
    app: u16,
    id: TopicId,
    members: Vec<Member>,
}

/// A session in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub slot: u32,
    membership: u32,
}

/// A topic of a session.
#[derive(Clone, Debug)]
struct Membership {
    topic: u32,
    /// Where the session stands among the topic's members.
    place: u32,
    next: u32,
}

impl Default for Membership {
    fn default() -> Membership {
        Membership { topic: 0, place: 0, next: NO_MEMBERSHIP }
    }
}

const _: () = assert!(size_of::<Member>() + size_of::<Membership>() == 20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joined {
    New,
    Already,
    TooMany,
    /// All topics together take what they may.
    NoRoom,
}

impl Topics {
    pub fn new(seed: u64) -> Topics {
        Topics {
            topics: Vec::new(),
            free_topics: Vec::new(),
            index: HashMap::with_hasher(Keyed(seed)),
            memberships: Chunks::new(),
            free_membership: NO_MEMBERSHIP,
            made: 0,
            members: 0,
            room: 0,
        }
    }

    /// Puts the session at `slot`, whose list begins at `first`, into a topic of its app.
    pub fn join(
        &mut self,
        first: &mut u32,
        slot: u32,
        app: u16,
        id: TopicId,
        topics_max: u32,
        bytes_max: usize,
    ) -> Joined {
        let topic = self.find(app, id);
        let mut count = 0;
        let mut at = *first;
        while at != NO_MEMBERSHIP {
            if Some(self.memberships[at].topic) == topic {
                return Joined::Already;
            }
            count += 1;
            at = self.memberships[at].next;
        }
        if count >= topics_max {
            return Joined::TooMany;
        }
        if self.bytes() >= bytes_max {
            return Joined::NoRoom;
        }
        let topic = topic.unwrap_or_else(|| self.add_topic(app, id));
        let membership = self.take_membership();
        let members = &mut self.topics[topic as usize].members;
        let place = members.len() as u32;
        self.room -= members.capacity();
        members.push(Member { slot, membership });
        self.room += members.capacity();
        self.memberships[membership] = Membership { topic, place, next: *first };
        *first = membership;
        self.members += 1;
        Joined::New
    }

    /// Takes the session whose list begins at `first` out of a topic; whether it was in it.
    pub fn leave(&mut self, first: &mut u32, app: u16, id: TopicId) -> bool {
        let Some(topic) = self.find(app, id) else { return false };
        let (mut before, mut at) = (NO_MEMBERSHIP, *first);
        while at != NO_MEMBERSHIP {
            let Membership { topic: its, next, .. } = self.memberships[at];
            if its == topic {
                match before {
                    NO_MEMBERSHIP => *first = next,
                    before => self.memberships[before].next = next,
                }
                self.remove(at);
                return true;
            }
            (before, at) = (at, next);
        }
        false
    }

    /// Takes a session out of all its topics.
    pub fn leave_all(&mut self, first: &mut u32) {
        while *first != NO_MEMBERSHIP {
            let membership = *first;
            *first = self.memberships[membership].next;
            self.remove(membership);
        }
    }

    pub fn find(&self, app: u16, id: TopicId) -> Option<u32> {
        self.index.get(&(app, id.0)).copied()
    }

    /// The members of a topic found earlier. None, if it ended since: its number may then be
    /// another topic's.
    #[inline]
    pub fn members(&self, topic: u32, app: u16, id: TopicId) -> &[Member] {
        let topic = &self.topics[topic as usize];
        if topic.app == app && topic.id == id { &topic.members } else { &[] }
    }

    /// The topics of the session whose list begins at `first`.
    pub fn of(&self, first: u32) -> impl Iterator<Item = TopicId> + '_ {
        let mut at = first;
        std::iter::from_fn(move || {
            (at != NO_MEMBERSHIP).then(|| {
                let membership = &self.memberships[at];
                at = membership.next;
                self.topics[membership.topic as usize].id
            })
        })
    }

    pub fn topics(&self) -> usize {
        self.index.len()
    }

    /// Memberships of all sessions.
    pub fn memberships(&self) -> u64 {
        self.members
    }

    /// Memory in use. Tables double when they grow and keep what they have had, so that the process
    /// may hold twice the most that this ever was.
    pub fn bytes(&self) -> usize {
        // A byte of control beside each bucket; a table is at most seven eighths full.
        let bucket = (size_of::<((u16, u64), u32)>() + 1) * 8 / 7;
        self.index.len() * (size_of::<Topic>() + bucket)
            + self.members as usize * size_of::<Membership>()
            + self.room * size_of::<Member>()
    }

    fn add_topic(&mut self, app: u16, id: TopicId) -> u32 {
        let added = Topic { app, id, members: Vec::new() };
        let topic = match self.free_topics.pop() {
            Some(topic) => {
                self.topics[topic as usize] = added;
                topic
            }
            None => {
                self.topics.push(added);
                self.topics.len() as u32 - 1
            }
        };
        self.index.insert((app, id.0), topic);
        topic
    }

    fn take_membership(&mut self) -> u32 {
        match self.free_membership {
            NO_MEMBERSHIP => {
                let membership = self.made;
                self.memberships.make(membership);
                self.made += 1;
                membership
            }
            membership => {
                self.free_membership = self.memberships[membership].next;
                membership
            }
        }
    }

    /// Removes the membership from its topic and frees it, and the topic with its last member.
    fn remove(&mut self, membership: u32) {
        let Membership { topic, place, .. } = self.memberships[membership];
        let ended = &mut self.topics[topic as usize];
        self.room -= ended.members.capacity();
        ended.members.swap_remove(place as usize);
        if let Some(moved) = ended.members.get(place as usize) {
            self.memberships[moved.membership].place = place;
        }
        if ended.members.is_empty() {
            self.index.remove(&(ended.app, ended.id.0));
            ended.members = Vec::new();
            self.free_topics.push(topic);
        } else if ended.members.len() < ended.members.capacity() / 4 {
            ended.members.shrink_to(ended.members.len() * 2);
        }
        self.room += self.topics[topic as usize].members.capacity();
        self.memberships[membership] =
            Membership { topic: 0, place: 0, next: self.free_membership };
        self.free_membership = membership;
        self.members -= 1;
    }

    /// Asserts that topics and lists agree. `lists` gives slot, app and first membership of every
    /// session.
    pub fn invariants(&self, lists: impl Iterator<Item = (u32, u16, u32)>) {
        let mut members = 0;
        for (slot, app, first) in lists {
            let mut at = first;
            while at != NO_MEMBERSHIP {
                let membership = &self.memberships[at];
                let topic = &self.topics[membership.topic as usize];
                assert_eq!(topic.app, app, "topics are an app's own");
                let member = topic.members[membership.place as usize];
                assert_eq!(member, Member { slot, membership: at });
                members += 1;
                at = membership.next;
            }
        }
        assert_eq!(members, self.members, "no list holds a membership of another");
        assert_eq!(
            self.topics.iter().map(|topic| topic.members.len() as u64).sum::<u64>(),
            members
        );
        let room = self.topics.iter().map(|topic| topic.members.capacity()).sum::<usize>();
        assert_eq!(room, self.room, "bounded: the lists' memory is known");
        assert_eq!(self.index.len() + self.free_topics.len(), self.topics.len());
        for (&(app, id), &topic) in &self.index {
            let topic = &self.topics[topic as usize];
            assert_eq!((topic.app, topic.id.0), (app, id));
            assert!(!topic.members.is_empty(), "a topic without members is not kept");
        }
    }
}

/// The hash of the topic table: SipHash-1-3 with a secret, so that a device cannot choose ids
/// that collide.
#[derive(Clone, Copy, Debug)]
struct Keyed(u64);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, !self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const TOPICS_MAX: u32 = 4;

    #[derive(Clone, Debug)]
    enum Step {
        Join { slot: u32, topic: u64 },
        Leave { slot: u32, topic: u64 },
        LeaveAll { slot: u32 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..12u32, 1..9u64).prop_map(|(slot, topic)| Step::Join { slot, topic }),
            2 => (0..12u32, 1..9u64).prop_map(|(slot, topic)| Step::Leave { slot, topic }),
            1 => (0..12u32).prop_map(|slot| Step::LeaveAll { slot }),
        ]
    }

    /// Sessions of even slots are of one app, those of odd slots of another.
    fn app(slot: u32) -> u16 {
        (slot % 2) as u16
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn agrees_with_a_set(steps in proptest::collection::vec(step(), 1..200), seed: u64) {
            let mut topics = Topics::new(seed);
            let mut first = [NO_MEMBERSHIP; 12];
            let mut oracle: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Join { slot, topic } => {
                        let mine = oracle.entry(slot).or_default();
                        let expect = if mine.contains(&topic) {
                            Joined::Already
                        } else if mine.len() as u32 == TOPICS_MAX {
                            Joined::TooMany
                        } else {
                            mine.insert(topic);
                            Joined::New
                        };
                        let id = TopicId(topic);
                        let list = &mut first[slot as usize];
                        prop_assert_eq!(topics.join(list, slot, app(slot), id, TOPICS_MAX, usize::MAX), expect);
                    }
                    Step::Leave { slot, topic } => {
                        let was = oracle.entry(slot).or_default().remove(&topic);
                        let list = &mut first[slot as usize];
                        prop_assert_eq!(topics.leave(list, app(slot), TopicId(topic)), was);
                    }
                    Step::LeaveAll { slot } => {
                        oracle.remove(&slot);
                        topics.leave_all(&mut first[slot as usize]);
                    }
                }
                let lists = first.iter().zip(0..).map(|(&first, slot)| (slot, app(slot), first));
                topics.invariants(lists);
                for slot in 0..12 {
                    let mine: BTreeSet<u64> =
                        topics.of(first[slot as usize]).map(|topic| topic.0).collect();
                    prop_assert_eq!(&mine, oracle.entry(slot).or_default());
                }
                for (topic, app_index) in (1..9u64).flat_map(|topic| [(topic, 0), (topic, 1)]) {
                    let members: BTreeSet<u32> = match topics.find(app_index, TopicId(topic)) {
                        Some(found) => topics
                            .members(found, app_index, TopicId(topic))
                            .iter()
                            .map(|member| member.slot)
                            .collect(),
                        None => BTreeSet::new(),
                    };
                    let expect: BTreeSet<u32> = oracle
                        .iter()
                        .filter(|(slot, mine)| app(**slot) == app_index && mine.contains(&topic))
                        .map(|(&slot, _)| slot)
                        .collect();
                    prop_assert_eq!(members, expect);
                }
            }
        }
    }
}
