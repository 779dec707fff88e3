//! From the events of an RDB file to commands for the store.
//!
//! ```text
//! string            SET key value [PXAT ms]
//! small collection  RESTORE key ms payload REPLACE ABSTTL, so that nobody sees half of it
//! large collection  DEL key, then RPUSH, SADD, ZADD, HSET, XADD ... in pieces, then PEXPIREAT
//! ```
//!
//! Each key replaces what was there, so loading twice changes nothing. All commands of a key go over one
//! connection, in their order.

use std::rc::Rc;

use hawser_kv::rdb::payload;
use hawser_kv::rdb::reader::{Event, Key};
use hawser_kv::rdb::stream::EntriesRead;
use hawser_kv::rdb::value::Piece;
use hawser_kv::resp::double;
use hawser_kv::store::layout::StreamId;

use super::lane::{Failures, Lane, Limits, Subject};

/// A collection that takes more is written in pieces.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// The same for a stream.
const STREAM_BYTES_MAX: usize = 8 << 20;

pub struct Loader {
    lanes: Vec<Lane>,
    lane: usize,
    limits: Limits,
    now_ms: u64,
    database: u64,
    /// Why the store does not have this database.
    no_database: Option<String>,
    current: Option<Current>,
    pub counts: Counts,
    pub failures: Failures,
}

#[derive(Debug, Default)]
pub struct Counts {
    /// Keys that were read, whatever became of them.
    pub read: u64,
    pub expired: u64,
    pub empty: u64,
    /// Deliveries of entries that were deleted since, in streams too large to be restored as a whole.
    pub pending_lost: u64,
    /// What is no key and was read over.
    pub skipped: Vec<String>,
}

struct Current {
    subject: Rc<Subject>,
    expires_at_ms: Option<u64>,
    state: State,
    group: Vec<u8>,
    consumer: Vec<u8>,
}

enum State {
    Small {
        pieces: Vec<Piece>,
        bytes: usize,
    },
    Large,
    /// The rest of the value is not wanted.
    Over,
}

impl Loader {
    pub fn new(lanes: Vec<Lane>, limits: Limits, now_ms: u64) -> Loader {
        Loader {
            lanes,
            lane: 0,
            limits,
            now_ms,
            database: 0,
            no_database: None,
            current: None,
            counts: Counts::default(),
            failures: Failures::default(),
        }
    }

    /// Keys that are in the store now, if everything that was sent is done.
    pub fn loaded(&self) -> u64 {
        self.counts.read - self.counts.expired - self.counts.empty - self.failures.count
    }

