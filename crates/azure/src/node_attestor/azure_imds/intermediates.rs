//! Certificates of the authorities between Azure's signers and the roots. Documents do not bring
//! them; they say where they are to be had, on a host of Microsoft's.
//!
//! Anybody can make a document that names any path on that host, and so have us ask for it: so
//! few are asked for at once, and only one that a path to a root leads over is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use steeple_net::https::Request;
use steeple_pki::{Certificate, pem};
use tokio::sync::Semaphore;
use url::Url;

use crate::web::{self, Web, limits};

/// How many are kept.
const MAX_KEPT: usize = 32;
/// For how long.
const LIFE: Duration = Duration::from_hours(24);
/// How many are asked for at once.
const MAX_ASKED: usize = 4;
/// How long asking may take, with waiting for one's turn.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) struct Intermediates {
    web: Arc<dyn Web>,
    kept: Mutex<HashMap<String, (Certificate, SystemTime)>>,
    asking: Semaphore,
}

impl Intermediates {
    pub(super) fn new(web: Arc<dyn Web>) -> Self {
        Self { web, kept: Mutex::default(), asking: Semaphore::new(MAX_ASKED) }
    }

    /// The one that was found good at `url` lately.
    pub(super) fn kept(&self, url: &Url, now: SystemTime) -> Option<Certificate> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (certificate, at) = kept.get(url.as_str())?;
        let age = now.duration_since(*at).unwrap_or(Duration::MAX);
        (age < LIFE).then(|| certificate.clone())
    }

    /// Keeps one that is good.
    pub(super) fn keep(&self, url: &Url, certificate: Certificate, now: SystemTime) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT
            && !kept.contains_key(url.as_str())
            && let Some(oldest) = kept.iter().min_by_key(|(_, (_, at))| *at).map(|it| it.0.clone())
        {
            kept.remove(&oldest);
        }
        kept.insert(url.as_str().to_owned(), (certificate, now));
    }

    /// What is at `url`, or was when this one's turn came.
    pub(super) async fn fetch(&self, url: &Url, now: SystemTime) -> Result<Certificate, String> {
        let ask = async {
            let _turn = self.asking.acquire().await.map_err(|_| "shutting down".to_owned())?;
            if let Some(kept) = self.kept(url, now) {
                return Ok(kept);
            }
            let reply = self.web.call(Request::get(url.as_str()), limits(10, 64)).await;
            let reply =
                reply.map_err(|why| format!("failed to fetch intermediate certificate: {why}"))?;
            if reply.status != 200 {
                let status = reply.status.as_u16();
                return Err(format!("failed to fetch intermediate certificate, status: {status}"));
            }
            let body = web::ok(reply)
                .map_err(|why| format!("failed to read intermediate certificate: {why}"))?;
            parse(&body)
        };
        match tokio::time::timeout(DEADLINE, ask).await {
            Ok(result) => result,
            Err(_) => Err(format!(
                "failed to fetch intermediate certificate: no complete answer \
                                   within {DEADLINE:?}"
            )),
        }
    }
}

/// DER, else PEM.
fn parse(body: &[u8]) -> Result<Certificate, String> {
    if let Ok(certificate) = Certificate::from_der(body.to_vec()) {
        return Ok(certificate);
    }
    let text = std::str::from_utf8(body).ok();
    let first = text.and_then(|text| pem::blocks(text).next()?.ok());
    let block = first.ok_or("failed to decode intermediate certificate as PEM")?;
    Certificate::from_der(block.contents)
        .map_err(|why| format!("failed to parse intermediate certificate: {why}"))
}
