//! The ticket: an app's own server says that a device may connect, and a broker verifies it alone.
//!
//! ```text
//! version u8 = 1 | algorithm u8 | key id u32 | expires u64 | app text | device text | signature
//!                                              unix s
//! ```
//!
//! The signature covers [`SIGNATURE_CONTEXT`] and everything before it. Signing and verifying are
//! the caller's: this file knows bytes, not keys. Text form: base64url without padding.

use crate::cursor::{Reader, Write};
use crate::error::DecodeError;
use crate::ids::{is_app_name, is_device_name};
use crate::limits::{APP_NAME_BYTES_MAX, DEVICE_NAME_BYTES_MAX};

/// Prepended to the signed bytes, so that the key cannot be made to sign a ticket by accident.
pub const SIGNATURE_CONTEXT: &[u8] = b"hawser-ticket-v1\0";

const TICKET_VERSION: u8 = 1;

/// How a ticket is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// 64-byte signature; brokers hold only the public key.
    Ed25519 = 1,
    /// 32-byte HMAC-SHA-256; faster to verify, but a broker's keys could sign tickets.
    HmacSha256 = 2,
}

impl Algorithm {
    pub fn from_code(code: u8) -> Result<Algorithm, DecodeError> {
        match code {
            1 => Ok(Algorithm::Ed25519),
            2 => Ok(Algorithm::HmacSha256),
            _ => Err(DecodeError::BadValue),
        }
    }

    pub fn signature_bytes(self) -> usize {
        match self {
            Algorithm::Ed25519 => 64,
            Algorithm::HmacSha256 => 32,
        }
    }
}

/// A decoded ticket, not yet verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket<'a> {
    pub algorithm: Algorithm,
    pub key_id: u32,
    pub expires_s: u64,
    pub app: &'a str,
    pub device: &'a str,
    /// What the signature covers, without [`SIGNATURE_CONTEXT`].
    pub signed: &'a [u8],
    pub signature: &'a [u8],
}

impl<'a> Ticket<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Ticket<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != TICKET_VERSION {
            return Err(DecodeError::BadValue);
        }
        let algorithm = Algorithm::from_code(reader.u8()?)?;
        let key_id = reader.u32()?;
        let expires_s = reader.u64()?;
        let app = reader.text(APP_NAME_BYTES_MAX)?;
        let device = reader.text(DEVICE_NAME_BYTES_MAX)?;
        if !is_app_name(app) || !is_device_name(device) {
            return Err(DecodeError::BadText);
        }
        let signed = &bytes[..bytes.len() - reader.rest().len()];
        let signature = reader.bytes(algorithm.signature_bytes())?;
        reader.end()?;
        Ok(Ticket { algorithm, key_id, expires_s, app, device, signed, signature })
    }

    /// The bytes that the signature covers, without [`SIGNATURE_CONTEXT`]. A ticket is these
    /// followed by the signature.
    pub fn unsigned(
        algorithm: Algorithm,
        key_id: u32,
        expires_s: u64,
        app: &str,
        device: &str,
    ) -> Vec<u8> {
        assert!(is_app_name(app) && is_device_name(device), "names are checked by the caller");
        let mut out = Vec::with_capacity(160);
        out.put_u8(TICKET_VERSION);
        out.put_u8(algorithm as u8);
        out.put_u32(key_id);
        out.put_u64(expires_s);
        out.put_prefixed(app.as_bytes());
        out.put_prefixed(device.as_bytes());
        out
    }
}
