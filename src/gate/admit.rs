//! All dimensions at once: one gate over every bucket.

use std::collections::BTreeMap;

use chrono::NaiveDate;

use super::block::Block;
use super::day::{DayCharge, DayEdges, opening};
use super::learn::Trust;
use super::limits::{Limit, MINUTE_MS};
use super::reserve::{Claim, Firm, Reserve};
use super::space::{Reading, Space, Towards, View};
use super::spaces::Spaces;
use super::units::{BootMs, Class, KeyId, Now, ProjectId, UnixMs, Weights};
use super::verdict::{
    Ask, Because, Beside, Explanation, LimitState, Never, Requirement, Verdict, Wait,
};
use super::window::{AttemptId, GAMMA_MS, Holder};
use crate::calendar::QuotaDay;

/// Identifies a bucket: (project, quota group), the row id of the `bucket` table.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct BucketId(pub i64);

/// Every bucket's occupancy, and the one place that says yes.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    pub(super) buckets: BTreeMap<BucketId, Bucket>,
    pub(super) owners: BTreeMap<ProjectId, Owner>,
    pub(super) attempts: BTreeMap<AttemptId, Open>,
    /// Buckets that turned out to be others: their requests count there.
    aliases: BTreeMap<BucketId, BucketId>,
}

/// What a project's buckets have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Owner {
    pub(super) shared: Option<Spaces>,
    edges: DayEdges,
    pub(super) reserve: Reserve,
}

#[derive(Clone, Debug)]
pub(super) struct Bucket {
    pub(super) project: ProjectId,
    pub(super) spaces: Spaces,
    /// The limits as configured or set, before anything was learned.
    stated: BTreeMap<BucketId, Vec<Limit>>,
    pub(super) trust: Trust,
    pub(super) block: Option<Block>,
    /// When the last batch request was reserved, and the last interactive one.
    pub(super) last_batch: Option<BootMs>,
    pub(super) last_interactive: Option<BootMs>,
    /// The batch request that interactive ones make way for.
    pub(super) firm: Option<Firm>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) ask: Ask,
    pub(super) u: Option<BootMs>,
    pub(super) day_lo: NaiveDate,
}

impl Bucket {
    /// The limits as configured or set, before anything was learned: of each kind the tightest of
    /// all that count here.
    pub(super) fn stated(&self) -> Vec<Limit> {
        let mut tightest: Vec<Limit> = Vec::new();
        for limit in self.stated.values().flatten() {
            let same = |known: &&mut Limit| {
                (known.metric, known.window, known.scope)
                    == (limit.metric, limit.window, limit.scope)
            };
            match tightest.iter_mut().find(same) {
                Some(known) if limit.value < known.value => *known = limit.clone(),
                Some(_) => {}
                None => tightest.push(limit.clone()),
            }
        }
        tightest
    }
}

impl Gate {
    /// Defines a bucket and its limits; a bucket without limits admits everything.
    ///
    /// # Panics
    /// When the bucket is defined already.
    pub fn define(&mut self, id: BucketId, project: ProjectId, limits: Vec<Limit>, day: QuotaDay) {
        self.owners.entry(project).or_default();
        let bucket = Bucket {
            project,
            spaces: Spaces::new(limits.clone(), day),
            stated: BTreeMap::from([(id, limits)]),
            trust: Trust::default(),
            block: None,
            last_batch: None,
            last_interactive: None,
            firm: None,
        };
        let previous = self.buckets.insert(id, bucket);
        assert!(previous.is_none(), "bucket {id:?} defined twice");
    }

    /// Defines the limits that all buckets of a project share, such as what it may spend; none
    /// takes them away. New ones take over what the buckets' minutes and days hold.
    pub fn share(&mut self, project: ProjectId, limits: Vec<Limit>, day: QuotaDay, now: Now) {
        let open = self.open_in(|bucket| bucket.project == project);
        let owner = self.owners.entry(project).or_default();
        match &mut owner.shared {
            None if limits.is_empty() => {}
            Some(shared) => shared.redefine(limits, &open, now),
            shared @ None => {
                let mut spaces = Spaces::new(limits, day);
                let own = self.buckets.values().filter(|bucket| bucket.project == project);
                own.for_each(|bucket| spaces.take_over(&bucket.spaces, &open, now));
                spaces.enter_open(&open);
                *shared = Some(spaces);
            }
        }
    }

