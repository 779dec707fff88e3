//! A card's coalescing, by ethtool's netlink family (Linux 5.6 and newer; see
//! Documentation/networking/ethtool-netlink.rst, COALESCE_GET and COALESCE_SET).
//!
//! The `ethtool` crate reads it and has its attributes, but no message that sets it: that is here.

use std::io;

use ethtool::{EthtoolAttr, EthtoolCoalesceAttr, EthtoolHeader};
use netlink_packet_core::{DecodeError, Emitable, ParseableParametrized};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::exchange;
use crate::nic::Coalescing;

/// ETHTOOL_MSG_COALESCE_SET of include/uapi/linux/ethtool_netlink_generated.h.
const COALESCE_SET: u8 = 20;

/// `None` for a card that has no such thing. What a driver does not support the kernel leaves out.
pub fn read(nic: &str) -> Option<Coalescing> {
    use futures_util::TryStreamExt;
    let attributes = super::channels::ask(|mut handle| async move {
        handle.coalesce().get(Some(nic)).execute().await?.try_collect::<Vec<_>>().await
    })?;
    let mut rx_usecs = None;
    let mut adaptive_rx = None;
    for message in attributes {
        for attribute in message.payload.nlas {
            match attribute {
                EthtoolAttr::Coalesce(EthtoolCoalesceAttr::RxUsecs(n)) => rx_usecs = Some(n),
                EthtoolAttr::Coalesce(EthtoolCoalesceAttr::UseAdaptiveRx(on)) => {
                    adaptive_rx = Some(on);
                }
                _ => {}
            }
        }
    }
    Some(Coalescing { adaptive_rx, rx_usecs: rx_usecs? })
}

/// Sets both in one message: a driver that stops adapting may otherwise choose a time of its own.
pub fn write(nic: &str, wanted: Coalescing) -> io::Result<()> {
    let usecs = (wanted.adaptive_rx != Some(true)).then_some(wanted.rx_usecs);
    let adaptive = wanted.adaptive_rx.map(EthtoolCoalesceAttr::UseAdaptiveRx);
    set(nic, adaptive.into_iter().chain(usecs.map(EthtoolCoalesceAttr::RxUsecs)))
}

/// Sets any of the attributes of COALESCE_SET; the kernel leaves the others as they are.
pub fn set(nic: &str, attributes: impl IntoIterator<Item = EthtoolCoalesceAttr>) -> io::Result<()> {
    let header = EthtoolCoalesceAttr::Header(vec![EthtoolHeader::DevName(nic.to_owned())]);
    let attributes = std::iter::once(header).chain(attributes).map(EthtoolAttr::Coalesce).collect();
    let mut request = GenlMessage::from_payload(SetCoalescing { attributes });
    request.set_resolved_family_id(family_id()?);
    exchange::change(NETLINK_GENERIC, 0, request)
}

/// The kernel numbers generic families as they come.
fn family_id() -> io::Result<u16> {
    let name = GenlCtrlAttrs::FamilyName(SetCoalescing::family_name().to_owned());
    let question = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
    let mut id = None;
    exchange::ask(NETLINK_GENERIC, GenlMessage::from_payload(question), |answer| {
        let mut ids = answer.payload.nlas.iter().filter_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        id = id.or(ids.next());
    })?;
    id.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this kernel has no ethtool family"))
}

#[derive(Clone, Debug)]
struct SetCoalescing {
    attributes: Vec<EthtoolAttr>,
}

impl GenlFamily for SetCoalescing {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        COALESCE_SET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for SetCoalescing {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

/// The kernel answers a change with an acknowledgement only.
impl ParseableParametrized<[u8], GenlHeader> for SetCoalescing {
    fn parse_with_param(_: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        Ok(SetCoalescing { attributes: Vec::new() })
    }
}
