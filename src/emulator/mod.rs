//! A strict local fake of the Gemini API and of OpenAI's, and the independent judge of the quota
//! gate.
//!
//! It shares no code with the rooms it judges: windows, days and token counts are its own, by
//! brute force. Several emulators may run in one process.
//!
//! # The limits file
//! TOML; unknown fields are refused. Only names are required.
//! ```toml
//! zone = "America/Los_Angeles"     # whose midnight ends the day of rpd and tpd
//! count_rejected = false           # whether a 429 counts against the limits
//! stream = { gap_ms = 0, pieces = 4, gzip = false }   # how streams are sent
//! batch_ms = 0                     # how long a batch job takes
//!
//! [[project]]
//! name = "demo"
//! keys = ["test-key-1", "test-key-2"]    # share the limits; an unlisted key is a 400, none a 403
//! revoked_keys = ["old-key"]             # 403 "Your API key was reported as leaked."
//!
//!   [[project.model]]                    # a model that is not listed is a 404
//!   name = "gemini-2.0-flash"
//!   aliases = ["gemini-2.0-flash-001"]   # share the quota
//!   rpm = 15                             # absent = unlimited, 0 = the 429 of "limit: 0"
//!   tpm = 1_000_000                      # input tokens
//!   rpd = 1_500
//!   tpd = 6_000_000
//!   ipm = 20                             # images
//!   images_returned = [0, 3]             # least and most images of an answer that is to have
//!                                        # images; without it one for each candidate
//!   paid = false                         # wording of the 429
//!   quota_model = "gemini-2.0"           # what the 429 calls the quota, without it the name
//!   quota_value = true                   # the limit in the 429: the truth, "omit", or a number
//!   details = "full"                     # or "prose": no details; "none": names no quota
//!   retry_delay = "true"                 # or "22s": what the 429 of a day tells to wait
//!   external = { per_minute = 5, input_tokens = 100 }    # another client, see below
//!   latency_ms = [20, 120]               # instead of EmulatorConfig::latency
//!   fault = { status_503 = 0.0, status_500 = 0.0, cut = 0.0, no_usage = 0.0 }   # probabilities
//! ```
//!
//! # What it serves
//! Under `/v1`, `/v1beta` and `/v1alpha`: `POST models/{m}:generateContent`, `:embedContent` and
//! `:batchEmbedContents` (counted), `POST models/{m}:countTokens`, `GET models`, `GET models/{m}`
//! (not counted). With the key as a bearer token: `POST /v1/chat/completions` and `/v1/embeddings`
//! as OpenAI serves them, and the same under `/v1beta/openai` as Gemini does, whose errors are its
//! own, in a list. All ways to a model share its limits. Everything else is a 404.
//!
//! A call is checked in this order: credential, model, payload, all limits at once. It is decided
//! and counted atomically at a seeded instant of its latency, so that calls overtake each other.
//! Counted are answers, with requests, input tokens and images, and failures (400 behind a good key
//! and model, 5xx) as one request; a client that goes away does not stop the count.
//! `batchEmbedContents`, and Gemini's `embeddings`, count as one request for each of their texts. A
//! chat of OpenAI does not stream.
//!
//! A text with `[[block]]` in it is answered as one that a filter stopped; a chat with `[[refuse]]`
//! as one that the model refused.
//!
//! A request with `IMAGE` among its `responseModalities` is decided by the images it asks for, one
//! for each candidate. When its answer leaves, books and log are corrected to the images that are
//! in it, at the instant of the decision. A candidate without an image has text and ends with
//! `NO_IMAGE`.
//!
//! # Another client
//! `external` is a Poisson stream of requests of a client that nobody else sees, `per_minute` in
//! the mean of the emulator's own minutes, at most 10,000. Each is counted against the model's
//! limits if it fits, and lost if not. They are in the stats under `external` and in no other
//! number, the log and the worst windows included.
//!
//! # Its clock
//! `date_skew` sets the emulator's civil time ahead of the machine's, or behind it if negative: the
//! `date` header of each answer of the provider, and the days of rpd and tpd. Minutes do not care.
//!
//! # Control
//! - `GET /__emulator/stats`: [`Stats`] as JSON.
//! - `GET /__emulator/log?after=N`: one JSON line a decided call, in the order of decision, with
//!   `n` from 1; the entries with `n` above N, at most 100,000 an answer. The log holds the first
//!   1,000,000 calls, after which `log_truncated` is set and the worst windows miss later calls.
//! - `POST /__emulator/revoke` with `{"project": "demo", "key": 2}`: 403s for it.
//! - `POST /__emulator/faults` with `{"next": [{"do": "503", "times": 2}]}`: see [`FaultKind`].
//!
//! # Bounds
//! 1,024 connections (others wait), bodies of 20 MB (larger ones are a 400), 10,000 waiting orders
//! of faults. Where any key or model is accepted, 1,000 of each are told apart.

mod answer;
mod call;
mod clock;
mod continuation;
mod day;
mod draw;
mod embed;
mod engine;
mod external;
mod fault;
mod files;
mod interactions;
mod limits;
mod openai;
mod prompt;
mod quota;
mod refusal;
mod schema;
mod server;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
mod window;
mod wire;

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fmt, io};

use chrono::TimeDelta;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use external::ExternalStats;
pub use fault::{Fault, FaultKind};
pub use limits::Limits;
pub use stats::{Counts, ProjectStats, Stats, WorstWindow};
pub use window::WindowKind;

use clock::{Clock, whole_ms};
use engine::Engine;
use limits::MAX_LATENCY_MS;
use server::{Shared, router};
use wire::{KillSwitch, Listener};

