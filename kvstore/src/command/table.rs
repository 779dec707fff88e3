//! Every command by name: how many arguments, where its keys are, and who runs it.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::catalogue::{self, Facts};
use super::error::{CommandError, shown};
use super::list::{edit, ends, read as list};
use super::sorted_set::{algebra, change, pop, range, read as sorted_set};
use super::stream::{add, claim, deliver, info as stream_info, pending, read as stream, xgroup};
use super::wait::Flow;
use super::{
    Read, Write, basics, checkpoint, choice, commands, config, dump, expiry, hashes, info, keys,
    latency, lcs, left_out, memory, namespace, object, restore, scan, sets, slowlog, strings,
};
use crate::pubsub::Topic;
use crate::resp::reply::Reply;
use bytes::Bytes;

pub type ReadFn = fn(&Read<'_>, &mut Reply) -> Result<(), CommandError>;
pub type WriteFn = fn(&mut Write<'_, '_>, &mut Reply) -> Result<(), CommandError>;
pub type WaitFn = fn(&mut Write<'_, '_>, &mut Reply) -> Result<Flow, CommandError>;

/// Who runs a command.
#[derive(Clone, Copy)]
pub enum Access {
    /// The connection itself.
    Session(SessionCommand),
    /// A read of one row of metadata, otherwise as those of a few.
    Row(ReadFn),
    /// A read of a few rows: the network thread, or the writer when it stands behind a write in the
    /// same pipeline.
    Point(ReadFn),
    /// A read of many rows: never the writer, unless inside a transaction.
    Scan(ReadFn),
    /// The writer.
    Write(WriteFn),
    /// The writer, where it may wait.
    Waiting(WaitFn),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionCommand {
    Acl,
    Auth,
    Client,
    /// What its user may no longer run when the transaction it stands in is executed.
    Denied,
    Discard,
    Exec,
    Hello,
    Monitor,
    Multi,
    Publish(Topic),
    Pubsub,
    Quit,
    Reset,
    Subscribe(Topic),
    Unsubscribe(Topic),
    Unwatch,
    Watch,
}

pub struct Command {
    /// In small letters.
    pub name: &'static str,
    /// Words, the name included; negative means at least so many.
    pub arity: i16,
    /// First key, last key (negative from the end) and step; zeros when there is none.
    pub keys: (i8, i8, i8),
    pub access: Access,
}

impl Command {
    pub fn accepts(&self, words: usize) -> bool {
        is_arity(self.arity, words)
    }
}

pub fn is_arity(arity: i16, words: usize) -> bool {
    let wanted = usize::from(arity.unsigned_abs());
    if arity < 0 { words >= wanted } else { words == wanted }
}

pub fn find(name: &[u8]) -> Option<&'static Command> {
    known(name).map(|(command, _)| command)
}

fn known(name: &[u8]) -> Option<Known> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    BY_NAME.get(&*lower).copied()
}

const NAME_BYTES_MAX: usize = 16;

pub type Known = (&'static Command, &'static Facts);

static BY_NAME: LazyLock<HashMap<&'static [u8], Known>> = LazyLock::new(|| {
    let known = COMMANDS.iter().map(|command| {
        let name = command.name.as_bytes();
        assert!(name.len() <= NAME_BYTES_MAX);
        (name, (command, catalogue::find(name).expect("it is in the catalogue")))
    });
    known.collect()
});

/// The command that these words are, with what is known of it or its subcommand, or why they are none.
pub fn resolve(words: &[Bytes]) -> Result<Known, CommandError> {
    let Some((command, facts)) = known(&words[0]) else {
        let left_out = catalogue::find(&words[0]).and_then(|facts| left_out::answer(facts.name));
        return Err(left_out.map_or_else(|| unknown(words), CommandError::LeftOut));
    };
    if !command.accepts(words.len()) {
        return Err(CommandError::Arguments(command.name));
    }
    let Some(facts) = facts.of_words(words) else {
        let container = shown(&words[0]).to_uppercase();
        return Err(CommandError::UnknownSubcommand(shown(&words[1]), container));
    };
    if facts.name.len() > command.name.len()
        && let Some(answer) = left_out::answer(facts.name)
    {
        return Err(CommandError::LeftOut(answer));
    }
    let command = match command.name {
        "xread" if stream::may_wait(words) => &XREAD_WAITING,
        _ => command,
    };
    match facts.accepts(words.len()) {
        true => Ok((command, facts)),
        false => Err(CommandError::Arguments(facts.name)),
    }
}

/// XREAD as it is run when it may wait.
static XREAD_WAITING: Command = waiting("xread", -4, NO_KEYS, stream::xread_waiting);

/// What stands in a transaction in place of a command that may no longer be run.
pub static DENIED: Command = session("denied", 0, SessionCommand::Denied);

