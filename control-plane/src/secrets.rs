//! Keys as the process holds them: read from files or the environment, made from the kernel's
//! randomness, compared in constant time, never printed.
//!
//! What it does not do: rotate, or keep anything on disk. An API key is known here only by its
//! SHA-256, so a leaked store does not leak keys.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

/// Shorter operator keys can be guessed.
pub const ADMIN_KEY_BYTES_MIN: usize = 16;

/// Longest key file that is read.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// The key that both ends of a link must have.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkKey([u8; 32]);

impl LinkKey {
    /// From 64 hexadecimal digits.
    pub fn parse(text: &str) -> Result<LinkKey, SecretError> {
        let digits = text.trim().as_bytes();
        if digits.len() != 64 {
            return Err(SecretError::NotHex);
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| (d as char).to_digit(16).ok_or(SecretError::NotHex);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(LinkKey(key))
    }

    /// HMAC-SHA-256 of `context` and `transcript`.
    pub fn proof(&self, context: &[u8], transcript: &[u8]) -> [u8; 32] {
        self.mac(context, transcript).finalize().into_bytes().into()
    }

    /// Whether `proof` is the right one; takes the same time whatever it is.
    pub fn verifies(&self, context: &[u8], transcript: &[u8], proof: &[u8; 32]) -> bool {
        self.mac(context, transcript).verify_slice(proof).is_ok()
    }

    fn mac(&self, context: &[u8], transcript: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any key length is good");
        mac.update(context);
        mac.update(transcript);
        mac
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(..)")
    }
}

/// The SHA-256 of an API key. Keys are random and long, so a plain hash cannot be searched.
#[derive(Clone, Copy)]
pub struct KeyDigest(pub [u8; 32]);

impl KeyDigest {
    pub fn new(key: &str) -> KeyDigest {
        KeyDigest(Sha256::digest(key.as_bytes()).into())
    }

    /// The operator's key as it stands in its file or in the environment.
    pub fn of_admin_key(text: &str) -> Result<KeyDigest, SecretError> {
        let key = text.trim();
        if key.len() < ADMIN_KEY_BYTES_MIN || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(SecretError::WeakAdminKey);
        }
        Ok(KeyDigest::new(key))
    }
}

/// Takes the same time wherever the digests differ.
impl PartialEq for KeyDigest {
    fn eq(&self, other: &KeyDigest) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        let difference = pairs.fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
        difference == 0
    }
}

impl Eq for KeyDigest {}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

/// A new API key: recognisable by its prefix when it turns up where it should not.
pub fn new_api_key() -> String {
    format!("hwk_{}", URL_SAFE_NO_PAD.encode(random::<32>()))
}

/// Bytes of the kernel's generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .expect("/dev/urandom can always be read; without it no key is safe");
    bytes
}

/// The text of a key file, which only its owner may read.
pub fn read_key_file(path: &Path) -> Result<String, SecretError> {
    let file = std::fs::File::open(path).map_err(SecretError::Unreadable)?;
    let metadata = file.metadata().map_err(SecretError::Unreadable)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(SecretError::OpenToOthers);
    }
    let mut text = String::new();
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(SecretError::Unreadable)?;
    Ok(text)
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    #[error("can be read by other users; run chmod 600 on it")]
    OpenToOthers,
    #[error("must be 64 hexadecimal digits (32 bytes)")]
    NotHex,
    #[error("must be at least {ADMIN_KEY_BYTES_MIN} visible characters")]
    WeakAdminKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_key_is_hex_and_is_not_printed() {
        let key = LinkKey::parse(&format!("{}\n", "0aF1".repeat(16))).unwrap();
        assert_eq!(key.0[..2], [0x0a, 0xf1]);
        assert_eq!(format!("{key:?}"), "LinkKey(..)");
        for bad in ["", "0a", &"0g".repeat(32), &"0a".repeat(33), &"é".repeat(32)] {
            assert!(LinkKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_proof_holds_for_its_context_only() {
        let key = LinkKey([7; 32]);
        let proof = key.proof(b"a", b"b");
        assert!(key.verifies(b"a", b"b", &proof));
        assert!(!key.verifies(b"c", b"b", &proof));
        assert!(!LinkKey([8; 32]).verifies(b"a", b"b", &proof));
    }

    #[test]
    fn digests_differ_with_any_bit() {
        let digest = KeyDigest::new("hwk_x");
        assert_eq!(digest, KeyDigest::new("hwk_x"));
        for index in 0..32 {
            let mut other = digest;
            other.0[index] ^= 0x80;
            assert_ne!(digest, other);
        }
    }

    #[test]
    fn admin_keys_have_a_minimum() {
        assert!(KeyDigest::of_admin_key(" 0123456789abcdef\n").is_ok());
        assert!(KeyDigest::of_admin_key("0123456789abcde").is_err());
        assert!(KeyDigest::of_admin_key("0123456789 abcdef").is_err());
    }

    #[test]
    fn api_keys_are_new_each_time() {
        let (a, b) = (new_api_key(), new_api_key());
        assert_ne!(a, b);
        assert_eq!(a.len(), 4 + 43);
    }
}
