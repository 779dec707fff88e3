//! The group log of an app: one entry over the link, one frame to all its members.
//!
//! ```text
//!  GroupDeliver(cursor + 1) ─▶ cursor moves ─▶ job ─▶ [job][job] of the app ─▶ a budget per turn:
//!  gap, or no room          ─▶ wanted moves ─▶ GroupFetch(cursor)               member by member
//!
//!  member: has it already ─▶ skip;  free ─▶ the shared frame;  held ─▶ G_LAG, one Notice
//!  Pull{Group} ─▶ GroupPull with the session's topics ─▶ GroupEntries ─▶ pushes, CaughtUp
//! ```
//!
//! Invariant **fifo-per-device**: the jobs of one app run one after another in the order of the
//! log, and what a held member misses is never overtaken: nothing is sent at once until a pull has
//! brought the rest. A job walks its members downwards, so that `swap_remove` can only show it a
//! member twice, which `row.group` catches, and hide none.
//!
//! A session's group pull is outstanding on one use of one link (`row.group_over`); only that
//! answer counts. An older one would end the lag without what the lag is about.
//!
//! Limits: `JOBS_PER_APP_MAX` jobs, `JOBS_MAX` in the shard, each with one frame of at most
//! `INLINE_BYTES_MAX`. What finds no room is fetched when there is some: the log has it.

use std::collections::VecDeque;
use std::ops::Range;

use hawser_codec::device::{Downlink, PushKind, put_push_header};
use hawser_codec::ids::{AppId, Seq, Stream, TopicId};
use hawser_codec::limits::PULL_ENTRIES_MAX;
use hawser_codec::link::{Entries, Entry, EntryFlags, to_control};

use super::apps::App;
use super::delivery::travels_inline;
use super::event::{Action, Actions, LinkIndex, Now};
use super::rows::{Flags, Row};
use super::{Core, SeededBug, send};
use crate::metrics::Counter;

pub(super) const JOBS_PER_APP_MAX: usize = 2 * PULL_ENTRIES_MAX;
pub(super) const JOBS_MAX: usize = 8 * JOBS_PER_APP_MAX;

/// Members that one app is served before the next app has its turn.
const QUANTUM: u32 = 1024;

/// A device writes its connect and all its subscribes at once; so long their arrival may take,
/// which is as long as a device waits for an answer before it hangs up.
const SETTLE_MS: u64 = 20_000;

/// The log of one app as this shard knows it.
#[derive(Default)]
pub(super) struct Group {
    /// The last entry taken in order. `None` without members, and until a control node has spoken.
    cursor: Option<Seq>,
    /// The highest entry known to exist.
    wanted: Seq,
    fetch: Option<Fetch>,
    jobs: VecDeque<Job>,
    /// It stands in the ring of apps with jobs.
    in_ring: bool,
    /// It stands in the line for room.
    in_line: bool,
}

/// A fetch that is outstanding.
struct Fetch {
    over: LinkIndex,
    wanted: Seq,
    /// It was for members who have left since; its answer says nothing about what is wanted now.
    is_stale: bool,
}

/// What is being sent to the members of a topic.
struct Job {
    what: What,
    seq: Seq,
    topic: TopicId,
    /// The topic's number; `None`: the whole app.
    members: Option<u32>,
    /// Members below this index are still to be served; `u32::MAX`: it has not begun.
    next: u32,
    sent: u32,
    waiting: u32,
}

enum What {
    /// The frame, for whoever can take it.
    Send(Box<[u8]>),
    /// The entry waits to be pulled.
    Wait { awake: bool },
    /// The end of the log is known: whoever waits for a place gets one.
    Place,
}

/// The apps with jobs, in turn.
#[derive(Default)]
pub(super) struct Fanout {
    ring: VecDeque<u16>,
    /// Apps that found no room.
    line: VecDeque<u16>,
    jobs: usize,
    bytes: u64,
}

impl Group {
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && !self.in_ring && !self.in_line
    }

    /// Whether the log is known to reach this far.
    pub fn has(&self, seq: Seq) -> bool {
        self.cursor.is_some_and(|cursor| seq <= cursor)
    }

    pub fn invariants(&self, is_empty: bool) {
        assert!(self.jobs.len() <= JOBS_PER_APP_MAX + 1);
        assert!(self.jobs.is_empty() || self.in_ring, "jobs are not forgotten");
        assert!(self.jobs.iter().is_sorted_by_key(|job| job.seq), "jobs stand in the log's order");
        let is_over = self.cursor.is_none()
            && self.jobs.is_empty()
            && self.fetch.as_ref().is_none_or(|fetch| fetch.is_stale);
        assert!(!is_empty || is_over);
        assert!(self.cursor.is_none_or(|cursor| cursor <= self.wanted));
        assert!(self.jobs.back().is_none_or(|job| Some(job.seq) <= self.cursor));
    }
}

