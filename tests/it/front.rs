//! The front door: TLS by the daemon's own CA, who is let in, and clients that take their time.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{Daemon, Site, http, project};

/// Nothing is sent by these.
const NOWHERE: &str = "http://127.0.0.1:9";

const TOKEN: &str = "a-token-of-ours";

/// A site that speaks TLS; `server` goes into its table.
fn site(tls: &str, with_token: bool) -> Site {
    let site = Site::new(&project("demo", NOWHERE, ""));
    let mut more = format!("[server]\ntls = {{ {tls} }}");
    if with_token {
        let file = site.path("token");
        fs::write(&file, TOKEN).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        more = format!("{more}\nauth = {{ token_file = \"{}\" }}", file.display());
    }
    site.edit_config("[server]", &more);
    site
}

async fn tls_address(site: &Site, daemon: &Daemon) -> SocketAddr {
    site.until("TLS is spoken", async || {
        let log = daemon.log();
        let (_, rest) = log.split_once("listening on https://")?;
        rest.split_whitespace().next()?.parse().ok()
    })
    .await
}

fn trusting(ca_file: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Asks over TLS by this name: the answer, or why there was no connection.
async fn ask(
    connector: &TlsConnector,
    address: SocketAddr,
    name: &'static str,
    head: &str,
) -> Result<String, String> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name).unwrap();
    let mut stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
    Ok(answer)
}

fn get(path: &str, host: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n")
}

