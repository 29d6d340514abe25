//! One tick of a bucket: start what may go, keep the head's place, and let others past it.

use super::backfill::Backfill;
use super::line::{LineId, Route};
use super::order::{Lane, Schedule, Spot};
use super::route::Placement;
use crate::gate::admit::BucketId;
use crate::gate::units::{BootMs, Now, Weights};
use crate::gate::verdict::{Beside, Verdict, Wait};
use crate::gate::window::AttemptId;

/// Lines that are looked at in each tick for one that can go here, from the first; how many of
/// those behind them are, where the last tick ended; and when the next ones are, in milliseconds.
pub(super) const LINES_LOOKED_AT: usize = 10_000;
pub(super) const LINES_BEHIND: usize = 2_000;
const LOOK_ON_MS: u64 = 1_000;

/// Lines that are taken from the order at a time.
const LINES_AT_ONCE: usize = 32;

/// How long a head waits before interactive traffic beyond its guaranteed part may not take what
/// it needs, and before it goes although the reserve is larger than what it leaves, in
/// milliseconds. W' is a minute's window, Δ and γ.
const FIRM_AFTER_MS: u64 = 2 * 62_050;
const WHOLE_AFTER_MS: u64 = 30 * 60_000;

/// A prompt, as the order sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its id; lower ones came first.
    pub id: i64,
    /// The project that it belongs to, if it names what only that one has.
    pub pinned: Option<i64>,
}

/// What a line offers at one of its places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// This prompt.
    Item(Item),
    /// It is being read.
    Loading,
    /// Nothing before this instant.
    Later(BootMs),
    /// Nothing.
    Nothing,
}

/// Whether a prompt can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It needs so much.
    Needs(Weights),
    /// Not known yet what it needs: its line waits, others go on.
    Unknown,
    /// Its line may not spend so much: only another route may do.
    TooDear,
    /// Not this one now: others of its line go on.
    NotNow,
    /// It waits for something besides quota, and whoever comes after it too.
    Waits(BootMs, String),
}

/// What a tick needs of the world.
pub trait Supply {
    /// What a line offers at its `nth` place, counted from 0.
    fn peek(&mut self, line: LineId, nth: usize, now: Now) -> Peek;

    /// The prompt of a line with this id, if it is still to be sent and may go now.
    fn find(&mut self, line: LineId, item: i64, now: Now) -> Option<Item>;

    /// What a prompt needs on a route.
    fn ready(&mut self, line: LineId, item: Item, route: &Route, now: Now) -> Readiness;

    /// What besides quota keeps a bucket from starting anything.
    fn hindrance(&mut self, bucket: BucketId, now: Now) -> Option<Waiting>;

    /// Whether so much may go, if others are let past it.
    fn check(&mut self, bucket: BucketId, need: &Weights, beside: &Beside, now: Now) -> Verdict;

    /// What attempts hold that may not have been counted yet; the others leave the list.
    fn unbound(&self, attempts: &mut Vec<AttemptId>) -> Weights;

    /// What part of a bucket's quota this is.
    fn share(&self, bucket: BucketId, need: &Weights) -> u128;

    /// When something next frees in a bucket, as far as that is known.
    fn next_end(&self, bucket: BucketId, now: Now) -> Option<BootMs>;

    /// What is left of a bucket beside this, in millionths.
    fn headroom(&mut self, bucket: BucketId, need: &Weights, now: Now) -> i64;

    /// Tells that a head has waited long: `whole` if it may use what is kept for others. `None`
    /// when there is no such head any more.
    fn set_firm(&mut self, bucket: BucketId, firm: Option<(Weights, bool)>);

    /// Takes a prompt out of its line and starts it.
    fn start(
        &mut self,
        line: LineId,
        item: Item,
        route: &Route,
        need: &Weights,
        now: Now,
    ) -> AttemptId;

    /// Takes a prompt out of its line: it can never be sent.
    fn refuse(&mut self, line: LineId, item: Item, reason: String, now: Now);
}

/// Until when at least, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The earliest instant at which it may go, from all that is known now.
    pub until: BootMs,
    /// In words.
    pub reason: String,
    /// When to look again, for others that may go past it; at the latest then.
    pub again: BootMs,
}

