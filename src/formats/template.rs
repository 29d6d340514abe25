//! What becomes a prompt of a row: `Classify: {{text}}`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{FormatError, LineError, csv};

/// A template whose places are known to be columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    parts: Vec<Part>,
    /// How many fields a row has.
    width: usize,
    /// The column that names a row; without one it is named by its number.
    key: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Part {
    /// As it is.
    Text(String),
    /// The field of this column.
    Column(usize),
}

/// The only column of a text file.
const LINE: &str = "text";

/// Columns that are the prompt where no template says so, the first that there is.
const PROMPTS: [&str; 2] = ["prompt", LINE];

/// Columns that name a row, the first that there is.
const KEYS: [&str; 3] = ["key", "id", "custom_id"];

impl Template {
    /// The template of a text file: `{{text}}` is the line.
    ///
    /// # Errors
    /// A place of another name, or one that does not end.
    pub fn of_text(source: &str) -> Result<Self, FormatError> {
        let columns = [Cow::Borrowed(LINE)];
        Ok(Self { parts: compile(source, &columns)?, width: 1, key: None })
    }

    /// The template of a CSV file whose first record is `header`; without a `source` its column
    /// `prompt` or `text`, or its only one.
    ///
    /// # Errors
    /// A header that is no text or has a column twice, a place that is no column or does not end,
    /// or no way to know the prompt.
    pub fn of_csv(source: Option<&str>, header: &[u8]) -> Result<Self, FormatError> {
        let header = std::str::from_utf8(header)
            .map_err(|error| FormatError::HeaderNotUtf8 { byte: error.valid_up_to() + 1 })?;
        let header = header.strip_prefix('\u{feff}').unwrap_or(header);
        let columns: Vec<Cow<'_, str>> = csv::fields(header);
        let find = |name: &str| columns.iter().position(|column| column.trim() == name);
        if let Some(twice) = columns
            .iter()
            .enumerate()
            .find(|(at, name)| columns.iter().take(*at).any(|before| before.trim() == name.trim()))
        {
            return Err(FormatError::ColumnTwice { number: twice.0 + 1 });
        }
        let parts = match source {
            Some(source) => compile(source, &columns)?,
            None => {
                let named = PROMPTS.iter().find_map(|name| find(name));
                let only = (columns.len() == 1).then_some(0);
                vec![Part::Column(named.or(only).ok_or(FormatError::NoPromptColumn)?)]
            }
        };
        let key = KEYS.iter().find_map(|name| find(name));
        Ok(Self { parts, width: columns.len(), key })
    }

    /// The template as the JSON that [`Template::from_json`] reads back.
    ///
    /// # Panics
    /// Never: texts and numbers are JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// Reads back what [`Template::to_json`] wrote; none when it is something else.
    #[must_use]
    pub fn from_json(json: &str) -> Option<Self> {
        let template: Self = serde_json::from_str(json).ok()?;
        let known = |part: &Part| match part {
            Part::Text(_) => true,
            Part::Column(at) => *at < template.width,
        };
        let fits = template.parts.iter().all(known) && template.key < Some(template.width);
        fits.then_some(template)
    }

    /// The prompt of a row with these fields.
    pub(super) fn prompt(&self, fields: &[Cow<'_, str>]) -> Result<String, LineError> {
        if fields.len() != self.width {
            return Err(LineError::Width { fields: fields.len(), columns: self.width });
        }
        let texts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Column(at) => &*fields[*at],
        });
        let prompt: String = texts.collect();
        if prompt.trim_ascii().is_empty() { Err(LineError::PromptEmpty) } else { Ok(prompt) }
    }

    /// The field that names a row, if a column does.
    pub(super) fn key<'f>(&self, fields: &'f [Cow<'_, str>]) -> Option<&'f str> {
        fields.get(self.key?).map(|field| &**field)
    }
}

/// Cuts a template at its places.
fn compile(source: &str, columns: &[Cow<'_, str>]) -> Result<Vec<Part>, FormatError> {
    let (mut parts, mut rest) = (Vec::new(), source);
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, behind) = after.split_once("}}").ok_or(FormatError::PlaceOpen)?;
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        let name = name.trim();
        let column = columns.iter().position(|column| column.trim() == name);
        let column = column.ok_or_else(|| FormatError::unknown_column(name, columns))?;
        parts.push(Part::Column(column));
        rest = behind;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    if parts.iter().any(|part| matches!(part, Part::Column(_))) {
        Ok(parts)
    } else {
        Err(FormatError::NoPlace)
    }
}
