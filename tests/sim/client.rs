//! Who decides when to send, as a trait; and the gate, used as the engine uses it, with at most one
//! thing wrong. All that the simulation knows of the gate's interface is here.

use std::collections::BTreeMap;

use tidegate::calendar::QuotaDay;
use tidegate::gate::admit::{BucketId, Gate};
use tidegate::gate::day::DAY_EDGE_MS;
pub(crate) use tidegate::gate::day::DayCharge;
use tidegate::gate::learn::{self, Throttle};
use tidegate::gate::limits::{Limit, Window};
pub(crate) use tidegate::gate::units::{BootMs, Now, UnixMs};
use tidegate::gate::units::{Class, KeyId, Metric, ProjectId, Weights};
use tidegate::gate::verdict::{Ask, Verdict};
pub(crate) use tidegate::gate::window::AttemptId;
use tidegate::gate::window::DELTA_MS;

use crate::oracle::Weight;
use crate::world::World;

/// A row of the ledger, as far as a start needs it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: AttemptId,
    pub(crate) weight: Weight,
    pub(crate) charge: DayCharge,
    /// The bound of a settled attempt, by the boot clock of its time and by the wall clock; none of
    /// one that a crash left open.
    pub(crate) u: Option<(BootMs, UnixMs)>,
    /// The boot clock has not begun anew since.
    pub(crate) same_boot: bool,
}

/// What the ledger is to hold of an attempt that ended.
pub(crate) type Settled = (BootMs, DayCharge, Weight);

/// How an attempt ended that was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// With an answer that tells what was used.
    Answered(Weight),
    /// The connection broke.
    Broken,
    /// With a no.
    Refused,
}

/// The provider's no, as far as it explains itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct No {
    /// The limit that was met, if it says so.
    pub(crate) quota: Option<Quota>,
    pub(crate) retry_after_ms: u64,
}

/// What a no names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quota {
    pub(crate) metric: usize,
    pub(crate) limit: u64,
    /// `None` for a day's.
    pub(crate) window_ms: Option<u64>,
}

impl Quota {
    /// As the provider writes it.
    pub(crate) fn id(&self) -> String {
        let metric = ["Requests", "InputTokens", "Images"][self.metric];
        let window = if self.window_ms.is_some() { "Minute" } else { "Day" };
        format!("Generate{metric}Per{window}PerProjectPerModel")
    }
}

/// A rule of admission.
pub(crate) trait Client {
    /// When to ask again, unless it may go now.
    fn check(&mut self, need: Weight, now: Now) -> Result<(), BootMs>;
    /// Takes the room, and says what the ledger is to hold.
    fn reserve(&mut self, id: AttemptId, need: Weight, now: Now) -> DayCharge;
    fn body_sent(&mut self, _: AttemptId, _: Now) {}
    fn headers(&mut self, _: AttemptId, _: Now) {}
    fn settle(&mut self, id: AttemptId, end: End, now: Now) -> Settled;
    /// The provider said no.
    fn refused(&mut self, id: AttemptId, _: &No, now: Now) -> Settled {
        self.settle(id, End::Refused, now)
    }
    fn void(&mut self, id: AttemptId);
    /// The machine has slept for so long.
    fn suspended(&mut self, _: u64) {}
    /// Begins anew with nothing but the ledger, and corrects the rows that are open in it; bounds
    /// are then by the present boot clock. `anew` says that the machine was started anew and nothing
    /// was reserved since.
    fn restart(&mut self, rows: &mut [Row], anew: bool, now: Now);
    /// What goes beside the head: what of each metric will be free at `at` and is not for `head`.
    fn spare(&mut self, _head: Weight, _at: BootMs, _now: Now) -> Weight {
        [0; 3]
    }
    /// What it says is used now: of a metric, over a window (`None` is the day), so much.
    fn used(&mut self, _: Now) -> Vec<(usize, Option<u64>, u64)> {
        Vec::new()
    }
    /// What it would say if it had begun anew with these rows.
    fn afresh(&self, _rows: &[Row], _need: Weight, _: Now) -> Option<Result<(), BootMs>> {
        None
    }
}