impl Waiting {
    /// A wait in which nothing changes.
    #[must_use]
    pub fn until(until: BootMs, reason: String) -> Self {
        Self { until, reason, again: until }
    }
}

/// Who waits for room and keeps its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its line.
    pub line: LineId,
    /// Which of its prompts.
    pub item: i64,
    /// Since when.
    pub since: BootMs,
    /// Whether it was told to be firm.
    pub firm: bool,
    /// What went past it and may not have been counted yet: it leaves later than what was there.
    pub passed: Vec<AttemptId>,
}

/// What became of the first of an order.
enum First {
    /// It went, or it can never go: there is another first.
    Gone,
    /// It waits here for room.
    Head(LineId, Item, Weights, Wait),
    /// Nobody goes.
    Stop(Option<Waiting>),
}

impl Schedule {
    /// Starts everything that may go on a bucket at `now`. Returns until when and why the next one
    /// waits; `None` when nothing waits for time.
    pub fn tick(
        &mut self,
        bucket: BucketId,
        now: Now,
        supply: &mut impl Supply,
    ) -> Option<Waiting> {
        if self.loosened.remove(&bucket) {
            supply.set_firm(bucket, None);
        }
        loop {
            if let Some(waiting) = supply.hindrance(bucket, now) {
                return self.first(bucket).map(|_| waiting);
            }
            match self.first_of(bucket, now, supply) {
                First::Gone => {}
                First::Stop(waiting) => return waiting,
                First::Head(line, item, need, wait) => {
                    self.keep(bucket, (line, item.id), &need, now, supply);
                    let until = wait.until;
                    let staying = Weights::default();
                    let mut backfill =
                        Backfill { bucket, head: need, until, item: item.id, staying };
                    let hindered = self.backfill(&mut backfill, now, supply);
                    let again = supply.next_end(bucket, now).unwrap_or(wait.until).min(wait.until);
                    let reason = wait.because.to_string();
                    return hindered.or(Some(Waiting { until: wait.until, reason, again }));
                }
            }
        }
    }

    /// Who waits in a bucket and keeps its place, if anyone does.
    #[must_use]
    pub fn head(&self, bucket: BucketId) -> Option<&Head> {
        self.lanes.get(&bucket)?.heads.first_key_value().map(|(_, head)| head)
    }

    /// Looks at the first of the order: a head that waits already, or else the first that is here
    /// at all.
    fn first_of(&mut self, bucket: BucketId, now: Now, supply: &mut impl Supply) -> First {
        let mut look = Look { spot: None, left: LINES_LOOKED_AT, elsewhere: None };
        let mut first = self.look(bucket, &mut look, now, supply);
        if first.is_none() && look.left == 0 {
            let last = self.lanes.get(&bucket).and_then(Lane::looked);
            (look.spot, look.left) = (look.spot.max(last), LINES_BEHIND);
            first = self.look(bucket, &mut look, now, supply);
            let on = now.boot.plus(LOOK_ON_MS);
            let behind = || Waiting::until(on, "many batches stand before it".to_owned());
            look.elsewhere.get_or_insert_with(behind).again = on;
        }
        if first.is_none()
            && let Some(lane) = self.lanes.get_mut(&bucket)
        {
            lane.looked = look.spot.filter(|_| look.left == 0);
        }
        if let Some(first) = first {
            return first;
        }
        while self.head_level(bucket).is_some() {
            if let Some(first) = self.waiting_head(bucket, now, supply) {
                return first;
            }
        }
        First::Stop(look.elsewhere)
    }

    /// Looks for the first that is here at all behind a spot of the order, until that many lines
    /// were passed.
    fn look(
        &mut self,
        bucket: BucketId,
        look: &mut Look,
        now: Now,
        supply: &mut impl Supply,
    ) -> Option<First> {
        while look.left > 0 {
            let lane = self.lanes.get(&bucket)?;
            let next: Vec<_> = lane.behind(look.spot).take(LINES_AT_ONCE.min(look.left)).collect();
            look.spot = Some(*next.last()?);
            for spot in next {
                // It keeps its place, unless a better class comes before it.
                while self.head_level(bucket).is_some_and(|kept| kept <= spot.level()) {
                    if let Some(first) = self.waiting_head(bucket, now, supply) {
                        return Some(first);
                    }
                }
                match self.first_of_line(bucket, spot.line(), now, supply) {
                    Tried::First(first) => return Some(first),
                    Tried::Next | Tried::NextLine => look.left -= 1,
                    Tried::Elsewhere(waiting) => {
                        look.left -= 1;
                        look.elsewhere.get_or_insert(waiting);
                    }
                    Tried::Rests => {}
                }
            }
        }
        None
    }

