//! What batches leave to people, and what people leave to a batch request that has waited long.
//!
//! A request that was sent keeps its place for a window, so room for somebody who waits for the
//! answer has to be kept beforehand. How much follows from what interactive requests used lately.
//! That is known from this process alone: after a start nothing is kept until the first of them.

use std::collections::BTreeMap;

use super::admit::{BucketId, Gate};
use super::learn::BESIDE_INTERACTIVE_MS;
use super::limits::{MINUTE_MS, Window};
use super::space::{Space, Towards, View, WHOLE};
use super::units::{BootMs, Class, Metric, Now, ProjectId, UnixMs, Weights};
use super::verdict::Ask;
use super::window::Occupancy;
use crate::calendar::DaySpan;

/// Use is remembered for so many windows; for quota days, for so many minutes.
const SLOTS: usize = 10;

/// At least this much of a limit is kept while interactive traffic is seen, in thousandths.
const LEAST: u64 = 50;

/// And at most this much.
const MOST: u64 = 500;

/// How much of each limit batches leave to interactive requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reserve {
    /// Nothing until interactive traffic is seen, then as much as it used lately.
    #[default]
    Auto,
    /// Always this share.
    Fixed {
        /// In thousandths.
        permille: u64,
    },
}

/// A batch request that has waited so long that interactive ones make way for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firm {
    /// What it needs.
    pub need: Weights,
    /// Whether it may take what is kept for interactive requests as well, which then have no more
    /// than the remainder: it is larger than what batches may use.
    pub whole: bool,
}

/// What of a limit one request may not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// All of it is there for it.
    Nothing,
    /// A batch request leaves this to interactive ones.
    OfInteractive(Reserve),
    /// An interactive request leaves this to a batch request.
    OfHead(Firm),
}

/// What interactive attempts hold of a space, and what they used lately.
#[derive(Clone, Debug)]
pub(super) struct Interactive {
    /// The same limits, with interactive attempts alone.
    pub(super) space: Space,
    /// When the last one was reserved.
    last: Option<BootMs>,
    recent: BTreeMap<(Metric, Window), Recent>,
}

/// One number for each of the last slots of time.
#[derive(Clone, Debug)]
struct Recent {
    width_ms: u64,
    slot: u64,
    values: [u64; SLOTS],
}

impl Gate {
    /// How much of each limit batches of a project leave to interactive requests.
    pub fn set_reserve(&mut self, project: ProjectId, reserve: Reserve) {
        self.owner(project).reserve = reserve;
    }

    /// Names the batch request of a bucket that interactive ones make way for, or none any more.
    /// It is told from others by what it needs.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn set_firm(&mut self, bucket: BucketId, firm: Option<Firm>) {
        self.bucket(bucket).firm = firm;
    }
}

impl Claim {
    /// What the request may not take, where `firm` waits and `reserve` is said.
    pub(super) fn of(ask: &Ask, firm: Option<Firm>, reserve: Reserve) -> Self {
        match (ask.class, firm) {
            (Class::Batch, Some(firm)) if firm.whole && firm.need == ask.need => Self::Nothing,
            (Class::Batch, _) => Self::OfInteractive(reserve),
            (Class::Interactive, Some(firm)) => Self::OfHead(firm),
            (Class::Interactive, None) => Self::Nothing,
        }
    }
}

impl Interactive {
    fn is_seen(&self, at: BootMs) -> bool {
        self.last.is_some_and(|last| last.until(at) < BESIDE_INTERACTIVE_MS)
    }

    pub(super) fn enter(&mut self, need: &Weights, now: Now) {
        self.space.enter(need);
        self.last = self.last.max(Some(now.boot));
        self.note(now);
    }

    /// Takes note of what was used of a day, and of what is used of the windows.
    pub(super) fn settled(&mut self, actual: &Weights, now: Now) {
        for index in 0..self.space.meters.len() {
            let limit = &self.space.meters[index].limit;
            if limit.window == Window::Day {
                let weight = actual.get(limit.metric);
                let recent = self.recent.entry((limit.metric, Window::Day));
                let recent = recent.or_insert_with(|| Recent::new(MINUTE_MS));
                let value = recent.now(now.boot);
                *value = value.saturating_add(weight);
            }
        }
        self.space.let_go(now);
        self.note(now);
    }