#[tokio::test]
async fn who_trusts_the_ca_reaches_the_daemon_by_its_names_and_nobody_else_passes_for_it() {
    let site = site("listen = \"127.0.0.1:0\", names = [\"tidegate.lan\"]", false);
    let daemon = site.serve().await;
    let address = tls_address(&site, &daemon).await;
    let ca_file = site.path("state/tls/ca.pem");
    let connector = trusting(&ca_file);
    let port = address.port();
    for name in ["localhost", "127.0.0.1", "tidegate.lan"] {
        let head = get("/readyz", &format!("{name}:{port}"), "");
        let answer = ask(&connector, address, name, &head).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
    }
    let head = get("/readyz", &format!("evil.example:{port}"), "");
    let answer = ask(&connector, address, "localhost", &head).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let refused = ask(&connector, address, "evil.example", &head).await.unwrap_err();
    assert!(refused.contains("not valid for name"), "{refused}");

    let mode = |name: &str| {
        fs::metadata(site.path("state/tls").join(name)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("ca.pem"), mode("ca.key"), mode("")), (0o644, 0o600, 0o755));
    let first_ca = fs::read(&ca_file).unwrap();
    daemon.stop(&site).await;

    let daemon = site.serve().await;
    let address = tls_address(&site, &daemon).await;
    assert_eq!(fs::read(&ca_file).unwrap(), first_ca, "a start makes no second CA");
    let head = get("/readyz", &format!("localhost:{}", address.port()), "");
    ask(&connector, address, "localhost", &head).await.unwrap();
    let other = Site::new(&project("demo", NOWHERE, ""));
    other.edit_config("[server]", "[server]\ntls = { listen = \"127.0.0.1:0\" }");
    let second = other.serve().await;
    let elsewhere = trusting(&other.path("state/tls/ca.pem"));
    let refused = ask(&elsewhere, address, "localhost", &head).await.unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    second.stop(&other).await;
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_ca_that_cannot_be_used_is_named_and_left_as_it_is() {
    let site = site("listen = \"127.0.0.1:0\"", false);
    site.serve().await.stop(&site).await;
    let (pem, key) = (site.path("state/tls/ca.pem"), site.path("state/tls/ca.key"));
    let good = fs::read(&pem).unwrap();
    let told = async |wanted: &str| {
        let ended = site.run(&["serve"]).await;
        assert!(ended.stderr.contains(wanted), "{wanted}: {}", ended.stderr);
        ended.code
    };
    fs::write(&pem, "half of it").unwrap();
    assert_eq!(told("state/tls/ca.pem: no certificate").await, 78);
    assert_eq!(fs::read(&pem).unwrap(), b"half of it");
    fs::write(&pem, good).unwrap();

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(told("chmod 600").await, 78);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    site.edit_config("tls = { ", "tls = { names = [\"other.lan\"], ");
    assert_eq!(told("`other.lan`").await, 78);

    fs::remove_file(&pem).unwrap();
    assert_eq!(told("state/tls/ca.pem").await, 1);
    assert!(!pem.exists(), "no new certificate was made for the old key");
}

#[tokio::test]
async fn plain_http_on_the_tls_address_is_told_so_and_a_stuck_handshake_stops_nobody() {
    let site = site("listen = \"127.0.0.1:0\"", false);
    let daemon = site.serve().await;
    let address = tls_address(&site, &daemon).await;
    let mut stuck = Vec::new();
    for _ in 0..20 {
        stuck.push(TcpStream::connect(address).await.unwrap());
    }
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let (status, body) = http(address, &request).await;
    assert_eq!(status, 400);
    assert!(body.contains("https://"), "{body}");
    let connector = trusting(&site.path("state/tls/ca.pem"));
    let head = get("/readyz", &address.to_string(), "");
    let answer = ask(&connector, address, "127.0.0.1", &head).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    daemon.stop(&site).await;
    drop(stuck);
}

#[tokio::test]
async fn the_token_is_taken_in_each_place_of_a_key_and_refusals_are_the_providers() {
    let site = site("listen = \"127.0.0.1:0\"", true);
    let mut child = site.spawn(&["serve"]);
    let address = tls_address(&site, &child).await;
    let connector = trusting(&site.path("state/tls/ca.pem"));
    let answer = async |path: &str, more: &str| {
        let head = get(path, &address.to_string(), more);
        let answer = ask(&connector, address, "127.0.0.1", &head).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str::<Value>(body).unwrap_or_default())
    };
    let path = "/v1beta/models/m:generateContent";
    let (status, body) = answer(path, "").await;
    assert_eq!((status, &body["error"]["status"]), (401, &"UNAUTHENTICATED".into()));
    let (status, body) = answer("/openai/v1/models", "x-goog-api-key: wrong\r\n").await;
    assert_eq!((status, &body["error"]["code"]), (401, &"invalid_api_key".into()));
    let goog = format!("x-goog-api-key: {TOKEN}\r\n");
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for (path, more) in [(path, &*goog), (path, &*bearer), (&format!("{path}?key={TOKEN}"), "")] {
        let (status, body) = answer(path, more).await;
        assert!(!matches!(status, 401 | 403), "{path}: {status} {body}");
    }
    assert_eq!(answer("/api/v1/usage", &goog).await.0, 401);
    assert_eq!(answer("/api/v1/usage", &bearer).await.0, 200);
    let foreign = format!("{goog}Origin: https://evil.example\r\n");
    let (status, body) = answer(path, &foreign).await;
    assert_eq!((status, &body["error"]["status"]), (403, &"PERMISSION_DENIED".into()));
    assert!(!child.log().contains(TOKEN), "the token is in no log");
    child.terminate();
    assert_eq!(child.ended(&site).await.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_header_does_not_hold_the_stop() {
    let site = Site::new(&project("demo", NOWHERE, ""));
    let daemon = site.serve().await;
    let mut slow = TcpStream::connect(daemon.address()).await.unwrap();
    slow.write_all(b"GET /readyz HTTP/1.1\r\nHost: ").await.unwrap();
    // The connection is accepted in order: by the answer to a later one, this one has been taken.
    assert_eq!(daemon.get("/readyz").await.0, 200);
    daemon.terminate();
    let mut rest = Vec::new();
    // It ends by the end of the connection, before the time that open requests are given.
    let _ = slow.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    let log = daemon.log();
    assert!(!log.contains("the connection is cut"), "{log}");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn beyond_loopback_nothing_is_offered_without_tls_and_token() {
    let plain = Site::new(&project("demo", NOWHERE, ""));
    let ended = plain.run(&["serve", "--listen", "0.0.0.0:0"]).await;
    assert_eq!(ended.code, 78, "{}", ended.stderr);
    assert!(ended.stderr.contains("server.auth, and server.tls"), "{}", ended.stderr);

    let tls = "listen = \"0.0.0.0:0\", names = [\"tidegate.lan\"]";
    let open = site(tls, false);
    for command in ["serve", "check-config"] {
        let ended = open.run(&[command]).await;
        assert_eq!(ended.code, 78, "{}", ended.stderr);
        assert!(ended.stderr.contains("set server.auth"), "{}", ended.stderr);
    }
    assert!(!open.path("state").exists());

    let both = site(tls, true);
    let shown = both.told(&["check-config"]).await;
    assert!(shown.contains("names = [\"tidegate.lan\"] } # clients trust "), "{shown}");
    assert!(!both.path("state").exists(), "check-config makes no CA");
    let mut daemon = both.spawn(&["serve"]);
    tls_address(&both, &daemon).await;
    daemon.terminate();
    assert_eq!(daemon.ended(&both).await.code(), Some(0));
}