impl Fanout {
    pub fn has_work(&self) -> bool {
        !self.ring.is_empty()
    }

    pub fn jobs(&self) -> usize {
        self.jobs
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn ended(&mut self, job: &Job) {
        self.jobs -= 1;
        self.bytes -= job.frame_bytes();
    }
}

impl Job {
    fn frame_bytes(&self) -> u64 {
        match &self.what {
            What::Send(frame) => frame.len() as u64,
            What::Wait { .. } | What::Place => 0,
        }
    }
}

/// The shard's side: the log in order, and what is missing of it.
impl Core {
    pub(super) fn on_group_deliver(&mut self, id: AppId, entry: &Entry<'_>) {
        let Some(app) = self.known_app(id) else { return };
        if self.apps[app].members.is_empty() {
            return;
        }
        let cursor = match self.apps[app].group.cursor {
            Some(cursor) => cursor,
            None => self.begin_group(app, Seq(entry.seq.0 - 1)),
        };
        if entry.seq <= cursor {
            self.counters.add(Counter::Duplicates, 1);
            return;
        }
        let is_next = entry.seq.0 == cursor.0 + 1 || self.bug(SeededBug::GroupCursorSkipsGap);
        if !is_next || !self.take_group_entry(app, entry) {
            self.want(app, entry.seq);
        }
    }

    /// The end of the log as a control node knows it.
    pub(super) fn on_group_cursor(&mut self, id: AppId, seq: Seq) {
        let Some(app) = self.known_app(id) else { return };
        if self.apps[app].members.is_empty() {
            return;
        }
        if self.apps[app].group.cursor.is_none() {
            self.begin_group(app, seq);
        }
        self.want(app, seq);
    }

    pub(super) fn on_group_fetched(
        &mut self,
        id: AppId,
        upto: Seq,
        more: bool,
        entries: &Entries<'_>,
    ) {
        let Some(app) = self.known_app(id) else { return };
        let group = &mut self.apps[app].group;
        let fetch = group.fetch.take().filter(|fetch| !fetch.is_stale);
        let (Some(fetch), Some(cursor)) = (fetch, group.cursor) else {
            // The members left meanwhile. Others may have come and wait for this one to end.
            self.counters.add(Counter::Duplicates, 1);
            self.fetch_if_missing(app);
            return;
        };
        for entry in entries.iter().filter(|entry| entry.seq > cursor) {
            // The log may lack what has expired; within an answer that is no gap.
            if self.apps[app].group.cursor.is_some_and(|cursor| entry.seq > cursor)
                && !self.take_group_entry(app, &entry)
            {
                self.want(app, upto);
                return;
            }
        }
        let group = &mut self.apps[app].group;
        let cursor = group.cursor.max(Some(upto)).unwrap_or(upto);
        group.cursor = Some(cursor);
        group.wanted = group.wanted.max(cursor);
        if more {
            group.wanted = group.wanted.max(Seq(cursor.0.saturating_add(1).min(Seq::MAX.0)));
        } else if group.wanted == fetch.wanted {
            // The store was read after the entry was announced; what it lacks does not exist.
            group.wanted = cursor;
        }
        self.fetch_if_missing(app);
    }

    /// The last session of the app left: what is known of its log goes stale from now on.
    pub(super) fn end_group(&mut self, app: u16) {
        let group = &mut self.apps[app].group;
        for job in group.jobs.drain(..) {
            self.fanout.ended(&job);
        }
        (group.cursor, group.wanted) = (None, Seq::ZERO);
        if let Some(fetch) = &mut group.fetch {
            fetch.is_stale = true;
        }
    }

    /// A link came up, or the given one was lost: fetches go out (again).
    pub(super) fn fetch_after_link_change(&mut self, lost: Option<LinkIndex>) {
        for app in self.apps.indices() {
            let group = &mut self.apps[app].group;
            if group.fetch.as_ref().is_some_and(|fetch| Some(fetch.over) == lost) {
                group.fetch = None;
            }
            self.fetch_if_missing(app);
        }
    }

