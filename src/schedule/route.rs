//! Which of its routes a prompt takes.

use super::line::{LineId, Route};
use super::order::Schedule;
use super::tick::{Item, Readiness, Supply, Waiting};
use crate::gate::admit::BucketId;
use crate::gate::units::{Now, Weights};
use crate::gate::verdict::{Beside, Verdict, Wait};

/// Where a prompt goes, or for what it waits.
pub(super) enum Placement {
    /// It goes now.
    Fits(Route, Weights),
    /// It waits, and this is where it fits first.
    Waits { route: Route, need: Weights, wait: Wait },
    /// No route lets it through, ever.
    Never(String),
    /// It waits for something besides quota, and whoever comes after it too.
    Stops(Waiting),
    /// It waits for something besides quota that keeps another bucket.
    Away(Waiting),
    /// What it needs is not known yet.
    Unknown,
    /// It is not to go now, and others of its line may.
    NotNow,
}

/// What the routes of one rank come to.
#[derive(Default)]
struct Offers {
    /// The one with the most headroom of those that let it through.
    best: Option<(i64, Route, Weights)>,
    /// The one that does so first.
    soonest: Option<(Route, Weights, Wait)>,
    never: Option<String>,
    stops: Option<Waiting>,
    /// Another bucket is hindered.
    away: Option<Waiting>,
    /// It is somebody else's turn where it would fit.
    turn: bool,
    unknown: bool,
    not_now: bool,
}

impl Schedule {
    /// Where a prompt that is first in the order of `bucket` goes: of the routes that have room now
    /// the one with the most headroom, if it is the first there too; else where it fits first. A
    /// fallback only if all others are further away than the line's patience.
    pub(super) fn place(
        &self,
        bucket: BucketId,
        line: LineId,
        item: Item,
        now: Now,
        supply: &mut impl Supply,
    ) -> Placement {
        let Some(standing) = self.lines.get(&line) else { return Placement::Unknown };
        let [first, fallback] = [false, true].map(|fallback| {
            let allowed = |route: &&Route| {
                route.fallback == fallback
                    && item.pinned.is_none_or(|project| project == route.project)
            };
            standing.line.routes.iter().filter(allowed).copied().collect::<Vec<_>>()
        });
        let offers = self.offers(bucket, line, item, &first, now, supply);
        if fallback.is_empty() || offers.is_near(now, standing.line.patience_ms) {
            return offers.placement();
        }
        offers.or(self.offers(bucket, line, item, &fallback, now, supply)).placement()
    }

    fn offers(
        &self,
        bucket: BucketId,
        line: LineId,
        item: Item,
        routes: &[Route],
        now: Now,
        supply: &mut impl Supply,
    ) -> Offers {
        let mut offers = Offers::default();
        for route in routes {
            // Somebody else's turn there.
            let is_first = route.bucket == bucket || self.is_turn(route.bucket, line, item.id);
            if route.bucket != bucket
                && let Some(waiting) = supply.hindrance(route.bucket, now)
            {
                offers.away.get_or_insert(waiting);
                continue;
            }
            let need = match supply.ready(line, item, route, now) {
                Readiness::Needs(need) => need,
                Readiness::Unknown => {
                    offers.unknown = true;
                    continue;
                }
                Readiness::TooDear => continue,
                Readiness::NotNow => {
                    offers.not_now = true;
                    continue;
                }
                Readiness::Waits(until, reason) => {
                    offers.stops.get_or_insert(Waiting::until(until, reason));
                    continue;
                }
            };
            match supply.check(route.bucket, &need, &Beside::default(), now) {
                Verdict::Fits if is_first => {
                    let room = if routes.len() > 1 {
                        supply.headroom(route.bucket, &need, now)
                    } else {
                        0
                    };
                    if offers.best.as_ref().is_none_or(|(most, ..)| room > *most) {
                        offers.best = Some((room, *route, need));
                    }
                }
                Verdict::Fits => offers.turn = true,
                Verdict::Wait(wait) => {
                    let soonest = &mut offers.soonest;
                    if soonest.as_ref().is_none_or(|(.., known)| wait.until < known.until) {
                        *soonest = Some((*route, need, wait));
                    }
                }
                Verdict::Never(never) => {
                    offers.never.get_or_insert(never.to_string());
                }
            }
        }
        offers
    }
}

impl Offers {
    /// Whether one of them may come to something within so many milliseconds.
    fn is_near(&self, now: Now, patience_ms: u64) -> bool {
        let waits = self.soonest.as_ref().map(|(.., wait)| wait.until);
        let hindered = [&self.stops, &self.away].into_iter().flatten().map(|it| it.until);
        let near = |until| now.boot.until(until) <= patience_ms;
        let later = self.unknown || self.not_now || self.turn;
        self.best.is_some() || later || waits.into_iter().chain(hindered).any(near)
    }

    /// These and others, of which those that come to something first count.
    fn or(self, others: Self) -> Self {
        let [own, other] =
            [&self.soonest, &others.soonest].map(|it| it.as_ref().map(|it| it.2.until));
        let own_first = other.is_none_or(|other| own.is_some_and(|own| own <= other));
        Self {
            best: self.best.or(others.best),
            soonest: if own_first { self.soonest } else { others.soonest },
            never: self.never.or(others.never),
            stops: self.stops.or(others.stops),
            away: self.away.or(others.away),
            turn: self.turn || others.turn,
            unknown: self.unknown || others.unknown,
            not_now: self.not_now || others.not_now,
        }
    }

    fn placement(self) -> Placement {
        if let Some((_, route, need)) = self.best {
            return Placement::Fits(route, need);
        }
        if let Some((route, need, wait)) = self.soonest {
            return Placement::Waits { route, need, wait };
        }
        match (self.stops, self.away, self.never) {
            (Some(waiting), ..) => Placement::Stops(waiting),
            (None, Some(waiting), _) => Placement::Away(waiting),
            (None, None, _) if self.not_now => Placement::NotNow,
            (None, None, Some(never)) if !self.unknown && !self.turn => Placement::Never(never),
            (None, None, _) => Placement::Unknown,
        }
    }
}
