//! Where a model's requests count, as configuration and preset have it at a start.

use crate::config::{Config, Env, PoolRoute};
use crate::engine::import::Ceiling;
use crate::engine::routes::{Found, Wish, of_batch, unpriced};
use crate::engine::start::{Route, Routes, assemble};
use crate::formats::{BatchOptions, Dialect, parse_line};
use crate::gate::units::{BootMs, Now, UnixMs};
use crate::store::{Batch, NewBatch, Source, Store};

const NOW: Now = Now { boot: BootMs(1_000_000), wall: UnixMs(1_795_000_000_000) };

async fn routes(dir: &std::path::Path, project: &str) -> Routes {
    let file = dir.join("tidegate.toml");
    let head = format!("[server]\nstate_dir = \"{}\"\n[[project]]\n", dir.display());
    let keys =
        "name = \"demo\"\npreset = \"gemini-2025-02\"\nkeys = [{ name = \"k\", env = \"K\" }]\n";
    std::fs::write(&file, head + keys + project).expect("a file");
    let env: Env = [("K", "a-key-of-the-test")].into_iter().collect();
    let config = Config::load(Some(&file), &env).expect("a configuration");
    let store = Store::open(&config.server.state_dir, "a-boot").await.expect("a store");
    assemble(&config, &store, NOW, 1).await.expect("an engine").1
}

#[tokio::test]
async fn an_alias_counts_with_its_model_and_is_off_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let routes = routes(dir.path(), "tier = \"free\"\n").await;
    let bucket = |model: &str| match routes.find("demo", model) {
        Some((_, Route::Bucket { id, limits })) => (id, limits.len()),
        other => panic!("{model}: {other:?}"),
    };
    assert_eq!(bucket("gemini-2.0-flash-001"), bucket("gemini-2.0-flash"));
    assert_eq!(bucket("gemini-2.0-flash").1, 3);
    let off = routes.find("demo", "imagen-3.0-generate-002");
    assert!(matches!(off, Some((_, Route::Off(_)))), "{off:?}");
    assert!(matches!(routes.find("demo", "nobody-knows"), Some((_, Route::Learn))));
}

#[tokio::test]
async fn a_model_that_is_turned_off_keeps_no_bucket_without_limits() {
    let dir = tempfile::tempdir().expect("a directory");
    let limits =
        |rpm: &str| format!("[[project.limits]]\nmodel = \"gemini-2.0-flash\"\nrpm = {rpm}\n");
    let before = routes(dir.path(), &limits("2")).await;
    assert!(matches!(before.find("demo", "gemini-2.0-flash"), Some((_, Route::Bucket { .. }))));
    let after = routes(dir.path(), &limits("\"off\"")).await;
    assert!(matches!(after.find("demo", "gemini-2.0-flash"), Some((_, Route::Off(_)))));
}

/// Projects `a` and `b`, in which `lite` is off; the pool `both` has a model of each.
const POOLED: &str = r#"
[defaults]
pool = "both"
[pool.both]
routes = [{ project = "a", model = "m" }, { project = "b", model = "m" },
    { project = "b", model = "big" }]
[[project]]
name = "a"
preset = "none"
unknown_models = "refuse"
keys = [{ name = "k", env = "K" }]
limits = [{ model = "m", tpm = 100 }, { model = "other", tpm = 50 }]
[[project]]
name = "b"
preset = "none"
tier = "tier1"
keys = [{ name = "k", env = "K" }]
limits = [{ model = "m", tpm = 300 }, { model = "big", rpm = 1 }, { model = "lite", rpm = "off" }]
"#;

async fn pooled(dir: &std::path::Path) -> (Config, Store, Routes) {
    let file = dir.join("tidegate.toml");
    let head = format!("[server]\nstate_dir = \"{}\"\n", dir.display());
    std::fs::write(&file, head + POOLED).expect("a file");
    let env: Env = [("K", "a-key-of-the-test")].into_iter().collect();
    let config = Config::load(Some(&file), &env).expect("a configuration");
    let store = Store::open(&config.server.state_dir, "a-boot").await.expect("a store");
    let routes = assemble(&config, &store, NOW, 1).await.expect("an engine").1;
    (config, store, routes)
}

