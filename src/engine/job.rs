//! A batch in work: its page of the queue, what waits to be tried again, and what it may still do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::sync::oneshot;

use super::state::BatchSetup;
use crate::caps;
use crate::gate::units::{BootMs, Now};
use crate::schedule::TenantId;
use crate::store::QueuedItem;

/// What waits for the number of items that were put back, or why none was.
pub(super) type RetryReply = oneshot::Sender<Result<u64, String>>;

/// A batch in work.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) setup: BatchSetup,
    pub(super) tenant: TenantId,
    pub(super) cursor: i64,
    /// How many items the page has that is being read.
    pub(super) loading: Option<usize>,
    pub(super) exhausted: bool,
    pub(super) ready: VecDeque<QueuedItem>,
    /// By when they are due. Waits are intervals: a wall clock that is set back does not make them
    /// longer.
    pub(super) retries: BTreeMap<(BootMs, i64), QueuedItem>,
    /// Items whose attempts were cut off too often: they go last, and each alone.
    pub(super) suspects: BTreeMap<i64, QueuedItem>,
    /// Items whose tokens the provider counts, or counted.
    pub(super) counted: BTreeMap<i64, Counted>,
    /// Items whose permit was too old once.
    pub(super) stale: BTreeSet<i64>,
    /// Attempts that are not settled durably, and refusals under way.
    pub(super) open: u32,
    /// What these may cost, in billionths of a US dollar.
    pub(super) open_nanos: u64,
    pub(super) hopeless: u32,
    pub(super) closing: bool,
    /// When something of it was started last.
    pub(super) started: Option<BootMs>,
    /// Failed items are to be put back, as soon as nothing of it is under way, and whether that
    /// was ordered.
    pub(super) requeue: Option<(Vec<RetryReply>, bool)>,
}

/// The count of an item's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// Not there yet.
    Asked,
    /// There.
    Exactly(u64),
    /// The provider would not: the estimate has to do.
    Unknown,
}

/// What a job offers at a place of its queue.
pub(super) enum Offer<'a> {
    Item(&'a QueuedItem),
    /// The next page is needed first.
    Page,
    /// Nothing before this instant.
    Later(BootMs),
    Nothing,
}

impl Job {
    pub(super) fn new(setup: BatchSetup, tenant: TenantId) -> Self {
        Self {
            setup,
            tenant,
            cursor: 0,
            loading: None,
            exhausted: false,
            ready: VecDeque::new(),
            retries: BTreeMap::new(),
            suspects: BTreeMap::new(),
            counted: BTreeMap::new(),
            stale: BTreeSet::new(),
            open: 0,
            open_nanos: 0,
            hopeless: 0,
            closing: false,
            started: None,
            requeue: None,
        }
    }

    /// Lets an item wait until it is due, but no longer than `at_most_ms`: what the database says
    /// is by a wall clock that may have been set back since.
    pub(super) fn retry(&mut self, now: Now, item: QueuedItem, at_most_ms: u64) {
        if item.doubts >= caps::DOUBTS_TOGETHER_MAX {
            self.suspects.insert(item.id, item);
            return;
        }
        let latest = now.boot.plus(at_most_ms);
        let due = now.boot_at(item.not_before).min(latest);
        self.retries.insert((due, item.id), item);
    }

    /// Puts an item back at its place in the order of the file: it lost nothing but time.
    pub(super) fn put_back(&mut self, item: QueuedItem) {
        if item.doubts >= caps::DOUBTS_TOGETHER_MAX {
            self.suspects.insert(item.id, item);
            return;
        }
        let place = self.ready.partition_point(|other| other.id < item.id);
        self.ready.insert(place, item);
    }

    /// Forgets all that waits in memory; it is in the database too.
    pub(super) fn forget_queue(&mut self) {
        self.ready.clear();
        self.retries.clear();
        self.suspects.clear();
    }

    /// Until when all of it waits, if that is known.
    pub(super) fn rests_until(&self, now: Now) -> Option<BootMs> {
        let not_before = self.setup.not_before.filter(|at| *at > now.wall);
        not_before.map(|at| now.boot_at(at))
    }

    /// Whether something of it is under way that is waited for before it ends.
    pub(super) fn is_busy(&self) -> bool {
        self.closing || self.open > 0 || self.loading.is_some()
    }

