//! Which headers pass, what they say of the client and how long it waits.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::caps;

/// What a client says of itself is kept up to here.
const CLIENT_BYTES_MAX: usize = 128;

/// What an SDK needs to take an answer before its own time is over.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);

/// Those that concern one connection alone, besides the ones that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Those of the client that show who it is to whom, and what the new request says by itself.
const OURS: [&str; 8] = [
    "authorization",
    "content-length",
    "cookie",
    "expect",
    "host",
    "origin",
    "referer",
    "x-goog-api-key",
];

/// Content encodings that can be read in passing.
const READABLE: [&str; 4] = ["gzip", "x-gzip", "deflate", "identity"];

/// The headers of a client's request that go to the provider.
pub(super) fn outgoing(from: &HeaderMap) -> HeaderMap {
    let mut to = passing(from);
    to.retain_not(|name| {
        OURS.contains(&name)
            || ["x-tidegate-", "sec-fetch-", "x-forwarded-"].iter().any(|it| name.starts_with(it))
            || ["forwarded", "via", "x-real-ip"].contains(&name)
    });
    if from.contains_key(header::ACCEPT_ENCODING) {
        to.remove(header::ACCEPT_ENCODING);
        let kept: Vec<&str> = listed(from, &header::ACCEPT_ENCODING)
            .filter(|coding| {
                let name = coding.split(';').next().unwrap_or_default().trim();
                READABLE.contains(&name.to_ascii_lowercase().as_str())
            })
            .collect();
        let kept = if kept.is_empty() { "identity".to_owned() } else { kept.join(", ") };
        if let Ok(kept) = HeaderValue::from_str(&kept) {
            to.insert(header::ACCEPT_ENCODING, kept);
        }
    }
    to
}

/// The headers of an answer that go to the client.
pub(super) fn incoming(from: &HeaderMap) -> HeaderMap {
    passing(from)
}

/// All but those of the one connection.
fn passing(from: &HeaderMap) -> HeaderMap {
    let named: Vec<String> =
        listed(from, &header::CONNECTION).map(str::to_ascii_lowercase).collect();
    let mut to = from.clone();
    for name in &HOP_BY_HOP {
        to.remove(name);
    }
    to.retain_not(|name| named.iter().any(|hop| hop == name));
    to
}

/// The words of a header that is a list, however many lines it has.
fn listed<'a>(from: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = from.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

trait RetainNot {
    fn retain_not(&mut self, is_dropped: impl Fn(&str) -> bool);
}

impl RetainNot for HeaderMap {
    fn retain_not(&mut self, is_dropped: impl Fn(&str) -> bool) {
        let dropped: Vec<HeaderName> =
            self.keys().filter(|name| is_dropped(name.as_str())).cloned().collect();
        for name in dropped {
            self.remove(name);
        }
    }
}

/// The query of a client's request without its credentials.
pub(super) fn query(query: Option<&str>) -> Option<String> {
    let kept: Vec<&str> = query?
        .split('&')
        .filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            let name = super::target::decoded(name);
            !["key", "access_token", super::upload::LEG].contains(&name.as_str())
        })
        .collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// The client as it names itself.
pub(super) fn client(from: &HeaderMap) -> Option<String> {
    let name = from.get(header::USER_AGENT)?.to_str().ok()?;
    Some(name.chars().filter(|c| !c.is_control()).take(CLIENT_BYTES_MAX).collect())
}

/// How long a call may be held: as the client asks, else by default, and never so long that the
/// client itself gives up before it has the answer.
///
/// # Errors
/// What of `x-tidegate-max-wait` makes no sense.
pub(super) fn patience(from: &HeaderMap, default: Duration) -> Result<Duration, String> {
    let text = |name: &str| from.get(name).and_then(|value| value.to_str().ok());
    let asked = match from.get("x-tidegate-max-wait") {
        None => default,
        Some(value) => {
            let wrong = || {
                "x-tidegate-max-wait is no time to wait: write seconds, or a number with a unit, \
                 as in `240s` or `0`"
                    .to_owned()
            };
            let value = value.to_str().map_err(|_| wrong())?.trim();
            let seconds = value.parse().ok().map(Duration::from_secs);
            seconds
                .or_else(|| humantime::parse_duration(value).ok())
                .or_else(|| {
                    let seconds: f64 = value.parse().ok()?;
                    Duration::try_from_secs_f64(seconds).ok()
                })
                .ok_or_else(wrong)?
        }
    };
    let own = ["x-server-timeout", "x-stainless-read-timeout", "x-stainless-timeout"];
    let own = own.iter().filter_map(|name| {
        let seconds: f64 = text(name)?.trim().parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    });
    let own = own.map(|time| time.saturating_sub(ANSWER_MARGIN)).min();
    let longest = Duration::from_millis(caps::CALL_WAIT_MAX_MS);
    Ok(asked.min(longest).min(own.unwrap_or(longest)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn no_credential_of_the_client_passes() {
        let out = outgoing(&map(&[
            ("authorization", "Bearer t"),
            ("x-goog-api-key", "k"),
            ("cookie", "c"),
            ("x-tidegate-max-wait", "3"),
            ("host", "h"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("user-agent", "google-genai-sdk/3.4.0"),
            ("x-goog-api-client", "a"),
            ("x-goog-api-client", "b"),
        ]));
        let kept: Vec<_> = out.iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(kept.len(), 3, "{kept:?}");
        assert_eq!(out["user-agent"], "google-genai-sdk/3.4.0");
        assert_eq!(out.get_all("x-goog-api-client").iter().count(), 2);
        assert_eq!(query(Some("alt=sse&key=AIza&%6Bey=b")).as_deref(), Some("alt=sse"));
        assert_eq!(query(Some("key=AIza")), None);
        assert_eq!(query(None), None);
    }

    #[test]
    fn only_what_can_be_read_is_accepted() {
        let out = outgoing(&map(&[("accept-encoding", "gzip;q=1.0, br, zstd, Deflate")]));
        assert_eq!(out["accept-encoding"], "gzip;q=1.0, Deflate");
        assert_eq!(outgoing(&map(&[("accept-encoding", "br")]))["accept-encoding"], "identity");
        assert!(outgoing(&map(&[])).is_empty());
    }

    #[test]
    fn a_client_is_held_no_longer_than_it_waits_itself() {
        let default = Duration::from_secs(20);
        let held =
            |headers: &[(&str, &str)]| patience(&map(headers), default).map(|it| it.as_millis());
        assert_eq!(held(&[]), Ok(20_000));
        assert_eq!(held(&[("x-tidegate-max-wait", "240")]), Ok(240_000));
        assert_eq!(held(&[("x-tidegate-max-wait", "1.5")]), Ok(1_500));
        assert_eq!(held(&[("x-tidegate-max-wait", "2min")]), Ok(120_000));
        assert_eq!(held(&[("x-tidegate-max-wait", "0")]), Ok(0));
        assert_eq!(held(&[("x-tidegate-max-wait", "9999999")]), Ok(600_000));
        assert_eq!(held(&[("x-server-timeout", "5")]), Ok(3_000));
        assert_eq!(held(&[("x-stainless-read-timeout", "1")]), Ok(0));
        let both = [("x-tidegate-max-wait", "240s"), ("x-stainless-read-timeout", "30.5")];
        assert_eq!(held(&both), Ok(28_500));
        for wrong in ["", "soon", "-1", "nan"] {
            assert!(held(&[("x-tidegate-max-wait", wrong)]).is_err(), "{wrong}");
        }
    }
}
