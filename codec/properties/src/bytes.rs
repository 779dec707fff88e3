//! Decoders on arbitrary bytes: they never panic, and what they accept they would have written the
//! same way. The exceptions are what a newer peer may say: a close reason without a number here,
//! and a greeting of another major version.

use hawser_codec::cursor::{Reader, Write};
use hawser_codec::device::{self, Downlink, Uplink};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::{Frame, Framer, put_header, split};
use hawser_codec::limits::{
    DOWNLINK_BODY_BYTES_MAX, LINK_BODY_BYTES_MAX, LINK_HANDSHAKE_BODY_BYTES_MAX,
    UPLINK_BODY_BYTES_MAX,
};
use hawser_codec::link::{self, ToBroker, ToControl, to_broker, to_control};
use hawser_codec::ticket::Ticket;

/// The framer gives the same frames and the same error however the stream is cut.
///
/// `[limit selector u8][count of sizes u8][sizes u8...][stream]`
pub fn framer(input: &[u8]) {
    let Some((&selector, input)) = input.split_first() else { return };
    let Some((&count, input)) = input.split_first() else { return };
    let (sizes, stream) = input.split_at(usize::from(count).min(input.len()));
    let limits = [
        0,
        LINK_HANDSHAKE_BODY_BYTES_MAX,
        UPLINK_BODY_BYTES_MAX,
        DOWNLINK_BODY_BYTES_MAX,
        LINK_BODY_BYTES_MAX,
    ];
    let body_bytes_max = limits[usize::from(selector) % limits.len()];

    let whole = frames_of_whole(stream, body_bytes_max);
    let cut = frames_of_pieces(stream, sizes, body_bytes_max);
    assert_eq!(whole, cut, "cut by {sizes:?}");
}

type Frames = (Vec<(u8, Vec<u8>)>, Option<DecodeError>, usize);

/// The frames of a stream that arrives at once, the error that ends it, and the bytes left over.
fn frames_of_whole(mut stream: &[u8], body_bytes_max: usize) -> Frames {
    let mut frames = Vec::new();
    loop {
        match split(stream, body_bytes_max) {
            Ok(Some((frame, rest))) => {
                frames.push((frame.kind, frame.body.to_vec()));
                stream = rest;
            }
            Ok(None) => return (frames, None, stream.len()),
            Err(error) => return (frames, Some(error), 0),
        }
    }
}

/// The same of a stream that arrives in pieces; the sizes repeat, and zero sizes are kept.
fn frames_of_pieces(mut stream: &[u8], sizes: &[u8], body_bytes_max: usize) -> Frames {
    let mut framer = Framer::default();
    let mut frames = Vec::new();
    let mut at = 0;
    while !stream.is_empty() {
        let size = sizes.get(at % sizes.len().max(1)).map_or(1, |&size| usize::from(size));
        // All-zero sizes would never end.
        let size = if at >= sizes.len() { size.max(1) } else { size };
        let (piece, rest) = stream.split_at(size.min(stream.len()));
        let result = framer.feed(piece, body_bytes_max, |frame| -> Result<(), DecodeError> {
            frames.push((frame.kind, frame.body.to_vec()));
            Ok(())
        });
        if let Err(error) = result {
            return (frames, Some(error), 0);
        }
        assert!(framer.partial_bytes() <= 4 + body_bytes_max);
        stream = rest;
        at += 1;
    }
    let left = framer.partial_bytes();
    (frames, None, left)
}

/// Both directions of the device protocol.
pub fn device(stream: &[u8]) {
    each_frame(stream, UPLINK_BODY_BYTES_MAX, |frame, bytes| {
        let Ok(Some(value)) = Uplink::decode(frame) else { return };
        if matches!(value, Uplink::Connect(connect) if connect.major != device::MAJOR) {
            return;
        }
        let mut again = Vec::new();
        value.encode(&mut again);
        assert_eq!(again, bytes, "{value:?}");
    });
    each_frame(stream, DOWNLINK_BODY_BYTES_MAX, |frame, bytes| {
        let Ok(Some(value)) = Downlink::decode(frame) else { return };
        if matches!(&value, Downlink::Close(close) if close.reason == CloseReason::Unknown) {
            return;
        }
        let mut again = Vec::new();
        value.encode(&mut again);
        assert_eq!(again, bytes, "{value:?}");
    });
}

/// Both directions of the link protocol.
pub fn link(stream: &[u8]) {
    each_frame(stream, LINK_BODY_BYTES_MAX, |frame, bytes| {
        let Ok(Some(value)) = ToControl::decode(frame) else { return };
        match value {
            ToControl::Hello(hello) if hello.major != link::MAJOR => return,
            ToControl::Gone(gone) if gone.iter().any(|one| one.reason == CloseReason::Unknown) => {
                return;
            }
            _ => {}
        }
        let mut again = Vec::new();
        encode_to_control(&value, &mut again);
        assert_eq!(again, bytes, "{value:?}");
    });
    each_frame(stream, LINK_BODY_BYTES_MAX, |frame, bytes| {
        let Ok(Some(value)) = ToBroker::decode(frame) else { return };
        match value {
            ToBroker::Refused { reason: CloseReason::Unknown } => return,
            ToBroker::Challenge { major, minor, .. } if (major, minor) != OUR_LINK => return,
            _ => {}
        }
        let mut again = Vec::new();
        encode_to_broker(&value, &mut again);
        assert_eq!(again, bytes, "{value:?}");
    });
}

