//! The apps of the world and their own servers: registration records, and tickets for devices.

use ed25519_dalek::{Signer, SigningKey};
use hawser_codec::ids::AppId;
use hawser_codec::link::VerifyKey;
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use hawser_control::node::event::StoreOp;
use hawser_control::records::{AppKey, NewApp, Quota};

const KEY_ID: u32 = 1;

pub struct App {
    pub id: AppId,
    pub name: String,
    key: SigningKey,
}

impl App {
    pub fn new(place: usize) -> App {
        let id = AppId(place as u32 + 1);
        let name = format!("app-{}", id.0);
        App { id, name, key: SigningKey::from_bytes(&[place as u8 + 1; 32]) }
    }

    /// An app that nobody registered.
    pub fn stranger() -> App {
        App { id: AppId(77), name: "stranger".to_owned(), key: SigningKey::from_bytes(&[77; 32]) }
    }

    /// The store operation that registers it.
    pub fn registration(&self, version: u64) -> StoreOp {
        let verify = VerifyKey {
            id: KEY_ID,
            algorithm: Algorithm::Ed25519,
            key: self.key.verifying_key().to_bytes(),
        };
        let record = NewApp {
            name: self.name.clone(),
            quota: Quota::default(),
            api_key_hash: [0; 32],
            keys: vec![AppKey { verify, seed: None }],
            created_unix_ms: 0,
        };
        StoreOp::WriteApp { expected: version, app: self.id, record: record.encode() }
    }

    pub fn ticket(&self, device: &str, expires_s: u64) -> Vec<u8> {
        let mut ticket =
            Ticket::unsigned(Algorithm::Ed25519, KEY_ID, expires_s, &self.name, device);
        let mut signed = SIGNATURE_CONTEXT.to_vec();
        signed.extend_from_slice(&ticket);
        ticket.extend_from_slice(&self.key.sign(&signed).to_bytes());
        ticket
    }
}
