//! The end of the process: drained by one signal, at once by two.

use std::fs;

use hawser_codec::error::CloseReason;

use crate::support::{Broker, Device};

#[test]
fn a_signal_sends_the_devices_elsewhere_and_ends_with_0() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut broker = Broker::start(&[
            "shards=2",
            "redirect=a.example:7400,b.example:7400",
            "drain_per_s=10000",
        ]);
        let devices: Vec<Device> =
            (0..40).map(|i| Device::online(broker.address, &format!("d{i}"))).collect();
        broker.signal(signal);
        for device in devices {
            let closed = device.closed();
            assert_eq!(closed.reason, CloseReason::Drain);
            assert_eq!(closed.addresses, ["a.example:7400", "b.example:7400"]);
        }
        assert_eq!(broker.wait().code(), Some(0));
    }
}

#[test]
fn the_drain_has_the_configured_pace() {
    let mut broker = Broker::start(&["shards=1", "drain_per_s=20"]);
    let devices: Vec<Device> =
        (0..20).map(|i| Device::online(broker.address, &format!("d{i}"))).collect();
    let started = std::time::Instant::now();
    broker.signal(libc::SIGTERM);
    // In no particular order: each is read to its end.
    let reading: Vec<_> = devices
        .into_iter()
        .map(|device| std::thread::spawn(move || device.closed().reason))
        .collect();
    for thread in reading {
        assert_eq!(thread.join().unwrap(), CloseReason::Drain);
    }
    assert!(started.elapsed().as_millis() >= 700, "20 devices at 20 a second took {started:?}");
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut broker = Broker::start(&["drain_per_s=1"]);
    let devices: Vec<Device> =
        (0..60).map(|i| Device::online(broker.address, &format!("d{i}"))).collect();
    broker.signal(libc::SIGTERM);
    broker.wait_for_metric("hawser_broker_draining", 1);
    let (status, health) = broker.get("/health");
    assert_eq!(status, 503);
    assert!(health.contains("\"status\":\"draining\""), "{health}");
    broker.signal(libc::SIGTERM);
    assert_eq!(broker.wait().code(), Some(1));
    drop(devices);
}

#[test]
fn a_broker_without_devices_ends_promptly() {
    let mut broker = Broker::start(&[]);
    broker.signal(libc::SIGTERM);
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn the_kept_keys_are_private_and_survive() {
    use std::os::unix::fs::PermissionsExt;

    use crate::support::{Control, Folder, LINK_KEY, key_set};

    let control = Control::new(LINK_KEY);
    let broker = Broker::start_in(Folder::new(), &["shards=1", &control.setting()]);
    let link = control.link();
    let path = broker.state_path("keys");
    crate::support::wait_until("the keys on disk", || fs::read(&path).ok());
    assert_eq!(fs::read(&path).unwrap(), key_set(2));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(link);

    // The next one admits devices by them, with no control node to be reached.
    let folder = Folder::new();
    fs::copy(&path, folder.path().join("keys")).unwrap();
    drop(broker);
    let broker = Broker::start_in(folder, &["control=127.0.0.1:1"]);
    Device::online(broker.address, "admitted by kept keys").ping();

    // Damaged ones are not used, and do not keep the broker from starting.
    let folder = Folder::new();
    fs::write(folder.path().join("keys"), b"damaged").unwrap();
    Broker::start_in(folder, &[]);
}
