//! Forecasts whose answer is known, and the extrapolation beside the whole simulation.

use super::*;
use crate::calendar::QuotaDay;
use crate::gate::limits::{Limit, MINUTE_MS, Scope, Source, Window};
use crate::gate::units::{Metric, ProjectId};
use crate::schedule::{Line, Route};

const BUCKET: BucketId = BucketId(1);
/// 2027-01-15 08:00 UTC, midnight in California.
const START: Now = Now { boot: BootMs(1_000_000), wall: UnixMs(1_800_000_000_000) };
const HEADERS_MS: u64 = 300;
const END_MS: u64 = 1_000;
/// From one window to the next: headers, a minute and γ.
const ROUND_MS: u64 = HEADERS_MS + 60_050;

fn limit(metric: Metric, window: Window, value: u64) -> Limit {
    Limit { metric, window, scope: Scope::Project, value, source: Source::Config }
}

fn rpm(value: u64) -> Limit {
    limit(Metric::Requests, Window::Rolling { ms: MINUTE_MS }, value)
}

fn tpm(value: u64) -> Limit {
    limit(Metric::InputTokens, Window::Rolling { ms: MINUTE_MS }, value)
}

fn rpd(value: u64) -> Limit {
    limit(Metric::Requests, Window::Day, value)
}

fn snapshot(limits: Vec<Limit>) -> Snapshot {
    let mut gate = Gate::default();
    gate.define(BUCKET, ProjectId(1), limits, QuotaDay::pacific());
    let pacing = Pacing {
        keys: 1,
        next_key: 0,
        max_in_flight: 1_000,
        starts_per_second: 1_000,
        second: (BootMs(0), 0),
        held: None,
    };
    let delays = Delays { flush_ms: None, headers_ms: HEADERS_MS, end_ms: END_MS };
    Snapshot {
        now: START,
        gate,
        schedule: Schedule::default(),
        projects: BTreeMap::from([(1, pacing)]),
        buckets: BTreeMap::from([(
            BUCKET,
            Place { project: 1, crowd: None, held: None, delays, uses_permille: 1_000 },
        )]),
        lines: BTreeMap::new(),
        flights: Vec::new(),
        next_attempt: AttemptId(1),
    }
}

fn run(first: i64, count: u64, input_tokens: u64) -> Run {
    let need = Weights { requests: 1, input_tokens, ..Weights::default() };
    Run { first, count, needs: [(BUCKET, need)].into(), pinned: None }
}

fn add(snapshot: &mut Snapshot, id: i64, class: u8, tenant: &str, runs: Vec<Run>) -> LineId {
    let line = Line {
        class,
        tenant: snapshot.schedule.tenant(tenant),
        deadline: None,
        routes: vec![Route { project: 1, bucket: BUCKET, fallback: false }],
        patience_ms: 0,
    };
    snapshot.schedule.add(LineId(id), line, snapshot.now.boot, snapshot.now.boot);
    snapshot.lines.insert(LineId(id), Pending { runs, ..Pending::default() });
    LineId(id)
}

fn of(snapshot: &Snapshot) -> Forecast {
    Forecast::of(snapshot.clone(), STARTS_MOST)
}

fn after(ms: u64) -> Option<UnixMs> {
    START.wall.0.checked_add_unsigned(ms).map(UnixMs)
}

#[test]
fn requests_a_minute_go_in_rounds() {
    let mut world = snapshot(vec![rpm(15)]);
    let line = add(&mut world, 1, 1, "a", vec![run(1, 40, 10)]);
    let forecast = of(&world);
    let fate = &forecast.lines[&line];
    assert_eq!(fate.first_start, after(0));
    assert_eq!(fate.finish, after(2 * ROUND_MS + END_MS));
    assert!(!fate.extrapolated);
    assert_eq!(forecast.starts.len(), 40);
    let items: Vec<_> = forecast.starts.iter().map(|start| start.item).collect();
    assert_eq!(items, (1..=40).collect::<Vec<_>>());
    let phases = forecast.binds(line);
    assert_eq!(phases.len(), 1, "{phases:?}");
    assert_eq!(phases[0].binding, Binding::Limit("rpm"));
    assert_eq!(phases[0].until, START.wall.plus(2 * ROUND_MS));
}

