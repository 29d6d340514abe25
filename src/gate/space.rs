//! One space of quota: limits that count the same requests, and what occupies them. A bucket is a
//! space, and so is a project as a whole, and each key for limits that count by key.

use super::admit::Open;
use super::day::{DayEdges, DayUse};
use super::limits::{Limit, MINUTE_MS, Window};
use super::reserve::{Claim, Interactive, bar};
use super::units::{BootMs, Class, Metric, Now, UnixMs, Weights};
use super::verdict::Because;
use super::window::{AttemptId, Holder, Occupancy};
use crate::calendar::QuotaDay;

/// How long the place of a live session stays taken after its end, in milliseconds.
const SESSION_LINGER_MS: u64 = 5_000;

/// A limit is whole at so many thousandths.
pub(super) const WHOLE: u64 = 1_000;

/// Of a window at most so many that leave are told in an explanation.
const LEAVING_TOLD: usize = 20;

/// What a check looks at besides the space itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) now: Now,
    pub(super) edges: DayEdges,
    pub(super) delta_ms: u64,
    pub(super) claim: Claim,
}

#[derive(Clone, Debug)]
pub(super) struct Space {
    pub(super) meters: Vec<Meter>,
    /// The first is a minute's, also when no limit asks.
    books: Vec<Occupancy>,
    pub(super) days: DayUse,
    /// What interactive attempts hold of it, since the first.
    pub(super) interactive: Option<Box<Interactive>>,
}

/// A limit and where its use is counted.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    pub(super) limit: Limit,
    /// What of the limit is used, in thousandths: less than all while others use it as well.
    pub(super) share: u64,
    /// Kept free of it for what estimates have been short of.
    pub(super) margin: u64,
    /// Since when it has been clean, and whether it was used to nine tenths since.
    pub(super) clean_since: BootMs,
    pub(super) reached: bool,
    at: At,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Book(usize),
    Day,
}

/// What a limit is asked for: so much, if `more` were reserved before it, and if `staying` of what
/// is open there stays longer than the rest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Towards {
    pub(super) needs: u64,
    pub(super) more: u64,
    pub(super) staying: u64,
}

/// How one limit stands towards one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) used: u64,
    pub(super) reserved: u64,
    /// What may be used of it at present.
    pub(super) usable: u64,
    /// What of that others are to have.
    pub(super) kept: u64,
    /// When the request fits; none when it does now.
    pub(super) until: Option<BootMs>,
}

impl Reading {
    /// Why a request of the class does not fit.
    pub(super) fn short_of(self, limit: &Limit, needs: u64, class: Class) -> Because {
        let free = self.usable.saturating_sub(self.used);
        Because::Limit {
            dimension: limit.dimension(),
            needs,
            free: free.saturating_sub(self.kept),
            limit: self.usable,
            kept: self.kept.min(free),
            kept_for: match class {
                Class::Batch => Class::Interactive,
                Class::Interactive => Class::Batch,
            },
        }
    }
}

/// What leaves a window, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// The instant from which its place is free.
    pub at: BootMs,
    /// Who held it.
    pub holder: Holder,
    /// How much.
    pub weight: u64,
}

impl Meter {
    /// What may be used at present.
    pub(super) fn usable(&self) -> u64 {
        let share = u128::from(self.limit.value) * u128::from(self.share) / u128::from(WHOLE);
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        share.saturating_sub(self.margin).max(1).min(self.limit.value)
    }
}

impl Space {
    pub(super) fn new(limits: Vec<Limit>, day: QuotaDay) -> Self {
        let mut space = Self {
            meters: Vec::new(),
            books: vec![Occupancy::new(MINUTE_MS, false)],
            days: DayUse::new(day),
            interactive: None,
        };
        space.set_limits(limits);
        space
    }

    /// Replaces the limits, and keeps the books of the windows that stay. What is new begins
    /// empty: see [`Space::redefine`].
    fn set_limits(&mut self, limits: Vec<Limit>) {
        let mut books = vec![self.books[0].clone()];
        let mut meters = Vec::new();
        for limit in limits {
            let at = self.place(&limit, &mut books);
            let before = self.meters.iter().find(|meter| {
                let known = &meter.limit;
                known.metric == limit.metric
                    && known.window == limit.window
                    && known.value == limit.value
            });
            let (share, clean_since) =
                before.map_or((WHOLE, BootMs(0)), |known| (known.share, known.clean_since));
            let margin = before.map_or(0, |known| known.margin);
            meters.push(Meter { limit, share, margin, clean_since, reached: false, at });
        }
        self.books = books;
        self.meters = meters;
    }

