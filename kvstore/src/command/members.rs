//! What hashes, sets and sorted sets have in common: members in the order of their places, counted in
//! the metadata. A collection without members does not exist.
//!
//! A member chosen at random costs the same however many there are: a random stretch of places that
//! holds some sixteen members is read, and taken with a chance that makes up for how many it holds.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::error::CommandError;
use super::random::Random;
use super::{Read, Write, find};
use crate::store::layout::{self, Counted, Family, Header, Kind};
use crate::store::overlay::Overlay;
use crate::store::view::{Direction, View};

/// A member and what is stored with it.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Called with each name and value until it breaks or fails.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, CommandError> + 'a;

/// Called with each member that was drawn and its value until it fails.
pub type Take<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), CommandError> + 'a;

/// Up to so many members, choosing one reads all of them.
const FEW: u64 = 256;
/// Members in a stretch of places, on average and at most. With SipHash the most is exceeded in one of
/// 10^10 stretches, and even then the choice is only a little uneven.
const STRETCH_MEMBERS: u64 = 16;
const STRETCH_MEMBERS_MAX: u64 = 48;
/// One in three stretches is taken, so this many are never all refused.
const STRETCHES_MAX: usize = 100;

/// A collection as a command found it, or one that begins.
#[derive(Clone)]
pub struct Members<'k> {
    pub key: &'k [u8],
    pub kind: Kind,
    version: u64,
    pub count: u64,
    pub expires_at_ms: u64,
}

