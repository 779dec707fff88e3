//! One HTTP request at a time over a connection of its own: enough for an API test, and no runtime.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// Sends a request. `None`: nobody answered.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    key: &str,
    body: Option<&Value>,
) -> Option<Response> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    if !key.is_empty() {
        head += &format!("authorization: Bearer {key}\r\n");
    }
    if !body.is_empty() {
        head += "content-type: application/json\r\n";
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    parse(&String::from_utf8(bytes).ok()?)
}

pub fn get(address: SocketAddr, path: &str) -> Option<Response> {
    request(address, "GET", path, "", None)
}

fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { dechunk(body)? } else { body.to_owned() };
    Some(Response { status, body })
}

fn dechunk(mut text: &str) -> Option<String> {
    let mut out = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(out);
        }
        out += rest.get(..size)?;
        text = rest.get(size + 2..)?;
    }
}

/// The value of a sample on a metrics page, summed over the shards. `labels` must stand in it.
pub fn metric(page: &str, name: &str, labels: &str) -> u64 {
    let is_it = |line: &&str| {
        let rest = line.strip_prefix(name).unwrap_or_default();
        (rest.starts_with('{') || rest.starts_with(' ')) && line.contains(labels)
    };
    page.lines()
        .filter(is_it)
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as u64
}

#[test]
fn chunks_and_samples_are_read() {
    let answer =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(parse(answer).map(|response| response.body).as_deref(), Some("abcde"));
    let page = "# HELP a b\na_total{shard=\"0\"} 2\na_total{shard=\"1\"} 3\na_totals 9\nb 7\n";
    assert_eq!(metric(page, "a_total", ""), 5);
    assert_eq!(metric(page, "a_total", "shard=\"1\""), 3);
    assert_eq!(metric(page, "b", ""), 7);
}
