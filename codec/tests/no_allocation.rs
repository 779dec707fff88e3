//! Decoding does not allocate, and neither does encoding into a buffer that is large enough. Two
//! frames are exceptions, each rare: a `Close` with addresses, once per connection, and a key set.
//!
//! The allocator counts per thread, so that the harness's other threads do not matter.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use codec_properties::samples::{Side, samples};
use hawser_codec::device::{Downlink, Uplink, Welcome};
use hawser_codec::error::DecodeError;
use hawser_codec::frame::{Framer, split};
use hawser_codec::ids::{Epoch, Seq};
use hawser_codec::link::{ToBroker, ToControl};
use hawser_codec::session::{Backoff, Positions, Profile, Session};
use hawser_codec::ticket::Ticket;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged; the counter is a
// constant-initialised thread-local without a destructor, so that reaching it cannot allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn the_allocator_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))), 1);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn decoding_does_not_allocate() {
    for sample in samples() {
        let (frame, _) = split(&sample.bytes, sample.side.body_bytes_max()).unwrap().unwrap();
        let count = allocations(|| assert_eq!(sample.side.decode(frame), Ok(true)));
        let allowed = matches!((sample.side, sample.name), (_, "Close") | (_, "Keys"));
        assert_eq!(count > 0, allowed, "{:?} {}: {count}", sample.side, sample.name);
    }
    let bare = [0x28, 6, 1, 0, 0, 0, 0, 0];
    let (frame, _) = split(&bare, 100).unwrap().unwrap();
    assert_eq!(allocations(|| assert_eq!(Side::Downlink.decode(frame), Ok(true))), 0);
}

#[test]
fn reading_lists_does_not_allocate() {
    for sample in samples() {
        let (frame, _) = split(&sample.bytes, sample.side.body_bytes_max()).unwrap().unwrap();
        let count = allocations(|| match sample.side {
            Side::ToControl => match ToControl::decode(frame).unwrap().unwrap() {
                ToControl::Announce(list) => assert!(list.iter().count() > 0),
                ToControl::Pull(list) => assert!(list.iter().count() > 0),
                ToControl::Ack(list) => assert!(list.iter().count() > 0),
                ToControl::GroupPull { topics, .. } => assert!(topics.iter().count() > 0),
                _ => {}
            },
            Side::ToBroker if sample.name == "Entries" => {
                let Ok(Some(ToBroker::Entries { entries, .. })) = ToBroker::decode(frame) else {
                    panic!("entries")
                };
                assert!(entries.iter().count() > 0);
            }
            _ => {}
        });
        assert_eq!(count, 0, "{}", sample.name);
    }
}

#[test]
fn refusing_does_not_allocate() {
    for sample in samples() {
        let (frame, _) = split(&sample.bytes, sample.side.body_bytes_max()).unwrap().unwrap();
        if matches!(sample.name, "Close" | "Keys") {
            continue;
        }
        for count in 0..frame.body.len() {
            let short = hawser_codec::frame::Frame { kind: frame.kind, body: &frame.body[..count] };
            let count = allocations(|| _ = sample.side.decode(short));
            assert_eq!(count, 0, "{}", sample.name);
        }
    }
}

#[test]
fn tickets_are_decoded_in_place() {
    let ticket = codec_properties::samples::ticket();
    assert_eq!(allocations(|| assert!(Ticket::decode(&ticket).is_ok())), 0);
}

#[test]
fn encoding_into_a_large_buffer_does_not_allocate() {
    let mut out = Vec::with_capacity(4096);
    for sample in samples() {
        let (frame, _) = split(&sample.bytes, sample.side.body_bytes_max()).unwrap().unwrap();
        out.clear();
        let count = match sample.side {
            Side::Uplink => {
                let value = Uplink::decode(frame).unwrap().unwrap();
                allocations(|| value.encode(&mut out))
            }
            Side::Downlink => {
                let value = Downlink::decode(frame).unwrap().unwrap();
                allocations(|| value.encode(&mut out))
            }
            Side::ToControl | Side::ToBroker => continue,
        };
        assert_eq!(count, 0, "{}", sample.name);
        assert_eq!(out, sample.bytes);
    }
}

/// Frames that arrive whole cost the framer nothing, and it owns no memory between them.
#[test]
fn whole_frames_are_borrowed() {
    let stream: Vec<u8> = samples().into_iter().flat_map(|sample| sample.bytes).collect();
    let mut framer = Framer::default();
    let mut seen = 0;
    let count = allocations(|| {
        let result = framer.feed(&stream, stream.len(), |_| -> Result<(), DecodeError> {
            seen += 1;
            Ok(())
        });
        assert_eq!(result, Ok(()));
    });
    assert_eq!((count, seen), (0, samples().len()));
    assert_eq!(std::mem::size_of::<Framer>(), 24);
}

/// A device that gets a push and answers it owns nothing but its row.
#[test]
fn a_session_does_not_allocate() {
    let profile = Profile {
        ticket: b"ticket",
        topics: &[],
        heartbeat_s: 0,
        network: 0,
        backoff: Backoff::default(),
    };
    let mut stream = Vec::new();
    let welcome = Welcome { epoch: Epoch(1), heartbeat_s: 180, group: Some(Seq::ZERO) };
    Downlink::Welcome(welcome).encode(&mut stream);
    Downlink::Push { seq: Seq(1), payload: b"hello" }.encode(&mut stream);
    Downlink::Broadcast { seq: Seq(1), payload: b"hello" }.encode(&mut stream);
    let mut out = Vec::with_capacity(256);
    let mut framer = Framer::default();
    let count = allocations(|| {
        let mut session = Session::new(Positions::default(), 1, 0);
        session.on_time(0, &mut out);
        session.on_connected(&profile, 0, &mut out);
        session.on_bytes(&mut framer, &stream, 1, &mut out, |_| {}).unwrap();
        assert_eq!(session.positions().inbox, Seq(1));
    });
    assert_eq!(count, 0);
}

fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}
