//! The broker's end of a link, played by a test.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use hawser_codec::frame::{Frame, Framer};
use hawser_codec::limits::LINK_BODY_BYTES_MAX;
use hawser_codec::link::{
    BROKER_PROOF_CONTEXT, CONTROL_PROOF_CONTEXT, Hello, MAJOR, MINOR, ToBroker, to_control,
};
use hawser_control::secrets::LinkKey;

use crate::control::{Control, LINK_KEY};
use crate::running::DEADLINE;

/// A connection to the link port and the frames that have come on it.
pub struct Shard {
    stream: TcpStream,
    framer: Framer,
    frames: std::collections::VecDeque<(u8, Vec<u8>)>,
}

pub fn hello(shard: u16) -> Hello {
    Hello { major: MAJOR, minor: MINOR, broker: 7, incarnation: 1, shard, nonce: [9; 32] }
}

impl Shard {
    /// Says nothing yet.
    pub fn dial(control: &Control) -> Shard {
        let stream = TcpStream::connect(&control.link).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Shard { stream, framer: Framer::default(), frames: Default::default() }
    }

    /// An authenticated link that has had its keys.
    pub fn link(control: &Control, number: u16) -> Shard {
        Shard::try_link(control, number).expect("there is room for a link")
    }

    /// `None`: the other end hung up.
    pub fn try_link(control: &Control, number: u16) -> Option<Shard> {
        let mut shard = Shard::dial(control);
        shard.try_shake(&hello(number), LINK_KEY)?;
        shard.try_next(|frame| matches!(frame, ToBroker::Accepted { .. }).then_some(()))?;
        shard.try_next(|frame| matches!(frame, ToBroker::Keys(_)).then_some(()))?;
        Some(shard)
    }

    /// The handshake with this key, up to the proof.
    pub fn shake(&mut self, hello: &Hello, key: &str) {
        self.try_shake(hello, key).expect("there is room for a link");
    }

    fn try_shake(&mut self, hello: &Hello, key: &str) -> Option<()> {
        let key = LinkKey::parse(key).unwrap();
        let mut bytes = Vec::new();
        to_control::hello(&mut bytes, hello);
        self.send_or_not(&bytes);
        let (node, nonce, proof) = self.try_next(|frame| match frame {
            ToBroker::Challenge { node, nonce, proof, .. } => Some((*node, *nonce, *proof)),
            _ => None,
        })?;
        let transcript = hello.transcript(node, &nonce);
        let right = LinkKey::parse(LINK_KEY).unwrap();
        assert!(right.verifies(CONTROL_PROOF_CONTEXT, &transcript, &proof));
        let proof = key.proof(BROKER_PROOF_CONTEXT, &transcript);
        bytes.clear();
        to_control::proof(&mut bytes, &proof);
        self.send_or_not(&bytes);
        Some(())
    }

    pub fn send(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The other end may have hung up before it has read all.
    pub fn send_or_not(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Waits for the first frame of which `pick` makes something; pings are answered, others
    /// skipped.
    #[track_caller]
    pub fn next<T>(&mut self, pick: impl FnMut(&ToBroker<'_>) -> Option<T>) -> T {
        self.try_next(pick).expect("the link ended while a frame was awaited")
    }

    /// `None`: the link ended.
    fn try_next<T>(&mut self, mut pick: impl FnMut(&ToBroker<'_>) -> Option<T>) -> Option<T> {
        loop {
            while let Some((kind, body)) = self.frames.pop_front() {
                let frame = ToBroker::decode(Frame { kind, body: &body }).unwrap().unwrap();
                if let ToBroker::Ping { epoch } = frame {
                    self.send(|out| to_control::pong(out, epoch));
                }
                if let Some(found) = pick(&frame) {
                    return Some(found);
                }
            }
            if !self.read() {
                return None;
            }
        }
    }

    /// Waits until the other end hangs up; nothing but these frames may come before.
    pub fn ends(&mut self) -> Vec<(u8, Vec<u8>)> {
        while self.read() {}
        self.frames.drain(..).collect()
    }

    /// False: the other end has hung up.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            // The test was stopped for a while and goes on.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => true,
            Ok(0) => false,
            Ok(count) => {
                let frames = &mut self.frames;
                let each = |frame: Frame<'_>| {
                    frames.push_back((frame.kind, frame.body.to_vec()));
                    Ok::<(), hawser_codec::error::DecodeError>(())
                };
                self.framer.feed(&buffer[..count], LINK_BODY_BYTES_MAX, each).unwrap();
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing came: {error}"),
        }
    }
}
