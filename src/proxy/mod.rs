//! The traffic of SDKs through the daemon: each call is admitted by the same gate as batches, held
//! as long as its client waits, forwarded with the project's key, and settled with what it really
//! used.
//!
//! `target` reads what a call asks for off its path, `headers` which headers pass, `serve`
//! takes it in and has it admitted, `forward` sends it, and `tap` reads a copy of the answer while
//! it passes. What is refused here looks as the client's SDK expects (`refuse`); an upload goes on
//! where `upload` says.

mod forward;
mod headers;
mod intake;
mod refuse;
mod tap;
mod target;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::caps;
use crate::clock;
use crate::config::{Config, Project, Provider};
use crate::engine::callers::{Admission, Caller};
use crate::engine::desk::Desk;
use crate::engine::estimate::Load;
use crate::engine::permit::Permit;
use crate::engine::{Endpoints, Event};
use crate::gate::admit::BucketId;
use crate::gate::units::BootMs;
use crate::store::{Origin, Via};
use crate::upstream::{Carrier, UpstreamError};
use intake::Taken;
use refuse::Refused;
use target::Kind;
pub(crate) use target::{Dialect, Target, target};
use upload::Seal;

/// Who calls that says no tenant.
const TENANT: &str = "proxy";

/// Longest name of a tenant.
const TENANT_BYTES_MAX: usize = 64;

/// What serves the calls of SDKs. Cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
}

struct Inner {
    desk: Desk,
    endpoints: Endpoints,
    events: mpsc::Sender<Event>,
    carrier: Carrier,
    /// Bytes of bodies that may be held at once.
    room: Arc<Semaphore>,
    seal: Seal,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").finish_non_exhaustive()
    }
}

/// Who calls, and how.
struct Client {
    target: Target,
    /// The project whose quota it uses.
    project: String,
    tenant: String,
    origin: Origin,
    since: BootMs,
    patience: Duration,
    /// Whether it is recorded and never held.
    shadow: bool,
    /// Scheme and host of the daemon as the client knows them.
    own: String,
}

/// What of a call is kept while it is held.
struct Held {
    method: reqwest::Method,
    headers: HeaderMap,
    query: Option<String>,
}

impl Proxy {
    /// A proxy over a running daemon's parts.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(
        desk: Desk,
        endpoints: Endpoints,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, UpstreamError> {
        let carrier = Carrier::new()?;
        let room = Arc::new(Semaphore::new(caps::CALL_BYTES_HELD_MAX));
        let inner = Inner { desk, endpoints, events, carrier, room, seal: Seal::new() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Serves one call. Dropping the future gives its place up.
    pub(crate) async fn serve(
        &self,
        target: Target,
        request: Request<Body>,
        peer: Option<String>,
        is_secure: bool,
    ) -> Response<Body> {
        let dialect = target.dialect;
        let since = clock::now().boot;
        let mut response = match self.serve_or_refuse(target, request, peer, is_secure).await {
            Ok(response) => response,
            Err(refused) => refused.answer(dialect),
        };
        let waited = since.until(clock::now().boot);
        response.headers_mut().entry(WAITED).or_insert_with(|| waited.into());
        response
    }

    async fn serve_or_refuse(
        &self,
        target: Target,
        request: Request<Body>,
        peer: Option<String>,
        is_secure: bool,
    ) -> Result<Response<Body>, Refused> {
        let config = self.inner.desk.config();
        let (head, body) = request.into_parts();
        // The guard lets such a request in without a token.
        if upload::is_leg(&head.uri) && !self.inner.seal.admits(&head.uri) {
            let message = "this address was not given out here, or before a restart: begin anew";
            return Err(Refused::new(StatusCode::UNAUTHORIZED, message));
        }
        let client = client(target, &head.headers, &config, peer, is_secure)?;
        if client.target.kind == Kind::Live {
            let message = "Live sessions do not pass through this daemon: connect to the provider";
            return Err(Refused::new(StatusCode::NOT_IMPLEMENTED, message));
        }
        let (taken, body) = self.take_in(&client, &head.headers, body).await?;
        let kept = Held {
            method: head.method,
            query: headers::query(head.uri.query()),
            headers: headers::outgoing(&head.headers),
        };
        let bucket = self.bucket(&client, &taken).await?;
        self.forward(&client, kept, (taken, body), bucket).await
    }

    /// The bucket in which a call counts.
    async fn bucket(&self, client: &Client, taken: &Taken) -> Result<BucketId, Refused> {
        let bucket = self.inner.desk.bucket_of_call(&client.project, taken.model.as_deref()).await;
        bucket.map_err(|error| Refused::new(StatusCode::FORBIDDEN, error))
    }

    /// Asks the engine whether a call may go, and waits as long as the client does.
    async fn admit(
        &self,
        client: &Client,
        taken: &Taken,
        bucket: BucketId,
        deadline: BootMs,
    ) -> Result<Permit, Refused> {
        let (reply, decided) = oneshot::channel();
        let caller = Caller {
            bucket,
            model: taken.model.clone().unwrap_or_else(|| "-".to_owned()),
            tenant: client.tenant.clone(),
            origin: client.origin.clone(),
            load: taken.load,
            bytes: taken.bytes,
            since: client.since,
            deadline,
            shadow: client.shadow,
            reply,
        };
        let stopping = || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping");
        let told = self.inner.events.send(Event::Called(Box::new(caller))).await;
        told.map_err(|_| stopping())?;
        let waiting = Waiting(Some(&self.inner.events));
        let decided = decided.await;
        waiting.end();
        match decided {
            Ok(Admission::Go(permit)) => Ok(permit),
            Ok(Admission::No(turned)) => Err(Refused::of(turned, clock::now().wall)),
            Err(_) => Err(stopping()),
        }
    }
}

/// The row of the call.
const ATTEMPT: &str = "x-tidegate-attempt";
/// How long it was held.
const WAITED: &str = "x-tidegate-waited-ms";
/// How long it would have been held, in shadow mode.
const WOULD_WAIT: &str = "x-tidegate-would-wait-ms";

/// A client that waits. When it leaves, the engine looks at those behind it.
struct Waiting<'a>(Option<&'a mpsc::Sender<Event>>);

impl Waiting<'_> {
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(events) = self.0 {
            // Where there is no room for it, the engine is about to look anyway.
            let _ = events.try_send(Event::Tick);
        }
    }
}