#[test]
fn the_tighter_limit_binds_in_its_phase() {
    let mut world = snapshot(vec![rpm(10), tpm(1_000)]);
    // Five large ones a minute, for five minutes; then ten small ones a minute.
    let runs = vec![run(1, 25, 200), run(26, 50, 10)];
    let line = add(&mut world, 1, 1, "a", runs);
    let forecast = of(&world);
    let phases = forecast.binds(line);
    let words: Vec<_> = phases.iter().map(|phase| phase.binding.to_string()).collect();
    assert_eq!(words, ["tpm", "rpm"]);
    // Five rounds of five; the fifth has room for no small one, the rest takes five rounds.
    assert_eq!(forecast.lines[&line].finish, after(9 * ROUND_MS + END_MS));
}

#[test]
fn a_day_limit_moves_the_rest_behind_midnight() {
    let mut world = snapshot(vec![rpm(100), rpd(250)]);
    let line = add(&mut world, 1, 1, "a", vec![run(1, 313, 10)]);
    let forecast = of(&world);
    // The provider's clock may be two seconds behind, and half a minute is grace.
    let opens = 86_400_000 + 32_000;
    assert_eq!(forecast.lines[&line].finish, after(opens + END_MS));
    let phases = forecast.binds(line);
    let last = phases.last().expect("a day binds");
    assert_eq!(last.binding, Binding::Limit("rpd"));
    assert_eq!(last.left.get(&line), Some(&63));
    let days: Vec<_> = forecast.days.values().map(|day| day.requests).collect();
    assert_eq!(days, [250, 63]);
}

#[test]
fn lines_share_a_bucket_by_class_and_tenant() {
    let mut world = snapshot(vec![rpm(10)]);
    let low = add(&mut world, 1, 2, "a", vec![run(1, 10, 10)]);
    let one = add(&mut world, 2, 1, "a", vec![run(101, 20, 10)]);
    let other = add(&mut world, 3, 1, "b", vec![run(201, 10, 10)]);
    let forecast = of(&world);
    let finish = |line: LineId| forecast.lines[&line].finish;
    assert_eq!(finish(other), after(ROUND_MS + END_MS), "half of each round");
    assert_eq!(finish(one), after(2 * ROUND_MS + END_MS));
    assert_eq!(finish(low), after(3 * ROUND_MS + END_MS));
}

#[test]
fn what_is_larger_than_a_limit_never_goes() {
    let mut world = snapshot(vec![tpm(1_000)]);
    let line = add(&mut world, 1, 1, "a", vec![run(1, 2, 1_001), run(3, 1, 10)]);
    let fate = &of(&world).lines[&line];
    assert_eq!((fate.never, fate.left), (2, 0));
    assert_eq!(fate.finish, after(END_MS));
    assert!(fate.never_because.as_ref().is_some_and(|why| why.contains("tpm")));
}

#[test]
fn a_line_waits_for_its_time_and_others_go() {
    let mut world = snapshot(vec![rpm(10)]);
    let later = add(&mut world, 1, 0, "a", vec![run(1, 1, 10)]);
    let now = add(&mut world, 2, 1, "a", vec![run(101, 1, 10)]);
    let pending = world.lines.get_mut(&later).expect("a line");
    pending.not_before = Some(START.wall.plus(3_600_000));
    let forecast = of(&world);
    assert_eq!(forecast.lines[&now].finish, after(END_MS));
    assert_eq!(forecast.lines[&later].first_start, after(3_600_000));
}

#[test]
fn what_is_to_be_tried_again_goes_first_when_it_is_due() {
    let mut world = snapshot(vec![rpm(1)]);
    let line = add(&mut world, 1, 1, "a", vec![run(10, 3, 10)]);
    let pending = world.lines.get_mut(&line).expect("a line");
    pending.later.push((START.boot.plus(30_000), run(5, 1, 10)));
    let items: Vec<_> = of(&world).starts.iter().map(|start| start.item).collect();
    assert_eq!(items, [10, 5, 11, 12]);
}

