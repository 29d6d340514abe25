//! The gate, judged by the rules of `docs/admission.md`.

mod blocks;
mod changes;
mod days;
mod edges;
mod estimate;
mod explain;
mod learning;
mod offset;
mod properties;
mod reserve;
mod spaces;
mod state;
mod windows;
mod world;

use super::admit::{BucketId, Gate};
use super::limits::{Limit, MINUTE_MS, Scope, Source, Window};
use super::units::{BootMs, Class, KeyId, Metric, Now, ProjectId, UnixMs, Weights};
use super::verdict::{Ask, Because, LimitState, Never, Verdict, Wait};
use super::window::{AttemptId, DELTA_MS, GAMMA_MS};
use crate::calendar::QuotaDay;

const BUCKET: BucketId = BucketId(1);
const PROJECT: ProjectId = ProjectId(1);

/// Where the boot clock stands when a test begins.
const BOOT: u64 = 1_000_000;

/// What a minute's entry stays for after it was counted.
const STAY: u64 = MINUTE_MS + GAMMA_MS;

/// Noon of an ordinary day in California.
const NOON: &str = "2026-11-23T20:00:00Z";

/// A gate with one bucket, and a clock to move by hand.
#[derive(Clone, Debug)]
struct Bench {
    gate: Gate,
    zero: UnixMs,
    next: i64,
}

impl Bench {
    fn new(limits: &[Limit]) -> Self {
        Self::starting(NOON, limits)
    }

    /// Time 0 is the given instant.
    fn starting(time: &str, limits: &[Limit]) -> Self {
        let mut gate = Gate::default();
        gate.define(BUCKET, PROJECT, limits.to_vec(), QuotaDay::pacific());
        Self { gate, zero: unix(time), next: 1 }
    }

    /// The present, `ms` after time 0.
    fn at(&self, ms: u64) -> Now {
        Now { boot: BootMs(BOOT + ms), wall: self.zero.plus(ms) }
    }

    fn check(&mut self, ms: u64, need: Weights) -> Verdict {
        let now = self.at(ms);
        self.gate.check(&ask(BUCKET, need), now)
    }

    /// Admits, and fails the test if it does not fit.
    #[track_caller]
    fn admit(&mut self, ms: u64, need: Weights) -> AttemptId {
        assert_eq!(self.check(ms, need), Verdict::Fits, "at {ms}");
        self.reserve(ms, need)
    }

    fn reserve(&mut self, ms: u64, need: Weights) -> AttemptId {
        let id = AttemptId(self.next);
        self.next += 1;
        let now = self.at(ms);
        self.gate.reserve(id, &ask(BUCKET, need), now);
        id
    }

    /// Admits and settles at once.
    #[track_caller]
    fn use_up(&mut self, ms: u64, need: Weights) -> AttemptId {
        let id = self.admit(ms, need);
        self.answer(ms, id, need);
        id
    }

    /// Headers and end together.
    fn answer(&mut self, ms: u64, id: AttemptId, actual: Weights) {
        let now = self.at(ms);
        self.gate.bound(id, now.boot);
        self.gate.settle(id, actual, now);
    }

    fn bound(&mut self, id: AttemptId, ms: u64) {
        self.gate.bound(id, BootMs(BOOT + ms));
    }

    fn settle(&mut self, ms: u64, id: AttemptId, actual: Weights) -> (u64, String, String) {
        let now = self.at(ms);
        let (u, days) = self.gate.settle(id, actual, now).expect("the attempt is open");
        (u.0 - BOOT, days.lo.to_string(), days.hi.to_string())
    }

    fn restore(&mut self, id: i64, weights: Weights, ms: u64) {
        self.gate.restore(AttemptId(id), BUCKET, None, weights, BootMs(BOOT + ms));
    }

    fn block(&mut self, ms: u64, reason: &str) {
        self.gate.block(BUCKET, BootMs(BOOT + ms), reason.to_owned());
    }

    fn state(&mut self, ms: u64) -> Vec<LimitState> {
        let now = self.at(ms);
        self.gate.state(BUCKET, now)
    }

    /// It does not fit before `until` and does exactly then, with nothing else happening.
    #[track_caller]
    fn opens(&self, ms: u64, need: Weights, until: u64) {
        assert_eq!(self.clone().wait(ms, need).until, BootMs(BOOT + until), "asked at {ms}");
        assert_eq!(self.clone().wait(until - 1, need).until, BootMs(BOOT + until), "just before");
        assert_eq!(self.clone().check(until, need), Verdict::Fits, "at the end of the wait");
    }

    #[track_caller]
    fn wait(&mut self, ms: u64, need: Weights) -> Wait {
        match self.check(ms, need) {
            Verdict::Wait(wait) => wait,
            other @ (Verdict::Fits | Verdict::Never(_)) => panic!("at {ms}: {other:?}, not a wait"),
        }
    }

    /// Why it waits, in words, and until when.
    #[track_caller]
    fn waits(&mut self, ms: u64, need: Weights, until: u64, because: &str) {
        let wait = self.wait(ms, need);
        let found = (wait.until.0 - BOOT, wait.because.to_string());
        assert_eq!(found, (until, because.to_owned()), "asked at {ms}");
    }
}

fn ask(bucket: BucketId, need: Weights) -> Ask {
    Ask { bucket, key: KeyId(0), class: Class::Batch, need }
}

fn unix(time: &str) -> UnixMs {
    UnixMs::from(time.parse::<chrono::DateTime<chrono::Utc>>().expect("a time"))
}

fn limit(metric: Metric, window: Window, value: u64) -> Limit {
    Limit { metric, window, scope: Scope::Project, value, source: Source::Config }
}

fn per(ms: u64, value: u64) -> Limit {
    limit(Metric::Requests, Window::Rolling { ms }, value)
}

fn rpm(value: u64) -> Limit {
    per(MINUTE_MS, value)
}

fn tpm(value: u64) -> Limit {
    limit(Metric::InputTokens, Window::Rolling { ms: MINUTE_MS }, value)
}

fn ipm(value: u64) -> Limit {
    limit(Metric::Images, Window::Rolling { ms: MINUTE_MS }, value)
}

fn rpd(value: u64) -> Limit {
    limit(Metric::Requests, Window::Day, value)
}

fn tpd(value: u64) -> Limit {
    limit(Metric::InputTokens, Window::Day, value)
}

fn one() -> Weights {
    tokens(0)
}

/// One request of so many tokens.
fn tokens(input_tokens: u64) -> Weights {
    Weights { requests: 1, input_tokens, ..Weights::default() }
}

fn images(images: u64) -> Weights {
    Weights { requests: 1, images, ..Weights::default() }
}
