//! OpenAI's methods: as OpenAI serves them, and as Gemini does for OpenAI's clients.

mod answer;
mod request;
mod stream;
#[cfg(test)]
mod tests;

use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::answer::Answer;
use super::call::Call;
use super::embed::Embed;
use super::engine::{Ask, Planned};
use super::fault::FaultKind;
use super::limits::{Details, Model, QuotaValue};
use super::quota::{Method, QuotaKind, Violation, Weight};
use super::refusal::{Refusal, Wording, Words, prose_duration};
use super::server::{self, Shared, decide};
use super::stream::{broken, events};
use super::wire::Reply;
use request::Chat;
use serde_json::json;

/// A call of an OpenAI method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenAiCall {
    pub(super) form: Form,
    pub(super) method: OpenAiMethod,
}

/// Who serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// OpenAI.
    Plain,
    /// Gemini, whose errors are its own.
    Gemini,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenAiMethod {
    /// `chat/completions`.
    Chat,
    /// `embeddings`.
    Embeddings,
}

impl OpenAiCall {
    /// The name in the log.
    pub(super) fn name(self) -> &'static str {
        match self.method {
            OpenAiMethod::Chat => "chatCompletions",
            OpenAiMethod::Embeddings => "embeddings",
        }
    }
}

/// What a well-formed call wants.
#[derive(Debug)]
pub(super) enum Work {
    Chat { form: Form, model: String, chat: Chat },
    Embeddings { form: Form, model: String, embed: Embed },
}

/// Checks a call in this order: credential, JSON, model, payload. What became known of it goes to
/// `ask`.
pub(super) fn prepare(
    shared: &Shared,
    OpenAiCall { form, method }: OpenAiCall,
    parts: &Parts,
    body: &[u8],
    ask: &mut Ask,
) -> Result<server::Work, (Refusal, Planned)> {
    let uncounted = |refusal: Refusal| {
        let refusal = form.adapted(refusal);
        let planned = Planned::Uncounted(refusal.code);
        (refusal, planned)
    };
    let failure = |refusal: Refusal| {
        let refusal = form.adapted(refusal);
        let planned = Planned::Failure(refusal.code);
        (refusal, planned)
    };
    let caller = {
        let mut engine = shared.engine();
        ask.arrival = engine.arrive();
        let key = form.bearer(&parts.headers).map_err(uncounted)?;
        engine.identify(&key).map_err(uncounted)?
    };
    ask.caller = Some(caller.clone());
    // The lock is not held while a large payload is read.
    let fields = request::fields(body).map_err(uncounted)?;
    let model = request::model(&fields, form).map_err(uncounted)?;
    ask.model = shared.engine().find_model(&caller, &model);
    if ask.model.is_none() {
        return Err(uncounted(form.no_model(&model)));
    }
    let work = match method {
        OpenAiMethod::Chat => {
            let chat = Chat::read(&fields, form).map_err(failure)?;
            ask.prompt_sha256 = Some(chat.prompt.sha256);
            let input_tokens = chat.prompt.input_tokens();
            ask.weight = Weight { requests: 1, input_tokens, images: 0 };
            Work::Chat { form, model, chat }
        }
        OpenAiMethod::Embeddings => {
            let embed = request::embeddings(&fields, form).map_err(failure)?;
            ask.prompt_sha256 = Some(embed.sha256());
            let requests = match form {
                Form::Plain => 1,
                Form::Gemini => embed.requests(),
            };
            ask.weight = Weight { requests, input_tokens: embed.input_tokens(), images: 0 };
            Work::Embeddings { form, model, embed }
        }
    };
    ask.fault = shared.engine().take_fault(ask.arrival, ask.model.as_deref());
    Ok(server::Work::OpenAi(Box::new(work)))
}

