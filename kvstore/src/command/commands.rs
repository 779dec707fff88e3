//! COMMAND: what this server says about its commands.

use bytes::Bytes;

use super::catalogue::{self, Begin, Facts, Find, KeySpec};
use super::error::CommandError;
use super::scan::glob;
use super::{Read, is_word, put_help, subcommand, table};
use crate::command::error::shown;
use crate::resp::reply::Reply;

type Outcome = Result<(), CommandError>;
type Run = fn(&Read<'_>, &mut Reply) -> Outcome;

const COMMANDS: &[(&str, i16, Run)] = &[
    ("command|count", 2, count),
    ("command|docs", -2, docs),
    ("command|getkeys", -3, getkeys),
    ("command|getkeysandflags", -3, getkeysandflags),
    ("command|help", 2, help),
    ("command|info", -2, info),
    ("command|list", -2, list),
];

pub fn command(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    if read.args.len() > 1 {
        return subcommand(read.args, COMMANDS)?(read, reply);
    }
    let all: Vec<&Facts> = offered().collect();
    reply.array(all.len());
    all.into_iter().for_each(|facts| put_facts(reply, facts));
    Ok(())
}

/// The commands that run here, without subcommands.
pub fn offered() -> impl Iterator<Item = &'static Facts> {
    catalogue::all().iter().filter(|facts| !facts.name.contains('|') && table::is_offered(facts))
}

fn subcommands(facts: &Facts) -> impl Iterator<Item = &'static Facts> {
    facts.subcommands().iter().filter(|facts| table::is_offered(facts))
}

/// A command or subcommand that runs here.
fn named(name: &[u8]) -> Option<&'static Facts> {
    catalogue::find(name).filter(|facts| table::is_offered(facts))
}

fn count(_: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.count(offered().count());
    Ok(())
}

fn info(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    if read.args.len() == 2 {
        let all: Vec<&Facts> = offered().collect();
        reply.array(all.len());
        all.into_iter().for_each(|facts| put_facts(reply, facts));
        return Ok(());
    }
    reply.array(read.args.len() - 2);
    for name in &read.args[2..] {
        match named(name) {
            Some(facts) => put_facts(reply, facts),
            None => reply.null(),
        }
    }
    Ok(())
}

fn put_facts(reply: &mut Reply, facts: &Facts) {
    reply.array(10);
    reply.bulk(facts.name.as_bytes());
    reply.integer(facts.arity.into());
    put_words(reply, &facts.flags);
    facts.first_last_step.iter().for_each(|place| reply.integer((*place).into()));
    reply.set(facts.categories.len());
    facts.categories.iter().for_each(|category| reply.simple(&format!("@{category}")));
    reply.set(facts.tips.len());
    facts.tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    reply.set(facts.key_specs.len());
    facts.key_specs.iter().for_each(|spec| put_key_spec(reply, spec));
    let subcommands: Vec<&Facts> = subcommands(facts).collect();
    match subcommands.len() {
        // So Redis writes that there are none.
        0 => reply.set(0),
        count => reply.array(count),
    }
    subcommands.into_iter().for_each(|facts| put_facts(reply, facts));
}

fn put_words(reply: &mut Reply, words: &[&str]) {
    reply.set(words.len());
    words.iter().for_each(|word| reply.simple(word));
}

fn put_key_spec(reply: &mut Reply, spec: &KeySpec) {
    reply.map(3);
    reply.bulk(b"flags");
    put_words(reply, &spec.flags);
    reply.bulk(b"begin_search");
    match spec.begin {
        Begin::Index(index) => put_search(reply, "index", &[("index", index as i64)]),
        Begin::Unknown => put_search(reply, "unknown", &[]),
        Begin::Keyword(word, from) => {
            put_type(reply, "keyword");
            reply.map(2);
            reply.bulk(b"keyword");
            reply.bulk(word.as_bytes());
            reply.bulk(b"startfrom");
            reply.integer(from as i64);
        }
    }
    reply.bulk(b"find_keys");
    match spec.find {
        Find::Unknown => put_search(reply, "unknown", &[]),
        Find::Range { last, step, limit } => {
            let (step, limit) = (step as i64, limit as i64);
            let fields = [("lastkey", last as i64), ("keystep", step), ("limit", limit)];
            put_search(reply, "range", &fields);
        }
        Find::Count { place, first, step } => {
            let (place, first) = (place as i64, first as i64);
            let fields = [("keynumidx", place), ("firstkey", first), ("keystep", step as i64)];
            put_search(reply, "keynum", &fields);
        }
    }
}

fn put_type(reply: &mut Reply, kind: &str) {
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
}

fn put_search(reply: &mut Reply, kind: &str, fields: &[(&str, i64)]) {
    put_type(reply, kind);
    reply.map(fields.len());
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.integer(*value);
    }
}

