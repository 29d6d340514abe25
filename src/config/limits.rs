//! Limits as they are configured, and how a preset and the configuration file join.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use thiserror::Error;

use super::preset::PresetModel;
use super::prices::decimal;
use super::{ModelRule, Project};
use crate::gate::limits::{Allowance, Limit, MINUTE_MS, SPEND_WINDOW_MS, Scope, Source, Window};
use crate::gate::units::Metric;

/// A limit that has a short name of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Requests a minute.
    Rpm,
    /// Input tokens a minute.
    Tpm,
    /// Requests a quota day.
    Rpd,
    /// Input tokens a quota day.
    Tpd,
    /// Images a minute.
    Ipm,
    /// US dollars in ten minutes.
    Spend,
    /// Live sessions at once, of each key.
    Sessions,
}

/// What a preset, the file or a command says about one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// At most this many; at least 1. Of money in billionths of a US dollar.
    Value(u64),
    /// Unlimited.
    None,
    /// The model is not offered at all, whichever dimension says so.
    Off,
}

/// A word that is no dimension.
#[derive(Debug, Error)]
#[error("no such dimension; write rpm, tpm, rpd, tpd, ipm, spend or sessions")]
pub struct UnknownDimension;

/// A value that no limit can have.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingError {
    /// Zero or less.
    #[error(
        "a limit is at least 1; write \"off\" to refuse the model, \"none\" to leave it unlimited"
    )]
    NotPositive,
    /// No amount of money.
    #[error("not an amount of US dollars; write a number with at most nine decimals, or \"none\"")]
    Money,
    /// Neither a number nor a known word.
    #[error("not a limit; write a whole number, \"none\" or \"off\"")]
    Unknown,
}

/// In place of a model's id: all models of the project together.
pub const ALL_MODELS: &str = "*";

/// What the configuration file says about one model (`[[project.limits]]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// The model as written; an alias stands for its model.
    pub model: String,
    /// The dimensions that it sets; each beats the preset's.
    pub dimensions: BTreeMap<Dimension, Setting>,
    /// Limits of other windows, beside the dimensions.
    pub extra: Vec<Limit>,
}

impl Dimension {
    /// Every dimension, in the order in which reports show them.
    pub const ALL: [Self; 7] =
        [Self::Rpm, Self::Tpm, Self::Rpd, Self::Tpd, Self::Ipm, Self::Spend, Self::Sessions];

    /// The word used in files, commands and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rpm => "rpm",
            Self::Tpm => "tpm",
            Self::Rpd => "rpd",
            Self::Tpd => "tpd",
            Self::Ipm => "ipm",
            Self::Spend => "spend",
            Self::Sessions => "sessions",
        }
    }

    /// What it counts.
    #[must_use]
    pub fn metric(self) -> Metric {
        match self {
            Self::Rpm | Self::Rpd => Metric::Requests,
            Self::Tpm | Self::Tpd => Metric::InputTokens,
            Self::Ipm => Metric::Images,
            Self::Spend => Metric::Spend,
            Self::Sessions => Metric::Sessions,
        }
    }

    /// Over what it counts.
    #[must_use]
    pub fn window(self) -> Window {
        match self {
            Self::Rpm | Self::Tpm | Self::Ipm => Window::Rolling { ms: MINUTE_MS },
            Self::Rpd | Self::Tpd => Window::Day,
            Self::Spend => Window::Rolling { ms: SPEND_WINDOW_MS },
            Self::Sessions => Window::Concurrent,
        }
    }

    /// Whose use it counts together.
    #[must_use]
    pub fn scope(self) -> Scope {
        match self {
            Self::Sessions => Scope::Key,
            Self::Rpm | Self::Tpm | Self::Rpd | Self::Tpd | Self::Ipm | Self::Spend => {
                Scope::Project
            }
        }
    }

    /// The limit of this dimension.
    #[must_use]
    pub fn limit(self, value: u64, source: Source) -> Limit {
        let (metric, window, scope) = (self.metric(), self.window(), self.scope());
        Limit { metric, window, scope, value, source }
    }

    /// Reads what a command line or a file says about this dimension.
    pub fn setting(self, text: &str) -> Result<Setting, SettingError> {
        match self {
            Self::Spend if text.starts_with(|c: char| c.is_ascii_digit()) => match money(text) {
                Some(0) => Err(SettingError::NotPositive),
                Some(nanos) => Ok(Setting::Value(nanos)),
                None => Err(SettingError::Money),
            },
            Self::Rpm
            | Self::Tpm
            | Self::Rpd
            | Self::Tpd
            | Self::Ipm
            | Self::Spend
            | Self::Sessions => text.parse(),
        }
    }

    /// A setting as it is written: of money in US dollars.
    #[must_use]
    pub fn show(self, setting: Setting) -> String {
        match (self, setting) {
            (Self::Spend, Setting::Value(nanos)) => format!("\"{}\"", dollars(nanos)),
            _ => setting.to_string(),
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Dimension {
    type Err = UnknownDimension;

    fn from_str(text: &str) -> Result<Self, UnknownDimension> {
        Self::ALL.into_iter().find(|dimension| dimension.as_str() == text).ok_or(UnknownDimension)
    }
}

impl Setting {
    /// The setting for a number.
    pub fn number(value: i64) -> Result<Self, SettingError> {
        match u64::try_from(value) {
            Ok(value) if value > 0 => Ok(Self::Value(value)),
            Ok(_) | Err(_) => Err(SettingError::NotPositive),
        }
    }

    /// The setting for a word.
    pub fn word(text: &str) -> Result<Self, SettingError> {
        match text {
            "none" => Ok(Self::None),
            "off" => Ok(Self::Off),
            _ => Err(SettingError::Unknown),
        }
    }
}

/// A number in decimal (`_` may separate digits), `none` or `off`: what a command line says.
impl FromStr for Setting {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        text.replace('_', "").parse().map_or_else(|_| Self::word(text), Self::number)
    }
}

/// As it is written in TOML.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value}"),
            Self::None => f.write_str("\"none\""),
            Self::Off => f.write_str("\"off\""),
        }
    }
}

