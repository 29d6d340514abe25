//! The text of a job file: what stands at its beginning, and how its records are read.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::intake::IntakeError;
use crate::caps;
use crate::config::Provider;
use crate::formats::{self, BatchOptions, Dialect, Family, Form, Packing, Template, Wire};
use crate::spool::{self, Spool};
use crate::store::{Batch, StoreError};

/// What a job file says of itself at its beginning.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Its options, if its first record is that.
    pub(crate) options: Option<BatchOptions>,
    family: Family,
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
    let spool::Head { options, header, first } = spool::head(file, family, caps::LINE_MAX_BYTES)?;
    let options = match options.as_deref().map(formats::options_line).transpose() {
        Ok(options) => options.flatten(),
        Err(error) => return Ok(Err(format!("line 1: {error}"))),
    };
    let (header, first) = (header.unwrap_or_default(), first.unwrap_or_default());
    Ok(Ok(Head { options, family, header, first }))
}

impl Head {
    fn dialect(&self) -> Dialect {
        formats::dialect_of(self.family, &self.first)
    }

    /// The model that the first record itself names.
    pub(crate) fn model(&self) -> Option<String> {
        Form::of(self.dialect()).parse_line(1, &self.first).ok().flatten()?.model
    }

    /// How the records are read of a batch that asks a provider first.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    pub(crate) fn form(&self, options: &BatchOptions, provider: Provider) -> Result<Form, String> {
        let dialect = self.dialect();
        let source = options.template.as_deref();
        let template = match (dialect, source) {
            (Dialect::Csv, _) => {
                let header = formats::header(&self.header).map_err(|error| error.to_string())?;
                Some(Template::compile(source, &header))
            }
            (Dialect::Text, Some(_)) => Some(Template::for_text(source)),
            (Dialect::Text | Dialect::GeminiJsonl | Dialect::OpenAiJsonl, None) => None,
            (Dialect::GeminiJsonl | Dialect::OpenAiJsonl, Some(_)) => {
                let why = "a template makes prompts of .csv and .txt files alone: leave it out";
                return Err(why.to_owned());
            }
        };
        let template = template.transpose().map_err(|error| error.to_string())?;
        Ok(Form { dialect, template, answers: formats::answers_of(dialect, wire_of(provider)) })
    }
}

/// What is spoken by a provider.
pub(super) fn wire_of(provider: Provider) -> Wire {
    match provider {
        Provider::Gemini => Wire::Gemini,
        Provider::OpenAi => Wire::OpenAi,
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
        Some(json) => Some(Template::from_json(json).map_err(|_| unknown("template", json))?),
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
