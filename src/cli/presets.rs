//! `tidegate limits presets`: the dated tables of limits that are built in.

use std::collections::BTreeMap;

use comfy_table::{Table, presets as lines};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{EX_USAGE, Failure, print, print_json};
use crate::config::{
    ALL_MODELS, Dimension, Preset, PresetModel, Setting, dollars, preset, presets,
};

/// Options of `limits presets`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print this table; without it, list them all
    name: Option<String>,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// One preset in the list.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    date: &'a str,
    provider: &'a str,
    source: &'a str,
    /// Whether a project of this provider that names no preset has this one.
    newest: bool,
    models: usize,
    /// Per tier, in order, how many models have limits on it.
    tiers: Vec<ListedTier<'a>>,
}

#[derive(Serialize)]
struct ListedTier<'a> {
    tier: &'a str,
    models: usize,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let Some(name) = &args.name else {
        if args.json {
            print_json(&json!({"presets": listed()}));
        } else {
            print(&list());
        }
        return Ok(0);
    };
    let Some(preset) = preset(name) else {
        let known: Vec<&str> = presets().iter().map(|preset| preset.name.as_str()).collect();
        let what = format!("no preset {name}: there are {}", known.join(", "));
        return Err(Failure::new(EX_USAGE, what));
    };
    if args.json {
        print_json(&document(preset));
    } else {
        print(&page(preset));
    }
    Ok(0)
}

fn listed() -> Vec<Listed<'static>> {
    let is_newest = |preset: &Preset| {
        let newest = presets().iter().rfind(|other| other.provider == preset.provider);
        newest.is_some_and(|newest| newest.name == preset.name)
    };
    let of_tier = |preset: &Preset, tier: &String| {
        models(preset).filter(|model| model.tiers.contains_key(tier)).count()
    };
    presets()
        .iter()
        .map(|preset| Listed {
            name: &preset.name,
            date: &preset.date,
            provider: &preset.provider,
            source: &preset.source,
            newest: is_newest(preset),
            models: models(preset).count(),
            tiers: preset
                .tiers
                .iter()
                .map(|tier| ListedTier { tier, models: of_tier(preset, tier) })
                .collect(),
        })
        .collect()
}

/// The models of a preset, without what it says of all of them together.
fn models(preset: &Preset) -> impl Iterator<Item = &PresetModel> {
    preset.models.iter().filter(|model| model.id != ALL_MODELS)
}

/// The list as a table, oldest first, and what is the default.
fn list() -> String {
    let mut table = grid(["preset", "date", "models", "known on", "source"]);
    let listed = listed();
    for preset in &listed {
        let tiers = preset.tiers.iter().map(|known| format!("{} {}", known.tier, known.models));
        table.add_row([
            preset.name.to_owned(),
            preset.date.to_owned(),
            preset.models.to_string(),
            tiers.collect::<Vec<_>>().join(", "),
            preset.source.to_owned(),
        ]);
    }
    let mut text = shown(&table);
    for newest in listed.iter().filter(|preset| preset.newest) {
        text.extend(["\nA project that names no preset has ", newest.name, ", the newest.\n"]);
    }
    text
}

/// One preset as a table: a row for each model and tier that it knows.
fn page(preset: &Preset) -> String {
    let used = dimensions(preset);
    let heads = ["model", "tier"].into_iter().chain(used.iter().map(|used| used.as_str()));
    let mut table = grid(heads.chain(["quota group"]));
    for model in &preset.models {
        for (tier, settings) in
            preset.tiers.iter().filter_map(|tier| model.tiers.get_key_value(tier))
        {
            let group = model.quota_group.as_str();
            let group = if group == model.id { "" } else { group };
            let cells = used.iter().map(|dimension| cell(settings, *dimension));
            let row = [model.id.clone(), tier.clone()].into_iter().chain(cells);
            table.add_row(row.chain([group.to_owned()]));
        }
    }
    let aliases = preset.models.iter().filter(|model| !model.aliases.is_empty());
    let aliases = aliases.map(|model| format!("{}: also {}\n", model.id, model.aliases.join(", ")));
    format!(
        "{}, {}, from {}\n\n{}\n\
        none: no limit. off: not offered on this tier. Empty: nothing is known, so nothing is\n\
        limited. On a tier without a row a model is unknown, as if it were not in the table.\n\n{}",
        preset.name,
        preset.date,
        preset.source,
        shown(&table),
        aliases.collect::<String>()
    )
}

/// The dimensions of every page, and the others that this one speaks of.
fn dimensions(preset: &Preset) -> Vec<Dimension> {
    let usual = [Dimension::Rpm, Dimension::Tpm, Dimension::Rpd, Dimension::Tpd, Dimension::Ipm];
    let says = |dimension: &Dimension| {
        let mut tiers = preset.models.iter().flat_map(|model| model.tiers.values());
        tiers.any(|settings| settings.contains_key(dimension))
    };
    Dimension::ALL.into_iter().filter(|it| usual.contains(it) || says(it)).collect()
}

