//! The checks of `[[project]]` and what is in it.

use std::collections::BTreeMap;

use reqwest::Url;
use secrecy::SecretString;
use toml::Spanned;

use super::{absolute_path, duration, model_id, name, setting_of};
use crate::config::env::Env;
use crate::config::error::{ConfigError, Document, suggest};
use crate::config::keys::{is_secret, is_variable_name, looks_like_secret, read_secret_file};
use crate::config::raw::{RawExtra, RawKey, RawLimits, RawProject, RawReserve, Text};
use crate::config::{
    ALL_MODELS, AbsentKey, DayConfig, Dimension, Key, KeyOrigin, ModelLimits, Preset, Project,
    Provider, Reserve, Setting, UnknownModels, presets,
};
use crate::gate::limits::{Limit, Scope, Source, Window};
use crate::gate::units::Metric;

/// The tiers a project may say it is on when no preset lists its own: the first ones of Gemini,
/// all of OpenAI.
const TIERS: [&str; 6] = ["free", "tier1", "tier2", "tier3", "tier4", "tier5"];
const GEMINI_TIERS: usize = 4;

/// The longest window that is not a quota day: its attempts are held in memory.
const WINDOW_MS_MAX: u64 = 24 * 60 * 60 * 1000;

pub(super) fn read(
    document: Document<'_>,
    env: &Env,
    entry: &Spanned<RawProject>,
) -> Result<Project, ConfigError> {
    let raw = entry.get_ref();
    let provider = provider(document, raw.provider.as_ref())?;
    let preset = find_preset(document, provider, raw.preset.as_ref())?;
    let mut project = Project {
        name: name(document, "project.name", &raw.name)?,
        provider,
        base_url: base_url(document, provider, raw.base_url.as_ref())?,
        preset,
        tier: tier(document, provider, preset, raw.tier.as_ref())?,
        keys: Vec::new(),
        absent_keys: Vec::new(),
        day: day(provider, raw),
        max_in_flight: max_in_flight(document, raw.max_in_flight.as_ref())?,
        unknown_models: unknown_models(document, raw.unknown_models.as_ref())?,
        strict_estimates: strict_estimates(document, provider, raw.estimates.as_ref())?,
        reserve: reserve(document, raw.reserve.as_ref())?,
        limits: Vec::new(),
        set: crate::config::SetLimits::new(),
    };
    for key in &raw.keys {
        read_key(document, env, key, &mut project)?;
    }
    for limits in &raw.limits {
        let limits = read_limits(document, limits, &project)?;
        project.limits.push(limits);
    }
    Ok(project)
}

fn provider(document: Document<'_>, text: Option<&Text>) -> Result<Provider, ConfigError> {
    let Some(text) = text else { return Ok(Provider::Gemini) };
    match text.get_ref().as_str() {
        "gemini" => Ok(Provider::Gemini),
        "openai" => Ok(Provider::OpenAi),
        other => {
            let what = format!("unknown provider `{other}`");
            Err(document.refuse(text.span(), what, "known: gemini, openai"))
        }
    }
}

