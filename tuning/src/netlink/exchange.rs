//! One request on a netlink socket, and its answers.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// The kernel fills at most 32 KiB of one read of a dump.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Asks for all there is; `each` sees one after the other.
pub fn dump<M>(protocol: isize, question: M, mut each: impl FnMut(M)) -> io::Result<()>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    exchange(protocol, NLM_F_REQUEST | NLM_F_DUMP, question, &mut each)
}

/// Asks for one thing; `each` sees what there is of it.
pub fn ask<M>(protocol: isize, question: M, mut each: impl FnMut(M)) -> io::Result<()>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    exchange(protocol, NLM_F_REQUEST | NLM_F_ACK, question, &mut each)
}

/// Asks for a change and returns when it is made.
pub fn change<M>(protocol: isize, flags: u16, request: M) -> io::Result<()>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    exchange(protocol, NLM_F_REQUEST | NLM_F_ACK | flags, request, &mut |_| {})
}

fn exchange<M>(protocol: isize, flags: u16, message: M, each: &mut dyn FnMut(M)) -> io::Result<()>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        if answer.is_empty() || take(&answer, each)? {
            return Ok(());
        }
    }
}

/// Reads the messages of one datagram; true after the last.
fn take<M: NetlinkDeserializable>(mut bytes: &[u8], each: &mut dyn FnMut(M)) -> io::Result<bool> {
    while !bytes.is_empty() {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}"));
        let message = NetlinkMessage::<M>::deserialize(bytes).map_err(invalid)?;
        // Messages are aligned to four bytes.
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        bytes = bytes.get(length..).unwrap_or(&[]);
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => each(inner),
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            NetlinkPayload::Error(_) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}
