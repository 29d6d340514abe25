//! Why a line, an option or a file is refused. None of these quotes a prompt, so they may be
//! written to logs and reports.

use std::borrow::Cow;

use serde_json::error::Category;

/// Most characters of a name or suffix that a message repeats.
const QUOTED_CHARS_MAX: usize = 40;

/// Fields of a body that must not be given twice.
const BODY_FIELDS: [&str; 8] =
    ["model", "messages", "input", "tools", "functions", "response_format", "max_tokens", "stream"];

/// Why a line of a job file is not an item, or a document not an answer. Bytes and columns count
/// from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// A byte that UTF-8 does not allow there.
    #[error("not valid UTF-8 at byte {byte} of the line")]
    NotUtf8 {
        /// Its place in the line.
        byte: usize,
    },
    /// A syntax error.
    #[error("not valid JSON at column {column}: {problem}")]
    NotJson {
        /// Its place in the line, in bytes.
        column: usize,
        /// What is wrong there, in words that quote nothing.
        problem: String,
    },
    /// Lists and objects within each other beyond the limit.
    #[error("nested deeper than 128 levels at column {column}")]
    TooDeep {
        /// Where the first level too many begins.
        column: usize,
    },
    /// Some other JSON value.
    #[error("not a JSON object; a line is {{\"key\": …, \"request\": {{…}}}}")]
    NotObject,
    /// A line of an `OpenAI` batch in a file of the other dialect.
    #[error(
        "a line of the OpenAI batch dialect (\"custom_id\", \"body\") in a file of Gemini's: put \
         it into a file of its own"
    )]
    OpenAi,
    /// A line of a Gemini batch in a file of the other dialect.
    #[error(
        "a line of the Gemini batch dialect (\"key\", \"request\") in a file of OpenAI's: put it \
         into a file of its own"
    )]
    Gemini,
    /// Something else among requests that stand alone.
    #[error(
        "not a request (\"contents\") like the first of the file: give either all a \"key\" and a \
         \"request\", or none"
    )]
    NotBare,
    /// No `custom_id`.
    #[error("\"custom_id\" is missing")]
    CustomIdMissing,
    /// No `url`.
    #[error("\"url\" is missing: it is \"/v1/chat/completions\" or \"/v1/embeddings\"")]
    UrlMissing,
    /// Another `url`, or another `method` than `POST`.
    #[error(
        "\"method\" and \"url\" must be \"POST\" and \"/v1/chat/completions\" or \
         \"/v1/embeddings\""
    )]
    UrlUnknown,
    /// No `body`, or one of another type.
    #[error("\"body\" is missing or no object")]
    BodyMissing,
    /// No `model` in the `body`.
    #[error("\"model\" of the body is missing")]
    ModelMissing,
    /// Another model than the batch's.
    #[error("\"model\" of the body is another than the batch's: a file has one model")]
    ModelOther,
    /// Nothing to answer.
    #[error("\"messages\" or \"input\" of the body is missing or empty")]
    BodyEmpty,
    /// An answer piece by piece.
    #[error("\"stream\" of the body is true: a batch is answered in files, leave it out")]
    Streamed,
    /// A row with too few fields or too many.
    #[error("the row has {fields} fields, and the header {columns}")]
    Width {
        /// What it has.
        fields: usize,
        /// What it should have.
        columns: usize,
    },
    /// A row of which no prompt can be made.
    #[error("no template says what of the row is the prompt")]
    NoTemplate,
    /// A prompt of white space.
    #[error("the prompt is empty")]
    PromptEmpty,
    /// The file breaks off, or something stands between its records.
    #[error("{problem}")]
    Cut {
        /// What is wrong, in words that quote nothing.
        problem: &'static str,
    },
    /// `tidegate` on a later line, or beside something else.
    #[error("\"tidegate\" options are accepted on the first line only, with nothing beside them")]
    OptionsMisplaced,
    /// The options themselves.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// No `key`.
    #[error("\"key\" is missing")]
    KeyMissing,
    /// A `key` of another type, too long, or unprintable.
    #[error("\"key\" must be a string of 1 to 512 bytes without control characters")]
    KeyInvalid,
    /// No `request`.
    #[error("\"request\" is missing")]
    RequestMissing,
    /// A `request` of another type.
    #[error("\"request\" must be an object")]
    RequestNotObject,
    /// Nothing to answer.
    #[error("\"contents\" of the request is missing or empty")]
    ContentsMissing,
    /// A field given twice, perhaps in both spellings.
    #[error("duplicate field \"{field}\"")]
    Duplicate {
        /// Its name in camel case.
        field: &'static str,
    },
    /// White space only, where a request was wanted.
    #[error("the line is blank")]
    Blank,
}

