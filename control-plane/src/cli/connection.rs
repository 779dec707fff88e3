//! Which control node to talk to, with which key, for which app.
//!
//! Each comes from a flag, else from its environment variable, else from the file that a running
//! `hawser play` leaves behind, so that a second terminal needs no flag at all. That file holds
//! keys: it lies in the user's own directory with mode 0600 and goes away with the play.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::failure::Usage;

/// Connection settings, the same for every command that talks to a control node.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct Target {
    /// Control node to talk to, such as http://127.0.0.1:7420 [default: the running `hawser play`]
    #[arg(long, env = "HAWSER_URL", hide_env_values = true, value_name = "URL", value_parser = url)]
    pub url: Option<String>,

    /// API key: the app's, or the operator's for `app` and `status`
    #[arg(long, env = "HAWSER_KEY", hide_env_values = true, value_name = "KEY")]
    pub key: Option<String>,

    /// App to act for
    #[arg(long, env = "HAWSER_APP", hide_env_values = true, value_name = "NAME")]
    pub app: Option<String>,
}

/// Whose key a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    App,
    Operator,
}

impl Target {
    pub fn client(&self, role: Role) -> anyhow::Result<Client> {
        let play = PlayFile::read();
        let url = self.url.clone().or_else(|| play.as_ref().map(|play| play.url.clone()));
        let url = url.ok_or(Usage(
            "no control node to talk to: start `hawser play` in another terminal, \
             or give --url (or HAWSER_URL)",
        ))?;
        let key = self.key.clone().filter(|key| !key.is_empty()).or_else(|| {
            // The play's key is for the play's node only.
            let play = play.filter(|play| play.url == url)?;
            Some(match role {
                Role::App => play.key,
                Role::Operator => play.operator_key,
            })
        });
        let key = key.ok_or(Usage(match role {
            Role::App => "no API key: give --key (or HAWSER_KEY) with the key of the app",
            Role::Operator => "no API key: give --key (or HAWSER_KEY) with the operator's key",
        }))?;
        // What cannot stand in a header was not printed by `hawser app create` either.
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Usage("--key (or HAWSER_KEY): a key has visible characters only").into());
        }
        Ok(Client::new(&url, &key))
    }

    pub fn app(&self) -> anyhow::Result<String> {
        let app =
            self.app.clone().filter(|app| !app.is_empty()).or_else(|| Some(PlayFile::read()?.app));
        Ok(app.ok_or(Usage("no app: give --app (or HAWSER_APP)"))?)
    }
}

/// What a control node's API can be reached at.
fn url(text: &str) -> Result<String, &'static str> {
    match reqwest::Url::parse(text) {
        Ok(url) if url.scheme() == "http" && url.has_host() => Ok(text.to_owned()),
        Ok(url) if url.scheme() == "https" => {
            Err("hawser speaks plain HTTP: write it as http://host:port")
        }
        _ => Err("write it as http://host:port, such as http://127.0.0.1:7420"),
    }
}

/// What a running `hawser play` tells other commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlayFile {
    pub pid: u32,
    pub url: String,
    pub app: String,
    pub key: String,
    pub operator_key: String,
    /// Where devices connect.
    pub brokers: Vec<String>,
}

impl PlayFile {
    /// The file of a play that runs. One that was killed may have left its file: that one is not.
    pub fn read() -> Option<PlayFile> {
        let text = fs::read_to_string(PlayFile::path()?).ok()?;
        let file: PlayFile = serde_json::from_str(&text).ok()?;
        Path::new("/proc").join(file.pid.to_string()).exists().then_some(file)
    }

    /// Writes the file until the guard is dropped.
    pub fn publish(&self) -> anyhow::Result<Published> {
        let path = PlayFile::path().context(
            "cannot tell other terminals about this play: neither XDG_RUNTIME_DIR nor HOME is set",
        )?;
        let directory = path.parent().context("the file lies in a directory")?;
        let shown = || format!("cannot write {}", path.display());
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.with_context(shown)?;
        // A new file each time, so that its mode is ours and a reader never sees half of it.
        let fresh = path.with_extension(format!("{}.tmp", self.pid));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .with_context(shown)?;
        file.write_all(&serde_json::to_vec_pretty(self)?).with_context(shown)?;
        fs::rename(&fresh, &path).with_context(shown)?;
        Ok(Published { path, pid: self.pid })
    }

    fn path() -> Option<PathBuf> {
        let set =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let directory = set("XDG_RUNTIME_DIR")
            .map(|runtime| runtime.join("hawser"))
            .or_else(|| Some(set("HOME")?.join(".config/hawser")))?;
        Some(directory.join("play.json"))
    }
}

/// Removes the file when the play ends, unless a later play has replaced it.
#[derive(Debug)]
pub struct Published {
    path: PathBuf,
    pid: u32,
}

impl Drop for Published {
    fn drop(&mut self) {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let ours = serde_json::from_str::<PlayFile>(&text).is_ok_and(|file| file.pid == self.pid);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}
