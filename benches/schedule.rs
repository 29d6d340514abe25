//! Ordering: one tick of a bucket over a million queued prompts.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate::calendar::QuotaDay;
use tidegate::gate::admit::{BucketId, Gate};
use tidegate::gate::limits::{Limit, MINUTE_MS, Scope, Source, Window};
use tidegate::gate::units::{BootMs, Class, KeyId, Metric, Now, ProjectId, UnixMs, Weights};
use tidegate::gate::verdict::{Ask, Beside, Verdict};
use tidegate::gate::window::AttemptId;
use tidegate::schedule::{Item, Line, LineId, Peek, Readiness, Route, Schedule, Supply, Waiting};

use support::{now, percentile, rate, ratio, row};

const ROUNDS: u64 = 2_000;
const BATCHES: i64 = 100;
const TENANTS: i64 = 20;
const PROMPTS: i64 = 10_000;
const FIRST: BucketId = BucketId(1);
const SECOND: BucketId = BucketId(2);
const START: Now = Now { boot: BootMs(1_000_000), wall: UnixMs(1_800_000_000_000) };

fn main() {
    tick("something goes", &[(Metric::Requests, u64::MAX / 2)], 0, true);
    let full = [(Metric::Requests, u64::MAX / 2), (Metric::InputTokens, 1_000)];
    tick("the head waits for tpm, 200 are tried past it", &full, 500, false);
    tick("the quota is full", &[(Metric::Requests, 1)], 0, false);
    beside();
}

/// One tick over a million prompts, with so many tokens in use.
fn tick(what: &str, limits: &[(Metric, u64)], used: u64, goes: bool) {
    let (mut schedule, mut world) = (Schedule::default(), World::default());
    world.gate.define(FIRST, ProjectId(1), minute(limits), QuotaDay::pacific());
    fill(&mut schedule, FIRST, 0);
    world.big = used > 0;
    if !goes {
        world.take(FIRST, Weights { requests: 1, input_tokens: used, ..Weights::default() });
    }
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let at = later(round);
        world.room = 1;
        let begun = now();
        schedule.pass_time(at.boot);
        std::hint::black_box(schedule.tick(FIRST, at, &mut world));
        times.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    let (median, slow) = (percentile(&mut times, 50), percentile(&mut times, 99));
    let what = format!("a tick over 1,000,000 prompts, 100 batches, 20 tenants; {what}");
    let beside = format!("p99 {slow} ns; goal 200,000 ns; {} looked at", world.asked / ROUNDS);
    let each = rate(1, Duration::from_nanos(median));
    row(&what, &format!("{median} ns, {each}/s on one core"), &beside);
}

/// A bucket that is out of its day, with a million prompts, and what it does to another.
fn beside() {
    let [alone, both] = [false, true].map(|both| {
        let (mut schedule, mut world) = (Schedule::default(), World::default());
        let day = Limit { window: Window::Day, ..limit(Metric::Requests, 1) };
        world.gate.define(FIRST, ProjectId(1), vec![day], QuotaDay::pacific());
        let wide = minute(&[(Metric::Requests, u64::MAX / 2)]);
        world.gate.define(SECOND, ProjectId(2), wide, QuotaDay::pacific());
        world.take(FIRST, Weights { requests: 1, ..Weights::default() });
        if both {
            fill(&mut schedule, FIRST, 0);
        }
        fill(&mut schedule, SECOND, BATCHES);
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            let at = later(round);
            schedule.tick(FIRST, at, &mut world);
            world.room = 1;
            let begun = now();
            std::hint::black_box(schedule.tick(SECOND, at, &mut world));
            times.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        percentile(&mut times, 50)
    });
    row(
        "a tick beside a bucket out of its day with 1,000,000 prompts",
        &format!("{both} ns"),
        &format!("without it: {alone} ns: {}", ratio(both, alone)),
    );
}

fn fill(schedule: &mut Schedule, bucket: BucketId, after: i64) {
    for number in 0..BATCHES {
        let line = Line {
            class: 1,
            tenant: schedule.tenant(&format!("tenant {}", number % TENANTS)),
            deadline: None,
            routes: vec![Route { project: bucket.0, bucket, fallback: false }],
            patience_ms: 900_000,
        };
        schedule.add(LineId(after + number), line, START.boot, START.boot);
    }
}

