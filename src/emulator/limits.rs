//! The limits file: which key belongs to which project, and what each project may use.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use chrono_tz::Tz;
use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::EmulatorError;
use super::external::{ExternalRate, MAX_PER_MINUTE};

/// Projects, keys, models and limits of an emulator. The format is described in the module
/// documentation of [`crate::emulator`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(default = "pacific", deserialize_with = "zone")]
    pub(super) zone: Tz,
    #[serde(default)]
    pub(super) count_rejected: bool,
    /// Any key and any model of the one project there is.
    #[serde(skip)]
    pub(super) open: bool,
    #[serde(default)]
    pub(super) stream: StreamKnobs,
    #[serde(default, rename = "project")]
    pub(super) projects: Vec<Project>,
}

/// How streams are sent.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StreamKnobs {
    /// Milliseconds between pieces.
    pub(super) gap_ms: u64,
    /// Pieces of the text of an answer, at least 1.
    pub(super) pieces: usize,
    /// Whether they are compressed when the client accepts it.
    pub(super) gzip: bool,
}

impl Default for StreamKnobs {
    fn default() -> Self {
        Self { gap_ms: 0, pieces: 4, gzip: false }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Project {
    pub(super) name: String,
    #[serde(default)]
    pub(super) keys: Vec<ApiKey>,
    #[serde(default)]
    pub(super) revoked_keys: Vec<ApiKey>,
    #[serde(default, rename = "model")]
    pub(super) models: Vec<Model>,
}

/// One quota of a project: all names in it share its limits.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub(super) name: String,
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    pub(super) rpm: Option<u64>,
    pub(super) tpm: Option<u64>,
    pub(super) rpd: Option<u64>,
    pub(super) tpd: Option<u64>,
    pub(super) ipm: Option<u64>,
    #[serde(default)]
    pub(super) paid: bool,
    /// Least and most images of an answer, instead of those asked for.
    pub(super) images_returned: Option<[u64; 2]>,
    /// What a 429 calls the quota, instead of `name`.
    #[serde(rename = "quota_model")]
    pub(super) quota_name: Option<String>,
    #[serde(default)]
    pub(super) quota_value: QuotaValue,
    #[serde(default)]
    pub(super) details: Details,
    /// What a 429 of a day tells to wait, instead of the truth.
    #[serde(default, deserialize_with = "retry_delay")]
    pub(super) retry_delay: Option<Duration>,
    pub(super) external: Option<ExternalRate>,
    pub(super) latency_ms: Option<[u64; 2]>,
    #[serde(default)]
    pub(super) fault: FaultRates,
}

/// What a 429 says the limit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum QuotaValue {
    /// `true`: the limit.
    #[default]
    True,
    /// `"omit"`: nothing; the prose still says it.
    Omit,
    /// Another number, in the prose too.
    Lie(u64),
}

impl<'de> Deserialize<'de> for QuotaValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = QuotaValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, \"omit\" or a whole number")
            }

            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<QuotaValue, E> {
                let wrong = || E::invalid_value(Unexpected::Bool(value), &self);
                value.then_some(QuotaValue::True).ok_or_else(wrong)
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<QuotaValue, E> {
                let wrong = |_| E::invalid_value(Unexpected::Signed(value), &self);
                u64::try_from(value).map(QuotaValue::Lie).map_err(wrong)
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<QuotaValue, E> {
                match value {
                    "true" => Ok(QuotaValue::True),
                    "omit" => Ok(QuotaValue::Omit),
                    _ => Err(E::invalid_value(Unexpected::Str(value), &self)),
                }
            }
        }
        deserializer.deserialize_any(Value)
    }
}

/// How much a 429 of a quota says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Details {
    /// Prose and details.
    #[default]
    Full,
    /// The prose, without details.
    Prose,
    /// A sentence that names no quota.
    None,
}

/// Probabilities of faults, each from 0 to 1, together at most 1.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultRates {
    #[serde(default)]
    pub(super) status_503: f64,
    #[serde(default)]
    pub(super) status_500: f64,
    #[serde(default)]
    pub(super) cut: f64,
    #[serde(default)]
    pub(super) no_usage: f64,
}

