//! When will it be done? The same [`Schedule::tick`] on a virtual clock, over copies of the gate
//! and the schedule (`docs/forecast.md`).
//!
//! The clock goes from event to event: a request starts, is bounded, ends; a wait is over. Where
//! weights and delays are exact the forecast is exact, event for event. Past a number of starts the
//! rest is extrapolated, and the forecast says so.

mod beyond;
mod phases;
mod supply;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::line::LineId;
use super::order::Schedule;
use crate::gate::admit::{BucketId, Gate};
use crate::gate::units::{BootMs, Now, UnixMs, Weights};
use crate::gate::window::AttemptId;

pub use phases::{Binding, Phase};
use supply::{FAR, World};

/// So many starts are simulated before the rest is extrapolated.
pub const STARTS_MOST: usize = 20_000;

/// So many instants are simulated at most: what starts nothing must come to an end as well.
const STEPS_MOST: usize = 40 * STARTS_MOST;

/// All that a forecast begins with.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub now: Now,
    /// A copy.
    pub gate: Gate,
    /// A copy, with every line of `lines` in it.
    pub schedule: Schedule,
    /// How fast each project may start requests.
    pub projects: BTreeMap<i64, Pacing>,
    /// Every bucket, and its project in `projects`.
    pub buckets: BTreeMap<BucketId, Place>,
    /// What waits in each line.
    pub lines: BTreeMap<LineId, Pending>,
    /// What is under way.
    pub flights: Vec<UnderWay>,
    /// No attempt has this id or a later one.
    pub next_attempt: AttemptId,
}

/// How fast a project may start requests.
#[derive(Clone, Debug)]
pub struct Pacing {
    /// How many keys take turns; at least one.
    pub keys: u32,
    /// Whose turn it is.
    pub next_key: u32,
    /// So many at once at most.
    pub max_in_flight: u32,
    /// So many within a second at most.
    pub starts_per_second: u32,
    /// The second that goes on, and what was started in it.
    pub second: (BootMs, u32),
    /// Until when and why nothing starts.
    pub held: Option<(BootMs, String)>,
}

/// A bucket besides its quota.
#[derive(Clone, Debug)]
pub struct Place {
    /// Whose.
    pub project: i64,
    /// How many at once, and how many of them went well, while that is being found out.
    pub crowd: Option<(u32, u32)>,
    /// Until when and why nothing starts; without an end, for good.
    pub held: Option<(Option<BootMs>, String)>,
    /// How long requests take.
    pub delays: Delays,
    /// What of the input tokens that are reserved is used in the end, in thousandths.
    pub uses_permille: u64,
}

/// How long a request takes, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// Until its last byte is handed over, where that bounds when it is counted.
    pub flush_ms: Option<u64>,
    /// Until the headers of its answer.
    pub headers_ms: u64,
    /// Until the end of its answer; no less than the headers.
    pub end_ms: u64,
}

/// What waits in a line.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// In order.
    pub runs: Vec<Run>,
    /// What is to be tried again, and when.
    pub later: Vec<(BootMs, Run)>,
    /// Nothing goes before this.
    pub not_before: Option<UnixMs>,
    /// Whether it is spread over the time that it has, and when the next may go.
    pub spread: Option<Spread>,
    /// Why nothing of it goes, for good.
    pub held: Option<String>,
}

impl Pending {
    /// How many prompts wait.
    #[must_use]
    pub fn prompts(&self) -> u64 {
        let runs = self.runs.iter().chain(self.later.iter().map(|(_, run)| run));
        runs.fold(0, |sum, run| sum.saturating_add(run.count))
    }
}

/// A line that is spread over the time that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// By when it should be done; else by the end of the quota day.
    pub deadline: Option<UnixMs>,
    /// When something of it was started last.
    pub started: Option<BootMs>,
}

/// Prompts that weigh the same, one behind the other.
#[derive(Clone, Debug)]
pub struct Run {
    /// The id of the first; the others count up from it.
    pub first: i64,
    /// How many.
    pub count: u64,
    /// What each needs in every bucket where it may go. Not empty.
    pub needs: Arc<[(BucketId, Weights)]>,
    /// The project to which they belong, if they do.
    pub pinned: Option<i64>,
}

/// A request that is under way.
#[derive(Clone, Debug)]
pub struct UnderWay {
    /// Its attempt.
    pub id: AttemptId,
    /// Its line, if it is one's.
    pub line: Option<LineId>,
    /// Where it counts.
    pub bucket: BucketId,
    /// What was reserved.
    pub need: Weights,
    /// When it was started.
    pub started: BootMs,
}

/// What a forecast says.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// Of every line.
    pub lines: BTreeMap<LineId, Fate>,
    /// Where every line may go.
    pub buckets: BTreeMap<LineId, BTreeSet<BucketId>>,
    /// What binds each bucket, from when until when.
    pub phases: BTreeMap<BucketId, Vec<Phase>>,
    /// What was sent on each bucket by the end of each quota day.
    pub days: BTreeMap<(BucketId, UnixMs), DayTotal>,
    /// Every simulated start, in order.
    pub starts: Vec<Start>,
    /// The simulation went up to this instant.
    pub until: Now,
}