/// An address without credentials; it is not repeated in errors, where they would show.
fn base_url(
    document: Document<'_>,
    provider: Provider,
    text: Option<&Text>,
) -> Result<String, ConfigError> {
    let usual = match provider {
        Provider::Gemini => "https://generativelanguage.googleapis.com",
        Provider::OpenAi => "https://api.openai.com",
    };
    let Some(text) = text else { return Ok(usual.to_owned()) };
    let refuse =
        |what: &str, fix: &str| Err(document.refuse(text.span(), format!("base_url {what}"), fix));
    let example = format!("write something like {usual}");
    let Ok(url) = Url::parse(text.get_ref()) else {
        return refuse("is not a URL", &example);
    };
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("holds credentials", "remove them, keys belong in `keys`");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("has a query or a fragment", "end it with the host or a path");
    }
    match (url.scheme(), url.host_str()) {
        ("https", Some(_)) => {}
        ("http", Some(host)) if is_loopback(host) => {}
        ("http", Some(_)) => {
            return refuse("is http beyond this machine", "use https: requests carry the key");
        }
        _ => return refuse("is not an https URL", &example),
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn find_preset(
    document: Document<'_>,
    provider: Provider,
    text: Option<&Text>,
) -> Result<Option<&'static Preset>, ConfigError> {
    let of_provider = || presets().iter().filter(|preset| preset.provider == provider.as_str());
    let Some(text) = text else { return Ok(of_provider().next_back()) };
    if text.get_ref() == "none" {
        return Ok(None);
    }
    if let Some(found) = of_provider().find(|preset| preset.name == *text.get_ref()) {
        return Ok(Some(found));
    }
    let known = of_provider().map(|preset| preset.name.as_str()).chain(["none"]);
    let fix = format!("known: {}", known.collect::<Vec<_>>().join(", "));
    let whose = match provider {
        Provider::Gemini => "",
        Provider::OpenAi => " of provider \"openai\"",
    };
    let what = format!("unknown preset `{}`{whose}", text.get_ref());
    Err(document.refuse(text.span(), what, fix))
}

fn tier(
    document: Document<'_>,
    provider: Provider,
    preset: Option<&Preset>,
    text: Option<&Text>,
) -> Result<String, ConfigError> {
    let Some(text) = text else { return Ok("free".to_owned()) };
    let known: Vec<&str> = match (preset, provider) {
        (Some(preset), _) => preset.tiers.iter().map(String::as_str).collect(),
        (None, Provider::Gemini) => TIERS[..GEMINI_TIERS].to_vec(),
        (None, Provider::OpenAi) => TIERS.to_vec(),
    };
    if known.contains(&text.get_ref().as_str()) {
        return Ok(text.get_ref().clone());
    }
    let whose = preset.map_or_else(String::new, |preset| format!(" in preset {}", preset.name));
    let what = format!("no tier `{}`{whose}", text.get_ref());
    Err(document.refuse(text.span(), what, format!("known: {}", known.join(", "))))
}

fn day(provider: Provider, raw: &RawProject) -> DayConfig {
    let zone = match provider {
        Provider::Gemini => "America/Los_Angeles",
        Provider::OpenAi => "UTC",
    };
    let text = |value: &Option<Text>, default: &str| {
        value.as_ref().map_or_else(|| default.to_owned(), |value| value.get_ref().clone())
    };
    DayConfig { zone: text(&raw.day.zone, zone), reset: text(&raw.day.reset, "0 0 * * *") }
}

fn max_in_flight(
    document: Document<'_>,
    value: Option<&Spanned<i64>>,
) -> Result<Option<u32>, ConfigError> {
    let Some(value) = value else { return Ok(None) };
    match u32::try_from(*value.get_ref()) {
        Ok(number) if number > 0 => Ok(Some(number)),
        Ok(_) | Err(_) => {
            let what = format!("max_in_flight {} is out of range", value.get_ref());
            Err(document.refuse(value.span(), what, format!("write 1 to {}", u32::MAX)))
        }
    }
}

fn unknown_models(
    document: Document<'_>,
    text: Option<&Text>,
) -> Result<UnknownModels, ConfigError> {
    let Some(text) = text else { return Ok(UnknownModels::Learn) };
    match text.get_ref().as_str() {
        "learn" => Ok(UnknownModels::Learn),
        "refuse" => Ok(UnknownModels::Refuse),
        other => {
            let what = format!("unknown_models cannot be `{other}`");
            Err(document.refuse(text.span(), what, "write \"learn\" or \"refuse\""))
        }
    }
}

fn strict_estimates(
    document: Document<'_>,
    provider: Provider,
    text: Option<&Text>,
) -> Result<bool, ConfigError> {
    let Some(text) = text else { return Ok(false) };
    match (text.get_ref().as_str(), provider) {
        ("bytes", _) => Ok(false),
        ("strict", Provider::Gemini) => Ok(true),
        ("strict", Provider::OpenAi) => {
            let what = "estimates cannot be `strict`: provider \"openai\" counts no tokens ahead";
            Err(document.refuse(text.span(), what, "write \"bytes\""))
        }
        (other, _) => {
            let what = format!("estimates cannot be `{other}`");
            Err(document.refuse(text.span(), what, "write \"bytes\" or \"strict\""))
        }
    }
}

