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
    /// It waits for something besides quota.
    Stops(Waiting),
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
        let far = |wait: &Wait| now.boot.until(wait.until) > standing.line.patience_ms;
        let hopeless = offers.best.is_none() && offers.soonest.as_ref().is_none_or(|it| far(&it.2));
        if !hopeless || offers.unknown || offers.not_now || fallback.is_empty() {
            return offers.placement();
        }
        let others = self.offers(bucket, line, item, &fallback, now, supply);
        if others.best.is_some() || offers.soonest.is_none() { others } else { offers }.placement()
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
            let is_first = route.bucket == bucket || self.first(route.bucket) == Some(line);
            if route.bucket != bucket
                && let Some(waiting) = supply.hindrance(route.bucket, now)
            {
                offers.stops.get_or_insert(waiting);
                continue;
            }
            let need = match supply.ready(line, item, route, now) {
                Readiness::Needs(need) => need,
                Readiness::Unknown => {
                    offers.unknown = true;
                    continue;
                }
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
                Verdict::Fits => {}
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
    fn placement(self) -> Placement {
        match (self.best, self.soonest, self.stops, self.never) {
            (Some((_, route, need)), ..) => Placement::Fits(route, need),
            (None, Some((route, need, wait)), ..) => Placement::Waits { route, need, wait },
            (None, None, Some(waiting), _) => Placement::Stops(waiting),
            (None, None, None, _) if self.not_now => Placement::NotNow,
            (None, None, None, Some(never)) if !self.unknown => Placement::Never(never),
            (None, None, None, _) => Placement::Unknown,
        }
    }
}
