//! The table of counters: every number that a shard's core keeps, with its name, help and label.
//!
//! ```text
//!  Core ── adds ──▶ Counters (plain cells, one set per shard) ── samples() ──▶ the metrics page
//! ```
//!
//! A counter is a closed enum's variant and a cell of an array: counting is one addition. The
//! labelled families (`closed_total{reason}`, ...) are arrays over the closed enums of the codec,
//! so that a label cannot be misspelt and no family can grow. Cells are not atomic: a shard copies
//! its set into a mailbox when asked.
//!
//! Gauges stand in the same table; the core writes them at the end of each turn.

use std::fmt::Write as _;

use hawser_codec::error::{CloseReason, DecodeError};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident, $kind:ident, $name:literal, $help:literal;)*) => {
        /// One number of a shard.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        impl Counter {
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            pub fn kind(self) -> Kind {
                match self { $(Counter::$variant => Kind::$kind,)* }
            }

            /// The full metric name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Counter::$variant => concat!("hawser_broker_", $name),)*
                }
            }

            pub fn help(self) -> &'static str {
                match self { $(Counter::$variant => $help,)* }
            }
        }
    };
}

/// How a number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes both ways.
    Gauge,
}

counters! {
    Sessions, Gauge, "sessions", "Devices whose connect was accepted and that have not ended";
    SlotsInUse, Gauge, "slots_in_use", "Connections that hold a slot: connecting, online or closing";
    Blocked, Gauge, "blocked", "Sessions whose socket is full";
    LinksUp, Gauge, "link_up", "Links to control nodes that are up";
    RowBytes, Gauge, "row_bytes", "Memory of the session rows and their timers";
    Subscriptions, Gauge, "subscriptions", "Memberships of sessions in topics, the whole app included";
    Topics, Gauge, "topics", "Topics that have a member";
    FanoutJobs, Gauge, "fanout_jobs", "Group entries that are being sent to their members";
    FanoutBytes, Gauge, "fanout_bytes", "Bytes of the frames that fan-out jobs hold";
    TopicBytes, Gauge, "topic_bytes", "Memory of topics and memberships";
    OutboxBytes, Gauge, "outbox_bytes", "Bytes held for devices that do not read";
    WalkLeft, Gauge, "walk_left", "Slots that announce walks still have to visit";
    KeysVersion, Gauge, "keys_version", "Version of the key set in use";

    Accepted, Counter, "accepted_total", "Connections accepted";
    Connected, Counter, "connected_total", "Connects whose ticket verified";
    DelayedAccepts, Counter, "delayed_accepts_total", "Connections that were read from only after the accept delay";
    PushInline, Counter, "push_inline_total", "Inbox entries sent with their notice";
    PushPulled, Counter, "push_pulled_total", "Inbox entries sent in answer to a pull";
    Notices, Counter, "notices_total", "Notices sent, inbox and group";
    Pulls, Counter, "pulls_total", "Pulls by devices, inbox and group";
    PullsMerged, Counter, "pulls_merged_total", "Pulls that an outstanding one answers as well";
    PullsSent, Counter, "pulls_sent_total", "Inbox pulls sent to control nodes";
    Acks, Counter, "acks_total", "Inbox acknowledgements that raised a device's position";
    GroupAcks, Counter, "group_acks_total", "Group acknowledgements";
    GroupEntries, Counter, "group_entries_total", "Group entries taken in order from control nodes";
    GroupSent, Counter, "group_sent_total", "Group entries sent to members at once";
    GroupPulled, Counter, "group_pulled_total", "Group entries sent in answer to a pull";
    GroupWaiting, Counter, "group_waiting_total", "Group entries left for the member to pull";
    GroupFetches, Counter, "group_fetches_total", "Fetches of group entries that this shard missed";
    GroupNoRoom, Counter, "group_no_room_total", "Group entries put off because the fan-out queue was full";
    Duplicates, Counter, "duplicates_dropped_total", "Deliveries of entries already sent or known";
    Stale, Counter, "stale_dropped_total", "Link frames for a session that has ended";
    Resets, Counter, "resets_total", "Devices told that their position does not exist";
    Announced, Counter, "announced_total", "Session records sent to control nodes";
    Kicks, Counter, "kicks_total", "Sessions closed for a newer one of the same device";
    KicksIgnored, Counter, "kicks_ignored_total", "Kicks for a session that is the newer one";
    Heartbeats, Counter, "heartbeats_total", "Pings answered";
    IntervalsGrown, Counter, "intervals_grown_total", "Heartbeat intervals made longer";
    TopicsRefused, Counter, "topics_refused_total", "Sessions closed because the table of topics was full";
    KeySets, Counter, "key_sets_total", "Key sets taken over";
    UnknownApp, Counter, "unknown_app_dropped_total", "Link frames for an app that the key set lacks";
    UnexpectedLinkFrames, Counter, "unexpected_link_frames_total", "Link frames that only a handshake may contain";
}

