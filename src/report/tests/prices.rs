use super::day;
use crate::config::prices::*;

fn price_of(model: &str, on: &str, amounts: &Amounts) -> Option<String> {
    let price = Prices::shipped().price("tier1", model, day(on));
    cost(price, amounts).map(PicoUsd::to_short)
}

/// Worked out by hand from the published table.
#[test]
fn rows_cost_what_the_table_says() {
    let input = Amounts { input_tokens: 1_000_000, ..Amounts::default() };
    let output = Amounts { output_tokens: 1_000_000, ..Amounts::default() };
    let cached =
        Amounts { input_tokens: 1_000_000, cached_tokens: 1_000_000, ..Amounts::default() };
    for (model, on, prices) in [
        ("gemini-4-argon", "2026-11-30", ["2", "10", "0.1"]),
        ("gemini-4-argon", "2026-12-01", ["4", "20", "0.2"]),
        ("gemini-3.8-flash", "2026-12-31", ["0.75", "3.75", "0.075"]),
        ("gemini-3.8-flash", "2027-01-01", ["1.5", "7.5", "0.15"]),
        ("gemini-3.7-flash", "2027-01-01", ["1.5", "7.5", "0.15"]),
        ("gemini-3.6-flash", "2026-10-14", ["0.75", "3.75", "0.075"]),
        ("gemini-3.5-flash", "2026-11-22", ["1.5", "9", "0.15"]),
        ("gemini-3.5-flash-lite", "2026-11-22", ["0.3", "2.5", "0.03"]),
        ("gemini-3.1-flash-lite", "2026-11-22", ["0.25", "1.5", "0.025"]),
        ("gemini-3.1-pro-preview", "2026-11-22", ["2", "12", "0.2"]),
        ("gemini-3-flash-preview", "2026-11-22", ["0.5", "3", "0.05"]),
        ("gemini-2.5-pro", "2026-11-22", ["1.25", "10", "0.125"]),
        ("models/gemini-2.5-flash", "2026-11-22", ["0.3", "2.5", "0.03"]),
        ("gemini-2.5-flash-lite", "2026-11-22", ["0.1", "0.4", "0.01"]),
        ("gemini-2.0-flash", "2026-11-22", ["0.1", "0.4", "0.025"]),
        ("gemma-4-31b-it", "2026-11-22", ["0", "0", "0"]),
    ] {
        let found = [&input, &output, &cached].map(|amounts| price_of(model, on, amounts));
        assert_eq!(found, prices.map(|price| Some(price.to_owned())), "{model} on {on}");
    }
}

/// 600 uncached and 50 tool tokens at 0.30, 400 cached at 0.03, 200 output and 100 thought tokens
/// at 2.50: 180 + 15 + 12 + 500 + 250 millionths.
#[test]
fn each_part_has_its_own_rate() {
    let amounts = Amounts {
        input_tokens: 1_000,
        cached_tokens: 400,
        output_tokens: 200,
        thought_tokens: 100,
        tool_tokens: 50,
        images: 0,
    };
    let found = price_of("gemini-2.5-flash", "2026-11-22", &amounts);
    assert_eq!(found.as_deref(), Some("0.000957"));
    let price = Prices::shipped().price("tier1", "gemini-2.5-flash", day("2026-11-22"));
    assert_eq!(cost(price, &amounts), Some(PicoUsd(957_000_000)));
}

#[test]
fn what_has_no_known_price_has_no_cost() {
    let tokens = Amounts { input_tokens: 1, ..Amounts::default() };
    assert_eq!(price_of("gemini-1.5-pro", "2026-11-22", &tokens), None);
    assert_eq!(price_of("gemini-2.5-flash-x", "2026-11-22", &tokens), None);
    assert_eq!(price_of("gemini-2.5-flash", "2026-10-13", &tokens), None);
    assert_eq!(price_of("gemini-1.5-pro", "2026-11-22", &Amounts::default()), Some("0".into()));

    let output = Amounts { output_tokens: 1, ..tokens };
    assert_eq!(price_of("gemini-embedding-001", "2026-11-22", &tokens), Some("0.00000015".into()));
    assert_eq!(price_of("gemini-embedding-001", "2026-11-22", &output), None);
    let cached = Amounts { cached_tokens: 1, ..tokens };
    assert_eq!(price_of("gemini-2.0-flash-lite", "2026-11-22", &cached), None);
    let image = Amounts { images: 1, ..tokens };
    assert_eq!(price_of("gemini-2.5-flash", "2026-11-22", &image), None);
}

