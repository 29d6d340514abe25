//! What the engine knows, what it is told and what it orders.

use std::sync::Arc;

use chrono::NaiveDate;
use tokio::sync::oneshot;

use super::callers::{Admitted, Caller};
use super::keys::{Key, KeySwitch, NewKeys};
use super::outlook::MeanDelays;
pub use super::setup::{BatchSetup, RouteTo};
use super::start::Pace;
use crate::calendar::QuotaDay;
use crate::caps;
use crate::formats::{Form, Packing};
use crate::gate::admit::BucketId;
use crate::gate::limits::{Limit, Window};
use crate::gate::offset::Offsets;
use crate::gate::reserve::Reserve;
use crate::gate::units::{BootMs, Metric, Now, UnixMs, Weights};
use crate::gate::verdict::{Explanation, LimitState};
use crate::gate::window::AttemptId;
use crate::schedule::Budget;
use crate::store::{
    BatchId, EndedAttempt, ItemState, KeyState, NewAttempt, QueuedItem, Remembered, Settlement,
};
use crate::upstream::{Report, Usage};

/// Everything that can happen to the engine.
#[derive(Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A bucket for a model whose limits nobody knows.
    BucketFound {
        /// Which.
        id: BucketId,
        /// Whose.
        project: i64,
        /// Its quota group.
        group: String,
    },
    /// A batch may be sent.
    BatchOpened(Box<BatchSetup>),
    /// A page of a batch's queue.
    Loaded {
        /// Whose.
        batch: BatchId,
        /// In order; empty at the queue's end.
        items: Vec<QueuedItem>,
    },
    /// A page could not be read.
    LoadFailed(BatchId),
    /// Reservations are durable.
    Reserved(Vec<AttemptId>),
    /// Reservations were not written.
    ReserveFailed {
        /// Which.
        ids: Vec<AttemptId>,
        /// Why.
        reason: String,
    },
    /// The transport has taken the last byte of the request.
    BodySent(AttemptId),
    /// The status line has come.
    Headers(AttemptId),
    /// The attempt is over.
    Ended {
        /// Which.
        id: AttemptId,
        /// The item's key in its job file.
        key: String,
        /// What came of it.
        report: Box<Report>,
        /// The results line, if it was answered.
        line: Option<String>,
        /// From sending to the end.
        latency_ms: u64,
    },
    /// The item's line could not be read from the accepted file: nothing was sent.
    Unreadable {
        /// Which.
        id: AttemptId,
        /// The item's key in its job file, or its line's number.
        key: String,
        /// Why.
        reason: String,
        /// Whether trying again is of no use: the file is gone, cut short or changed.
        lost: bool,
    },
    /// A client asks whether its call may go.
    Called(Box<Caller>),
    /// A call that was admitted is over.
    CallEnded {
        /// Which.
        id: AttemptId,
        /// What came of it; the answer's body is left out.
        report: Box<Report>,
        /// What the provider had counted when it refused or broke off.
        counted: Option<Usage>,
        /// From its admission to the end.
        latency_ms: u64,
    },
    /// The end of a call is durable.
    CallSettled,
    /// The provider counted the input tokens of an item, or did not.
    Counted {
        /// Whose.
        batch: BatchId,
        /// Which.
        item: i64,
        /// How many.
        tokens: Option<u64>,
    },
    /// The permit of an attempt was too old: nothing was sent.
    Stale(AttemptId),
    /// Ends are durable.
    Settled(Vec<i64>),
    /// A batch's queued items shall not be sent.
    Stop {
        /// Which.
        batch: BatchId,
        /// Why.
        reason: String,
        /// Whether the user said so.
        cancelled: bool,
    },
    /// A user holds a batch, or lets it go again.
    PauseBatch {
        /// Which.
        batch: BatchId,
        /// Why it is held; none to let it go.
        reason: Option<String>,
    },
    /// A batch has another place in the order.
    Reprioritise {
        /// Which.
        batch: BatchId,
        /// 0 high, 1 normal, 2 low.
        priority: u8,
        /// When it should be done, from now on; none when it has no deadline.
        deadline: Option<UnixMs>,
    },
    /// The failed items of an open batch shall be tried again.
    RetryFailed {
        /// Which.
        batch: BatchId,
        /// Told how many they are, or why not.
        done: oneshot::Sender<Result<u64, String>>,
    },
    /// What users hold by hand, all of it: names of projects and quota groups, `*` for all.
    Pauses(Vec<(String, String)>),
    /// A stopped batch has no queued item left.
    Swept(BatchId),
    /// A batch is over and its results are durable.
    Closed(BatchId),
    /// The days of a project before this one are sealed, or not yet.
    Sealed {
        /// Which.
        project: i64,
        /// Up to which day, not included; `None` when an open attempt stood in the way.
        before: Option<NaiveDate>,
    },
    /// Failed items are in the queue again, or not all of them.
    Requeued {
        /// Of which batch.
        batch: BatchId,
        /// How many are, durably: also when the others could not be put there.
        moved: u64,
        /// Why the others are not.
        error: Option<String>,
    },
    /// A project's limits are others now.
    Limits(Box<NewLimits>),
    /// A project's keys are others now.
    Keys(Box<NewKeys>),
    /// A key is not to be used any more, or again.
    Switch(KeySwitch),
    /// What was learned is kept, or will be with the next lesson.
    Kept,
    /// It is kept how a key stands.
    KeyKept,
    /// Start nothing new.
    Drain,
}