const REASONS: usize = CloseReason::ALL.len();
const ERRORS: usize = DecodeError::ALL.len();

/// The numbers of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    plain: [u64; Counter::ALL.len()],
    closed: [u64; REASONS],
    refused: [u64; REASONS],
    decode_errors: [u64; ERRORS],
}

/// One line of the metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    /// Label name and value, besides the shard.
    pub label: Option<(&'static str, &'static str)>,
    pub value: u64,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            plain: [0; Counter::ALL.len()],
            closed: [0; REASONS],
            refused: [0; REASONS],
            decode_errors: [0; ERRORS],
        }
    }
}

impl Counters {
    #[inline]
    pub fn get(&self, counter: Counter) -> u64 {
        self.plain[counter as usize]
    }

    #[inline]
    pub fn add(&mut self, counter: Counter, count: u64) {
        self.plain[counter as usize] += count;
    }

    #[inline]
    pub fn set(&mut self, counter: Counter, value: u64) {
        self.plain[counter as usize] = value;
    }

    /// Connections that ended for `reason` after they were accepted, refusals excluded.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason_index(reason)]
    }

    pub fn add_closed(&mut self, reason: CloseReason) {
        self.closed[reason_index(reason)] += 1;
    }

    /// Connections that admission control turned away.
    pub fn refused(&self, reason: CloseReason) -> u64 {
        self.refused[reason_index(reason)]
    }

    pub fn add_refused(&mut self, reason: CloseReason) {
        self.refused[reason_index(reason)] += 1;
    }

    pub fn decode_errors(&self, error: DecodeError) -> u64 {
        self.decode_errors[error_index(error)]
    }

    pub fn add_decode_error(&mut self, error: DecodeError) {
        self.decode_errors[error_index(error)] += 1;
    }

    /// Everything, in the order of the page: samples of one name stand together.
    pub fn samples(&self) -> impl Iterator<Item = Sample> + '_ {
        let plain = Counter::ALL.iter().map(|&counter| Sample {
            name: counter.name(),
            help: counter.help(),
            kind: counter.kind(),
            label: None,
            value: self.get(counter),
        });
        let closed = CloseReason::ALL.iter().map(|&reason| Sample {
            name: "hawser_broker_closed_total",
            help: "Connections ended, by reason; refusals are not among them",
            kind: Kind::Counter,
            label: Some(("reason", reason.label())),
            value: self.closed(reason),
        });
        let refused = CloseReason::ALL.iter().map(|&reason| Sample {
            name: "hawser_broker_refused_total",
            help: "Connections turned away at the door, by reason",
            kind: Kind::Counter,
            label: Some(("reason", reason.label())),
            value: self.refused(reason),
        });
        let errors = DecodeError::ALL.iter().map(|&error| Sample {
            name: "hawser_broker_decode_errors_total",
            help: "Device input that is not the protocol, by error",
            kind: Kind::Counter,
            label: Some(("error", error.label())),
            value: self.decode_errors(error),
        });
        plain.chain(closed).chain(refused).chain(errors)
    }
}

/// What stands before the lines of a name in the text format.
pub fn put_head(page: &mut String, name: &str, help: &str, kind: Kind) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    // Writing to a string does not fail.
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The wire codes are dense but for `Unknown`, which is last.
fn reason_index(reason: CloseReason) -> usize {
    (reason as usize).min(REASONS - 1)
}

fn error_index(error: DecodeError) -> usize {
    error as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_and_label_has_its_own_cell_and_line() {
        let mut counters = Counters::default();
        for (index, &counter) in Counter::ALL.iter().enumerate() {
            counters.add(counter, index as u64 + 1);
        }
        for &reason in CloseReason::ALL {
            counters.add_closed(reason);
            counters.add_refused(reason);
        }
        for error in DecodeError::ALL {
            counters.add_decode_error(error);
        }
        for (index, &counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counters.get(counter), index as u64 + 1, "{counter:?}");
        }
        let mut seen = std::collections::HashSet::new();
        for sample in counters.samples() {
            assert!(seen.insert((sample.name, sample.label)), "{sample:?} stands twice");
            assert!(sample.name.starts_with("hawser_broker_"));
            let is_total = sample.name.ends_with("_total");
            assert_eq!(is_total, sample.kind == Kind::Counter, "{}", sample.name);
            if sample.label.is_some() {
                assert_eq!(sample.value, 1, "{sample:?}");
            }
        }
        assert_eq!(seen.len(), Counter::ALL.len() + 2 * REASONS + ERRORS);
    }
}
