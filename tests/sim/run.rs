//! One run: a client and an oracle in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use fastrand::Rng;

use crate::attempt::{Attempt, Fate, Kept};
use crate::client::{AttemptId, BootMs, Client, End, No, Now, Quota, UnixMs};
use crate::oracle::{Oracle, Refusal, Weight};
use crate::world::{BOOT, LATE_MS, TOKENS, Tokens, World};

/// How long a write to the ledger takes to be durable, at most.
const COMMIT_MS: u64 = 30;

/// What the provider asks for with each no; days are longer than that.
const RETRY_AFTER_MS: u64 = 22_000;

/// How a run is played.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// What happens is written down.
    pub(crate) recorded: bool,
    /// The invariants are checked at each step, and a broken one ends the run.
    pub(crate) strict: bool,
    /// Wrong: requests leave before their reservation is durable.
    pub(crate) hasty: bool,
}

/// What came of a run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) accepted: u64,
    /// What the provider has counted of it.
    pub(crate) taken: Weight,
    /// When it refused something.
    pub(crate) refused: Vec<u64>,
    /// The invariant that was broken.
    pub(crate) broken: Option<String>,
    /// When the first and the last request was counted.
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) crashes: u64,
    pub(crate) reboots: u64,
    pub(crate) suspends: u64,
    pub(crate) steps: u64,
    /// How often an invariant was looked at that needs more than a glance.
    pub(crate) looks: u64,
    /// What happened, line by line; empty unless asked for.
    pub(crate) transcript: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// Nothing but time: work begins, a wait is over.
    Wake,
    /// The provider counts an attempt, or its tokens alone.
    Count(AttemptId),
    CountTokens(AttemptId),
    /// The client learns of an attempt; void once it has crashed since.
    BodySent(AttemptId, u64),
    Headers(AttemptId, u64),
    Ended(AttemptId, u64),
    /// Of the process, or of the whole machine.
    Crash(bool),
    Start(bool),
    Suspend(u64),
    /// The wall clock is so far off from now on.
    Step(i64),
    /// Someone else sends a request.
    Other,
}

struct Item {
    estimate: Weight,
    actual: Weight,
}

/// "Not before then", as long as nothing else happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) until: u64,
    pub(crate) version: u64,
}

pub(crate) struct Run<'a, C> {
    pub(crate) world: &'a World,
    pub(crate) client: C,
    oracle: Oracle,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    pub(crate) heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    pub(crate) attempts: BTreeMap<AttemptId, Attempt>,
    /// Which of them have not ended, and which may still count.
    pub(crate) open: BTreeSet<AttemptId>,
    pub(crate) live: BTreeSet<AttemptId>,
    waiting: VecDeque<Item>,
    left: u64,
    pub(crate) lives: u64,
    pub(crate) up: bool,
    pub(crate) asleep_until: u64,
    pub(crate) boots: u64,
    /// Where in the run's time the boot clock began.
    pub(crate) boot_zero: u64,
    /// How far the wall clock is off.
    pub(crate) astray: i64,
    /// After a reboot or a no: until one that was sent since has been answered.
    blocked: Option<AttemptId>,
    next_wake: u64,
    /// The version at which the line was looked at last.
    looked: Option<u64>,
    pub(crate) version: u64,
    pub(crate) promise: Option<Promise>,
    pub(crate) shut_until: u64,
    pub(crate) outcome: Outcome,
    pub(crate) manner: Manner,
}

impl<'a, C: Client> Run<'a, C> {
    pub(crate) fn new(world: &'a World, client: C, rng: Rng, manner: Manner) -> Self {
        Self {
            world,
            client,
            oracle: world.oracle(),
            rng,
            now: BOOT,
            heap: BinaryHeap::new(),
            sequence: 0,
            attempts: BTreeMap::new(),
            open: BTreeSet::new(),
            live: BTreeSet::new(),
            waiting: VecDeque::new(),
            left: world.load.items,
            lives: 0,
            up: true,
            asleep_until: 0,
            boots: 0,
            boot_zero: 0,
            astray: 0,
            blocked: None,
            next_wake: u64::MAX,
            looked: None,
            version: 0,
            promise: None,
            shut_until: 0,
            outcome: Outcome::default(),
            manner,
        }
    }

