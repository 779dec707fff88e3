//! The client's half of TCP for millions of connections: 12 bytes for an idle one.
//!
//! ```text
//!  Closed ─connect▶ Opening ─SYN+ACK▶ Open ─finish▶ Finishing ─their FIN▶ Closed
//!                                       └─their FIN, answered with ours─▶ Leaving ─ACK▶ Closed
//! ```
//!
//! It owns no socket and no clock: packets go in, packets come out. What has been sent and is not
//! acknowledged lives in a [`Flight`], which an idle connection does not have. A flight is sent
//! again after [`RTO_MS`], twice that, and so on, and given up after [`TRIES_MAX`] times.
//!
//! What it leaves out, as RFC 9293 lets a host: it keeps no segment that arrives out of order, it
//! scales no window and takes no timestamps, it closes without the wait that follows a FIN, and it
//! has no congestion window but a limit of [`IN_FLIGHT_MAX`] bytes, since devices say little.

use super::packet::{ACK, FIN, Header, Lane, MSS, PSH, Packets, Place, RST, SYN};

/// RFC 6298: one second before anything is known of the path, and at least.
pub const RTO_MS: u64 = 1_000;
const RTO_MAX_MS: u64 = 60_000;
pub const TRIES_MAX: u8 = 7;

/// Ten segments, the initial window of RFC 6928.
const IN_FLIGHT_MAX: usize = 10 * MSS;

const WINDOW: u16 = u16::MAX;

/// Room for flights that is not given back.
const FLIGHTS_KEPT: usize = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Opening,
    Open,
    Finishing,
    Leaving,
}

/// One connection.
#[derive(Clone, Copy)]
struct Block {
    /// The number of the next byte to be sent, and of the next to come.
    snd_nxt: u32,
    rcv_nxt: u32,
    /// `flight: 24 | state: 3 | turn: 1 | stalled: 1`.
    word: u32,
}

const NO_FLIGHT: u32 = (1 << 24) - 1;
const STATE_SHIFT: u32 = 24;
const TURN: u32 = 1 << 27;
const STALLED: u32 = 1 << 28;

pub const BLOCK_BYTES: usize = size_of::<Block>();

/// What a connection has under way.
struct Flight {
    device: u32,
    /// The number of the first byte in `bytes`, or of the SYN.
    una: u32,
    /// Not acknowledged; the first `sent` of them have been sent.
    bytes: Vec<u8>,
    sent: usize,
    /// What the peer allows beyond `una`.
    window: usize,
    syn: bool,
    fin: Fin,
    tries: u8,
    due_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fin {
    None,
    Wanted,
    Sent,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer has said all it has to say.
    Finished,
    Reset,
}

/// What a packet was about. After it the device sends something or [`Tcp::acknowledge`]s.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard<'p> {
    pub device: u32,
    pub connected: bool,
    pub data: &'p [u8],
    pub end: Option<End>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Segments that were sent again, here and by the peer.
    pub repeated: u64,
    pub repeats_heard: u64,
    pub out_of_order: u64,
    pub strays: u64,
}

pub struct Tcp {
    lane: Lane,
    port: u16,
    blocks: Vec<Block>,
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    pub counters: Counters,
}

impl Block {
    fn state(&self) -> State {
        match self.word >> STATE_SHIFT & 7 {
            0 => State::Closed,
            1 => State::Opening,
            2 => State::Open,
            3 => State::Finishing,
            _ => State::Leaving,
        }
    }

    fn set_state(&mut self, state: State) {
        self.word = self.word & !(7 << STATE_SHIFT) | (state as u32) << STATE_SHIFT;
    }

    fn flight(&self) -> Option<usize> {
        Some(self.word & NO_FLIGHT).filter(|&at| at != NO_FLIGHT).map(|at| at as usize)
    }

    fn set_flight(&mut self, at: u32) {
        self.word = self.word & !NO_FLIGHT | at;
    }

    fn window(&self) -> u16 {
        if self.word & STALLED == 0 { WINDOW } else { 0 }
    }

    fn place(&self, device: u32) -> Place {
        Place { device, turn: self.word & TURN != 0 }
    }
}

