//! Requests that ask for images.

use super::*;
use crate::emulator::clock::Now;
use crate::emulator::engine::{Ask, Engine, Planned};
use crate::emulator::quota::{QuotaKind, Weight};

fn now(at_ms: u64) -> Now {
    let start: chrono::DateTime<chrono::Utc> = "2026-11-22T20:00:00Z".parse().unwrap();
    Now { at_ms, wall: start + Duration::from_millis(at_ms) }
}

fn engine(kind: WindowKind) -> Engine {
    let text = "[[project]]\nname = \"p\"\nkeys = [\"k\"]\n\
                [[project.model]]\nname = \"m\"\nipm = 4";
    Engine::new(Limits::parse(text).unwrap(), kind, 60_000, 7)
}

fn ask(engine: &mut Engine, at_ms: u64, images: u64) -> Ask {
    let caller = engine.identify("k").unwrap();
    let model = engine.find_model(&caller, "m");
    let weight = Weight { requests: 1, input_tokens: 1, images };
    Ask { at_ms, caller: Some(caller), model, weight, ..Ask::default() }
}

fn answer(images: u64) -> Planned {
    Planned::Answer { output_tokens: 1, images }
}

#[test]
fn the_limit_is_on_images_asked_for_and_then_on_those_that_came() {
    for kind in [WindowKind::Sliding, WindowKind::Fixed, WindowKind::Bucket] {
        let mut engine = engine(kind);
        let three = ask(&mut engine, 0, 3);
        assert_eq!(engine.settle(now(0), &three, answer(1)), Ok(()));
        let violations = engine.settle(now(1), &three, answer(3)).unwrap_err();
        assert_eq!(violations[0].kind, QuotaKind::ImagesPerMinute, "three are under way: {kind:?}");
        engine.amend_images(now(2), 0, &three, 1);
        assert_eq!(engine.settle(now(2), &three, answer(3)), Ok(()), "one came: {kind:?}");

        let stats = engine.stats_at(now(3));
        assert_eq!(stats.counts.images, 1 + 3);
        assert_eq!(stats.worst_window["p/m"].images, 1 + 3, "{kind:?}");
        let log: Vec<u64> =
            engine.log_after(0, 9).iter().map(|entry| entry.weight.images).collect();
        assert_eq!(log, [1, 0, 3]);
    }
}

#[test]
fn more_images_than_were_asked_for_shut_the_model() {
    let mut engine = engine(WindowKind::Sliding);
    let one = ask(&mut engine, 0, 1);
    assert_eq!(engine.settle(now(0), &one, answer(5)), Ok(()));
    engine.amend_images(now(500), 0, &one, 5);
    assert_eq!(engine.settle(now(59_999), &one, answer(1)).unwrap_err()[0].wait_ms, 1);
    assert_eq!(engine.settle(now(60_000), &one, answer(1)), Ok(()));
    assert_eq!(engine.stats_at(now(60_000)).worst_window["p/m"].images, 5);
}

#[test]
fn of_two_equal_requests_each_is_corrected() {
    let mut engine = engine(WindowKind::Sliding);
    let two = ask(&mut engine, 0, 2);
    for _ in 0..2 {
        assert_eq!(engine.settle(now(5), &two, answer(1)), Ok(()));
    }
    for _ in 0..2 {
        engine.amend_images(now(9), 5, &two, 1);
    }
    assert_eq!(engine.settle(now(10), &two, answer(2)), Ok(()));
    let log: Vec<u64> = engine.log_after(0, 9).iter().map(|entry| entry.weight.images).collect();
    assert_eq!(log, [1, 1, 2]);
}

#[tokio::test]
async fn images_come_over_the_wire_and_the_21st_in_a_minute_does_not() {
    let limits = "[[project]]\nname = \"p\"\nkeys = [\"k\"]\n[[project.model]]\n\
                  name = \"gemini-3.1-flash-image\"\nipm = 20\nimages_returned = [0, 3]";
    let emulator = start(EmulatorConfig::new(Limits::parse(limits).unwrap())).await;
    let path = "v1beta/models/gemini-3.1-flash-image:generateContent";
    let mut came = 0;
    let mut throttled = false;
    for n in 0..100 {
        let mut body = prompt(&format!("cat {n}"));
        body["generationConfig"] =
            json!({"responseModalities": ["TEXT", "IMAGE"], "candidateCount": 2});
        let response = post(&emulator, path, &body).await;
        if response.status() == 429 {
            let error: Value = response.json().await.unwrap();
            let violation = &error["error"]["details"][1]["violations"][0];
            assert_eq!(violation["quotaId"], "GenerateImagesPerMinutePerProjectPerModel-FreeTier");
            throttled = true;
            break;
        }
        let answer: Value = response.json().await.unwrap();
        let parts = answer["candidates"].as_array().unwrap().iter();
        let parts = parts.flat_map(|candidate| candidate["content"]["parts"].as_array().unwrap());
        came += parts.filter(|part| part.get("inlineData").is_some()).count();
    }
    assert!(throttled);
    assert!((19..=21).contains(&came), "the one that did not fit asked for 2: {came}");
    let stats = emulator.stats();
    assert_eq!(stats.counts.images, u64::try_from(came).unwrap());
    assert_eq!(stats.worst_window["p/gemini-3.1-flash-image"].images, stats.counts.images);
}
