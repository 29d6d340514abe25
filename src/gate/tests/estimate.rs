//! Learnt ratios and remembered excess.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::estimate::{Kind, Overruns, PAIRS_MAX, Ratio, Ratios, SAMPLES_MAX, Size};
use super::super::units::BootMs;

const PLAIN: Kind = Kind { code: 0, cold_milli: 500, least_milli: 150, most_milli: 1_000 };
const TOOLS: Kind = Kind { code: 8, cold_milli: 500, least_milli: 150, most_milli: 10_000 };

fn text(text_bytes: u64) -> Size {
    Size { text_bytes, ..Size::default() }
}

/// Observations of 1,000 bytes each that took so many tokens.
fn observed(tokens: impl IntoIterator<Item = u64>) -> Ratios {
    let mut ratios = Ratios::default();
    for actual in tokens {
        ratios.observe("m", PLAIN, text(1_000), actual);
    }
    ratios
}

fn milli(ratios: &Ratios) -> u64 {
    ratios.ratio("m", PLAIN).milli_per_byte
}

#[test]
fn a_ratio_starts_cold() {
    let cold = Ratio { milli_per_byte: 500, short_milli_per_byte: 500, samples: 0, learned: false };
    assert_eq!(Ratios::default().ratio("m", PLAIN), cold);
    assert_eq!(observed([250; 99]).ratio("m", PLAIN), Ratio { samples: 99, ..cold });
    // What is more than expected is believed at once.
    assert_eq!(milli(&observed([250, 700, 300])), 700);
    let learned = observed([250; 100]).ratio("m", PLAIN);
    assert_eq!((learned.milli_per_byte, learned.samples, learned.learned), (250, 100, true));
}

#[test]
fn the_percentile_is_of_the_nearest_rank() {
    for (samples, high) in
        [(100, 300), (199, 399), (200, 398), (201, 399), (299, 497), (300, 497), (400, 596)]
    {
        assert_eq!(milli(&observed(201..=200 + samples)), high, "of {samples}");
    }
    // Only the last 512 count, of which the sixth largest.
    let ratios = observed((1..=600).chain([400; 506]).chain([700; 6]));
    assert_eq!((milli(&ratios), ratios.ratio("m", PLAIN).samples), (700, SAMPLES_MAX));
    assert_eq!(milli(&observed((1..=600).chain([400; 507]).chain([700; 5]))), 400);
}

#[test]
fn a_ratio_stays_within_its_kind() {
    assert_eq!(milli(&observed([20; 100])), 150);
    assert_eq!(milli(&observed([3_000; 100])), 1_000);
    let mut ratios = Ratios::default();
    ratios.observe("m", TOOLS, text(1_000), 3_000);
    assert_eq!(ratios.ratio("m", TOOLS).milli_per_byte, 3_000);
    ratios.observe("m", TOOLS, text(1_000), 30_000);
    assert_eq!(ratios.ratio("m", TOOLS).milli_per_byte, 10_000);
    // Other kinds and other models have not seen that.
    assert_eq!(milli(&ratios), 500);
    assert_eq!(ratios.ratio("n", TOOLS).milli_per_byte, 500);
}

#[test]
fn short_texts_teach_nothing_and_are_estimated_cold() {
    let mut ratios = observed([200; 100]);
    for _ in 0..600 {
        ratios.observe("m", PLAIN, text(63), 60);
    }
    let ratio = ratios.ratio("m", PLAIN);
    assert_eq!((ratio.milli_per_byte, ratio.samples), (200, 100));
    for (bytes, tokens) in [(0, 0), (1, 1), (63, 32), (64, 32), (160, 32), (161, 33), (1_000, 200)]
    {
        assert_eq!(ratio.estimate(text(bytes)), tokens, "{bytes} bytes");
    }
}

#[test]
fn media_and_overhead_are_not_the_texts() {
    let size = Size { text_bytes: 1_000, media_tokens: 2_240, overhead_tokens: 8 };
    let mut ratios = Ratios::default();
    for _ in 0..100 {
        ratios.observe("m", PLAIN, size, 2_240 + 8 + 301);
    }
    let ratio = ratios.ratio("m", PLAIN);
    assert_eq!((ratio.milli_per_byte, ratio.estimate(size)), (301, 2_549));
    // Less than the media alone leaves nothing for the text.
    ratios.observe("m", PLAIN, size, 9);
    assert_eq!(ratios.samples("m", 0).last(), Some(0));
    assert_eq!(ratio.estimate(Size { media_tokens: u64::MAX, ..size }), u64::MAX);
}

#[test]
fn pairs_are_bounded_and_the_stalest_goes() {
    let mut ratios = Ratios::default();
    let model = |number: usize| format!("model-{number}");
    for number in 0..PAIRS_MAX {
        ratios.observe(&model(number), PLAIN, text(100), 90);
    }
    let known = |ratios: &Ratios, number| ratios.ratio(&model(number), PLAIN).samples > 0;
    ratios.observe(&model(0), PLAIN, text(100), 90);
    ratios.observe(&model(0), TOOLS, text(100), 90);
    assert!(known(&ratios, 0) && !known(&ratios, 1) && known(&ratios, 2));
    ratios.observe("another", PLAIN, text(100), 90);
    assert!(known(&ratios, 0) && !known(&ratios, 2) && known(&ratios, 3));
    let kept = (0..PAIRS_MAX).filter(|number| known(&ratios, *number)).count();
    assert_eq!(kept, PAIRS_MAX - 2, "beside the tools of the first, and the other model");
}

