//! From the raw structure to checked values: every rule of the file that its shape cannot say.

mod pools;
mod project;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::env::Env;
use super::error::{ConfigError, Document};
use super::keys::{is_name, looks_like_secret, read_secret_file};
use super::limits::{Dimension, Setting};
use super::raw::{RawConfig, RawProxy, RawRetention, RawServer, RawSetting, Text};
use super::server::{Auth, Listen, Server, spool_in};
use super::{BodyRetention, Config, Origin, Project, Proxy, Retention};

const DAY: Duration = Duration::from_hours(24);

/// Reads a document into a checked configuration, with the secrets that it names.
pub(super) fn read(
    document: Document<'_>,
    env: &Env,
    origin: Origin,
) -> Result<Config, ConfigError> {
    let raw: RawConfig = document.parse()?;
    let mut projects: Vec<Project> = Vec::new();
    for entry in &raw.project {
        let project = project::read(document, env, entry)?;
        if projects.iter().any(|other| other.name == project.name) {
            return Err(document.refuse(
                entry.get_ref().name.span(),
                format!("a second project `{}`", project.name),
                "give every project a name of its own",
            ));
        }
        projects.push(project);
    }
    let pools = pools::pools(document, &projects, &raw.pool)?;
    Ok(Config {
        server: server(document, env, raw.server)?,
        defaults: pools::defaults(document, &projects, &pools, raw.defaults)?,
        projects,
        pools,
        tenants: pools::tenants(document, &raw.tenants)?,
        proxy: proxy(document, &raw.proxy)?,
        retention: retention(document, raw.retention)?,
        origin,
    })
}

fn proxy(document: Document<'_>, raw: &RawProxy) -> Result<Proxy, ConfigError> {
    let mut proxy = Proxy { shadow: raw.shadow, ..Proxy::default() };
    if let Some(text) = &raw.max_wait {
        proxy.max_wait = match text.get_ref().as_str() {
            "0" | "0s" => Duration::ZERO,
            _ => duration(document, "proxy.max_wait", "`20s`", text)?,
        };
    }
    Ok(proxy)
}

/// The checked value of a limit.
pub(super) fn setting_of(
    document: Document<'_>,
    dimension: Dimension,
    raw: &Spanned<RawSetting>,
) -> Result<Setting, ConfigError> {
    let setting = match raw.get_ref() {
        RawSetting::Number(value) if dimension == Dimension::Spend => {
            dimension.setting(&value.to_string())
        }
        RawSetting::Number(value) => Setting::number(*value),
        RawSetting::Word(word) if dimension == Dimension::Spend => dimension.setting(word),
        RawSetting::Word(word) => Setting::word(word),
    };
    setting.map_err(|error| {
        let text = error.to_string();
        let (what, fix) = text.split_once("; ").unwrap_or((&text, ""));
        document.refuse(raw.span(), what, fix)
    })
}

fn server(document: Document<'_>, env: &Env, raw: RawServer) -> Result<Server, ConfigError> {
    let mut listen: Vec<Listen> = Vec::new();
    for entry in raw.listen.iter().flat_map(Spanned::get_ref) {
        let address = parse_listen(document, entry)?;
        if listen.contains(&address) {
            let what = format!("`{address}` stands twice in server.listen");
            return Err(document.refuse(entry.span(), what, "remove one"));
        }
        listen.push(address);
    }
    match raw.listen {
        Some(list) if listen.is_empty() => {
            let fix = "name an address, or remove it for 127.0.0.1:8430";
            return Err(document.refuse(list.span(), "server.listen is empty", fix));
        }
        Some(_) => {}
        None => listen.push(Listen::Tcp(([127, 0, 0, 1], 8430).into())),
    }
    let state_dir = match &raw.state_dir {
        Some(path) => absolute_path(document, "server.state_dir", path)?,
        None => default_state_dir(env)?,
    };
    let spool_dir = match &raw.spool_dir {
        Some(path) => absolute_path(document, "server.spool_dir", path)?,
        None => spool_in(&state_dir),
    };
    let auth = match &raw.auth {
        Some(auth) => {
            let token_file = absolute_path(document, "server.auth.token_file", &auth.token_file)?;
            let token = read_secret_file(document, auth.token_file.span(), &token_file, env)?;
            Some(Auth { token_file, token })
        }
        None => None,
    };
    let tls = match &raw.tls {
        Some(tls) => Some(tls::read(document, tls, &listen, auth.is_some())?),
        None => None,
    };
    Ok(Server { listen, tls, state_dir, spool_dir, auth })
}

