//! Awkward answers, as their bytes came over the wire (`awkward/NAME.http`), each with what a client
//! must get of it and what the ledger must know (`awkward/NAME.json`).

mod passing;
mod reading;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// One answer.
struct Case {
    name: String,
    bytes: Vec<u8>,
    want: Want,
}

/// What must become of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Want {
    /// What is odd about it.
    about: String,
    /// What is asked for.
    path: String,
    /// The name of how it is to be read.
    speech: String,
    status: u16,
    /// Of the body as it comes, without what frames it.
    body_bytes: usize,
    body_sha256: String,
    /// Whether the body breaks off for the client.
    cut: bool,
    /// `complete`, `broken` or `failed`.
    ended: String,
    usage: Option<Counts>,
    /// Of a refusal.
    class: Option<String>,
    blocked: Option<String>,
    #[serde(default)]
    hop: bool,
    #[serde(default)]
    images: u64,
    events: Option<u64>,
    /// Usage is unknown because of the content encoding.
    #[serde(default)]
    unread: bool,
    /// Headers that must pass, in their order.
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// Whose API it is; Gemini's if it is not said.
    provider: Option<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Counts {
    prompt: u64,
    cached: u64,
    candidates: u64,
    thoughts: u64,
    total: u64,
}

/// All cases, by name.
fn cases() -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/awkward");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "http") {
            let want = fs::read(path.with_extension("json")).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let want: Want = serde_json::from_slice(&want)
                .unwrap_or_else(|error| panic!("{name}.json: {error}"));
            assert!(!want.about.is_empty(), "{name} says what it is about");
            files.insert(name, (fs::read(path).unwrap(), want));
        }
    }
    let case = |(name, (bytes, want))| Case { name, bytes, want };
    let mut cases: Vec<Case> = files.into_iter().map(case).collect();
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    cases.push(huge_event(&cases));
    cases
}

/// The event of a stream with an image, made so large that nobody wants it in a repository.
fn huge_event(cases: &[Case]) -> Case {
    const TIMES: usize = 4_000;
    let small = cases.iter().find(|case| case.name == "stream-image").expect("it is there");
    let message = wire::Message::answer(&small.bytes);
    let body = String::from_utf8(message.body).unwrap();
    let data = body.split('"').find(|text| text.starts_with("iVBOR")).expect("an image");
    let body = body.replace(data, &data.repeat(TIMES));
    let length = body.len();
    let want = Want {
        about: "An event of a few MiB.".to_owned(),
        body_bytes: length,
        body_sha256: reading::hex_sha256(body.as_bytes()),
        ..small.want.clone()
    };
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {length}");
    let bytes = (head + "\r\n\r\n" + &body).into_bytes();
    Case { name: "huge-event".to_owned(), bytes, want }
}

/// `bytes` in pieces of seeded lengths.
fn pieces(bytes: &[u8], seed: u64) -> Vec<&[u8]> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let longest = [1, 3, 17, 200, 16_384][random.usize(0..5)];
        let (piece, after) = rest.split_at(random.usize(1..=longest).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}
