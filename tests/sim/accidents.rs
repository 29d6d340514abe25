//! What happens to the machine: the process dies, all of it starts anew, it sleeps, its wall clock
//! goes astray.

use std::cmp::Reverse;

use crate::attempt::{Fate, Kept};
use crate::client::{AttemptId, Client, Row, UnixMs};
use crate::run::{Event, Run};
use crate::world::{BOOT, HOUR, LATE_MS, MINUTE};

const NOBODY: AttemptId = AttemptId(0);

/// How long the machine takes at most from its beginning to ours.
const BOOTING_MS: u64 = 30_000;

impl<C: Client> Run<'_, C> {
    pub(crate) fn plan_accidents(&mut self, end: u64) {
        let accidents = self.world.accidents;
        for at in self.times(accidents.crash_every_ms, end) {
            let reboot = self.rng.u64(0..100) < accidents.reboot_percent;
            self.at(at, Event::Crash(reboot));
        }
        for at in self.times(accidents.suspend_every_ms, end) {
            let ms = self.rng.u64(1_000..=accidents.suspend_most_ms);
            self.at(at, Event::Suspend(ms));
        }
        for at in self.times(accidents.step_every_ms, end) {
            let astray = self.world.astray(at, &mut self.rng);
            self.at(at, Event::Step(astray));
        }
        for midnight in &self.world.midnights {
            let Some(at) = self.world.at_wall(*midnight) else { continue };
            // Well before, the clock is right again.
            self.at(at.saturating_sub(4 * HOUR).max(BOOT), Event::Step(0));
            let near = (at + self.rng.u64(0..8_000)).saturating_sub(4_000);
            if accidents.crash_every_ms > 0 && near > BOOT {
                self.at(near, Event::Crash(false));
            }
        }
        self.plan_other();
    }

    fn times(&mut self, mean: u64, end: u64) -> Vec<u64> {
        let mut times = Vec::new();
        let mut at = BOOT;
        while mean > 0 && at < end {
            at += self.rng.u64(1..2 * mean);
            times.push(at);
        }
        times
    }

    /// The process ends: what it had not begun is never sent, what it had begun may still arrive.
    pub(crate) fn crash(&mut self, reboot: bool) {
        if !self.up {
            return;
        }
        self.up = false;
        self.lives += 1;
        self.outcome.crashes += 1;
        self.note(if reboot { "crash of the machine" } else { "crash" }, NOBODY);
        let at = self.now;
        let later = |counted: Option<u64>| counted.is_some_and(|counted| counted > at);
        let pending: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, a)| !a.ended && (later(a.counted) || later(a.tokens_counted)))
            .map(|(id, _)| *id)
            .collect();
        for id in pending {
            let attempt = self.attempt(id);
            let (begun, latest) = (attempt.begun, at.min(attempt.flushed) + LATE_MS);
            if attempt.arrived {
                // Its answer was being made.
                let tokens = attempt.tokens_counted.map(|tokens| tokens.min(latest).max(at));
                attempt.tokens_counted = tokens;
                if let Some(tokens) = tokens {
                    self.at(tokens, Event::CountTokens(id));
                }
                continue;
            }
            (attempt.counted, attempt.tokens_counted) = (None, None);
            if begun < at && self.rng.bool() {
                self.count_within(id, at, latest);
            }
        }
        let down = match self.rng.u8(0..4) {
            _ if reboot => BOOTING_MS + LATE_MS + self.rng.u64(0..60_000),
            0 => self.rng.u64(50..90_000),
            _ => self.rng.u64(50..3_000),
        };
        self.at(self.now.max(self.asleep_until) + down, Event::Start(reboot));
        self.crashed_at(at);
        if reboot {
            self.lose_tail(at);
        }
    }

    /// A disk that lies: what it said was durable is not, at the very end.
    fn lose_tail(&mut self, at: u64) {
        let from = at.saturating_sub(self.world.accidents.tail_ms);
        for attempt in self.attempts.values_mut() {
            if attempt.reserved_durable > from {
                attempt.kept = Kept::Torn;
            }
        }
    }

    /// What was not durable yet is lost.
    fn crashed_at(&mut self, at: u64) {
        for attempt in self.attempts.values_mut() {
            if attempt.reserved_durable > at {
                attempt.kept = Kept::Lost;
            }
            if attempt.settled_durable.is_some_and(|durable| durable > at) {
                attempt.settled_durable = None;
                attempt.weight = attempt.estimate;
                attempt.u = None;
                attempt.charge.hi = attempt.charge.lo;
            }
        }
    }

    /// The next process begins, with the ledger alone.
    pub(crate) fn start(&mut self, reboot: bool) {
        if reboot {
            self.outcome.reboots += 1;
            self.boots += 1;
            self.block();
            self.boot_zero = self.now - self.rng.u64(1_000..BOOTING_MS);
            if self.world.accidents.step_every_ms > 0 {
                self.astray = self.world.astray(self.now, &mut self.rng);
            }
        }
        self.up = true;
        self.version += 1;
        self.note("start", NOBODY);
        let now = self.clocks();
        let mut rows = self.rows(false);
        let last = self.attempts.values().rfind(|attempt| attempt.is_kept());
        let known = last.is_some_and(|attempt| attempt.boot == self.boots);
        self.client.restart(&mut rows, self.boots > 0 && !known, now);
        self.open.clear();
        self.live.clear();
        // Long gone; it would be restored to no effect.
        let boot_zero = self.boot_zero;
        for row in rows {
            self.live.insert(row.id);
            let attempt = self.attempt(row.id);
            let (u, _) = row.u.expect("a start sets the bound");
            attempt.bound = Some(u.0 + boot_zero);
            // Written as it was corrected: in doubt, at its estimate.
            if attempt.settled_durable.is_none() {
                attempt.settled_durable = Some(now.boot.0 + boot_zero);
                attempt.ended = true;
                attempt.fate = Fate::Cut;
                attempt.u = row.u;
                attempt.charge = row.charge;
                attempt.weight = row.weight;
            }
        }
    }

    /// The ledger as it would be read by a start, or by one after an end without loss.
    pub(crate) fn rows(&self, without_loss: bool) -> Vec<Row> {
        let mut rows = Vec::new();
        let longest = self.world.longest_window_ms() + MINUTE;
        for (id, attempt) in &self.attempts {
            let settled = attempt.ended && (without_loss || attempt.settled_durable.is_some());
            let same_boot = attempt.boot == self.boots;
            // Days need all; windows what is young, or not known to be old.
            let old = self.world.day.is_none()
                && settled
                && same_boot
                && attempt.bound.is_some_and(|bound| bound + longest < self.now);
            if !attempt.is_kept() || old || (settled && attempt.fate == Fate::Void) {
                continue;
            }
            rows.push(Row {
                id: *id,
                weight: attempt.weight,
                charge: attempt.charge,
                u: attempt.u.filter(|_| settled),
                same_boot,
            });
        }
        rows
    }

    /// Nothing of the machine runs; what has been sent goes its way.
    pub(crate) fn suspend(&mut self, ms: u64) {
        if self.now < self.asleep_until {
            return;
        }
        let (from, until) = (self.now, self.now + ms);
        self.outcome.suspends += 1;
        self.note(&format!("suspended for {ms} ms"), NOBODY);
        self.asleep_until = until;
        self.client.suspended(ms);
        let later = |at: u64| if at >= from { at + ms } else { at };
        let mut unsent = Vec::new();
        for (id, attempt) in &mut self.attempts {
            attempt.reserved_durable = later(attempt.reserved_durable);
            attempt.settled_durable = attempt.settled_durable.map(later);
            if attempt.flushed >= from && !attempt.ended {
                attempt.counted = attempt.counted.map(later);
                attempt.tokens_counted = attempt.tokens_counted.map(later);
                attempt.headers_at = attempt.headers_at.map(later);
                attempt.ended_at = later(attempt.ended_at);
                unsent.push(*id);
            } else if !attempt.ended {
                attempt.headers_at = attempt.headers_at.map(|at| at.max(until));
                attempt.ended_at = attempt.ended_at.max(until);
            }
            (attempt.begun, attempt.flushed) = (later(attempt.begun), later(attempt.flushed));
        }
        let moved = std::mem::take(&mut self.heap).into_iter().map(|Reverse((at, n, event))| {
            let at = match event {
                Event::Count(id) | Event::CountTokens(id) if unsent.contains(&id) => at + ms,
                Event::Count(_) | Event::CountTokens(_) | Event::Other | Event::Step(_) => at,
                Event::BodySent(id, _) | Event::Headers(id, _) | Event::Ended(id, _)
                    if unsent.contains(&id) =>
                {
                    at + ms
                }
                Event::BodySent(..) | Event::Headers(..) | Event::Ended(..) => at.max(until),
                Event::Wake | Event::Crash(_) | Event::Start(_) | Event::Suspend(_) => {
                    at.max(until)
                }
            };
            Reverse((at, n, event))
        });
        self.heap = moved.collect();
    }

    pub(crate) fn step(&mut self, astray: i64) {
        if self.astray != astray {
            self.astray = astray;
            self.version += 1;
            self.outcome.steps += 1;
            let UnixMs(wall) = self.clocks().wall;
            self.note(&format!("the wall clock shows {wall}"), NOBODY);
        }
    }
}