/// What may be wrong with a client that is right otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A start forgets what a crash left open.
    ForgetsOpen,
    /// An attempt counts as counted when it is sent.
    BoundAtSend,
    /// What has been sent cannot be under way any more.
    NoDelta,
    /// A connection that breaks off ends at once.
    CutAtEnd,
    /// Half of the estimate is given back when the request has been sent.
    SettlesEarly,
    /// A total of one more than the limit still fits.
    OneMore,
    /// Days are those of Greenwich.
    UtcDays,
    /// The clock stands still while the machine sleeps.
    InstantClock,
    /// After a reboot, ages by the wall clock are believed.
    NoQuarantine,
    /// After a reboot, they are believed unless the last row is less than 10 min old or lies in the
    /// future.
    HastyQuarantine,
    /// The quarantine is a minute, whatever the windows are.
    ShortQuarantine,
    /// A no by the day holds for as long as it says.
    BelievesDelay,
    /// Its wall clock is a minute ahead: more than offset and grace together.
    AheadOfTime,
    /// Estimates are never corrected.
    KeepsEstimate,
    /// A no is no more than the end of an attempt.
    LearnsNothing,
    /// With an empty ledger it waits until it knows more.
    WantsHistory,
}

const BUCKET: BucketId = BucketId(1);

const MINUTE_MS: u64 = 60_000;
const HASTE_MS: u64 = 600_000;
const AHEAD_MS: u64 = 60_000;
/// What the engine waits at least after a refusal that says nothing; longer with the next one.
const BACKOFF_MS: u64 = 2_000;

const JITTER_MS: u64 = 500;

/// The gate as the engine uses it, with at most one flaw.
pub(crate) struct GateClient {
    gate: Gate,
    limits: Vec<Limit>,
    longest_ms: u64,
    day: QuotaDay,
    flaw: Option<Flaw>,
    /// How far its clock is behind.
    behind_ms: u64,
    /// Refusals that said nothing, one after another.
    unexplained: u32,
    /// What was settled before its time.
    early: BTreeMap<AttemptId, (BootMs, DayCharge)>,
    needs: BTreeMap<AttemptId, Weight>,
    last_wall: UnixMs,
}

