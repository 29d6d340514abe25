//! `--only-failed`: of a job file, what a results file has no answer to.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use crate::caps;

/// The job file of which a part is sent, and what tells that part.
#[derive(Clone, Debug)]
pub(super) struct OnlyFailed {
    path: PathBuf,
    /// Lines are prompts; their numbers are their keys, so answered ones are sent as blank lines.
    is_text: bool,
    /// The keys that have an answer, as the first 16 bytes of their SHA-256, sorted: a results file
    /// has up to ten million.
    answered: std::sync::Arc<Vec<[u8; 16]>>,
}

/// What a look through both files came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Items without an answer.
    pub(super) items: u64,
    /// Lines that have no key of their own: the results cannot tell of them. They are left out.
    pub(super) keyless: u64,
}

/// What is looked at in a results line of either dialect.
#[derive(Deserialize)]
struct Outcome {
    key: Option<String>,
    custom_id: Option<String>,
    response: Option<Response>,
    error: Option<IgnoredAny>,
}

/// Of a response in the dialect of `OpenAI`, which has answers of every status here.
#[derive(Deserialize)]
struct Response {
    status_code: Option<u16>,
}

/// What is looked at in a line of a job file.
#[derive(Deserialize)]
struct Asked {
    key: Option<String>,
    custom_id: Option<String>,
}

impl OnlyFailed {
    /// Reads which keys `results` has an answer to. A key that failed once and was answered in
    /// another line is answered.
    ///
    /// # Errors
    /// In words, with the file and the line.
    pub(super) fn new(path: &Path, is_text: bool, results: &Path) -> Result<Self, String> {
        let told = |error: io::Error| format!("{}: {error}", results.display());
        let mut lines = Lines::open(results).map_err(told)?;
        let mut answered = Vec::new();
        while let Some(line) = lines.next().map_err(told)? {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let outcome = serde_json::from_slice::<Outcome>(line).ok();
            let read = outcome.and_then(|outcome| {
                let is_answered = outcome.is_answered();
                Some((outcome.key.or(outcome.custom_id)?, is_answered))
            });
            let Some((key, is_answered)) = read else {
                let at = lines.number;
                return Err(format!("{}:{at}: not a line of results", results.display()));
            };
            if is_answered {
                answered.push(digest(&key));
            }
        }
        answered.sort_unstable();
        let answered = std::sync::Arc::new(answered);
        Ok(Self { path: path.to_owned(), is_text, answered })
    }

    /// Counts what would be sent.
    pub(super) fn count(&self) -> io::Result<Found> {
        let mut lines = Lines::open(&self.path)?;
        let mut found = Found::default();
        while let Some(line) = lines.next()? {
            let line = line.to_owned();
            match self.of(&line, lines.number) {
                Part::Unanswered => found.items += 1,
                Part::Keyless => found.keyless += 1,
                Part::Answered | Part::Beside => {}
            }
        }
        Ok(found)
    }

    /// The job file with what has no answer.
    pub(super) fn open(&self) -> io::Result<impl Read + Send + use<>> {
        let lines = Lines::open(&self.path)?;
        Ok(Rest { of: self.clone(), lines, line: Vec::new(), given: 0 })
    }

    fn of(&self, line: &[u8], number: u64) -> Part {
        let text = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line).trim_ascii();
        if text.is_empty() {
            return Part::Beside;
        }
        if number == 1 && matches!(crate::formats::options_line(line), Ok(Some(_))) {
            return Part::Beside;
        }
        let key = if self.is_text {
            number.to_string()
        } else {
            let asked = serde_json::from_slice::<Asked>(text).ok();
            let Some(key) = asked.and_then(|asked| asked.key.or(asked.custom_id)) else {
                return Part::Keyless;
            };
            key
        };
        match self.answered.binary_search(&digest(&key)) {
            Ok(_) => Part::Answered,
            Err(_) => Part::Unanswered,
        }
    }
}

impl Outcome {
    fn is_answered(&self) -> bool {
        let status = self.response.as_ref().map(|response| response.status_code.unwrap_or(200));
        self.error.is_none() && status.is_some_and(|status| status < 400)
    }
}

/// What a line of a job file is.
#[derive(Clone, Copy, Debug)]
enum Part {
    Unanswered,
    Answered,
    Keyless,
    /// Options, or nothing.
    Beside,
}

fn digest(key: &str) -> [u8; 16] {
    let hash: [u8; 32] = Sha256::digest(key).into();
    std::array::from_fn(|at| hash[at])
}