    fn note(&mut self, now: Now) {
        for index in 0..self.space.meters.len() {
            let limit = &self.space.meters[index].limit;
            let (metric, window) = (limit.metric, limit.window);
            if let Window::Rolling { ms } = window {
                let used = self.space.used(index, now);
                let recent = self.recent.entry((metric, window));
                let value = recent.or_insert_with(|| Recent::new(ms)).now(now.boot);
                *value = used.max(*value);
            }
        }
    }

    /// Forgets the use of windows that no limit has any more.
    pub(super) fn tidy(&mut self) {
        let meters = &self.space.meters;
        self.recent.retain(|(metric, window), _| {
            meters.iter().any(|it| it.limit.metric == *metric && it.limit.window == *window)
        });
    }

    /// Takes over what is known of another space's use, as if both had been one.
    pub(super) fn join(&mut self, other: &Self) {
        self.last = self.last.max(other.last);
        for (window, theirs) in &other.recent {
            match self.recent.get_mut(window) {
                Some(ours) => ours.join(theirs),
                None => {
                    self.recent.insert(*window, theirs.clone());
                }
            }
        }
    }

    /// What of a rolling limit is kept at `at`, when interactive attempts hold `held` of it then.
    fn of_window(
        &self,
        (metric, window): (Metric, Window),
        usable: u64,
        held: u64,
        at: BootMs,
    ) -> u64 {
        let recent = self.recent.get(&(metric, window));
        let peak = recent.map_or(0, |recent| recent.at(at).max().unwrap_or(0));
        let least = least(metric, usable);
        peak.saturating_sub(held).clamp(least, permille(usable, MOST).max(least))
    }

    /// What of a day's limit would be kept if the whole day was ahead.
    fn of_day(&self, metric: Metric, usable: u64, day_ms: u64, at: BootMs) -> u64 {
        let recent = self.recent.get(&(metric, Window::Day));
        let used = recent.map_or(0, |recent| recent.at(at).fold(0, u64::saturating_add));
        let seen_ms = MINUTE_MS * u64::try_from(SLOTS).expect("few slots");
        let expected = scaled(used, day_ms, seen_ms);
        let least = permille(usable, LEAST);
        expected.clamp(least, permille(usable, MOST).max(least))
    }
}

impl Recent {
    fn new(width_ms: u64) -> Self {
        Self { width_ms: width_ms.max(1), slot: 0, values: [0; SLOTS] }
    }

    /// The number of the present slot, after the ones since the last time were emptied.
    fn now(&mut self, at: BootMs) -> &mut u64 {
        let slot = (at.0 / self.width_ms).max(self.slot);
        self.advance(slot);
        &mut self.values[place(slot)]
    }

    fn advance(&mut self, slot: u64) {
        for new in (self.slot + 1..=slot).rev().take(SLOTS) {
            self.values[place(new)] = 0;
        }
        self.slot = self.slot.max(slot);
    }

    /// The slots that are known, with their values, the latest first.
    fn slots(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let slots = (0..=self.slot).rev().take(SLOTS);
        slots.map(|slot| (slot, self.values[place(slot)]))
    }

    /// The values of the slots that are among the last at `at`.
    fn at(&self, at: BootMs) -> impl Iterator<Item = u64> + '_ {
        let slot = at.0 / self.width_ms;
        let slots = self.slots();
        slots.filter(move |(known, _)| known + SLOTS_U64 > slot).map(|(_, value)| value)
    }

    /// When the slots are too old.
    fn ends(&self) -> impl Iterator<Item = BootMs> + '_ {
        let end = |slot: u64| (slot + SLOTS_U64).saturating_mul(self.width_ms);
        self.slots().map(move |(slot, _)| BootMs(end(slot)))
    }

    fn join(&mut self, other: &Self) {
        self.advance(other.slot);
        for (slot, value) in other.slots() {
            if slot + SLOTS_U64 > self.slot {
                let sum = &mut self.values[place(slot)];
                *sum = sum.saturating_add(value);
            }
        }
    }
}

const SLOTS_U64: u64 = 10;
const _: () = assert!(SLOTS == 10 && SLOTS_U64 == 10);

fn place(slot: u64) -> usize {
    usize::try_from(slot % SLOTS_U64).expect("a slot's place is small")
}

impl Space {
    /// The books of interactive attempts, for one of the class.
    pub(super) fn beside(&mut self, class: Class) -> Option<&mut Interactive> {
        match class {
            Class::Batch => None,
            Class::Interactive => self.interactive.as_deref_mut(),
        }
    }

