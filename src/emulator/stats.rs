//! What the emulator saw: counts, and the fullest windows recomputed from the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::NaiveDate;
use serde::Serialize;

use super::external::ExternalStats;
use super::quota::Weight;

/// Counts of calls and what they used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Calls to the provider's paths, each counted when it is decided.
    pub requests: u64,
    /// Calls answered 200, but for counts of tokens and lists of models.
    pub accepted: u64,
    /// Answers with status 429.
    pub throttled: u64,
    /// Answers with another status from 400 to 499.
    pub client_errors: u64,
    /// Answers with status 500 and above.
    pub server_errors: u64,
    /// Prompt tokens of accepted calls.
    pub input_tokens: u64,
    /// Candidate and thought tokens of accepted calls.
    pub output_tokens: u64,
    /// Images in the answers of accepted calls.
    pub images: u64,
}

/// Counts of one project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProjectStats {
    /// All its calls.
    #[serde(flatten)]
    pub counts: Counts,
    /// By model, under the name that owns the quota.
    pub models: BTreeMap<String, Counts>,
    /// Calls by key: `key-1` is the first of the limits file (or the first seen, without a file).
    pub keys: BTreeMap<String, u64>,
}

/// The fullest windows of one model in one project.
///
/// Counted is what weighed on the limits and was not a 429: accepted calls, and failed ones as one
/// request each. With sliding windows and a client that sends nothing malformed no number exceeds
/// its limit; fixed windows and buckets allow up to twice the limit in a minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorstWindow {
    /// Most requests counted in any minute.
    pub requests: u64,
    /// Requests a minute (`rpm`), absent when unlimited.
    pub limit: Option<u64>,
    /// Most input tokens counted in any minute.
    pub input_tokens: u64,
    /// Input tokens a minute (`tpm`), absent when unlimited.
    pub input_tokens_limit: Option<u64>,
    /// Most images counted in any minute.
    pub images: u64,
    /// Images a minute (`ipm`), absent when unlimited.
    pub images_limit: Option<u64>,
    /// Most requests counted on any day of the limits' zone.
    pub day_requests: u64,
    /// Requests a day (`rpd`), absent when unlimited.
    pub day_requests_limit: Option<u64>,
    /// Most input tokens counted on any day.
    pub day_input_tokens: u64,
    /// Input tokens a day (`tpd`), absent when unlimited.
    pub day_input_tokens_limit: Option<u64>,
}

/// Everything `GET /__emulator/stats` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// All calls, also those of no project.
    #[serde(flatten)]
    pub counts: Counts,
    /// Most calls that were in work at one time.
    pub max_in_flight: usize,
    /// Whether the log was full, so that the worst windows miss later calls.
    pub log_truncated: bool,
    /// By project.
    pub projects: BTreeMap<String, ProjectStats>,
    /// By `project/model`.
    pub worst_window: BTreeMap<String, WorstWindow>,
    /// Clients outside of these counts that the limits file asks for, by `project/model`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub external: BTreeMap<String, ExternalStats>,
}

/// One decided call, in the order of decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Entry {
    /// Position in the log, from 1.
    pub(super) n: u64,
    pub(super) project: Option<Arc<str>>,
    pub(super) key: Option<Arc<str>>,
    pub(super) model: Option<Arc<str>>,
    pub(super) call: &'static str,
    /// When the call had arrived, in milliseconds since the start.
    pub(super) at_ms: u64,
    /// When it was decided and counted.
    pub(super) count_ms: u64,
    /// The day it counts on.
    pub(super) day: NaiveDate,
    pub(super) status: u16,
    pub(super) input_tokens: u64,
    /// SHA-256 of all text parts of `contents`, of all messages but instructions, or of all texts
    /// to embed, one after the other.
    #[serde(serialize_with = "as_hex")]
    pub(super) prompt_sha256: Option<[u8; 32]>,
    /// What was counted against the limits.
    pub(super) weight: Weight,
    pub(super) fault: Option<&'static str>,
}