impl Tcp {
    /// Towards `port` of the lane's server.
    pub fn new(lane: Lane, port: u16) -> Tcp {
        let (blocks, flights, free) = (Vec::new(), Vec::new(), Vec::new());
        Tcp { lane, port, blocks, flights, free, counters: Counters::default() }
    }

    /// Room for so many devices, exactly: growing by halves would cost millions of blocks.
    pub fn reserve(&mut self, devices: usize) {
        self.blocks.reserve_exact(devices.saturating_sub(self.blocks.len()));
    }

    pub fn memory_bytes(&self) -> usize {
        let blocks = self.blocks.capacity() * BLOCK_BYTES;
        blocks + self.flights.capacity() * size_of::<Option<Flight>>() + 4 * self.free.capacity()
    }

    pub fn is_open(&self, device: u32) -> bool {
        self.blocks.get(device as usize).is_some_and(|block| block.state() == State::Open)
    }

    pub fn connect(&mut self, device: u32, now_ms: u64, out: &mut Packets) {
        let index = device as usize;
        if index >= self.blocks.len() {
            let word = NO_FLIGHT;
            self.blocks.resize(index + 1, Block { snd_nxt: 0, rcv_nxt: 0, word });
        }
        self.forget(device);
        let block = &mut self.blocks[index];
        block.word = (block.word ^ TURN) & !STALLED;
        block.set_state(State::Opening);
        // It grows with time, so that the peer can tell a new connection from a late segment.
        let first = device.wrapping_mul(0x9e37_79b1).wrapping_add((now_ms as u32) << 8);
        block.snd_nxt = first.wrapping_add(1);
        let mut flight = Flight::new(device, first, now_ms);
        flight.syn = true;
        self.launch(flight);
        let header = Header { flags: SYN, seq: first, ack: 0, window: WINDOW };
        header.put(out, self.lane, self.blocks[index].place(device), self.port, &[]);
    }

