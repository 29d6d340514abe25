//! The same bytes say the same, however they are cut.

use super::streams::events;
use super::*;

/// `bytes` cut at these places.
pub(in super::super) fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

const SPEECHES: [Speech; 10] = [
    Speech::GenerateContent,
    Speech::StreamGenerateContent,
    Speech::CountTokens,
    Speech::EmbedContent,
    Speech::BatchEmbed,
    Speech::ChatCompletions,
    Speech::Embeddings,
    Speech::Responses,
    Speech::Interactions,
    Speech::Other,
];

/// Bytes that mean something, in any order.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let words: [&[u8]; 28] = [
        b"data:",
        b"data: ",
        b"\r\n",
        b"\n",
        b"\r",
        b"\n\n",
        b": x",
        b"event: error\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\\",
        b"\"usageMetadata\":",
        b"\"usage\":",
        b"{\"promptTokenCount\":1}",
        b"{\"prompt_tokens\":2}",
        b"\"error\":{\"code\":503}",
        b"\"candidates\":[{\"finishReason\":\"STOP\"}]",
        b"[DONE]",
        b"null",
        b"12",
        b"\xef\xbb\xbf",
        b" ",
        b"\"status\":\"completed\"",
    ];
    let piece = prop_oneof![
        6 => prop::sample::select(words.to_vec()).prop_map(<[u8]>::to_vec),
        1 => any::<Vec<u8>>(),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// A proper stream with something done to it.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let part = ANSWER.replace('\n', "");
    let streams =
        [events(&[&part, &part], "\r\n"), format!("[{ANSWER},\r\n{ANSWER}]"), ANSWER.to_owned()];
    let edit = (any::<prop::sample::Index>(), any::<u8>(), 0..3_u8);
    (prop::sample::select(streams.to_vec()), prop::collection::vec(edit, 0..4)).prop_map(
        |(stream, edits)| {
            let mut bytes = stream.into_bytes();
            for (at, byte, kind) in edits {
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            bytes
        },
    )
}

fn told(speech: Speech, status: u16, encoding: &'static str, pieces: &[&[u8]]) -> String {
    let headers = &[("content-encoding", encoding)];
    format!("{:?}", read_with(speech, status, headers, pieces, true))
}

proptest! {
    #[test]
    fn any_cut_says_the_same(
        body in prop_oneof![bytes(), damaged()],
        speech in prop::sample::select(SPEECHES.to_vec()),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        status in prop::sample::select(vec![200_u16, 429]),
        is_zipped: bool,
    ) {
        let (body, encoding) = if is_zipped { (gzip(&body), "gzip") } else { (body, "identity") };
        let whole = told(speech, status, encoding, &[&body]);
        prop_assert_eq!(&told(speech, status, encoding, &cut(&body, &cuts)), &whole);
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        prop_assert_eq!(&told(speech, status, encoding, &bytes), &whole);
    }

    #[test]
    fn any_bytes_of_any_encoding_are_taken(
        body: Vec<u8>,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        encoding in prop::sample::select(vec!["gzip", "deflate", "zstd", "br", "identity"]),
        at in any::<prop::sample::Index>(),
    ) {
        // Several events, each with its usage.
        let part = ANSWER.replace('\n', "");
        let parts: Vec<String> =
            (0..200_u32).map(|id| part.replace("Hello", &format!("{:x}", id * id))).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let stream = events(&parts, "\n");
        let mut zipped = if encoding == "zstd" {
            zstd::encode_all(stream.as_bytes(), 1).expect("a slice can be read")
        } else {
            gzip(stream.as_bytes())
        };
        let at = at.index(zipped.len());
        zipped[at] ^= 0x55;
        for body in [&body, &zipped] {
            let whole = told(Speech::StreamGenerateContent, 200, encoding, &[body]);
            let pieces = cut(body, &cuts);
            prop_assert_eq!(told(Speech::StreamGenerateContent, 200, encoding, &pieces), whole);
        }
    }
}
