//! What was used and what it cost.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Deserializer, Serialize};

use super::query::{UsageQuery, columns};
use super::seconds;
use crate::calendar::QuotaDay;
use crate::config::Config;
use crate::config::prices::{Amounts, PicoUsd, Prices, cost};
use crate::engine::start::{StartError, quota_day};
use crate::gate::limits::MINUTE_MS;
use crate::gate::units::{Now, UnixMs};
use crate::store::{GroupBy, Reader, StoreError, UsageFilter, UsageRow};

/// What a report has to know of each project, by name: the day by which it counts and the tier on
/// which it pays.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// By project.
    pub projects: BTreeMap<String, ProjectTerms>,
}

/// What a report has to know of one project.
#[derive(Clone, Debug)]
pub struct ProjectTerms {
    /// The day by which its provider counts.
    pub day: QuotaDay,
    /// Its usage tier, such as `free`.
    pub tier: String,
}

/// The usage report: `tidegate usage --json`, `GET /api/v1/usage`. Times are UTC, to the second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReport {
    /// When it was made.
    pub generated_at: DateTime<Utc>,
    /// It counts the attempts that were reserved from here …
    pub since: DateTime<Utc>,
    /// … up to here.
    pub until: DateTime<Utc>,
    /// The columns that it is grouped by, in the order of the rows'.
    pub by: Vec<String>,
    /// One row for each group, oldest first, then by name.
    pub rows: Vec<UsageRowOut>,
    /// Everything together.
    pub totals: Totals,
    /// The table of prices that the costs are from.
    pub prices: String,
    /// Models that took tokens whose price is not known: the table does not have it, or the
    /// configuration no longer has the project. Their rows and the totals have no cost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpriced_models: Vec<String>,
    /// What the costs leave out, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One group. The columns that were not asked for are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the words of the usage report")]
pub struct UsageRowOut {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub batch: Option<BatchColumn>,
    /// The hour's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hour: Option<DateTime<Utc>>,
    /// The project's quota day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<NaiveDate>,
    pub attempts: u64,
    pub ok: u64,
    pub failed: u64,
    pub throttled: u64,
    pub in_doubt: u64,
    pub open: u64,
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub thought_tokens: u64,
    pub tool_tokens: u64,
    pub total_tokens: u64,
    pub images: u64,
    /// `null` when something of it has no known price.
    pub cost_usd: Option<PicoUsd>,
    /// The same group in the minute before the report; `null` in rows of an hour or a day.
    pub last_minute: Option<LastMinute>,
}

/// A row without columns.
pub type Totals = UsageRowOut;

/// The id of a batch; `null` for attempts that no batch caused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchColumn(pub Option<String>);

/// What was asked in the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastMinute {
    /// Attempts.
    pub requests: u64,
    /// Their input tokens, as far as the provider has reported them.
    pub input_tokens: u64,
}

impl Terms {
    /// The terms of every project of the configuration.
    ///
    /// # Errors
    /// When a quota day cannot be used.
    pub fn of(config: &Config) -> Result<Self, StartError> {
        let mut projects = BTreeMap::new();
        for project in &config.projects {
            let terms = ProjectTerms { day: quota_day(project)?, tier: project.tier.clone() };
            projects.insert(project.name.clone(), terms);
        }
        Ok(Self { projects })
    }

    /// The start of the quota day that holds `at`, of one project or the earliest of all. Without
    /// a project it is California's day.
    fn day_start(&self, project: Option<&str>, at: UnixMs) -> UnixMs {
        let start = |day: &QuotaDay| UnixMs::from(day.span_at(at.to_utc()).start);
        let one = project.and_then(|name| self.projects.get(name));
        let earliest = self.projects.values().map(|terms| start(&terms.day)).min();
        one.map(|terms| start(&terms.day))
            .or(earliest)
            .unwrap_or_else(|| start(&QuotaDay::pacific()))
    }
}

