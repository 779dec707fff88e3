//! XGROUP: making, moving and deleting consumer groups and their consumers.

use super::group::{Change, find_group};
use super::{find_stream, id};
use crate::command::error::{CommandError, shown};
use crate::command::{Write, integer, is_word, put_help, subcommand};
use crate::resp::reply::Reply;
use crate::store::layout::{self, Family, Group, Stream};

type Outcome = Result<(), CommandError>;
type Run = fn(&mut Write<'_, '_>, &mut Reply) -> Outcome;

const COMMANDS: &[(&str, i16, Run)] = &[
    ("xgroup|create", -5, create),
    ("xgroup|createconsumer", 5, create_consumer),
    ("xgroup|delconsumer", 5, delete_consumer),
    ("xgroup|destroy", 4, destroy),
    ("xgroup|help", 2, help),
    ("xgroup|setid", -5, set_id),
];

pub fn xgroup(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    subcommand(write.args, COMMANDS)?(write, reply)
}

#[derive(Default)]
struct Options {
    make_stream: bool,
    entries_read: Option<u64>,
}

impl Options {
    fn parse(write: &Write<'_, '_>, is_create: bool) -> Result<Options, CommandError> {
        let mut found = Options::default();
        let mut rest = write.args[5..].iter();
        while let Some(word) = rest.next() {
            if is_create && is_word(word, "mkstream") {
                found.make_stream = true;
                continue;
            }
            let value = rest.next().filter(|_| is_word(word, "entriesread"));
            let Some(value) = value else { return Err(syntax(write)) };
            found.entries_read = match integer(value)? {
                -1 => None,
                read => Some(u64::try_from(read).map_err(|_| CommandError::EntriesReadNegative)?),
            };
        }
        Ok(found)
    }
}

fn syntax(write: &Write<'_, '_>) -> CommandError {
    CommandError::SubcommandSyntax(shown(&write.args[1]), "XGROUP")
}

fn no_group(write: &Write<'_, '_>) -> CommandError {
    CommandError::NoGroupOfKey(shown(&write.args[3]), shown(&write.args[2]))
}

fn create(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let options = Options::parse(write, true)?;
    let args = write.args;
    let (key, name) = (&args[2], &args[3]);
    let (mut stream, expires_at_ms) = match find_stream(write.overlay, write.now_ms, key)? {
        Some(found) => found,
        None if options.make_stream => {
            (Stream { version: write.overlay.next_version(), ..Stream::default() }, 0)
        }
        None => return Err(CommandError::NoStreamForGroup),
    };
    let last = match &args[4][..] {
        b"$" => stream.last,
        text => id::parse(text, 0)?,
    };
    if find_group(write.overlay, key, &stream, name)?.is_some() {
        return Err(CommandError::GroupExists);
    }
    let number = write.overlay.next_version();
    let entries_read = options.entries_read;
    let group = Group { number, last, entries_read, pending: 0, consumers: 0 };
    let row = layout::member_key(key, stream.version, &layout::group_name(name));
    write.overlay.put(Family::Member, row, group.encode());
    stream.groups += 1;
    write.put_metadata(key, stream.encode(expires_at_ms));
    reply.ok();
    Ok(())
}

/// The group that a subcommand needs.
fn change<'w, 'a, 'd>(write: &'w mut Write<'a, 'd>) -> Result<Change<'w, 'a, 'd>, CommandError> {
    let args = write.args;
    let missing = no_group(write);
    if find_stream(write.overlay, write.now_ms, &args[2])?.is_none() {
        return Err(CommandError::NoStreamForGroup);
    }
    Change::of(write, &args[2], &args[3])?.ok_or(missing)
}

fn set_id(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let options = Options::parse(write, false)?;
    let text = &write.args[4];
    let mut change = change(write)?;
    change.group.last = match &text[..] {
        b"$" => change.stream.last,
        text => id::parse_bound(text, 0)?,
    };
    change.group.entries_read = options.entries_read;
    change.finish();
    reply.ok();
    Ok(())
}

fn destroy(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    if find_stream(write.overlay, write.now_ms, &args[2])?.is_none() {
        return Err(CommandError::NoStreamForGroup);
    }
    let found = Change::of(write, &args[2], &args[3])?;
    reply.integer(found.is_some().into());
    found.map_or(Ok(()), Change::destroy)
}

fn create_consumer(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let name = &write.args[4];
    let mut change = change(write)?;
    let is_new = !change.has_consumer(name)?;
    if is_new {
        change.see_consumer(name)?;
        change.finish();
    }
    reply.integer(is_new.into());
    Ok(())
}

fn delete_consumer(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let name = &write.args[4];
    let mut change = change(write)?;
    if !change.has_consumer(name)? {
        reply.integer(0);
        return Ok(());
    }
    let pending = change.remove_consumer(name)?;
    change.finish();
    reply.integer(pending as i64);
    Ok(())
}

fn help(_: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    put_help(
        reply,
        "XGROUP",
        &[
            "CREATE <key> <group> <id|$> [MKSTREAM] [ENTRIESREAD <count>]",
            "    Make a group that starts after the id; $ is the newest entry.",
            "CREATECONSUMER <key> <group> <consumer>",
            "    Make a consumer.",
            "DELCONSUMER <key> <group> <consumer>",
            "    Delete a consumer and what is pending for it.",
            "DESTROY <key> <group>",
            "    Delete a group.",
            "SETID <key> <group> <id|$> [ENTRIESREAD <count>]",
            "    Let the group go on after another id.",
        ],
    );
    Ok(())
}
