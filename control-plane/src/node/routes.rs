//! Where devices are: soft state, rebuilt from announcements.
//!
//! ```text
//!   DeviceId ──▶ Route {link, slot, generation, epoch}       256 parts by the id's top byte
//!   LinkId   ──▶ Link {broker, shard, sessions, apps}        a route of a dead link is no route
//! ```
//!
//! Of two sessions of one device the greater epoch wins, here as in every other node and in the
//! shards, so all come to the same end without talking to each other. Equal epochs, which two
//! brokers can give within one millisecond, are told apart by the place of the session.
//!
//! A lost link costs nothing at once, however many sessions it had: its routes are ignored from
//! then on and removed part by part.
//!
//! Limits: `routes_max` (a device beyond it counts as offline; its inbox keeps its messages),
//! `links_max`.

use hawser_codec::ids::{AppId, DeviceId, Epoch, SessionRef};
use hawser_codec::link::Announced;

use super::event::LinkId;
use super::table::Table;

const PARTS: usize = 256;

/// Where one session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub epoch: Epoch,
    pub link: LinkId,
    pub session: SessionRef,
    pub app: AppId,
}

/// One shard, as linked.
#[derive(Debug)]
pub struct Link {
    pub broker: u64,
    pub incarnation: u64,
    pub shard: u16,
    pub sessions: u64,
    /// Sessions per app; an app without one is absent.
    pub apps: Table<AppId, u64>,
}

/// What an announcement led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// The route is known; it is the first of its app on this link if `first_of_app`.
    Routed { first_of_app: bool, loser: Option<Loser> },
    /// A newer session exists elsewhere.
    Stale { loser: Loser },
    /// The table is full.
    NoRoom,
}

/// A session to close because one with a greater epoch exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loser {
    pub link: LinkId,
    pub session: SessionRef,
    /// Above the loser's own, so that its shard closes it.
    pub epoch: Epoch,
}

#[derive(Debug)]
pub struct Routes {
    parts: Vec<Table<DeviceId, Route>>,
    /// Routes in the table, those of dead links included.
    count: usize,
    /// Parts that may still hold routes of dead links.
    purge_left: usize,
    links: Table<LinkId, Link>,
    by_shard: Table<(u64, u16), LinkId>,
}

impl Routes {
    pub fn new() -> Routes {
        Routes {
            parts: (0..PARTS).map(|_| Table::default()).collect(),
            count: 0,
            purge_left: 0,
            links: Table::default(),
            by_shard: Table::default(),
        }
    }

    /// Returns the link that this one replaces: a shard has one link to a node.
    pub fn link_up(
        &mut self,
        id: LinkId,
        broker: u64,
        incarnation: u64,
        shard: u16,
    ) -> Option<LinkId> {
        let replaced = self.by_shard.insert((broker, shard), id);
        if let Some(replaced) = replaced {
            self.links.remove(&replaced);
            self.purge_left = PARTS;
        }
        let link = Link { broker, incarnation, shard, sessions: 0, apps: Table::default() };
        let known = self.links.insert(id, link);
        assert!(known.is_none(), "link ids are never used twice");
        replaced
    }

    /// Forgets a link and, in effect at once, its routes.
    pub fn link_down(&mut self, id: LinkId) -> bool {
        let Some(link) = self.links.remove(&id) else { return false };
        self.by_shard.remove(&(link.broker, link.shard));
        self.purge_left = PARTS;
        true
    }