    /// Takes a packet from the kernel. `None`: it was not for a connection that is.
    pub fn on_packet<'p>(
        &mut self,
        packet: &'p [u8],
        now_ms: u64,
        out: &mut Packets,
    ) -> Option<Heard<'p>> {
        let (place, port, header, data) = Header::read(self.lane, packet)?;
        let device = place.device;
        let block = self.blocks.get(device as usize).copied();
        let known = block.filter(|block| {
            port == self.port && block.place(device) == place && block.state() != State::Closed
        });
        let Some(block) = known else {
            self.counters.strays += 1;
            if !header.has(RST) {
                let ends =
                    data.len() as u32 + u32::from(header.has(SYN)) + u32::from(header.has(FIN));
                let ack = header.seq.wrapping_add(ends);
                let reset = Header { flags: RST | ACK, seq: header.ack, ack, window: 0 };
                reset.put(out, self.lane, place, port, &[]);
            }
            return None;
        };
        match block.state() {
            State::Opening => self.on_answer(device, &header, now_ms, out),
            _ => self.on_segment(device, &header, data, now_ms, out),
        }
    }

    /// The answer to a SYN.
    fn on_answer<'p>(
        &mut self,
        device: u32,
        header: &Header,
        now_ms: u64,
        out: &mut Packets,
    ) -> Option<Heard<'p>> {
        let block = &mut self.blocks[device as usize];
        if !header.has(ACK) || header.ack != block.snd_nxt {
            // Of an earlier connection that the peer still believes in: RFC 9293, 3.10.7.3.
            self.counters.strays += 1;
            if header.has(ACK) && !header.has(RST) {
                let reset = Header { flags: RST, seq: header.ack, ack: 0, window: 0 };
                reset.put(out, self.lane, block.place(device), self.port, &[]);
            }
            return None;
        }
        if header.has(RST) {
            self.forget(device);
            return Some(Heard { device, connected: false, data: &[], end: Some(End::Reset) });
        }
        if !header.has(SYN) {
            return None;
        }
        block.rcv_nxt = header.seq.wrapping_add(1);
        block.set_state(State::Open);
        self.on_ack(device, header, now_ms, out);
        Some(Heard { device, connected: true, data: &[], end: None })
    }

    fn on_segment<'p>(
        &mut self,
        device: u32,
        header: &Header,
        data: &'p [u8],
        now_ms: u64,
        out: &mut Packets,
    ) -> Option<Heard<'p>> {
        let block = self.blocks[device as usize];
        let ahead = header.seq.wrapping_sub(block.rcv_nxt) as i32;
        if header.has(RST) {
            // RFC 5961: only the exact number resets.
            if ahead != 0 {
                self.acknowledge(device, out);
                return None;
            }
            let was_open = block.state() == State::Open;
            self.forget(device);
            let end = Some(End::Reset);
            return was_open.then_some(Heard { device, connected: false, data: &[], end });
        }
        if header.has(SYN) {
            // The acknowledgement of the handshake was lost.
            self.counters.repeats_heard += 1;
            self.acknowledge(device, out);
            return None;
        }
        if header.has(ACK) {
            self.on_ack(device, header, now_ms, out);
            if self.blocks[device as usize].state() == State::Closed {
                return None;
            }
        }
        if data.is_empty() && !header.has(FIN) {
            if ahead < 0 {
                // A probe, of a window or of a peer that has been silent.
                self.acknowledge(device, out);
            }
            return None;
        }
        let Some(fresh) = self.fresh(&block, ahead, data, header.has(FIN)) else {
            self.acknowledge(device, out);
            return None;
        };
        let is_over = header.has(FIN);
        let block = &mut self.blocks[device as usize];
        block.rcv_nxt = block.rcv_nxt.wrapping_add(fresh.len() as u32 + u32::from(is_over));
        let was_finishing = block.state() != State::Open;
        if is_over {
            self.on_fin(device, now_ms, out);
        }
        if was_finishing {
            // What the device has left unread; it is acknowledged and nobody's.
            if self.blocks[device as usize].state() != State::Closed {
                self.acknowledge(device, out);
            }
            return None;
        }
        let end = is_over.then_some(End::Finished);
        Some(Heard { device, connected: false, data: fresh, end })
    }

    /// The part of a segment that is new; `None`: nothing of it can be taken.
    fn fresh<'p>(
        &mut self,
        block: &Block,
        ahead: i32,
        data: &'p [u8],
        fin: bool,
    ) -> Option<&'p [u8]> {
        if ahead > 0 {
            self.counters.out_of_order += 1;
            return None;
        }
        let had = ahead.unsigned_abs() as usize;
        if had >= data.len() + usize::from(fin) {
            self.counters.repeats_heard += 1;
            return None;
        }
        // Whoever does not read has no room.
        (block.window() > 0).then(|| &data[had.min(data.len())..])
    }

    fn on_fin(&mut self, device: u32, now_ms: u64, out: &mut Packets) {
        match self.blocks[device as usize].state() {
            State::Open => {
                self.blocks[device as usize].set_state(State::Leaving);
                self.say_fin(device, now_ms, out);
            }
            State::Finishing => {
                self.acknowledge(device, out);
                self.forget(device);
            }
            State::Leaving | State::Closed | State::Opening => {}
        }
    }

    fn on_ack(&mut self, device: u32, header: &Header, now_ms: u64, out: &mut Packets) {
        let block = self.blocks[device as usize];
        let Some(at) = block.flight() else { return };
        let flight = self.flights[at].as_mut().expect("a block's flight is there");
        let acked = header.ack.wrapping_sub(flight.una);
        if acked > block.snd_nxt.wrapping_sub(flight.una) {
            return;
        }
        let has_opened = flight.window == 0 && header.window > 0;
        flight.window = usize::from(header.window);
        if flight.window == 0 {
            // It is there, and does not read: that is no reason to give it up.
            flight.tries = 0;
        }
        if acked > 0 {
            let mut acked = acked as usize;
            flight.una = header.ack;
            acked -= usize::from(std::mem::take(&mut flight.syn));
            let bytes = acked.min(flight.sent);
            flight.bytes.drain(..bytes);
            flight.sent -= bytes;
            if acked > bytes {
                assert!(flight.fin == Fin::Sent, "more is acknowledged than was sent");
                flight.fin = Fin::None;
                self.forget_flight(device);
                if self.blocks[device as usize].state() == State::Leaving {
                    self.forget(device);
                }
                return;
            }
            flight.tries = 0;
            flight.due_ms = now_ms + RTO_MS;
        }
        if has_opened && flight.fin != Fin::Sent {
            // What was sent to ask about the window was not kept.
            flight.sent = 0;
            self.blocks[device as usize].snd_nxt = flight.una;
        }
        if flight.bytes.is_empty() && flight.fin == Fin::None {
            self.forget_flight(device);
        } else {
            self.transmit(device, out);
        }
    }

    /// Sends bytes, and with them what is acknowledged. Ignored unless the connection is open.
    pub fn send(&mut self, device: u32, bytes: &[u8], now_ms: u64, out: &mut Packets) {
        let block = self.blocks[device as usize];
        if block.state() != State::Open {
            return;
        }
        let at = match block.flight() {
            Some(at) => at,
            None => self.launch(Flight::new(device, block.snd_nxt, now_ms)),
        };
        let flight = self.flights[at].as_mut().expect("a block's flight is there");
        flight.bytes.extend_from_slice(bytes);
        if !self.transmit(device, out) {
            self.acknowledge(device, out);
        }
    }

    /// Acknowledges all that has come, with nothing else to say.
    pub fn acknowledge(&mut self, device: u32, out: &mut Packets) {
        let block = &self.blocks[device as usize];
        let header =
            Header { flags: ACK, seq: block.snd_nxt, ack: block.rcv_nxt, window: block.window() };
        header.put(out, self.lane, block.place(device), self.port, &[]);
    }

    /// Says that nothing more will come; what still arrives is nobody's.
    pub fn finish(&mut self, device: u32, now_ms: u64, out: &mut Packets) {
        match self.blocks[device as usize].state() {
            State::Open => {
                self.blocks[device as usize].set_state(State::Finishing);
                self.say_fin(device, now_ms, out);
            }
            State::Opening => self.reset(device, out),
            State::Closed | State::Finishing | State::Leaving => {}
        }
    }

    /// Breaks the connection off.
    pub fn reset(&mut self, device: u32, out: &mut Packets) {
        let block = self.blocks[device as usize];
        if block.state() != State::Closed {
            let (seq, ack) = (block.snd_nxt, block.rcv_nxt);
            let header = Header { flags: RST | ACK, seq, ack, window: 0 };
            header.put(out, self.lane, block.place(device), self.port, &[]);
            self.forget(device);
        }
    }

    /// Stops reading, or begins again and says that there is room.
    pub fn stall(&mut self, device: u32, stalled: bool, out: &mut Packets) {
        let block = &mut self.blocks[device as usize];
        block.word = if stalled { block.word | STALLED } else { block.word & !STALLED };
        if self.is_open(device) {
            self.acknowledge(device, out);
        }
    }

    /// Sends again what is overdue; `lost` hears of those that are given up.
    pub fn on_time(&mut self, now_ms: u64, out: &mut Packets, mut lost: impl FnMut(u32)) {
        self.give_back();
        for at in 0..self.flights.len() {
            let Some(flight) = self.flights[at].as_mut() else { continue };
            if flight.due_ms > now_ms {
                continue;
            }
            let device = flight.device;
            if flight.tries == TRIES_MAX {
                let was_open = self.blocks[device as usize].state();
                self.reset(device, out);
                if matches!(was_open, State::Opening | State::Open) {
                    lost(device);
                }
                continue;
            }
            flight.tries += 1;
            flight.due_ms = now_ms + (RTO_MS << flight.tries).min(RTO_MAX_MS);
            self.counters.repeated += 1;
            self.send_again(at, out);
        }
    }

    /// After a storm nearly all places of flights are free, and each is looked at every time: those
    /// that are left move together.
    fn give_back(&mut self) {
        let used = self.flights.len() - self.free.len();
        if self.flights.len() <= FLIGHTS_KEPT || used > self.flights.len() / 4 {
            return;
        }
        self.flights.retain(Option::is_some);
        self.flights.shrink_to(2 * used);
        self.free = Vec::new();
        for (at, flight) in self.flights.iter().enumerate() {
            let device = flight.as_ref().expect("it was retained").device;
            self.blocks[device as usize].set_flight(at as u32);
        }
    }

    fn send_again(&mut self, at: usize, out: &mut Packets) {
        let flight = self.flights[at].as_mut().expect("it is overdue");
        let block = &mut self.blocks[flight.device as usize];
        let place = block.place(flight.device);
        let (mut flags, seq, window) = (ACK, flight.una, block.window());
        let mut payload: &[u8] = &[];
        if flight.syn {
            flags = SYN;
        } else if flight.bytes.is_empty() {
            flags |= FIN;
        } else {
            if flight.sent == 0 {
                // The window is closed: one byte asks whether it still is.
                flight.sent = 1;
                block.snd_nxt = flight.una.wrapping_add(1);
            }
            payload = &flight.bytes[..flight.sent.min(MSS)];
            flags |= PSH;
        }
        let ack = if flight.syn { 0 } else { block.rcv_nxt };
        Header { flags, seq, ack, window }.put(out, self.lane, place, self.port, payload);
    }

    /// Sends what the window allows; whether that was anything.
    fn transmit(&mut self, device: u32, out: &mut Packets) -> bool {
        let block = &mut self.blocks[device as usize];
        let Some(at) = block.flight() else { return false };
        let flight = self.flights[at].as_mut().expect("a block's flight is there");
        let (place, ack, window) = (block.place(device), block.rcv_nxt, block.window());
        let allowed = flight.window.min(IN_FLIGHT_MAX).min(flight.bytes.len());
        let mut has_sent = false;
        while flight.sent < allowed {
            let end = allowed.min(flight.sent + MSS);
            let header = Header { flags: PSH | ACK, seq: block.snd_nxt, ack, window };
            header.put(out, self.lane, place, self.port, &flight.bytes[flight.sent..end]);
            block.snd_nxt = block.snd_nxt.wrapping_add((end - flight.sent) as u32);
            flight.sent = end;
            has_sent = true;
        }
        if flight.fin == Fin::Wanted && flight.sent == flight.bytes.len() {
            let header = Header { flags: FIN | ACK, seq: block.snd_nxt, ack, window };
            header.put(out, self.lane, place, self.port, &[]);
            block.snd_nxt = block.snd_nxt.wrapping_add(1);
            flight.fin = Fin::Sent;
            has_sent = true;
        }
        has_sent
    }

    fn say_fin(&mut self, device: u32, now_ms: u64, out: &mut Packets) {
        let block = self.blocks[device as usize];
        let at = match block.flight() {
            Some(at) => at,
            None => self.launch(Flight::new(device, block.snd_nxt, now_ms)),
        };
        self.flights[at].as_mut().expect("a block's flight is there").fin = Fin::Wanted;
        self.transmit(device, out);
    }

    fn launch(&mut self, flight: Flight) -> usize {
        let device = flight.device;
        let at = match self.free.pop() {
            Some(at) => at as usize,
            None => {
                assert!(self.flights.len() < NO_FLIGHT as usize);
                self.flights.push(None);
                self.flights.len() - 1
            }
        };
        self.flights[at] = Some(flight);
        self.blocks[device as usize].set_flight(at as u32);
        at
    }

    fn forget_flight(&mut self, device: u32) {
        let block = &mut self.blocks[device as usize];
        if let Some(at) = block.flight() {
            block.set_flight(NO_FLIGHT);
            self.flights[at] = None;
            self.free.push(at as u32);
        }
    }

    fn forget(&mut self, device: u32) {
        self.forget_flight(device);
        self.blocks[device as usize].set_state(State::Closed);
    }
}

