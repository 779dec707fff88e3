//! Commands that took long, newest first: SLOWLOG. The time is that of running it; waiting for the disk,
//! which a group does together, is not in it.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use crate::clients::Client;
use crate::command::catalogue::Facts;
use crate::live::Live;
use crate::store::database::unix_ms;

/// Words of a command that are kept, and bytes of each, as in Redis.
const WORDS_MAX: usize = 32;
const WORD_BYTES_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: u64,
    pub at_s: u64,
    pub micros: u64,
    pub words: Vec<Bytes>,
    pub client: String,
    pub client_name: Bytes,
}

#[derive(Default)]
struct Entries {
    newest_first: VecDeque<Entry>,
    next_id: u64,
}

#[derive(Default)]
pub struct SlowLog {
    entries: Mutex<Entries>,
}

impl SlowLog {
    pub fn ran(
        &self,
        live: &Live,
        facts: &Facts,
        words: &[Bytes],
        took: Duration,
        client: Option<&Client>,
    ) {
        let micros = took.as_micros() as u64;
        let slow = u64::try_from(live.slower_than_micros()).is_ok_and(|limit| micros >= limit);
        if !slow || facts.has_flag("skip_slowlog") {
            return;
        }
        let len_max = live.slowlog_len_max();
        let mut entries = self.entries.lock().expect("not poisoned: nothing panics under it");
        let id = entries.next_id;
        entries.next_id += 1;
        entries.newest_first.push_front(Entry {
            id,
            at_s: unix_ms() / 1000,
            micros,
            words: kept(facts, words),
            client: client.map(|client| client.addresses.peer.clone()).unwrap_or_default(),
            client_name: client.map(|client| client.facts().name.clone()).unwrap_or_default(),
        });
        entries.newest_first.truncate(len_max);
    }

    pub fn newest(&self, count: usize) -> Vec<Entry> {
        let entries = self.entries.lock().expect("not poisoned: nothing panics under it");
        entries.newest_first.iter().take(count).cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.entries.lock().expect("not poisoned: nothing panics under it").newest_first.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn clear(&self) {
        let mut entries = self.entries.lock().expect("not poisoned: nothing panics under it");
        entries.newest_first.clear();
    }
}

/// The words, cut as Redis cuts them, without secrets.
fn kept(facts: &Facts, words: &[Bytes]) -> Vec<Bytes> {
    if matches!(facts.name, "auth" | "hello" | "acl|setuser" | "config|set" | "namespace") {
        let shown = facts.name.split('|').count();
        let redacted = words[shown..].iter().map(|_| Bytes::from_static(b"(redacted)"));
        return words[..shown].iter().map(copied).chain(redacted).take(WORDS_MAX).collect();
    }
    let mut kept: Vec<Bytes> = words.iter().take(WORDS_MAX).map(copied).collect();
    if words.len() > WORDS_MAX {
        let more = words.len() - WORDS_MAX + 1;
        kept[WORDS_MAX - 1] = Bytes::from(format!("... ({more} more arguments)"));
    }
    kept
}

fn copied(word: &Bytes) -> Bytes {
    let Some(more) = word.len().checked_sub(WORD_BYTES_MAX).filter(|more| *more > 0) else {
        // A copy: the original shares its memory with everything read from the socket at that time.
        return Bytes::copy_from_slice(word);
    };
    let note = format!("... ({more} more bytes)");
    Bytes::from([&word[..WORD_BYTES_MAX], note.as_bytes()].concat())
}
