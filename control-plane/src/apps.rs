//! The registered apps as the API sees them: a copy of the node's table, found by name and by key.

use std::collections::HashMap;
use std::sync::Arc;

use crate::records::App;
use crate::secrets::KeyDigest;

/// Replaced as a whole when the node's table changes.
#[derive(Debug, Default)]
pub struct AppTable {
    /// In ascending order of id.
    apps: Vec<Arc<App>>,
    by_name: HashMap<String, Arc<App>>,
    by_key: HashMap<[u8; 32], Arc<App>>,
}

impl AppTable {
    pub fn new(apps: &[App]) -> AppTable {
        let apps: Vec<Arc<App>> = apps.iter().cloned().map(Arc::new).collect();
        AppTable {
            by_name: apps.iter().map(|app| (app.new.name.clone(), app.clone())).collect(),
            by_key: apps.iter().map(|app| (app.new.api_key_hash, app.clone())).collect(),
            apps,
        }
    }

    pub fn all(&self) -> &[Arc<App>] {
        &self.apps
    }

    pub fn named(&self, name: &str) -> Option<&Arc<App>> {
        self.by_name.get(name)
    }

    /// The app with this API key. The table is keyed by the digest, which nobody can choose, so
    /// the time that a search takes tells nothing about a key.
    pub fn with_key(&self, digest: KeyDigest) -> Option<&Arc<App>> {
        let app = self.by_key.get(&digest.0)?;
        (KeyDigest(app.new.api_key_hash) == digest).then_some(app)
    }
}
