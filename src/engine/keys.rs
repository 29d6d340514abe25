//! The keys of a project: whose turn it is, which are set aside, what of it is kept.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::core::Engine;
use super::flight::Flight;
use super::state::{Effect, Project};
use crate::caps;
use crate::gate::units::{BootMs, Now, UnixMs};
use crate::gate::window::AttemptId;
use crate::store::KeyState;
use crate::upstream::Refusal;

/// One of a project's keys. Its place is that of its secret among the endpoint's, for good.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: String,
    /// Refusals one after another.
    pub(super) refused: u32,
    /// Attempts before this one were under way at the last of them.
    pub(super) refused_before: AttemptId,
    pub(super) aside: Option<(BootMs, String)>,
    /// Whether a user disabled it.
    pub(super) disabled: bool,
    /// Whether the configuration has it no more.
    pub(super) gone: bool,
}

impl Key {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            refused: 0,
            refused_before: AttemptId(0),
            aside: None,
            disabled: false,
            gone: false,
        }
    }

    /// Whether requests may be sent with it.
    pub(super) fn is_fit(&self, now: Now) -> bool {
        !self.gone && !self.disabled && !self.is_aside(now)
    }

    pub(super) fn is_aside(&self, now: Now) -> bool {
        self.aside.as_ref().is_some_and(|(until, _)| *until > now.boot)
    }

    /// Goes on as it stood when the last daemon ended. The wall clock may have been set since.
    pub(super) fn restore(&mut self, state: KeyState, now: Now) {
        self.disabled = state.disabled;
        self.refused = state.refused;
        let latest = now.boot.plus(caps::KEY_ASIDE_MAX_MS);
        let aside = state.aside.map(|(until, why)| (now.boot_at(until).min(latest), why));
        self.aside = aside.filter(|(until, _)| *until > now.boot);
    }
}

/// The keys that a project has from now on.
#[derive(Debug)]
pub struct NewKeys {
    /// The project's row id.
    pub(super) project: i64,
    /// Their places among the endpoint's, with their names.
    pub(super) ring: Vec<(usize, String)>,
    /// Told when they are in force.
    pub(super) done: oneshot::Sender<()>,
}

/// A user's word on one key.
#[derive(Debug)]
pub struct KeySwitch {
    /// The project's row id.
    pub(super) project: i64,
    /// The key's name.
    pub(super) name: String,
    /// Whether it is not to be used.
    pub(super) disabled: bool,
    /// Told when it is in force.
    pub(super) done: oneshot::Sender<()>,
}

/// A key as reports show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyView {
    /// The project's name.
    pub project: String,
    /// The key's name.
    pub name: String,
    /// Until when it is set aside, and why.
    pub aside: Option<(UnixMs, String)>,
    /// Whether a user disabled it.
    pub disabled: bool,
}

/// How keys stand, to be kept: of each the newest, written one after the other.
#[derive(Debug, Default)]
pub(super) struct KeyMemos {
    waiting: BTreeMap<(i64, String), KeyState>,
    keeping: bool,
}

impl KeyMemos {
    /// How many are not written.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.keeping)
    }

    /// The next one, unless one is being written.
    pub(super) fn next(&mut self) -> Option<Effect> {
        if self.keeping {
            return None;
        }
        let (_, state) = self.waiting.pop_first()?;
        self.keeping = true;
        Some(Effect::KeepKey(state))
    }

    pub(super) fn kept(&mut self) {
        self.keeping = false;
    }
}

impl Engine {
    /// Takes up the keys of a project. Places stay: requests under way go by them.
    pub(super) fn new_keys(&mut self, new: NewKeys) {
        if let Some(project) = self.projects.get_mut(&new.project) {
            project.keys.iter_mut().for_each(|key| key.gone = true);
            for (place, name) in new.ring {
                while project.keys.len() <= place {
                    let gone = Key { gone: true, ..Key::new(name.clone()) };
                    project.keys.push(gone);
                }
                project.keys[place].gone = false;
            }
        }
        // Whoever asked may have gone away.
        let _ = new.done.send(());
    }

    /// Takes a key out of use, or into use again with nothing held against it.
    pub(super) fn switch_key(&mut self, now: Now, switch: KeySwitch) {
        let project = self.projects.get_mut(&switch.project);
        let named = |key: &&mut Key| !key.gone && key.name == switch.name;
        if let Some(key) = project.and_then(|project| project.keys.iter_mut().find(named)) {
            key.disabled = switch.disabled;
            if !switch.disabled {
                key.refused = 0;
                key.aside = None;
                let state = state_of(switch.project, key, now);
                self.keep_key(state);
            }
        }
        let _ = switch.done.send(());
    }

