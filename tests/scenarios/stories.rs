//! The stories. Midnight in California is 08:00 UTC.

use super::tell::{Batch, Story};

const NOON: &str = "2026-11-23T20:00:00Z";

const PLAIN: Batch<'_> =
    Batch { name: "", tenant: "anna", projects: &["main"], prompts: (0, 0), deadline: None };

/// A thousand small prompts keep a project of 15 requests and 250,000 tokens a minute busy. After
/// five minutes comes one of 240,000 tokens, with a deadline, so that it is next. It goes within
/// two windows of a minute and two seconds: when what was there has left. Meanwhile small ones go
/// past it where they leave it its room, and afterwards they go on.
#[test]
fn a_big_prompt_among_small_ones() {
    let mut story = Story::begins(NOON);
    story.project("main", &[("rpm", 15), ("tpm", 250_000)]);
    story.submit(&Batch { name: "small", prompts: (1_000, 15_000), ..PLAIN });
    story.minutes(5);
    let before = story.went("small");
    assert_eq!(before, 75);
    let deadline = Some("2026-11-23T21:00:00Z");
    story.submit(&Batch { name: "big", prompts: (1, 240_000), deadline, ..PLAIN });
    story.minutes(3);
    assert_eq!(story.times("big").0, "2026-11-23T20:06:12Z");
    story.minutes(5);
    assert!(story.went("small") >= before + 75, "{} small ones went", story.went("small"));
}

/// Anna submits 600 prompts, and an hour of requests is in front of Ben when he submits 60. He does
/// not wait for hers: of 10 a minute each has 5. When Ben's are done, Anna has all 10 again. Then
/// Ben weighs three times as much, and has three of four.
#[test]
fn two_tenants() {
    let mut story = Story::begins(NOON);
    story.project("main", &[("rpm", 10)]);
    story.submit(&Batch { name: "anna's", prompts: (600, 100), ..PLAIN });
    story.minutes(2);
    assert_eq!(story.went("anna's"), 20);
    story.submit(&Batch { name: "ben's", tenant: "ben", prompts: (60, 100), ..PLAIN });
    story.minutes(10);
    let (anna, ben) = (story.went("anna's") - 20, story.went("ben's"));
    assert_eq!((anna, ben), (50, 50));
    story.minutes(10);
    assert_eq!((story.went("anna's"), story.left("ben's")), (160, 0));

    story.weigh("ben", 3);
    story.submit(&Batch { name: "more", tenant: "ben", prompts: (600, 100), ..PLAIN });
    story.minutes(20);
    let (anna, ben) = (story.went("anna's") - 160, story.went("more"));
    assert_eq!((anna, ben), (48, 142));
}

/// A project allows 100 requests a day, and it is 23:00 in California with none used. A batch of 90
/// was there first; one of 50 is due at midnight. The 50 go first, and of the 90 the other 50; the
/// last 40 go when the new day has begun.
#[test]
fn a_deadline_before_midnight() {
    let mut story = Story::begins("2026-11-24T07:00:00Z");
    story.project("main", &[("rpm", 10), ("rpd", 100)]);
    story.submit(&Batch { name: "calm", prompts: (90, 100), ..PLAIN });
    let deadline = Some("2026-11-24T08:00:00Z");
    story.submit(&Batch { name: "due", prompts: (50, 100), deadline, ..PLAIN });
    story.until("2026-11-24T07:59:59Z");
    assert_eq!((story.left("due"), story.left("calm")), (0, 40));
    let (first, last) = story.times("due");
    assert_eq!((&*first, &*last), ("2026-11-24T07:00:00Z", "2026-11-24T07:04:08Z"));
    story.until("2026-11-24T08:10:00Z");
    assert_eq!(story.left("calm"), 0);
}

/// Two projects of 10 requests a minute are a pool; the first has 30 left of its day. 200 prompts
/// use both until those 30 are gone, and then the second one alone: it has the other 170.
#[test]
fn a_pool_with_one_project_exhausted() {
    let mut story = Story::begins(NOON);
    story.project("main", &[("rpm", 10), ("rpd", 30)]);
    story.project("spare", &[("rpm", 10)]);
    story.submit(&Batch { prompts: (200, 100), projects: &["main", "spare"], name: "b", ..PLAIN });
    story.minutes(3);
    assert_eq!(story.went_to("main") + story.went_to("spare"), 60);
    story.minutes(20);
    assert_eq!((story.went_to("main"), story.went_to("spare")), (30, 170));
    assert_eq!(story.left("b"), 0);
}

/// 50 requests a day, and 120 prompts at noon in California. 50 go in five minutes; then the day
/// has no more, and it says so. 50 go after midnight, and the last 20 after the next one.
#[test]
fn the_day_ends_with_work_left() {
    let mut story = Story::begins(NOON);
    story.project("main", &[("rpm", 10), ("rpd", 50)]);
    story.submit(&Batch { name: "long", prompts: (120, 100), ..PLAIN });
    story.minutes(10);
    assert_eq!(story.left("long"), 70);
    assert_eq!(story.why("main"), "rpd: needs 1, 0 of 50 free");
    story.until("2026-11-24T07:59:59Z");
    assert_eq!(story.left("long"), 70);
    story.until("2026-11-25T07:59:59Z");
    assert_eq!(story.left("long"), 20);
    story.until("2026-11-25T08:10:00Z");
    assert_eq!(story.left("long"), 0);
}