/// Who calls, and how: the project is the one that the path names, else the default if it speaks
/// what the client does, else the first that does.
fn client(
    target: Target,
    headers: &HeaderMap,
    config: &Config,
    peer: Option<String>,
    is_secure: bool,
) -> Result<Client, Refused> {
    let speaks = |project: &&Project| match (target.dialect, project.provider) {
        (Dialect::Gemini | Dialect::Interactions | Dialect::Compatible, Provider::Gemini)
        | (Dialect::OpenAi, _) => true,
        (Dialect::Gemini | Dialect::Interactions | Dialect::Compatible, Provider::OpenAi) => false,
    };
    let project = match &target.project {
        Some(name) => config.project(name).ok_or_else(|| {
            let known: Vec<_> = config.projects.iter().map(|known| known.name.as_str()).collect();
            let known = known.join(", ");
            Refused::new(
                StatusCode::NOT_FOUND,
                format!("no project {name}: the configuration has {known}"),
            )
        })?,
        None => config
            .project(&config.defaults.project)
            .filter(|project| speaks(project))
            .or_else(|| preferred(config, target.dialect))
            .or_else(|| config.projects.iter().find(speaks))
            .ok_or_else(|| {
                Refused::new(StatusCode::NOT_FOUND, "no project speaks what this path does")
            })?,
    };
    if !speaks(&project) {
        let message = format!("project {} speaks OpenAI's dialect: ask /openai/v1", project.name);
        return Err(Refused::new(StatusCode::NOT_FOUND, message));
    }
    let named = headers.get("x-tidegate-tenant").map(|value| value.to_str().unwrap_or(""));
    let tenant = target.tenant.clone().or_else(|| named.map(str::to_owned));
    let tenant = tenant.unwrap_or_else(|| TENANT.to_owned());
    if tenant.is_empty() || tenant.len() > TENANT_BYTES_MAX || tenant.chars().any(char::is_control)
    {
        let message = format!("a tenant's name has 1 to {TENANT_BYTES_MAX} bytes of text");
        return Err(Refused::new(StatusCode::BAD_REQUEST, message));
    }
    let patience = headers::patience(headers, config.proxy.max_wait)
        .map_err(|message| Refused::new(StatusCode::BAD_REQUEST, message))?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let scheme = if is_secure { "https" } else { "http" };
    Ok(Client {
        project: project.name.clone(),
        tenant,
        origin: Origin {
            source: Via::Proxy,
            method: Some(target.method.clone()),
            client: headers::client(headers),
            peer,
            waited_ms: None,
        },
        since: clock::now().boot,
        patience,
        shadow: config.proxy.shadow,
        own: format!("{scheme}://{host}"),
        target,
    })
}

/// The project that native clients of a dialect mean.
fn preferred(config: &Config, dialect: Dialect) -> Option<&Project> {
    let native = |project: &&Project| project.provider == Provider::OpenAi;
    (dialect == Dialect::OpenAi).then(|| config.projects.iter().find(native)).flatten()
}

fn number(value: u64) -> HeaderValue {
    HeaderValue::from(value)
}