/// Since when there is a command, and its group. The prose of Redis's documentation is not repeated.
fn docs(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let wanted: Vec<&Facts> = match &read.args[2..] {
        [] => offered().collect(),
        names => names.iter().filter_map(|name| named(name)).collect(),
    };
    reply.map(wanted.len());
    wanted.into_iter().for_each(|facts| put_docs(reply, facts));
    Ok(())
}

fn put_docs(reply: &mut Reply, facts: &Facts) {
    let subcommands: Vec<&Facts> = subcommands(facts).collect();
    reply.bulk(facts.name.as_bytes());
    reply.map(2 + usize::from(!subcommands.is_empty()));
    for (name, value) in [("since", facts.since), ("group", facts.group)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    if !subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(subcommands.len());
        subcommands.into_iter().for_each(|facts| put_docs(reply, facts));
    }
}

fn list(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let wanted: Filter = match &read.args[2..] {
        [] => Box::new(|_| true),
        [word, kind, value] if is_word(word, "filterby") => filter(kind, value)?,
        _ => return Err(CommandError::Syntax),
    };
    let all = catalogue::all().iter().filter(|facts| table::is_offered(facts) && wanted(facts));
    let names: Vec<&str> = all.map(|facts| facts.name).collect();
    reply.array(names.len());
    names.into_iter().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(())
}

type Filter = Box<dyn Fn(&Facts) -> bool>;

fn filter(kind: &[u8], value: &Bytes) -> Result<Filter, CommandError> {
    let value = value.to_ascii_lowercase();
    if is_word(kind, "module") {
        Ok(Box::new(|_| false))
    } else if is_word(kind, "aclcat") {
        Ok(Box::new(move |facts| facts.categories.iter().any(|name| name.as_bytes() == value)))
    } else if is_word(kind, "pattern") {
        Ok(Box::new(move |facts| glob(&value, facts.name.as_bytes())))
    } else {
        Err(CommandError::Syntax)
    }
}

fn getkeys(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    put_keys(read, reply, false)
}

fn getkeysandflags(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    put_keys(read, reply, true)
}

fn put_keys(read: &Read<'_>, reply: &mut Reply, with_flags: bool) -> Outcome {
    let words = &read.args[2..];
    let facts = named(&words[0]).and_then(|facts| facts.of_words(words));
    let facts =
        facts.filter(|facts| table::is_offered(facts)).ok_or(CommandError::GetKeysUnknown)?;
    let has_keys = |spec: &KeySpec| !spec.flags.contains(&"not_key");
    if !facts.key_specs.iter().any(has_keys) {
        return Err(CommandError::GetKeysNone);
    }
    if !facts.accepts(words.len()) {
        return Err(CommandError::GetKeysArity);
    }
    let keys = facts.keys(words).map_err(|_| CommandError::GetKeysInvalid)?;
    if keys.is_empty() {
        return Err(if facts.has_flag("no_mandatory_keys") {
            CommandError::GetKeysNone
        } else {
            CommandError::GetKeysInvalid
        });
    }
    reply.array(keys.len());
    for key in keys {
        if with_flags {
            reply.array(2);
        }
        reply.bulk(&words[key.index]);
        if with_flags {
            put_words(reply, &flags_of(facts, words, key.spec));
        }
    }
    Ok(())
}

/// What a command does with a key; of SET it depends on GET.
pub fn flags_of(facts: &Facts, words: &[Bytes], spec: &KeySpec) -> Vec<&'static str> {
    if !spec.flags.contains(&"variable_flags") {
        return spec.flags.clone();
    }
    let reads = facts.name == "set" && words.iter().skip(3).any(|word| is_word(word, "get"));
    if reads { vec!["RW", "access", "update"] } else { vec!["OW", "update"] }
}

fn help(_: &Read<'_>, reply: &mut Reply) -> Outcome {
    put_help(
        reply,
        "COMMAND",
        &[
            "(no subcommand)",
            "    Details of all commands.",
            "COUNT",
            "    How many commands there are.",
            "DOCS [<name> ...]",
            "    Since when commands exist, and their groups.",
            "GETKEYS <command> [<arg> ...]",
            "    Which words of a command are keys.",
            "GETKEYSANDFLAGS <command> [<arg> ...]",
            "    The same, and what is done with them.",
            "INFO [<name> ...]",
            "    Details of some commands.",
            "LIST [FILTERBY <MODULE name|ACLCAT category|PATTERN pattern>]",
            "    The names of commands.",
        ],
    );
    Ok(())
}

/// Why these words are no command that runs here, as Redis says it.
pub fn check(words: &[Bytes]) -> Result<&'static Facts, CommandError> {
    let container = catalogue::find(&words[0]).filter(|facts| !facts.name.contains('|'));
    let container = container.ok_or(CommandError::GetKeysUnknown)?;
    let Some(facts) = container.of_words(words) else {
        let name = container.name.to_uppercase();
        return Err(CommandError::UnknownSubcommand(shown(&words[1]), name));
    };
    match facts.accepts(words.len()) {
        true => Ok(facts),
        false => Err(CommandError::Arguments(facts.name)),
    }
}
