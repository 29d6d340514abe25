//! A space of quota, and one more for each key where limits count by key.

use std::collections::BTreeMap;

use super::admit::Open;
use super::limits::{Limit, Scope, Window};
use super::space::{Reading, Space, Towards, View};
use super::units::{KeyId, Metric, Now};
use super::verdict::LimitState;
use super::window::AttemptId;
use crate::calendar::QuotaDay;

/// A space, and one more for each key where limits count by key.
#[derive(Clone, Debug)]
pub(super) struct Spaces {
    pub(super) all: Space,
    by_key: BTreeMap<KeyId, Space>,
    /// Whether use is told apart by key: since the first limit that counts so.
    keyed: bool,
    key_limits: Vec<Limit>,
    day: QuotaDay,
}

impl Spaces {
    pub(super) fn new(limits: Vec<Limit>, day: QuotaDay) -> Self {
        let (key_limits, limits) =
            limits.into_iter().partition(|limit: &Limit| limit.scope == Scope::Key);
        let all = Space::new(limits, day.clone());
        Self { all, by_key: BTreeMap::new(), keyed: !key_limits.is_empty(), key_limits, day }
    }

    pub(super) fn redefine(&mut self, limits: Vec<Limit>, open: &[(AttemptId, Open)], now: Now) {
        let (key_limits, limits): (Vec<_>, Vec<_>) =
            limits.into_iter().partition(|limit| limit.scope == Scope::Key);
        self.all.redefine(limits, open, now);
        for (key, space) in &mut self.by_key {
            let of_key = open.iter().filter(|(_, open)| open.ask.key == *key);
            let of_key: Vec<_> = of_key.copied().collect();
            space.redefine(key_limits.clone(), &of_key, now);
        }
        self.key_limits = key_limits;
        if !self.key_limits.is_empty() {
            self.tell_keys_apart(open);
        }
    }

    /// Keeps a space for each key from now on, if another bucket's spaces do.
    pub(super) fn tell_keys_apart_like(&mut self, other: &Self, open: &[(AttemptId, Open)]) {
        if other.keyed {
            self.tell_keys_apart(open);
        }
    }

    fn tell_keys_apart(&mut self, open: &[(AttemptId, Open)]) {
        if !std::mem::replace(&mut self.keyed, true) {
            for (id, open) in open {
                self.of_key(open.ask.key).enter_open(*id, open);
            }
        }
    }

    pub(super) fn smallest(&self, metric: Metric) -> Option<u64> {
        let all = self.all.meters.iter().map(|meter| &meter.limit).chain(&self.key_limits);
        all.filter(|limit| limit.metric == metric).map(|limit| limit.value).min()
    }

    pub(super) fn counts_by_key(&self) -> bool {
        !self.key_limits.is_empty()
    }

    /// Enters attempts that were under way before the spaces came into being.
    pub(super) fn enter_open(&mut self, attempts: &[(AttemptId, Open)]) {
        for (id, open) in attempts {
            self.each(open.ask.key, &mut |space| space.enter_open(*id, open));
        }
    }

    pub(super) fn each(&mut self, key: KeyId, act: &mut dyn FnMut(&mut Space)) {
        act(&mut self.all);
        if self.keyed {
            act(self.of_key(key));
        }
    }

    pub(super) fn states(
        &mut self,
        key: Option<KeyId>,
        view: View,
        shared: bool,
        states: &mut Vec<LimitState>,
    ) {
        let all = std::iter::once((None, &mut self.all));
        let keys = self.by_key.iter_mut().map(|(key, space)| (Some(*key), space));
        for (of_key, space) in all.chain(keys) {
            if of_key.is_some() && key.is_some() && of_key != key {
                continue;
            }
            for index in 0..space.meters.len() {
                let Reading { used, reserved, usable, kept, .. } =
                    space.read(index, Towards::default(), view);
                states.push(LimitState {
                    limit: space.meters[index].limit.clone(),
                    key: of_key,
                    shared,
                    usable,
                    used,
                    reserved,
                    free: usable.saturating_sub(used),
                    reserve: kept,
                    next_free: space.next_free(index, view),
                    provider_allows: None,
                });
            }
        }
    }

    /// Takes over all that another bucket's spaces hold; `theirs` are the attempts open there.
    pub(super) fn absorb(&mut self, other: &Self, theirs: &[(AttemptId, Open)], now: Now) {
        let is_open = |id| theirs.iter().any(|(known, _)| *known == id);
        self.all.absorb(&other.all, now, &is_open);
        for (key, space) in &other.by_key {
            self.of_key(*key).absorb(space, now, &is_open);
        }
        self.enter_open(theirs);
    }

    /// Takes over what a bucket's spaces hold of attempts that are not among `open`.
    pub(super) fn take_over(&mut self, other: &Self, open: &[(AttemptId, Open)], now: Now) {
        let is_open = |id| open.iter().any(|(known, _)| *known == id);
        self.all.absorb(&other.all, now, &is_open);
        for (key, space) in other.by_key.iter().filter(|_| self.keyed) {
            self.by_key
                .entry(*key)
                .or_insert_with(|| Space::new(self.key_limits.clone(), self.day.clone()))
                .absorb(space, now, &is_open);
        }
    }

    fn of_key(&mut self, key: KeyId) -> &mut Space {
        let new = || Space::new(self.key_limits.clone(), self.day.clone());
        self.by_key.entry(key).or_insert_with(new)
    }

    pub(super) fn longest_window_ms(&self) -> u64 {
        let of_keys = self.key_limits.iter().filter_map(|limit| match limit.window {
            Window::Rolling { ms } => Some(ms),
            Window::Day | Window::Concurrent => None,
        });
        of_keys.chain([self.all.longest_window_ms()]).max().unwrap_or(0)
    }
}
