//! Who may ask. A page in somebody's browser must not (DNS rebinding, cross-site requests), so the
//! Host and the Origin are matched exactly; with `server.auth` the token is asked for too.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

use super::Api;
use super::problem::Problem;
use crate::config::Auth;

#[derive(Clone, Debug)]
struct Guard {
    /// The port of a TCP listener; `None` on a unix socket, whose file says who may connect.
    port: Option<u16>,
    auth: Option<Auth>,
}

/// The router behind the guard of one listener.
pub(super) fn guarded(router: Router, api: &Api, port: Option<u16>) -> Router {
    let auth = api.inner.desk.config().server.auth.clone();
    router.layer(middleware::from_fn_with_state(Guard { port, auth }, check))
}

async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.refusal(request.headers(), request.uri().path()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

impl Guard {
    fn refusal(&self, headers: &HeaderMap, path: &str) -> Option<Problem> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"));
        if let Some(port) = self.port {
            let hosts = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}"));
            let host = text(header::HOST.as_str()).unwrap_or_default();
            if !hosts.iter().any(|known| known == host) {
                let detail = "the Host header names another server: ask by 127.0.0.1 or localhost";
                return Some(Problem::new(StatusCode::FORBIDDEN, detail));
            }
            if let Some(origin) = text(header::ORIGIN.as_str())
                && !hosts.iter().any(|known| origin == format!("http://{known}"))
            {
                let detail = "the request comes from another site's page";
                return Some(Problem::new(StatusCode::FORBIDDEN, detail));
            }
        }
        let site = text("sec-fetch-site").unwrap_or("none");
        if !matches!(site, "none" | "same-origin") {
            let detail = "the request comes from another site's page";
            return Some(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        let results = path.starts_with("/api/v1/batches/") && path.ends_with("/results");
        let open_to_all = self.port.is_some() && self.auth.is_none();
        if path == "/api/v1/keys/import" && open_to_all {
            let detail = "keys are not taken from every user of this machine, for prompts would \
                go where they lead: send them over a unix socket, or set server.auth";
            return Some(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        if results && open_to_all {
            let detail = "answers are not given to every user of this machine: ask over a unix \
                socket, or set server.auth";
            return Some(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        let auth = self.auth.as_ref().filter(|_| !matches!(path, "/healthz" | "/readyz"))?;
        let given = text(header::AUTHORIZATION.as_str())
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        if auth.admits(given) {
            return None;
        }
        let detail = "a token is needed: send `Authorization: Bearer TOKEN`";
        Some(Problem::new(StatusCode::UNAUTHORIZED, detail))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn status(guard: &Guard, path: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: header::HeaderName = name.parse().unwrap();
            map.insert(name, value.parse().unwrap());
        }
        guard.refusal(&map, path).map(|problem| problem.into_response().status().as_u16())
    }

    #[test]
    fn tcp_asks_for_an_exact_host_and_no_foreign_origin() {
        let guard = Guard { port: Some(8430), auth: None };
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
        let auth = Auth { token_file: "token".into(), token: "a-token-of-ours".into() };
        let guard = Guard { port: None, auth: Some(auth) };
        assert_eq!(status(&guard, "/api/v1/usage", &[]), Some(401));
        let right = [("authorization", "Bearer a-token-of-ours")];
        assert_eq!(status(&guard, "/api/v1/usage", &right), None);
        let wrong = [("authorization", "Bearer a-token-of-ourz")];
        assert_eq!(status(&guard, "/api/v1/usage", &wrong), Some(401));
        assert_eq!(status(&guard, "/healthz", &[]), None);
        assert_eq!(status(&guard, "/api/v1/batches/b/results", &right), None);
        assert_eq!(status(&guard, "/api/v1/keys/import", &right), None);
        assert_eq!(status(&guard, "/api/v1/keys/import", &[]), Some(401));
    }
}
