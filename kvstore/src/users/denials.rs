//! What was refused lately, newest first: ACL LOG. The same refusal within a minute is counted, not
//! listed again, so that a client in a loop cannot push everything else out.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;

use super::user::Denied;

/// Refusals that are kept, as many as Redis keeps unless it is told otherwise.
const DENIALS_MAX: usize = 128;

/// Entries that are looked at for the same refusal.
const SAME_AMONG: usize = 10;

const SAME_WITHIN_MS: u64 = 60_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub count: u64,
    pub reason: &'static str,
    pub context: &'static str,
    pub object: Bytes,
    pub user: String,
    pub at_ms: u64,
    /// The connection, as CLIENT LIST shows it.
    pub client: String,
}

impl Denial {
    pub fn of(denied: &Denied, in_transaction: bool) -> Denial {
        let (reason, object) = match denied {
            Denied::Command(name) => ("command", Bytes::from_static(name.as_bytes())),
            Denied::Key(key) => ("key", Bytes::copy_from_slice(key)),
            Denied::Channel(channel) => ("channel", Bytes::copy_from_slice(channel)),
        };
        let context = if in_transaction { "multi" } else { "toplevel" };
        let (user, client) = (String::new(), String::new());
        Denial { count: 1, reason, context, object, user, at_ms: 0, client }
    }

    pub fn of_auth(name: &'static [u8]) -> Denial {
        let denied = Denied::Command("");
        Denial { reason: "auth", object: Bytes::from_static(name), ..Denial::of(&denied, false) }
    }

    fn is_same(&self, other: &Denial) -> bool {
        (self.reason, self.context) == (other.reason, other.context)
            && self.object == other.object
            && self.user == other.user
            && self.at_ms.abs_diff(other.at_ms) <= SAME_WITHIN_MS
    }
}

#[derive(Default)]
pub struct Denials {
    list: Mutex<VecDeque<Denial>>,
}

impl Denials {
    pub fn add(&self, mut denial: Denial) {
        let mut list = self.list.lock().expect("not poisoned: nothing panics under it");
        let same = list.iter().take(SAME_AMONG).position(|known| known.is_same(&denial));
        if let Some(known) = same.and_then(|place| list.remove(place)) {
            denial.count = known.count + 1;
        }
        list.push_front(denial);
        list.truncate(DENIALS_MAX);
    }

    pub fn newest(&self, count: usize) -> Vec<Denial> {
        let list = self.list.lock().expect("not poisoned: nothing panics under it");
        list.iter().take(count).cloned().collect()
    }

    pub fn clear(&self) {
        self.list.lock().expect("not poisoned: nothing panics under it").clear();
    }
}
