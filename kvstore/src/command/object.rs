//! OBJECT: what is asked about how a value is kept. Everything is kept in RocksDB here; the answers are
//! what Redis would say of a value like it, with its settings as they come.

use super::error::CommandError;
use super::members::Members;
use super::{Live, Read, is_word};
use crate::resp::reply::Reply;
use crate::resp::{self};
use crate::store::layout::Kind;

type Outcome = Result<(), CommandError>;

/// Where Redis changes from one encoding to the next.
const EMBEDDED_BYTES_MAX: usize = 44;
const LISTPACK_FIELDS_MAX: u64 = 512;
const LISTPACK_SCORED_MAX: u64 = 128;
const LISTPACK_BYTES_MAX: usize = 64;
const INTSET_MEMBERS_MAX: u64 = 512;

const HELP: [&str; 13] = [
    "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "ENCODING <key>",
    "    Return the kind of internal representation used in order to store the value",
    "    associated with a <key>.",
    "FREQ <key>",
    "    Return the access frequency index of the <key>. It is not tracked here.",
    "IDLETIME <key>",
    "    Return the idle time of the <key>. It is not tracked here, and always 0.",
    "REFCOUNT <key>",
    "    Return the number of references of the value associated with the specified",
    "    <key>. It is always 1.",
    "HELP",
    "    Print this help.",
];

pub fn object(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let word = &read.args[1];
    let known = ["encoding", "freq", "idletime", "refcount"];
    if is_word(word, "help") && read.args.len() == 2 {
        reply.array(HELP.len());
        HELP.iter().for_each(|line| reply.simple(line));
        return Ok(());
    }
    let Some(known) = known.into_iter().find(|known| is_word(word, known)) else {
        let word = String::from_utf8_lossy(word);
        reply.error(&format!("ERR unknown subcommand '{word:.128}'. Try OBJECT HELP."));
        return Ok(());
    };
    if read.args.len() != 3 {
        reply.error(&format!("ERR wrong number of arguments for 'object|{known}' command"));
        return Ok(());
    }
    let Some(live) = read.find(&read.args[2])? else {
        reply.null();
        return Ok(());
    };
    match known {
        "encoding" => reply.bulk(encoding(read, &live)?.as_bytes()),
        "refcount" => reply.integer(1),
        "idletime" => reply.integer(0),
        _ => return Err(CommandError::FrequencyNotTracked),
    }
    Ok(())
}

fn encoding(read: &Read<'_>, live: &Live) -> Result<&'static str, CommandError> {
    let kind = live.header.kind;
    let find = || Members::find(read.view, read.now_ms, &read.args[2], kind);
    Ok(match kind {
        Kind::String => match live.body() {
            value if resp::integer(value).is_some() => "int",
            value if value.len() <= EMBEDDED_BYTES_MAX => "embstr",
            _ => "raw",
        },
        Kind::Hash | Kind::SortedSet => {
            let is_small = |member: &[u8], value: &[u8]| {
                let value = if kind == Kind::Hash { value } else { &[] };
                member.len().max(value.len()) <= LISTPACK_BYTES_MAX
            };
            let members_max =
                if kind == Kind::Hash { LISTPACK_FIELDS_MAX } else { LISTPACK_SCORED_MAX };
            match all(read, find()?, members_max, &is_small)? {
                true => "listpack",
                false if kind == Kind::Hash => "hashtable",
                false => "skiplist",
            }
        }
        Kind::Set => {
            let is_integer = |member: &[u8], _: &[u8]| resp::integer(member).is_some();
            if all(read, find()?, INTSET_MEMBERS_MAX, &is_integer)? {
                "intset"
            } else {
                "hashtable"
            }
        }
        Kind::List => "quicklist",
        Kind::Stream => "stream",
    })
}

/// Whether there are few members, and all of them are such.
fn all(
    read: &Read<'_>,
    members: Option<Members<'_>>,
    members_max: u64,
    is_such: &dyn Fn(&[u8], &[u8]) -> bool,
) -> Result<bool, CommandError> {
    let Some(members) = members.filter(|members| members.count <= members_max) else {
        return Ok(false);
    };
    let mut found = true;
    members.each(read.view, |member, value| found &= is_such(member, value))?;
    Ok(found)
}
