//! A device's session under any order of events, most of which a correct caller and broker would
//! never cause. The input is a script: `[operation u8][argument u8]...`, where some operations take
//! the next bytes of the input as what the broker sends.
//!
//! What holds whatever happens: a message is reported once and in ascending order, positions go
//! back only with a reset, a stopped session stays stopped and writes nothing, and whatever the
//! session writes decodes as a device's frames.

use hawser_codec::device::Uplink;
use hawser_codec::frame::{Framer, split};
use hawser_codec::ids::{Seq, Stream, TopicId};
use hawser_codec::limits::UPLINK_BODY_BYTES_MAX;
use hawser_codec::session::{Backoff, Command, Event, Positions, Profile, Session};

/// Plays a script to its end.
pub fn session(mut input: &[u8]) {
    let topics = [TopicId::new("news")];
    let backoff = Backoff { first_ms: 3_000, max_ms: 300_000 };
    let profile =
        Profile { ticket: b"ticket", topics: &topics, heartbeat_s: 0, network: 1, backoff };
    let mut stage = Stage {
        session: Session::new(Positions::default(), 7, 0),
        framer: Framer::default(),
        now_ms: 0,
        out: Vec::new(),
        inbox: Seq::ZERO,
        group: None,
    };
    while let [operation, argument, rest @ ..] = input {
        input = rest;
        let stopped = stage.session.stopped();
        match operation % 8 {
            0 => {
                stage.now_ms = stage.now_ms.saturating_add(1 << (argument % 24));
                stage.session.on_time(stage.now_ms, &mut stage.out);
            }
            1 => {
                // As a caller does: it connects when it was told to dial.
                stage.now_ms = stage.now_ms.max(stage.session.deadline_ms().min(1 << 40));
                if stage.session.on_time(stage.now_ms, &mut stage.out) == Command::Dial {
                    stage.framer = Framer::default();
                    stage.session.on_connected(&profile, stage.now_ms, &mut stage.out);
                }
            }
            2 => {
                stage.framer = Framer::default();
                stage.session.on_connected(&profile, stage.now_ms, &mut stage.out);
            }
            3 => {
                stage.session.on_disconnected(backoff, stage.now_ms);
                stage.framer = Framer::default();
            }
            4 if stage.session.is_online() => stage.session.ping(stage.now_ms, &mut stage.out),
            5 if *argument == 255 => stage.session.leave(&mut stage.out),
            _ => {
                let (bytes, rest) = input.split_at(usize::from(*argument).min(input.len()));
                input = rest;
                stage.receive(bytes);
            }
        }
        if stopped.is_some() {
            assert_eq!(stage.session.stopped(), stopped, "stopped is for good");
            assert!(stage.out.is_empty(), "a stopped session says nothing");
        }
        stage.check_output();
    }
}

struct Stage {
    session: Session,
    framer: Framer,
    now_ms: u64,
    out: Vec<u8>,
    /// What the application was told last.
    inbox: Seq,
    group: Option<Seq>,
}

impl Stage {
    fn receive(&mut self, bytes: &[u8]) {
        let before = self.session.positions();
        let (inbox, group) = (&mut self.inbox, &mut self.group);
        let mut reset = false;
        let result =
            self.session.on_bytes(&mut self.framer, bytes, self.now_ms, &mut self.out, |event| {
                match event {
                    Event::Message { stream: Stream::Inbox, seq, .. } => {
                        assert!(seq > *inbox, "in order, once");
                        *inbox = seq;
                    }
                    Event::Message { stream: Stream::Group, seq, .. } => {
                        assert!(group.is_none_or(|last| seq > last), "in order, once");
                        *group = Some(seq);
                    }
                    Event::Reset { stream, seq } => {
                        reset = true;
                        match stream {
                            Stream::Inbox => *inbox = seq,
                            Stream::Group => *group = Some(seq),
                        }
                    }
                    Event::Welcomed { .. }
                    | Event::Ready
                    | Event::Repeat { .. }
                    | Event::Pong
                    | Event::CaughtUp { .. }
                    | Event::Closing(_) => {}
                }
            });
        match result {
            Ok(command) => assert_ne!(command, Command::Dial),
            Err(_) => {
                assert!(!self.session.is_online(), "an error ends the connection");
                self.framer = Framer::default();
            }
        }
        let after = self.session.positions();
        if !reset {
            assert!(after.inbox >= before.inbox, "positions grow");
            assert!(after.group >= before.group, "positions grow");
        }
    }

    /// Everything written is a device's frames, whole.
    fn check_output(&mut self) {
        let mut rest = self.out.as_slice();
        while let Some((frame, after)) = split(rest, UPLINK_BODY_BYTES_MAX).expect("our own frames")
        {
            assert!(matches!(Uplink::decode(frame), Ok(Some(_))), "{frame:?}");
            rest = after;
        }
        assert!(rest.is_empty());
        self.out.clear();
    }
}
