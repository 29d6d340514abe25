//! The world of a forecast: queues, delays and what is under way, on a virtual clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::beyond;
use super::phases::{Binding, SHORT_MS, Track};
use super::{
    DayTotal, Delays, Fate, Forecast, Groups, Pacing, Pending, Place, Run, Snapshot, Spread, Start,
};
use crate::gate::admit::{BucketId, Gate};
use crate::gate::limits::Window;
use crate::gate::reserve::Firm;
use crate::gate::units::{BootMs, Class, KeyId, Metric, Now, UnixMs, Weights};
use crate::gate::verdict::{Ask, Because, Beside, Verdict};
use crate::gate::window::AttemptId;
use crate::schedule::line::{LineId, Route};
use crate::schedule::order::Schedule;
use crate::schedule::pace::spread_gap_ms;
use crate::schedule::tick::{Item, Peek, Readiness, Supply, Waiting};

/// An end that time does not bring.
/// What is used of an exact estimate, in thousandths.
pub(super) const WHOLE: u64 = 1_000;

pub(super) const FAR: BootMs = BootMs(u64::MAX);

/// So many prompts of a line are looked at in one tick: what lies behind is not read yet.
const READ_AHEAD: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Flushed,
    Headers,
    End,
}

#[derive(Debug)]
struct Flight {
    line: Option<LineId>,
    bucket: BucketId,
    project: i64,
    need: Weights,
}

/// One prompt at the front of its line.
#[derive(Clone, Debug)]
struct Slot {
    id: i64,
    needs: Arc<[(BucketId, Weights)]>,
    pinned: Option<i64>,
}

#[derive(Debug)]
struct Queue {
    runs: VecDeque<Run>,
    front: VecDeque<Slot>,
    /// How many of `front` are tried again: they go first.
    due: usize,
    later: BTreeMap<(BootMs, i64), Slot>,
    not_before: BootMs,
    spread: Option<Spread>,
    held: Option<String>,
    left: u64,
    /// Started in the simulation or before, and not ended.
    open: u64,
    fate: Fate,
}

#[derive(Debug, Default)]
struct Count {
    in_flight: u32,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Now,
    pub(super) gate: Gate,
    projects: BTreeMap<i64, (Pacing, Count)>,
    places: BTreeMap<BucketId, (Place, Count)>,
    lines: BTreeMap<LineId, Queue>,
    flights: BTreeMap<AttemptId, Flight>,
    events: BTreeSet<(BootMs, AttemptId, Step)>,
    next: AttemptId,
    pub(super) starts: Vec<Start>,
    tracks: BTreeMap<BucketId, Track>,
    /// The end of each bucket's quota day.
    ends: BTreeMap<BucketId, UnixMs>,
    days: BTreeMap<(BucketId, UnixMs), DayTotal>,
    /// What the gate said no for in this tick.
    waited: Vec<(BootMs, Because)>,
}

impl World {
    pub(super) fn new(snapshot: Snapshot) -> (Self, Schedule) {
        let Snapshot { now, gate, schedule, .. } = snapshot;
        let projects = snapshot.projects.into_iter();
        let places = snapshot.buckets.into_iter();
        let mut world = Self {
            now,
            gate,
            projects: projects.map(|(id, pacing)| (id, (pacing, Count::default()))).collect(),
            places: places.map(|(id, place)| (id, (place, Count::default()))).collect(),
            lines: BTreeMap::new(),
            flights: BTreeMap::new(),
            events: BTreeSet::new(),
            next: snapshot.next_attempt,
            starts: Vec::new(),
            tracks: BTreeMap::new(),
            ends: BTreeMap::new(),
            days: BTreeMap::new(),
            waited: Vec::new(),
        };
        for (id, pending) in snapshot.lines {
            world.lines.insert(id, Queue::new(pending, now));
        }
        for flight in snapshot.flights {
            let project = world.place(flight.bucket).project;
            let delays = world.place(flight.bucket).delays;
            let entry =
                Flight { line: flight.line, bucket: flight.bucket, project, need: flight.need };
            if let Some(queue) = flight.line.and_then(|line| world.lines.get_mut(&line)) {
                queue.open += 1;
            }
            world.enter(flight.id, entry, flight.started, delays);
        }
        (world, schedule)
    }

