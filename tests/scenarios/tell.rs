//! The words that stories are told in.

use std::collections::BTreeMap;

use tidegate::calendar::QuotaDay;
use tidegate::gate::admit::{BucketId, Gate};
use tidegate::gate::limits::{Limit, MINUTE_MS, Scope, Source, Window};
use tidegate::gate::units::{BootMs, Class, KeyId, Metric, Now, ProjectId, UnixMs, Weights};
use tidegate::gate::verdict::{Ask, Beside, Verdict};
use tidegate::gate::window::AttemptId;
use tidegate::schedule::{
    Item, Line, LineId, Peek, Readiness, Route, Schedule, Supply, TenantId, Waiting,
};

const BOOT: u64 = 1_000_000;

/// A story, and where it has come to.
pub(crate) struct Story {
    schedule: Schedule,
    stage: Stage,
    batches: BTreeMap<String, LineId>,
    projects: BTreeMap<String, BucketId>,
    ms: u64,
}

/// What the schedule decides about.
struct Stage {
    gate: Gate,
    queues: BTreeMap<LineId, Vec<(i64, u64)>>,
    /// When each prompt went, and where.
    went: Vec<(u64, LineId, BucketId)>,
    zero: UnixMs,
}

/// A batch to be submitted.
pub(crate) struct Batch<'a> {
    pub(crate) name: &'a str,
    pub(crate) tenant: &'a str,
    /// Its projects, the first choice first.
    pub(crate) projects: &'a [&'a str],
    /// So many prompts of so many tokens each.
    pub(crate) prompts: (usize, u64),
    /// When it should be done.
    pub(crate) deadline: Option<&'a str>,
}

impl Story {
    /// It begins at an instant.
    pub(crate) fn begins(at: &str) -> Self {
        let stage = Stage {
            gate: Gate::default(),
            queues: BTreeMap::new(),
            went: Vec::new(),
            zero: instant(at),
        };
        let (batches, projects) = (BTreeMap::new(), BTreeMap::new());
        Self { schedule: Schedule::default(), stage, batches, projects, ms: 0 }
    }

    /// A project with these limits: `rpm`, `tpm` and `rpd`.
    pub(crate) fn project(&mut self, name: &str, limits: &[(&str, u64)]) {
        let number = i64::try_from(self.projects.len()).expect("a few projects") + 1;
        let limits = limits.iter().map(|(dimension, value)| limit(dimension, *value)).collect();
        let id = BucketId(number);
        self.stage.gate.define(id, ProjectId(number), limits, QuotaDay::pacific());
        self.projects.insert(name.to_owned(), id);
    }

    pub(crate) fn submit(&mut self, batch: &Batch<'_>) {
        let number = i64::try_from(self.batches.len()).expect("a few batches") + 1;
        let id = LineId(number);
        self.batches.insert(batch.name.to_owned(), id);
        let (count, tokens) = batch.prompts;
        let prompts = (1..).take(count).map(|place| (number * 100_000 + place, tokens));
        self.stage.queues.insert(id, prompts.collect());
        let routes = batch.projects.iter().map(|name| {
            let bucket = self.projects[*name];
            Route { project: bucket.0, bucket, fallback: false }
        });
        let line = Line {
            class: 1,
            tenant: self.schedule.tenant(batch.tenant),
            deadline: batch.deadline.map(instant),
            routes: routes.collect(),
            patience_ms: 900_000,
        };
        let now = self.stage.now(self.ms).boot;
        self.schedule.add(id, line, now, now);
    }

    pub(crate) fn weigh(&mut self, tenant: &str, weight: u32) {
        let tenant: TenantId = self.schedule.tenant(tenant);
        self.schedule.set_weight(tenant, weight);
    }

    /// Lets so many minutes pass.
    pub(crate) fn minutes(&mut self, minutes: u64) {
        self.until_ms(self.ms + minutes * MINUTE_MS);
    }

    /// Lets time pass until an instant.
    pub(crate) fn until(&mut self, at: &str) {
        let ms = self.stage.zero.until(instant(at));
        self.until_ms(ms);
    }

