//! Whom the writer answers: a connection, exactly once.

use std::sync::Arc;

use crate::clients::Client;
use crate::inbox::{Letter, Post};
use crate::session::Outcome;
use crate::store::writer::Answer;

/// The right to answer a connection's work. Dropping it says that nobody knows what became of that.
pub struct Caller {
    client: Option<Arc<Client>>,
}

impl Caller {
    pub fn new(client: Arc<Client>) -> Caller {
        Caller { client: Some(client) }
    }

    /// For work that nobody waits for.
    pub fn nobody() -> Caller {
        Caller { client: None }
    }

    /// The connection may be gone; what it asked for has happened all the same.
    pub fn answer(mut self, answer: Answer, post: &mut Post) {
        if let Some(client) = self.client.take() {
            post.add(&client.inbox, Letter::Answered(client.id, Outcome::Answered(answer)));
        }
    }

    pub fn client(&self) -> Option<&Client> {
        self.client.as_deref()
    }

    /// Nothing was done.
    pub fn not_taken(mut self) {
        if let Some(client) = self.client.take() {
            client.inbox.put(Letter::Answered(client.id, Outcome::NotTaken));
        }
    }

    /// Nobody reads the answer any more.
    pub fn is_gone(&self) -> bool {
        self.client.as_ref().is_none_or(|client| client.is_ended())
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            client.inbox.put(Letter::Answered(client.id, Outcome::Lost));
        }
    }
}
