//! The fast way: what was just stored goes to the shard that holds the device.
//!
//! Nothing is kept or repeated here. An entry that is lost on its way shows as a gap in the
//! numbers, or is found by the pull that follows every new link.
//!
//! A body up to `INLINE_BYTES_MAX` travels with its number; of a larger one only the number, and
//! the device pulls it. An entry that expired while it was stored is not sent.

use bytes::Bytes;
use hawser_codec::ids::{AppId, DeviceId, Seq};
use hawser_codec::limits::INLINE_BYTES_MAX;
use hawser_codec::link::{self, Announced, EntryFlags, Pulled, to_broker};

use super::Node;
use super::counters::Counter;
use super::event::{Action, Actions, LinkId, Now, StreamId, Wake};
use crate::records::Entry;

impl Node {
    /// Returns whether somebody is online to get it.
    pub(super) fn deliver(
        &mut self,
        stream: StreamId,
        seq: Seq,
        stored: &Bytes,
        now: Now,
        out: &mut Actions,
    ) -> bool {
        let entry = Entry::decode(stored).expect("this node encoded it");
        match stream {
            StreamId::Inbox { device, .. } => self.deliver_inbox(device, seq, &entry, now, out),
            StreamId::Group { app } => self.deliver_group(app, seq, &entry, now, out),
        }
    }

    fn deliver_inbox(
        &mut self,
        device: DeviceId,
        seq: Seq,
        entry: &Entry,
        now: Now,
        out: &mut Actions,
    ) -> bool {
        let Some(&route) = self.routes.get(device) else { return false };
        if entry.expires_unix_ms > now.unix_ms {
            self.counters.add(Counter::Deliveries, 1);
            let (flags, payload) = inline(entry);
            out.send(route.link, |bytes| {
                to_broker::deliver(bytes, route.session, seq, flags, payload);
            });
        }
        true
    }

    /// The node that stored this entry may not have lived to deliver it. A shard that knows of it
    /// ignores the number; another lets the device pull. A group log is looked after by
    /// `check_groups`.
    pub(super) fn remind(&mut self, stream: StreamId, seq: Seq, out: &mut Actions) {
        let StreamId::Inbox { device, .. } = stream else { return };
        let Some(&route) = self.routes.get(device) else { return };
        out.send(route.link, |bytes| {
            to_broker::deliver(bytes, route.session, seq, EntryFlags::NO_BODY, &[]);
        });
    }

    /// A shard announces a session to every node and pulls for it at one. What another node stored
    /// after that pull was read and before it heard of the session is told by nobody but this. A
    /// node that may have forgotten the end of the inbox pulls for the shard.
    pub(super) fn remind_of_end(
        &mut self,
        link: LinkId,
        announced: &Announced,
        now: Now,
        out: &mut Actions,
    ) {
        let &Announced { device, app, session, acked, .. } = announced;
        let stream = StreamId::Inbox { app, device };
        let within_ms = self.config.limits.announce_late_ms;
        match self.appends.known_last(stream) {
            Some(last) if last > acked => self.remind(stream, last, out),
            Some(_) => {}
            None if self.appends.may_have_forgotten(stream, within_ms, now) => {
                self.on_pull(link, Pulled { device, app, session, from: acked }, now, out);
            }
            None => {}
        }
    }

    /// Once per shard that holds a session of the app; the bytes stand in the actions once.
    fn deliver_group(
        &mut self,
        app: AppId,
        seq: Seq,
        entry: &Entry,
        now: Now,
        out: &mut Actions,
    ) -> bool {
        let links = self.routes.links_of_app(app);
        if links.is_empty() {
            return false;
        }
        self.groups.told(app, seq);
        if entry.expires_unix_ms > now.unix_ms {
            self.counters.add(Counter::GroupDeliveries, links.len() as u64);
            let frame = out.write(|bytes| {
                to_broker::group_deliver(bytes, app, &as_sent_at_once(seq, entry));
            });
            let sends = links.iter().map(|&link| Action::Send { link, frame: frame.clone() });
            out.list.extend(sends);
        }
        true
    }
}

/// An entry in a frame that was not asked for by a device: large bodies stay behind.
pub(super) fn as_sent_at_once(seq: Seq, entry: &Entry) -> link::Entry<'_> {
    let (flags, payload) = inline(entry);
    link::Entry { seq, topic: entry.topic, flags, payload }
}

/// An entry in the answer to a device's pull: always with its body.
pub(super) fn as_pulled(seq: Seq, entry: &Entry) -> link::Entry<'_> {
    link::Entry { seq, topic: entry.topic, flags: flags(entry), payload: &entry.payload }
}

fn inline(entry: &Entry) -> (EntryFlags, &[u8]) {
    if entry.payload.len() > INLINE_BYTES_MAX {
        (flags(entry).with(EntryFlags::NO_BODY), &[])
    } else {
        (flags(entry), &entry.payload)
    }
}

fn flags(entry: &Entry) -> EntryFlags {
    match entry.wake {
        Wake::Now => EntryFlags::NONE,
        Wake::WhenAwake => EntryFlags::WHEN_AWAKE,
    }
}
