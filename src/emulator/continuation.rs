//! Tokens that resume an answer.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use super::refusal::Refusal;
use super::stats::hex;

/// The token for the rest of the answer to the prompt of `sha256`, of which `said` characters came.
pub(super) fn token(said: usize, sha256: &[u8; 32]) -> String {
    STANDARD.encode(format!("{said}.{}", hex(&sha256[..8])))
}

/// How many characters of the answer came before `token`, which must be of the same prompt.
pub(super) fn read(token: &str, sha256: &[u8; 32]) -> Result<usize, Refusal> {
    let bytes = [STANDARD, URL_SAFE, STANDARD_NO_PAD, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|alphabet| alphabet.decode(token).ok());
    let said = bytes.and_then(|bytes| {
        let text = String::from_utf8(bytes).ok()?;
        let (said, prompt) = text.split_once('.')?;
        (prompt == hex(&sha256[..8])).then(|| said.parse().ok()).flatten()
    });
    said.ok_or_else(|| Refusal::bad_request("The continuation token is not valid."))
}
