//! `/metrics` (Prometheus text) and `/health` over the smallest HTTP there is: one request, one
//! answer, closed. For operators on a private address; it has no authentication and changes nothing.
//! `/health` answers 503 and why while writes are refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::prometheus;
use crate::shared::Shared;

const REQUEST_BYTES_MAX: usize = 4096;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// One request at a time: an operator's scraper needs no more, and it bounds what it can cost.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            _ = tokio::time::timeout(REQUEST_TIMEOUT, answer(stream, &shared)).await;
        }
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let path = request.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let (status, body) = match path {
        b"/metrics" => ("200 OK", prometheus::text(shared)),
        b"/health" => health(shared),
        _ => ("404 Not Found", "try /metrics or /health\n".to_string()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Writes that are refused, for now or for good, are a bad health and not the end of the process:
/// reads still work, and a restart on a disk that fails is for a person, or the supervisor they set up, to decide.
pub fn health(shared: &Shared) -> (&'static str, String) {
    match shared.trouble() {
        None => ("200 OK", "ok\n".to_string()),
        Some(why) => ("503 Service Unavailable", format!("{why}\n")),
    }
}
