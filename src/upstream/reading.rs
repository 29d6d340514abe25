//! Watching an answer that passes to a client, for what the ledger must know of it.
//!
//! The bytes go to the client as they came; this reads a copy and keeps next to nothing of it: the
//! members that `paths` names, of one document at a time. So its memory is bounded (half a MiB, and
//! the window of a content encoding), it takes any bytes in any pieces, and it cannot fail: what it
//! cannot read it says.

use std::fmt;

use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use secrecy::{ExposeSecret, SecretString};

use super::client::{REFUSAL_BYTES_MAX, Received, refusal};
use super::{QuotaViolation, Refusal, Usage};
use decode::Decoder;
use lines::Lines;
use seen::Seen;

mod condense;
mod decode;
mod lines;
mod paths;
mod seen;

/// What a client asked for, as far as it says how the answer is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// Gemini's `generateContent`.
    GenerateContent,
    /// Gemini's `streamGenerateContent`, as events or as a list.
    StreamGenerateContent,
    /// Gemini's `countTokens`, which is free.
    CountTokens,
    /// Gemini's `embedContent`.
    EmbedContent,
    /// Gemini's `batchEmbedContents`.
    BatchEmbed,
    /// OpenAI's `chat/completions`, streamed or not.
    ChatCompletions,
    /// OpenAI's `embeddings`.
    Embeddings,
    /// OpenAI's `responses`, streamed or not.
    Responses,
    /// Gemini's `interactions`, streamed or not.
    Interactions,
    /// Anything else. Of a success nothing is read but its length.
    Other,
}

/// What is known of an answer when it is over.
#[derive(Debug)]
pub struct Read {
    /// How it ended.
    pub ended: Ended,
    /// The provider's own count, the last one of several; none when it was absent, unreadable or
    /// without input tokens. Of an answer that broke off it is what was told until then.
    pub usage: Option<Usage>,
    /// Why usage may be there and was not read: the content encoding.
    pub unread: Option<&'static str>,
    /// Why there is no proper text, as in [`super::Outcome::Answered`]; of an interaction `failed`
    /// or `cancelled`. An open list.
    pub blocked: Option<String>,
    /// Image parts (`inlineData` of type `image/*`) in all candidates.
    pub images: u64,
    /// The answer is continued by another request, which some clients send by themselves.
    pub hop: bool,
    /// What of an error document is known, whether it came with an error status or in a stream.
    pub refusal: Option<Refusal>,
    /// The model that answered, as the provider names it; at most 128 bytes.
    pub model: Option<String>,
    /// The provider's name of the answer; at most 128 bytes.
    pub id: Option<String>,
    /// The tier that served the call, from `x-gemini-service-tier`.
    pub service_tier: Option<String>,
    /// The provider's own name of the call, from `x-request-id`; at most 128 bytes.
    pub request_id: Option<String>,
    /// The provider's clock, from the `date` header: Unix seconds, UTC.
    pub date_header: Option<i64>,
    /// The limits that the headers tell.
    pub stated: Vec<QuotaViolation>,
    /// The body's length as it came.
    pub bytes: u64,
    /// Documents in the body: 1, or the events or elements of a stream.
    pub events: u64,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As one of its form does.
    Complete,
    /// It broke off, or is none.
    Broken {
        /// What is missing, for people; quotes nothing of it.
        reason: String,
    },
    /// With an error: [`Read::refusal`].
    Failed,
}

/// Watches one answer that passes.
pub struct Reading {
    speech: Speech,
    status: u16,
    received: Received,
    decoder: Decoder,
    scan: Scan,
    bytes: u64,
}

/// What becomes of the decoded bytes.
enum Scan {
    /// A refusal is a few KiB; its beginning is kept.
    Refused(Vec<u8>),
    Answered(Box<(Lines, Seen)>),
    Ignored,
}