    pub(super) fn lines(&self) -> Vec<LineId> {
        self.lines.keys().copied().collect()
    }

    /// Lets everything happen that is due.
    pub(super) fn happen(&mut self, stirred: &mut BTreeSet<BucketId>) {
        while let Some(&(at, id, step)) = self.events.first()
            && at <= self.now.boot
        {
            self.events.pop_first();
            if let Some(flight) = self.flights.get(&id) {
                stirred.insert(flight.bucket);
            }
            match step {
                Step::Flushed => self.gate.flushed(id, self.now),
                Step::Headers => self.gate.bound(id, self.now.boot),
                Step::End => self.end(id),
            }
        }
    }

    fn end(&mut self, id: AttemptId) {
        let Some(flight) = self.flights.remove(&id) else { return };
        self.gate.unblock(id);
        let permille =
            self.places.get(&flight.bucket).map_or(WHOLE, |(place, _)| place.uses_permille);
        let input_tokens = flight.need.input_tokens.saturating_mul(permille) / WHOLE;
        let used =
            Weights { input_tokens: input_tokens.min(flight.need.input_tokens), ..flight.need };
        self.gate.settle(id, used, self.now);
        self.project(flight.project).1.in_flight -= 1;
        let (place, count) = self.places.get_mut(&flight.bucket).expect("a flight has a bucket");
        count.in_flight -= 1;
        if let Some((at_once, good)) = &mut place.crowd {
            *good += 1;
            if *good >= *at_once {
                (*at_once, *good) = (at_once.saturating_add(1), 0);
            }
        }
        if let Some(queue) = flight.line.and_then(|line| self.lines.get_mut(&line)) {
            queue.open -= 1;
            queue.fate.finish = Some(self.now.wall);
        }
    }

    /// Ticks one bucket and notes what binds it.
    pub(super) fn tick(&mut self, bucket: BucketId, schedule: &mut Schedule) -> Option<Waiting> {
        self.waited.clear();
        let now = self.now;
        let waiting = schedule.tick(bucket, now, self);
        let (binding, long) = match &waiting {
            None => (Binding::Nothing, false),
            Some(waiting) => {
                let limit = self.waited.iter().find(|(until, because)| {
                    *until == waiting.until && because.to_string() == waiting.reason
                });
                let besides = || Binding::Besides(waiting.reason.clone());
                let long = now.boot.until(waiting.until) >= SHORT_MS && waiting.until < FAR;
                (limit.map_or_else(besides, |(_, because)| Binding::from(because)), long)
            }
        };
        let left = if long { self.left_in(bucket, schedule) } else { BTreeMap::new() };
        self.tracks.entry(bucket).or_default().note(now, binding, left);
        waiting
    }

    fn left_in(&self, bucket: BucketId, schedule: &Schedule) -> BTreeMap<LineId, u64> {
        let waits = |line: &LineId| schedule.buckets_of(*line).any(|own| own == bucket);
        let queues = self.lines.iter().filter(|(line, queue)| queue.left > 0 && waits(line));
        queues.map(|(line, queue)| (*line, queue.left)).collect()
    }

    pub(super) fn is_done(&self) -> bool {
        self.events.is_empty() && self.lines.values().all(|queue| queue.left == 0)
    }

    pub(super) fn next_event(&self) -> Option<BootMs> {
        self.events.first().map(|(at, ..)| *at)
    }

    /// Moves both clocks.
    pub(super) fn go_to(&mut self, at: BootMs) {
        self.now = Now { boot: at, wall: self.now.wall_at(at) };
    }