impl LineError {
    /// Turns what `serde_json` says of `text`, which begins `offset` bytes into the line.
    pub(super) fn from_json(error: &serde_json::Error, text: &str, offset: usize) -> Self {
        let lines_before = text.split_inclusive('\n').take(error.line().saturating_sub(1));
        let bytes_before: usize = lines_before.map(str::len).sum();
        let column = offset.saturating_add(bytes_before).saturating_add(error.column()).max(1);
        let shown = error.to_string();
        let problem = shown.rsplit_once(" at line ").map_or(shown.as_str(), |(problem, _)| problem);
        let twice = |field: &&&str| problem == format!("duplicate field `{field}`");
        if let Some(field) = BODY_FIELDS.iter().find(twice) {
            return Self::Duplicate { field };
        }
        if problem == "recursion limit exceeded" {
            return Self::TooDeep { column };
        }
        let problem = match error.classify() {
            Category::Syntax | Category::Eof => problem,
            // The only messages that quote the document.
            Category::Data | Category::Io => "a value of the wrong type",
        };
        Self::NotJson { column, problem: problem.to_owned() }
    }
}

/// Why a batch option is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No option of that name.
    #[error("unknown option \"{name}\", did you mean \"{nearest}\"?")]
    Unknown {
        /// What was written, shortened.
        name: String,
        /// The known name that resembles it most.
        nearest: &'static str,
    },
    /// The same option twice.
    #[error("option \"{name}\" is given twice")]
    Duplicate {
        /// The option.
        name: &'static str,
    },
    /// A value that the option does not take.
    #[error("option \"{name}\" must be {expected}")]
    Value {
        /// The option.
        name: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// `tidegate` is some other JSON value.
    #[error("\"tidegate\" must be an object of options")]
    NotObject,
}

impl OptionError {
    pub(super) fn unknown(name: &str, known: &[&'static str]) -> Self {
        // Comparing costs the product of both lengths, and a name may be as long as its line.
        let start: String = name.chars().take(QUOTED_CHARS_MAX).collect();
        let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, &start));
        Self::Unknown { name: shortened(name), nearest: nearest.copied().unwrap_or_default() }
    }
}

/// Why a file as a whole is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A suffix of none of the dialects.
    #[error(
        "{found} not accepted; accepted are .jsonl (Gemini or OpenAI batch), .json (one request or \
         a list), .txt (one prompt a line) and .csv, each also with .gz or .zst behind it"
    )]
    Unaccepted {
        /// What was found instead, with its verb.
        found: String,
    },
    /// A name that cannot name results.
    #[error("the file's name {problem}")]
    Name {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A sidecar that is not TOML.
    #[error("not valid TOML at line {line}: {problem}")]
    SidecarSyntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A header that is no text.
    #[error("the header is not valid UTF-8 at byte {byte}")]
    HeaderNotUtf8 {
        /// Its place, from 1.
        byte: usize,
    },
    /// A column of the same name as one before.
    #[error("column {number} of the header has the name of one before it")]
    ColumnTwice {
        /// Which, from 1.
        number: usize,
    },
    /// A template names a column that is not there.
    #[error("the template names a column {name:?} that the file does not have{nearest}")]
    UnknownColumn {
        /// What it names, shortened.
        name: String,
        /// What it may have meant, in words.
        nearest: String,
    },
    /// A template without an end of a place.
    #[error("the template has a \"{{{{\" without \"}}}}\" behind it")]
    PlaceOpen,
    /// A template that says the same of every row.
    #[error("the template names no column: write it as {{{{column}}}}")]
    NoPlace,
    /// No way to know the prompt.
    #[error(
        "no column is called \"prompt\" or \"text\": say by the option \"template\" what to send, \
         such as \"Classify: {{{{column}}}}\""
    )]
    NoPromptColumn,
    /// A sidecar with a bad option.
    #[error(transparent)]
    Option(#[from] OptionError),
}

impl FormatError {
    pub(super) fn unknown_column(name: &str, columns: &[Cow<'_, str>]) -> Self {
        let start: String = name.chars().take(QUOTED_CHARS_MAX).collect();
        let distance = |column: &&Cow<'_, str>| {
            let column: String = column.chars().take(QUOTED_CHARS_MAX).collect();
            strsim::damerau_levenshtein(&column, &start)
        };
        let nearest = columns.iter().min_by_key(distance);
        let nearest = nearest.map(|column| format!(", did you mean {:?}?", shortened(column)));
        Self::UnknownColumn { name: shortened(name), nearest: nearest.unwrap_or_default() }
    }

    pub(super) fn unaccepted(suffix: &str) -> Self {
        let found = if suffix.is_empty() {
            "a file without a suffix is".to_owned()
        } else {
            format!(".{} files are", shortened(suffix))
        };
        Self::Unaccepted { found }
    }
}

/// Makes a name fit to be shown in one line.
fn shortened(name: &str) -> String {
    let mut shown: String =
        name.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if name.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
