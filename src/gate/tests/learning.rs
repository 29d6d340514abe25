//! What refusals teach: limits, others, shares, distances, days, and all of it over a restart.

use super::world::OTHER;
use super::*;
use crate::gate::learn::{Lesson, Quota, Throttle};
use crate::gate::memory::Memory;

const DAY: u64 = 86_400_000;
const CLEAN: u64 = 600_000;
const MINUTE: Window = Window::Rolling { ms: MINUTE_MS };

/// From noon to the opening of the next day.
const OPENS: u64 = DAY / 2 + 32_000;

fn preset(limit: &Limit) -> Limit {
    let source = Source::Preset { name: "p".to_owned(), tier: "free".to_owned() };
    Limit { source, ..limit.clone() }
}

fn set(limit: &Limit) -> Limit {
    Limit { source: Source::Set, ..limit.clone() }
}

fn quota(metric: Metric, window: impl Into<Option<Window>>, value: Option<u64>) -> Quota {
    Quota { id: "Q".to_owned(), metric, window: window.into(), value }
}

fn minute(value: Option<u64>) -> Throttle {
    throttle(quota(Metric::Requests, MINUTE, value), None)
}

fn daily(value: Option<u64>) -> Throttle {
    throttle(quota(Metric::Requests, Window::Day, value), Some(22_000))
}

fn throttle(quota: Quota, retry_ms: Option<u64>) -> Throttle {
    Throttle { quotas: vec![quota], retry_ms }
}

impl Bench {
    /// An admitted request that is refused at once.
    #[track_caller]
    fn refused(&mut self, ms: u64, throttle: &Throttle) -> Vec<Lesson> {
        let id = self.admit(ms, one());
        self.refuse(ms, id, throttle)
    }

    #[track_caller]
    fn refuse(&mut self, ms: u64, id: AttemptId, throttle: &Throttle) -> Vec<Lesson> {
        let now = self.at(ms);
        let lessons = self.gate.throttled(id, throttle, now, 0).expect("the quota is told");
        self.answer(ms, id, one());
        lessons
    }

    /// What is usable of each limit.
    fn usable(&mut self, ms: u64) -> Vec<(&'static str, u64)> {
        let states = self.state(ms);
        states.iter().map(|state| (state.limit.dimension(), state.usable)).collect()
    }

    fn values(&mut self, ms: u64) -> Vec<(u64, Source)> {
        self.state(ms).into_iter().map(|it| (it.limit.value, it.limit.source)).collect()
    }

    /// One goes first after a block and is answered well.
    #[track_caller]
    fn canary(&mut self, ms: u64) {
        let id = self.admit(ms, one());
        assert!(self.gate.unblock(id), "it went first");
        self.answer(ms, id, one());
    }

    fn redefine(&mut self, ms: u64, limits: &[Limit]) {
        let now = self.at(ms);
        self.gate.redefine(BUCKET, limits.to_vec(), now);
    }

    /// The same bucket in a new process, with what was kept and what the ledger says of the
    /// attempts; the new boot clock begins elsewhere.
    fn restarted(&mut self, ms: u64, limits: &[Limit]) -> Bench {
        let now = self.at(ms);
        let text = serde_json::to_string(&self.gate.memory(BUCKET, now)).expect("JSON");
        let memory: Memory = serde_json::from_str(&text).expect("a memory");
        let mut next = Bench::new(limits);
        next.next = self.next;
        next.gate.remember(BUCKET, memory, now);
        next
    }
}

#[test]
fn a_named_value_lowers_every_limit_and_raises_a_preset() {
    for (stated, value, force, allows) in [
        (preset(&rpm(15)), 10, 10, None),
        (preset(&rpm(15)), 30, 30, None),
        (rpm(15), 10, 10, None),
        (rpm(15), 30, 15, Some(30)),
        (set(&rpm(15)), 10, 10, None),
        (set(&rpm(15)), 30, 15, Some(30)),
    ] {
        let mut bench = Bench::new(std::slice::from_ref(&stated));
        let lessons = bench.refused(0, &minute(Some(value)));
        let known = Lesson::Limit {
            dimension: "rpm",
            metric: Metric::Requests,
            window: MINUTE,
            from: Some(15),
            to: value,
            in_force: force == value,
            quota_id: "Q".to_owned(),
        };
        assert_eq!(lessons[0], known, "{stated:?}");
        let state = &bench.state(0)[0];
        assert_eq!((state.limit.value, state.provider_allows), (force, allows), "{stated:?}");
        // A value that explains the refusal casts no doubt on the books.
        let doubts = lessons.iter().any(|lesson| matches!(lesson, Lesson::Share { .. }));
        assert_eq!(doubts, value > 15, "{lessons:?}");
        // The same again teaches nothing new.
        let id = bench.reserve(1, one());
        let again = bench.refuse(1, id, &minute(Some(value)));
        assert!(!again.iter().any(|it| matches!(it, Lesson::Limit { .. })), "{again:?}");
    }
}

