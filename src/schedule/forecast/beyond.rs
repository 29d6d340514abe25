//! What lies beyond the starts that were simulated: extrapolated by what bound the last whole quota
//! day, or else the last half of the starts.

use std::collections::{BTreeMap, BTreeSet};

use super::phases::Phase;
use super::{Binding, Groups, Run, Start};
use crate::gate::admit::{BucketId, Gate};
use crate::gate::limits::Window;
use crate::gate::units::{Metric, Now, UnixMs};
use crate::schedule::fair::TenantId;
use crate::schedule::line::LineId;
use crate::schedule::order::Schedule;

/// A whole day, where none is known to be shorter or longer.
const DAY_MS: u64 = 86_400_000;

/// So many days are walked one by one; those behind have 24 hours.
const DAYS_WALKED: u128 = 400;

/// What was simulated, and what was not.
pub(super) struct Seen<'a> {
    pub(super) starts: &'a [Start],
    pub(super) phases: &'a BTreeMap<BucketId, Vec<Phase>>,
    pub(super) until: Now,
    pub(super) rest: BTreeMap<LineId, Vec<Run>>,
}

/// When how much more will have been started.
struct Rate {
    /// Ends of quota days that lie behind, the last one first, then those to come.
    day_begins: UnixMs,
    shape: Shape,
}

enum Shape {
    /// Every day goes like the last whole one: what was started by when in it.
    Days { profile: Vec<(u64, u128)>, done_today: u128 },
    /// So much in so long, and no more than this today and on every other day.
    Even { work: u128, ms: u128, today: Option<u128>, a_day: Option<u128> },
}

impl Seen<'_> {
    /// When each line starts its last prompt.
    pub(super) fn finishes(
        &self,
        gate: &mut Gate,
        schedule: &Schedule,
        groups: &Groups,
    ) -> BTreeMap<LineId, UnixMs> {
        let mut finishes = BTreeMap::new();
        let distinct: BTreeSet<_> = groups.values().cloned().collect();
        for group in distinct {
            let starts: Vec<_> =
                self.starts.iter().filter(|start| group.contains(&start.bucket)).collect();
            let Some(busiest) = busiest(&starts) else { continue };
            let of_group =
                |line: &LineId| schedule.buckets_of(*line).any(|bucket| group.contains(&bucket));
            let rest: Vec<_> = self.rest.iter().filter(|(line, _)| of_group(line)).collect();
            let days = self.days_behind(gate, busiest, &starts);
            let metric = self.binding_metric(busiest, days);
            let rate = self.rate(gate, (&group, busiest), &starts, days, metric);
            let work: BTreeMap<_, _> =
                rest.into_iter().map(|(line, runs)| (*line, work_of(runs, metric))).collect();
            for (line, before) in turns(&work, schedule) {
                let at = rate.when(before, self.until, busiest, gate);
                finishes.insert(line, at.max(self.until.wall));
            }
        }
        finishes
    }

    /// When the last two quota days that began in the simulation did: the first of them is whole.
    fn days_behind(
        &self,
        gate: &mut Gate,
        bucket: BucketId,
        starts: &[&Start],
    ) -> (Option<UnixMs>, Option<UnixMs>) {
        let mut begun = (None, None);
        let Some(first) = starts.first() else { return begun };
        let mut at = first.at;
        loop {
            let (end, _) = gate.day_end(bucket, at);
            if end > self.until.wall || end <= at.wall {
                return begun;
            }
            begun = (begun.1, Some(end));
            at = Now { boot: at.boot_at(end), wall: end };
        }
    }

    /// What is counted in the limit that bound longest, over the last whole day or at the end.
    fn binding_metric(&self, bucket: BucketId, days: (Option<UnixMs>, Option<UnixMs>)) -> Metric {
        let phases = self.phases.get(&bucket).map(Vec::as_slice).unwrap_or_default();
        let within = |phase: &&Phase| match days {
            (Some(from), Some(until)) => phase.from < until && phase.until > from,
            (None | Some(_), _) => true,
        };
        let binding = match days {
            (Some(_), Some(_)) => {
                let longest = |phase: &&Phase| phase.from.until(phase.until);
                phases.iter().filter(within).max_by_key(longest)
            }
            (None | Some(_), _) => phases.last(),
        };
        match binding.map(|phase| &phase.binding) {
            Some(Binding::Limit("tpm" | "tpd" | "input_tokens")) => Metric::InputTokens,
            Some(Binding::Limit("ipm" | "images")) => Metric::Images,
            Some(Binding::Limit("spend")) => Metric::Spend,
            Some(_) | None => Metric::Requests,
        }
    }

    fn rate(
        &self,
        gate: &mut Gate,
        (group, busiest): (&BTreeSet<BucketId>, BucketId),
        starts: &[&Start],
        days: (Option<UnixMs>, Option<UnixMs>),
        metric: Metric,
    ) -> Rate {
        let weigh = |start: &&&Start| u128::from(start.need.get(metric));
        if let (Some(from), Some(until)) = days {
            let mut done = 0;
            let mut profile = Vec::new();
            for start in starts.iter().filter(|it| from <= it.at.wall && it.at.wall < until) {
                done += weigh(&start);
                profile.push((from.until(start.at.wall), done));
            }
            let done_today = starts.iter().filter(|it| it.at.wall >= until).map(|it| weigh(&it));
            if done > 0 {
                let shape = Shape::Days { profile, done_today: done_today.sum() };
                return Rate { day_begins: until, shape };
            }
        }
        let half = &starts[starts.len() / 2..];
        let from = half.first().map_or(self.until, |start| start.at);
        let (today, a_day) = self.day_caps(gate, group, starts, metric);
        let shape = Shape::Even {
            work: half.iter().filter(|it| it.at.boot > from.boot).map(|it| weigh(&it)).sum(),
            ms: u128::from(from.boot.until(self.until.boot)),
            today,
            a_day,
        };
        let (end, _) = gate.day_end(busiest, self.until);
        Rate { day_begins: end, shape }
    }

    /// How much of the metric the day limits leave today and allow on other days, if the rest
    /// weighs as what was started. None when some bucket has no such limit.
    fn day_caps(
        &self,
        gate: &mut Gate,
        group: &BTreeSet<BucketId>,
        starts: &[&Start],
        metric: Metric,
    ) -> (Option<u128>, Option<u128>) {
        let sum = |metric| starts.iter().map(|it| u128::from(it.need.get(metric))).sum::<u128>();
        let mut caps = (Some(0), Some(0));
        for bucket in group {
            let mut own: (Option<u128>, Option<u128>) = (None, None);
            for state in gate.state(*bucket, self.until) {
                let per = sum(state.limit.metric);
                if state.limit.window != Window::Day || per == 0 {
                    continue;
                }
                let in_metric = |value: u64| Some(u128::from(value) * sum(metric) / per);
                let least =
                    |known: Option<u128>, new: Option<u128>| known.into_iter().chain(new).min();
                own.0 = least(own.0, in_metric(state.free));
                own.1 = least(own.1, in_metric(state.limit.value));
            }
            let add = |sum: Option<u128>, more: Option<u128>| Some(sum? + more?);
            caps = (add(caps.0, own.0), add(caps.1, own.1));
        }
        caps
    }
}

