//! The commands that only look at their arguments.

use std::time::{SystemTime, UNIX_EPOCH};

use super::error::CommandError;
use super::{Read, integer, is_word};
use crate::resp::reply::Reply;
use crate::store::spaces::DATABASES;

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

/// Checks the number; the session does the rest.
pub fn select(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    database(&read.args[1])?;
    reply.ok();
    Ok(())
}

/// The number of a database.
pub fn database(text: &[u8]) -> Result<u8, CommandError> {
    let number = u8::try_from(integer(text)?).ok();
    number.filter(|number| *number < DATABASES).ok_or(CommandError::DatabaseOutOfRange)
}

/// There are no functions, so there are none to list and all are gone when they have been flushed.
pub fn function(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    match read.args {
        [_, what] if is_word(what, "flush") => reply.ok(),
        [_, what, how]
            if is_word(what, "flush") && (is_word(how, "sync") || is_word(how, "async")) =>
        {
            reply.ok();
        }
        [_, what] if is_word(what, "list") => reply.array(0),
        _ => return Err(CommandError::Syntax),
    }
    Ok(())
}

/// Seconds and microseconds.
pub fn time(_: &Read<'_>, reply: &mut Reply) -> Outcome {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    reply.array(2);
    reply.bulk(since.as_secs().to_string().as_bytes());
    reply.bulk(since.subsec_micros().to_string().as_bytes());
    Ok(())
}

/// A master without replicas, as Redis's protocol knows them.
pub fn role(_: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.array(3);
    reply.bulk(b"master");
    reply.integer(0);
    reply.array(0);
    Ok(())
}