#[test]
fn what_was_learned_holds_until_the_stated_value_changes() {
    let learned = |value| vec![(value, Source::Learned)];
    let mut bench = Bench::new(&[rpm(15)]);
    bench.refused(0, &minute(Some(10)));
    assert_eq!(bench.values(1), learned(10));
    bench.redefine(2, &[rpm(15)]);
    assert_eq!(bench.values(2), learned(10));
    bench.redefine(3, &[set(&rpm(12))]);
    assert_eq!(bench.values(3), [(12, Source::Set)]);
    // The provider says it again, and it lowers the new value too.
    let id = bench.reserve(4, one());
    let lessons = bench.refuse(4, id, &minute(Some(10)));
    assert!(matches!(lessons[0], Lesson::Limit { from: Some(12), to: 10, in_force: true, .. }));
    assert_eq!(bench.values(5), learned(10));
    let now = bench.at(6);
    bench.gate.forget(BUCKET, Metric::Requests, MINUTE, now);
    assert_eq!(bench.values(6), [(12, Source::Set)]);
    // A limit that is not stated any more was not learned for nobody.
    bench.redefine(7, &[rpm(15)]);
    let id = bench.reserve(8, one());
    bench.refuse(8, id, &minute(Some(10)));
    bench.redefine(9, &[]);
    assert_eq!(bench.values(9), []);
}

#[test]
fn a_bucket_without_limits_learns_them() {
    let mut bench = Bench::new(&[]);
    for ms in [0, 1, 2] {
        bench.use_up(ms, one());
    }
    let lessons = bench.refused(3, &minute(Some(4)));
    assert!(matches!(lessons[0], Lesson::Limit { from: None, to: 4, in_force: true, .. }));
    assert_eq!(bench.values(4), [(4, Source::Learned)]);
    // All that went before counts in it.
    assert_eq!(bench.state(4)[0].used, 4);
    bench.redefine(5, &[rpm(9)]);
    assert_eq!(bench.values(5), [(9, Source::Config)]);
}

#[test]
fn a_text_without_a_window_is_told_by_its_value() {
    let mut bench = Bench::new(&[rpm(5), rpd(20), tpm(20)]);
    let id = bench.admit(0, one());
    let now = bench.at(0);
    let said = |value| throttle(quota(Metric::Requests, None, Some(value)), None);
    // No limit of requests has that value, and then nothing can be told.
    assert_eq!(bench.clone().gate.throttled(id, &said(7), now, 0), None);
    let nothing = throttle(quota(Metric::Requests, None, None), None);
    assert_eq!(bench.clone().gate.throttled(id, &nothing, now, 0), None);
    let mut minute = bench.clone();
    minute.gate.throttled(id, &said(5), now, 0).expect("the minute's");
    minute.waits(1, one(), 60_000, "the provider said its minute is used up (Q)");
    bench.gate.throttled(id, &said(20), now, 0).expect("the day's");
    bench.waits(1, one(), OPENS, "the provider's day is used up (Q)");
    // Two limits of the same value are not told apart.
    let mut twice = Bench::new(&[rpm(20), rpd(20)]);
    let id = twice.admit(0, one());
    assert_eq!(twice.gate.throttled(id, &said(20), now, 0), None);
}

#[test]
fn a_limit_of_what_is_under_way_shuts_for_a_while() {
    let mut bench = Bench::new(&[limit(Metric::Requests, Window::Concurrent, 3)]);
    let said = throttle(quota(Metric::Requests, Window::Concurrent, Some(3)), Some(4_000));
    bench.refused(0, &said);
    bench.wait(3_999, one());
    bench.canary(4_000);
}

