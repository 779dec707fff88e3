//! What the server says about itself: INFO, COMMAND, and the commands that only look at their
//! arguments.

use super::error::CommandError;
use super::table::{self, Access};
use super::{Read, is_word};
use crate::resp::reply::Reply;

type Outcome = Result<(), CommandError>;

pub fn ping(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    match read.args {
        [_] => reply.simple("PONG"),
        [_, message] => reply.bulk(message),
        _ => return Err(CommandError::Arguments("ping")),
    }
    Ok(())
}

pub fn echo(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.bulk(&read.args[1]);
    Ok(())
}

/// There is one database.
pub fn select(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    match super::integer(&read.args[1])? {
        0 => reply.ok(),
        _ => return Err(CommandError::DatabaseOutOfRange),
    }
    Ok(())
}

pub fn info(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let sections = read.shared.info();
    let wanted = |name: &str| {
        let all = ["all", "everything", "default"];
        read.args.len() == 1
            || read.args[1..]
                .iter()
                .any(|arg| is_word(arg, name) || all.iter().any(|all| is_word(arg, all)))
    };
    let mut text = String::new();
    for (name, facts) in sections {
        if wanted(name) {
            text.push_str(&format!("# {name}\r\n"));
            for (fact, value) in facts {
                text.push_str(&format!("{fact}:{value}\r\n"));
            }
            text.push_str("\r\n");
        }
    }
    reply.bulk(text.as_bytes());
    Ok(())
}

pub fn command(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    match read.args {
        [_] => {
            reply.array(table::COMMANDS.len());
            table::COMMANDS.iter().for_each(|command| put_command(reply, Some(command)));
        }
        [_, what] if is_word(what, "count") => reply.count(table::COMMANDS.len()),
        [_, what] if is_word(what, "list") => {
            reply.array(table::COMMANDS.len());
            table::COMMANDS.iter().for_each(|command| reply.bulk(command.name.as_bytes()));
        }
        [_, what, names @ ..] if is_word(what, "info") => {
            reply.array(names.len());
            names.iter().for_each(|name| put_command(reply, table::find(name)));
        }
        [_, what, ..] if is_word(what, "docs") => reply.map(0),
        _ => return Err(CommandError::Syntax),
    }
    Ok(())
}

/// There are no functions, so there are none to list and all are gone when they have been flushed.
pub fn function(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    match read.args {
        [_, what, ..] if is_word(what, "flush") && read.args.len() <= 3 => reply.ok(),
        [_, what] if is_word(what, "list") => reply.array(0),
        _ => reply.error("ERR Lua functions are not supported"),
    }
    Ok(())
}

fn put_command(reply: &mut Reply, command: Option<&table::Command>) {
    let Some(command) = command else { return reply.null_array() };
    let (first, last, step) = command.keys;
    reply.array(6);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity.into());
    reply.array(1);
    reply.simple(match command.access {
        Access::Write(_) | Access::Waiting(_) => "write",
        Access::Point(_) | Access::Scan(_) => "readonly",
        Access::Session(_) => "fast",
    });
    [first, last, step].into_iter().for_each(|place| reply.integer(place.into()));
}