/// Makes the report that `query` asks for from the ledger. Costs are exact: each quota day of each
/// model is priced by itself, then summed.
///
/// # Errors
/// When the database fails or contradicts itself.
pub async fn usage(
    reader: &Reader,
    query: &UsageQuery,
    terms: &Terms,
    prices: &Prices,
    now: Now,
) -> Result<UsageReport, StoreError> {
    // The present millisecond is part of what has been.
    let present = now.wall.plus(1);
    let until = query.until.unwrap_or(present);
    let last = until.min(present).minus(1);
    let since = query.since.unwrap_or_else(|| terms.day_start(query.project.as_deref(), last));
    let filter = |since, until| UsageFilter {
        since,
        until,
        project: query.project.clone(),
        model: query.model.clone(),
    };
    let by = query.by;
    let fine = GroupBy { project: true, model: true, day: true, ..by };
    let mut fold = Fold::new(by, terms, prices);
    for row in reader.usage(fine, &filter(since, until)).await? {
        fold.add(&row)?;
    }
    let timeless = !by.hour && !by.day;
    let coarse = if timeless { by } else { GroupBy::default() };
    for row in reader.usage(coarse, &filter(present.minus(MINUTE_MS), present)).await? {
        fold.add_last_minute(&row, timeless && until >= now.wall)?;
    }
    let rows = fold.rows.into_iter().map(|(key, sums)| {
        let last_minute = sums.last_minute.filter(|_| timeless);
        key.label(UsageRowOut { last_minute, ..sums }, by)
    });
    Ok(UsageReport {
        generated_at: seconds(now.wall),
        since: seconds(since),
        until: seconds(query.until.unwrap_or(now.wall)),
        by: columns(by).into_iter().map(str::to_owned).collect(),
        rows: rows.collect(),
        totals: fold.totals,
        prices: prices.name.clone(),
        unpriced_models: fold.unpriced.into_iter().collect(),
        notes: fold.notes.into_iter().collect(),
    })
}

/// The columns of a group, in the order by which rows are sorted; `None` for what is not asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    day: Option<NaiveDate>,
    hour_ms: Option<i64>,
    names: [Option<String>; 5],
}

impl Key {
    fn of(row: &UsageRow, by: GroupBy) -> Result<Self, StoreError> {
        let name = |asked: bool, value: &Option<String>| value.clone().filter(|_| asked);
        let day = row.day.as_deref().map(parse_day).transpose()?;
        Ok(Self {
            day: day.filter(|_| by.day),
            hour_ms: row.hour_ms.filter(|_| by.hour),
            names: [
                name(by.project, &row.project),
                name(by.model, &row.model),
                name(by.key, &row.key),
                name(by.tenant, &row.tenant),
                name(by.batch, &row.batch),
            ],
        })
    }

    fn label(self, mut row: UsageRowOut, by: GroupBy) -> UsageRowOut {
        let [project, model, key, tenant, batch] = self.names;
        (row.project, row.model, row.key, row.tenant) = (project, model, key, tenant);
        row.batch = by.batch.then_some(BatchColumn(batch));
        row.hour = self.hour_ms.map(|hour_ms| seconds(UnixMs(hour_ms)));
        row.day = self.day;
        row
    }
}

/// Rows of (group, project, model, quota day) on their way into rows of the group.
struct Fold<'a> {
    by: GroupBy,
    terms: &'a Terms,
    prices: &'a Prices,
    rows: BTreeMap<Key, UsageRowOut>,
    totals: UsageRowOut,
    unpriced: BTreeSet<String>,
    notes: BTreeSet<String>,
}

impl<'a> Fold<'a> {
    fn new(by: GroupBy, terms: &'a Terms, prices: &'a Prices) -> Self {
        let totals = nothing();
        let (rows, unpriced, notes) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { by, terms, prices, rows, totals, unpriced, notes }
    }

    fn add(&mut self, row: &UsageRow) -> Result<(), StoreError> {
        let mut sums = sums(row)?;
        sums.cost_usd = self.cost(row, &sums)?;
        let group = self.rows.entry(Key::of(row, self.by)?).or_insert_with(nothing);
        group.add(&sums);
        self.totals.add(&sums);
        Ok(())
    }

    fn add_last_minute(&mut self, row: &UsageRow, in_rows: bool) -> Result<(), StoreError> {
        let sums = sums(row)?;
        let requests = counted(row.requests)?;
        let minute = LastMinute { requests, input_tokens: sums.input_tokens };
        self.totals.add_minute(minute);
        let key = Key::of(row, self.by)?;
        // Just after a day's start a group may have a last minute and nothing of the day yet.
        if in_rows {
            self.rows.entry(key).or_insert_with(nothing).add_minute(minute);
        } else if let Some(group) = self.rows.get_mut(&key) {
            group.add_minute(minute);
        }
        Ok(())
    }

