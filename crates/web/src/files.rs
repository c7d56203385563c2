//! A certificate and its key in PEM files, read again when the files change.
//!
//! A change that cannot be used is logged, and what was there before goes on serving.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use steeple_net::tls::provider;
use steeple_pki::pem;
use steeple_runtime::drain::{Tasks, Watcher};
use steeple_runtime::{duration, fsx};
use zeroize::Zeroizing;

/// The largest file that is read, in bytes.
const MAX_LEN: u64 = 1024 * 1024;

/// The files of a certificate.
#[derive(Clone, Debug)]
pub struct CertFiles {
    /// The chain in PEM, leaf first.
    pub cert: PathBuf,
    /// The leaf's key in PEM: PKCS#8, PKCS#1 or SEC 1.
    pub key: PathBuf,
    /// How often to look for a change; `None` reads them once.
    pub sync_interval: Option<Duration>,
}

/// Why files are no certificate. The texts are those of Go's `tls.LoadX509KeyPair`.
#[derive(Debug, thiserror::Error)]
pub enum CertFileError {
    /// A file cannot be read.
    #[error("{}", go_io_text("open", .path, .source))]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no certificate in the file.
    #[error("tls: failed to find any PEM data in certificate input")]
    NoCertificate,
    /// There is no key in the file.
    #[error("tls: failed to find any PEM data in key input")]
    NoKey,
    /// The key is of no kind that can be used.
    #[error("tls: failed to parse private key")]
    Key,
    /// The certificate cannot be parsed; holds the reason.
    #[error("x509: malformed certificate: {0}")]
    Certificate(String),
    /// Certificate and key do not belong together.
    #[error("tls: private key does not match public key")]
    Mismatch,
}

/// The certificates of a PEM text, other blocks skipped; none when the text is broken.
pub(crate) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let text = String::from_utf8_lossy(pem);
    let mut found = Vec::new();
    for block in pem::blocks(&text) {
        let block = block.ok()?;
        if block.label == "CERTIFICATE" {
            found.push(CertificateDer::from(block.contents));
        }
    }
    Some(found)
}

/// Loads both files, and watches them in `tasks` until `drain` is signalled.
pub(crate) fn watch(
    files: CertFiles,
    subsystem: Option<&'static str>,
    tasks: &Tasks,
    drain: &Watcher,
) -> Result<FileResolver, CertFileError> {
    let loaded = Arc::new(ArcSwap::from_pointee(load(&files)?));
    if let Some(interval) = files.sync_interval {
        // What was just read may be older than what is there now: the first look reads it again.
        let watched = Watched { files, loaded: Arc::clone(&loaded), seen: None, subsystem };
        tasks.spawn("certificate_files", watched.run(interval, drain.clone()));
    }
    Ok(FileResolver(loaded))
}

#[derive(Debug)]
pub(crate) struct FileResolver(Arc<ArcSwap<CertifiedKey>>);

impl ResolvesServerCert for FileResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

struct Watched {
    files: CertFiles,
    loaded: Arc<ArcSwap<CertifiedKey>>,
    seen: Option<(SystemTime, SystemTime)>,
    subsystem: Option<&'static str>,
}

impl Watched {
    async fn run(mut self, interval: Duration, mut drain: Watcher) {
        let shown = duration::format_go(interval);
        tracing::info!(subsystem_name = self.subsystem, interval = %shown, "Started watching certificate files");
        loop {
            tokio::select! {
                () = drain.signalled() => break,
                () = tokio::time::sleep(interval) => {}
            }
            // Small files on a local disk, as a rule; a hung network disk must not hang more.
            let looked = tokio::task::spawn_blocking(move || {
                self.look();
                self
            });
            match looked.await {
                Ok(this) => self = this,
                Err(_) => return,
            }
        }
        tracing::info!(subsystem_name = self.subsystem, "Stopping file watcher");
    }

    fn modified(&self, path: &Path) -> Option<SystemTime> {
        let subsystem_name = self.subsystem;
        match fs::metadata(path).and_then(|it| it.modified()) {
            Ok(modified) => return Some(modified),
            Err(error) if error.kind() == io::ErrorKind::NotFound => tracing::error!(
                subsystem_name,
                "Failed to get file info, file path {:?} does not exist anymore; please check if \
                 the path is correct",
                path.display().to_string()
            ),
            Err(error) => tracing::error!(
                subsystem_name,
                "Failed to get file info: {}",
                go_io_text("stat", path, &error)
            ),
        }
        None
    }

    fn look(&mut self) {
        let (Some(cert), Some(key)) =
            (self.modified(&self.files.cert), self.modified(&self.files.key))
        else {
            return;
        };
        if self.seen == Some((cert, key)) {
            return;
        }
        tracing::info!(
            subsystem_name = self.subsystem,
            "File change detected, reloading certificate and key..."
        );
        match load(&self.files) {
            Ok(loaded) => {
                self.loaded.store(Arc::new(loaded));
                self.seen = Some((cert, key));
                tracing::info!(
                    subsystem_name = self.subsystem,
                    "Loaded provided certificate with success"
                );
            }
            Err(error) => tracing::error!(
                subsystem_name = self.subsystem,
                "Failed to load certificate: {error}"
            ),
        }
    }
}

fn load(files: &CertFiles) -> Result<CertifiedKey, CertFileError> {
    let cert = read(&files.cert)?;
    let key = read(&files.key)?;
    let chain = certificates(&cert).unwrap_or_default();
    if chain.is_empty() {
        return Err(CertFileError::NoCertificate);
    }
    let key = private_key(&key)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => CertFileError::Mismatch,
        rustls::Error::InvalidCertificate(reason) => {
            CertFileError::Certificate(format!("{reason:?}"))
        }
        _ => CertFileError::Key,
    })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertFileError> {
    fsx::read_limited(path, MAX_LEN)
        .and_then(|found| found.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map(Zeroizing::new)
        .map_err(|source| CertFileError::Read { path: path.to_owned(), source })
}

/// The first block that is a key; others, such as the parameters that openssl writes before an EC
/// key, are skipped.
fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertFileError> {
    let text = String::from_utf8_lossy(pem);
    for block in pem::blocks(&text) {
        let block = block.map_err(|_| CertFileError::NoKey)?;
        return Ok(match block.label {
            "PRIVATE KEY" => PrivateKeyDer::Pkcs8(block.contents.into()),
            "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(block.contents.into()),
            "EC PRIVATE KEY" => PrivateKeyDer::Sec1(block.contents.into()),
            _ => continue,
        });
    }
    Err(CertFileError::NoKey)
}

/// An error of the system as Go words it.
fn go_io_text(verb: &str, path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("{verb} {}: no such file or directory", path.display()),
        io::ErrorKind::PermissionDenied => format!("{verb} {}: permission denied", path.display()),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
