//! CLIENT, RESET and MONITOR.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Session, Step};
use crate::clients::Client;
use crate::command::error::{CommandError, shown};
use crate::command::{integer, is_word, put_help, subcommand};
use crate::pause::Paused;
use crate::resp::reply::Protocol;
use crate::store::spaces::Selected;
use crate::store::writer::Work;
use crate::watch::WatchSet;

type Outcome = Result<Option<Step>, CommandError>;
type Run = fn(&mut Session, &[Bytes]) -> Outcome;

const COMMANDS: &[(&str, i16, Run)] = &[
    ("client|getname", 2, Session::client_getname),
    ("client|help", 2, Session::client_help),
    ("client|id", 2, Session::client_id),
    ("client|info", 2, Session::client_info),
    ("client|kill", -3, Session::client_kill),
    ("client|list", -2, Session::client_list),
    ("client|no-evict", 3, Session::client_no_evict),
    ("client|pause", -3, Session::client_pause),
    ("client|reply", 3, Session::client_reply),
    ("client|setname", 3, Session::client_setname),
    ("client|unblock", -3, Session::client_unblock),
    ("client|unpause", 2, Session::client_unpause),
];

/// Whose commands are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Voice {
    #[default]
    Heard,
    /// So many commands are not answered, the one that runs included.
    Skips(u8),
    Off,
}

/// What kind of client the options of CLIENT LIST and CLIENT KILL mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Normal,
    PubSub,
    /// There are none.
    Replication,
}

impl Sort {
    fn parse(word: &[u8]) -> Result<Sort, CommandError> {
        match word {
            _ if is_word(word, "normal") => Ok(Sort::Normal),
            _ if is_word(word, "pubsub") => Ok(Sort::PubSub),
            _ if ["master", "replica", "slave"].iter().any(|known| is_word(word, known)) => {
                Ok(Sort::Replication)
            }
            _ => Err(CommandError::UnknownClientType(String::from_utf8_lossy(word).into_owned())),
        }
    }

    fn of(client: &Client) -> Sort {
        if client.facts().is_subscribed() { Sort::PubSub } else { Sort::Normal }
    }
}

/// Which clients to end: those that have all of this.
#[derive(Default)]
struct Wanted {
    id: Option<u64>,
    peer: Option<Bytes>,
    local: Option<Bytes>,
    user: Option<Bytes>,
    sort: Option<Sort>,
    with_me: bool,
}

impl Wanted {
    fn parse(session: &Session, mut rest: &[Bytes]) -> Result<Wanted, CommandError> {
        let mut wanted = Wanted::default();
        while let [word, value, tail @ ..] = rest {
            rest = tail;
            match &word[..] {
                word if is_word(word, "id") => {
                    let id = integer(value).ok().and_then(|id| u64::try_from(id).ok());
                    wanted.id =
                        Some(id.filter(|id| *id > 0).ok_or(CommandError::ClientIdNotPositive)?);
                }
                word if is_word(word, "type") => wanted.sort = Some(Sort::parse(value)?),
                word if is_word(word, "addr") => wanted.peer = Some(value.clone()),
                word if is_word(word, "laddr") => wanted.local = Some(value.clone()),
                word if is_word(word, "user") => {
                    if session.shared.users.find(value).is_none() {
                        let name = String::from_utf8_lossy(value).into_owned();
                        return Err(CommandError::NoSuchUser(name));
                    }
                    wanted.user = Some(value.clone());
                }
                word if is_word(word, "skipme") && is_word(value, "yes") => wanted.with_me = false,
                word if is_word(word, "skipme") && is_word(value, "no") => wanted.with_me = true,
                _ => return Err(CommandError::Syntax),
            }
        }
        if rest.is_empty() { Ok(wanted) } else { Err(CommandError::Syntax) }
    }

    fn is(&self, client: &Client) -> bool {
        let addresses = &client.addresses;
        self.id.is_none_or(|id| client.id == id)
            && self.peer.as_ref().is_none_or(|peer| addresses.peer.as_bytes() == peer)
            && self.local.as_ref().is_none_or(|local| addresses.local.as_bytes() == local)
            && self.user.as_ref().is_none_or(|user| client.facts().user.as_bytes() == user)
            && self.sort.is_none_or(|sort| Sort::of(client) == sort)
    }
}

