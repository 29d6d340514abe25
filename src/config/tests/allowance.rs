//! Which limits hold: the file over the preset, per dimension.

use crate::config::{ModelRule, Project};
use crate::gate::limits::{Allowance, Source};

/// A project on the first preset.
fn project(rest: &str) -> Project {
    super::project(&format!("preset = \"gemini-2025-02\"\n{rest}"))
}

/// `GROUP: dimension value/window_ms source, …`
fn show(project: &Project, model: &str) -> String {
    let ModelRule::Known { quota_group, allowance } = project.allowance(model) else {
        return "unknown".to_owned();
    };
    let limits = match allowance {
        Allowance::Off { source } => return format!("{quota_group}: off {source}"),
        Allowance::Limited(limits) => limits,
    };
    let one = |limit: &crate::gate::limits::Limit| {
        format!("{} {} {}", limit.dimension(), limit.value, limit.source)
    };
    format!("{quota_group}: {}", limits.iter().map(one).collect::<Vec<_>>().join(", "))
}

const FREE: &str = "preset:gemini-2025-02/free";
const TIER1: &str = "preset:gemini-2025-02/tier1";

#[test]
fn the_preset_alone() {
    let free = project("");
    let flash = format!("gemini-2.0-flash: rpm 15 {FREE}, tpm 1000000 {FREE}, rpd 1500 {FREE}");
    assert_eq!(show(&free, "gemini-2.0-flash"), flash);
    assert_eq!(show(&free, "gemini-2.0-flash-001"), flash, "an alias");
    assert_eq!(show(&free, "models/gemini-2.0-flash"), flash, "the long name");
    assert_eq!(
        show(&free, "imagen-3.0-generate-002"),
        format!("imagen-3.0-generate-002: off {FREE}")
    );
    assert_eq!(show(&free, "gemini-9"), "unknown");

    let tier1 = project("tier = \"tier1\"\n");
    assert_eq!(
        show(&tier1, "gemini-1.5-pro"),
        format!("gemini-1.5-pro: rpm 1000 {TIER1}, tpm 4000000 {TIER1}"),
        "no limit a day"
    );
    assert_eq!(
        show(&tier1, "imagen-3.0-generate-002"),
        format!("imagen-3.0-generate-002: ipm 20 {TIER1}")
    );
}

#[test]
fn the_file_beats_the_preset_in_the_dimensions_it_sets() {
    let project = project(
        r#"
        [[project.limits]]
        model = "gemini-2.0-flash-lite-preview-02-05"
        rpm = 5
        rpd = "none"
        tpd = 7_000_000
        [[project.limits.extra]]
        dimension = "requests"
        scope = "project"
        window = "10s"
        limit = 3
        [[project.limits.extra]]
        dimension = "images"
        window = "day"
        limit = 70
        "#,
    );
    let wanted = format!(
        "gemini-2.0-flash-lite-preview: rpm 5 config, tpm 1000000 {FREE}, tpd 7000000 config, \
         requests 3 config, images 70 config"
    );
    assert_eq!(show(&project, "gemini-2.0-flash-lite-preview"), wanted, "by the model's own id");
    assert_eq!(show(&project, "gemini-2.0-flash-lite-preview-02-05"), wanted, "as written");
    assert_eq!(
        show(&project, "gemini-1.5-pro"),
        format!("gemini-1.5-pro: rpm 2 {FREE}, tpm 32000 {FREE}, rpd 50 {FREE}"),
        "another model keeps the preset's"
    );
}

#[test]
fn off_is_the_whole_model_and_a_number_in_the_file_lifts_it() {
    let project = project(
        r#"
        [[project.limits]]
        model = "gemini-2.0-flash"
        rpd = "off"
        rpm = 3
        [[project.limits]]
        model = "imagen-3.0-generate-002"
        ipm = 2
        "#,
    );
    assert_eq!(show(&project, "gemini-2.0-flash"), "gemini-2.0-flash: off config");
    assert_eq!(show(&project, "imagen-3.0-generate-002"), "imagen-3.0-generate-002: ipm 2 config");
}

#[test]
fn an_extra_limit_alone_does_not_lift_off() {
    let project = project(
        "[[project.limits]]\nmodel = \"imagen-3.0-generate-002\"\n\
         extra = [{ dimension = \"images\", window = \"10s\", limit = 1 }]\n",
    );
    assert_eq!(
        show(&project, "imagen-3.0-generate-002"),
        format!("imagen-3.0-generate-002: off {FREE}")
    );
}

