//! How the records of one batch are read, with what is the same for all of them.

use super::{
    Answers, Dialect, Line, LineError, Method, Request, Template, Wire, answers_of, content,
    key_of, parse_line, request_body, results,
};

/// How the records of a batch are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Their language.
    pub dialect: Dialect,
    /// What becomes a prompt of a row or a line.
    pub template: Option<Template>,
    /// In which dialect they are answered, and so what a prompt is sent as.
    pub answers: Answers,
}

impl Form {
    /// Records without a template, of a batch that asks a Gemini project.
    #[must_use]
    pub fn of(dialect: Dialect) -> Self {
        Self { dialect, template: None, answers: answers_of(dialect, Wire::Gemini) }
    }

    /// [`parse_line`] of these records.
    ///
    /// # Errors
    /// Its own.
    pub fn parse_line(&self, number: u64, record: &[u8]) -> Result<Option<Line>, LineError> {
        parse_line(self.dialect, self.template.as_ref(), number, record)
    }

    /// [`key_of`] of these records.
    #[must_use]
    pub fn key_of(&self, number: u64, record: &[u8]) -> String {
        key_of(self.dialect, self.template.as_ref(), number, record)
    }

    /// [`request_body`] of these records, for `model`.
    ///
    /// # Errors
    /// Its own.
    pub fn request(&self, model: &str, record: &[u8]) -> Result<Request, LineError> {
        let wire = match self.answers {
            Answers::Gemini => Wire::Gemini,
            Answers::OpenAi => Wire::OpenAi,
        };
        request_body(self.dialect, self.template.as_ref(), wire, model, record)
    }

    /// A line of a `.jsonl` file, without its newline, that asks for what a record does, under the
    /// key that the record has.
    ///
    /// # Errors
    /// As of [`Form::request`].
    pub fn as_line(&self, model: &str, number: u64, record: &[u8]) -> Result<Vec<u8>, LineError> {
        let key = self.key_of(number, record);
        let Request { method, body } = self.request(model, record)?;
        let text = content(&body)?.ok_or(LineError::Blank)?;
        let (head, middle) = match (self.answers, method) {
            (Answers::Gemini, _) => (r#"{"key":"#, r#","request":"#),
            (Answers::OpenAi, Method::Embeddings) => {
                (r#"{"custom_id":"#, r#","method":"POST","url":"/v1/embeddings","body":"#)
            }
            (Answers::OpenAi, Method::Chat | Method::Generate | Method::Embed) => {
                (r#"{"custom_id":"#, r#","method":"POST","url":"/v1/chat/completions","body":"#)
            }
        };
        let mut line = Vec::with_capacity(body.len().saturating_add(128));
        line.extend_from_slice(head.as_bytes());
        results::push_string(&mut line, &key);
        line.extend_from_slice(middle.as_bytes());
        results::push_document(&mut line, text)?;
        line.push(b'}');
        Ok(line)
    }
}