fn parse_listen(document: Document<'_>, entry: &Text) -> Result<Listen, ConfigError> {
    let address: Listen = entry.get_ref().parse().map_err(|error: super::ListenError| {
        let text = error.to_string();
        let (what, fix) = text.split_once("; ").unwrap_or((&text, ""));
        document.refuse(entry.span(), format!("`{}`: {what}", entry.get_ref()), fix)
    })?;
    match address.refusal() {
        Some((what, fix)) => Err(document.refuse(entry.span(), what, fix)),
        None => Ok(address),
    }
}

fn default_state_dir(env: &Env) -> Result<PathBuf, ConfigError> {
    let state = env.xdg("XDG_STATE_HOME", ".local/state").map(|dir| dir.join("tidegate"));
    state.ok_or_else(|| ConfigError::Outside {
        what: "no state directory: server.state_dir, $XDG_STATE_HOME and $HOME are all unset"
            .to_owned(),
        fix: "set one of them to an absolute path".to_owned(),
    })
}

/// A path that means the same whatever the working directory. The value is not repeated: where a
/// key's file belongs, somebody may have written the key.
fn absolute_path(document: Document<'_>, field: &str, path: &Text) -> Result<PathBuf, ConfigError> {
    if path.get_ref().starts_with('/') {
        return Ok(PathBuf::from(path.get_ref()));
    }
    Err(document.refuse(
        path.span(),
        format!("{field} is not an absolute path"),
        "start it with `/` (`~` and variables are not expanded)",
    ))
}

fn model_id(document: Document<'_>, field: &str, model: &Text) -> Result<String, ConfigError> {
    if let Some(id) = super::model_id(model.get_ref()) {
        return Ok(id.to_owned());
    }
    Err(document.refuse(
        model.span(),
        format!("{field} is not a model id"),
        "write it as requests name it: 1 to 128 ASCII characters without spaces",
    ))
}

/// A name that fits reports, paths of URLs and file names. A value is not repeated, for it may be
/// a key.
fn name(document: Document<'_>, field: &str, text: &Text) -> Result<String, ConfigError> {
    let value = text.get_ref();
    if is_name(value) && !looks_like_secret(value) {
        return Ok(value.clone());
    }
    let what = if looks_like_secret(value) { "looks like a key" } else { "is not a name" };
    Err(document.refuse(
        text.span(),
        format!("{field} {what}"),
        "use 1 to 64 letters, digits, `.`, `_` and `-`, starting with a letter or digit",
    ))
}

fn retention(document: Document<'_>, raw: RawRetention) -> Result<Retention, ConfigError> {
    let attempts = match raw.attempts {
        Some(text) => {
            let kept = duration(document, "retention.attempts", "`400d`", &text)?;
            if kept < 2 * DAY {
                let what = "retention.attempts is less than two days";
                let fix = "keep `2d` or more: what a quota day still allows is derived from it";
                return Err(document.refuse(text.span(), what, fix));
            }
            kept
        }
        None => 400 * DAY,
    };
    let bodies = match raw.bodies {
        Some(text) => match text.get_ref().as_str() {
            "0" => BodyRetention::InFlight,
            "until_done" => BodyRetention::UntilDone,
            _ => BodyRetention::For(duration(
                document,
                "retention.bodies",
                "`7d`, `until_done` or `0`",
                &text,
            )?),
        },
        None => BodyRetention::For(7 * DAY),
    };
    Ok(Retention { attempts, bodies })
}

/// A length of time above zero in whole milliseconds, such as `7d` or `1h30m`.
fn duration(
    document: Document<'_>,
    field: &str,
    example: &str,
    text: &Text,
) -> Result<Duration, ConfigError> {
    match humantime::parse_duration(text.get_ref()) {
        Ok(length) if !length.is_zero() && length.subsec_nanos().is_multiple_of(1_000_000) => {
            Ok(length)
        }
        Ok(_) | Err(_) => {
            let what =
                format!("{field}: `{}` is not a length of time of 1ms or more", text.get_ref());
            Err(document.refuse(text.span(), what, format!("write something like {example}")))
        }
    }
}
