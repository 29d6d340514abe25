//! Requests as they are given to the Gemini Batch API without a file: a list within an object.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::envelope::offset_in;

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    batch: Batch<'a>,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow, alias = "inputConfig")]
    input_config: InputConfig<'a>,
}

#[derive(Deserialize)]
struct InputConfig<'a> {
    #[serde(borrow)]
    requests: Requests<'a>,
}

#[derive(Deserialize)]
struct Requests<'a> {
    #[serde(borrow)]
    requests: &'a RawValue,
}

/// Where in `object` the list stands if it is the body of a call that creates a batch:
/// `{"batch": {"input_config": {"requests": {"requests": [{"request": …, "metadata": {"key":
/// …}}, …]}}}}`.
#[must_use]
pub fn inline_list(object: &[u8]) -> Option<Range<usize>> {
    let text = str::from_utf8(object).ok()?;
    let call: Call<'_> = serde_json::from_str(text).ok()?;
    let list = call.batch.input_config.requests.requests.get();
    let start = offset_in(text, list);
    list.starts_with('[').then(|| start..start.saturating_add(list.len()))
}
