//! Attempts between their reservation and their settlement.

use chrono::NaiveDate;

use super::core::Engine;
use super::estimate::uses_tools;
use super::job::is_retry;
use super::state::{Effect, Link, SendOrder};
use crate::caps;
use crate::gate::admit::BucketId;
use crate::gate::units::{BootMs, Now, Weights};
use crate::gate::window::AttemptId;
use crate::store::{BatchId, QueuedItem, TextWeight, Via};

/// An attempt between its reservation and its settlement.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) bucket: BucketId,
    pub(super) project: i64,
    pub(super) key: usize,
    pub(super) model: String,
    pub(super) est: Weights,
    /// What its estimate of input tokens was made of, if known.
    pub(super) text: Option<TextWeight>,
    /// The length of its body.
    pub(super) bytes: u64,
    /// When it was reserved.
    pub(super) started: BootMs,
    /// The first quota day that it may count on.
    pub(super) day_lo: NaiveDate,
    /// What it is for.
    pub(super) work: Work,
}

/// What an attempt is for.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// An item of a batch.
    Item(Carried),
    /// A call that a client makes by itself.
    Call {
        /// Whether no quota counts it: the gate knows nothing of it.
        free: bool,
        /// Who sends it.
        via: Via,
    },
}

/// The item that an attempt carries.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    pub(super) batch: BatchId,
    pub(super) item: QueuedItem,
    /// Whether it has been reserved anew for its age, which happens once.
    pub(super) renewed: bool,
}

impl Flight {
    /// The item that it carries, if it is a batch's.
    pub(super) fn carried(&self) -> Option<&Carried> {
        match &self.work {
            Work::Item(carried) => Some(carried),
            Work::Call { .. } => None,
        }
    }

    /// Whether somebody else sends it, past this daemon.
    pub(super) fn goes_elsewhere(&self) -> bool {
        matches!(self.work, Work::Call { via, .. } if via != Via::Proxy)
    }

    /// Whether no quota counts it.
    pub(super) fn is_free(&self) -> bool {
        matches!(self.work, Work::Call { free: true, .. })
    }
}

impl Engine {
    pub(super) fn body_sent(&mut self, now: Now, id: AttemptId) {
        // What tools of the provider add is counted when the answer is complete.
        let bounds =
            |flight: &Flight| flight.bytes <= caps::FLUSHED_BYTES_MAX && !uses_tools(flight.text);
        if self.flights.get(&id).is_some_and(bounds) {
            self.gate.flushed(id, now);
        }
        self.reached(id);
    }

    pub(super) fn headers(&mut self, now: Now, id: AttemptId) {
        self.gate.bound(id, now.boot);
        if let Some(flight) = self.flights.get(&id)
            && let Some(lane) = self.lanes.get_mut(&flight.bucket)
        {
            lane.delays.headers(flight.started.until(now.boot));
        }
        self.reached(id);
    }

    /// The request got through to the endpoint.
    pub(super) fn reached(&mut self, id: AttemptId) {
        let Some(flight) = self.flights.get(&id) else { return };
        if flight.goes_elsewhere() {
            return;
        }
        let project = self.projects.get_mut(&flight.project).expect("a flight has a project");
        if !project.link.proven {
            project.link = Link { proven: true, ..Default::default() };
        }
    }

    /// Takes an attempt out of flight and frees what it held besides quota.
    pub(super) fn land(&mut self, id: AttemptId) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        if flight.carried().is_some() {
            self.bytes_in_flight -= flight.bytes;
        }
        if flight.is_free() {
            return Some(flight);
        }
        let project = self.projects.get_mut(&flight.project).expect("a flight has a project");
        project.in_flight -= 1;
        if project.link.probe == Some(id) {
            project.link.probe = None;
        }
        let lane = self.lanes.get_mut(&flight.bucket).expect("a flight has a lane");
        lane.in_flight -= 1;
        Some(flight)
    }

    /// What is done once a reservation is durable.
    pub(super) fn send_order(&mut self, id: AttemptId, now: Now) -> Option<Effect> {
        let flight = self.flights.get(&id)?;
        let Some(carried) = flight.carried() else { return self.admit(id, now) };
        let job = self.jobs.get(&carried.batch)?;
        Some(Effect::Send(SendOrder {
            id,
            item: carried.item.clone(),
            project: flight.project,
            key: flight.key,
            model: flight.model.clone(),
            work: job.setup.work.clone(),
            form: job.setup.form.clone(),
            packing: job.setup.packing,
            stale_at: (!carried.renewed && self.gate.is_paced(flight.bucket, now))
                .then(|| now.boot.plus(caps::PERMIT_AGE_MAX_MS)),
        }))
    }

    /// Nothing was sent of a flight: what it took of the retries goes back.
    pub(super) fn give_retry_back(&mut self, flight: &Flight) {
        if flight.carried().is_some_and(|carried| is_retry(&carried.item))
            && let Some(lane) = self.lanes.get_mut(&flight.bucket)
        {
            lane.budget.give_back();
        }
    }

    /// Takes back a reservation that was not written: as if it had never been.
    pub(super) fn unreserve(&mut self, now: Now, id: AttemptId, reason: &str) {
        self.gate.void(id);
        let Some(flight) = self.land(id) else { return };
        self.give_retry_back(&flight);
        let Work::Item(carried) = flight.work else {
            self.turn_away(id, reason);
            return;
        };
        if let Some(job) = self.jobs.get_mut(&carried.batch) {
            job.open -= 1;
            job.open_nanos -= flight.est.spend_nanos;
            job.put_back(carried.item);
        }
        self.uncharge(carried.batch, flight.bucket, (&flight.est, &Weights::default()));
        self.rouse(carried.batch, now);
    }
}