#[expect(clippy::ref_option, reason = "serde hands out a reference to the field")]
fn as_hex<S: serde::Serializer>(
    digest: &Option<[u8; 32]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match digest {
        None => serializer.serialize_none(),
        Some(digest) => serializer.serialize_str(&hex(digest)),
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The fullest windows by (project, model), without their limits.
pub(super) fn worst_windows(
    log: &[Entry],
    minute_ms: u64,
) -> BTreeMap<(Arc<str>, Arc<str>), WorstWindow> {
    let mut groups: BTreeMap<_, Vec<&Entry>> = BTreeMap::new();
    for entry in log.iter().filter(|entry| entry.status != 429) {
        if let (Some(project), Some(model)) = (&entry.project, &entry.model) {
            groups.entry((project.clone(), model.clone())).or_default().push(entry);
        }
    }
    groups
        .into_iter()
        .map(|(name, entries)| {
            let minute = |of: fn(&Weight) -> u64| worst_minute(&entries, minute_ms, of);
            let day = |of: fn(&Weight) -> u64| worst_day(&entries, of);
            let worst = WorstWindow {
                requests: minute(|weight| weight.requests),
                input_tokens: minute(|weight| weight.input_tokens),
                images: minute(|weight| weight.images),
                day_requests: day(|weight| weight.requests),
                day_input_tokens: day(|weight| weight.input_tokens),
                ..WorstWindow::default()
            };
            (name, worst)
        })
        .collect()
}

/// The largest sum over any half-open minute. It is enough to look at those that begin at an
/// entry; `entries` are in the order of their `count_ms`.
fn worst_minute(entries: &[&Entry], minute_ms: u64, of: fn(&Weight) -> u64) -> u64 {
    let (mut worst, mut sum, mut end) = (0, 0, 0);
    for first in entries {
        while let Some(next) = entries.get(end)
            && next.count_ms - first.count_ms < minute_ms
        {
            sum += of(&next.weight);
            end += 1;
        }
        worst = worst.max(sum);
        sum -= of(&first.weight);
    }
    worst
}

fn worst_day(entries: &[&Entry], of: fn(&Weight) -> u64) -> u64 {
    let mut days: BTreeMap<NaiveDate, u64> = BTreeMap::new();
    for entry in entries {
        *days.entry(entry.day).or_default() += of(&entry.weight);
    }
    days.into_values().max().unwrap_or(0)
}

#[cfg(test)]
pub(super) fn entry_for_tests(n: u64, count_ms: u64, weight: Weight) -> Entry {
    Entry {
        n,
        project: Some("p".into()),
        key: None,
        model: Some("m".into()),
        call: "generateContent",
        at_ms: count_ms,
        count_ms,
        day: NaiveDate::default(),
        status: 200,
        input_tokens: weight.input_tokens,
        prompt_sha256: None,
        weight,
        fault: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_worst_minute_is_that_of_a_scan_over_every_millisecond(
            gaps in prop::collection::vec((0_u64..30, 0_u64..9), 0..40), minute_ms in 1_u64..60,
        ) {
            let mut at_ms = 0;
            let mut log = Vec::new();
            for (gap_ms, input_tokens) in gaps {
                at_ms += gap_ms;
                let weight = Weight { requests: 1, input_tokens, images: 0 };
                log.push(entry_for_tests(1, at_ms, weight));
            }
            let scanned = (0..=at_ms).map(|from_ms| {
                log.iter()
                    .filter(|entry| (from_ms..from_ms + minute_ms).contains(&entry.count_ms))
                    .map(|entry| entry.weight.input_tokens)
                    .sum::<u64>()
            });
            let scanned = scanned.max().unwrap_or(0);
            let worst = worst_windows(&log, minute_ms).into_values().next().unwrap_or_default();
            prop_assert_eq!(worst.input_tokens, scanned);
            let whole: u64 = log.iter().map(|entry| entry.weight.input_tokens).sum();
            prop_assert_eq!(worst.day_input_tokens, whole);
        }
    }

    #[test]
    fn refused_calls_are_in_no_window() {
        let weight = Weight { requests: 1, input_tokens: 5, images: 0 };
        let accepted = entry_for_tests(1, 0, weight);
        let refused = Entry { status: 429, ..entry_for_tests(2, 1, weight) };
        let worst = worst_windows(&[accepted, refused], 60_000);
        assert_eq!(worst.into_values().map(|worst| worst.requests).collect::<Vec<_>>(), [1]);
    }
}
