//! The effective configuration as TOML, for people and for comparing.

use std::fmt::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::{
    BodyRetention, Config, Key, KeyOrigin, ModelLimits, ModelRule, Origin, Project, Reserve,
    Server, Tls, UnknownModels,
};
use crate::gate::limits::{Allowance, Limit, Scope, Window};
use crate::gate::units::Metric;

/// What stands for a secret.
const MASK: &str = "********";

impl Config {
    /// The effective configuration as TOML: what the file, the defaults and the command line come
    /// to. Comments say where each secret was read, masked, and what every known model is allowed
    /// with who says so. Loading the text with the same environment gives the same configuration.
    #[must_use]
    pub fn render_masked(&self) -> String {
        let mut out = String::new();
        // Writing to a `String` cannot fail.
        let _ = render(&mut out, self);
        out
    }
}

fn render(out: &mut String, config: &Config) -> fmt::Result {
    match &config.origin {
        Origin::File(path) => writeln!(out, "# from {}", comment(&path.display().to_string()))?,
        Origin::BuiltIn => writeln!(out, "# built-in configuration: no file was found")?,
    }
    let server = &config.server;
    let listen: Vec<String> = server.listen.iter().map(|l| quote(&l.to_string())).collect();
    writeln!(out, "\n[server]")?;
    writeln!(out, "listen = [{}]", listen.join(", "))?;
    writeln!(out, "state_dir = {}", quote(&server.state_dir.to_string_lossy()))?;
    writeln!(out, "spool_dir = {}", quote(&server.spool_dir.to_string_lossy()))?;
    if let Some(auth) = &server.auth {
        let file = quote(&auth.token_file.to_string_lossy());
        writeln!(out, "auth = {{ token_file = {file} }} # token: {MASK}")?;
    }
    if let Some(tls) = &server.tls {
        render_tls(out, server, tls)?;
    }
    writeln!(out, "\n[defaults]")?;
    match &config.defaults.pool {
        Some(pool) => writeln!(out, "pool = {}", quote(pool))?,
        None => writeln!(out, "project = {}", quote(&config.defaults.project))?,
    }
    if let Some(model) = &config.defaults.model {
        writeln!(out, "model = {}", quote(model))?;
    }
    for project in &config.projects {
        render_project(out, project)?;
    }
    render_pools(out, config)?;
    writeln!(out, "\n[proxy]")?;
    writeln!(out, "max_wait = {}", quote(&span(config.proxy.max_wait)))?;
    writeln!(out, "shadow = {}", config.proxy.shadow)?;
    writeln!(out, "\n[retention]")?;
    writeln!(out, "attempts = {}", quote(&span(config.retention.attempts)))?;
    let bodies = match config.retention.bodies {
        BodyRetention::For(length) => span(length),
        BodyRetention::UntilDone => "until_done".to_owned(),
        BodyRetention::InFlight => "0".to_owned(),
    };
    writeln!(out, "bodies = {}", quote(&bodies))
}

fn render_tls(out: &mut String, server: &Server, tls: &Tls) -> fmt::Result {
    write!(out, "tls = {{ listen = {}", quote(&tls.listen.to_string()))?;
    if let Some(own) = &tls.own {
        let file = |path: &Path| quote(&path.to_string_lossy());
        write!(out, ", cert_file = {}", file(&own.cert_file))?;
        write!(out, ", key_file = {}", file(&own.key_file))?;
    }
    if !tls.names.is_empty() {
        let names: Vec<String> = tls.names.iter().map(|name| quote(name)).collect();
        write!(out, ", names = [{}]", names.join(", "))?;
    }
    write!(out, " }}")?;
    if tls.own.is_none() {
        let ca = server.ca_file().display().to_string();
        write!(out, " # clients trust {}", comment(&ca))?;
    }
    writeln!(out)
}

fn render_pools(out: &mut String, config: &Config) -> fmt::Result {
    for (name, routes) in &config.pools {
        writeln!(out, "\n[pool.{}]\nroutes = [", quote(name))?;
        for route in routes {
            let (project, model) = (quote(&route.project), quote(&route.model));
            writeln!(out, "  {{ project = {project}, model = {model} }},")?;
        }
        writeln!(out, "]")?;
    }
    if !config.tenants.is_empty() {
        writeln!(out, "\n[tenants]")?;
    }
    config
        .tenants
        .iter()
        .try_for_each(|(tenant, weight)| writeln!(out, "{} = {weight}", basic(tenant)))
}

