//! What the operator wrote, as checked values: where to listen and keep state, which projects
//! there are with their keys, and which limits hold.
//!
//! The file is read once and parsed at this edge: unknown fields and impossible values are errors
//! that name file, line and column. Secrets are `SecretString`s from here on. The reference of
//! the file is `docs/configuration.md`.

mod check;
mod env;
mod error;
mod imported;
mod keys;
mod keystore;
mod limits;
mod preset;
pub mod prices;
mod raw;
mod render;
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::gate::limits::Allowance;

pub use env::Env;
pub use error::{ConfigError, Place};
pub use imported::{ImportError, ImportReport, ImportedKey, KnownKey};
pub use keys::{AbsentKey, Key, KeyOrigin};
pub use keystore::{KEYSTORE_BYTES_MAX, Keystore, KeystoreError};
pub use limits::{
    ALL_MODELS, Dimension, ModelLimits, Setting, SettingError, UnknownDimension, dollars,
};
pub use preset::{Preset, PresetModel, preset, presets};
pub use server::{Auth, Listen, ListenError, Overrides, OwnCertificate, Server, Tls};

use error::Document;

/// A configuration file longer than this is a mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a configuration of the whole machine is.
const SYSTEM_FILE: &str = "/etc/tidegate/tidegate.toml";

/// The whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen and where to keep state.
    pub server: Server,
    /// What holds for a batch that does not say.
    pub defaults: Defaults,
    /// The projects in the order of the file; at least one, with distinct names.
    pub projects: Vec<Project>,
    /// The routes of each pool in the order of the file; at least one each, and no two the same.
    pub pools: BTreeMap<String, Vec<PoolRoute>>,
    /// The weights of tenants, 1 to [`TENANT_WEIGHT_MAX`]; of others it is 1.
    pub tenants: BTreeMap<String, u32>,
    /// What holds for calls of clients.
    pub proxy: Proxy,
    /// How long what is kept.
    pub retention: Retention,
    /// Where all this was read.
    pub origin: Origin,
}

/// What holds for calls of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// How long a call is held that does not say.
    pub max_wait: Duration,
    /// Whether calls are recorded and never held.
    pub shadow: bool,
}

impl Default for Proxy {
    fn default() -> Self {
        Self { max_wait: Duration::from_secs(20), shadow: false }
    }
}

/// Where a configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// The default that needs no file.
    BuiltIn,
}

/// What holds for a batch that does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Name of one of the projects; with a pool, that of its first route.
    pub project: String,
    /// A model id; none with a pool.
    pub model: Option<String>,
    /// Name of one of the pools.
    pub pool: Option<String>,
}

/// Where the items of a batch may go that names a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRoute {
    /// Name of one of the projects.
    pub project: String,
    /// The model's id.
    pub model: String,
}

/// The largest weight of a tenant.
pub const TENANT_WEIGHT_MAX: u32 = 1_000;

/// How long what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Rows of the ledger; after that only the hourly and daily sums stay. At least two days,
    /// because what a quota day still allows is derived from the rows.
    pub attempts: Duration,
    /// Prompts and answers.
    pub bodies: BodyRetention,
}

/// How long prompts and answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRetention {
    /// This long after the batch is done.
    For(Duration),
    /// Until the batch is done.
    UntilDone,
    /// Only while they are in flight.
    InFlight,
}

/// The owner of an upstream quota.
#[derive(Clone, Debug)]
pub struct Project {
    /// `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
    pub name: String,
    /// Who serves it.
    pub provider: Provider,
    /// `https`, or `http` on a loopback host; without a trailing slash, query or credentials.
    pub base_url: String,
    /// The table of limits; none with `preset = "none"`.
    pub preset: Option<&'static Preset>,
    /// The usage tier; one of the preset's.
    pub tier: String,
    /// The keys that can be used, in the order of the file, then the imported ones where
    /// [`Config::with_imported_keys`] was asked for them; names are distinct.
    pub keys: Vec<Key>,
    /// The keys whose environment variable is not set, in the order of the file.
    pub absent_keys: Vec<AbsentKey>,
    /// When the quota day starts.
    pub day: DayConfig,
    /// Requests in flight at once, at least 1; unset: min(rpm, 1000).
    pub max_in_flight: Option<u32>,
    /// What to do with a model that neither the preset, for this tier, nor the file knows.
    pub unknown_models: UnknownModels,
    /// Whether the provider counts large prompts before they are sent (`estimates = "strict"`).
    pub strict_estimates: bool,
    /// What batches leave to interactive traffic.
    pub reserve: Reserve,
    /// The file's own limits; no two entries for one quota group.
    pub limits: Vec<ModelLimits>,
    /// What users set while a daemon ran, by quota group ([`ALL_MODELS`] for all together): it
    /// beats the file. Not in the file; whoever has the database enters it.
    pub set: SetLimits,
}

