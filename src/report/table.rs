//! Reports as text for people: columns on a terminal, or in a pipe.
//!
//! Texts that users or the provider wrote are escaped first. Everything ends with a newline.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, Width,
    presets,
};

use super::batches::{BatchOut, BatchesReport, EtaOut};
use super::explain::amount;
use super::limits::{BucketOut, BucketState, HistoryReport, LimitOut, LimitsReport, ProjectOut};
use super::text::{escaped, thousands};
use super::usage::{UsageReport, UsageRowOut};
use crate::config::prices::PicoUsd;

mod keys;

pub use keys::{import, keys};

/// How the text may look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether it may be coloured: a terminal, and no `NO_COLOR`.
    pub color: bool,
    /// Columns of the terminal: texts wrap to fit, numbers never do. `None` wraps nothing.
    pub width: Option<u16>,
}

impl Style {
    /// A style as wide as the terminal that standard output is, if it is one.
    #[must_use]
    pub fn of_terminal(color: bool) -> Self {
        Self { color, width: Table::new().width() }
    }
}

/// Texts wrap at this width at the least: a terminal too narrow for that breaks the lines itself.
const TEXT_WIDTH_MIN: u16 = 16;

/// Blanks between two columns.
const GAP: u16 = 2;

/// Counts of a usage row that a table leaves out when they are 0 throughout.
const LEFT_OUT_AT_ZERO: [&str; 5] =
    ["open", "cached_tokens", "thought_tokens", "tool_tokens", "images"];

/// The usage report with its totals.
#[must_use]
pub fn usage(report: &UsageReport, style: Style) -> String {
    let mut text = format!("{} to {}\n\n", time(report.since), time(report.until));
    if report.rows.is_empty() {
        text.push_str("no request\n");
        return text;
    }
    let shown: Vec<&str> = counts(&report.totals)
        .into_iter()
        .filter(|(word, count)| *count > 0 || !LEFT_OUT_AT_ZERO.contains(word))
        .map(|(word, _)| word)
        .collect();
    let mut heads: Vec<_> = report.by.iter().map(|column| Head::Text(column)).collect();
    heads.extend(shown.iter().map(|word| Head::Number(word)));
    heads.extend(["cost_usd", "60s_requests", "60s_tokens"].map(Head::Number));
    let mut grid = Grid::new(style, &heads);
    for row in &report.rows {
        let columns = report.by.iter().map(|column| escaped(&column_text(row, column)));
        grid.row(columns.chain(numbers(row, &shown)).map(Cell::new));
    }
    let labels = (0..report.by.len()).map(|n| if n == 0 { "total" } else { "" }.to_owned());
    let totals = labels.chain(numbers(&report.totals, &shown));
    grid.row(totals.map(|cell| Cell::new(cell).add_attribute(Attribute::Bold)));
    text += &grid.render();
    let mut remarks = report.notes.clone();
    if !report.unpriced_models.is_empty() {
        remarks.insert(0, format!("no price known for {}", report.unpriced_models.join(", ")));
    }
    push_below(&mut text, remarks.iter().map(|remark| escaped(remark)));
    text
}

/// Every limit of every bucket, then what stands in the way.
#[must_use]
pub fn limits(report: &LimitsReport, style: Style) -> String {
    let heads = [
        Head::Text("project"),
        Head::Text("model"),
        Head::Text("state"),
        Head::Text("dimension"),
        Head::Text("window"),
        Head::Number("limit"),
        Head::Number("used"),
        Head::Number("reserved"),
        Head::Number("free"),
        Head::Text("frees_at"),
        Head::Text("source"),
    ];
    let mut grid = Grid::new(style, &heads);
    for bucket in &report.buckets {
        for limit in &bucket.limits {
            grid.row(bucket_cells(bucket).into_iter().chain(limit_cells(limit)));
        }
        if bucket.limits.is_empty() {
            let what = if bucket.learning { "unknown" } else { "none" };
            grid.row(bucket_cells(bucket).into_iter().chain([Cell::new(what)]));
        }
    }
    let mut text = grid.render();
    let mut hindrances: Vec<_> = report.buckets.iter().filter_map(hindrance).collect();
    hindrances.extend(report.buckets.iter().flat_map(lessons));
    hindrances.extend(report.projects.iter().flat_map(ailments));
    push_below(&mut text, hindrances.into_iter());
    text
}