fn render_project(out: &mut String, project: &Project) -> fmt::Result {
    writeln!(out, "\n[[project]]")?;
    writeln!(out, "name = {}", quote(&project.name))?;
    writeln!(out, "provider = {}", quote(project.provider.as_str()))?;
    writeln!(out, "base_url = {}", quote(&project.base_url))?;
    writeln!(out, "preset = {}", quote(project.preset.map_or("none", |p| &p.name)))?;
    writeln!(out, "tier = {}", quote(&project.tier))?;
    render_keys(out, project)?;
    let (zone, reset) = (quote(&project.day.zone), quote(&project.day.reset));
    writeln!(out, "day = {{ zone = {zone}, reset = {reset} }}")?;
    match project.reserve {
        Reserve::Auto => writeln!(out, "reserve = {{ interactive = \"auto\" }}")?,
        Reserve::Percent(percent) => {
            writeln!(out, "reserve = {{ interactive = \"{percent}%\" }}")?;
        }
    }
    match project.max_in_flight {
        Some(max) => writeln!(out, "max_in_flight = {max}")?,
        None => writeln!(out, "# max_in_flight: min(rpm, 1000)")?,
    }
    let unknown = match project.unknown_models {
        UnknownModels::Learn => "learn",
        UnknownModels::Refuse => "refuse",
    };
    writeln!(out, "unknown_models = {}", quote(unknown))?;
    let estimates = if project.strict_estimates { "strict" } else { "bytes" };
    writeln!(out, "estimates = {}", quote(estimates))?;
    for model in project.known_models() {
        let rule = describe(&project.allowance(model));
        writeln!(out, "# {}: {rule}", comment(model))?;
    }
    project.limits.iter().try_for_each(|limits| render_limits(out, limits))
}

fn render_keys(out: &mut String, project: &Project) -> fmt::Result {
    writeln!(out, "keys = [")?;
    let imported = |key: &&Key| matches!(key.origin, KeyOrigin::Imported(_));
    for key in project.keys.iter().filter(|key| !imported(key)) {
        render_key(out, &key.name, &key.origin, &format!("{MASK} from"))?;
    }
    for key in &project.absent_keys {
        render_key(out, &key.name, &key.origin, "missing:")?;
    }
    writeln!(out, "]")?;
    for key in project.keys.iter().filter(imported) {
        let (name, from) = (comment(&key.name), comment(&key.origin.to_string()));
        writeln!(out, "# {name}: {MASK} {from}")?;
    }
    Ok(())
}

fn render_key(out: &mut String, name: &str, origin: &KeyOrigin, state: &str) -> fmt::Result {
    let field = match origin {
        KeyOrigin::Env(variable) => format!("env = {}", quote(variable)),
        KeyOrigin::File(path) | KeyOrigin::Imported(path) => {
            format!("file = {}", quote(&path.to_string_lossy()))
        }
    };
    let (name, from) = (quote(name), comment(&origin.to_string()));
    writeln!(out, "  {{ name = {name}, {field} }}, # {state} {from}")
}

fn render_limits(out: &mut String, limits: &ModelLimits) -> fmt::Result {
    writeln!(out, "\n  [[project.limits]]")?;
    writeln!(out, "  model = {}", quote(&limits.model))?;
    for (dimension, setting) in &limits.dimensions {
        writeln!(out, "  {dimension} = {}", dimension.show(*setting))?;
    }
    for extra in &limits.extra {
        writeln!(out, "\n    [[project.limits.extra]]")?;
        writeln!(out, "    dimension = {}", quote(extra.metric.as_str()))?;
        if extra.scope == Scope::Key {
            writeln!(out, "    scope = \"key\"")?;
        }
        writeln!(out, "    window = {}", quote(&window(extra.window)))?;
        let unit = if extra.metric == Metric::Spend { 1_000_000_000 } else { 1 };
        writeln!(out, "    limit = {}", extra.value / unit)?;
    }
    Ok(())
}

fn describe(rule: &ModelRule) -> String {
    let allowance = match rule {
        ModelRule::Known { allowance, .. } => allowance,
        ModelRule::Unknown => return "not known on this tier".to_owned(),
    };
    match allowance {
        Allowance::Off { source } => format!("off ({source})"),
        Allowance::Limited(limits) if limits.is_empty() => "unlimited".to_owned(),
        Allowance::Limited(limits) => {
            let one = |limit: &Limit| {
                let per = match limit.dimension() {
                    "rpm" | "tpm" | "ipm" | "rpd" | "tpd" => String::new(),
                    _ => format!(" per {}", window(limit.window)),
                };
                format!("{} {}{per} ({})", limit.dimension(), limit.value, limit.source)
            };
            limits.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    }
}

fn window(window: Window) -> String {
    match window {
        Window::Rolling { ms } => span(Duration::from_millis(ms)),
        Window::Day => "day".to_owned(),
        Window::Concurrent => "concurrent".to_owned(),
    }
}

/// A length of time in the largest unit that divides it.
fn span(length: Duration) -> String {
    let ms = length.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.into_iter().find(|(unit, _)| ms.is_multiple_of(*unit)) {
        Some((unit, word)) => format!("{}{word}", ms / unit),
        None => format!("{ms}ms"),
    }
}

/// A text as a key of a table: `toml` may write a value in a form that keys do not have.
fn basic(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A text that cannot end its comment.
fn comment(text: &str) -> String {
    text.replace(char::is_control, "?")
}
