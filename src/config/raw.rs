//! The configuration as it is written, before any meaning: one struct a table, every value with
//! its place.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Error, Visitor};
use toml::Spanned;

pub(super) type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawConfig {
    #[serde(default)]
    pub(super) server: RawServer,
    #[serde(default)]
    pub(super) defaults: RawDefaults,
    #[serde(default)]
    pub(super) project: Vec<Spanned<RawProject>>,
    #[serde(default)]
    pub(super) pool: BTreeMap<Text, RawPool>,
    #[serde(default)]
    pub(super) tenants: BTreeMap<Text, Spanned<i64>>,
    #[serde(default)]
    pub(super) proxy: RawProxy,
    #[serde(default)]
    pub(super) retention: RawRetention,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawProxy {
    pub(super) max_wait: Option<Text>,
    #[serde(default)]
    pub(super) shadow: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawServer {
    pub(super) listen: Option<Spanned<Vec<Text>>>,
    pub(super) state_dir: Option<Text>,
    pub(super) spool_dir: Option<Text>,
    pub(super) auth: Option<RawAuth>,
    pub(super) tls: Option<RawTls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table `{ listen = \"127.0.0.1:8431\" }`")]
pub(super) struct RawTls {
    pub(super) listen: Text,
    pub(super) cert_file: Option<Text>,
    pub(super) key_file: Option<Text>,
    #[serde(default)]
    pub(super) names: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table `{ token_file = \"…\" }`")]
pub(super) struct RawAuth {
    pub(super) token_file: Text,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawDefaults {
    pub(super) project: Option<Text>,
    pub(super) model: Option<Text>,
    pub(super) pool: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table `{ routes = [{ … }] }`")]
pub(super) struct RawPool {
    pub(super) routes: Spanned<Vec<Spanned<RawRoute>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table `{ project = \"…\", model = \"…\" }`")]
pub(super) struct RawRoute {
    pub(super) project: Text,
    pub(super) model: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawProject {
    pub(super) name: Text,
    pub(super) provider: Option<Text>,
    pub(super) base_url: Option<Text>,
    pub(super) preset: Option<Text>,
    pub(super) tier: Option<Text>,
    #[serde(default)]
    pub(super) keys: Vec<Spanned<RawKey>>,
    #[serde(default)]
    pub(super) day: RawDay,
    pub(super) reserve: Option<RawReserve>,
    pub(super) max_in_flight: Option<Spanned<i64>>,
    pub(super) unknown_models: Option<Text>,
    pub(super) estimates: Option<Text>,
    #[serde(default)]
    pub(super) limits: Vec<Spanned<RawLimits>>,
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table `{ name = \"…\", env = \"…\" }` or `{ name = \"…\", file = \"…\" }`"
)]
pub(super) struct RawKey {
    pub(super) name: Text,
    pub(super) env: Option<Text>,
    pub(super) file: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table `{ zone = \"…\", reset = \"…\" }`")]
pub(super) struct RawDay {
    pub(super) zone: Option<Text>,
    pub(super) reset: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table `{ interactive = \"…\" }`")]
pub(super) struct RawReserve {
    pub(super) interactive: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawLimits {
    pub(super) model: Text,
    pub(super) rpm: Option<Spanned<RawSetting>>,
    pub(super) tpm: Option<Spanned<RawSetting>>,
    pub(super) rpd: Option<Spanned<RawSetting>>,
    pub(super) tpd: Option<Spanned<RawSetting>>,
    pub(super) ipm: Option<Spanned<RawSetting>>,
    pub(super) spend: Option<Spanned<RawSetting>>,
    pub(super) sessions: Option<Spanned<RawSetting>>,
    #[serde(default)]
    pub(super) extra: Vec<Spanned<RawExtra>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawExtra {
    pub(super) dimension: Text,
    pub(super) scope: Option<Text>,
    pub(super) window: Text,
    pub(super) limit: Spanned<i64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawRetention {
    pub(super) attempts: Option<Text>,
    pub(super) bodies: Option<Text>,
}

/// A limit's value before its check.
pub(super) enum RawSetting {
    Number(i64),
    Word(String),
}

impl<'de> Deserialize<'de> for RawSetting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SettingVisitor)
    }
}

struct SettingVisitor;

impl Visitor<'_> for SettingVisitor {
    type Value = RawSetting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, \"none\" or \"off\"")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<RawSetting, E> {
        Ok(RawSetting::Number(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<RawSetting, E> {
        Ok(RawSetting::Word(value.to_owned()))
    }
}
