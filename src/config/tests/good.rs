//! Good configurations: what they come to, and that the printed form says the same.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::ExposeSecret;

use super::{CANARY, PROJECT, env, load, project};
use crate::config::{
    BodyRetention, Config, DayConfig, Dimension, KeyOrigin, Listen, Origin, Overrides, Provider,
    Reserve, Setting, UnknownModels,
};
use crate::gate::limits::{Limit, Scope, Source, Window};
use crate::gate::units::Metric;

/// Every field but those that need files.
pub(super) const SAMPLE: &str = r#"
[server]
listen    = ["127.0.0.1:8430", "[::1]:0", "unix:/run/tidegate/tidegate.sock"]
state_dir = "/var/lib/tidegate"
spool_dir = "/var/spool/tidegate"
[defaults]
project = "demo"
model   = "gemini-2.0-flash"
[[project]]
name     = "demo"
provider = "gemini"
base_url = "http://127.0.0.1:9000/gemini/"
preset   = "gemini-2025-02"
tier     = "tier1"
keys     = [{ name = "main", env = "GEMINI_API_KEY" }, { name = "b", env = "UNSET" }]
day      = { zone = "Europe/Berlin", reset = "0 3 * * *" }
reserve  = { interactive = "10%" }
max_in_flight  = 200
unknown_models = "refuse"
  [[project.limits]]
  model = "gemini-2.0-flash"
  rpm = 15
  tpm = 1_000_000
  rpd = "none"
    [[project.limits.extra]]
    dimension = "requests"
    scope  = "project"
    window = "10s"
    limit  = 3
[[project]]
name = "other"
preset = "none"
keys = [{ name = "main", env = "GEMINI_API_KEY" }]
[pool.cheap]
routes = [{ project = "other", model = "models/m" }, { project = "demo", model = "gemini-2.0-flash" }]
[tenants]
"uid:1000" = 2
web = 1000
[retention]
attempts = "100d"
bodies   = "12h"
"#;

#[test]
fn every_field_arrives() {
    let config = load(SAMPLE).unwrap();
    let server = &config.server;
    assert_eq!(
        server.listen,
        [
            Listen::Tcp(([127, 0, 0, 1], 8430).into()),
            Listen::Tcp((std::net::Ipv6Addr::LOCALHOST, 0).into()),
            Listen::Unix("/run/tidegate/tidegate.sock".into()),
        ]
    );
    assert_eq!(server.state_dir, Path::new("/var/lib/tidegate"));
    assert_eq!(server.spool_dir, Path::new("/var/spool/tidegate"));
    assert_eq!(config.defaults.project, "demo");
    assert_eq!(config.defaults.model.as_deref(), Some("gemini-2.0-flash"));
    assert_eq!(config.retention.attempts, Duration::from_hours(100 * 24));
    assert_eq!(config.retention.bodies, BodyRetention::For(Duration::from_hours(12)));

    let routes: Vec<_> = config.pools["cheap"]
        .iter()
        .map(|route| (route.project.as_str(), route.model.as_str()))
        .collect();
    assert_eq!(routes, [("other", "m"), ("demo", "gemini-2.0-flash")]);
    assert_eq!((config.tenants["uid:1000"], config.tenants["web"]), (2, 1_000));
    assert_eq!((config.pools.len(), config.tenants.len(), &config.defaults.pool), (1, 2, &None));

    let demo = config.project("demo").unwrap();
    assert_eq!(demo.provider, Provider::Gemini);
    assert_eq!(demo.base_url, "http://127.0.0.1:9000/gemini");
    assert_eq!(demo.preset.unwrap().name, "gemini-2025-02");
    assert_eq!(demo.tier, "tier1");
    assert_eq!(demo.day, DayConfig { zone: "Europe/Berlin".into(), reset: "0 3 * * *".into() });
    assert_eq!(demo.reserve, Reserve::Percent(10));
    assert_eq!(demo.max_in_flight, Some(200));
    assert_eq!(demo.unknown_models, UnknownModels::Refuse);
    let [limits] = &demo.limits[..] else { panic!("{:?}", demo.limits) };
    assert_eq!(limits.model, "gemini-2.0-flash");
    assert_eq!(
        limits.dimensions.clone().into_iter().collect::<Vec<_>>(),
        [
            (Dimension::Rpm, Setting::Value(15)),
            (Dimension::Tpm, Setting::Value(1_000_000)),
            (Dimension::Rpd, Setting::None),
        ]
    );
    assert_eq!(
        limits.extra,
        [Limit {
            metric: Metric::Requests,
            window: Window::Rolling { ms: 10_000 },
            scope: Scope::Project,
            value: 3,
            source: Source::Config,
        }]
    );
    assert!(config.project("other").unwrap().preset.is_none());
    assert!(config.project("third").is_none());
}

