//! From a wall clock reading to the instants at which the clock shows it.

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};

/// The instants at which the clocks of a zone show one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wall {
    /// The ordinary case.
    Once(DateTime<Utc>),
    /// The clock went back and showed the reading twice.
    Twice(DateTime<Utc>, DateTime<Utc>),
    /// The clock went forward over the reading, at this instant.
    Never(DateTime<Utc>),
}

impl Wall {
    pub(super) fn resolve(zone: Tz, reading: NaiveDateTime) -> Wall {
        match zone.from_local_datetime(&reading) {
            LocalResult::Single(instant) => Wall::Once(instant.to_utc()),
            LocalResult::Ambiguous(first, second) => Wall::Twice(first.to_utc(), second.to_utc()),
            LocalResult::None => {
                // The offset before a gap turns the reading at which the gap begins into the
                // instant of the change. There is none only at the ends of chrono's range.
                let change = GapInfo::new(&reading, &zone)
                    .and_then(|gap| gap.begin)
                    .and_then(|(begin, before)| begin.checked_sub_offset(before.fix()));
                Wall::Never(change.unwrap_or(reading).and_utc())
            }
        }
    }

    /// The first instant at which the clock shows the reading or one past it.
    ///
    /// Grows with the reading in every zone, however its clocks are changed.
    pub(super) fn earliest(self) -> DateTime<Utc> {
        match self {
            Wall::Once(instant) | Wall::Twice(instant, _) | Wall::Never(instant) => instant,
        }
    }

    /// The instant from which the clock shows no more this reading or one before it.
    ///
    /// Grows with the reading too.
    pub(super) fn latest(self) -> DateTime<Utc> {
        match self {
            Wall::Once(instant) | Wall::Twice(_, instant) | Wall::Never(instant) => instant,
        }
    }
}

/// What the clocks of the zone show at the instant.
pub(super) fn reading_at(zone: Tz, t: DateTime<Utc>) -> NaiveDateTime {
    reading_by(zone, t, t)
}

/// What clocks would show at the instant `t`, were they set as they are at `set_at`.
pub(super) fn reading_by(zone: Tz, t: DateTime<Utc>, set_at: DateTime<Utc>) -> NaiveDateTime {
    let utc = t.naive_utc();
    let offset = zone.offset_from_utc_datetime(&set_at.naive_utc()).fix();
    // Only the last hours of chrono's range have no reading of their own.
    utc.checked_add_offset(offset).unwrap_or(utc)
}