impl<'k> Members<'k> {
    pub fn find(
        view: &dyn View,
        now_ms: u64,
        key: &'k [u8],
        kind: Kind,
    ) -> Result<Option<Members<'k>>, CommandError> {
        let Some(live) = find(view, now_ms, key)? else { return Ok(None) };
        let Counted { version, members } = Counted::decode(live.expect(kind)?)?;
        let expires_at_ms = live.header.expires_at_ms;
        Ok(Some(Members { key, kind, version, count: members, expires_at_ms }))
    }

    /// A collection without members, in place of whatever the key holds. Nothing is written yet.
    pub fn begin(overlay: &mut Overlay<'_>, key: &'k [u8], kind: Kind) -> Members<'k> {
        Members { key, kind, version: overlay.next_version(), count: 0, expires_at_ms: 0 }
    }

    pub fn row(&self, name: &[u8]) -> Vec<u8> {
        layout::member_key(self.key, self.version, name)
    }

    pub fn get(&self, view: &dyn View, member: &[u8]) -> Result<Option<Vec<u8>>, CommandError> {
        if self.count == 0 {
            return Ok(None);
        }
        Ok(view.get(Family::Member, &self.row(&layout::placed_name(member)))?)
    }

    pub fn contains(&self, view: &dyn View, member: &[u8]) -> Result<bool, CommandError> {
        Ok(self.get(view, member)?.is_some())
    }

    /// Visits the names with `from <= name < to`.
    pub fn range(
        &self,
        view: &dyn View,
        (from, to): (&[u8], &[u8]),
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), CommandError> {
        let (lower, upper) = (self.row(from), self.row(to));
        if lower >= upper {
            return Ok(());
        }
        let name_starts = lower.len() - from.len();
        let mut outcome = Ok(());
        view.scan(Family::Member, &lower, &upper, direction, &mut |row, value| {
            visit(&row[name_starts..], value).unwrap_or_else(|error| {
                outcome = Err(error);
                ControlFlow::Break(())
            })
        })?;
        outcome
    }

    /// Visits the names of members from one place on.
    pub fn each_from(
        &self,
        view: &dyn View,
        place: u32,
        visit: &mut Visit<'_>,
    ) -> Result<(), CommandError> {
        let bounds = (&layout::placed_from(place)[..], &layout::placed_end()[..]);
        self.range(view, bounds, Direction::Forward, visit)
    }

    /// Visits all members.
    pub fn each(
        &self,
        view: &dyn View,
        mut visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), CommandError> {
        self.each_from(view, 0, &mut |name, value| {
            visit(layout::placed_member(name), value);
            Ok(ControlFlow::Continue(()))
        })
    }

    pub fn all(&self, view: &dyn View) -> Result<Vec<Pair>, CommandError> {
        let mut found = Vec::new();
        self.each(view, |member, value| found.push((member.to_vec(), value.to_vec())))?;
        Ok(found)
    }

    /// One member, each with the same chance.
    pub fn random(&self, view: &dyn View, random: &Random) -> Result<Pair, CommandError> {
        if self.count > FEW {
            let stretches = self.count / STRETCH_MEMBERS;
            for _ in 0..STRETCHES_MAX {
                let stretch = random.below(stretches);
                let mut found = self.stretch(view, stretch, stretches)?;
                let members = found.len() as u64;
                if random.below(STRETCH_MEMBERS_MAX) < members {
                    return Ok(found.swap_remove(random.below(members) as usize));
                }
            }
        }
        let mut left = random.below(self.count);
        let mut chosen = None;
        self.each_from(view, 0, &mut |name, value| {
            if left > 0 {
                left -= 1;
                return Ok(ControlFlow::Continue(()));
            }
            chosen = Some((layout::placed_member(name).to_vec(), value.to_vec()));
            Ok(ControlFlow::Break(()))
        })?;
        chosen.ok_or_else(|| CommandError::from(layout::Malformed))
    }

    /// The members of one of so many equal stretches of places.
    fn stretch(
        &self,
        view: &dyn View,
        number: u64,
        stretches: u64,
    ) -> Result<Vec<Pair>, CommandError> {
        let begin = |number: u64| (u128::from(number) << 32) / u128::from(stretches);
        let end = begin(number + 1);
        let mut found = Vec::new();
        self.each_from(view, begin(number) as u32, &mut |name, value| {
            if u128::from(layout::place_in(name)?) >= end {
                return Ok(ControlFlow::Break(()));
            }
            found.push((layout::placed_member(name).to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// So many different members, or all if there are fewer.
    pub fn sample(
        &self,
        view: &dyn View,
        random: &Random,
        wanted: u64,
    ) -> Result<Vec<Pair>, CommandError> {
        if wanted < self.count / 3 && self.count > FEW {
            let mut names = BTreeSet::new();
            let mut found = Vec::new();
            while (found.len() as u64) < wanted {
                let pair = self.random(view, random)?;
                if names.insert(pair.0.clone()) {
                    found.push(pair);
                }
            }
            return Ok(found);
        }
        let mut rest = self.all(view)?;
        if wanted >= self.count {
            return Ok(rest);
        }
        let draws = (0..wanted).map(|_| {
            let index = random.below(rest.len() as u64) as usize;
            rest.swap_remove(index)
        });
        Ok(draws.collect())
    }

    /// Draws so many times, each time from all members, until `take` fails.
    pub fn draw(
        &self,
        view: &dyn View,
        random: &Random,
        times: u64,
        take: &mut Take<'_>,
    ) -> Result<(), CommandError> {
        let all = if self.count <= times.max(FEW) { Some(self.all(view)?) } else { None };
        for _ in 0..times {
            match &all {
                Some(all) => {
                    let (member, value) = &all[random.below(all.len() as u64) as usize];
                    take(member, value)?;
                }
                None => {
                    let (member, value) = self.random(view, random)?;
                    take(&member, &value)?;
                }
            }
        }
        Ok(())
    }

    /// Writes a member and leaves counting it to the caller, who knows whether it is new.
    pub fn put(&self, overlay: &mut Overlay<'_>, member: &[u8], value: &[u8]) {
        overlay.put(Family::Member, self.row(&layout::placed_name(member)), value.to_vec());
    }

    /// Deletes a member, and leaves counting it to the caller.
    pub fn remove(&self, overlay: &mut Overlay<'_>, member: &[u8]) {
        overlay.delete(Family::Member, self.row(&layout::placed_name(member)));
    }

    /// Deletes different members that are known to be there, and counts them.
    pub fn take_out<'m>(
        &mut self,
        overlay: &mut Overlay<'_>,
        members: impl ExactSizeIterator<Item = &'m [u8]>,
    ) {
        if members.len() == 0 {
            return;
        }
        self.count -= members.len() as u64;
        // Without members the version goes, and all that is left of them with it.
        if self.count > 0 {
            members.for_each(|member| self.remove(overlay, member));
        }
        self.save(overlay);
    }

    /// Writes the metadata, after every change of members. Without members, the key goes.
    pub fn save(&self, overlay: &mut Overlay<'_>) {
        let key = layout::metadata_key(self.key);
        if self.count == 0 {
            return overlay.delete(Family::Metadata, key);
        }
        let header = Header { kind: self.kind, expires_at_ms: self.expires_at_ms };
        let counted = Counted { version: self.version, members: self.count };
        overlay.put(Family::Metadata, key, counted.encode(header));
    }
}

impl<'a> Read<'a> {
    pub fn members(&self, kind: Kind) -> Result<Option<Members<'a>>, CommandError> {
        self.counted(Members::find(self.view, self.now_ms, &self.args[1], kind))
    }
}

impl<'a> Write<'a, '_> {
    pub fn members(&self, key: &'a [u8], kind: Kind) -> Result<Option<Members<'a>>, CommandError> {
        Members::find(self.overlay, self.now_ms, key, kind)
    }

    pub fn members_or_new(
        &mut self,
        key: &'a [u8],
        kind: Kind,
    ) -> Result<Members<'a>, CommandError> {
        match self.members(key, kind)? {
            Some(found) => Ok(found),
            None => Ok(Members::begin(self.overlay, key, kind)),
        }
    }
}
