//! The commands: one function each, from arguments to an answer.
//!
//! ```text
//! table      which function runs a command
//! catalogue  what is known of every command of Redis
//! left_out   which of them are not here, and why
//! wait       commands that wait until there is something to answer
//! error      what can be answered instead of a result
//! members    what hashes, sets and sorted sets have in common
//! random     numbers for the commands that choose
//! choice     the commands that choose
//! dump, restore  values in Redis's form
//! strings, lcs, hashes, sets, sorted_set/…, list/…, stream/…, keys, object, scan, expiry   data
//! basics, commands, config, info, slowlog, latency, memory, acl, namespace, checkpoint   the server itself
//! ```
//!
//! A read gets a [`View`](crate::store::view::View), a write the [`Overlay`] of its group. Neither knows about connections, the log or
//! other commands. **Invariant:** a write reads and checks everything before its first change, so a
//! command that answers an error has changed nothing.

pub mod acl;
pub mod basics;
pub mod catalogue;
pub mod checkpoint;
pub mod choice;
pub mod commands;
pub mod config;
pub mod dump;
pub mod error;
pub mod expiry;
pub mod hashes;
pub mod info;
pub mod keys;
pub mod latency;
pub mod lcs;
pub mod left_out;
pub mod list;
pub mod members;
pub mod memory;
pub mod namespace;
pub mod object;
pub mod random;
pub mod restore;
pub mod scan;
pub mod sets;
pub mod slowlog;
pub mod sorted_set;
pub mod stream;
pub mod strings;
pub mod table;
pub mod wait;

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use crate::command::error::{CommandError, shown};
use crate::command::wait::Patience;
use crate::resp;
use crate::resp::reply::Reply;
use crate::shared::Shared;
use crate::store::layout::{self, Family, Header, Kind};
use crate::store::overlay::Overlay;
use crate::store::view::View;

/// What a reading command works with.
pub struct Read<'a> {
    pub view: &'a dyn View,
    pub now_ms: u64,
    pub shared: &'a Shared,
    /// The command's name and arguments.
    pub args: &'a [Bytes],
}

/// What a writing command works with.
pub struct Write<'a, 'd> {
    pub overlay: &'a mut Overlay<'d>,
    pub now_ms: u64,
    pub shared: &'a Shared,
    pub args: &'a [Bytes],
    /// What a command does that finds nothing, if it may wait.
    pub patience: Patience<'a>,
}

/// The metadata of a key that exists now.
pub struct Live {
    pub header: Header,
    pub metadata: Vec<u8>,
}

impl Live {
    pub fn body(&self) -> &[u8] {
        Header::decode(&self.metadata).map_or(&[], |(_, body)| body)
    }

    /// The body of a value of the wanted kind.
    pub fn expect(&self, kind: Kind) -> Result<&[u8], CommandError> {
        if self.header.kind == kind { Ok(self.body()) } else { Err(CommandError::WrongType) }
    }
}

/// Looks a key up; an expired one does not exist.
pub fn find(view: &dyn View, now_ms: u64, key: &[u8]) -> Result<Option<Live>, CommandError> {
    let found = view.get(Family::Metadata, &layout::metadata_key(key))?;
    let Some(metadata) = found else { return Ok(None) };
    let (header, _) = Header::decode(&metadata)?;
    Ok((!header.is_expired(now_ms)).then_some(Live { header, metadata }))
}

impl Read<'_> {
    pub fn find(&self, key: &[u8]) -> Result<Option<Live>, CommandError> {
        self.counted(find(self.view, self.now_ms, key))
    }

    /// Counts whether a key was found, of another type or not.
    pub fn counted<T>(
        &self,
        found: Result<Option<T>, CommandError>,
    ) -> Result<Option<T>, CommandError> {
        let metrics = &self.shared.metrics;
        match &found {
            Ok(None) => _ = metrics.keyspace_misses.fetch_add(1, Relaxed),
            Ok(Some(_)) | Err(CommandError::WrongType) => {
                metrics.keyspace_hits.fetch_add(1, Relaxed);
            }
            Err(_) => {}
        }
        found
    }
}

impl Write<'_, '_> {
    pub fn find(&self, key: &[u8]) -> Result<Option<Live>, CommandError> {
        find(self.overlay, self.now_ms, key)
    }

    pub fn put_metadata(&mut self, key: &[u8], metadata: Vec<u8>) {
        self.overlay.put(Family::Metadata, layout::metadata_key(key), metadata);
    }

    /// Deletes a key; whether there was one.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, CommandError> {
        let found = self.find(key)?.is_some();
        if found {
            self.delete_metadata(key);
        }
        Ok(found)
    }

    pub fn delete_metadata(&mut self, key: &[u8]) {
        self.overlay.delete(Family::Metadata, layout::metadata_key(key));
    }
}

pub fn integer(text: &[u8]) -> Result<i64, CommandError> {
    resp::integer(text).ok_or(CommandError::NotInteger)
}

pub fn is_word(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}

/// The function of a subcommand; `all` has its full name, as in `xgroup|create`, and how many words it
/// has with both.
pub fn subcommand<F: Copy>(
    args: &[Bytes],
    all: &[(&'static str, i16, F)],
) -> Result<F, CommandError> {
    let named = |name: &str| {
        let (_, name) = name.split_once('|').expect("the name of a subcommand");
        is_word(&args[1], name)
    };
    match all.iter().find(|(name, _, _)| named(name)) {
        Some((_, arity, run)) if table::is_arity(*arity, args.len()) => Ok(*run),
        Some((name, _, _)) => Err(CommandError::Arguments(name)),
        None => {
            let container = shown(&args[0]).to_uppercase();
            Err(CommandError::UnknownSubcommand(shown(&args[1]), container))
        }
    }
}

/// The answer of a HELP subcommand.
pub fn put_help(reply: &mut Reply, container: &str, lines: &[&str]) {
    reply.array(lines.len() + 3);
    reply.simple(&format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    lines.iter().for_each(|line| reply.simple(line));
    reply.simple("HELP");
    reply.simple("    Print this help.");
}
