//! One run: a client and an oracle in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;

use fastrand::Rng;
use tidegate::gate::day::DayCharge;
use tidegate::gate::units::{BootMs, Now, UnixMs, Weights};
use tidegate::gate::window::AttemptId;

use crate::client::{Client, Row};
use crate::oracle::{Oracle, Weight};
use crate::world::{Answers, BOOT, LATE_MS, World};

/// How long a write to the ledger takes to be durable, at most.
const COMMIT_MS: u64 = 30;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    /// When the first and the last request was counted.
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) crashes: u64,
    /// What happened, line by line; empty unless asked for.
    pub(crate) transcript: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Nothing but time: work begins, a wait is over.
    Wake,
    /// The provider counts an attempt.
    Count(AttemptId),
    /// The client learns of an attempt; void once it has crashed since.
    BodySent(AttemptId, u64),
    Headers(AttemptId, u64),
    Ended(AttemptId, u64),
    Crash,
    Start,
}

/// What an attempt comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// The connection broke: nobody knows whether it was counted.
    Cut,
    /// Nothing was sent.
    Void,
}

struct Attempt {
    estimate: Weights,
    actual: Weights,
    fate: Fate,
    reserved_durable: u64,
    settled_durable: Option<u64>,
    /// A crash came before the reservation was durable.
    lost: bool,
    /// When the first byte leaves, when the last one is handed over.
    begun: u64,
    flushed: u64,
    /// When it is counted, and whether it has been.
    counted: Option<u64>,
    arrived: bool,
    charge: DayCharge,
    u: Option<BootMs>,
}

struct Item {
    estimate: Weights,
    actual: Weights,
}

pub(crate) struct Run<'a, C> {
    world: &'a World,
    client: C,
    oracle: Oracle,
    rng: Rng,
    now: u64,
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    attempts: BTreeMap<AttemptId, Attempt>,
    head: Option<Item>,
    left: u64,
    lives: u64,
    up: bool,
    next_wake: u64,
    outcome: Outcome,
    recorded: bool,
}

impl<'a, C: Client> Run<'a, C> {
    pub(crate) fn new(world: &'a World, client: C, rng: Rng, recorded: bool) -> Self {
        Self {
            world,
            client,
            oracle: world.oracle(),
            rng,
            now: BOOT,
            heap: BinaryHeap::new(),
            sequence: 0,
            attempts: BTreeMap::new(),
            head: None,
            left: world.items,
            lives: 0,
            up: true,
            next_wake: u64::MAX,
            outcome: Outcome {
                accepted: 0,
                rejected: 0,
                first: 0,
                last: 0,
                crashes: 0,
                transcript: String::new(),
            },
            recorded,
        }
    }

    /// Plays to the end of the world, or to the first refusal.
    pub(crate) fn play(mut self) -> Outcome {
        let end = BOOT + self.world.length_ms;
        self.at(BOOT, Event::Wake);
        self.plan_crashes(end);
        while let Some(Reverse((at, _, event))) = self.heap.pop() {
            if at > end || self.oracle.rejected > 0 {
                break;
            }
            self.now = at;
            self.happen(event);
        }
        self.outcome.accepted = self.oracle.accepted;
        self.outcome.rejected = self.oracle.rejected;
        self.outcome
    }

