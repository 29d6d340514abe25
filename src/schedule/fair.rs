//! Fairness between tenants: a virtual counter for each in each bucket (VTC, design/quota-rules.md,
//! 6.2). Who was served least goes first; who comes back after a while has saved nothing up.

use std::collections::{BTreeMap, BTreeSet};

/// A tenant by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// Service received, in parts of a limit divided by the tenant's weight.
pub(super) type Service = u128;

/// The counters of one bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    service: BTreeMap<TenantId, Service>,
    /// What whoever becomes active has had at least: the least of those that are active, or were
    /// last.
    floor: Service,
    /// Who was active when the program ended, and was not away.
    returning: BTreeSet<TenantId>,
}

impl Counters {
    pub(super) fn of(&self, tenant: TenantId) -> Service {
        self.service.get(&tenant).copied().unwrap_or(0)
    }

    /// A tenant has something to send again; `least` is the least that another active one has had.
    pub(super) fn join(&mut self, tenant: TenantId, least: Option<Service>) {
        self.floor = self.floor.max(least.unwrap_or(0));
        if self.returning.remove(&tenant) {
            return;
        }
        let service = self.service.entry(tenant).or_insert(0);
        *service = (*service).max(self.floor);
    }

    /// A tenant was active when the program ended.
    pub(super) fn return_later(&mut self, tenant: TenantId) {
        self.returning.insert(tenant);
    }

    /// A tenant has nothing to send any more, and is the last one.
    pub(super) fn leave_last(&mut self, tenant: TenantId) {
        self.floor = self.floor.max(self.of(tenant));
    }

    /// Served so much more.
    pub(super) fn charge(&mut self, tenant: TenantId, cost: u128, weight: u32) {
        *self.service.entry(tenant).or_insert(0) += cost / u128::from(weight.max(1));
    }

    /// What was charged turns out to be another cost.
    pub(super) fn correct(&mut self, tenant: TenantId, (was, is): (u128, u128), weight: u32) {
        let weight = u128::from(weight.max(1));
        let service = self.service.entry(tenant).or_insert(0);
        *service = (*service + is / weight).saturating_sub(was / weight);
    }
}
