//! The order of lines in each bucket: kept as indexes, so that a look at the first does not depend
//! on how many wait.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

use super::fair::{Counters, Service, TenantId};
use super::line::{Line, LineId, Place, Rest, Standing};
use super::tick::Head;
use crate::gate::admit::BucketId;
use crate::gate::units::BootMs;

/// Who goes next in every bucket.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    pub(super) lines: BTreeMap<LineId, Standing>,
    pub(super) lanes: BTreeMap<BucketId, Lane>,
    /// When lines age.
    ages: BTreeSet<(BootMs, LineId)>,
    /// When lines wake.
    sleeping: BTreeSet<(BootMs, LineId)>,
    names: BTreeMap<String, TenantId>,
    weights: BTreeMap<TenantId, u32>,
    /// Where the gate makes way for a head that was taken out.
    pub(super) loosened: BTreeSet<BucketId>,
}

/// The turn of a tenant at a level: the least served comes first.
type Turn = (u8, Service, TenantId);

/// Where a line stands in the order of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    turn: Turn,
    place: Place,
}

impl Spot {
    pub(super) fn level(&self) -> u8 {
        self.turn.0
    }

    pub(super) fn line(&self) -> LineId {
        self.place.2
    }
}

/// The order of one bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Lane {
    /// Lines that may have something to offer, by level and tenant: the earliest deadline first,
    /// then who came first.
    groups: BTreeMap<(u8, TenantId), BTreeSet<Place>>,
    /// The tenants of each level, least served first.
    turns: BTreeSet<Turn>,
    /// Lines of each tenant in `groups`.
    active: BTreeMap<TenantId, u32>,
    counters: Counters,
    /// Who waits for room, by level: one each, of which the best keeps it reserved.
    pub(super) heads: BTreeMap<u8, Head>,
    /// Up to where lines were looked at that stand too far behind to be looked at in each tick.
    pub(super) looked: Option<Spot>,
}