    /// Whether nothing of it may be started, for as long as nobody says otherwise.
    pub(super) fn is_shut(&self) -> bool {
        let setup = &self.setup;
        self.closing || self.requeue.is_some() || setup.stopped.is_some() || setup.paused.is_some()
    }

    /// What stands at the `nth` place of its queue: what is due to be tried again, what has not
    /// been tried, and at the end what goes alone.
    /// While no retry is allowed, those are passed over, and never are all of many offered: where
    /// the first may not go, the others may not either.
    pub(super) fn offer(&self, nth: usize, retries: bool, now: Now) -> Offer<'_> {
        let due = self.retries.range(..=(now.boot, i64::MAX));
        let mut passed = 0;
        let due = due.take(if retries { caps::RETRIES_OFFERED_MAX } else { 0 });
        for (_, item) in due {
            if passed == nth {
                return Offer::Item(item);
            }
            passed += 1;
        }
        if self.retries.len() >= caps::RETRY_WAITING_MAX {
            return self.later(retries, now);
        }
        if let Some(item) = self.ready.get(nth - passed) {
            return Offer::Item(item);
        }
        if !self.exhausted {
            return Offer::Page;
        }
        let alone = nth == 0 && self.open == 0 && self.retries.is_empty();
        match self.suspects.first_key_value().filter(|_| alone) {
            Some((_, item)) => Offer::Item(item),
            None => self.later(retries, now),
        }
    }

    /// When to look again at a batch of which only retries are left: soon where one is due and none
    /// is allowed.
    fn later(&self, retries: bool, now: Now) -> Offer<'static> {
        let first = self.retries.first_key_value().map(|((at, _), _)| *at);
        if !retries && first.is_some_and(|at| at <= now.boot) {
            return Offer::Later(now.boot.plus(caps::RETRY_LOOK_MS));
        }
        let mut waiting = self.retries.keys().map(|(at, _)| *at);
        waiting.find(|at| *at > now.boot).map_or(Offer::Nothing, Offer::Later)
    }

    /// An item that may go now, by its id.
    pub(super) fn find(&self, item: i64, now: Now) -> Option<&QueuedItem> {
        if let Ok(place) = self.ready.binary_search_by_key(&item, |known| known.id) {
            return self.ready.get(place);
        }
        let mut due = self.retries.range(..=(now.boot, i64::MAX));
        let found = due.find(|((_, id), _)| *id == item).map(|(_, item)| item);
        found.or_else(|| self.suspects.get(&item).filter(|_| self.open == 0))
    }

    /// Takes an item out of its queue.
    pub(super) fn take(&mut self, item: i64) -> Option<QueuedItem> {
        if let Ok(place) = self.ready.binary_search_by_key(&item, |known| known.id) {
            return self.ready.remove(place);
        }
        if let Some(taken) = self.suspects.remove(&item) {
            return Some(taken);
        }
        let key = self.retries.keys().find(|(_, id)| *id == item).copied()?;
        self.retries.remove(&key)
    }

    /// Whether the next page should be read by now.
    pub(super) fn wants_page(&self) -> bool {
        let page = if self.started.is_some() { caps::READY_PAGE } else { caps::READY_FIRST };
        !self.exhausted && self.loading.is_none() && self.ready.len() < page / 4
    }

    /// How many items the next page has.
    pub(super) fn page(&self) -> usize {
        let is_first = self.cursor == 0 && self.started.is_none();
        if is_first { caps::READY_FIRST } else { caps::READY_PAGE }
    }

    /// Whether another page may be read although none of what is held goes.
    pub(super) fn may_hold_more(&self) -> bool {
        !self.exhausted && self.loading.is_none() && self.ready.len() < caps::READY_MAX
    }

    /// Whether `nanos` more would take it over what it may cost.
    pub(super) fn would_cost_too_much(&self, nanos: u64) -> bool {
        let most = self.setup.max_cost_nanos.unwrap_or(u64::MAX);
        self.setup.spent_nanos.saturating_add(self.open_nanos).saturating_add(nanos) > most
    }
}

/// Whether an item was tried before, and takes of its bucket's budget of retries.
pub(super) fn is_retry(item: &QueuedItem) -> bool {
    item.attempts > 0 || item.doubts > 0
}
