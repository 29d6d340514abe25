//! `server.tls`.

use std::net::{IpAddr, SocketAddr};

use super::absolute_path;
use crate::config::error::{ConfigError, Document};
use crate::config::raw::{RawTls, Text};
use crate::config::server::{Listen, OwnCertificate, Tls};

/// Names of one certificate.
const NAMES_MAX: usize = 32;

/// Reads the table; `plain` are the addresses without TLS.
pub(super) fn read(
    document: Document<'_>,
    raw: &RawTls,
    plain: &[Listen],
    auth: bool,
) -> Result<Tls, ConfigError> {
    let listen: SocketAddr = raw.listen.get_ref().parse().map_err(|_| {
        let what = format!("server.tls.listen: `{}` is not an address", raw.listen.get_ref());
        document.refuse(raw.listen.span(), what, "write `127.0.0.1:8431`")
    })?;
    if listen.port() != 0 && plain.contains(&Listen::Tcp(listen)) {
        let what = format!("`{listen}` stands in server.listen too");
        let fix = "give TLS a port of its own, such as 8431";
        return Err(document.refuse(raw.listen.span(), what, fix));
    }
    let names = names(document, &raw.names)?;
    if !listen.ip().to_canonical().is_loopback() {
        if !auth {
            let what = format!("`{listen}` is not a loopback address, and no token is asked for");
            let fix = "set server.auth = { token_file = \"/path\" }, or listen on 127.0.0.1";
            return Err(document.refuse(raw.listen.span(), what, fix));
        }
        if listen.ip().is_unspecified() && names.is_empty() {
            let what = format!("`{listen}` does not say what clients call this machine");
            let fix = "name it: names = [\"tidegate.lan\"], or its addresses";
            return Err(document.refuse(raw.listen.span(), what, fix));
        }
    }
    let own = match (&raw.cert_file, &raw.key_file) {
        (Some(cert), Some(key)) => Some(OwnCertificate {
            cert_file: absolute_path(document, "server.tls.cert_file", cert)?,
            key_file: absolute_path(document, "server.tls.key_file", key)?,
        }),
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            let what = "server.tls: cert_file and key_file go together";
            let fix = "name both, or none for a certificate of the daemon's own CA";
            return Err(document.refuse(one.span(), what, fix));
        }
    };
    Ok(Tls { listen, own, names })
}

fn names(document: Document<'_>, raw: &[Text]) -> Result<Vec<String>, ConfigError> {
    let mut names: Vec<String> = Vec::new();
    for entry in raw {
        let refuse = |what: String, fix| Err(document.refuse(entry.span(), what, fix));
        let name = match entry.get_ref().parse::<IpAddr>() {
            Ok(address) => address.to_canonical().to_string(),
            Err(_) => entry.get_ref().to_ascii_lowercase(),
        };
        if name.parse::<IpAddr>().is_err() && !is_host_name(&name) {
            let what = format!("server.tls.names: `{}` is not the name of a host", entry.get_ref());
            return refuse(what, "write `tidegate.lan` or an address, without scheme and port");
        }
        if names.contains(&name) {
            return refuse(format!("`{name}` stands twice in server.tls.names"), "remove one");
        }
        if names.len() == NAMES_MAX {
            return refuse(format!("more than {NAMES_MAX} server.tls.names"), "name fewer");
        }
        names.push(name);
    }
    Ok(names)
}

/// A DNS name of which no part is a wildcard. The last label is none of digits only: such a text is
/// a mistyped address.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        matches!(label.len(), 1..=63)
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit())
}