    /// Plays to the end of the world, to the first refusal that it does not bear with, or to the
    /// first broken invariant.
    pub(crate) fn play(mut self) -> Outcome {
        let end = BOOT + self.world.length_ms;
        self.at(BOOT, Event::Wake);
        self.plan_accidents(end);
        while let Some(Reverse((at, _, event))) = self.heap.pop() {
            let refused = !self.world.lenient && !self.outcome.refused.is_empty();
            if at > end || refused || self.outcome.broken.is_some() {
                break;
            }
            self.now = at;
            self.happen(event);
        }
        self.look_back();
        self.outcome
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Count(id) => self.count(id),
            Event::CountTokens(id) => self.count_tokens(id),
            Event::Crash(reboot) => self.crash(reboot),
            Event::Start(reboot) => self.start(reboot),
            Event::Suspend(ms) => self.suspend(ms),
            Event::Step(astray) => self.step(astray),
            Event::Other => self.other(),
            Event::BodySent(id, life) if life == self.lives && self.open.contains(&id) => {
                self.note("body sent", id);
                let now = self.clocks();
                self.client.body_sent(id, now);
                self.bound(id, self.now + LATE_MS);
            }
            Event::Headers(id, life) if life == self.lives => self.headers(id),
            Event::Ended(id, life) if life == self.lives => self.ended(id),
            Event::Wake | Event::BodySent(..) | Event::Headers(..) | Event::Ended(..) => {}
        }
        if self.up && self.now >= self.asleep_until {
            self.look();
            self.send();
        }
    }

    /// Sends all that may go, and notes when to look again.
    fn send(&mut self) {
        if self.now >= self.next_wake {
            self.next_wake = u64::MAX;
        }
        loop {
            if let Some(later) = self.idle_until() {
                self.wake(later);
                return;
            }
            self.fill();
            let Some(head) = self.waiting.front() else { return };
            let (need, now) = (head.estimate, self.clocks());
            match self.client.check(need, now) {
                Ok(()) => {
                    self.may_go();
                    let item = self.waiting.pop_front().expect("it is there");
                    self.launch(&item);
                }
                Err(until) => {
                    self.must_wait(until.0 + self.boot_zero);
                    self.backfill(need, until);
                    self.wake(until.0 + self.boot_zero);
                    return;
                }
            }
        }
    }

    /// Sends what fits beside the head, now and when the head goes.
    fn backfill(&mut self, head: Weight, until: BootMs) {
        // Nothing has changed since it was looked at, and no wait is over.
        let looked = self.looked == Some(self.version) && self.now < self.next_wake;
        if self.world.load.depth < 2 || looked {
            return;
        }
        let now = self.clocks();
        let mut spare = self.client.spare(head, until, now);
        let mut least_refused = u64::MAX;
        let mut i = 1;
        while i < self.waiting.len() {
            let need = self.waiting[i].estimate;
            i += 1;
            if need[TOKENS] > spare[TOKENS] || need[TOKENS] >= least_refused {
                continue;
            }
            if need.iter().zip(&spare).any(|(need, spare)| need > spare) {
                continue;
            }
            match self.client.check(need, now) {
                Ok(()) => {
                    for (spare, need) in spare.iter_mut().zip(need) {
                        *spare -= need;
                    }
                    i -= 1;
                    let item = self.waiting.remove(i).expect("it is there");
                    self.launch(&item);
                    self.fill();
                }
                Err(later) => {
                    least_refused = need[TOKENS];
                    self.wake(later.0 + self.boot_zero);
                }
            }
        }
        self.looked = Some(self.version);
    }

    fn fill(&mut self) {
        while self.left > 0 && self.waiting.len() < self.world.load.depth {
            self.left -= 1;
            let (estimate, actual) = self.world.item(&mut self.rng);
            self.waiting.push_back(Item { estimate, actual });
        }
    }

    /// The end of the pause in the load, if there is one.
    fn idle_until(&self) -> Option<u64> {
        let load = &self.world.load;
        let period = load.on_ms.saturating_add(load.off_ms);
        let since = (self.now - BOOT) % period;
        (since >= load.on_ms).then(|| self.now + period - since)
    }

    fn launch(&mut self, item: &Item) {
        let id = AttemptId(i64::try_from(self.attempts.len()).expect("few") + 1);
        let now = self.clocks();
        let charge = self.client.reserve(id, item.estimate, now);
        let accidents = &self.world.accidents;
        let rng = &mut self.rng;
        let fate = match rng.u64(0..100) {
            chance if chance < accidents.cut_percent => Fate::Cut,
            chance if chance < accidents.cut_percent + accidents.void_percent => Fate::Void,
            _ => Fate::Answered,
        };
        let reserved_durable = self.now + rng.u64(0..=COMMIT_MS);
        let leaves = if self.manner.hasty { self.now } else { reserved_durable };
        let begun = leaves + rng.u64(0..=self.world.upload_ms);
        let flushed = begun + rng.u64(0..=self.world.upload_ms);
        let attempt = Attempt {
            estimate: item.estimate,
            actual: item.actual,
            weight: item.estimate,
            taken: [0; 3],
            fate,
            refused: None,
            boot: self.boots,
            reserved_durable,
            settled_durable: None,
            kept: Kept::Yes,
            begun,
            flushed,
            counted: None,
            arrived: false,
            tokens_counted: None,
            headers_at: None,
            ended_at: 0,
            ended: false,
            charge,
            u: None,
            bound: None,
        };
        self.attempts.insert(id, attempt);
        self.open.insert(id);
        self.live.insert(id);
        self.version += 1;
        self.note("reserved", id);
        self.under_way(id, fate, begun, flushed);
        self.crash_soon();
    }

    /// Accidents like to come while something is being written.
    fn crash_soon(&mut self) {
        if self.world.accidents.crash_every_ms > 0 && self.rng.u8(0..100) == 0 {
            let at = self.now + self.rng.u64(0..=COMMIT_MS);
            self.at(at, Event::Crash(false));
        }
    }

    fn count(&mut self, id: AttemptId) {
        let tokens_now = self.world.tokens == Tokens::AtStart;
        let now = self.now;
        let attempt = self.attempt(id);
        // An accident may have moved it.
        if attempt.counted != Some(now) || attempt.arrived {
            return;
        }
        attempt.arrived = true;
        let mut weight = attempt.actual;
        if !tokens_now {
            weight[TOKENS] = 0;
        }
        if self.outcome.first == 0 {
            self.outcome.first = now;
        }
        self.outcome.last = now;
        self.offer(id, weight);
    }

    fn count_tokens(&mut self, id: AttemptId) {
        let now = self.now;
        let attempt = self.attempt(id);
        if attempt.tokens_counted != Some(now) || attempt.refused.is_some() {
            return;
        }
        attempt.tokens_counted = None;
        let weight = [0, attempt.actual[TOKENS], 0];
        self.offer(id, weight);
    }

    fn offer(&mut self, id: AttemptId, weight: Weight) {
        self.counted_rightly(id);
        match self.oracle.offer(self.now, weight) {
            Ok(()) => {
                self.note("counted", id);
                self.outcome.accepted += weight[0].min(1);
                let taken = &mut self.attempt(id).taken;
                taken.iter_mut().zip(weight).for_each(|(taken, weight)| *taken += weight);
                let taken = &mut self.outcome.taken;
                taken.iter_mut().zip(weight).for_each(|(taken, weight)| *taken += weight);
            }
            Err(refusal) => {
                self.note(&format!("REFUSED by {refusal:?}"), id);
                self.outcome.refused.push(self.now);
                self.answer_no(id, &refusal);
            }
        }
    }

    /// The no comes back in place of an answer.
    fn answer_no(&mut self, id: AttemptId, refusal: &Refusal) {
        let explained = self.rng.u8(0..4) > 0;
        let Refusal { metric, limit, window_ms } = *refusal;
        let quota =
            (explained || window_ms.is_none()).then_some(Quota { metric, limit, window_ms });
        let headers = self.now + self.rng.u64(20..300);
        let life = self.lives;
        if let Some(quota) = &quota {
            self.note(&format!("{}, {}", quota.id(), quota.limit), id);
        }
        let attempt = self.attempt(id);
        attempt.refused = Some(No { quota, retry_after_ms: RETRY_AFTER_MS });
        if attempt.fate == Fate::Answered && !attempt.ended {
            attempt.headers_at = Some(headers);
            attempt.ended_at = headers;
            self.at(headers, Event::Headers(id, life));
            self.at(headers, Event::Ended(id, life));
        }
    }

    fn other(&mut self) {
        let refused = self.oracle.offer(self.now, [1, 0, 0]).is_err();
        self.note(if refused { "other, refused" } else { "other" }, AttemptId(0));
        self.plan_other();
    }

    /// The next request of someone else, at random.
    pub(crate) fn plan_other(&mut self) {
        let mean = Duration::from_millis(self.world.others_every_ms);
        if mean.is_zero() {
            return;
        }
        let wait = mean.mul_f64(-(1.0 - self.rng.f64()).ln());
        let wait = u64::try_from(wait.as_millis()).expect("short");
        self.at(self.now + wait, Event::Other);
    }

    fn headers(&mut self, id: AttemptId) {
        let now = self.now;
        if self.attempt(id).headers_at != Some(now) {
            return;
        }
        self.note("headers", id);
        let clocks = self.clocks();
        self.client.headers(id, clocks);
        self.bound(id, now);
    }

    fn ended(&mut self, id: AttemptId) {
        let (clocks, now) = (self.clocks(), self.now);
        let durable = now + self.rng.u64(0..=COMMIT_MS);
        let attempt = self.attempt(id);
        if attempt.ended_at != now || attempt.ended {
            return;
        }
        attempt.ended = true;
        attempt.settled_durable = Some(durable);
        let (fate, refused, actual) = (attempt.fate, attempt.refused, attempt.actual);
        self.open.remove(&id);
        self.note("ended", id);
        self.crash_soon();
        if fate == Fate::Void {
            self.version += 1;
            self.live.remove(&id);
            return self.client.void(id);
        }
        let (u, charge, weight) = match (fate, refused) {
            (Fate::Answered, None) => {
                self.blocked = self.blocked.filter(|last| id <= *last);
                self.client.settle(id, End::Answered(actual), clocks)
            }
            (Fate::Answered, Some(no)) => {
                self.block();
                self.shut_by(&no);
                self.client.refused(id, &no, clocks)
            }
            (Fate::Cut | Fate::Void, _) => self.client.settle(id, End::Broken, clocks),
        };
        self.bound(id, now + LATE_MS);
        let attempt = self.attempt(id);
        attempt.u = Some((u, clocks.wall_at(u)));
        attempt.charge = charge;
        attempt.weight = weight;
    }

    /// The client has been told that it was counted by then.
    fn bound(&mut self, id: AttemptId, at: u64) {
        self.version += 1;
        let attempt = self.attempt(id);
        attempt.bound = Some(attempt.bound.map_or(at, |known| known.min(at)));
    }

    pub(crate) fn attempt(&mut self, id: AttemptId) -> &mut Attempt {
        self.attempts.get_mut(&id).expect("it is known")
    }

    /// Something may stand in the way that the ledger does not know.
    pub(crate) fn block(&mut self) {
        self.blocked = Some(self.attempts.last_key_value().map_or(AttemptId(0), |(id, _)| *id));
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    pub(crate) fn clocks(&self) -> Now {
        let wall = UnixMs(self.world.true_wall(self.now) + self.astray);
        Now { boot: BootMs(self.now - self.boot_zero), wall }
    }

    fn wake(&mut self, at: u64) {
        if at < self.next_wake {
            self.next_wake = at;
            self.at(at, Event::Wake);
        }
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, event)));
    }

    pub(crate) fn note(&mut self, what: &str, id: AttemptId) {
        if self.manner.recorded {
            let (since, id) = (self.now - BOOT, id.0);
            writeln!(self.outcome.transcript, "{since:>10} {id:>5} {what}").expect("a string");
        }
    }
}
