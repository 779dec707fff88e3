//! A client that says byte by byte what it wants, for requests that no library would send.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use crate::control::Control;
use crate::running::DEADLINE;

pub struct Raw(TcpStream);

impl Raw {
    /// Connects and sends this much of a request.
    pub fn start(control: &Control, text: &str) -> Raw {
        let stream = TcpStream::connect(&control.api).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut raw = Raw(stream);
        raw.send(text.as_bytes());
        raw
    }

    /// The server may have answered and hung up before the last byte: the answer tells.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// The head of the next answer.
    pub fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    /// The status of the next answer, and its body.
    pub fn answer(&mut self) -> (u16, String) {
        let head = self.head().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split('\r').next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }

    /// Sends one byte after the other until the server ends the connection, and returns what it
    /// said before that.
    pub fn trickle(mut self, mut meanwhile: impl FnMut()) -> String {
        let mut said = Vec::new();
        self.0.set_nonblocking(true).unwrap();
        crate::running::eventually("the server ends the connection", || {
            meanwhile();
            // It fails when the connection has ended, which the read below tells too.
            let _ = self.0.write(b"x");
            match self.0.read_to_end(&mut said) {
                Ok(_) => Some(()),
                Err(error) => (error.kind() != ErrorKind::WouldBlock).then_some(()),
            }
        });
        String::from_utf8(said).unwrap()
    }

    /// Waits for the server to end the connection without an answer.
    pub fn ended(mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}
