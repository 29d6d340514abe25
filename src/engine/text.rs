//! The text of a job file: what stands at its beginning, and how its records are read.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::intake::IntakeError;
use crate::caps;
use crate::config::Provider;
use crate::formats::{self, Answers, BatchOptions, Dialect, Family, Form, Packing, Template};
use crate::spool::{Content, RecordReader, Spool};
use crate::store::{Batch, StoreError};

/// What a job file begins with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    /// Its options, if its first record is that.
    pub(crate) options: Option<BatchOptions>,
    /// Of CSV the names of its columns.
    header: Vec<u8>,
    /// The first record of it that is an item.
    first: Vec<u8>,
}

/// Reads the beginning of a job file's text.
///
/// # Errors
/// The text cannot be read; within, its options cannot be used: why, in words.
pub(crate) fn head(file: File, family: Family) -> io::Result<Result<Head, String>> {
    let file = BufReader::with_capacity(1 << 16, file);
    let mut records = RecordReader::new(file, family, caps::LINE_MAX_BYTES);
    let mut head = Head::default();
    while let Some(record) = records.next_record()? {
        let Content::Bytes(bytes) = record.content else { break };
        if record.number == 0 {
            bytes.clone_into(&mut head.header);
            continue;
        }
        // A bad first line that is no options line is told with the other bad lines.
        if record.number == 1 && family != Family::Csv {
            match formats::options_line(bytes) {
                Ok(Some(options)) => {
                    head.options = Some(options);
                    continue;
                }
                Ok(None) => {}
                Err(error) => return Ok(Err(format!("line 1: {error}"))),
            }
        }
        if !bytes.trim_ascii().is_empty() {
            bytes.clone_into(&mut head.first);
            break;
        }
    }
    Ok(Ok(head))
}

impl Head {
    /// The dialect of the file.
    pub(crate) fn dialect(&self, family: Family) -> Dialect {
        formats::dialect_of(family, &self.first)
    }

    /// The model that the first record itself names.
    pub(crate) fn model(&self, family: Family) -> Option<String> {
        let form = Form::of(self.dialect(family));
        form.parse_line(1, &self.first).ok().flatten()?.model
    }

    /// How the records are read of a batch that asks a provider first.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    pub(crate) fn form(
        &self,
        family: Family,
        options: &BatchOptions,
        provider: Provider,
    ) -> Result<Form, String> {
        let form = Form::of(self.dialect(family));
        let template = match (form.dialect, options.template.as_deref()) {
            (Dialect::Csv, source) => Some(Template::of_csv(source, &self.header)),
            (Dialect::Text, Some(source)) => Some(Template::of_text(source)),
            (Dialect::Text, None) => None,
            (Dialect::GeminiJsonl | Dialect::OpenAiJsonl | Dialect::GeminiRequests, None) => None,
            (Dialect::GeminiJsonl | Dialect::OpenAiJsonl | Dialect::GeminiRequests, Some(_)) => {
                let why = "a template makes prompts of .csv and .txt files alone: leave it out";
                return Err(why.to_owned());
            }
        };
        let template = template.transpose().map_err(|error| error.to_string())?;
        let answers = match (form.dialect, provider) {
            (Dialect::Text | Dialect::Csv, Provider::OpenAi) => Answers::OpenAi,
            _ => form.answers,
        };
        Ok(Form { template, answers, ..form })
    }
}

/// How the records of a batch are read.
///
/// # Errors
/// When its row holds a word that this version does not know.
pub(crate) fn form_of(batch: &Batch) -> Result<Form, StoreError> {
    let unknown = |column: &str, word: &str| {
        StoreError::Inconsistent(format!("batch.{column} of {} is {word}", batch.uid))
    };
    let template = match &batch.template {
        Some(json) => Some(Template::from_json(json).ok_or_else(|| unknown("template", json))?),
        None => None,
    };
    Ok(Form {
        dialect: batch.dialect.parse().map_err(|_| unknown("dialect", &batch.dialect))?,
        template,
        answers: batch.answers.parse().map_err(|_| unknown("answers", &batch.answers))?,
    })
}

/// How the accepted file of a batch is cut and packed; as the names of older versions say where
/// this one's do not.
pub(crate) fn file_of(batch: &Batch) -> (Family, Packing) {
    formats::recognise(&batch.file_name)
        .map_or((Family::Jsonl, Packing::Plain), |name| (name.family, name.packing))
}

/// The text of an open batch, of which its items are slices.
pub(crate) fn path_of(spool: &Spool, batch: &Batch) -> PathBuf {
    spool.text_path(&batch.work, file_of(batch).1)
}

/// What keeps a file from being read, with its name.
pub(super) fn told(path: &Path) -> impl Fn(io::Error) -> IntakeError {
    move |source| IntakeError::Read { path: path.to_owned(), source }
}