impl Session {
    pub(super) fn client(&mut self, args: &[Bytes]) -> Option<Step> {
        let start = self.reply.len();
        match subcommand(args, COMMANDS).and_then(|run| run(self, args)) {
            Ok(step) => step,
            Err(error) => {
                self.reply.truncate(start);
                self.refuse(&error.to_string());
                None
            }
        }
    }

    fn client_id(&mut self, _: &[Bytes]) -> Outcome {
        self.reply.integer(self.client.id as i64);
        Ok(None)
    }

    fn client_getname(&mut self, _: &[Bytes]) -> Outcome {
        let name = self.client.facts().name.clone();
        self.reply.optional_bulk(Some(&name[..]).filter(|name| !name.is_empty()));
        Ok(None)
    }

    fn client_setname(&mut self, args: &[Bytes]) -> Outcome {
        self.set_name(&args[2])?;
        self.reply.ok();
        Ok(None)
    }

    pub(super) fn set_name(&mut self, name: &[u8]) -> Result<(), CommandError> {
        let is_name = name.len() <= NAME_BYTES_MAX && name.iter().all(u8::is_ascii_graphic);
        if !is_name {
            return Err(CommandError::ClientName);
        }
        self.client.facts().name = Bytes::copy_from_slice(name);
        Ok(())
    }

    fn client_info(&mut self, _: &[Bytes]) -> Outcome {
        self.show();
        let line = self.client.line() + "\n";
        self.reply.verbatim(line.as_bytes());
        Ok(None)
    }

    fn client_list(&mut self, args: &[Bytes]) -> Outcome {
        self.show();
        let clients: Vec<Arc<Client>> = match &args[2..] {
            [] => self.shared.clients.all(),
            [word, sort] if is_word(word, "type") => {
                let sort = Sort::parse(sort)?;
                let all = self.shared.clients.all();
                all.into_iter().filter(|client| Sort::of(client) == sort).collect()
            }
            [word, ids @ ..] if is_word(word, "id") && !ids.is_empty() => {
                let mut found = Vec::new();
                for id in ids {
                    let id = integer(id).map_err(|_| CommandError::ClientIdInvalid)?;
                    found.extend(u64::try_from(id).ok().and_then(|id| self.shared.clients.get(id)));
                }
                found
            }
            _ => return Err(CommandError::Syntax),
        };
        let lines: String = clients.iter().map(|client| client.line() + "\n").collect();
        self.reply.verbatim(lines.as_bytes());
        Ok(None)
    }

    fn client_kill(&mut self, args: &[Bytes]) -> Outcome {
        let wanted = match &args[2..] {
            [address] => Wanted { peer: Some(address.clone()), with_me: true, ..Wanted::default() },
            options => Wanted::parse(self, options)?,
        };
        let mut ended = 0;
        for client in self.shared.clients.all() {
            let is_me = client.id == self.client.id;
            if !wanted.is(&client) || is_me && !wanted.with_me {
                continue;
            }
            ended += 1;
            if is_me {
                self.is_closing = true;
            } else {
                client.end();
            }
        }
        match (args.len(), ended) {
            (3, 0) => return Err(CommandError::NoSuchClient),
            (3, _) => self.reply.ok(),
            _ => self.reply.integer(ended),
        }
        Ok(None)
    }

    fn client_no_evict(&mut self, args: &[Bytes]) -> Outcome {
        let is_kept = match &args[2][..] {
            word if is_word(word, "on") => true,
            word if is_word(word, "off") => false,
            _ => return Err(CommandError::Syntax),
        };
        self.client.facts().is_kept = is_kept;
        self.reply.ok();
        Ok(None)
    }

