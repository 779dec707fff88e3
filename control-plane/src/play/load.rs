//! Pushes through the HTTP API until every message is accepted, each exactly once.
//!
//! Several callers push batches side by side over connections that stay open. A device belongs to
//! one caller, so the messages of a device are accepted in the order of their numbers as long as
//! nothing fails. A message that was certainly not stored is pushed again. A call without an answer,
//! as when its node was killed, is repeated only with idempotency keys, at another node if there is
//! one: whether the first attempt was stored is then the server's business. A key costs the store a
//! transaction and a record, so a run in which nothing is killed has none.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::check::Audience;
use super::fleet::{device_name, topic_name};
use super::mark::{Kind, Mark, unix_us};
use crate::cli::client::{Accepted, ApiError, Client, ErrorBody, Payload, Push, PushResult, To};

/// Callers side by side, and messages in one call.
pub const CALLERS: u32 = 8;
pub const BATCH_MAX: usize = 200;

/// Long enough to outlive any run.
const TTL_S: u32 = 86_400;

/// The pause before a repeat; a killed node needs a moment to come back.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What to do about a call without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Every message has an idempotency key; the call is repeated.
    Repeat,
    /// The run ends with the error: a repeat could store a message twice.
    Fail,
}

/// What one caller, or the group caller, needs.
#[derive(Clone, Debug)]
pub struct Caller {
    /// With the app's key, one per control node. The first one is tried first.
    clients: Vec<Client>,
    app: String,
    /// Makes marks and idempotency keys differ between runs on one store.
    run: u32,
    unanswered: Unanswered,
    news: mpsc::Sender<News>,
}

/// What callers tell.
#[derive(Debug)]
pub enum News {
    Accepted { kind: Kind, accepted: Vec<(u32, u64)> },
    Failed(ApiError),
}

impl Caller {
    pub fn new(
        clients: Vec<Client>,
        app: String,
        run: u32,
        unanswered: Unanswered,
        news: mpsc::Sender<News>,
    ) -> Caller {
        Caller { clients, app, run, unanswered, news }
    }

    /// This caller's first choice among several nodes.
    pub fn preferring(mut self, index: u32) -> Caller {
        let nodes = self.clients.len();
        self.clients.rotate_left(index as usize % nodes);
        self
    }

    /// Pushes every message whose device belongs to caller `index` of [`CALLERS`].
    pub async fn push_singles(mut self, index: u32, devices: u32, messages: u32) {
        let rounds = (0..messages).step_by(devices as usize);
        let mut numbers = rounds.flat_map(|round| {
            let of_round = (index..devices).step_by(CALLERS as usize);
            of_round.map(move |device| u64::from(round) + u64::from(device))
        });
        loop {
            let batch: Vec<u32> = numbers
                .by_ref()
                .filter_map(|number| u32::try_from(number).ok().filter(|&number| number < messages))
                .take(BATCH_MAX)
                .collect();
            if batch.is_empty() {
                return;
            }
            let pushes = batch
                .iter()
                .map(|&number| {
                    let to = To::Device(device_name(number % devices));
                    self.message(Kind::Single, number, to)
                })
                .collect();
            if !self.accept(Kind::Single, batch, pushes).await {
                return;
            }
        }
    }

    /// Pushes the group messages, spread over the run: message `g` when its share of the single
    /// messages is accepted.
    pub async fn push_groups(
        mut self,
        audiences: Vec<Audience>,
        messages: u32,
        mut accepted: watch::Receiver<u64>,
    ) {
        let parts = audiences.len() as u64 + 1;
        for (number, audience) in (0u32..).zip(audiences) {
            let share = u64::from(messages) * (u64::from(number) + 1) / parts;
            if accepted.wait_for(|&count| count >= share).await.is_err() {
                return;
            }
            let to = match audience {
                Audience::All => To::All(true),
                Audience::Topic(topic) => To::Topic(topic_name(topic)),
            };
            let push = self.message(Kind::Group, number, to);
            if !self.accept(Kind::Group, vec![number], vec![push]).await {
                return;
            }
        }
    }

    fn message(&self, kind: Kind, number: u32, to: To) -> Push {
        let key = || match kind {
            Kind::Single => format!("{}-{number}", self.run),
            Kind::Group => format!("{}-group-{number}", self.run),
        };
        Push {
            to,
            payload: Payload::Text(Mark { run: self.run, kind, number, sent_us: unix_us() }.text()),
            ttl_s: TTL_S,
            priority: None,
            when_awake: false,
            collapse_key: None,
            idempotency_key: (self.unanswered == Unanswered::Repeat).then(key),
        }
    }

    /// Whether the caller may go on.
    async fn accept(&mut self, kind: Kind, numbers: Vec<u32>, pushes: Vec<Push>) -> bool {
        let news = match self.push_until_accepted(pushes).await {
            Ok(seqs) => News::Accepted { kind, accepted: numbers.into_iter().zip(seqs).collect() },
            Err(error) => News::Failed(error),
        };
        let goes_on = matches!(news, News::Accepted { .. });
        self.news.send(news).await.is_ok() && goes_on
    }

    fn repeats(&self, error: &ApiError) -> bool {
        error.may_retry() && (self.unanswered == Unanswered::Repeat || error.is_certain())
    }

    /// The sequence numbers of the messages, in their order.
    async fn push_until_accepted(&mut self, pushes: Vec<Push>) -> Result<Vec<u64>, ApiError> {
        let mut seqs = vec![0; pushes.len()];
        let (mut places, mut open): (Vec<usize>, Vec<Push>) =
            pushes.into_iter().enumerate().unzip();
        loop {
            match self.clients[0].push_batch(&self.app, &open).await {
                Ok(results) => {
                    let mut refused = (Vec::new(), Vec::new());
                    for ((place, push), result) in places.into_iter().zip(open).zip(results) {
                        match result {
                            PushResult::Accepted(Accepted { seq, .. }) => seqs[place] = seq,
                            PushResult::Refused { error } => {
                                let error = refusal(error);
                                if !self.repeats(&error) {
                                    return Err(error);
                                }
                                refused.0.push(place);
                                refused.1.push(push);
                            }
                        }
                    }
                    (places, open) = refused;
                    if open.is_empty() {
                        return Ok(seqs);
                    }
                }
                Err(error) if self.repeats(&error) => self.clients.rotate_left(1),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// One refused message of a batch whose call as a whole went well. The API says with the delay
/// whether it is worth coming back.
fn refusal(error: ErrorBody) -> ApiError {
    let ErrorBody { code, message, retry_after_ms } = error;
    let status = if retry_after_ms.is_some() { 503 } else { 400 };
    ApiError::Refused { status, code, message, retry_after_ms }
}