    fn known_app(&mut self, id: AppId) -> Option<u16> {
        let app = self.apps.by_id(id);
        if app.is_none() {
            self.counters.add(Counter::UnknownApp, 1);
        }
        app
    }

    /// The place from which the app's sessions follow the log is known.
    fn begin_group(&mut self, app: u16, cursor: Seq) -> Seq {
        let group = &mut self.apps[app].group;
        group.cursor = Some(cursor);
        group.wanted = group.wanted.max(cursor);
        self.add_job(app, What::Place, cursor, TopicId::ALL, None);
        cursor
    }

    /// Takes the log's next entry; `false` if there is no room for its job.
    fn take_group_entry(&mut self, app: u16, entry: &Entry<'_>) -> bool {
        if self.apps[app].group.jobs.len() >= JOBS_PER_APP_MAX || self.fanout.jobs >= JOBS_MAX {
            self.counters.add(Counter::GroupNoRoom, 1);
            let group = &mut self.apps[app].group;
            if !group.in_line {
                group.in_line = true;
                self.fanout.line.push_back(app);
            }
            return false;
        }
        let group = &mut self.apps[app].group;
        group.cursor = Some(entry.seq);
        group.wanted = group.wanted.max(entry.seq);
        self.counters.add(Counter::GroupEntries, 1);
        let members = self.topics.find(app, entry.topic);
        if entry.topic == TopicId::ALL || members.is_some() {
            let is_awake = entry.flags.contains(EntryFlags::WHEN_AWAKE);
            let what = if is_awake || !travels_inline(entry) {
                What::Wait { awake: is_awake }
            } else {
                What::Send(push_frame(entry))
            };
            self.add_job(app, what, entry.seq, entry.topic, members);
        }
        true
    }

    fn add_job(&mut self, app: u16, what: What, seq: Seq, topic: TopicId, members: Option<u32>) {
        let job = Job { what, seq, topic, members, next: u32::MAX, sent: 0, waiting: 0 };
        self.fanout.jobs += 1;
        self.fanout.bytes += job.frame_bytes();
        let group = &mut self.apps[app].group;
        group.jobs.push_back(job);
        if !group.in_ring {
            group.in_ring = true;
            self.fanout.ring.push_back(app);
        }
    }

    fn want(&mut self, app: u16, seq: Seq) {
        let group = &mut self.apps[app].group;
        group.wanted = group.wanted.max(seq);
        self.fetch_if_missing(app);
    }

    /// Asks one control node for what follows the cursor: one fetch at a time, and none before
    /// there is room for the answer.
    fn fetch_if_missing(&mut self, app: u16) {
        let Some(over) = self.links.preferred() else { return };
        let App { id, group, .. } = &mut self.apps[app];
        let Some(cursor) = group.cursor else { return };
        if group.wanted > cursor && group.fetch.is_none() && !group.in_line {
            group.fetch = Some(Fetch { over, wanted: group.wanted, is_stale: false });
            self.links.frame(over, |out| to_control::group_fetch(out, *id, cursor));
            self.counters.add(Counter::GroupFetches, 1);
        }
    }
}

/// The members' side: jobs.
impl Core {
    /// Serves members until the turn's budget is used.
    pub(super) fn run_fanout(&mut self, now: Now, out: &mut Actions) {
        let mut budget = self.config.fanout_budget;
        while budget > 0
            && let Some(app) = self.fanout.ring.pop_front()
        {
            let group = &mut self.apps[app].group;
            let Some(mut job) = group.jobs.pop_front() else {
                group.in_ring = false;
                continue;
            };
            // A job without members costs something too.
            let served = self.serve(app, &mut job, budget.min(QUANTUM), now, out);
            budget -= served.clamp(1, budget);
            if job.next == 0 {
                self.end_job(app, &job);
            } else {
                self.apps[app].group.jobs.push_front(job);
            }
            self.fanout.ring.push_back(app);
        }
        self.serve_line();
    }

