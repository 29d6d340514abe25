//! What the daemon shows who it is with, on its TLS address: a certificate of the operator's, or
//! one of a CA of its own.
//!
//! The CA is made once, in `state_dir/tls`: `ca.pem`, which clients are to trust, and `ca.key`.
//! It may vouch for this machine's names alone, so whoever steals its key cannot pass for anybody
//! else. The certificates that it signs live in memory, for ninety days at most.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{Datelike, Days};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use crate::config::{OwnCertificate, Server, Tls};
use crate::gate::units::UnixMs;
use crate::telemetry::chain;

/// Days that a CA is good for: clients are told of it once.
const CA_DAYS: u64 = 3_653;

/// Days that a certificate of it is good for. Renewed at every start and several times a day.
const LEAF_DAYS: u64 = 90;

/// A CA that ends within so many days is warned of.
const CA_ENDS_SOON_DAYS: i64 = 60;

/// A certificate or key that cannot be used. It is never replaced: somebody may trust it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or directory cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in a file is not usable.
    #[error("{}: {what}; {fix}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        fix: String,
    },
    /// The library that makes certificates has failed.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// The TLS library refuses what was made.
    #[error("cannot set up TLS")]
    Rustls(#[from] rustls::Error),
}

/// What a TLS address shows, and can renew.
#[derive(Debug)]
pub(super) struct Identity {
    shown: Arc<Shown>,
    source: Source,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Source {
    Own(OwnCertificate),
    Ca { dir: PathBuf, names: Vec<String> },
}

/// The certificate of new connections.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Only a whole value is ever put in.
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// What a listener may be called in a certificate: this machine's own names, the address, and what
/// the operator named.
pub(super) fn names(tls: &Tls) -> Vec<String> {
    let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let address = tls.listen.ip().to_canonical();
    let address = (!address.is_unspecified()).then(|| address.to_string());
    let further: Vec<String> = address
        .into_iter()
        .chain(tls.names.iter().cloned())
        .filter(|n| !names.contains(n))
        .collect();
    names.extend(further);
    names
}

/// Whether the operator's certificate and key can be used, if there are such.
///
/// # Errors
/// Names the file.
pub(crate) fn check(server: &Server) -> Result<(), TlsError> {
    let own = server.tls.as_ref().and_then(|tls| tls.own.as_ref());
    own.map_or(Ok(()), |own| load_own(own, &ring::default_provider()).map(drop))
}

impl Identity {
    /// Reads the certificate, or the CA and signs one. Makes the CA where there is none.
    pub(super) fn open(server: &Server, tls: &Tls, now: UnixMs) -> Result<Self, TlsError> {
        let source = match &tls.own {
            Some(own) => Source::Own(own.clone()),
            None => Source::Ca { dir: server.ca_dir(), names: names(tls) },
        };
        if let Source::Ca { dir, names } = &source
            && !dir.join("ca.pem").exists()
            && !dir.join("ca.key").exists()
        {
            make_ca(dir, names, now)?;
            tracing::info!("a CA was made for TLS: clients trust {}", server.ca_file().display());
        }
        let provider = Arc::new(ring::default_provider());
        let first = source.certificate(&provider, now)?;
        Ok(Self { shown: Arc::new(Shown(RwLock::new(first))), source, provider })
    }

    /// How handshakes are answered.
    pub(super) fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone());
        let mut config = builder
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.shown.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Signs a new certificate, or reads the operator's files anew. Where that fails, what is shown
    /// stays, and a warning says why.
    pub(super) fn renew(&self, now: UnixMs) {
        match self.source.certificate(&self.provider, now) {
            Ok(new) => *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = new,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the TLS certificate stays as it was");
            }
        }
    }
}

impl Source {
    fn certificate(
        &self,
        provider: &Arc<CryptoProvider>,
        now: UnixMs,
    ) -> Result<Arc<CertifiedKey>, TlsError> {
        match self {
            Self::Own(own) => {
                let certified = load_own(own, provider)?;
                if let Some(first) = certified.cert.first()
                    && ends(first).is_some_and(|end| end <= now)
                {
                    tracing::warn!("{} has expired", own.cert_file.display());
                }
                Ok(Arc::new(certified))
            }
            Self::Ca { dir, names } => Ok(Arc::new(sign(dir, names, provider, now)?)),
        }
    }
}

fn load_own(own: &OwnCertificate, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let unusable = |path: &Path, what: &str, fix: &str| TlsError::Unusable {
        path: path.to_owned(),
        what: what.to_owned(),
        fix: fix.to_owned(),
    };
    let certificates = read(&own.cert_file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificates).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| {
        let fix = "name a PEM file, with the certificate first";
        unusable(&own.cert_file, "no certificate can be read from it", fix)
    })?;
    let key = PrivateKeyDer::from_pem_slice(&read(&own.key_file)?).map_err(|_| {
        unusable(&own.key_file, "no private key can be read from it", "name a PEM file")
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let what = format!("not the key of {} ({error})", own.cert_file.display());
        unusable(&own.key_file, &what, "name the key that belongs to the certificate")
    })
}

