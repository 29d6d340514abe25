//! The later presets: rows of the tables that they were made from, and what holds for every one.

use crate::config::{Dimension, Preset, preset, presets};

/// Preset, tier, model, and its cells; `-` is off, `?` a model that is not in the tier's column.
const ROWS: &str = r#"
gemini-2025-05 free  gemini-2.0-flash                = rpm 15, tpm 1000000, rpd 1500
gemini-2025-05 free  gemini-2.0-flash-lite           = rpm 30, tpm 1000000, rpd 1500
gemini-2025-05 free  gemini-2.0-flash-exp            = rpm 10, tpm 1000000, rpd 1000
gemini-2025-05 free  gemini-2.5-flash-preview-04-17  = rpm 10, tpm 250000, rpd 500
gemini-2025-05 free  gemini-2.5-pro-exp-03-25        = rpm 5, tpm 250000, rpd 25, tpd 1000000
gemini-2025-05 free  gemini-1.5-flash-8b             = rpm 15, tpm 250000, rpd 500
gemini-2025-05 free  gemma-3-27b-it                  = rpm 30, tpm 15000, rpd 14400
gemini-2025-05 free  gemini-embedding-exp-03-07      = rpm 5, tpm "none", rpd 100
gemini-2025-05 free  gemini-2.0-flash-live-001       = tpm 1000000
gemini-2025-05 free  gemini-2.5-pro-preview-05-06    = ?
gemini-2025-05 free  imagen-3.0-generate-002         = ?
gemini-2025-05 tier1 gemini-2.0-flash                = rpm 2000, tpm 4000000, rpd "none"
gemini-2025-05 tier1 gemini-2.0-flash-lite           = rpm 4000, tpm 4000000, rpd "none"
gemini-2025-05 tier1 gemini-2.5-flash-preview-04-17  = rpm 1000, tpm 1000000, rpd 10000
gemini-2025-05 tier1 gemini-2.5-pro-preview-05-06    = rpm 150, tpm 2000000, rpd 1000
gemini-2025-05 tier1 gemini-1.5-pro                  = rpm 1000, tpm 4000000, rpd "none"
gemini-2025-05 tier1 imagen-3.0-generate-002         = ipm 20
gemini-2025-05 tier1 veo-2.0-generate-001            = rpm 2, rpd 50
gemini-2025-05 tier2 gemini-2.0-flash                = rpm 10000, tpm 10000000
gemini-2025-05 tier2 gemini-2.0-flash-lite           = rpm 20000, tpm 10000000
gemini-2025-05 tier2 gemini-2.5-pro-preview-05-06    = rpm 1000, tpm 5000000, rpd 50000
gemini-2025-05 tier3 gemini-2.5-flash-preview-04-17  = rpm 10000, tpm 8000000
gemini-2025-05 tier3 gemini-2.0-flash-lite           = rpm 30000, tpm 30000000
gemini-2025-05 tier3 gemini-2.0-flash-live-001       = ?
gemini-2025-11 free  gemini-3-pro-preview            = -
gemini-2025-11 free  gemini-2.5-pro                  = rpm 2, tpm 125000, rpd 50
gemini-2025-11 free  gemini-2.5-flash                = rpm 10, tpm 250000, rpd 250
gemini-2025-11 free  gemini-2.5-flash-lite           = rpm 15, tpm 250000, rpd 1000
gemini-2025-11 free  gemini-2.0-flash                = rpm 15, tpm 1000000, rpd 200
gemini-2025-11 free  gemini-2.0-flash-lite           = rpm 30, tpm 1000000, rpd 200
gemini-2025-11 free  gemini-2.5-flash-image          = -
gemini-2025-11 free  gemini-2.5-flash-preview-tts    = rpm 3, tpm 10000, rpd 15
gemini-2025-11 free  imagen-4.0-generate-001         = -
gemini-2025-11 free  gemini-embedding-001            = rpm 100, tpm 30000, rpd 1000
gemini-2025-11 tier1 gemini-3-pro-preview            = rpm 50, tpm 1000000, rpd 1000
gemini-2025-11 tier1 gemini-2.5-pro                  = rpm 150, tpm 2000000, rpd 10000
gemini-2025-11 tier1 gemini-2.5-flash-lite           = rpm 4000, tpm 4000000, rpd "none"
gemini-2025-11 tier1 gemini-3-pro-image-preview      = rpm 20, tpm 100000, rpd 250
gemini-2025-11 tier1 imagen-4.0-ultra-generate-001   = rpm 5, tpm "none", rpd 30, ipm 5
gemini-2025-11 tier1 veo-3.1-generate-preview        = rpm 2, tpm "none", rpd 10
gemini-2025-11 tier2 gemini-2.5-flash                = rpm 2000, tpm 3000000, rpd 100000
gemini-2025-11 tier2 gemini-2.0-flash-lite           = rpm 20000, tpm 10000000, rpd "none"
gemini-2025-11 tier2 gemini-2.5-flash-image          = rpm 2000, tpm 1500000, rpd 50000
gemini-2025-11 tier2 gemini-2.5-pro-preview-tts      = rpm 100, tpm 25000, rpd 1000
gemini-2025-11 tier2 gemini-live-2.5-flash-preview   = tpm 10000000
gemini-2025-11 tier2 veo-3.1-generate-preview        = ?
gemini-2025-11 tier3 gemini-2.5-flash                = rpm 10000, tpm 8000000, rpd "none"
gemini-2025-11 tier3 gemini-2.5-flash-preview-tts    = ?
gemini-2025-11 tier3 gemma-3n-e4b-it                 = rpm 30, tpm 15000, rpd 14400
gemini-2025-11 tier3 gemini-embedding-001            = rpm 10000, tpm 10000000, rpd "none"
gemini-2026-09 free  gemini-3.8-flash                = rpm 5, tpm 250000, rpd 20
gemini-2026-09 free  gemini-2.5-flash                = rpm 5, tpm 250000, rpd 20
gemini-2026-09 free  gemini-3.1-flash-lite           = rpm 15, tpm 250000, rpd 500
gemini-2026-09 free  gemini-3.5-flash-lite           = rpm 15, rpd 500
gemini-2026-09 free  gemini-2.5-flash-lite           = rpm 10, tpm 250000, rpd 20
gemini-2026-09 free  gemma-4-31b-it                  = rpm 15, tpm "none", rpd 1500
gemini-2026-09 free  gemini-embedding-2              = rpm 100, tpm 30000, rpd 1000
gemini-2026-09 free  gemini-3.1-pro-preview          = -
gemini-2026-09 free  gemini-2.0-flash                = -
gemini-2026-09 free  gemini-3.1-flash-image          = ?
gemini-2026-09 tier1 gemini-2.5-flash                = rpm 1000, tpm 1000000, rpd 10000
gemini-2026-09 tier1 gemini-2.5-flash-lite           = rpm 4000, tpm 4000000, rpd "none"
gemini-2026-09 tier1 gemini-3.1-pro-preview          = rpm 25, tpm 1000000, rpd 250
gemini-2026-09 tier1 gemini-3.8-flash                = tpm 2000000
gemini-2026-09 tier1 gemini-3.6-flash                = ?
gemini-2026-09 tier2 gemini-2.5-flash                = ?
"#;

