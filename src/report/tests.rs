//! Tests of the reports.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use chrono::{DateTime, NaiveDate};

use crate::gate::units::{BootMs, Now, UnixMs};

mod ledger;
mod prices;
mod query;
mod shapes;
mod tables;

/// An instant in RFC 3339.
fn at(text: &str) -> UnixMs {
    UnixMs(DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis())
}

/// The present, by the wall clock.
fn now(text: &str) -> Now {
    Now { boot: BootMs(1_000_000_000), wall: at(text) }
}

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}
