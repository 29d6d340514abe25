//! The second leg of an upload, which clients send without any credential to the address that the
//! answer of the first one names: it must lead here, and show that it came from here.

use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::target::decoded;

/// The parameter that shows that an address was given out here.
pub(super) const LEG: &str = "tidegate_leg";

/// Where an upload goes on.
const UPLOAD_URL: HeaderName = HeaderName::from_static("x-goog-upload-url");

/// What addresses are signed with, for the life of the process: an upload that a restart cuts off
/// begins anew.
#[derive(Clone)]
pub(super) struct Seal([u8; 32]);

impl Seal {
    /// A new one.
    ///
    /// # Panics
    /// When the system has no random numbers, without which there is no TLS either.
    pub(super) fn new() -> Self {
        let mut secret = [0; 32];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut secret).expect("the system has random numbers");
        Self(secret)
    }

    /// Makes the address where an upload goes on lead here: to `own`, scheme and host as the client
    /// knows them, under `prefix`.
    pub(super) fn rewrite(&self, headers: &mut HeaderMap, own: &str, prefix: &str) {
        let Some(given) = headers.get(&UPLOAD_URL).and_then(|value| value.to_str().ok()) else {
            return;
        };
        let Ok(url) = reqwest::Url::parse(given) else { return };
        let query = url.query().unwrap_or_default();
        let path = url.path();
        let path = path.find("/upload/").map_or(path, |at| &path[at..]);
        let mark = self.mark(path, query);
        let and = if query.is_empty() { "" } else { "&" };
        let address = format!("{own}{prefix}{path}?{query}{and}{LEG}={mark}");
        if let Ok(address) = HeaderValue::from_str(&address) {
            headers.insert(UPLOAD_URL, address);
        }
    }

    /// Whether an address was given out here.
    pub(super) fn admits(&self, path: &str, query: Option<&str>) -> bool {
        let Some(query) = query else { return false };
        let Some((rest, mark)) = query.rsplit_once(&format!("{LEG}=")) else { return false };
        let rest = rest.strip_suffix('&').unwrap_or(rest);
        // Hashes are compared, so the time taken says nothing of them.
        Sha256::digest(self.mark(path, rest)) == Sha256::digest(decoded(mark))
    }

    fn mark(&self, path: &str, query: &str) -> String {
        // Of a fixed length in front and behind, so that nothing can be appended.
        let digest = Sha256::new_with_prefix(self.0).chain_update(path).chain_update(b"?");
        let digest = digest.chain_update(query).chain_update(self.0).finalize();
        digest.iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// The path of a request without the prefixes that this daemon reads.
pub(super) fn own_path(uri: &PathAndQuery) -> &str {
    let path = uri.path();
    path.find("/upload/").map_or(path, |at| &path[at..])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn the_second_leg_leads_here_and_nobody_makes_one_up() {
        let seal = Seal::new();
        let mut headers = HeaderMap::new();
        let given = "https://generativelanguage.googleapis.com/upload/v1beta/files?upload_id=a-b&upload_protocol=resumable";
        headers.insert(UPLOAD_URL, given.parse().unwrap());
        seal.rewrite(&mut headers, "http://127.0.0.1:8430", "/p/demo");
        let here = headers[UPLOAD_URL].to_str().unwrap().to_owned();
        assert!(here.starts_with("http://127.0.0.1:8430/p/demo/upload/v1beta/files?upload_id=a-b"));
        let uri: axum::http::Uri = here.parse().unwrap();
        let both = uri.path_and_query().unwrap();
        assert!(seal.admits(own_path(both), both.query()));
        let other = here.replace("a-b", "a-c");
        let uri: axum::http::Uri = other.parse().unwrap();
        let both = uri.path_and_query().unwrap();
        assert!(!seal.admits(own_path(both), both.query()));
        assert!(!Seal::new().admits(own_path(both), both.query()));
        assert!(!seal.admits("/upload/v1beta/files", Some("upload_id=a-b")));
        assert!(!seal.admits("/upload/v1beta/files", None));
    }
}
