//! A core on a stage: it is told what happens in words, and what it does is read in words.
//!
//! ```text
//!  start 0 anna inbox=5    a connection in slot 0 that connects as anna   ─▶ 0:start; 0<welcome ...
//!  deliver 0 6 hello       an inbox entry for the session in slot 0       ─▶ 0<push 6 hello
//!  entries 0 8 more 7=a 8=b!   an answer to its pull; `!` is when-awake, `?` has no body
//!  gdeliver 4 - hi         a group entry for the whole app, or for a topic by its number
//!  up 0, down 0, ping 0, pull 0 inbox 6, ack 0 6, blocked 0, wait 1000, turn, ...
//!
//!  0<...  a frame to the device    L0>...  a frame on link 0    0:...  another action
//! ```
//!
//! Every command ends with a turn of the core, so that its consequences are complete.

use ed25519_dalek::{Signer, SigningKey};
use hawser_broker::core::event::{Action, Actions, Event, LinkIndex, Now};
use hawser_broker::core::{Core, CoreConfig, Gauges};
use hawser_codec::device::{Connect, Downlink, MAJOR, MINOR, Uplink};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::{Frame, split};
use hawser_codec::ids::{AppId, Epoch, HashKey, Seq, SessionRef, Stream, TopicId};
use hawser_codec::limits::LINK_BODY_BYTES_MAX;
use hawser_codec::link::{
    AppKeys, Entry, EntryFlags, Keys, ToBroker, ToControl, VerifyKey, to_broker,
};
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use hmac::{Hmac, Mac};
use sha2::Sha256;

pub const SHOP: AppId = AppId(7);
pub const NEWS: AppId = AppId(8);
pub const HASH_KEY: HashKey = HashKey([3; 16]);
pub const START_UNIX_MS: u64 = 1_800_000_000_000;
pub const EXPIRES_S: u64 = START_UNIX_MS / 1000 + 86_400;

const HMAC_KEY: [u8; 32] = [9; 32];
const ED25519_SEED: [u8; 32] = [5; 32];

pub struct Stage {
    pub core: Core,
    pub now: Now,
    pub gauges: Gauges,
    /// The generation that each slot has now.
    generations: Vec<u32>,
    out: Actions,
}

impl Stage {
    /// A core that has its keys.
    pub fn new(config: CoreConfig) -> Stage {
        let mut stage = Stage::without_keys(config);
        stage.keys(1, &keys(1));
        stage
    }

    pub fn without_keys(config: CoreConfig) -> Stage {
        Stage {
            core: Core::new(config),
            now: Now { mono_ms: 0, unix_ms: START_UNIX_MS },
            gauges: Gauges::default(),
            generations: Vec::new(),
            out: Actions::default(),
        }
    }

    /// Runs commands that are separated by `;` and returns all that the core did.
    pub fn run(&mut self, script: &str) -> String {
        let done: Vec<String> = script.split(';').map(|command| self.command(command)).collect();
        done.into_iter().filter(|done| !done.is_empty()).collect::<Vec<_>>().join("; ")
    }

    fn command(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        let number = |index: usize| words[index].parse::<u64>().expect("a number");
        let slot = || number(1) as u32;
        let link = || LinkIndex(number(1) as u8);
        match words[0] {
            "start" => {
                self.accept(slot());
                let mut done = self.turn();
                done.extend(self.connect(slot(), &words[2..]));
                return done.join("; ");
            }
            "accept" => self.accept(slot()),
            "connect" => return self.connect(slot(), &words[2..]).join("; "),
            "hangup" => self.event(Event::Hangup { slot: slot(), reason: CloseReason::Reset }),
            "bad" => self.event(Event::BadInput { slot: slot(), error: DecodeError::BadValue }),
            "big" => {
                self.event(Event::BadInput { slot: slot(), error: DecodeError::FrameTooLarge })
            }
            "blocked" => self.event(Event::Blocked { slot: slot() }),
            "drained" => self.event(Event::Drained { slot: slot() }),
            "slow" => self.event(Event::SlowReader { slot: slot() }),
            "closed" => self.event(Event::Closed { slot: slot() }),
            "up" => self.event(Event::LinkUp { link: link() }),
            "down" => self.event(Event::LinkDown { link: link() }),
            "drain" => self.event(Event::Drain),
            "turn" => {}
            "wait" => {
                self.now.mono_ms += number(1);
                self.now.unix_ms += number(1);
            }
            "memory" => self.gauges.memory_low = words[1] == "low",
            "ping" => self.frame(slot(), Uplink::Ping),
            "bye" => self.frame(slot(), Uplink::Bye),
            "sub" => self.frame(slot(), Uplink::Subscribe { topic: TopicId(number(2)) }),
            "unsub" => self.frame(slot(), Uplink::Unsubscribe { topic: TopicId(number(2)) }),
            "ack" => self.frame(slot(), Uplink::Ack { seq: Seq(number(2)) }),
            "gack" => self.frame(slot(), Uplink::GroupAck { seq: Seq(number(2)) }),
            "pull" => {
                let stream = if words[2] == "inbox" { Stream::Inbox } else { Stream::Group };
                self.frame(slot(), Uplink::Pull { stream, from: Seq(number(3)) });
            }
            _ => self.link_command(&words),
        }
        self.turn().join("; ")
    }