impl Flight {
    fn new(device: u32, una: u32, now_ms: u64) -> Flight {
        Flight {
            device,
            una,
            bytes: Vec::new(),
            sent: 0,
            window: usize::from(WINDOW),
            syn: false,
            fin: Fin::None,
            tries: 0,
            due_ms: now_ms + RTO_MS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 7400;

    /// A connection, and the server's numbers.
    struct Script {
        tcp: Tcp,
        out: Packets,
        /// The server's next number, and the client's as the server has it.
        seq: u32,
        ack: u32,
    }

    impl Script {
        /// Connected, with nothing under way.
        fn connected() -> Script {
            let mut script = Script {
                tcp: Tcp::new(Lane::new(0), PORT),
                out: Packets::default(),
                seq: 7_000,
                ack: 0,
            };
            script.tcp.connect(0, 0, &mut script.out);
            let (syn, _) = script.said();
            assert_eq!(syn.flags, SYN);
            script.ack = syn.seq.wrapping_add(1);
            script.hear(SYN | ACK, 0, &[], |heard| assert!(heard.unwrap().connected));
            script.seq += 1;
            assert!(script.tcp.is_open(0));
            script
        }

        /// The one segment that was said last.
        fn said(&mut self) -> (Header, Vec<u8>) {
            let mut all = self.all_said();
            assert_eq!(all.len(), 1, "one segment");
            all.remove(0)
        }

        fn all_said(&mut self) -> Vec<(Header, Vec<u8>)> {
            let all = self.out.iter().map(turned).collect();
            self.out.clear();
            all
        }

        /// The server says something, `back` bytes before its next number.
        fn hear<R>(
            &mut self,
            flags: u8,
            back: i32,
            data: &[u8],
            then: impl FnOnce(Option<Heard<'_>>) -> R,
        ) -> R {
            self.hear_at(0, flags, back, data, u16::MAX, then)
        }

        fn hear_at<R>(
            &mut self,
            now_ms: u64,
            flags: u8,
            back: i32,
            data: &[u8],
            window: u16,
            then: impl FnOnce(Option<Heard<'_>>) -> R,
        ) -> R {
            let seq = self.seq.wrapping_add_signed(-back);
            let header = Header { flags, seq, ack: self.ack, window };
            let packet = from_server(&header, self.tcp.blocks[0].place(0), data);
            then(self.tcp.on_packet(&packet, now_ms, &mut self.out))
        }
    }

    /// A segment from the server: one to it, turned round.
    fn from_server(header: &Header, to: Place, data: &[u8]) -> Vec<u8> {
        let mut packets = Packets::default();
        header.put(&mut packets, Lane::new(0), to, PORT, data);
        swapped(packets.iter().next().expect("one was put"))
    }

    fn turned(packet: &[u8]) -> (Header, Vec<u8>) {
        let packet = swapped(packet);
        let (_, _, header, data) =
            Header::read(Lane::new(0), &packet).expect("it was written here");
        (header, data.to_vec())
    }

    fn swapped(packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        let ip = crate::io::tun::HEADER_BYTES;
        (0..4).for_each(|byte| packet.swap(ip + 12 + byte, ip + 16 + byte));
        (0..2).for_each(|byte| packet.swap(ip + 20 + byte, ip + 22 + byte));
        packet
    }

    #[test]
    fn bytes_come_once_and_in_order_however_segments_arrive() {
        let mut script = Script::connected();
        // Ahead of what is next: not taken, and said so.
        script.hear(ACK, -3, b"def", |heard| assert_eq!(heard, None));
        assert_eq!(script.said().0.ack, script.seq);
        script.hear(ACK, 0, b"abc", |heard| assert_eq!(heard.unwrap().data, b"abc"));
        script.seq += 3;
        // Again, and then overlapping with something new.
        script.hear(ACK, 3, b"abc", |heard| assert_eq!(heard, None));
        assert_eq!(script.said().0.ack, script.seq);
        script.hear(ACK, 3, b"abcdef", |heard| assert_eq!(heard.unwrap().data, b"def"));
        script.seq += 3;
        script.tcp.acknowledge(0, &mut script.out);
        assert_eq!(script.said().0.ack, script.seq);
        let Counters { out_of_order, repeats_heard, .. } = script.tcp.counters;
        assert_eq!((out_of_order, repeats_heard), (1, 1));
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_and_then_given_up() {
        let mut script = Script::connected();
        script.tcp.send(0, b"hello", 0, &mut script.out);
        let (first, data) = script.said();
        assert_eq!((first.seq, &data[..]), (script.ack, &b"hello"[..]));
        let (mut now_ms, mut lost, mut repeats) = (0, Vec::new(), 0);
        while lost.is_empty() {
            now_ms += 100;
            script.tcp.on_time(now_ms, &mut script.out, |device| lost.push(device));
            for (header, data) in script.all_said() {
                if header.has(RST) {
                    continue;
                }
                assert_eq!((header.seq, &data[..]), (script.ack, &b"hello"[..]));
                repeats += 1;
            }
        }
        assert_eq!((lost, repeats), (vec![0], u32::from(TRIES_MAX)));
        assert!(now_ms >= RTO_MS * 127, "each time it waits twice as long: {now_ms}");
        assert!(!script.tcp.is_open(0));
    }

    #[test]
    fn what_a_storm_took_is_given_back() {
        const DEVICES: u32 = 2 * FLIGHTS_KEPT as u32;
        let (mut tcp, mut out) = (Tcp::new(Lane::new(0), PORT), Packets::default());
        tcp.reserve(DEVICES as usize);
        let idle_bytes = tcp.memory_bytes();
        for device in 0..DEVICES {
            tcp.connect(device, 0, &mut out);
            out.clear();
        }
        for device in 0..DEVICES - 1 {
            tcp.reset(device, &mut out);
            out.clear();
        }
        tcp.on_time(1, &mut out, |_| panic!("not yet"));
        let grown_bytes = tcp.memory_bytes() - idle_bytes;
        assert!(grown_bytes < FLIGHTS_KEPT, "{grown_bytes} bytes for one flight");
        // The one that is left is sent again, and then given up.
        let mut lost = Vec::new();
        for time in 1..1_000 {
            tcp.on_time(time * RTO_MS, &mut out, |device| lost.push(device));
        }
        assert_eq!((lost, tcp.counters.repeated), (vec![DEVICES - 1], TRIES_MAX.into()));
    }

    #[test]
    fn a_part_that_is_acknowledged_is_not_sent_again() {
        let mut script = Script::connected();
        script.tcp.send(0, b"hello", 0, &mut script.out);
        script.all_said();
        script.ack = script.ack.wrapping_add(2);
        script.hear(ACK, 0, &[], |heard| assert_eq!(heard, None));
        script.tcp.on_time(RTO_MS, &mut script.out, |_| panic!("not yet"));
        let (header, data) = script.said();
        assert_eq!((header.seq, &data[..]), (script.ack, &b"llo"[..]));
        script.ack = script.ack.wrapping_add(3);
        script.hear(ACK, 0, &[], |heard| assert_eq!(heard, None));
        script.tcp.on_time(100 * RTO_MS, &mut script.out, |_| panic!("nothing is under way"));
        assert_eq!(script.all_said(), []);
        assert!(script.tcp.blocks[0].flight().is_none(), "an idle connection has no flight");
    }

    #[test]
    fn a_closed_window_is_asked_again_and_kept() {
        let mut script = Script::connected();
        script.tcp.send(0, b"a", 0, &mut script.out);
        script.all_said();
        script.ack = script.ack.wrapping_add(1);
        script.tcp.send(0, b"b", 0, &mut script.out);
        script.all_said();
        // Has the first, and no room for the second, which is asked about byte by byte.
        script.hear_at(0, ACK, 0, &[], 0, |heard| assert_eq!(heard, None));
        script.tcp.send(0, b"cd", 0, &mut script.out);
        assert_eq!(script.said().1, b"", "only an acknowledgement leaves");
        script.tcp.on_time(RTO_MS, &mut script.out, |_| panic!("not yet"));
        assert_eq!(script.said().1, b"b");
        script.ack = script.ack.wrapping_add(1);
        script.hear_at(RTO_MS, ACK, 0, &[], 100, |heard| assert_eq!(heard, None));
        assert_eq!(script.said().1, b"cd");
    }

    #[test]
    fn who_does_not_read_takes_nothing_and_says_so() {
        let mut script = Script::connected();
        script.tcp.stall(0, true, &mut script.out);
        assert_eq!(script.said().0.window, 0);
        script.hear(ACK, 0, b"abc", |heard| assert_eq!(heard, None));
        let (header, _) = script.said();
        assert_eq!((header.ack, header.window), (script.seq, 0));
        // A probe has a number that was acknowledged.
        script.hear(ACK, 1, &[], |heard| assert_eq!(heard, None));
        assert_eq!(script.said().0.window, 0);
        script.tcp.stall(0, false, &mut script.out);
        assert_eq!(script.said().0.window, WINDOW);
        script.hear(ACK, 0, b"abc", |heard| assert_eq!(heard.unwrap().data, b"abc"));
    }

    /// The byte that asked was not kept, as Linux does.
    #[test]
    fn a_window_that_opens_gets_what_was_asked_with_too() {
        let mut script = Script::connected();
        script.tcp.send(0, b"abc", 0, &mut script.out);
        script.all_said();
        script.hear_at(0, ACK, 0, &[], 0, |heard| assert_eq!(heard, None));
        for time in 1..20 {
            script.tcp.on_time(time * 200 * RTO_MS, &mut script.out, |_| panic!("it is there"));
            script.all_said();
            script.hear_at(time * 200 * RTO_MS, ACK, 0, &[], 0, |heard| assert_eq!(heard, None));
        }
        script.hear_at(4_000 * RTO_MS, ACK, 0, &[], 100, |heard| assert_eq!(heard, None));
        let (header, data) = script.said();
        assert_eq!((header.seq, &data[..]), (script.ack, &b"abc"[..]));
    }

    #[test]
    fn a_peer_that_believes_in_the_last_connection_is_told() {
        let mut script = Script::connected();
        let (seq, ack) = (script.seq, script.ack);
        script.tcp.reset(0, &mut script.out);
        for _ in 0..2 {
            // Twice, so that it is the same address again.
            script.tcp.connect(0, 1, &mut script.out);
        }
        script.all_said();
        script.hear(ACK, 0, &[], |heard| assert_eq!(heard, None));
        let (reset, _) = script.said();
        assert!(reset.has(RST) && reset.seq == ack, "{reset:?} {seq}");
    }

    #[test]
    fn both_sides_may_close_first() {
        let mut script = Script::connected();
        script.hear(FIN | ACK, 0, b"bye", |heard| {
            let heard = heard.unwrap();
            assert_eq!((heard.data, heard.end), (&b"bye"[..], Some(End::Finished)));
        });
        let (fin, _) = script.said();
        assert!(fin.has(FIN) && fin.ack == script.seq + 4);
        (script.seq, script.ack) = (script.seq + 4, script.ack.wrapping_add(1));
        script.hear(ACK, 0, &[], |heard| assert_eq!(heard, None));
        assert_eq!(script.tcp.blocks[0].state(), State::Closed);

        let mut script = Script::connected();
        script.tcp.finish(0, 0, &mut script.out);
        assert!(script.said().0.has(FIN));
        script.ack = script.ack.wrapping_add(1);
        script.hear(ACK, 0, b"late", |heard| assert_eq!(heard, None, "it is nobody's"));
        assert_eq!(script.said().0.ack, script.seq + 4);
        script.seq += 4;
        script.hear(FIN | ACK, 0, &[], |heard| assert_eq!(heard, None));
        assert_eq!(script.said().0.ack, script.seq + 1);
        assert_eq!(script.tcp.blocks[0].state(), State::Closed);
    }

    #[test]
    fn only_the_exact_number_resets() {
        let mut script = Script::connected();
        script.hear(RST, -1, &[], |heard| assert_eq!(heard, None));
        assert!(script.tcp.is_open(0) && script.said().0.has(ACK));
        script.hear(RST, 0, &[], |heard| assert_eq!(heard.unwrap().end, Some(End::Reset)));
        assert!(!script.tcp.is_open(0));
        assert_eq!(script.all_said(), []);
    }

    #[test]
    fn a_late_segment_of_the_last_connection_is_reset() {
        let mut script = Script::connected();
        let late = from_server(
            &Header { flags: ACK, seq: script.seq, ack: script.ack, window: 1 },
            script.tcp.blocks[0].place(0),
            b"late",
        );
        script.tcp.reset(0, &mut script.out);
        script.tcp.connect(0, 1, &mut script.out);
        script.all_said();
        assert_eq!(script.tcp.on_packet(&late, 1, &mut script.out), None);
        assert!(script.said().0.has(RST));
        assert_eq!(script.tcp.counters.strays, 1);
    }
}
