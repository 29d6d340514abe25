//! What a start takes up from the database.

use super::changes::{changed, to};
use super::world::{rpd, rpm};
use crate::config::{Config, Env};
use crate::engine::core::Engine;
use crate::engine::start::{assemble, look};
use crate::gate::admit::BucketId;
use crate::gate::limits::Source;
use crate::gate::units::{BootMs, Now, UnixMs, Weights};
use crate::gate::window::AttemptId;
use crate::store::{
    AttemptEnd, EndedAttempt, LimitEvent, NewAttempt, ProjectIds, Remembered, SetLimit, Settlement,
    Store, Tokens,
};

/// 2026-11-23T20:00:00Z, noon in California.
const NOW: Now = Now { boot: BootMs(1_000_000), wall: UnixMs(1_795_464_000_000) };

const DAY: &str = "2026-11-23";

fn later(ms: u64) -> Now {
    Now { boot: NOW.boot.plus(ms), wall: NOW.wall.plus(ms) }
}

/// A state directory and its configuration.
struct Home {
    dir: tempfile::TempDir,
    limits: &'static str,
}

const TWO_MODELS: &str = "[[project.limits]]\nmodel = \"one\"\nrpm = 20\nrpd = 10\n\
    [[project.limits]]\nmodel = \"two\"\nrpm = 30\n";

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), limits: TWO_MODELS }
    }

    fn config(&self) -> Config {
        let file = self.dir.path().join("tidegate.toml");
        let text = format!(
            "[server]\nstate_dir = \"{}\"\n[[project]]\nname = \"demo\"\npreset = \"none\"\n\
            keys = [{{ name = \"k\", env = \"K\" }}]\n{}",
            self.dir.path().display(),
            self.limits
        );
        std::fs::write(&file, text).expect("a file");
        let env: Env = [("K", "a-key-of-the-test")].into_iter().collect();
        Config::load(Some(&file), &env).expect("a configuration")
    }

    async fn store(&self, boot: &str) -> Store {
        Store::open(&self.config().server.state_dir, boot).await.expect("a store")
    }

    async fn start(&self, store: &Store, now: Now) -> Engine {
        let sets = store.reader().set_limits().await.expect("what was set");
        let config = self.config().with_set_limits(sets.iter().map(SetLimit::parts));
        assemble(&config, store, now, 1).await.expect("an engine").0
    }

    async fn ids(&self, store: &Store) -> ProjectIds {
        self.start(store, NOW).await;
        let models = store.reader().models().await.expect("models");
        let id = models[0].project_id;
        let buckets = models.into_iter().map(|model| (model.quota_group, model.bucket_id));
        ProjectIds { id, buckets: buckets.collect() }
    }
}

fn values(engine: &mut Engine, bucket: BucketId) -> Vec<(u64, Source)> {
    let limits = engine.gate.state(bucket, NOW).into_iter();
    limits.map(|state| (state.limit.value, state.limit.source)).collect()
}

fn learned(bucket: BucketId, memory: String, counts_in: Option<BucketId>) -> Remembered {
    Remembered { bucket, memory, at: NOW.wall, events: Vec::new(), counts_in }
}

/// What a bucket knows whose limit of 20 requests a minute was said to be 5.
fn five() -> String {
    let unix = NOW.wall.0;
    format!(
        "{{\"learned\":[{{\"metric\":\"requests\",\"window\":{{\"Rolling\":{{\"ms\":60000}}}},\
        \"value\":5,\"was\":20,\"at\":{unix},\"quota_id\":\"q\"}}],\"shares\":[],\"others\":null,\
        \"suspicious_until\":null,\"paced\":false,\"delta_more_ms\":0,\
        \"block\":[{},\"shut\",true],\"probes\":0,\"phantoms\":[],\"quota_name\":\"q\"}}",
        unix + 90_000
    )
}

#[tokio::test]
async fn what_was_learned_is_taken_up() {
    let home = Home::new();
    let store = home.store("boot").await;
    let ids = home.ids(&store).await;
    let (one, two) = (ids.buckets["one"], ids.buckets["two"]);
    store.remember(learned(one, five(), None)).await.expect("kept");
    store.remember(learned(two, "{\"learned\":7}".to_owned(), None)).await.expect("kept");
    let mut engine = home.start(&store, later(10_000)).await;
    let expected = [(5, Source::Learned), (10, Source::Config)];
    assert_eq!(values(&mut engine, one), expected);
    let (until, reason) = engine.gate.blocked(one).expect("it is shut");
    assert_eq!((until, reason), (NOW.boot.plus(90_000), "shut"));
    assert_eq!(engine.gate.quota_name(one), Some("q"));
    // What cannot be read is learned anew.
    assert_eq!(values(&mut engine, two), [(30, Source::Config)]);
    let looked = look(&home.config(), store.reader(), later(100_000)).await;
    let (mut engine, _) = looked.expect("a look");
    assert_eq!(values(&mut engine, one), expected);
    // The block is over, and still one request goes first.
    assert_eq!(engine.gate.blocked(one), Some((NOW.boot.plus(90_000), "shut")));
}

#[tokio::test]
async fn buckets_that_are_one_are_one_again() {
    let mut home = Home::new();
    let store = home.store("boot").await;
    let ids = home.ids(&store).await;
    let (one, two) = (ids.buckets["one"], ids.buckets["two"]);
    store.remember(learned(one, five(), None)).await.expect("kept");
    store.remember(learned(two, five(), Some(one))).await.expect("kept");
    let mut engine = home.start(&store, NOW).await;
    assert_eq!(engine.gate.root(two), one);
    assert_eq!(values(&mut engine, two), [(5, Source::Learned), (10, Source::Config)]);
    // What is off has no limits in which another could count.
    home.limits = "[[project.limits]]\nmodel = \"one\"\nrpm = \"off\"\n\
        [[project.limits]]\nmodel = \"two\"\nrpm = 30\n";
    let mut engine = home.start(&store, NOW).await;
    assert_eq!(engine.gate.root(two), two);
    assert_eq!(values(&mut engine, two)[0].0, 30);
}

