//! The app table: read from the store, written with compare-and-set, sent to brokers as keys.
//!
//! The table has a version in the store, which every write raises. Each node reads the version
//! every `apps_refresh_ms` and the table when it differs; so an app made on one node is known to
//! all within that time, and at once to whoever asks for a refresh. Two nodes that register apps at
//! the same time cannot give one number or one name twice: the later write fails, reads again, and
//! takes the next number, or finds its name taken.

use hawser_codec::ids::{AppId, is_app_name};
use hawser_codec::limits::{APP_KEYS_MAX, APPS_MAX};
use hawser_codec::link::{AppKeys, Keys, to_broker};

use super::event::{
    Action, Actions, Answer, CallId, LinkId, Now, Refusal, StoreFailure, StoreOp, StoreResult,
};
use super::{Node, Purpose};
use crate::records::{App, NewApp};

const CREATE_ATTEMPTS_MAX: u32 = 8;
/// Differs from every version, so that the first read brings the table.
const NO_VERSION: u64 = u64::MAX;

#[derive(Debug, Default)]
pub(super) struct Apps {
    /// In ascending order of id.
    list: Vec<App>,
    /// `None` before the first read.
    version: Option<u64>,
    is_reading: bool,
    due_ms: u64,
    /// Calls that the read under way answers, and calls that came after it began.
    fresh: Vec<CallId>,
    fresh_next: Vec<CallId>,
    /// Registrations that begin again with the next table.
    again: Vec<Creation>,
}

/// A registration under way.
#[derive(Clone, Debug)]
pub(super) struct Creation {
    call: CallId,
    new: NewApp,
    attempts: u32,
}

impl Apps {
    pub fn list(&self) -> &[App] {
        &self.list
    }

    pub fn is_known(&self) -> bool {
        self.version.is_some()
    }

    pub fn deadline_ms(&self) -> Option<u64> {
        (!self.is_reading).then_some(self.due_ms)
    }

    pub fn invariants(&self) {
        assert!(self.list.is_sorted_by(|a, b| a.id < b.id), "one app per number");
        assert!(self.is_reading || (self.fresh.is_empty() && self.again.is_empty()));
    }
}

impl Node {
    /// The call is answered by a read that begins after it.
    pub(super) fn refresh_apps(&mut self, call: CallId, now: Now, out: &mut Actions) {
        if self.apps.is_reading {
            self.apps.fresh_next.push(call);
        } else {
            self.apps.fresh.push(call);
            self.read_apps(now, out);
        }
    }

    pub(super) fn read_apps(&mut self, now: Now, out: &mut Actions) {
        if self.apps.is_reading {
            return;
        }
        self.apps.is_reading = true;
        self.apps.due_ms = now.mono_ms + self.config.limits.apps_refresh_ms;
        let known = self.apps.version.unwrap_or(NO_VERSION);
        self.ops.store(Purpose::ReadApps, StoreOp::ReadApps { known }, out);
    }

    pub(super) fn on_apps(&mut self, result: StoreResult, now: Now, out: &mut Actions) {
        self.apps.is_reading = false;
        let again = std::mem::take(&mut self.apps.again);
        let fresh = std::mem::take(&mut self.apps.fresh);
        match result {
            StoreResult::Apps { version, apps } => {
                if let Some(apps) = apps {
                    self.set_apps(version, apps, now, out);
                }
                for call in fresh {
                    self.answer(call, Answer::AppsFresh, out);
                }
                for creation in again {
                    self.create_app(creation, out);
                }
            }
            StoreResult::Failed(_) => {
                let refusal = Refusal::StoreUnavailable { retry_after_ms: self.retry_after_ms() };
                for call in fresh.into_iter().chain(again.into_iter().map(|c| c.call)) {
                    self.refuse_call(call, refusal, out);
                }
                let retry_ms = now.mono_ms + self.config.limits.store_retry_ms;
                self.apps.due_ms = self.apps.due_ms.min(retry_ms);
            }
            other => unreachable!("a read of the apps is not answered with {other:?}"),
        }
        if !self.apps.fresh_next.is_empty() {
            self.apps.fresh = std::mem::take(&mut self.apps.fresh_next);
            self.read_apps(now, out);
        }
    }

