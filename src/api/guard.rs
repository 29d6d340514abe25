//! Who may ask. A page in somebody's browser must not (DNS rebinding, cross-site requests), so the
//! Host and the Origin are matched exactly; with `server.auth` the token is asked for too.
//!
//! Where a path is the provider's, the client is an SDK: it shows the token where it shows the
//! provider its key, and reads refusals as the provider writes them.
//!
//! One thing passes there without a token: the second leg of a resumable upload, which SDKs send
//! to the address that the first was answered with, and without a key. Under `/upload/` a request
//! with the query parameter [`LEG`] goes on to the proxy, which must check that parameter itself.

use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::Api;
use super::problem::Problem;
use crate::config::Auth;

/// The query parameter that stands for a token on `/upload/` paths. The guard only looks whether it
/// is there: whoever handles the path checks its value, and answers 401 where it is not ours.
pub(crate) const LEG: &str = "tidegate_leg";

/// What clients may call a TCP listener.
#[derive(Clone, Debug)]
pub(super) struct Door {
    scheme: &'static str,
    /// As a Host header has them, in lower case.
    hosts: Vec<String>,
}

#[derive(Clone, Debug)]
struct Guard {
    /// `None` on a unix socket, whose file says who may connect.
    door: Option<Door>,
    auth: Option<Auth>,
}

/// Whose errors a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Problem documents.
    Own,
    Gemini,
    /// Gemini's path for OpenAI's clients: its errors stand in an array.
    GeminiForOpenAi,
    OpenAi,
}

/// A request that is not let in.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    detail: &'static str,
    shape: Shape,
}

/// The router behind the guard of one listener.
pub(super) fn guarded(router: Router, api: &Api, door: Option<Door>) -> Router {
    let auth = api.inner.desk.config().server.auth.clone();
    router.layer(middleware::from_fn_with_state(Guard { door, auth }, check))
}

async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.refusal(request.headers(), request.uri()) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    }
}

impl Door {
    /// A listener on `address`, which is called by its own names of this machine and by `names`:
    /// DNS names and addresses without a port.
    pub(super) fn new(scheme: &'static str, address: SocketAddr, names: &[String]) -> Self {
        let usual = ["127.0.0.1", "localhost", "::1"].map(str::to_owned);
        let own = address.ip().to_canonical();
        let own = (!own.is_unspecified()).then(|| own.to_string());
        let default_port = if scheme == "https" { 443 } else { 80 };
        let mut hosts = Vec::new();
        for name in usual.into_iter().chain(own).chain(names.iter().cloned()) {
            let name = match name.parse() {
                Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
                Ok(IpAddr::V4(_)) | Err(_) => name,
            };
            hosts.push(format!("{name}:{}", address.port()));
            if address.port() == default_port {
                hosts.push(name);
            }
        }
        Self { scheme, hosts }
    }

    fn knows(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }
}

impl Guard {
    fn refusal(&self, headers: &HeaderMap, uri: &Uri) -> Option<Refusal> {
        let path = uri.path();
        let shape = shape_of(path);
        let no = |status, detail| Some(Refusal { status, detail, shape });
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"));
        if let Some(door) = &self.door {
            // HTTP/2 has it in the URI, HTTP/1.1 may have it there too.
            let in_uri = uri.authority().map(axum::http::uri::Authority::as_str);
            let mut hosts = text(header::HOST.as_str()).into_iter().chain(in_uri).peekable();
            if hosts.peek().is_none() || !hosts.all(|host| door.knows(host)) {
                let detail = "the Host header names another server: ask by 127.0.0.1 or localhost, \
                    or over TLS by one of server.tls.names";
                return no(StatusCode::FORBIDDEN, detail);
            }
            let is_own = |origin: &str| {
                let host = origin.strip_prefix(door.scheme).and_then(|o| o.strip_prefix("://"));
                host.is_some_and(|host| door.knows(host))
            };
            if text(header::ORIGIN.as_str()).is_some_and(|origin| !is_own(origin)) {
                return no(StatusCode::FORBIDDEN, "the request comes from another site's page");
            }
        }
        let site = text("sec-fetch-site").unwrap_or("none");
        if !matches!(site, "none" | "same-origin") {
            return no(StatusCode::FORBIDDEN, "the request comes from another site's page");
        }
        let results = path.starts_with("/api/v1/batches/") && path.ends_with("/results");
        let open_to_all = self.door.is_some() && self.auth.is_none();
        if path == "/api/v1/keys/import" && open_to_all {
            let detail = "keys are not taken from every user of this machine, for prompts would \
                go where they lead: send them over a unix socket, or set server.auth";
            return no(StatusCode::FORBIDDEN, detail);
        }
        if results && open_to_all {
            let detail = "answers are not given to every user of this machine: ask over a unix \
                socket, or set server.auth";
            return no(StatusCode::FORBIDDEN, detail);
        }
        let auth = self.auth.as_ref().filter(|_| !matches!(path, "/healthz" | "/readyz"))?;
        let bearer = headers.get(header::AUTHORIZATION).map(axum::http::HeaderValue::as_bytes);
        let bearer = bearer.and_then(|value| value.strip_prefix(b"Bearer "));
        if bearer.is_some_and(|token| auth.admits(token)) {
            return None;
        }
        if shape == Shape::Own {
            let detail = "a token is needed: send `Authorization: Bearer TOKEN`";
            return no(StatusCode::UNAUTHORIZED, detail);
        }
        let query = || query(uri);
        let key = headers.get("x-goog-api-key");
        if key.is_some_and(|token| auth.admits(token))
            || query().any(|(name, value)| name == "key" && auth.admits(value))
            || is_upload(path) && query().any(|(name, value)| name == LEG && !value.is_empty())
        {
            return None;
        }
        let detail = "the token of Tidegate is needed in place of the provider's key: as \
            `Authorization: Bearer TOKEN`, `x-goog-api-key: TOKEN` or `?key=TOKEN`";
        no(StatusCode::UNAUTHORIZED, detail)
    }
}