    fn plan_crashes(&mut self, end: u64) {
        let mean = self.world.crash_every_ms;
        if mean == 0 {
            return;
        }
        let mut at = BOOT;
        while at < end {
            at += self.rng.u64(1..2 * mean);
            self.at(at, Event::Crash);
        }
        let boot = i64::try_from(BOOT).expect("small");
        for midnight in &self.world.midnights {
            let near = midnight - self.world.wall_zero + boot + self.rng.i64(-4_000..4_000);
            if let Ok(near) = u64::try_from(near)
                && near > BOOT
            {
                self.at(near, Event::Crash);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Count(id) => self.count(id),
            Event::Crash => self.crash(),
            Event::Start => self.start(),
            Event::BodySent(id, life) if life == self.lives => {
                self.note("body sent", id);
                let now = self.clocks();
                self.client.body_sent(id, now);
            }
            Event::Headers(id, life) if life == self.lives => {
                self.note("headers", id);
                let now = self.clocks();
                self.client.headers(id, now);
            }
            Event::Ended(id, life) if life == self.lives => self.ended(id),
            Event::Wake | Event::BodySent(..) | Event::Headers(..) | Event::Ended(..) => {}
        }
        if self.up {
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
            if self.left == 0 {
                return;
            }
            let now = self.clocks();
            let item = self.head.take().unwrap_or_else(|| self.item());
            match self.client.check(&item.estimate, now) {
                Ok(()) => self.launch(&item),
                Err(until) => {
                    self.head = Some(item);
                    self.wake(until.0);
                    return;
                }
            }
        }
    }

    /// The end of the pause in the load, if there is one.
    fn idle_until(&self) -> Option<u64> {
        let period = self.world.on_ms.saturating_add(self.world.off_ms);
        let since = (self.now - BOOT) % period;
        (since >= self.world.on_ms).then(|| self.now + period - since)
    }

    fn item(&mut self) -> Item {
        let requests = 1;
        let Some(tpm) = self.world.tpm else {
            let weights = Weights { requests, ..Weights::default() };
            return Item { estimate: weights, actual: weights };
        };
        // One in ten is large, up to the limit itself.
        let most = if self.rng.u8(0..10) == 0 { tpm } else { (2 * tpm / self.world.rpm).min(tpm) };
        let input_tokens = self.rng.u64(1..=most);
        let used = if self.rng.bool() { input_tokens } else { self.rng.u64(0..=input_tokens) };
        Item {
            estimate: Weights { requests, input_tokens, ..Weights::default() },
            actual: Weights { requests, input_tokens: used, ..Weights::default() },
        }
    }

    fn launch(&mut self, item: &Item) {
        let id = AttemptId(i64::try_from(self.attempts.len()).expect("few") + 1);
        let now = self.clocks();
        let charge = self.client.reserve(id, item.estimate, now);
        let rng = &mut self.rng;
        let fate = match rng.u64(0..100) {
            chance if chance < self.world.cut_percent => Fate::Cut,
            chance if chance < self.world.cut_percent + self.world.void_percent => Fate::Void,
            _ => Fate::Answered,
        };
        let reserved_durable = self.now + rng.u64(0..=COMMIT_MS);
        let begun = reserved_durable + rng.u64(0..=self.world.upload_ms);
        let flushed = begun + rng.u64(0..=self.world.upload_ms);
        let attempt = Attempt {
            estimate: item.estimate,
            actual: item.actual,
            fate,
            reserved_durable,
            settled_durable: None,
            lost: false,
            begun,
            flushed,
            counted: None,
            arrived: false,
            charge,
            u: None,
        };
        self.left = self.left.saturating_sub(1);
        self.attempts.insert(id, attempt);
        self.note("reserved", id);
        self.under_way(id, fate, begun, flushed);
    }

    /// Draws what becomes of an attempt, and when who learns of it.
    fn under_way(&mut self, id: AttemptId, fate: Fate, begun: u64, flushed: u64) {
        let life = self.lives;
        match fate {
            Fate::Void => {
                let end = begun + self.rng.u64(0..10_000);
                self.at(end, Event::Ended(id, life));
            }
            Fate::Answered => {
                let headers = self.headers_at(begun, flushed);
                let ended = headers.max(flushed) + self.rng.u64(0..3_000);
                let counted = self.between(begun, headers.min(flushed + LATE_MS));
                self.count_at(id, counted);
                if self.told() {
                    self.at(flushed, Event::BodySent(id, life));
                }
                if self.told() {
                    self.at(headers, Event::Headers(id, life));
                }
                self.at(ended, Event::Ended(id, life));
            }
            Fate::Cut => {
                let cut = begun + self.rng.u64(0..8_000);
                if self.rng.u8(0..4) > 0 {
                    let counted = self.between(begun, cut.min(flushed) + LATE_MS);
                    self.count_at(id, counted);
                }
                if flushed < cut && self.told() {
                    self.at(flushed, Event::BodySent(id, life));
                }
                self.at(cut, Event::Ended(id, life));
            }
        }
    }

    fn headers_at(&mut self, begun: u64, flushed: u64) -> u64 {
        let rng = &mut self.rng;
        let fast = 20 + rng.u64(0..150) + rng.u64(0..150) * u64::from(rng.u8(0..4) == 0);
        match self.world.answers {
            Answers::Slow => flushed + rng.u64(1_000..30_000),
            Answers::Mixed if rng.bool() => flushed + rng.u64(0..20_000),
            Answers::Mixed if rng.u8(0..5) == 0 => rng.u64(begun..=flushed),
            Answers::Fast | Answers::Mixed => flushed + fast,
        }
    }

    /// Anywhere between the two, and often at one of them.
    fn between(&mut self, from: u64, to: u64) -> u64 {
        match self.rng.u8(0..4) {
            0 => from,
            1 => to,
            _ => self.rng.u64(from..=to),
        }
    }

    /// Progress may be lost on the way to the engine; ends are not.
    fn told(&mut self) -> bool {
        self.rng.u64(0..100) >= self.world.untold_percent
    }

    fn count_at(&mut self, id: AttemptId, at: u64) {
        self.attempts.get_mut(&id).expect("it is known").counted = Some(at);
        self.at(at, Event::Count(id));
    }

    fn count(&mut self, id: AttemptId) {
        let attempt = self.attempts.get_mut(&id).expect("it is known");
        // A crash may have moved it.
        if attempt.counted != Some(self.now) || attempt.arrived {
            return;
        }
        attempt.arrived = true;
        let weight: Weight = [attempt.actual.requests, attempt.actual.input_tokens];
        if self.outcome.first == 0 {
            self.outcome.first = self.now;
        }
        self.outcome.last = self.now;
        match self.oracle.offer(self.now, weight) {
            Ok(()) => self.note("counted", id),
            Err(rule) => self.note(&format!("REFUSED by {rule}"), id),
        }
    }

    fn ended(&mut self, id: AttemptId) {
        self.note("ended", id);
        let now = self.clocks();
        let durable = self.now + self.rng.u64(0..=COMMIT_MS);
        let attempt = self.attempts.get_mut(&id).expect("it is known");
        attempt.settled_durable = Some(durable);
        let actual = match attempt.fate {
            Fate::Void => return self.client.void(id),
            Fate::Answered => attempt.actual,
            Fate::Cut => attempt.estimate,
        };
        let (u, charge) = self.client.settle(id, actual, now);
        attempt.u = Some(u);
        attempt.charge = charge;
    }

    /// The process ends: what it had not begun is never sent, what it had begun may still arrive.
    fn crash(&mut self) {
        if !self.up {
            return;
        }
        self.up = false;
        self.lives += 1;
        self.outcome.crashes += 1;
        self.note("crash", AttemptId(0));
        let at = self.now;
        let recent = |attempt: &Attempt| attempt.counted.is_some_and(|counted| counted > at);
        let pending: Vec<_> =
            self.attempts.iter().filter(|(_, a)| recent(a)).map(|(id, _)| *id).collect();
        for id in pending {
            let attempt = self.attempts.get_mut(&id).expect("it is known");
            attempt.counted = None;
            let (begun, latest) = (attempt.begun, at.min(attempt.flushed) + LATE_MS);
            if begun < at && self.rng.bool() {
                let counted = self.between(at, latest);
                self.count_at(id, counted);
            }
        }
        let long = self.rng.u8(0..4) == 0;
        let down = self.rng.u64(50..if long { 90_000 } else { 3_000 });
        self.at(self.now + down, Event::Start);
        self.crashed_at(at);
    }

    /// What was not durable yet is lost.
    fn crashed_at(&mut self, at: u64) {
        for attempt in self.attempts.values_mut() {
            attempt.lost |= attempt.reserved_durable > at;
            if attempt.settled_durable.is_some_and(|durable| durable > at) {
                attempt.settled_durable = None;
                attempt.u = None;
                attempt.charge.hi = attempt.charge.lo;
            }
        }
    }

    /// The next process begins, with the ledger alone.
    fn start(&mut self) {
        self.up = true;
        self.note("start", AttemptId(0));
        let now = self.clocks();
        let mut rows = Vec::new();
        for (id, attempt) in &self.attempts {
            let settled = attempt.settled_durable.is_some();
            if attempt.lost || (settled && attempt.fate == Fate::Void) {
                continue;
            }
            let weights = match attempt.fate {
                Fate::Answered if settled => attempt.actual,
                Fate::Answered | Fate::Cut | Fate::Void => attempt.estimate,
            };
            rows.push(Row { id: *id, weights, charge: attempt.charge, u: attempt.u });
        }
        self.client.restart(&mut rows, now);
        for row in rows {
            let attempt = self.attempts.get_mut(&row.id).expect("it is known");
            // Written as it was corrected: in doubt, at its estimate.
            if attempt.settled_durable.is_none() {
                attempt.settled_durable = Some(self.now);
                attempt.fate = Fate::Cut;
                attempt.u = row.u;
                attempt.charge = row.charge;
                attempt.estimate = row.weights;
            }
        }
    }

    fn clocks(&self) -> Now {
        let since = self.now - BOOT;
        Now { boot: BootMs(self.now), wall: UnixMs(self.world.wall_zero).plus(since) }
    }

    fn wake(&mut self, at: u64) {
        if at < self.next_wake {
            self.next_wake = at;
            self.at(at, Event::Wake);
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, event)));
    }

    fn note(&mut self, what: &str, id: AttemptId) {
        if self.recorded {
            let (since, id) = (self.now - BOOT, id.0);
            writeln!(self.outcome.transcript, "{since:>10} {id:>5} {what}").expect("a string");
        }
    }
}