/// A new certificate for these names, checked as a client would.
fn sign(
    dir: &Path,
    names: &[String],
    provider: &Arc<CryptoProvider>,
    now: UnixMs,
) -> Result<CertifiedKey, TlsError> {
    let (pem_file, key_file) = (dir.join("ca.pem"), dir.join("ca.key"));
    let unusable = |path: &Path, what: String| TlsError::Unusable {
        path: path.to_owned(),
        what,
        fix: format!(
            "put the files of {0} back, or move both away: the next start makes a new CA, which \
             clients must then trust",
            dir.display()
        ),
    };
    let key = read(&key_file)?;
    let mode = fs::metadata(&key_file).map_err(at(&key_file))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TlsError::Unusable {
            path: key_file.clone(),
            what: format!("others may use this file (mode {mode:04o})"),
            fix: format!("run: chmod 600 '{}'", key_file.display()),
        });
    }
    let key = std::str::from_utf8(&key).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
    let key = key.ok_or_else(|| unusable(&key_file, "no private key".to_owned()))?;
    let ca = CertificateDer::from_pem_slice(&read(&pem_file)?)
        .map_err(|_| unusable(&pem_file, "no certificate".to_owned()))?;
    let end = ends(&ca).ok_or_else(|| unusable(&pem_file, "no certificate".to_owned()))?;
    if end <= now {
        return Err(unusable(&pem_file, "the CA has expired".to_owned()));
    }
    if end.0 - now.0 < CA_ENDS_SOON_DAYS * 86_400_000 {
        tracing::warn!("the CA in {} ends soon: move it away for a new one", dir.display());
    }
    let issuer = Issuer::from_ca_cert_der(&ca, key)
        .map_err(|error| unusable(&pem_file, format!("no CA ({error})")))?;
    let leaf_key = KeyPair::generate()?;
    let leaf = leaf(names, now)?.signed_by(&leaf_key, &issuer)?;
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|error| unusable(&pem_file, format!("no CA ({error})")))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| unusable(&pem_file, format!("no CA ({error})")))?;
    let seconds = u64::try_from(now.0 / 1000).unwrap_or(0);
    let at_now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    for name in names {
        let server = ServerName::try_from(name.as_str())
            .map_err(|_| unusable(&pem_file, format!("`{name}` cannot be vouched for")))?;
        let trusted = verifier.verify_server_cert(leaf.der(), &[], &server, &[], at_now);
        trusted.map_err(|error| {
            let all = names.join("`, `");
            unusable(&pem_file, format!("not a CA that vouches by ca.key for `{all}` ({error})"))
        })?;
    }
    let leaf_key = PrivateKeyDer::try_from(leaf_key.serialize_der())
        .map_err(|what| unusable(&key_file, what.to_owned()))?;
    Ok(CertifiedKey::from_der(vec![leaf.der().clone()], leaf_key, provider)?)
}

fn leaf(names: &[String], now: UnixMs) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = named("Tidegate");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    last(&mut params, now, LEAF_DAYS);
    Ok(params)
}

/// Makes the directory with both files, which appears whole or not at all.
fn make_ca(dir: &Path, names: &[String], now: UnixMs) -> Result<(), TlsError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    // A name of its own: clients may trust several machines.
    let mut id = format!("{:x}", Sha256::digest(key.public_key_raw()));
    id.truncate(8);
    params.distinguished_name = named(&format!("Tidegate local CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: names.iter().map(|name| subtree(name)).collect(),
        excluded_subtrees: Vec::new(),
    });
    last(&mut params, now, CA_DAYS);
    let certificate = params.self_signed(&key)?;

    let aside = dir.with_extension("new");
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(at(&aside))?;
    }
    DirBuilder::new().mode(0o755).create(&aside).map_err(at(&aside))?;
    write(&aside.join("ca.key"), 0o600, &key.serialize_pem())?;
    write(&aside.join("ca.pem"), 0o644, &certificate.pem())?;
    // A stricter umask must not keep clients from it.
    fs::set_permissions(&aside, Permissions::from_mode(0o755)).map_err(at(&aside))?;
    File::open(&aside).and_then(|dir| dir.sync_all()).map_err(at(&aside))?;
    fs::rename(&aside, dir).map_err(at(dir))?;
    match dir.parent() {
        Some(state) => File::open(state).and_then(|dir| dir.sync_all()).map_err(at(state)),
        None => Ok(()),
    }
}

/// What a name's constraint allows: all of 127.0.0.0/8 is this machine.
fn subtree(name: &str) -> GeneralSubtree {
    match name.parse() {
        Ok(IpAddr::V4(ip)) if ip.is_loopback() => {
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(Ipv4Addr::LOCALHOST.octets(), 8))
        }
        Ok(IpAddr::V4(ip)) => GeneralSubtree::IpAddress(CidrSubnet::V4(ip.octets(), [0xff; 4])),
        Ok(IpAddr::V6(ip)) => GeneralSubtree::IpAddress(CidrSubnet::V6(ip.octets(), [0xff; 16])),
        Err(_) => GeneralSubtree::DnsName(name.to_owned()),
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// From the day before `now`, for clocks that are behind, for so many days.
fn last(params: &mut CertificateParams, now: UnixMs, days: u64) {
    let part = |number: u32| u8::try_from(number).unwrap_or(1);
    let today = now.to_utc().date_naive();
    let day = |date: chrono::NaiveDate| {
        rcgen::date_time_ymd(date.year(), part(date.month()), part(date.day()))
    };
    params.not_before = day(today.checked_sub_days(Days::new(1)).unwrap_or(today));
    params.not_after = day(today.checked_add_days(Days::new(days)).unwrap_or(today));
}

/// When a certificate ends.
fn ends(certificate: &CertificateDer<'_>) -> Option<UnixMs> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(UnixMs(parsed.validity().not_after.timestamp().saturating_mul(1000)))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(at(path))
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), TlsError> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(at(path))?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all());
    written.map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> TlsError {
    let path = path.to_owned();
    |source| TlsError::File { path, source }
}