/// Names and values of the query, decoded.
fn query(uri: &Uri) -> impl Iterator<Item = (&str, Vec<u8>)> {
    let pairs = uri.query().unwrap_or_default().split('&');
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name, percent_decode_str(value).collect())
    })
}

/// The parts of a path behind `/p/PROJECT` and `/t/TENANT`, which may stand before the provider's
/// own path, in either order; empty parts, as `//` leaves them, do not count. None has a part that
/// another reader might take for a step upwards.
fn provider_parts(path: &str) -> Option<Vec<&str>> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let is_step = |part: &&str| {
        let part = part.to_ascii_lowercase().replace("%2e", ".");
        part == "." || part == ".." || part.contains("%2f") || part.contains("%5c")
    };
    for _ in 0..2 {
        if parts.len() > 2 && matches!(parts.first(), Some(&"p" | &"t")) {
            parts.drain(..2);
        }
    }
    let known = ["v1", "v1beta", "v1alpha", "upload", "openai", "ws"];
    let is_known = parts.first().is_some_and(|part| known.contains(part));
    (is_known && !parts.iter().any(is_step)).then_some(parts)
}

fn shape_of(path: &str) -> Shape {
    match provider_parts(path).as_deref() {
        None => Shape::Own,
        Some(["openai", ..]) => Shape::OpenAi,
        Some([_, "openai", ..]) => Shape::GeminiForOpenAi,
        Some(_) => Shape::Gemini,
    }
}