    fn cost(&mut self, row: &UsageRow, sums: &UsageRowOut) -> Result<Option<PicoUsd>, StoreError> {
        let missing = || StoreError::Inconsistent("a sum of attempts has no project".to_owned());
        let (Some(project), Some(model), Some(day)) = (&row.project, &row.model, &row.day) else {
            return Err(missing());
        };
        let terms = self.terms.projects.get(project);
        let price = terms.map(|terms| Ok(self.prices.price(&terms.tier, model, parse_day(day)?)));
        let cost = cost(price.transpose()?.flatten(), &sums.amounts());
        match cost {
            Some(PicoUsd(0)) => {}
            Some(_) => {
                let note = self.prices.note(model);
                self.notes.extend(note.map(|note| format!("{model}: {note}")));
            }
            None => _ = self.unpriced.insert(model.clone()),
        }
        Ok(cost)
    }
}

impl UsageRowOut {
    fn amounts(&self) -> Amounts {
        Amounts {
            input_tokens: self.input_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens: self.output_tokens,
            thought_tokens: self.thought_tokens,
            tool_tokens: self.tool_tokens,
            images: self.images,
        }
    }

    /// Adds every sum but the last minute.
    fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.attempts, other.attempts),
            (&mut self.ok, other.ok),
            (&mut self.failed, other.failed),
            (&mut self.throttled, other.throttled),
            (&mut self.in_doubt, other.in_doubt),
            (&mut self.open, other.open),
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.cached_tokens, other.cached_tokens),
            (&mut self.output_tokens, other.output_tokens),
            (&mut self.thought_tokens, other.thought_tokens),
            (&mut self.tool_tokens, other.tool_tokens),
            (&mut self.total_tokens, other.total_tokens),
            (&mut self.images, other.images),
        ];
        for (sum, more) in pairs {
            *sum = sum.saturating_add(more);
        }
        let both = self.cost_usd.zip(other.cost_usd);
        self.cost_usd = both.map(|(sum, more)| sum.plus(more));
    }

    fn add_minute(&mut self, more: LastMinute) {
        let sum = self.last_minute.get_or_insert_default();
        sum.requests = sum.requests.saturating_add(more.requests);
        sum.input_tokens = sum.input_tokens.saturating_add(more.input_tokens);
    }
}

/// A group of no attempt.
fn nothing() -> UsageRowOut {
    UsageRowOut {
        cost_usd: Some(PicoUsd(0)),
        last_minute: Some(LastMinute::default()),
        ..UsageRowOut::default()
    }
}

/// The sums of a ledger row, without columns and cost.
fn counted(value: i64) -> Result<u64, StoreError> {
    let negative = |_| StoreError::Inconsistent(format!("a sum of attempts is {value}"));
    u64::try_from(value).map_err(negative)
}

fn sums(row: &UsageRow) -> Result<UsageRowOut, StoreError> {
    let count = counted;
    Ok(UsageRowOut {
        attempts: count(row.attempts)?,
        ok: count(row.ok)?,
        failed: count(row.failed)?,
        throttled: count(row.throttled)?,
        in_doubt: count(row.in_doubt)?,
        open: count(row.open)?,
        input_tokens: count(row.input_tokens)?,
        cached_tokens: count(row.cached_tokens)?,
        output_tokens: count(row.output_tokens)?,
        thought_tokens: count(row.thought_tokens)?,
        tool_tokens: count(row.tool_tokens)?,
        total_tokens: count(row.total_tokens)?,
        images: count(row.images)?,
        ..UsageRowOut::default()
    })
}

fn parse_day(text: &str) -> Result<NaiveDate, StoreError> {
    let bad = |_| StoreError::Inconsistent(format!("attempt.day_lo is not a date: {text}"));
    text.parse().map_err(bad)
}

/// Reads a column that is there, even as `null`.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BatchColumn>, D::Error> {
    BatchColumn::deserialize(from).map(Some)
}
