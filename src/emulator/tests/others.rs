//! Another client of the same quota.

use super::*;
use crate::emulator::clock::Now;
use crate::emulator::engine::{Ask, Engine, Planned};
use crate::emulator::quota::Weight;

const ANSWER: Planned = Planned::Answer { output_tokens: 0, images: 0 };

fn now(at_ms: u64) -> Now {
    let start: chrono::DateTime<chrono::Utc> = "2026-11-22T20:00:00Z".parse().unwrap();
    Now { at_ms, wall: start + Duration::from_millis(at_ms) }
}

fn engine(model: &str, minute_ms: u64, seed: u64) -> Engine {
    let text = format!(
        "[[project]]\nname = \"p\"\nkeys = [\"k\"]\n[[project.model]]\nname = \"m\"\n{model}"
    );
    Engine::new(Limits::parse(&text).unwrap(), WindowKind::Sliding, minute_ms, seed)
}

fn ask(engine: &mut Engine) -> Ask {
    let caller = engine.identify("k").unwrap();
    let model = engine.find_model(&caller, "m");
    let weight = Weight { requests: 1, input_tokens: 1, images: 0 };
    Ask { caller: Some(caller), model, weight, ..Ask::default() }
}

#[test]
fn it_takes_its_share_and_shows_apart() {
    let mut engine = engine("rpm = 15\nexternal = { per_minute = 5 }", 60_000, 1);
    let ask = ask(&mut engine);
    let (hour, mut own) = (3_600_000, 0);
    for at_ms in (0..hour).step_by(500) {
        own += u64::from(engine.settle(now(at_ms), &ask, ANSWER).is_ok());
    }
    let stats = engine.stats_at(now(hour));
    let others = stats.external["p/m"];
    // 300 are wanted, and we leave room for hardly any.
    assert!((240..360).contains(&others.requests), "{others:?}");
    assert_eq!(others.requests, others.accepted + others.throttled);
    assert!(others.accepted > 0 && others.throttled > 0, "{others:?}");
    let used = own + others.accepted;
    assert!((60 * 14..=61 * 15).contains(&used), "{used}");
    assert_eq!(stats.counts.accepted, own, "ours alone");
    assert_eq!(stats.worst_window["p/m"].requests, 15.min(own));
}

#[test]
fn it_uses_days_and_tokens_while_nobody_looks() {
    let limits = "rpd = 100\ntpm = 1_000_000\nexternal = { per_minute = 50, input_tokens = 7 }";
    let mut engine = engine(limits, 6_000, 3);
    let ask = ask(&mut engine);
    let violations = engine.settle(now(600_000), &ask, ANSWER).unwrap_err();
    assert_eq!(violations.len(), 1, "{violations:?}");
    let stats = engine.stats_at(now(600_000));
    assert_eq!(stats.external["p/m"].accepted, 100, "in a hundred minutes of six seconds");
    assert!(stats.external["p/m"].throttled > 4_000, "{stats:?}");

    let mut engine =
        self::engine("tpm = 50\nexternal = { per_minute = 40, input_tokens = 7 }", 60_000, 3);
    let others = engine.stats_at(now(59_000)).external["p/m"];
    assert_eq!(others.accepted, 7, "seven times seven tokens");
}

#[test]
fn the_seed_decides_and_nobody_is_there_without_being_asked_for() {
    let run = |seed| {
        let mut engine = engine("rpm = 9\nexternal = { per_minute = 7.5 }", 60_000, seed);
        (1..100).map(|n| engine.stats_at(now(n * 1_000)).external["p/m"]).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let mut alone = engine("rpm = 9", 60_000, 1);
    let stats = alone.stats_at(now(1_000_000));
    assert!(stats.external.is_empty());
    let json = serde_json::to_value(&stats).unwrap();
    assert_eq!(json.get("external"), None);
}

#[tokio::test]
async fn stats_tell_of_it_without_a_call_of_ours() {
    let limits = "[[project]]\nname = \"p\"\nkeys = [\"k\"]\n[[project.model]]\nname = \"m\"\n\
                  external = { per_minute = 10_000 }";
    let config = EmulatorConfig::new(Limits::parse(limits).unwrap());
    let emulator = start(EmulatorConfig { minute: Duration::from_millis(1), ..config }).await;
    while emulator.stats().external["p/m"].requests == 0 {
        tokio::task::yield_now().await;
    }
    let stats: Value = fetch(&emulator, "__emulator/stats").await.json().await.unwrap();
    assert!(stats["external"]["p/m"]["accepted"].as_u64().unwrap() > 0, "{stats}");
    assert_eq!(stats["requests"], 0);
}
