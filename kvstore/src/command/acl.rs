//! ACL: who may do what. It changes the server's users and no data, so the connection runs it.

use std::io::Read as _;

use bytes::Bytes;

use super::catalogue;
use super::error::{CommandError, shown};
use super::{commands, integer, is_word, put_help, subcommand, table};
use crate::resp::reply::Reply;
use crate::shared::Shared;
use crate::store::database::unix_ms;
use crate::users::user::{Denied, User};
use crate::users::{DEFAULT, UsersError};

type Outcome = Result<(), CommandError>;
type Run = fn(&Call<'_>, &mut Reply) -> Outcome;

const COMMANDS: &[(&str, i16, Run)] = &[
    ("acl|cat", -2, cat),
    ("acl|deluser", -3, deluser),
    ("acl|dryrun", -4, dryrun),
    ("acl|genpass", -2, genpass),
    ("acl|getuser", 3, getuser),
    ("acl|help", 2, help),
    ("acl|list", 2, list),
    ("acl|load", 2, load),
    ("acl|log", -2, log),
    ("acl|save", 2, save),
    ("acl|setuser", -3, setuser),
    ("acl|users", 2, users),
    ("acl|whoami", 2, whoami),
];

const GENPASS_BITS_DEFAULT: i64 = 256;
const GENPASS_BITS_MAX: i64 = 4096;

const LOG_COUNT_DEFAULT: i64 = 10;

/// A command that a connection runs.
pub struct Call<'a> {
    pub shared: &'a Shared,
    pub user: &'a User,
    pub args: &'a [Bytes],
}

pub fn acl(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    subcommand(call.args, COMMANDS)?(call, reply)
}

fn syntax(call: &Call<'_>) -> CommandError {
    CommandError::SubcommandSyntax(shown(&call.args[1]), "ACL")
}

fn cat(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    let names: Vec<&str> = match &call.args[2..] {
        [] => catalogue::CATEGORIES.to_vec(),
        [category] => {
            let category = category.to_ascii_lowercase();
            let known = catalogue::CATEGORIES.iter().find(|name| name.as_bytes() == category);
            let known = known.ok_or_else(|| CommandError::UnknownCategory(shown(&call.args[2])))?;
            let offered = catalogue::all().iter().filter(|facts| table::is_offered(facts));
            offered.filter(|facts| facts.is_in(known)).map(|facts| facts.name).collect()
        }
        _ => return Err(syntax(call)),
    };
    reply.array(names.len());
    names.into_iter().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(())
}

fn setuser(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    call.shared.users.set(&call.args[2], &call.args[3..])?;
    reply.ok();
    Ok(())
}

fn deluser(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    let names = &call.args[2..];
    if names.iter().any(|name| name == DEFAULT) {
        return Err(CommandError::DefaultUserStays);
    }
    reply.count(names.iter().filter(|name| call.shared.users.remove(name)).count());
    Ok(())
}

fn getuser(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    let Some(user) = call.shared.users.find(&call.args[2]) else {
        reply.null();
        return Ok(());
    };
    reply.map(6);
    reply.bulk(b"flags");
    reply.set(user.flags().len());
    user.flags().into_iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"passwords");
    reply.array(user.passwords().len());
    user.passwords().iter().for_each(|hash| reply.bulk(hash.as_bytes()));
    for (name, rules) in [
        ("commands", user.command_rules()),
        ("keys", user.key_rules()),
        ("channels", user.channel_rules()),
    ] {
        reply.bulk(name.as_bytes());
        reply.bulk(rules.as_bytes());
    }
    reply.bulk(b"selectors");
    reply.array(0);
    Ok(())
}

fn list(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    let all = call.shared.users.all();
    reply.array(all.len());
    all.iter().for_each(|user| reply.bulk(user.described().as_bytes()));
    Ok(())
}

fn users(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    let all = call.shared.users.all();
    reply.array(all.len());
    all.iter().for_each(|user| reply.bulk(user.name.as_bytes()));
    Ok(())
}

fn whoami(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    reply.bulk(call.user.name.as_bytes());
    Ok(())
}

fn load(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    if !call.shared.users.has_file() {
        return Err(CommandError::NoUsersFile);
    }
    call.shared.users.load()?;
    reply.ok();
    Ok(())
}

