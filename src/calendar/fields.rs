//! The five fields of a cron expression, read into sets of numbers.
//!
//! The grammar is Vixie cron's: a list of `*`, `n`, `n-m`, `*/step`, `n-m/step`, with names for
//! months and days of the week. Reading it here, and handing the search plain lists, gives errors
//! that name the field, and keeps out what the `cron` crate reads otherwise: `1*` as two fields,
//! Sunday as 1, `?` and `@daily`.

use std::collections::BTreeSet;

use super::CalendarError;

/// One kind of field: its name, its range, and the words that stand for its numbers.
pub(super) struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    /// The word for `min` first.
    words: &'static [&'static str],
}

pub(super) const MINUTE: Field = Field { name: "minute", min: 0, max: 59, words: &[] };
pub(super) const HOUR: Field = Field { name: "hour", min: 0, max: 23, words: &[] };
pub(super) const DAY_OF_MONTH: Field = Field { name: "day-of-month", min: 1, max: 31, words: &[] };
pub(super) const MONTH: Field = Field {
    name: "month",
    min: 1,
    max: 12,
    words: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
/// Sunday is both 0 and 7, so that `5-7` and `0-2` can be written.
pub(super) const DAY_OF_WEEK: Field = Field {
    name: "day-of-week",
    min: 0,
    max: 7,
    words: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl Field {
    /// Reads one field: never empty, every number in range, Sunday always 0.
    pub(super) fn parse(&self, text: &str) -> Result<BTreeSet<u32>, CalendarError> {
        let mut numbers = BTreeSet::new();
        for item in text.split(',') {
            let (first, last, step) = self.parse_item(item).map_err(|problem| {
                CalendarError::Field { field: self.name, item: item.to_owned(), problem }
            })?;
            let step = usize::try_from(step).unwrap_or(usize::MAX);
            numbers.extend((first..=last).step_by(step).map(|number| self.fold_sunday(number)));
        }
        Ok(numbers)
    }

    /// Whether the numbers leave nothing of the field out.
    pub(super) fn is_full(&self, numbers: &BTreeSet<u32>) -> bool {
        (self.min..=self.max).all(|number| numbers.contains(&self.fold_sunday(number)))
    }

    /// The three-letter word for a number of this field.
    pub(super) fn word(&self, number: u32) -> &'static str {
        let index = usize::try_from(number - self.min).unwrap_or(usize::MAX);
        self.words[index]
    }

    /// Reads `first-last/step`; a `*` is the whole range, a missing step is 1.
    fn parse_item(&self, item: &str) -> Result<(u32, u32, u32), String> {
        let (range, step) = match item.split_once('/') {
            None => (item, None),
            Some((range, step)) => (range, Some(step)),
        };
        let (first, last) = if range == "*" {
            (self.min, self.max)
        } else if let Some((first, last)) = range.split_once('-') {
            (self.parse_number(first)?, self.parse_number(last)?)
        } else if step.is_some() {
            return Err(format!("has a step without a range; write `*/n` or `n-{}/n`", self.max));
        } else {
            let number = self.parse_number(range)?;
            (number, number)
        };
        if first > last {
            return Err("is a range that runs backwards; split it in two".to_owned());
        }
        let step = step.map_or(Ok(1), |step| self.parse_step(step))?;
        Ok((first, last, step))
    }

    fn parse_number(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(index) = self.words.iter().position(|word| *word == lower) {
            return Ok(self.min + u32::try_from(index).unwrap_or(u32::MAX));
        }
        match parse_digits(text) {
            Some(number) if (self.min..=self.max).contains(&number) => Ok(number),
            Some(_) => Err(format!("is outside {}-{}", self.min, self.max)),
            None => Err("is not a number, a range or a known name".to_owned()),
        }
    }

    fn parse_step(&self, text: &str) -> Result<u32, String> {
        match parse_digits(text) {
            Some(step) if (1..=self.max).contains(&step) => Ok(step),
            Some(_) => Err(format!("has a step outside 1-{}", self.max)),
            None => Err("has a step that is not a number".to_owned()),
        }
    }

    fn fold_sunday(&self, number: u32) -> u32 {
        if self.min == 0 && self.max == 7 { number % 7 } else { number }
    }
}

/// Reads ASCII digits alone: `u32::from_str` would let a `+` through.
fn parse_digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