#[test]
fn what_others_use_counts_for_a_window() {
    let mut bench = Bench::new(&[rpm(10)]);
    bench.use_up(0, one());
    let lessons =
        bench.refused(1_000, &throttle(quota(Metric::Requests, MINUTE, None), Some(5_000)));
    assert_eq!(lessons[0], Lesson::Others { dimension: "rpm", weight: 8 });
    assert_eq!(bench.state(1_000)[0].used, 10);
    let now = bench.at(1_000);
    assert_eq!(bench.gate.others_permille(BUCKET, now), Some(800));
    // Shut for as long as was asked; the others' use goes on for the rest of a window.
    bench.wait(6_000, one());
    assert_eq!(bench.state(60_999)[0].used, 10 - 1);
    assert_eq!(bench.state(61_000)[0].used, 1);
    assert_eq!(bench.state(1_000 + STAY)[0].used, 0);
}

#[test]
fn refusals_of_one_window_are_one() {
    let mut bench = Bench::new(&[rpm(10)]);
    let ids: Vec<_> = (0..6).map(|_| bench.admit(0, one())).collect();
    let mut shares = 0;
    for (ms, id) in (100..).zip(ids) {
        let lessons = bench.refuse(ms, id, &minute(None));
        shares += lessons.iter().filter(|it| matches!(it, Lesson::Share { .. })).count();
        let now = bench.at(ms);
        assert_eq!(bench.gate.others_permille(BUCKET, now), Some(400), "at {ms}");
    }
    assert_eq!((shares, bench.usable(200)), (1, vec![("rpm", 6)]));
}

#[test]
fn the_share_goes_down_to_a_floor_and_comes_back_by_use() {
    let mut bench = Bench::new(&[rpm(1_000)]);
    let mut seen = Vec::new();
    let mut ms = 0;
    for _ in 0..6 {
        bench.refused(ms, &minute(None));
        seen.push(bench.usable(ms)[0].1);
        ms += 20 * MINUTE_MS;
    }
    // Others use nearly all of it each time: half of what is left goes, down to three tenths.
    assert_eq!(seen, [500, 300, 300, 300, 300, 300]);
    // Clean but idle: nothing comes back.
    for _ in 0..3 {
        bench.canary_if_shut(ms);
        ms += 2 * CLEAN;
        bench.reserve_and_answer(ms, one());
    }
    assert_eq!(bench.usable(ms)[0].1, 300);
    // Used to nine tenths: a little comes back every ten minutes.
    let start = ms;
    while ms < start + 3 * CLEAN + MINUTE_MS {
        bench.reserve_and_answer(ms, Weights { requests: 330, ..Weights::default() });
        ms += 2 * MINUTE_MS;
    }
    assert_eq!(bench.usable(ms)[0].1, 360);
}

impl Bench {
    fn canary_if_shut(&mut self, ms: u64) {
        let id = self.reserve(ms, one());
        self.gate.unblock(id);
        self.answer(ms, id, one());
    }

    fn reserve_and_answer(&mut self, ms: u64, need: Weights) {
        let id = self.reserve(ms, need);
        self.answer(ms, id, need);
    }
}

#[test]
fn doubt_grows_with_each_window_and_ends_after_a_day() {
    let mut bench = Bench::new(&[rpm(1_000)]);
    let told = |lessons: &[Lesson]| {
        let paced = lessons.iter().any(|it| matches!(it, Lesson::Paced));
        let slower = lessons.iter().find_map(|it| {
            if let Lesson::Slower { delta_ms } = it { Some(*delta_ms) } else { None }
        });
        (paced, slower)
    };
    let mut found = Vec::new();
    let mut last = 0;
    for turn in 0..6 {
        last = turn * 90_000;
        found.push(told(&bench.refused(last, &minute(None))));
    }
    let slower = |ms| (false, Some(ms));
    let none = (false, None);
    assert_eq!(found, [none, (true, None), slower(4_000), slower(8_000), slower(10_000), none]);
    bench.canary(last + 90_000);
    // Batch requests keep their distance, others do not.
    let shy = last + 95_000;
    bench.wait(last + 90_001, one());
    let now = bench.at(last + 90_001);
    let interactive = Ask { class: Class::Interactive, ..ask(BUCKET, one()) };
    assert_eq!(bench.gate.check(&interactive, now), Verdict::Fits);
    // Bytes are under way for longer.
    let id = bench.admit(shy, one());
    let now = bench.at(shy);
    bench.gate.flushed(id, now);
    assert_eq!(bench.settle(shy + 60_000, id, one()).0, shy + 10_000);
    // After a day without another one all is as it was.
    let later = last + DAY;
    assert!(bench.gate.is_paced(BUCKET, bench.at(later - 1)));
    assert!(!bench.gate.is_paced(BUCKET, bench.at(later)));
    let id = bench.admit(later, one());
    let now = bench.at(later);
    bench.gate.flushed(id, now);
    assert_eq!(bench.settle(later + 60_000, id, one()).0, later + DELTA_MS);
    assert_eq!(bench.usable(later), [("rpm", 1_000)]);
    assert_eq!(bench.gate.others_permille(BUCKET, now), None);
    bench.admit(later, one());
}