    /// Closes the books. What was cut short is extrapolated.
    pub(super) fn finish(mut self, schedule: &Schedule, groups: &Groups, cut: bool) -> Forecast {
        let until = self.now;
        // Nothing starts any more, and what is under way ends.
        while let Some(at) = self.next_event() {
            self.go_to(at.max(self.now.boot));
            self.happen(&mut BTreeSet::new());
        }
        let tracks = std::mem::take(&mut self.tracks);
        let stops: BTreeMap<_, _> = tracks
            .iter()
            .filter_map(|(it, track)| Some((*it, track.binds()?.to_string())))
            .collect();
        let phases: BTreeMap<_, _> = tracks
            .into_iter()
            .map(|(bucket, track)| (bucket, track.finish(bucket, until)))
            .collect();
        let beyond = if cut {
            let rest = self.lines.iter().filter(|(_, queue)| queue.held.is_none());
            let rest = rest.map(|(line, queue)| (*line, queue.rest())).collect();
            let seen = beyond::Seen { starts: &self.starts, phases: &phases, until, rest };
            seen.finishes(&mut self.gate, schedule, groups)
        } else {
            BTreeMap::new()
        };
        let ends: BTreeMap<_, _> =
            self.places.iter().map(|(bucket, (place, _))| (*bucket, place.delays.end_ms)).collect();
        let buckets = self.lines.keys().map(|line| (*line, schedule.buckets_of(*line).collect()));
        let buckets = buckets.collect();
        let mut fates = BTreeMap::new();
        for (line, queue) in self.lines {
            let mut fate = Fate { left: queue.left, ..queue.fate };
            if fate.left > 0 {
                let last = schedule.buckets_of(line).map(|bucket| ends[&bucket]).max();
                let opens = until.wall_at(queue.not_before);
                fate.finish = beyond.get(&line).map(|at| (*at).max(opens).plus(last.unwrap_or(0)));
                fate.extrapolated = fate.finish.is_some();
                let stop = || schedule.buckets_of(line).find_map(|it| stops.get(&it).cloned());
                fate.stands = match fate.finish {
                    Some(_) => None,
                    None => queue.held.or_else(stop),
                };
            }
            fates.insert(line, fate);
        }
        let (days, starts) = (self.days, self.starts);
        Forecast { lines: fates, buckets, phases, days, starts, until }
    }

    fn enter(&mut self, id: AttemptId, flight: Flight, started: BootMs, delays: Delays) {
        let at = |ms| started.plus(ms).max(self.now.boot);
        let headers = delays.headers_ms.min(delays.end_ms);
        let flushed = delays.flush_ms.filter(|flush| *flush < headers);
        self.events.extend(flushed.map(|ms| (at(ms), id, Step::Flushed)));
        self.events.insert((at(headers), id, Step::Headers));
        self.events.insert((at(delays.end_ms), id, Step::End));
        self.project(flight.project).1.in_flight += 1;
        if let Some((_, count)) = self.places.get_mut(&flight.bucket) {
            count.in_flight += 1;
        }
        self.flights.insert(id, flight);
    }

    fn project(&mut self, id: i64) -> &mut (Pacing, Count) {
        self.projects.get_mut(&id).expect("every project of a bucket is in the snapshot")
    }

    fn place(&self, bucket: BucketId) -> &Place {
        &self.places.get(&bucket).expect("every bucket of a route is in the snapshot").0
    }

