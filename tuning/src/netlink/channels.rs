//! A card's channels, by ethtool's netlink family (Linux 5.6 and newer; see
//! Documentation/networking/ethtool-netlink.rst), and what ethtool says of all cards.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;

use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolError, EthtoolHandle};
use futures_util::TryStreamExt;

use super::coalescing;
use crate::host::Host;
use crate::nic::{self, Abilities, Channels, Coalescing};

/// Of all cards; one that has neither is left out. A fixture's are files in `ethtool/NIC/`.
pub fn abilities(host: &Host) -> BTreeMap<String, Abilities> {
    if !host.is_live() {
        return host.names("ethtool").into_iter().map(|nic| fixture(host, nic)).collect();
    }
    let cards = host.names("sys/class/net").into_iter();
    let cards = cards.filter(|name| host.has(&format!("sys/class/net/{name}/device")));
    let known = |nic: String| {
        let coalescing = coalescing::read(&nic).filter(|_| nic::can_coalesce(host, &nic));
        (nic.clone(), Abilities { channels: read(&nic), coalescing })
    };
    cards.map(known).collect()
}

fn fixture(host: &Host, nic: String) -> (String, Abilities) {
    let number = |name| host.number(&format!("ethtool/{nic}/{name}")).map(|number| number as u32);
    let channels =
        || Some(Channels { combined: number("combined")?, combined_max: number("combined_max")? });
    let coalescing = || {
        let text = host.text(&nic::fixture_coalescing(&nic))?;
        Coalescing::parse(&text).filter(|_| nic::can_coalesce(host, &nic))
    };
    let abilities = Abilities { channels: channels(), coalescing: coalescing() };
    (nic, abilities)
}

/// `None` for a card that has no such thing, which is most virtual ones.
pub fn read(nic: &str) -> Option<Channels> {
    let attributes = ask(|mut handle| async move {
        handle.channel().get(Some(nic)).execute().await?.try_collect::<Vec<_>>().await
    })?;
    let mut combined = None;
    let mut combined_max = None;
    for message in attributes {
        for attribute in message.payload.nlas {
            match attribute {
                EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(n)) => combined = Some(n),
                EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(n)) => combined_max = Some(n),
                _ => {}
            }
        }
    }
    Some(Channels { combined: combined?, combined_max: combined_max? })
}

pub fn write(nic: &str, combined: u32) -> io::Result<()> {
    let answer = run(|mut handle| async move {
        handle.channel().set(nic).combined_count(combined).execute().await
    })?;
    answer.map_err(|error| io::Error::other(error.to_string()))
}

pub(super) fn ask<T, F: Future<Output = Result<T, EthtoolError>>>(
    question: impl FnOnce(EthtoolHandle) -> F,
) -> Option<T> {
    run(question).ok()?.ok()
}

/// Each call has a runtime of its own on this thread: the answers come at once.
fn run<T, F: Future<Output = T>>(question: impl FnOnce(EthtoolHandle) -> F) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = ethtool::new_connection()?;
        let connection = tokio::spawn(connection);
        let answer = question(handle).await;
        connection.abort();
        Ok(answer)
    })
}
