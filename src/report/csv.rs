//! The usage report as a file for spreadsheets.

use super::table::{column_text, counts};
use super::text::escaped;
use super::usage::{UsageReport, UsageRowOut};
use crate::config::prices::PicoUsd;

/// The rows of a usage report as CSV (RFC 4180, with a header and CRLF), without the totals. What
/// is `null` in JSON is an empty cell.
///
/// A spreadsheet runs cells that begin with `=`, `+`, `-` or `@` as formulas, so texts that do are
/// given an apostrophe in front.
#[must_use]
pub fn usage(report: &UsageReport) -> String {
    let mut csv = String::new();
    let counted = counts(&UsageRowOut::default()).map(|(word, _)| word);
    let others = ["cost_usd", "last_minute_requests", "last_minute_input_tokens"];
    let words = report.by.iter().map(String::as_str).chain(counted).chain(others);
    line(&mut csv, words.map(cell));
    for row in &report.rows {
        let columns = report.by.iter().map(|column| cell(&column_text(row, column)));
        let counted = counts(row).map(|(_, count)| count.to_string());
        let minute = |count: Option<u64>| count.map(|n| n.to_string()).unwrap_or_default();
        let others = [
            row.cost_usd.map(PicoUsd::to_short).unwrap_or_default(),
            minute(row.last_minute.map(|minute| minute.requests)),
            minute(row.last_minute.map(|minute| minute.input_tokens)),
        ];
        line(&mut csv, columns.chain(counted).chain(others));
    }
    csv
}

fn line(csv: &mut String, cells: impl Iterator<Item = String>) {
    let cells: Vec<_> = cells.collect();
    csv.push_str(&cells.join(","));
    csv.push_str("\r\n");
}

/// A text as one cell. Control characters are escaped first, so a cell is always one line.
fn cell(text: &str) -> String {
    let mut text = escaped(text);
    if text.starts_with(['=', '+', '-', '@']) {
        text.insert(0, '\'');
    }
    if text.contains(['"', ',']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}