impl Rate {
    /// When `work` more will have been started.
    fn when(&self, work: u128, now: Now, bucket: BucketId, gate: &mut Gate) -> UnixMs {
        match &self.shape {
            Shape::Days { profile, done_today } => {
                let a_day = profile.last().map_or(1, |(_, done)| *done).max(1);
                let place = (done_today + work).max(1);
                let days = (place - 1) / a_day;
                let rest = place - days * a_day;
                let at = profile.iter().find(|(_, done)| *done >= rest);
                let begins = walk(self.day_begins, days, now, bucket, gate);
                begins.plus(at.map_or(0, |(offset, _)| *offset))
            }
            Shape::Even { work: 0, .. } | Shape::Even { ms: 0, .. } => now.wall,
            Shape::Even { work: done, ms, today, a_day } => {
                let takes = |work: u128| u64::try_from(work * ms / done).unwrap_or(u64::MAX);
                let gives = |time_ms: u64| u128::from(time_ms) * done / ms;
                let today = gives(now.wall.until(self.day_begins)).min(today.unwrap_or(u128::MAX));
                if work <= today {
                    return now.wall.plus(takes(work));
                }
                let a_day = gives(DAY_MS).min(a_day.unwrap_or(u128::MAX)).max(1);
                let days = (work - today - 1) / a_day;
                let rest = work - today - days * a_day;
                walk(self.day_begins, days, now, bucket, gate).plus(takes(rest))
            }
        }
    }
}

/// The begin of the quota day so many days after the one that begins at `begin`.
fn walk(begin: UnixMs, days: u128, now: Now, bucket: BucketId, gate: &mut Gate) -> UnixMs {
    let walked = days.min(DAYS_WALKED);
    let mut at = begin;
    for _ in 0..walked {
        at = gate.day_end(bucket, Now { boot: now.boot_at(at), wall: at }).0;
    }
    let rest = u64::try_from(days - walked).unwrap_or(u64::MAX);
    at.plus(rest.saturating_mul(DAY_MS))
}

fn busiest(starts: &[&Start]) -> Option<BucketId> {
    let mut counts: BTreeMap<BucketId, usize> = BTreeMap::new();
    for start in starts {
        *counts.entry(start.bucket).or_insert(0) += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(bucket, _)| bucket)
}

fn work_of(runs: &[Run], metric: Metric) -> u128 {
    let weigh = |run: &Run| {
        let need = run.needs.first().map_or(0, |(_, need)| need.get(metric));
        u128::from(need) * u128::from(run.count)
    };
    runs.iter().map(weigh).sum()
}

/// What is started until each line is through, itself included: the better classes first, of one
/// class every tenant as much as its weight, of one tenant in order.
fn turns(work: &BTreeMap<LineId, u128>, schedule: &Schedule) -> BTreeMap<LineId, u128> {
    let mut order: Vec<_> = work
        .iter()
        .filter(|(_, work)| **work > 0)
        .filter_map(|(id, work)| Some((schedule.lines.get(id)?, *id, *work)))
        .map(|(standing, id, work)| {
            let line = &standing.line;
            (line.class, line.tenant, standing.place(id), id, work)
        })
        .collect();
    order.sort();
    let mut of_tenant: BTreeMap<(u8, TenantId), u128> = BTreeMap::new();
    for (class, tenant, _, _, work) in &order {
        *of_tenant.entry((*class, *tenant)).or_insert(0) += work;
    }
    let mut own: BTreeMap<(u8, TenantId), u128> = BTreeMap::new();
    let mut turns = BTreeMap::new();
    for (class, tenant, _, id, work) in &order {
        let own = own.entry((*class, *tenant)).or_insert(0);
        *own += work;
        let weight = u128::from(schedule.weight(*tenant));
        let before: u128 = of_tenant
            .iter()
            .map(|((other_class, other), all)| {
                if other_class < class {
                    *all
                } else if other_class > class {
                    0
                } else if other == tenant {
                    *own
                } else {
                    (*all).min(*own * u128::from(schedule.weight(*other)) / weight)
                }
            })
            .sum();
        turns.insert(*id, before);
    }
    turns
}