    /// A frame of a control node; it comes over link 0, or over link 1 after the word `via`.
    fn link_command(&mut self, words: &[&str]) {
        let (link, words) = match words {
            ["via", rest @ ..] => (LinkIndex(1), rest),
            words => (LinkIndex(0), words),
        };
        let number = |index: usize| words[index].parse::<u64>().expect("a number");
        let mut bytes = Vec::new();
        match words[0] {
            "deliver" => {
                let entry = entry(&format!("{}={}", words[2], words[3]), TopicId::ALL);
                let (entry, payload) = (entry.0, entry.1);
                to_broker::deliver(
                    &mut bytes,
                    self.session(words[1]),
                    entry.seq,
                    entry.flags,
                    payload.as_bytes(),
                );
            }
            "entries" => self.answer(&mut bytes, words, to_broker::entries),
            "gentries" => self.answer(&mut bytes, words, to_broker::group_entries),
            "reset" | "greset" => {
                let stream = if words[0] == "reset" { Stream::Inbox } else { Stream::Group };
                to_broker::reset(&mut bytes, self.session(words[1]), stream, Seq(number(2)));
            }
            "kick" => {
                let epoch = Epoch::from_ms(START_UNIX_MS + number(2));
                to_broker::kick(&mut bytes, self.session(words[1]), epoch);
            }
            "gcursor" => to_broker::group_cursor(&mut bytes, SHOP, Seq(number(1))),
            "gdeliver" => {
                let topic = words[2].parse().map_or(TopicId::ALL, TopicId);
                let (entry, payload) = entry(&format!("{}={}", words[1], words[3]), topic);
                let entry = Entry { payload: payload.as_bytes(), ..entry };
                to_broker::group_deliver(&mut bytes, SHOP, &entry);
            }
            "gfetched" => {
                let (more, entries) = more(&words[2..]);
                let entries: Vec<_> =
                    entries.iter().map(|word| entry(word, TopicId::ALL)).collect();
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(entry, payload)| Entry { payload: payload.as_bytes(), ..*entry })
                    .collect();
                to_broker::group_fetched(&mut bytes, SHOP, Seq(number(1)), more, &entries);
            }
            "ask" => to_broker::ping(&mut bytes, Epoch::from_ms(START_UNIX_MS + number(1))),
            other => panic!("no such command: {other}"),
        }
        self.link_bytes(link, &bytes);
    }

    fn answer(
        &self,
        bytes: &mut Vec<u8>,
        words: &[&str],
        encode: fn(&mut Vec<u8>, SessionRef, Seq, bool, &[Entry<'_>]),
    ) {
        let upto = Seq(words[2].parse().expect("a number"));
        let (more, entries) = more(&words[3..]);
        let entries: Vec<_> = entries.iter().map(|word| entry(word, TopicId::ALL)).collect();
        let entries: Vec<_> = entries
            .iter()
            .map(|(entry, payload)| Entry { payload: payload.as_bytes(), ..*entry })
            .collect();
        encode(bytes, self.session(words[1]), upto, more, &entries);
    }

    /// `3` is the session in slot 3, `3~` the one before it.
    fn session(&self, word: &str) -> SessionRef {
        let is_former = word.ends_with('~');
        let slot: u32 = word.trim_end_matches('~').parse().expect("a slot");
        let generation = self.generations.get(slot as usize).copied().unwrap_or(0);
        SessionRef { slot, generation: generation - u32::from(is_former) }
    }

    pub fn keys(&mut self, version: u64, keys: &Keys<'_>) {
        let mut bytes = Vec::new();
        let keys = Keys { version, ..keys.clone() };
        to_broker::keys(&mut bytes, &keys);
        self.link_bytes(LinkIndex(0), &bytes);
        self.turn();
    }

    pub fn link_bytes(&mut self, link: LinkIndex, bytes: &[u8]) {
        let (frame, rest) = split(bytes, LINK_BODY_BYTES_MAX).unwrap().unwrap();
        assert!(rest.is_empty());
        let frame = ToBroker::decode(frame).unwrap().unwrap();
        self.event(Event::Link { link, frame });
    }

    fn accept(&mut self, slot: u32) {
        if self.generations.len() <= slot as usize {
            self.generations.resize(slot as usize + 1, 0);
        }
        self.generations[slot as usize] += 1;
        self.event(Event::Accepted { slot });
    }

    /// `connect SLOT DEVICE [inbox=N] [group=N] [epoch=MS] [beat=S]`
    fn connect(&mut self, slot: u32, words: &[&str]) -> Vec<String> {
        let option = |name: &str| {
            let word = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            word.map(|value| value.parse::<u64>().expect("a number"))
        };
        let ticket = ticket("shop", words[0], Algorithm::HmacSha256, EXPIRES_S);
        let connect = Connect {
            heartbeat_s: option("beat").unwrap_or(0) as u16,
            last_epoch: option("epoch")
                .map_or(Epoch::ZERO, |ms| Epoch::from_ms(START_UNIX_MS + ms)),
            inbox: Seq(option("inbox").unwrap_or(0)),
            group: option("group").map(Seq),
            ..connect(&ticket)
        };
        self.frame(slot, Uplink::Connect(connect));
        self.turn()
    }

    /// A session, without ending the turn.
    pub fn start_quietly(&mut self, slot: u32) {
        self.accept(slot);
        let ticket = ticket("shop", &format!("device-{slot}"), Algorithm::HmacSha256, EXPIRES_S);
        self.frame(slot, Uplink::Connect(connect(&ticket)));
    }

    pub fn frame(&mut self, slot: u32, frame: Uplink<'_>) {
        self.event(Event::Frame { slot, frame });
    }

    pub fn event(&mut self, event: Event<'_>) {
        self.core.on_event(event, self.now, &mut self.out);
    }

    /// Ends the turn and says what it did.
    pub fn turn(&mut self) -> Vec<String> {
        self.core.on_turn(self.now, self.gauges, &mut self.out);
        self.core.invariants();
        let mut done = Vec::new();
        for action in &self.out.list {
            tell(action, &self.out, &mut done);
        }
        self.out.clear();
        done
    }
}

/// The last word of a list of entries may be preceded by `more`.
fn more<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    match words {
        ["more", rest @ ..] => (true, rest),
        rest => (false, rest),
    }
}