    fn place(&self, limit: &Limit, books: &mut Vec<Occupancy>) -> At {
        let (window_ms, at_end) = match (limit.window, limit.metric) {
            (Window::Day, _) => return At::Day,
            // What is spent is known, and counted, when the answer is complete.
            (Window::Rolling { ms }, metric) => (ms, metric == Metric::Spend),
            (Window::Concurrent, Metric::Sessions) => (SESSION_LINGER_MS, true),
            (Window::Concurrent, _) => (0, true),
        };
        let known = books.iter().position(|book| book.is(window_ms, at_end));
        At::Book(known.unwrap_or_else(|| {
            let old = self.books.iter().find(|book| book.is(window_ms, at_end)).cloned();
            books.push(old.unwrap_or_else(|| Occupancy::new(window_ms, at_end)));
            books.len() - 1
        }))
    }

    /// Replaces the limits while attempts are open: windows that were not kept before take over
    /// what the other books hold.
    pub(super) fn redefine(&mut self, limits: Vec<Limit>, open: &[(AttemptId, Open)], now: Now) {
        let before = self.books.clone();
        self.set_limits(limits);
        let is_open = |id| open.iter().any(|(known, _)| *known == id);
        for book in &mut self.books {
            if before.iter().any(|known| book.is_like(known)) {
                continue;
            }
            for known in before.iter().filter(|known| known.counts_from_bound()) {
                book.inherit(known, now, is_open);
            }
            for (id, open) in open {
                book.enter_open(*id, open);
            }
        }
        if let Some(it) = &mut self.interactive {
            let of_it = open.iter().filter(|(_, open)| open.ask.class == Class::Interactive);
            let of_it: Vec<_> = of_it.copied().collect();
            let limits = self.meters.iter().map(|meter| meter.limit.clone()).collect();
            it.space.redefine(limits, &of_it, now);
            it.tidy();
        }
    }

    /// Enters an attempt that was under way before the space came into being.
    pub(super) fn enter_open(&mut self, id: AttemptId, open: &Open) {
        self.enter_open_here(id, open);
        if open.ask.class == Class::Interactive {
            self.begin_beside().space.enter_open_here(id, open);
        }
    }

    fn enter_open_here(&mut self, id: AttemptId, open: &Open) {
        self.books.iter_mut().for_each(|book| book.enter_open(id, open));
        self.days.enter(&open.ask.need);
    }

    /// Takes over what another space holds of attempts that are over.
    pub(super) fn absorb(&mut self, other: &Self, now: Now, is_open: &dyn Fn(AttemptId) -> bool) {
        for book in &mut self.books {
            for known in other.books.iter().filter(|known| known.counts_from_bound()) {
                book.inherit(known, now, is_open);
            }
        }
        self.days.absorb(&other.days);
        if let Some(theirs) = &other.interactive {
            let ours = self.begin_beside();
            ours.space.absorb(&theirs.space, now, is_open);
            ours.join(theirs);
        }
    }

    pub(super) fn enter(&mut self, weights: &Weights) {
        self.books.iter_mut().for_each(|book| book.enter(weights));
        self.days.enter(weights);
    }

    pub(super) fn bound(
        &mut self,
        id: AttemptId,
        weights: &Weights,
        previous: Option<BootMs>,
        u: BootMs,
    ) {
        self.books.iter_mut().for_each(|book| book.bound(id, weights, previous, u));
    }

    pub(super) fn settle(
        &mut self,
        id: AttemptId,
        weights: (&Weights, &Weights),
        u: BootMs,
        end: BootMs,
    ) {
        self.books.iter_mut().for_each(|book| book.settle(id, weights, u, end));
        self.days.leave(weights.0);
    }

    /// Lets go of what has left the windows, also those that no limit reads.
    pub(super) fn let_go(&mut self, now: Now) {
        self.books.iter_mut().for_each(|book| book.let_go(now));
    }

    pub(super) fn discard(&mut self, id: AttemptId, weights: &Weights, u: Option<BootMs>) {
        self.books.iter_mut().for_each(|book| book.discard(id, weights, u));
        self.days.leave(weights);
    }

    /// Enters an ended attempt of the ledger, or a phantom.
    pub(super) fn restore(&mut self, holder: Holder, weights: &Weights, u: BootMs) {
        self.books.iter_mut().for_each(|book| book.close(holder, weights, u));
    }

    /// Uses no more of any limit than another space does.
    pub(super) fn share_at_most(&mut self, other: &Self) {
        for meter in &mut self.meters {
            let Limit { metric, window, .. } = meter.limit;
            let same = |it: &&Meter| (it.limit.metric, it.limit.window) == (metric, window);
            if let Some(other) = other.meters.iter().find(same)
                && other.share < meter.share
            {
                (meter.share, meter.clean_since) = (other.share, other.clean_since);
            }
        }
    }

