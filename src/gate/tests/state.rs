//! What reports show is what admission decides by.

use super::*;

#[test]
fn used_free_and_reserved_add_up() {
    let mut bench = Bench::new(&[rpm(5), tpm(1_000), ipm(4), rpd(9)]);
    let first = bench.admit(0, tokens(300));
    bench.admit(0, tokens(200));
    bench.answer(1_000, first, tokens(250));
    let shown: Vec<_> = bench
        .state(2_000)
        .iter()
        .map(|state| (state.limit.dimension(), state.used, state.reserved, state.free))
        .collect();
    assert_eq!(
        shown,
        [("rpm", 2, 1, 3), ("tpm", 450, 200, 550), ("ipm", 0, 0, 4), ("rpd", 2, 1, 7)]
    );
}

#[test]
fn the_next_to_free_is_shown_in_wall_time() {
    let mut bench = Bench::new(&[rpm(5), ipm(4), rpd(9)]);
    let at = |bench: &Bench, ms| bench.at(ms).wall;
    let midnight = unix("2026-11-24T08:00:00Z");
    let next = |bench: &mut Bench, ms| {
        bench.state(ms).into_iter().map(|state| state.next_free).collect::<Vec<_>>()
    };
    assert_eq!(next(&mut bench, 0), [None, None, Some(midnight)]);
    let id = bench.admit(0, one());
    assert_eq!(next(&mut bench, 0), [None, None, Some(midnight)]);
    bench.bound(id, 600);
    // Nothing of the images' window frees: the request has none.
    let frees = Some(at(&bench, 600 + STAY));
    assert_eq!(next(&mut bench, 1_000), [frees, None, Some(midnight)]);
    bench.answer(1_000, id, images(2));
    assert_eq!(next(&mut bench, 1_000), [frees, frees, Some(midnight)]);
    assert_eq!(next(&mut bench, 600 + STAY), [None, None, Some(midnight)]);
}

#[test]
fn the_longest_window_says_how_far_back_the_ledger_matters() {
    let mut bench = Bench::new(&[per(10_000, 2), rpd(100)]);
    assert_eq!(bench.gate.longest_window_ms(), MINUTE_MS + GAMMA_MS);
    let limits = vec![per(3_600_000, 5), rpm(1)];
    bench.gate.define(BucketId(2), PROJECT, limits, QuotaDay::pacific());
    assert_eq!(bench.gate.longest_window_ms(), 3_600_000 + GAMMA_MS);
}

#[test]
fn the_smallest_limit_of_a_metric_is_found() {
    use crate::gate::limits::smallest_limit;
    let limits = [rpm(15), tpm(250_000), tpd(6_000_000), rpd(9), per(10_000, 12)];
    assert_eq!(smallest_limit(&limits, Metric::InputTokens), Some(&limits[1]));
    assert_eq!(smallest_limit(&limits, Metric::Requests), Some(&limits[3]));
    assert_eq!(smallest_limit(&limits, Metric::Images), None);
    assert_eq!(smallest_limit(&[], Metric::Requests), None);
}

#[test]
fn a_reason_reads_as_a_sentence() {
    let because = |kept, kept_for| Because::Limit {
        dimension: "tpm",
        needs: 120_000,
        free: 80_000,
        limit: 250_000,
        kept,
        kept_for,
    };
    let words = "tpm: needs 120000, 80000 of 250000 free";
    assert_eq!(because(0, Class::Interactive).to_string(), words);
    let kept = because(12_500, Class::Interactive).to_string();
    assert_eq!(kept, format!("{words} (12500 kept for interactive)"));
    let kept = because(9, Class::Batch).to_string();
    assert_eq!(kept, format!("{words} (9 kept for a batch that has waited long)"));
    let because = Because::Blocked { reason: "the provider said 429 and no more".to_owned() };
    assert_eq!(because.to_string(), "the provider said 429 and no more");
}
