//! How many tests ran, read from what the test runners print.

use std::ops::AddAssign;

/// Tests that passed and tests that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failed = self.failed.saturating_add(other.failed);
    }
}

/// The last `Summary` line of cargo-nextest, such as
/// `Summary [   0.004s] 3 tests run: 2 passed (1 slow), 1 timed out, 0 skipped`.
/// `None` when there is none: the build failed, or the format has changed.
pub(crate) fn nextest(output: &str) -> Option<Count> {
    without_colour(output).lines().filter_map(nextest_summary).next_back()
}

/// The sum of libtest's `test result: ok. 12 passed; 0 failed; …` lines; `None` without any.
pub(crate) fn libtest(output: &str) -> Option<Count> {
    let mut total = None;
    for count in without_colour(output).lines().filter_map(libtest_result) {
        *total.get_or_insert_with(Count::default) += count;
    }
    total
}

/// What Python's unittest says at its end: `Ran 4 tests in 9.7s` and `OK` or
/// `FAILED (failures=1, errors=2)`. `None` without that, or when nothing ran.
pub(crate) fn unittest(output: &str) -> Option<Count> {
    let words = |line: &str| line.strip_prefix("Ran ")?.split(' ').next()?.parse().ok();
    let ran: u64 = output.lines().filter_map(words).next_back().filter(|ran| *ran > 0)?;
    let verdict = |line: &&str| *line == "OK" || line.starts_with("FAILED (");
    let verdict = output.lines().rfind(verdict)?;
    let numbers = verdict.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    let failed = numbers.fold(0, u64::saturating_add);
    Some(Count { passed: ran.saturating_sub(failed), failed })
}

fn nextest_summary(line: &str) -> Option<Count> {
    let (_, summary) = line.trim_start().strip_prefix("Summary [")?.split_once(']')?;
    let (_, parts) =
        summary.split_once(" tests run: ").or_else(|| summary.split_once(" test run: "))?;
    tally(&without_parentheses(parts), ',', &["skipped"])
}

fn libtest_result(line: &str) -> Option<Count> {
    let (_, parts) = line.trim_start().strip_prefix("test result: ")?.split_once(". ")?;
    let tests = parts.split("; finished in").next()?;
    tally(tests, ';', &["ignored", "measured", "filtered out"])
}

/// Adds up parts such as `2 passed` and `1 failed`. Whatever is neither `passed` nor one of
/// `neither` counts as failed, so that a kind of failure unknown here is never lost.
fn tally(parts: &str, separator: char, neither: &[&str]) -> Option<Count> {
    let mut count = Count::default();
    for part in parts.split(separator).map(str::trim).filter(|part| !part.is_empty()) {
        let (number, word) = part.split_once(' ')?;
        let number: u64 = number.parse().ok()?;
        if word == "passed" {
            count.passed = count.passed.saturating_add(number);
        } else if !neither.contains(&word) {
            count.failed = count.failed.saturating_add(number);
        }
    }
    Some(count)
}

fn without_parentheses(text: &str) -> String {
    let mut depth = 0_u32;
    let mut kept = String::new();
    for c in text.chars() {
        match c {
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 => kept.push(c),
            _ => {}
        }
    }
    kept
}

/// The text without ANSI colour sequences (`ESC [ … m`).
fn without_colour(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        kept.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(read: fn(&str) -> Option<Count>, output: &str, expect: Option<(u64, u64)>) {
        let expect = expect.map(|(passed, failed)| Count { passed, failed });
        assert_eq!(read(output), expect, "{output}");
    }

    #[test]
    fn unittest_says_how_many_ran_and_failed() {
        let of = |text: &str| unittest(text).map(|count| (count.passed, count.failed));
        assert_eq!(of("x\nRan 4 tests in 9.7s\n\nOK\n"), Some((4, 0)));
        assert_eq!(of("Ran 13 tests in 4s\n\nFAILED (failures=1, errors=5)\n"), Some((7, 6)));
        assert_eq!(of("Ran 0 tests in 0.0s\n\nOK\n"), None);
        assert_eq!(of("Traceback"), None);
    }

    #[test]
    fn a_nextest_summary_is_counted() {
        check(nextest, "     Summary [   0.005s] 3 tests run: 3 passed, 0 skipped", Some((3, 0)));
        check(nextest, "     Summary [   0.005s] 1 test run: 1 passed, 2 skipped", Some((1, 0)));
        check(
            nextest,
            "Summary [  61.2s] 9 tests run: 6 passed (1 slow, 2 leaky), 1 failed, 2 timed out, \
             0 skipped",
            Some((6, 3)),
        );
        check(
            nextest,
            "     Summary [   0.1s] 3/5 tests run: 2 passed, 1 exec failed, 0 skipped",
            Some((2, 1)),
        );
    }

    #[test]
    fn the_last_of_several_summaries_counts_and_colours_do_not_matter() {
        check(
            nextest,
            "Summary [ 1s] 1 test run: 1 passed, 0 skipped\n\
             \u{1b}[32;1m  Summary\u{1b}[0m [   0.0s] \u{1b}[1m7\u{1b}[0m tests run: \
             \u{1b}[1m7\u{1b}[0m \u{1b}[32;1mpassed\u{1b}[0m, \u{1b}[1m0\u{1b}[0m skipped\n",
            Some((7, 0)),
        );
    }

    #[test]
    fn no_summary_is_not_zero_tests() {
        check(nextest, "error: could not compile `tidegate`", None);
        check(nextest, "Summary [ 1s] strange words", None);
        check(libtest, "error: could not compile `tidegate`", None);
    }

    #[test]
    fn libtest_results_add_up() {
        check(
            libtest,
            "running 2 tests\n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished \
             in 0.00s\n\
             \n\
             test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 5 filtered out; \
             finished in 1.20s\n",
            Some((5, 1)),
        );
        check(
            libtest,
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished \
             in 0.00s",
            Some((0, 0)),
        );
    }
}