/// The changes of a project's limits.
#[must_use]
pub fn limit_history(report: &HistoryReport, style: Style) -> String {
    if report.events.is_empty() {
        return format!("no limit of {} was changed\n", escaped(&report.project));
    }
    let heads = ["at", "quota_group", "dimension", "was", "became", "source", "reason"];
    let mut grid = Grid::new(style, &heads.map(Head::Text));
    for event in &report.events {
        let words = [
            &time(event.at),
            &event.quota_group,
            &event.dimension,
            event.was.as_deref().unwrap_or("none"),
            event.became.as_deref().unwrap_or("as configured"),
            &event.source,
            &event.reason,
        ];
        grid.row(words.map(|word| Cell::new(escaped(word))));
    }
    grid.render()
}

/// A list of batches.
#[must_use]
pub fn batches(report: &BatchesReport, style: Style) -> String {
    if report.batches.is_empty() {
        return "no batch\n".to_owned();
    }
    let heads = [
        Head::Text("id"),
        Head::Text("name"),
        Head::Text("project"),
        Head::Text("model"),
        Head::Text("state"),
        Head::Number("items"),
        Head::Number("succeeded"),
        Head::Number("failed"),
        Head::Number("blocked"),
        Head::Number("queued"),
        Head::Text("submitted_at"),
        Head::Text("waiting_until"),
        Head::Text("done_by"),
    ];
    let mut grid = Grid::new(style, &heads);
    for batch in &report.batches {
        let state = Cell::new(escaped(&batch.state));
        let state = match batch.state.as_str() {
            "failed" | "rejected" => state.fg(Color::Red),
            "done" => state.fg(Color::Green),
            _ => state,
        };
        grid.row([
            Cell::new(escaped(&batch.id)),
            Cell::new(escaped(&batch.name)),
            Cell::new(escaped(&batch.project)),
            Cell::new(escaped(&batch.model)),
            state,
            Cell::new(thousands(batch.items)),
            Cell::new(thousands(batch.succeeded)),
            Cell::new(thousands(batch.failed)),
            Cell::new(thousands(batch.blocked)),
            Cell::new(thousands(batch.queued)),
            Cell::new(time(batch.submitted_at)),
            Cell::new(batch.waiting_until.map(time).unwrap_or_default()),
            Cell::new(batch.eta.as_ref().and_then(|eta| eta.low).map(time).unwrap_or_default()),
        ]);
    }
    grid.render()
}

/// One batch, a line for each thing that is known of it.
#[must_use]
pub fn batch(batch: &BatchOut) -> String {
    let some = |text: &str| Some(text.to_owned());
    let count = |number: u64| Some(thousands(number));
    let facts = [
        ("id", some(&batch.id)),
        ("name", some(&batch.name)),
        ("file", some(&batch.file)),
        ("project", some(&batch.project)),
        ("model", some(&batch.model)),
        ("pool", batch.pool.clone()),
        ("fallback", (!batch.fallback.is_empty()).then(|| batch.fallback.join(", "))),
        ("tenant", some(&batch.tenant)),
        ("priority", some(&batch.priority)),
        ("state", some(&batch.state)),
        ("stopped", batch.stopped.clone()),
        ("paused", batch.paused.clone()),
        ("waiting_until", batch.waiting_until.map(time)),
        ("reason", batch.reason.clone()),
        ("done_by", batch.eta.as_ref().and_then(eta_words)),
        ("binds", batch.binds.clone()),
        (
            "late",
            batch.misses_deadline_by_s.map(|late| {
                humantime::format_duration(std::time::Duration::from_secs(late)).to_string()
            }),
        ),
        ("items", count(batch.items)),
        ("succeeded", count(batch.succeeded)),
        ("failed", count(batch.failed)),
        ("cancelled", count(batch.cancelled)),
        ("blocked", count(batch.blocked)),
        ("queued", count(batch.queued)),
        ("in_doubt", some(&batch.in_doubt)),
        ("submitted_at", Some(time(batch.submitted_at))),
        ("not_before", batch.not_before.map(time)),
        ("deadline", batch.deadline.map(time)),
        ("pace", batch.pace.clone()),
        ("max_cost_usd", batch.max_cost_usd.map(PicoUsd::to_short)),
        ("spent_usd", batch.spent_usd.map(PicoUsd::to_short)),
        ("finished_at", batch.finished_at.map(time)),
        ("results", batch.results.clone()),
        ("dropped_again", count(batch.dropped_again).filter(|_| batch.dropped_again > 0)),
    ];
    let mut text = String::new();
    for (word, value) in facts {
        if let Some(value) = value {
            line(&mut text, &format!("{word:<13}  {}", escaped(&value)));
        }
    }
    text
}

