//! A batch's options: from the first line of its file, from a sidecar, or from an API call.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike, Utc};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use super::envelope::{self, Envelope};
use super::name::name_trouble;
use super::template::TEMPLATE_BYTES_MAX;
use super::words::words;
use super::{BYTE_ORDER_MARK, FormatError, LineError, OptionError, content};

/// What follows NAME in the name of a sidecar.
pub const SIDECAR_SUFFIX: &str = ".tidegate.toml";

/// Longest text of an option in bytes.
const TEXT_BYTES_MAX: usize = 256;

const TEXT: &str = "a text of 1 to 256 bytes without control characters";
const MODEL: &str = "a model's id of at most 256 letters, digits, \".\", \"_\", \"-\" and single \
                     \"/\" within, such as \"gemini-2.0-flash\"";
const NAME: &str = "a file name of 1 to 200 bytes without a leading dot, slashes or control \
                    characters";
const INSTANT: &str = "an instant such as \"2026-11-23T08:00:00Z\" (RFC 3339, with its offset)";
const DOLLARS: &str = "US dollars with at most six decimals, such as 1.50";
const ID: &str = "a UUID";
const TEMPLATE: &str = "a text of 1 byte to 64 KiB, such as \"Classify: {{text}}\"";
const POOL: &str = "the name of a pool: a text of 1 to 64 bytes without control characters";
const MODELS: &str = "a list of 1 to 8 different model ids, such as [\"gemini-2.0-flash\"]";
const SPAN: &str = "a length of time of at most 365 days, such as \"30m\"";

/// Models in a list.
const MODELS_MAX: usize = 8;

/// The longest patience: a year.
const SPAN_MS_MAX: u128 = 365 * 86_400_000;

words! {
    /// Which batches go first.
    pub enum Priority {
        /// Before all others.
        High = "high",
        /// As they come.
        Normal = "normal",
        /// When nothing else wants the capacity.
        Low = "low",
    }
}

impl Priority {
    /// Its place in the order: 0 goes first.
    #[must_use]
    pub fn rank(self) -> u8 {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }
}

words! {
    /// What becomes of an item whose request was sent, but whose answer was lost in a crash.
    pub enum InDoubt {
        /// It is sent again.
        Retry = "retry",
        /// It waits for a person.
        Hold = "hold",
        /// It is answered with an error line.
        Fail = "fail",
    }
}

words! {
    /// What becomes of a file with a bad line.
    pub enum OnBadLine {
        /// The whole file is rejected.
        Reject = "reject",
        /// The bad line is answered with an error line, the others become items.
        Skip = "skip",
    }
}

words! {
    /// How fast a batch is sent.
    pub enum BatchPace {
        /// As soon as it may be.
        Asap = "asap",
        /// Spread over the time until its deadline.
        Spread = "spread",
    }
}

/// The options of a batch; what is `None` is left to the defaults. Every one is checked: texts are
/// bounded and without control characters, so they may be shown and logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(try_from = "Entries")]
pub struct BatchOptions {
    /// Whose quota is spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The model's id, without `models/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The configuration's pool of routes that its items may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Models that are tried when the first choice is far off, without `models/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Vec<String>>,
    /// How far off that is, in milliseconds. Files say `patience`, as a length of time.
    #[serde(rename = "patience", serialize_with = "span")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience_ms: Option<u64>,
    /// How fast it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pace: Option<BatchPace>,
    /// Which batches go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Between whom to be fair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// When the batch should be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DateTime<Utc>>,
    /// Before when nothing of it may be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<DateTime<Utc>>,
    /// What its results are named after; fit for a file name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it may cost at most, in millionths of a US dollar. Files say `max_cost`, in dollars.
    #[serde(rename = "max_cost", serialize_with = "dollars")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost_micro_usd: Option<u64>,
    /// What becomes of an item whose answer was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_doubt: Option<InDoubt>,
    /// What becomes of the file when a line is bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_bad_line: Option<OnBadLine>,
    /// How a row of a CSV file, or a line of a text file, becomes a prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The batch's id, when whoever submits it has made one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
}

impl BatchOptions {
    /// The names of all options.
    pub const NAMES: [&'static str; 16] = [
        "project",
        "model",
        "pool",
        "fallback",
        "patience",
        "pace",
        "priority",
        "tenant",
        "deadline",
        "not_before",
        "name",
        "max_cost",
        "in_doubt",
        "on_bad_line",
        "template",
        "id",
    ];