fn cell(settings: &BTreeMap<Dimension, Setting>, dimension: Dimension) -> String {
    let of_model = !matches!(dimension, Dimension::Spend | Dimension::Sessions);
    if of_model && settings.values().any(|setting| *setting == Setting::Off) {
        return "off".to_owned();
    }
    match settings.get(&dimension) {
        Some(Setting::Value(value)) if dimension == Dimension::Spend => {
            format!("${}", dollars(*value))
        }
        Some(Setting::Value(value)) => value.to_string(),
        Some(Setting::None) => "none".to_owned(),
        Some(Setting::Off) | None => String::new(),
    }
}

/// One preset as its file says it, a setting being a number, `"none"` or `"off"`.
fn document(preset: &Preset) -> Value {
    let model = |model: &PresetModel| {
        let tiers = model.tiers.iter().map(|(tier, settings)| {
            let settings = settings.iter().map(|(dimension, setting)| {
                let setting = match setting {
                    Setting::Value(value) => json!(value),
                    Setting::None => json!("none"),
                    Setting::Off => json!("off"),
                };
                (dimension.to_string(), setting)
            });
            (tier.clone(), Value::Object(settings.collect()))
        });
        json!({
            "id": model.id,
            "aliases": model.aliases,
            "quota_group": model.quota_group,
            "tiers": tiers.collect::<Map<String, Value>>(),
        })
    };
    json!({
        "name": preset.name,
        "date": preset.date,
        "provider": preset.provider,
        "source": preset.source,
        "tiers": preset.tiers,
        "models": preset.models.iter().map(model).collect::<Vec<_>>(),
    })
}

/// A table without lines, columns two spaces apart, as wide as it needs: numbers are not broken.
fn grid(heads: impl IntoIterator<Item = &'static str>) -> Table {
    let mut table = Table::new();
    table.load_preset(lines::NOTHING).force_no_tty().set_header(heads);
    table
}

fn shown(table: &Table) -> String {
    let lines = table.lines().map(|line| line.trim().to_owned() + "\n");
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_what_each_table_knows_and_which_is_the_default() {
        let text = list();
        assert_eq!(text.lines().filter(|line| line.starts_with("gemini-")).count(), 4, "{text}");
        assert!(
            text.ends_with("\nA project that names no preset has gemini-2026-09, the newest.\n")
        );
        let first: Vec<&str> = text.lines().nth(1).unwrap_or_default().split("  ").collect();
        assert_eq!(first[0], "gemini-2025-02", "{text}");
        assert!(text.contains("free 8, tier1 8 "), "{text}");
        let json = serde_json::to_value(listed()).expect("JSON");
        assert_eq!(json[3]["name"], "gemini-2026-09");
        assert_eq!((&json[2]["newest"], &json[3]["newest"]), (&json!(false), &json!(true)));
        assert_eq!(json[3]["tiers"][3], json!({"tier": "tier3", "models": 0}));
    }

    #[test]
    fn a_table_tells_none_off_unknown_and_unseen_apart() {
        let newest = preset("gemini-2026-09").expect("the newest");
        let text = page(newest);
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let rows: Vec<String> = text.lines().map(words).collect();
        for row in [
            "gemini-3.1-flash-lite free 15 250000 500",
            "gemma-4-31b-it free 15 none 1500",
            "gemini-3.1-pro-preview free off off off off off gemini-3.1-pro",
        ] {
            assert!(rows.iter().any(|found| found == row), "{row} in\n{text}");
        }
        let of_tier2: Vec<_> = rows.iter().filter(|row| row.contains(" tier2 ")).collect();
        assert_eq!(of_tier2, ["* tier2 $50"], "nothing is known there of a model");
        assert!(text.contains("\ngemini-2.0-flash: also gemini-2.0-flash-001\n"));
        let json = document(newest);
        let pro = &json["models"][7];
        assert_eq!(pro["id"], "gemini-3.1-pro-preview");
        assert_eq!(pro["quota_group"], "gemini-3.1-pro");
        let tiers = json!({
            "free": {"rpm": "off"}, "tier1": {"rpm": 25, "tpm": 1_000_000, "rpd": 250},
        });
        assert_eq!(pro["tiers"], tiers);
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_the_names_there_are() {
        let args = Args { name: Some("gemini-2024".to_owned()), json: false };
        let failure = run(&args).expect_err("no such preset");
        assert_eq!(failure.code, EX_USAGE);
        assert!(failure.message.ends_with("gemini-2025-11, gemini-2026-09"), "{}", failure.message);
    }
}
