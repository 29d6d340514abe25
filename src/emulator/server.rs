//! The HTTP shell: reads requests, lets time pass, asks the engine, writes answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::answer::{self, Answer};
use super::call::{Call, check_query, credential};
use super::clock::{Clock, Now};
use super::draw::{Purpose, draw, draw_up_to};
use super::embed::Embed;
use super::engine::{Ask, Engine, Planned};
use super::fault::{FaultKind, parse_order};
use super::files::Files;
use super::interactions::Interaction;
use super::limits::{Model, StreamKnobs};
use super::openai::{self, Form, OpenAiCall, OpenAiMethod};
use super::prompt::{MAX_BODY_BYTES, Prompt};
use super::quota::{Method, Violation, Weight};
use super::refusal::{Refusal, Wording};
use super::stats::Stats;
use super::stream;
use super::wire::{Delivery, KillSwitch, Reply};

/// Most bytes of a request that are read before the answer that it is too large.
const MAX_READ_BYTES: usize = 4 * MAX_BODY_BYTES;

/// Most lines of one answer of `/__emulator/log`.
const MAX_LOG_LINES: usize = 100_000;

/// What all calls of one emulator share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Mutex<Engine>,
    pub(super) clock: Clock,
    pub(super) seed: u64,
    pub(super) stream: StreamKnobs,
    pub(super) files: Files,
    /// Shortest and longest latency of models that have none of their own, in milliseconds.
    pub(super) latency_ms: [u64; 2],
    pub(super) in_flight: AtomicUsize,
    pub(super) max_in_flight: AtomicUsize,
    /// Ends every wait when the emulator stops.
    pub(super) kill_all: CancellationToken,
}

impl Shared {
    /// A panic elsewhere must not silence the judge: what was counted before it stays right.
    pub(super) fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> Stats {
        let max_in_flight = self.max_in_flight.load(Ordering::Relaxed);
        let mut engine = self.engine();
        let now = self.clock.now();
        Stats { max_in_flight, ..engine.stats_at(now) }
    }

    /// Decides a call at this very instant: the clock is read under the lock, so that the order of
    /// decisions is the order of their instants.
    fn settle(&self, ask: &Ask, planned: Planned) -> (Now, Result<(), Vec<Violation>>) {
        let mut engine = self.engine();
        let now = self.clock.now();
        let decision = engine.settle(now, ask, planned);
        (now, decision)
    }

    /// Corrects a call that was counted at `counted` to the images that its answer holds.
    fn amend_images(&self, counted: Now, ask: &Ask, came: u64) {
        let mut engine = self.engine();
        let now = self.clock.now();
        engine.amend_images(now, counted.at_ms, ask, came);
    }

    pub(super) async fn pause(&self, ms: u64) {
        if ms > 0 {
            let sleep = tokio::time::sleep(Duration::from_millis(ms));
            let _ = self.kill_all.run_until_cancelled(sleep).await;
        }
    }
}

/// The routes of the provider and those under `/__emulator`.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/__emulator/stats", get(show_stats))
        .route("/__emulator/log", get(show_log))
        .route("/__emulator/faults", post(order_faults))
        .route("/__emulator/revoke", post(revoke_key))
        .fallback(provider)
        .with_state(shared)
}

async fn show_stats(State(shared): State<Arc<Shared>>) -> Response {
    axum::Json(shared.stats()).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    #[serde(default)]
    after: u64,
}

