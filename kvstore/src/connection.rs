//! One connection's socket: feeds its [`Session`], carries its work to the writer and its answers back.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};

use crate::session::{Outcome, Session, Step};
use crate::store::writer::Job;

/// A read grows to what a busy client sends at once, and shrinks again so that an idle connection
/// costs little.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;

/// Serves until the client goes, breaks the protocol, or the server stops.
pub async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut session: Session,
    jobs: mpsc::Sender<Job>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut read_bytes = READ_BYTES_MIN;
    loop {
        match session.turn() {
            Step::Send => send(&mut stream, &mut session).await?,
            Step::Submit(work) => {
                let (answer, answered) = oneshot::channel();
                let job = Job { work, protocol: session.reply.protocol(), answer };
                let outcome = match jobs.send(job).await {
                    Ok(()) => answered.await.map_or(Outcome::Lost, Outcome::Answered),
                    Err(_) => Outcome::NotTaken,
                };
                session.answered(outcome);
            }
            Step::Read => {
                send(&mut stream, &mut session).await?;
                tokio::select! {
                    _ = stop.wait_for(|stopping| *stopping) => return Ok(()),
                    read = read(&mut stream, &mut session.input, &mut read_bytes) => {
                        if read? == 0 {
                            return Ok(());
                        }
                    }
                }
            }
            Step::Close => {
                send(&mut stream, &mut session).await?;
                return stream.shutdown().await;
            }
        }
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), session: &mut Session) -> io::Result<()> {
    if !session.reply.is_empty() {
        stream.write_all(session.reply.bytes()).await?;
        session.reply.clear();
    }
    Ok(())
}

async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    read_bytes: &mut usize,
) -> io::Result<usize> {
    if input.is_empty() {
        *input = BytesMut::with_capacity(*read_bytes);
    } else {
        input.reserve(*read_bytes);
    }
    let count = stream.read_buf(input).await?;
    if count >= *read_bytes {
        *read_bytes = (*read_bytes * 2).min(READ_BYTES_MAX);
    } else if count < *read_bytes / 4 {
        *read_bytes = (*read_bytes / 2).max(READ_BYTES_MIN);
    }
    Ok(count)
}