/// What becomes of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// When its next prompt starts.
    pub first_start: Option<UnixMs>,
    /// When its last answer is there; none when that is not to be seen.
    pub finish: Option<UnixMs>,
    /// Whether the finish lies beyond what was simulated.
    pub extrapolated: bool,
    /// Prompts that were not started in the simulation.
    pub left: u64,
    /// Prompts that can never go.
    pub never: u64,
    /// Why the first of those cannot.
    pub never_because: Option<String>,
    /// Why what is left does not go at all, if it does not.
    pub stands: Option<String>,
}

/// What is sent within a quota day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DayTotal {
    /// Requests.
    pub requests: u64,
    /// Input tokens, as estimated.
    pub input_tokens: u64,
}

/// One start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Of this line.
    pub line: LineId,
    /// This prompt.
    pub item: i64,
    /// Here.
    pub bucket: BucketId,
    /// With this weight.
    pub need: Weights,
    /// Then.
    pub at: Now,
}

impl Forecast {
    /// Runs the schedule from a snapshot until nothing is left to start, or `starts_most` were.
    #[must_use]
    pub fn of(snapshot: Snapshot, starts_most: usize) -> Self {
        let groups = groups(&snapshot);
        let now = snapshot.now.boot;
        let (mut world, mut schedule) = World::new(snapshot);
        for line in world.lines() {
            schedule.rouse(line, now);
        }
        let cut = run(&mut world, &mut schedule, &groups, starts_most);
        world.finish(&schedule, &groups, cut)
    }

    /// What binds a line, from now until it is done: of its buckets, in order of time.
    #[must_use]
    pub fn binds(&self, line: LineId) -> Vec<Phase> {
        let finish = self.lines.get(&line).and_then(|fate| fate.finish);
        let buckets = self.buckets.get(&line).into_iter().flatten();
        let own = buckets.filter_map(|bucket| self.phases.get(bucket)).flatten();
        let within = own.filter(|phase| finish.is_none_or(|finish| phase.from < finish));
        let mut phases: Vec<_> = within.cloned().collect();
        for phase in &mut phases {
            phase.until = finish.map_or(phase.until, |finish| finish.min(phase.until));
        }
        phases.sort_by_key(|phase| (phase.from, phase.bucket));
        phases
    }
}

impl Snapshot {
    /// The same with answers that take twice as long, and by `more_ms` longer.
    #[must_use]
    pub fn slower(mut self, more_ms: u64) -> Self {
        for place in self.buckets.values_mut() {
            let delays = &mut place.delays;
            delays.headers_ms = delays.headers_ms.saturating_mul(2).saturating_add(more_ms);
            delays.end_ms = delays.end_ms.saturating_mul(2).saturating_add(more_ms);
        }
        self
    }
}

/// Goes from event to event. Returns whether it was cut short.
fn run(world: &mut World, schedule: &mut Schedule, groups: &Groups, starts_most: usize) -> bool {
    let mut stirred: BTreeSet<BucketId> = groups.keys().copied().collect();
    let mut waits: BTreeMap<BucketId, BootMs> = BTreeMap::new();
    for _ in 0..STEPS_MOST {
        let now = world.now;
        world.happen(&mut stirred);
        if schedule.next_change().is_some_and(|at| at <= now.boot) {
            schedule.pass_time(now.boot);
            stirred.extend(groups.keys());
        }
        let due = waits.iter().filter(|(_, until)| **until <= now.boot);
        stirred.extend(due.map(|(bucket, _)| *bucket));
        let together = stirred.iter().filter_map(|it| groups.get(it));
        let together: BTreeSet<_> = together.flat_map(|it| it.iter().copied()).collect();
        stirred.clear();
        for bucket in world.in_turn(together) {
            let waiting = world.tick(bucket, schedule);
            waits.insert(bucket, waiting.map_or(FAR, |waiting| waiting.again));
        }
        if world.is_done() {
            return false;
        }
        if world.starts.len() >= starts_most {
            return true;
        }
        let ends = waits.values().copied().chain(world.next_event()).chain(schedule.next_change());
        match ends.min().filter(|next| *next < FAR) {
            Some(next) => world.go_to(next.max(now.boot.plus(1))),
            None => return false,
        }
    }
    true
}

/// Buckets that have nothing to do with each other are not looked at together: each with all that
/// share a project or a line with it.
type Groups = BTreeMap<BucketId, Arc<BTreeSet<BucketId>>>;

fn groups(snapshot: &Snapshot) -> Groups {
    let mut sets: Vec<BTreeSet<BucketId>> = Vec::new();
    let mut join = |buckets: BTreeSet<BucketId>| {
        let (mut met, others): (Vec<_>, Vec<_>) =
            sets.drain(..).partition(|set: &BTreeSet<_>| !set.is_disjoint(&buckets));
        met.push(buckets);
        sets = others;
        sets.push(met.into_iter().flatten().collect());
    };
    let mut used: BTreeSet<BucketId> = BTreeSet::new();
    for line in snapshot.lines.keys() {
        let buckets: BTreeSet<_> = snapshot.schedule.buckets_of(*line).collect();
        used.extend(&buckets);
        join(buckets);
    }
    let mut of_project: BTreeMap<i64, BTreeSet<BucketId>> = BTreeMap::new();
    for (bucket, place) in snapshot.buckets.iter().filter(|(bucket, _)| used.contains(bucket)) {
        of_project.entry(place.project).or_default().insert(*bucket);
    }
    of_project.into_values().for_each(join);
    let mut groups = Groups::new();
    for set in sets {
        let set = Arc::new(set);
        groups.extend(set.iter().map(|bucket| (*bucket, set.clone())));
    }
    groups
}