    /// Replaces a bucket's limits at once. Nothing is revoked: what is above a lower limit drains.
    /// What was learned about a limit stays, as far as it still applies. Of buckets that were
    /// merged the tightest of their limits hold.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn redefine(&mut self, id: BucketId, limits: Vec<Limit>, now: Now) {
        self.bucket(id).stated.insert(id, limits);
        self.apply(id, now);
    }

    /// Puts the limits in force that follow from what is stated and what was learned.
    pub(super) fn apply(&mut self, id: BucketId, now: Now) {
        let id = self.root(id);
        let open = self.open_in_bucket(id);
        let bucket = self.buckets.get_mut(&id).expect("a root is defined");
        let limits = bucket.trust.overlay(&bucket.stated());
        bucket.spaces.redefine(limits, &open, now);
    }

    /// What is known of the provider's clock, for the days of a project.
    pub fn set_day_edges(&mut self, project: ProjectId, edges: DayEdges) {
        self.owners.entry(project).or_default().edges = edges;
    }

    /// Whether the request may go at `now`. Changes nothing that counts.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn check(&mut self, ask: &Ask, now: Now) -> Verdict {
        self.check_beside(ask, &Beside::default(), now)
    }

    /// Whether the request may go at `now`, if others are let past it: what that would do to one
    /// that waits.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn check_beside(&mut self, ask: &Ask, beside: &Beside, now: Now) -> Verdict {
        let mut longest: Option<Wait> = None;
        let mut note = |until: BootMs, because: &dyn Fn() -> Because| {
            if longest.as_ref().is_none_or(|known| known.until < until) {
                longest = Some(Wait { until, because: because() });
            }
        };
        let bucket = self.bucket(ask.bucket);
        if let Some((until, reason)) = bucket.blocked_at(now) {
            note(until, &|| Because::Blocked { reason: reason.to_owned() });
        }
        if let Some((until, gap_ms)) = bucket.paced_at(ask.class, now) {
            note(until, &|| Because::Paced { gap_ms });
        }
        let mut never = None;
        self.read_each(ask, beside, now, &mut |space, index, reading| {
            let limit = &space.meters[index].limit;
            let needs = ask.need.get(limit.metric);
            if needs > limit.value && limit.says_never() {
                never.get_or_insert_with(|| Never::of(limit, needs));
            } else if let Some(until) = reading.until {
                note(until, &|| reading.short_of(limit, needs, ask.class));
            }
        });
        match (never, longest) {
            (Some(never), _) => Verdict::Never(never),
            (None, Some(wait)) => Verdict::Wait(wait),
            (None, None) => Verdict::Fits,
        }
    }

    /// What the request needs and what is there: the numbers that [`Gate::check`] decides by.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn explain(&mut self, ask: &Ask, now: Now) -> Explanation {
        let verdict = self.check(ask, now);
        let root = self.root(ask.bucket);
        let states = self.states(root, Some(ask.key), now);
        let mut states = states.into_iter();
        let mut needs = Vec::new();
        self.read_each(ask, &Beside::default(), now, &mut |space, index, reading| {
            let state = states.next().expect("a state for each limit, in the same order");
            let need = ask.need.get(state.limit.metric);
            if need > 0 {
                let usable = reading.usable.saturating_sub(reading.kept);
                let over = reading.used.saturating_add(need).saturating_sub(usable);
                let leaving = space.leaving(index, over);
                let Reading { kept, until: fits_at, .. } = reading;
                needs.push(Requirement { state, needs: need, kept, fits_at, leaving });
            }
        });
        Explanation { verdict, needs }
    }

    /// Takes the room for an attempt from every limit and returns the first quota day that it may
    /// count on. The caller has seen [`Verdict::Fits`] for the same `now`.
    ///
    /// # Panics
    /// When the attempt is known already.
    pub fn reserve(&mut self, id: AttemptId, ask: &Ask, now: Now) -> NaiveDate {
        let ask = Ask { bucket: self.root(ask.bucket), ..*ask };
        self.each(&ask, &mut |space| {
            space.enter(&ask.need);
            if ask.class == Class::Interactive {
                space.begin_beside().enter(&ask.need, now);
            }
        });
        let edges = self.edges(ask.bucket);
        let bucket = self.bucket(ask.bucket);
        let day_lo = bucket.spaces.all.days.first_day(now, edges);
        if let Some(block) = &mut bucket.block {
            block.canary = Some(id);
        }
        match ask.class {
            Class::Batch => bucket.last_batch = Some(now.boot),
            Class::Interactive => bucket.last_interactive = Some(now.boot),
        }
        self.recover(&ask, now);
        let open = Open { ask, u: None, day_lo };
        let previous = self.attempts.insert(id, open);
        assert!(previous.is_none(), "attempt {id:?} reserved twice");
        day_lo
    }

    /// Learns that the transport has taken the attempt's last byte: the provider counts it within
    /// the time that bytes can be under way.
    ///
    /// # Panics
    /// When the books in memory contradict themselves.
    pub fn flushed(&mut self, id: AttemptId, now: Now) {
        let delta_ms = self.delta_of(id);
        self.bound(id, now.boot.plus(delta_ms));
    }

    /// Learns that the provider has counted the attempt by `u` at the latest. A later bound than
    /// the known one changes nothing.
    ///
    /// # Panics
    /// When the books in memory contradict themselves.
    pub fn bound(&mut self, id: AttemptId, u: BootMs) {
        let Some(open) = self.attempts.get_mut(&id) else { return };
        if open.u.is_some_and(|known| known <= u) {
            return;
        }
        let previous = open.u.replace(u);
        let ask = open.ask;
        self.each(&ask, &mut |space| {
            space.bound(id, &ask.need, previous, u);
            if let Some(it) = space.beside(ask.class) {
                it.space.bound(id, &ask.need, previous, u);
            }
        });
    }

    /// Ends an attempt that reached the provider: its weight becomes what was really used. Returns
    /// the bound and the days it is charged to; `None` for an unknown attempt.
    ///
    /// Headers, if any came, were told to [`Gate::bound`] before. What ends without them, such as a
    /// connection that broke, may still be on its way to the provider, so it counts for Δ more.
    ///
    /// # Panics
    /// When the books in memory contradict themselves.
    pub fn settle(
        &mut self,
        id: AttemptId,
        actual: Weights,
        now: Now,
    ) -> Option<(BootMs, DayCharge)> {
        let end = now.boot.plus(self.delta_of(id));
        self.bound(id, end);
        let open = self.attempts.remove(&id)?;
        let u = open.u.expect("a bound was just set");
        let edges = self.edges(open.ask.bucket);
        let days = &mut self.bucket(open.ask.bucket).spaces.all.days;
        let hi = days.last_day(now.wall_at(u), edges).max(open.day_lo);
        let charge = DayCharge { lo: open.day_lo, hi };
        self.each(&open.ask, &mut |space| {
            space.settle(id, (&open.ask.need, &actual), u, end);
            space.days.charge(charge, &actual);
            space.let_go(now);
            if let Some(it) = space.beside(open.ask.class) {
                it.space.settle(id, (&open.ask.need, &actual), u, end);
                it.settled(&actual, now);
            }
        });
        let bucket = self.bucket(open.ask.bucket);
        bucket.forget_canary(id);
        bucket.overrun(open.ask.need.input_tokens, actual.input_tokens, now);
        Some((u, charge))
    }

    /// Ends an attempt of which nothing was sent: it weighs nothing.
    ///
    /// # Panics
    /// When the books in memory contradict themselves.
    pub fn void(&mut self, id: AttemptId) {
        let Some(open) = self.attempts.remove(&id) else { return };
        self.each(&open.ask, &mut |space| {
            space.discard(id, &open.ask.need, open.u);
            if let Some(it) = space.beside(open.ask.class) {
                it.space.discard(id, &open.ask.need, open.u);
            }
        });
        self.bucket(open.ask.bucket).forget_canary(id);
    }

    /// Enters an attempt of the ledger at start: it counts until `u`, whatever was done before.
    pub fn restore(
        &mut self,
        id: AttemptId,
        bucket: BucketId,
        key: Option<KeyId>,
        weights: Weights,
        u: BootMs,
    ) {
        let place = self.place(bucket, key, weights);
        if self.buckets.contains_key(&place.bucket) {
            self.each(&place, &mut |space| space.restore(Holder::Attempt(id), &weights, u));
            let bucket = self.bucket(place.bucket);
            bucket.last_batch = bucket.last_batch.max(Some(u));
        }
    }

    /// Enters a day's sum of the ledger at start.
    pub fn restore_day(
        &mut self,
        bucket: BucketId,
        key: Option<KeyId>,
        charge: DayCharge,
        weights: Weights,
    ) {
        let place = self.place(bucket, key, weights);
        if self.buckets.contains_key(&place.bucket) {
            self.each(&place, &mut |space| space.days.charge(charge, &weights));
        }
    }

    fn place(&self, bucket: BucketId, key: Option<KeyId>, need: Weights) -> Ask {
        // A key that the configuration has no more counts by itself as well.
        let key = key.unwrap_or(KeyId(u32::MAX));
        Ask { bucket: self.root(bucket), key, class: Class::Batch, need }
    }

    /// Tells whether estimates for the bucket rest on learned ratios, of which one in a hundred is
    /// too low: then some room is left for those.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn set_estimates_learned(&mut self, bucket: BucketId, learned: bool) {
        self.bucket(bucket).trust.estimates_learned = learned;
    }

    /// Whether some limit of the bucket counts each key by itself.
    #[must_use]
    pub fn counts_by_key(&self, bucket: BucketId) -> bool {
        let Some(bucket) = self.buckets.get(&self.root(bucket)) else { return false };
        let shared = self.owners.get(&bucket.project).and_then(|owner| owner.shared.as_ref());
        bucket.spaces.counts_by_key() || shared.is_some_and(Spaces::counts_by_key)
    }

    /// The longest rolling window of any bucket, in milliseconds: how far back the ledger matters.
    #[must_use]
    pub fn longest_window_ms(&self) -> u64 {
        let buckets = self.buckets.values().map(|bucket| &bucket.spaces);
        let shared = self.owners.values().filter_map(|owner| owner.shared.as_ref());
        let longest = buckets.chain(shared).map(Spaces::longest_window_ms).max();
        longest.unwrap_or(0).max(MINUTE_MS) + GAMMA_MS
    }

    /// The end of the bucket's quota day that holds `now`, and when a bucket that had run out
    /// opens.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn day_end(&mut self, bucket: BucketId, now: Now) -> (UnixMs, UnixMs) {
        let edges = self.edges(bucket);
        let end = UnixMs::from(self.bucket(bucket).spaces.all.days.today(now, edges).end);
        (end, opening(end, edges))
    }

    /// Every limit of a bucket as it stands: its own, those of each key of it that was used, and
    /// those that all buckets of its project share.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn state(&mut self, bucket: BucketId, now: Now) -> Vec<LimitState> {
        let root = self.root(bucket);
        self.states(root, None, now)
    }

    /// The bucket in which requests of `id` count: `id` itself, unless it was merged.
    #[must_use]
    pub fn root(&self, id: BucketId) -> BucketId {
        self.aliases.get(&id).copied().unwrap_or(id)
    }

    /// Learns that two buckets are one quota: requests of `from` count in `into` from now on, with
    /// all that `from` holds.
    ///
    /// # Panics
    /// When a bucket is not defined.
    pub fn merge(&mut self, from: BucketId, into: BucketId, now: Now) {
        let (from, into) = (self.root(from), self.root(into));
        if from == into {
            return;
        }
        let own = self.open_in_bucket(into);
        let theirs = self.open_in_bucket(from);
        let gone = self.buckets.remove(&from).expect("every bucket in use is defined at start");
        for open in self.attempts.values_mut().filter(|open| open.ask.bucket == from) {
            open.ask.bucket = into;
        }
        for target in self.aliases.values_mut().filter(|target| **target == from) {
            *target = into;
        }
        self.aliases.insert(from, into);
        let bucket = self.bucket(into);
        bucket.spaces.tell_keys_apart_like(&gone.spaces, &own);
        bucket.spaces.absorb(&gone.spaces, &theirs, now);
        bucket.last_batch = bucket.last_batch.max(gone.last_batch);
        bucket.last_interactive = bucket.last_interactive.max(gone.last_interactive);
        bucket.stated.extend(gone.stated);
        let stated = bucket.stated();
        bucket.trust.join(gone.trust, &stated);
        self.apply(into, now);
        self.bucket(into).spaces.all.share_at_most(&gone.spaces.all);
        if let Some(block) = gone.block {
            self.shut(into, block.until, block.reason, block.of_day);
        }
    }

    pub(super) fn bucket(&mut self, id: BucketId) -> &mut Bucket {
        let id = self.root(id);
        self.buckets.get_mut(&id).expect("every bucket in use is defined at start")
    }

    pub(super) fn owner(&mut self, project: ProjectId) -> &mut Owner {
        self.owners.entry(project).or_default()
    }

    pub(super) fn edges(&self, bucket: BucketId) -> DayEdges {
        let project = self.buckets.get(&self.root(bucket)).map(|bucket| bucket.project);
        let owner = project.and_then(|project| self.owners.get(&project));
        owner.map(|owner| owner.edges).unwrap_or_default()
    }

    /// The limits that all buckets of a project share.
    pub(super) fn shared_limits(&self, project: ProjectId) -> impl Iterator<Item = &Limit> {
        let shared = self.owners.get(&project).and_then(|owner| owner.shared.as_ref());
        shared.into_iter().flat_map(|spaces| &spaces.all.meters).map(|meter| &meter.limit)
    }

    fn delta_of(&self, id: AttemptId) -> u64 {
        let bucket = self.attempts.get(&id).and_then(|open| self.buckets.get(&open.ask.bucket));
        bucket.map_or(super::window::DELTA_MS, |bucket| bucket.trust.delta_ms())
    }

    fn open_in(&self, holds: impl Fn(&Bucket) -> bool) -> Vec<(AttemptId, Open)> {
        let within = |open: &Open| self.buckets.get(&open.ask.bucket).is_some_and(&holds);
        let open = self.attempts.iter().filter(|(_, open)| within(open));
        open.map(|(id, open)| (*id, *open)).collect()
    }

    fn open_in_bucket(&self, bucket: BucketId) -> Vec<(AttemptId, Open)> {
        let open = self.attempts.iter().filter(|(_, open)| open.ask.bucket == bucket);
        open.map(|(id, open)| (*id, *open)).collect()
    }

    /// Every space in which the request counts.
    fn each(&mut self, ask: &Ask, act: &mut dyn FnMut(&mut Space)) {
        let bucket = self.buckets.get_mut(&ask.bucket).expect("a root is defined");
        let project = bucket.project;
        bucket.spaces.each(ask.key, act);
        if let Some(shared) = self.owners.get_mut(&project).and_then(|it| it.shared.as_mut()) {
            shared.each(ask.key, act);
        }
    }

    pub(super) fn read_each(
        &mut self,
        ask: &Ask,
        beside: &Beside,
        now: Now,
        act: &mut dyn FnMut(&mut Space, usize, Reading),
    ) {
        let ask = Ask { bucket: self.root(ask.bucket), ..*ask };
        let bucket = &self.buckets[&ask.bucket];
        let owner = self.owners.get(&bucket.project);
        let (edges, reserve) = owner.map_or_else(Default::default, |it| (it.edges, it.reserve));
        let claim = Claim::of(&ask, bucket.firm, reserve);
        let view = View { now, edges, delta_ms: bucket.trust.delta_ms(), claim };
        self.each(&ask, &mut |space| {
            for index in 0..space.meters.len() {
                let metric = space.meters[index].limit.metric;
                let towards = Towards {
                    needs: ask.need.get(metric),
                    more: beside.more.get(metric),
                    staying: beside.staying.get(metric),
                };
                let reading = space.read(index, towards, view);
                act(space, index, reading);
            }
        });
    }

    /// The state of every limit, in the order in which [`Gate::read_each`] reads them for `key`;
    /// without one, of every key.
    fn states(&mut self, root: BucketId, key: Option<KeyId>, now: Now) -> Vec<LimitState> {
        let edges = self.edges(root);
        let claim = Claim::OfInteractive(self.owner(self.buckets[&root].project).reserve);
        let bucket = self.buckets.get_mut(&root).expect("every bucket is defined at start");
        let view = View { now, edges, delta_ms: bucket.trust.delta_ms(), claim };
        let mut states = Vec::new();
        bucket.spaces.states(key, view, false, &mut states);
        for state in &mut states {
            state.provider_allows = bucket.trust.allows_more(&state.limit);
        }
        let project = bucket.project;
        if let Some(shared) = self.owners.get_mut(&project).and_then(|it| it.shared.as_mut()) {
            shared.states(key, view, true, &mut states);
        }
        states
    }
}