/// Redis's text, with the first arguments.
fn unknown(words: &[Bytes]) -> CommandError {
    const SHOWN_BYTES_MAX: usize = 128;
    let shown = |word: &Bytes, bytes: usize| {
        String::from_utf8_lossy(&word[..word.len().min(bytes)]).into_owned()
    };
    let mut args = String::new();
    for word in &words[1..] {
        if args.len() >= SHOWN_BYTES_MAX {
            break;
        }
        let word = shown(word, SHOWN_BYTES_MAX - args.len());
        args.push_str(&format!("'{word}' "));
    }
    CommandError::UnknownCommand(shown(&words[0], SHOWN_BYTES_MAX), args)
}

/// Whether a command or subcommand of the catalogue runs here.
pub fn is_offered(facts: &Facts) -> bool {
    let container = facts.name.split('|').next().unwrap_or_default();
    BY_NAME.contains_key(container.as_bytes()) && left_out::reason(facts.name).is_none()
}

/// The words that are channels, or patterns of channels.
pub fn channels<'a>(facts: &Facts, words: &'a [Bytes]) -> &'a [Bytes] {
    match facts.name {
        "publish" => &words[1..2],
        "subscribe" | "psubscribe" => &words[1..],
        _ => &[],
    }
}

const NO_KEYS: (i8, i8, i8) = (0, 0, 0);
const ONE: (i8, i8, i8) = (1, 1, 1);
const ALL: (i8, i8, i8) = (1, -1, 1);

const fn session(name: &'static str, arity: i16, command: SessionCommand) -> Command {
    Command { name, arity, keys: NO_KEYS, access: Access::Session(command) }
}

const fn point(name: &'static str, arity: i16, keys: (i8, i8, i8), run: ReadFn) -> Command {
    Command { name, arity, keys, access: Access::Point(run) }
}

const fn row(name: &'static str, arity: i16, run: ReadFn) -> Command {
    Command { name, arity, keys: ONE, access: Access::Row(run) }
}

const fn many(name: &'static str, arity: i16, keys: (i8, i8, i8), run: ReadFn) -> Command {
    Command { name, arity, keys, access: Access::Scan(run) }
}

const fn write(name: &'static str, arity: i16, keys: (i8, i8, i8), run: WriteFn) -> Command {
    Command { name, arity, keys, access: Access::Write(run) }
}

const fn waiting(name: &'static str, arity: i16, keys: (i8, i8, i8), run: WaitFn) -> Command {
    Command { name, arity, keys, access: Access::Waiting(run) }
}