    pub fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id)
    }

    pub fn links(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().map(|(&id, link)| (id, link))
    }

    /// The links that hold a session of the app, in a fixed order.
    pub fn links_of_app(&self, app: AppId) -> Vec<LinkId> {
        let mut links: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.apps.contains_key(&app))
            .map(|(&id, _)| id)
            .collect();
        links.sort_unstable();
        links
    }

    pub fn is_app_online(&self, app: AppId) -> bool {
        self.links.values().any(|link| link.apps.contains_key(&app))
    }

    pub fn sessions(&self) -> u64 {
        self.links.values().map(|link| link.sessions).sum()
    }

    /// The device's session, if its link is up.
    #[inline]
    pub fn get(&self, device: DeviceId) -> Option<&Route> {
        let route = self.parts[part(device)].get(&device)?;
        self.links.contains_key(&route.link).then_some(route)
    }

    /// Takes in one record of a shard's announcement. The link must be up.
    pub fn announce(
        &mut self,
        from: LinkId,
        announced: &Announced,
        routes_max: usize,
        compares_epochs: bool,
    ) -> Announcement {
        let route = Route {
            epoch: announced.epoch,
            link: from,
            session: announced.session,
            app: announced.app,
        };
        let mut loser = None;
        match self.get(announced.device).copied() {
            None if self.count >= routes_max
                && !self.parts[part(announced.device)].contains_key(&announced.device) =>
            {
                return Announcement::NoRoom;
            }
            None => {}
            Some(known) => {
                if compares_epochs && self.rank(&known) > self.rank(&route) {
                    return Announcement::Stale { loser: loser_against(&route, &known) };
                }
                // A slot that was given to another session has closed the former one already.
                if known.link != from || known.session.slot != route.session.slot {
                    loser = Some(loser_against(&known, &route));
                }
                self.leave(&known);
            }
        }
        if self.parts[part(announced.device)].insert(announced.device, route).is_none() {
            self.count += 1;
        }
        let link = self.links.get_mut(&from).expect("the caller knows the link");
        link.sessions += 1;
        let app_sessions = link.apps.entry(announced.app).or_default();
        *app_sessions += 1;
        Announcement::Routed { first_of_app: *app_sessions == 1, loser }
    }

    /// Removes the route if it is still this very session's.
    pub fn gone(&mut self, from: LinkId, device: DeviceId, session: SessionRef) -> bool {
        let Some(known) = self.get(device).copied() else { return false };
        if known.link != from || known.session != session {
            return false;
        }
        self.leave(&known);
        self.parts[part(device)].remove(&device);
        self.count -= 1;
        true
    }

    pub fn has_dead_routes(&self) -> bool {
        self.purge_left > 0
    }

    /// Removes the dead routes of one part and gives back its slack.
    pub fn purge_part(&mut self) {
        if self.purge_left == 0 {
            return;
        }
        self.purge_left -= 1;
        let links = &self.links;
        let part = &mut self.parts[self.purge_left];
        let before = part.len();
        part.retain(|_, route| links.contains_key(&route.link));
        self.count -= before - part.len();
        if part.capacity() > 64 && part.capacity() / 4 > part.len() {
            part.shrink_to_fit();
        }
    }

    /// Takes the route out of its live link's counts.
    fn leave(&mut self, route: &Route) {
        let link = self.links.get_mut(&route.link).expect("only routes of live links are known");
        link.sessions -= 1;
        let sessions = link.apps.get_mut(&route.app).expect("each session is counted by its app");
        *sessions -= 1;
        if *sessions == 0 {
            link.apps.remove(&route.app);
        }
    }

    /// The order of sessions, the same on every node.
    fn rank(&self, route: &Route) -> (Epoch, u64, u64, u16, u32, u32) {
        let link = &self.links[&route.link];
        let SessionRef { slot, generation } = route.session;
        (route.epoch, link.broker, link.incarnation, link.shard, generation, slot)
    }

    /// Asserts what must always hold; slow.
    pub fn invariants(&self, routes_max: usize) {
        let stored: usize = self.parts.iter().map(Table::len).sum();
        assert_eq!(stored, self.count, "bounded: the count of routes");
        assert!(self.count <= routes_max, "bounded: routes");
        let mut sessions: Table<LinkId, Table<AppId, u64>> = Table::default();
        for route in self.parts.iter().flat_map(Table::values) {
            *sessions.entry(route.link).or_default().entry(route.app).or_default() += 1;
        }
        for (id, link) in &self.links {
            let counted = sessions.remove(id).unwrap_or_default();
            assert_eq!(link.apps, counted, "one-home: a link counts its routes");
            assert_eq!(link.sessions, counted.values().sum::<u64>());
            assert_eq!(self.by_shard.get(&(link.broker, link.shard)), Some(id));
        }
        assert_eq!(self.by_shard.len(), self.links.len());
        assert!(sessions.is_empty() || self.purge_left > 0, "dead routes are being purged");
    }
}

fn loser_against(loser: &Route, winner: &Route) -> Loser {
    let epoch = winner.epoch.max(Epoch(loser.epoch.0.saturating_add(1)));
    Loser { link: loser.link, session: loser.session, epoch }
}

#[inline]
fn part(device: DeviceId) -> usize {
    (device.0 >> 120) as usize
}