    /// What others use of one meter's window: how much, and until when.
    pub(super) fn others(&self, index: usize) -> Vec<(u64, BootMs)> {
        let meter = &self.meters[index];
        let At::Book(book) = meter.at else { return Vec::new() };
        let leaving = self.books[book].leaving(meter.limit.metric);
        let others = leaving.filter(|(_, holder, _)| matches!(holder, Holder::Phantom(_)));
        others.map(|(at, _, weight)| (weight, at)).collect()
    }

    /// Enters what somebody else used of one meter's window, until `until`.
    pub(super) fn haunt(&mut self, index: usize, number: u64, weight: u64, until: BootMs) {
        let meter = &self.meters[index];
        if let (At::Book(book), Window::Rolling { .. }) = (meter.at, meter.limit.window) {
            let weights = Weights::only(meter.limit.metric, weight);
            self.books[book].hold(Holder::Phantom(number), &weights, until);
        }
    }

    /// How the limit at `index` stands towards a request.
    pub(super) fn read(&mut self, index: usize, towards: Towards, view: View) -> Reading {
        let Towards { needs, more, staying } = towards;
        let kept = self.kept(index, view);
        let meter = &self.meters[index];
        let (metric, usable) = (meter.limit.metric, meter.usable());
        match meter.at {
            At::Book(book) => {
                let book = &mut self.books[book];
                let used = book.used(metric, view.now);
                let total = used.saturating_add(more).saturating_add(needs);
                let bar = bar(usable, kept.unwrap_or(0), needs, view.claim);
                let until = match kept {
                    _ if needs == 0 || total <= bar => None,
                    None => {
                        let excess = (total - bar, staying);
                        Some(book.frees_at(metric, excess, view.now, view.delta_ms))
                    }
                    Some(_) => Some(self.room_at(index, towards, view)),
                };
                let reserved = self.reserved(index);
                Reading { used, reserved, usable, kept: kept.unwrap_or(0), until }
            }
            At::Day => {
                let today = self.days.today(view.now, view.edges).key;
                let opens = match kept {
                    _ if needs == 0 => None,
                    None => {
                        let bar = usable.max(needs);
                        self.days.opens(metric, (needs, more, bar), view.now, view.edges)
                    }
                    Some(_) => self.day_opens(index, towards, view),
                };
                Reading {
                    used: self.days.used(today, metric),
                    reserved: self.days.reserved(metric),
                    usable,
                    kept: kept.unwrap_or(0),
                    until: opens.map(|opens| view.now.boot_at(opens)),
                }
            }
        }
    }

    /// What the window of the limit at `index` holds; nothing of a day.
    pub(super) fn used(&mut self, index: usize, now: Now) -> u64 {
        let meter = &self.meters[index];
        match meter.at {
            At::Book(book) => self.books[book].used(meter.limit.metric, now),
            At::Day => 0,
        }
    }

    /// The window of the limit at `index`, unless it is a day's, and what is counted in it.
    pub(super) fn book(&self, index: usize) -> Option<(&Occupancy, Metric)> {
        let meter = &self.meters[index];
        match meter.at {
            At::Book(book) => Some((&self.books[book], meter.limit.metric)),
            At::Day => None,
        }
    }

    fn reserved(&self, index: usize) -> u64 {
        self.book(index).map_or(0, |(book, metric)| book.reserved(metric))
    }

    /// What leaves the window of the limit at `index`, in order, up to `enough` in sum.
    pub(super) fn leaving(&self, index: usize, enough: u64) -> Vec<Leaving> {
        let meter = &self.meters[index];
        let At::Book(book) = meter.at else { return Vec::new() };
        let mut gone = 0u64;
        let leaving = self.books[book].leaving(meter.limit.metric).take_while(|(.., weight)| {
            let before = gone;
            gone = gone.saturating_add(*weight);
            before < enough
        });
        let told = leaving.take(LEAVING_TOLD);
        told.map(|(at, holder, weight)| Leaving { at, holder, weight }).collect()
    }

    /// When the next part of the limit at `index` frees, as far as known.
    pub(super) fn next_free(&mut self, index: usize, view: View) -> Option<UnixMs> {
        match self.meters[index].at {
            At::Book(_) => {
                let leaving = self.leaving(index, 1);
                leaving.first().map(|first| view.now.wall_at(first.at))
            }
            At::Day => Some(UnixMs::from(self.days.today(view.now, view.edges).end)),
        }
    }

    /// When the next part of any rolling window leaves.
    pub(super) fn next_end(&self, now: Now) -> Option<BootMs> {
        self.books.iter().filter_map(|book| book.next_end(now)).min()
    }

    /// The longest window in which time is counted.
    pub(super) fn longest_window_ms(&self) -> u64 {
        let rolling = |meter: &Meter| match meter.limit.window {
            Window::Rolling { ms } => Some(ms),
            Window::Day | Window::Concurrent => None,
        };
        self.meters.iter().filter_map(rolling).max().unwrap_or(MINUTE_MS)
    }
}
