//! Quota days by the provider's clock, which is not ours.

use std::time::Duration;

use chrono::{Days, NaiveDate, NaiveTime, TimeDelta};
use tidegate::emulator::Limits;
use tidegate::gate::units::UnixMs;

use crate::harness::{ClosedPort, KEY, MODEL, Site, assert_all_answered, calls, job, limit};
use crate::harness::{model, project, start_emulator, window};

/// Requests of a day: not enough for all in one.
const RPD: u32 = 9;
const ITEMS: u32 = 12;

/// The provider's midnight comes while a batch runs, at an hour that is no midnight here.
#[tokio::test]
async fn each_request_is_charged_to_the_day_of_the_provider_s_clock() {
    let port = ClosedPort::new();
    let base_url = format!("http://{}", port.address());
    // Five in two seconds: before midnight and after it, never all at once.
    let site = Site::new(&project("demo", &base_url, &window(5, 2)));
    site.edit_config("rpd = \"none\"", &format!("rpd = {RPD}"));
    let text = std::fs::read_to_string(site.config()).unwrap();
    let (_, reset) = text.split_once(", reset = \"").unwrap();
    let (reset, _) = reset.split_once('"').unwrap();
    site.edit_config(reset, "0 0 * * *");
    let daemon = site.serve().await;

    let now = tidegate::clock::now().wall.to_utc();
    let tomorrow = (now.date_naive() + Days::new(1)).and_time(NaiveTime::MIN).and_utc();
    let to_midnight = TimeDelta::from_std(Duration::from_secs(3)).unwrap();
    let limits = format!(
        "zone = \"UTC\"\n[[project]]\nname = \"demo\"\nkeys = [\"{KEY}\"]\n{}",
        model(&format!("rpd = {RPD}"))
    );
    let emulator = start_emulator("", |config| {
        config.limits = Limits::parse(&limits).unwrap();
        config.listen = port.address();
        config.date_skew = tomorrow - now - to_midnight;
    })
    .await;
    site.drop_file("job.jsonl", job("job", ITEMS));
    assert_all_answered(&site.results("done", "job").await, "job", ITEMS);

    let decided = calls(&emulator).await;
    assert!(decided.iter().all(|call| call["status"] == 200), "{decided:?}");
    let days: Vec<NaiveDate> =
        decided.iter().map(|call| call["day"].as_str().unwrap().parse().unwrap()).collect();
    assert!(days.first() < days.last(), "the day ended meanwhile: {days:?}");
    let today = tomorrow.date_naive();
    let rows = site.reader().day_charges(UnixMs(0)).await.unwrap();
    let charged = |day: NaiveDate| {
        let on = rows.iter().filter(|row| (row.charge.lo..=row.charge.hi).contains(&day));
        on.map(|row| row.weights.requests).sum::<u64>()
    };
    for day in [today, today - Days::new(1)] {
        let counted = u64::try_from(days.iter().filter(|on| **on == day).count()).unwrap();
        assert!(charged(day) >= counted, "{day}: {counted} counted, {rows:?}");
    }
    let rpd = limit(&daemon.bucket(MODEL).await, "rpd");
    assert_eq!(rpd["used"], charged(today), "{rpd}: the day is the provider's");
    daemon.stop(&site).await;
}
