//! Text from outside, made fit for a log line or a report.

use std::error::Error;

/// `text` with control characters escaped, cut at a character so that it has at most `max` bytes.
pub(super) fn bounded(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let start = out.len();
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        if out.len() > max {
            out.truncate(start);
            break;
        }
    }
    out
}

/// `error` and its causes in one line. A cause that the line already says is left out.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_escapes_and_cuts_at_a_character() {
        assert_eq!(bounded("a\nb\u{1b}[31m", 99), r"a\nb\u{1b}[31m");
        assert_eq!(bounded("aé", 2), "a");
        assert_eq!(bounded("a\n", 2), "a");
        assert_eq!(bounded("", 0), "");
    }
}