    /// The verdict with the key whose turn it is, or another one that has room where limits count
    /// by key.
    fn ask(
        &mut self,
        bucket: BucketId,
        need: &Weights,
        beside: &Beside,
        now: Now,
    ) -> (KeyId, Verdict) {
        let (pacing, _) = &self.projects[&self.place(bucket).project];
        let (count, next) = (pacing.keys.max(1), pacing.next_key);
        let turns = if self.gate.counts_by_key(bucket) { count } else { 1 };
        let mut soonest: Option<(KeyId, Verdict)> = None;
        for turn in 0..turns {
            let key = KeyId(next.wrapping_add(turn) % count);
            let ask = Ask { bucket, key, class: Class::Batch, need: *need };
            let verdict = self.gate.check_beside(&ask, beside, now);
            let sooner = match (&soonest, &verdict) {
                (Some((_, Verdict::Wait(known))), Verdict::Wait(wait)) => wait.until < known.until,
                (None | Some(_), Verdict::Fits | Verdict::Wait(_) | Verdict::Never(_)) => true,
            };
            let waits = matches!(verdict, Verdict::Wait(_));
            if sooner {
                soonest = Some((key, verdict));
            }
            if !waits {
                break;
            }
        }
        soonest.expect("there is a key")
    }

    fn note_start(&mut self, start: Start) {
        let Start { bucket, need, at, .. } = start;
        let end = match self.ends.get(&bucket).filter(|end| at.wall < **end) {
            Some(end) => *end,
            None => self.gate.day_end(bucket, at).0,
        };
        self.ends.insert(bucket, end);
        let day = self.days.entry((bucket, end)).or_default();
        day.requests += need.requests;
        day.input_tokens += need.input_tokens;
        self.starts.push(start);
    }

    /// Until when a line that is spread over its time waits with its next prompt.
    fn spread_until(&mut self, line: LineId, now: Now) -> Option<BootMs> {
        let queue = self.lines.get(&line)?;
        let spread = queue.spread?;
        let (started, left) = (spread.started?, queue.left.saturating_add(queue.open));
        let bucket = queue.first_bucket()?;
        let (day_end, _) = self.gate.day_end(bucket, now);
        let states = self.gate.state(bucket, now);
        let day_left = states
            .iter()
            .filter(|state| state.limit.metric == Metric::Requests)
            .filter(|state| state.limit.window == Window::Day)
            .map(|state| state.free)
            .min();
        let until = spread.deadline.map_or(day_end, |deadline| deadline.min(day_end));
        let next = started.plus(spread_gap_ms(now.wall.until(until), left, day_left));
        (next > now.boot).then_some(next)
    }

    /// Buckets in the order in which they are looked at: each is the first in its turn, for what
    /// all of a project share.
    pub(super) fn in_turn(&self, buckets: BTreeSet<BucketId>) -> Vec<BucketId> {
        let started = usize::try_from(self.next.0 - 1).unwrap_or(0);
        let turn = started % self.places.len().max(1);
        let first = self.places.keys().nth(turn).copied().unwrap_or(BucketId(i64::MIN));
        let (before, after): (Vec<_>, Vec<_>) =
            buckets.into_iter().partition(|bucket| *bucket < first);
        after.into_iter().chain(before).collect()
    }
}

impl Supply for World {
    fn peek(&mut self, line: LineId, nth: usize, now: Now) -> Peek {
        let spread = self.spread_until(line, now);
        let Some(queue) = self.lines.get_mut(&line) else { return Peek::Nothing };
        match spread.filter(|_| queue.held.is_none()) {
            Some(until) => Peek::Later(until),
            None => queue.peek(nth, now),
        }
    }

    fn find(&mut self, line: LineId, item: i64, now: Now) -> Option<Item> {
        let queue = self.lines.get_mut(&line)?;
        if queue.shut_until(now).is_some() {
            return None;
        }
        queue.fill(1, now);
        let slot = &queue.front[queue.position(item)?];
        Some(Item { id: slot.id, pinned: slot.pinned })
    }