#[test]
fn rows_of_each_table_are_in_its_preset() {
    let mut count = 0;
    for line in ROWS.lines().filter(|line| !line.is_empty()) {
        let (row, wanted) = line.split_once(" = ").unwrap();
        let row: Vec<&str> = row.split_whitespace().collect();
        let [name, tier, model] = row[..] else { panic!("{line}") };
        assert_eq!(cells(preset(name).unwrap(), tier, model), wanted, "{line}");
        count += 1;
    }
    assert_eq!(count, 66);
}

/// The cells of a model in the order of the page's columns.
fn cells(preset: &Preset, tier: &str, model: &str) -> String {
    let row = preset.model(model).unwrap_or_else(|| panic!("{model} in {}", preset.name));
    let Some(settings) = row.tiers.get(tier) else { return "?".to_owned() };
    let order = [Dimension::Rpm, Dimension::Tpm, Dimension::Rpd, Dimension::Tpd, Dimension::Ipm];
    let told = order.into_iter().filter_map(|dimension| {
        settings.get(&dimension).map(|setting| format!("{dimension} {setting}"))
    });
    match told.collect::<Vec<_>>().join(", ") {
        off if off == "rpm \"off\"" => "-".to_owned(),
        told => told,
    }
}

#[test]
fn presets_are_whole_and_unambiguous() {
    let names: Vec<&str> = presets().iter().map(|preset| preset.name.as_str()).collect();
    assert_eq!(names, ["gemini-2025-02", "gemini-2025-05", "gemini-2025-11", "gemini-2026-09"]);
    assert!(presets().is_sorted_by_key(|preset| &preset.date), "oldest first");
    for preset in presets() {
        assert!(preset.name.ends_with(&preset.date[..7]), "{} {}", preset.name, preset.date);
        assert!(!preset.source.is_empty());
        assert_eq!(preset.provider, "gemini");
        let mut ids: Vec<&String> = Vec::new();
        let mut groups: Vec<&String> = Vec::new();
        for model in &preset.models {
            ids.push(&model.id);
            ids.extend(&model.aliases);
            groups.push(&model.quota_group);
            assert!(!model.tiers.is_empty(), "{} says nothing", model.id);
            for (tier, settings) in &model.tiers {
                assert!(preset.tiers.contains(tier), "{}: no tier {tier}", model.id);
                assert!(!settings.is_empty(), "{}: {tier} would be unlimited", model.id);
            }
        }
        for names in [ids, groups] {
            let mut once = names.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), names.len(), "a name stands twice in {}", preset.name);
        }
    }
}