/// `7=text`, `7=text!` when-awake, `7=?` without a body; `7@9=text` for topic 9.
fn entry(word: &str, topic: TopicId) -> (Entry<'static>, String) {
    let (place, payload) = word.split_once('=').expect("seq=payload");
    let (seq, topic) = match place.split_once('@') {
        Some((seq, topic)) => (seq, TopicId(topic.parse().expect("a topic"))),
        None => (place, topic),
    };
    let mut flags = EntryFlags::NONE;
    let mut payload = payload.to_string();
    if payload.ends_with('!') {
        payload.pop();
        flags = flags.with(EntryFlags::WHEN_AWAKE);
    }
    if payload == "?" {
        payload.clear();
        flags = flags.with(EntryFlags::NO_BODY);
    }
    if payload == "large" {
        payload = "x".repeat(hawser_codec::limits::INLINE_BYTES_MAX + 1);
    }
    (Entry { seq: Seq(seq.parse().expect("a number")), topic, flags, payload: &[] }, payload)
}

/// Says what an action is, frame by frame.
fn tell(action: &Action, out: &Actions, done: &mut Vec<String>) {
    match action {
        Action::StartReading { slot } => done.push(format!("{slot}:start")),
        Action::Close { slot, reason } => done.push(format!("{slot}:close {}", reason.label())),
        Action::SaveKeys { .. } => done.push("save-keys".into()),
        Action::StopAccepting => done.push("stop-accepting".into()),
        Action::Drained => done.push("drained".into()),
        Action::Send { slot, frame } => {
            for frame in frames(out.frame(frame)) {
                let frame = Downlink::decode(frame).unwrap().unwrap();
                done.push(format!("{slot}<{}", tell_downlink(&frame)));
            }
        }
        Action::SendLink { link, frame } => {
            for frame in frames(out.frame(frame)) {
                let frame = ToControl::decode(frame).unwrap().unwrap();
                done.push(format!("L{}>{}", link.0, tell_to_control(&frame)));
            }
        }
    }
}

pub fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (frame, rest) = split(bytes, LINK_BODY_BYTES_MAX).unwrap().expect("frames are whole");
        all.push(frame);
        bytes = rest;
    }
    all
}

