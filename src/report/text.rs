//! Text that others wrote, made harmless for terminals.

use std::fmt::Write;

/// Most characters of a user's word that a message repeats.
const QUOTED_CHARS_MAX: usize = 40;

/// The text with every character that can steer a terminal or turn the reading direction written
/// as an escape such as `\u{1b}`.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible_steering(c) {
            // Writing to a `String` cannot fail.
            let _ = write!(safe, "{}", c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// The beginning of a user's word, escaped, for a message.
pub(super) fn quoted(text: &str) -> String {
    let start: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    let cut = if start.len() < text.len() { "…" } else { "" };
    escaped(&start) + cut
}

/// Line separators, bidirectional marks, embeddings, overrides and isolates, and invisible
/// characters by which two names may look like one.
fn is_invisible_steering(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A whole number with a comma between thousands.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
