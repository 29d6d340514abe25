//! What a usage report is asked for, as commands and URLs write it.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use serde::{Deserialize, Serialize};

use super::seconds;
use super::text::quoted;
use crate::gate::units::{Now, UnixMs};
use crate::store::GroupBy;

/// The columns that a usage report can be grouped by, in the order in which rows show them.
pub const COLUMNS: [&str; 7] = ["project", "model", "key", "tenant", "batch", "hour", "day"];

/// Why a question makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A word that is no column.
    #[error("cannot group by `{word}`, did you mean `{nearest}`? known: {}", COLUMNS.join(", "))]
    Column {
        /// The word, shortened.
        word: String,
        /// The column most like it.
        nearest: &'static str,
    },
    /// A text that is no time.
    #[error(
        "{option}: `{text}` is no time; write 2026-11-22T08:00:00Z, 2026-11-22 (midnight UTC) or \
         an age such as 24h or 7d"
    )]
    Time {
        /// `since` or `until`.
        option: &'static str,
        /// The text, shortened.
        text: String,
    },
    /// An end that is not after its beginning.
    #[error("until {until} is not after since {since}; give an earlier since or a later until")]
    Backwards {
        /// The beginning.
        since: UnixMs,
        /// The end.
        until: UnixMs,
    },
}

/// A question as it is written: the options of `tidegate usage`, the query of
/// `GET /api/v1/usage`. What is absent, or empty, is left to its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageParams {
    /// Columns with commas between; default `project,model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// From when; default the start of the quota day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Until when, not included; default now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Of this project only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Of this model only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A question that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageQuery {
    /// The columns.
    pub by: GroupBy,
    /// From when; `None` is the start of the quota day.
    pub since: Option<UnixMs>,
    /// Until when, not included; `None` is now.
    pub until: Option<UnixMs>,
    /// Of this project only.
    pub project: Option<String>,
    /// Of this model only, without `models/`.
    pub model: Option<String>,
}

impl UsageQuery {
    /// Today by project and model.
    pub const TODAY: Self =
        Self { by: BY_DEFAULT, since: None, until: None, project: None, model: None };
}

const BY_DEFAULT: GroupBy = GroupBy {
    project: true,
    model: true,
    key: false,
    tenant: false,
    batch: false,
    hour: false,
    day: false,
};

impl UsageParams {
    /// Reads the question; ages count from `now`.
    pub fn read(self, now: Now) -> Result<UsageQuery, QueryError> {
        let given = |option: Option<String>| option.filter(|text| !text.trim().is_empty());
        let time = |option, text: Option<String>| {
            given(text).map(|text| parse_time(option, &text, now)).transpose()
        };
        let since = time("since", self.since)?;
        let until = time("until", self.until)?;
        let end = until.unwrap_or(now.wall.plus(1));
        if let Some(since) = since.filter(|since| *since >= end) {
            return Err(QueryError::Backwards { since, until: end });
        }
        let by = given(self.by).map_or(Ok(BY_DEFAULT), |by| parse_by(&by))?;
        let bare = |model: String| model.strip_prefix("models/").unwrap_or(&model).to_owned();
        let (project, model) = (given(self.project), given(self.model).map(bare));
        Ok(UsageQuery { by, since, until, project, model })
    }
}

/// Reads a list of columns such as `project,model`.
pub fn parse_by(text: &str) -> Result<GroupBy, QueryError> {
    let mut by = GroupBy::default();
    for word in text.split(',').map(str::trim) {
        match word {
            "project" => by.project = true,
            "model" => by.model = true,
            "key" => by.key = true,
            "tenant" => by.tenant = true,
            "batch" => by.batch = true,
            "hour" => by.hour = true,
            "day" => by.day = true,
            _ => return Err(unknown_column(word)),
        }
    }
    Ok(by)
}

/// The words for the columns of `by`, in the order of [`COLUMNS`].
#[must_use]
pub fn columns(by: GroupBy) -> Vec<&'static str> {
    let asked = [by.project, by.model, by.key, by.tenant, by.batch, by.hour, by.day];
    COLUMNS.into_iter().zip(asked).filter_map(|(column, asked)| asked.then_some(column)).collect()
}

/// Reads a time: RFC 3339, a date (midnight UTC), or an age such as `24h`, cut to the second.
/// `option` is what messages call it.
pub fn parse_time(option: &'static str, text: &str, now: Now) -> Result<UnixMs, QueryError> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.with_timezone(&Utc).into());
    }
    if let Ok(date) = text.parse::<NaiveDate>() {
        return Ok(date.and_time(NaiveTime::MIN).and_utc().into());
    }
    let age = humantime::parse_duration(text)
        .ok()
        .and_then(|age| u64::try_from(age.as_millis()).ok())
        .ok_or_else(|| QueryError::Time { option, text: quoted(text) })?;
    Ok(seconds(now.wall.minus(age)).into())
}

fn unknown_column(word: &str) -> QueryError {
    let word = quoted(word);
    let distance = |column: &&str| strsim::damerau_levenshtein(column, &word.to_lowercase());
    let nearest = COLUMNS.into_iter().min_by_key(distance).unwrap_or(COLUMNS[0]);
    QueryError::Column { word, nearest }
}