    fn set_apps(&mut self, version: u64, mut apps: Vec<App>, now: Now, out: &mut Actions) {
        apps.sort_unstable_by_key(|app| app.id);
        apps.dedup_by_key(|app| app.id);
        apps.truncate(APPS_MAX);
        self.accounts.set_apps(&apps, now);
        self.apps.list = apps;
        self.apps.version = Some(version);
        out.list.push(Action::AppsChanged);
        let links: Vec<LinkId> = self.routes.links().map(|(id, _)| id).collect();
        self.send_keys(&links, out);
    }

    /// Tickets of these apps can be verified from here on. Nothing is sent before the table was
    /// read: an empty key set would send every device away.
    pub(super) fn send_keys(&self, links: &[LinkId], out: &mut Actions) {
        let Some(version) = self.apps.version else { return };
        let apps = self.apps.list.iter().map(|app| AppKeys {
            app: app.id,
            name: &app.new.name,
            keys: app.new.keys.iter().map(|key| key.verify).collect(),
        });
        let keys = Keys { version, hash_key: self.config.hash_key, apps: apps.collect() };
        let frame = out.write(|bytes| to_broker::keys(bytes, &keys));
        out.list.extend(links.iter().map(|&link| Action::Send { link, frame: frame.clone() }));
    }

    pub(super) fn on_app_create(&mut self, call: CallId, new: NewApp, out: &mut Actions) {
        self.create_app(Creation { call, new, attempts: 0 }, out);
    }

    fn create_app(&mut self, mut creation: Creation, out: &mut Actions) {
        creation.attempts += 1;
        let (app, expected) = match self.place_of(&creation) {
            Ok(place) => place,
            Err(refusal) => return self.refuse_call(creation.call, refusal, out),
        };
        let record = creation.new.encode();
        let purpose = Purpose::WriteApp { creation: Box::new(creation), app, expected };
        self.ops.store(purpose, StoreOp::WriteApp { expected, app, record }, out);
    }

    /// The number that the app would get in the table of this version.
    fn place_of(&self, creation: &Creation) -> Result<(AppId, u64), Refusal> {
        let (new, apps) = (&creation.new, &self.apps.list);
        let retry_after_ms = self.retry_after_ms();
        let Some(version) = self.apps.version else {
            return Err(Refusal::StoreUnavailable { retry_after_ms });
        };
        if !is_app_name(&new.name) {
            return Err(Refusal::BadAppName);
        }
        if !new.quota.is_valid() || new.keys.len() > APP_KEYS_MAX {
            return Err(Refusal::BadQuota);
        }
        if apps.iter().any(|app| app.new.name == new.name) {
            return Err(Refusal::AppNameTaken);
        }
        if apps.len() >= APPS_MAX {
            return Err(Refusal::TooManyApps);
        }
        if creation.attempts > CREATE_ATTEMPTS_MAX {
            return Err(Refusal::StoreUnavailable { retry_after_ms });
        }
        let last = apps.last().map_or(0, |app| app.id.0);
        let next = last.checked_add(1).ok_or(Refusal::TooManyApps)?;
        Ok((AppId(next), version))
    }

    pub(super) fn on_app_written(
        &mut self,
        creation: Creation,
        (app, expected): (AppId, u64),
        result: StoreResult,
        now: Now,
        out: &mut Actions,
    ) {
        let retry_after_ms = self.retry_after_ms();
        match result {
            StoreResult::AppWritten => {
                if self.apps.version == Some(expected) {
                    // Nobody else wrote in between: no need to read it.
                    let mut apps = self.apps.list.clone();
                    apps.push(App { id: app, new: creation.new });
                    self.set_apps(expected + 1, apps, now, out);
                }
                self.answer(creation.call, Answer::AppCreated { app }, out);
            }
            StoreResult::Conflict => {
                self.apps.again.push(creation);
                self.read_apps(now, out);
            }
            StoreResult::Failed(StoreFailure::NotDone) => {
                let refusal = Refusal::StoreUnavailable { retry_after_ms };
                self.refuse_call(creation.call, refusal, out);
            }
            StoreResult::Failed(StoreFailure::Unknown) => {
                let refusal = Refusal::OutcomeUnknown { retry_after_ms };
                self.refuse_call(creation.call, refusal, out);
            }
            other => unreachable!("writing an app is not answered with {other:?}"),
        }
    }
}
