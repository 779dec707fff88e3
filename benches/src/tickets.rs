//! The tickets of the benchmarks' devices.
//!
//! An HMAC is made when a device needs one. An Ed25519 signature takes longer to make than a broker
//! takes to check, so those are made before anything is measured, 64 bytes each.

use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer, SigningKey};
use hawser_codec::link::VerifyKey;
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The keys protect nothing: everything lives as long as the run.
const APP_KEY: [u8; 32] = [0x61; 32];
pub const APP_NAME: &str = "bench";
const KEY_ID: u32 = 1;

/// Longer than any run.
const VALID_S: u64 = 7 * 86_400;

/// How tickets are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Signing {
    Hmac,
    Ed25519,
}

pub enum Tickets {
    Hmac { first: u32, expires_s: u64 },
    Ed25519 { first: u32, expires_s: u64, signatures: Vec<[u8; 64]> },
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
        let (algorithm, key) = match self {
            Signing::Hmac => (Algorithm::HmacSha256, APP_KEY),
            Signing::Ed25519 => {
                (Algorithm::Ed25519, SigningKey::from_bytes(&APP_KEY).verifying_key().to_bytes())
            }
        };
        VerifyKey { id: KEY_ID, algorithm, key }
    }
}

impl Tickets {
    /// For `devices` from number `first` on; takes 20 us for each that is signed with Ed25519.
    pub fn new(signing: Signing, first: u32, devices: u32) -> Tickets {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
        let expires_s = now.as_secs() + VALID_S;
        match signing {
            Signing::Hmac => Tickets::Hmac { first, expires_s },
            Signing::Ed25519 => {
                let key = SigningKey::from_bytes(&APP_KEY);
                let sign = |device: u32| {
                    let ticket = unsigned(Algorithm::Ed25519, device, expires_s);
                    key.sign(&[SIGNATURE_CONTEXT, &ticket].concat()).to_bytes()
                };
                let signatures = (first..first + devices).map(sign).collect();
                Tickets::Ed25519 { first, expires_s, signatures }
            }
        }
    }

    /// Writes the ticket of the device with this place behind the first over what was in `out`.
    pub fn put(&self, place: u32, out: &mut Vec<u8>) {
        match self {
            Tickets::Hmac { first, expires_s } => {
                *out = unsigned(Algorithm::HmacSha256, first + place, *expires_s);
                let mut mac =
                    Hmac::<Sha256>::new_from_slice(&APP_KEY).expect("any length is a key");
                mac.update(SIGNATURE_CONTEXT);
                mac.update(out);
                out.extend_from_slice(&mac.finalize().into_bytes());
            }
            Tickets::Ed25519 { first, expires_s, signatures } => {
                *out = unsigned(Algorithm::Ed25519, first + place, *expires_s);
                out.extend_from_slice(&signatures[place as usize]);
            }
        }
    }
}

fn unsigned(algorithm: Algorithm, device: u32, expires_s: u64) -> Vec<u8> {
    Ticket::unsigned(algorithm, KEY_ID, expires_s, APP_NAME, &format!("d-{device}"))
}