impl Project {
    /// What this project may do with `model`, by the file and the preset: per dimension the file
    /// beats the preset, and the file's extra limits come on top. A model that the preset has as
    /// off is on again when the file sets a dimension of it. A model that the preset does not have
    /// on this tier is unknown, unless the file has it. An alias, and a `models/` prefix, stand
    /// for the model.
    #[must_use]
    pub fn allowance(&self, model: &str) -> ModelRule {
        let model = model.strip_prefix("models/").unwrap_or(model);
        let row = self.preset_row(model);
        let quota_group = self.quota_group(model);
        let written = self.limits.iter().find(|w| self.quota_group(&w.model) == quota_group);
        let set = self.set.get(quota_group);
        let of_tier = row.and_then(|row| row.tiers.get(&self.tier));
        if of_tier.is_none() && written.is_none() && set.is_none() {
            return ModelRule::Unknown;
        }
        let empty = BTreeMap::new();
        let set = set.unwrap_or(&empty);
        let of_preset = of_tier.unwrap_or(&empty);
        let layers = Layers { of_preset, preset: self.preset_source(), written, set };
        let allowance = layers.join();
        ModelRule::Known { quota_group: quota_group.to_owned(), allowance }
    }

    /// The limits that all of the project's models share: those of the model `*`.
    #[must_use]
    pub fn shared_limits(&self) -> Vec<Limit> {
        let empty = BTreeMap::new();
        let row = self.preset_row(ALL_MODELS);
        let layers = Layers {
            of_preset: row.and_then(|row| row.tiers.get(&self.tier)).unwrap_or(&empty),
            preset: self.preset_source(),
            written: self.limits.iter().find(|limits| limits.model == ALL_MODELS),
            set: self.set.get(ALL_MODELS).unwrap_or(&empty),
        };
        match layers.join() {
            Allowance::Limited(limits) => limits,
            Allowance::Off { .. } => Vec::new(),
        }
    }

    /// Every model that the preset, on whatever tier, the file or a user knows: the preset's in its
    /// order, then the file's own and those that were set, without aliases.
    #[must_use]
    pub fn known_models(&self) -> Vec<&str> {
        let of_preset = self.preset.into_iter().flat_map(|preset| &preset.models);
        let own = self.limits.iter().map(|limits| limits.model.as_str());
        let written = own.filter(|model| *model != ALL_MODELS).collect::<Vec<_>>();
        let has_model = |group: &&str| {
            let of_preset = self.preset.into_iter().flat_map(|preset| &preset.models);
            written.iter().any(|model| self.quota_group(model) == *group)
                || of_preset.into_iter().any(|row| row.quota_group == *group)
        };
        let set = self.set.keys().map(String::as_str).filter(|group| *group != ALL_MODELS);
        let set: Vec<_> = set.filter(|group| !has_model(group)).collect();
        of_preset
            .map(|row| row.id.as_str())
            .filter(|model| *model != ALL_MODELS)
            .chain(written.into_iter().chain(set).filter(|model| self.preset_row(model).is_none()))
            .collect()
    }

    /// The provider's own quota that `model` counts against, as far as the preset knows; else the
    /// model itself.
    #[must_use]
    pub fn quota_group<'a>(&'a self, model: &'a str) -> &'a str {
        self.preset_row(model).map_or(model, |row| row.quota_group.as_str())
    }

    fn preset_row(&self, model: &str) -> Option<&'static PresetModel> {
        self.preset.and_then(|preset| preset.model(model))
    }

    fn preset_source(&self) -> Source {
        Source::Preset {
            name: self.preset.map_or_else(|| "none".to_owned(), |preset| preset.name.clone()),
            tier: self.tier.clone(),
        }
    }
}

/// Billionths of a US dollar, of an amount in dollars.
fn money(text: &str) -> Option<u64> {
    u64::try_from(decimal(&text.replace('_', ""), 9)?).ok()
}

/// Billionths of a US dollar in dollars, with as many decimals as needed.
#[must_use]
pub fn dollars(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What says something about a model, the last word last.
struct Layers<'a> {
    of_preset: &'a BTreeMap<Dimension, Setting>,
    preset: Source,
    written: Option<&'a ModelLimits>,
    set: &'a BTreeMap<Dimension, Setting>,
}

impl Layers<'_> {
    fn join(&self) -> Allowance {
        let empty = BTreeMap::new();
        let of_file = self.written.map_or(&empty, |written| &written.dimensions);
        let layers = [
            (self.set, Source::Set),
            (of_file, Source::Config),
            (self.of_preset, self.preset.clone()),
        ];
        // The uppermost layer that says anything turns the model on or off.
        for (layer, source) in &layers {
            if layer.values().any(|setting| *setting == Setting::Off) {
                return Allowance::Off { source: source.clone() };
            }
            if !layer.is_empty() {
                break;
            }
        }
        let mut limits = Vec::new();
        for dimension in Dimension::ALL {
            let said = layers.iter().find_map(|(layer, source)| {
                let setting = layer.get(&dimension)?;
                // An "off" that is left here was lifted by a layer above.
                (*setting != Setting::Off).then_some((setting, source))
            });
            if let Some((Setting::Value(value), source)) = said {
                limits.push(dimension.limit(*value, source.clone()));
            }
        }
        limits.extend(self.written.into_iter().flat_map(|written| written.extra.iter().cloned()));
        Allowance::Limited(limits)
    }
}
