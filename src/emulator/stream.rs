//! Answers in pieces: server-sent events, or one JSON array.

use std::time::Duration;

use serde_json::Value;

use super::fault::FaultKind;
use super::limits::StreamKnobs;
use super::refusal::Refusal;
use super::wire::Reply;

/// The content type of server-sent events.
pub(super) const EVENTS: &str = "text/event-stream";

/// Cuts a text into at most `most` pieces of about the same length, none of them empty.
pub(super) fn split(text: &str, most: usize) -> Vec<&str> {
    let letters = text.chars().count();
    let length = letters.div_ceil(most.max(1)).max(1);
    let mut starts: Vec<usize> = text.char_indices().step_by(length).map(|(at, _)| at).collect();
    starts.push(text.len());
    starts.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect()
}

/// The stream of `streamGenerateContent`.
pub(super) fn generated(
    bodies: &[Value],
    is_sse: bool,
    fault: Option<FaultKind>,
    knobs: StreamKnobs,
) -> Reply {
    let error = Refusal::unavailable().body();
    let bodies = broken(bodies, fault, &error);
    let mut pieces: Vec<String> = bodies
        .iter()
        .enumerate()
        .map(|(at, body)| match (is_sse, at) {
            (true, _) => format!("data: {body}\r\n\r\n"),
            (false, 0) => format!("[{body:#}\n"),
            (false, _) => format!(",\r\n{body:#}\n"),
        })
        .collect();
    let is_raw = fault == Some(FaultKind::StreamErrorRaw);
    if is_raw {
        pieces.push(format!("{error:#}\n"));
    }
    if !is_sse && !is_raw {
        pieces.push("]\n".to_owned());
    }
    let content_type = if is_sse { EVENTS } else { "application/json; charset=UTF-8" };
    Reply::stream(content_type, pieces, Duration::from_millis(knobs.gap_ms))
}

/// Events that end as OpenAI's do.
pub(super) fn events(bodies: &[Value], knobs: StreamKnobs) -> Reply {
    let told = bodies.iter().map(|body| format!("data: {body}\n\n"));
    let pieces = told.chain(std::iter::once("data: [DONE]\n\n".to_owned()));
    Reply::stream(EVENTS, pieces, Duration::from_millis(knobs.gap_ms))
}

/// The bodies that come when `fault` breaks a stream: half of them, then the error if it is told
/// as one of them.
pub(super) fn broken(bodies: &[Value], fault: Option<FaultKind>, error: &Value) -> Vec<Value> {
    let half = &bodies[..bodies.len().div_ceil(2)];
    match fault {
        Some(FaultKind::StreamError) => half.iter().chain([error]).cloned().collect(),
        Some(FaultKind::StreamErrorRaw) => half.to_vec(),
        _ => bodies.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_letters_and_nothing_is_lost() {
        for text in ["", "a", "häßlich", "abcdefgh"] {
            for most in 1..10 {
                let pieces = split(text, most);
                assert_eq!(pieces.concat(), text);
                assert!(pieces.len() <= most && !pieces.contains(&""), "{pieces:?}");
            }
        }
    }
}
