//! Dated tables of a provider's published limits, shipped with the program.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;
use toml::Spanned;

use super::check::setting_of;
use super::error::{ConfigError, Document};
use super::limits::{Dimension, Setting};
use super::raw::RawSetting;

/// Oldest first: the last one is the default of a project that names none.
const EMBEDDED: [(&str, &str); 1] =
    [("gemini-2025-02.toml", include_str!("../../presets/gemini-2025-02.toml"))];

static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    let parse = |(name, text): &(&str, &str)| {
        read(Document { path: Path::new(name), text }).expect("a test reads every embedded preset")
    };
    EMBEDDED.iter().map(parse).collect()
});

/// A dated table of limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preset {
    /// What a project's `preset` names, such as `gemini-2025-02`.
    pub name: String,
    /// When the provider said so, as far as known: `2025-02`.
    pub date: String,
    /// Where the provider said so.
    pub source: String,
    /// The provider, as a project names it.
    pub provider: String,
    /// The tiers that every model has limits for.
    pub tiers: Vec<String>,
    /// The models, in the provider's order.
    pub models: Vec<PresetModel>,
}

/// One model of a preset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresetModel {
    /// The id that requests name.
    pub id: String,
    /// Other ids of the same model.
    pub aliases: Vec<String>,
    /// The provider's own quota that the model counts against.
    pub quota_group: String,
    /// Per tier what is limited; a dimension that is absent is unlimited.
    pub tiers: BTreeMap<String, BTreeMap<Dimension, Setting>>,
}

/// Every preset, oldest first.
#[must_use]
pub fn presets() -> &'static [Preset] {
    &PRESETS
}

/// The preset of that name.
#[must_use]
pub fn preset(name: &str) -> Option<&'static Preset> {
    presets().iter().find(|preset| preset.name == name)
}

impl Preset {
    /// The model that `id` names, by its id or by an alias.
    #[must_use]
    pub fn model(&self, id: &str) -> Option<&PresetModel> {
        self.models.iter().find(|model| model.id == id || model.aliases.iter().any(|a| a == id))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPreset {
    name: String,
    date: String,
    source: String,
    provider: String,
    tiers: Vec<String>,
    model: Vec<RawModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    id: String,
    aliases: Vec<String>,
    quota_group: Option<String>,
    tier: BTreeMap<String, BTreeMap<Dimension, Spanned<RawSetting>>>,
}

fn read(document: Document<'_>) -> Result<Preset, ConfigError> {
    let raw: RawPreset = document.parse()?;
    let mut models = Vec::new();
    for model in raw.model {
        let mut tiers = BTreeMap::new();
        for (tier, raw_settings) in model.tier {
            let mut settings = BTreeMap::new();
            for (dimension, setting) in raw_settings {
                let setting = setting_of(document, dimension, &setting)?;
                settings.insert(dimension, setting);
            }
            tiers.insert(tier, settings);
        }
        models.push(PresetModel {
            quota_group: model.quota_group.unwrap_or_else(|| model.id.clone()),
            id: model.id,
            aliases: model.aliases,
            tiers,
        });
    }
    let RawPreset { name, date, source, provider, tiers, model: _ } = raw;
    Ok(Preset { name, date, source, provider, tiers, models })
}