    /// The provider took a key.
    pub(super) fn key_went_well(&mut self, id: AttemptId, flight: &Flight, now: Now) {
        let project = self.projects.get_mut(&flight.project).expect("a flight has a project");
        let key = &mut project.keys[flight.key];
        // What was under way when the key was refused says nothing about it now.
        if id < key.refused_before || (key.refused == 0 && key.aside.is_none()) {
            return;
        }
        key.refused = 0;
        key.aside = None;
        let state = state_of(flight.project, key, now);
        self.keep_key(state);
    }

    /// The provider refused a key.
    pub(super) fn set_key_aside(&mut self, now: Now, flight: &Flight, refusal: &Refusal) {
        let next = self.next_attempt;
        let project = self.projects.get_mut(&flight.project).expect("a flight has a project");
        let key = &mut project.keys[flight.key];
        // Requests that were under way together are one refusal.
        if key.is_aside(now) {
            return;
        }
        let shift = key.refused.min(6);
        let wait = (caps::KEY_ASIDE_BASE_MS << shift).min(caps::KEY_ASIDE_MAX_MS);
        key.refused = key.refused.saturating_add(1);
        key.refused_before = next;
        let reason = format!("key {} was refused: {}", key.name, refusal.message);
        tracing::warn!(project.name = %project.name, key.name = %key.name, wait_ms = wait,
            "key {} of {} is set aside", key.name, project.name);
        key.aside = Some((now.boot.plus(wait), reason));
        let state = state_of(flight.project, key, now);
        self.keep_key(state);
    }

    /// Has it kept how a key stands; of one that is gone nobody wants to know.
    fn keep_key(&mut self, (state, gone): (KeyState, bool)) {
        if !gone {
            self.key_memos.waiting.insert((state.project_id, state.name.clone()), state);
        }
    }

    /// Every key that the configuration has.
    #[must_use]
    pub fn keys(&self, now: Now) -> Vec<KeyView> {
        let of = |project: &Project| {
            let name = project.name.clone();
            let view = move |key: &Key| {
                let aside = key.aside.as_ref().filter(|_| key.is_aside(now));
                KeyView {
                    project: name.clone(),
                    name: key.name.clone(),
                    aside: aside.map(|(until, why)| (now.wall_at(*until), why.clone())),
                    disabled: key.disabled,
                }
            };
            project.keys.iter().filter(|key| !key.gone).map(view).collect::<Vec<_>>()
        };
        self.projects.values().flat_map(of).collect()
    }
}

fn state_of(project_id: i64, key: &Key, now: Now) -> (KeyState, bool) {
    let aside = key.aside.as_ref().map(|(until, why)| (now.wall_at(*until), why.clone()));
    let (name, refused) = (key.name.clone(), key.refused);
    (KeyState { project_id, name, disabled: key.disabled, aside, refused }, key.gone)
}

impl Project {
    /// Why no key can be used, until when at least, and what to do.
    pub(super) fn keyless(&self, now: Now, open_end: BootMs) -> Option<(BootMs, String)> {
        let keys: Vec<_> = self.keys.iter().filter(|key| !key.gone).collect();
        if keys.iter().any(|key| key.is_fit(now)) {
            return None;
        }
        let name = &self.name;
        let import = format!("tidegate keys import FILE --project {name}");
        if keys.is_empty() {
            return Some((open_end, format!("{name} has no key: run {import}")));
        }
        let aside = keys.iter().filter(|key| !key.disabled).filter_map(|key| key.aside.clone());
        let disabled = keys.iter().filter(|key| key.disabled).count();
        let Some((until, reason)) = aside.min() else {
            let told = format!(
                "every key of {name} is disabled: run tidegate keys enable {name} NAME, or {import}"
            );
            return Some((open_end, told));
        };
        let others = match disabled {
            0 => "set aside".to_owned(),
            n => format!("set aside or disabled ({n})"),
        };
        let told = format!(
            "every key of {name} is {others}: {reason}; once it is mended run tidegate keys enable \
            {name} NAME, or {import}"
        );
        Some((until, told))
    }

    /// The keys that can be used, in the order of their turns.
    pub(super) fn turns(&self, now: Now) -> Vec<usize> {
        let count = self.keys.len();
        let fit = |key: &usize| self.keys[*key].is_fit(now);
        (0..count).map(|step| (self.next_key + step) % count).filter(fit).collect()
    }

    /// The names of all keys that it has or had, by place.
    pub(super) fn key_names(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.name.clone()).collect()
    }

    /// Goes on with the key after the one that was used last.
    pub(super) fn turn_after(&mut self, name: &str) {
        if let Some(place) = self.keys.iter().position(|key| key.name == name) {
            self.next_key = (place + 1) % self.keys.len();
        }
    }
}