fn save(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    if !call.shared.users.has_file() {
        return Err(CommandError::NoUsersFile);
    }
    call.shared.users.save().map_err(|error| {
        tracing::error!(%error, "cannot save the users");
        CommandError::UsersNotSaved
    })?;
    reply.ok();
    Ok(())
}

fn genpass(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    let bits = match &call.args[2..] {
        [] => GENPASS_BITS_DEFAULT,
        [bits] => integer(bits)?,
        _ => return Err(syntax(call)),
    };
    if !(1..=GENPASS_BITS_MAX).contains(&bits) {
        return Err(CommandError::GenpassBits(GENPASS_BITS_MAX));
    }
    let digits = (bits as usize).div_ceil(4);
    let mut random = vec![0; digits.div_ceil(2)];
    let read =
        std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
    read.map_err(|error| {
        tracing::error!(%error, "cannot read /dev/urandom");
        CommandError::Storage
    })?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    reply.bulk(&text.as_bytes()[..digits]);
    Ok(())
}

fn log(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    let count = match &call.args[2..] {
        [] => LOG_COUNT_DEFAULT,
        [what] if is_word(what, "reset") => {
            call.shared.users.denials.clear();
            reply.ok();
            return Ok(());
        }
        [count] => integer(count)?,
        _ => return Err(syntax(call)),
    };
    let newest = call.shared.users.denials.newest(count.max(0) as usize);
    let now_ms = unix_ms();
    reply.array(newest.len());
    for denial in newest {
        reply.map(7);
        reply.bulk(b"count");
        reply.integer(denial.count as i64);
        for (name, text) in [("reason", denial.reason), ("context", denial.context)] {
            reply.bulk(name.as_bytes());
            reply.bulk(text.as_bytes());
        }
        reply.bulk(b"object");
        reply.bulk(&denial.object);
        reply.bulk(b"username");
        reply.bulk(denial.user.as_bytes());
        reply.bulk(b"age-seconds");
        let age_s = now_ms.saturating_sub(denial.at_ms) as f64 / 1000.0;
        reply.double(age_s);
        reply.bulk(b"client-info");
        reply.bulk(denial.client.as_bytes());
    }
    Ok(())
}

fn dryrun(call: &Call<'_>, reply: &mut Reply) -> Outcome {
    let (name, words) = (&call.args[2], &call.args[3..]);
    let missing = || CommandError::UserNotFound(shown(name));
    let user = call.shared.users.find(name).ok_or_else(missing)?;
    let facts = commands::check(words).map_err(|error| match error {
        CommandError::Arguments(_) => error,
        _ => CommandError::CommandNotFound(shown(&words[0])),
    })?;
    match user.check(facts, words) {
        Ok(()) => reply.ok(),
        Err(denied) => {
            let (what, kind) = match denied {
                Denied::Command(name) => {
                    let text = "This user has no permissions to run the";
                    reply.bulk(format!("{text} '{name}' command").as_bytes());
                    return Ok(());
                }
                Denied::Key(key) => (key, "key"),
                Denied::Channel(channel) => (channel, "channel"),
            };
            let what = shown(&what);
            let text = "This user has no permissions to access the";
            reply.bulk(format!("{text} '{what}' {kind}").as_bytes());
        }
    }
    Ok(())
}

fn help(_: &Call<'_>, reply: &mut Reply) -> Outcome {
    put_help(
        reply,
        "ACL",
        &[
            "CAT [<category>]",
            "    The categories, or the commands of one.",
            "DELUSER <username> [<username> ...]",
            "    Delete users; their connections are closed with their next command.",
            "DRYRUN <username> <command> [<arg> ...]",
            "    Whether a user may run a command.",
            "GENPASS [<bits>]",
            "    A new random password.",
            "GETUSER <username>",
            "    What a user may do.",
            "LIST",
            "    All users as rules.",
            "LOAD",
            "    Take the users from users_file.",
            "LOG [<count> | RESET]",
            "    What was refused lately.",
            "SAVE",
            "    Write the users to users_file.",
            "SETUSER <username> <rule> [<rule> ...]",
            "    Make or change a user.",
            "USERS",
            "    The names of all users.",
            "WHOAMI",
            "    The name of this connection's user.",
        ],
    );
    Ok(())
}

impl From<UsersError> for CommandError {
    fn from(error: UsersError) -> CommandError {
        CommandError::Users(error.to_string())
    }
}