fn reserve(document: Document<'_>, raw: Option<&RawReserve>) -> Result<Reserve, ConfigError> {
    let Some(RawReserve { interactive }) = raw else { return Ok(Reserve::Auto) };
    if interactive.get_ref() == "auto" {
        return Ok(Reserve::Auto);
    }
    let number = interactive.get_ref().strip_suffix('%').and_then(|digits| digits.parse().ok());
    if let Some(percent @ 0..=99) = number {
        return Ok(Reserve::Percent(percent));
    }
    let what = format!("reserve.interactive cannot be `{}`", interactive.get_ref());
    Err(document.refuse(interactive.span(), what, "write \"auto\" or \"0%\" to \"99%\""))
}

fn read_key(
    document: Document<'_>,
    env: &Env,
    entry: &Spanned<RawKey>,
    project: &mut Project,
) -> Result<(), ConfigError> {
    let raw = entry.get_ref();
    let name = name(document, "the key's name", &raw.name)?;
    let used = project.keys.iter().map(|key| &key.name);
    if used.chain(project.absent_keys.iter().map(|key| &key.name)).any(|other| *other == name) {
        let what = format!("a second key `{name}` in project `{}`", project.name);
        return Err(document.refuse(raw.name.span(), what, "give every key a name of its own"));
    }
    match (&raw.env, &raw.file) {
        (Some(variable), None) => {
            if !is_variable_name(variable.get_ref()) || looks_like_secret(variable.get_ref()) {
                let what = format!("env of key `{name}` is not the name of a variable");
                let fix = "name the variable that holds the key, and never write the key here";
                return Err(document.refuse(variable.span(), what, fix));
            }
            let variable = variable.get_ref().clone();
            if let Some(secret) = env.text(&variable).map(str::trim).filter(|v| is_secret(v)) {
                let secret = SecretString::from(secret);
                project.keys.push(Key { name, secret, origin: KeyOrigin::Env(variable) });
            } else {
                let why = "is not set or not one word of printable ASCII; set it, or name \
                    another variable or a file in `keys`";
                let origin = KeyOrigin::Env(variable);
                project.absent_keys.push(AbsentKey { name, origin, why: why.to_owned() });
            }
        }
        (None, Some(file)) => {
            let path = absolute_path(document, &format!("file of key `{name}`"), file)?;
            match read_secret_file(document, file.span(), &path, env) {
                Ok(secret) => {
                    project.keys.push(Key { name, secret, origin: KeyOrigin::File(path) });
                }
                // Only the daemon's user may read it, and a credential of systemd is there only
                // while the unit runs: whoever asks for a report needs no key.
                Err(ConfigError::UnreadableSecret { source, .. }) => {
                    let why = format!("cannot be read: {source}; only the daemon needs it");
                    let origin = KeyOrigin::File(path);
                    project.absent_keys.push(AbsentKey { name, origin, why });
                }
                Err(error) => return Err(error),
            }
        }
        (Some(_), Some(_)) | (None, None) => {
            let what = format!("key `{name}` needs exactly one of `env` and `file`");
            let fix = "say where it is: env = \"VARIABLE\" or file = \"/path\"";
            return Err(document.refuse(entry.span(), what, fix));
        }
    }
    Ok(())
}