async fn show_log(
    State(shared): State<Arc<Shared>>,
    Query(LogQuery { after }): Query<LogQuery>,
) -> Response {
    let entries = shared.engine().log_after(after, MAX_LOG_LINES);
    let mut lines = Vec::new();
    for entry in entries {
        if serde_json::to_writer(&mut lines, &entry).is_err() {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        lines.push(b'\n');
    }
    ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
}

async fn order_faults(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let problem = match parse_order(&body) {
        Ok(faults) if shared.engine().faults.order(&faults) => {
            return StatusCode::NO_CONTENT.into_response();
        }
        Ok(_) => "too many faults are waiting".to_owned(),
        Err(problem) => problem,
    };
    (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revocation {
    project: String,
    /// Its place in the limits file, from 1.
    key: usize,
}

async fn revoke_key(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let problem = match serde_json::from_slice::<Revocation>(&body) {
        Ok(order) if shared.engine().revoke(&order.project, order.key) => {
            return StatusCode::NO_CONTENT.into_response();
        }
        Ok(_) => "no such project or key".to_owned(),
        Err(error) => error.to_string(),
    };
    (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response()
}

async fn provider(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(kill): ConnectInfo<KillSwitch>,
    request: Request,
) -> Response {
    let in_flight = InFlight::enter(shared.clone());
    let (parts, body) = request.into_parts();
    let Some(body) = read_body(body).await else {
        kill.kill();
        return StatusCode::BAD_REQUEST.into_response();
    };
    // A task of its own: what the provider received it counts, whether or not the client waits.
    let task = tokio::spawn(async move {
        let response = respond(&shared, &kill, &parts, &body).await;
        drop(in_flight);
        response
    });
    task.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// The body, up to a byte more than is allowed; `None` when the client broke off or sends far more.
async fn read_body(body: Body) -> Option<Vec<u8>> {
    let mut stream = body.into_data_stream();
    let mut kept = Vec::new();
    let mut read_bytes = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.ok()?;
        read_bytes += chunk.len();
        if read_bytes > MAX_READ_BYTES {
            return None;
        }
        let room = (MAX_BODY_BYTES + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..room.min(chunk.len())]);
    }
    Some(kept)
}

struct InFlight(Arc<Shared>);

impl InFlight {
    fn enter(shared: Arc<Shared>) -> Self {
        let others = shared.in_flight.fetch_add(1, Ordering::Relaxed);
        shared.max_in_flight.fetch_max(others + 1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers one call and delivers the answer as well as its fault allows.
async fn respond(shared: &Shared, kill: &KillSwitch, parts: &Parts, body: &[u8]) -> Response {
    if let Some(reply) = super::files::serve(shared, parts, body) {
        return reply.deliver(accepts_gzip(parts), Delivery::Whole, 0, shared.clock.now().wall);
    }
    let call = Call::parse(&parts.method, parts.uri.path());
    let mut ask = Ask { at_ms: shared.clock.now().at_ms, call: call.name(), ..Ask::default() };
    let mut reply = match prepare(shared, &call, parts, body, &mut ask) {
        Ok(work) => perform(shared, &call, &work, &mut ask).await,
        Err((refusal, planned)) => {
            let _ = shared.settle(&ask, planned);
            Reply::refusal(&refusal)
        }
    };
    let mut delivery = Delivery::Whole;
    match ask.fault {
        Some(FaultKind::Cut) => delivery = Delivery::Cut,
        Some(FaultKind::Truncate) => delivery = Delivery::Truncated,
        Some(FaultKind::Reset) => kill.kill(),
        Some(FaultKind::Hang { ms }) => shared.pause(ms).await,
        Some(FaultKind::NotJson) if reply.status == 200 => {
            reply.content_type = "text/html; charset=UTF-8";
            reply.pieces = vec!["<!DOCTYPE html><title>Sign in</title>\n".into()];
        }
        _ => {}
    }
    if call.form() == Some(Form::Plain) {
        let id = draw(shared.seed, Purpose::RequestId, ask.arrival);
        reply.headers.push(("x-request-id", format!("req_{id:032x}")));
    }
    let gzip = accepts_gzip(parts) && (!reply.is_stream() || shared.stream.gzip);
    let now = shared.clock.now();
    reply.deliver(gzip, delivery, now.at_ms.saturating_sub(ask.at_ms), now.wall)
}

fn accepts_gzip(parts: &Parts) -> bool {
    let accepted = parts.headers.get_all(header::ACCEPT_ENCODING).iter();
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    let mut codings = accepted.flat_map(|value| value.split(','));
    codings.any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = quality.trim().trim_start_matches("q=");
        name.trim().eq_ignore_ascii_case("gzip") && !["0", "0.0", "0.000"].contains(&quality)
    })
}

/// What a well-formed call wants.
#[derive(Debug)]
pub(super) enum Work {
    Generate {
        prompt: Box<Prompt>,
        /// Whether a stream is to be of events instead of one JSON array.
        is_sse: bool,
    },
    Embed(Embed),
    Interact(Interaction),
    OpenAi(Box<openai::Work>),
    Body(Value),
}

/// Checks a call in the provider's order: credentials, model, payload. What became known of it
/// goes to `ask`.
fn prepare(
    shared: &Shared,
    call: &Call,
    parts: &Parts,
    body: &[u8],
    ask: &mut Ask,
) -> Result<Work, (Refusal, Planned)> {
    let uncounted = |refusal: Refusal| {
        let planned = Planned::Uncounted(refusal.code);
        (refusal, planned)
    };
    let failure = |refusal: Refusal| {
        let planned = Planned::Failure(refusal.code);
        (refusal, planned)
    };
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map_or_else(|_| Vec::new(), |Query(query)| query);
    if *call == Call::Unknown {
        return Err(uncounted(call.not_found()));
    }
    if let Call::OpenAi(call) = call {
        return openai::prepare(shared, *call, parts, body, ask);
    }
    let is_openai = *call == Call::ListModels && parts.headers.contains_key(header::AUTHORIZATION);
    if *call == Call::CompatibleModels || is_openai {
        return openai::models(shared, call.form().unwrap_or(Form::Plain), parts, ask);
    }
    let mut engine = shared.engine();
    ask.arrival = engine.arrive();
    let key = credential(&parts.headers, &query).map_err(uncounted)?;
    let caller = engine.identify(&key).map_err(uncounted)?;
    ask.caller = Some(caller.clone());
    if let Some(name) = call.model() {
        ask.model = engine.find_model(&caller, name);
        if ask.model.is_none() {
            return Err(uncounted(call.not_found()));
        }
    }
    let work = match call {
        Call::Generate { .. } => {
            // The lock is not held while a large payload is read.
            drop(engine);
            let prompt = check_query(&query).and_then(|()| Prompt::of_generate(body));
            let prompt = prompt.map_err(failure)?;
            let is_sse = query
                .iter()
                .any(|(name, value)| ["alt", "$alt"].contains(&name.as_str()) && value == "sse");
            engine = shared.engine();
            ask.prompt_sha256 = Some(prompt.sha256);
            ask.weight = Weight {
                requests: 1,
                input_tokens: prompt.input_tokens(),
                images: prompt.images(),
            };
            Work::Generate { prompt: Box::new(prompt), is_sse }
        }
        Call::Embed { model, is_batch, .. } => {
            drop(engine);
            let read = if *is_batch { Embed::of_batch } else { Embed::of_one };
            let embed = check_query(&query).and_then(|()| read(body, model)).map_err(failure)?;
            engine = shared.engine();
            ask.prompt_sha256 = Some(embed.sha256());
            ask.weight = Weight {
                requests: embed.requests(),
                input_tokens: embed.input_tokens(),
                images: 0,
            };
            Work::Embed(embed)
        }
        Call::CountTokens { .. } => {
            check_query(&query).map_err(uncounted)?;
            let prompt = Prompt::of_count(body).map_err(uncounted)?;
            Work::Body(answer::token_count(&prompt))
        }
        Call::GetModel { model, .. } => {
            check_query(&query).map_err(uncounted)?;
            Work::Body(answer::model(model))
        }
        Call::ListModels => {
            check_query(&query).map_err(uncounted)?;
            Work::Body(model_page(&engine.model_names(&caller), &query))
        }
        Call::Interact => {
            drop(engine);
            let read = check_query(&query).and_then(|()| Interaction::read(body));
            let interaction = read.map_err(failure)?;
            engine = shared.engine();
            ask.model = engine.find_model(&caller, &interaction.model);
            if ask.model.is_none() {
                let name = format!("models/{}", interaction.model);
                return Err(uncounted(Refusal::no_model(&name, "v1", call.name())));
            }
            ask.prompt_sha256 = Some(interaction.prompt.sha256);
            let input_tokens = interaction.prompt.input_tokens();
            ask.weight = Weight { requests: 1, input_tokens, images: 0 };
            Work::Interact(interaction)
        }
        Call::OpenAi(_) | Call::CompatibleModels | Call::NoMethod { .. } | Call::Unknown => {
            return Err(uncounted(call.not_found()));
        }
    };
    ask.fault = engine.take_fault(ask.arrival, ask.model.as_deref());
    Ok(work)
}

/// One page of the list of models; a page token is the number of models before it.
fn model_page(names: &[String], query: &[(String, String)]) -> Value {
    let parameter = |name: &str| {
        let found = query.iter().find(|(given, _)| given == name);
        found.and_then(|(_, value)| value.parse::<usize>().ok())
    };
    let size = parameter("pageSize").filter(|size| *size > 0).unwrap_or(50).min(1_000);
    let start = parameter("pageToken").unwrap_or(0).min(names.len());
    let end = start.saturating_add(size).min(names.len());
    let models: Vec<Value> = names[start..end].iter().map(|name| answer::model(name)).collect();
    let mut page = json!({});
    if !models.is_empty() {
        page["models"] = json!(models);
    }
    if end < names.len() {
        page["nextPageToken"] = json!(end.to_string());
    }
    page
}

/// Does the work of a call that passed all checks, unless its fault replaces the answer.
async fn perform(shared: &Shared, call: &Call, work: &Work, ask: &mut Ask) -> Reply {
    let is_counted = !matches!(work, Work::Body(_));
    if let Some((refusal, is_failure)) = replacement(call, ask) {
        let planned = if is_failure && is_counted {
            Planned::Failure(refusal.code)
        } else {
            Planned::Uncounted(refusal.code)
        };
        let _ = shared.settle(ask, planned);
        return Reply::refusal(&refusal);
    }
    match work {
        Work::Generate { prompt, is_sse } => generate(shared, call, (prompt, *is_sse), ask).await,
        Work::Embed(embed) => embed_texts(shared, call, embed, ask).await,
        Work::Interact(interaction) => interact(shared, call, interaction, ask).await,
        Work::OpenAi(work) => openai::perform(shared, call, work, ask).await,
        Work::Body(body) => {
            let _ = shared.settle(ask, Planned::Uncounted(200));
            Reply::json(200, body)
        }
    }
}

/// The error that a fault answers instead of the work, and whether it counts as a failure.
fn replacement(call: &Call, ask: &Ask) -> Option<(Refusal, bool)> {
    let fault = ask.fault?;
    let is_failure = fault != FaultKind::NotFound;
    let unknown = Model { name: "unknown".to_owned(), ..Model::default() };
    let model = ask.model.as_deref().unwrap_or(&unknown);
    if let Some(form) = call.form() {
        return Some((form.fault(fault, model, method(call))?, is_failure));
    }
    if fault == FaultKind::NotFound {
        return Some((call.not_found(), is_failure));
    }
    Some((Refusal::of_fault(fault, model, method(call))?, is_failure))
}

/// Answers a prompt.
async fn generate(
    shared: &Shared,
    call: &Call,
    (prompt, is_sse): (&Prompt, bool),
    ask: &Ask,
) -> Reply {
    let seed = shared.seed;
    let name = call.model().unwrap_or_default();
    let images_returned = ask.model.as_ref().and_then(|model| model.images_returned);
    let mut answer = Answer::new(seed, name, prompt, images_returned);
    if ask.fault == Some(FaultKind::Continuation) {
        answer.break_off(prompt);
    }
    let planned =
        Planned::Answer { output_tokens: answer.output_tokens(), images: answer.images() };
    let counted = match decide(shared, call, ask, planned).await {
        Ok(counted) => counted,
        Err(reply) => return reply,
    };
    shared.amend_images(counted, ask, answer.images());
    let is_stream = matches!(call, Call::Generate { is_stream: true, .. });
    let mut bodies = if is_stream {
        answer.pieces(seed, ask.arrival, name, prompt, shared.stream.pieces)
    } else {
        vec![answer.body(seed, ask.arrival, name, prompt)]
    };
    if ask.fault == Some(FaultKind::NoUsage) {
        for fields in bodies.iter_mut().filter_map(Value::as_object_mut) {
            fields.remove("usageMetadata");
        }
    }
    let tier = prompt.service_tier.clone().unwrap_or_else(|| "standard".to_owned());
    let reply = if is_stream {
        stream::generated(&bodies, is_sse, ask.fault, shared.stream)
    } else {
        Reply::json(200, bodies.first().unwrap_or(&Value::Null))
    };
    Reply { headers: vec![("x-gemini-service-tier", tier)], ..reply }
}

/// Answers an interaction.
async fn interact(shared: &Shared, call: &Call, interaction: &Interaction, ask: &Ask) -> Reply {
    let (seed, arrival) = (shared.seed, ask.arrival);
    let answer = Answer::new(seed, &interaction.model, &interaction.prompt, None);
    let planned = Planned::Answer { output_tokens: answer.output_tokens(), images: 0 };
    if let Err(reply) = decide(shared, call, ask, planned).await {
        return reply;
    }
    if !interaction.is_stream {
        return Reply::json(200, &interaction.body(seed, arrival, &answer));
    }
    let events = interaction.events(seed, arrival, &answer, shared.stream.pieces);
    let error = json!({"event_type": "error", "error": {"code": "unavailable", "message": "."}});
    let events = stream::broken(&events, ask.fault, &error);
    stream::events(&events, shared.stream)
}

/// Answers texts to embed.
async fn embed_texts(shared: &Shared, call: &Call, embed: &Embed, ask: &Ask) -> Reply {
    let planned = Planned::Answer { output_tokens: 0, images: 0 };
    match decide(shared, call, ask, planned).await {
        Ok(_) => {
            let name = call.model().unwrap_or_default();
            Reply::json(200, &embed.body(shared.seed, name))
        }
        Err(reply) => reply,
    }
}

/// Lets a call's latency pass, with the decision at an instant within it: when it was counted, or
/// the 429.
pub(super) async fn decide(
    shared: &Shared,
    call: &Call,
    ask: &Ask,
    planned: Planned,
) -> Result<Now, Reply> {
    let (seed, arrival) = (shared.seed, ask.arrival);
    let latency = ask.model.as_ref().and_then(|model| model.latency_ms);
    let [least_ms, most_ms] = latency.unwrap_or(shared.latency_ms);
    let span_ms = most_ms.saturating_sub(least_ms);
    let latency_ms = least_ms + draw_up_to(seed, Purpose::Latency, arrival, span_ms);
    let before_ms = draw_up_to(seed, Purpose::CountInstant, arrival, latency_ms);
    shared.pause(before_ms).await;
    match shared.settle(ask, planned) {
        (now, Ok(())) => {
            shared.pause(latency_ms - before_ms).await;
            Ok(now)
        }
        (_, Err(violations)) => {
            let model = ask.model.as_deref().cloned().unwrap_or_default();
            let wording = Wording::of(&model, method(call));
            let refusal = match call.form() {
                None => over_quota(seed, arrival, &wording, &violations),
                Some(Form::Gemini) => over_quota(seed, arrival, &wording, &violations).listed(),
                Some(Form::Plain) => openai::over_quota(&wording, &violations, ask.weight),
            };
            Err(Reply::refusal(&refusal))
        }
    }
}

fn method(call: &Call) -> Method {
    let is_embedding = matches!(
        call,
        Call::Embed { .. } | Call::OpenAi(OpenAiCall { method: OpenAiMethod::Embeddings, .. })
    );
    if is_embedding { Method::Embed } else { Method::Generate }
}

/// The 429 with the longest of the waits, and with digits below the millisecond like a real one.
fn over_quota(seed: u64, arrival: u64, wording: &Wording, violations: &[Violation]) -> Refusal {
    let longest_ms = violations.iter().map(|violation| violation.wait_ms).max().unwrap_or(0);
    let fraction_ns = draw(seed, Purpose::Nanos, arrival) % 1_000_000;
    Refusal::over_quota(wording, violations, longest_ms * 1_000_000 + fraction_ns)
}