/// When a batch is expected to be done.
fn eta_words(eta: &EtaOut) -> Option<String> {
    let guess = if eta.extrapolated { " (extrapolated)" } else { "" };
    match (eta.low, eta.high) {
        (Some(low), Some(high)) if low < high => {
            Some(format!("{} to {}{guess}", time(low), time(high)))
        }
        (low, high) => low.or(high).map(|at| time(at) + guess),
    }
}

/// The counts of a usage row with their words, in the order of the report.
pub(super) fn counts(row: &UsageRowOut) -> [(&'static str, u64); 13] {
    [
        ("attempts", row.attempts),
        ("ok", row.ok),
        ("failed", row.failed),
        ("throttled", row.throttled),
        ("in_doubt", row.in_doubt),
        ("open", row.open),
        ("input_tokens", row.input_tokens),
        ("cached_tokens", row.cached_tokens),
        ("output_tokens", row.output_tokens),
        ("thought_tokens", row.thought_tokens),
        ("tool_tokens", row.tool_tokens),
        ("total_tokens", row.total_tokens),
        ("images", row.images),
    ]
}

/// What a row has in one of the columns it is grouped by; empty for nothing.
pub(super) fn column_text(row: &UsageRowOut, column: &str) -> String {
    let value = match column {
        "project" => row.project.clone(),
        "model" => row.model.clone(),
        "key" => row.key.clone(),
        "tenant" => row.tenant.clone(),
        "batch" => row.batch.clone().and_then(|batch| batch.0),
        "hour" => row.hour.map(time),
        "day" => row.day.map(|day| day.to_string()),
        _ => None,
    };
    value.unwrap_or_default()
}

fn numbers(row: &UsageRowOut, shown: &[&str]) -> Vec<String> {
    let counted = counts(row).into_iter().filter(|(word, _)| shown.contains(word));
    let mut cells: Vec<_> = counted.map(|(_, count)| thousands(count)).collect();
    let minute = |count: Option<u64>| count.map(thousands).unwrap_or_default();
    cells.push(row.cost_usd.map_or_else(|| "?".to_owned(), PicoUsd::to_short));
    cells.push(minute(row.last_minute.map(|minute| minute.requests)));
    cells.push(minute(row.last_minute.map(|minute| minute.input_tokens)));
    cells
}

fn bucket_cells(bucket: &BucketOut) -> [Cell; 3] {
    let more = match bucket.models.len() {
        0 | 1 => String::new(),
        n => format!(" (+{})", n - 1),
    };
    let state = Cell::new(state_word(bucket.state));
    [
        Cell::new(escaped(&bucket.project)),
        Cell::new(escaped(&bucket.model) + &more),
        match bucket.state {
            BucketState::Open => state,
            BucketState::Waiting | BucketState::Learning => state.fg(Color::Yellow),
            BucketState::Blocked | BucketState::Off => state.fg(Color::Red),
        },
    ]
}

fn state_word(state: BucketState) -> &'static str {
    match state {
        BucketState::Open => "open",
        BucketState::Waiting => "waiting",
        BucketState::Blocked => "blocked",
        BucketState::Learning => "learning",
        BucketState::Off => "off",
    }
}

fn limit_cells(limit: &LimitOut) -> [Cell; 8] {
    let amount = |value| amount(&limit.dimension, value);
    let free = Cell::new(match limit.reserved_for_interactive {
        Some(kept) => format!("{} ({} for interactive)", amount(limit.free), amount(kept)),
        None => amount(limit.free),
    });
    let whose = match (&limit.scope, limit.shared) {
        (Some(_), true) => " (each key, all models)".to_owned(),
        (Some(_), false) => " (each key)".to_owned(),
        (None, true) => " (all models)".to_owned(),
        (None, false) => String::new(),
    };
    let whose = match &limit.key {
        Some(key) => whose.replace("each key", &format!("key {}", escaped(key))),
        None => whose,
    };
    [
        Cell::new(escaped(&limit.dimension) + &whose),
        Cell::new(escaped(&limit.window)),
        Cell::new(match limit.usable {
            Some(usable) => format!("{} of {}", amount(usable), amount(limit.limit)),
            None => amount(limit.limit),
        }),
        Cell::new(amount(limit.used)),
        Cell::new(amount(limit.reserved)),
        if limit.free == 0 { free.fg(Color::Yellow) } else { free },
        Cell::new(limit.next_free_at.or(limit.resets_at).map(time).unwrap_or_default()),
        Cell::new(escaped(&limit.source)),
    ]
}

