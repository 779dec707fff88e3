//! A real control node with its embedded store, in the place of the control end: it holds a route
//! for each session and pushes through its HTTP API. Spoken to with the operator's command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::stage::processors;
use crate::control_end::link_key_hex;
use crate::folder::Folder;
use crate::process::{Server, sibling};
use crate::tickets::{APP_NAME, Issuer};

/// The key protects nothing: everything lives as long as the run.
const OPERATOR_KEY: &str = "benchmark-operator-key-0123456789";

/// How long the node may take to hear of the last session.
const ANNOUNCE_DEADLINE: Duration = Duration::from_secs(60);

pub struct ControlNode {
    pub server: Server,
    pub link: SocketAddr,
    pub issuer: Issuer,
    url: String,
    api_key: String,
    hawser: PathBuf,
    /// Removed after the server has ended.
    _folder: Folder,
}

impl ControlNode {
    /// Starts a node and registers the benchmark's app with it.
    pub fn start() -> anyhow::Result<ControlNode> {
        let (binary, hawser) = (sibling(None, "hawser-control")?, sibling(None, "hawser")?);
        let folder = Folder::on_disk("control")?;
        let mut command = Command::new(binary);
        command.env("HAWSER_LINK_KEY", link_key_hex()).env("HAWSER_ADMIN_KEY", OPERATOR_KEY);
        for setting in [
            format!("data_dir={}", folder.path().display()),
            "listen_api=127.0.0.1:0".to_owned(),
            "listen_link=127.0.0.1:0".to_owned(),
            "log=warn".to_owned(),
        ] {
            command.arg("--set").arg(setting);
        }
        let server = Server::start(&mut command, processors()?.1)?;
        let address = |name| {
            let mut words = server.ready.split_whitespace();
            words.find(|&word| word == name).and_then(|_| words.next()?.parse::<SocketAddr>().ok())
        };
        let found = address("api").zip(address("link"));
        let (api, link) =
            found.with_context(|| format!("hawser-control said {:?}", server.ready))?;
        let url = format!("http://{api}");
        let app = said(&hawser, &url, OPERATOR_KEY, &["app", "create", APP_NAME])?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let seed = text(&app["signing_key"]["seed"])
            .and_then(|seed| URL_SAFE_NO_PAD.decode(seed).ok()?.try_into().ok())
            .context("the app's signing key")?;
        let key_id = app["signing_key"]["kid"].as_u64().context("the signing key's number")?;
        let api_key = text(&app["api_key"]).context("the app's API key")?;
        let issuer = Issuer { key_id: key_id as u32, seed };
        Ok(ControlNode { server, link, issuer, url, api_key, hawser, _folder: folder })
    }

    /// Waits until the node has a route for so many sessions.
    pub fn wait_for_sessions(&self, count: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + ANNOUNCE_DEADLINE;
        loop {
            let status = said(&self.hawser, &self.url, OPERATOR_KEY, &["status"])?;
            let known = status["sessions"].as_u64().context("a number of sessions")?;
            if known >= count {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the node knows {known} of {count} sessions");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// One message to every device of the app.
    pub fn push_to_all(&self, text: &str) -> anyhow::Result<()> {
        let push = ["push", "all", "--app", APP_NAME, "--text", text];
        said(&self.hawser, &self.url, &self.api_key, &push).map(drop)
    }

    /// One message to one device.
    pub fn push_to(&self, device: u32, text: &str) -> anyhow::Result<()> {
        let name = format!("d-{device}");
        let push = ["push", "device", &name, "--app", APP_NAME, "--text", text];
        said(&self.hawser, &self.url, &self.api_key, &push).map(drop)
    }
}

/// What the command line answers.
fn said(hawser: &PathBuf, url: &str, key: &str, words: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new(hawser);
    command.args(words).arg("--json").env("HAWSER_URL", url).env("HAWSER_KEY", key);
    let output = command.output().with_context(|| hawser.display().to_string())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "hawser {}: {}", words.join(" "), error.trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}