#[test]
fn doubts_that_are_far_apart_do_not_add_up() {
    let mut bench = Bench::new(&[rpm(1_000)]);
    for turn in 0..4 {
        let lessons = bench.refused(turn * (CLEAN + 1), &minute(None));
        assert!(!lessons.contains(&Lesson::Paced), "{lessons:?}");
    }
}

#[test]
fn a_day_is_over_whatever_delay_is_asked() {
    let mut bench = Bench::new(&[rpm(10), rpd(100)]);
    let lessons = bench.refused(0, &daily(None));
    assert!(matches!(&lessons[..], [Lesson::Shut { .. }]), "{lessons:?}");
    assert_eq!(bench.state(1)[1].used, 100);
    bench.waits(22_001, one(), OPENS, "the provider's day is used up (Q)");
    bench.canary(OPENS);
    bench.admit(OPENS, one());
    // Refused after midnight, but it was sent before: that day is over anyway.
    let mut late = Bench::new(&[rpd(100)]);
    let id = late.admit(DAY / 2 - 10_000, one());
    late.refuse(DAY / 2 + 5_000, id, &daily(None));
    late.waits(DAY / 2 + 5_001, one(), OPENS, "the provider's day is used up (Q)");
    late.canary(OPENS);
}

#[test]
fn a_fresh_day_that_is_refused_is_tried_four_times() {
    for limits in [vec![], vec![rpd(100)]] {
        let mut bench = Bench::new(&limits);
        bench.refused(0, &daily(None));
        let mut day = 0;
        for _ in 0..2 {
            let mut ms = day + OPENS;
            for wait in [5, 10, 20, 40] {
                bench.refused(ms, &daily(None));
                bench.wait(ms + 1, one());
                ms += wait * MINUTE_MS;
                bench.wait(ms - 1, one());
            }
            // The fourth was the last.
            bench.refused(ms, &daily(None));
            day += DAY;
            assert_eq!(bench.wait(ms + 1, one()).until, BootMs(BOOT + day + OPENS));
        }
        bench.canary(day + OPENS);
        bench.admit(day + OPENS, one());
    }
}

/// A refusal that names several quotas is one refusal, in whatever order it names them.
#[test]
fn a_refusal_by_two_quotas_of_a_fresh_day_is_one() {
    let [day, tokens, minute] = [
        quota(Metric::Requests, Window::Day, None),
        quota(Metric::InputTokens, Window::Day, None),
        quota(Metric::Requests, MINUTE, None),
    ];
    for quotas in [vec![day.clone(), tokens], vec![minute, day]] {
        let mut bench = Bench::new(&[rpd(100)]);
        bench.refused(0, &daily(None));
        let throttle = Throttle { quotas, retry_ms: Some(22_000) };
        bench.refused(OPENS, &throttle);
        assert_eq!(bench.wait(OPENS + 1, one()).until, BootMs(BOOT + OPENS + 5 * MINUTE_MS));
        assert_eq!(bench.state(OPENS + 1)[0].used, 1, "the day's rest is not taken for used");
    }
}

/// A user's word ends what a refusal shut; one request goes first all the same.
#[test]
fn a_block_that_is_lifted_leaves_one_to_go_first() {
    let mut bench = Bench::new(&[rpm(9)]);
    bench.refused(0, &daily(Some(0)));
    bench.wait(1_000, one());
    let now = bench.at(1_000);
    bench.gate.lift(BUCKET, now);
    let first = bench.admit(1_000, one());
    bench.wait(1_001, one());
    assert!(bench.gate.unblock(first));
    bench.admit(1_001, one());
}

