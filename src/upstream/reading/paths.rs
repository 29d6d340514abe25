//! Which members of an answer are read. All others are stepped over, however large they are.

/// What to do with a value.
#[derive(Debug)]
pub(super) enum Node {
    /// Copied as it is.
    Keep,
    /// Of an object, these members.
    Members(&'static [(&'static str, Node)]),
    /// Of a list, this of each element.
    Each(&'static Node),
}

/// The members of a document, of whichever provider and method.
pub(super) const DOCUMENT: &[(&str, Node)] = &[
    ("usageMetadata", Node::Keep),
    ("usage", Node::Keep),
    ("error", Node::Members(ERROR)),
    ("promptFeedback", Node::Members(&[("blockReason", Node::Keep)])),
    ("candidates", Node::Each(&Node::Members(CANDIDATE))),
    ("choices", Node::Each(&Node::Members(CHOICE))),
    ("embedding", Node::Members(&[])),
    ("embeddings", Node::Each(&Node::Members(&[]))),
    ("data", Node::Each(&Node::Members(&[]))),
    ("totalTokens", Node::Keep),
    ("object", Node::Keep),
    ("type", Node::Keep),
    ("event_type", Node::Keep),
    ("status", Node::Keep),
    // Of an event that is an error itself.
    ("code", Node::Keep),
    ("message", Node::Keep),
    ("id", Node::Keep),
    ("responseId", Node::Keep),
    ("model", Node::Keep),
    ("modelVersion", Node::Keep),
    ("interaction", Node::Members(INNER)),
    ("response", Node::Members(INNER)),
];

/// One by one, so that details of any size cost the details alone.
const ERROR: &[(&str, Node)] = &[
    ("code", Node::Keep),
    ("status", Node::Keep),
    ("message", Node::Keep),
    ("type", Node::Keep),
    ("param", Node::Keep),
    ("details", Node::Keep),
];

const CANDIDATE: &[(&str, Node)] = &[
    ("finishReason", Node::Keep),
    ("content", Node::Members(&[("parts", Node::Each(&Node::Members(PART)))])),
];

const PART: &[(&str, Node)] = &[("inlineData", Node::Members(&[("mimeType", Node::Keep)]))];

const CHOICE: &[(&str, Node)] = &[
    ("finish_reason", Node::Keep),
    ("message", Node::Members(&[("refusal", Node::Keep)])),
    ("delta", Node::Members(&[("refusal", Node::Keep)])),
];

/// Of the document that an event carries whole.
const INNER: &[(&str, Node)] = &[
    ("id", Node::Keep),
    ("model", Node::Keep),
    ("status", Node::Keep),
    ("usage", Node::Keep),
    ("error", Node::Members(ERROR)),
];