#[test]
fn the_free_tier_pays_nothing() {
    let amounts = Amounts { input_tokens: 1_000_000, images: 3, ..Amounts::default() };
    for model in ["gemini-2.5-pro", "gemini-1.5-pro"] {
        let price = Prices::shipped().price("free", model, day("2025-02-10"));
        assert_eq!(cost(price, &amounts), Some(PicoUsd(0)), "{model}");
    }
}

#[test]
fn a_sum_larger_than_any_bill_does_not_overflow() {
    let amounts = Amounts {
        input_tokens: u64::MAX,
        output_tokens: u64::MAX,
        thought_tokens: u64::MAX,
        tool_tokens: u64::MAX,
        ..Amounts::default()
    };
    // 2.00 and 10.00 US dollars a million are 2 and 10 million picodollars a token.
    let price = Prices::shipped().price("tier1", "gemini-4-argon", day("2026-11-22"));
    assert_eq!(cost(price, &amounts), Some(PicoUsd(u128::from(u64::MAX) * 12_000_000)));
}

#[test]
fn notes_say_what_a_price_leaves_out() {
    let note = Prices::shipped().note("gemini-2.5-pro").unwrap();
    assert!(note.contains("200,000"), "{note}");
    assert_eq!(Prices::shipped().note("gemini-3.5-flash"), None);
    assert_eq!(Prices::shipped().note("unheard-of"), None);
}

#[test]
fn amounts_are_numbers_of_dollars_in_json() {
    for (pico, json) in [
        (0, "0.0"),
        (310_000_000, "0.00031"),
        (1_499, "1e-9"),
        (499, "0.0"),
        (12_345_678_901_234_567, "12345.678901235"),
    ] {
        assert_eq!(serde_json::to_string(&PicoUsd(pico)).unwrap(), json);
    }
    let back: PicoUsd = serde_json::from_str("0.00031").unwrap();
    assert_eq!(back, PicoUsd(310_000_000));
    assert_eq!(serde_json::from_str::<PicoUsd>("3").unwrap(), PicoUsd(3 * 10_u128.pow(12)));
    assert!(serde_json::from_str::<PicoUsd>("-1").is_err());
}

#[test]
fn dollars_are_rounded_half_up() {
    let amount = PicoUsd(1_999_500_000_000);
    assert_eq!(amount.to_dollars(12), "1.999500000000");
    assert_eq!(amount.to_dollars(3), "2.000");
    assert_eq!(amount.to_dollars(0), "2");
    assert_eq!(amount.to_short(), "1.9995");
}

#[test]
fn a_bad_table_is_refused() {
    let table = |models: &str| format!("name = \"n\"\nsource = \"s\"\n{models}");
    let model = |price: &str| format!("[[model]]\nids = [\"m\"]\nprice = [{price}]\n");
    let one = "{ valid_from = \"2026-01-01\", input = \"1\" }";
    assert!(Prices::parse(&table(&model(one))).is_ok());
    for (models, reason) in [
        (model(""), "the prices of `m` must be"),
        (model(&format!("{one}, {one}")), "the prices of `m` must be"),
        (format!("{}{}", model(one), model(one)), "`m` has two tables"),
        (model("{ valid_from = \"2026-01-01\", inptu = \"1\" }"), "not a table of prices"),
        (model("{ valid_from = \"2026-01-01\", input = \"0.1234567\" }"), "not a table of prices"),
        (model("{ valid_from = \"2026-01-01\", input = \"1e3\" }"), "not a table of prices"),
        (model("{ valid_from = \"2026-01-01\", input = \"-1\" }"), "not a table of prices"),
    ] {
        let error = Prices::parse(&table(&models)).unwrap_err().to_string();
        assert!(error.starts_with(reason), "{models}: {error}");
    }
}