    fn ready(&mut self, line: LineId, item: Item, route: &Route, _now: Now) -> Readiness {
        let queue = self.lines.get(&line);
        let slot = queue.and_then(|queue| Some(&queue.front[queue.position(item.id)?]));
        let Some(slot) = slot else { return Readiness::Unknown };
        let here = slot.needs.iter().find(|(bucket, _)| *bucket == route.bucket);
        here.or(slot.needs.first()).map_or(Readiness::Unknown, |(_, need)| Readiness::Needs(*need))
    }

    fn hindrance(&mut self, bucket: BucketId, now: Now) -> Option<Waiting> {
        let wait = |until, reason: &str| Some(Waiting::until(until, reason.to_owned()));
        let event = self.next_event().unwrap_or(FAR);
        let (place, count) = self.places.get(&bucket)?;
        if let Some((until, reason)) = &place.held
            && until.is_none_or(|until| until > now.boot)
        {
            return wait(until.unwrap_or(FAR), reason);
        }
        if place.crowd.is_some_and(|(at_once, _)| count.in_flight >= at_once) {
            return wait(event, "how many may go at once is being found out");
        }
        let (pacing, count) = self.projects.get(&place.project)?;
        if let Some((until, reason)) = pacing.held.as_ref().filter(|held| held.0 > now.boot) {
            return wait(*until, reason);
        }
        if count.in_flight >= pacing.max_in_flight {
            return wait(event, "max_in_flight");
        }
        let (second, started) = pacing.second;
        if second.until(now.boot) < 1_000 && started >= pacing.starts_per_second {
            return wait(second.plus(1_000), "starts within a second");
        }
        None
    }

    fn check(&mut self, bucket: BucketId, need: &Weights, beside: &Beside, now: Now) -> Verdict {
        let (_, verdict) = self.ask(bucket, need, beside, now);
        if let Verdict::Wait(wait) = &verdict
            && *beside == Beside::default()
        {
            self.waited.push((wait.until, wait.because.clone()));
        }
        verdict
    }

    fn share(&self, bucket: BucketId, need: &Weights) -> u128 {
        self.gate.dominant_share(bucket, need)
    }

    fn next_end(&self, bucket: BucketId, now: Now) -> Option<BootMs> {
        self.gate.next_end(bucket, now)
    }

    fn headroom(&mut self, bucket: BucketId, need: &Weights, now: Now) -> i64 {
        let ask = Ask { bucket, key: KeyId(0), class: Class::Batch, need: *need };
        self.gate.headroom(&ask, now)
    }

    fn set_firm(&mut self, bucket: BucketId, firm: Option<(Weights, bool)>) {
        self.gate.set_firm(bucket, firm.map(|(need, whole)| Firm { need, whole }));
    }

    fn unbound(&self, attempts: &mut Vec<AttemptId>) -> Weights {
        self.gate.unbound(attempts)
    }

    fn start(
        &mut self,
        line: LineId,
        item: Item,
        route: &Route,
        need: &Weights,
        now: Now,
    ) -> AttemptId {
        let bucket = route.bucket;
        let (key, _) = self.ask(bucket, need, &Beside::default(), now);
        let id = self.next;
        self.next = AttemptId(id.0 + 1);
        self.gate.reserve(id, &Ask { bucket, key, class: Class::Batch, need: *need }, now);
        let Place { project, delays, .. } = *self.place(bucket);
        let (pacing, _) = self.project(project);
        pacing.next_key = (key.0 + 1) % pacing.keys.max(1);
        if pacing.second.0.until(now.boot) >= 1_000 {
            pacing.second = (now.boot, 0);
        }
        pacing.second.1 += 1;
        let flight = Flight { line: Some(line), bucket, project, need: *need };
        self.enter(id, flight, now.boot, delays);
        self.note_start(Start { line, item: item.id, bucket, need: *need, at: now });
        if let Some(queue) = self.lines.get_mut(&line) {
            queue.take(item.id);
            queue.open += 1;
            queue.fate.first_start.get_or_insert(now.wall);
            if let Some(spread) = &mut queue.spread {
                spread.started = Some(now.boot);
            }
        }
        id
    }