    /// Offers the job to the next members; returns to how many.
    fn serve(&mut self, app: u16, job: &mut Job, quota: u32, now: Now, out: &mut Actions) -> u32 {
        let Core { rows, topics, apps, wheel, heartbeat, counters, .. } = self;
        let is_settled = |row: &Row, slot: u32| {
            let heard_ms = wheel.deadline_ms(slot).saturating_sub(heartbeat.idle_ms(row.step));
            now.mono_ms >= heard_ms + SETTLE_MS
        };
        let (list, topic, next) = (job.members, job.topic, job.next);
        let mut frames = Frames::default();
        let mut offer = |slot: u32| job.offer(&mut rows[slot], slot, is_settled, &mut frames, out);
        let (start, end) = match list {
            None => {
                let members = &apps[app].members;
                let (start, end) = span(next, members.len(), quota);
                members[start..end].iter().rev().for_each(|&slot| offer(slot));
                (start, end)
            }
            Some(list) => {
                let members = topics.members(list, app, topic);
                let (start, end) = span(next, members.len(), quota);
                members[start..end].iter().rev().for_each(|member| offer(member.slot));
                (start, end)
            }
        };
        counters.add(Counter::Notices, u64::from(frames.notices));
        job.next = start as u32;
        (end - start) as u32
    }

    /// Reports a job that is over, and makes its room available.
    fn end_job(&mut self, app: u16, job: &Job) {
        self.fanout.ended(job);
        self.counters.add(Counter::GroupSent, u64::from(job.sent));
        self.counters.add(Counter::GroupWaiting, u64::from(job.waiting));
        if job.sent + job.waiting > 0
            && let Some(to) = self.links.preferred()
        {
            let id = self.apps[app].id;
            self.links.frame(to, |out| {
                to_control::group_sent(out, id, job.seq, job.sent, job.waiting);
            });
        }
    }

    /// Apps that found no room fetch what they missed, once there is room for an answer.
    fn serve_line(&mut self) {
        while self.fanout.jobs <= JOBS_MAX / 2
            && let Some(&app) = self.fanout.line.front()
            && self.apps[app].group.jobs.len() <= JOBS_PER_APP_MAX - PULL_ENTRIES_MAX
        {
            self.fanout.line.pop_front();
            self.apps[app].group.in_line = false;
            self.fetch_if_missing(app);
        }
    }
}

/// The part of a member list that comes next, walking down.
fn span(next: u32, count: usize, quota: u32) -> (usize, usize) {
    let end = count.min(next as usize);
    (end.saturating_sub(quota as usize), end)
}

/// Frames of one job in one turn: each is encoded once, when the first member needs it.
#[derive(Default)]
struct Frames {
    entry: Option<Range<u32>>,
    notice: Option<Range<u32>>,
    notices: u32,
}

impl Job {
    /// Sends the entry to a member, or leaves it for its next pull.
    #[inline]
    fn offer(
        &mut self,
        row: &mut Row,
        slot: u32,
        is_settled: impl Fn(&Row, u32) -> bool,
        frames: &mut Frames,
        out: &mut Actions,
    ) {
        let is_awake = match &self.what {
            What::Send(frame) => {
                if row.group >= self.seq {
                    return;
                }
                if may_take(row, slot, self.seq, is_settled) {
                    let frame = frames
                        .entry
                        .get_or_insert_with(|| out.write(|bytes| bytes.extend_from_slice(frame)));
                    row.group = self.seq;
                    self.sent += 1;
                    out.list.push(Action::Send { slot, frame: frame.clone() });
                    return;
                }
                false
            }
            What::Wait { awake } => {
                if row.group >= self.seq {
                    return;
                }
                *awake
            }
            What::Place => return self.place(row, slot, frames, out),
        };
        self.waiting += 1;
        if hold(row, is_awake) {
            self.notice(slot, frames, out);
        }
    }

    /// Gives a place to a session without one, and tells one that is behind.
    fn place(&mut self, row: &mut Row, slot: u32, frames: &mut Frames, out: &mut Actions) {
        if !row.flags.has(Flags::G_UNKNOWN) {
            if row.group < self.seq && hold(row, false) {
                self.notice(slot, frames, out);
            }
        } else if !row.flags.has(Flags::BLOCKED) {
            row.flags.clear(Flags::G_UNKNOWN);
            row.group = self.seq;
            let caught_up =
                Downlink::CaughtUp { stream: Stream::Group, upto: self.seq, more: false };
            let frame =
                frames.entry.get_or_insert_with(|| out.write(|bytes| caught_up.encode(bytes)));
            out.list.push(Action::Send { slot, frame: frame.clone() });
        }
    }