/// A credential: it can be compared and not be printed.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub(super) struct ApiKey(pub(super) String);

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl Limits {
    /// Reads a limits file.
    ///
    /// # Errors
    /// [`EmulatorError::Limits`] with the line when the text is not TOML, has an unknown field, a
    /// name or a key twice, an empty name or key, or a number out of range.
    pub fn parse(toml: &str) -> Result<Self, EmulatorError> {
        let limits: Self = toml::from_str(toml).map_err(|error| EmulatorError::Limits {
            line: error.span().map_or(1, |span| {
                1 + toml.bytes().take(span.start).filter(|byte| *byte == b'\n').count()
            }),
            problem: error.message().to_owned(),
        })?;
        limits.check().map_err(|problem| EmulatorError::Limits { line: 1, problem })?;
        Ok(limits)
    }

    /// Any key and any model, without limits, as the project `emulator`.
    #[must_use]
    pub fn open() -> Self {
        let project = Project {
            name: "emulator".to_owned(),
            keys: Vec::new(),
            revoked_keys: Vec::new(),
            models: Vec::new(),
        };
        Self { open: true, ..Self::of_one(project) }
    }

    /// The Free tier of February 2025 as the project `demo`, reached with `key`.
    #[must_use]
    pub fn free_tier_demo(key: &str) -> Self {
        let model = |name: &str, aliases: &[&str], rpm, tpm, rpd| Model {
            name: name.to_owned(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            rpm: Some(rpm),
            tpm: Some(tpm),
            rpd: Some(rpd),
            ..Model::default()
        };
        let lite = ["gemini-2.0-flash-lite-preview-02-05", "gemini-2.0-flash-lite"];
        Self::of_one(Project {
            name: "demo".to_owned(),
            keys: vec![ApiKey(key.to_owned())],
            revoked_keys: Vec::new(),
            models: vec![
                model("gemini-2.0-flash", &["gemini-2.0-flash-001"], 15, 1_000_000, 1_500),
                model("gemini-2.0-flash-lite-preview", &lite, 30, 1_000_000, 1_500),
                model("gemini-2.0-pro-exp-02-05", &[], 2, 1_000_000, 50),
                model("gemini-2.0-flash-thinking-exp-01-21", &[], 10, 4_000_000, 1_500),
                model("gemini-1.5-flash", &[], 15, 1_000_000, 1_500),
                model("gemini-1.5-pro", &[], 2, 32_000, 50),
            ],
        })
    }

    fn of_one(project: Project) -> Self {
        Self {
            zone: pacific(),
            count_rejected: false,
            open: false,
            stream: StreamKnobs::default(),
            projects: vec![project],
        }
    }

    fn check(&self) -> Result<(), String> {
        let StreamKnobs { gap_ms, pieces, gzip: _ } = self.stream;
        if gap_ms > MAX_LATENCY_MS || !(1..=MAX_PIECES).contains(&pieces) {
            return Err(format!(
                "stream must have a gap_ms of at most {MAX_LATENCY_MS} and from 1 to {MAX_PIECES} \
                 pieces"
            ));
        }
        let mut names = BTreeSet::new();
        let mut keys = BTreeSet::new();
        for project in &self.projects {
            let name = &project.name;
            if name.is_empty() || !names.insert(name) {
                return Err(format!("project name {name:?} is empty or used twice"));
            }
            for (position, key) in project.keys.iter().chain(&project.revoked_keys).enumerate() {
                if key.0.is_empty() || !keys.insert(&key.0) {
                    let position = position + 1;
                    return Err(format!(
                        "key {position} of project {name:?} is empty or used twice"
                    ));
                }
            }
            let mut models = BTreeSet::new();
            for model in &project.models {
                for name in std::iter::once(&model.name).chain(&model.aliases) {
                    if name.is_empty() || name.contains(['/', ':']) || !models.insert(name) {
                        return Err(format!(
                            "model name {name:?} of project {:?} is empty, has a slash or a colon, \
                             or is used twice",
                            project.name
                        ));
                    }
                }
                model.check()?;
            }
        }
        Ok(())
    }
}

impl Model {
    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if self.latency_ms.is_some_and(|[min, max]| min > max || max > MAX_LATENCY_MS) {
            return Err(format!(
                "latency_ms of model {name:?} must be [least, most] with most at most \
                 {MAX_LATENCY_MS}"
            ));
        }
        if self.images_returned.is_some_and(|[min, max]| min > max || max > MAX_IMAGES) {
            return Err(format!(
                "images_returned of model {name:?} must be [least, most] with most at most \
                 {MAX_IMAGES}"
            ));
        }
        if self.external.is_some_and(|rate| !(0.0..=MAX_PER_MINUTE).contains(&rate.per_minute)) {
            return Err(format!(
                "external.per_minute of model {name:?} must be from 0 to {MAX_PER_MINUTE}"
            ));
        }
        let FaultRates { status_503, status_500, cut, no_usage } = self.fault;
        let rates = [status_503, status_500, cut, no_usage];
        if !rates.iter().all(|rate| (0.0..=1.0).contains(rate)) || rates.iter().sum::<f64>() > 1.0 {
            return Err(format!(
                "fault of model {name:?} must be probabilities that sum to at most 1"
            ));
        }
        Ok(())
    }
}