#[test]
fn observations_survive_a_restart() {
    let before = observed((1..=700).map(|n| n % 450));
    let mut after = Ratios::default();
    after.restore("m", PLAIN.code, before.samples("m", PLAIN.code));
    assert_eq!(after.ratio("m", PLAIN), before.ratio("m", PLAIN));
    assert!(after.samples("m", PLAIN.code).eq(before.samples("m", PLAIN.code)));
    assert_eq!(after.samples("m", TOOLS.code).count(), 0);
}

#[test]
fn excess_is_kept_by_the_minute() {
    let mut overruns = Overruns::default();
    let mut settle = |minute: u64, estimate, actual| {
        overruns.settle(estimate, actual, BootMs(minute * 60_000 + 59_999));
        (overruns.margin(20_000, false), overruns.margin(20_000, true), overruns.total())
    };
    assert_eq!(settle(0, 100, 100), (0, 400, 0));
    assert_eq!(settle(0, 100, 1), (0, 400, 0));
    // Of 20 windows the second largest is the percentile: one of excess is no rule.
    assert_eq!(settle(1, 100, 350), (0, 400, 250));
    assert_eq!(settle(1, 0, 300), (0, 400, 550));
    assert_eq!(settle(2, 0, 600), (550, 550, 1_150));
    // Idle minutes push nothing out; 17 busy ones do not either.
    for minute in 100..117 {
        assert_eq!(settle(minute, 100, 100).0, 550, "minute {minute}");
    }
    // With more than 20 the oldest go.
    assert_eq!(settle(117, 100, 107), (550, 550, 1_157));
    assert_eq!(settle(118, 100, 108), (8, 400, 1_165));
    assert_eq!(settle(119, 100, 100), (7, 400, 1_165));
    // A clock that stands still or steps back stays in its last window.
    assert_eq!(settle(3, 100, 120), (8, 400, 1_185));
}

#[test]
fn a_margin_leaves_half_of_the_limit() {
    let mut overruns = Overruns::default();
    overruns.settle(0, u64::MAX, BootMs(0));
    overruns.settle(0, u64::MAX, BootMs(60_000));
    assert_eq!((overruns.margin(999, true), overruns.margin(999, false)), (499, 499));
    assert_eq!((overruns.margin(0, true), overruns.total()), (0, u64::MAX));
    let none = Overruns::default();
    assert_eq!([0, 1, 2, 50, 51].map(|limit| none.margin(limit, true)), [0, 0, 1, 1, 2]);
}

proptest! {
    #[test]
    fn an_estimate_grows_with_the_text(
        milli_per_byte in any::<u64>(),
        short_milli_per_byte in any::<u64>(),
        bytes in prop_oneof![0..300_u64, any::<u64>()],
        more in prop_oneof![0..300_u64, any::<u64>()],
        media_tokens in any::<u64>(),
    ) {
        let ratio = Ratio { milli_per_byte, short_milli_per_byte, samples: 0, learned: false };
        let size = Size { text_bytes: bytes, media_tokens, overhead_tokens: 8 };
        let larger = Size { text_bytes: bytes.saturating_add(more), ..size };
        prop_assert!(ratio.estimate(size) <= ratio.estimate(larger));
        prop_assert!(ratio.estimate(size) >= media_tokens);
    }

    #[test]
    fn one_observation_in_a_hundred_exceeds_the_estimate(
        all in vec((64..5_000_u64, 150..1_000_u64), 1..700),
    ) {
        let mut ratios = Ratios::default();
        let requests: Vec<_> =
            all.into_iter().map(|(bytes, milli)| (text(bytes), bytes * milli / 1_000)).collect();
        for (size, actual) in &requests {
            ratios.observe("m", PLAIN, *size, *actual);
        }
        let ratio = ratios.ratio("m", PLAIN);
        let kept = &requests[requests.len().saturating_sub(SAMPLES_MAX)..];
        let over = kept.iter().filter(|(size, actual)| *actual > ratio.estimate(*size)).count();
        prop_assert!(over * 100 <= kept.len(), "{over} of {}", kept.len());
        prop_assert!(ratio.samples >= 200 || over == 0);
        // Nor is it larger than that takes: a thousandth less, and more than one exceeds it.
        if ratio.samples >= 200 && ratio.milli_per_byte > PLAIN.least_milli {
            let tokens = |size: &Size| size.text_bytes * (ratio.milli_per_byte - 1) / 1_000;
            let reach = kept.iter().filter(|(size, actual)| *actual > tokens(size)).count();
            prop_assert!(reach * 100 > kept.len(), "{reach} of {}", kept.len());
        }
    }

    #[test]
    fn the_order_of_observations_does_not_matter(
        all in vec(0..2_000_u64, 1..SAMPLES_MAX),
        rotation in any::<prop::sample::Index>(),
    ) {
        let mut turned = all.clone();
        turned.rotate_left(rotation.index(all.len()));
        turned.reverse();
        prop_assert_eq!(observed(all).ratio("m", PLAIN), observed(turned).ratio("m", PLAIN));
    }

    #[test]
    fn any_numbers_will_do(
        sizes in vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..150),
    ) {
        let mut ratios = Ratios::default();
        let mut overruns = Overruns::default();
        for (text_bytes, media_tokens, overhead_tokens, actual) in sizes {
            let size = Size { text_bytes, media_tokens, overhead_tokens };
            ratios.observe("m", PLAIN, size, actual);
            let ratio = ratios.ratio("m", PLAIN);
            prop_assert!((150..=1_000).contains(&ratio.milli_per_byte));
            overruns.settle(ratio.estimate(size), actual, BootMs(media_tokens));
            prop_assert!(overruns.margin(actual, ratio.learned) <= actual / 2);
        }
    }
}
