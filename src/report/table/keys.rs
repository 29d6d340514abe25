//! Keys as text.

use comfy_table::{Cell, Color};

use super::{Grid, Head, Style, line, push_below, time};
use crate::config::ImportReport;
use crate::report::explain::amount;
use crate::report::keys::{Budget, KeyHealth, KeyOut, KeysReport};
use crate::report::text::{escaped, thousands};

/// Every key, then the budget that those of each project share.
#[must_use]
pub fn keys(report: &KeysReport, style: Style) -> String {
    let heads = [
        Head::Text("project"),
        Head::Text("key"),
        Head::Text("from"),
        Head::Number("attempts_today"),
        Head::Number("input tokens_today"),
        Head::Number("60s_requests"),
        Head::Number("60s_tokens"),
        Head::Text("health"),
    ];
    let mut grid = Grid::new(style, &heads);
    for key in &report.keys {
        grid.row([
            Cell::new(escaped(&key.project)),
            Cell::new(escaped(&key.name)),
            Cell::new(escaped(&key.source)),
            Cell::new(thousands(key.attempts)),
            Cell::new(thousands(key.input_tokens)),
            Cell::new(thousands(key.last_minute_requests)),
            Cell::new(thousands(key.last_minute_input_tokens)),
            health(key),
        ]);
    }
    let mut text = grid.render();
    push_below(&mut text, report.budgets.iter().flat_map(budget));
    text
}

fn health(key: &KeyOut) -> Cell {
    let reason = key.reason.as_deref().map(|why| format!(": {}", escaped(why)));
    let reason = reason.unwrap_or_default();
    match key.state {
        KeyHealth::Ok => Cell::new("ok"),
        KeyHealth::Aside => {
            let until = key.until.map(time).unwrap_or_default();
            Cell::new(format!("set aside until {until}{reason}")).fg(Color::Yellow)
        }
        KeyHealth::Disabled => Cell::new("disabled").fg(Color::Red),
        KeyHealth::Missing => Cell::new(format!("missing{reason}")).fg(Color::Red),
    }
}

fn budget(budget: &Budget) -> Vec<String> {
    let name = escaped(&budget.project);
    let head = match budget.keys {
        0 => format!("{name}: no key"),
        1 => format!("{name}: the budget of its key"),
        n => format!("{name}: its {n} keys share ONE budget, more keys add nothing to it"),
    };
    if budget.limits.is_empty() {
        return vec![format!("{head}; nothing of it is used now")];
    }
    let limit = |limit: &crate::report::keys::BudgetLimit| {
        let amount = |value| amount(&limit.dimension, value);
        let (model, dimension) = (escaped(&limit.model), escaped(&limit.dimension));
        format!("  {model} {dimension}: {} of {} used", amount(limit.used), amount(limit.limit))
    };
    std::iter::once(head + ":").chain(budget.limits.iter().map(limit)).collect()
}

/// What an import came to.
#[must_use]
pub fn import(report: &ImportReport) -> String {
    let project = escaped(&report.project);
    let services: Vec<_> = report.services.iter().map(|service| escaped(service)).collect();
    let mut text = String::new();
    line(&mut text, &format!("taken: {}", services.join(", ")));
    for key in &report.added {
        let (service, name) = (escaped(&key.service), escaped(&key.name));
        line(&mut text, &format!("{service}, key {}: imported as {project} {name}", key.place));
    }
    for key in &report.known {
        let (service, name) = (escaped(&key.service), escaped(&key.name));
        let known = format!("{service}, key {}: known already as {project} {name}", key.place);
        line(&mut text, &format!("{known}; skipped"));
    }
    let (added, known) = (report.added.len(), report.known.len());
    line(&mut text, &format!("{added} imported, {known} skipped"));
    text
}