/// How an emulator is to behave.
#[derive(Clone, Debug)]
pub struct EmulatorConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How minute limits count.
    pub window: WindowKind,
    /// Length of a minute in the limits of a minute, and of nothing else. At least 1 ms.
    pub minute: Duration,
    /// Decides latencies, count instants, window phases, faults by probability and answers.
    pub seed: u64,
    /// Projects, keys, models and limits.
    pub limits: Limits,
    /// Time from a request to its answer, for models that have none of their own.
    pub latency: Latency,
    /// How far the emulator's civil time is ahead of the machine's; at most ten years either way.
    pub date_skew: TimeDelta,
}

impl EmulatorConfig {
    /// A free port of the loopback, sliding minutes of 60 s, seed 0, no latency, the right time.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            window: WindowKind::Sliding,
            minute: Duration::from_mins(1),
            seed: 0,
            limits,
            latency: Latency::default(),
            date_skew: TimeDelta::zero(),
        }
    }
}

/// Bounds of a seeded, uniform latency in whole milliseconds, at most ten minutes. The default is
/// none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Shortest latency.
    pub min: Duration,
    /// Longest latency.
    pub max: Duration,
}

/// Why an emulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The limits file is wrong.
    #[error("limits file, line {line}: {problem}")]
    Limits {
        /// Where, from 1; the first line when the problem has no single place.
        line: usize,
        /// What is wrong. Names keys by their position only.
        problem: String,
    },
    /// The minute is shorter than a millisecond.
    #[error("a minute of {minute:?} is too short, the least is 1 ms")]
    Minute {
        /// What was asked for.
        minute: Duration,
    },
    /// The latency is no range, or too long.
    #[error("a latency from {min:?} to {max:?} is no range within ten minutes")]
    Latency {
        /// Shortest latency asked for.
        min: Duration,
        /// Longest latency asked for.
        max: Duration,
    },
    /// The clock would be off by more than ten years.
    #[error("a date skew of {skew} is too much, the most is ten years")]
    DateSkew {
        /// What was asked for.
        skew: TimeDelta,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Keeps every date within what a date can be.
const MAX_DATE_SKEW: TimeDelta = TimeDelta::days(3_653);

/// How long [`Emulator::stop`] lets calls finish before it drops their connections.
const GRACE: Duration = Duration::from_secs(2);

/// A running emulator. Dropping it ends it at once, [`Emulator::stop`] with grace.
pub struct Emulator {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stopping: CancellationToken,
    server: Option<JoinHandle<()>>,
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Emulator {
    /// Starts an emulator; it accepts connections when this returns.
    ///
    /// # Errors
    /// When the minute, the latency or the skew is out of range or the address cannot be listened
    /// on.
    pub async fn start(config: EmulatorConfig) -> Result<Self, EmulatorError> {
        let EmulatorConfig { listen, window, minute, seed, limits, latency, date_skew } = config;
        let minute_ms = whole_ms(minute);
        if minute_ms == 0 {
            return Err(EmulatorError::Minute { minute });
        }
        let Latency { min, max } = latency;
        let latency_ms = [whole_ms(min), whole_ms(max)];
        if min > max || latency_ms[1] > MAX_LATENCY_MS {
            return Err(EmulatorError::Latency { min, max });
        }
        if date_skew.abs() > MAX_DATE_SKEW {
            return Err(EmulatorError::DateSkew { skew: date_skew });
        }
        let cannot_listen = |source| EmulatorError::Listen { addr: listen, source };
        let tcp = TcpListener::bind(listen).await.map_err(cannot_listen)?;
        let addr = tcp.local_addr().map_err(cannot_listen)?;
        let kill_all = CancellationToken::new();
        let stopping = CancellationToken::new();
        let shared = Arc::new(Shared {
            stream: limits.stream,
            files: files::Files::default(),
            engine: Mutex::new(Engine::new(limits, window, minute_ms, seed)),
            clock: Clock::start(date_skew),
            seed,
            latency_ms,
            in_flight: AtomicUsize::new(0),
            max_in_flight: AtomicUsize::new(0),
            kill_all: kill_all.clone(),
        });
        let service = router(shared.clone()).into_make_service_with_connect_info::<KillSwitch>();
        let serve = axum::serve(Listener::new(tcp, kill_all), service)
            .with_graceful_shutdown(stopping.clone().cancelled_owned());
        let server = tokio::spawn(async move {
            // It accepts for ever or until told to stop; it has no error to return.
            let _ = serve.await;
        });
        Ok(Self { addr, shared, stopping, server: Some(server) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://ADDR`, without a slash at the end.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What it saw so far. The worst windows are recomputed from the log each time.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Orders faults for the next calls, behind those that wait already.
    ///
    /// # Panics
    /// When more than 10,000 orders would wait.
    pub fn inject(&self, faults: impl IntoIterator<Item = Fault>) {
        let faults: Vec<Fault> = faults.into_iter().collect();
        let fits = self.shared.engine().faults.order(&faults);
        assert!(fits, "too many faults are waiting");
    }

    /// Revokes a key of a project by its place in the limits file, from 1: calls with it that have
    /// not been decided get a 403.
    ///
    /// # Panics
    /// When there is no such key.
    pub fn revoke(&self, project: &str, place: usize) {
        assert!(self.shared.engine().revoke(project, place), "no key {place} of {project}");
    }

    /// Accepts no more connections, lets calls finish for two seconds, then drops the rest.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        let Some(mut server) = self.server.take() else { return };
        if tokio::time::timeout(GRACE, &mut server).await.is_err() {
            self.shared.kill_all.cancel();
            if tokio::time::timeout(GRACE, &mut server).await.is_err() {
                server.abort();
            }
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.shared.kill_all.cancel();
    }
}