#[test]
fn a_limit_of_nothing_shuts_for_the_day() {
    let mut bench = Bench::new(&[preset(&rpm(5)), rpd(20)]);
    let zero = throttle(quota(Metric::Requests, MINUTE, Some(0)), Some(1_000));
    let lessons = bench.refused(0, &zero);
    assert!(matches!(&lessons[..], [Lesson::Shut { .. }]), "{lessons:?}");
    bench.waits(2_000, one(), OPENS, "the provider's limit is 0: not on this tier (Q)");
    assert_eq!(bench.values(2_000)[0].0, 5);
    bench.canary(OPENS);
}

#[test]
fn a_limit_by_key_is_learned_by_key() {
    let of_key = |value| Limit { scope: Scope::Key, ..rpm(value) };
    let mut bench = Bench::new(&[of_key(5)]);
    bench.refused(0, &minute(Some(5)));
    assert_eq!(bench.values(1), [(5, Source::Config)]);
    let id = bench.reserve(2, one());
    bench.refuse(2, id, &minute(Some(3)));
    let state = &bench.state(3)[0];
    assert_eq!((state.limit.value, state.limit.scope), (3, Scope::Key));
    assert_eq!(bench.state(3).len(), 1);
    // Both of a kind: what is said is of the project's.
    let mut both = Bench::new(&[of_key(5), rpm(9)]);
    both.refused(0, &minute(Some(7)));
    let values: Vec<_> = both.state(1).iter().map(|it| (it.limit.scope, it.limit.value)).collect();
    assert_eq!(values, [(Scope::Project, 7), (Scope::Key, 5)]);
}

#[test]
fn a_restart_changes_no_decision() {
    let limits = [rpm(40), rpd(100), per(3_600_000, 300)];
    let mut bench = Bench::new(&limits);
    let hour = quota(Metric::Requests, Window::Rolling { ms: 3_600_000 }, None);
    for turn in 0..3 {
        bench.refused(turn * 90_000, &minute(Some(30)));
    }
    let ms = 300_000;
    bench.canary_if_shut(ms);
    let id = bench.reserve(ms, one());
    bench.refuse(ms, id, &throttle(hour, Some(1_000)));
    let mut next = bench.restarted(ms, &limits);
    // The ledger's rows; all that was before has left the minute.
    for (id, at) in [(1, 0), (2, 90_000), (3, 180_000), (4, ms), (5, ms)] {
        next.restore(id, one(), at);
    }
    let charge = crate::gate::day::DayCharge {
        lo: "2026-11-23".parse().expect("a date"),
        hi: "2026-11-23".parse().expect("a date"),
    };
    next.gate.restore_day(BUCKET, None, charge, Weights { requests: 5, ..Weights::default() });
    for later in [0, 500, 1_000, 59_000, STAY, 20 * MINUTE_MS, 3_600_000, 4_000_000, DAY] {
        let (ms, need) = (ms + later, Weights { requests: 2, ..Weights::default() });
        let (now, interactive) = (bench.at(ms), Class::Interactive);
        for need in [one(), need] {
            assert_eq!(bench.check(ms, need), next.check(ms, need), "{later} later");
            let ask = Ask { class: interactive, ..ask(BUCKET, need) };
            assert_eq!(bench.gate.check(&ask, now), next.gate.check(&ask, now), "{later} later");
        }
        assert_eq!(bench.state(ms), next.state(ms), "{later} later");
    }
    // One more refusal is the next in the row, and not the first again.
    let ms = ms + 100_000;
    let slower = |bench: &mut Bench| {
        let id = bench.reserve(ms, one());
        let lessons = bench.refuse(ms, id, &minute(None));
        lessons.iter().any(|it| matches!(it, Lesson::Slower { .. }))
    };
    assert!(slower(&mut bench));
    assert!(slower(&mut next));
}

#[test]
fn others_are_kept_however_many_of_our_own_leave_first() {
    let mut bench = Bench::new(&[rpm(100)]);
    for ms in 0..50 {
        bench.use_up(ms, one());
    }
    bench.refused(1_000, &minute(None));
    let mut next = bench.restarted(1_000, &[rpm(100)]);
    assert_eq!(next.state(1_000)[0].used, 49);
}

