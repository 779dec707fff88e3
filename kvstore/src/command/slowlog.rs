//! SLOWLOG: commands that took long.

use super::error::{CommandError, shown};
use super::{Read, put_help, subcommand};
use crate::resp;
use crate::resp::reply::Reply;

type Outcome = Result<(), CommandError>;
type Run = fn(&Read<'_>, &mut Reply) -> Outcome;

const COMMANDS: &[(&str, i16, Run)] = &[
    ("slowlog|get", -2, get),
    ("slowlog|help", 2, help),
    ("slowlog|len", 2, len),
    ("slowlog|reset", 2, reset),
];

const COUNT_DEFAULT: i64 = 10;

pub fn slowlog(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    subcommand(read.args, COMMANDS)?(read, reply)
}

fn get(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let count = match &read.args[2..] {
        [] => COUNT_DEFAULT,
        [count] => {
            let count = resp::integer(count).filter(|count| *count >= -1);
            count.ok_or(CommandError::SlowlogCount)?
        }
        _ => return Err(CommandError::SubcommandSyntax(shown(&read.args[1]), "SLOWLOG")),
    };
    let newest = read.shared.slowlog.newest(usize::try_from(count).unwrap_or(usize::MAX));
    reply.array(newest.len());
    for entry in newest {
        reply.array(6);
        for number in [entry.id, entry.at_s, entry.micros] {
            reply.integer(number as i64);
        }
        reply.array(entry.words.len());
        entry.words.iter().for_each(|word| reply.bulk(word));
        reply.bulk(entry.client.as_bytes());
        reply.bulk(&entry.client_name);
    }
    Ok(())
}

fn len(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.count(read.shared.slowlog.len());
    Ok(())
}

fn reset(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    read.shared.slowlog.clear();
    reply.ok();
    Ok(())
}

fn help(_: &Read<'_>, reply: &mut Reply) -> Outcome {
    put_help(
        reply,
        "SLOWLOG",
        &[
            "GET [<count>]",
            "    The newest entries; 10, or all with -1. Each is an id, the time, microseconds,",
            "    the words, the client's address and its name.",
            "LEN",
            "    How many entries there are.",
            "RESET",
            "    Forget them.",
        ],
    );
    Ok(())
}
