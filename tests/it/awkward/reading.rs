//! The reader of answers in passing, on the corpus alone.

use sha2::{Digest, Sha256};
use tidegate::upstream::Usage;
use tidegate::upstream::reading::{Ended, Read, Reading, Speech};

use super::wire::Message;
use super::{Case, Counts, cases, pieces};

pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn speech(name: &str) -> Speech {
    match name {
        "generateContent" => Speech::GenerateContent,
        "streamGenerateContent" => Speech::StreamGenerateContent,
        "countTokens" => Speech::CountTokens,
        "embedContent" => Speech::EmbedContent,
        "batchEmbed" => Speech::BatchEmbed,
        "chat" => Speech::ChatCompletions,
        "embeddings" => Speech::Embeddings,
        "responses" => Speech::Responses,
        "interactions" => Speech::Interactions,
        "other" => Speech::Other,
        unknown => panic!("no speech {unknown}"),
    }
}

fn read(case: &Case, message: &Message, pieces: &[&[u8]]) -> Read {
    let mut headers = reqwest::header::HeaderMap::new();
    for (name, value) in &message.headers {
        let name: reqwest::header::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    let mut reading = Reading::new(speech(&case.want.speech), message.status(), &headers);
    for piece in pieces {
        reading.pass(piece);
    }
    reading.end(message.is_complete, &"a-key-for-tests".into())
}

fn counts(usage: &Usage) -> Counts {
    let Usage { prompt, cached, candidates, thoughts, total, .. } = *usage;
    Counts { prompt, cached, candidates, thoughts, total }
}

/// What is wrong with what was read.
fn wrongs(case: &Case, read: &Read) -> Vec<String> {
    let want = &case.want;
    let ended = match &read.ended {
        Ended::Complete => "complete",
        Ended::Broken { .. } => "broken",
        Ended::Failed => "failed",
    };
    let class = read.refusal.as_ref().map(|refusal| format!("{:?}", refusal.class));
    [
        (ended != want.ended, format!("ended {:?}", read.ended)),
        (read.usage.as_ref().map(counts) != want.usage, format!("usage {:?}", read.usage)),
        (class != want.class, format!("class {class:?}")),
        (read.blocked != want.blocked, format!("blocked {:?}", read.blocked)),
        (read.hop != want.hop, format!("hop {}", read.hop)),
        (read.images != want.images, format!("images {}", read.images)),
        (want.events.is_some_and(|events| events != read.events), format!("{}", read.events)),
        (read.unread.is_some() && !want.unread && want.ended == "complete", "unread".to_owned()),
        (want.unread && read.unread.is_none(), "read".to_owned()),
        (read.bytes != u64::try_from(want.body_bytes).unwrap(), format!("{} bytes", read.bytes)),
    ]
    .into_iter()
    .filter_map(|(is_wrong, found)| is_wrong.then_some(found))
    .collect()
}

#[test]
fn each_answer_says_what_the_ledger_must_know() {
    let mut wrong = Vec::new();
    for case in cases() {
        let message = Message::answer(&case.bytes);
        assert_eq!(message.status(), case.want.status, "{}", case.name);
        assert_eq!(hex_sha256(&message.body), case.want.body_sha256, "{}", case.name);
        assert_eq!(message.is_complete, !case.want.cut, "{}", case.name);
        let whole = read(&case, &message, &[&message.body]);
        let found = wrongs(&case, &whole);
        if !found.is_empty() {
            wrong.push(format!("{}: {}", case.name, found.join("; ")));
        }
        for seed in 0..8 {
            let other = read(&case, &message, &pieces(&message.body, seed));
            assert_eq!(format!("{other:?}"), format!("{whole:?}"), "{} by {seed}", case.name);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