/// Batches of which no prompt is in memory: what was started is a number.
#[derive(Default)]
struct World {
    gate: Gate,
    started: BTreeMap<LineId, i64>,
    next: i64,
    /// So many may go yet.
    room: u64,
    /// Whether no prompt fits beside what is there.
    big: bool,
    asked: u64,
}

impl World {
    fn take(&mut self, bucket: BucketId, need: Weights) {
        self.next += 1;
        let id = AttemptId(self.next);
        self.gate.reserve(id, &ask(bucket, need), START);
        self.gate.bound(id, START.boot);
        self.gate.settle(id, need, START);
    }

    fn item(line: LineId, place: i64) -> Option<Item> {
        (place < PROMPTS).then_some(Item { id: line.0 * PROMPTS + place, pinned: None })
    }
}

impl Supply for World {
    fn peek(&mut self, line: LineId, nth: usize, _: Now) -> Peek {
        let place = self.started.get(&line).copied().unwrap_or(0);
        let place = place + i64::try_from(nth).unwrap_or(PROMPTS);
        Self::item(line, place).map_or(Peek::Nothing, Peek::Item)
    }

    fn find(&mut self, line: LineId, item: i64, _: Now) -> Option<Item> {
        Self::item(line, item - line.0 * PROMPTS)
    }

    fn ready(&mut self, _: LineId, item: Item, _: &Route, _: Now) -> Readiness {
        self.asked += 1;
        // The later ones are smaller, so that none is known to be in vain without a look.
        let smaller = u64::try_from(item.id % 100).unwrap_or(0);
        let input_tokens = if self.big { 800 - smaller } else { 100 };
        Readiness::Needs(Weights { requests: 1, input_tokens, ..Weights::default() })
    }

    fn hindrance(&mut self, _: BucketId, now: Now) -> Option<Waiting> {
        let full = || Waiting::until(now.boot.plus(1), String::new());
        (self.room == 0).then(full)
    }

    fn check(&mut self, bucket: BucketId, need: &Weights, beside: &Beside, now: Now) -> Verdict {
        self.gate.check_beside(&ask(bucket, *need), beside, now)
    }

    fn unbound(&self, attempts: &mut Vec<AttemptId>) -> Weights {
        self.gate.unbound(attempts)
    }

    fn share(&self, bucket: BucketId, need: &Weights) -> u128 {
        self.gate.dominant_share(bucket, need)
    }

    fn next_end(&self, bucket: BucketId, now: Now) -> Option<BootMs> {
        self.gate.next_end(bucket, now)
    }

    fn headroom(&mut self, bucket: BucketId, need: &Weights, now: Now) -> i64 {
        self.gate.headroom(&ask(bucket, *need), now)
    }

    fn set_firm(&mut self, _: BucketId, _: Option<(Weights, bool)>) {}

    fn start(
        &mut self,
        line: LineId,
        _: Item,
        route: &Route,
        need: &Weights,
        now: Now,
    ) -> AttemptId {
        *self.started.entry(line).or_insert(0) += 1;
        self.room -= 1;
        self.next += 1;
        let id = AttemptId(self.next);
        self.gate.reserve(id, &ask(route.bucket, *need), now);
        self.gate.bound(id, now.boot);
        self.gate.settle(id, *need, now);
        id
    }

    fn refuse(&mut self, _: LineId, item: Item, reason: String, _: Now) {
        panic!("{item:?}: {reason}");
    }
}

fn ask(bucket: BucketId, need: Weights) -> Ask {
    Ask { bucket, key: KeyId(0), class: Class::Batch, need }
}

fn minute(limits: &[(Metric, u64)]) -> Vec<Limit> {
    limits.iter().map(|(metric, value)| limit(*metric, *value)).collect()
}

fn limit(metric: Metric, value: u64) -> Limit {
    let window = Window::Rolling { ms: MINUTE_MS };
    Limit { metric, window, scope: Scope::Project, value, source: Source::Config }
}

fn later(ms: u64) -> Now {
    Now { boot: START.boot.plus(ms), wall: START.wall.plus(ms) }
}
