//! The control node's part of the link handshake: all that an unauthenticated peer can reach.
//!
//! Both ends prove that they have the link key with an HMAC over both nonces and the identity. The
//! contexts of the two proofs differ, so that a proof cannot be sent back to its maker. The caller
//! sets the deadline.

use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::split;
use hawser_codec::limits::LINK_HANDSHAKE_BODY_BYTES_MAX;
use hawser_codec::link::{
    BROKER_PROOF_CONTEXT, CONTROL_PROOF_CONTEXT, Hello, MAJOR, ToControl, to_broker,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::clock::Clock;
use crate::metrics::LinkRefusal;
use crate::secrets::{self, LinkKey};

/// Admits a shard. When this returns, `Accepted` was sent and nothing after `Proof` was read.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    node: u64,
    key: &LinkKey,
    clock: &Clock,
) -> Result<Hello, LinkRefusal> {
    let hello = match read_frame(stream).await? {
        ToFrame::Hello(hello) => hello,
        ToFrame::Proof(_) => return Err(LinkRefusal::BadHandshake),
    };
    let mut out = Vec::with_capacity(128);
    if hello.major != MAJOR {
        return refuse(stream, CloseReason::Version, LinkRefusal::Version).await;
    }
    let nonce = secrets::random::<32>();
    let transcript = hello.transcript(node, &nonce);
    let proof = key.proof(CONTROL_PROOF_CONTEXT, &transcript);
    to_broker::challenge(&mut out, node, &nonce, &proof);
    write(stream, &out).await?;
    let proof = match read_frame(stream).await? {
        ToFrame::Proof(proof) => proof,
        ToFrame::Hello(_) => return Err(LinkRefusal::BadHandshake),
    };
    if !key.verifies(BROKER_PROOF_CONTEXT, &transcript, &proof) {
        return refuse(stream, CloseReason::LinkAuth, LinkRefusal::Auth).await;
    }
    out.clear();
    to_broker::accepted(&mut out, clock.epoch());
    write(stream, &out).await?;
    Ok(hello)
}

/// The two frames of a handshake.
enum ToFrame {
    Hello(Hello),
    Proof([u8; 32]),
}

/// Reads one frame, byte by byte, so that nothing behind it is taken. A handshake has 90 bytes.
async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> Result<ToFrame, LinkRefusal> {
    let mut bytes = Vec::with_capacity(64);
    loop {
        let byte = stream.read_u8().await.map_err(|_| LinkRefusal::BadHandshake)?;
        bytes.push(byte);
        if let Some(frame) = parse(&bytes).map_err(|_| LinkRefusal::BadHandshake)? {
            return Ok(frame);
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Option<ToFrame>, DecodeError> {
    let Some((frame, _)) = split(bytes, LINK_HANDSHAKE_BODY_BYTES_MAX)? else { return Ok(None) };
    match ToControl::decode(frame)? {
        Some(ToControl::Hello(hello)) => Ok(Some(ToFrame::Hello(hello))),
        Some(ToControl::Proof { proof }) => Ok(Some(ToFrame::Proof(proof))),
        _ => Err(DecodeError::BadValue),
    }
}

async fn refuse<S: AsyncWrite + Unpin>(
    stream: &mut S,
    reason: CloseReason,
    refusal: LinkRefusal,
) -> Result<Hello, LinkRefusal> {
    let mut out = Vec::new();
    to_broker::refused(&mut out, reason);
    write(stream, &out).await?;
    Err(refusal)
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), LinkRefusal> {
    stream.write_all(bytes).await.map_err(|_| LinkRefusal::BadHandshake)
}
