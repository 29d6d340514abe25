//! What may go past a head that waits for room (EASY backfill, design/quota-rules.md, 6.2).

use std::collections::{BTreeMap, BTreeSet};

use super::fair::TenantId;
use super::line::{LineId, Route};
use super::order::Schedule;
use super::tick::{Item, Peek, Readiness, Supply, Waiting};
use crate::gate::admit::BucketId;
use crate::gate::units::{BootMs, Now, Weights};
use crate::gate::verdict::{Beside, Verdict};
use crate::gate::window::AttemptId;

/// Prompts that are tried past a head in one tick, in all and of one tenant.
const BACKFILL_TRIED: u32 = 200;
const BACKFILL_TRIED_OF_TENANT: u32 = 20;

/// Whom nothing that goes past may delay.
pub(super) struct Backfill {
    pub(super) bucket: BucketId,
    pub(super) head: Weights,
    /// When it fits, from all that is known.
    pub(super) until: BootMs,
    pub(super) item: i64,
    pub(super) staying: Weights,
}

impl Schedule {
    /// Starts what fits now and does not make the head wait longer. Returns what besides quota
    /// stopped it.
    pub(super) fn backfill(
        &mut self,
        backfill: &mut Backfill,
        now: Now,
        supply: &mut impl Supply,
    ) -> Option<Waiting> {
        let mut tried = Tries::default();
        backfill.staying = self.passed(backfill, None, supply);
        // What has no room for the smallest prompt there is has none for any.
        let smallest = Weights { requests: 1, ..Weights::default() };
        if !backfill.admits(&smallest, now, supply) {
            return None;
        }
        while let Some((line, item, need)) = self.candidate(backfill, &mut tried, now, supply) {
            let route = self.route_to(line, backfill.bucket)?;
            let attempt = self.start(line, item, &route, &need, now, supply);
            backfill.staying = self.passed(backfill, Some(attempt), supply);
            if let Some(waiting) = supply.hindrance(backfill.bucket, now) {
                return Some(waiting);
            }
        }
        None
    }

    /// What has gone past the head and is there longer than what it waits for.
    fn passed(
        &mut self,
        backfill: &Backfill,
        attempt: Option<AttemptId>,
        supply: &impl Supply,
    ) -> Weights {
        let lane = self.lanes.entry(backfill.bucket).or_default();
        let mut heads = lane.heads.values_mut();
        let Some(head) = heads.find(|head| head.item == backfill.item) else {
            return Weights::default();
        };
        head.passed.extend(attempt);
        supply.unbound(&mut head.passed)
    }

    /// The next of the order that may go past the head.
    fn candidate(
        &mut self,
        backfill: &Backfill,
        tried: &mut Tries,
        now: Now,
        supply: &mut impl Supply,
    ) -> Option<(LineId, Item, Weights)> {
        let most = usize::try_from(BACKFILL_TRIED).unwrap_or(usize::MAX);
        let each = usize::try_from(BACKFILL_TRIED_OF_TENANT).unwrap_or(usize::MAX);
        let order = self.lanes.get(&backfill.bucket)?.few_in_order(each);
        let order: Vec<_> = order.take(most).collect();
        for (_, tenant, line) in order {
            let Some(route) = self.route_to(line, backfill.bucket) else { continue };
            if route.fallback {
                continue;
            }
            for nth in 0.. {
                if !tried.may_try(tenant) {
                    break;
                }
                let Peek::Item(item) = supply.peek(line, nth, now) else { break };
                if !tried.seen.insert(item.id) {
                    continue;
                }
                let elsewhere = item.pinned.is_some_and(|project| project != route.project);
                if item.id == backfill.item || elsewhere {
                    tried.count(tenant);
                    continue;
                }
                let need = match supply.ready(line, item, &route, now) {
                    Readiness::Needs(need) => need,
                    Readiness::Unknown | Readiness::TooDear => break,
                    Readiness::NotNow | Readiness::Waits(..) => {
                        tried.count(tenant);
                        continue;
                    }
                };
                if !tried.is_hopeless(&need) {
                    if backfill.admits(&need, now, supply) {
                        return Some((line, item, need));
                    }
                    tried.failed.push(need);
                }
                tried.count(tenant);
            }
            if tried.in_all >= BACKFILL_TRIED {
                return None;
            }
        }
        None
    }

    fn route_to(&self, line: LineId, bucket: BucketId) -> Option<Route> {
        let routes = &self.lines.get(&line)?.line.routes;
        routes.iter().find(|route| route.bucket == bucket).copied()
    }
}

impl Backfill {
    /// Whether so much fits now, and the head fits no later if it goes.
    fn admits(&self, need: &Weights, now: Now, supply: &mut impl Supply) -> bool {
        if supply.check(self.bucket, need, &Beside::default(), now) != Verdict::Fits {
            return false;
        }
        let beside = Beside { more: *need, staying: self.staying };
        match supply.check(self.bucket, &self.head, &beside, now) {
            Verdict::Fits => true,
            Verdict::Wait(wait) => wait.until <= self.until,
            Verdict::Never(_) => false,
        }
    }
}

/// What was tried in one tick.
#[derive(Default)]
struct Tries {
    in_all: u32,
    of_tenant: BTreeMap<TenantId, u32>,
    failed: Vec<Weights>,
    /// Which ones.
    seen: BTreeSet<i64>,
}

impl Tries {
    fn may_try(&self, tenant: TenantId) -> bool {
        let of_tenant = self.of_tenant.get(&tenant).copied().unwrap_or(0);
        self.in_all < BACKFILL_TRIED && of_tenant < BACKFILL_TRIED_OF_TENANT
    }

    fn count(&mut self, tenant: TenantId) {
        self.in_all += 1;
        *self.of_tenant.entry(tenant).or_insert(0) += 1;
    }

    /// Whether less than this was tried in vain.
    fn is_hopeless(&self, need: &Weights) -> bool {
        self.failed.iter().any(|failed| failed.is_within(need))
    }
}
