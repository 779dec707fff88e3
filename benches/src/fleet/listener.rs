//! What a process of the fleet says, read as soon as it is said, whether anybody waits for it or not:
//! a process that reports its progress into a pipe which nobody reads stops when the pipe is full.
//!
//! Of progress only the latest is kept. Answers wait to be taken; a process that gives more of them
//! than commands call for waits too.

use std::io::BufRead;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};

use super::command::Answer;

/// A command has two answers at most.
const WAITING_MAX: usize = 2;

pub struct Listener {
    answers: Receiver<anyhow::Result<Answer>>,
    progress: Arc<Mutex<Progress>>,
}

/// Of the command that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub of: u64,
}

impl Listener {
    /// Reads until the end, on a thread of its own.
    pub fn new(lines: impl BufRead + Send + 'static) -> Listener {
        let (said, answers) = sync_channel(WAITING_MAX);
        let progress = Arc::new(Mutex::new(Progress::default()));
        let latest = Arc::clone(&progress);
        std::thread::spawn(move || listen(lines, &said, &latest));
        Listener { answers, progress }
    }

    pub fn progress(&self) -> Progress {
        *self.progress.lock().expect("no thread panics with it")
    }

    /// The next answer that is no progress, if it comes in time.
    pub fn answer(&self, within: Duration) -> anyhow::Result<Option<Answer>> {
        match self.answers.recv_timeout(within) {
            Ok(answer) => answer.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("a process of the fleet ended; what it said is above")
            }
        }
    }
}

/// Ends with the lines, or when nobody wants the answers any more.
fn listen(
    lines: impl BufRead,
    said: &SyncSender<anyhow::Result<Answer>>,
    progress: &Mutex<Progress>,
) {
    for line in lines.lines() {
        let answer = line.map_err(anyhow::Error::from).and_then(|line| {
            serde_json::from_str(&line).with_context(|| format!("the fleet answered {line}"))
        });
        let mut progress = progress.lock().expect("no thread panics with it");
        if let Ok(Answer::Progress { done, of }) = answer {
            *progress = Progress { done, of };
            continue;
        }
        *progress = Progress::default();
        drop(progress);
        if said.send(answer).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};

    use super::*;

    /// Many times what a pipe holds is said before anybody asks.
    #[test]
    fn who_is_not_asked_can_go_on() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let listener = Listener::new(BufReader::new(reader));
        let mut say = |answer: &Answer| {
            writeln!(writer, "{}", serde_json::to_string(answer).unwrap()).unwrap();
        };
        (0..100_000).for_each(|done| say(&Answer::Progress { done, of: 100_000 }));
        say(&Answer::Armed);
        let answer = listener.answer(Duration::from_secs(60)).unwrap();
        assert!(matches!(answer, Some(Answer::Armed)), "{answer:?}");
        assert_eq!(listener.progress(), Progress::default(), "that command is over");
        drop(writer);
        let ended = listener.answer(Duration::from_secs(60)).unwrap_err().to_string();
        assert!(ended.contains("a process of the fleet ended"), "{ended}");
    }
}