/// Answers a call that no fault replaces.
pub(super) async fn perform(shared: &Shared, call: &Call, work: &Work, ask: &Ask) -> Reply {
    let answered = match work {
        Work::Chat { model, chat, .. } => Answer::new(shared.seed, model, &chat.prompt, None),
        Work::Embeddings { .. } => Answer::default(),
    };
    let planned = Planned::Answer { output_tokens: answered.output_tokens(), images: 0 };
    let now = match decide(shared, call, ask, planned).await {
        Ok(now) => now,
        Err(reply) => return reply,
    };
    let (form, mut body) = match work {
        Work::Chat { form, model, chat } => {
            let made = answer::Made { seed: shared.seed, arrival: ask.arrival, at: now.wall };
            (*form, answer::completion(*form, &made, model, chat, &answered))
        }
        Work::Embeddings { form, model, embed } => {
            (*form, answer::embeddings(*form, shared.seed, model, embed))
        }
    };
    if ask.fault == Some(FaultKind::NoUsage)
        && let Some(fields) = body.as_object_mut()
    {
        fields.remove("usage");
    }
    if let Work::Chat { chat, .. } = work
        && chat.is_stream
    {
        let chunks = stream::chunks(form, &body, chat.tells_usage, shared.stream.pieces);
        let error = form.adapted_fault().body();
        let chunks = broken(&chunks, ask.fault, &error);
        let is_google = form == Form::Gemini;
        return Reply { is_google, ..events(&chunks, shared.stream) };
    }
    match form {
        Form::Plain => Reply::openai(200, &body),
        Form::Gemini => Reply::json(200, &body),
    }
}

/// The list of models.
pub(super) fn models(
    shared: &Shared,
    form: Form,
    parts: &Parts,
    ask: &mut Ask,
) -> Result<server::Work, (Refusal, Planned)> {
    let mut engine = shared.engine();
    ask.arrival = engine.arrive();
    let caller = form.bearer(&parts.headers).and_then(|key| engine.identify(&key));
    let caller = caller.map_err(|refusal| {
        let refusal = form.adapted(refusal);
        let planned = Planned::Uncounted(refusal.code);
        (refusal, planned)
    })?;
    ask.caller = Some(caller.clone());
    let prefix = if form == Form::Gemini { "models/" } else { "" };
    let names = engine.model_names(&caller);
    let listed: Vec<_> = names
        .iter()
        .map(|name| json!({"id": format!("{prefix}{name}"), "object": "model", "owned_by": "x"}))
        .collect();
    Ok(server::Work::Body(json!({"object": "list", "data": listed})))
}

impl Form {
    /// The one credential of a request.
    fn bearer(self, headers: &HeaderMap) -> Result<String, Refusal> {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let token = given
            .next()
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .map(str::trim)
            .filter(|token| !token.is_empty());
        let has_more = given.next().is_some() || headers.contains_key("x-goog-api-key");
        match (token, self) {
            (Some(_), Self::Gemini) if has_more => Err(Refusal::several_keys()),
            (Some(token), _) => Ok(token.to_owned()),
            (None, Self::Gemini) => {
                Err(Refusal::bad_request("Missing or invalid Authorization header."))
            }
            (None, Self::Plain) => Err(Refusal::openai(
                401,
                "You didn't provide an API key. You need to provide your API key in an \
                 Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
                Words { kind: "invalid_request_error", ..Words::default() },
            )),
        }
    }

    fn no_model(self, model: &str) -> Refusal {
        match self {
            Self::Gemini => {
                Refusal::no_model(&format!("models/{model}"), "v1main", "generateContent")
            }
            Self::Plain => Refusal::openai(
                404,
                format!("The model `{model}` does not exist or you do not have access to it."),
                Words {
                    kind: "invalid_request_error",
                    code: Some("model_not_found"),
                    ..Words::default()
                },
            ),
        }
    }

    /// The error that breaks a stream.
    fn adapted_fault(self) -> Refusal {
        match self {
            Self::Gemini => Refusal::unavailable().listed(),
            Self::Plain => Refusal::openai(
                500,
                "The server had an error while processing your request.",
                Words { kind: "server_error", ..Words::default() },
            ),
        }
    }

    /// A refusal as it is told here. Gemini's own words of a key become OpenAI's.
    fn adapted(self, refusal: Refusal) -> Refusal {
        match self {
            Self::Gemini => refusal.listed(),
            Self::Plain if refusal.words().is_some() => refusal,
            Self::Plain => Refusal::openai(
                401,
                "Incorrect API key provided: ****. You can find your API key at \
                 https://platform.openai.com/account/api-keys.",
                Words {
                    kind: "invalid_request_error",
                    code: Some("invalid_api_key"),
                    ..Words::default()
                },
            ),
        }
    }

