//! A plan as a table and sentences.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use comfy_table::Cell;

use super::plan::{PhaseOut, PlanOut, PlanReport};
use super::table::{Grid, Head, Style};
use super::text::{escaped, thousands};
use crate::config::prices::PicoUsd;

/// Stretches that the text tells of a batch; the others are in the JSON.
const PHASES_SAID: usize = 4;

/// Times within so many days are told by the day of the week.
const NEAR_DAYS: i64 = 6;

/// A plan for people.
#[must_use]
pub fn plan(report: &PlanReport, style: Style) -> String {
    let heads = [
        Head::Text("file"),
        Head::Text("project"),
        Head::Text("model"),
        Head::Text("tier"),
        Head::Number("requests"),
        Head::Number("input_tokens"),
        Head::Number("output_tokens_at_most"),
        Head::Number("cost_usd_at_most"),
        Head::Text("done"),
    ];
    let mut grid = Grid::new(style, &heads);
    for batch in &report.batches {
        let done = batch.finish_low.map(|at| time(at, &batch.zone, report.generated_at));
        grid.row([
            Cell::new(escaped(&batch.file)),
            Cell::new(escaped(&batch.project)),
            Cell::new(escaped(&batch.model)),
            Cell::new(escaped(&batch.tier)),
            Cell::new(thousands(batch.requests)),
            Cell::new(thousands(batch.input_tokens)),
            Cell::new(batch.output_tokens_max.map_or_else(|| "?".to_owned(), thousands)),
            Cell::new(batch.cost_usd.map_or_else(|| "?".to_owned(), PicoUsd::to_short)),
            Cell::new(done.unwrap_or_else(|| "not to be seen".to_owned())),
        ]);
    }
    let mut text = grid.render();
    for batch in &report.batches {
        text.push('\n');
        for sentence in sentences(batch, report) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: {sentence}", escaped(&batch.file));
        }
    }
    if report.queue_prompts > 0 {
        let (batches, prompts) = (thousands(report.queue_batches), thousands(report.queue_prompts));
        let _ = writeln!(text, "\n{prompts} prompts in {batches} open batches are there already.");
    }
    text
}

fn sentences(batch: &PlanOut, report: &PlanReport) -> Vec<String> {
    let at = |at: DateTime<Utc>| time(at, &batch.zone, report.generated_at);
    let mut said = Vec::new();
    if batch.bad_lines > 0 {
        let first = batch.first_bad_line.as_deref().map(escaped).unwrap_or_default();
        said.push(format!("{} bad lines; the first: {first}", thousands(batch.bad_lines)));
    }
    if let Some(why) = &batch.never_because {
        let never = thousands(batch.never);
        said.push(format!("{never} prompts can never be sent: {}", escaped(why)));
    }
    match (batch.finish_low, batch.finish_high) {
        (Some(low), Some(high)) if at(low) == at(high) => {
            said.push(format!("done by {}", zones(low, batch, report)));
        }
        (Some(low), Some(high)) => {
            let (low, high) = (zones(low, batch, report), zones(high, batch, report));
            said.push(format!("done between {low} and {high}"));
        }
        (Some(finish), None) | (None, Some(finish)) => {
            said.push(format!("done by {} at the earliest", zones(finish, batch, report)));
        }
        (None, None) => {
            let why = batch.stands.as_deref().map_or_else(String::new, escaped);
            said.push(format!("not done as things are: {why}"));
        }
    }
    if batch.extrapolated {
        said.push("extrapolated: more requests than are simulated one by one".to_owned());
    }
    if !batch.phases.is_empty() {
        said.push(phases(batch, report));
    }
    if let (Some(alone), Some(low)) = (batch.finish_alone, batch.finish_low)
        && alone < low
    {
        let more = u64::try_from((low - alone).num_seconds()).unwrap_or(0);
        let more = humantime::format_duration(std::time::Duration::from_secs(more));
        said.push(format!("what waits already adds {more}"));
    }
    if let Some(late) = batch.misses_deadline_by_s {
        let late = humantime::format_duration(std::time::Duration::from_secs(late));
        said.push(format!("misses its deadline by {late}"));
    }
    if batch.cost_usd.is_none() {
        said.push(format!("no price known for {}", escaped(&batch.model)));
    } else if batch.output_tokens_max.is_none() {
        said.push("some prompts do not bound their output: its cost is a guess".to_owned());
    }
    said
}

fn phases(batch: &PlanOut, report: &PlanReport) -> String {
    let several = batch.phases.iter().any(|phase| phase.quota_group != batch.phases[0].quota_group);
    let mut words: Vec<_> = batch
        .phases
        .iter()
        .take(PHASES_SAID)
        .map(|phase| said_phase(phase, batch, several, report))
        .collect();
    let more = batch.phases.len().saturating_sub(PHASES_SAID);
    if more > 0 {
        words.push(format!("{more} more stretches follow"));
    }
    words.join(", then ")
}

fn said_phase(phase: &PhaseOut, batch: &PlanOut, several: bool, report: &PlanReport) -> String {
    let until = time(phase.until, &batch.zone, report.generated_at);
    let binds = escaped(&phase.binds);
    let model = if several { format!(" ({})", escaped(&phase.quota_group)) } else { String::new() };
    let project = escaped(&phase.project);
    match phase.waiting {
        Some(waiting) => {
            format!("{binds} of {project}{model}: {} prompts wait for {until}", thousands(waiting))
        }
        None => format!("{binds} of {project}{model} binds until {until}"),
    }
}

/// A time in the quota day's zone and in UTC.
fn zones(at: DateTime<Utc>, batch: &PlanOut, report: &PlanReport) -> String {
    let local = time(at, &batch.zone, report.generated_at);
    if batch.zone == "UTC" { local } else { format!("{local} ({})", at.format("%F %H:%M UTC")) }
}

/// A time in a zone: near ones by the day of the week, in minutes.
fn time(at: DateTime<Utc>, zone: &str, now: DateTime<Utc>) -> String {
    let zone: Tz = zone.parse().unwrap_or(Tz::UTC);
    let near = (at - now).num_days().abs() < NEAR_DAYS;
    let form = if near { "%a %H:%M %Z" } else { "%F %H:%M %Z" };
    // The end of something is not told too early.
    let whole = at + chrono::TimeDelta::seconds((60 - at.timestamp() % 60) % 60);
    whole.with_timezone(&zone).format(form).to_string()
}