impl GateClient {
    pub(crate) fn new(world: &World, flaw: Option<Flaw>) -> Self {
        let utc = || QuotaDay::new("UTC", "0 0 * * *").expect("a valid day");
        let day = if flaw == Some(Flaw::UtcDays) { utc() } else { QuotaDay::pacific() };
        let mut limits = world.limits();
        if flaw == Some(Flaw::OneMore) {
            for limit in &mut limits {
                limit.value += 1;
            }
        }
        let mut client = Self {
            gate: Gate::default(),
            limits,
            longest_ms: world.longest_window_ms(),
            day,
            flaw,
            behind_ms: 0,
            unexplained: 0,
            early: BTreeMap::new(),
            needs: BTreeMap::new(),
            last_wall: UnixMs(i64::MIN),
        };
        client.gate = client.empty();
        client
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn empty(&self) -> Gate {
        let mut gate = Gate::default();
        gate.define(BUCKET, ProjectId(1), self.limits.clone(), self.day.clone());
        gate
    }

    /// The present by its own clock.
    fn own(&self, now: Now) -> Now {
        let ahead_ms = if self.has(Flaw::AheadOfTime) { AHEAD_MS } else { 0 };
        Now {
            boot: BootMs(now.boot.0.saturating_sub(self.behind_ms)),
            wall: now.wall.plus(ahead_ms),
        }
    }

    /// As `src/engine/start.rs` does it.
    fn restored(&self, rows: &mut [Row], now: Now) -> Gate {
        let mut gate = self.empty();
        for row in rows {
            let (u, u_wall) = row.u.unwrap_or_else(|| {
                let u = now.boot.plus(DELTA_MS);
                let last = now.wall_at(u).plus(DAY_EDGE_MS);
                row.charge.hi = self.day.span_at(last.to_utc()).key.max(row.charge.lo);
                if self.has(Flaw::ForgetsOpen) {
                    row.weight = [0; 3];
                }
                (u, now.wall_at(u))
            });
            let u = if row.same_boot { u } else { now.boot_at(u_wall.min(now.wall)) };
            row.u = Some((u, u_wall));
            gate.restore(row.id, BUCKET, None, weights(row.weight), u);
            gate.restore_day(BUCKET, None, row.charge, weights(row.weight));
        }
        gate
    }

    fn quarantine(&mut self, now: Now) {
        let recent = self.last_wall.until(now.wall) < HASTE_MS;
        if self.has(Flaw::NoQuarantine) || (self.has(Flaw::HastyQuarantine) && !recent) {
            return;
        }
        let window_ms = if self.has(Flaw::ShortQuarantine) { MINUTE_MS } else { self.longest_ms };
        let until = now.boot.plus(window_ms).plus(DELTA_MS);
        self.gate.block(BUCKET, until, "the machine was restarted".to_owned());
    }
}

impl Client for GateClient {
    fn check(&mut self, need: Weight, now: Now) -> Result<(), BootMs> {
        let own = self.own(now);
        let verdict = self.gate.check(&ask(need), own);
        judge(&verdict, own).map_err(|until| until.plus(self.behind_ms))
    }

    fn reserve(&mut self, id: AttemptId, need: Weight, now: Now) -> DayCharge {
        let now = self.own(now);
        let lo = self.gate.reserve(id, &ask(need), now);
        if self.has(Flaw::BoundAtSend) {
            self.gate.bound(id, now.boot);
        }
        self.needs.insert(id, need);
        self.last_wall = now.wall;
        DayCharge { lo, hi: lo }
    }

    fn body_sent(&mut self, id: AttemptId, now: Now) {
        let now = self.own(now);
        let delta = if self.has(Flaw::NoDelta) { 0 } else { DELTA_MS };
        self.gate.bound(id, now.boot.plus(delta));
        if self.has(Flaw::SettlesEarly) && !self.early.contains_key(&id) {
            let [requests, tokens, images] = self.needs[&id];
            let guess = weights([requests, tokens / 2, images]);
            self.early.extend(self.gate.settle(id, guess, now).map(|settled| (id, settled)));
        }
    }

    fn headers(&mut self, id: AttemptId, now: Now) {
        self.gate.bound(id, self.own(now).boot);
    }

    fn settle(&mut self, id: AttemptId, end: End, now: Now) -> Settled {
        let now = self.own(now);
        let need = self.needs.remove(&id).expect("the attempt is open");
        if self.has(Flaw::CutAtEnd) || self.has(Flaw::NoDelta) {
            self.gate.bound(id, now.boot);
        }
        let actual = match end {
            End::Answered(actual) => {
                self.gate.unblock(id);
                self.unexplained = 0;
                actual
            }
            End::Broken | End::Refused => need,
        };
        let actual = if self.has(Flaw::KeepsEstimate) { need } else { actual };
        let settled = self.gate.settle(id, weights(actual), now).or(self.early.remove(&id));
        let (u, charge) = settled.expect("the attempt is open");
        self.last_wall = self.last_wall.max(now.wall_at(u));
        (u.plus(self.behind_ms), charge, actual)
    }