/// The limits of a project, as configured and set.
#[derive(Debug)]
pub struct NewLimits {
    /// The project's row id.
    pub(super) project: i64,
    /// How fast it may start requests.
    pub(super) pace: Pace,
    /// What it pays by.
    pub(super) tier: String,
    /// What its batches leave to interactive requests.
    pub(super) reserve: Reserve,
    /// What all of its buckets share.
    pub(super) shared: Vec<Limit>,
    /// Its buckets, with their quota groups and what they may do.
    pub(super) buckets: Vec<(BucketId, String, Rule)>,
    /// Of which limit nothing learned holds any more.
    pub(super) forget: Option<(BucketId, Metric, Window)>,
    /// Told when they are in force.
    pub(super) done: oneshot::Sender<()>,
}

/// What a bucket may do from now on. Of several an earlier variant beats a later one.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// Go within these limits.
    Limited(Vec<Limit>),
    /// Nothing, for this reason.
    Off(String),
    /// Find out what its limits are.
    Learn,
}

impl Rule {
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Limited(_) => 0,
            Self::Off(_) => 1,
            Self::Learn => 2,
        }
    }
}

/// Everything the engine can order.
#[derive(Debug)]
pub enum Effect {
    /// Read the next page of a batch's queue.
    Load {
        /// Whose.
        batch: BatchId,
        /// After which item.
        after: i64,
        /// How many at most.
        limit: usize,
    },
    /// Make reservations durable, then say so.
    Reserve(Vec<NewAttempt>),
    /// Send a request whose reservation is durable.
    Send(SendOrder),
    /// Tell a client that its call may go: its reservation is durable.
    Admit(Admitted),
    /// Make the end of a call durable; this must not fail.
    SettleCall(Box<EndedAttempt>),
    /// Have the provider count an item's input tokens.
    Count(SendOrder),
    /// Make ends durable; this must not fail.
    Settle(Vec<Settlement>),
    /// Fail an item that can never be sent, with the reason in its results line.
    Refuse {
        /// Which.
        item: QueuedItem,
        /// Why.
        reason: String,
    },
    /// Move a stopped batch's queued items to their end.
    Sweep {
        /// Which.
        batch: BatchId,
        /// Why.
        reason: String,
        /// Whether the user said so.
        cancelled: bool,
    },
    /// Put a batch's failed items back into its queue; nothing of it is under way.
    Requeue(BatchId),
    /// Write a batch's results.
    Finish(BatchId),
    /// Keep what a bucket has learned.
    Remember(Box<Remembered>),
    /// Keep how a key stands.
    KeepKey(KeyState),
    /// Seal the days of a project before `today`.
    Seal {
        /// Which.
        project: i64,
        /// The day that goes on.
        today: NaiveDate,
    },
}