    fn until_ms(&mut self, end: u64) {
        while self.ms <= end {
            let now = self.stage.now(self.ms);
            self.schedule.pass_time(now.boot);
            let mut next = self.ms + 15_000;
            for bucket in self.projects.values() {
                if let Some(waiting) = self.schedule.tick(*bucket, now, &mut self.stage) {
                    next = next.min(waiting.until.0 - BOOT);
                }
            }
            self.ms = next.max(self.ms + 1);
        }
        self.ms = end;
    }

    /// Why the next prompt waits in a project.
    pub(crate) fn why(&mut self, project: &str) -> String {
        let now = self.stage.now(self.ms);
        let waiting = self.schedule.tick(self.projects[project], now, &mut self.stage);
        waiting.map_or_else(|| "nothing waits".to_owned(), |waiting| waiting.reason)
    }

    /// How many prompts of a batch went.
    pub(crate) fn went(&self, batch: &str) -> usize {
        let id = self.batches[batch];
        self.stage.went.iter().filter(|(_, line, _)| *line == id).count()
    }

    /// How many of those in a project.
    pub(crate) fn went_to(&self, project: &str) -> usize {
        let id = self.projects[project];
        self.stage.went.iter().filter(|(.., bucket)| *bucket == id).count()
    }

    pub(crate) fn left(&self, batch: &str) -> usize {
        self.stage.queues[&self.batches[batch]].len()
    }

    /// When the first and the last prompt of a batch went.
    pub(crate) fn times(&self, batch: &str) -> (String, String) {
        let id = self.batches[batch];
        let own: Vec<_> = self.stage.went.iter().filter(|(_, line, _)| *line == id).collect();
        let shown = |at: Option<&&(u64, LineId, BucketId)>| {
            at.map_or_else(String::new, |(ms, ..)| self.stage.zero.plus(*ms).to_string())
        };
        (shown(own.first()), shown(own.last()))
    }
}

impl Stage {
    fn now(&self, ms: u64) -> Now {
        Now { boot: BootMs(BOOT + ms), wall: self.zero.plus(ms) }
    }
}

impl Supply for Stage {
    fn peek(&mut self, line: LineId, nth: usize, _: Now) -> Peek {
        let prompt = self.queues.get(&line).and_then(|queue| queue.get(nth));
        prompt.map_or(Peek::Nothing, |(id, _)| Peek::Item(Item { id: *id, pinned: None }))
    }

    fn find(&mut self, line: LineId, item: i64, _: Now) -> Option<Item> {
        let known = self.queues.get(&line)?.iter().any(|(id, _)| *id == item);
        known.then_some(Item { id: item, pinned: None })
    }

    fn ready(&mut self, line: LineId, item: Item, _: &Route, _: Now) -> Readiness {
        let tokens = self.queues[&line].iter().find(|(id, _)| *id == item.id);
        tokens.map_or(Readiness::Unknown, |(_, input_tokens)| {
            let input_tokens = *input_tokens;
            Readiness::Needs(Weights { requests: 1, input_tokens, ..Weights::default() })
        })
    }

    fn hindrance(&mut self, _: BucketId, _: Now) -> Option<Waiting> {
        None
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
        item: Item,
        route: &Route,
        need: &Weights,
        now: Now,
    ) -> AttemptId {
        self.queues.entry(line).or_default().retain(|(id, _)| *id != item.id);
        self.went.push((now.boot.0 - BOOT, line, route.bucket));
        let id = AttemptId(item.id);
        self.gate.reserve(id, &ask(route.bucket, *need), now);
        self.gate.flushed(id, now);
        self.gate.settle(id, *need, now);
        id
    }

    fn refuse(&mut self, _: LineId, item: Item, reason: String, _: Now) {
        panic!("{item:?} is refused: {reason}");
    }
}

fn ask(bucket: BucketId, need: Weights) -> Ask {
    Ask { bucket, key: KeyId(0), class: Class::Batch, need }
}

fn limit(dimension: &str, value: u64) -> Limit {
    let minute = Window::Rolling { ms: MINUTE_MS };
    let (metric, window) = match dimension {
        "rpm" => (Metric::Requests, minute),
        "tpm" => (Metric::InputTokens, minute),
        "rpd" => (Metric::Requests, Window::Day),
        other => panic!("no story needs {other}"),
    };
    Limit { metric, window, scope: Scope::Project, value, source: Source::Config }
}

fn instant(at: &str) -> UnixMs {
    UnixMs::from(at.parse::<chrono::DateTime<chrono::Utc>>().expect("an instant"))
}