#[test]
fn a_block_that_has_ended_still_sends_one_first() {
    let mut bench = Bench::new(&[rpm(10)]);
    bench.refused(0, &minute(Some(10)));
    // The restart falls after its end; nobody went first yet, or it is not answered.
    for first in [false, true] {
        let mut before = bench.clone();
        if first {
            before.reserve(90_000, one());
        }
        let mut next = before.restarted(90_000, &[rpm(10)]);
        next.admit(90_000, one());
        next.wait(90_000, one());
    }
}

#[test]
fn the_longest_day_is_waited_out_over_a_restart() {
    let mut bench = Bench::starting("2026-11-01T07:01:00Z", &[rpd(9)]);
    bench.refused(0, &daily(None));
    let until = bench.wait(1, one()).until;
    let (zero, now) = (bench.zero, bench.at(1));
    let memory = bench.gate.memory(BUCKET, now);
    let mut next = Bench::starting("2026-11-01T07:01:00Z", &[rpd(9)]);
    next.gate.remember(BUCKET, memory, now);
    assert_eq!((next.wait(1, one()).until, next.zero), (until, zero));
    assert!(until > BootMs(BOOT + 25 * 3_600_000 - 60_000));
}

#[test]
fn a_clock_set_back_over_a_restart_makes_nothing_last() {
    let mut bench = Bench::new(&[rpm(10)]);
    for turn in 0..3 {
        bench.refused(turn * 90_000, &minute(None));
    }
    let ms = 180_000;
    let now = bench.at(ms);
    let memory = bench.gate.memory(BUCKET, now);
    let mut next = Bench::new(&[rpm(10)]);
    next.zero = next.zero.minus(90 * DAY);
    let now = next.at(ms);
    next.gate.remember(BUCKET, memory, now);
    // Others' use lasts a window at most, a block a day, doubt a day after that.
    assert_eq!(next.state(ms + MINUTE_MS)[0].used, 0);
    let block = next.gate.blocked(BUCKET).expect("it was shut").0;
    assert!(block <= BootMs(BOOT + ms + 26 * 3_600_000), "{block:?}");
    assert!(next.gate.is_paced(BUCKET, next.at(ms)));
    assert!(!next.gate.is_paced(BUCKET, next.at(ms + DAY)));
}

#[test]
fn a_clock_set_ahead_over_a_restart_forgets_no_limit() {
    let mut bench = Bench::new(&[rpm(15)]);
    bench.refused(0, &minute(Some(10)));
    let now = bench.at(1_000);
    let memory = bench.gate.memory(BUCKET, now);
    let mut next = Bench::new(&[rpm(15)]);
    next.zero = next.zero.plus(90 * DAY);
    let now = next.at(1_000);
    next.gate.remember(BUCKET, memory, now);
    assert_eq!(next.values(1_000), [(10, Source::Learned)]);
    next.canary(1_000);
}

#[test]
fn a_merge_keeps_what_either_has_learned() {
    let mut bench = Bench::new(&[rpm(15)]);
    bench.gate.define(OTHER, PROJECT, vec![rpm(15)], QuotaDay::pacific());
    let from = |need| ask(OTHER, need);
    for turn in 0..4 {
        let now = bench.at(turn * 90_000);
        let id = AttemptId(1_000 + i64::try_from(turn).expect("small"));
        bench.gate.reserve(id, &from(one()), now);
        let throttle = if turn < 3 { minute(Some(10)) } else { daily(None) };
        bench.gate.throttled(id, &throttle, now, 0).expect("told");
        bench.gate.bound(id, now.boot);
        bench.gate.settle(id, one(), now);
    }
    let now = bench.at(300_000);
    bench.gate.merge(OTHER, BUCKET, now);
    assert_eq!(bench.values(300_000), [(10, Source::Learned)]);
    assert!(bench.gate.is_paced(BUCKET, now));
    bench.waits(300_000, one(), OPENS, "the provider's day is used up (Q)");
    // The day's block stays one: the first of a fresh day that is refused is followed by a probe.
    bench.refused(OPENS, &daily(None));
    bench.waits(OPENS + 1, one(), OPENS + 300_000, "the provider's day is used up (Q)");
    // What is stated of a bucket that is another one now holds where it is the tighter.
    for (stated, value) in [(99, (10, Source::Learned)), (3, (3, Source::Config))] {
        let now = bench.at(OPENS + 2);
        bench.gate.redefine(OTHER, vec![rpm(stated)], now);
        assert_eq!(bench.values(OPENS + 2), [value]);
    }
}
