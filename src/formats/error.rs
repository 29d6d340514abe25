//! Why a line, an option or a file is refused. None of these quotes a prompt, so they may be
//! written to logs and reports.

use serde_json::error::Category;

/// Most characters of a name or suffix that a message repeats.
const QUOTED_CHARS_MAX: usize = 40;

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
    #[error(
        "not a JSON object; a line is {{\"key\": …, \"request\": {{…}}}}, or \
         {{\"custom_id\": …, \"method\": \"POST\", \"url\": …, \"body\": {{…}}}}"
    )]
    NotObject,
    /// A request for an `OpenAI` batch among those for Gemini's.
    #[error(
        "a line of the OpenAI batch dialect (\"custom_id\", \"body\") in a file of the Gemini \
         dialect; put it into a file of its own"
    )]
    OpenAi,
    /// A request for a Gemini batch among those for `OpenAI`'s.
    #[error(
        "a line of the Gemini batch dialect (\"key\", \"request\") in a file of the OpenAI \
         dialect; put it into a file of its own"
    )]
    Gemini,
    /// `tidegate` on a later line, or beside something else.
    #[error("\"tidegate\" options are accepted on the first line only, with nothing beside them")]
    OptionsMisplaced,
    /// The options themselves.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// No `key`.
    #[error("\"key\" is missing")]
    KeyMissing,
    /// No `custom_id`.
    #[error("\"custom_id\" is missing")]
    CustomIdMissing,
    /// A key of another type, too long, or unprintable.
    #[error("\"{field}\" must be a string of 1 to 512 bytes without control characters")]
    KeyInvalid {
        /// Where it stands.
        field: &'static str,
    },
    /// The same in a row.
    #[error("the key column must have 1 to 512 bytes without control characters")]
    RowKeyInvalid,
    /// A row that is longer or shorter than the header.
    #[error(
        "the row has {found} fields and the header {expected}; put a field with commas, quotes or \
         newlines into quotes, and double the quotes in it"
    )]
    Fields {
        /// Fields of the row.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// A row whose prompt is white space.
    #[error("the prompt of the row is empty")]
    PromptBlank,
    /// A row of a file whose header was not read.
    #[error("the header of the file is missing")]
    TemplateMissing,
    /// Another `method`, or none.
    #[error("\"method\" must be \"POST\"")]
    NotPost,
    /// Another `url`, or none.
    #[error("\"url\" must be \"/v1/chat/completions\" or \"/v1/embeddings\"")]
    Url,
    /// No `body`, or one of another type.
    #[error("\"body\" must be an object")]
    BodyInvalid,
    /// No `model`, or something else than an id.
    #[error("\"model\" of the body must be a model's id")]
    ModelInvalid,
    /// Nothing to answer.
    #[error("\"messages\" of the body is missing or empty")]
    MessagesMissing,
    /// Nothing to embed.
    #[error("\"input\" of the body is missing or empty")]
    InputMissing,
    /// An answer that would come in pieces.
    #[error("\"stream\" must not be true: answers are collected; leave it out")]
    Stream,
    /// No `request`.
    #[error("\"request\" is missing")]
    RequestMissing,
    /// A `request` of another type.
    #[error("\"request\" must be an object")]
    RequestNotObject,
    /// Nothing to answer.
    #[error("\"contents\" (or \"content\", to embed) of the request is missing or empty")]
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
        let nearest = nearest(name, known.iter().copied()).unwrap_or_default();
        Self::Unknown { name: shortened(name), nearest }
    }
}

/// Why a template does not fit a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A column that there is not.
    #[error("the template names the column \"{name}\", did you mean \"{nearest}\"?")]
    Unknown {
        /// What was written, shortened.
        name: String,
        /// The column that resembles it most.
        nearest: String,
    },
    /// Two columns of one name.
    #[error("two columns are called \"{name}\": rename one of them")]
    Twice {
        /// The name, shortened.
        name: String,
    },
    /// `{{` and no `}}`.
    #[error("a \"{{{{\" of the template has no \"}}}}\" behind it")]
    Unclosed,
    /// The same prompt for every row.
    #[error("the template names no column: write {{{{NAME}}}} where the text of one belongs")]
    NamesNone,
    /// Several columns, and none that is known for a prompt.
    #[error(
        "no column is called \"prompt\" or \"text\": rename one, or set the option \
         template = \"… {{{{COLUMN}}}} …\""
    )]
    NoPrompt,
    /// A first record without names.
    #[error("the first line must name the columns, such as key,prompt")]
    NoHeader,
}

/// Why a file as a whole is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A suffix of none of the dialects.
    #[error(
        "{found} not accepted; accepted are .jsonl and .json (requests of a Gemini or OpenAI \
         batch), .csv (a prompt a row) and .txt (a prompt a line), each also as .gz or .zst"
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
    /// A sidecar with a bad option.
    #[error(transparent)]
    Option(#[from] OptionError),
}

impl FormatError {
    pub(super) fn unaccepted(suffix: &str) -> Self {
        let found = if suffix.is_empty() {
            "a file without a suffix is".to_owned()
        } else {
            format!(".{} files are", shortened(suffix))
        };
        Self::Unaccepted { found }
    }
}

/// Which of the known names resembles `name` most.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    // Comparing costs the product of both lengths, and a name may be as long as its line.
    let start: String = name.chars().take(QUOTED_CHARS_MAX).collect();
    known.min_by_key(|known| {
        let known: String = known.chars().take(2 * QUOTED_CHARS_MAX).collect();
        strsim::damerau_levenshtein(&known, &start)
    })
}

/// Makes a name fit to be shown in one line.
pub(super) fn shortened(name: &str) -> String {
    let mut shown: String =
        name.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if name.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
