//! PURE. Cron expressions in a time zone, and the civil day by which a provider counts.
//!
//! Nothing here does I/O, reads a clock or draws a random number (wall A1): the instant is always
//! an argument, and the only data read is the time zone database compiled into the program.
//!
//! [`Cron`] answers when an expression fires next and when it fired last; [`QuotaDay`] divides
//! time into days that begin at the firings of a daily expression. Both agree about clock changes:
//!
//! | wall time            | fixed-time job (one minute of one hour) | any other job      |
//! |----------------------|-----------------------------------------|--------------------|
//! | skipped (spring gap) | fires at the end of the gap             | does not fire      |
//! | repeated (overlap)   | fires once, at the first pass           | fires at each pass |

mod cron;
mod day;
mod fields;
mod wall;

#[cfg(test)]
mod cron_tests;
#[cfg(test)]
mod day_tests;
#[cfg(test)]
mod oracle_tests;

pub use cron::Cron;
pub use day::{DaySpan, QuotaDay};

use chrono::NaiveDate;

/// Why a zone, an expression or a quota day was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// The name is not in the time zone database.
    #[error(
        "unknown time zone `{zone}`{}; use an IANA name such as `America/Los_Angeles`",
        .nearest.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default()
    )]
    UnknownZone {
        /// The name as given.
        zone: String,
        /// The known name most like it, if any is.
        nearest: Option<&'static str>,
    },

    /// The expression is longer than any sensible one.
    #[error(
        "cron expression of {length_bytes} bytes is longer than {} bytes",
        cron::LENGTH_BYTES_MAX
    )]
    TooLong {
        /// How long it is.
        length_bytes: usize,
    },

    /// The expression does not have five fields.
    #[error(
        "cron expression `{expression}` has {found} fields, not 5 \
         (minute hour day-of-month month day-of-week; neither seconds nor a year)"
    )]
    FieldCount {
        /// The expression as given.
        expression: String,
        /// How many fields it has.
        found: usize,
    },

    /// One item of one field cannot be read.
    #[error("cron field {field}: `{item}` {problem}")]
    Field {
        /// Which field: `minute`, `hour`, `day-of-month`, `month` or `day-of-week`.
        field: &'static str,
        /// The item of the list that is wrong.
        item: String,
        /// What is wrong with it.
        problem: String,
    },

    /// Both day fields restrict the day, which cron programs read in opposite ways.
    #[error(
        "cron expression `{expression}` sets both day-of-month and day-of-week, which some \
         programs join by or and some by and; leave one of them `*`"
    )]
    BothDays {
        /// The expression as given.
        expression: String,
    },

    /// A reset expression that does not fire exactly once on each civil day.
    #[error(
        "reset `{expression}` fires {firings} times on {date} in {zone}; \
         it must fire exactly once a day, as `0 0 * * *` does"
    )]
    NotDaily {
        /// The expression as given.
        expression: String,
        /// The zone in which it was tried.
        zone: &'static str,
        /// The first date found on which it does not fire once.
        date: NaiveDate,
        /// How often it fires on that date.
        firings: u32,
    },
}