    /// These options, and where they say nothing those of `base`.
    #[must_use]
    pub fn merged_over(self, base: Self) -> Self {
        Self {
            project: self.project.or(base.project),
            model: self.model.or(base.model),
            pool: self.pool.or(base.pool),
            fallback: self.fallback.or(base.fallback),
            patience_ms: self.patience_ms.or(base.patience_ms),
            pace: self.pace.or(base.pace),
            priority: self.priority.or(base.priority),
            tenant: self.tenant.or(base.tenant),
            deadline: self.deadline.or(base.deadline),
            not_before: self.not_before.or(base.not_before),
            name: self.name.or(base.name),
            max_cost_micro_usd: self.max_cost_micro_usd.or(base.max_cost_micro_usd),
            in_doubt: self.in_doubt.or(base.in_doubt),
            on_bad_line: self.on_bad_line.or(base.on_bad_line),
            template: self.template.or(base.template),
            id: self.id.or(base.id),
        }
    }

    /// What of these options contradicts itself, in words.
    ///
    /// # Errors
    /// The contradiction, and what to do.
    pub fn agree(&self) -> Result<(), String> {
        match (&self.pool, &self.model) {
            (Some(pool), Some(model)) => Err(format!(
                "both a pool ({pool}) and a model ({model}) are named: leave the model out, the \
                 routes of the pool say which"
            )),
            (Some(_) | None, Some(_) | None) => Ok(()),
        }
    }

    /// Sets one option from what a file says.
    fn set(&mut self, name: &str, value: &Value) -> Result<(), OptionError> {
        match name {
            "project" => put(&mut self.project, "project", TEXT, text(value)),
            "model" => put(&mut self.model, "model", MODEL, model(value)),
            "pool" => put(&mut self.pool, "pool", POOL, pool(value)),
            "fallback" => put(&mut self.fallback, "fallback", MODELS, models(value)),
            "patience" => put(&mut self.patience_ms, "patience", SPAN, millis(value)),
            "pace" => put(&mut self.pace, "pace", BatchPace::ACCEPTED, word(value)),
            "priority" => put(&mut self.priority, "priority", Priority::ACCEPTED, word(value)),
            "tenant" => put(&mut self.tenant, "tenant", TEXT, text(value)),
            "deadline" => put(&mut self.deadline, "deadline", INSTANT, instant(value)),
            "not_before" => put(&mut self.not_before, "not_before", INSTANT, instant(value)),
            "name" => put(&mut self.name, "name", NAME, file_name(value)),
            "max_cost" => put(&mut self.max_cost_micro_usd, "max_cost", DOLLARS, micros(value)),
            "in_doubt" => put(&mut self.in_doubt, "in_doubt", InDoubt::ACCEPTED, word(value)),
            "on_bad_line" => {
                put(&mut self.on_bad_line, "on_bad_line", OnBadLine::ACCEPTED, word(value))
            }
            "template" => put(&mut self.template, "template", TEMPLATE, template(value)),
            "id" => put(&mut self.id, "id", ID, id(value)),
            unknown => Err(OptionError::unknown(unknown, &Self::NAMES)),
        }
    }
}

/// Whether a record is meant for options: it begins with `{"tidegate"`, behind a byte order mark
/// and white space.
#[must_use]
pub fn begins_options(record: &[u8]) -> bool {
    let text = record.strip_prefix(BYTE_ORDER_MARK).unwrap_or(record).trim_ascii_start();
    let inner = text.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    inner.is_some_and(|inner| inner.starts_with(b"\"tidegate\""))
}

/// Reads the first line of a file as its options; `Ok(None)` when it is something else, namely a
/// line that does not begin with `{"tidegate"`.
///
/// # Errors
/// Whatever is wrong with a line that does begin so.
pub fn options_line(line: &[u8]) -> Result<Option<BatchOptions>, LineError> {
    let Ok(Some(line_text)) = content(line) else { return Ok(None) };
    if !begins_options(line) {
        return Ok(None);
    }
    let envelope = Envelope::parse(line_text)?;
    let (Some(options), 1) = (envelope.options, envelope.fields) else {
        return Err(LineError::OptionsMisplaced);
    };
    let options = options.get();
    if !options.starts_with('{') {
        return Err(OptionError::NotObject.into());
    }
    let entries: Entries = serde_json::from_str(options).map_err(|error| {
        LineError::from_json(&error, options, envelope::offset_in(line_text, options))
    })?;
    Ok(Some(BatchOptions::try_from(entries)?))
}

/// Reads a sidecar, `NAME.tidegate.toml`: the same options, as TOML.
///
/// # Errors
/// A syntax error with its line, or the first option that is wrong.
pub fn sidecar(text: &str) -> Result<BatchOptions, FormatError> {
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let newlines = before.bytes().filter(|&byte| byte == b'\n').count();
        FormatError::SidecarSyntax {
            line: newlines.saturating_add(1),
            problem: error.message().to_owned(),
        }
    })?;
    let entries = table.into_iter().map(|(name, value)| (name, from_toml(value))).collect();
    Ok(BatchOptions::try_from(Entries(entries))?)
}