    fn notice(&self, slot: u32, frames: &mut Frames, out: &mut Actions) {
        let notice = Downlink::Notice { stream: Stream::Group, latest: self.seq };
        let frame = frames.notice.get_or_insert_with(|| out.write(|bytes| notice.encode(bytes)));
        out.list.push(Action::Send { slot, frame: frame.clone() });
        frames.notices += 1;
    }
}

/// Whether a member can be sent the entry `seq` now. A session that is settling, whose subscribes
/// may still be on their way, takes only what follows directly on what it has: then it missed
/// nothing, whatever it joins.
#[inline]
fn may_take(row: &mut Row, slot: u32, seq: Seq, is_settled: impl Fn(&Row, u32) -> bool) -> bool {
    if row.flags.has(Flags::GROUP_HELD) {
        return false;
    }
    if row.flags.has(Flags::SETTLING) {
        if is_settled(row, slot) {
            row.flags.clear(Flags::SETTLING);
        } else {
            return row.group.0 + 1 == seq.0;
        }
    }
    true
}

/// Leaves an entry for the member's next pull; whether it must be told now.
fn hold(row: &mut Row, is_awake: bool) -> bool {
    let flags = &mut row.flags;
    if flags.has(Flags::G_PULLING) {
        // The answer may lack it. If it does, only when-awake entries can wait for a heartbeat.
        let sleeps = is_awake && (!flags.has(Flags::G_GREW) || flags.has(Flags::G_AWAKE));
        flags.put(Flags::G_AWAKE, sleeps);
        flags.set(Flags::G_GREW | Flags::G_LAG);
        return false;
    }
    let sleeps = is_awake && (!flags.has(Flags::G_LAG) || flags.has(Flags::G_AWAKE));
    flags.put(Flags::G_AWAKE, sleeps);
    flags.set(Flags::G_LAG);
    if sleeps || flags.has(Flags::GROUP_TOLD) {
        return false;
    }
    flags.set(Flags::G_NOTICED);
    true
}

/// One session's side: its pulls.
impl Core {
    /// Where a session that has just proved itself stands; the head of the log, if it is known.
    pub(super) fn join_group(&mut self, slot: u32, position: Option<Seq>) -> Option<Seq> {
        let row = &mut self.rows[slot];
        let app = &mut self.apps[row.app];
        row.place = app.add_member(slot);
        let head = app.group.cursor;
        row.group = position.or(head).unwrap_or(Seq::ZERO);
        row.flags.set(Flags::SETTLING);
        match (position, head) {
            (None, None) => row.flags.set(Flags::G_UNKNOWN),
            // The welcome is its notice: the device pulls after its subscribes.
            (Some(position), Some(head)) if position != head => {
                row.flags.set(Flags::G_LAG | Flags::G_NOTICED);
            }
            _ => {}
        }
        head
    }

    /// A topic that arrives right behind the connect may have had entries in between.
    pub(super) fn joined_topic(&mut self, slot: u32, now: Now, out: &mut Actions) {
        let heard_ms = self.heard_ms(slot);
        let row = &mut self.rows[slot];
        if now.mono_ms >= heard_ms + SETTLE_MS {
            row.flags.clear(Flags::SETTLING);
        }
        let cursor = self.apps[row.app].group.cursor;
        if row.flags.has(Flags::SETTLING)
            && !row.flags.has(Flags::G_UNKNOWN)
            && cursor.is_some_and(|cursor| row.group < cursor)
        {
            row.flags.set(Flags::G_LAG);
            row.flags.clear(Flags::G_AWAKE);
            self.notice_group(slot, out);
        }
    }

    pub(super) fn on_group_pull(&mut self, slot: u32, from: Seq) {
        let row = &mut self.rows[slot];
        if row.flags.has(Flags::G_PULLING) {
            self.counters.add(Counter::PullsMerged, 1);
            return;
        }
        row.group = from;
        row.flags.clear(Flags::G_UNKNOWN | Flags::G_GREW | Flags::G_AWAKE);
        self.pull_group(slot);
    }

    /// Asks a control node. Without a link the flag remains, and the walk of the next one asks.
    fn pull_group(&mut self, slot: u32) {
        let row = &mut self.rows[slot];
        row.flags.clear(Flags::G_OWED);
        row.flags.set(Flags::G_PULLING);
        row.group_over = 0;
        if let Some(to) = self.links.preferred() {
            self.send_group_pull(to, slot);
        }
    }