#[test]
fn the_first_page_has_every_model_on_every_tier() {
    let first = preset("gemini-2025-02").unwrap();
    assert!(first.models.iter().all(|model| model.tiers.keys().eq(&first.tiers)));
    let newest = presets().last().unwrap();
    assert_eq!(newest.tiers, ["free", "tier1", "tier2", "tier3"]);
}

#[test]
fn quotas_have_the_names_that_the_provider_gives_them() {
    let group = |name: &str, model: &str| &preset(name).unwrap().model(model).unwrap().quota_group;
    assert_eq!(group("gemini-2026-09", "gemini-3.1-pro-preview"), "gemini-3.1-pro");
    assert_eq!(group("gemini-2026-09", "gemini-embedding-001"), "gemini-embedding-1.0");
    assert_eq!(group("gemini-2025-11", "gemini-3-pro-preview"), "gemini-3-pro");
    let image = "gemini-2.5-flash-preview-image";
    assert_eq!(group("gemini-2025-11", "gemini-2.5-flash-image-preview"), image);
    assert_eq!(group("gemini-2026-09", "gemini-3.8-flash"), "gemini-3.8-flash");
}

#[test]
fn the_models_of_the_pages_are_on_the_free_tier_of_the_newest_preset() {
    let newest = presets().last().unwrap();
    let shown = cells(newest, "free", "gemini-3.1-flash-lite");
    assert!(!["?", "-"].contains(&shown.as_str()), "{shown}");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in ["README.md", "docs/operations.md", "examples/tidegate.toml"] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        let defaults = text.split_once("[defaults]").expect(page).1;
        let model = defaults.lines().find(|line| line.starts_with("model")).unwrap();
        assert!(model.ends_with("= \"gemini-3.1-flash-lite\""), "{page}: {model}");
    }
}