impl Schedule {
    /// The number of a tenant by its name.
    ///
    /// # Panics
    /// With more than four thousand million tenants.
    pub fn tenant(&mut self, name: &str) -> TenantId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let id = TenantId(u32::try_from(self.names.len()).expect("fewer than 2^32 tenants"));
        self.names.insert(name.to_owned(), id);
        id
    }

    /// Has a tenant served so many times as much as one of weight 1.
    pub fn set_weight(&mut self, tenant: TenantId, weight: u32) {
        self.weights.insert(tenant, weight.max(1));
    }

    pub(super) fn weight(&self, tenant: TenantId) -> u32 {
        self.weights.get(&tenant).copied().unwrap_or(1)
    }

    /// Enters a line, of which nothing went since `since`. One that is known is replaced, at its
    /// old age.
    pub fn add(&mut self, id: LineId, line: Line, since: BootMs, now: BootMs) {
        let since = self.lines.get(&id).map_or(since, |known| known.unserved_since(now));
        self.remove(id);
        let level = line.class;
        let standing = Standing { line, since, level, rest: Rest::Dormant(now) };
        self.lines.insert(id, standing);
        self.rouse(id, now);
    }

    /// Takes a line out.
    pub fn remove(&mut self, id: LineId) {
        let Some(standing) = self.withdraw(id) else { return };
        self.lines.remove(&id);
        for route in &standing.line.routes {
            let Some(lane) = self.lanes.get_mut(&route.bucket) else { continue };
            if lane.heads.values().any(|head| head.line == id && head.firm) {
                self.loosened.insert(route.bucket);
            }
            lane.heads.retain(|_, head| head.line != id);
        }
    }

    /// Whether a line is known.
    #[must_use]
    pub fn has(&self, id: LineId) -> bool {
        self.lines.contains_key(&id)
    }

    /// A line may have something to offer: it is asked at the next tick. While it rested it could
    /// not be served, and does not age for it.
    pub fn rouse(&mut self, id: LineId, now: BootMs) {
        let resting = self.lines.get(&id).is_some_and(|standing| standing.rest != Rest::Awake);
        let Some(before) = resting.then(|| self.withdraw(id)).flatten() else { return };
        if let Some(standing) = self.lines.get_mut(&id) {
            standing.since = before.unserved_since(now);
            if matches!(before.rest, Rest::Until(_)) {
                standing.level = standing.line.class;
            }
        }
        self.enter(id, Rest::Awake);
    }

    /// All lines that rest until an instant are asked at the next tick: it was reckoned with a
    /// clock that was set since.
    pub fn rouse_sleeping(&mut self, now: BootMs) {
        let sleeping: Vec<_> = self.sleeping.iter().map(|(_, id)| *id).collect();
        for id in sleeping {
            self.rouse(id, now);
        }
    }

    /// A line has nothing to offer before `until`, or before it is roused.
    pub fn rest(&mut self, id: LineId, until: Option<BootMs>, now: BootMs) {
        let Some(standing) = self.withdraw(id) else { return };
        let rest = match (until, standing.rest) {
            (Some(until), _) => Rest::Until(until),
            (None, Rest::Dormant(from)) => Rest::Dormant(from),
            (None, Rest::Awake | Rest::Until(_)) => Rest::Dormant(now),
        };
        self.enter(id, rest);
    }

    /// Lets time pass: lines age and wake.
    pub fn pass_time(&mut self, now: BootMs) {
        while let Some(&(at, id)) = self.sleeping.first()
            && at <= now
        {
            self.sleeping.remove(&(at, id));
            self.rouse(id, now);
        }
        while let Some(&(at, id)) = self.ages.first()
            && at <= now
        {
            self.change(id, |standing| standing.level -= 1);
        }
    }

    /// When a line wakes or ages next.
    #[must_use]
    pub fn next_change(&self) -> Option<BootMs> {
        let next = [self.sleeping.first(), self.ages.first()];
        next.into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// The lines that stand before another in a bucket; none when it is not in the order there.
    #[must_use]
    pub fn before(&self, id: LineId, bucket: BucketId) -> Vec<LineId> {
        let Some(lane) = self.lanes.get(&bucket) else { return Vec::new() };
        let lines: Vec<_> = lane.in_order().map(|(_, _, line)| line).collect();
        let place = lines.iter().position(|line| *line == id);
        place.map_or_else(Vec::new, |place| lines[..place].to_vec())
    }

    /// The class in which a line stands, with its age; none when it has nothing to offer now.
    #[must_use]
    pub fn level(&self, id: LineId) -> Option<u8> {
        let standing = self.lines.get(&id)?;
        (standing.rest == Rest::Awake).then_some(standing.level)
    }

    /// Notes that something of a line goes: it is being served.
    pub(super) fn served(&mut self, id: LineId, bucket: BucketId, cost: u128, now: BootMs) {
        let Some(standing) = self.lines.get(&id) else { return };
        let tenant = standing.line.tenant;
        // To the second: an index entry need not move a thousand times in one.
        if standing.level != standing.line.class || standing.since.until(now) >= 1_000 {
            self.change(id, |standing| {
                standing.level = standing.line.class;
                standing.since = now;
            });
        }
        self.charge(bucket, tenant, cost);
    }

    /// Charges a tenant with what it was served in a bucket.
    pub fn charge(&mut self, bucket: BucketId, tenant: TenantId, cost: u128) {
        let weight = self.weight(tenant);
        let lane = self.lanes.entry(bucket).or_default();
        lane.count(tenant, |counters| counters.charge(tenant, cost, weight));
    }

    /// What a tenant was charged turns out to be another cost.
    pub fn correct(&mut self, bucket: BucketId, tenant: TenantId, was: u128, is: u128) {
        if was != is {
            let weight = self.weight(tenant);
            let lane = self.lanes.entry(bucket).or_default();
            lane.count(tenant, |counters| counters.correct(tenant, (was, is), weight));
        }
    }

    /// What a tenant has had in a bucket, in parts of a limit divided by its weight.
    #[must_use]
    pub fn service(&self, bucket: BucketId, tenant: TenantId) -> u128 {
        self.lanes.get(&bucket).map_or(0, |lane| lane.counters.of(tenant))
    }

    /// Gives tenants what they had before a restart. `events` are in the order of time: what a
    /// tenant was charged, or `None` for when it first had something to send.
    pub fn replay(
        &mut self,
        bucket: BucketId,
        events: impl IntoIterator<Item = (TenantId, Option<u128>)>,
    ) {
        let mut active: BTreeSet<TenantId> = BTreeSet::new();
        for (tenant, event) in events {
            let weight = self.weight(tenant);
            let counters = &mut self.lanes.entry(bucket).or_default().counters;
            match event {
                Some(cost) => counters.charge(tenant, cost, weight),
                None if active.contains(&tenant) => {}
                None => {
                    let least = active.iter().map(|other| counters.of(*other)).min();
                    counters.join(tenant, least);
                    active.insert(tenant);
                }
            }
        }
        let lane = self.lanes.entry(bucket).or_default();
        for tenant in active {
            lane.counters.return_later(tenant);
        }
        lane.turns =
            lane.groups.keys().map(|(level, it)| (*level, lane.counters.of(*it), *it)).collect();
    }

    /// The buckets where a line may go, each once.
    pub fn buckets_of(&self, id: LineId) -> impl Iterator<Item = BucketId> + use<> {
        let line = self.lines.get(&id).map(|standing| buckets(&standing.line));
        line.unwrap_or_default().into_iter()
    }

    /// How long nothing of a line went, at `now`.
    #[must_use]
    pub fn unserved_ms(&self, id: LineId, now: BootMs) -> Option<u64> {
        self.lines.get(&id).map(|standing| standing.unserved_since(now).until(now))
    }

    /// The first of the order in a bucket.
    #[must_use]
    pub fn first(&self, bucket: BucketId) -> Option<LineId> {
        self.lanes.get(&bucket)?.in_order().next().map(|(_, _, id)| id)
    }

    /// Changes where a line stands.
    fn change(&mut self, id: LineId, change: impl FnOnce(&mut Standing)) {
        let Some(before) = self.lines.get(&id).cloned() else { return };
        self.hold(&before, true);
        self.withdraw(id);
        change(self.lines.get_mut(&id).expect("a line that was just seen"));
        self.enter(id, before.rest);
        self.hold(&before, false);
    }

    /// Counts the tenant of a line that only moves as active meanwhile: who comes back saved
    /// nothing up, and it was not away.
    fn hold(&mut self, standing: &Standing, held: bool) {
        if standing.rest != Rest::Awake {
            return;
        }
        for bucket in buckets(&standing.line) {
            let lane = self.lanes.entry(bucket).or_default();
            let lines = lane.active.entry(standing.line.tenant).or_insert(0);
            *lines = if held { *lines + 1 } else { *lines - 1 };
        }
    }

    /// Takes a line out of all indexes, and returns how it stood.
    fn withdraw(&mut self, id: LineId) -> Option<Standing> {
        let standing = self.lines.get(&id)?.clone();
        if let Some(at) = standing.ages_at() {
            self.ages.remove(&(at, id));
        }
        match standing.rest {
            Rest::Awake => {
                for bucket in buckets(&standing.line) {
                    if let Some(lane) = self.lanes.get_mut(&bucket) {
                        lane.leave(id, &standing);
                    }
                }
            }
            Rest::Until(at) => {
                self.sleeping.remove(&(at, id));
            }
            Rest::Dormant(_) => {}
        }
        Some(standing)
    }

    /// Enters a line that was withdrawn in all indexes.
    fn enter(&mut self, id: LineId, rest: Rest) {
        let standing = self.lines.get_mut(&id).expect("a line that is entered is known");
        standing.rest = rest;
        let standing = standing.clone();
        if let Some(at) = standing.ages_at() {
            self.ages.insert((at, id));
        }
        match rest {
            Rest::Awake => {
                for bucket in buckets(&standing.line) {
                    self.lanes.entry(bucket).or_default().join(id, &standing);
                }
            }
            Rest::Until(at) => {
                self.sleeping.insert((at, id));
            }
            Rest::Dormant(_) => {}
        }
    }
}