    fn refused(&mut self, id: AttemptId, no: &No, now: Now) -> Settled {
        if self.has(Flaw::BelievesDelay) {
            let until = now.boot.plus(no.retry_after_ms);
            self.gate.block(BUCKET, until, "the provider said when".to_owned());
        } else if !self.has(Flaw::LearnsNothing)
            && self.gate.throttled(id, &throttle(no), now, JITTER_MS).is_none()
        {
            self.unexplained = (self.unexplained + 1).min(6);
            let backoff = BACKOFF_MS << self.unexplained;
            let until = now.boot.plus(no.retry_after_ms.max(backoff));
            self.gate.block(BUCKET, until, "the provider said no more".to_owned());
        }
        self.settle(id, End::Refused, now)
    }

    fn void(&mut self, id: AttemptId) {
        self.needs.remove(&id);
        self.gate.void(id);
    }

    fn suspended(&mut self, ms: u64) {
        if self.has(Flaw::InstantClock) {
            self.behind_ms += ms;
        }
    }

    fn restart(&mut self, rows: &mut [Row], anew: bool, now: Now) {
        self.behind_ms = if anew { 0 } else { self.behind_ms };
        let now = self.own(now);
        self.needs.clear();
        self.gate = self.restored(rows, now);
        if anew {
            self.quarantine(now);
        }
    }

    fn spare(&mut self, head: Weight, at: BootMs, now: Now) -> Weight {
        let then = Now { boot: at, wall: now.wall_at(at) };
        let mut spare = [u64::MAX; 3];
        for state in self.gate.clone().state(BUCKET, then) {
            let metric = index(state.limit.metric);
            spare[metric] = spare[metric].min(state.free.saturating_sub(head[metric]));
        }
        spare
    }

    fn used(&mut self, now: Now) -> Vec<(usize, Option<u64>, u64)> {
        let window_ms = |window| match window {
            Window::Rolling { ms } => Some(ms),
            Window::Day => None,
            Window::Concurrent => panic!("no world limits what is under way"),
        };
        let states = self.gate.state(BUCKET, self.own(now)).into_iter();
        let found = states
            .map(|state| (index(state.limit.metric), window_ms(state.limit.window), state.used));
        found.collect()
    }

    fn afresh(&self, rows: &[Row], need: Weight, now: Now) -> Option<Result<(), BootMs>> {
        if self.has(Flaw::WantsHistory) && rows.is_empty() {
            return Some(Err(now.boot.plus(MINUTE_MS)));
        }
        let mut gate = self.restored(&mut rows.to_vec(), now);
        Some(judge(&gate.check(&ask(need), now), now))
    }
}

fn judge(verdict: &Verdict, now: Now) -> Result<(), BootMs> {
    match verdict {
        Verdict::Fits => Ok(()),
        Verdict::Wait(wait) => {
            assert!(wait.until > now.boot, "a wait of no length: {wait:?} at {now:?}");
            Err(wait.until)
        }
        Verdict::Never(never) => panic!("{never}"),
    }
}

/// What the provider says, as the classifier would hand it over.
fn throttle(no: &No) -> Throttle {
    let named = |quota: Quota| learn::Quota {
        id: quota.id(),
        metric: [Metric::Requests, Metric::InputTokens, Metric::Images][quota.metric],
        window: Some(quota.window_ms.map_or(Window::Day, |ms| Window::Rolling { ms })),
        value: Some(quota.limit),
    };
    Throttle {
        quotas: no.quota.map(named).into_iter().collect(),
        retry_ms: Some(no.retry_after_ms),
    }
}

fn ask(need: Weight) -> Ask {
    Ask { bucket: BUCKET, key: KeyId(0), class: Class::Batch, need: weights(need) }
}

fn weights([requests, input_tokens, images]: Weight) -> Weights {
    Weights { requests, input_tokens, images, ..Weights::default() }
}

fn index(metric: Metric) -> usize {
    match metric {
        Metric::Requests => 0,
        Metric::InputTokens => 1,
        Metric::Images => 2,
        Metric::Spend | Metric::Sessions => panic!("no world limits {metric:?}"),
    }
}