    /// The error that a fault answers instead of the work.
    pub(super) fn fault(self, fault: FaultKind, model: &Model, method: Method) -> Option<Refusal> {
        match (self, fault) {
            (_, FaultKind::NotFound) => Some(self.adapted(self.no_model(&model.name))),
            (Self::Gemini, fault) => Some(Refusal::of_fault(fault, model, method)?.listed()),
            (Self::Plain, FaultKind::Unavailable) => Some(server_error(503, OVERLOADED)),
            (Self::Plain, FaultKind::Internal) => Some(server_error(
                500,
                "The server had an error while processing your request. Sorry about that!",
            )),
            (Self::Plain, FaultKind::BareQuota) => Some(overloaded()),
            (Self::Plain, FaultKind::DayQuota) => {
                let limit = model.rpd.unwrap_or(200);
                let violation =
                    Violation { kind: QuotaKind::RequestsPerDay, limit, wait_ms: 432_000 };
                let weight = Weight { requests: 1, ..Weight::default() };
                Some(over_quota(&Wording::of(model, method), &[violation], weight))
            }
            (Self::Plain, FaultKind::Billing) => Some(Refusal::openai(
                429,
                "You exceeded your current quota, please check your plan and billing details. For \
                 more information on this error, read the docs: \
                 https://platform.openai.com/docs/guides/error-codes/api-errors.",
                Words {
                    kind: "insufficient_quota",
                    code: Some("insufficient_quota"),
                    ..Words::default()
                },
            )),
            (
                Self::Plain,
                FaultKind::Cut
                | FaultKind::Truncate
                | FaultKind::Reset
                | FaultKind::Hang { .. }
                | FaultKind::NotJson
                | FaultKind::NoUsage
                | FaultKind::StreamError
                | FaultKind::StreamErrorRaw
                | FaultKind::Continuation,
            ) => None,
        }
    }
}

const OVERLOADED: &str = "The engine is currently overloaded, please try again later";

fn server_error(code: u16, message: &str) -> Refusal {
    Refusal::openai(code, message, Words { kind: "server_error", ..Words::default() })
}

/// A 429 that says nothing about any quota.
fn overloaded() -> Refusal {
    let words = Words { kind: "engine_overloaded_error", ..Words::default() };
    Refusal::openai(429, OVERLOADED, words)
}

/// OpenAI's 429 of the quota with the longest wait. The books are told as full.
pub(super) fn over_quota(wording: &Wording, violations: &[Violation], weight: Weight) -> Refusal {
    let longest = violations.iter().max_by_key(|violation| violation.wait_ms);
    let (Some(violation), true) = (longest, wording.details != Details::None) else {
        return overloaded();
    };
    let (unit, requested, kind) = match violation.kind {
        QuotaKind::RequestsPerMinute => ("requests per min (RPM)", weight.requests, "requests"),
        QuotaKind::RequestsPerDay => ("requests per day (RPD)", weight.requests, "requests"),
        QuotaKind::InputTokensPerMinute => ("tokens per min (TPM)", weight.input_tokens, "tokens"),
        QuotaKind::InputTokensPerDay => ("tokens per day (TPD)", weight.input_tokens, "tokens"),
        QuotaKind::ImagesPerMinute => ("images per min (IPM)", weight.images, "images"),
    };
    let model = format!("{} in organization org-emulator", wording.model);
    let limit = wording.limit(violation);
    let code = Some("rate_limit_exceeded");
    let visit = "Visit https://platform.openai.com/account/rate-limits to learn more.";
    if requested > violation.limit && violation.limit > 0 {
        let message = format!(
            "Request too large for {model} on {unit}: Limit {limit}, Requested {requested}. The \
             input or output tokens must be reduced in order to run successfully. {visit}"
        );
        return Refusal::openai(429, message, Words { kind, code, ..Words::default() });
    }
    let told = wording.day_wait_ns.filter(|_| violation.kind.is_daily());
    let wait_ms = told.map_or(violation.wait_ms, |ns| ns / 1_000_000);
    let limit = match wording.value {
        QuotaValue::Omit => String::new(),
        QuotaValue::True | QuotaValue::Lie(_) => {
            format!(": Limit {limit}, Used {limit}, Requested {requested}")
        }
    };
    let wait = prose_duration(wait_ms * 1_000_000);
    let message = format!(
        "Rate limit reached for {model} on {unit}{limit}. Please try again in {wait}. {visit}"
    );
    Refusal::openai(429, message, Words { kind, code, param: None, wait_ms: Some(wait_ms) })
}
