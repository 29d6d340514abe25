//! An attempt: what is drawn of its way at its beginning, and what became of it.

use crate::client::{AttemptId, BootMs, Client, DayCharge, No, UnixMs};
use crate::oracle::Weight;
use crate::run::{Event, Run};
use crate::world::{Answers, LATE_MS, Tokens};

/// What an attempt comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    /// The connection broke: nobody knows whether it was counted.
    Cut,
    /// Nothing was sent.
    Void,
}

/// Whether an attempt's row is in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Yes,
    /// A crash came before the reservation was durable.
    Lost,
    /// The disk had said that it was durable, and a reboot tore it off.
    Torn,
}

#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) estimate: Weight,
    pub(crate) actual: Weight,
    /// What the ledger holds.
    pub(crate) weight: Weight,
    /// What the provider has counted.
    pub(crate) taken: Weight,
    pub(crate) fate: Fate,
    pub(crate) refused: Option<No>,
    /// The machine's how manieth boot it was.
    pub(crate) boot: u64,
    pub(crate) reserved_durable: u64,
    pub(crate) settled_durable: Option<u64>,
    pub(crate) kept: Kept,
    /// When the first byte leaves, when the last one is handed over.
    pub(crate) begun: u64,
    pub(crate) flushed: u64,
    /// When it is counted, and whether it has been; its tokens may be later.
    pub(crate) counted: Option<u64>,
    pub(crate) arrived: bool,
    pub(crate) tokens_counted: Option<u64>,
    /// When its end is told, and whether it has been.
    pub(crate) headers_at: Option<u64>,
    pub(crate) ended_at: u64,
    pub(crate) ended: bool,
    pub(crate) charge: DayCharge,
    pub(crate) u: Option<(BootMs, UnixMs)>,
    /// The latest instant at which it can have been counted, as the client has been told.
    pub(crate) bound: Option<u64>,
}

impl Attempt {
    pub(crate) fn is_kept(&self) -> bool {
        self.kept == Kept::Yes
    }
}

impl<C: Client> Run<'_, C> {
    /// Draws what becomes of an attempt, and when who learns of it.
    pub(crate) fn under_way(&mut self, id: AttemptId, fate: Fate, begun: u64, flushed: u64) {
        let life = self.lives;
        match fate {
            Fate::Void => {
                let end = begun + self.rng.u64(0..10_000);
                self.ends(id, end);
            }
            Fate::Answered => {
                let headers = self.headers_after(begun, flushed);
                let ended = headers.max(flushed) + self.rng.u64(0..3_000);
                self.count_within(id, begun, headers.min(flushed + LATE_MS));
                if self.world.tokens == Tokens::AtEnd {
                    self.attempt(id).tokens_counted = Some(headers);
                    self.at(headers, Event::CountTokens(id));
                }
                if self.told() {
                    self.at(flushed, Event::BodySent(id, life));
                }
                if self.told() {
                    self.attempt(id).headers_at = Some(headers);
                    self.at(headers, Event::Headers(id, life));
                }
                self.ends(id, ended);
            }
            Fate::Cut => {
                let cut = begun + self.rng.u64(0..8_000);
                if self.rng.u8(0..4) > 0 {
                    self.count_within(id, begun, cut.min(flushed) + LATE_MS);
                }
                if flushed < cut && self.told() {
                    self.at(flushed, Event::BodySent(id, life));
                }
                self.ends(id, cut);
            }
        }
    }

    fn headers_after(&mut self, begun: u64, flushed: u64) -> u64 {
        let rng = &mut self.rng;
        let fast = 20 + rng.u64(0..150) + rng.u64(0..150) * u64::from(rng.u8(0..4) == 0);
        match self.world.answers {
            Answers::Slow => flushed + rng.u64(1_000..30_000),
            Answers::Mixed if rng.bool() => flushed + rng.u64(0..20_000),
            Answers::Mixed if rng.u8(0..5) == 0 => rng.u64(begun..=flushed),
            Answers::Fast | Answers::Mixed => flushed + fast,
        }
    }

    /// Anywhere between the two, and often at one of them.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        match self.rng.u8(0..4) {
            0 => from,
            1 => to,
            _ => self.rng.u64(from..=to),
        }
    }

    /// Progress may be lost on the way to the engine; ends are not.
    fn told(&mut self) -> bool {
        self.rng.u64(0..100) >= self.world.accidents.untold_percent
    }

    fn ends(&mut self, id: AttemptId, at: u64) {
        self.attempt(id).ended_at = at;
        let life = self.lives;
        self.at(at, Event::Ended(id, life));
    }

    /// Draws when the provider counts it, its tokens perhaps later.
    pub(crate) fn count_within(&mut self, id: AttemptId, from: u64, to: u64) {
        let at = self.between(from, to);
        self.attempt(id).counted = Some(at);
        self.at(at, Event::Count(id));
        if self.world.tokens == Tokens::Later {
            let tokens = self.between(at, to);
            self.attempt(id).tokens_counted = Some(tokens);
            self.at(tokens, Event::CountTokens(id));
        }
    }
}