fn hindrance(bucket: &BucketOut) -> Option<String> {
    let reason = escaped(bucket.reason.as_ref()?);
    let until = bucket.until.map(|at| format!(" until {}", time(at))).unwrap_or_default();
    let (project, model) = (escaped(&bucket.project), escaped(&bucket.model));
    Some(format!("{project}, {model}: {}{until}: {reason}", state_word(bucket.state)))
}

/// What refusals showed.
fn lessons(bucket: &BucketOut) -> Vec<String> {
    let (project, model) = (escaped(&bucket.project), escaped(&bucket.model));
    let mut lessons = Vec::new();
    if let Some(percent) = bucket.others_percent {
        lessons.push(format!("{project}, {model}: someone else uses ~{percent} % of its quota"));
    }
    if bucket.paced {
        lessons.push(format!("{project}, {model}: batch requests keep a distance"));
    }
    for limit in &bucket.limits {
        if let Some(allows) = limit.provider_allows {
            let dimension = escaped(&limit.dimension);
            let allows = thousands(allows);
            lessons.push(format!("{project}, {model}: the provider allows {allows} {dimension}"));
        }
    }
    lessons
}

fn ailments(project: &ProjectOut) -> Vec<String> {
    let name = escaped(&project.project);
    let say = |what: &str, why: &str| format!("{name}: {}: {}", escaped(what), escaped(why));
    let mut ailments = Vec::new();
    ailments.extend(project.unreachable.as_ref().map(|why| say("unreachable", why)));
    ailments.extend(project.held.as_ref().map(|why| say("held", why)));
    for aside in &project.keys_aside {
        ailments.push(say(&format!("key {} is set aside", aside.key), &aside.reason));
    }
    ailments
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Adds lines below a table, if there are any.
fn push_below(text: &mut String, lines: impl Iterator<Item = String>) {
    for (n, content) in lines.enumerate() {
        text.push_str(if n == 0 { "\n" } else { "" });
        line(text, &content);
    }
}

fn line(text: &mut String, content: &str) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(text, "{content}");
}

/// The head of a column, which says how its cells stand.
#[derive(Clone, Copy)]
pub(super) enum Head<'a> {
    Text(&'a str),
    Number(&'a str),
}

/// A table without lines: columns two spaces apart.
pub(super) struct Grid {
    table: Table,
    numbers: Vec<bool>,
}

impl Grid {
    pub(super) fn new(style: Style, heads: &[Head<'_>]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).force_no_tty();
        if style.color {
            table.enforce_styling();
        }
        if let Some(width) = style.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        let words = heads.iter().map(|head| match head {
            Head::Text(word) => word.replace('_', " "),
            Head::Number(word) => word.replace('_', "\n"),
        });
        table.set_header(words.map(|word| Cell::new(word).add_attribute(Attribute::Bold)));
        let numbers = heads.iter().map(|head| matches!(head, Head::Number(_))).collect();
        Self { table, numbers }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.table.add_row(cells);
    }

    pub(super) fn render(mut self) -> String {
        let widths = self.table.column_max_content_widths();
        let columns = self.table.column_iter_mut().zip(&self.numbers).zip(widths);
        for ((column, number), width) in columns {
            column.set_padding((0, GAP));
            if *number {
                // Half a number is a wrong number.
                column.set_constraint(ColumnConstraint::ContentWidth);
                column.set_cell_alignment(CellAlignment::Right);
            } else {
                let least = Width::Fixed(width.min(TEXT_WIDTH_MIN) + GAP);
                column.set_constraint(ColumnConstraint::LowerBoundary(least));
            }
        }
        let lines = self.table.lines().map(|line| line.trim_end().to_owned() + "\n");
        lines.collect()
    }
}