    fn client_pause(&mut self, args: &[Bytes]) -> Outcome {
        let paused = match &args[3..] {
            [] => Paused::All,
            [mode] if is_word(mode, "all") => Paused::All,
            [mode] if is_word(mode, "write") => Paused::Writes,
            [_] => return Err(CommandError::PauseMode),
            _ => return Err(CommandError::SubcommandSyntax(shown(&args[1]), "CLIENT")),
        };
        let timeout = crate::command::wait::timeout_ms(&args[2])?.unwrap_or(Duration::ZERO);
        let until = Instant::now().checked_add(timeout).ok_or(CommandError::TimeoutTooLong)?;
        self.shared.pause.set(paused, until);
        self.reply.ok();
        Ok(None)
    }

    fn client_unpause(&mut self, _: &[Bytes]) -> Outcome {
        self.shared.pause.clear();
        self.shared.clients.wake_all();
        self.reply.ok();
        Ok(None)
    }

    fn client_reply(&mut self, args: &[Bytes]) -> Outcome {
        match &args[2][..] {
            word if is_word(word, "on") => {
                self.voice = Voice::Heard;
                self.reply.ok();
            }
            word if is_word(word, "off") => self.voice = Voice::Off,
            word if is_word(word, "skip") && self.voice == Voice::Off => {}
            word if is_word(word, "skip") => self.voice = Voice::Skips(2),
            _ => return Err(CommandError::Syntax),
        }
        Ok(None)
    }

    fn client_unblock(&mut self, args: &[Bytes]) -> Outcome {
        let with_error = match &args[3..] {
            [] => false,
            [how] if is_word(how, "timeout") => false,
            [how] if is_word(how, "error") => true,
            [_] => return Err(CommandError::UnblockReason),
            _ => return Err(CommandError::SubcommandSyntax(shown(&args[1]), "CLIENT")),
        };
        // No client has the number 0.
        let client = u64::try_from(integer(&args[2])?).unwrap_or(0);
        Ok(Some(Step::Submit(Work::Unblock { client, with_error })))
    }

    fn client_help(&mut self, _: &[Bytes]) -> Outcome {
        put_help(&mut self.reply, "CLIENT", HELP);
        Ok(None)
    }

    /// Everything as it was when the connection came, as far as its user can.
    pub(super) fn reset(&mut self) {
        self.transaction = None;
        self.watched = WatchSet::new(self.shared.clone());
        self.subscriptions.clear();
        self.subscribe_anew(0);
        self.shared.clients.set_monitors(self.client.id, None);
        self.voice = Voice::Heard;
        self.selected = Selected::default();
        self.user = self.shared.users.default_user();
        self.is_authenticated = self.user.is_on && self.user.needs_no_password;
        self.reply.set_protocol(Protocol::Resp2);
        let mut facts = self.client.facts();
        facts.name = Bytes::new();
        facts.protocol = Protocol::Resp2;
        facts.monitors = false;
        drop(facts);
        self.reply.simple("RESET");
    }

    pub(super) fn monitor(&mut self) {
        self.client.facts().monitors = true;
        self.shared.clients.set_monitors(self.client.id, Some(self.client.clone()));
        self.reply.ok();
    }
}

/// Redis has no limit of its own here.
const NAME_BYTES_MAX: usize = 256;

const HELP: &[&str] = &[
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are:",
    "    * ADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made from the specified address",
    "    * ID <client-id>",
    "      Kill the connection with that ID",
    "    * LADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made to specified local address",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Kill connections by type.",
    "    * USER <username>",
    "      Kill connections authenticated by <username>.",
    "    * SKIPME (YES|NO)",
    "      Skip killing current connection (default: yes).",
    "LIST [options ...]",
    "    Return information about client connections. Options:",
    "    * ID <client-id> [<client-id> ...]",
    "      Return the clients with these IDs",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "UNPAUSE",
    "    Stop the current client pause, resuming traffic.",
    "PAUSE <timeout> [WRITE|ALL]",
    "    Suspend all, or just write, clients for <timeout> milliseconds.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "    Unblock the specified blocked client.",
    "NO-EVICT (ON|OFF)",
    "    Accepted for compatibility: no client is evicted to save memory.",
];