/// One request to send.
#[derive(Clone, Debug)]
pub struct SendOrder {
    /// The reserved attempt.
    pub id: AttemptId,
    /// The item whose line it carries.
    pub item: QueuedItem,
    /// Whose endpoint.
    pub project: i64,
    /// Which of its keys.
    pub key: usize,
    /// The model.
    pub model: String,
    /// The batch's directory under `working/`.
    pub work: String,
    /// How its line is read.
    pub form: Arc<Form>,
    /// How the accepted file is packed.
    pub packing: Packing,
    /// Not to be sent any more at this instant: the distance to others was kept for an earlier one.
    pub stale_at: Option<BootMs>,
}

/// Why a batch is stopped when its user said so.
pub const CANCELLED: &str = "cancelled by its user";

/// A project as the engine needs it.
#[derive(Clone, Debug)]
pub(super) struct Project {
    pub(super) name: String,
    pub(super) keys: Vec<Key>,
    pub(super) next_key: usize,
    pub(super) link: Link,
    /// What it pays by.
    pub(super) tier: String,
    /// Whether its token limits count what is answered as well, as those of OpenAI's providers do.
    pub(super) counts_output: bool,
    /// Whether large prompts are counted by the provider before they are sent.
    pub(super) strict_estimates: bool,
    /// The provider's clock.
    pub(super) clock: Offsets,
    /// A day that has begun already, whatever our clock says, until the provider's is heard.
    pub(super) floor: Option<NaiveDate>,
    pub(super) pace: Pace,
    pub(super) in_flight: u32,
    pub(super) second: BootMs,
    pub(super) started: u32,
    pub(super) held: Option<(BootMs, String)>,
    pub(super) day: QuotaDay,
    pub(super) sealed_before: Option<NaiveDate>,
    pub(super) sealing: bool,
    /// A seal that did not come about is not tried again before this.
    pub(super) seal_after: BootMs,
}

/// Whether a project's endpoint can be reached. Until a request got through, one goes first.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    pub(super) proven: bool,
    pub(super) failures: u32,
    pub(super) until: Option<(BootMs, String)>,
    pub(super) probe: Option<AttemptId>,
}

/// The queue of one bucket.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) project: i64,
    pub(super) model_group: String,
    /// Whether nobody knows its limits.
    pub(super) learning: bool,
    /// How many requests at once, while that is being found out: of a model whose limits nobody
    /// knows, and after a 429 that names no quota.
    pub(super) crowd: Option<Crowd>,
    /// Why nothing of it is sent: a user turned it off.
    pub(super) off: Option<String>,
    pub(super) in_flight: u32,
    /// 429s without a quota's name, one after another.
    pub(super) unexplained: u32,
    /// Attempts before this one were under way at the last of them.
    pub(super) refused_before: AttemptId,
    pub(super) wait: Option<(BootMs, String)>,
    /// Retries that it may still have.
    pub(super) budget: Budget,
    /// Server errors one after another, and how often it was shut for them since the last answer.
    pub(super) server_errors: u32,
    pub(super) outages: u32,
    /// How long its requests take.
    pub(super) delays: MeanDelays,
}

impl Lane {
    pub(super) fn new(project: i64, group: String, learning: bool) -> Self {
        Self {
            project,
            model_group: group,
            budget: Budget::default(),
            server_errors: 0,
            outages: 0,
            delays: MeanDelays::default(),
            learning,
            crowd: learning.then_some(Crowd { at_once: 1, good: 0 }),
            off: None,
            in_flight: 0,
            unexplained: 0,
            refused_before: AttemptId(0),
            wait: None,
        }
    }
}

impl Lane {
    /// Takes up what it may do from now on. Returns the limits that it has then; none when they
    /// stay as they are: those of what is off count on.
    pub(super) fn take_up(&mut self, rule: Rule) -> Option<Vec<Limit>> {
        match rule {
            Rule::Limited(limits) => {
                self.off = None;
                self.learning = false;
                Some(limits)
            }
            Rule::Off(reason) => {
                self.off = Some(reason);
                None
            }
            Rule::Learn => {
                self.off = None;
                if self.learning {
                    return None;
                }
                self.learning = true;
                self.crowd = Some(Crowd { at_once: 1, good: 0 });
                Some(Vec::new())
            }
        }
    }

