//! `embedContent` and `batchEmbedContents`: checked payloads and their answers.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::prompt::{check_content, count_tokens, read_body, texts_of};
use super::refusal::Refusal;
use super::schema::{BATCH_EMBED, EMBED, whole};

/// Most texts of one `batchEmbedContents`.
pub(super) const MAX_TEXTS: usize = 100;

/// Values of an embedding whose request does not say how many it wants: few, for short answers.
const FEW: u64 = 4;

/// Most values that a request may want.
pub(super) const MAX_VALUES: u64 = 3_072;

/// Well-formed texts to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Embed {
    texts: Vec<Text>,
    is_batch: bool,
    /// Whether vectors are told as base 64 of their bytes, as OpenAI's clients ask for.
    pub(super) is_base64: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Text {
    content: String,
    tokens: u64,
    values: u64,
}

impl Embed {
    /// Reads the body of `embedContent` for `model`.
    pub(super) fn of_one(body: &[u8], model: &str) -> Result<Self, Refusal> {
        let request = Value::Object(read_body(body, EMBED)?);
        Ok(Self {
            texts: vec![text_of(&request, model, "EmbedContentRequest")?],
            is_batch: false,
            is_base64: false,
        })
    }

    /// Reads the body of `batchEmbedContents` for `model`.
    pub(super) fn of_batch(body: &[u8], model: &str) -> Result<Self, Refusal> {
        let request = read_body(body, BATCH_EMBED)?;
        let requests = request.get("requests").and_then(Value::as_array);
        let requests = requests.filter(|requests| !requests.is_empty()).ok_or_else(|| {
            Refusal::bad_request(
                "* BatchEmbedContentsRequest.requests: requests is not specified\n",
            )
        })?;
        if requests.len() > MAX_TEXTS {
            return Err(Refusal::bad_request(format!(
                "* BatchEmbedContentsRequest.requests: at most {MAX_TEXTS} requests can be in one \
                 batch\n"
            )));
        }
        let text = |(at, request): (usize, &Value)| {
            text_of(request, model, &format!("BatchEmbedContentsRequest.requests[{at}]"))
        };
        let texts = requests.iter().enumerate().map(text).collect::<Result<_, _>>()?;
        Ok(Self { texts, is_batch: true, is_base64: false })
    }

    /// Texts of which each is to have so many values, or few.
    pub(super) fn of_texts(texts: Vec<(String, u64)>, values: Option<u64>) -> Self {
        let values = values.unwrap_or(FEW);
        let text = |(content, tokens)| Text { content, tokens, values };
        let texts = texts.into_iter().map(text).collect();
        Self { texts, is_batch: true, is_base64: false }
    }

    /// The values of each text, by seed and text alone.
    pub(super) fn vectors(&self, seed: u64) -> Vec<Vec<f64>> {
        self.texts.iter().map(|text| values(seed, text)).collect()
    }

    /// Requests that the call counts as: one for each text.
    pub(super) fn requests(&self) -> u64 {
        u64::try_from(self.texts.len()).unwrap_or(u64::MAX)
    }

    /// Input tokens of all texts.
    pub(super) fn input_tokens(&self) -> u64 {
        self.texts.iter().map(|text| text.tokens).sum()
    }

    /// SHA-256 of all texts, one after the other.
    pub(super) fn sha256(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for text in &self.texts {
            digest.update(&text.content);
        }
        digest.finalize().into()
    }

    /// The body, by seed and texts alone. Only the second generation tells what it counted.
    pub(super) fn body(&self, seed: u64, model: &str) -> Value {
        let mut embeddings: Vec<Value> =
            self.vectors(seed).into_iter().map(|values| json!({ "values": values })).collect();
        let mut body = if self.is_batch {
            json!({"embeddings": embeddings})
        } else {
            json!({"embedding": embeddings.remove(0)})
        };
        if model.starts_with("gemini-embedding-2") {
            let tokens = self.input_tokens();
            body["usageMetadata"] = json!({"promptTokenCount": tokens, "totalTokenCount": tokens});
        }
        body
    }
}

