//! The first preset against the table that it was made from, written down a second time.

use std::collections::BTreeMap;

use crate::config::{Dimension, Setting, preset};

const NONE: Option<u64> = None;

/// Model; Free RPM, TPM, RPD; Tier 1 RPM, TPM, RPD.
type Row = (&'static str, [Option<u64>; 3], [Option<u64>; 3]);

const GEMINI_2025_02: [Row; 7] = [
    (
        "gemini-2.0-flash",
        [Some(15), Some(1_000_000), Some(1_500)],
        [Some(2_000), Some(4_000_000), NONE],
    ),
    (
        "gemini-2.0-flash-lite-preview",
        [Some(30), Some(1_000_000), Some(1_500)],
        [Some(4_000), Some(4_000_000), NONE],
    ),
    (
        "gemini-2.0-pro-exp-02-05",
        [Some(2), Some(1_000_000), Some(50)],
        [Some(5), Some(1_000_000), NONE],
    ),
    (
        "gemini-2.0-flash-thinking-exp-01-21",
        [Some(10), Some(4_000_000), Some(1_500)],
        [Some(10), Some(4_000_000), NONE],
    ),
    (
        "gemini-1.5-flash",
        [Some(15), Some(1_000_000), Some(1_500)],
        [Some(2_000), Some(4_000_000), NONE],
    ),
    (
        "gemini-1.5-flash-8b",
        [Some(15), Some(1_000_000), Some(1_500)],
        [Some(4_000), Some(4_000_000), NONE],
    ),
    ("gemini-1.5-pro", [Some(2), Some(32_000), Some(50)], [Some(1_000), Some(4_000_000), NONE]),
];

#[test]
fn every_cell_of_the_gemini_table_is_in_the_preset() {
    let preset = preset("gemini-2025-02").unwrap();
    assert_eq!(preset.provider, "gemini");
    assert_eq!(preset.date, "2025-02");
    assert_eq!(preset.source, "https://ai.google.dev/gemini-api/docs/rate-limits");
    assert_eq!(preset.tiers, ["free", "tier1"]);

    let dimensions = [Dimension::Rpm, Dimension::Tpm, Dimension::Rpd];
    for (id, free, tier1) in GEMINI_2025_02 {
        for (tier, cells) in [("free", free), ("tier1", tier1)] {
            let wanted = dimensions.into_iter().zip(cells);
            let wanted: BTreeMap<Dimension, Setting> = wanted
                .map(|(dimension, cell)| (dimension, cell.map_or(Setting::None, Setting::Value)))
                .collect();
            assert_eq!(preset.model(id).unwrap().tiers[tier], wanted, "{id} {tier}");
        }
    }
    let imagen = preset.model("imagen-3.0-generate-002").unwrap();
    assert_eq!(imagen.tiers["free"], BTreeMap::from([(Dimension::Rpm, Setting::Off)]));
    assert_eq!(
        imagen.tiers["tier1"],
        BTreeMap::from([
            (Dimension::Rpm, Setting::None),
            (Dimension::Rpd, Setting::None),
            (Dimension::Ipm, Setting::Value(20)),
        ])
    );
    assert_eq!(preset.models.len(), GEMINI_2025_02.len() + 1, "and nothing beyond the table");
}

#[test]
fn aliases_find_their_row() {
    let preset = preset("gemini-2025-02").unwrap();
    let id = |alias: &str| preset.model(alias).map(|model| model.id.as_str());
    assert_eq!(id("gemini-2.0-flash-lite-preview-02-05"), Some("gemini-2.0-flash-lite-preview"));
    assert_eq!(id("gemini-1.5-flash-002"), Some("gemini-1.5-flash"));
    assert_eq!(id("gemini-1.5-flash-8b-001"), Some("gemini-1.5-flash-8b"));
    assert_eq!(id("gemini-2.0-flash-lite"), None, "another model, not in the table");
}