    /// Looks at the first prompt of a line that can be asked for.
    fn first_of_line(
        &mut self,
        bucket: BucketId,
        line: LineId,
        now: Now,
        supply: &mut impl Supply,
    ) -> Tried {
        for nth in 0.. {
            match supply.peek(line, nth, now) {
                Peek::Item(item) if !self.may_take(line, item, bucket) => {}
                Peek::Item(item) => match self.try_first(bucket, line, item, now, supply) {
                    Tried::Next => {}
                    tried @ (Tried::First(_)
                    | Tried::NextLine
                    | Tried::Rests
                    | Tried::Elsewhere(_)) => return tried,
                },
                Peek::Loading if nth == 0 => return Tried::First(First::Stop(None)),
                Peek::Later(at) if nth == 0 => {
                    self.rest(line, Some(at), now.boot);
                    return Tried::Rests;
                }
                Peek::Nothing if nth == 0 => {
                    self.rest(line, None, now.boot);
                    return Tried::Rests;
                }
                Peek::Loading | Peek::Later(_) | Peek::Nothing => return Tried::Next,
            }
        }
        Tried::Next
    }

    /// The head that waits already. `None` when it does not any more: it lost its place.
    fn waiting_head(
        &mut self,
        bucket: BucketId,
        now: Now,
        supply: &mut impl Supply,
    ) -> Option<First> {
        let (&level, head) = self.lanes.get(&bucket)?.heads.first_key_value()?;
        let (line, id) = (head.line, head.item);
        // What came back to its place before it is first again.
        if let Peek::Item(earlier) = supply.peek(line, 0, now)
            && earlier.id < id
            && let Tried::First(first) = self.try_first(bucket, line, earlier, now, supply)
        {
            if matches!(first, First::Head(..)) {
                let waiting = self.lanes.entry(bucket).or_default();
                waiting.heads.entry(level).and_modify(|head| head.item = earlier.id);
            }
            return Some(first);
        }
        if let Some(item) = supply.find(line, id, now)
            && let Tried::First(first) = self.try_first(bucket, line, item, now, supply)
        {
            return Some(first);
        }
        self.release(bucket, level, supply);
        None
    }

    /// How good the class is of who waits in a bucket and keeps its place.
    fn head_level(&self, bucket: BucketId) -> Option<u8> {
        let (level, head) = self.lanes.get(&bucket)?.heads.first_key_value()?;
        let aged = self.lines.get(&head.line).map_or(*level, |standing| standing.level);
        Some(aged.min(*level))
    }

    /// Whether it is the turn of a prompt in a bucket: who keeps its place there goes first.
    pub(super) fn is_turn(&self, bucket: BucketId, line: LineId, item: i64) -> bool {
        let next = self.lanes.get(&bucket).and_then(|lane| lane.in_order().next());
        let kept = self.head_level(bucket);
        if kept.is_some_and(|kept| next.is_none_or(|(level, ..)| kept <= level)) {
            return self.head(bucket).is_some_and(|head| (head.line, head.item) == (line, item));
        }
        next.is_some_and(|(.., first)| first == line)
    }

    /// Whether a prompt of a line may go to a bucket at all.
    fn may_take(&self, line: LineId, item: Item, bucket: BucketId) -> bool {
        let Some(project) = item.pinned else { return true };
        let routes = self.lines.get(&line).map(|standing| &standing.line.routes);
        let fits = |route: &Route| route.bucket == bucket && route.project == project;
        routes.is_some_and(|routes| routes.iter().any(fits))
    }