pub const COMMANDS: &[Command] = &[
    session("acl", -2, SessionCommand::Acl),
    session("auth", -2, SessionCommand::Auth),
    session("client", -2, SessionCommand::Client),
    session("discard", 1, SessionCommand::Discard),
    session("exec", 1, SessionCommand::Exec),
    session("hello", -1, SessionCommand::Hello),
    session("monitor", 1, SessionCommand::Monitor),
    session("multi", 1, SessionCommand::Multi),
    session("psubscribe", -2, SessionCommand::Subscribe(Topic::Pattern)),
    session("publish", 3, SessionCommand::Publish(Topic::Channel)),
    session("pubsub", -2, SessionCommand::Pubsub),
    session("punsubscribe", -1, SessionCommand::Unsubscribe(Topic::Pattern)),
    session("quit", -1, SessionCommand::Quit),
    session("reset", 1, SessionCommand::Reset),
    session("spublish", 3, SessionCommand::Publish(Topic::ShardChannel)),
    session("ssubscribe", -2, SessionCommand::Subscribe(Topic::ShardChannel)),
    session("subscribe", -2, SessionCommand::Subscribe(Topic::Channel)),
    session("sunsubscribe", -1, SessionCommand::Unsubscribe(Topic::ShardChannel)),
    session("unsubscribe", -1, SessionCommand::Unsubscribe(Topic::Channel)),
    session("unwatch", 1, SessionCommand::Unwatch),
    session("watch", -2, SessionCommand::Watch),
    point("ping", -1, NO_KEYS, basics::ping),
    point("echo", 2, NO_KEYS, basics::echo),
    point("time", 1, NO_KEYS, basics::time),
    point("role", 1, NO_KEYS, basics::role),
    point("select", 2, NO_KEYS, basics::select),
    many("info", -1, NO_KEYS, info::info),
    many("command", -1, NO_KEYS, commands::command),
    point("function", -2, NO_KEYS, basics::function),
    many("config", -2, NO_KEYS, config::config),
    many("slowlog", -2, NO_KEYS, slowlog::slowlog),
    many("latency", -2, NO_KEYS, latency::latency),
    many("memory", -2, NO_KEYS, memory::memory),
    waiting("checkpoint", -2, NO_KEYS, checkpoint::checkpoint),
    write("namespace", -2, NO_KEYS, namespace::namespace),
    many("dbsize", 1, NO_KEYS, scan::dbsize),
    many("keys", 2, NO_KEYS, scan::keys),
    many("scan", -2, NO_KEYS, scan::scan),
    many("randomkey", 1, NO_KEYS, scan::randomkey),
    write("flushall", -1, NO_KEYS, keys::flushall),
    write("flushdb", -1, NO_KEYS, keys::flushdb),
    point("exists", -2, ALL, keys::exists),
    row("type", 2, keys::kind),
    write("del", -2, ALL, keys::del),
    write("unlink", -2, ALL, keys::del),
    point("touch", -2, ALL, keys::exists),
    point("wait", 3, NO_KEYS, keys::wait_for_replicas),
    point("object", -2, (2, 2, 1), object::object),
    many("dump", 2, ONE, dump::dump),
    write("restore", -4, ONE, restore::restore),
    write("copy", -3, (1, 2, 1), keys::copy),
    write("move", 3, ONE, keys::move_key),
    write("swapdb", 3, NO_KEYS, keys::swapdb),
    write("rename", 3, (1, 2, 1), keys::rename),
    write("renamenx", 3, (1, 2, 1), keys::renamenx),
    row("ttl", 2, expiry::ttl),
    row("pttl", 2, expiry::pttl),
    row("expiretime", 2, expiry::expiretime),
    row("pexpiretime", 2, expiry::pexpiretime),
    write("expire", -3, ONE, expiry::expire),
    write("pexpire", -3, ONE, expiry::pexpire),
    write("expireat", -3, ONE, expiry::expireat),
    write("pexpireat", -3, ONE, expiry::pexpireat),
    write("persist", 2, ONE, expiry::persist),
    row("get", 2, strings::get),
    point("mget", -2, ALL, strings::mget),
    row("strlen", 2, strings::strlen),
    row("getrange", 4, strings::getrange),
    row("substr", 4, strings::getrange),
    many("lcs", -3, (1, 2, 1), lcs::lcs),
    write("set", -3, ONE, strings::set),
    write("setex", 4, ONE, strings::setex),
    write("psetex", 4, ONE, strings::psetex),
    write("setnx", 3, ONE, strings::setnx),
    write("getset", 3, ONE, strings::getset),
    write("getdel", 2, ONE, strings::getdel),
    write("getex", -2, ONE, strings::getex),
    write("mset", -3, (1, -1, 2), strings::mset),
    write("msetnx", -3, (1, -1, 2), strings::msetnx),
    write("append", 3, ONE, strings::append),
    write("incr", 2, ONE, strings::incr),
    write("decr", 2, ONE, strings::decr),
    write("incrby", 3, ONE, strings::incrby),
    write("decrby", 3, ONE, strings::decrby),
    write("incrbyfloat", 3, ONE, strings::incrbyfloat),
    write("setrange", 4, ONE, strings::setrange),
    point("hget", 3, ONE, hashes::hget),
    point("hmget", -3, ONE, hashes::hmget),
    point("hlen", 2, ONE, hashes::hlen),
    point("hexists", 3, ONE, hashes::hexists),
    point("hstrlen", 3, ONE, hashes::hstrlen),
    many("hgetall", 2, ONE, hashes::hgetall),
    many("hkeys", 2, ONE, hashes::hkeys),
    many("hvals", 2, ONE, hashes::hvals),
    many("hrandfield", -2, ONE, choice::hrandfield),
    many("hscan", -3, ONE, scan::hscan),
    write("hset", -4, ONE, hashes::hset),
    write("hmset", -4, ONE, hashes::hmset),
    write("hsetnx", 4, ONE, hashes::hsetnx),
    write("hdel", -3, ONE, hashes::hdel),
    write("hincrby", 4, ONE, hashes::hincrby),
    point("llen", 2, ONE, list::llen),
    point("lindex", 3, ONE, list::lindex),
    many("lrange", 4, ONE, list::lrange),
    many("lpos", -3, ONE, list::lpos),
    write("lpush", -3, ONE, ends::lpush),
    write("rpush", -3, ONE, ends::rpush),
    write("lpushx", -3, ONE, ends::lpushx),
    write("rpushx", -3, ONE, ends::rpushx),
    write("lpop", -2, ONE, ends::lpop),
    write("rpop", -2, ONE, ends::rpop),
    write("lmpop", -4, NO_KEYS, ends::lmpop),
    write("lmove", 5, (1, 2, 1), ends::lmove),
    write("rpoplpush", 3, (1, 2, 1), ends::rpoplpush),
    waiting("blpop", -3, (1, -2, 1), ends::blpop),
    waiting("brpop", -3, (1, -2, 1), ends::brpop),
    waiting("blmpop", -5, NO_KEYS, ends::blmpop),
    waiting("blmove", 6, (1, 2, 1), ends::blmove),
    waiting("brpoplpush", 4, (1, 2, 1), ends::brpoplpush),
    write("lset", 4, ONE, edit::lset),
    write("ltrim", 4, ONE, edit::ltrim),
    write("lrem", 4, ONE, edit::lrem),
    write("linsert", 5, ONE, edit::linsert),
    write("hincrbyfloat", 4, ONE, hashes::hincrbyfloat),
    point("scard", 2, ONE, sets::scard),
    point("sismember", 3, ONE, sets::sismember),
    point("smismember", -3, ONE, sets::smismember),
    many("smembers", 2, ONE, sets::smembers),
    many("srandmember", -2, ONE, choice::srandmember),
    many("sscan", -3, ONE, scan::sscan),
    many("sunion", -2, ALL, sets::sunion),
    many("sinter", -2, ALL, sets::sinter),
    many("sdiff", -2, ALL, sets::sdiff),
    many("sintercard", -3, NO_KEYS, sets::sintercard),
    write("sadd", -3, ONE, sets::sadd),
    write("srem", -3, ONE, sets::srem),
    write("smove", 4, (1, 2, 1), sets::smove),
    write("spop", -2, ONE, sets::spop),
    write("sunionstore", -3, ALL, sets::sunionstore),
    write("sinterstore", -3, ALL, sets::sinterstore),
    write("sdiffstore", -3, ALL, sets::sdiffstore),
    point("zcard", 2, ONE, sorted_set::zcard),
    point("zscore", 3, ONE, sorted_set::zscore),
    point("zmscore", -3, ONE, sorted_set::zmscore),
    many("zrank", 3, ONE, sorted_set::zrank),
    many("zrevrank", 3, ONE, sorted_set::zrevrank),
    many("zrandmember", -2, ONE, sorted_set::zrandmember),
    many("zscan", -3, ONE, scan::zscan),
    many("zrange", -4, ONE, range::zrange),
    many("zrevrange", -4, ONE, range::zrevrange),
    many("zrangebyscore", -4, ONE, range::zrangebyscore),
    many("zrevrangebyscore", -4, ONE, range::zrevrangebyscore),
    many("zrangebylex", -4, ONE, range::zrangebylex),
    many("zrevrangebylex", -4, ONE, range::zrevrangebylex),
    many("zcount", 4, ONE, range::zcount),
    many("zlexcount", 4, ONE, range::zlexcount),
    many("zunion", -3, NO_KEYS, algebra::zunion),
    many("zinter", -3, NO_KEYS, algebra::zinter),
    many("zdiff", -3, NO_KEYS, algebra::zdiff),
    many("zintercard", -3, NO_KEYS, algebra::zintercard),
    write("zadd", -4, ONE, change::zadd),
    write("zincrby", 4, ONE, change::zincrby),
    write("zrem", -3, ONE, change::zrem),
    write("zpopmin", -2, ONE, pop::zpopmin),
    write("zpopmax", -2, ONE, pop::zpopmax),
    write("zmpop", -4, NO_KEYS, pop::zmpop),
    waiting("bzpopmin", -3, (1, -2, 1), pop::bzpopmin),
    waiting("bzpopmax", -3, (1, -2, 1), pop::bzpopmax),
    waiting("bzmpop", -5, NO_KEYS, pop::bzmpop),
    write("zrangestore", -5, (1, 2, 1), range::zrangestore),
    write("zremrangebyrank", 4, ONE, range::zremrangebyrank),
    write("zremrangebyscore", 4, ONE, range::zremrangebyscore),
    write("zremrangebylex", 4, ONE, range::zremrangebylex),
    write("zunionstore", -4, ONE, algebra::zunionstore),
    write("zinterstore", -4, ONE, algebra::zinterstore),
    write("zdiffstore", -4, ONE, algebra::zdiffstore),
    point("xlen", 2, ONE, stream::xlen),
    many("xinfo", -2, NO_KEYS, stream_info::xinfo),
    many("xpending", -3, ONE, pending::xpending),
    many("xrange", -4, ONE, stream::xrange),
    many("xrevrange", -4, ONE, stream::xrevrange),
    many("xread", -4, NO_KEYS, stream::xread),
    write("xadd", -5, ONE, add::xadd),
    write("xtrim", -4, ONE, add::xtrim),
    write("xdel", -3, ONE, add::xdel),
    write("xsetid", -3, ONE, add::xsetid),
    write("xgroup", -2, NO_KEYS, xgroup::xgroup),
    waiting("xreadgroup", -7, NO_KEYS, deliver::xreadgroup),
    write("xack", -4, ONE, deliver::xack),
    write("xclaim", -6, ONE, claim::xclaim),
    write("xautoclaim", -6, ONE, claim::xautoclaim),
];