    /// The same, begun when there are none.
    pub(super) fn begin_beside(&mut self) -> &mut Interactive {
        if self.interactive.is_none() {
            let limits = self.meters.iter().map(|meter| meter.limit.clone()).collect();
            let space = Space::new(limits, self.days.zone().clone());
            let new = Interactive { space, last: None, recent: BTreeMap::new() };
            self.interactive = Some(Box::new(new));
        }
        self.interactive.as_deref_mut().expect("it was just begun")
    }

    /// What of the limit at `index` the request may not take; none where no rule keeps anything.
    pub(super) fn kept(&mut self, index: usize, view: View) -> Option<u64> {
        let window = self.meters[index].limit.window;
        let applies = match (view.claim, window) {
            (Claim::Nothing, _)
            | (Claim::OfInteractive(_), Window::Concurrent)
            | (Claim::OfHead(_), Window::Day) => false,
            (Claim::OfInteractive(Reserve::Fixed { permille }), _) => permille > 0,
            (Claim::OfInteractive(Reserve::Auto), _) => {
                self.interactive.as_ref().is_some_and(|it| it.is_seen(view.now.boot))
            }
            (Claim::OfHead(firm), _) => firm.need.get(self.meters[index].limit.metric) > 0,
        };
        if !applies {
            return None;
        }
        let kept = if window == Window::Day {
            let day = self.days.today(view.now, view.edges);
            self.kept_of_day(index, &day, view.now, view)
        } else {
            let held = self.interactive.as_mut().map_or(0, |it| it.space.used(index, view.now));
            self.kept_of_window(index, held, view.now.boot, view.claim)
        };
        Some(kept.min(self.meters[index].usable()))
    }

    fn kept_of_window(&self, index: usize, held: u64, at: BootMs, claim: Claim) -> u64 {
        let meter = &self.meters[index];
        let (metric, window, usable) = (meter.limit.metric, meter.limit.window, meter.usable());
        match claim {
            Claim::OfInteractive(Reserve::Fixed { permille }) => fixed(metric, usable, permille),
            Claim::OfInteractive(Reserve::Auto) => {
                let seen = self.interactive.as_ref().filter(|it| it.is_seen(at));
                seen.map_or(0, |it| it.of_window((metric, window), usable, held, at))
            }
            Claim::OfHead(firm) if firm.whole || held >= least(metric, usable) => {
                firm.need.get(metric)
            }
            Claim::Nothing | Claim::OfHead(_) => 0,
        }
    }

    /// When the request fits in the window of the limit at `index`, with what is kept from it by
    /// then. With nothing else happening what is used and kept together only falls.
    pub(super) fn room_at(&self, index: usize, towards: Towards, view: View) -> BootMs {
        let Towards { needs, more, staying } = towards;
        let Some((book, metric)) = self.book(index) else { return view.now.boot };
        let usable = self.meters[index].usable();
        let beside = self.interactive.as_deref();
        let theirs = beside.and_then(|it| it.space.book(index)).map(|(book, _)| book);
        let answered = book.expiry(view.now.boot.plus(view.delta_ms));
        let mut times: Vec<_> = book.leaving(metric).map(|(at, ..)| at).collect();
        if let Some(it) = beside {
            let window = (metric, self.meters[index].limit.window);
            times.extend(it.recent.get(&window).into_iter().flat_map(Recent::ends));
            times.extend(it.last.map(|last| last.plus(BESIDE_INTERACTIVE_MS)));
        }
        times.push(answered);
        times.retain(|at| *at > view.now.boot);
        times.sort_unstable();
        times.dedup();
        let mut leaving = book.leaving(metric).peekable();
        let mut used = book.total(metric).saturating_add(more);
        let mut theirs_leaving = theirs.map(|book| book.leaving(metric).peekable());
        let mut held = theirs.map_or(0, |book| book.total(metric));
        for at in times {
            while let Some((_, _, weight)) = leaving.next_if(|(gone, ..)| *gone <= at) {
                used = used.saturating_sub(weight);
            }
            if let Some(leaving) = &mut theirs_leaving {
                while let Some((_, _, weight)) = leaving.next_if(|(gone, ..)| *gone <= at) {
                    held = held.saturating_sub(weight);
                }
            }
            let open = |book: &Occupancy| {
                if at < answered { 0 } else { book.reserved(metric) }
            };
            let used = used.saturating_sub(open(book).saturating_sub(staying));
            let held = held.saturating_sub(theirs.map_or(0, open));
            let kept = self.kept_of_window(index, held, at, view.claim).min(usable);
            if used.saturating_add(needs) <= bar(usable, kept, needs, view.claim) {
                return at;
            }
        }
        // What is let past it is still there then.
        if more > 0 { book.expiry(answered) } else { answered }
    }