/// Settings by quota group and dimension.
pub type SetLimits = BTreeMap<String, BTreeMap<Dimension, Setting>>;

/// The provider of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The Gemini API.
    Gemini,
    /// OpenAI, or any API that is compatible with it.
    OpenAi,
}

/// When a project's quota day starts: not checked here, the calendar does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayConfig {
    /// IANA name of the time zone.
    pub zone: String,
    /// Cron expression in that zone.
    pub reset: String,
}

/// What to do with a model that nothing is known of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownModels {
    /// Send carefully, and learn the limits from refusals.
    Learn,
    /// Refuse at submit.
    Refuse,
}

/// The share of each limit that batches leave to interactive traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Nothing until interactive traffic is seen, then as much as it needs.
    Auto,
    /// This many per cent, 0 to 99.
    Percent(u8),
}

/// A model's id as requests name it, without the prefix `models/`: 1 to 128 ASCII characters
/// without spaces. None for any other text.
#[must_use]
pub fn model_id(text: &str) -> Option<&str> {
    let id = text.strip_prefix("models/").unwrap_or(text);
    let shaped = !id.is_empty() && id.len() <= 128;
    (shaped && id.bytes().all(|byte| byte.is_ascii_graphic())).then_some(id)
}

/// Whether a text can be a tenant's name: 1 to 256 bytes without control characters.
fn tenant_name(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// What the configuration knows about one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRule {
    /// The preset, the file or both have it.
    Known {
        /// The provider's own quota that it counts against.
        quota_group: String,
        /// What may be done with it.
        allowance: Allowance,
    },
    /// Neither has it for the project's tier: `unknown_models` says what to do.
    Unknown,
}

impl Config {
    /// The configuration file to use: `explicit` (`--config`), else `$TIDEGATE_CONFIG`, else the
    /// first of `/etc/tidegate/tidegate.toml` and `$XDG_CONFIG_HOME/tidegate/tidegate.toml` that
    /// exists. `None` means the built-in default.
    #[must_use]
    pub fn locate(explicit: Option<&Path>, env: &Env) -> Option<PathBuf> {
        locate_from(explicit, env, Path::new(SYSTEM_FILE))
    }

    /// Reads, checks and completes the configuration that `locate` finds, with its secrets.
    ///
    /// A key whose environment variable is not set is no error: see [`Project::missing_keys`].
    pub fn load(explicit: Option<&Path>, env: &Env) -> Result<Self, ConfigError> {
        let Some(path) = Self::locate(explicit, env) else {
            return Self::built_in(env);
        };
        let text = read_file(&path)?;
        check::read(Document { path: &path, text: &text }, env, Origin::File(path.clone()))
    }

    /// The configuration that holds without a file: one project `default` on the free tier of the
    /// newest preset, its key from `GOOGLE_API_KEY`, else `GEMINI_API_KEY` (as the Gemini SDKs
    /// choose), and XDG directories.
    pub fn built_in(env: &Env) -> Result<Self, ConfigError> {
        let names = ["GOOGLE_API_KEY", "GEMINI_API_KEY"];
        let set = names.into_iter().find(|name| env.text(name).is_some());
        let text = format!(
            "[[project]]\nname = \"default\"\nkeys = [{{ name = \"main\", env = \"{}\" }}]\n",
            set.unwrap_or("GEMINI_API_KEY")
        );
        let path = Path::new("built-in configuration");
        check::read(Document { path, text: &text }, env, Origin::BuiltIn)
    }