/// Writes a sidecar that [`sidecar`] reads back as the same options.
///
/// # Panics
/// Never: TOML can hold every option.
#[must_use]
pub fn sidecar_text(options: &BatchOptions) -> String {
    toml::to_string(options).expect("options are texts under fixed names")
}

/// The options as they stand in a file, in their order.
struct Entries(Vec<(String, Value)>);

impl TryFrom<Entries> for BatchOptions {
    type Error = OptionError;

    fn try_from(entries: Entries) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for (name, value) in &entries.0 {
            options.set(name, value)?;
        }
        Ok(options)
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of options")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

/// A TOML value as the JSON that would say the same. A table becomes an empty list, which no option
/// takes.
fn from_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => Value::from(number),
        toml::Value::Boolean(truth) => Value::Bool(truth),
        toml::Value::Datetime(instant) => Value::String(instant.to_string()),
        toml::Value::Array(list) => Value::Array(list.into_iter().map(from_toml).collect()),
        toml::Value::Table(_) => Value::Array(Vec::new()),
    }
}

/// Fills the slot of an option once.
fn put<T>(
    slot: &mut Option<T>,
    name: &'static str,
    expected: &'static str,
    value: Option<T>,
) -> Result<(), OptionError> {
    let value = value.ok_or(OptionError::Value { name, expected })?;
    match slot.replace(value) {
        Some(_) => Err(OptionError::Duplicate { name }),
        None => Ok(()),
    }
}

fn text(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let fits = !text.is_empty() && text.len() <= TEXT_BYTES_MAX;
    (fits && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// The id becomes part of a URL's path, so nothing may lead out of its place there.
fn model(value: &Value) -> Option<String> {
    let text = text(value)?;
    let id = text.strip_prefix("models/").unwrap_or(&text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = id.split('/').all(|step| {
        !step.is_empty() && step != "." && !step.contains("..") && step.bytes().all(plain)
    });
    fits.then(|| id.to_owned())
}

fn template(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (1..=TEMPLATE_BYTES_MAX).contains(&text.len()).then(|| text.to_owned())
}

fn pool(value: &Value) -> Option<String> {
    text(value).filter(|name| name.len() <= 64)
}

fn models(value: &Value) -> Option<Vec<String>> {
    let list = value.as_array()?;
    let models: Vec<String> = list.iter().map(model).collect::<Option<_>>()?;
    let fits = (1..=MODELS_MAX).contains(&models.len());
    let mut seen = std::collections::BTreeSet::new();
    (fits && models.iter().all(|model| seen.insert(model))).then_some(models)
}

/// A length of time in whole milliseconds.
fn millis(value: &Value) -> Option<u64> {
    let length = humantime::parse_duration(value.as_str()?).ok()?;
    let whole = length.subsec_nanos().is_multiple_of(1_000_000);
    let ms = length.as_millis();
    u64::try_from(ms).ok().filter(|_| whole && ms <= SPAN_MS_MAX)
}

fn file_name(value: &Value) -> Option<String> {
    let name = value.as_str()?;
    name_trouble(name).is_none().then(|| name.to_owned())
}

fn word<T: std::str::FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

fn instant(value: &Value) -> Option<DateTime<Utc>> {
    let instant = DateTime::parse_from_rfc3339(value.as_str()?).ok()?.to_utc();
    // Others are mistakes, and those beyond year 9999 cannot be written as RFC 3339 in UTC.
    (1970..=9999).contains(&instant.year()).then_some(instant)
}

fn id(value: &Value) -> Option<Uuid> {
    Uuid::try_parse(value.as_str()?).ok()
}

/// Dollars, as a number or a text, in millionths. The decimal form is read, for a float would
/// round.
fn micros(value: &Value) -> Option<u64> {
    let written = match value {
        // A float shows its shortest decimal form, without an exponent.
        Value::Number(number) => match number.as_u64() {
            Some(whole) => whole.to_string(),
            None => number.as_f64()?.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    micro_dollars(&written)
}

/// US dollars in decimal, in millionths; none for anything else.
#[must_use]
pub fn micro_dollars(written: &str) -> Option<u64> {
    let (whole, decimals) = written.split_once('.').unwrap_or((written, "0"));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(decimals) || decimals.len() > 6 {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let millionths: u64 = format!("{decimals:0<6}").parse().ok()?;
    whole.checked_mul(1_000_000)?.checked_add(millionths)
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn span<S: Serializer>(ms: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    let length = Duration::from_millis(ms.unwrap_or_default());
    serializer.collect_str(&humantime::format_duration(length))
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn dollars<S: Serializer>(micros: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    let micros = micros.unwrap_or_default();
    serializer.collect_str(&format_args!("{}.{:06}", micros / 1_000_000, micros % 1_000_000))
}