    fn try_first(
        &mut self,
        bucket: BucketId,
        line: LineId,
        item: Item,
        now: Now,
        supply: &mut impl Supply,
    ) -> Tried {
        match self.place(bucket, line, item, now, supply) {
            Placement::Fits(route, need) => {
                self.start(line, item, &route, &need, now, supply);
                Tried::First(First::Gone)
            }
            Placement::Never(reason) => {
                supply.refuse(line, item, reason, now);
                self.let_go(line, item.id, supply);
                Tried::First(First::Gone)
            }
            Placement::Waits { route, need, wait } if route.bucket == bucket => {
                Tried::First(First::Head(line, item, need, wait))
            }
            Placement::Waits { wait, .. } => {
                Tried::Elsewhere(Waiting::until(wait.until, wait.because.to_string()))
            }
            Placement::Stops(waiting) => Tried::First(First::Stop(Some(waiting))),
            Placement::Away(waiting) => Tried::Elsewhere(waiting),
            Placement::Unknown => Tried::NextLine,
            Placement::NotNow => Tried::Next,
        }
    }

    pub(super) fn start(
        &mut self,
        line: LineId,
        item: Item,
        route: &Route,
        need: &Weights,
        now: Now,
        supply: &mut impl Supply,
    ) -> AttemptId {
        let attempt = supply.start(line, item, route, need, now);
        let cost = supply.share(route.bucket, need);
        self.served(line, route.bucket, cost, now.boot);
        self.let_go(line, item.id, supply);
        attempt
    }

    /// Frees the place that a prompt kept, wherever it did.
    fn let_go(&mut self, line: LineId, item: i64, supply: &mut impl Supply) {
        let Some(standing) = self.lines.get(&line) else { return };
        let buckets: Vec<_> = standing.line.routes.iter().map(|route| route.bucket).collect();
        for bucket in buckets {
            let Some(order) = self.lanes.get(&bucket) else { continue };
            let kept = |(_, head): &(&u8, &Head)| head.line == line && head.item == item;
            let level = order.heads.iter().find(kept).map(|(level, _)| *level);
            if let Some(level) = level {
                self.release(bucket, level, supply);
            }
        }
    }

    fn release(&mut self, bucket: BucketId, level: u8, supply: &mut impl Supply) {
        let lane = self.lanes.entry(bucket).or_default();
        if lane.heads.remove(&level).is_some_and(|head| head.firm) {
            supply.set_firm(bucket, None);
        }
    }

    /// Notes who waits, and tells the gate when that is long.
    fn keep(
        &mut self,
        bucket: BucketId,
        (line, item): (LineId, i64),
        need: &Weights,
        now: Now,
        supply: &mut impl Supply,
    ) {
        let level = self.lines.get(&line).map_or(0, |standing| standing.level);
        let order = self.lanes.entry(bucket).or_default();
        let mut heads = order.heads.iter();
        let known = heads.find(|(_, head)| head.line == line && head.item == item);
        let known = known.map(|(at, _)| *at);
        let new = || Head { line, item, since: now.boot, firm: false, passed: Vec::new() };
        let mut head = known.and_then(|at| order.heads.remove(&at)).unwrap_or_else(new);
        let waited = head.since.until(now.boot);
        let firm = waited >= FIRM_AFTER_MS;
        head.firm |= firm;
        // Its place gets better with its line, never worse.
        let at = known.map_or(level, |at| at.min(level));
        if order.heads.insert(at, head).is_some_and(|before| before.firm) {
            supply.set_firm(bucket, None);
        }
        if firm {
            supply.set_firm(bucket, Some((*need, waited >= WHOLE_AFTER_MS)));
        }
    }
}

/// How far an order was looked through for one that can go here.
struct Look {
    spot: Option<Spot>,
    /// Lines that may be passed still.
    left: usize,
    /// For what the first of them that goes elsewhere waits.
    elsewhere: Option<Waiting>,
}

/// What became of a prompt that was tried as the first.
enum Tried {
    First(First),
    /// Another one of its line may be first.
    Next,
    /// One of another line may be first.
    NextLine,
    /// Its line has nothing to offer now, and left the order.
    Rests,
    /// It waits for another bucket.
    Elsewhere(Waiting),
}
