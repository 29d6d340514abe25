//! The second leg of an upload, which clients send without any credential to the address that the
//! answer of the first one names: it must lead here, and show that it came from here.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use sha2::{Digest, Sha256};

use super::target::decoded;

/// The parameter that shows that an address was given out here.
pub(super) use crate::api::LEG;

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
        let path = own_path(url.path());
        let mark = self.mark(path, query);
        let and = if query.is_empty() { "" } else { "&" };
        let address = format!("{own}{prefix}{path}?{query}{and}{LEG}={mark}");
        if let Ok(address) = HeaderValue::from_str(&address) {
            headers.insert(UPLOAD_URL, address);
        }
    }

    /// Whether an address was given out here.
    pub(super) fn admits(&self, uri: &Uri) -> bool {
        let Some(query) = uri.query() else { return false };
        let Some((rest, mark)) = query.rsplit_once(&format!("{LEG}=")) else { return false };
        let rest = rest.strip_suffix('&').unwrap_or(rest);
        // Hashes are compared, so the time taken says nothing of them.
        Sha256::digest(self.mark(own_path(uri.path()), rest)) == Sha256::digest(decoded(mark))
    }

    fn mark(&self, path: &str, query: &str) -> String {
        // Of a fixed length in front and behind, so that nothing can be appended.
        let digest = Sha256::new_with_prefix(self.0).chain_update(path).chain_update(b"?");
        let digest = digest.chain_update(query).chain_update(self.0).finalize();
        digest.iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// Whether an address says of itself that it was given out here.
pub(super) fn is_leg(uri: &Uri) -> bool {
    let names = uri.query().unwrap_or_default().split('&');
    names.into_iter().any(|pair| pair.split('=').next() == Some(LEG))
}

/// A path without the prefixes that this daemon reads.
fn own_path(path: &str) -> &str {
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
        let given = "https://generativelanguage.googleapis.com/upload/v1beta/files?upload_id=a-b\
            &upload_protocol=resumable";
        headers.insert(UPLOAD_URL, given.parse().unwrap());
        seal.rewrite(&mut headers, "http://127.0.0.1:8430", "/p/demo");
        let here = headers[UPLOAD_URL].to_str().unwrap().to_owned();
        assert!(here.starts_with("http://127.0.0.1:8430/p/demo/upload/v1beta/files?upload_id=a-b"));
        assert!(seal.admits(&here.parse().unwrap()));
        let other: Uri = here.replace("a-b", "a-c").parse().unwrap();
        assert!(!seal.admits(&other));
        assert!(!Seal::new().admits(&here.parse().unwrap()));
        for made_up in ["/upload/v1beta/files?upload_id=a-b", "/upload/v1beta/files"] {
            let uri: Uri = made_up.parse().unwrap();
            assert!(!seal.admits(&uri) && !is_leg(&uri), "{made_up}");
        }
        assert!(is_leg(&other));
    }
}