/// The buckets of a line, each once.
fn buckets(line: &Line) -> BTreeSet<BucketId> {
    line.routes.iter().map(|route| route.bucket).collect()
}

impl Lane {
    /// Every line that may have something to offer, in order, with its level and tenant.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (u8, TenantId, LineId)> + '_ {
        self.few_in_order(usize::MAX)
    }

    /// The same lines behind a spot, or all.
    pub(super) fn behind(&self, spot: Option<Spot>) -> impl Iterator<Item = Spot> + '_ {
        let turns = self.turns.range((spot.map_or(Unbounded, |it| Included(it.turn)), Unbounded));
        turns.flat_map(move |turn| {
            let last = spot.filter(|it| it.turn == *turn);
            let past = last.map_or(Unbounded, |it| Excluded(it.place));
            let group = self.groups.get(&(turn.0, turn.2)).into_iter();
            let places = group.flat_map(move |group| group.range((past, Unbounded)));
            places.map(|place| Spot { turn: *turn, place: *place })
        })
    }

    /// Up to where lines behind the first were looked at, with what its tenant has had by now.
    pub(super) fn looked(&self) -> Option<Spot> {
        let Spot { turn: (level, _, tenant), place } = self.looked?;
        Some(Spot { turn: (level, self.counters.of(tenant), tenant), place })
    }

    /// The same, with so many lines at most of each tenant at a level.
    pub(super) fn few_in_order(
        &self,
        most: usize,
    ) -> impl Iterator<Item = (u8, TenantId, LineId)> + '_ {
        self.turns.iter().flat_map(move |(level, _, tenant)| {
            let group = self.groups.get(&(*level, *tenant)).into_iter().flatten().take(most);
            group.map(|(.., id)| (*level, *tenant, *id))
        })
    }

    fn join(&mut self, id: LineId, standing: &Standing) {
        let tenant = standing.line.tenant;
        if !self.active.contains_key(&tenant) {
            let least = self.active.keys().map(|other| self.counters.of(*other)).min();
            self.counters.join(tenant, least);
        }
        *self.active.entry(tenant).or_insert(0) += 1;
        let group = self.groups.entry((standing.level, tenant)).or_default();
        if group.is_empty() {
            self.turns.insert((standing.level, self.counters.of(tenant), tenant));
        }
        group.insert(standing.place(id));
    }

    fn leave(&mut self, id: LineId, standing: &Standing) {
        let tenant = standing.line.tenant;
        let key = (standing.level, tenant);
        let Some(group) = self.groups.get_mut(&key) else { return };
        if !group.remove(&standing.place(id)) {
            return;
        }
        if group.is_empty() {
            self.groups.remove(&key);
            self.turns.remove(&(standing.level, self.counters.of(tenant), tenant));
        }
        let lines = self.active.get_mut(&tenant).expect("a line in the order is counted");
        *lines -= 1;
        if *lines == 0 {
            self.active.remove(&tenant);
            if self.active.is_empty() {
                self.counters.leave_last(tenant);
            }
        }
    }

    /// Changes a tenant's counter, and its place in the turns of every level.
    fn count(&mut self, tenant: TenantId, change: impl FnOnce(&mut Counters)) {
        let before = self.counters.of(tenant);
        change(&mut self.counters);
        let after = self.counters.of(tenant);
        for level in 0..=2 {
            if self.turns.remove(&(level, before, tenant)) {
                self.turns.insert((level, after, tenant));
            }
        }
    }
}
