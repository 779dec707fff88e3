//! Commands that wait until there is something to answer.
//!
//! Such a command is an ordinary write. When it finds nothing it says which keys it waits for; the
//! writer runs it again each time one of them has changed, and answers nil when its time is over. In a
//! transaction it does not wait, and answers nil at once.

use std::time::Duration;

use bytes::Bytes;

use super::Write;
use super::error::CommandError;
use crate::resp::reply::Reply;
use crate::store::checkpoints::Order;
use crate::store::layout::Kind;

/// What a command that may wait has done.
pub enum Flow {
    Answered,
    /// It has answered and changed nothing.
    Waits(Wait),
    /// Another thread does it and answers.
    HandsOver(Order),
}

/// What a command waits for.
#[derive(Debug)]
pub struct Wait {
    pub keys: Vec<Bytes>,
    /// Other kinds of values at its keys are passed over, as Redis does once a client waits.
    pub kind: Kind,
    /// Run it also when a key is deleted or gets a value of another kind.
    pub wants_other_kinds: bool,
    /// `None` waits for ever.
    pub timeout: Option<Duration>,
    /// What to run then: the command itself, or what it means from here on.
    pub args: Vec<Bytes>,
}

/// Whether a command that finds nothing waits.
#[derive(Clone, Copy, Debug)]
pub enum Patience<'a> {
    /// No: it stands in a transaction.
    Never,
    /// Yes.
    Waits,
    /// It waits already, and this key of it has changed. It looks at no other.
    Woken(&'a [u8]),
}

/// How an answer says that there is nothing.
pub enum Nil {
    Value,
    Array,
}

impl Write<'_, '_> {
    /// The keys a command that may wait has to look at.
    pub fn ready_keys<'k>(&self, keys: &'k [Bytes]) -> impl Iterator<Item = &'k Bytes> + use<'k> {
        let (all, one) = match self.patience {
            Patience::Woken(woken) => (&[][..], keys.iter().find(|key| *key == woken)),
            Patience::Never | Patience::Waits => (keys, None),
        };
        all.iter().chain(one)
    }

    /// There is nothing at the keys: waits for a value of this kind, or answers nil where nobody waits.
    pub fn wait_for(
        &self,
        reply: &mut Reply,
        keys: &[Bytes],
        kind: Kind,
        timeout: Option<Duration>,
        nil: Nil,
    ) -> Flow {
        match (self.patience, nil) {
            (Patience::Never, Nil::Value) => reply.null(),
            (Patience::Never, Nil::Array) => reply.null_array(),
            (Patience::Waits | Patience::Woken(_), _) => {
                return Flow::Waits(Wait {
                    keys: keys.to_vec(),
                    kind,
                    wants_other_kinds: false,
                    timeout,
                    args: self.args.to_vec(),
                });
            }
        }
        Flow::Answered
    }
}

/// The longest time to wait: a year of a thousand centuries ends no sooner than the server.
const TIMEOUT_MS_MAX: f64 = 3e15;

/// A time in seconds, with a fraction; 0 is for ever. It is rounded up to milliseconds.
pub fn timeout_s(text: &[u8]) -> Result<Option<Duration>, CommandError> {
    let is_plain = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    let text =
        std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| is_plain(&byte)));
    let seconds: Option<f64> = text.and_then(|text| text.parse().ok());
    let ms = (seconds.ok_or(CommandError::TimeoutNotFloat)? * 1000.0).ceil();
    if ms < 0.0 {
        return Err(CommandError::TimeoutNegative);
    }
    if ms > TIMEOUT_MS_MAX {
        return Err(CommandError::TimeoutTooLong);
    }
    Ok((ms > 0.0).then(|| Duration::from_millis(ms as u64)))
}

/// A time in milliseconds; 0 is for ever.
pub fn timeout_ms(text: &[u8]) -> Result<Option<Duration>, CommandError> {
    let ms = crate::resp::integer(text).ok_or(CommandError::TimeoutNotInteger)?;
    let ms = u64::try_from(ms).map_err(|_| CommandError::TimeoutNegative)?;
    if ms as f64 > TIMEOUT_MS_MAX {
        return Err(CommandError::TimeoutTooLong);
    }
    Ok((ms > 0).then(|| Duration::from_millis(ms)))
}