#[test]
fn an_openai_project_has_defaults_of_its_own() {
    let openai = project("provider = \"openai\"\ntier = \"tier5\"\n");
    assert_eq!(openai.provider, Provider::OpenAi);
    assert_eq!(openai.base_url, "https://api.openai.com");
    assert!(openai.preset.is_none());
    assert_eq!(openai.unknown_models, UnknownModels::Learn);
    assert_eq!(openai.day, DayConfig { zone: "UTC".into(), reset: "0 0 * * *".into() });

    let own = project(
        "provider = \"openai\"\nbase_url = \"https://openrouter.ai/api/v1/\"\n\
         day = { zone = \"Europe/Berlin\" }\nlimits = [{ model = \"m\", rpm = 3 }]\n",
    );
    assert_eq!(own.base_url, "https://openrouter.ai/api/v1");
    assert_eq!((own.day.zone.as_str(), own.limits.len()), ("Europe/Berlin", 1));

    let text = "[[project]]\nname = \"o\"\nprovider = \"openai\"\n";
    let config = load(text).unwrap();
    let missing = config.projects[0].missing_keys().join("\n");
    assert!(missing.contains("env = \"OPENAI_API_KEY\""), "{missing}");
    let same = load(&config.render_masked()).unwrap();
    assert_eq!(same.projects[0].provider, Provider::OpenAi);
    assert_eq!(same.projects[0].base_url, config.projects[0].base_url);
    assert!(same.projects[0].preset.is_none());
}

/// A pool in place of project and model, and a tenant whose name is no bare key.
const POOLED: &str = r#"
[defaults]
pool = "cheap"
[[project]]
name = "a"
keys = [{ name = "main", env = "GEMINI_API_KEY" }]
[[project]]
name = "b"
keys = [{ name = "main", env = "GEMINI_API_KEY" }]
[pool.cheap]
routes = [{ project = "b", model = "m" }, { project = "a", model = "m" }]
[pool."x.1"]
routes = [{ project = "a", model = "m" }]
[tenants]
"it's \"Zoë\" = 1" = 7
"#;

#[test]
fn a_pool_may_stand_for_project_and_model() {
    let config = load(POOLED).unwrap();
    assert_eq!(config.defaults.pool.as_deref(), Some("cheap"));
    assert_eq!((config.defaults.project.as_str(), &config.defaults.model), ("b", &None));
    assert_eq!(config.tenants["it's \"Zoë\" = 1"], 7);
    let same = load(&config.render_masked()).unwrap();
    assert_eq!((same.pools, same.tenants), (config.pools, config.tenants));
}

#[test]
fn keys_arrive_and_absent_ones_are_said_without_being_errors() {
    let config = load(SAMPLE).unwrap();
    let demo = config.project("demo").unwrap();
    let [key] = &demo.keys[..] else { panic!("{:?}", demo.keys) };
    assert_eq!(key.name, "main");
    assert_eq!(key.origin, KeyOrigin::Env("GEMINI_API_KEY".into()));
    assert_eq!(key.secret.expose_secret(), CANARY);
    let [sentence] = &demo.missing_keys()[..] else { panic!("{:?}", demo.missing_keys()) };
    assert!(sentence.starts_with("project `demo`: key `b` is missing: environment variable UNSET"));
    assert_eq!(config.project("other").unwrap().missing_keys(), [""; 0]);
}

