//! The tickets of the benchmarks' devices.
//!
//! An HMAC is made when a device needs one. An Ed25519 signature takes longer to make than a broker
//! takes to check, so those are made before anything is measured, 64 bytes each.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer, SigningKey};
use hawser_codec::link::VerifyKey;
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use hmac::{Hmac, Mac};
use sha2::Sha256;

pub const APP_NAME: &str = "bench";

/// An app's key for tickets and its number. The default protects nothing: everything lives as long as
/// the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issuer {
    pub key_id: u32,
    pub seed: [u8; 32],
}

impl Default for Issuer {
    fn default() -> Issuer {
        Issuer { key_id: 1, seed: [0x61; 32] }
    }
}

/// `NUMBER:HEX`.
impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.key_id)?;
        self.seed.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Issuer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Issuer, &'static str> {
        const FORM: &str = "write NUMBER:HEX with 64 digits";
        let (key_id, hex) = text.split_once(':').ok_or(FORM)?;
        let mut seed = [0; 32];
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(FORM);
        }
        for (at, byte) in seed.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| FORM)?;
        }
        Ok(Issuer { key_id: key_id.parse().map_err(|_| FORM)?, seed })
    }
}

/// Longer than any run.
const VALID_S: u64 = 7 * 86_400;

/// How tickets are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Signing {
    Hmac,
    Ed25519,
}

pub struct Tickets {
    issuer: Issuer,
    first: u32,
    expires_s: u64,
    signing: Signing,
    /// With Ed25519, of the devices from the first on.
    signatures: Vec<[u8; 64]>,
}

impl Signing {
    pub fn name(self) -> &'static str {
        match self {
            Signing::Hmac => "hmac",
            Signing::Ed25519 => "ed25519",
        }
    }

    /// What the broker verifies them with.
    pub fn key(self) -> VerifyKey {
        let Issuer { key_id, seed } = Issuer::default();
        let (algorithm, key) = match self {
            Signing::Hmac => (Algorithm::HmacSha256, seed),
            Signing::Ed25519 => {
                (Algorithm::Ed25519, SigningKey::from_bytes(&seed).verifying_key().to_bytes())
            }
        };
        VerifyKey { id: key_id, algorithm, key }
    }
}

impl Tickets {
    /// For `devices` from number `first` on; takes 20 us for each that is signed with Ed25519.
    pub fn new(signing: Signing, issuer: Issuer, first: u32, devices: u32) -> Tickets {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
        let expires_s = now.as_secs() + VALID_S;
        let mut tickets = Tickets { issuer, first, expires_s, signing, signatures: Vec::new() };
        if signing == Signing::Ed25519 {
            let key = SigningKey::from_bytes(&issuer.seed);
            let sign = |place| {
                let ticket = tickets.unsigned(Algorithm::Ed25519, place);
                key.sign(&[SIGNATURE_CONTEXT, &ticket].concat()).to_bytes()
            };
            tickets.signatures = (0..devices).map(sign).collect();
        }
        tickets
    }

    /// Writes the ticket of the device with this place behind the first over what was in `out`.
    pub fn put(&self, place: u32, out: &mut Vec<u8>) {
        match self.signing {
            Signing::Hmac => {
                *out = self.unsigned(Algorithm::HmacSha256, place);
                let mut mac =
                    Hmac::<Sha256>::new_from_slice(&self.issuer.seed).expect("any length is a key");
                mac.update(SIGNATURE_CONTEXT);
                mac.update(out);
                out.extend_from_slice(&mac.finalize().into_bytes());
            }
            Signing::Ed25519 => {
                *out = self.unsigned(Algorithm::Ed25519, place);
                out.extend_from_slice(&self.signatures[place as usize]);
            }
        }
    }

    fn unsigned(&self, algorithm: Algorithm, place: u32) -> Vec<u8> {
        let device = format!("d-{}", self.first + place);
        Ticket::unsigned(algorithm, self.issuer.key_id, self.expires_s, APP_NAME, &device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_written_and_read() {
        let issuer = Issuer { key_id: 7, seed: [0xa5; 32] };
        assert_eq!(issuer.to_string().parse(), Ok(issuer));
        for bad in ["", "7", "7:a5", "x:", &issuer.to_string().replace("a5", "g5")] {
            assert!(bad.parse::<Issuer>().is_err(), "{bad}");
        }
    }
}