#[test]
fn what_is_under_way_holds_its_place() {
    let mut world = snapshot(vec![rpm(1)]);
    let need = Weights { requests: 1, input_tokens: 10, ..Weights::default() };
    let ask = crate::gate::verdict::Ask {
        bucket: BUCKET,
        key: crate::gate::units::KeyId(0),
        class: crate::gate::units::Class::Batch,
        need,
    };
    world.gate.reserve(AttemptId(1), &ask, START);
    let started = START.boot;
    let flight = UnderWay { id: AttemptId(1), line: None, bucket: BUCKET, need, started };
    world.flights.push(flight);
    world.next_attempt = AttemptId(2);
    let line = add(&mut world, 1, 1, "a", vec![run(1, 1, 10)]);
    assert_eq!(of(&world).lines[&line].finish, after(ROUND_MS + END_MS));
}

#[test]
fn a_bucket_that_is_off_says_so() {
    let mut world = snapshot(vec![rpm(1)]);
    let line = add(&mut world, 1, 1, "a", vec![run(1, 1, 10)]);
    let place = world.buckets.get_mut(&BUCKET).expect("a bucket");
    place.held = Some((None, "switched off".to_owned()));
    let fate = &of(&world).lines[&line];
    assert_eq!((fate.finish, fate.left), (None, 1));
    assert_eq!(fate.stands.as_deref(), Some("switched off"));
}

#[test]
fn a_line_is_spread_over_the_time_that_it_has() {
    let mut world = snapshot(vec![rpm(100)]);
    let line = add(&mut world, 1, 1, "a", vec![run(1, 5, 10)]);
    let pending = world.lines.get_mut(&line).expect("a line");
    pending.spread = Some(Spread { deadline: after(4_000_000), started: None });
    let forecast = of(&world);
    let at: Vec<_> = forecast.starts.iter().map(|start| START.boot.until(start.at.boot)).collect();
    assert_eq!(at, [0, 666_666, 1_333_333, 2_000_000, 2_666_667]);
    assert_eq!(forecast.lines[&line].finish, after(2_666_667 + END_MS));
}

/// How far the extrapolated finish is from the simulated one, in milliseconds, and how long the
/// simulated one takes.
fn error(world: &Snapshot, line: LineId, starts: usize) -> (u64, u64) {
    let whole = Forecast::of(world.clone(), usize::MAX);
    let part = Forecast::of(world.clone(), starts);
    assert!(part.starts.len() < whole.starts.len());
    assert!(part.lines[&line].extrapolated);
    let exact = whole.lines[&line].finish.expect("it ends");
    let guess = part.lines[&line].finish.expect("it is extrapolated");
    (exact.0.abs_diff(guess.0), START.wall.until(exact))
}

#[test]
fn the_extrapolation_is_close_within_a_day() {
    let mut world = snapshot(vec![rpm(15)]);
    let line = add(&mut world, 1, 1, "a", vec![run(1, 3_000, 10)]);
    let (off, takes) = error(&world, line, 1_000);
    assert!(off * 50 < takes, "{off} of {takes}");
}

#[test]
fn the_extrapolation_keeps_the_rhythm_of_days() {
    let mut world = snapshot(vec![rpm(15), rpd(100)]);
    let line = add(&mut world, 1, 1, "a", vec![run(1, 1_250, 10)]);
    let (off, _) = error(&world, line, 430);
    assert!(off < 5 * 60_000, "{off} ms");
}

#[test]
fn the_extrapolation_knows_of_a_day_that_was_not_reached() {
    let mut world = snapshot(vec![rpm(100), rpd(1_000)]);
    let line = add(&mut world, 1, 1, "a", vec![run(1, 3_500, 10)]);
    let (off, _) = error(&world, line, 500);
    assert!(off < 5 * 60_000, "{off} ms");
}

#[test]
fn the_extrapolation_goes_by_class_and_tenant() {
    let mut world = snapshot(vec![rpm(15)]);
    add(&mut world, 1, 1, "a", vec![run(1, 1_000, 10)]);
    let low = add(&mut world, 2, 2, "a", vec![run(10_001, 500, 10)]);
    let other = add(&mut world, 3, 1, "b", vec![run(20_001, 600, 10)]);
    for line in [low, other] {
        let (off, takes) = error(&world, line, 300);
        assert!(off * 20 < takes, "{line:?}: {off} of {takes}");
    }
}

#[test]
fn slower_answers_end_later() {
    let mut world = snapshot(vec![rpm(15)]);
    let line = add(&mut world, 1, 1, "a", vec![run(1, 40, 10)]);
    let fast = of(&world).lines[&line].finish;
    let slow = of(&world.clone().slower(2_000)).lines[&line].finish;
    assert!(fast < slow);
}