fn text_of(request: &Value, model: &str, path: &str) -> Result<Text, Refusal> {
    let named = request.get("model").and_then(Value::as_str);
    if named.is_some_and(|named| named.strip_prefix("models/").unwrap_or(named) != model) {
        let text = format!("* {path}.model: must be the model of the call, models/{model}\n");
        return Err(Refusal::bad_request(text));
    }
    let content = request.get("content").ok_or_else(|| {
        Refusal::bad_request(format!("* {path}.content: contents is not specified\n"))
    })?;
    check_content(content, 0)?;
    let wanted = match request.get("outputDimensionality").and_then(whole) {
        None => Some(FEW),
        Some(wanted) => u64::try_from(wanted).ok().filter(|n| (1..=MAX_VALUES).contains(n)),
    };
    let values = wanted.ok_or_else(|| {
        Refusal::bad_request(format!(
            "* {path}.output_dimensionality: must be in the range [1, {MAX_VALUES}]\n"
        ))
    })?;
    let title = request.get("title").and_then(Value::as_str).unwrap_or_default();
    let tokens = count_tokens(texts_of(content).chain([title]));
    Ok(Text { content: texts_of(content).collect(), tokens, values })
}

/// Numbers from -1 to 1.
fn values(seed: u64, text: &Text) -> Vec<f64> {
    let value = |at: u64| {
        let digest = Sha256::new().chain_update(seed.to_be_bytes()).chain_update(at.to_be_bytes());
        let digest = digest.chain_update(&text.content).finalize();
        f64::from(i16::from_be_bytes([digest[0], digest[1]])) / 32_768.0
    };
    (0..text.values).map(value).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn one(text: &str) -> Value {
        json!({"content": {"parts": [{"text": text}]}})
    }

    fn batch(requests: &[Value]) -> Result<Embed, String> {
        let body = json!({"requests": requests}).to_string();
        Embed::of_batch(body.as_bytes(), "m")
            .map_err(|refusal| refusal.body()["error"]["message"].as_str().unwrap().to_owned())
    }

    #[test]
    fn each_text_is_a_request_and_has_an_embedding() {
        let embed = batch(&[one("hello there"), one("hé"), one("hello there")]).unwrap();
        assert_eq!((embed.requests(), embed.input_tokens()), (3, 3 + 2 + 3));
        let body = embed.body(7, "gemini-embedding-001");
        let embeddings = body["embeddings"].as_array().unwrap();
        assert_eq!(embeddings.len(), 3);
        assert_eq!(embeddings[0]["values"].as_array().unwrap().len(), 4);
        assert_eq!(embeddings[0], embeddings[2]);
        assert_ne!(embeddings[0], embeddings[1]);
        assert_ne!(embed.body(8, "gemini-embedding-001"), body);
        assert_eq!(body.get("usageMetadata"), None, "as the older models");
        assert_eq!(embed.body(7, "gemini-embedding-2")["usageMetadata"]["promptTokenCount"], 8);
        let single = Embed::of_one(one("hé").to_string().as_bytes(), "m").unwrap();
        assert_eq!(single.body(7, "m")["embedding"], embeddings[1]);
    }

    #[test]
    fn the_size_of_an_embedding_can_be_chosen() {
        let mut request = one("x");
        request["output_dimensionality"] = json!(768);
        let body = batch(&[request.clone()]).unwrap().body(0, "m");
        assert_eq!(body["embeddings"][0]["values"].as_array().unwrap().len(), 768);
        request["output_dimensionality"] = json!(4_000);
        assert!(batch(&[request]).unwrap_err().contains("must be in the range [1, 3072]"));
    }

    #[test]
    fn payloads_without_meaning_are_refused() {
        let mut other = one("x");
        other["model"] = json!("models/n");
        for (requests, expected) in [
            (vec![], "requests is not specified"),
            (vec![json!({})], "requests[0].content: contents is not specified"),
            (vec![one("x"), json!({"x": 1})], "Unknown name \"x\" at 'requests[1]'"),
            (vec![other], "requests[0].model: must be the model of the call, models/m"),
            (vec![one("x"); 101], "at most 100 requests can be in one batch"),
        ] {
            let problem = batch(&requests).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
        let mut same = one("x");
        same["model"] = json!("models/m");
        assert!(batch(&[same]).is_ok());
    }
}
