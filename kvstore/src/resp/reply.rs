//! From answers to bytes, in either version of the protocol.

use super::double;

/// The protocol version a connection speaks; `HELLO 3` changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

/// Answers, appended one after the other.
#[derive(Debug, Default)]
pub struct Reply {
    bytes: Vec<u8>,
    protocol: Protocol,
    /// How long it may get, if that is limited.
    bytes_max: Option<usize>,
    is_overfull: bool,
}

/// Bytes of a bulk string besides its value, at most.
const BULK_BYTES_AROUND: usize = 24;

/// Where an array starts whose length is not known yet.
#[derive(Clone, Copy)]
pub struct OpenArray(usize);

impl Reply {
    pub fn new(protocol: Protocol) -> Reply {
        Reply { protocol, ..Reply::default() }
    }

    /// One that keeps no more than so many bytes.
    pub fn bounded(protocol: Protocol, bytes_max: usize) -> Reply {
        Reply { protocol, bytes_max: Some(bytes_max), ..Reply::default() }
    }

    /// Whether something was left out because it did not fit. What there is makes no sense then.
    pub fn is_overfull(&self) -> bool {
        self.is_overfull
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        let has_room =
            self.bytes_max.is_none_or(|max| bytes <= max.saturating_sub(self.bytes.len()));
        self.is_overfull |= !has_room;
        has_room
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    pub fn truncate(&mut self, bytes: usize) {
        self.bytes.truncate(bytes);
    }

    pub fn append(&mut self, answered: &[u8]) {
        if self.has_room(answered.len()) {
            self.bytes.extend_from_slice(answered);
        }
    }

    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub fn ok(&mut self) {
        self.simple("OK");
    }

    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// `text` starts with the error's code, as in `ERR syntax error`.
    pub fn error(&mut self, text: &str) {
        // A line break would end the answer early.
        let line: Vec<u8> = text
            .bytes()
            .map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte })
            .collect();
        self.line(b'-', &line);
    }

    pub fn integer(&mut self, value: i64) {
        self.number_line(b':', value);
    }

    pub fn count(&mut self, value: usize) {
        self.integer(value as i64);
    }

    pub fn bulk(&mut self, value: &[u8]) {
        if !self.has_room(value.len() + BULK_BYTES_AROUND) {
            return;
        }
        self.number_line(b'$', value.len() as i64);
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Text for people, which the new protocol marks as such.
    pub fn verbatim(&mut self, text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                self.number_line(b'=', text.len() as i64 + 4);
                self.line(b't', &[b"xt:", text].concat());
            }
        }
    }

    /// Starts a message that is no answer; in the old protocol it looks like one.
    pub fn push(&mut self, items: usize) {
        match self.protocol {
            Protocol::Resp2 => self.array(items),
            Protocol::Resp3 => self.number_line(b'>', items as i64),
        }
    }

    pub fn optional_bulk(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.bulk(value),
            None => self.null(),
        }
    }

    pub fn null(&mut self) {
        self.bytes.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// In the old protocol a missing array looks different from a missing value.
    pub fn null_array(&mut self) {
        self.bytes.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    pub fn array(&mut self, items: usize) {
        self.number_line(b'*', items as i64);
    }

    pub fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.number_line(b'*', 2 * pairs as i64),
            Protocol::Resp3 => self.number_line(b'%', pairs as i64),
        }
    }

    pub fn set(&mut self, members: usize) {
        match self.protocol {
            Protocol::Resp2 => self.number_line(b'*', members as i64),
            Protocol::Resp3 => self.number_line(b'~', members as i64),
        }
    }

    /// A floating-point number.
    pub fn double(&mut self, value: f64) {
        let text = double::text(value);
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => self.line(b',', text.as_bytes()),
        }
    }

    /// Starts an array; [`close_array`](Reply::close_array) says how long it became.
    pub fn open_array(&mut self) -> OpenArray {
        OpenArray(self.bytes.len())
    }

    pub fn close_array(&mut self, open: OpenArray, items: usize) {
        let mut header = Reply::new(self.protocol);
        header.array(items);
        self.bytes.splice(open.0..open.0, header.bytes);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        if !self.has_room(text.len() + 3) {
            return;
        }
        self.bytes.push(kind);
        self.bytes.extend_from_slice(text);
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn number_line(&mut self, kind: u8, value: i64) {
        if !self.has_room(BULK_BYTES_AROUND) {
            return;
        }
        self.bytes.push(kind);
        super::put_integer(&mut self.bytes, value);
        self.bytes.extend_from_slice(b"\r\n");
    }
}
