//! NAMESPACE: separate sets of databases, each opened by a token of its own. Redis has no such command.
//!
//! A connection is in the namespace whose token it gave with AUTH, and sees nothing of the others. Only
//! those in the first namespace, which has no token but the default user's password, may run this.
//! Tokens are kept as their SHA-256, in the data, so that they survive with what they open. Numbers of
//! namespaces are never used again.

use bytes::Bytes;

use super::error::{CommandError, shown};
use super::{Write, is_word, put_help};
use crate::config::Durability;
use crate::resp::reply::Reply;
use crate::store::spaces::{NAMESPACES_MAX, Namespace};
use crate::store::view::View;
use crate::users::user::{hash_of, is_name};

type Outcome = Result<(), CommandError>;

const TOKEN_BYTES_MAX: usize = 512;

pub fn namespace(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    if write.overlay.selected().namespace != 0 {
        return Err(CommandError::DeniedCommand("namespace"));
    }
    match &write.args[1..] {
        [what, name, token] if is_word(what, "add") => add(write, reply, name, token),
        [what, name, token] if is_word(what, "set") => set(write, reply, name, token),
        [what, name] if is_word(what, "del") => del(write, reply, name),
        [what, name] if is_word(what, "durability") => durability(write, reply, name),
        [what, name, wanted] if is_word(what, "durability") => {
            set_durability(write, reply, name, wanted)
        }
        [what] if is_word(what, "list") => list(write, reply),
        [what] if is_word(what, "help") => help(reply),
        [what, ..] => Err(CommandError::SubcommandSyntax(shown(what), "NAMESPACE")),
        [] => Err(CommandError::Arguments("namespace")),
    }
}

fn check(write: &Write<'_, '_>, token: &[u8]) -> Result<String, CommandError> {
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        return Err(CommandError::Namespace("a token has 1 to 512 bytes"));
    }
    let hash = hash_of(token);
    let all = write.overlay.namespaces()?;
    let is_taken = all.values().any(|namespace| namespace.token == hash);
    let is_default = write.shared.users.default_user().is_password(token);
    if is_taken || is_default && !write.shared.users.default_user().needs_no_password {
        return Err(CommandError::Namespace("this token opens a namespace already"));
    }
    Ok(hash)
}

fn add(write: &mut Write<'_, '_>, reply: &mut Reply, name: &Bytes, token: &[u8]) -> Outcome {
    let Some(name) = is_name(name) else {
        return Err(CommandError::Namespace("a name has letters, digits, - and _ only"));
    };
    let token = check(write, token)?;
    if write.overlay.namespaces()?.contains_key(name) {
        return Err(CommandError::Namespace("there is such a namespace already"));
    }
    let number = write.overlay.last_namespace()? + 1;
    if number >= NAMESPACES_MAX {
        return Err(CommandError::Namespace("there have been 65,535 namespaces, and are no more"));
    }
    write.overlay.put_last_namespace(number);
    write.overlay.put_namespace(name, &Namespace { number, token, durability: None });
    reply.ok();
    Ok(())
}

fn find(write: &Write<'_, '_>, name: &[u8]) -> Result<(String, Namespace), CommandError> {
    let missing = CommandError::Namespace("there is no such namespace");
    let name = is_name(name).ok_or_else(|| missing.clone())?;
    let found = write.overlay.namespaces()?.remove(name).ok_or(missing)?;
    Ok((name.to_string(), found))
}

fn set(write: &mut Write<'_, '_>, reply: &mut Reply, name: &[u8], token: &[u8]) -> Outcome {
    let (name, namespace) = find(write, name)?;
    let token = check(write, token)?;
    write.overlay.put_namespace(&name, &Namespace { token, ..namespace });
    reply.ok();
    Ok(())
}

/// Its data goes with it.
fn del(write: &mut Write<'_, '_>, reply: &mut Reply, name: &[u8]) -> Outcome {
    let (name, namespace) = find(write, name)?;
    write.overlay.delete_namespace(&name, namespace.number);
    reply.ok();
    Ok(())
}

fn durability(write: &Write<'_, '_>, reply: &mut Reply, name: &[u8]) -> Outcome {
    let (_, namespace) = find(write, name)?;
    reply.bulk(namespace.durability.map_or("default", Durability::word).as_bytes());
    Ok(())
}

/// Counts from the next group on.
fn set_durability(
    write: &mut Write<'_, '_>,
    reply: &mut Reply,
    name: &[u8],
    wanted: &[u8],
) -> Outcome {
    let (name, namespace) = find(write, name)?;
    let all = [Durability::Always, Durability::EverySec, Durability::None];
    let known = all.into_iter().find(|durability| is_word(wanted, durability.word()));
    if known.is_none() && !is_word(wanted, "default") {
        return Err(CommandError::Namespace(
            "durability is always, everysec, none, or default for what the server is set to",
        ));
    }
    write.overlay.put_namespace(&name, &Namespace { durability: known, ..namespace });
    reply.ok();
    Ok(())
}

fn list(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let all = write.overlay.namespaces()?;
    reply.array(all.len());
    all.keys().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(())
}

fn help(reply: &mut Reply) -> Outcome {
    put_help(
        reply,
        "NAMESPACE",
        &[
            "ADD <name> <token>",
            "    Make a namespace; AUTH <token> opens it.",
            "DEL <name>",
            "    Delete a namespace and everything in it.",
            "DURABILITY <name> [always|everysec|none|default]",
            "    What its writes survive once they are answered; as the server is set up by default.",
            "LIST",
            "    The names of all namespaces.",
            "SET <name> <token>",
            "    Give it another token; connections that have it open stay.",
        ],
    );
    Ok(())
}