    /// When the request fits in the day's limit at `index`, with what is kept from it by then; none
    /// when it does now.
    pub(super) fn day_opens(
        &mut self,
        index: usize,
        Towards { needs, more, .. }: Towards,
        view: View,
    ) -> Option<UnixMs> {
        let meter = &self.meters[index];
        let (metric, usable) = (meter.limit.metric, meter.usable());
        let (now, edges) = (view.now, view.edges);
        let today = self.days.today(now, edges);
        let plain = self.days.opens(metric, (needs, more, usable.max(needs)), now, edges);
        let first = plain.unwrap_or(now.wall);
        let then = |wall: UnixMs| Now { boot: now.boot.plus(now.wall.until(wall)), wall };
        let day = self.days.today(then(first), edges);
        // What is open now is taken to end today.
        let used = if day.key == today.key {
            self.days.used(day.key, metric).saturating_add(more)
        } else {
            self.days.used(day.key, metric).saturating_sub(self.days.reserved(metric))
        };
        if used == 0 || needs == 0 {
            return plain;
        }
        let free = usable.saturating_sub(used).saturating_sub(needs);
        let end = UnixMs::from(day.end);
        let fits = |wall| self.kept_of_day(index, &day, then(wall), view) <= free;
        if fits(first) {
            return plain;
        }
        let (mut before, mut at) = (first, end.moved(edges.hi_ms.saturating_neg()));
        while before.until(at) > 1 {
            let middle = before.plus(before.until(at) / 2);
            if fits(middle) { at = middle } else { before = middle }
        }
        Some(at)
    }

    /// What of a day's limit is kept at `at`: less and less, and nothing at the day's end.
    fn kept_of_day(
        &self,
        index: usize,
        day: &DaySpan,
        at: Now,
        View { claim, edges, .. }: View,
    ) -> u64 {
        let end = UnixMs::from(day.end);
        let length_ms = UnixMs::from(day.start).until(end);
        let meter = &self.meters[index];
        let (metric, usable) = (meter.limit.metric, meter.usable());
        let whole = match claim {
            Claim::Nothing | Claim::OfHead(_) => return 0,
            Claim::OfInteractive(Reserve::Fixed { permille }) => fixed(metric, usable, permille),
            Claim::OfInteractive(Reserve::Auto) => {
                let seen = self.interactive.as_ref().filter(|it| it.is_seen(at.boot));
                seen.map_or(0, |it| it.of_day(metric, usable, length_ms, at.boot))
            }
        };
        let left_ms = at.wall.moved(edges.hi_ms).until(end).min(length_ms);
        scaled(whole, left_ms, length_ms).min(usable)
    }
}

/// What a request may fill a limit up to. What is larger than all that it may use goes alone; an
/// interactive one not before the batch request that it makes way for.
pub(super) fn bar(usable: u64, kept: u64, needs: u64, claim: Claim) -> u64 {
    let free = usable.saturating_sub(kept);
    match claim {
        Claim::OfHead(_) if kept > 0 => free,
        Claim::Nothing | Claim::OfInteractive(_) | Claim::OfHead(_) => free.max(needs),
    }
}

/// The least that is kept of a rolling limit for interactive traffic that is seen.
fn least(metric: Metric, usable: u64) -> u64 {
    permille(usable, LEAST).max(u64::from(metric == Metric::Requests))
}

fn fixed(metric: Metric, usable: u64, share: u64) -> u64 {
    permille(usable, share).max(u64::from(metric == Metric::Requests && share > 0))
}

fn permille(value: u64, share: u64) -> u64 {
    let part = u128::from(value) * u128::from(share) / u128::from(WHOLE);
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// `value · part / whole`, rounded up.
fn scaled(value: u64, part: u64, whole: u64) -> u64 {
    let scaled = (u128::from(value) * u128::from(part)).div_ceil(u128::from(whole.max(1)));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}