#[test]
fn what_the_file_does_not_say_has_a_default() {
    let config = load(PROJECT).unwrap();
    assert_eq!(config.server.listen, [Listen::Tcp(([127, 0, 0, 1], 8430).into())]);
    assert_eq!(config.server.state_dir, Path::new("/home/ada/.local/state/tidegate"));
    assert_eq!(config.server.spool_dir, Path::new("/home/ada/.local/state/tidegate/spool"));
    assert!(config.server.auth.is_none());
    assert_eq!(config.defaults.project, "demo", "the only one");
    assert_eq!(config.defaults.model, None);
    assert_eq!(config.retention.attempts, Duration::from_hours(400 * 24));
    assert_eq!(config.retention.bodies, BodyRetention::For(Duration::from_hours(7 * 24)));
    let demo = &config.projects[0];
    assert_eq!(demo.base_url, "https://generativelanguage.googleapis.com");
    assert_eq!(demo.preset, crate::config::presets().last(), "the newest preset");
    assert_eq!(demo.tier, "free");
    let day = DayConfig { zone: "America/Los_Angeles".into(), reset: "0 0 * * *".into() };
    assert_eq!(demo.day, day);
    assert_eq!(demo.reserve, Reserve::Auto);
    assert_eq!(demo.max_in_flight, None);
    assert_eq!(demo.unknown_models, UnknownModels::Learn);
}

#[test]
fn words_and_numbers_at_their_edges() {
    let retention = |body: &str| {
        load(&format!("{PROJECT}[retention]\nbodies = \"{body}\"\n")).unwrap().retention.bodies
    };
    assert_eq!(retention("until_done"), BodyRetention::UntilDone);
    assert_eq!(retention("0"), BodyRetention::InFlight);
    let one = |line: &str| super::project(&format!("{line}\n"));
    assert_eq!(one("reserve = { interactive = \"0%\" }").reserve, Reserve::Percent(0));
    assert_eq!(one("reserve = { interactive = \"99%\" }").reserve, Reserve::Percent(99));
    assert_eq!(one("reserve = { interactive = \"auto\" }").reserve, Reserve::Auto);
    assert_eq!(one("max_in_flight = 1").max_in_flight, Some(1));
    for url in ["http://localhost:1", "http://[::1]:1", "https://example.org/a/b"] {
        assert_eq!(one(&format!("base_url = \"{url}\"")).base_url, url);
    }
    for window in ["1s", "24h"] {
        let extra = format!("{{ dimension = \"requests\", window = \"{window}\", limit = 1 }}");
        one(&format!("limits = [{{ model = \"m\", extra = [{extra}] }}]"));
    }
}