    pub fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Aux(..) | Event::Sizes { .. } => {}
            Event::Skipped(what) => self.counts.skipped.push(what),
            Event::Database(number) => self.select(number)?,
            Event::Key(key) => self.begin(key),
            Event::Piece(piece) => self.piece(piece)?,
            Event::KeyEnd => self.end()?,
        }
        Ok(())
    }

    fn select(&mut self, database: u64) -> anyhow::Result<()> {
        self.database = database;
        for lane in &mut self.lanes {
            self.no_database = lane.select(database, &mut self.failures)?;
        }
        Ok(())
    }

    pub fn finish(&mut self) -> anyhow::Result<()> {
        self.lanes.iter_mut().try_for_each(|lane| lane.finish(&mut self.failures))?;
        // XCLAIM alone answers with arrays, and with an empty one for an entry that is no more.
        self.counts.pending_lost = self.lanes.iter().map(|lane| lane.empty_answers).sum();
        Ok(())
    }

    /// Ends in the middle of the source. A key of which only a part came is not kept; how many were loaded.
    pub fn give_up(&mut self) -> anyhow::Result<u64> {
        if let Some(current) = self.current.take() {
            self.counts.read -= 1;
            if let State::Large = current.state {
                let del = [b"DEL", &current.subject.key[..]];
                self.lanes[self.lane].push(&current.subject, &del, &mut self.failures)?;
            }
        }
        self.finish()?;
        Ok(self.loaded())
    }

    /// One connection of those that were used, for what comes later in one order.
    pub fn into_lane(mut self) -> (Lane, Limits, Counts, Failures) {
        let lane = self.lanes.swap_remove(0);
        (lane, self.limits, self.counts, self.failures)
    }

    fn begin(&mut self, key: Key) {
        self.counts.read += 1;
        self.lane = (self.lane + 1) % self.lanes.len();
        let subject = Subject::new(self.database, key.name);
        let is_expired = key.expires_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms);
        let state = match &self.no_database {
            _ if is_expired => {
                self.counts.expired += 1;
                State::Over
            }
            Some(error) => {
                self.failures.add(&subject, error);
                State::Over
            }
            None => State::Small { pieces: Vec::new(), bytes: 0 },
        };
        self.current = Some(Current {
            subject,
            expires_at_ms: key.expires_at_ms,
            state,
            group: Vec::new(),
            consumer: Vec::new(),
        });
    }

    fn piece(&mut self, piece: Piece) -> anyhow::Result<()> {
        let mut current = self.current.take().expect("a piece is of a key");
        match &mut current.state {
            State::Over => {}
            State::Large => self.put(&mut current, piece)?,
            State::Small { pieces, bytes } => {
                *bytes += piece.bytes();
                pieces.push(piece);
                let bytes_max = match pieces[0] {
                    Piece::String(_) => usize::MAX,
                    Piece::Elements(_)
                    | Piece::Members(_)
                    | Piece::Scored(_)
                    | Piece::Fields(_) => SMALL_BYTES_MAX,
                    // Only as a whole it keeps what is pending of entries that were deleted.
                    _ => (self.limits.word_bytes_max / 2).min(STREAM_BYTES_MAX),
                };
                if *bytes > bytes_max {
                    self.enlarge(&mut current)?;
                }
            }
        }
        self.current = Some(current);
        Ok(())
    }

    /// From now on the value is written in pieces.
    fn enlarge(&mut self, current: &mut Current) -> anyhow::Result<()> {
        let state = std::mem::replace(&mut current.state, State::Large);
        let State::Small { pieces, .. } = state else { return Ok(()) };
        let key = current.subject.clone();
        self.command(current, &[b"DEL", &key.key[..]])?;
        for piece in pieces {
            self.put(current, piece)?;
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let mut current = self.current.take().expect("the end is of a key");
        let at_ms = current.expires_at_ms.map(|at_ms| at_ms.to_string());
        if let State::Small { pieces, .. } = &mut current.state {
            let pieces = std::mem::take(pieces);
            return self.put_small(current, pieces, at_ms.as_deref());
        }
        if let (State::Large, Some(at_ms)) = (&current.state, at_ms) {
            let subject = current.subject.clone();
            self.command(&mut current, &[b"PEXPIREAT", &subject.key[..], at_ms.as_bytes()])?;
        }
        Ok(())
    }

    fn put_small(
        &mut self,
        mut current: Current,
        pieces: Vec<Piece>,
        at_ms: Option<&str>,
    ) -> anyhow::Result<()> {
        let subject = current.subject.clone();
        let key = &subject.key[..];
        match &pieces[..] {
            [] => self.counts.empty += 1,
            [Piece::Module(name)] => {
                self.failures.add(&subject, &format!("it is of the module {name}"));
            }
            [Piece::String(value)] => match at_ms {
                None => self.command(&mut current, &[b"SET", key, value])?,
                Some(at_ms) => {
                    self.command(&mut current, &[b"SET", key, value, b"PXAT", at_ms.as_bytes()])?;
                }
            },
            _ => {
                let payload = payload::of(&pieces);
                if payload.len() > self.limits.word_bytes_max {
                    let bytes = payload.len();
                    current.state = State::Small { pieces, bytes };
                    self.enlarge(&mut current)?;
                    self.current = Some(current);
                    return self.end();
                }
                let at_ms = at_ms.unwrap_or("0").as_bytes();
                let words = [b"RESTORE", key, at_ms, &payload, b"REPLACE", b"ABSTTL"];
                self.command(&mut current, &words)?;
            }
        }
        Ok(())
    }

    /// Sends a command, unless the store would refuse it for its size.
    fn command(&mut self, current: &mut Current, words: &[impl AsRef<[u8]>]) -> anyhow::Result<()> {
        if let State::Over = current.state {
            return Ok(());
        }
        if let Some(why) = self.limits.refusal(words) {
            self.failures.add(&current.subject, &why);
            // A part of it is not kept.
            if let State::Large = std::mem::replace(&mut current.state, State::Over) {
                let del = [b"DEL", &current.subject.key[..]];
                self.lanes[self.lane].push(&current.subject, &del, &mut self.failures)?;
            }
            return Ok(());
        }
        self.lanes[self.lane].push(&current.subject, words, &mut self.failures)
    }

    /// Writes a piece of a large value.
    fn put(&mut self, current: &mut Current, piece: Piece) -> anyhow::Result<()> {
        let subject = current.subject.clone();
        let key = &subject.key[..];
        let with = |name: &'static str, items: Vec<Vec<u8>>| {
            [vec![name.into(), key.to_vec()], items].concat()
        };
        let text = |id: StreamId| format!("{}-{}", id.ms, id.seq).into_bytes();
        match piece {
            Piece::String(_) | Piece::Module(_) => unreachable!("they come in one piece"),
            Piece::Elements(items) => self.command(current, &with("RPUSH", items)),
            Piece::Members(items) => self.command(current, &with("SADD", items)),
            Piece::Fields(pairs) => {
                let items = pairs.into_iter().flat_map(|(field, value)| [field, value]);
                self.command(current, &with("HSET", items.collect()))
            }
            Piece::Scored(pairs) => {
                let pairs = pairs.into_iter();
                let items = pairs.flat_map(|(member, score)| [double::text(score).into(), member]);
                self.command(current, &with("ZADD", items.collect()))
            }
            Piece::Entries(entries) => {
                for entry in entries {
                    let items = [vec![text(entry.id)], entry.fields].concat();
                    self.command(current, &with("XADD", items))?;
                }
                Ok(())
            }
            Piece::Facts(facts) => {
                let (last, added) = (text(facts.last), facts.added.to_string());
                let deleted = text(facts.max_deleted);
                let words: [&[u8]; 7] = [
                    b"XSETID",
                    key,
                    &last,
                    b"ENTRIESADDED",
                    added.as_bytes(),
                    b"MAXDELETEDID",
                    &deleted,
                ];
                self.command(current, &words)
            }
            Piece::Group(group) => {
                let last = text(group.last);
                let read = match group.entries_read {
                    EntriesRead::Known(read) => read.to_string(),
                    EntriesRead::Unknown | EntriesRead::NotSaid => "-1".to_owned(),
                };
                let words: [&[u8]; 7] = [
                    b"XGROUP",
                    b"CREATE",
                    key,
                    &group.name,
                    &last,
                    b"ENTRIESREAD",
                    read.as_bytes(),
                ];
                self.command(current, &words)?;
                current.group = group.name;
                Ok(())
            }
            Piece::Consumer(consumer) => {
                let group = current.group.clone();
                let words: [&[u8]; 5] = [b"XGROUP", b"CREATECONSUMER", key, &group, &consumer.name];
                self.command(current, &words)?;
                current.consumer = consumer.name;
                Ok(())
            }
            Piece::Pending(pending) => {
                let (group, consumer) = (current.group.clone(), current.consumer.clone());
                for one in pending {
                    let (delivered, deliveries) =
                        (one.delivered_ms.to_string(), one.deliveries.to_string());
                    let id = text(one.id);
                    let words: [&[u8]; 12] = [
                        b"XCLAIM",
                        key,
                        &group,
                        &consumer,
                        b"0",
                        &id,
                        b"TIME",
                        delivered.as_bytes(),
                        b"RETRYCOUNT",
                        deliveries.as_bytes(),
                        b"JUSTID",
                        b"FORCE",
                    ];
                    self.command(current, &words)?;
                }
                Ok(())
            }
        }
    }
}