    fn refuse(&mut self, line: LineId, item: Item, reason: String, _now: Now) {
        let Some(queue) = self.lines.get_mut(&line) else { return };
        queue.take(item.id);
        queue.fate.never += 1;
        queue.fate.never_because.get_or_insert(reason);
    }
}

impl Queue {
    fn new(pending: Pending, now: Now) -> Self {
        let runs: VecDeque<Run> = pending.runs.into();
        let mut later = BTreeMap::new();
        for (due, run) in pending.later {
            let slots = slots(&run, run.count);
            later.extend(slots.map(|slot| ((due, slot.id), slot)));
        }
        let waiting = u64::try_from(later.len()).unwrap_or(u64::MAX);
        let left = runs.iter().fold(waiting, |sum, run| sum.saturating_add(run.count));
        Self {
            runs,
            front: VecDeque::new(),
            due: 0,
            later,
            not_before: pending.not_before.map_or(BootMs(0), |at| now.boot_at(at)),
            spread: pending.spread,
            held: pending.held,
            left,
            open: 0,
            fate: Fate::default(),
        }
    }

    /// Until when nothing of the line goes.
    fn shut_until(&self, now: Now) -> Option<BootMs> {
        let held = self.held.as_ref().map(|_| FAR);
        held.or(Some(self.not_before)).filter(|at| *at > now.boot)
    }

    fn peek(&mut self, nth: usize, now: Now) -> Peek {
        match self.shut_until(now) {
            Some(FAR) => return Peek::Nothing,
            Some(at) => return Peek::Later(at),
            None => {}
        }
        if nth >= READ_AHEAD {
            return Peek::Loading;
        }
        self.fill(nth + 1, now);
        match (self.front.get(nth), self.later.first_key_value()) {
            (Some(slot), _) => Peek::Item(Item { id: slot.id, pinned: slot.pinned }),
            (None, Some(((at, _), _))) => Peek::Later(*at),
            (None, None) => Peek::Nothing,
        }
    }

    fn first_bucket(&self) -> Option<BucketId> {
        let front = self.front.front().map(|slot| &slot.needs);
        let needs = front.or_else(|| self.runs.front().map(|run| &run.needs))?;
        needs.first().map(|(bucket, _)| *bucket)
    }

    /// Brings at least so many prompts to the front, if there are as many.
    fn fill(&mut self, enough: usize, now: Now) {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now.boot
        {
            self.front.insert(self.due, entry.remove());
            self.due += 1;
        }
        while self.front.len() < enough
            && let Some(run) = self.runs.front_mut()
        {
            self.front.extend(slots(run, run.count.min(64)));
            let taken = run.count.min(64);
            run.first = run.first.saturating_add_unsigned(taken);
            run.count -= taken;
            if run.count == 0 {
                self.runs.pop_front();
            }
        }
    }

    fn position(&self, item: i64) -> Option<usize> {
        self.front.iter().position(|slot| slot.id == item)
    }

    fn take(&mut self, item: i64) {
        if let Some(at) = self.position(item) {
            self.front.remove(at);
            self.due -= usize::from(at < self.due);
            self.left -= 1;
        }
    }

    /// What is left, as runs.
    fn rest(&self) -> Vec<Run> {
        let slots = self.front.iter().chain(self.later.values());
        let single = slots.map(|slot| Run {
            first: slot.id,
            count: 1,
            needs: slot.needs.clone(),
            pinned: slot.pinned,
        });
        single.chain(self.runs.iter().cloned()).collect()
    }
}

fn slots(run: &Run, count: u64) -> impl Iterator<Item = Slot> {
    let (first, needs, pinned) = (run.first, run.needs.clone(), run.pinned);
    (0..count).map(move |nth| Slot {
        id: first.saturating_add_unsigned(nth),
        needs: needs.clone(),
        pinned,
    })
}
