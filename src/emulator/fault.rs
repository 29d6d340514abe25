//! Faults that a test orders for the next calls.

use std::collections::VecDeque;

use serde::Deserialize;

/// What goes wrong with a call.
///
/// The call takes a fault after its key, model and payload were found good. The first six kinds
/// replace its answer; the others disturb the delivery of whatever the quotas decided, so that a
/// call with one of them is counted like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// `503`: status 503, counted as one request.
    Unavailable,
    /// `500`: status 500, counted as one request.
    Internal,
    /// `404`: the model is gone. Not counted.
    NotFound,
    /// `429_bare`: a 429 without details. Counted if 429s are.
    BareQuota,
    /// `429_per_day`: a daily 429 with a false short wait. Counted if 429s are.
    DayQuota,
    /// `billing`: the 429 of an empty prepaid balance. Counted if 429s are.
    Billing,
    /// `cut`: the connection ends within the body.
    Cut,
    /// `truncate`: the body is shorter than its `content-length`.
    Truncate,
    /// `reset`: the connection ends before any byte of the answer.
    Reset,
    /// `hang`: the answer comes this many milliseconds later, at most ten minutes.
    Hang {
        /// The delay.
        ms: u64,
    },
    /// `not_json`: a 200 whose body is a web page.
    NotJson,
    /// `no_usage`: a 200 without `usageMetadata` or `usage`.
    NoUsage,
    /// `stream_error`: half of a stream comes, then an event that holds a 503.
    StreamError,
    /// `stream_error_raw`: half of a stream comes, then a 503 that is printed as JSON and is no
    /// event.
    StreamErrorRaw,
    /// `continuation`: half of an answer comes, with the finish reason `CONTINUATION` and a token
    /// for the rest.
    Continuation,
}

/// A fault for the next `times` calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// For how many calls.
    pub times: u32,
}

impl FaultKind {
    /// The name in `POST /__emulator/faults` and in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "503",
            Self::Internal => "500",
            Self::NotFound => "404",
            Self::BareQuota => "429_bare",
            Self::DayQuota => "429_per_day",
            Self::Billing => "billing",
            Self::Cut => "cut",
            Self::Truncate => "truncate",
            Self::Reset => "reset",
            Self::Hang { .. } => "hang",
            Self::NotJson => "not_json",
            Self::NoUsage => "no_usage",
            Self::StreamError => "stream_error",
            Self::StreamErrorRaw => "stream_error_raw",
            Self::Continuation => "continuation",
        }
    }
}

impl Fault {
    /// The fault for one call.
    #[must_use]
    pub fn once(kind: FaultKind) -> Self {
        Self { kind, times: 1 }
    }

    /// The fault for `times` calls in a row.
    #[must_use]
    pub fn repeated(kind: FaultKind, times: u32) -> Self {
        Self { kind, times }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    next: Vec<OrderedFault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderedFault {
    #[serde(rename = "do")]
    name: String,
    #[serde(default = "one")]
    times: u32,
    ms: Option<u64>,
}

fn one() -> u32 {
    1
}

/// Longest `hang`, ten minutes.
const MAX_HANG_MS: u64 = 600_000;

/// Reads the body of `POST /__emulator/faults`; the error says what is wrong with it.
pub(super) fn parse_order(body: &[u8]) -> Result<Vec<Fault>, String> {
    let order: Order = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    order.next.into_iter().map(OrderedFault::parse).collect()
}

impl OrderedFault {
    fn parse(self) -> Result<Fault, String> {
        let kind = match (self.name.as_str(), self.ms) {
            ("503", None) => FaultKind::Unavailable,
            ("500", None) => FaultKind::Internal,
            ("404", None) => FaultKind::NotFound,
            ("429_bare", None) => FaultKind::BareQuota,
            ("429_per_day", None) => FaultKind::DayQuota,
            ("billing", None) => FaultKind::Billing,
            ("cut", None) => FaultKind::Cut,
            ("truncate", None) => FaultKind::Truncate,
            ("reset", None) => FaultKind::Reset,
            ("hang", Some(ms)) if ms <= MAX_HANG_MS => FaultKind::Hang { ms },
            ("not_json", None) => FaultKind::NotJson,
            ("no_usage", None) => FaultKind::NoUsage,
            ("stream_error", None) => FaultKind::StreamError,
            ("stream_error_raw", None) => FaultKind::StreamErrorRaw,
            ("continuation", None) => FaultKind::Continuation,
            (name, _) => {
                return Err(format!(
                    "{name:?} is no fault, or its ms is missing, out of place or above \
                     {MAX_HANG_MS}"
                ));
            }
        };
        Ok(Fault { kind, times: self.times })
    }
}

/// Most orders that wait; each may be for many calls.
const MAX_WAITING: usize = 10_000;

/// Faults in the order in which calls take them.
#[derive(Debug, Default)]
pub(super) struct FaultQueue {
    waiting: VecDeque<Fault>,
}

impl FaultQueue {
    /// Appends faults; false, and nothing is appended, when there would be too many.
    pub(super) fn order(&mut self, faults: &[Fault]) -> bool {
        let fits = self.waiting.len() + faults.len() <= MAX_WAITING;
        if fits {
            self.waiting.extend(faults.iter().filter(|fault| fault.times > 0));
        }
        fits
    }

    pub(super) fn take(&mut self) -> Option<FaultKind> {
        let fault = self.waiting.front_mut()?;
        fault.times -= 1;
        let Fault { kind, times } = *fault;
        if times == 0 {
            self.waiting.pop_front();
        }
        Some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_taken_one_call_at_a_time() {
        let body = br#"{"next": [{"do": "503", "times": 2}, {"do": "hang", "ms": 7}]}"#;
        let mut queue = FaultQueue::default();
        assert!(queue.order(&parse_order(body).unwrap_or_default()));
        let taken: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!(
            taken,
            [FaultKind::Unavailable, FaultKind::Unavailable, FaultKind::Hang { ms: 7 }]
        );
    }

    #[test]
    fn wrong_orders_are_refused() {
        for body in [
            r#"{"next": [{"do": "418"}]}"#,
            r#"{"next": [{"do": "hang"}]}"#,
            r#"{"next": [{"do": "503", "ms": 1}]}"#,
            r#"{"next": [{"do": "503", "twice": true}]}"#,
            r#"{"do": "503"}"#,
        ] {
            assert!(parse_order(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = FaultQueue::default();
        assert!(!queue.order(&vec![Fault::once(FaultKind::Cut); MAX_WAITING + 1]));
        assert_eq!(queue.take(), None);
    }
}
