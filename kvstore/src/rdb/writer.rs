//! Values and files, as Redis 7.0 reads them (version 10), each type in its plainest encoding.
//!
//! A value is appended to a buffer by its parts: its type, how many there are, then each. A stream needs
//! nodes, which [`Entries`] makes.

use std::io::{self, Write};

use super::packed::backwards;
use super::stream::{ENTRY_SAME_FIELDS, Entry, Facts};
use super::{VERSION, crc64, types};
use crate::resp;
use crate::store::layout::StreamId;

pub fn put_length(out: &mut Vec<u8>, length: u64) {
    match length {
        0..64 => out.push(length as u8),
        64..16_384 => out.extend_from_slice(&(length as u16 | 0x4000).to_be_bytes()),
        16_384..=0xffff_ffff => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

/// Texts of small integers take as many bytes as the integer.
pub fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    const INT32_TEXT_BYTES_MAX: usize = 11;
    let number = if text.len() <= INT32_TEXT_BYTES_MAX { resp::integer(text) } else { None };
    let number = number.and_then(|number| i32::try_from(number).ok());
    match number {
        Some(number) if i8::try_from(number).is_ok() => {
            out.extend_from_slice(&[0xc0, number as u8]);
        }
        Some(number) if i16::try_from(number).is_ok() => {
            out.push(0xc1);
            out.extend_from_slice(&(number as i16).to_le_bytes());
        }
        Some(number) => {
            out.push(0xc2);
            out.extend_from_slice(&number.to_le_bytes());
        }
        None => {
            put_length(out, text.len() as u64);
            out.extend_from_slice(text);
        }
    }
}

pub fn put_score(out: &mut Vec<u8>, score: f64) {
    out.extend_from_slice(&score.to_le_bytes());
}

pub fn put_milliseconds(out: &mut Vec<u8>, ms: u64) {
    out.extend_from_slice(&ms.to_le_bytes());
}

pub fn put_id(out: &mut Vec<u8>, id: StreamId) {
    put_length(out, id.ms);
    put_length(out, id.seq);
}

/// The entries of a stream, packed into nodes.
#[derive(Default)]
pub struct Entries {
    nodes: u64,
    packed: Vec<u8>,
    node: Option<Node>,
    /// Of the oldest entry.
    first: Option<StreamId>,
}

/// As many as Redis puts into one with its settings as they come.
const NODE_ENTRIES_MAX: i64 = 100;
const NODE_BYTES_MAX: usize = 4096;

struct Node {
    first: StreamId,
    names: Vec<Vec<u8>>,
    entries: i64,
    body: Listpack,
}

impl Entries {
    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.packed.len() + self.node.as_ref().map_or(0, |node| node.body.bytes.len())
    }

    /// Adds the next newer entry.
    pub fn add(&mut self, id: StreamId, fields: &[impl AsRef<[u8]>]) {
        self.first.get_or_insert(id);
        let is_full = |node: &Node| {
            node.entries >= NODE_ENTRIES_MAX || node.body.bytes.len() >= NODE_BYTES_MAX
        };
        if self.node.as_ref().is_some_and(is_full) {
            self.end_node();
        }
        let node = self.node.get_or_insert_with(|| Node {
            first: id,
            names: fields.iter().step_by(2).map(|name| name.as_ref().to_vec()).collect(),
            entries: 0,
            body: Listpack::default(),
        });
        let names = fields.iter().step_by(2).map(AsRef::as_ref);
        let is_same = names.eq(node.names.iter().map(Vec::as_slice));
        let pairs = fields.len() as i64 / 2;
        let body = &mut node.body;
        body.put_integer(if is_same { ENTRY_SAME_FIELDS } else { 0 });
        body.put_integer(id.ms.wrapping_sub(node.first.ms) as i64);
        body.put_integer(id.seq.wrapping_sub(node.first.seq) as i64);
        if is_same {
            fields.iter().skip(1).step_by(2).for_each(|value| body.put_text(value.as_ref()));
            body.put_integer(pairs + 3);
        } else {
            body.put_integer(pairs);
            fields.iter().for_each(|field| body.put_text(field.as_ref()));
            body.put_integer(2 * pairs + 4);
        }
        node.entries += 1;
    }

    fn end_node(&mut self) {
        let Some(node) = self.node.take() else { return };
        let mut head = Listpack::default();
        head.put_integer(node.entries);
        head.put_integer(0);
        head.put_integer(node.names.len() as i64);
        node.names.iter().for_each(|name| head.put_text(name));
        head.put_integer(0);
        let bytes = 6 + head.bytes.len() + node.body.bytes.len() + 1;
        let elements = u16::try_from(head.elements + node.body.elements).unwrap_or(u16::MAX);
        put_length(&mut self.packed, 16);
        self.packed.extend_from_slice(&node.first.to_bytes());
        put_length(&mut self.packed, bytes as u64);
        let bytes = u32::try_from(bytes).expect("entries are bounded");
        self.packed.extend_from_slice(&bytes.to_le_bytes());
        self.packed.extend_from_slice(&elements.to_le_bytes());
        self.packed.extend_from_slice(&head.bytes);
        self.packed.extend_from_slice(&node.body.bytes);
        self.packed.push(0xff);
        self.nodes += 1;
    }

    /// Appends the type, the nodes and the facts; the number of groups and the groups come next.
    pub fn put(mut self, out: &mut Vec<u8>, facts: &Facts) {
        self.end_node();
        out.push(types::STREAM_2);
        put_length(out, self.nodes);
        out.extend_from_slice(&self.packed);
        put_length(out, facts.length);
        put_id(out, facts.last);
        put_id(out, self.first.unwrap_or(StreamId::MIN));
        put_id(out, facts.max_deleted);
        put_length(out, facts.added);
    }

    pub fn add_entry(&mut self, entry: &Entry) {
        self.add(entry.id, &entry.fields);
    }
}

