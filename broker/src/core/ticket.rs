//! Whether a ticket admits its device: verified here alone, without asking anybody.
//!
//! ```text
//!  decode ─▶ app known? ─▶ key known? ─▶ expired? ─▶ signature ─▶ (app, device)
//! ```
//!
//! The cheap checks come first, so that a storm of stale tickets costs no signature. Keys are
//! expanded once, when their set arrives: a decompressed curve point, a keyed hash state.
//! Ed25519 is verified strictly (no small-order keys, one encoding per signature); the HMAC is
//! compared in constant time.

use ed25519_dalek::{Signature, VerifyingKey};
use hawser_codec::error::CloseReason;
use hawser_codec::ids::{DeviceId, HashKey};
use hawser_codec::limits::TICKET_BYTES_MAX;
use hawser_codec::link::VerifyKey;
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::apps::Apps;

/// One verification key, ready for use.
pub(super) struct TicketKey {
    id: u32,
    verifier: Verifier,
}

enum Verifier {
    Ed25519(VerifyingKey),
    Hmac(Hmac<Sha256>),
    /// Bytes that are no point of the curve verify nothing.
    Invalid,
}

/// Whom a good ticket admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    pub app: u16,
    pub device: DeviceId,
}

pub(super) fn verify(apps: &Apps, bytes: &[u8], unix_ms: u64) -> Result<Admitted, CloseReason> {
    let hash_key: &HashKey = apps.hash_key().ok_or(CloseReason::NotReady)?;
    let ticket = Ticket::decode(bytes).map_err(|_| CloseReason::TicketMalformed)?;
    let app = apps.by_name(ticket.app).ok_or(CloseReason::UnknownApp)?;
    let key = apps[app]
        .keys
        .iter()
        .find(|key| key.id == ticket.key_id && key.algorithm() == Some(ticket.algorithm))
        .ok_or(CloseReason::TicketForged)?;
    if ticket.expires_s <= unix_ms / 1000 {
        return Err(CloseReason::TicketExpired);
    }
    if !key.verifies(&ticket) {
        return Err(CloseReason::TicketForged);
    }
    Ok(Admitted { app, device: DeviceId::new(hash_key, ticket.app, ticket.device) })
}

impl TicketKey {
    pub fn new(key: &VerifyKey) -> TicketKey {
        let verifier = match key.algorithm {
            Algorithm::Ed25519 => match VerifyingKey::from_bytes(&key.key) {
                Ok(point) => Verifier::Ed25519(point),
                Err(_) => Verifier::Invalid,
            },
            Algorithm::HmacSha256 => match Hmac::new_from_slice(&key.key) {
                Ok(state) => Verifier::Hmac(state),
                Err(_) => Verifier::Invalid,
            },
        };
        TicketKey { id: key.id, verifier }
    }

    fn algorithm(&self) -> Option<Algorithm> {
        match self.verifier {
            Verifier::Ed25519(_) => Some(Algorithm::Ed25519),
            Verifier::Hmac(_) => Some(Algorithm::HmacSha256),
            Verifier::Invalid => None,
        }
    }

    fn verifies(&self, ticket: &Ticket<'_>) -> bool {
        match &self.verifier {
            Verifier::Ed25519(key) => {
                let Ok(signature) = Signature::from_slice(ticket.signature) else { return false };
                let mut signed = [0; SIGNATURE_CONTEXT.len() + TICKET_BYTES_MAX];
                let end = SIGNATURE_CONTEXT.len() + ticket.signed.len();
                signed[..SIGNATURE_CONTEXT.len()].copy_from_slice(SIGNATURE_CONTEXT);
                signed[SIGNATURE_CONTEXT.len()..end].copy_from_slice(ticket.signed);
                key.verify_strict(&signed[..end], &signature).is_ok()
            }
            Verifier::Hmac(state) => {
                let mut state = state.clone();
                state.update(SIGNATURE_CONTEXT);
                state.update(ticket.signed);
                state.verify_slice(ticket.signature).is_ok()
            }
            Verifier::Invalid => false,
        }
    }
}
