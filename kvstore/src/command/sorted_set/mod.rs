//! Sorted sets. Each member lies there twice: by its place with its score, and by its score.
//!
//! ```text
//! range    which members, by rank, score or name: ZRANGE and its relatives, ZCOUNT, ZREMRANGEBY...
//! change   ZADD, ZINCRBY, ZREM
//! pop      ZPOPMIN, ZPOPMAX, ZMPOP, and BZPOPMIN, BZPOPMAX, BZMPOP, which wait
//! read     ZSCORE, ZMSCORE, ZCARD, ZRANK, ZRANDMEMBER
//! algebra  ZUNION, ZINTER, ZDIFF and what stores or counts them
//! ```
//!
//! Scores and names are found at once; a rank is found by counting from the nearer end, since nothing
//! counts what lies before a member.
//!
//! **Invariant:** scores are never NaN. A score of -0 is kept as 0, as Redis does in small sorted sets.

pub mod algebra;
pub mod change;
pub mod pop;
pub mod range;
pub mod read;

use std::ops::ControlFlow;

use super::error::CommandError;
use super::members::Members;
use crate::resp::reply::{Protocol, Reply};
use crate::store::layout::{self, Family};
use crate::store::overlay::Overlay;
use crate::store::view::{Direction, View};

/// A member and its score.
pub type Scored = (Vec<u8>, f64);

/// Called with each member and its score until it breaks.
pub type VisitScored<'a> = dyn FnMut(&[u8], f64) -> ControlFlow<()> + 'a;

pub fn decode_score(value: &[u8]) -> Result<f64, CommandError> {
    Ok(f64::from_be_bytes(value.try_into().map_err(|_| layout::Malformed)?))
}

impl Members<'_> {
    pub fn score(&self, view: &dyn View, member: &[u8]) -> Result<Option<f64>, CommandError> {
        self.get(view, member)?.map(|value| decode_score(&value)).transpose()
    }

    /// Visits the names in the order of scores with `from <= name < to`.
    pub fn each_scored(
        &self,
        view: &dyn View,
        bounds: (&[u8], &[u8]),
        direction: Direction,
        visit: &mut VisitScored<'_>,
    ) -> Result<(), CommandError> {
        self.range(view, bounds, direction, &mut |name, _| {
            let (score, member) = layout::scored_member(name)?;
            Ok(visit(member, score))
        })
    }

    /// Writes a member whose score was `before`, and counts it if it is new.
    pub fn put_score(
        &mut self,
        overlay: &mut Overlay<'_>,
        member: &[u8],
        before: Option<f64>,
        score: f64,
    ) {
        // Adding zero makes 0 of -0.
        let score = score + 0.0;
        match before {
            Some(before) => {
                overlay.delete(Family::Member, self.row(&layout::scored_name(before, member)));
            }
            None => self.count += 1,
        }
        self.put(overlay, member, &score.to_be_bytes());
        overlay.put(Family::Member, self.row(&layout::scored_name(score, member)), Vec::new());
    }

    /// Deletes different members that are known to be there, and writes the metadata.
    pub fn take_out_scored(&mut self, overlay: &mut Overlay<'_>, members: &[Scored]) {
        // Without members the version goes, and all that is left of them with it.
        if (members.len() as u64) < self.count {
            for (member, score) in members {
                overlay.delete(Family::Member, self.row(&layout::scored_name(*score, member)));
            }
        }
        self.take_out(overlay, members.iter().map(|(member, _)| &member[..]));
    }
}

/// Members with their scores: in the newer protocol each pair is an array of its own.
pub fn put_scored(reply: &mut Reply, members: &[Scored]) {
    match reply.protocol() {
        Protocol::Resp2 => reply.array(2 * members.len()),
        Protocol::Resp3 => reply.array(members.len()),
    }
    for (member, score) in members {
        put_pair(reply, member, *score);
    }
}

pub fn put_pair(reply: &mut Reply, member: &[u8], score: f64) {
    if reply.protocol() == Protocol::Resp3 {
        reply.array(2);
    }
    reply.bulk(member);
    reply.double(score);
}

pub fn put_names(reply: &mut Reply, members: &[Scored]) {
    reply.array(members.len());
    members.iter().for_each(|(member, _)| reply.bulk(member));
}