/// Elements of a listpack, without its head and end.
#[derive(Default)]
struct Listpack {
    bytes: Vec<u8>,
    elements: usize,
}

impl Listpack {
    fn put_integer(&mut self, number: i64) {
        let start = self.bytes.len();
        let bytes = number.to_le_bytes();
        match number {
            0..=127 => self.bytes.push(number as u8),
            -4096..=4095 => {
                let bits = number as u16 & 0x1fff | 0xc000;
                self.bytes.extend_from_slice(&bits.to_be_bytes());
            }
            -0x8000..=0x7fff => self.put_parts(&[0xf1], &bytes[..2]),
            -0x80_0000..=0x7f_ffff => self.put_parts(&[0xf2], &bytes[..3]),
            -0x8000_0000..=0x7fff_ffff => self.put_parts(&[0xf3], &bytes[..4]),
            _ => self.put_parts(&[0xf4], &bytes),
        }
        self.end(start);
    }

    fn put_text(&mut self, text: &[u8]) {
        if let Some(number) = resp::integer(text) {
            return self.put_integer(number);
        }
        let start = self.bytes.len();
        match text.len() {
            bytes @ 0..64 => self.put_parts(&[0x80 | bytes as u8], text),
            bytes @ 64..4096 => self.put_parts(&(0xe000 | bytes as u16).to_be_bytes(), text),
            bytes => {
                self.bytes.push(0xf0);
                let bytes = u32::try_from(bytes).expect("texts are bounded");
                self.put_parts(&bytes.to_le_bytes(), text);
            }
        }
        self.end(start);
    }

    fn put_parts(&mut self, head: &[u8], rest: &[u8]) {
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(rest);
    }

    fn end(&mut self, start: usize) {
        let (size, width) = backwards(self.bytes.len() - start);
        self.bytes.extend_from_slice(&size[..width]);
        self.elements += 1;
    }
}

/// A file that is being written. [`finish`](FileWriter::finish) makes it one.
pub struct FileWriter<W> {
    output: W,
    crc: u64,
    bytes: u64,
    /// What is put together before it is written.
    buffer: Vec<u8>,
}

const AUX: u8 = 250;
const SIZES: u8 = 251;
const EXPIRES_MS: u8 = 252;
const DATABASE: u8 = 254;
const END: u8 = 255;

impl<W: Write> FileWriter<W> {
    pub fn begin(output: W) -> io::Result<FileWriter<W>> {
        let mut file = FileWriter { output, crc: 0, bytes: 0, buffer: Vec::new() };
        file.buffer.extend_from_slice(format!("REDIS{VERSION:04}").as_bytes());
        file.flush_buffer()?;
        Ok(file)
    }

    fn flush_buffer(&mut self) -> io::Result<()> {
        self.crc = crc64::update(self.crc, &self.buffer);
        self.bytes += self.buffer.len() as u64;
        self.output.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Bytes of the file so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A fact about the file. Redis reads over those that it does not know.
    pub fn aux(&mut self, name: &str, value: &str) -> io::Result<()> {
        self.buffer.push(AUX);
        put_string(&mut self.buffer, name.as_bytes());
        put_string(&mut self.buffer, value.as_bytes());
        self.flush_buffer()
    }

    /// The keys that follow are of this database, which has about so many.
    pub fn database(&mut self, number: u64, keys: u64) -> io::Result<()> {
        self.buffer.push(DATABASE);
        put_length(&mut self.buffer, number);
        self.buffer.push(SIZES);
        put_length(&mut self.buffer, keys);
        put_length(&mut self.buffer, 0);
        self.flush_buffer()
    }

    /// A key; `value` starts with its type, as in a payload of DUMP.
    pub fn key(&mut self, key: &[u8], expires_at_ms: Option<u64>, value: &[u8]) -> io::Result<()> {
        if let Some(at_ms) = expires_at_ms {
            self.buffer.push(EXPIRES_MS);
            put_milliseconds(&mut self.buffer, at_ms);
        }
        let (type_code, rest) = value.split_at(1);
        self.buffer.extend_from_slice(type_code);
        put_length(&mut self.buffer, key.len() as u64);
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(rest);
        self.flush_buffer()
    }

    pub fn finish(mut self) -> io::Result<W> {
        self.buffer.push(END);
        self.flush_buffer()?;
        self.output.write_all(&self.crc.to_le_bytes())?;
        self.output.flush()?;
        Ok(self.output)
    }
}