const OUR_LINK: (u8, u8) = (link::MAJOR, link::MINOR);

/// A ticket is what its fields and its signature make.
pub fn ticket(bytes: &[u8]) {
    let Ok(ticket) = Ticket::decode(bytes) else { return };
    let mut again = Ticket::unsigned(
        ticket.algorithm,
        ticket.key_id,
        ticket.expires_s,
        ticket.app,
        ticket.device,
    );
    assert_eq!(again, ticket.signed);
    again.put(ticket.signature);
    assert_eq!(again, bytes);
}

/// Calls `check` with each whole frame and its bytes.
fn each_frame(mut stream: &[u8], body_bytes_max: usize, check: impl Fn(Frame<'_>, &[u8])) {
    while let Ok(Some((frame, rest))) = split(stream, body_bytes_max) {
        check(frame, &stream[..stream.len() - rest.len()]);
        stream = rest;
    }
}

/// Writes what was decoded. The codec has no such function, since no program repeats a frame.
pub fn encode_to_control(value: &ToControl<'_>, out: &mut Vec<u8>) {
    match *value {
        ToControl::Hello(ref hello) => to_control::hello(out, hello),
        ToControl::Proof { ref proof } => to_control::proof(out, proof),
        ToControl::Announce(list) => to_control::announce(out, &list.iter().collect::<Vec<_>>()),
        ToControl::Gone(list) => to_control::gone(out, &list.iter().collect::<Vec<_>>()),
        ToControl::Pull(list) => to_control::pull(out, &list.iter().collect::<Vec<_>>()),
        ToControl::Ack(list) => to_control::ack(out, &list.iter().collect::<Vec<_>>()),
        ToControl::GroupAck(list) => to_control::group_ack(out, &list.iter().collect::<Vec<_>>()),
        ToControl::GroupPull { app, session, from, topics } => {
            to_control::group_pull(out, app, session, from, &topics.iter().collect::<Vec<_>>());
        }
        ToControl::GroupFetch { app, from } => to_control::group_fetch(out, app, from),
        ToControl::GroupSent { app, seq, sent, waiting } => {
            to_control::group_sent(out, app, seq, sent, waiting);
        }
        ToControl::Pong { epoch } => to_control::pong(out, epoch),
    }
}

/// Writes what was decoded.
pub fn encode_to_broker(value: &ToBroker<'_>, out: &mut Vec<u8>) {
    match *value {
        ToBroker::Challenge { node, ref nonce, ref proof, .. } => {
            to_broker::challenge(out, node, nonce, proof);
        }
        ToBroker::Accepted { epoch } => to_broker::accepted(out, epoch),
        ToBroker::Refused { reason } => to_broker::refused(out, reason),
        ToBroker::Keys(ref keys) => to_broker::keys(out, keys),
        ToBroker::Deliver { session, entry } => {
            to_broker::deliver(out, session, entry.seq, entry.flags, entry.payload);
        }
        ToBroker::Entries { session, upto, more, entries } => {
            to_broker::entries(out, session, upto, more, &entries.iter().collect::<Vec<_>>());
        }
        ToBroker::GroupDeliver { app, ref entry } => to_broker::group_deliver(out, app, entry),
        ToBroker::GroupCursor { app, seq } => to_broker::group_cursor(out, app, seq),
        ToBroker::GroupEntries { session, upto, more, entries } => {
            to_broker::group_entries(out, session, upto, more, &entries.iter().collect::<Vec<_>>());
        }
        ToBroker::GroupFetched { app, upto, more, entries } => {
            to_broker::group_fetched(out, app, upto, more, &entries.iter().collect::<Vec<_>>());
        }
        ToBroker::Kick { session, epoch } => to_broker::kick(out, session, epoch),
        ToBroker::Ping { epoch } => to_broker::ping(out, epoch),
        ToBroker::Reset { session, stream, seq } => {
            to_broker::reset(out, session, stream, seq);
        }
    }
}

/// Reads varints until the bytes end or break; each is what its value would have been written as.
pub fn varints(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let mut again = Vec::new();
    while let Ok(value) = reader.varint() {
        again.put_varint(value);
    }
    assert_eq!(again, bytes[..again.len()]);
}

/// A frame with an arbitrary body, which fuzzing of whole streams would seldom reach.
pub fn frame_of(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_header(&mut out, kind, body.len());
    out.put(body);
    out
}
