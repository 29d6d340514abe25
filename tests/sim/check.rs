//! The invariants that a run can check while it is played. P1 is the oracle's; the numbers are
//! those of the rules of admission.

use crate::attempt::{Attempt, Fate, Kept};
use crate::client::{AttemptId, Client, No};
use crate::run::{Event, Promise, Run};
use crate::world::{BOOT, THETA_MS};

/// What looking at everything costs is paid once in so many events.
const LOOK_ONE_IN: u8 = 24;

/// How long after midnight the day before still counts.
const DAY_GRACE_MS: i64 = 30_000;

/// For clocks that run at different rates.
const GAMMA_MS: u64 = 50;

impl<C: Client> Run<'_, C> {
    fn broken(&mut self, what: &str) {
        if self.manner.strict && self.outcome.broken.is_none() {
            self.note(&format!("BROKEN: {what}"), AttemptId(0));
            self.outcome.broken = Some(what.to_owned());
        }
    }

    /// H1 and P4: what is counted has a durable row and a bound that has not passed.
    pub(crate) fn counted_rightly(&mut self, id: AttemptId) {
        let now = self.now;
        let attempt = self.attempt(id);
        // Of a torn row everyone had to think that it was there.
        if attempt.kept == Kept::Lost || attempt.reserved_durable > now {
            self.broken("P4: counted without a durable row");
        } else if attempt.bound.is_some_and(|bound| bound < now) {
            self.broken("H1: counted after its bound");
        }
    }

    /// P6, first half, and P11.
    pub(crate) fn may_go(&mut self) {
        if self.promise.is_some_and(|told| told.version == self.version && self.now < told.until) {
            self.broken("P6: it goes before it was told");
        }
        if self.now < self.shut_until {
            self.broken("P11: it goes on the day that is used up");
        }
    }

    /// P6, second half: a wait that is told is kept, if every end was known and nothing else
    /// happened.
    pub(crate) fn must_wait(&mut self, until: u64) {
        let told = self.promise.filter(|told| told.version == self.version);
        if told.is_some_and(|told| self.now >= told.until) {
            self.broken("P6: it does not go when it was told");
        }
        let by_day = self.world.day.is_some();
        let known = |attempt: &Attempt| attempt.bound.is_some() && !by_day;
        let known = self.open.iter().all(|id| known(&self.attempts[id]));
        self.promise = None;
        if known && !self.is_blocked() {
            self.promise = Some(Promise { until, version: self.version });
            if self.manner.strict && until > self.now + 1 && self.rng.bool() {
                self.at(until - 1, Event::Wake);
            }
        }
    }

    /// P3, P9 and P13, now and then.
    pub(crate) fn look(&mut self) {
        if !self.manner.strict || self.rng.u8(0..LOOK_ONE_IN) > 0 {
            return;
        }
        self.outcome.looks += 1;
        self.used_rightly();
        self.restarts_no_wider();
    }

    /// P3: what is said to be used is what the rows add up to, as long as no refusal has shown that
    /// someone else uses some as well.
    fn used_rightly(&mut self) {
        if !self.outcome.refused.is_empty() {
            return;
        }
        let now = self.now;
        let longest = self.world.longest_window_ms() + GAMMA_MS;
        let gone = |attempt: &Attempt| attempt.bound.is_some_and(|u| u + longest <= now);
        self.live.retain(|id| !gone(&self.attempts[id]));
        let clocks = self.clocks();
        for (metric, window_ms, used) in self.client.used(clocks) {
            let sum = match window_ms {
                Some(window_ms) => self.occupied(metric, window_ms),
                None => self.used_today(metric),
            };
            if used != sum {
                let what = format!("P3: {used} of metric {metric} in {window_ms:?}, and not {sum}");
                self.broken(&what);
            }
        }
    }

    fn occupied(&self, metric: usize, window_ms: u64) -> u64 {
        let stays = |a: &&Attempt| a.bound.is_none_or(|u| u + window_ms + GAMMA_MS > self.now);
        let live = self.live.iter().map(|id| &self.attempts[id]);
        live.filter(stays).map(|attempt| attempt.weight[metric]).sum()
    }

    fn used_today(&self, metric: usize) -> u64 {
        // Today is the latest day that it may be for the provider.
        let wall = self.clocks().wall.0 + THETA_MS;
        let midnights = self.world.midnights.iter().rev();
        let Some(midnight) = midnights.copied().find(|midnight| *midnight <= wall) else {
            return 0;
        };
        // West of Greenwich, midnight there is on the same date here.
        let today = crate::client::UnixMs(midnight).to_utc().date_naive();
        let counts = |attempt: &&Attempt| {
            let charged = attempt.charge.lo <= today && today <= attempt.charge.hi;
            let void = attempt.fate == Fate::Void && attempt.ended;
            attempt.is_kept() && !void && (charged || !attempt.ended)
        };
        self.attempts.values().filter(counts).map(|attempt| attempt.weight[metric]).sum()
    }

    /// P9: with less in the ledger, what fits still fits. P13: a start now would let nothing go
    /// that does not go without it. That holds where no wall clock has a say: ages of another boot
    /// are guessed anew at each start, and in a day's first half minute what is open weighs on the
    /// day before until a start shows that it began after it. What refusals taught is not there.
    fn restarts_no_wider(&mut self) {
        let now = self.clocks();
        let before = self.live.iter().any(|id| self.attempts[id].boot != self.boots);
        let midnights = &self.world.midnights;
        let grace = midnights.iter().any(|at| (0..DAY_GRACE_MS).contains(&(now.wall.0 - at)));
        let taught = !self.outcome.refused.is_empty();
        if before || grace || taught || self.is_blocked() {
            return;
        }
        let (need, _) = self.world.item(&mut self.rng);
        let mut rows = self.rows(true);
        let Some(fresh) = self.client.afresh(&rows, need, now) else { return };
        let going = self.client.check(need, now);
        let wider = match (&going, &fresh) {
            (Ok(()), _) => false,
            (Err(_), Ok(())) => true,
            (Err(going), Err(fresh)) => fresh < going,
        };
        if wider {
            self.broken(&format!("P13: {going:?} without a start, {fresh:?} after one"));
        }
        if !rows.is_empty() {
            rows.remove(self.rng.usize(0..rows.len()));
            let fewer = self.client.afresh(&rows, need, now);
            if fresh.is_ok() && fewer.is_some_and(|fewer| fewer.is_err()) {
                self.broken("P9: less in the ledger, and it fits no more");
            }
        }
    }

    /// Remembers a no by the day, for P11.
    pub(crate) fn shut_by(&mut self, no: &No) {
        if no.quota.is_some_and(|quota| quota.window_ms.is_none()) {
            let wall = self.world.true_wall(self.now) + self.world.theta_ms;
            let next = self.world.midnights.iter().find(|midnight| **midnight > wall);
            let opens =
                next.and_then(|midnight| self.world.at_wall(midnight - self.world.theta_ms));
            self.shut_until = opens.unwrap_or(u64::MAX);
        }
    }

    /// P2 and P5, when all is over.
    pub(crate) fn look_back(&mut self) {
        let answered = |a: &&Attempt| {
            a.settled_durable.is_some()
                && a.is_kept()
                && a.fate == Fate::Answered
                && a.refused.is_none()
        };
        if self.attempts.values().filter(answered).any(|attempt| attempt.weight != attempt.taken) {
            self.broken("P2: the ledger and the provider count differently");
        }
        let Some((metric, limit)) = self.world.day.filter(|_| !self.world.lenient) else { return };
        for day in self.world.midnights.windows(2) {
            // The widest that the provider's day can be, if its clock also drifts.
            let edges = [day[0] - THETA_MS, day[1] + THETA_MS];
            let boot = i64::try_from(BOOT).expect("small");
            let [from, to] = edges.map(|wall| wall - self.world.wall_zero + boot);
            let within = |attempt: &&Attempt| {
                let counted = attempt.counted.filter(|_| attempt.arrived);
                let counted = counted.and_then(|at| i64::try_from(at).ok());
                counted.is_some_and(|at| from <= at && at < to)
            };
            let counted = self.attempts.values().filter(within);
            let sum: u64 = counted.map(|attempt| attempt.taken[metric]).sum();
            if sum > limit {
                self.broken(&format!("P5: {sum} of {limit} on a day"));
            }
        }
    }
}