#[test]
fn the_built_in_configuration_needs_no_file() {
    let with = |pairs: &[(&str, &str)]| Config::built_in(&pairs.iter().copied().collect());
    let config = with(&[("HOME", "/h"), ("GEMINI_API_KEY", "gem"), ("GOOGLE_API_KEY", "goo")]);
    let config = config.unwrap();
    assert_eq!(config.origin, Origin::BuiltIn);
    assert_eq!(config.defaults.project, "default");
    let project = &config.projects[0];
    assert_eq!((project.name.as_str(), project.tier.as_str()), ("default", "free"));
    assert_eq!(project.keys[0].secret.expose_secret(), "goo", "as the SDKs choose");
    assert_eq!(config.server.state_dir, Path::new("/h/.local/state/tidegate"));

    let config = with(&[("XDG_STATE_HOME", "/s"), ("GEMINI_API_KEY", "gem")]).unwrap();
    assert_eq!(config.projects[0].keys[0].secret.expose_secret(), "gem");
    assert_eq!(config.server.spool_dir, Path::new("/s/tidegate/spool"));

    let config = with(&[("HOME", "/h"), ("XDG_STATE_HOME", "relative")]).unwrap();
    assert_eq!(config.server.state_dir, Path::new("/h/.local/state/tidegate"));
    let [sentence] = &config.projects[0].missing_keys()[..] else { panic!("one key is missing") };
    assert!(sentence.contains("GEMINI_API_KEY"), "{sentence}");

    let error = with(&[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "no state directory: server.state_dir, $XDG_STATE_HOME and $HOME are all unset; set one \
         of them to an absolute path"
    );
}

#[test]
fn the_command_line_beats_the_file() {
    let listen: Vec<Listen> = vec!["127.0.0.1:1".parse().unwrap()];
    let state_dir = Some(PathBuf::from("/new"));
    let overrides =
        Overrides { state_dir: state_dir.clone(), spool_dir: None, listen, shadow: false };
    let config = load(SAMPLE).unwrap().with_overrides(overrides.clone()).unwrap();
    assert_eq!(config.server.listen, overrides.listen);
    assert_eq!(config.server.state_dir, Path::new("/new"));
    assert_eq!(config.server.spool_dir, Path::new("/var/spool/tidegate"), "said by the file");

    let config = load(PROJECT).unwrap().with_overrides(overrides.clone()).unwrap();
    assert_eq!(config.server.spool_dir, Path::new("/new/spool"), "moves with the state");

    let both = Overrides { spool_dir: Some("/spool".into()), ..overrides };
    let config = load(PROJECT).unwrap().with_overrides(both).unwrap();
    assert_eq!(config.server.spool_dir, Path::new("/spool"));

    let config = load(PROJECT).unwrap().with_overrides(Overrides::default()).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", load(PROJECT).unwrap()));

    let open = Overrides { listen: vec!["[::]:80".parse().unwrap()], ..Overrides::default() };
    let error = load(PROJECT).unwrap().with_overrides(open).unwrap_err().to_string();
    assert!(error.starts_with("--listen: `[::]:80` is not a loopback address"), "{error}");

    let address: Listen = "unix:/s".parse().unwrap();
    let twice = Overrides { listen: vec![address.clone(), address], ..Overrides::default() };
    let error = load(PROJECT).unwrap().with_overrides(twice).unwrap_err().to_string();
    assert_eq!(error, "--listen unix:/s is given twice; drop one");
}

#[test]
fn listen_and_settings_read_what_they_show() {
    for text in ["127.0.0.1:8430", "[::1]:8430", "unix:/run/x.sock"] {
        assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
    }
    assert_eq!("1_000".parse(), Ok(Setting::Value(1000)));
    assert_eq!("none".parse(), Ok(Setting::None));
    assert_eq!("off".parse(), Ok(Setting::Off));
    "0".parse::<Setting>().unwrap_err();
    "-3".parse::<Setting>().unwrap_err();
    "many".parse::<Setting>().unwrap_err();
    for dimension in Dimension::ALL {
        assert_eq!(dimension.to_string().parse::<Dimension>().unwrap(), dimension);
        let limit = Limit {
            metric: dimension.metric(),
            window: dimension.window(),
            scope: Scope::Project,
            value: 1,
            source: Source::Set,
        };
        assert_eq!(limit.dimension(), dimension.as_str());
    }
    "rps".parse::<Dimension>().unwrap_err();
}

#[test]
fn the_printed_form_is_the_same_configuration_without_secrets() {
    let built_in = Config::built_in(&env()).unwrap();
    let samples = [load(SAMPLE).unwrap(), load(PROJECT).unwrap(), load(POOLED).unwrap(), built_in];
    for config in samples {
        let text = config.render_masked();
        text.parse::<toml::Table>().unwrap();
        let mut again = load(&text).unwrap();
        again.origin = config.origin.clone();
        assert_eq!(format!("{again:#?}"), format!("{config:#?}"), "{text}");
        assert_eq!(again.render_masked(), text);
        assert!(!text.contains("Canary"), "{text}");
        assert!(text.contains("******** from environment variable GEMINI_API_KEY"), "{text}");
    }
}

#[test]
fn the_printed_form_says_what_each_model_is_allowed_and_who_says_so() {
    let text = load(SAMPLE).unwrap().render_masked();
    let allowed = "# gemini-2.0-flash: rpm 15 (config), tpm 1000000 (config), \
                   requests 3 per 10s (config)\n";
    assert!(text.contains(allowed), "{text}");
    assert!(text.contains("# imagen-3.0-generate-002: ipm 20 (preset:gemini-2025-02/tier1)\n"));
    assert!(text.contains("# missing: environment variable UNSET\n"), "{text}");
    let free = load(PROJECT).unwrap().render_masked();
    assert!(free.contains("# gemini-2.0-flash: off (preset:gemini-2026-09/free)\n"), "{free}");
    assert!(free.contains("# gemini-3.1-flash-image: not known on this tier\n"), "{free}");
}