impl Reading {
    /// `status` and `headers` are the answer's.
    #[must_use]
    pub fn new(speech: Speech, status: u16, headers: &HeaderMap) -> Self {
        let mut received = Received::default();
        received.read_headers(headers);
        let encodings: Vec<&str> = headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .map(|value| value.to_str().unwrap_or("unreadable"))
            .collect();
        let scan = match (status, speech) {
            (100..400, Speech::Other) => Scan::Ignored,
            (200..300, _) => Scan::Answered(Box::new((Lines::new(), Seen::default()))),
            (_, _) => Scan::Refused(Vec::new()),
        };
        let decoder = Decoder::new(&encodings.join(","));
        Self { speech, status, received, decoder, scan, bytes: 0 }
    }

    /// The next bytes of the body as they came, still encoded.
    pub fn pass(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let (speech, scan) = (self.speech, &mut self.scan);
        if !matches!(scan, Scan::Ignored) {
            self.decoder.pass(bytes, &mut |piece| scan.take(speech, piece));
        }
    }

    /// The end. `is_complete`: the body ended as HTTP says, and was not cut. `key` is the one that
    /// the request carried; refusals that quote it are kept without.
    #[must_use]
    pub fn end(mut self, is_complete: bool, key: &SecretString) -> Read {
        let (speech, scan) = (self.speech, &mut self.scan);
        if !matches!(scan, Scan::Ignored) {
            self.decoder.end(&mut |piece| scan.take(speech, piece));
        }
        let mut read = Read {
            ended: Ended::Complete,
            usage: None,
            unread: None,
            blocked: None,
            images: 0,
            hop: false,
            refusal: None,
            model: None,
            id: None,
            service_tier: self.received.tier.take(),
            request_id: self.received.request_id.take(),
            date_header: self.received.date,
            stated: std::mem::take(&mut self.received.stated),
            bytes: self.bytes,
            events: 0,
        };
        let broken = || Ended::Broken { reason: "the connection broke off".to_owned() };
        match self.scan {
            Scan::Refused(body) => {
                self.received.body = body;
                read.refusal = Some(refusal(self.status, &self.received, key.expose_secret()));
                read.ended = Ended::Failed;
            }
            Scan::Ignored if !is_complete => read.ended = broken(),
            Scan::Ignored => {}
            Scan::Answered(scan) => {
                let (mut lines, mut seen) = *scan;
                let shape = lines.end();
                let fault = self.decoder.fault();
                read.unread = fault.map(decode::Fault::reason);
                read.blocked = seen.blocked();
                read.events = shape.events + shape.bare;
                read.usage = seen.usage.take().filter(|usage| usage.prompt > 0);
                (read.images, read.hop) = (seen.images, seen.hop);
                (read.model, read.id) = (seen.model.take(), seen.id.take());
                read.ended = match (seen.error.take(), fault, seen.lack(speech, &shape)) {
                    (Some((status, document)), ..) => {
                        self.received.body = document;
                        let key = key.expose_secret();
                        read.refusal = Some(refusal(status, &self.received, key));
                        Ended::Failed
                    }
                    (None, ..) if !is_complete => broken(),
                    // What cannot be read is not blamed: HTTP says that it is whole.
                    (None, Some(decode::Fault::Unknown | decode::Fault::TooLong), _)
                    | (None, _, None) => Ended::Complete,
                    (None, Some(fault @ decode::Fault::Corrupt), Some(_)) => {
                        Ended::Broken { reason: fault.reason().to_owned() }
                    }
                    (None, None, Some(reason)) => Ended::Broken { reason },
                };
            }
        }
        read
    }
}

/// Shows lengths in place of bodies.
impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("speech", &self.speech)
            .field("status", &self.status)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Scan {
    fn take(&mut self, speech: Speech, bytes: &[u8]) {
        match self {
            Self::Refused(body) => {
                let room = REFUSAL_BYTES_MAX.saturating_sub(body.len()).min(bytes.len());
                body.extend_from_slice(&bytes[..room]);
            }
            Self::Answered(scan) => {
                let (lines, seen) = &mut **scan;
                lines.take(bytes, &mut |is_event, copy| seen.document(speech, is_event, copy));
            }
            Self::Ignored => {}
        }
    }
}

#[cfg(test)]
mod tests;