    /// Takes up what users set: project, quota group, dimension and setting, in words. What names
    /// no project or dimension of this configuration is left out.
    #[must_use]
    pub fn with_set_limits<'a>(
        mut self,
        sets: impl IntoIterator<Item = (&'a str, &'a str, &'a str, &'a str)>,
    ) -> Self {
        self.projects.iter_mut().for_each(|project| project.set.clear());
        for (project, group, dimension, setting) in sets {
            let known = self.projects.iter_mut().find(|known| known.name == project);
            let dimension = dimension.parse::<Dimension>().ok();
            let read = dimension.and_then(|it| Some((it, it.setting(setting).ok()?)));
            if let (Some(project), Some((dimension, setting))) = (known, read) {
                project.set.entry(group.to_owned()).or_default().insert(dimension, setting);
            }
        }
        self
    }

    /// What of `new` cannot be taken up while a daemon runs, in words; empty when all can.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<String> {
        let mut needs = Vec::new();
        if self.server != new.server {
            needs.push("[server]".to_owned());
        }
        let names = |config: &Self| {
            config.projects.iter().map(|project| project.name.clone()).collect::<Vec<_>>()
        };
        if names(self) != names(new) {
            needs.push("the projects".to_owned());
            return needs;
        }
        for (old, new) in self.projects.iter().zip(&new.projects) {
            let parts = [
                ("provider", old.provider != new.provider),
                ("base_url", old.base_url != new.base_url),
                ("day", old.day != new.day),
            ];
            let changed = parts.into_iter().filter(|(_, changed)| *changed);
            needs.extend(changed.map(|(part, _)| format!("{part} of project {}", old.name)));
        }
        needs
    }

    /// The project of that name.
    #[must_use]
    pub fn project(&self, name: &str) -> Option<&Project> {
        self.projects.iter().find(|project| project.name == name)
    }
}

impl Project {
    /// One sentence for every key that cannot be had here: what is missing and what to do; one
    /// for a project without any. Empty when all keys are there.
    #[must_use]
    pub fn missing_keys(&self) -> Vec<String> {
        if self.keys.is_empty() && self.absent_keys.is_empty() {
            let (name, variable) = (&self.name, self.provider.usual_variable());
            return vec![format!(
                "project `{name}` has no keys; add keys = [{{ name = \"main\", env = \
                \"{variable}\" }}], or run: tidegate keys import keystore.json --project {name}"
            )];
        }
        let sentence = |key: &AbsentKey| {
            format!(
                "project `{}`: key `{}` is missing: {} {}",
                self.name, key.name, key.origin, key.why
            )
        };
        self.absent_keys.iter().map(sentence).collect()
    }
}

impl Provider {
    /// The word used in files and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gemini => "gemini",
            Self::OpenAi => "openai",
        }
    }

    /// The environment variable in which its key usually is.
    fn usual_variable(self) -> &'static str {
        match self {
            Self::Gemini => "GEMINI_API_KEY",
            Self::OpenAi => "OPENAI_API_KEY",
        }
    }
}

fn locate_from(explicit: Option<&Path>, env: &Env, system: &Path) -> Option<PathBuf> {
    if let Some(named) = explicit.or_else(|| env.path("TIDEGATE_CONFIG")) {
        return Some(named.to_path_buf());
    }
    let own = env.xdg("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("tidegate/tidegate.toml"));
    // A file that cannot be looked at is chosen too: reading it says why, where passing over it
    // would quietly run with other limits.
    let may_exist = |path: &PathBuf| !matches!(path.try_exists(), Ok(false));
    [Some(system.to_path_buf()), own].into_iter().flatten().find(may_exist)
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_path_buf(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let refuse = |text: &str, what: &str, fix: &str| {
        Document { path, text }.refuse(text.len()..text.len(), what, fix)
    };
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(refuse("", "longer than 1 MiB", "name a configuration file"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = error.into_bytes();
        let before = text.get(..valid).and_then(|head| std::str::from_utf8(head).ok());
        refuse(before.unwrap_or_default(), "not UTF-8", "save the file as UTF-8")
    })
}