#[tokio::test]
async fn what_was_set_beats_the_rest() {
    let home = Home::new();
    let store = home.store("boot").await;
    let ids = home.ids(&store).await;
    let one = ids.buckets["one"];
    store.remember(learned(one, five(), None)).await.expect("kept");
    let event = LimitEvent {
        at: NOW.wall,
        project_id: ids.id,
        quota_group: "one".to_owned(),
        dimension: "rpm".to_owned(),
        was: Some("20".to_owned()),
        became: Some("50".to_owned()),
        source: "set".to_owned(),
        reason: "limits set".to_owned(),
    };
    store.set_limit(event, Some("50".to_owned())).await.expect("set");
    let mut engine = home.start(&store, NOW).await;
    assert_eq!(values(&mut engine, one), [(50, Source::Set), (10, Source::Config)]);
}

/// A request to model `one`, answered at once.
async fn request(store: &Store, ids: &ProjectIds, id: i64, now: Now) {
    let est = Weights { requests: 1, input_tokens: 9, ..Weights::default() };
    let row = NewAttempt {
        text: None,
        origin: crate::store::Origin::default(),
        id: AttemptId(id),
        item_id: None,
        project_id: ids.id,
        bucket_id: ids.buckets["one"],
        model: "one".to_owned(),
        key_name: "k".to_owned(),
        tenant: "t".to_owned(),
        s_wall: now.wall,
        s_boot: now.boot,
        day_lo: DAY.to_owned(),
        est,
    };
    store.reserve(vec![row]).await.expect("reserved");
    let attempt = EndedAttempt {
        id: AttemptId(id),
        end: AttemptEnd::Ok,
        u_wall: now.wall,
        u_boot: now.boot,
        day_hi: DAY.to_owned(),
        act: est,
        tokens: Tokens::default(),
        http_status: Some(200),
        quota_id: None,
        service_tier: None,
        error: None,
        latency_ms: Some(1),
    };
    let row = Settlement { attempt: Some(attempt), item: None };
    store.settle(vec![row]).await.expect("settled");
}

/// A model that was off at a start and is turned on later: what was sent to it before still counts.
#[tokio::test]
async fn what_was_off_at_a_start_counts_what_it_used() {
    let mut home = Home::new();
    let store = home.store("boot").await;
    let ids = home.ids(&store).await;
    let one = ids.buckets["one"];
    for id in 1..=4 {
        request(&store, &ids, id, NOW).await;
    }
    home.limits = "[[project.limits]]\nmodel = \"one\"\nrpm = \"off\"\n";
    let mut engine = home.start(&store, later(10_000)).await;
    let view = engine.buckets(later(10_000)).into_iter().find(|view| view.id == one);
    let wait = view.expect("it is shown").wait.expect("it waits");
    assert!(wait.1.starts_with("one is off"), "{}", wait.1);
    let mut event = changed([(one.0, to(&[rpm(5), rpd(10)]))]);
    if let crate::engine::Event::Limits(new) = &mut event {
        new.project = ids.id;
    }
    engine.step(later(11_000), [event]);
    let used = engine.gate.state(one, later(11_000)).into_iter().map(|state| state.used);
    assert_eq!(used.collect::<Vec<_>>(), [4, 4]);
}

fn quarantined(engine: &Engine, bucket: BucketId) -> bool {
    let block = engine.gate.blocked(bucket);
    block.is_some_and(|(until, why)| until > NOW.boot && why.contains("restarted"))
}

#[tokio::test]
async fn another_boot_is_waited_out_and_the_same_is_not() {
    let home = Home::new();
    let store = home.store("boot-1").await;
    let ids = home.ids(&store).await;
    let one = ids.buckets["one"];
    assert!(!quarantined(&home.start(&store, NOW).await, one));
    request(&store, &ids, 1, NOW).await;
    drop(store);
    let store = home.store("boot-1").await;
    assert!(!quarantined(&home.start(&store, later(1_000)).await, one));
    drop(store);
    let store = home.store("boot-2").await;
    assert!(quarantined(&home.start(&store, later(1_000)).await, one));
    request(&store, &ids, 2, later(100_000)).await;
    assert!(!quarantined(&home.start(&store, later(101_000)).await, one));
}

#[tokio::test]
async fn another_boot_is_waited_out_also_with_an_empty_ledger() {
    let home = Home::new();
    let store = home.store("boot-1").await;
    let ids = home.ids(&store).await;
    drop(store);
    let store = home.store("boot-2").await;
    assert!(quarantined(&home.start(&store, NOW).await, ids.buckets["one"]));
}

/// A clock that is behind the ledger: the day is at least that of the last row. One that was cut
/// off a moment ago has its bound ahead, and is no reason for doubt.
#[tokio::test]
async fn a_clock_behind_the_ledger_ends_no_day() {
    let home = Home::new();
    let store = home.store("boot").await;
    let ids = home.ids(&store).await;
    request(&store, &ids, 1, NOW).await;
    let floor = |engine: &Engine| engine.projects[&ids.id].floor.map(|day| day.to_string());
    let just_before = Now { wall: NOW.wall.minus(1_500), ..later(10) };
    assert_eq!(floor(&home.start(&store, just_before).await), None);
    let day_before = Now { wall: NOW.wall.minus(86_400_000), ..later(10) };
    assert_eq!(floor(&home.start(&store, day_before).await), Some(DAY.to_owned()));
}