/// Most pieces of a stream's text.
const MAX_PIECES: usize = 10_000;

/// Most images of an answer.
const MAX_IMAGES: u64 = 16;

/// Longest latency, ten minutes.
pub(super) const MAX_LATENCY_MS: u64 = 600_000;

fn zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tz, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map_err(|_| D::Error::custom(format!("{name:?} is no time zone")))
}

/// `"true"` or a length of time.
fn retry_delay<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "true" {
        return Ok(None);
    }
    let wrong = |_| D::Error::custom(format!("{text:?} is no time; write \"true\" or \"22s\""));
    humantime::parse_duration(&text).map(Some).map_err(wrong)
}

fn pacific() -> Tz {
    chrono_tz::America::Los_Angeles
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn the_sample_file_parses() {
        let limits = Limits::parse(include_str!("../../examples/emulator-limits.toml")).unwrap();
        assert_eq!(limits.projects.len(), 2);
        let flash = &limits.projects[0].models[0];
        assert_eq!((flash.rpm, flash.tpd, flash.ipm), (Some(15), Some(6_000_000), None));
        assert_eq!(flash.latency_ms, Some([20, 120]));
        let image = &limits.projects[0].models[1];
        assert_eq!((image.ipm, image.images_returned), (Some(20), Some([0, 2])));
        let embedding = &limits.projects[0].models[3];
        assert_eq!(embedding.quota_name.as_deref(), Some("gemini-embedding-1.0"));
        assert_eq!(embedding.retry_delay, Some(Duration::from_secs(22)));
        assert!(limits.projects[1].models[0].paid);
    }

    #[test]
    fn mistakes_are_refused_with_their_place() {
        let project = |rest: &str| format!("[[project]]\nname = \"p\"\n{rest}");
        let model = |rest: &str| project(&format!("[[project.model]]\nname = \"m\"\n{rest}"));
        let cases = [
            ("colour = 1".to_owned(), "limits file, line 1: unknown field `colour`"),
            (model("rpm = -1"), "limits file, line 5: "),
            (model("rmp = 1"), "limits file, line 5: unknown field `rmp`"),
            (project("[[project]]\nname = \"p\""), "project name \"p\" is empty or used twice"),
            (project("keys = [\"a\", \"a\"]"), "key 2 of project \"p\" is empty or used twice"),
            (model("aliases = [\"m\"]"), "model name \"m\" of project \"p\""),
            (model("latency_ms = [2, 1]"), "latency_ms of model \"m\""),
            (model("images_returned = [2, 1]"), "images_returned of model \"m\""),
            (model("external = { per_minute = -1 }"), "external.per_minute of model \"m\""),
            (model("external = { per_hour = 1 }"), "unknown field `per_hour`"),
            (model("quota_value = \"lie\""), "expected true, \"omit\" or a whole number"),
            (model("quota_value = false"), "expected true, \"omit\" or a whole number"),
            (model("quota_value = -1"), "expected true, \"omit\" or a whole number"),
            (model("details = \"some\""), "unknown variant `some`"),
            (model("retry_delay = \"soon\""), "\"soon\" is no time; write \"true\" or \"22s\""),
            (model("fault = { cut = 0.6, no_usage = 0.6 }"), "fault of model \"m\""),
            ("zone = \"Mars\"".to_owned(), "limits file, line 1: "),
        ];
        for (text, problem) in cases {
            let error = Limits::parse(&text).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn keys_are_never_printed() {
        assert!(!format!("{:?}", Limits::free_tier_demo("hunter2")).contains("hunter2"));
    }
}