#[test]
fn models_that_only_the_file_knows() {
    let limits = "[[project.limits]]\nmodel = \"models/own\"\nrpm = \"none\"\n\
                  [[project.limits]]\nmodel = \"fast\"\nrpm = 9\n";
    let with = project(limits);
    assert_eq!(show(&with, "own"), "own: ", "known, and unlimited");
    assert_eq!(show(&with, "fast"), "fast: rpm 9 config");
    assert_eq!(with.known_models().len(), 10);
    assert_eq!(with.known_models()[8..], ["own", "fast"]);

    let without = super::project(&format!("preset = \"none\"\ntier = \"tier3\"\n{limits}"));
    assert_eq!(show(&without, "gemini-2.0-flash"), "unknown");
    assert_eq!(without.known_models(), ["own", "fast"]);
}

#[test]
fn a_model_that_the_preset_lacks_on_a_tier_is_unknown_there() {
    let on = |tier: &str, limits: &str| {
        super::project(&format!("preset = \"gemini-2026-09\"\ntier = \"{tier}\"\n{limits}"))
    };
    let free = "preset:gemini-2026-09/free";
    let lite = "gemini-3.1-flash-lite";
    assert_eq!(
        show(&on("free", ""), lite),
        format!("{lite}: rpm 15 {free}, tpm 250000 {free}, rpd 500 {free}")
    );
    assert_eq!(show(&on("tier1", ""), lite), "unknown", "not unlimited");
    assert!(on("tier1", "").known_models().contains(&lite), "but its name is known");
    let own = "[[project.limits]]\nmodel = \"gemini-3.1-flash-lite\"\nrpm = 7\n";
    assert_eq!(show(&on("tier1", own), lite), format!("{lite}: rpm 7 config"));
    let pro = "gemini-3.1-pro-preview";
    assert_eq!(show(&on("free", ""), pro), format!("gemini-3.1-pro: off {free}"), "by its quota");
    assert_eq!(show(&on("tier2", ""), pro), "unknown");
}

#[test]
fn what_is_set_beats_the_file_and_keeps_the_group() {
    let text = "[[project]]\nname = \"p\"\nkeys = [{ name = \"k\", env = \"GEMINI_API_KEY\" }]\n\
        preset = \"gemini-2026-09\"\ntier = \"tier1\"\n";
    let config = super::load(text).unwrap();
    let alone = config.project("p").unwrap().clone();
    let set = |group, dimension, setting| ("p", group, dimension, setting);
    let config = config.with_set_limits([
        set("gemini-3.1-pro", "rpm", "7"),
        set("*", "spend", "2.5"),
        set("nobody-knows", "rpm", "3"),
        set("gemini-3.5-flash", "rpm", "off"),
        ("other", "m", "rpm", "1"),
        set("m", "rps", "1"),
        set("m", "rpm", "many"),
    ]);
    let project = config.project("p").unwrap();
    let rule = |model: &str| project.allowance(model);
    let ModelRule::Known { quota_group, allowance: Allowance::Limited(limits) } =
        rule("gemini-3.1-pro-preview")
    else {
        panic!("it is known")
    };
    let shown: Vec<_> =
        limits.iter().map(|l| (l.dimension(), l.value, l.source.to_string())).collect();
    assert_eq!(quota_group, "gemini-3.1-pro");
    assert!(shown.contains(&("rpm", 7, "set".to_owned())), "{shown:?}");
    assert!(shown.iter().any(|(.., source)| source == "preset:gemini-2026-09/tier1"), "{shown:?}");
    assert!(matches!(
        rule("gemini-3.5-flash"),
        ModelRule::Known { allowance: Allowance::Off { source: Source::Set }, .. }
    ));
    let known = project.known_models();
    assert!(known.contains(&"nobody-knows") && !known.contains(&"gemini-3.1-pro"), "{known:?}");
    assert!(!known.contains(&"*") && !known.contains(&"m"), "{known:?}");
    let spend = |project: &crate::config::Project| {
        let shared = project.shared_limits();
        shared.iter().map(|l| (l.dimension(), l.value, l.source.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(spend(project), [("spend", 2_500_000_000, "set".to_owned())]);
    let of_preset = ("spend", 10_000_000_000, "preset:gemini-2026-09/tier1".to_owned());
    assert_eq!(spend(&alone), [of_preset]);
}