fn read_limits(
    document: Document<'_>,
    entry: &Spanned<RawLimits>,
    project: &Project,
) -> Result<ModelLimits, ConfigError> {
    let raw = entry.get_ref();
    let model = match raw.model.get_ref().as_str() {
        ALL_MODELS => ALL_MODELS.to_owned(),
        _ => model_id(document, "limits.model", &raw.model)?,
    };
    let group = project.quota_group(&model);
    if let Some(other) = project.limits.iter().find(|o| project.quota_group(&o.model) == group) {
        let what = if other.model == model {
            format!("second limits for `{model}`")
        } else {
            format!("second limits for `{model}`, which is `{}` by another name", other.model)
        };
        return Err(document.refuse(raw.model.span(), what, "join the two tables"));
    }
    let written = [&raw.rpm, &raw.tpm, &raw.rpd, &raw.tpd, &raw.ipm, &raw.spend, &raw.sessions];
    let mut dimensions = BTreeMap::new();
    for (dimension, value) in Dimension::ALL.into_iter().zip(written) {
        if let Some(value) = value {
            let setting = setting_of(document, dimension, value)?;
            if model == ALL_MODELS && setting == Setting::Off {
                let what = "\"off\" cannot be said of all models at once";
                return Err(document.refuse(value.span(), what, "name the model"));
            }
            dimensions.insert(dimension, setting);
        }
    }
    if dimensions.is_empty() && raw.extra.is_empty() {
        let what = format!("limits for `{model}` set nothing");
        return Err(document.refuse(raw.model.span(), what, "add a limit or remove the table"));
    }
    let mut extra: Vec<Limit> = Vec::new();
    for entry in &raw.extra {
        let limit = read_extra(document, entry.get_ref())?;
        if extra
            .iter()
            .any(|o| (o.metric, o.window, o.scope) == (limit.metric, limit.window, limit.scope))
        {
            let what = format!("a second extra limit of `{model}` with this window");
            return Err(document.refuse(entry.get_ref().window.span(), what, "keep one"));
        }
        extra.push(limit);
    }
    Ok(ModelLimits { model, dimensions, extra })
}

fn read_extra(document: Document<'_>, raw: &RawExtra) -> Result<Limit, ConfigError> {
    let known: Vec<&str> = Metric::ALL.into_iter().map(Metric::as_str).collect();
    let dimension = raw.dimension.get_ref();
    let Some(metric) = Metric::ALL.into_iter().find(|metric| metric.as_str() == dimension) else {
        let what = format!("unknown dimension `{dimension}`");
        return Err(document.refuse(raw.dimension.span(), what, suggest(dimension, &known)));
    };
    let scope = match raw.scope.as_ref().map(|scope| (scope, scope.get_ref().as_str())) {
        None | Some((_, "project")) => Scope::Project,
        Some((_, "key")) => Scope::Key,
        Some((scope, other)) => {
            let what = format!("unknown scope `{other}`");
            return Err(document.refuse(scope.span(), what, "known: project, key"));
        }
    };
    let window = window(document, &raw.window)?;
    let named = Dimension::ALL
        .into_iter()
        .find(|d| (d.metric(), d.window(), d.scope()) == (metric, window, scope));
    if let Some(named) = named {
        let what = format!("this extra limit is `{named}`");
        return Err(document.refuse(raw.window.span(), what, format!("set {named} instead")));
    }
    match u64::try_from(*raw.limit.get_ref()) {
        Ok(value) if value > 0 => {
            // Money is written in US dollars.
            let unit = if metric == Metric::Spend { 1_000_000_000 } else { 1 };
            let value = value.saturating_mul(unit);
            Ok(Limit { metric, window, scope, value, source: Source::Config })
        }
        Ok(_) | Err(_) => {
            let fix = "write 1 or more, or set a dimension to \"off\" to refuse the model";
            Err(document.refuse(raw.limit.span(), "a limit is at least 1", fix))
        }
    }
}

fn window(document: Document<'_>, text: &Text) -> Result<Window, ConfigError> {
    match text.get_ref().as_str() {
        "day" => return Ok(Window::Day),
        "concurrent" => return Ok(Window::Concurrent),
        _ => {}
    }
    let length = duration(document, "window", "`10s`, or `day`", text)?;
    if let Ok(ms @ 1000..=WINDOW_MS_MAX) = u64::try_from(length.as_millis()) {
        return Ok(Window::Rolling { ms });
    }
    let what = format!("window `{}` is out of range", text.get_ref());
    Err(document.refuse(text.span(), what, "write 1s to 24h, or \"day\" for the quota day"))
}
