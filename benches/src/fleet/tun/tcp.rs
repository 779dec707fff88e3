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
        blocks + self.flights.capacity() * size_of::<Option<Flight>>()
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
            self.counters.strays += 1;
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
            self.forget(device);
            return Some(Heard { device, connected: false, data: &[], end: Some(End::Reset) });
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
        flight.window = usize::from(header.window);
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
