//! What the host's network settings do to a device's connection: a whole system in a network
//! namespace of its own, before and after `hawser tune`.

use std::net::SocketAddr;
use std::ops::Range;
use std::process::Command;

use hawser_codec::session::Positions;
use hawser_tests::system::cluster::{App, Broker, Control, ControlOptions};
use hawser_tests::system::device::Device;
use hawser_tests::system::process::{Folder, executable};

const ROLE: &str = "HAWSER_TEST_ROLE";
const TEST: &str = "the_mobile_profile_makes_tcp_wait_three_seconds_for_a_device";

#[test]
fn the_mobile_profile_makes_tcp_wait_three_seconds_for_a_device() {
    if std::env::var_os(ROLE).is_none() {
        let status = Command::new("unshare")
            .args(["--map-root-user", "--net", "--mount", "sh", "-ec"])
            // The journal of `hawser tune` is the test's own, too.
            .arg("mount -t tmpfs none /var/lib; ip link set lo up; exec \"$0\" \"$@\"")
            .arg(std::env::current_exe().expect("a test knows its own place"))
            .args(["--exact", TEST, "--nocapture"])
            .env(ROLE, "inside")
            .status()
            .expect("util-linux has unshare");
        assert!(status.success());
        return;
    }
    let folder = Folder::new();
    let control = Control::start(&ControlOptions::embedded(&folder));
    let app = App::create(control.api, "shop");
    let usual = 200..1_000;
    let mobile = 3_000..4_000;
    let wants = [("rto_min_ms", "3000")];

    let early = Online::start(&control, &app, 1, &wants);
    early.expect_rto(&usual);
    assert!(early.says_that_the_host_is_not_set_up());
    tune(&["apply", "--connections", "100000", "--profile", "mobile", "--only", "rto"]);
    // A connection has what its listener had when it was opened.
    early.expect_rto(&usual);

    let late = Online::start(&control, &app, 2, &wants);
    late.expect_rto(&mobile);
    assert!(!late.says_that_the_host_is_not_set_up());
    Online::start(&control, &app, 3, &[]).expect_rto(&mobile);

    tune(&["rollback"]);
    Online::start(&control, &app, 4, &[]).expect_rto(&usual);
}

fn tune(arguments: &[&str]) {
    let output = Command::new(executable("hawser")).arg("tune").args(arguments).output();
    let output = output.expect("hawser runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "hawser tune {arguments:?}: {said}");
}

/// A broker with one device that was pushed to. The fields end in their order.
struct Online {
    _device: Device,
    broker: Broker,
    _folder: Folder,
}

impl Online {
    fn start(control: &Control, app: &App, id: u64, settings: &[(&str, &str)]) -> Online {
        let folder = Folder::new();
        let id = id.to_string();
        let mut settings = settings.to_vec();
        settings.push(("broker_id", &id));
        let broker = Broker::start(&folder, &[control.link], &settings);
        broker.wait_linked(1);
        let name = format!("phone {id}");
        let ticket = app.ticket(&name);
        let mut device = Device::connect(broker.devices, &ticket, &[], Positions::default());
        device.until_ready();
        app.push_to(&name, "ring");
        device.until_heard(1);
        Online { _device: device, broker, _folder: folder }
    }

    fn expect_rto(&self, expect_ms: &Range<u64>) {
        let rto_ms = rto_ms(self.broker.devices);
        assert!(expect_ms.contains(&rto_ms), "{rto_ms} ms is not in {expect_ms:?}");
    }

    fn says_that_the_host_is_not_set_up(&self) -> bool {
        let lines = self.broker.process.output();
        lines.iter().any(|line| line.contains("run `hawser tune apply --only rto"))
    }
}

/// The timeout of the one session at a broker, as `ss -ti` shows it.
fn rto_ms(broker: SocketAddr) -> u64 {
    let port = format!(":{}", broker.port());
    let established = ["-tinHO", "state", "established", "sport", "=", &port];
    let output = Command::new("ss").args(established).output().expect("iproute2 has ss");
    let text = String::from_utf8_lossy(&output.stdout);
    let [line] = text.lines().collect::<Vec<_>>()[..] else { panic!("one session: {text}") };
    let rto = line.split(' ').find_map(|word| word.strip_prefix("rto:"));
    let rto: f64 = rto.and_then(|rto| rto.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    rto as u64
}