/// The lines of a file, each with its end, in bounded memory.
struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
    /// Of the line last read, from 1.
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> io::Result<Self> {
        let reader = BufReader::with_capacity(1 << 17, File::open(path)?);
        Ok(Self { reader, line: Vec::new(), number: 0 })
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        // A results line has an answer in it, which may be longer than a prompt may be.
        let max = u64::try_from(2 * caps::LINE_MAX_BYTES).unwrap_or(u64::MAX);
        self.reader.by_ref().take(max).read_until(b'\n', &mut self.line)?;
        self.number += 1;
        if u64::try_from(self.line.len()).is_ok_and(|length| length == max) {
            let why = format!("line {} is longer than {max} bytes", self.number);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok((!self.line.is_empty()).then_some(self.line.as_slice()))
    }
}

/// The unanswered part of a job file.
struct Rest {
    of: OnlyFailed,
    lines: Lines,
    line: Vec<u8>,
    /// Of `line`.
    given: usize,
}

impl Read for Rest {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.line.len() {
            self.line.clear();
            self.given = 0;
            let Some(line) = self.lines.next()? else { return Ok(0) };
            self.line.extend_from_slice(line);
            match self.of.of(&self.line, self.lines.number) {
                Part::Unanswered | Part::Beside => {}
                Part::Answered | Part::Keyless => {
                    self.line.clear();
                    if self.of.is_text {
                        self.line.push(b'\n');
                    }
                }
            }
        }
        let rest = &self.line[self.given..];
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        self.given += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn rest(is_text: bool, job: &str, results: &str) -> Result<(Found, String), String> {
        let dir = tempfile::tempdir().unwrap();
        let (path, results_path) = (dir.path().join("job"), dir.path().join("results"));
        std::fs::write(&path, job).unwrap();
        std::fs::write(&results_path, results).unwrap();
        let only = OnlyFailed::new(&path, is_text, &results_path)?;
        let mut text = String::new();
        only.open().unwrap().read_to_string(&mut text).unwrap();
        Ok((only.count().unwrap(), text))
    }

    #[test]
    fn what_failed_or_has_no_line_is_sent_by_exact_key() {
        let job = "{\"tidegate\":{\"model\":\"m\"}}\n{\"key\":\"a\"}\n{\"key\":\"A\"}\n\n\
                   {\"key\":\"b\"}\n{\"key\":\"\\u00e9\"}\n{\"key\":7}\n{\"key\":\"a \"}";
        let results = "{\"key\":\"a\",\"response\":{}}\n{\"key\":\"b\",\"error\":{\"code\":500}}\n\
                       {\"key\":\"é\",\"response\":{}}\n";
        let (found, text) = rest(false, job, results).unwrap();
        assert_eq!(found, Found { items: 3, keyless: 1 });
        let sent = "{\"tidegate\":{\"model\":\"m\"}}\n{\"key\":\"A\"}\n\n{\"key\":\"b\"}\n\
                    {\"key\":\"a \"}";
        assert_eq!(text, sent);
    }

    #[test]
    fn lines_of_the_openai_dialect_fail_by_status_or_error() {
        let job = "{\"custom_id\":\"1\"}\n{\"custom_id\":\"2\"}\n{\"custom_id\":\"3\"}\n";
        let line =
            |id: u32, rest: &str| format!("{{\"id\":\"x\",\"custom_id\":\"{id}\",{rest}}}\n");
        let results = line(1, "\"response\":{\"status_code\":200,\"body\":{}},\"error\":null")
            + &line(2, "\"response\":{\"status_code\":400,\"body\":{}},\"error\":null")
            + &line(3, "\"response\":null,\"error\":{\"code\":\"batch_expired\"}");
        let (found, text) = rest(false, job, &results).unwrap();
        assert_eq!((found.items, text), (2, job.split_once('\n').unwrap().1.to_owned()));
    }

    #[test]
    fn a_text_file_keeps_its_line_numbers() {
        let results = "{\"key\":\"1\",\"response\":{}}\n{\"key\":\"3\",\"response\":{}}\n";
        let (found, text) = rest(true, "one\n\nthree\nfour\n", results).unwrap();
        assert_eq!((found.items, text.as_str()), (1, "\n\n\nfour\n"));
    }

    #[test]
    fn nothing_failed_and_answers_after_failures() {
        let results = "{\"key\":\"a\",\"error\":{}}\n{\"key\":\"a\",\"response\":{}}\n";
        let (found, text) = rest(false, "{\"key\":\"a\"}\n", results).unwrap();
        assert_eq!((found, text.as_str()), (Found::default(), ""));
    }

    #[test]
    fn what_is_no_results_file_is_told_with_its_line() {
        let told = rest(false, "{\"key\":\"a\"}\n", "{\"key\":\"a\",\"response\":{}}\nno\n");
        assert!(told.unwrap_err().ends_with("results:2: not a line of results"));
    }
}