    /// Until when at least and why nothing of it goes.
    pub(super) fn waits(&self, now: Now) -> Option<(BootMs, String)> {
        let off = |reason: &String| (now.boot.plus(caps::TICK_MAX_MS), reason.clone());
        self.off.as_ref().map(off).or_else(|| self.wait.clone())
    }

    /// A request was answered: after as many as go at once, one more may.
    pub(super) fn went_well(&mut self, at_most: u32) {
        let Some(crowd) = &mut self.crowd else { return };
        crowd.good += 1;
        if crowd.good >= crowd.at_once {
            crowd.good = 0;
            crowd.at_once = crowd.at_once.saturating_add(1);
        }
        if !self.learning && crowd.at_once >= at_most {
            self.crowd = None;
        }
    }

    /// A request was refused without a reason: seven tenths of what went at once go on.
    pub(super) fn went_badly(&mut self) {
        let at_once = self.crowd.as_ref().map_or(self.in_flight, |crowd| crowd.at_once);
        self.crowd =
            Some(Crowd { at_once: (at_once / 10 * 7 + at_once % 10 * 7 / 10).max(1), good: 0 });
    }
}

/// Additive increase, multiplicative decrease of what goes at once.
#[derive(Clone, Debug)]
pub(super) struct Crowd {
    pub(super) at_once: u32,
    pub(super) good: u32,
}

/// What is done with an item once its settlement is durable.
#[derive(Clone, Debug)]
pub(super) struct Settling {
    pub(super) batch: BatchId,
    pub(super) item: QueuedItem,
    pub(super) state: ItemState,
    /// Back at the head of its queue: it lost nothing but time.
    pub(super) keeps_place: bool,
}

/// A bucket as reports show it.
#[derive(Clone, Debug)]
pub struct BucketView {
    /// Which.
    pub id: BucketId,
    /// The project's name.
    pub project: String,
    /// The quota group.
    pub group: String,
    /// Every limit as it stands.
    pub limits: Vec<LimitState>,
    /// The names of the project's keys, by their ids in `limits`.
    pub keys: Vec<String>,
    /// Requests in flight.
    pub in_flight: u32,
    /// Calls of clients that are held.
    pub held: usize,
    /// Until when and why its next item waits.
    pub wait: Option<(UnixMs, String)>,
    /// Until when and why the provider's no shuts it.
    pub blocked: Option<(UnixMs, String)>,
    /// Why nothing of it is sent: it was turned off.
    pub off: Option<String>,
    /// Whether its limits are not known yet.
    pub learning: bool,
    /// What somebody else uses of its quota, in thousandths.
    pub others_permille: Option<u64>,
    /// Whether batch requests keep a distance from one another.
    pub paced: bool,
    /// Input tokens that answers took beyond their estimates, since the start.
    pub overrun_tokens: u64,
}

/// A request that somebody wonders about.
#[derive(Clone, Debug)]
pub struct Question {
    /// The bucket in which its model counts.
    pub bucket: BucketId,
    /// What it would take.
    pub need: Weights,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Explained {
    /// What the gate says, with every limit.
    pub explanation: Explanation,
    /// The key that it would be sent with.
    pub key: Option<String>,
    /// What besides quota keeps it, and until when at least.
    pub hindrance: Option<(UnixMs, String)>,
    /// When all this was so.
    pub now: Now,
}

/// A project as reports show it.
#[derive(Clone, Debug)]
pub struct ProjectView {
    /// Its name.
    pub name: String,
    /// Why its endpoint cannot be reached, if so.
    pub unreachable: Option<String>,
    /// Keys that are set aside, with the reason.
    pub keys_aside: Vec<(String, String)>,
    /// Why it is held, if so.
    pub held: Option<String>,
}
