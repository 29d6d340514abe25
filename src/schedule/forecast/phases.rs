//! What binds a bucket over time, in few stretches.

use std::collections::BTreeMap;
use std::fmt;

use crate::gate::admit::BucketId;
use crate::gate::units::{Now, UnixMs};
use crate::gate::verdict::Because;
use crate::schedule::line::LineId;

/// What binds for less than this, between stretches in which something else does, is not told.
pub(super) const SHORT_MS: u64 = 120_000;

/// What keeps the next prompt from starting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Binding {
    /// A limit, by its dimension.
    Limit(&'static str),
    /// The distance between requests.
    Paced,
    /// The provider's no, in words.
    Blocked(String),
    /// Something besides quota, in words.
    Besides(String),
    /// Nothing that time ends.
    Nothing,
}

impl From<&Because> for Binding {
    fn from(because: &Because) -> Self {
        match because {
            Because::Limit { dimension, .. } => Self::Limit(dimension),
            Because::Blocked { reason } => Self::Blocked(reason.clone()),
            Because::Paced { .. } => Self::Paced,
        }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(dimension) => f.write_str(dimension),
            Self::Paced => f.write_str("the distance between requests"),
            Self::Blocked(reason) | Self::Besides(reason) => f.write_str(reason),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

/// A stretch of time in which the same thing binds, for the most part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Where.
    pub bucket: BucketId,
    /// What binds longest in it.
    pub binding: Binding,
    /// From when.
    pub from: UnixMs,
    /// Until when.
    pub until: UnixMs,
    /// What each line has left while nothing starts for long.
    pub left: BTreeMap<LineId, u64>,
}

/// The stretches of one bucket so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    done: Vec<Stretch>,
    current: Option<Stretch>,
    /// What came since the current one's binding bound last.
    tail: Option<Stretch>,
    /// What binds now, since when.
    open: Option<(Binding, UnixMs)>,
    left: BTreeMap<LineId, u64>,
}

#[derive(Clone, Debug)]
struct Stretch {
    from: UnixMs,
    until: UnixMs,
    times: BTreeMap<Binding, u64>,
    left: BTreeMap<LineId, u64>,
}

impl Stretch {
    fn longest(&self) -> &Binding {
        let longest = self.times.iter().max_by_key(|(_, ms)| **ms);
        longest.map_or(&Binding::Nothing, |(binding, _)| binding)
    }

    fn join(&mut self, other: Self) {
        self.until = other.until;
        for (binding, ms) in other.times {
            *self.times.entry(binding).or_insert(0) += ms;
        }
        self.left.extend(other.left);
    }
}

impl Track {
    /// Notes what binds from now on, and for long what waits meanwhile.
    pub(super) fn note(&mut self, now: Now, binding: Binding, left: BTreeMap<LineId, u64>) {
        if let Some((known, _)) = &self.open
            && *known == binding
        {
            self.left.extend(left);
            return;
        }
        self.close(now);
        self.open = Some((binding, now.wall));
        self.left = left;
    }

    /// What binds now, if anything does.
    pub(super) fn binds(&self) -> Option<&Binding> {
        self.open.as_ref().map(|(binding, _)| binding).filter(|it| **it != Binding::Nothing)
    }

    fn close(&mut self, now: Now) {
        let Some((binding, from)) = self.open.take() else { return };
        let ms = from.until(now.wall);
        if ms == 0 {
            return;
        }
        let left = std::mem::take(&mut self.left);
        let times = BTreeMap::from([(binding.clone(), ms)]);
        let stretch = Stretch { from, until: now.wall, times, left };
        let Some(current) = &mut self.current else {
            self.current = Some(stretch);
            return;
        };
        if *current.longest() == binding {
            if let Some(tail) = self.tail.take() {
                current.join(tail);
            }
            current.join(stretch);
            return;
        }
        match &mut self.tail {
            Some(tail) => tail.join(stretch),
            None => self.tail = Some(stretch),
        }
        self.settle_tail();
    }

    /// What has bound for long is a stretch of its own.
    fn settle_tail(&mut self) {
        let long = |tail: &mut Stretch| tail.from.until(tail.until) >= SHORT_MS;
        if let Some(tail) = self.tail.take_if(long)
            && let Some(before) = self.current.replace(tail)
        {
            self.done.push(before);
        }
    }

    pub(super) fn finish(mut self, bucket: BucketId, now: Now) -> Vec<Phase> {
        self.close(now);
        let last = self.current.into_iter().chain(self.tail);
        let all = self.done.into_iter().chain(last);
        let phases = all.map(|stretch| Phase {
            bucket,
            binding: stretch.longest().clone(),
            from: stretch.from,
            until: stretch.until,
            left: stretch.left,
        });
        phases.filter(|phase| phase.binding != Binding::Nothing).collect()
    }
}