fn options(json: &str) -> BatchOptions {
    serde_json::from_str(json).expect("options")
}

fn names(routes: &[PoolRoute]) -> Vec<String> {
    routes.iter().map(|route| format!("{}/{}", route.project, route.model)).collect()
}

#[tokio::test]
async fn options_come_to_routes_or_to_a_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, _store, _) = pooled(dir.path()).await;
    let table = [
        ("{}", Ok("both: a/m b/m b/big")),
        (r#"{"pool":"both","project":"b"}"#, Ok("both: b/m b/big a/m")),
        (r#"{"project":"b","model":"x"}"#, Ok("-: b/x")),
        (r#"{"model":"x"}"#, Ok("-: a/x")),
        (r#"{"project":"b"}"#, Err("no model: name one")),
        (r#"{"pool":"cheap"}"#, Err("no pool cheap: the configuration has both")),
        (r#"{"pool":"both","project":"c"}"#, Err("pool both has no route of project c")),
        (r#"{"pool":"both","model":"m"}"#, Err("both a pool (both) and a model (m)")),
        (r#"{"project":"c","model":"m"}"#, Err("no project c: the configuration has a, b")),
    ];
    for (json, expected) in table {
        let wish = Wish::of(&options(json), &config);
        match (wish, expected) {
            (Ok(wish), Ok(expected)) => {
                let pool = wish.pool.as_deref().unwrap_or("-");
                assert_eq!(format!("{pool}: {}", names(&wish.first).join(" ")), expected, "{json}");
            }
            (Err(why), Err(expected)) => assert!(why.starts_with(expected), "{json}: {why}"),
            (wish, _) => panic!("{json}: {wish:?}"),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_left_out_with_its_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, _store, routes) = pooled(dir.path()).await;
    let text = r#"{"pool":"both","fallback":["other","nobody-knows","m"]}"#;
    let found = Found::of(&Wish::of(&options(text), &config).expect("a wish"), &routes);
    let seen: Vec<_> =
        found.routes.iter().map(|to| (to.project, to.model.as_str(), to.fallback)).collect();
    let [a, b] = ["a", "b"].map(|name| routes.project_id(name).expect("a project"));
    let expected = [(a, "m", false), (b, "m", false), (b, "big", false), (a, "other", true)];
    assert_eq!(seen, expected, "what is there already is no fallback");
    assert_eq!(found.left_out.len(), 1, "{:?}", found.left_out);
    assert!(found.left_out[0].starts_with("the limits of nobody-knows are not known to project a"));
    // In the other project it may be learned.
    let text = r#"{"project":"b","model":"lite","fallback":["nobody-knows"]}"#;
    let found = Found::of(&Wish::of(&options(text), &config).expect("a wish"), &routes);
    assert_eq!(found.left_out, ["lite is not offered to project b (config)"]);
    assert_eq!((names(&found.to_learn), found.routes.len()), (vec!["b/nobody-knows".into()], 0));
}

#[tokio::test]
async fn a_prompt_that_one_of_the_routes_takes_is_no_bad_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, _store, routes) = pooled(dir.path()).await;
    let ceiling = |json: &str| {
        let found = Found::of(&Wish::of(&options(json), &config).expect("a wish"), &routes);
        Ceiling::of(&found.ceilings())
    };
    let line = "word ".repeat(4_000);
    let line =
        parse_line(Dialect::Text, None, 1, line.as_bytes()).expect("a line").expect("a prompt");
    let whole = line.footprint.estimate().likely_max;
    assert!(line.footprint.estimate().floor > 300, "{whole}");
    // `big` has no limit of tokens.
    assert_eq!(ceiling("{}").reserve(&line.footprint), Ok((whole, 0)));
    let why = ceiling(r#"{"project":"b","model":"m"}"#).reserve(&line.footprint);
    let why = why.expect_err("more than a minute's worth");
    assert!(why.ends_with("input tokens, and m allows tpm 300 (config): it can never be sent"));
    // What only a fallback takes is not held for it.
    ceiling(r#"{"project":"a","model":"m","fallback":["other"]}"#)
        .reserve(&line.footprint)
        .expect_err("too large");
}

#[test]
fn the_largest_limit_of_several_models_counts() {
    use crate::gate::limits::{Limit, Scope, Source as Said, Window};
    use crate::gate::units::Metric;
    let tpm = |value| Limit {
        metric: Metric::InputTokens,
        window: Window::Rolling { ms: 60_000 },
        scope: Scope::Project,
        value,
        source: Said::Config,
    };
    let line = "word ".repeat(4_000);
    let line =
        parse_line(Dialect::Text, None, 1, line.as_bytes()).expect("a line").expect("a prompt");
    let reserve = |limits: &[u64]| {
        let limits: Vec<_> = limits.iter().map(|value| [tpm(*value)]).collect();
        let models: Vec<_> = limits.iter().map(|limit| ("m", &limit[..])).collect();
        Ceiling::of(&models).reserve(&line.footprint)
    };
    let estimate = line.footprint.estimate();
    let between = u64::midpoint(estimate.floor, estimate.likely_max);
    assert_eq!(reserve(&[100, between, 200]), Ok((between, 0)), "it goes alone where it fits");
    let why = reserve(&[100, 300, 200]).expect_err("too large for all");
    assert!(why.contains("tpm 300"), "{why}");
}

async fn entered(store: &Store, routes: &Routes, pool: &str) -> Batch {
    let Some((project_id, Route::Bucket { id, .. })) = routes.find("b", "big") else {
        panic!("no bucket");
    };
    let batch = NewBatch {
        uid: pool.to_owned(),
        work: pool.to_owned(),
        file_name: "f.jsonl".to_owned(),
        out_name: pool.to_owned(),
        dialect: "gemini-jsonl".to_owned(),
        project_id,
        bucket_id: id,
        model: "big".to_owned(),
        tenant: "t".to_owned(),
        priority: 1,
        in_doubt: "retry".to_owned(),
        on_bad_line: "reject".to_owned(),
        not_before: None,
        deadline: None,
        max_cost_nanos: None,
        pool: Some(pool.to_owned()),
        fallback: vec!["m".to_owned(), "lite".to_owned()],
        patience_ms: None,
        pace: "asap".to_owned(),
        source: Source { dev: 1, ino: 2, mtime_ns: 3, bytes: 4, uid: 5, sha256: "sha".to_owned() },
        submitted_at: NOW.wall,
    };
    let id = store.enter_batch(batch).await.expect("entered");
    store.reader().batch(id).await.expect("the batch")
}

#[tokio::test]
async fn a_batch_keeps_its_own_route_first_also_when_its_pool_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, store, routes) = pooled(dir.path()).await;
    let seen = |batch: &Batch| -> Vec<(i64, String, bool)> {
        let reach = of_batch(batch, &routes, &config);
        reach.into_iter().map(|to| (to.project, to.model, to.fallback)).collect()
    };
    let [a, b] = ["a", "b"].map(|name| routes.project_id(name).expect("a project"));
    let to = |project: i64, model: &str, fallback| (project, model.to_owned(), fallback);
    let batch = entered(&store, &routes, "both").await;
    assert_eq!(seen(&batch), [to(b, "big", false), to(a, "m", false), to(b, "m", false)]);
    let batch = entered(&store, &routes, "gone").await;
    assert_eq!(seen(&batch), [to(b, "big", false), to(b, "m", true)]);
}

#[tokio::test]
async fn a_cost_can_be_kept_where_every_price_is_known() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, _store, _) = pooled(dir.path()).await;
    let price = |routes: &[(&str, &str)]| unpriced(routes.iter().copied(), &config, NOW.wall);
    // The free tier costs nothing, whatever the model.
    assert_eq!(price(&[("a", "nobody-knows"), ("b", "gemini-2.0-flash")]), None);
    let why = price(&[("a", "m"), ("b", "m")]).expect("no price");
    assert!(why.contains("what m costs in project b is not known"), "{why}");
}
