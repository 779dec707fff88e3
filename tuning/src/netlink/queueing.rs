//! The queueing disciplines of a card, by traffic control's messages of rtnetlink (tc(8)).
//!
//! As text: the kind of the root, the kinds of its leaves where it has some, and whether the kernel
//! attached it by itself (its handle is 0 then): `pfifo_fast, by default`, `fq`, `mq fq_codel, by
//! default`, `mq fq`. The options of a discipline are not in it, so only what the kernel attached by
//! itself can be taken away and come back as it was: a root that is deleted is replaced by what the
//! kernel would attach, which is `net.core.default_qdisc` (net/sched/sch_generic.c,
//! `attach_default_qdiscs`).

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::exchange;

const BY_DEFAULT: &str = ", by default";

/// What is to be there instead of a discipline that the kernel attached: the same with other leaves.
/// `None` for one that somebody chose, or of another kind than the kernel's default at present, since
/// neither would come back.
pub fn instead(current: &str, default: &str, wanted: &str) -> Option<String> {
    match current.trim().strip_suffix(BY_DEFAULT)?.split_once(' ') {
        None if current.starts_with(&format!("{default},")) => Some(wanted.to_owned()),
        Some(("mq", leaves)) if leaves == default => Some(format!("mq {wanted}")),
        _ => None,
    }
}

/// Whether the leaves of a discipline are of this kind and no other.
pub fn leaves_are(current: &str, kind: &str) -> bool {
    let current = current.trim();
    let kinds = current.strip_suffix(BY_DEFAULT).unwrap_or(current);
    kinds.strip_prefix("mq ").unwrap_or(kinds) == kind
}

pub fn read(index: u32) -> Option<String> {
    let all = of_card(index).ok()?;
    let root = all.iter().find(|one| one.header.parent == TcHandle::ROOT)?;
    let leaves: BTreeSet<&str> = leaves(&all).filter_map(kind).collect();
    let mut text = kind(root)?.to_owned();
    for leaf in leaves {
        text.push(' ');
        text.push_str(leaf);
    }
    if root.header.handle.major == 0 {
        text.push_str(BY_DEFAULT);
    }
    Some(text)
}

/// Attaches what a text says. What waits in the former discipline is dropped, and TCP sends it again.
pub fn write(index: u32, text: &str) -> io::Result<()> {
    let text = text.trim();
    if text.ends_with(BY_DEFAULT) {
        let root = message(index, TcHandle::ROOT, None);
        return exchange::change(NETLINK_ROUTE, 0, RouteNetlinkMessage::DelQueueDiscipline(root));
    }
    let (root, leaf) = match text.split_once(' ') {
        Some((root, leaf)) => (root, Some(leaf)),
        None => (text, None),
    };
    attach(index, TcHandle::ROOT, root)?;
    let Some(leaf) = leaf else { return Ok(()) };
    let parents: Vec<TcHandle> = leaves(&of_card(index)?).map(|leaf| leaf.header.parent).collect();
    parents.into_iter().try_for_each(|parent| attach(index, parent, leaf))
}

fn attach(index: u32, parent: TcHandle, kind: &str) -> io::Result<()> {
    let one = message(index, parent, Some(kind));
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    exchange::change(NETLINK_ROUTE, flags, RouteNetlinkMessage::NewQueueDiscipline(one))
}

fn message(index: u32, parent: TcHandle, kind: Option<&str>) -> TcMessage {
    let mut one = TcMessage::with_index(index as i32);
    one.header.parent = parent;
    one.attributes.extend(kind.map(|kind| TcAttribute::Kind(kind.to_owned())));
    one
}

/// The kernel lists the disciplines of all cards, whichever is asked for.
fn of_card(index: u32) -> io::Result<Vec<TcMessage>> {
    let mut found = Vec::new();
    let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    exchange::dump(NETLINK_ROUTE, question, |answer| {
        if let RouteNetlinkMessage::NewQueueDiscipline(one) = answer
            && one.header.index == index as i32
        {
            found.push(one);
        }
    })?;
    Ok(found)
}

/// Those below the root; what filters received packets hangs at a place of its own.
fn leaves(all: &[TcMessage]) -> impl Iterator<Item = &TcMessage> {
    let is_leaf = |parent: TcHandle| parent != TcHandle::ROOT && parent != TcHandle::INGRESS;
    all.iter().filter(move |one| is_leaf(one.header.parent))
}

fn kind(one: &TcMessage) -> Option<&str> {
    one.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_come_back_is_replaced() {
        let check = |current: &str, expect: Option<&str>| {
            assert_eq!(instead(current, "pfifo_fast", "fq").as_deref(), expect, "{current}");
        };
        check("pfifo_fast, by default\n", Some("fq"));
        check("mq pfifo_fast, by default", Some("mq fq"));
        check("pfifo_fast", None);
        check("fq_codel, by default", None);
        check("mq fq_codel pfifo_fast, by default", None);
        check("htb pfifo_fast", None);
        check("noqueue, by default", None);
        assert!(leaves_are("fq\n", "fq") && leaves_are("mq fq, by default", "fq"));
        assert!(!leaves_are("fq_codel, by default", "fq") && !leaves_are("mq fq pfifo", "fq"));
    }
}