    /// Whether an answer is the one that is waited for, and its device reads. One that cannot be
    /// sent is asked for again.
    fn may_answer_group(&mut self, link: LinkIndex, slot: u32) -> bool {
        let row = &mut self.rows[slot];
        if !row.flags.has(Flags::G_PULLING) || row.group_over != self.links.use_of(link) {
            self.counters.add(Counter::Duplicates, 1);
            return false;
        }
        if row.flags.has(Flags::BLOCKED) {
            row.flags.set(Flags::G_OWED);
            return false;
        }
        true
    }

    pub(super) fn on_group_entries(
        &mut self,
        link: LinkIndex,
        slot: u32,
        upto: Seq,
        more: bool,
        entries: &Entries<'_>,
        out: &mut Actions,
    ) {
        if !self.may_answer_group(link, slot) {
            return;
        }
        let row = &mut self.rows[slot];
        let position = row.group;
        for entry in entries.iter().filter(|entry| entry.seq > position) {
            let frame = out.write(|bytes| put_push_frame(bytes, &entry));
            out.list.push(Action::Send { slot, frame });
            self.counters.add(Counter::GroupPulled, 1);
        }
        row.group = position.max(upto);
        send(out, slot, &Downlink::CaughtUp { stream: Stream::Group, upto: row.group, more });
        let grew = row.flags.take(Flags::G_GREW);
        row.flags.clear(Flags::G_PULLING | Flags::G_NOTICED);
        if more {
            // The device pulls on by itself.
            row.flags.clear(Flags::G_AWAKE);
            row.flags.set(Flags::G_LAG | Flags::G_NOTICED);
        } else if grew && self.apps[row.app].group.cursor > Some(row.group) {
            if !row.flags.has(Flags::G_AWAKE) {
                self.notice_group(slot, out);
            }
        } else {
            row.flags.clear(Flags::G_LAG | Flags::G_AWAKE);
        }
    }

    /// The device's position does not exist; the log ends at `seq`.
    pub(super) fn on_group_reset(
        &mut self,
        link: LinkIndex,
        slot: u32,
        seq: Seq,
        out: &mut Actions,
    ) {
        if !self.may_answer_group(link, slot) {
            return;
        }
        let row = &mut self.rows[slot];
        row.group = seq;
        row.flags.clear(Flags::G_PULLING | Flags::G_NOTICED | Flags::G_GREW | Flags::G_AWAKE);
        send(out, slot, &Downlink::Reset { stream: Stream::Group, seq });
        self.counters.add(Counter::Resets, 1);
        // What was added since, or what this shard believes to be there, is pulled from there.
        let is_behind = self.apps[row.app].group.cursor > Some(seq);
        self.rows[slot].flags.put(Flags::G_LAG, is_behind);
        self.notice_group(slot, out);
    }

    /// Tells the device that group entries wait, unless it knows or an answer is on its way.
    pub(super) fn notice_group(&mut self, slot: u32, out: &mut Actions) {
        let row = &mut self.rows[slot];
        if row.flags.has(Flags::G_LAG) && !row.flags.has(Flags::GROUP_TOLD) {
            row.flags.set(Flags::G_NOTICED);
            row.flags.clear(Flags::G_AWAKE);
            let latest = self.apps[row.app].group.cursor.max(Some(row.group)).unwrap_or_default();
            send(out, slot, &Downlink::Notice { stream: Stream::Group, latest });
            self.counters.add(Counter::Notices, 1);
        }
    }

    /// The session can write again.
    pub(super) fn group_drained(&mut self, slot: u32, out: &mut Actions) {
        let row = &mut self.rows[slot];
        let cursor = self.apps[row.app].group.cursor;
        if row.flags.has(Flags::G_UNKNOWN) {
            if let Some(upto) = cursor {
                row.flags.clear(Flags::G_UNKNOWN | Flags::G_LAG | Flags::G_AWAKE);
                row.group = upto;
                send(out, slot, &Downlink::CaughtUp { stream: Stream::Group, upto, more: false });
            }
        } else if row.flags.has(Flags::G_OWED) {
            self.pull_group(slot);
        } else if !row.flags.has(Flags::G_AWAKE) {
            self.notice_group(slot, out);
        }
    }
}

fn push_frame(entry: &Entry<'_>) -> Box<[u8]> {
    let mut frame = Vec::with_capacity(entry.payload.len() + 16);
    put_push_frame(&mut frame, entry);
    frame.into_boxed_slice()
}

fn put_push_frame(out: &mut Vec<u8>, entry: &Entry<'_>) {
    put_push_header(out, PushKind::of_group(entry.topic), entry.seq, entry.payload.len());
    out.extend_from_slice(entry.payload);
}
