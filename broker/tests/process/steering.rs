//! Which shard gets a connection. Over loopback a packet is received on the processor that sent it, so a
//! thread that stays on one is a card whose interrupts all go there.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

use hawser_broker::io::host::{pin_thread, processors};
use hawser_broker::io::retransmission::Bounds;
use hawser_broker::io::socket::{self, Inherited};
use hawser_broker::steering::Steering;

use crate::support::{Broker, Device, wait_until};

const ACCEPTED: &str = "hawser_broker_accepted_total";

/// The processors of two shards.
fn two() -> [usize; 2] {
    let processors = processors().unwrap();
    assert!(processors.len() >= 2, "this test needs two processors, and may use {processors:?}");
    [processors[0], processors[1]]
}

/// Does it on a thread that stays on a processor.
fn on<T: Send>(processor: usize, what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            pin_thread(processor).unwrap();
            what()
        });
        pinned.join().unwrap()
    })
}

fn online(broker: &Broker, processor: usize, count: usize) -> Vec<Device> {
    let name = |i| format!("{processor} {i} of {count}");
    on(processor, || (0..count).map(|i| Device::online(broker.address, &name(i))).collect())
}

#[test]
fn a_connection_goes_to_the_shard_whose_processor_receives_it() {
    let [first, second] = two();
    let settings = ["shards=2", "pin=true", "connections_max=8000", "steer_connections=on"];
    for listen in ["listen=127.0.0.1:0", "listen=[::1]:0"] {
        let broker = Broker::start(&[&settings[..], &[listen]].concat());
        let _devices = online(&broker, first, 100);
        assert_eq!(broker.metric_of_shards(ACCEPTED), [100, 0]);
        let _others = online(&broker, second, 100);
        assert_eq!(broker.metric_of_shards(ACCEPTED), [100, 100]);
        assert_eq!(broker.metric("hawser_broker_steering"), 1);
    }
}

#[test]
fn without_steering_a_hash_decides() {
    let [first, _] = two();
    for settings in [
        &["shards=2", "pin=true", "steer_connections=off"][..],
        &["shards=2", "pin=false", "steer_connections=auto"],
    ] {
        let broker = Broker::start(settings);
        let _devices = online(&broker, first, 200);
        let accepted = broker.metric_of_shards(ACCEPTED);
        // A fair coin falls below 60 of 200 once in ten million.
        assert!(accepted.iter().all(|&count| count >= 60), "{accepted:?}");
        assert_eq!(broker.metric("hawser_broker_steering"), 0);
    }
}

#[test]
fn steering_rests_while_a_shard_is_much_fuller_than_the_others() {
    let [first, _] = two();
    // A shard holds 320, so it may be 10 above the mean.
    let settings = ["shards=2", "pin=true", "connections_max=640", "steer_connections=on"];
    let broker = Broker::start(&settings);
    let one_queue = online(&broker, first, 21);
    assert_eq!(broker.metric_of_shards(ACCEPTED), [21, 0]);
    broker.wait_for_metric("hawser_broker_steering", 0);
    let spread = online(&broker, first, 100);
    let accepted = broker.metric_of_shards(ACCEPTED);
    // A fair coin falls below 20 of 100 once in a billion.
    assert!(accepted[1] >= 20, "{accepted:?}");
    // When the difference is gone, so is the rest. While the shards close so many, each at its own pace,
    // steering may come and go, so more than one crowd may have to try.
    drop((one_queue, spread));
    broker.wait_for_metric("hawser_broker_slots_in_use", 0);
    broker.wait_for_metric("hawser_broker_steering", 1);
    wait_until("a crowd on the first shard alone", || {
        let before = broker.metric_of_shards(ACCEPTED);
        let _crowd = online(&broker, first, 20);
        (broker.metric_of_shards(ACCEPTED) == [before[0] + 20, before[1]]).then_some(())
    });
}

#[test]
fn a_full_shard_does_not_keep_devices_from_the_others() {
    let processors = two();
    // A shard holds 320, so it may be 10 above the mean.
    let broker = Broker::start(&[
        "shards=2",
        "pin=true",
        "connections_max=640",
        "steer_connections=on",
        "handshake_timeout_ms=600000",
    ]);
    let dial = |processor, count| -> Vec<Device> {
        on(processor, || (0..count).map(|_| Device::dial(broker.address)).collect())
    };
    let mut devices = Vec::new();
    for part in 0..62 {
        devices.extend(dial(processors[part % 2], 10));
        broker.wait_for_metric(ACCEPTED, devices.len() as u64);
    }
    assert_eq!(broker.metric_of_shards(ACCEPTED), [310, 310]);
    assert_eq!(broker.metric("hawser_broker_steering"), 1);
    devices.extend(dial(processors[0], 10));
    broker.wait_for_metric("hawser_broker_steering", 0);
    assert_eq!(broker.metric_of_shards(ACCEPTED), [320, 310]);
    // A fair coin shows one side 20 times once in a million.
    devices.extend(dial(processors[0], 20));
    broker.wait_for_metric(ACCEPTED, devices.len() as u64);
    assert!(broker.metric_of_shards(ACCEPTED)[1] > 310);
}

#[test]
fn a_processor_without_a_shard_gives_to_all() {
    let [first, second] = two();
    let inherited = Inherited { send_buffer_bytes: 16 * 1024, rto: Bounds::default() };
    let sockets = socket::listen("127.0.0.1:0".parse().unwrap(), 2, &inherited).unwrap();
    let address = socket::local_address(&sockets[0]).unwrap();
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    let listeners: Vec<Vec<_>> = sockets.into_iter().map(|socket| vec![socket]).collect();
    // Nobody sends from the other shard's processor.
    let nowhere = 8_191;
    let _steering = Steering::start(&listeners, &[first, nowhere], 1_000).unwrap();
    let accepted = || -> Vec<usize> {
        let count = |socket: &socket2::Socket| {
            let accepts = std::iter::repeat_with(|| socket.accept());
            accepts
                .take_while(|accept| match accept {
                    Ok(_) => true,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                    Err(error) => panic!("accept: {error}"),
                })
                .count()
        };
        listeners.iter().map(|listeners| count(&listeners[0])).collect()
    };
    let connect = |count| -> Vec<TcpStream> {
        (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
    };
    // A client may be connected before the kernel has taken its last packet of the handshake.
    let accepted = |count: usize| -> [usize; 2] {
        let mut sums = [0, 0];
        wait_until("the connections", || {
            let more = accepted();
            sums = [sums[0] + more[0], sums[1] + more[1]];
            (sums[0] + sums[1] >= count).then_some(sums)
        })
    };
    on(first, || connect(100));
    assert_eq!(accepted(100), [100, 0]);
    on(second, || connect(200));
    let spread = accepted(200);
    assert!(spread.iter().all(|&count| count >= 60), "{spread:?}");
}

#[test]
fn a_draining_broker_that_steered_listens_no_more() {
    let broker = Broker::start(&["shards=2", "pin=true", "steer_connections=on", "drain_per_s=1"]);
    let _devices: Vec<Device> =
        (0..20).map(|i| Device::online(broker.address, &format!("d{i}"))).collect();
    broker.signal(libc::SIGTERM);
    wait_until("the end of the listeners", || refuses(broker.address).then_some(()));
    assert_eq!(broker.metric("hawser_broker_draining"), 1);
    assert_eq!(broker.metric("hawser_broker_steering"), 0);
}

fn refuses(address: SocketAddr) -> bool {
    match TcpStream::connect(address) {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    }
}
