//! Every message that the workload sent, and what its sender knows about it.
//!
//! ```text
//!   Open ── accepted ──▶ Accepted {id, seq}          the promise holds from here on
//!     │ └── refused ───▶ Refused                     nothing was stored
//!     └──── no answer, or "unknown" ──▶ Doubtful     may have been stored, once
//! ```
//!
//! A message carries its number in its payload, so that whoever hears it can be asked which one it
//! was. A sender with an idempotency key repeats until it knows; one without must live with doubt.

use hawser_codec::ids::{DeviceId, Seq, TopicId};
use hawser_control::node::event::{Priority, Push, To, Wake};
use hawser_control::records::{KeyHash, MessageId};

/// To whom a message goes, by places in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A device name.
    Device(usize),
    /// A topic of an app.
    Topic(usize),
    All,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub number: u32,
    pub app: usize,
    pub target: Target,
    pub device: Option<DeviceId>,
    pub ttl_s: u32,
    pub wake: Wake,
    pub priority: Priority,
    /// The number of its collapse key.
    pub collapse: Option<u8>,
    pub idempotent: bool,
    pub payload_bytes: usize,
    /// When the sender first sent it, and when it last did.
    pub first_sent_ms: u64,
    pub sent_ms: u64,
    pub attempts: u32,
    pub fate: Fate,
    /// An attempt had no answer, or one that said so: it may have been stored.
    pub doubtful: bool,
    /// An answer that the sender did not get.
    pub lost_answer: Option<Seq>,
    /// When the promise was given.
    pub accepted_ms: u64,
    /// By how many applications it was heard.
    pub heard: u32,
}

/// What the sender knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Open,
    Accepted { id: MessageId, seq: Seq },
    Refused,
    Doubtful,
}

impl Message {
    pub fn is_group(&self) -> bool {
        !matches!(self.target, Target::Device(_))
    }

    pub fn id(&self) -> Option<MessageId> {
        match self.fate {
            Fate::Accepted { id, .. } => Some(id),
            _ => None,
        }
    }

    /// The request that sends it.
    pub fn push(&self, app: hawser_codec::ids::AppId, topics: &[TopicId]) -> Push {
        let to = match self.target {
            Target::Device(_) => To::Device(self.device.expect("a device's message names it")),
            Target::Topic(topic) => To::Topic(topics[topic]),
            Target::All => To::All,
        };
        let collapse = self.collapse.map(|key| KeyHash::new(&format!("collapse {key}")));
        let repeat = || KeyHash::new(&format!("message {}", self.number));
        Push {
            app,
            to,
            payload: payload(self.number, self.payload_bytes).into(),
            ttl_s: self.ttl_s,
            priority: self.priority,
            wake: self.wake,
            collapse,
            idempotency: self.idempotent.then(repeat),
        }
    }
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub messages: Vec<Message>,
}

impl Ledger {
    /// An application heard it. Returns `None` for a device's message, else its topic, if any.
    pub fn heard(
        &mut self,
        number: u32,
        device: DeviceId,
        seq: Seq,
        payload_bytes: usize,
    ) -> Option<Option<usize>> {
        let message = self
            .messages
            .get_mut(number as usize)
            .unwrap_or_else(|| panic!("accounted-push: message {number} was never sent"));
        assert!(message.attempts > 0, "accounted-push: message {number} was not sent yet");
        assert_ne!(message.fate, Fate::Refused, "accounted-push: message {number} was refused");
        assert_eq!(payload_bytes, message.payload_bytes, "message {number} changed its size");
        if let Fate::Accepted { seq: accepted, .. } = message.fate {
            assert_eq!(accepted, seq, "fifo-per-device: message {number} moved in its stream");
        }
        message.heard += 1;
        match message.target {
            Target::Device(_) => {
                let right = message.device == Some(device);
                assert!(right, "accounted-push: message {number} reached {device:?}");
                None
            }
            Target::Topic(topic) => Some(Some(topic)),
            Target::All => Some(None),
        }
    }
}

/// `m<number>:` and filler up to the size.
pub fn payload(number: u32, bytes: usize) -> Vec<u8> {
    let mut out = format!("m{number}:").into_bytes();
    assert!(out.len() <= bytes, "the number must fit");
    out.resize(bytes, b'.');
    out
}

/// The reverse of [`payload`].
pub fn message_number(payload: &[u8]) -> Option<u32> {
    let digits = payload.strip_prefix(b"m")?;
    let end = digits.iter().position(|&byte| byte == b':')?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}