fn tell_downlink(frame: &Downlink<'_>) -> String {
    let text = |payload: &[u8]| match payload.len() {
        0..=20 => String::from_utf8_lossy(payload).into_owned(),
        bytes => format!("({bytes} bytes)"),
    };
    let stream = |stream: &Stream| if *stream == Stream::Inbox { "inbox" } else { "group" };
    match frame {
        Downlink::Pong => "pong".into(),
        Downlink::Welcome(welcome) => match welcome.group {
            Some(seq) => format!("welcome {}s group={}", welcome.heartbeat_s, seq.0),
            None => format!("welcome {}s", welcome.heartbeat_s),
        },
        Downlink::Push { seq, payload } => format!("push {} {}", seq.0, text(payload)),
        Downlink::Broadcast { seq, payload } => format!("cast {} {}", seq.0, text(payload)),
        Downlink::TopicPush { seq, tag, payload } => {
            format!("topic {} #{tag} {}", seq.0, text(payload))
        }
        Downlink::Notice { stream: of, latest } => format!("notice {} {}", stream(of), latest.0),
        Downlink::CaughtUp { stream: of, upto, more } => {
            format!("caught {} {}{}", stream(of), upto.0, if *more { " more" } else { "" })
        }
        Downlink::Reset { stream: of, seq } => format!("reset {} {}", stream(of), seq.0),
        Downlink::Interval { heartbeat_s } => format!("interval {heartbeat_s}s"),
        Downlink::Close(close) => {
            let label = close.reason.label();
            let addresses: String = close.addresses.iter().map(|at| format!(" {at}")).collect();
            format!("close {label} {}ms{addresses}", close.retry_after_ms)
        }
    }
}

fn tell_to_control(frame: &ToControl<'_>) -> String {
    fn list<T>(name: &str, records: impl Iterator<Item = T>, tell: fn(T) -> String) -> String {
        records.fold(name.to_string(), |all, record| format!("{all} {}", tell(record)))
    }
    match *frame {
        ToControl::Announce(records) => list("announce", records.iter(), |record| {
            format!("{}={}", record.session.slot, record.acked.0)
        }),
        ToControl::Gone(records) => list("gone", records.iter(), |record| {
            format!("{} {}", record.session.slot, record.reason.label())
        }),
        ToControl::Pull(records) => list("pull", records.iter(), |record| {
            format!("{}@{}", record.session.slot, record.from.0)
        }),
        ToControl::Ack(records) => list("ack", records.iter(), |record| record.seq.0.to_string()),
        ToControl::GroupAck(records) => {
            list("gack", records.iter(), |record| format!("{}x{}", record.seq.0, record.count))
        }
        ToControl::GroupPull { session, from, topics, .. } => {
            let mut topics: Vec<u64> = topics.iter().map(|topic| topic.0).collect();
            topics.sort_unstable();
            format!("gpull {}@{} {topics:?}", session.slot, from.0)
        }
        ToControl::GroupFetch { from, .. } => format!("gfetch {}", from.0),
        ToControl::GroupSent { seq, sent, waiting, .. } => {
            format!("gsent {} {sent}+{waiting}", seq.0)
        }
        ToControl::Pong { epoch } => format!("pong {}", epoch.unix_ms() - START_UNIX_MS),
        ToControl::Hello(_) | ToControl::Proof { .. } => unreachable!("the shell's"),
    }
}

/// The key set of the stage: `shop` signs by HMAC, `news` by Ed25519, both with key 1.
pub fn keys(version: u64) -> Keys<'static> {
    let public = SigningKey::from_bytes(&ED25519_SEED).verifying_key().to_bytes();
    let hmac = VerifyKey { id: 1, algorithm: Algorithm::HmacSha256, key: HMAC_KEY };
    let ed25519 = VerifyKey { id: 1, algorithm: Algorithm::Ed25519, key: public };
    let apps = vec![
        AppKeys { app: SHOP, name: "shop", keys: vec![hmac] },
        AppKeys { app: NEWS, name: "news", keys: vec![ed25519] },
    ];
    Keys { version, hash_key: HASH_KEY, apps }
}

/// The connect of a device that was never here.
pub fn connect(ticket: &[u8]) -> Connect<'_> {
    Connect {
        major: MAJOR,
        minor: MINOR,
        heartbeat_s: 0,
        network: 0,
        last_epoch: Epoch::ZERO,
        inbox: Seq::ZERO,
        group: None,
        ticket,
    }
}

/// A ticket signed with key 1 of the algorithm.
pub fn ticket(app: &str, device: &str, algorithm: Algorithm, expires_s: u64) -> Vec<u8> {
    let mut ticket = Ticket::unsigned(algorithm, 1, expires_s, app, device);
    let signed = [SIGNATURE_CONTEXT, &ticket].concat();
    match algorithm {
        Algorithm::Ed25519 => {
            let key = SigningKey::from_bytes(&ED25519_SEED);
            ticket.extend_from_slice(&key.sign(&signed).to_bytes());
        }
        Algorithm::HmacSha256 => {
            let mut mac = Hmac::<Sha256>::new_from_slice(&HMAC_KEY).unwrap();
            mac.update(&signed);
            ticket.extend_from_slice(&mac.finalize().into_bytes());
        }
    }
    ticket
}
