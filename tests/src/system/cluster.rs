//! Control nodes and brokers as processes, an app, and its senders.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::http::{self, Response, metric};
use super::process::{Folder, Process, executable};
use super::wait::{wait_for, wait_until};

const LINK_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const ADMIN_KEY: &str = "operator-key-of-the-tests-0123456789";

pub struct Control {
    pub process: Process,
    pub api: SocketAddr,
    pub link: SocketAddr,
}

pub struct Broker {
    pub process: Process,
    pub devices: SocketAddr,
    pub admin: SocketAddr,
}

/// What a control node is started with.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    pub node: u64,
    pub store: String,
    pub data: PathBuf,
    /// 0: the kernel chooses.
    pub link_port: u16,
    pub api_port: u16,
}

impl ControlOptions {
    /// With a store of its own in the folder.
    pub fn embedded(folder: &Folder) -> ControlOptions {
        ControlOptions {
            node: 1,
            store: "embedded".to_owned(),
            data: folder.join("control"),
            link_port: 0,
            api_port: 0,
        }
    }
}

impl Control {
    pub fn start(options: &ControlOptions) -> Control {
        Control::start_by(Command::new(executable("hawser-control")), options)
    }

    /// With a program in front that ends by executing its arguments.
    pub fn start_wrapped(mut wrapper: Command, options: &ControlOptions) -> Control {
        wrapper.arg(executable("hawser-control"));
        Control::start_by(wrapper, options)
    }

    fn start_by(mut command: Command, options: &ControlOptions) -> Control {
        set(&mut command, "node_id", &options.node.to_string());
        set(&mut command, "store", &options.store);
        set(&mut command, "data_dir", &options.data.display().to_string());
        set(&mut command, "listen_link", &format!("127.0.0.1:{}", options.link_port));
        set(&mut command, "listen_api", &format!("127.0.0.1:{}", options.api_port));
        command.env("HAWSER_LINK_KEY", LINK_KEY).env("HAWSER_ADMIN_KEY", ADMIN_KEY);
        let mut process = Process::start("hawser-control", command);
        let ready = process.line_with("hawser-control ready: api ");
        Control {
            api: address_after(&ready, "api "),
            link: address_after(&ready, "link "),
            process,
        }
    }

    pub fn metrics(&self) -> String {
        page(self.api)
    }
}

impl Broker {
    /// `settings` are put over what every test wants.
    pub fn start(folder: &Folder, control: &[SocketAddr], settings: &[(&str, &str)]) -> Broker {
        let mut command = Command::new(executable("hawser-broker"));
        let links: Vec<String> = control.iter().map(ToString::to_string).collect();
        set(&mut command, "listen", "127.0.0.1:0");
        set(&mut command, "admin", "127.0.0.1:0");
        set(&mut command, "control", &links.join(","));
        set(&mut command, "state_dir", &folder.path().display().to_string());
        set(&mut command, "shards", "2");
        set(&mut command, "connections_max", "4000");
        for (key, value) in settings {
            set(&mut command, key, value);
        }
        command.env("HAWSER_LINK_KEY", LINK_KEY);
        let mut process = Process::start("hawser-broker", command);
        let ready = process.line_with("hawser-broker ready on ");
        Broker {
            devices: address_after(&ready, "ready on "),
            admin: address_after(&ready, "admin "),
            process,
        }
    }

    pub fn metrics(&self) -> String {
        page(self.admin)
    }

    pub fn metric(&self, name: &str, labels: &str) -> u64 {
        metric(&self.metrics(), &format!("hawser_broker_{name}"), labels)
    }

    /// Connections that ended for this reason so far, refusals included.
    pub fn closed(&self, reason: &str) -> u64 {
        let page = self.metrics();
        let label = format!("reason=\"{reason}\"");
        metric(&page, "hawser_broker_closed_total", &label)
            + metric(&page, "hawser_broker_refused_total", &label)
    }

    /// Until every shard has this many links up and the keys are known.
    pub fn wait_linked(&self, links: u64) {
        wait_until("the links", || {
            let page = self.metrics();
            metric(&page, "hawser_broker_link_up", "") == links * 2
                && metric(&page, "hawser_broker_keys_version", "") > 0
        });
    }
}

/// An app and what its own server may do.
#[derive(Clone, Debug)]
pub struct App {
    pub api: SocketAddr,
    pub name: String,
    pub key: String,
}

impl App {
    pub fn create(api: SocketAddr, name: &str) -> App {
        let body = json!({ "name": name });
        let created = http::request(api, "POST", "/v1/apps", ADMIN_KEY, Some(&body));
        let created = created.expect("the API answers");
        assert_eq!(created.status, 201, "{}", created.body);
        let answer = created.json();
        App {
            api,
            name: name.to_owned(),
            key: answer["api_key"].as_str().expect("api_key").to_owned(),
        }
    }

    pub fn ticket(&self, device: &str) -> Vec<u8> {
        let body = json!({ "device": device, "ttl_s": 3600 });
        let response = self.post("tickets", &body).expect("the API answers");
        let answer = response.json();
        let text = answer["ticket"].as_str().unwrap_or_else(|| panic!("{}", response.body));
        URL_SAFE_NO_PAD.decode(text).expect("a ticket is base64url")
    }

    pub fn post(&self, what: &str, body: &Value) -> Option<Response> {
        let path = format!("/v1/apps/{}/{what}", self.name);
        http::request(self.api, "POST", &path, &self.key, Some(body))
    }

    pub fn get(&self, what: &str) -> Option<Response> {
        let path = format!("/v1/apps/{}/{what}", self.name);
        http::request(self.api, "GET", &path, &self.key, None)
    }

    /// Pushes and returns the accepted message's answer.
    pub fn push(&self, message: &Value) -> Value {
        let response = self.post("messages", message).expect("the API answers");
        assert_eq!(response.status, 202, "{}", response.body);
        response.json()
    }

    pub fn push_to(&self, device: &str, payload: &str) -> Value {
        self.push(&json!({ "to": { "device": device }, "payload": payload }))
    }

    /// Pushes again and again until a node takes it, with the same idempotency key.
    pub fn push_until_accepted(&self, message: &Value) -> Value {
        wait_for("an accepted push", || {
            self.post("messages", message).filter(|response| response.status == 202)
        })
        .json()
    }

    pub fn state(&self, id: &str) -> String {
        let response = self.get(&format!("messages/{id}")).expect("the API answers");
        response.json()["state"].as_str().unwrap_or_else(|| panic!("{}", response.body)).to_owned()
    }

    pub fn wait_state(&self, id: &str, state: &str) {
        wait_until(&format!("the state {state}"), || self.state(id) == state);
    }

    pub fn is_online(&self, device: &str) -> bool {
        let response = self.get(&format!("devices/{device}")).expect("the API answers");
        response.json()["online"].as_bool().unwrap_or_else(|| panic!("{}", response.body))
    }
}

fn set(command: &mut Command, key: &str, value: &str) {
    command.arg("--set").arg(format!("{key}={value}"));
}

fn page(address: SocketAddr) -> String {
    wait_for("a metrics page", || http::get(address, "/metrics")).body
}

/// The address that stands behind a word of a ready line.
fn address_after(line: &str, word: &str) -> SocketAddr {
    let (_, rest) = line.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {line:?}"));
    let text = rest.split([' ', ',']).next().unwrap_or_default();
    text.parse().unwrap_or_else(|error| panic!("{text:?} of {line:?}: {error}"))
}