fn is_upload(path: &str) -> bool {
    provider_parts(path).is_some_and(|parts| parts.first() == Some(&"upload"))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { status, detail, shape } = self;
        let unauthenticated = status == StatusCode::UNAUTHORIZED;
        let word = if unauthenticated { "UNAUTHENTICATED" } else { "PERMISSION_DENIED" };
        let gemini = || {
            let error = json!({ "code": status.as_u16(), "message": detail, "status": word });
            json!({ "error": error })
        };
        let body = match shape {
            Shape::Own => return Problem::new(status, detail).into_response(),
            Shape::Gemini => gemini(),
            Shape::GeminiForOpenAi => json!([gemini()]),
            Shape::OpenAi => {
                let code = if unauthenticated { "invalid_api_key" } else { "permission_denied" };
                let error = json!({
                    "message": detail,
                    "type": "invalid_request_error",
                    "param": null,
                    "code": code,
                });
                json!({ "error": error })
            }
        };
        (status, axum::Json(body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn tcp(port: u16) -> Door {
        Door::new("http", ([127, 0, 0, 1], port).into(), &[])
    }

    fn auth() -> Auth {
        Auth { token_file: "token".into(), token: "a-token+of/ours".into() }
    }

    fn refusal(guard: &Guard, uri: &str, headers: &[(&str, &str)]) -> Option<Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: header::HeaderName = name.parse().unwrap();
            map.insert(name, value.parse().unwrap());
        }
        guard.refusal(&map, &uri.parse().unwrap())
    }

    fn status(guard: &Guard, uri: &str, headers: &[(&str, &str)]) -> Option<u16> {
        refusal(guard, uri, headers).map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn tcp_asks_for_an_exact_host_and_no_foreign_origin() {
        let guard = Guard { door: Some(tcp(8430)), auth: None };
        let ask = |headers: &[(&str, &str)]| status(&guard, "/api/v1/usage", headers);
        assert_eq!(ask(&[("host", "127.0.0.1:8430")]), None);
        assert_eq!(ask(&[("host", "localhost:8430")]), None);
        assert_eq!(ask(&[("host", "[::1]:8430")]), None);
        assert_eq!(ask(&[]), Some(403));
        assert_eq!(ask(&[("host", "127.0.0.1")]), Some(403));
        assert_eq!(ask(&[("host", "evil.example:8430")]), Some(403));
        let own = [("host", "localhost:8430"), ("origin", "http://localhost:8430")];
        assert_eq!(ask(&own), None);
        let foreign = [("host", "localhost:8430"), ("origin", "http://evil.example")];
        assert_eq!(ask(&foreign), Some(403));
        let results = |path| status(&guard, path, &[("host", "localhost:8430")]);
        assert_eq!(results("/api/v1/batches/b/results"), Some(403));
        assert_eq!(results("/api/v1/batches/b"), None);
        assert_eq!(results("/api/v1/keys/import"), Some(403));
        assert_eq!(results("/api/v1/keys"), None);
        let null = [("host", "localhost:8430"), ("origin", "null")];
        assert_eq!(ask(&null), Some(403));
        let cross = [("host", "localhost:8430"), ("sec-fetch-site", "cross-site")];
        assert_eq!(ask(&cross), Some(403));
    }

    #[test]
    fn a_configured_token_is_asked_for_but_not_for_health() {
        let guard = Guard { door: None, auth: Some(auth()) };
        assert_eq!(status(&guard, "/api/v1/usage", &[]), Some(401));
        let right = [("authorization", "Bearer a-token+of/ours")];
        assert_eq!(status(&guard, "/api/v1/usage", &right), None);
        let wrong = [("authorization", "Bearer a-token+of/ourz")];
        assert_eq!(status(&guard, "/api/v1/usage", &wrong), Some(401));
        assert_eq!(status(&guard, "/healthz", &[]), None);
        assert_eq!(status(&guard, "/api/v1/batches/b/results", &right), None);
        assert_eq!(status(&guard, "/api/v1/keys/import", &right), None);
        assert_eq!(status(&guard, "/api/v1/keys/import", &[]), Some(401));
    }

    #[test]
    fn a_tls_listener_is_called_by_its_names_over_https() {
        let names = ["tidegate.lan".to_owned(), "fd00::7".to_owned()];
        let address = SocketAddr::from(([192, 168, 1, 5], 443));
        let guard = Guard { door: Some(Door::new("https", address, &names)), auth: None };
        let ask = |host: &str| status(&guard, "/v1beta/models", &[("host", host)]);
        for host in ["tidegate.lan", "TIDEGATE.lan:443", "192.168.1.5", "[fd00::7]:443"] {
            assert_eq!(ask(host), None, "{host}");
        }
        for host in ["tidegate.lan:8431", "a.tidegate.lan", "192.168.1.6", "fd00::7", ""] {
            assert_eq!(ask(host), Some(403), "{host}");
        }
        let page = |origin: &str| {
            status(&guard, "/v1beta/models", &[("host", "tidegate.lan"), ("origin", origin)])
        };
        assert_eq!(page("https://tidegate.lan"), None);
        assert_eq!(page("http://tidegate.lan"), Some(403));
        assert_eq!(status(&guard, "https://tidegate.lan/v1beta/models", &[]), None, "HTTP/2");
        assert_eq!(status(&guard, "https://evil.example/v1beta/models", &[]), Some(403));
        let both = [("host", "tidegate.lan")];
        assert_eq!(status(&guard, "https://evil.example/v1beta/models", &both), Some(403));
    }

    #[test]
    fn a_path_tells_whose_errors_are_read() {
        let cases = [
            ("/v1beta/models/m:generateContent", Shape::Gemini),
            ("//v1//models", Shape::Gemini),
            ("/p/demo/t/ada/v1alpha/models", Shape::Gemini),
            ("/t/ada/p/demo/upload/v1beta/files", Shape::Gemini),
            ("/p/v1/v1beta/models", Shape::Gemini),
            ("/ws/x", Shape::Gemini),
            ("/v1beta/openai/chat/completions", Shape::GeminiForOpenAi),
            ("/p/demo/v1beta/openai/models", Shape::GeminiForOpenAi),
            ("/openai/v1/chat/completions", Shape::OpenAi),
            ("/p/demo/openai/v1/models", Shape::OpenAi),
            ("/api/v1/usage", Shape::Own),
            ("/p/demo/api/v1/usage", Shape::Own),
            ("/p/v1beta", Shape::Own),
            ("/v2/models", Shape::Own),
            ("/upload/%2e%2E/api", Shape::Own),
            ("/upload/../api", Shape::Own),
            ("/", Shape::Own),
        ];
        for (path, shape) in cases {
            assert_eq!(shape_of(path), shape, "{path}");
        }
    }

    #[test]
    fn an_sdk_shows_the_token_in_any_place_of_a_key() {
        let guard = Guard { door: None, auth: Some(auth()) };
        let path = "/v1beta/models/m:generateContent";
        let key = [("x-goog-api-key", "a-token+of/ours")];
        let with_key = "?alt=sse&key=a-token%2Bof%2fours";
        assert_eq!(status(&guard, path, &key), None);
        assert_eq!(status(&guard, path, &[("authorization", "Bearer a-token+of/ours")]), None);
        assert_eq!(status(&guard, &format!("{path}{with_key}"), &[]), None);
        assert_eq!(status(&guard, "/openai/v1/models", &key), None);
        for wrong in ["", "?key=", "?key=a-token", "?tidegate_leg=x", "?xkey=a-token%2Bof%2Fours"] {
            assert_eq!(status(&guard, &format!("{path}{wrong}"), &[]), Some(401), "{wrong}");
        }
        let api = "/api/v1/usage";
        assert_eq!(status(&guard, api, &key), Some(401));
        assert_eq!(status(&guard, &format!("{api}{with_key}"), &[]), Some(401));
        assert_eq!(status(&guard, &format!("{api}?tidegate_leg=x"), &[]), Some(401));
    }

    #[test]
    fn the_second_leg_of_an_upload_is_left_to_the_proxy() {
        let guard = Guard { door: Some(tcp(8430)), auth: Some(auth()) };
        let ask = |uri: &str, host: &str| status(&guard, uri, &[("host", host)]);
        let here = "localhost:8430";
        assert_eq!(ask("/upload/v1beta/files?upload_id=1&tidegate_leg=s", here), None);
        assert_eq!(ask("/p/demo//upload/v1beta/files?tidegate_leg=s", here), None);
        assert_eq!(ask("/upload/v1beta/files?tidegate_leg=s", "evil.example"), Some(403));
        assert_eq!(ask("/upload/v1beta/files?upload_id=1", here), Some(401));
        assert_eq!(ask("/upload/v1beta/files?tidegate_leg=", here), Some(401));
        assert_eq!(ask("/v1beta/upload/files?tidegate_leg=s", here), Some(401));
        assert_eq!(ask("/upload/../api/v1/usage?tidegate_leg=s", here), Some(401));
    }

    #[tokio::test]
    async fn a_refusal_has_the_form_that_the_client_reads() {
        let guard = Guard { door: Some(tcp(8430)), auth: Some(auth()) };
        let answer = async |uri: &str, host: &str| -> serde_json::Value {
            let response = refusal(&guard, uri, &[("host", host)]).unwrap().into_response();
            let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
            serde_json::from_slice(&body).unwrap()
        };
        let here = "localhost:8430";
        let gemini = answer("/v1beta/models", here).await;
        assert_eq!(gemini["error"]["code"], 401);
        assert_eq!(gemini["error"]["status"], "UNAUTHENTICATED");
        let foreign = answer("/v1beta/models", "evil.example").await;
        assert_eq!(foreign["error"]["code"], 403);
        assert_eq!(foreign["error"]["status"], "PERMISSION_DENIED");
        let listed = answer("/v1beta/openai/models", here).await;
        assert_eq!(listed[0]["error"]["code"], 401);
        let openai = answer("/openai/v1/models", here).await;
        assert_eq!(openai["error"]["code"], "invalid_api_key");
        assert!(openai["error"]["message"].as_str().unwrap().contains("Bearer"));
        assert_eq!(answer("/api/v1/usage", here).await["status"], 401);
    }
}
